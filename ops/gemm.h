/* ops/gemm.h - matrix products of strided memory: oneDNN where it is there, portable C otherwise and for small ones. */
#ifndef AG_GEMM_H
#define AG_GEMM_H
#include "ops/ops.h"

/* c[b,i,j] (+)= activation(sum_k a[b,i,k] b[b,k,j] + bias[j]); strides in elements, c's columns are dense. */
typedef struct {
    int64_t batch, n, m, k;
    const real *a, *b, *bias;
    real *c;
    int64_t a_batch, a_row, a_col, b_batch, b_row, b_col, c_batch, c_row;
    bool add;
    ag_activation activation;
} ag_gemm;

/* Chooses. Never fails: what oneDNN does not take goes the portable way. */
void ag_gemm_run(const ag_gemm *g);
void ag_gemm_portable(const ag_gemm *g);
/* False, having done nothing, where it cannot: no oneDNN in this build, double precision, strides it has no kernel for. */
bool ag_gemm_onednn(const ag_gemm *g);

#endif
