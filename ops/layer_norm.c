/* ops/layer_norm.c - over the last axis: y = (x - mean) rstd w + b. A row is read once and stays in the nearest cache. */
#include "core/thread.h"
#include "ops/channels.h"
#include "ops/formulas.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/tiles.h"

enum { X, WEIGHT, BIAS, INPUTS };
enum { WIDE = 256, LANES = 32 };

typedef struct {
    const void *x, *g;
    void *out;                  /* y, or d x */
    ag_dtype dtype;
    const real *w, *b;
    real *mean, *rstd, *scratch, eps;
    int64_t width;
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

/* buffers: rows of scratch for each thread */
static layer_job job_of(const ag_node *n, int buffers)
{
    const ag_tensor *x = n->in[X];
    layer_job j = { .x = x->data, .dtype = x->dtype, .eps = (real)*(const double *)n->arg, .width = x->shape[x->ndim - 1] };
    j.w = ag_channels_or(n, n->in[WEIGHT], 1, j.width), j.b = ag_channels_or(n, n->in[BIAS], 0, j.width);
    if (n->saved[0]) j.mean = ag_real(n->saved[0]), j.rstd = ag_real(n->saved[1]);
    if (j.dtype == AG_BF16) j.scratch = ag_workspace(n, ag_threads() * buffers * j.width, sizeof(real));
    return j;
}

/* The additions of a short row overlap with those of the next; of a wide one LANES are made at once. */
#define ROW_SUM(name, F)                                                                                         \
    static real name##_wide(const real *x, int64_t n, real about)                                                \
    {                                                                                                            \
        real lane[LANES] = { 0 }, sum = 0;                                                                       \
        int64_t first = 0;                                                                                       \
        (void)about;                                                                                             \
        for (; first + LANES <= n; first += LANES)                                                               \
            for (int k = 0; k < LANES; k++) lane[k] += F(x[first + k]);                                          \
        for (; first < n; first++) sum += F(x[first]);                                                           \
        for (int k = 0; k < LANES; k++) sum += lane[k];                                                          \
        return sum;                                                                                              \
    }                                                                                                            \
    static inline real name(const real *x, int64_t n, real about)                                                \
    {                                                                                                            \
        real sum = 0;                                                                                            \
        (void)about;                                                                                             \
        if (n >= WIDE) return name##_wide(x, n, about);                                                          \
        _Pragma("omp simd reduction(+ : sum)")                                                                   \
        for (int64_t i = 0; i < n; i++) sum += F(x[i]);                                                          \
        return sum;                                                                                              \
    }
#define VALUE(v) (v)
#define SQUARE(v) (((v) - about) * ((v) - about))
ROW_SUM(row_sum, VALUE)
ROW_SUM(row_squares, SQUARE)

static void rows_forward(int64_t begin, int64_t end, void *arg)
{
    const layer_job j = *(layer_job *)arg;
    const int64_t n = j.width;
    real *buf = j.scratch + ag_thread_id() * 2 * n;
    for (int64_t r = begin; r < end; r++) {
        ag_fetch_ahead(j.x, j.dtype, r * n, n);
        ag_fetch_ahead_to_write(j.out, j.dtype, r * n, n);
        const real *x = ag_widen(j.x, j.dtype, r * n, n, buf);
        const real mean = row_sum(x, n, 0) / (real)n, rstd = 1 / SQRT(row_squares(x, n, mean) / (real)n + j.eps);
        const real shift = -mean * rstd, *w = j.w, *b = j.b;
        real *y = ag_narrow_to(j.out, j.dtype, r * n, buf + n);
#pragma omp simd
        for (int64_t i = 0; i < n; i++) y[i] = (x[i] * rstd + shift) * w[i] + b[i];
        ag_narrow(j.out, j.dtype, r * n, n, y);
        if (j.mean) j.mean[r] = mean, j.rstd[r] = rstd;
    }
}

/* With h = (x - mean) rstd and u = g w:   d w = sum g h,  d b = sum g,  d x = rstd (u - mean(u) - h mean(u h)) */
static void grad_row(const layer_job *j, const real *x, const real *g, real mean, real rstd, real *dw, real *db, real *d)
{
    const int64_t n = j->width;
    const real *w = j->w;
    real sum = 0, dot = 0;
    if (dw)
#pragma omp simd reduction(+ : sum, dot)
        for (int64_t i = 0; i < n; i++) {
            const real u = g[i] * w[i], h = (x[i] - mean) * rstd;
            sum += u, dot += u * h;
            dw[i] += g[i] * h, db[i] += g[i];
        }
    else
#pragma omp simd reduction(+ : sum, dot)
        for (int64_t i = 0; i < n; i++) {
            const real u = g[i] * w[i];
            sum += u, dot += u * (x[i] - mean) * rstd;
        }
    if (!d) return;
    const real by_x = -rstd * rstd * dot / (real)n, by_1 = -rstd * sum / (real)n - mean * by_x;
    if (j->add)
#pragma omp simd
        for (int64_t i = 0; i < n; i++) d[i] += g[i] * w[i] * rstd + (x[i] * by_x + by_1);
    else
#pragma omp simd
        for (int64_t i = 0; i < n; i++) d[i] = g[i] * w[i] * rstd + (x[i] * by_x + by_1);
}

static void grad_tile(ag_tile t, real *sums, const void *arg)
{
    const layer_job *j = arg;
    const int64_t n = j->width;
    real *buf = j->scratch + ag_thread_id() * 3 * n, *d = NULL, *db = sums ? sums + n : NULL;
    for (int64_t r = t.row; r < t.end; r++) {
        ag_fetch_ahead(j->x, j->dtype, r * n, n);
        ag_fetch_ahead(j->g, j->dtype, r * n, n);
        const real *x = ag_widen(j->x, j->dtype, r * n, n, buf), *g = ag_widen(j->g, j->dtype, r * n, n, buf + n);
        if (j->out) ag_fetch_ahead_to_write(j->out, j->dtype, r * n, n);
        if (j->out && j->add) d = ag_narrow_onto(j->out, j->dtype, r * n, n, buf + 2 * n);
        else if (j->out) d = ag_narrow_to(j->out, j->dtype, r * n, buf + 2 * n);
        grad_row(j, x, g, j->mean[r], j->rstd[r], sums, db, d);
        if (d) ag_narrow(j->out, j->dtype, r * n, n, d);
    }
}

static void layer_forward(ag_node *n)
{
    layer_job j = job_of(n, 2);
    j.out = n->out->data;
    ag_parallel(ag_numel(n->out) / j.width, 8, 0.5 * (double)j.width, rows_forward, &j);
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
    const int64_t rows = n->in[X]->dtype == AG_BF16 ? ag_threads() * (backward ? 3 : 2) : 0;
    return (rows + !n->in[WEIGHT] + !n->in[BIAS]) * t.width * (int64_t)sizeof(real) + (backward ? ag_tiles_workspace(&t) : 0);
}

static ag_tensor *layer_check(ag_tensor **in) { return ag_layer_norm(in[0], .weight = in[1], .bias = in[2]); }
static ag_tensor *layer_plain(ag_tensor **in) { return ag_layer_norm(in[0], .eps = 1e-3); }

const ag_op ag_op_layer_norm = {
    .name = "layer_norm", .inputs = "x weight bias", .infer = layer_infer, .bf16 = 1 << X, .workspace = layer_workspace,
    .forward = { layer_forward }, .backward = { layer_backward },
    .check = { { "x[3,7] weight[7] bias[7]", layer_check }, { "x[2,3,5]", layer_plain },
               { "x[3,43,5] weight[5] bias[5]", layer_check } },
};

ag_tensor *ag_layer_norm_(const char *at, ag_tensor *x, ag_layer_norm_opts opts)
{
    const double eps = opts.eps > 0 ? opts.eps : 1e-5;
    return ag_apply_(at, &ag_op_layer_norm, INPUTS, (ag_tensor *[]){ x, opts.weight, opts.bias }, &eps, sizeof eps);
}
