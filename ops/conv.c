/* ops/conv.c - the rules and sizes of a convolution. */
#include "ops/conv.h"
#include "ops/fused.h"

static void require_image(const ag_node *n)
{
    const ag_tensor *x = n->in[AG_CONV_X], *w = n->in[AG_CONV_WEIGHT];
    AG_REQUIRE(n, x->dtype == AG_F32 || x->dtype == AG_BF16, "x must be %s or bf16, got %s; convert it with ag_cast",
               ag_dtype_name(AG_F32), ag_dtype_name(x->dtype));
    ag_node_require_real(n, w, "weight");
    AG_REQUIRE(n, x->ndim == 4, "x must be images [N, H, W, C] (channels last), got %d axes", x->ndim);
    AG_REQUIRE(n, w->ndim == 4, "weight must be [out, in / groups, kh, kw], got %d axes", w->ndim);
}

static void require_channels(const ag_node *n, int64_t groups)
{
    const ag_tensor *w = n->in[AG_CONV_WEIGHT], *bias = n->in[AG_CONV_BIAS];
    const int64_t in = n->in[AG_CONV_X]->shape[3], out = w->shape[0];
    AG_REQUIRE(n, groups >= 1 && in % groups == 0 && out % groups == 0,
               "groups = %" PRId64 " must divide the channels of x, %" PRId64 ", and of the result, %" PRId64, groups, in, out);
    AG_REQUIRE(n, in == w->shape[1] * groups, "x [N, H, W, C] has %" PRId64 " channels, weight [out, in / groups, kh, kw] takes %"
               PRId64 " x %" PRId64 " groups", in, w->shape[1], groups);
    if (!bias) return;
    ag_node_require_real(n, bias, "bias");
    AG_REQUIRE(n, bias->ndim == 1 && bias->shape[0] == out, "bias must be [%" PRId64 "], one value per channel of the result",
               out);
}

static int64_t out_size(const ag_node *n, const char *axis, int64_t size, int64_t kernel, int64_t stride, int64_t pad,
                        int64_t dilation)
{
    AG_REQUIRE(n, kernel >= 1 && stride >= 1 && dilation >= 1 && pad >= 0,
               "%s: kernel %" PRId64 ", stride %" PRId64 ", dilation %" PRId64 " must be positive, padding %" PRId64
               " not negative", axis, kernel, stride, dilation, pad);
    const int64_t padded = ag_add_size(n->at, size, pad);
    const int64_t reach = ag_add_size(n->at, ag_mul_size(n->at, dilation, kernel - 1), 1);
    AG_REQUIRE(n, reach <= padded, "%s: the kernel reaches over %" PRId64 " pixels, the padded image has %" PRId64
               "; use larger images or .pad", axis, reach, padded);
    return ag_conv_out_size(size, kernel, stride, pad, dilation);
}

void ag_conv_infer(ag_node *n)
{
    const ag_conv_arg *a = n->arg;
    const ag_tensor *x = n->in[AG_CONV_X], *w = n->in[AG_CONV_WEIGHT];
    require_image(n);
    require_channels(n, a->groups);
    const int64_t h = out_size(n, "height", x->shape[1], w->shape[2], a->stride_h, a->pad_top + a->pad_bottom, a->dilation_h);
    const int64_t v = out_size(n, "width", x->shape[2], w->shape[3], a->stride_w, a->pad_left + a->pad_right, a->dilation_w);
    const ag_shape s = AG_SHAPE(x->shape[0], h, v, w->shape[0]);
    ag_node_out(n, x->dtype, s);
    ag_fused_infer(n, a->activation);
}

ag_conv ag_conv_sizes(const ag_conv_arg *a, const ag_tensor *x, const ag_tensor *weight, const ag_tensor *y)
{
    return (ag_conv){ .at = *a, .n = x->shape[0], .h = x->shape[1], .w = x->shape[2], .in = x->shape[3], .out = y->shape[3],
                      .kh = weight->shape[2], .kw = weight->shape[3], .oh = y->shape[1], .ow = y->shape[2], .type = x->dtype };
}
