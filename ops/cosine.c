/* ops/cosine.c - cosine similarity: a . b / (max(|a|, eps) max(|b|, eps)), composed. */
#include "ops/ops.h"

static ag_tensor *length(const char *at, ag_tensor *x, uint32_t axes)
{
    const double tiny = 1e-16;                      /* eps^2, eps = 1e-8 */
    ag_tensor *square = ag_sum_(at, ag_square_(at, x), (ag_reduce_opts){ .axes = axes });
    return ag_sqrt_(at, ag_clamp_(at, square, tiny, 1e300));
}

ag_tensor *ag_cosine_similarity_(const char *at, ag_tensor *a, ag_tensor *b, int axis)
{
    const uint32_t axes = ag_axes_((ag_axis_list){ 1, { axis } });
    ag_tensor *dot = ag_sum_(at, ag_mul_(at, a, b), (ag_reduce_opts){ .axes = axes });
    return ag_div_(at, dot, ag_mul_(at, length(at, a, axes), length(at, b, axes)));
}
