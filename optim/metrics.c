/* optim/metrics.c - what a validation measures beside the loss: sums over batches, and a number made of them. */
#include <math.h>
#include <stdio.h>
#include "core/memory.h"
#include "core/op.h"
#include "ops/ops.h"
#include "optim/learner.h"

enum { SUM, COUNT };

static const ag_tensor *on_host(const ag_tensor *t, ag_dtype dtype)
{
    return ag_contiguous(ag_cast(ag_to((ag_tensor *)(uintptr_t)t, AG_CPU), dtype));
}

/* The loss may take other shapes than a metric does. */
static void require_pairs(const char *metric, bool fits, const ag_tensor *pred, const ag_tensor *y)
{
    char ours[96], theirs[96];
    if (fits) return;
    ag_fail(NULL, "the metric %s cannot compare predictions %s with targets %s; another metric fits this loss", metric,
            ag_describe(pred, ours, sizeof ours), ag_describe(y, theirs, sizeof theirs));
}

/* Adds f(pred - y) over all elements. */
static void add_errors(double *s, const ag_tensor *pred, const ag_tensor *y, bool square)
{
    AG_SCOPE;
    const int64_t n = ag_numel(pred);
    require_pairs(square ? "rmse" : "mae", n == ag_numel(y), pred, y);
    const ag_tensor *p = on_host(pred, AG_F32), *t = on_host(y, AG_F32);
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)ag_real(p)[i] - (double)ag_real(t)[i];
        s[SUM] += square ? d * d : fabs(d);
    }
    s[COUNT] += (double)n;
}

static void rmse_add(const learner_metric *m, double *s, const ag_tensor *pred, const ag_tensor *y)
{
    (void)m;
    add_errors(s, pred, y, true);
}

static void mae_add(const learner_metric *m, double *s, const ag_tensor *pred, const ag_tensor *y)
{
    (void)m;
    add_errors(s, pred, y, false);
}

static double mean(const learner_metric *m, const double *s)
{
    (void)m;
    return s[COUNT] > 0 ? s[SUM] / s[COUNT] : NAN;
}

static double root(const learner_metric *m, const double *s) { return sqrt(mean(m, s)); }
static double rest(const learner_metric *m, const double *s) { return 1 - mean(m, s); }

/* ---- classes ------------------------------------------------------------------------------------------- */

typedef struct { const real *logit; const int64_t *class; int64_t n, classes; } rows;

static rows rows_of(const learner_metric *m, const ag_tensor *pred, const ag_tensor *y)
{
    const bool classes = pred->ndim > 0 && pred->shape[pred->ndim - 1] > 1 && (y->dtype == AG_I64 || y->dtype == AG_I32);
    require_pairs(m->name, classes && ag_numel(pred) == ag_numel(y) * pred->shape[pred->ndim - 1], pred, y);
    return (rows){ ag_real(on_host(pred, AG_F32)), on_host(y, AG_I64)->data, ag_numel(y), pred->shape[pred->ndim - 1] };
}

static int64_t largest(const real *logit, int64_t classes)
{
    int64_t best = 0;
    for (int64_t c = 1; c < classes; c++)
        if (logit[c] > logit[best]) best = c;
    return best;
}

/* Whether fewer than k logits come before that of class c. */
static bool among_first(const real *logit, int64_t classes, int64_t c, int64_t k)
{
    int64_t before = 0;
    if (c < 0 || c >= classes || isnan(logit[c])) return false;
    for (int64_t i = 0; i < classes; i++) before += logit[i] > logit[c] || (logit[i] == logit[c] && i < c);
    return before < k;
}

static void hits_add(const learner_metric *m, double *s, const ag_tensor *pred, const ag_tensor *y)
{
    AG_SCOPE;
    const rows r = rows_of(m, pred, y);
    for (int64_t i = 0; i < r.n; i++) s[SUM] += among_first(r.logit + i * r.classes, r.classes, r.class[i], m->k);
    s[COUNT] += (double)r.n;
}

/* s[SUM]: how many classes; behind the sums [true class][said class]. */
static void confusion_add(const learner_metric *m, double *s, const ag_tensor *pred, const ag_tensor *y)
{
    AG_SCOPE;
    const rows r = rows_of(m, pred, y);
    s[SUM] = (double)r.classes;
    for (int64_t i = 0; i < r.n; i++)
        if (r.class[i] >= 0 && r.class[i] < r.classes)
            s[LEARNER_SUMS + r.class[i] * r.classes + largest(r.logit + i * r.classes, r.classes)]++;
}

/* 2 tp / (true + said), the mean over classes with either. */
static double f1(const learner_metric *m, const double *s)
{
    const int64_t classes = (int64_t)s[SUM];
    const double *table = s + LEARNER_SUMS;
    double sum = 0, n = 0;
    (void)m;
    for (int64_t c = 0; c < classes; c++) {
        double either = 0;
        for (int64_t k = 0; k < classes; k++) either += table[c * classes + k] + table[k * classes + c];
        if (either > 0) sum += 2 * table[c * classes + c] / either, n++;
    }
    return n > 0 ? sum / n : NAN;
}

static void multi_add(const learner_metric *m, double *s, const ag_tensor *pred, const ag_tensor *y)
{
    AG_SCOPE;
    const int64_t n = ag_numel(pred);
    require_pairs(m->name, n == ag_numel(y), pred, y);
    const real *p = ag_real(on_host(pred, AG_F32)), *t = ag_real(on_host(y, AG_F32));
    for (int64_t i = 0; i < n; i++) s[SUM] += (p[i] > 0) == (t[i] > 0.5);
    s[COUNT] += (double)n;
}

learner_metric ag_metric_top_k(int64_t k)
{
    char name[32];
    if (k < 1) ag_fail(NULL, "learner_top_k: k = %" PRId64 "; it is 1 or more", k);
    snprintf(name, sizeof name, "top_%" PRId64, k);
    return (learner_metric){ .name = ag_intern(name), .add = hits_add, .value = mean, .higher_is_better = true,
                             .kinds = LEARNER_CATEGORIES, .k = k };
}

#define CLASSES .kinds = LEARNER_CATEGORIES, .k = 1
const learner_metric ag_metric_rmse = { "rmse", rmse_add, root, .kinds = LEARNER_NUMBERS };
const learner_metric ag_metric_mae = { "mae", mae_add, mean, .kinds = LEARNER_NUMBERS };
const learner_metric ag_metric_accuracy = { "accuracy", hits_add, mean, .higher_is_better = true, CLASSES };
const learner_metric ag_metric_error_rate = { "error_rate", hits_add, rest, CLASSES };
const learner_metric ag_metric_f1 = { "f1", confusion_add, f1, .higher_is_better = true, .by_class = true, CLASSES };
const learner_metric ag_metric_accuracy_multi = { "accuracy_multi", multi_add, mean, .higher_is_better = true,
                                                  .kinds = LEARNER_MULTICATEGORIES };
