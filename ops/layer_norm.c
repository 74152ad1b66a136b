/* ops/layer_norm.c - over the last axis: y = (x - mean) rstd w + b. A row is read once, then lies in the nearest cache. */
#include "core/thread.h"
#include "ops/channels.h"
#include "ops/formulas.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/tiles.h"

enum { X, WEIGHT, BIAS, INPUTS };

typedef struct {
    const void *x, *g;
    void *out;                  /* y, or d x */
    ag_dtype dtype;
    const real *w, *b;
    real *mean, *rstd, *scratch, eps;
    int64_t width, block;       /* block: rows that are converted at a time */
    bool add;
} layer_job;

static void layer_infer(ag_node *n)
{
    const ag_tensor *x = n->in[X];
    ag_node_require_real(n, x, "x");
    AG_REQUIRE(n, x->ndim >= 1 && x->shape[x->ndim - 1] > 0, "needs a last axis with elements");
    const int64_t width = x->shape[x->ndim - 1];
    ag_node_require_channels(n, n->in[WEIGHT], "weight", width);
    ag_node_require_channels(n, n->in[BIAS], "bias", width);
    ag_node_out_like(n, x);
    if (!ag_node_trains(n)) return;
    ag_node_save(n, 0, AG_F32, AG_SHAPE(ag_numel(x) / width));
    ag_node_save(n, 1, AG_F32, AG_SHAPE(ag_numel(x) / width));
}

enum { BLOCK = 1024 };
static int64_t block_rows(int64_t width) { return width < BLOCK ? BLOCK / width : 1; }

/* buffers: blocks of scratch for each thread */
static layer_job job_of(const ag_node *n, int buffers)
{
    const ag_tensor *x = n->in[X];
    layer_job j = { .x = x->data, .dtype = x->dtype, .eps = (real)*(const double *)n->arg,
                    .width = x->shape[x->ndim - 1] };
    j.w = ag_channels_or(n, n->in[WEIGHT], 1, j.width), j.b = ag_channels_or(n, n->in[BIAS], 0, j.width);
    if (n->saved[0]) j.mean = ag_real(n->saved[0]), j.rstd = ag_real(n->saved[1]);
    j.block = block_rows(j.width);
    if (j.dtype == AG_BF16) j.scratch = ag_workspace(n, ag_threads() * buffers * j.block * j.width, sizeof(real));
    return j;
}

enum { LANES = 8 };
typedef real lanes __attribute__((vector_size(LANES * sizeof(real)), aligned(sizeof(real)), may_alias));

#define LOAD(p) (*(const lanes *)(const void *)(p))
#define TOTAL(v) ((((v)[0] + (v)[4]) + ((v)[2] + (v)[6])) + (((v)[1] + (v)[5]) + ((v)[3] + (v)[7])))

/* Four chains of additions: one would wait for each of its sums. By vectors, as the compiler adds the lanes up one
 * after the other: 1.5 to 2 times as fast. */
#define ROW_SUM(name, F)                                                                                         \
    static inline real name(const real *x, int64_t n, real about)                                                \
    {                                                                                                            \
        lanes a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };                                                        \
        real rest = 0;                                                                                           \
        int64_t i = 0;                                                                                           \
        (void)about;                                                                                             \
        for (; i + 4 * LANES <= n; i += 4 * LANES)                                                               \
            a += F(LOAD(x + i)), b += F(LOAD(x + i + LANES)), c += F(LOAD(x + i + 2 * LANES)),                   \
            d += F(LOAD(x + i + 3 * LANES));                                                                     \
        for (; i + LANES <= n; i += LANES) a += F(LOAD(x + i));                                                  \
        for (; i < n; i++) rest += F(x[i]);                                                                      \
        a = (a + b) + (c + d);                                                                                   \
        return rest + TOTAL(a);                                                                                  \
    }
#define VALUE(v) (v)
#define SQUARE(v) (((v) - about) * ((v) - about))
ROW_SUM(row_sum, VALUE)
ROW_SUM(row_squares, SQUARE)

static void forward_row(const layer_job *j, int64_t row, const real *restrict x, real *restrict y)
{
    const int64_t n = j->width;
    const real *restrict w = j->w, *restrict b = j->b;
    const real mean = row_sum(x, n, 0) / (real)n, rstd = 1 / SQRT(row_squares(x, n, mean) / (real)n + j->eps);
    const real shift = -mean * rstd;
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] * rstd + shift) * w[i] + b[i];
    if (j->mean) j->mean[row] = mean, j->rstd[row] = rstd;
}

static void rows_forward(int64_t begin, int64_t end, void *arg)
{
    const layer_job *j = arg;
    const int64_t n = j->width;
    real *buf = j->scratch + ag_thread_id() * 2 * j->block * n;
    for (int64_t first = begin; first < end; first += j->block) {
        const int64_t rows = end - first < j->block ? end - first : j->block;
        const real *x = ag_widen(j->x, j->dtype, first * n, rows * n, buf);
        real *y = ag_narrow_to(j->out, j->dtype, first * n, buf + j->block * n);
        for (int64_t r = 0; r < rows; r++) {
            ag_fetch_ahead(j->x, j->dtype, (first + r) * n, n);
            ag_fetch_ahead_to_write(j->out, j->dtype, (first + r) * n, n);
            forward_row(j, first + r, x + r * n, y + r * n);
        }
        ag_narrow(j->out, j->dtype, first * n, rows * n, y);
    }
}

/* sum u and sum u (x - mean), u = g w */
static inline real grad_sums(const real *x, const real *g, const real *w, int64_t n, real mean, real *dot)
{
    lanes s[2] = { { 0 } }, d[2] = { { 0 } };
    real rest = 0, rest_dot = 0;
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        const lanes u = LOAD(g + i) * LOAD(w + i), v = LOAD(g + i + LANES) * LOAD(w + i + LANES);
        s[0] += u, d[0] += u * (LOAD(x + i) - mean);
        s[1] += v, d[1] += v * (LOAD(x + i + LANES) - mean);
    }
    for (; i < n; i++) rest += g[i] * w[i], rest_dot += g[i] * w[i] * (x[i] - mean);
    s[0] += s[1], d[0] += d[1];
    *dot = rest_dot + TOTAL(d[0]);
    return rest + TOTAL(s[0]);
}

/* With h = (x - mean) rstd and u = g w:   d w = sum g h,  d b = sum g,  d x = rstd (u - mean(u) - h mean(u h)) */
static void grad_row(const layer_job *j, const real *restrict x, const real *restrict g, real mean, real rstd,
                     real *restrict dw, real *restrict db, real *restrict d)
{
    const int64_t n = j->width;
    const real *restrict w = j->w;
    if (dw) for (int64_t i = 0; i < n; i++) dw[i] += g[i] * ((x[i] - mean) * rstd), db[i] += g[i];
    if (!d) return;
    real dot;
    const real sum = grad_sums(x, g, w, n, mean, &dot);
    const real by_x = -rstd * rstd * rstd * dot / (real)n, by_1 = -rstd * sum / (real)n - mean * by_x;
    if (j->add) for (int64_t i = 0; i < n; i++) d[i] += g[i] * w[i] * rstd + (x[i] * by_x + by_1);
    else for (int64_t i = 0; i < n; i++) d[i] = g[i] * w[i] * rstd + (x[i] * by_x + by_1);
}

static void grad_tile(ag_tile t, real *sums, const void *arg)
{
    const layer_job *j = arg;
    const int64_t n = j->width, size = j->block * n;
    real *buf = j->scratch + ag_thread_id() * 3 * size, *d = NULL, *db = sums ? sums + n : NULL;
    for (int64_t first = t.row; first < t.end; first += j->block) {
        const int64_t rows = t.end - first < j->block ? t.end - first : j->block, at = first * n;
        const real *x = ag_widen(j->x, j->dtype, at, rows * n, buf);
        const real *g = ag_widen(j->g, j->dtype, at, rows * n, buf + size);
        if (j->out) d = ag_narrow_grad(j->out, j->dtype, at, rows * n, buf + 2 * size, j->add);
        for (int64_t r = 0; r < rows; r++) {
            ag_fetch_ahead(j->x, j->dtype, at + r * n, n);
            ag_fetch_ahead(j->g, j->dtype, at + r * n, n);
            if (d) ag_fetch_ahead_to_write(j->out, j->dtype, at + r * n, n);
            grad_row(j, x + r * n, g + r * n, j->mean[first + r], j->rstd[first + r], sums, db, d ? d + r * n : NULL);
        }
        if (d) ag_narrow(j->out, j->dtype, at, rows * n, d);
    }
}

static void layer_forward(ag_node *n)
{
    layer_job j = job_of(n, 2);
    j.out = n->out->data;
    ag_parallel(ag_numel(n->out) / j.width, j.block, 0.5 * (double)j.width, rows_forward, &j);
}

static ag_tiles tiles_of(const ag_node *n, const layer_job *j)
{
    const int64_t width = n->in[X]->shape[n->in[X]->ndim - 1];
    return (ag_tiles){ .groups = 1, .rows = ag_numel(n->in[X]) / width, .width = width, .whole_rows = true,
                       .sums = ag_node_trained(n, WEIGHT) || ag_node_trained(n, BIAS) ? 2 : 0,
                       .cost = 0.8 * (double)width, .tile = grad_tile, .arg = j };
}

static void layer_backward(ag_node *n)
{
    layer_job j = job_of(n, 3);
    j.g = n->out->grad->data, j.out = n->din[X] ? n->din[X]->data : NULL, j.add = n->accumulate[X];
    const ag_tiles t = tiles_of(n, &j);
    const double *sums = ag_tiles_run(n, &t);
    if (!sums) return;
    ag_give_channels(n, WEIGHT, sums);
    ag_give_channels(n, BIAS, sums + j.width);
}

static int64_t layer_workspace(const ag_node *n, bool backward)
{
    const ag_tiles t = tiles_of(n, NULL);
    const int64_t rows = n->in[X]->dtype == AG_BF16 ? ag_threads() * (backward ? 3 : 2) * block_rows(t.width) : 0;
    const int64_t bytes = (rows + !n->in[WEIGHT] + !n->in[BIAS]) * t.width * (int64_t)sizeof(real);
    return bytes + (backward ? ag_tiles_workspace(&t) : 0);
}

static ag_tensor *layer_check(ag_tensor **in) { return ag_layer_norm(in[0], .weight = in[1], .bias = in[2]); }
static ag_tensor *layer_plain(ag_tensor **in) { return ag_layer_norm(in[0], .eps = 1e-3); }

const ag_op ag_op_layer_norm = {
    .name = "layer_norm", .inputs = "x weight bias", .infer = layer_infer,
    .unread_out = true, .unread_cuda = true, .bf16 = 1 << X, .bf16_cuda = 1 << X, .workspace = layer_workspace,
    .forward = { layer_forward, AG_CUDA_FN(ag_layer_norm_forward_cuda) },
    .backward = { layer_backward, AG_CUDA_FN(ag_layer_norm_backward_cuda) },
    .check = { { "x[3,7] weight[7] bias[7]", layer_check }, { "x[2,3,5]", layer_plain },
               { "x[3,43,5] weight[5] bias[5]", layer_check } },
};

ag_tensor *ag_layer_norm_(const char *at, ag_tensor *x, ag_layer_norm_opts opts)
{
    const double eps = opts.eps > 0 ? opts.eps : 1e-5;
    return ag_apply_(at, &ag_op_layer_norm, INPUTS, (ag_tensor *[]){ x, opts.weight, opts.bias }, &eps, sizeof eps);
}
