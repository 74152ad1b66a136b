#include "ops/fused.h"
#include <string.h>
#include "core/bf16.h"
#include "core/thread.h"
#include "ops/activation.h"

enum { PIECE = 1024 };              /* elements in the first cache */

void ag_fused_infer(ag_node *n, ag_activation activation)
{
    ag_node_require_activation(n, activation);
    if (!ag_activation_by_output(activation) && ag_node_trains(n)) ag_node_save(n, 0, n->out->dtype, ag_shape_of(n->out));
    n->unread_out = activation == AG_LINEAR_PLAIN || n->saved[0];
}

void *ag_fused_target(const ag_node *n)
{
    return n->saved[0] ? n->saved[0]->data : n->out->data;
}

ag_activation ag_fused_activation(const ag_node *n, ag_activation activation)
{
    return n->saved[0] ? AG_LINEAR_PLAIN : activation;
}

/* ---- the activation ------------------------------------------------------------------------------------ */

typedef struct { ag_activation activation; ag_dtype type; const void *z, *g; void *to; } activation_job;

static void activate(int64_t begin, int64_t end, void *arg)
{
    const activation_job j = *(activation_job *)arg;
    for (int64_t i = begin; i < end; i += PIECE) {
        const int64_t n = end - i < PIECE ? end - i : PIECE;
        real wide[PIECE], result[PIECE];
        real *y = ag_narrow_to(j.to, j.type, i, result);
        memcpy(y, ag_widen(j.z, j.type, i, n, wide), (size_t)n * sizeof *y);
        ag_activate(j.activation, n, y);
        ag_narrow(j.to, j.type, i, n, y);
    }
}

void ag_fused_finish(ag_node *n, ag_activation activation)
{
    activation_job j = { .activation = activation, .type = n->out->dtype, .to = n->out->data };
    if (!n->saved[0]) return;
    j.z = n->saved[0]->data;
    ag_parallel(ag_numel(n->out), PIECE, 0.5, activate, &j);
}

static void activation_gradient(int64_t begin, int64_t end, void *arg)
{
    const activation_job j = *(activation_job *)arg;
    for (int64_t i = begin; i < end; i += PIECE) {
        const int64_t n = end - i < PIECE ? end - i : PIECE;
        real wide_z[PIECE], wide_g[PIECE], result[PIECE];
        real *d = ag_narrow_to(j.to, j.type, i, result);
        ag_activate_grad(j.activation, n, ag_widen(j.z, j.type, i, n, wide_z), ag_widen(j.g, j.type, i, n, wide_g), d);
        ag_narrow(j.to, j.type, i, n, d);
    }
}

const void *ag_fused_gradient(ag_node *n, ag_activation activation)
{
    if (activation == AG_LINEAR_PLAIN) return n->out->grad->data;
    const int64_t count = ag_numel(n->out);
    activation_job j = { .activation = activation, .type = n->out->dtype, .g = n->out->grad->data,
                         .z = n->saved[0] ? n->saved[0]->data : n->out->data };
    j.to = ag_workspace(n, count, ag_dtype_size(j.type));
    ag_parallel(count, PIECE, 0.5, activation_gradient, &j);
    return j.to;
}

/* ---- the bias: parts of the rows, runs of a few hundred in each, added up in order ----------------------- */

enum { RUN = 64, MOST_PARTS = 16, LEAST_ROWS = 256 };
typedef struct { const void *g; ag_dtype type; int64_t rows, width, parts; real *sums; } sum_job;

static int64_t parts_of(int64_t rows)
{
    const int64_t parts = rows / LEAST_ROWS;
    return parts < 1 ? 1 : parts > MOST_PARTS ? MOST_PARTS : parts;
}

static void sum_run(const sum_job *j, int64_t first, int64_t last, int64_t column, int64_t n, real *to)
{
    real sum[PIECE] = { 0 }, wide[PIECE];
    for (int64_t r = first; r < last; r++) {
        const real *g = ag_widen(j->g, j->type, r * j->width + column, n, wide);
#pragma omp simd
        for (int64_t i = 0; i < n; i++) sum[i] += g[i];
    }
    for (int64_t i = 0; i < n; i++) to[column + i] += sum[i];
}

static void sum_parts(int64_t begin, int64_t end, void *arg)
{
    const sum_job *j = arg;
    for (int64_t p = begin; p < end; p++) {
        real *to = j->sums + p * j->width;
        const int64_t last = j->rows * (p + 1) / j->parts;
        memset(to, 0, (size_t)j->width * sizeof *to);
        for (int64_t c = 0; c < j->width; c += PIECE)
            for (int64_t r = j->rows * p / j->parts; r < last; r += RUN)
                sum_run(j, r, r + RUN < last ? r + RUN : last, c, j->width - c < PIECE ? j->width - c : PIECE, to);
    }
}

void ag_fused_bias_gradient(ag_node *n, int k, const void *g)
{
    if (!n->din[k]) return;
    const int64_t width = n->out->shape[n->out->ndim - 1], rows = ag_numel(n->out) / width;
    sum_job j = { .g = g, .type = n->out->dtype, .rows = rows, .width = width, .parts = parts_of(rows) };
    j.sums = ag_workspace(n, j.parts * width, sizeof(real));
    ag_parallel(j.parts, 1, 0.15 * (double)rows * (double)width / (double)j.parts, sum_parts, &j);
    real *d = ag_real(n->din[k]);
    for (int64_t p = 0; p < j.parts; p++)
        for (int64_t i = 0; i < width; i++) d[i] = j.sums[p * width + i] + (p || n->accumulate[k] ? d[i] : 0);
}

int64_t ag_fused_workspace(const ag_node *n, ag_activation activation)
{
    const int64_t width = n->out->shape[n->out->ndim - 1], count = ag_numel(n->out);
    return (activation == AG_LINEAR_PLAIN ? 0 : count * (int64_t)ag_dtype_size(n->out->dtype)) +
           (width ? parts_of(count / width) * width : 0) * (int64_t)sizeof(real);
}
