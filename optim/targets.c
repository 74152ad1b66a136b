/* optim/targets.c - the losses and metrics of several targets, each with its columns of the output and of y. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/memory.h"
#include "ops/ops.h"
#include "optim/learner_inside.h"

int64_t ag_learner_classes(const learner *l)
{
    int64_t n = 0;
    for (int i = 0; i < l->targets.n; i++) n += l->targets.target[i].classes;
    return n;
}

static int64_t columns_of(const learner *l)
{
    int64_t n = 0;
    for (int i = 0; i < l->targets.n; i++) n += l->targets.target[i].columns;
    return n;
}

static void check_shapes(const learner *l, const ag_tensor *pred, const ag_tensor *y)
{
    const int64_t classes = ag_learner_classes(l), columns = columns_of(l);
    char text[96];
    if (pred->ndim != 2 || pred->shape[1] != classes)
        ag_fail(l->in->at, "the targets take an output [N, %" PRId64 "], the net's is %s", classes,
                ag_describe(pred, text, sizeof text));
    if (!y) ag_fail(l->in->at, "there are targets (%s ...), but the loader's batches have no y", l->targets.target[0].name);
    if ((y->ndim == 2 && y->shape[1] == columns) || (y->ndim == 1 && columns == 1)) return;
    ag_fail(l->in->at, "the targets take y [N, %" PRId64 "], the loader's is %s", columns, ag_describe(y, text, sizeof text));
}

static int64_t first_class(const learner *l, int target)
{
    int64_t n = 0;
    for (int i = 0; i < target; i++) n += l->targets.target[i].classes;
    return n;
}

ag_tensor *ag_learner_target_pred(const learner *l, int target, ag_tensor *pred)
{
    const int64_t first = first_class(l, target);
    return l->targets.n == 1 ? pred : ag_slice(pred, 1, first, first + l->targets.target[target].classes);
}

ag_tensor *ag_learner_target_y(const learner *l, int target, ag_tensor *y)
{
    const data_target *t = &l->targets.target[target];
    if (t->kind == DATA_TARGET_CATEGORY) return ag_cast(y->ndim == 1 ? y : ag_select(y, 1, t->column), AG_I64);
    return ag_cast(y->ndim == 1 ? ag_reshape(y, -1, 1) : ag_slice(y, 1, t->column, t->column + t->columns), AG_F32);
}

/* ---- losses -------------------------------------------------------------------------------------------- */

static ag_tensor *loss_of_target(const learner *l, int target, ag_tensor *pred, ag_tensor *y, ag_reduction reduction)
{
    ag_tensor *p = ag_learner_target_pred(l, target, pred), *t = ag_learner_target_y(l, target, y);
    const ag_loss_opts o = { .reduction = reduction };
    switch (l->targets.target[target].kind) {
    case DATA_TARGET_MULTICATEGORY: return ag_bce_with_logits_(l->in->at, p, t, o);
    case DATA_TARGET_REGRESSION: return ag_mse_loss_(l->in->at, p, t, o);
    case DATA_TARGET_CATEGORY: break;
    }
    if (l->in->focal > 0) return ag_focal_loss(p, t, .reduction = reduction, .gamma = l->in->focal);
    return ag_cross_entropy(p, t, .reduction = reduction, .label_smoothing = l->in->label_smoothing);
}

/* mean(share loss(y) + (1 - share) loss(y')), by samples */
static ag_tensor *mixed_loss_of_target(const learner *l, int target, ag_tensor *pred, ag_tensor *y)
{
    ag_tensor *a = loss_of_target(l, target, pred, y, AG_NONE), *b = loss_of_target(l, target, pred, l->in->mixed_y, AG_NONE);
    ag_tensor *share = l->in->mixed_share;
    if (a->ndim == 2) share = ag_reshape(share, -1, 1);
    return ag_mean(ag_add(b, ag_mul(share, ag_sub(a, b))));
}

ag_tensor *ag_learner_loss_arg(void *arg, ag_tensor *pred, ag_tensor *y)
{
    const learner *l = arg;
    return ag_learner_loss(l, pred, y, NULL);
}

ag_tensor *ag_learner_loss(const learner *l, ag_tensor *pred, ag_tensor *y, double *each)
{
    if (!l->targets.n) return l->loss(pred, y);
    check_shapes(l, pred, y);
    ag_tensor *sum = NULL;
    for (int i = 0; i < l->targets.n; i++) {
        ag_tensor *one = l->in->mixed_y ? mixed_loss_of_target(l, i, pred, y) : loss_of_target(l, i, pred, y, AG_MEAN);
        if (each) each[i] = ag_item(one);
        if (l->in->weight[i] == 0) continue;
        if (l->in->weight[i] != 1) one = ag_scale(one, l->in->weight[i]);
        sum = sum ? ag_add(sum, one) : one;
    }
    return sum;
}

/* ---- metrics ------------------------------------------------------------------------------------------- */

static bool fits(const learner_metric *m, const data_target *t)
{
    return !m->kinds || (m->kinds >> t->kind & 1);
}

static void add_column(learner *l, int target, learner_metric m, const char *called)
{
    m.name = l->in->owned_name[l->n_metrics] = ag_sprintf("%s_%s", l->targets.target[target].name, called);
    l->in->target_of[l->n_metrics] = target;
    l->metrics[l->n_metrics++] = m;
}

static void add_metric(const char *at, learner *l, const learner_metric *m)
{
    const int before = l->n_metrics;
    for (int i = 0; i < l->targets.n; i++)
        if (fits(m, &l->targets.target[i])) add_column(l, i, *m, strcmp(m->name, "error_rate") ? m->name : "error");
    if (l->n_metrics == before) ag_fail(at, "learner_new: the metric %s fits none of the targets", m->name);
}

static void add_usual(learner *l)
{
    const learner_metric usual[] = { ag_metric_error_rate, ag_metric_accuracy_multi, ag_metric_rmse };
    for (int i = 0; i < l->targets.n; i++) {
        const learner_metric m = usual[l->targets.target[i].kind];
        add_column(l, i, m, strcmp(m.name, "error_rate") ? m.name : "error");
    }
}

static void check_targets(const char *at, const data_targets *ts)
{
    if (ts->n < 0 || ts->n > DATA_MAX_TARGETS) ag_fail(at, "learner_new: %d targets; at most %d", ts->n, DATA_MAX_TARGETS);
    for (int i = 0; i < ts->n; i++) {
        const data_target *t = &ts->target[i];
        const int64_t columns = t->kind == DATA_TARGET_CATEGORY ? 1 : t->classes;
        if (!t->name || t->classes < 1 || t->columns != columns || t->column < 0)
            ag_fail(at, "learner_new: target %d (%s) has %" PRId64 " classes and %" PRId64 " columns of y from %" PRId64 " on; "
                    "it takes a name, 1 class or more and %" PRId64 " column(s)", i, t->name ? t->name : "without a name",
                    t->classes, t->columns, t->column, columns);
    }
}

void ag_learner_set_targets(const char *at, learner *l, const learner_opts *o)
{
    check_targets(at, &o->targets);
    if (!(o->label_smoothing >= 0 && o->label_smoothing < 1) || !(o->focal >= 0))
        ag_fail(at, "learner_new: .label_smoothing = %g, .focal = %g; from 0, smoothing below 1", o->label_smoothing, o->focal);
    l->targets = o->targets;
    l->in->label_smoothing = o->label_smoothing, l->in->focal = o->focal;
    bool learns = !l->targets.n;
    for (int i = 0; i < l->targets.n; i++) {
        const double w = o->target_weights[i];
        if (!isfinite(w)) ag_fail(at, "learner_new: .target_weights[%d] = %g", i, w);
        l->in->weight[i] = w == 0 ? 1 : w < 0 ? 0 : w;
        learns |= l->in->weight[i] > 0;
    }
    if (!learns) ag_fail(at, "learner_new: all .target_weights are negative, so that no target is learned");
    for (int i = 0; i < LEARNER_MAX_METRICS && o->metrics[i].name; i++) {
        if (l->targets.n) add_metric(at, l, &o->metrics[i]);
        else l->metrics[l->n_metrics++] = o->metrics[i];
    }
    if (l->targets.n && !l->n_metrics) add_usual(l);
    for (int i = 0; i < l->targets.n && l->targets.n > 1; i++) add_column(l, i, (learner_metric){ 0 }, "loss");
}
