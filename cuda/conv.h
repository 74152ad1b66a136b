/* cuda/conv.h - the three products of a convolution on the GPU; arguments as in ops/conv.h. */
#ifndef AG_CUDA_CONV_H
#define AG_CUDA_CONV_H
#include "ops/conv.h"
AG_BEGIN_DECLS

void ag_cuda_conv_forward(const ag_node *n, const ag_conv *c, const void *x, const ag_tensor *weight, const ag_tensor *bias,
                          void *y, bool add);
void ag_cuda_conv_input_gradient(const ag_node *n, const ag_conv *c, const void *g, const ag_tensor *weight, void *dx,
                                 bool add);
void ag_cuda_conv_weight_gradient(const ag_node *n, const ag_conv *c, const void *x, const void *g, float *dw, bool add);

AG_END_DECLS
#endif
