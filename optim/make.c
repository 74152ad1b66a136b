/* optim/make.c - making optimizers: options, parameter groups, state and its names. */
#include <math.h>
#include <string.h>
#include "nn/nn.h"
#include "core/device.h"
#include "optim/state.h"

/* What the public option structs come down to. */
typedef struct {
    const optim_rule *rule;
    double lr, weight_decay, beta1, beta2, eps;
    bool l2, wd_bn_bias, fastai, has_momentum;
    const optim_group_list *groups;
} plan;

static void check_option(const char *at, const plan *a, const char *name, double value, double limit)
{
    if (!(value >= 0 && value < limit))
        ag_fail(at, "%s: %s = %g is not in [0, %g)", a->rule->name, name, value, limit);
}

static void check_options(const char *at, const plan *a)
{
    check_option(at, a, "lr", a->lr, INFINITY);
    check_option(at, a, "weight_decay", a->weight_decay, INFINITY);
    check_option(at, a, "beta1 or momentum", a->beta1, 1);
    check_option(at, a, "beta2 or alpha", a->beta2, 1);
    check_option(at, a, "eps", a->eps, INFINITY);
}

/* fastai's rule (wd_bn_bias false): normalisation layers and everything called bias stay undecayed. */
static bool is_bias(const ag_tensor *t)
{
    const char *dot = strrchr(t->name, '.');
    return !strcmp(dot ? dot + 1 : t->name, "bias");
}

static int group_of(const plan *a, const char *name, int n_groups)
{
    for (int g = 0; g < n_groups; g++)
        if (nn_match(a->groups->group[g].params, name)) return g;
    return n_groups;
}

/* Groups in the order given; what none of them matches goes to one more. */
static void assign_groups(const char *at, const plan *a, optim *o)
{
    int n = 0, taken[OPTIM_MAX_GROUPS + 1] = { 0 };
    while (n < OPTIM_MAX_GROUPS && a->groups->group[n].params) {
        o->group[n] = a->groups->group[n];
        check_option(at, a, "lr_mult of a group", o->group[n].lr_mult, INFINITY);
        check_option(at, a, "weight_decay of a group", o->group[n].weight_decay, INFINITY);
        n++;
    }
    for (int i = 0; i < o->n_params; i++) taken[o->param[i].group = group_of(a, o->param[i].t->name, n)]++;
    for (int g = 0; g < n; g++)
        if (!taken[g])
            ag_fail(at, "%s: group %d, \"%s\", has no parameter (the first is called %s)", a->rule->name, g,
                    o->group[g].params, o->param[0].t->name);
    o->n_groups = n + (taken[n] > 0);
    for (int g = 0; g < o->n_groups; g++) o->lr[g] = a->lr;
}

static void make_state(const char *at, optim_param *p)
{
    for (int k = 0; k < OPTIM_SLOTS; k++) {
        if (!p->opt->rule->slot[k]) continue;
        p->slot[k] = ag_to_(at, ag_full_(at, 0, ag_shape_of(p->t)), p->t->device);
        ag_memory_owner(p->slot[k], ag_memory_owner_of(p->t));
        p->name[k] = ag_sprintf("%s.%s", p->t->name, p->opt->rule->slot[k]);
    }
    p->step = ag_to_(at, ag_from_(at, AG_I64, &(int64_t){ 0 }, AG_LIT(ag_shape, 0, { 0 })), AG_CPU);
    p->name[OPTIM_SLOTS] = ag_sprintf("%s.step", p->t->name);
}

static void drop(void *object)
{
    optim *o = object;
    for (int i = 0; i < o->n_params; i++) {
        optim_param *p = &o->param[i];
        ag_optim_lazy_stop(p);
        for (int k = 0; k <= OPTIM_SLOTS; k++) ag_free(p->name[k]);
        ag_release(p->t);
    }
    ag_optim_clocks_free(o);
    ag_optim_rows_free(o);
    ag_optim_ranks_free(o);
    ag_release(o->number_there);
    ag_free(o->number);
    ag_free(o->by_rows);
    ag_free(o->clock);
    ag_free(o->segment);
    if (o->live) ag_device_table(AG_CUDA)->free(o->live);
    ag_free(o->param);
    ag_owner_free(o->owner);
    ag_free(o);
}

static optim *make(const char *at, nn_module *net, const plan *a)
{
    const int64_t n = nn_param_count(net);
    check_options(at, a);
    if (n == 0) ag_fail(at, "%s: the module has no parameters", a->rule->name);
    optim *o = ag_alloc(1, sizeof *o);
    o->rule = a->rule;
    o->weight_decay = a->weight_decay;
    o->beta1 = a->beta1;
    o->beta2 = a->beta2;
    o->eps = a->eps;
    o->clip = 1;
    o->fastai = a->fastai;
    o->l2 = a->l2;
    o->has_momentum = a->has_momentum;
    o->owner = ag_owner_new();
    o->param = ag_alloc(n, sizeof *o->param);
    o->clock = ag_alloc(2 * n, sizeof *o->clock);
    o->segment = ag_alloc(n, sizeof *o->segment);
    o->by_rows = ag_alloc(n, sizeof *o->by_rows);
    o->number = ag_alloc(3 * n, sizeof *o->number);
    ag_defer(drop, o);
    ag_scope state AG_CLEANUP(ag_scope_end) = ag_memory_kind_begin(AG_MEM_OPTIM);
    ag_owner_enter(o->owner);
    for (int64_t i = 0; i < n; i++) {
        optim_param *p = &o->param[i];
        *p = (optim_param){ .t = ag_retain(nn_param_at(net, i)), .opt = o };
        o->n_params++;
        p->norm = strstr(nn_param_owner(net, i)->type, "norm") != NULL;
        p->decays = a->wd_bn_bias || !(p->norm || is_bias(p->t));
        make_state(at, p);
    }
    ag_owner_leave(o->owner);
    assign_groups(at, a, o);
    ag_optim_clocks_start(o);
    return o;
}

/* ---- the optimizers ------------------------------------------------------------------------------------ */

static double or_default(double value, double otherwise)
{
    return value ? value : otherwise;
}

optim *ag_optim_sgd_(const char *at, nn_module *net, double lr, optim_sgd_opts p)
{
    const optim_rule *rule = !p.momentum ? &ag_optim_rule_sgd : p.nesterov ? &ag_optim_rule_nesterov
                                                                           : &ag_optim_rule_sgd_momentum;
    if (p.nesterov && !p.momentum) ag_fail(at, "optim_sgd: .nesterov needs .momentum");
    return make(at, net, &(plan){ .rule = rule, .lr = lr, .weight_decay = p.weight_decay, .beta1 = p.momentum,
                                  .l2 = p.l2, .wd_bn_bias = p.wd_bn_bias, .fastai = p.fastai,
                                  .has_momentum = p.momentum > 0, .groups = &p.groups });
}

static optim *make_adam(const char *at, nn_module *net, double lr, const optim_adam_opts *p, const optim_rule *rule,
                        bool l2)
{
    return make(at, net, &(plan){ .rule = rule, .lr = lr, .weight_decay = p->weight_decay,
                                  .beta1 = or_default(p->beta1, 0.9),
                                  .beta2 = or_default(p->beta2, p->fastai ? 0.99 : 0.999),
                                  .eps = or_default(p->eps, p->fastai ? 1e-5 : 1e-8), .l2 = l2,
                                  .wd_bn_bias = p->wd_bn_bias, .fastai = p->fastai, .has_momentum = true,
                                  .groups = &p->groups });
}

optim *ag_optim_adam_(const char *at, nn_module *net, double lr, optim_adam_opts p)
{
    return make_adam(at, net, lr, &p, &ag_optim_rule_adam, true);
}

optim *ag_optim_adamw_(const char *at, nn_module *net, double lr, optim_adam_opts p)
{
    if (p.fastai) p.weight_decay = or_default(p.weight_decay, 0.01);
    return make_adam(at, net, lr, &p, &ag_optim_rule_adam, p.l2);
}

optim *ag_optim_lazy_adamw_(const char *at, nn_module *net, double lr, optim_adam_opts p)
{
    int64_t tables = 0;
    for (int64_t i = 0; i < nn_param_count(net); i++) {
        const nn_module *owner = nn_param_owner(net, i);
        ag_tensor *t = nn_param_at(net, i);
        if (owner && owner->type && strstr(owner->type, "embedding") && t->ndim == 2) t->sparse_grad = true;
        tables += t->sparse_grad;
    }
    if (!tables) ag_fail(at, "optim_lazy_adamw: the module has no embedding; use optim_adamw");
    if (p.l2) ag_fail(at, "optim_lazy_adamw: decay is decoupled here; .l2 is for optim_adam");
    return ag_optim_adamw_(at, net, lr, p);
}

optim *ag_optim_sparse_adam_(const char *at, nn_module *net, double lr, optim_adam_opts p)
{
    if (p.weight_decay) ag_fail(at, "optim_sparse_adam: takes no weight decay; optim_lazy_adamw does");
    return make_adam(at, net, lr, &p, &ag_optim_rule_sparse_adam, false);
}

optim *ag_optim_radam_(const char *at, nn_module *net, double lr, optim_adam_opts p)
{
    return make_adam(at, net, lr, &p, &ag_optim_rule_radam, p.l2);
}

optim *ag_optim_lamb_(const char *at, nn_module *net, double lr, optim_adam_opts p)
{
    p.beta2 = or_default(p.beta2, 0.99);
    p.eps = or_default(p.eps, 1e-5);
    return make_adam(at, net, lr, &p, &ag_optim_rule_lamb, p.l2);
}

optim *ag_optim_rmsprop_(const char *at, nn_module *net, double lr, optim_rmsprop_opts p)
{
    const optim_rule *rule = !p.momentum ? &ag_optim_rule_rmsprop : p.fastai ? &ag_optim_rule_rmsprop_fastai
                                                                             : &ag_optim_rule_rmsprop_momentum;
    return make(at, net, &(plan){ .rule = rule, .lr = lr, .weight_decay = p.weight_decay, .beta1 = p.momentum,
                                  .beta2 = or_default(p.alpha, 0.99), .eps = or_default(p.eps, 1e-8), .l2 = p.l2,
                                  .wd_bn_bias = p.wd_bn_bias, .fastai = p.fastai, .has_momentum = p.momentum > 0,
                                  .groups = &p.groups });
}
