/* ops/registry.h - the names of all built-in ops; a new one is added here and nowhere else. */
#ifndef AG_REGISTRY_H
#define AG_REGISTRY_H
#include "ops/op.h"

#define AG_UNARY(name, y, dx, domain) extern const ag_op ag_op_##name;
#define AG_UNARY1 AG_UNARY
#define AG_UNARY2 AG_UNARY
#define AG_BINARY(name, y, da, db, domain) extern const ag_op ag_op_##name;
#define AG_COMPARE(name, y) extern const ag_op ag_op_##name;
#include "ops/elementwise.def"

#define AG_OTHER_OPS(OP) \
    OP(where) OP(cast) OP(cast_int) OP(contiguous) \
    OP(reshape) OP(permute) OP(expand) OP(slice) OP(select) \
    OP(sum) OP(mean) OP(max) OP(min) OP(var) OP(logsumexp) OP(argmax) \
    OP(matmul) OP(linear) OP(mse_loss) OP(l1_loss) OP(huber_loss) OP(bce_with_logits) \
    OP(softmax) OP(log_softmax) OP(cross_entropy) OP(nll_loss) OP(layer_norm) OP(batch_norm) OP(embedding) OP(one_hot) OP(dot_bias) OP(gather) OP(argsort) OP(concat) OP(pad) OP(dropout)

#define AG_DECLARE_OP(name) extern const ag_op ag_op_##name;
AG_OTHER_OPS(AG_DECLARE_OP)
#undef AG_DECLARE_OP

#endif
