/* cuda/grn.cu - ops/grn.c: y = x + b + w x n, n = l / m, l the 2-norm of a channel over a sample's pixels, m its mean over the
 * channels plus 1e-6. */
#include "cuda/affine.h"
#include "ops/args.h"
#include "ops/registry.h"

enum { X, WEIGHT, BIAS };

/* m of the block's sample; every thread gets it. */
static __device__ inline double scale_of(const float *length, int64_t channels, double *shared)
{
    double sum = 0;
    for (int64_t c = threadIdx.x; c < channels; c += AG_BLOCK) sum += (double)length[c];
    return ag_block_fold<false>(sum, shared) / (double)channels + AG_GRN_TINY;
}

template <class T> static __global__ void grn_forward(ag_affine_cuda<T> a, const float *w, const float *b, float *lengths)
{
    AG_SHARED(double, shared, AG_BLOCK / AG_WARP);
    const int64_t base = blockIdx.x * a.channels;
    float *length = lengths + base;
    for (int64_t c = threadIdx.x; c < a.channels; c += AG_BLOCK) length[c] = (float)sqrt(a.sums[2 * base + c]);
    const double m = scale_of(length, a.channels, shared);
    for (int64_t c = threadIdx.x; c < a.channels; c += AG_BLOCK) {
        a.by_x[base + c] = (float)(1 + (double)w[c] * (double)length[c] / m);
        a.by_1[base + c] = b[c];
    }
}

/* With t = sum g x of a channel:   d n = w t,   d l = d n / m - mean(d n l) / m^2,
 * d x = g (1 + w n) + x d l / l,   d w = sum t n,   d b = sum g */
template <class T> static __global__ void grn_backward(ag_affine_cuda<T> a, const float *w, const float *lengths)
{
    AG_SHARED(double, shared, AG_BLOCK / AG_WARP);
    const int64_t base = blockIdx.x * a.channels;
    const float *length = lengths + base;
    double *t = a.sums + 2 * base, dot = 0;
    const double m = scale_of(length, a.channels, shared);
    for (int64_t c = threadIdx.x; c < a.channels; c += AG_BLOCK) dot += (double)w[c] * t[c] * (double)length[c];
    dot = ag_block_fold<false>(dot, shared) / ((double)a.channels * m * m);
    for (int64_t c = threadIdx.x; c < a.channels; c += AG_BLOCK) {
        const double l = (double)length[c], dl = (double)w[c] * t[c] / m - dot;
        a.by_g[base + c] = (float)(1 + (double)w[c] * l / m);
        a.by_x[base + c] = l > 0 ? (float)(dl / l) : 0;
        a.by_1[base + c] = 0;
        t[c] *= l / m;
    }
}

template <class T> static void forward(ag_node *n)
{
    if (!ag_numel(n->out)) return;
    const ag_affine_cuda<T> a = ag_affine_cuda_of<T>(n, false);
    float *length = n->saved[0] ? ag_real(n->saved[0])
                                : (float *)ag_workspace(n, a.samples * a.channels, sizeof *length);
    ag_affine_cuda_dots(n, a, a.x);
    LAUNCH(grn_forward<T>, (unsigned)a.samples, AG_BLOCK, 0, a, ag_real(n->in[WEIGHT]), ag_real(n->in[BIAS]), length);
    ag_affine_cuda_run(a);
}

template <class T> static void backward(ag_node *n)
{
    if (!ag_numel(n->out)) return ag_give_nothing(n, WEIGHT), ag_give_nothing(n, BIAS);
    const ag_affine_cuda<T> a = ag_affine_cuda_of<T>(n, true);
    ag_affine_cuda_dots(n, a, a.g);
    LAUNCH(grn_backward<T>, (unsigned)a.samples, AG_BLOCK, 0, a, ag_real(n->in[WEIGHT]), ag_real(n->saved[0]));
    ag_affine_cuda_give(n, a);
    if (a.out) ag_affine_cuda_run(a);
}

static bool is_half(const ag_node *n) { return n->in[X]->dtype == AG_BF16; }
void ag_grn_forward_cuda(ag_node *n) { is_half(n) ? forward<ag_bf16>(n) : forward<float>(n); }
void ag_grn_backward_cuda(ag_node *n) { is_half(n) ? backward<ag_bf16>(n) : backward<float>(n); }
