#include <math.h>
#include "ops/ops.h"
#include "core/op.h"
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

static void rmse_add(double *s, const ag_tensor *pred, const ag_tensor *y) { add_errors(s, pred, y, true); }
static void mae_add(double *s, const ag_tensor *pred, const ag_tensor *y) { add_errors(s, pred, y, false); }
static double mean(const double *s) { return s[COUNT] > 0 ? s[SUM] / s[COUNT] : NAN; }
static double root(const double *s) { return sqrt(mean(s)); }

static void hits_add(double *s, const ag_tensor *pred, const ag_tensor *y)
{
    AG_SCOPE;
    const bool classes = pred->ndim > 0 && pred->shape[pred->ndim - 1] > 1 && (y->dtype == AG_I64 || y->dtype == AG_I32);
    require_pairs("accuracy", classes && ag_numel(pred) == ag_numel(y) * pred->shape[pred->ndim - 1], pred, y);
    const ag_tensor *best = on_host(ag_argmax((ag_tensor *)(uintptr_t)pred, -1), AG_I64), *t = on_host(y, AG_I64);
    const int64_t n = ag_numel(best), *a = best->data, *b = t->data;
    for (int64_t i = 0; i < n; i++) s[SUM] += a[i] == b[i];
    s[COUNT] += (double)n;
}

static double misses(const double *s) { return 1 - mean(s); }

const learner_metric ag_metric_rmse = { "rmse", rmse_add, root, false };
const learner_metric ag_metric_mae = { "mae", mae_add, mean, false };
const learner_metric ag_metric_accuracy = { "accuracy", hits_add, mean, true };
const learner_metric ag_metric_error_rate = { "error_rate", hits_add, misses, false };
