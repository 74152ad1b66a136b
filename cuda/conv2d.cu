/* cuda/conv2d.cu - ops/conv2d.c and ops/conv_transpose.c. */
#include "cuda/conv.h"
#include "cuda/fused.h"
#include "ops/fused.h"
#include "ops/registry.h"

static const ag_conv_arg *arg_of(const ag_node *n)
{
    return (const ag_conv_arg *)n->arg;
}

void ag_conv2d_forward_cuda(ag_node *n)
{
    const ag_tensor *x = n->in[AG_CONV_X], *w = n->in[AG_CONV_WEIGHT];
    const ag_conv c = ag_conv_sizes(arg_of(n), x, w, n->out);
    ag_cuda_conv_forward(n, &c, x->data, w, n->in[AG_CONV_BIAS], ag_fused_target(n), false);
    ag_cuda_fused_finish(n, arg_of(n)->activation);
}

void ag_conv2d_backward_cuda(ag_node *n)
{
    const ag_tensor *x = n->in[AG_CONV_X], *w = n->in[AG_CONV_WEIGHT], *dx = n->din[AG_CONV_X], *dw = n->din[AG_CONV_WEIGHT];
    const ag_conv c = ag_conv_sizes(arg_of(n), x, w, n->out);
    const void *g = ag_cuda_fused_gradient(n, arg_of(n)->activation);
    ag_cuda_bias_gradient(n, AG_CONV_BIAS, g);
    if (dx) ag_cuda_conv_input_gradient(n, &c, g, w, dx->data, n->accumulate[AG_CONV_X]);
    if (dw) ag_cuda_conv_weight_gradient(n, &c, x->data, g, ag_real(dw), n->accumulate[AG_CONV_WEIGHT]);
}

/* The convolution's input is the result here. Its argument comes first in the transposed one's. */
static ag_conv turned(const ag_node *n)
{
    return ag_conv_sizes(arg_of(n), n->out, n->in[AG_CONV_WEIGHT], n->in[AG_CONV_X]);
}

void ag_conv_transpose2d_forward_cuda(ag_node *n)
{
    const ag_conv c = turned(n);
    const ag_tensor *bias = n->in[AG_CONV_BIAS];
    ag_cuda_conv_input_gradient(n, &c, n->in[AG_CONV_X]->data, n->in[AG_CONV_WEIGHT], n->out->data, false);
    if (bias) ag_cuda_add_bias(n->out->data, c.type, c.n * c.h * c.w, c.in, ag_real(bias));
}

void ag_conv_transpose2d_backward_cuda(ag_node *n)
{
    const ag_tensor *x = n->in[AG_CONV_X], *w = n->in[AG_CONV_WEIGHT], *dx = n->din[AG_CONV_X], *dw = n->din[AG_CONV_WEIGHT];
    const ag_conv c = turned(n);
    const void *g = n->out->grad->data;
    ag_cuda_bias_gradient(n, AG_CONV_BIAS, g);
    if (dx) ag_cuda_conv_forward(n, &c, g, w, nullptr, dx->data, n->accumulate[AG_CONV_X]);
    if (dw) ag_cuda_conv_weight_gradient(n, &c, g, x->data, ag_real(dw), n->accumulate[AG_CONV_WEIGHT]);
}
