/* cuda/fused.h - ops/fused.h on the GPU, and what goes with products there. */
#ifndef AG_CUDA_FUSED_H
#define AG_CUDA_FUSED_H
#include "cuda/blas.h"
#include "core/op.h"
#include "ops/ops.h"
AG_BEGIN_DECLS

/* Bytes of passing values (patches of images, hidden layers) that are made before a product takes them: with what the product
 * writes they stay in the second cache. The tests make it small. */
extern int64_t ag_cuda_chunk;

/* Behind the product, in ag_fused_target(n): out = activation(what it gave). */
void ag_cuda_fused_finish(ag_node *n, ag_activation activation);
/* y = activation(z), n elements; y may be z. */
void ag_cuda_activate(ag_activation activation, ag_dtype type, int64_t n, const void *z, void *y);
/* The gradient of what the activation took, like out: out->grad itself or workspace. */
const void *ag_cuda_fused_gradient(ag_node *n, ag_activation activation);
/* y[rows, width] += bias */
void ag_cuda_add_bias(void *y, ag_dtype type, int64_t rows, int64_t width, const float *bias);
/* to[width] = or += the sums of g[rows, width] over its rows. */
void ag_cuda_column_sums(const ag_node *n, const void *g, ag_dtype type, int64_t rows, int64_t width, float *to, bool add);
/* din[k] (+)= the sums of g, like out, over all axes but the last; nothing where din[k] is NULL. */
void ag_cuda_bias_gradient(const ag_node *n, int k, const void *g);
/* The values of a parameter (NULL: of none) as f32 or bf16. */
const void *ag_cuda_param(const ag_node *n, const ag_tensor *t, ag_dtype type);

AG_END_DECLS
#endif
