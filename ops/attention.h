/* ops/attention.h - one attention, as its kernels see it. */
#ifndef AG_ATTENTION_H
#define AG_ATTENTION_H
#include "core/op.h"

/* [N, L, heads, D] somewhere in memory, D dense; strides in elements. */
typedef struct { void *data; ag_dtype type; int64_t batch, token, head; bool add; } ag_heads;
/* Added to the products: dense [batches, heads, L, S], batches and heads 1 or whole; batches 0: none. */
typedef struct { real *data; int64_t batches, heads; bool add; } ag_terms;

typedef struct {
    int64_t n, heads, l, s, d;
    int64_t window, shift, h, w;        /* window > 0: L = window^2 pixels of images [h, w]; else tokens lie in order */
    ag_heads q, k, v, out, dout, dq, dk, dv;
    ag_terms bias, mask, dbias;
    const real *logit_scale;            /* [heads] */
    real *dlogit_scale, *lse;           /* lse [N, heads, L]: log of the sums of exp */
    double scale, dropout;
    uint64_t key;
    bool cosine, add_logit_scale;       /* cosine: q and k are scaled to length 1, products multiplied by logit_scale */
} ag_attention_job;

int64_t ag_attention_workspace(const ag_attention_job *j, bool backward);       /* bytes */
void ag_attention_run(const ag_node *n, const ag_attention_job *j);
void ag_attention_run_backward(const ag_node *n, const ag_attention_job *j);

#endif
