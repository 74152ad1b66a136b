/* ops/mlp.c - linear, activation, linear as one op over chunks of rows, so that a chunk of the hidden layer stays near.
 *
 * M1  Training keeps h, what the activation took; evaluation keeps nothing of the hidden layer.
 * M2  Backward goes over runs of rows: chunk by chunk a = activation(h), dh and dx; then, with the whole team, what the
 *     run's a and dh add to the gradients of the weights. Beside h only a run's a and dh are in memory.
 * M3  The cuts depend on sizes alone, never on the number of threads, and sums are taken in their order.
 * M4  One chunk is run outside of ag_parallel, so that the team shares each of its products. */
#include <string.h>
#include "core/bf16.h"
#include "core/thread.h"
#include "ops/activation.h"
#include "ops/gemm.h"
#include "ops/registry.h"
#include "ops/vision.h"

enum { X, W1, B1, W2, B2, INPUTS };
/* Bytes of hidden layer and rows, at least: a chunk forward (half of it backward, where four matrices share the cache), a run
 * (so many rows that the sums over them are worth reading the gradients of the weights). Elements in the first cache. */
enum { CHUNK = 256 << 10, CHUNK_ROWS = 128, RUN = 1 << 20, RUN_ROWS = 512, PIECE = 512 };

typedef struct { ag_activation activation; } mlp_arg;

typedef struct {
    ag_activation activation;
    ag_dtype type;
    int64_t rows, in, hidden, out, chunk, run;      /* rows of all, of a chunk, of a run: a multiple of it */
    ag_gemm to_h, to_y, to_da, to_dx;               /* the products of a chunk, but for its rows */
    const void *x, *dy;
    void *h, *y, *dx;                               /* h NULL: evaluation */
    void *a, *dh;                                   /* a: a chunk of each thread, in backward a run, as dh */
    real *da, *db1, *db2;                           /* a chunk of each thread; sums of each of a run's chunks */
    int64_t first, last;                            /* rows of the run */
} mlp;

/* ---- sizes --------------------------------------------------------------------------------------------- */

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t parts_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

static mlp sizes_of(const ag_node *n, bool backward)
{
    const ag_tensor *x = n->in[X], *w1 = n->in[W1];
    mlp m = { .activation = ((const mlp_arg *)n->arg)->activation, .type = x->dtype, .in = w1->shape[1],
              .hidden = w1->shape[0], .out = n->in[W2]->shape[0], .x = x->data, .y = n->out->data,
              .h = n->saved[0] ? n->saved[0]->data : NULL };
    const int64_t row = m.hidden * (int64_t)ag_dtype_size(m.type);
    m.rows = ag_numel(n->out) / m.out;
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

static int64_t mlp_workspace(const ag_node *n, bool backward)
{
    const mlp m = sizes_of(n, backward);
    const int64_t size = (int64_t)ag_dtype_size(m.type), real_size = (int64_t)sizeof(real);
    for (int k = W1; k <= W2; k += W2 - W1)
        (void)by_weight(n, &m, n->in[k], !backward, NULL, backward && k == W2 ? AG_F32 : m.type);
    if (!backward) return slots(&m) * m.chunk * m.hidden * size;
    return 2 * m.run * m.hidden * size + slots(&m) * m.chunk * m.hidden * real_size +
           m.run / m.chunk * (m.hidden + m.out) * real_size;
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
        ag_activate(m->activation, n, y);
        ag_narrow(a, m->type, i, n, y);
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
        multiply(m->to_y, rows, a, 0, m->y, first);
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
    m.to_y = by_weight(n, &m, n->in[W2], true, n->in[B2], m.type);
    m.a = ag_workspace(n, slots(&m) * m.chunk * m.hidden, ag_dtype_size(m.type));
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
        ag_activate_both(m->activation, n, z, da + i, a, d);
#pragma omp simd
        for (int64_t k = 0; k < n; k++) sums[i + k] += d[k];
        ag_narrow(m->a, m->type, to + i, n, a);
        ag_narrow(m->dh, m->type, to + i, n, d);
    }
}

static void output_row(const mlp *m, int64_t row, real *sums)
{
    for (int64_t i = 0; i < m->out; i += PIECE) {
        const int64_t n = smaller(m->out - i, PIECE);
        real wide[PIECE];
        const real *g = ag_widen(m->dy, m->type, row * m->out + i, n, wide);
#pragma omp simd
        for (int64_t k = 0; k < n; k++) sums[i + k] += g[k];
    }
}

static void backward_chunks(int64_t begin, int64_t end, void *arg)
{
    const mlp *m = arg;
    real *da = m->da + ag_thread_id() * m->chunk * m->hidden;
    for (int64_t c = begin; c < end; c++) {
        const int64_t first = m->first + c * m->chunk, rows = smaller(m->last - first, m->chunk);
        real *db1 = m->db1 + c * m->hidden, *db2 = m->db2 + c * m->out;
        memset(db1, 0, (size_t)m->hidden * sizeof *db1);
        memset(db2, 0, (size_t)m->out * sizeof *db2);
        multiply(m->to_da, rows, m->dy, first, da, 0);
        for (int64_t r = 0; r < rows; r++) {
            hidden_row(m, first + r, da + r * m->hidden, db1);
            output_row(m, first + r, db2);
        }
        if (m->dx) multiply(m->to_dx, rows, m->dh, first - m->first, m->dx, first);
    }
}

/* d += g^T a, over the rows of the run; g [rows, n], a [rows, m] */
static void weight_gradient(const mlp *m, ag_tensor *d, bool add, const void *g, int64_t g_first, const void *a, int64_t a_first)
{
    if (!d) return;
    const int64_t n = d->shape[0], cols = d->shape[1];
    ag_gemm_run(&(ag_gemm){ .batch = 1, .n = n, .m = cols, .k = m->last - m->first, .a = ag_element(g, m->type, g_first * n),
                            .a_row = 1, .a_col = n, .a_type = m->type, .b = ag_element(a, m->type, a_first * cols),
                            .b_row = cols, .b_col = 1, .b_type = m->type, .c = d->data, .c_row = cols, .add = add });
}

static void bias_gradient(const mlp *m, ag_tensor *d, bool add, const real *sums)
{
    if (!d) return;
    const int64_t n = d->shape[0];
    if (!add) memset(d->data, 0, (size_t)n * sizeof(real));
    for (int64_t c = 0; c < parts_of(m->last - m->first, m->chunk); c++)
        for (int64_t i = 0; i < n; i++) ag_real(d)[i] += sums[c * n + i];
}

static void mlp_backward(ag_node *n)
{
    mlp m = sizes_of(n, true);
    m.dy = n->out->grad->data, m.dx = n->din[X] ? n->din[X]->data : NULL;
    m.to_da = by_weight(n, &m, n->in[W2], false, NULL, AG_F32);
    m.to_dx = by_weight(n, &m, n->in[W1], false, NULL, m.type);
    m.to_dx.add = n->accumulate[X];
    m.a = ag_workspace(n, m.run * m.hidden, ag_dtype_size(m.type));
    m.dh = ag_workspace(n, m.run * m.hidden, ag_dtype_size(m.type));
    m.da = ag_workspace(n, slots(&m) * m.chunk * m.hidden, sizeof(real));
    m.db1 = ag_workspace(n, m.run / m.chunk * (m.hidden + m.out), sizeof(real));
    m.db2 = m.db1 + m.run / m.chunk * m.hidden;
    for (m.first = 0; m.first < m.rows; m.first = m.last) {
        m.last = m.first + smaller(m.rows - m.first, m.run);
        ag_parallel(parts_of(m.last - m.first, m.chunk), 1, 1.5 * cost(&m), backward_chunks, &m);
        weight_gradient(&m, n->din[W2], m.first > 0 || n->accumulate[W2], m.dy, m.first, m.a, 0);
        weight_gradient(&m, n->din[W1], m.first > 0 || n->accumulate[W1], m.dh, 0, m.x, m.first);
        bias_gradient(&m, n->din[B1], m.first > 0 || n->accumulate[B1], m.db1);
        bias_gradient(&m, n->din[B2], m.first > 0 || n->accumulate[B2], m.db2);
    }
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

static ag_tensor *gelu_check(ag_tensor **in) { return ag_mlp(in[0], in[1], in[2], in[3], in[4], AG_LINEAR_GELU); }
static ag_tensor *relu_check(ag_tensor **in) { return ag_mlp(in[0], in[1], in[2], in[3], in[4], AG_LINEAR_RELU); }
static ag_tensor *silu_check(ag_tensor **in) { return ag_mlp(in[0], in[1], NULL, in[2], NULL, AG_LINEAR_SILU); }

const ag_op ag_op_mlp = {
    .name = "mlp", .inputs = "x w1 b1 w2 b2", .unread_out = true, .infer = mlp_infer, .bf16 = 1 << X,
    .forward = { mlp_forward }, .backward = { mlp_backward }, .workspace = mlp_workspace, .flops = mlp_flops,
    .check = { { "x[3,4] w1[7,4] b1[7] w2[5,7] b2[5]", gelu_check }, { "x[2,3,3] w1[5,3] b1[5] w2[3,5] b2[3]", relu_check },
               { "x[5,3] w1[4,3] w2[2,4]", silu_check }, { "x[261,2] w1[3,2] b1[3] w2[2,3] b2[2]", gelu_check } },
};

ag_tensor *ag_mlp_(const char *at, ag_tensor *x, ag_tensor *w1, ag_tensor *b1, ag_tensor *w2, ag_tensor *b2,
                   ag_activation activation)
{
    ag_tensor *in[] = { ag_autocast_input(at, x), w1, b1, w2, b2 };
    return ag_apply_(at, &ag_op_mlp, INPUTS, in, &(mlp_arg){ activation }, sizeof(mlp_arg));
}
