/* nn/init.c - initial values, made on the CPU from the default stream: the same bits on every device. */
#include <math.h>
#include "core/random.h"
#include "nn/nn.h"

typedef real (*from_number)(real v, const double *p);

static void fill(ag_tensor *t, void (*numbers)(real *, int64_t, uint64_t), from_number f, const double *p)
{
    AG_SCOPE;
    const uint64_t key = ag_rng_draw();
    if (t->device == AG_META) return;
    const bool here = t->device == AG_CPU && ag_is_contiguous(t);
    ag_tensor *host = here ? t : ag_to(ag_empty_(AG_HERE, AG_F32, ag_shape_of(t)), AG_CPU);
    real *v = host->data;
    const int64_t n = ag_numel(t);
    numbers(v, n, key);
    for (int64_t i = 0; i < n; i++) v[i] = f(v[i], p);
    if (here) ag_touched(t);
    else ag_copy(t, host);
}

static real spread(real v, const double *p) { return (real)(p[0] + (double)v * (p[1] - p[0])); }
static real scaled(real v, const double *p) { return (real)(p[0] + (double)v * p[1]); }
static real wrapped(real v, const double *p) { return (real)(fmod((double)v, 2) * p[0]); }

void ag_nn_init_uniform(ag_tensor *t, double lo, double hi)
{
    fill(t, ag_fill_uniform, spread, (const double[]){ lo, hi });
}

void ag_nn_init_normal(ag_tensor *t, double mean, double std)
{
    fill(t, ag_fill_normal, scaled, (const double[]){ mean, std });
}

void ag_nn_init_fastai(ag_tensor *t, double std)
{
    fill(t, ag_fill_normal, wrapped, (const double[]){ std });
}

static double normal_cdf(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }

/* x with normal_cdf(x) = u, by bisection within [lo, hi]: 60 halvings are exact to the last bit. */
static real inverse_cdf(real v, const double *p)
{
    double lo = p[2], hi = p[3];
    const double u = normal_cdf(lo) + (double)v * (normal_cdf(hi) - normal_cdf(lo));
    for (int i = 0; i < 60; i++) {
        const double middle = (lo + hi) / 2;
        if (normal_cdf(middle) < u) lo = middle;
        else hi = middle;
    }
    return (real)(p[0] + p[1] * (lo + hi) / 2);
}

void ag_nn_init_trunc_normal(ag_tensor *t, double mean, double std, double lo, double hi)
{
    const double below = (lo - mean) / std, above = (hi - mean) / std;
    if (below < -8 && above > 8) ag_nn_init_normal(t, mean, std);       /* one in 1e15 lies outside */
    else fill(t, ag_fill_uniform, inverse_cdf, (const double[]){ mean, std, below, above });
}

static double fan(const ag_tensor *t, int axis)
{
    double rest = 1;
    for (int i = 2; i < t->ndim; i++) rest *= (double)t->shape[i];
    if (t->ndim < 2) ag_fail(t->at, "initialising by fan needs a tensor [out, in, ...], this one has %d axes", t->ndim);
    return rest * (double)t->shape[axis];
}

void ag_nn_init_kaiming_uniform(ag_tensor *t, double a)
{
    const double bound = sqrt(2 / (1 + a * a)) * sqrt(3 / fan(t, 1));
    ag_nn_init_uniform(t, -bound, bound);
}

void ag_nn_init_kaiming_normal(ag_tensor *t, double a)
{
    ag_nn_init_normal(t, 0, sqrt(2 / (1 + a * a)) / sqrt(fan(t, 1)));
}

void ag_nn_init_xavier_uniform(ag_tensor *t)
{
    const double bound = sqrt(6 / (fan(t, 0) + fan(t, 1)));
    ag_nn_init_uniform(t, -bound, bound);
}

void ag_nn_init_xavier_normal(ag_tensor *t)
{
    ag_nn_init_normal(t, 0, sqrt(2 / (fan(t, 0) + fan(t, 1))));
}
