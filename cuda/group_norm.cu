/* cuda/group_norm.cu - ops/group_norm.c: y = (x - mean) rstd w + b, statistics of each sample over C / groups channels and
 * all pixels. */
#include "cuda/affine.h"
#include "ops/args.h"
#include "ops/registry.h"

enum { X, WEIGHT, BIAS };

struct group_norm {
    const float *w, *b;
    float *mean, *rstd;         /* [samples, groups], or NULL */
    int64_t groups, per;
    double eps;
};

static group_norm norm_of(const ag_node *n)
{
    const ag_group_arg *a = (const ag_group_arg *)n->arg;
    const ag_tensor *x = n->in[X];
    return { ag_real_or_null(n->in[WEIGHT]), ag_real_or_null(n->in[BIAS]), ag_real_or_null(n->saved[0]),
             ag_real_or_null(n->saved[1]), a->groups, x->shape[x->ndim - 1] / a->groups, a->eps };
}

static __device__ inline double value_or(const float *p, int64_t i, double none) { return p ? (double)p[i] : none; }

/* A warp for each group of each sample. */
template <class T> static __global__ void group_forward(group_norm m, ag_affine_cuda<T> a)
{
    const int64_t sample = blockIdx.x / m.groups, first = blockIdx.x % m.groups * m.per;
    const double *sums = a.sums + sample * 2 * a.channels, rows = (double)a.rows;
    const T *x0 = a.x + sample * a.rows * a.channels;
    double mean = 0, square = 0;
    for (int64_t c = first + threadIdx.x; c < first + m.per; c += AG_WARP) mean += (double)ag_load(x0[c]) + sums[c] / rows;
    mean = ag_lanes_sum(mean, AG_WARP) / (double)m.per;
    for (int64_t c = first + threadIdx.x; c < first + m.per; c += AG_WARP) {
        const double d = (double)ag_load(x0[c]) - mean;
        square += sums[a.channels + c] + d * (2 * sums[c] + d * rows);
    }
    square = ag_lanes_sum(square, AG_WARP);
    const double rstd = 1 / sqrt((square > 0 ? square : square < 0 ? 0 : square) / ((double)m.per * rows) + m.eps);
    for (int64_t c = first + threadIdx.x; c < first + m.per; c += AG_WARP) {
        const double by = rstd * value_or(m.w, c, 1);
        a.by_x[sample * a.channels + c] = (float)by;
        a.by_1[sample * a.channels + c] = (float)(value_or(m.b, c, 0) - mean * by);
    }
    if (m.mean && !threadIdx.x) m.mean[blockIdx.x] = (float)mean, m.rstd[blockIdx.x] = (float)rstd;
}

/* With h = (x - mean) rstd and u = g w:   d w = sum g h,  d b = sum g,  d x = rstd (u - mean(u) - h mean(u h)).
 * The sums of g x and g are turned into those of g h and g. */
template <class T> static __global__ void group_backward(group_norm m, ag_affine_cuda<T> a)
{
    const int64_t sample = blockIdx.x / m.groups, first = blockIdx.x % m.groups * m.per;
    double *gx = a.sums + sample * 2 * a.channels, *g = gx + a.channels;
    const double mean = (double)m.mean[blockIdx.x], rstd = (double)m.rstd[blockIdx.x];
    double u = 0, uh = 0;
    for (int64_t c = first + threadIdx.x; c < first + m.per; c += AG_WARP) {
        gx[c] = (gx[c] - mean * g[c]) * rstd;
        u += value_or(m.w, c, 1) * g[c], uh += value_or(m.w, c, 1) * gx[c];
    }
    u = ag_lanes_sum(u, AG_WARP) / ((double)m.per * (double)a.rows);
    uh = ag_lanes_sum(uh, AG_WARP) / ((double)m.per * (double)a.rows);
    for (int64_t c = first + threadIdx.x; c < first + m.per; c += AG_WARP) {
        const int64_t i = sample * a.channels + c;
        a.by_g[i] = (float)(rstd * value_or(m.w, c, 1));
        a.by_x[i] = (float)(-rstd * rstd * uh);
        a.by_1[i] = (float)(rstd * (mean * rstd * uh - u));
    }
}

template <class T> static void forward(ag_node *n)
{
    if (!ag_numel(n->out)) return;
    const ag_affine_cuda<T> a = ag_affine_cuda_of<T>(n, false);
    const group_norm m = norm_of(n);
    ag_affine_cuda_moments(n, a);
    LAUNCH(group_forward<T>, (unsigned)(a.samples * m.groups), AG_WARP, 0, m, a);
    ag_affine_cuda_run(a);
}

template <class T> static void backward(ag_node *n)
{
    if (!ag_numel(n->out)) return ag_give_nothing(n, WEIGHT), ag_give_nothing(n, BIAS);
    const ag_affine_cuda<T> a = ag_affine_cuda_of<T>(n, true);
    const group_norm m = norm_of(n);
    ag_affine_cuda_dots(n, a, a.g);
    LAUNCH(group_backward<T>, (unsigned)(a.samples * m.groups), AG_WARP, 0, m, a);
    ag_affine_cuda_give(n, a);
    if (a.out) ag_affine_cuda_run(a);
}

static bool is_half(const ag_node *n) { return n->in[X]->dtype == AG_BF16; }
void ag_group_norm_forward_cuda(ag_node *n) { is_half(n) ? forward<ag_bf16>(n) : forward<float>(n); }
void ag_group_norm_backward_cuda(ag_node *n) { is_half(n) ? backward<ag_bf16>(n) : backward<float>(n); }
