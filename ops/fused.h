/* ops/fused.h - what linear and the convolutions do around their products: the activation behind them, the gradient of the
 * bias. Convention: where something trains and the activation's derivative cannot be told from its output, saved[0] (like
 * out) holds what it takes. */
#ifndef AG_FUSED_H
#define AG_FUSED_H
#include "core/op.h"
#include "ops/ops.h"
AG_BEGIN_DECLS

/* For infer, after ag_node_out. */
void ag_fused_infer(ag_node *n, ag_activation activation);
/* For forward: where the product goes, the activation to fuse with it, and, behind it, what remains to be done. */
void *ag_fused_target(const ag_node *n);
ag_activation ag_fused_activation(const ag_node *n, ag_activation activation);
void ag_fused_finish(ag_node *n, ag_activation activation);
/* For backward: the gradient of what the activation took, like out: out->grad itself or workspace. */
const void *ag_fused_gradient(ag_node *n, ag_activation activation);
/* din[k] (+)= the sums of g, like out, over all axes but the last; nothing where din[k] is NULL. */
void ag_fused_bias_gradient(ag_node *n, int k, const void *g);
/* The workspace of the two. */
int64_t ag_fused_workspace(const ag_node *n, ag_activation activation);

AG_END_DECLS
#endif
