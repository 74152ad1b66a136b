/* ops/args.h - what an op hands to its kernels besides tensors (ag_node.arg), where those of the CPU and of cuda/ read it. */
#ifndef AG_ARGS_H
#define AG_ARGS_H
#include "ops/ops.h"

typedef struct { ag_reduction reduction; double smoothing; bool logits; } ag_entropy_arg;      /* not logits: nll_loss */
typedef struct { ag_reduction reduction; double gamma; } ag_focal_arg;
typedef struct { double momentum, eps; bool training; ag_activation activation; } ag_batch_arg;
typedef struct { int64_t groups; double eps; } ag_group_arg;
typedef struct { double p; uint64_t key; } ag_drop_arg;                 /* of dropout and of residual */
typedef struct { double lo, hi; } ag_range_arg;                         /* lo < hi: ag_sigmoid_range; else there is none */
typedef struct { int64_t keep; bool descending; } ag_order_arg;         /* keep: how many along the last axis, -1: all */

#define AG_GRN_TINY 1e-6             /* what grn divides by is at least this */

#endif
