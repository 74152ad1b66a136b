/* ops/gemm.h - matrix products of strided memory: oneDNN where it is there, portable C otherwise and for small ones. */
#ifndef AG_GEMM_H
#define AG_GEMM_H
#include "core/op.h"
#include "ops/ops.h"

/* c[b,i,j] (+)= activation(sum_k a[b,i,k] b[b,k,j] + bias[j]); strides in elements, c's columns are dense. Each operand is
 * f32 or bf16; the sums are taken in real. */
typedef struct {
    int64_t batch, n, m, k;
    const void *a, *b;
    void *c;
    const real *bias;
    ag_dtype a_type, b_type, c_type;
    int64_t a_batch, a_row, a_col, b_batch, b_row, b_col, c_batch, c_row;
    bool add;
    ag_activation activation;
    const ag_tensor *b_param;       /* b lies in this f32 parameter: where a is bf16 ag_gemm_prepare makes a copy as bf16 */
    uint64_t b_form;                /* not 0: b is not in the parameter itself but in this form of it (ag_packed's key) */
    const void *packed;             /* the copy in oneDNN's layout */
} ag_gemm;

/* Over the team, or, in a body of ag_parallel, on the calling thread. Chooses; never fails: what oneDNN does not take goes
 * the portable way. */
void ag_gemm_run(const ag_gemm *g);
/* With b_param, before ag_gemm_run or the ag_parallel around it: finds or makes the copy, without which a bf16 `a` is slow.
 * n: the node that is run. */
void ag_gemm_prepare(const ag_node *n, ag_gemm *g);

void ag_gemm_portable(const ag_gemm *g);
/* On the calling thread. False, having done nothing, where it cannot: no oneDNN in this build, double precision, strides
 * or dtypes it has no kernel for. */
bool ag_gemm_onednn(const ag_gemm *g);
/* The packed form of b: its bytes (0: there is none), and making it from b in g->packed, a panel of columns at a time (as wide
 * as every layout's blocks fit into). Products with it take a and c that are dense as a whole. */
enum { AG_GEMM_PANEL = 192 };
int64_t ag_gemm_packed_bytes(const ag_gemm *g);
bool ag_gemm_pack(const ag_gemm *g, int64_t panel);

/* p + i elements */
static inline void *ag_element(const void *p, ag_dtype type, int64_t i)
{
    return (char *)(uintptr_t)p + i * (int64_t)(type == AG_BF16 ? sizeof(uint16_t) : sizeof(real));
}

#endif
