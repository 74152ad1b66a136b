/* ops/registry.h - the names of all built-in ops; a new one is added here and nowhere else. */
#ifndef AG_REGISTRY_H
#define AG_REGISTRY_H
#include "core/op.h"
AG_BEGIN_DECLS

/* The op, and its kernels in cuda/ where it has some (AG_CUDA_FN). */
#define AG_DECLARE_OP(name) \
    extern const ag_op ag_op_##name; \
    void ag_##name##_forward_cuda(ag_node *n); \
    void ag_##name##_backward_cuda(ag_node *n);

#define AG_UNARY(name, y, dx, domain) AG_DECLARE_OP(name)
#define AG_UNARY1 AG_UNARY
#define AG_UNARY2 AG_UNARY
#define AG_BINARY(name, y, da, db, domain) AG_DECLARE_OP(name)
#define AG_COMPARE(name, y) AG_DECLARE_OP(name)
#include "ops/elementwise.def"

#define AG_OTHER_OPS(OP) \
    OP(where) OP(cast) OP(cast_int) OP(contiguous) \
    OP(reshape) OP(permute) OP(expand) OP(slice) OP(select) \
    OP(sum) OP(mean) OP(max) OP(min) OP(var) OP(logsumexp) OP(argmax) \
    OP(matmul) OP(linear) OP(mse_loss) OP(l1_loss) OP(huber_loss) OP(bce_with_logits) \
    OP(softmax) OP(log_softmax) OP(cross_entropy) OP(nll_loss) OP(focal_loss) OP(layer_norm) OP(batch_norm) \
    OP(group_norm) OP(grn) OP(residual) \
    OP(embedding) OP(one_hot) OP(dot_bias) OP(gather) OP(argsort) OP(concat) OP(pad) OP(dropout) \
    OP(conv2d) OP(conv_transpose2d) OP(conv_depthwise) \
    OP(max_pool2d) OP(avg_pool2d) OP(interpolate) OP(grid_sample) OP(mixup) OP(cutmix) \
    OP(relative_position_bias) \
    OP(window_partition) OP(window_reverse) OP(roll) OP(attention) OP(attention_qkv) OP(mlp) OP(mlp_residual)

AG_OTHER_OPS(AG_DECLARE_OP)
#undef AG_DECLARE_OP

AG_END_DECLS
#endif
