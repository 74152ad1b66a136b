/* ops/reduce.h - what the reductions share (ops/reduce.c, ops/sum.c). */
#ifndef AG_REDUCE_H
#define AG_REDUCE_H
#include "core/op.h"
#include "ops/ops.h"

typedef struct { ag_reduce_opts opts; } ag_reduce_arg;
/* The input as [outer, reduced, inner]; moved: once its axes were permuted into `order` by a copy. */
typedef struct { int64_t outer, reduced, inner; uint32_t axes; bool moved; ag_shape order; } ag_reduce_layout;

void ag_reduce_infer(ag_node *n);
void ag_reduce_require_elements(ag_node *n);
ag_reduce_layout ag_reduce_layout_of(const ag_node *n);
const void *ag_reduce_values(const ag_node *n, const ag_reduce_layout *l);
/* Where the gradient is to be written in layout order; ag_reduce_hand_over brings it into din's order. */
ag_tensor *ag_reduce_gradient(const ag_node *n, const ag_reduce_layout *l);
void ag_reduce_hand_over(ag_node *n, const ag_reduce_layout *l, ag_tensor *g);

/* The op, its public function and its checks, from the functions id_forward and backward_fn. */
#define AG_REDUCTION_OP(id, image, infer_fn, backward_fn, ...)                                                      \
    static ag_tensor *id##_all(ag_tensor **in) { return ag_##id(in[0]); }                                        \
    static ag_tensor *id##_last(ag_tensor **in) { return ag_##id(in[0], .axes = AG_AXES(-1)); }                  \
    static ag_tensor *id##_first(ag_tensor **in) { return ag_##id(in[0], .axes = AG_AXES(0), .keepdim = true); } \
    static ag_tensor *id##_outer(ag_tensor **in) { return ag_##id(in[0], .axes = AG_AXES(0, -1)); }              \
    static ag_tensor *id##_pixels(ag_tensor **in) { return ag_##id(in[0], .axes = AG_AXES(1, 2)); }              \
    const ag_op ag_op_##id = {                                                                                   \
        .name = #id, .inputs = "x", .infer = infer_fn, .unread_cuda = true, __VA_ARGS__                          \
        .forward = { id##_forward, AG_CUDA_FN(ag_##id##_forward_cuda) },                                         \
        .backward = { backward_fn, AG_CUDA_FN(ag_##id##_backward_cuda) },                                        \
        .check = { { "x[3,37]", id##_all }, { "x[2,3,5]", id##_last }, { "x[3,2,70]", id##_first },              \
                   { "x[3,4,5]", id##_outer }, { image, id##_pixels } },                                  \
    };                                                                                                           \
    ag_tensor *ag_##id##_(const char *at, ag_tensor *x, ag_reduce_opts opts)                                     \
    {                                                                                                            \
        return ag_apply_(at, &ag_op_##id, 1, &x, &(ag_reduce_arg){ opts }, sizeof(ag_reduce_arg));               \
    }

#endif
