/* ops/attention.h - one attention, as its kernels see it. */
#ifndef AG_ATTENTION_H
#define AG_ATTENTION_H
#include "core/op.h"
AG_BEGIN_DECLS

/* [N, L, heads, D] somewhere in memory, D dense; strides in elements. */
typedef struct { void *data; ag_dtype type; int64_t batch, token, head; bool add; } ag_heads;
typedef struct { ag_heads q, k, v, out, dout, dq, dk, dv; } ag_attention_operands;
/* Added to the products: dense [batches, heads, L, S], batches and heads 1 or whole; batches 0: none. */
typedef struct { real *data; int64_t batches, heads; bool add; } ag_terms;

typedef struct {
    int64_t n, heads, l, s, d;
    ag_dtype type;                      /* of what enters products; kernels may choose f32 where q is bf16 */
    int64_t window, shift, h, w;        /* window > 0: L = window^2 pixels of images [h, w]; else tokens lie in order */
    ag_attention_operands at;
    ag_terms bias, mask, dbias;
    const real *logit_scale;            /* [heads] */
    real *dlogit_scale, *lse;           /* lse [N, heads, L]: log2 of the sums of exp */
    double scale, dropout;
    uint64_t key;
    bool cosine, add_logit_scale;       /* cosine: q and k are scaled to length 1, products multiplied by logit_scale */
} ag_attention_job;

/* The job of a node, for forward or for backward. */
ag_attention_job ag_attention_job_of(const ag_node *n, bool backward);

int64_t ag_attention_workspace(const ag_attention_job *j, bool backward);       /* bytes */
void ag_attention_run(const ag_node *n, const ag_attention_job *j);
void ag_attention_run_backward(const ag_node *n, const ag_attention_job *j);

/* ---- rows (ops/attention_rows.c) ----------------------------------------------------------------------- */

enum { AG_ATTENTION_LANES = 16, AG_ATTENTION_ROWS = 8 };
/* Queries i .. i + count of head h of sample n, at most AG_ATTENTION_ROWS: what a row waits for passes while others are
 * worked on. Rows are `wide` elements apart, a multiple of AG_ATTENTION_LANES. Scratch for so many rows: a, b, c. */
typedef struct { int64_t n, h, i, count, wide; real *a, *b, *c; } ag_attention_rows;

/* The weights in the place of the products x, in j->type; keeps the logs of their sums. */
void ag_attention_weights(const ag_attention_job *j, const ag_attention_rows *r, real *x);
/* From products x and gradients g of the weights w as dropped: x becomes w keep, g becomes scale dx, in j->type, where
 * dx = w (keep g - delta), delta = sum of w keep g. Adds dx to dbias, its product with x to dlogit_scale, unless NULL. */
void ag_attention_weights_grad(const ag_attention_job *j, const ag_attention_rows *r, const real *delta, real *x, real *g,
                               real *dbias, real *dlogit_scale);
/* to = x / |x|; returns 1 / |x|. (F.normalize) */
real ag_attention_unit(const ag_attention_job *j, const ag_attention_rows *r, ag_dtype type, const void *x, void *to);
/* The gradient g of to, as that of x: inverse (g - to (to . g)); inverse 0: no scaling took place. */
void ag_attention_unit_grad(const ag_attention_job *j, const ag_attention_rows *r, const ag_heads *d, int64_t at,
                            const real *g, const void *to, real inverse);

AG_END_DECLS
#endif
