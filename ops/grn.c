/* ops/grn.c - global response normalisation (Woo et al. 2023, ConvNeXt V2): y = x + b + w x n, n = l / (mean(l) + 1e-6),
 * l the 2-norm of a channel over the pixels of a sample, its mean over the channels. */
#include <math.h>
#include "ops/affine.h"
#include "ops/args.h"
#include "ops/channels.h"
#include "ops/registry.h"
#include "ops/vision.h"

enum { X, WEIGHT, BIAS, INPUTS };

static void grn_infer(ag_node *n)
{
    const ag_tensor *x = n->in[X];
    ag_node_require_real(n, x, "x");
    AG_REQUIRE(n, x->ndim >= 2, "needs x [N, ..., C] with at least two axes");
    const int64_t channels = x->shape[x->ndim - 1];
    AG_REQUIRE(n, n->in[WEIGHT] && n->in[BIAS], "needs weight and bias [%" PRId64 "]", channels);
    ag_node_require_channels(n, n->in[WEIGHT], "weight", channels);
    ag_node_require_channels(n, n->in[BIAS], "bias", channels);
    ag_node_out_like(n, x);
    if (ag_node_trains(n)) ag_node_save(n, 0, AG_F32, AG_SHAPE(x->shape[0], channels));
}

/* mean(l) + 1e-6 of a sample */
static double scale_of(const real *length, int64_t channels)
{
    double sum = 0;
    for (int64_t c = 0; c < channels; c++) sum += (double)length[c];
    return sum / (double)channels + AG_GRN_TINY;
}

static void grn_forward(ag_node *n)
{
    ag_affine a = ag_affine_of(n, false);
    const real *w = ag_real(n->in[WEIGHT]), *b = ag_real(n->in[BIAS]);
    real *length = n->saved[0] ? ag_real(n->saved[0]) : ag_workspace(n, a.samples * a.channels, sizeof *length);
    a.g = a.x;
    const double *squares = ag_affine_sums(n, &a);
    a.g = NULL;
    for (int64_t s = 0; s < a.samples; s++, length += a.channels) {
        for (int64_t c = 0; c < a.channels; c++) length[c] = (real)sqrt(squares[2 * s * a.channels + c]);
        const double scale = scale_of(length, a.channels);
        for (int64_t c = 0; c < a.channels; c++) {
            a.by_x[s * a.channels + c] = (real)(1 + (double)w[c] * (double)length[c] / scale);
            a.by_1[s * a.channels + c] = b[c];
        }
    }
    a.out = n->out->data;
    ag_affine_run(n, &a);
}

/* With t = sum g x of a channel and m = mean(l) + 1e-6:   d n = w t,   d l = d n / m - mean(d n l) / m^2,
 * d x = g (1 + w n) + x d l / l,   d w = sum t n,   d b = sum g */
static void grn_backward(ag_node *n)
{
    const ag_affine a = ag_affine_of(n, true);
    const real *w = ag_real(n->in[WEIGHT]), *length = ag_real(n->saved[0]);
    double *sums = ag_affine_sums(n, &a);
    for (int64_t s = 0; s < a.samples; s++, length += a.channels) {
        double *t = sums + 2 * s * a.channels, shared = 0;
        const double m = scale_of(length, a.channels);
        for (int64_t c = 0; c < a.channels; c++) shared += (double)w[c] * t[c] * (double)length[c];
        shared /= (double)a.channels * m * m;
        for (int64_t c = 0; c < a.channels; c++) {
            const int64_t i = s * a.channels + c;
            const double l = (double)length[c], dl = (double)w[c] * t[c] / m - shared;
            a.by_g[i] = (real)(1 + (double)w[c] * l / m);
            a.by_x[i] = l > 0 ? (real)(dl / l) : 0;
            a.by_1[i] = 0;
            t[c] *= l / m;
        }
        for (int64_t c = 0; s && c < 2 * a.channels; c++) sums[c] += t[c];
    }
    ag_give_channels(n, WEIGHT, sums);
    ag_give_channels(n, BIAS, sums + a.channels);
    if (a.out) ag_affine_run(n, &a);
}

static int64_t grn_workspace(const ag_node *n, bool backward)
{
    const ag_tensor *x = n->in[X];
    const int64_t length = backward || n->saved[0] ? 0 : x->shape[0] * x->shape[x->ndim - 1];
    return ag_affine_workspace(n, backward) + length * (int64_t)sizeof(real);
}

static ag_tensor *grn_check(ag_tensor **in) { return ag_grn(in[0], in[1], in[2]); }

const ag_op ag_op_grn = {
    .name = "grn", .inputs = "x weight bias", .infer = grn_infer, .unread_out = true, .unread_cuda = true,
    .bf16 = 1 << X, .bf16_cuda = 1 << X, .workspace = grn_workspace,
    .forward = { grn_forward, AG_CUDA_FN(ag_grn_forward_cuda) },
    .backward = { grn_backward, AG_CUDA_FN(ag_grn_backward_cuda) },
    .check = { { "x[2,3,3,5] weight[5] bias[5]", grn_check }, { "x[1,67,3] weight[3] bias[3]", grn_check } },
};

ag_tensor *ag_grn_(const char *at, ag_tensor *x, ag_tensor *weight, ag_tensor *bias)
{
    return ag_apply_(at, &ag_op_grn, INPUTS, (ag_tensor *[]){ x, weight, bias }, NULL, 0);
}
