/* cuda/batch_norm.cu - ops/batch_norm.c: y = activation(z), z = (x - mean) rstd w + b + residual, per channel.
 *
 * Training reads x twice: sums of x - about and its square (about: the mean of a few rows, so that little is lost in
 * variance = mean square - squared mean), then y. Backward computes z once more instead of keeping it. */
#include <math.h>
#include "core/ranks.h"
#include "cuda/activation.h"
#include "cuda/columns.h"
#include "cuda/ranks.h"
#include "ops/args.h"
#include "ops/registry.h"

enum { X, WEIGHT, BIAS, RUNNING_MEAN, RUNNING_VAR, RESIDUAL };

template <class T> struct batch {
    const T *x, *residual, *g;
    T *y, *dx, *dresidual;
    float *mean, *scale, *bias;         /* z = (x - mean) scale + bias + residual */
    float *by_x, *by_1;                 /* d x = g scale + (x - mean) by_x + by_1 */
    int64_t rows, channels;
    ag_activation activation;           /* behind the clamp to lo .. hi */
    float lo, hi;
    bool add, add_residual, clamps;
};

template <class T> static batch<T> job_of(const ag_node *n, int columns)
{
    const ag_tensor *x = n->in[X];
    batch<T> j;
    memset(&j, 0, sizeof j);
    j.x = (const T *)x->data, j.y = (T *)n->out->data, j.activation = ((const ag_batch_arg *)n->arg)->activation;
    if (n->in[RESIDUAL]) j.residual = (const T *)n->in[RESIDUAL]->data;
    j.channels = x->shape[x->ndim - 1], j.rows = ag_numel(x) / j.channels, j.lo = -INFINITY, j.hi = INFINITY;
    if (j.activation == AG_LINEAR_RELU || j.activation == AG_LINEAR_RELU6) {
        j.lo = 0, j.clamps = true;
        if (j.activation == AG_LINEAR_RELU6) j.hi = 6;
        j.activation = AG_LINEAR_PLAIN;
    }
    float *column[5];
    for (int k = 0; k < columns; k++) column[k] = (float *)ag_workspace(n, j.channels, sizeof **column);
    j.mean = column[0], j.scale = column[1], j.bias = column[2];
    if (columns > 3) j.by_x = column[3], j.by_1 = column[4];
    return j;
}

template <class T> static ag_columns plan_of(const batch<T> &j)
{
    const bool aligned = ag_aligned(j.x) && ag_aligned(j.residual) && ag_aligned(j.g) && ag_aligned(j.y) &&
                         ag_aligned(j.dx) && ag_aligned(j.dresidual);
    return ag_columns_of<T>(1, j.rows, j.channels, aligned);
}

/* ---- statistics ---------------------------------------------------------------------------------------- */

enum { SAMPLE = 8 };
/* Of V columns; the same bits for each whatever V is: additions, then one product. */
template <int V, class T>
static __device__ inline void mean_of_some(const T *x, int64_t rows, int64_t channels, int64_t c, float (&mean)[V])
{
    const int64_t sample = rows < SAMPLE ? rows : (int64_t)SAMPLE;
    for (int i = 0; i < V; i++) mean[i] = 0;
    for (int64_t k = 0; k < sample; k++) {
        float v[V];
        ag_get_pack<V>(x + (2 * k + 1) * rows / (2 * sample) * channels + c, v);
        for (int i = 0; i < V; i++) mean[i] += v[i];
    }
    for (int i = 0; i < V; i++) mean[i] *= 1 / (float)sample;
}

template <class T> struct statistics {
    const T *x;
    int64_t rows, channels;
    template <int V> struct at {
        float about[V];
        __device__ inline at(const statistics &m, int64_t, int64_t c) { mean_of_some<V>(m.x, m.rows, m.channels, c, about); }
        __device__ inline void operator()(const statistics &m, int64_t i, float (&s)[2][V])
        {
            float x[V];
            ag_get_pack<V>(m.x + i, x);
            for (int k = 0; k < V; k++) {
                const float d = x[k] - about[k];
                s[0][k] += d, s[1][k] += d * d;
            }
        }
    };
};

/* What a channel's statistics are turned into. */
struct set_column {
    const float *w, *b;
    float *mean, *scale, *bias, *saved_mean, *saved_rstd;
    __device__ inline void operator()(int64_t c, float m, float rstd) const
    {
        mean[c] = m, scale[c] = rstd * (w ? w[c] : 1), bias[c] = b ? b[c] : 0;
        if (saved_mean) saved_mean[c] = m, saved_rstd[c] = rstd;
    }
};

struct take_statistics {
    set_column set;
    float *running_mean, *running_var;
    double momentum, eps;
    __device__ inline void operator()(int64_t c, double about, double sum, double squares, double rows) const
    {
        const double beyond = sum / rows, mean = about + beyond;
        const double all = squares - rows * beyond * beyond, square = all > 0 ? all : all < 0 ? 0 : all;
        set(c, (float)mean, (float)(1 / sqrt(square / rows + eps)));
        running_mean[c] += (float)(momentum * (mean - (double)running_mean[c]));
        running_var[c] += (float)(momentum * (square / (rows - 1) - (double)running_var[c]));
    }
};

template <class T> struct put_statistics {
    statistics<T> of;
    take_statistics take;
    __device__ inline void operator()(int64_t, int64_t c, const double *s) const
    {
        float about[1];
        mean_of_some<1>(of.x, of.rows, of.channels, c, about);
        take(c, (double)about[0], s[0], s[1], (double)of.rows);
    }
};

/* For the sums over all ranks (SyncBatchNorm): those about 0, [channels] each, and the rows behind them. Doubles lose nothing by
 * it that f32 had: their error in the variance is 1e-16 of the squared mean. */
template <class T> struct put_sums_of_rank {
    statistics<T> of;
    double *sums;
    __device__ inline void operator()(int64_t, int64_t c, const double *s) const
    {
        float some[1];
        mean_of_some<1>(of.x, of.rows, of.channels, c, some);
        const double rows = (double)of.rows, about = (double)some[0];
        sums[c] = s[0] + rows * about;
        sums[of.channels + c] = s[1] + 2 * about * s[0] + rows * about * about;
        if (!c) sums[2 * of.channels] = rows;
    }
};

static __global__ void statistics_of_ranks(int64_t channels, take_statistics take, const double *sums)
{
    AG_EACH (c, channels) take(c, 0, sums[c], sums[channels + c], sums[2 * channels]);
}

static __global__ void running_columns(int64_t channels, set_column set, const float *mean, const float *var, double eps)
{
    AG_EACH (c, channels) set(c, mean[c], (float)(1 / sqrt((double)var[c] + eps)));
}

static __global__ void saved_columns(int64_t channels, set_column set, const float *mean, const float *rstd)
{
    AG_EACH (c, channels) set(c, mean[c], rstd[c]);
}

template <class T> static set_column set_of(const ag_node *n, const batch<T> &j, bool save)
{
    return { ag_real_or_null(n->in[WEIGHT]), ag_real_or_null(n->in[BIAS]), j.mean, j.scale, j.bias,
             save ? ag_real_or_null(n->saved[0]) : nullptr, save ? ag_real_or_null(n->saved[1]) : nullptr };
}

/* ---- z, and the passes over it ------------------------------------------------------------------------- */

template <class T, int V> struct normalised {
    float mean[V], scale[V], bias[V];
    __device__ inline normalised(const batch<T> &m, int64_t c)
    {
        ag_get_pack<V>(m.mean + c, mean);
        ag_get_pack<V>(m.scale + c, scale);
        ag_get_pack<V>(m.bias + c, bias);
    }
    /* z before the clamp, and x - mean */
    __device__ inline void operator()(const batch<T> &m, int64_t i, float (&z)[V], float (&x)[V]) const
    {
        float r[V];
        ag_get_pack<V>(m.x + i, x);
        if (m.residual) ag_get_pack<V>(m.residual + i, r);
        for (int k = 0; k < V; k++) {
            x[k] -= mean[k];
            z[k] = x[k] * scale[k] + bias[k] + (m.residual ? r[k] : 0);
        }
    }
    /* d z; within the clamp the gradient passes */
    __device__ inline void gradient(const batch<T> &m, int64_t i, float (&g)[V], float (&x)[V]) const
    {
        float z[V];
        (*this)(m, i, z, x);
        ag_get_pack<V>(m.g + i, g);
        for (int k = 0; k < V; k++) {
            if (m.clamps) g[k] = z[k] > m.lo && z[k] < m.hi ? g[k] : 0;
            else if (m.activation) g[k] *= ag_activation_slope(m.activation, z[k]);
        }
    }
};

template <class T> struct apply_norm {
    batch<T> j;
    template <int V> struct at {
        normalised<T, V> norm;
        __device__ inline at(const apply_norm &m, int64_t, int64_t c) : norm(m.j, c) {}
        __device__ inline void operator()(const apply_norm &m, int64_t i)
        {
            float z[V], x[V];
            norm(m.j, i, z, x);
            for (int k = 0; k < V; k++) {
                z[k] = z[k] < m.j.lo ? m.j.lo : z[k] > m.j.hi ? m.j.hi : z[k];
                if (m.j.activation) z[k] = ag_activation_value(m.j.activation, z[k]);
            }
            ag_put_pack<V>(m.j.y + i, z, false);
        }
    };
};

template <class T> struct gradient_sums {
    batch<T> j;
    template <int V> struct at {
        normalised<T, V> norm;
        __device__ inline at(const gradient_sums &m, int64_t, int64_t c) : norm(m.j, c) {}
        __device__ inline void operator()(const gradient_sums &m, int64_t i, float (&s)[2][V])
        {
            float g[V], x[V];
            norm.gradient(m.j, i, g, x);
            for (int k = 0; k < V; k++) s[0][k] += g[k], s[1][k] += g[k] * x[k];
        }
    };
};

/* With h = (x - mean) rstd:  d w = sum g h,  d b = sum g,  d x = w rstd (g - mean(g) - h mean(g h)); in evaluation the
 * statistics are constants and the means absent: share, one over the rows, is 0. */
struct set_gradient {
    const float *scale, *rstd;
    float *by_x, *by_1;
    __device__ inline void operator()(int64_t c, double sum, double dot, double share) const
    {
        const double by = (double)scale[c] * share;
        by_x[c] = (float)(-dot * by * (double)rstd[c]);
        by_1[c] = (float)(-sum * by);
    }
};

/* Parameters have their own rank's part of the sums, x that of all: these are left in sums, as in put_sums_of_rank. */
struct put_gradient {
    set_gradient set;
    float *dw, *db;
    double *sums;
    int64_t rows, channels;
    bool add_w, add_b, training;
    __device__ inline void operator()(int64_t, int64_t c, const double *s) const
    {
        const double dot = s[1] * (double)set.rstd[c];
        if (dw) dw[c] = (add_w ? dw[c] : 0) + (float)dot;
        if (db) db[c] = (add_b ? db[c] : 0) + (float)s[0];
        if (!sums) return set(c, s[0], dot, training ? 1 / (double)rows : 0);
        sums[c] = s[0], sums[channels + c] = dot;
        if (!c) sums[2 * channels] = (double)rows;
    }
};

static __global__ void gradient_of_ranks(int64_t channels, set_gradient set, const double *sums)
{
    AG_EACH (c, channels) set(c, sums[c], sums[channels + c], 1 / sums[2 * channels]);
}

template <class T> struct apply_gradient {
    batch<T> j;
    template <int V> struct at {
        normalised<T, V> norm;
        float by_x[V], by_1[V];
        __device__ inline at(const apply_gradient &m, int64_t, int64_t c) : norm(m.j, c)
        {
            ag_get_pack<V>(m.j.by_x + c, by_x);
            ag_get_pack<V>(m.j.by_1 + c, by_1);
        }
        __device__ inline void operator()(const apply_gradient &m, int64_t i)
        {
            float g[V], x[V];
            norm.gradient(m.j, i, g, x);
            if (m.j.dresidual) ag_put_pack<V>(m.j.dresidual + i, g, m.j.add_residual);
            if (!m.j.dx) return;
            for (int k = 0; k < V; k++) x[k] = g[k] * norm.scale[k] + (x[k] * by_x[k] + by_1[k]);
            ag_put_pack<V>(m.j.dx + i, x, m.j.add);
        }
    };
};

/* ---- launching ----------------------------------------------------------------------------------------- */

static double *sums_of_ranks(const ag_node *n, int64_t channels)
{
    return (double *)ag_workspace(n, 2 * channels + 1, sizeof(double));
}

template <class T> static void forward(ag_node *n)
{
    const ag_batch_arg *a = (const ag_batch_arg *)n->arg;
    if (!ag_numel(n->out)) return;
    const batch<T> j = job_of<T>(n, 3);
    const ag_columns p = plan_of(j);
    const set_column set = set_of(n, j, true);
    float *mean = ag_real(n->in[RUNNING_MEAN]), *var = ag_real(n->in[RUNNING_VAR]);
    const statistics<T> s = { j.x, j.rows, j.channels };
    const take_statistics take = { set, mean, var, a->momentum, a->eps };
    if (a->training && ag_ranks() > 1) {
        double *sums = sums_of_ranks(n, j.channels);
        ag_columns_sum<2, T>(n, p, s, put_sums_of_rank<T>{ s, sums });
        ag_cuda_ranks_sum(sums, 2 * j.channels + 1);
        LAUNCH(statistics_of_ranks, ag_blocks(j.channels), AG_BLOCK, 0, j.channels, take, sums);
    } else if (a->training)
        ag_columns_sum<2, T>(n, p, s, put_statistics<T>{ s, take });
    else
        LAUNCH(running_columns, ag_blocks(j.channels), AG_BLOCK, 0, j.channels, set, mean, var, a->eps);
    ag_columns_each<T>(p, apply_norm<T>{ j });
}

template <class T> static void backward(ag_node *n)
{
    const bool plain = ((const ag_batch_arg *)n->arg)->activation == AG_LINEAR_PLAIN;
    if (plain) ag_node_give(n, RESIDUAL, n->out->grad);
    if (!ag_numel(n->out)) return ag_give_nothing(n, WEIGHT), ag_give_nothing(n, BIAS);
    batch<T> j = job_of<T>(n, 5);
    const float *rstd = ag_real(n->saved[1]);
    j.g = (const T *)n->out->grad->data;
    if (n->din[X]) j.dx = (T *)n->din[X]->data, j.add = n->accumulate[X];
    if (n->din[RESIDUAL] && !plain) j.dresidual = (T *)n->din[RESIDUAL]->data, j.add_residual = n->accumulate[RESIDUAL];
    const ag_columns p = plan_of(j);
    LAUNCH(saved_columns, ag_blocks(j.channels), AG_BLOCK, 0, j.channels, set_of(n, j, false), ag_real(n->saved[0]), rstd);
    const bool training = ((const ag_batch_arg *)n->arg)->training;
    const set_gradient set = { j.scale, rstd, j.by_x, j.by_1 };
    double *sums = training && ag_ranks() > 1 ? sums_of_ranks(n, j.channels) : nullptr;
    ag_columns_sum<2, T>(n, p, gradient_sums<T>{ j },
                         put_gradient{ set, ag_real_or_null(n->din[WEIGHT]), ag_real_or_null(n->din[BIAS]), sums, j.rows,
                                       j.channels, n->accumulate[WEIGHT], n->accumulate[BIAS], training });
    if (sums) {
        ag_cuda_ranks_sum(sums, 2 * j.channels + 1);
        LAUNCH(gradient_of_ranks, ag_blocks(j.channels), AG_BLOCK, 0, j.channels, set, sums);
    }
    if (j.dx || j.dresidual) ag_columns_each<T>(p, apply_gradient<T>{ j });
}

static bool is_half(const ag_node *n) { return n->in[X]->dtype == AG_BF16; }
void ag_batch_norm_forward_cuda(ag_node *n) { is_half(n) ? forward<ag_bf16>(n) : forward<float>(n); }
void ag_batch_norm_backward_cuda(ag_node *n) { is_half(n) ? backward<ag_bf16>(n) : backward<float>(n); }
