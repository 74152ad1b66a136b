#include "ops/activation.h"
#include <string.h>

#define ROWS(id, value, derivative)                                                                              \
    static void id##_row(int64_t n, real *y)                                                                     \
    {                                                                                                            \
        _Pragma("omp simd")                                                                                      \
        for (int64_t i = 0; i < n; i++) { const real z = y[i]; y[i] = (value); }                                 \
    }                                                                                                            \
    static void id##_grad_row(int64_t n, const real *zs, const real *g, real *d)                                 \
    {                                                                                                            \
        _Pragma("omp simd")                                                                                      \
        for (int64_t i = 0; i < n; i++) { const real z = zs[i]; d[i] = g[i] * (derivative); }                    \
    }                                                                                                            \
    static void id##_both_row(int64_t n, const real *zs, const real *g, real *y, real *d)                        \
    {                                                                                                            \
        _Pragma("omp simd")                                                                                      \
        for (int64_t i = 0; i < n; i++) { const real z = zs[i]; d[i] = g[i] * (derivative); y[i] = (value); }    \
    }
AG_ACTIVATION_FORMULAS(ROWS)

typedef struct {
    void (*row)(int64_t n, real *y), (*grad)(int64_t n, const real *z, const real *g, real *d);
    void (*both)(int64_t n, const real *z, const real *g, real *y, real *d);
} loops;
#define LOOPS(id, value, derivative) [AG_LINEAR_##id] = { id##_row, id##_grad_row, id##_both_row },
static const loops table[AG_ACTIVATIONS] = { AG_ACTIVATION_FORMULAS(LOOPS) };

void ag_activate(ag_activation activation, int64_t n, real *y)
{
    if (activation) table[activation].row(n, y);
}

void ag_activate_grad(ag_activation activation, int64_t n, const real *z, const real *g, real *d)
{
    if (activation) table[activation].grad(n, z, g, d);
    else if (d != g) memcpy(d, g, (size_t)n * sizeof *d);
}

void ag_activate_both(ag_activation activation, int64_t n, const real *z, const real *g, real *y, real *d)
{
    if (activation) table[activation].both(n, z, g, y, d);
    else memcpy(y, z, (size_t)n * sizeof *y), memcpy(d, g, (size_t)n * sizeof *d);
}

bool ag_activation_by_output(ag_activation activation)
{
    return activation == AG_LINEAR_PLAIN || activation == AG_LINEAR_RELU || activation == AG_LINEAR_RELU6;
}

void ag_node_require_activation(const ag_node *n, ag_activation activation)
{
    AG_REQUIRE(n, (unsigned)activation < AG_ACTIVATIONS, ".activation = %d is none of ag_activation", (int)activation);
}
