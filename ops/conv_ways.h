/* ops/conv_ways.h - the ways to do the products of ops/conv.h; ops/conv_kernel.c chooses. */
#ifndef AG_CONV_WAYS_H
#define AG_CONV_WAYS_H
#include "ops/conv.h"

/* As products of patches. (ops/conv_patches.c) */
void ag_patches_forward(const ag_node *n, const ag_conv *c, const void *x, const ag_tensor *weight, const ag_tensor *bias,
                        ag_activation activation, void *y);
void ag_patches_input_gradient(const ag_node *n, const ag_conv *c, const void *g, const ag_tensor *weight, void *dx, bool add);
void ag_patches_weight_gradient(const ag_node *n, const ag_conv *c, const void *x, const void *g, real *dw, bool add);
void ag_patches_prepare(const ag_node *n, const ag_conv *c, const ag_tensor *weight, bool back);
int64_t ag_patches_forward_workspace(const ag_conv *c);
int64_t ag_patches_input_workspace(const ag_conv *c);
int64_t ag_patches_weight_workspace(const ag_conv *c);

#endif
