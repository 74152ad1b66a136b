/* optim/evaluate.c - validation and predictions: a loader's batches through the net, without gradients. */
#include <math.h>
#include <string.h>
#include "core/memory.h"
#include "core/ranks.h"
#include "ops/ops.h"
#include "optim/learner_inside.h"

/* A loss has no functions: its sum over samples. */
typedef struct { double *column[LEARNER_MAX_COLUMNS]; int64_t size[LEARNER_MAX_COLUMNS]; double loss, n; } sums;

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
    if (!s->column[i]) {
        s->size[i] = LEARNER_SUMS + ag_mul_size(l->in->at, classes, classes);
        s->column[i] = ag_alloc(s->size[i], sizeof(double));
    }
    m->add(m, s->column[i], pred, y);
}

/* A batch that went to all ranks counts once. */
static bool counts(const data_batch *b)
{
    return b->share > 0 && (!b->everywhere || ag_rank() == 0);
}

/* Of all ranks. */
static void share_sums(const learner *l, sums *s)
{
    if (ag_ranks() == 1) return;
    double own[2] = { s->loss, s->n }, size[LEARNER_MAX_COLUMNS];
    for (int i = 0; i < l->n_metrics; i++) size[i] = (double)s->size[i];
    ag_ranks_sum(own, 2);
    ag_ranks_largest(size, l->n_metrics);
    s->loss = own[0], s->n = own[1];
    for (int i = 0; i < l->n_metrics; i++) {
        if (!s->column[i] && size[i] > 0) s->column[i] = ag_alloc((int64_t)size[i], sizeof(double));
        ag_ranks_sum(s->column[i], (int64_t)size[i]);
    }
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
        if (!l->metrics[i].add) s->column[i] = ag_alloc(s->size[i] = 1, sizeof(double));
    l->in->mixed_y = NULL;
    NN_EVAL(l->net);
    ag_learner_use(l, loader);
    DATA_EACH(b, loader) if (counts(&b)) add_batch(l, s, &b);
    share_sums(l, s);
    if (!(s->n > 0)) ag_fail(at, "learner_validate: none of the loader's %" PRId64 " samples can be had", data_samples(loader));
    for (int i = 0; i < l->n_metrics; i++) l->metric[i] = value_of(l, s, i);
    return l->valid_loss = s->loss / s->n;
}

/* ---- predictions --------------------------------------------------------------------------------------- */

/* To their places where some are missing, which a loader in order tells by b.row. */
static void copy_rows(ag_tensor *all, ag_tensor *pred, const data_batch *b, int64_t *done)
{
    const int64_t left = data_samples(b->of) - b->index * data_batch_size(b->of);
    const bool whole = b->n == (left < data_batch_size(b->of) ? left : data_batch_size(b->of));
    if (whole) *done = b->index * data_batch_size(b->of);
    if (whole || !b->row) ag_copy(ag_slice(all, 0, *done, *done + b->n), pred);
    for (int64_t i = 0; !whole && b->row && i < b->n; i++)
        ag_copy(ag_slice(all, 0, b->row[i], b->row[i] + 1), ag_slice(pred, 0, i, i + 1));
    *done += b->n;
}

/* Every rank gets the others' rows; those that nobody had stay NaN. */
static void share_rows(ag_tensor *all, double *had)
{
    const int64_t n = all->shape[0], width = n ? ag_numel(all) / n : 0;
    real *v = (real *)all->data;
    for (int64_t r = 0; r < n; r++) if (had[r] == 0) memset(v + r * width, 0, (size_t)width * sizeof *v);
    ag_ranks_sum(had, n);
    ag_ranks_sum_real(v, n * width);
    for (int64_t r = 0; r < n; r++)
        for (int64_t k = 0; had[r] == 0 && k < width; k++) v[r * width + k] = NAN;
}

ag_tensor *ag_learner_predict_(const char *at, learner *l, data_loader *loader)
{
    ag_tensor *all = NULL;
    int64_t done = 0;
    if (!loader) loader = l->valid;
    if (!loader || !data_batches(loader)) ag_fail(at, "learner_predict: the loader has no batches");
    ag_owner *own = ag_owner_new();         /* `all` is made inside a batch and outlives it */
    ag_defer((void (*)(void *))ag_owner_free, own);
    NN_EVAL(l->net);
    double *had = ag_alloc(data_samples(loader), sizeof *had);
    ag_defer(ag_free, had);
    ag_learner_use(l, loader);
    DATA_EACH(b, loader) {
        ag_tensor *pred = ag_learner_forward(l, b.x);
        if (!all) {
            ag_shape s = ag_shape_of(pred);
            s.dim[0] = data_samples(loader);
            ag_owner_enter(own);
            all = ag_to_(at, ag_full_(at, NAN, s), AG_CPU);
            ag_owner_leave(own);
        }
        if (counts(&b)) copy_rows(all, ag_to(ag_cast(pred, AG_F32), AG_CPU), &b, &done);
        for (int64_t i = 0; counts(&b) && ag_ranks() > 1 && i < b.n; i++) had[b.row[i]] = 1;
    }
    if (!all) ag_fail(at, "learner_predict: none of the loader's samples can be had");
    if (ag_ranks() > 1) share_rows(all, had);
    return all;
}

ag_tensor *ag_learner_probabilities_(const char *at, learner *l, data_loader *loader)
{
    ag_tensor *pred = ag_learner_predict_(at, l, loader), *part[DATA_MAX_TARGETS];
    if (!l->targets.n) return ag_softmax(pred, -1);
    for (int i = 0; i < l->targets.n; i++) {
        part[i] = ag_learner_target_pred(l, i, pred);
        if (l->targets.target[i].kind == DATA_TARGET_CATEGORY) part[i] = ag_softmax(part[i], -1);
        if (l->targets.target[i].kind == DATA_TARGET_MULTICATEGORY) part[i] = ag_sigmoid(part[i]);
    }
    return l->targets.n == 1 ? part[0] : ag_concat_(at, 1, l->targets.n, part);
}

ag_tensor *ag_learner_tta_(const char *at, learner *l, data_loader *plain, data_loader *varied, learner_tta_opts o)
{
    const int n = o.n > 0 ? o.n : 4;
    const double beta = o.beta == 0 ? 0.25 : o.beta < 0 ? 0 : o.beta;
    ag_tensor *some = NULL;
    for (int i = 0; i < n; i++) {
        ag_tensor *p = ag_learner_probabilities_(at, l, varied);
        some = !some ? p : o.use_max ? ag_maximum(some, p) : ag_add(some, p);
    }
    ag_tensor *p = ag_learner_probabilities_(at, l, plain);
    if (o.use_max) return ag_maximum(some, p);
    return ag_add(ag_scale(some, (1 - beta) / n), ag_scale(p, beta));
}

ag_tensor *ag_learner_ensemble_(const char *at, int n, ag_tensor *const *probabilities, const double *weights)
{
    ag_tensor *sum = NULL;
    double total = 0;
    if (n < 1) ag_fail(at, "learner_ensemble: of %d predictions", n);
    for (int i = 0; i < n; i++) total += weights ? weights[i] : 1;
    if (!(total > 0)) ag_fail(at, "learner_ensemble: the weights sum to %g", total);
    for (int i = 0; i < n; i++) {
        ag_tensor *one = ag_scale(probabilities[i], (weights ? weights[i] : 1) / total);
        sum = sum ? ag_add(sum, one) : one;
    }
    return sum;
}
