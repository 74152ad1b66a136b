/* optim/evaluate.c - validation and predictions: a loader's batches through the net, without gradients. */
#include <math.h>
#include "core/memory.h"
#include "ops/ops.h"
#include "optim/learner_inside.h"

/* A loss has no functions: its sum over samples. */
typedef struct { double *column[LEARNER_MAX_COLUMNS]; double loss, n; } sums;

static void drop(void *p)
{
    sums *s = p;
    for (int i = 0; i < LEARNER_MAX_COLUMNS; i++) ag_free(s->column[i]);
    ag_free(s);
}

static void add_metric(const learner *l, sums *s, int i, ag_tensor *pred, ag_tensor *y)
{
    const learner_metric *m = &l->metrics[i];
    if (l->targets.n) {
        pred = ag_learner_target_pred(l, l->in->target_of[i], pred);
        y = ag_learner_target_y(l, l->in->target_of[i], y);
    }
    const int64_t classes = m->by_class && pred->ndim ? pred->shape[pred->ndim - 1] : 0;
    if (!s->column[i]) s->column[i] = ag_alloc(LEARNER_SUMS + ag_mul_size(l->in->at, classes, classes), sizeof(double));
    m->add(m, s->column[i], pred, y);
}

static void add_batch(learner *l, sums *s, const data_batch *b)
{
    double each[DATA_MAX_TARGETS] = { 0 };
    const double n = (double)b->n;
    ag_tensor *pred = ag_learner_forward(l, b->x);
    s->loss += ag_item(ag_learner_loss(l, pred, b->y, each)) * n;
    s->n += n;
    for (int i = 0; i < l->n_metrics; i++) {
        if (l->metrics[i].add) add_metric(l, s, i, pred, b->y);
        else *s->column[i] += each[l->in->target_of[i]] * n;
    }
}

static double value_of(const learner *l, const sums *s, int i)
{
    const learner_metric *m = &l->metrics[i];
    if (!s->column[i]) return NAN;
    return m->add ? m->value(m, s->column[i]) : *s->column[i] / s->n;
}

double ag_learner_validate_(const char *at, learner *l, data_loader *loader)
{
    AG_SCOPE;
    sums *s = ag_alloc(1, sizeof *s);
    ag_defer(drop, s);
    if (!loader) loader = l->valid;
    if (!loader) ag_fail(at, "learner_validate: there is no validation set");
    for (int i = 0; i < l->n_metrics; i++)
        if (!l->metrics[i].add) s->column[i] = ag_alloc(1, sizeof(double));
    NN_EVAL(l->net);
    DATA_EACH(b, loader)
        if (b.n) add_batch(l, s, &b);
    for (int i = 0; i < l->n_metrics; i++) l->metric[i] = value_of(l, s, i);
    return l->valid_loss = s->loss / s->n;
}

/* ---- predictions --------------------------------------------------------------------------------------- */

ag_tensor *ag_learner_predict_(const char *at, learner *l, data_loader *loader)
{
    ag_tensor *all = NULL;
    int64_t row = 0;
    if (!loader) loader = l->valid;
    if (!loader || !data_batches(loader)) ag_fail(at, "learner_predict: the loader has no batches");
    ag_owner *own = ag_owner_new();         /* `all` is made inside a batch and outlives it */
    ag_defer((void (*)(void *))ag_owner_free, own);
    NN_EVAL(l->net);
    DATA_EACH(b, loader) {
        ag_tensor *pred = ag_learner_forward(l, b.x);
        if (!all) {
            ag_shape s = ag_shape_of(pred);
            s.dim[0] = data_samples(loader);
            ag_owner_enter(own);
            all = ag_empty_(at, pred->dtype, s);
            ag_owner_leave(own);
        }
        ag_copy(ag_slice(all, 0, row, row + b.n), pred);
        row += b.n;
    }
    return all;
}
