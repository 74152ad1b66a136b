/* ops/binary.c - the binary rows of elementwise.def as ops for the CPU, broadcast as NumPy does.
 *
 * Operands are walked row by row (ops/rows.h), with the four ways a row can lie spelled out so that each becomes vector
 * code; rows, and chunks of long ones, are spread over the threads. */
#include "core/bf16.h"
#include "core/thread.h"
#include "ops/formulas.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/rows.h"
#include "ops/tiles.h"

enum { A, B, CHUNK = AG_TILE_COLUMNS };
enum { GRAIN = 4096, MOST_COPIES = 16 };
static const double cost_ns = 0.5;

typedef void (*value_row)(int64_t n, real *y, const real *a, int64_t sa, const real *b, int64_t sb);
typedef struct { const real *y, *g, *a, *b; int64_t sa, sb; } operands;
typedef struct { void (*row)(int64_t n, operands o, real *d); const char *formula; } gradient;  /* it names what is read */

static void binary_infer(ag_node *n, const gradient of[2])
{
    ag_node_require_real(n, n->in[A], "a");
    ag_node_require_real(n, n->in[B], "b");
    ag_node_out(n, n->in[A]->dtype, ag_node_broadcast(n, n->in[A], n->in[B]));
    n->unread = 1u << A | 1u << B, n->unread_out = true;
    for (int k = 0; k < 2; k++) {
        if (!n->in[k]->requires_grad) continue;
        if (strchr(of[k].formula, 'a')) n->unread &= ~(1u << A);
        if (strchr(of[k].formula, 'b')) n->unread &= ~(1u << B);
        if (strchr(of[k].formula, 'y')) n->unread_out = false;
    }
}

/* n elements with a step, as reals; a bf16 row is converted into buf. */
static const real *load(const void *p, ag_dtype t, int64_t at, int64_t *step, int64_t n, real *buf)
{
    if (t != AG_BF16 || *step == 1) return ag_widen(p, t, at, n, buf);
    const int64_t count = *step ? n : 1;
    for (int64_t i = 0; i < count; i++) buf[i] = ag_bf16_to_real(((const uint16_t *)p)[at + i * *step]);
    *step = *step != 0;
    return buf;
}

/* ---- values -------------------------------------------------------------------------------------------- */

typedef struct {
    value_row row;
    void *y;
    const void *a, *b;
    ag_dtype dtype;
    ag_rows_walk walk;
    int64_t chunks;
} value_job;

static void value_chunk(const value_job *j, const ag_rows_walk *w, int64_t first, int64_t n)
{
    real a_buf[CHUNK], b_buf[CHUNK], y_buf[CHUNK], *y = ag_narrow_to(j->y, j->dtype, w->offset[0] + first, y_buf);
    int64_t sa = w->step[1], sb = w->step[2];
    const real *a = load(j->a, j->dtype, w->offset[1] + first * sa, &sa, n, a_buf);
    const real *b = load(j->b, j->dtype, w->offset[2] + first * sb, &sb, n, b_buf);
    j->row(n, y, a, sa, b, sb);
    ag_narrow(j->y, j->dtype, w->offset[0] + first, n, y);
}

/* begin .. end: chunks of rows */
static void value_chunks(int64_t begin, int64_t end, void *arg)
{
    const value_job *j = arg;
    ag_rows_walk w = j->walk;
    ag_rows_seek(&w, begin / j->chunks);
    for (int64_t i = begin; i < end; i++) {
        const int64_t first = i % j->chunks * CHUNK, n = w.n - first < CHUNK ? w.n - first : CHUNK;
        value_chunk(j, &w, first, n);
        if (first + n == w.n) ag_rows_next(&w);
    }
}

static bool dense_like(const ag_tensor *t, const ag_tensor *out)
{
    return ag_same_shape(t, out) && ag_is_contiguous(t);
}

static void dense_values(int64_t begin, int64_t end, void *arg)
{
    const value_job *j = arg;
    j->row(end - begin, (real *)j->y + begin, (const real *)j->a + begin, 1, (const real *)j->b + begin, 1);
}

static void binary_forward(ag_node *n, value_row row)
{
    const ag_tensor *a = n->in[A], *b = n->in[B];
    value_job j = { .row = row, .y = n->out->data, .a = a->data, .b = b->data, .dtype = n->out->dtype };
    if (j.dtype == AG_F32 && dense_like(a, n->out) && dense_like(b, n->out)) {
        ag_parallel(ag_numel(n->out), GRAIN, cost_ns, dense_values, &j);
        return;
    }
    j.walk = ag_rows_begin(ag_shape_of(n->out), 3, (const ag_tensor *const[]){ n->out, a, b });
    j.chunks = (j.walk.n + CHUNK - 1) / CHUNK;
    const double cost = 5 + cost_ns * (double)j.walk.n / (double)j.chunks;
    ag_parallel(j.walk.count * j.chunks, 1, cost, value_chunks, &j);
}

/* ---- gradients ----------------------------------------------------------------------------------------- */

typedef struct {
    const gradient *of;                 /* of a, of b */
    const void *y, *g, *a, *b;
    ag_dtype dtype;
    ag_rows_walk walk;                  /* out, a, b, and the gradient that is summed */
    int64_t chunks;
    uint8_t reads[2];                   /* bits of what the formulas name */
    bool is_g[2];
    void *d[2];                         /* those that are not summed, like out */
    bool add[2];
    int k;                              /* the operand whose gradient is summed */
    real *sums;                         /* [copies, size] */
    int64_t size, copies, units;
} grad_job;

enum { Y_BUF, G_BUF, A_BUF, B_BUF, BUFS };

/* Of the elements first .. first + n of a row, in d unless it is g itself. What the formula does not name is not
 * read. */
static const real *grad_chunk(const grad_job *j, int k, const int64_t *offset, int64_t first, int64_t n, real *d)
{
    real buf[BUFS][CHUNK];
    const int64_t *step = j->walk.step;
    const uint8_t reads = j->reads[k];
    operands o = { buf[Y_BUF], buf[G_BUF], buf[A_BUF], buf[B_BUF], step[1], step[2] };
    if (j->is_g[k]) return ag_widen(j->g, j->dtype, offset[0] + first, n, d);
    if (reads >> Y_BUF & 1) o.y = ag_widen(j->y, j->dtype, offset[0] + first, n, buf[Y_BUF]);
    if (reads >> G_BUF & 1) o.g = ag_widen(j->g, j->dtype, offset[0] + first, n, buf[G_BUF]);
    if (reads >> A_BUF & 1) o.a = load(j->a, j->dtype, offset[1] + first * step[1], &o.sa, n, buf[A_BUF]);
    else o.sa = 1;
    if (reads >> B_BUF & 1) o.b = load(j->b, j->dtype, offset[2] + first * step[2], &o.sb, n, buf[B_BUF]);
    else o.sb = 1;
    j->of[k].row(n, o, d);
    return d;
}

static bool is_g(const gradient *of) { return !strcmp(of->formula, "g"); }

static grad_job job_of(const ag_node *n, const gradient of[2], const ag_tensor *d)
{
    const ag_tensor *g = n->out->grad;
    grad_job j = { .of = of, .y = n->out->data, .g = g ? g->data : NULL, .a = n->in[A]->data, .b = n->in[B]->data,
                   .dtype = n->out->dtype };
    j.walk = ag_rows_begin(ag_shape_of(n->out), d ? 4 : 3, (const ag_tensor *const[]){ n->out, n->in[A], n->in[B], d });
    j.chunks = (j.walk.n + CHUNK - 1) / CHUNK;
    for (int k = 0; k < 2 && of; k++) {
        for (int i = 0; i < BUFS; i++) j.reads[k] |= (strchr(of[k].formula, "ygab"[i]) != NULL) << i;
        j.is_g[k] = is_g(&of[k]);
    }
    return j;
}

static double chunk_cost(const grad_job *j)
{
    return 10 + 2 * cost_ns * (double)j->walk.n / (double)j->chunks;
}

/* ---- of operands with the shape of the output: both in one pass */

static void like_chunks(int64_t begin, int64_t end, void *arg)
{
    const grad_job *j = arg;
    real v[CHUNK], d_buf[CHUNK];
    ag_rows_walk w = j->walk;
    ag_rows_seek(&w, begin / j->chunks);
    for (int64_t i = begin; i < end; i++) {
        const int64_t first = i % j->chunks * CHUNK, n = w.n - first < CHUNK ? w.n - first : CHUNK;
        const int64_t at = w.offset[0] + first;
        for (int k = 0; k < 2; k++) {
            if (!j->d[k]) continue;
            real *d = ag_narrow_grad(j->d[k], j->dtype, at, n, d_buf, j->add[k]);
            const real *from = grad_chunk(j, k, w.offset, first, n, j->add[k] ? v : d);
            for (int64_t e = 0; j->add[k] && e < n; e++) d[e] += from[e];
            ag_narrow(j->d[k], j->dtype, at, n, d);
        }
        if (first + n == w.n) ag_rows_next(&w);
    }
}

/* ---- of operands that were repeated: sums over the axes along which they were */

/* Sums over the middle axis of [groups, rows, width], or the first of [rows, width]. */
static bool sums_over_rows(const ag_rows_walk *w)
{
    return (w->ndim == 2 || (w->ndim == 3 && w->stride[3][0])) && !w->stride[3][w->ndim - 2] && w->step[3];
}

static void sum_tile(ag_tile t, real *sums, const void *arg)
{
    const grad_job *j = arg;
    const ag_rows_walk *w = &j->walk;
    const int64_t rows = w->shape[w->ndim - 2];
    real v[CHUNK];
    for (int64_t r = t.row; r < t.end; r++) {
        int64_t offset[3];
        for (int k = 0; k < 3; k++)
            offset[k] = r % rows * w->stride[k][w->ndim - 2] + (w->ndim == 3 ? r / rows * w->stride[k][0] : 0);
        const real *from = grad_chunk(j, j->k, offset, t.column, t.n, v);
        for (int64_t i = 0; i < t.n; i++) sums[i] += from[i];
    }
}

static ag_tiles tiles_of(const grad_job *j)
{
    const ag_rows_walk *w = &j->walk;
    return (ag_tiles){ .groups = w->ndim == 3 ? w->shape[0] : 1, .rows = w->shape[w->ndim - 2], .width = w->n,
                       .sums = 1, .cost = (double)j->chunks * chunk_cost(j), .tile = sum_tile, .arg = j };
}

static int64_t tiles_workspace(const grad_job *j)
{
    const ag_tiles t = tiles_of(j);
    return ag_tiles_workspace(&t);
}

/* Any other way: the chunks are shared out in units. Where the outermost axis is one of d's, a unit is an index of it
 * and writes where no other does; else each unit has its own copy of d. */
static void set_units(grad_job *j, const ag_tensor *d, int64_t total)
{
    const bool apart = j->walk.ndim > 1 && j->walk.stride[3][0];
    const int64_t worth = total / (16 * (j->size = ag_numel(d)));
    j->copies = apart || worth < 1 ? 1 : worth < MOST_COPIES ? worth : MOST_COPIES;
    j->units = apart ? j->walk.shape[0] : j->copies;
}

static void sum_units(int64_t begin, int64_t end, void *arg)
{
    const grad_job *j = arg;
    const int64_t chunks = j->walk.count * j->chunks;
    real v[CHUNK];
    ag_rows_walk w = j->walk;
    for (int64_t u = begin; u < end; u++) {
        real *sums = j->sums + (j->copies > 1 ? u : 0) * j->size;
        ag_rows_seek(&w, chunks * u / j->units / j->chunks);
        for (int64_t i = chunks * u / j->units; i < chunks * (u + 1) / j->units; i++) {
            const int64_t first = i % j->chunks * CHUNK, n = w.n - first < CHUNK ? w.n - first : CHUNK;
            const int64_t step = w.step[3];
            real *to = sums + w.offset[3] + first * step, sum = 0;
            const real *from = grad_chunk(j, j->k, w.offset, first, n, v);
            if (step) for (int64_t e = 0; e < n; e++) to[e * step] += from[e];
            else {
#pragma omp simd reduction(+ : sum)
                for (int64_t e = 0; e < n; e++) sum += from[e];
                *to += sum;
            }
            if (first + n == w.n) ag_rows_next(&w);
        }
    }
}

static void summed_gradient(ag_node *n, const gradient of[2], int k)
{
    ag_tensor *d = n->din[k];
    grad_job j = job_of(n, of, d);
    j.k = k;
    if (sums_over_rows(&j.walk)) {
        const ag_tiles t = tiles_of(&j);
        const double *sums = ag_tiles_run(n, &t);
        for (int64_t i = 0; i < ag_numel(d); i++) ag_put(d->data, d->dtype, i, n->accumulate[k], (real)sums[i]);
        return;
    }
    set_units(&j, d, ag_numel(n->out));
    j.sums = ag_workspace(n, j.copies * j.size, sizeof *j.sums);
    memset(j.sums, 0, (size_t)(j.copies * j.size) * sizeof *j.sums);
    ag_parallel(j.units, 1, chunk_cost(&j) * (double)(j.walk.count * j.chunks) / (double)j.units, sum_units, &j);
    for (int64_t i = 0; i < j.size; i++) {
        double sum = 0;
        for (int64_t c = 0; c < j.copies; c++) sum += (double)j.sums[c * j.size + i];
        ag_put(d->data, d->dtype, i, n->accumulate[k], (real)sum);
    }
}

/* Where a gradient is g itself, it is given without a copy. */
static void binary_give(ag_node *n, const gradient of[2])
{
    for (int k = 0; k < 2; k++)
        if (n->din[k] && is_g(&of[k]) && ag_same_shape(n->in[k], n->out)) ag_node_give(n, k, n->out->grad);
}

static void binary_backward(ag_node *n, const gradient of[2])
{
    grad_job j = job_of(n, of, NULL);
    for (int k = 0; k < 2; k++) {
        if (!n->din[k]) continue;
        if (!ag_same_shape(n->in[k], n->out)) summed_gradient(n, of, k);
        else if (!is_g(&of[k])) j.d[k] = n->din[k]->data, j.add[k] = n->accumulate[k];
    }
    if (j.d[A] || j.d[B]) ag_parallel(j.walk.count * j.chunks, 1, chunk_cost(&j), like_chunks, &j);
    binary_give(n, of);
}

static int64_t binary_workspace(const ag_node *n, bool backward)
{
    int64_t bytes = 0;
    for (int k = 0; k < 2 && backward && ag_numel(n->out); k++) {
        ag_tensor dense = *n->in[k];
        for (int64_t i = dense.ndim - 1, step = 1; i >= 0; step *= dense.shape[i--]) dense.stride[i] = step;
        if (!n->in[k]->requires_grad || ag_same_shape(&dense, n->out)) continue;
        grad_job j = job_of(n, NULL, &dense);
        set_units(&j, &dense, ag_numel(n->out));
        bytes += sums_over_rows(&j.walk) ? tiles_workspace(&j) : j.copies * j.size * (int64_t)sizeof(real);
    }
    return bytes;
}

/* ---- the ops ------------------------------------------------------------------------------------------- */

/* The row loop for strides 0 and 1 as constants, and for any. F: a function of the values. */
#define FOR_STRIDES(sa, sb, LOOP, F)                                                                             \
    if (sa == 1 && sb == 1) LOOP(1, 1, F)                                                                        \
    else if (sa == 1 && sb == 0) LOOP(1, 0, F)                                                                   \
    else if (sa == 0 && sb == 1) LOOP(0, 1, F)                                                                   \
    else LOOP(sa, sb, F)

#define VALUE_LOOP(SA, SB, F) for (int64_t i = 0; i < n; i++) y[i] = F(a[i * (SA)], b[i * (SB)]);
#define GRAD_LOOP(SA, SB, F) for (int64_t i = 0; i < n; i++) d[i] = F(o.a[i * (SA)], o.b[i * (SB)], o.y[i], o.g[i]);

#define GRAD_ROW(name, formula)                                                                                  \
    static inline real name(real a, real b, real y, real g) { return (void)a, (void)b, (void)y, (formula); }     \
    static void name##_row(int64_t n, operands o, real *restrict d) { FOR_STRIDES(o.sa, o.sb, GRAD_LOOP, name) }

#define AG_BINARY(id, formula, grad_a, grad_b, domain)                                                           \
    static inline real id##_value(real a, real b) { return (formula); }                                          \
    static void id##_row(int64_t n, real *restrict y, const real *a, int64_t sa, const real *b, int64_t sb)      \
    {                                                                                                            \
        FOR_STRIDES(sa, sb, VALUE_LOOP, id##_value)                                                              \
    }                                                                                                            \
    GRAD_ROW(id##_da, grad_a)                                                                                    \
    GRAD_ROW(id##_db, grad_b)                                                                                    \
    static const gradient id##_gradients[] = { { id##_da_row, #grad_a }, { id##_db_row, #grad_b } };             \
    static void id##_infer(ag_node *n) { binary_infer(n, id##_gradients); }                                      \
    static void id##_forward(ag_node *n) { binary_forward(n, id##_row); }                                        \
    static void id##_backward(ag_node *n) { binary_backward(n, id##_gradients); }                                \
    static void id##_give(ag_node *n) { binary_give(n, id##_gradients); }                                        \
    static ag_tensor *id##_check(ag_tensor **in) { return ag_##id(in[0], in[1]); }                               \
    const ag_op ag_op_##id = {                                                                                   \
        .name = #id, .inputs = "a b", .infer = id##_infer, .strided = true, .bf16 = 3, .bf16_cuda = 3,           \
        .unread_cuda = true, .workspace = binary_workspace,                                                      \
        .forward = { id##_forward, AG_CUDA_FN(ag_##id##_forward_cuda) },                                         \
        .backward = { id##_backward, AG_CUDA_FN(ag_##id##_backward_cuda), id##_give },                           \
        .check = { { "a[3,5]" domain " b[3,5]" domain, id##_check },                                             \
                   { "a[2,3,5]" domain " b[5]" domain, id##_check },                                             \
                   { "a[3,1,5]" domain " b[4,1]" domain, id##_check },                                           \
                   { "a[3,4]" domain " b[3,1]" domain, id##_check },                                             \
                   { "a[1]" domain " b[2,7]" domain, id##_check } },                                             \
    };                                                                                                           \
    ag_tensor *ag_##id##_(const char *at, ag_tensor *a, ag_tensor *b)                                            \
    {                                                                                                            \
        return ag_apply_(at, &ag_op_##id, 2, (ag_tensor *[]){ a, b }, NULL, 0);                                  \
    }
#include "ops/elementwise.def"
