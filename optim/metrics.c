#include <math.h>
#include "ops/ops.h"
#include "core/op.h"
#include "optim/learner.h"

enum { SUM, COUNT };

/* Adds f(pred - y) over all elements; the shapes are those the loss has accepted. */
static void add_errors(double *s, const ag_tensor *pred, const ag_tensor *y, bool square)
{
    AG_SCOPE;
    const int64_t n = ag_numel(pred);
    const ag_tensor *p = ag_contiguous(ag_to((ag_tensor *)(uintptr_t)pred, AG_CPU));
    const ag_tensor *t = ag_contiguous(ag_to((ag_tensor *)(uintptr_t)y, AG_CPU));
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
    const ag_tensor *best = ag_to(ag_argmax((ag_tensor *)(uintptr_t)pred, -1), AG_CPU);
    const ag_tensor *t = ag_contiguous(ag_to((ag_tensor *)(uintptr_t)y, AG_CPU));
    const int64_t n = ag_numel(best), *a = best->data, *b = t->data;
    for (int64_t i = 0; i < n; i++) s[SUM] += a[i] == b[i];
    s[COUNT] += (double)n;
}

static double misses(const double *s) { return 1 - mean(s); }

const learner_metric ag_metric_rmse = { "rmse", rmse_add, root, false };
const learner_metric ag_metric_mae = { "mae", mae_add, mean, false };
const learner_metric ag_metric_accuracy = { "accuracy", hits_add, mean, true };
const learner_metric ag_metric_error_rate = { "error_rate", hits_add, misses, false };
