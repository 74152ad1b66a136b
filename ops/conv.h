/* ops/conv.h - what the convolution ops share: their argument and its rules. Letters as in ops/vision.h; I O channels. */
#ifndef AG_CONV_H
#define AG_CONV_H
#include "core/op.h"
#include "ops/vision.h"

enum { AG_CONV_X, AG_CONV_WEIGHT, AG_CONV_BIAS, AG_CONV_INPUTS };

/* All sizes are >= 1, paddings >= 0; .same and defaults are resolved. */
typedef struct {
    int64_t stride_h, stride_w, pad_top, pad_left, pad_bottom, pad_right, dilation_h, dilation_w, groups;
    ag_activation activation;
} ag_conv_arg;

/* Output rows of `size` input rows: (size + pad_top + pad_bottom - dilation (kernel - 1) - 1) / stride + 1. */
static inline int64_t ag_conv_out_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation)
{
    return (size + pad - dilation * (kernel - 1) - 1) / stride + 1;
}

/* x [N, H, W, I] weight [O, I / groups, kh, kw] bias [O] or NULL -> out [N, H', W', O] of x's dtype. Where something trains
 * and the activation's derivative needs it (ops/activation.h), saved[0] is for what the activation takes, like out. */
void ag_conv_infer(ag_node *n);

/* groups == I == O; the same inputs, argument and rules. ag_conv2d_ sends it there. (ops/conv_depthwise.c) */
extern const ag_op ag_op_conv2d, ag_op_conv_depthwise, ag_op_conv_transpose2d;

#endif
