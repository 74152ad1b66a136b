/* ops/conv_transpose.c - the transposed convolution: the gradient of a convolution with respect to its input, taken forward.
 * The convolution's x is our result, its y our x. */
#include "core/bf16.h"
#include "core/ledger.h"
#include "core/thread.h"
#include "ops/conv.h"
#include "ops/fused.h"
#include "ops/registry.h"

typedef struct { ag_conv_arg conv; int64_t out_pad; } transpose_arg;

static int64_t out_size(const ag_node *n, const char *axis, int64_t size, int64_t kernel, int64_t stride, int64_t pad,
                        int64_t dilation, int64_t out_pad)
{
    AG_REQUIRE(n, size >= 1 && kernel >= 1 && stride >= 1 && dilation >= 1 && pad >= 0,
               "%s: image %" PRId64 ", kernel %" PRId64 ", stride %" PRId64 ", dilation %" PRId64 " must be positive, padding %"
               PRId64 " not negative", axis, size, kernel, stride, dilation, pad);
    AG_REQUIRE(n, out_pad >= 0 && out_pad < stride, ".out_pad = %" PRId64 " must be below the stride, %" PRId64, out_pad, stride);
    const int64_t reach = ag_add_size(n->at, ag_mul_size(n->at, dilation, kernel - 1), 1);
    const int64_t whole = ag_add_size(n->at, ag_add_size(n->at, ag_mul_size(n->at, size - 1, stride), reach), out_pad);
    AG_REQUIRE(n, whole > ag_mul_size(n->at, 2, pad), "%s: padding %" PRId64 " takes all %" PRId64 " pixels of the result", axis,
               pad, whole);
    return whole - 2 * pad;
}

static void transpose_infer(ag_node *n)
{
    const transpose_arg *t = n->arg;
    const ag_conv_arg *a = &t->conv;
    const ag_tensor *x = n->in[AG_CONV_X], *w = n->in[AG_CONV_WEIGHT], *bias = n->in[AG_CONV_BIAS];
    AG_REQUIRE(n, x->dtype == AG_F32 || x->dtype == AG_BF16, "x must be %s or bf16, got %s; convert it with ag_cast",
               ag_dtype_name(AG_F32), ag_dtype_name(x->dtype));
    ag_node_require_real(n, w, "weight");
    AG_REQUIRE(n, x->ndim == 4 && w->ndim == 4, "needs images x [N, H, W, C] and weight [in, out / groups, kh, kw]");
    AG_REQUIRE(n, x->shape[3] == w->shape[0], "x [N, H, W, C] has %" PRId64 " channels, weight [in, out / groups, kh, kw] takes %"
               PRId64, x->shape[3], w->shape[0]);
    AG_REQUIRE(n, a->groups >= 1 && x->shape[3] % a->groups == 0, "groups = %" PRId64 " must divide the channels of x, %" PRId64,
               a->groups, x->shape[3]);
    const int64_t out = ag_mul_size(n->at, w->shape[1], a->groups);
    if (bias) {
        ag_node_require_real(n, bias, "bias");
        AG_REQUIRE(n, bias->ndim == 1 && bias->shape[0] == out, "bias must be [%" PRId64 "], one value per channel of the result",
                   out);
    }
    const int64_t h = out_size(n, "height", x->shape[1], w->shape[2], a->stride_h, a->pad_top, a->dilation_h, t->out_pad);
    const int64_t v = out_size(n, "width", x->shape[2], w->shape[3], a->stride_w, a->pad_left, a->dilation_w, t->out_pad);
    ag_node_out(n, x->dtype, AG_SHAPE(x->shape[0], h, v, out));
}

static ag_conv sizes_of(const ag_node *n)
{
    return ag_conv_sizes(&((const transpose_arg *)n->arg)->conv, n->out, n->in[AG_CONV_WEIGHT], n->in[AG_CONV_X]);
}

typedef struct { void *y; ag_dtype type; const real *bias; int64_t width; } bias_job;

static void add_bias(int64_t begin, int64_t end, void *arg)
{
    enum { PIECE = 1024 };
    const bias_job j = *(bias_job *)arg;
    real buf[PIECE];
    for (int64_t r = begin; r < end; r++)
        for (int64_t i = 0; i < j.width; i += PIECE) {
            const int64_t n = j.width - i < PIECE ? j.width - i : PIECE;
            real *y = ag_narrow_onto(j.y, j.type, r * j.width + i, n, buf);
            for (int64_t k = 0; k < n; k++) y[k] += j.bias[i + k];
            ag_narrow(j.y, j.type, r * j.width + i, n, y);
        }
}

static void transpose_forward(ag_node *n)
{
    const ag_conv c = sizes_of(n);
    ag_conv_input_gradient(n, &c, n->in[AG_CONV_X]->data, n->in[AG_CONV_WEIGHT], n->out->data, false);
    if (n->in[AG_CONV_BIAS])
        ag_parallel(c.n * c.h * c.w, 8, 0.3 * (double)c.in, add_bias,
                    &(bias_job){ n->out->data, c.type, ag_real(n->in[AG_CONV_BIAS]), c.in });
}

static void transpose_backward(ag_node *n)
{
    const ag_conv c = sizes_of(n);
    const ag_tensor *x = n->in[AG_CONV_X], *w = n->in[AG_CONV_WEIGHT], *g = n->out->grad;
    ag_tensor *dx = n->din[AG_CONV_X], *dw = n->din[AG_CONV_WEIGHT];
    ag_fused_bias_gradient(n, AG_CONV_BIAS, g->data);
    if (dx) {
        AG_SCOPE;
        ag_conv_forward(n, &c, g->data, w, NULL, AG_LINEAR_PLAIN, dx->data, n->accumulate[AG_CONV_X]);
    }
    if (dw) {
        AG_SCOPE;
        ag_conv_weight_gradient(n, &c, g->data, x->data, ag_real(dw), n->accumulate[AG_CONV_WEIGHT]);
    }
}

static int64_t transpose_workspace(const ag_node *n, bool backward)
{
    const ag_conv c = sizes_of(n);
    const ag_tensor *w = n->in[AG_CONV_WEIGHT];
    if (!backward) ag_conv_plan_input(n, &c, w, false);
    else if (n->din[AG_CONV_X]) ag_conv_plan_forward(n, &c, w, NULL, AG_LINEAR_PLAIN, n->accumulate[AG_CONV_X]);
    if (!backward) return ag_conv_input_workspace(&c);
    const int64_t input = ag_conv_forward_workspace(&c) + ag_planning_forms(), weight = ag_conv_weight_workspace(&c);
    return ag_fused_workspace(n, AG_LINEAR_PLAIN) + (input > weight ? input : weight);
}

static double transpose_flops(const ag_node *n)
{
    const ag_conv c = sizes_of(n);
    return ag_conv_flops(&c);
}

static ag_tensor *double_check(ag_tensor **in) { return ag_conv_transpose2d(in[0], in[1], .bias = in[2], .stride = 2); }
static ag_tensor *overlapping_check(ag_tensor **in)
{
    return ag_conv_transpose2d(in[0], in[1], .bias = in[2], .stride = 2, .pad = 1, .out_pad = 1);
}
static ag_tensor *plain_check(ag_tensor **in) { return ag_conv_transpose2d(in[0], in[1], .pad = 1); }
static ag_tensor *grouped_check(ag_tensor **in)
{
    return ag_conv_transpose2d(in[0], in[1], .groups = 2, .dilation = 2, .stride = 3, .out_pad = 2);
}

const ag_op ag_op_conv_transpose2d = {
    .name = "conv_transpose2d", .inputs = "x weight bias", .infer = transpose_infer, .bf16 = 1 << AG_CONV_X,
    .bf16_cuda = 1 << AG_CONV_X, .forward = { transpose_forward, AG_CUDA_FN(ag_conv_transpose2d_forward_cuda) },
    .backward = { transpose_backward, AG_CUDA_FN(ag_conv_transpose2d_backward_cuda) }, .workspace = transpose_workspace,
    .unread_out = true, .unread_cuda = true, .flops = transpose_flops,
    .check = { { "x[2,3,4,3] weight[3,5,2,2] bias[5]", double_check },
               { "x[1,4,3,4] weight[4,3,3,3] bias[3]", overlapping_check },
               { "x[2,4,5,2] weight[2,3,3,3]", plain_check }, { "x[1,3,2,4] weight[4,3,2,3]", grouped_check } },
};

ag_tensor *ag_conv_transpose2d_(const char *at, ag_tensor *x, ag_tensor *w, ag_conv_transpose2d_opts o)
{
    const int64_t stride = o.stride ? o.stride : 1, dilation = o.dilation ? o.dilation : 1;
    const transpose_arg a = { .out_pad = o.out_pad,
                              .conv = { .stride_h = stride, .stride_w = stride, .pad_top = o.pad, .pad_left = o.pad,
                                        .pad_bottom = o.pad, .pad_right = o.pad, .dilation_h = dilation, .dilation_w = dilation,
                                        .groups = o.groups ? o.groups : 1 } };
    ag_tensor *in[] = { ag_autocast_input(at, x), w, o.bias };
    return ag_apply_(at, &ag_op_conv_transpose2d, AG_CONV_INPUTS, in, &a, sizeof a);
}
