/* optim/memory.c - the learner and the memory there is: which batch fits, from the plan of its step.
 *
 * What the net, its gradients and its optimizer do not hold (data in tensors, other nets) is there before a fit and stays. */
#include "core/memory.h"
#include <stdio.h>
#include <string.h>
#include "core/ranks.h"
#include "nn/plan.h"
#include "optim/learner_inside.h"
#include "optim/state.h"

static ag_device device_of(const learner *l)
{
    return nn_param_count(l->net) ? nn_param_at(l->net, 0)->device : AG_CPU;
}

static ag_plan_opts options_of(const learner *l)
{
    const optim_rule *rule = l->opt->rule;
    const ag_plan_optimizer kept = rule->slot[1] ? AG_PLAN_ADAMW : rule->slot[0] ? AG_PLAN_MOMENTUM : AG_PLAN_SGD;
    return (ag_plan_opts){ .train = true, .loss_with = ag_learner_loss_arg, .loss_arg = (void *)(uintptr_t)l,
                           .input_type = l->in->type_x,
                           .target = l->in->shape_y, .target_type = l->in->type_y, .optimizer = kept };
}

/* Of the learner's own that a plan knows of: held before the fit. */
static int64_t own(learner *l)
{
    const int64_t n = nn_named_count(l->net);
    ag_named *named = ag_alloc(n, sizeof *named);
    int64_t sum = 0;
    nn_to_named(l->net, named);
    for (int64_t i = 0; i < n; i++) sum += ag_memory_of(named[i].tensor);
    for (int64_t i = 0; i < optim_state_count(l->opt); i++) sum += ag_memory_of(optim_state_at(l->opt, i).tensor);
    ag_free(named);
    return sum;
}

/* What the net keeps once it has been evaluated: weights folded with their norms. */
static int64_t kept_of_evaluation(const learner *l)
{
    ag_shape one = l->in->shape_x;
    if (!l->valid) return 0;
    one.dim[0] = 1;
    return ag_memory_plan_(l->in->at, l->net, one, (ag_plan_opts){ .input_type = l->in->type_x }).packed;
}

/* Samples of this batch that can be trained at once; `needs`: memory of so many, or of all, where not even one fits. */
static int64_t fitting(const learner *l, int64_t *needs)
{
    ag_scope precision AG_CLEANUP(ag_scope_end) = ag_learner_precision(l);
    const ag_plan_opts o = options_of(l);
    ag_shape some = l->in->shape_x;
    int64_t others = (int64_t)ag_dtype_size(o.input_type);      /* the whole batch */
    for (int i = 0; i < some.ndim; i++) others *= some.dim[i];
    others += l->in->others + kept_of_evaluation(l);
    const int64_t all = ag_memory_budget(device_of(l));
    const int64_t spare = all / 100 + (1 << 20);                /* others have gaps between them as well */
    const int64_t n = ag_memory_fit_(l->in->at, l->net, some, all - others - spare, o);
    if (n) some.dim[0] = n;
    *needs = ag_memory_plan_(l->in->at, l->net, some, o).resident + others;
    return n;
}

static void advise(void *p, char *text, size_t size)
{
    const learner *l = p;
    int64_t needs;
    if (!l->in->shape_x.ndim) return;
    const int64_t batch = l->in->shape_x.dim[0], n = fitting(l, &needs);
    if (n == 0)
        snprintf(text, size, "By plan this batch needs %.1f MB, and not even one sample fits; a smaller image or model does, or "
                 ".recompute", (double)needs / 1e6);
    else if (n < batch)
        snprintf(text, size, "By plan a batch of %" PRId64 " fits (%.1f MB): with .accumulate = %" PRId64 " a step sees as many "
                 "samples as before; .fit_memory = true does it by itself", n, (double)needs / 1e6, (batch + n - 1) / n);
    else snprintf(text, size, "By plan this batch of %" PRId64 " fits (%.1f MB); something else holds the memory", batch,
                  (double)needs / 1e6);
}

static void no_advice(void *unused)
{
    (void)unused;
    ag_memory_advise((ag_memory_advice){ 0 });
}

void ag_learner_memory_begin(learner *l)
{
    l->in->others = ag_memory(device_of(l)).in_use - own(l);
    ag_memory_advise((ag_memory_advice){ advise, l });
    ag_defer(no_advice, NULL);
}

void ag_learner_memory_batch(learner *l, const ag_tensor *x, const ag_tensor *y)
{
    l->in->shape_x = ag_shape_of(x), l->in->type_x = x->dtype;
    l->in->shape_y = y ? ag_shape_of(y) : (ag_shape){ 0 }, l->in->type_y = y ? y->dtype : AG_F32;
}

static bool has_batch_norm(const nn_module *net)
{
    for (int64_t i = 0; i < nn_param_count(net); i++)
        if (strstr(nn_param_owner(net, i)->type, "batch_norm")) return true;
    return false;
}

static void find_part(learner *l, int64_t batch)
{
    int64_t needs;
    double least = -(double)fitting(l, &needs);
    ag_ranks_largest(&least, 1);
    l->in->part = -(int64_t)least;
    if (!l->in->part)
        ag_fail(l->in->at,
                "not even one sample fits in %.1f MB of memory (a batch of %" PRId64 " needs %.1f MB); a smaller image "
                "or model does, or .recompute", (double)ag_memory_budget(device_of(l)) / 1e6, batch, (double)needs / 1e6);
    if (l->in->part >= batch || ag_rank()) return;
    fprintf(stderr, "batches of %" PRId64 " are computed in parts of up to %" PRId64 ": for them there is memory (%.0f MB)%s\n",
            batch, l->in->part, (double)needs / 1e6,
            has_batch_norm(l->net) ? "; batch norm sees the parts, so gradients differ from those of the whole batch" : "");
}

int64_t ag_learner_parts(learner *l)
{
    const int64_t batch = l->in->shape_x.dim[0];
    if (!l->in->fit_memory || batch < 1) return 1;
    if (!l->in->part) find_part(l, batch);
    double parts = (double)((batch + l->in->part - 1) / l->in->part);
    ag_ranks_largest(&parts, 1);
    return (int64_t)parts;
}
