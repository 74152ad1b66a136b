/* ops/mlp.c - linear, activation, linear as one op over chunks of rows, so that a chunk of the hidden layer stays near; alone,
 * or as the branch of a residual network.
 *
 * M1  Training keeps h, what the activation took; evaluation keeps nothing of the hidden layer.
 * M2  Backward goes over runs of rows: chunk by chunk a = activation(h), dh and dx; then, with the whole team, what the
 *     run's a and dh add to the gradients of the weights. Beside h only a run's a and dh are in memory.
 * M3  The cuts depend on sizes alone, never on the number of threads, and sums are taken in their order.
 * M4  One chunk is run outside of ag_parallel, so that the team shares each of its products.
 * M5  The branch b = a w2^T + b2 of y = residual + scale keep b is not kept for the gradient of scale. With g = keep dy and
 *     G = g^T a, rows c of the output:  dw2[c] = scale[c] G[c],  dscale[c] = sum g b[c] = G[c] . w2[c] + b2[c] sum g. */
#include <string.h>
#include "core/bf16.h"
#include "core/thread.h"
#include "ops/activation.h"
#include "ops/channels.h"
#include "ops/gemm.h"
#include "ops/mlp.h"
#include "ops/registry.h"
#include "ops/dropout.h"
#include "ops/vision.h"

enum { X = AG_MLP_X, W1, B1, W2, B2, INPUTS, RESIDUAL = AG_MLP_RESIDUAL, SCALE, TAIL_INPUTS };
/* Bytes of hidden layer and rows, at least: a chunk forward (half of it backward, where four matrices share the cache), a run
 * (so many rows that the sums over them are worth reading the gradients of the weights). Elements in the first cache. */
enum { CHUNK = 256 << 10, CHUNK_ROWS = 128, RUN = 1 << 20, RUN_ROWS = 512, PIECE = 512 };

typedef ag_mlp_arg mlp_arg;

typedef struct {
    mlp_arg arg;
    ag_dtype type;
    int64_t rows, in, hidden, out, chunk, run;      /* rows of all, of a chunk, of a run: a multiple of it */
    ag_gemm to_h, to_y, to_da, to_dx;               /* the products of a chunk, but for its rows */
    const void *x, *dy;
    void *h, *y, *dx;                               /* h NULL: evaluation */
    void *a, *dh;                                   /* a: a chunk of each thread, in backward a run, as dh */
    real *da, *db1, *db2;                           /* a chunk of each thread; sums of each of a run's chunks */
    int64_t first, last;                            /* rows of the run */
    bool tail;                                      /* M5 */
    const void *residual;
    const real *scale;                              /* NULL: 1 */
    int64_t sample;                                 /* rows of one */
    real *branch;                                   /* a chunk of each thread */
    void *scaled, *kept;                            /* scale keep dy, a chunk of each thread; keep dy, a run */
} mlp;

/* ---- sizes --------------------------------------------------------------------------------------------- */

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t parts_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

static mlp sizes_of(const ag_node *n, bool backward)
{
    const ag_tensor *x = n->in[X], *w1 = n->in[W1];
    mlp m = { .arg = *(const mlp_arg *)n->arg, .tail = n->n_in == TAIL_INPUTS, .type = x->dtype, .in = w1->shape[1],
              .hidden = w1->shape[0], .out = n->in[W2]->shape[0], .x = x->data, .y = n->out->data,
              .h = n->saved[0] ? n->saved[0]->data : NULL };
    const int64_t row = m.hidden * (int64_t)ag_dtype_size(m.type);
    m.rows = ag_numel(n->out) / m.out;
    if (m.tail) {
        m.residual = n->in[RESIDUAL]->data, m.scale = n->in[SCALE] ? ag_real(n->in[SCALE]) : NULL;
        m.sample = x->ndim > 1 ? m.rows / larger(x->shape[0], 1) : m.rows;
    }
    m.chunk = larger(CHUNK / row / 32 * 32, CHUNK_ROWS) / (backward ? 2 : 1);
    if (parts_of(m.rows, m.chunk) < 4) m.chunk = larger(m.rows, 1);
    m.run = parts_of(smaller(larger(RUN / row, RUN_ROWS), larger(m.rows, 1)), m.chunk) * m.chunk;
    return m;
}

static int64_t slots(const mlp *m) { return m->rows > m->chunk ? ag_threads() : 1; }    /* M4 */

static double mlp_flops(const ag_node *n)
{
    const mlp m = sizes_of(n, false);
    return 2 * (double)m.rows * (double)m.hidden * (double)(m.in + m.out);
}

/* The product of rows of a [rows, k] with the weight, or its transpose. */
static ag_gemm by_weight(const ag_node *n, const mlp *m, const ag_tensor *w, bool turned, const ag_tensor *bias, ag_dtype to)
{
    const int64_t k = w->shape[turned], cols = w->shape[!turned];
    ag_gemm g = { .batch = 1, .n = m->rows, .m = cols, .k = k, .a_row = k, .a_col = 1, .a_type = m->type, .b = w->data,
                  .b_row = turned ? 1 : cols, .b_col = turned ? k : 1, .bias = bias ? ag_real(bias) : NULL, .c_row = cols,
                  .c_type = to, .b_param = w };
    ag_gemm_prepare(n, &g);
    return g;
}

/* Whether G of M5 needs memory of its own, or may be where dw2 will be. */
static bool sums_apart(const ag_node *n)
{
    return n->n_in == TAIL_INPUTS && n->in[SCALE] && (n->din[W2] || n->din[SCALE]) && (!n->din[W2] || n->accumulate[W2]);
}

static int64_t mlp_workspace(const ag_node *n, bool backward)
{
    const mlp m = sizes_of(n, backward);
    const int64_t size = (int64_t)ag_dtype_size(m.type), real_size = (int64_t)sizeof(real), rows = slots(&m) * m.chunk;
    for (int k = W1; k <= W2; k += W2 - W1)
        (void)by_weight(n, &m, n->in[k], !backward, NULL, k == W2 && (backward || m.tail) ? AG_F32 : m.type);
    if (!backward) return rows * (m.hidden * size + m.tail * m.out * real_size);
    return 2 * m.run * m.hidden * size + rows * (m.hidden * real_size + m.tail * m.out * size) +
           (m.arg.drop_path > 0 ? m.run * m.out * size : 0) + (sums_apart(n) ? m.out * m.hidden * real_size : 0) +
           (m.run / m.chunk + 1) * (m.hidden + m.out) * real_size;
}

/* The same for the rows of a chunk. */
static void multiply(ag_gemm g, int64_t rows, const void *a, int64_t a_first, void *c, int64_t c_first)
{
    g.n = rows, g.a = ag_element(a, g.a_type, a_first * g.k), g.c = ag_element(c, g.c_type, c_first * g.m);
    ag_gemm_run(&g);
}

/* ---- forward ------------------------------------------------------------------------------------------- */

/* a = activation(h), `count` elements; in pieces, which is faster than as a part of oneDNN's product. a may be h. */
static void activate(const mlp *m, int64_t count, const void *h, void *a)
{
    for (int64_t i = 0; i < count; i += PIECE) {
        const int64_t n = smaller(count - i, PIECE);
        real wide[PIECE], result[PIECE];
        const real *z = ag_widen(h, m->type, i, n, wide);
        real *y = ag_narrow_to(a, m->type, i, result);
        if (y != z) memcpy(y, z, (size_t)n * sizeof *y);
        ag_activate(m->arg.activation, n, y);
        ag_narrow(a, m->type, i, n, y);
    }
}

/* y = residual + scale keep branch, for the rows of a chunk */
static void add_branch(const mlp *m, int64_t first, int64_t rows, const real *branch)
{
    for (int64_t r = first; r < first + rows; r++)
        for (int64_t i = 0; i < m->out; i += PIECE) {
            const int64_t n = smaller(m->out - i, PIECE), at = r * m->out + i;
            const real kept = ag_drop_path_keep(m->arg.drop_path, m->arg.key, r / m->sample);
            const real *b = branch + (r - first) * m->out + i, *scale = m->scale ? m->scale + i : NULL;
            real wide[PIECE], result[PIECE], *y = ag_narrow_to(m->y, m->type, at, result);
            const real *x = ag_widen(m->residual, m->type, at, n, wide);
#pragma omp simd
            for (int64_t k = 0; k < n; k++) y[k] = x[k] + kept * (scale ? scale[k] : 1) * b[k];
            ag_narrow(m->y, m->type, at, n, y);
        }
}

static void forward_chunks(int64_t begin, int64_t end, void *arg)
{
    const mlp *m = arg;
    void *a = ag_element(m->a, m->type, ag_thread_id() * m->chunk * m->hidden);
    for (int64_t c = begin; c < end; c++) {
        const int64_t first = c * m->chunk, rows = smaller(m->rows - first, m->chunk);
        void *h = m->h ? ag_element(m->h, m->type, first * m->hidden) : a;
        multiply(m->to_h, rows, m->x, first, h, 0);
        activate(m, rows * m->hidden, h, a);
        if (!m->tail) {
            multiply(m->to_y, rows, a, 0, m->y, first);
            continue;
        }
        real *branch = m->branch + ag_thread_id() * m->chunk * m->out;
        multiply(m->to_y, rows, a, 0, branch, 0);
        add_branch(m, first, rows, branch);
    }
}

static double cost(const mlp *m)        /* of a chunk's two products, in ns */
{
    return (double)m->chunk * (double)m->hidden * ((double)(m->in + m->out) / (m->type == AG_BF16 ? 300 : 60) + 0.5);
}

static void mlp_forward(ag_node *n)
{
    mlp m = sizes_of(n, false);
    m.to_h = by_weight(n, &m, n->in[W1], true, n->in[B1], m.type);
    m.to_y = by_weight(n, &m, n->in[W2], true, n->in[B2], m.tail ? AG_F32 : m.type);
    m.a = ag_workspace(n, slots(&m) * m.chunk * m.hidden, ag_dtype_size(m.type));
    if (m.tail) m.branch = ag_workspace(n, slots(&m) * m.chunk * m.out, sizeof(real));
    ag_parallel(parts_of(m.rows, m.chunk), 1, cost(&m), forward_chunks, &m);
}

/* ---- backward ------------------------------------------------------------------------------------------ */

/* For one row: a = activation(h), dh = da activation'(h), sums += dh. */
static void hidden_row(const mlp *m, int64_t row, const real *da, real *sums)
{
    const int64_t from = row * m->hidden, to = (row - m->first) * m->hidden;
    for (int64_t i = 0; i < m->hidden; i += PIECE) {
        const int64_t n = smaller(m->hidden - i, PIECE);
        real wide[PIECE], value[PIECE], slope[PIECE];
        const real *z = ag_widen(m->h, m->type, from + i, n, wide);
        real *a = ag_narrow_to(m->a, m->type, to + i, value), *d = ag_narrow_to(m->dh, m->type, to + i, slope);
        ag_activate_both(m->arg.activation, n, z, da + i, a, d);
#pragma omp simd
        for (int64_t k = 0; k < n; k++) sums[i + k] += d[k];
        ag_narrow(m->a, m->type, to + i, n, a);
        ag_narrow(m->dh, m->type, to + i, n, d);
    }
}

/* sums += g, g = keep dy; with a tail also scaled = scale g and, where some are dropped, kept = g. */
static void output_row(const mlp *m, int64_t row, void *scaled, int64_t to, real *sums)
{
    const real keep = m->tail ? ag_drop_path_keep(m->arg.drop_path, m->arg.key, row / m->sample) : 1;
    for (int64_t i = 0; i < m->out; i += PIECE) {
        const int64_t n = smaller(m->out - i, PIECE), kept_at = (row - m->first) * m->out + i;
        const real *scale = m->scale ? m->scale + i : NULL;
        real wide[PIECE], buf[PIECE], result[PIECE];
        const real *dy = ag_widen(m->dy, m->type, row * m->out + i, n, wide);
        real *g = m->kept ? ag_narrow_to(m->kept, m->type, kept_at, buf) : buf;
#pragma omp simd
        for (int64_t k = 0; k < n; k++) g[k] = keep * dy[k], sums[i + k] += g[k];
        if (m->kept) ag_narrow(m->kept, m->type, kept_at, n, g);
        if (!m->tail) continue;
        real *s = ag_narrow_to(scaled, m->type, to + i, result);
#pragma omp simd
        for (int64_t k = 0; k < n; k++) s[k] = (scale ? scale[k] : 1) * g[k];
        ag_narrow(scaled, m->type, to + i, n, s);
    }
}

static void backward_chunks(int64_t begin, int64_t end, void *arg)
{
    const mlp *m = arg;
    const int64_t mine = ag_thread_id() * m->chunk;
    real *da = m->da + mine * m->hidden;
    for (int64_t c = begin; c < end; c++) {
        const int64_t first = m->first + c * m->chunk, rows = smaller(m->last - first, m->chunk);
        real *db1 = m->db1 + c * m->hidden, *db2 = m->db2 + c * m->out;
        memset(db1, 0, (size_t)m->hidden * sizeof *db1);
        memset(db2, 0, (size_t)m->out * sizeof *db2);
        for (int64_t r = 0; r < rows; r++) output_row(m, first + r, m->scaled, (mine + r) * m->out, db2);
        if (m->tail) multiply(m->to_da, rows, m->scaled, mine, da, 0);
        else multiply(m->to_da, rows, m->dy, first, da, 0);
        for (int64_t r = 0; r < rows; r++) hidden_row(m, first + r, da + r * m->hidden, db1);
        if (m->dx) multiply(m->to_dx, rows, m->dh, first - m->first, m->dx, first);
    }
}

/* d [n, cols] += g^T a, over the rows of the run; g [rows, n], a [rows, cols] */
static void weight_gradient(const mlp *m, real *d, bool add, int64_t n, int64_t cols, const void *g, int64_t g_first,
                            const void *a, int64_t a_first)
{
    if (!d) return;
    ag_gemm_run(&(ag_gemm){ .batch = 1, .n = n, .m = cols, .k = m->last - m->first, .a = ag_element(g, m->type, g_first * n),
                            .a_row = 1, .a_col = n, .a_type = m->type, .b = ag_element(a, m->type, a_first * cols),
                            .b_row = cols, .b_col = 1, .b_type = m->type, .c = d, .c_row = cols, .add = add });
}

/* total += the sums of the run's chunks */
static void add_sums(const mlp *m, int64_t n, const real *sums, real *total)
{
    for (int64_t c = 0; c < parts_of(m->last - m->first, m->chunk); c++)
        for (int64_t i = 0; i < n; i++) total[i] += sums[c * n + i];
}

static void give_sums(const ag_node *n, int k, const real *total, const real *scale)
{
    if (!n->din[k]) return;
    real *d = ag_real(n->din[k]);
    for (int64_t i = 0; i < n->din[k]->shape[0]; i++) d[i] = (n->accumulate[k] ? d[i] : 0) + (scale ? scale[i] : 1) * total[i];
}

typedef struct { const mlp *m; const ag_node *n; real *sums; const real *total; } tail_job;

/* M5, for rows of the output */
static void finish_tail(int64_t begin, int64_t end, void *arg)
{
    const tail_job j = *(const tail_job *)arg;
    const ag_tensor *b2 = j.n->in[B2], *dw2 = j.n->din[W2], *dscale = j.n->din[SCALE];
    const int64_t hidden = j.m->hidden;
    for (int64_t c = begin; c < end; c++) {
        const real *w = ag_real(j.n->in[W2]) + c * hidden, scale = j.m->scale[c];
        real *g = j.sums + c * hidden, *d = dw2 ? ag_real(dw2) + c * hidden : NULL, dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t k = 0; k < hidden; k++) dot += g[k] * w[k];
        if (b2) dot += ag_real(b2)[c] * j.total[c];
        if (dscale) ag_real(dscale)[c] = (j.n->accumulate[SCALE] ? ag_real(dscale)[c] : 0) + dot;
        if (d)
#pragma omp simd
            for (int64_t k = 0; k < hidden; k++) d[k] = (d != g ? d[k] : 0) + scale * g[k];
    }
}

static void take_workspaces(const ag_node *n, mlp *m)
{
    const size_t size = ag_dtype_size(m->type);
    const int64_t rows = slots(m) * m->chunk;
    m->a = ag_workspace(n, m->run * m->hidden, size);
    m->dh = ag_workspace(n, m->run * m->hidden, size);
    m->da = ag_workspace(n, rows * m->hidden, sizeof(real));
    m->db1 = ag_workspace(n, (m->run / m->chunk + 1) * (m->hidden + m->out), sizeof(real));
    m->db2 = m->db1 + m->run / m->chunk * m->hidden;
    if (m->tail) m->scaled = ag_workspace(n, rows * m->out, size);
    if (m->arg.drop_path > 0) m->kept = ag_workspace(n, m->run * m->out, size);
}

static void mlp_backward(ag_node *n)
{
    mlp m = sizes_of(n, true);
    m.dy = n->out->grad->data, m.dx = n->din[X] ? n->din[X]->data : NULL;
    m.to_da = by_weight(n, &m, n->in[W2], false, NULL, AG_F32);
    m.to_dx = by_weight(n, &m, n->in[W1], false, NULL, m.type);
    m.to_dx.add = n->accumulate[X];
    take_workspaces(n, &m);
    real *total1 = m.db2 + m.run / m.chunk * m.out, *total2 = total1 + m.hidden;
    real *dw1 = n->din[W1] ? ag_real(n->din[W1]) : NULL, *dw2 = n->din[W2] ? ag_real(n->din[W2]) : NULL;
    const bool apart = sums_apart(n);
    if (apart) dw2 = ag_workspace(n, m.out * m.hidden, sizeof(real));
    memset(total1, 0, (size_t)(m.hidden + m.out) * sizeof *total1);
    for (m.first = 0; m.first < m.rows; m.first = m.last) {
        m.last = m.first + smaller(m.rows - m.first, m.run);
        ag_parallel(parts_of(m.last - m.first, m.chunk), 1, 1.5 * cost(&m), backward_chunks, &m);
        weight_gradient(&m, dw2, m.first > 0 || (n->accumulate[W2] && !apart), m.out, m.hidden, m.kept ? m.kept : m.dy,
                        m.kept ? 0 : m.first, m.a, 0);
        weight_gradient(&m, dw1, m.first > 0 || n->accumulate[W1], m.hidden, m.in, m.dh, 0, m.x, m.first);
        add_sums(&m, m.hidden, m.db1, total1);
        add_sums(&m, m.out, m.db2, total2);
    }
    if (dw2 && m.scale) ag_parallel(m.out, 8, 0.2 * (double)m.hidden, finish_tail, &(tail_job){ &m, n, dw2, total2 });
    give_sums(n, B1, total1, NULL);
    give_sums(n, B2, total2, m.scale);
}

static void give_residual(ag_node *n)
{
    ag_node_give(n, RESIDUAL, n->out->grad);
}

static void tail_backward(ag_node *n)
{
    mlp_backward(n);
    give_residual(n);
}

/* ---- rules --------------------------------------------------------------------------------------------- */

static void require_layer(const ag_node *n, int weight, int64_t in, const char *name, const char *takes)
{
    const ag_tensor *w = n->in[weight], *b = n->in[weight + 1];
    ag_node_require_real(n, w, name);
    AG_REQUIRE(n, w->ndim == 2 && w->shape[0] > 0 && w->shape[1] > 0, "%s must be [out, in]", name);
    AG_REQUIRE(n, w->shape[1] == in, "%s [out, in] takes %" PRId64 " features, %s has %" PRId64, name, w->shape[1], takes, in);
    if (!b) return;
    ag_node_require_real(n, b, "bias");
    AG_REQUIRE(n, b->ndim == 1 && b->shape[0] == w->shape[0], "the bias of %s must be [%" PRId64 "]", name, w->shape[0]);
}

static void mlp_infer(ag_node *n)
{
    const ag_tensor *x = n->in[X];
    ag_node_require_activation(n, ((const mlp_arg *)n->arg)->activation);
    ag_node_require_real(n, x, "x");
    AG_REQUIRE(n, x->ndim >= 1, "needs x [..., in]");
    require_layer(n, W1, x->shape[x->ndim - 1], "w1", "x");
    require_layer(n, W2, n->in[W1]->shape[0], "w2", "the hidden layer");
    ag_shape s = ag_shape_of(x);
    s.dim[s.ndim - 1] = n->in[W2]->shape[0];
    ag_node_out(n, x->dtype, s);
    s.dim[s.ndim - 1] = n->in[W1]->shape[0];
    if (ag_node_trains(n)) ag_node_save(n, 0, x->dtype, s);
}

static void tail_infer(ag_node *n)
{
    const mlp_arg *a = n->arg;
    const ag_tensor *residual = n->in[RESIDUAL];
    mlp_infer(n);
    AG_REQUIRE(n, ag_same_shape(residual, n->out), "the branch does not have the shape of the residual");
    ag_node_require_channels(n, n->in[SCALE], "scale", n->in[W2]->shape[0]);
    AG_REQUIRE(n, a->drop_path >= 0 && a->drop_path <= 1, ".drop_path = %g; a share lies between 0 and 1", a->drop_path);
}

static ag_tensor *gelu_check(ag_tensor **in) { return ag_mlp(in[0], in[1], in[2], in[3], in[4], AG_LINEAR_GELU); }
static ag_tensor *relu_check(ag_tensor **in) { return ag_mlp(in[0], in[1], in[2], in[3], in[4], AG_LINEAR_RELU); }
static ag_tensor *silu_check(ag_tensor **in) { return ag_mlp(in[0], in[1], NULL, in[2], NULL, AG_LINEAR_SILU); }

const ag_op ag_op_mlp = {
    .name = "mlp", .inputs = "x w1 b1 w2 b2", .unread_out = true, .unread_cuda = true,
    .infer = mlp_infer, .bf16 = 1 << X, .bf16_cuda = 1 << X,
    .forward = { mlp_forward, AG_CUDA_FN(ag_mlp_forward_cuda) },
    .backward = { mlp_backward, AG_CUDA_FN(ag_mlp_backward_cuda) }, .workspace = mlp_workspace, .flops = mlp_flops,
    .check = { { "x[3,4] w1[7,4] b1[7] w2[5,7] b2[5]", gelu_check }, { "x[2,3,3] w1[5,3] b1[5] w2[3,5] b2[3]", relu_check },
               { "x[5,3] w1[4,3] w2[2,4]", silu_check }, { "x[261,2] w1[3,2] b1[3] w2[2,3] b2[2]", gelu_check } },
};

static ag_tensor *scale_check(ag_tensor **in)
{
    return ag_mlp_residual(in[5], in[0], in[1], in[2], in[3], in[4], AG_LINEAR_GELU, .scale = in[6]);
}
static ag_tensor *plain_tail_check(ag_tensor **in)
{
    return ag_mlp_residual(in[3], in[0], in[1], NULL, in[2], NULL, AG_LINEAR_SILU);
}
/* With this key the first of two samples is dropped, the second kept. */
static ag_tensor *drop_check(ag_tensor **in)
{
    return ag_mlp_residual(in[5], in[0], in[1], in[2], in[3], in[4], AG_LINEAR_GELU, .scale = in[6], .drop_path = 0.25, .key = 4);
}

const ag_op ag_op_mlp_residual = {
    .name = "mlp_residual", .inputs = "x w1 b1 w2 b2 residual scale", .unread = 1u << RESIDUAL, .unread_out = true,
    .unread_cuda = true, .infer = tail_infer, .bf16 = 1 << X | 1 << RESIDUAL, .bf16_cuda = 1 << X | 1 << RESIDUAL,
    .forward = { mlp_forward, AG_CUDA_FN(ag_mlp_residual_forward_cuda) },
    .backward = { tail_backward, AG_CUDA_FN(ag_mlp_residual_backward_cuda), give_residual },
    .workspace = mlp_workspace, .flops = mlp_flops,
    .check = { { "x[3,4] w1[7,4] b1[7] w2[5,7] b2[5] residual[3,5] scale[5]", scale_check },
               { "x[5,3] w1[4,3] w2[3,4] residual[5,3]", plain_tail_check },
               { "x[2,3,3] w1[5,3] b1[5] w2[3,5] b2[3] residual[2,3,3] scale[3]", drop_check } },
};

ag_tensor *ag_mlp_(const char *at, ag_tensor *x, ag_tensor *w1, ag_tensor *b1, ag_tensor *w2, ag_tensor *b2,
                   ag_activation activation)
{
    ag_tensor *in[] = { ag_autocast_input(at, x), w1, b1, w2, b2 };
    return ag_apply_(at, &ag_op_mlp, INPUTS, in, &(mlp_arg){ .activation = activation }, sizeof(mlp_arg));
}

ag_tensor *ag_mlp_residual_(const char *at, ag_tensor *residual, ag_tensor *x, ag_tensor *w1, ag_tensor *b1, ag_tensor *w2,
                            ag_tensor *b2, ag_activation activation, ag_residual_opts opts)
{
    x = ag_autocast_input(at, x);
    if (x->dtype != residual->dtype) return ag_residual_(at, residual, ag_mlp_(at, x, w1, b1, w2, b2, activation), opts);
    const mlp_arg a = { activation, opts.drop_path, opts.key };
    ag_tensor *in[] = { x, w1, b1, w2, b2, residual, opts.scale };
    return ag_apply_(at, &ag_op_mlp_residual, TAIL_INPUTS, in, &a, sizeof a);
}
