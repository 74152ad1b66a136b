/* ops/mlp.h - the operands and argument of mlp and mlp_residual. */
#ifndef AG_MLP_H
#define AG_MLP_H
#include "ops/ops.h"

enum {
    AG_MLP_X, AG_MLP_W1, AG_MLP_B1, AG_MLP_W2, AG_MLP_B2, AG_MLP_INPUTS,
    AG_MLP_RESIDUAL = AG_MLP_INPUTS, AG_MLP_SCALE, AG_MLP_TAIL_INPUTS       /* of mlp_residual */
};
typedef struct { ag_activation activation; double drop_path; uint64_t key; } ag_mlp_arg;

#endif
