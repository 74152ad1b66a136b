/* ops/conv2d.c - the convolution of images; depthwise ones go to ops/conv_depthwise.c. */
#include "core/ledger.h"
#include "ops/conv.h"
#include "ops/fused.h"
#include "ops/registry.h"

static ag_conv sizes_of(const ag_node *n)
{
    return ag_conv_sizes(n->arg, n->in[AG_CONV_X], n->in[AG_CONV_WEIGHT], n->out);
}

static ag_activation activation_of(const ag_node *n)
{
    return ((const ag_conv_arg *)n->arg)->activation;
}

static void conv2d_forward(ag_node *n)
{
    const ag_conv c = sizes_of(n);
    ag_conv_forward(n, &c, n->in[AG_CONV_X]->data, n->in[AG_CONV_WEIGHT], n->in[AG_CONV_BIAS],
                    ag_fused_activation(n, activation_of(n)), ag_fused_target(n), false);
    ag_fused_finish(n, activation_of(n));
}

static void conv2d_backward(ag_node *n)
{
    const ag_conv c = sizes_of(n);
    const ag_tensor *x = n->in[AG_CONV_X], *w = n->in[AG_CONV_WEIGHT];
    ag_tensor *dx = n->din[AG_CONV_X], *dw = n->din[AG_CONV_WEIGHT];
    const void *g = ag_fused_gradient(n, activation_of(n));
    ag_fused_bias_gradient(n, AG_CONV_BIAS, g);
    if (dx) {
        AG_SCOPE;
        ag_conv_input_gradient(n, &c, g, w, dx->data, n->accumulate[AG_CONV_X]);
    }
    if (dw) {
        AG_SCOPE;
        ag_conv_weight_gradient(n, &c, x->data, g, ag_real(dw), n->accumulate[AG_CONV_WEIGHT]);
    }
}

static int64_t conv2d_workspace(const ag_node *n, bool backward)
{
    const ag_conv c = sizes_of(n);
    const ag_tensor *w = n->in[AG_CONV_WEIGHT];
    if (!backward) ag_conv_plan_forward(n, &c, w, n->in[AG_CONV_BIAS], ag_fused_activation(n, activation_of(n)), false);
    else if (n->din[AG_CONV_X]) ag_conv_plan_input(n, &c, w, n->accumulate[AG_CONV_X]);
    if (!backward) return ag_conv_forward_workspace(&c);
    const int64_t input = ag_conv_input_workspace(&c) + ag_planning_forms(), weight = ag_conv_weight_workspace(&c);
    return ag_fused_workspace(n, activation_of(n)) + (input > weight ? input : weight);
}

static double conv2d_flops(const ag_node *n)
{
    const ag_conv c = sizes_of(n);
    return ag_conv_flops(&c);
}

static ag_tensor *same_check(ag_tensor **in) { return ag_conv2d(in[0], in[1], .bias = in[2], .pad = 1); }
static ag_tensor *strided_check(ag_tensor **in)
{
    return ag_conv2d(in[0], in[1], .bias = in[2], .stride = 2, .pad = 1, .activation = AG_LINEAR_GELU);
}
static ag_tensor *grouped_check(ag_tensor **in)
{
    return ag_conv2d(in[0], in[1], .groups = 2, .dilation = 2, .pad = 3, .pad_w = 2, .activation = AG_LINEAR_HARDSWISH);
}
static ag_tensor *tensorflow_check(ag_tensor **in) { return ag_conv2d(in[0], in[1], .stride = 2, .same = true); }
static ag_tensor *point_check(ag_tensor **in) { return ag_conv2d(in[0], in[1], .bias = in[2]); }
static ag_tensor *patch_check(ag_tensor **in)
{
    return ag_conv2d(in[0], in[1], .bias = in[2], .stride = 2, .activation = AG_LINEAR_RELU);
}
static ag_tensor *sparse_check(ag_tensor **in) { return ag_conv2d(in[0], in[1], .stride = 3, .stride_w = 2); }
static ag_tensor *turns_check(ag_tensor **in)
{
    return ag_conv2d(in[0], in[1], .bias = in[2], .pad = 2, .pad_w = -1, .dilation = 2, .dilation_w = 1,
                     .activation = AG_LINEAR_SILU);
}

const ag_op ag_op_conv2d = {
    .name = "conv2d", .inputs = "x weight bias", .infer = ag_conv_infer, .unread_cuda = true, .bf16 = 1 << AG_CONV_X,
    .bf16_cuda = 1 << AG_CONV_X, .forward = { conv2d_forward, AG_CUDA_FN(ag_conv2d_forward_cuda) },
    .backward = { conv2d_backward, AG_CUDA_FN(ag_conv2d_backward_cuda) }, .workspace = conv2d_workspace, .flops = conv2d_flops,
    .check = { { "x[2,5,6,3] weight[4,3,3,3] bias[4]", same_check }, { "x[2,7,5,2] weight[3,2,3,3] bias[3]", strided_check },
               { "x[1,6,7,4] weight[6,2,3,2]", grouped_check }, { "x[2,5,6,2] weight[3,2,3,5]", tensorflow_check },
               { "x[2,3,5,7] weight[5,7,1,1] bias[5]", point_check }, { "x[2,5,4,3] weight[4,3,2,2] bias[4]", patch_check },
               { "x[1,7,5,3] weight[2,3,1,1]", sparse_check }, { "x[2,5,4,3] weight[5,3,4,2] bias[5]", turns_check } },
};

/* TensorFlow's rule: ceil(size / stride) pixels, the odd one of the padding behind. */
static void pad_same(int64_t size, int64_t kernel, int64_t stride, int64_t dilation, int64_t *before, int64_t *after)
{
    const int64_t reach = dilation * (kernel - 1) + 1, total = ((size + stride - 1) / stride - 1) * stride + reach - size;
    *before = total > 0 ? total / 2 : 0;
    *after = total > 0 ? total - *before : 0;
}

static int64_t or_else(int v, int64_t otherwise) { return v ? v : otherwise; }

ag_tensor *ag_conv2d_(const char *at, ag_tensor *x, ag_tensor *w, ag_conv2d_opts o)
{
    ag_conv_arg a = { .stride_h = or_else(o.stride, 1), .dilation_h = or_else(o.dilation, 1), .pad_top = o.pad,
                      .pad_bottom = o.pad, .groups = or_else(o.groups, 1), .activation = o.activation };
    a.stride_w = or_else(o.stride_w, a.stride_h), a.dilation_w = or_else(o.dilation_w, a.dilation_h);
    a.pad_left = a.pad_right = o.pad_w == -1 ? 0 : or_else(o.pad_w, o.pad);
    if (o.same && (o.pad || o.pad_w)) ag_fail(at, "ag_conv2d: .same computes the padding; .pad = %d is one too many",
                                              o.pad ? o.pad : o.pad_w);
    const bool sized = x->ndim == 4 && w->ndim == 4 && a.stride_h > 0 && a.stride_w > 0;
    if (o.same && sized) {
        pad_same(x->shape[1], w->shape[2], a.stride_h, a.dilation_h, &a.pad_top, &a.pad_bottom);
        pad_same(x->shape[2], w->shape[3], a.stride_w, a.dilation_w, &a.pad_left, &a.pad_right);
    }
    const bool depthwise = sized && a.groups > 1 && a.groups == x->shape[3] && a.groups == w->shape[0];
    ag_tensor *in[] = { ag_autocast_input(at, x), w, o.bias };
    return ag_apply_(at, depthwise ? &ag_op_conv_depthwise : &ag_op_conv2d, AG_CONV_INPUTS, in, &a, sizeof a);
}
