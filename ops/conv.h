/* ops/conv.h - what the convolution ops share: their argument and its rules. Letters as in ops/vision.h; I O channels. */
#ifndef AG_CONV_H
#define AG_CONV_H
#include "core/op.h"
#include "ops/vision.h"
AG_BEGIN_DECLS

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

/* The sizes of a convolution: x [n, h, w, in], y [n, oh, ow, out], both of `type`, weight [out, in / groups, kh, kw] f32. */
typedef struct {
    ag_conv_arg at;
    int64_t n, h, w, in, out, kh, kw, oh, ow;
    ag_dtype type;
} ag_conv;
ag_conv ag_conv_sizes(const ag_conv_arg *a, const ag_tensor *x, const ag_tensor *weight, const ag_tensor *y);
static inline int64_t ag_conv_depth(const ag_conv *c) { return c->kh * c->kw * (c->in / c->at.groups); }
static inline int64_t ag_conv_pixels(const ag_conv *c) { return c->n * c->oh * c->ow; }
/* Multiply-adds x 2 */
static inline double ag_conv_flops(const ag_conv *c)
{
    return 2 * (double)ag_conv_pixels(c) * (double)c->out * (double)ag_conv_depth(c);
}

/* The three products, each over the team. n: the node that is run; its weight may be read in a packed form.
 *     y = activation((y +) x * weight + bias)    dx (+)= g * weight turned    dw (+)= x * g */
void ag_conv_forward(const ag_node *n, const ag_conv *c, const void *x, const ag_tensor *weight, const ag_tensor *bias,
                     ag_activation activation, void *y, bool add);
void ag_conv_input_gradient(const ag_node *n, const ag_conv *c, const void *g, const ag_tensor *weight, void *dx, bool add);
void ag_conv_weight_gradient(const ag_node *n, const ag_conv *c, const void *x, const void *g, real *dw, bool add);
/* For plans: asks for the packed forms that the first of them reads, and the second. */
void ag_conv_plan_forward(const ag_node *n, const ag_conv *c, const ag_tensor *weight, const ag_tensor *bias,
                          ag_activation activation, bool add);
void ag_conv_plan_input(const ag_node *n, const ag_conv *c, const ag_tensor *weight, bool add);
/* What each of them takes at most of workspace, in bytes. */
int64_t ag_conv_forward_workspace(const ag_conv *c);
int64_t ag_conv_input_workspace(const ag_conv *c);
int64_t ag_conv_weight_workspace(const ag_conv *c);

/* groups == I == O; the same inputs, argument and rules. ag_conv2d_ sends it there. (ops/conv_depthwise.c) */
extern const ag_op ag_op_conv2d, ag_op_conv_depthwise, ag_op_conv_transpose2d;

AG_END_DECLS
#endif
