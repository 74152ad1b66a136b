/* ops/activation.h - the activations of ag_activation over rows in the nearest cache, for ops that fuse them. */
#ifndef AG_ACTIVATION_H
#define AG_ACTIVATION_H
#include "core/op.h"
#include "ops/formulas.h"
#include "ops/ops.h"
AG_BEGIN_DECLS

/* F(name, value, derivative) of z, for rows here and for kernels in cuda/. */
#define AG_ACTIVATION_FORMULAS(F)                                                                                \
    F(GELU, GELU(z), GELU_GRAD(z))                                                                               \
    F(RELU, z > 0 ? z : R(0), z > 0 ? R(1) : R(0))                                                               \
    F(RELU6, RELU6(z), z > 0 && z < 6 ? R(1) : R(0))                                                             \
    F(HARDSWISH, HARDSWISH(z), HARDSWISH_GRAD(z))                                                                \
    F(SILU, SILU(z), SILU_GRAD(z))

/* y[i] = activation(y[i]) */
void ag_activate(ag_activation activation, int64_t n, real *y);
/* d[i] = g[i] activation'(z[i]); z: what went into it. d may be g. */
void ag_activate_grad(ag_activation activation, int64_t n, const real *z, const real *g, real *d);
/* y[i] = activation(z[i]), d[i] = g[i] activation'(z[i]): cheaper than one after the other. No two overlap. */
void ag_activate_both(ag_activation activation, int64_t n, const real *z, const real *g, real *y, real *d);
/* Whether the derivative can be told from the output: ag_activate_grad then takes y for z (ReLU, ReLU6, none). */
bool ag_activation_by_output(ag_activation activation);
/* For infer. */
void ag_node_require_activation(const ag_node *n, ag_activation activation);

AG_END_DECLS
#endif
