/* cuda/cudnn_attention.c - attention as a graph of cuDNN's backend, which fuses it: what stands between the operations is never
 * written. The pattern of its operations is the one that cuDNN's engines look for. Letters: [N, heads, L, D] and S. */
#include <string.h>
#include "cuda/cudnn_build.h"

/* Tensors in memory, and behind them those that only pass. */
enum { ID_Q = 1, ID_K, ID_V, ID_OUT, ID_LOGS, ID_SCALE, ID_DOUT, ID_DQ, ID_DK, ID_DV, ID_SUMS, ID_ONE, ID_PASSING };
enum { MOST_OPERATIONS = 20 };

typedef struct {
    ag_dnn_builder b;
    const ag_dnn_attention *a;
    ag_dnn_desc operation[MOST_OPERATIONS];
    int count, passing;
} graph;

/* ---- tensors --------------------------------------------------------------------------------------------- */

static ag_dnn_desc rows(graph *g, int64_t id, int64_t length, ag_dnn_rows r)
{
    const int64_t sizes[4] = { g->a->n, g->a->heads, length, g->a->d }, strides[4] = { r.sample, r.head, r.token, 1 };
    return ag_dnn_tensor(&g->b, AG_DNN_MEMORY, id, AG_DNN_BF16, sizes, strides);
}

/* The same memory as [N, heads, D, length]. */
static ag_dnn_desc turned(graph *g, int64_t id, int64_t length, ag_dnn_rows r)
{
    const int64_t sizes[4] = { g->a->n, g->a->heads, g->a->d, length }, strides[4] = { r.sample, r.head, 1, r.token };
    return ag_dnn_tensor(&g->b, AG_DNN_MEMORY, id, AG_DNN_BF16, sizes, strides);
}

/* One value per row: f32 [N, heads, L, 1] */
static ag_dnn_desc per_row(graph *g, ag_dnn_kind kind, int64_t id)
{
    const int64_t sizes[4] = { g->a->n, g->a->heads, g->a->l, 1 }, strides[4] = { g->a->heads * g->a->l, g->a->l, 1, 1 };
    return ag_dnn_tensor(&g->b, kind, id, AG_DNN_F32, sizes, strides);
}

static ag_dnn_desc number(graph *g, int64_t id)
{
    const int64_t one[4] = { 1, 1, 1, 1 };
    return ag_dnn_tensor(&g->b, AG_DNN_VALUE, id, AG_DNN_F32, one, one);
}

static ag_dnn_desc passing_row(graph *g) { return per_row(g, AG_DNN_PASSING, ID_PASSING + g->passing++); }

/* Logits, weights: [N, heads, L, S] */
static ag_dnn_desc square(graph *g, int type)
{
    const int64_t l = g->a->l, s = g->a->s, sizes[4] = { g->a->n, g->a->heads, l, s };
    const int64_t strides[4] = { g->a->heads * l * s, l * s, s, 1 };
    return ag_dnn_tensor(&g->b, AG_DNN_PASSING, ID_PASSING + g->passing++, type, sizes, strides);
}

/* ---- operations ------------------------------------------------------------------------------------------ */

static void add_operation(graph *g, ag_dnn_desc d)
{
    AG_ASSERT(g->count < MOST_OPERATIONS);
    ag_dnn_finish(&g->b, d);
    g->operation[g->count++] = d;
}

/* c = a b, sums in f32 */
static ag_dnn_desc product(graph *g, ag_dnn_desc a, ag_dnn_desc b, ag_dnn_desc c)
{
    ag_dnn_desc how = ag_dnn_make(&g->b, AG_DNN_MATMUL);
    ag_dnn_set_enum(&g->b, how, AG_DNN_MATMUL_TYPE, AG_DNN_DATA_TYPE, AG_DNN_F32);
    ag_dnn_finish(&g->b, how);
    ag_dnn_desc d = ag_dnn_make(&g->b, AG_DNN_MATMUL_OF);
    ag_dnn_set_desc(&g->b, d, AG_DNN_MATMUL_A, a);
    ag_dnn_set_desc(&g->b, d, AG_DNN_MATMUL_B, b);
    ag_dnn_set_desc(&g->b, d, AG_DNN_MATMUL_C, c);
    ag_dnn_set_desc(&g->b, d, AG_DNN_MATMUL_DESC, how);
    add_operation(g, d);
    return c;
}

/* y = x op z; z NULL: of one operand */
static ag_dnn_desc pointwise(graph *g, int mode, ag_dnn_desc x, ag_dnn_desc z, ag_dnn_desc y)
{
    ag_dnn_desc how = ag_dnn_make(&g->b, AG_DNN_POINTWISE);
    ag_dnn_set_enum(&g->b, how, AG_DNN_POINTWISE_MODE_OF, AG_DNN_POINTWISE_MODE, mode);
    ag_dnn_set_enum(&g->b, how, AG_DNN_POINTWISE_TYPE, AG_DNN_DATA_TYPE, AG_DNN_F32);
    ag_dnn_finish(&g->b, how);
    ag_dnn_desc d = ag_dnn_make(&g->b, AG_DNN_POINTWISE_OF);
    ag_dnn_set_desc(&g->b, d, AG_DNN_POINTWISE_DESC, how);
    ag_dnn_set_desc(&g->b, d, AG_DNN_POINTWISE_X, x);
    if (z) ag_dnn_set_desc(&g->b, d, AG_DNN_POINTWISE_B, z);
    ag_dnn_set_desc(&g->b, d, AG_DNN_POINTWISE_Y, y);
    add_operation(g, d);
    return y;
}

/* Over the axes of which y has one. */
static ag_dnn_desc reduction(graph *g, int mode, ag_dnn_desc x, ag_dnn_desc y)
{
    ag_dnn_desc how = ag_dnn_make(&g->b, AG_DNN_REDUCTION);
    ag_dnn_set_enum(&g->b, how, AG_DNN_REDUCTION_OPERATOR, AG_DNN_REDUCTION_MODE, mode);
    ag_dnn_set_enum(&g->b, how, AG_DNN_REDUCTION_TYPE, AG_DNN_DATA_TYPE, AG_DNN_F32);
    ag_dnn_finish(&g->b, how);
    ag_dnn_desc d = ag_dnn_make(&g->b, AG_DNN_REDUCTION_OF);
    ag_dnn_set_desc(&g->b, d, AG_DNN_REDUCTION_X, x);
    ag_dnn_set_desc(&g->b, d, AG_DNN_REDUCTION_Y, y);
    ag_dnn_set_desc(&g->b, d, AG_DNN_REDUCTION_DESC, how);
    add_operation(g, d);
    return y;
}

/* y: the elements of x as they lie, with other sizes and strides */
static ag_dnn_desc reshape(graph *g, ag_dnn_desc x, const int64_t sizes[4], const int64_t strides[4])
{
    ag_dnn_desc y = ag_dnn_tensor(&g->b, AG_DNN_PASSING, ID_PASSING + g->passing++, AG_DNN_BF16, sizes, strides);
    ag_dnn_desc d = ag_dnn_make(&g->b, AG_DNN_RESHAPE_OF);
    ag_dnn_set_desc(&g->b, d, AG_DNN_RESHAPE_X, x);
    ag_dnn_set_desc(&g->b, d, AG_DNN_RESHAPE_Y, y);
    add_operation(g, d);
    return y;
}

/* x [N, heads, L, S] as [N, heads, S, L] */
static ag_dnn_desc turned_square(graph *g, ag_dnn_desc x)
{
    const int64_t l = g->a->l, s = g->a->s, sizes[4] = { g->a->n, g->a->heads, s, l };
    const int64_t strides[4] = { g->a->heads * l * s, l * s, 1, s };
    return reshape(g, x, sizes, strides);
}

/* ---- the two graphs -------------------------------------------------------------------------------------- */

/* x = scale q k'     logs = max x + log sum exp(x - max x)     out = exp(x - max x) / sum exp(x - max x) v */
static void forward(graph *g)
{
    const ag_dnn_attention *a = g->a;
    ag_dnn_desc q = rows(g, ID_Q, a->l, a->q), kt = turned(g, ID_K, a->s, a->k), v = rows(g, ID_V, a->s, a->v);
    ag_dnn_desc out = rows(g, ID_OUT, a->l, a->out), logs = per_row(g, AG_DNN_MEMORY, ID_LOGS);
    ag_dnn_desc x = product(g, q, kt, square(g, AG_DNN_F32));
    x = pointwise(g, AG_DNN_MUL, x, number(g, ID_SCALE), square(g, AG_DNN_F32));
    ag_dnn_desc most = reduction(g, AG_DNN_MAX_OF, x, passing_row(g));
    ag_dnn_desc e = pointwise(g, AG_DNN_SUB, x, most, square(g, AG_DNN_F32));
    e = pointwise(g, AG_DNN_EXP, e, NULL, square(g, AG_DNN_F32));
    ag_dnn_desc sum = reduction(g, AG_DNN_SUM_OF, e, passing_row(g));
    ag_dnn_desc log = pointwise(g, AG_DNN_LOG, sum, NULL, passing_row(g));
    pointwise(g, AG_DNN_ADD, most, log, logs);
    product(g, pointwise(g, AG_DNN_DIV, e, sum, square(g, AG_DNN_BF16)), v, out);
}

/* w = exp(scale q k' - logs)     dv = w' dout     dx = scale w (dout v' - sums of dout out)     dk = dx' q     dq = dx k */
static void backward(graph *g)
{
    const ag_dnn_attention *a = g->a;
    ag_dnn_desc q = rows(g, ID_Q, a->l, a->q), kt = turned(g, ID_K, a->s, a->k), vt = turned(g, ID_V, a->s, a->v);
    ag_dnn_desc out = rows(g, ID_OUT, a->l, a->out), dout = rows(g, ID_DOUT, a->l, a->dout);
    ag_dnn_desc logs = per_row(g, AG_DNN_MEMORY, ID_LOGS), sums = per_row(g, AG_DNN_MEMORY, ID_SUMS), scale = number(g, ID_SCALE);
    const int64_t wide[4] = { a->n, a->heads, a->l, a->d };
    const int64_t dense[4] = { a->l * a->heads * a->d, a->d, a->heads * a->d, 1 };
    ag_dnn_desc both = ag_dnn_tensor(&g->b, AG_DNN_PASSING, ID_PASSING + g->passing++, AG_DNN_F32, wide, dense);
    pointwise(g, AG_DNN_MUL, dout, out, both);
    ag_dnn_desc of_row = reduction(g, AG_DNN_SUM_OF, both, passing_row(g));
    pointwise(g, AG_DNN_MUL, of_row, number(g, ID_ONE), sums);
    ag_dnn_desc x = product(g, q, kt, square(g, AG_DNN_F32));
    x = pointwise(g, AG_DNN_MUL, x, scale, square(g, AG_DNN_F32));
    x = pointwise(g, AG_DNN_SUB, x, logs, square(g, AG_DNN_F32));
    ag_dnn_desc w = pointwise(g, AG_DNN_EXP, x, NULL, square(g, AG_DNN_F32));
    product(g, turned_square(g, w), dout, rows(g, ID_DV, a->s, a->dv));
    ag_dnn_desc dw = product(g, dout, vt, square(g, AG_DNN_F32));
    ag_dnn_desc dx = pointwise(g, AG_DNN_SUB, dw, sums, square(g, AG_DNN_F32));
    dx = pointwise(g, AG_DNN_MUL, dx, w, square(g, AG_DNN_F32));
    dx = pointwise(g, AG_DNN_MUL, dx, scale, square(g, AG_DNN_BF16));
    product(g, turned_square(g, dx), q, rows(g, ID_DK, a->s, a->dk));
    const int64_t sizes[4] = { a->n, a->heads, a->s, a->d }, strides[4] = { a->k.sample, a->k.head, a->k.token, 1 };
    product(g, dx, reshape(g, kt, sizes, strides), rows(g, ID_DQ, a->l, a->dq));
}

int ag_dnn_attention_plan(const ag_dnn_functions *f, ag_dnn_place place, const ag_dnn_attention *a, int64_t most_workspace,
                          ag_dnn_plan *plan)
{
    memset(plan, 0, sizeof *plan);
    graph g = { .b = { f, plan, 0 }, .a = a };
    if (a->backward) backward(&g);
    else forward(&g);
    ag_dnn_desc d = ag_dnn_graph(&g.b, place, g.operation, g.count);
    return ag_dnn_choose(&g.b, place, d, true, most_workspace);
}

int ag_dnn_attention_run(const ag_dnn_functions *f, ag_dnn_handle h, const ag_dnn_attention *a, const ag_dnn_plan *plan,
                         const ag_dnn_operands *at, void *workspace)
{
    static const float one = 1;
    const int64_t ids[] = { ID_Q, ID_K, ID_V, ID_OUT, ID_LOGS, ID_SCALE, ID_DOUT, ID_DQ, ID_DK, ID_DV, ID_SUMS, ID_ONE };
    const void *const pointers[] = { at->q, at->k, at->v, at->out, at->logs, &at->scale, at->dout, at->dq, at->dk, at->dv,
                                     at->sums, &one };
    enum { OF_FORWARD = 6, OF_BACKWARD = 12 };
    return ag_dnn_execute(f, h, plan, a->backward ? OF_BACKWARD : OF_FORWARD, ids, pointers, workspace);
}
