/* ops/norm.c - layer_norm over the last axis, batch_norm per channel over all other axes, cosine similarity. */
#include "core/thread.h"
#include "ops/formulas.h"
#include "ops/ops.h"
#include "ops/registry.h"

enum { X, WEIGHT, BIAS, INPUTS };

static void require_channels(const ag_node *n, int k, const char *name, int64_t channels)
{
    const ag_tensor *t = n->in[k];
    if (!t) return;
    ag_node_require_real(n, t, name);
    AG_REQUIRE(n, t->ndim == 1 && t->shape[0] == channels, "%s must be [%" PRId64 "], the last axis of x", name, channels);
}

static const real *optional(const ag_tensor *t) { return t ? ag_real(t) : NULL; }

/* ---- layer_norm: y = (x - mean) rstd w + b ------------------------------------------------------------- */

typedef struct {
    const real *x, *w, *b, *g;
    real *y, *mean, *rstd, eps;
    int64_t width;
    bool add;
} layer_job;

static void layer_infer(ag_node *n)
{
    const ag_tensor *x = n->in[X];
    ag_node_require_real(n, x, "x");
    AG_REQUIRE(n, x->ndim >= 1 && x->shape[x->ndim - 1] > 0, "needs a last axis with elements");
    const int64_t width = x->shape[x->ndim - 1];
    require_channels(n, WEIGHT, "weight", width);
    require_channels(n, BIAS, "bias", width);
    ag_node_out_like(n, x);
    ag_node_save(n, 0, AG_F32, AG_SHAPE(ag_numel(x) / width));
    ag_node_save(n, 1, AG_F32, AG_SHAPE(ag_numel(x) / width));
}

static layer_job layer_job_of(const ag_node *n)
{
    const ag_tensor *x = n->in[X];
    return (layer_job){ .x = ag_real(x), .w = optional(n->in[WEIGHT]), .b = optional(n->in[BIAS]),
                        .mean = ag_real(n->saved[0]), .rstd = ag_real(n->saved[1]), .eps = (real)*(const double *)n->arg,
                        .width = x->shape[x->ndim - 1] };
}

static void layer_rows(int64_t begin, int64_t end, void *arg)
{
    const layer_job j = *(layer_job *)arg;
    for (int64_t r = begin; r < end; r++) {
        const real *x = j.x + r * j.width;
        real *y = j.y + r * j.width, sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < j.width; i++) sum += x[i];
        const real mean = sum / (real)j.width;
#pragma omp simd reduction(+ : square)
        for (int64_t i = 0; i < j.width; i++) square += (x[i] - mean) * (x[i] - mean);
        const real rstd = 1 / SQRT(square / (real)j.width + j.eps);
        for (int64_t i = 0; i < j.width; i++) y[i] = (x[i] - mean) * rstd * (j.w ? j.w[i] : 1) + (j.b ? j.b[i] : 0);
        j.mean[r] = mean, j.rstd[r] = rstd;
    }
}

/* with h = (x - mean) rstd and u = g w:   d x = rstd (u - mean(u) - h mean(u h)) */
static void layer_rows_grad(int64_t begin, int64_t end, void *arg)
{
    const layer_job j = *(layer_job *)arg;
    for (int64_t r = begin; r < end; r++) {
        const real *x = j.x + r * j.width, *g = j.g + r * j.width, mean = j.mean[r], rstd = j.rstd[r];
        real *d = j.y + r * j.width, sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
        for (int64_t i = 0; i < j.width; i++) {
            const real u = g[i] * (j.w ? j.w[i] : 1);
            sum += u, dot += u * (x[i] - mean) * rstd;
        }
        sum /= (real)j.width, dot /= (real)j.width;
        for (int64_t i = 0; i < j.width; i++) {
            const real v = rstd * (g[i] * (j.w ? j.w[i] : 1) - sum - (x[i] - mean) * rstd * dot);
            d[i] = j.add ? d[i] + v : v;
        }
    }
}

static void layer_forward(ag_node *n)
{
    layer_job j = layer_job_of(n);
    j.y = ag_real(n->out);
    ag_parallel(ag_numel(n->out) / j.width, 8, (double)j.width, layer_rows, &j);
}

typedef struct { const real *x, *g, *mean, *rstd; real *dw, *db; int64_t rows, width; bool add_w, add_b; } column_job;

static void layer_columns(int64_t begin, int64_t end, void *arg)
{
    const column_job j = *(column_job *)arg;
    for (int64_t i = begin; i < end; i++) {
        if (j.dw && !j.add_w) j.dw[i] = 0;
        if (j.db && !j.add_b) j.db[i] = 0;
    }
    for (int64_t r = 0; r < j.rows; r++) {
        const real *x = j.x + r * j.width, *g = j.g + r * j.width;
        if (j.dw) for (int64_t i = begin; i < end; i++) j.dw[i] += g[i] * (x[i] - j.mean[r]) * j.rstd[r];
        if (j.db) for (int64_t i = begin; i < end; i++) j.db[i] += g[i];
    }
}

static void layer_backward(ag_node *n)
{
    layer_job j = layer_job_of(n);
    const int64_t rows = ag_numel(n->out) / j.width;
    j.g = ag_real(n->out->grad), j.add = n->accumulate[X];
    if (n->din[X]) {
        j.y = ag_real(n->din[X]);
        ag_parallel(rows, 8, (double)j.width, layer_rows_grad, &j);
    }
    if (!n->din[WEIGHT] && !n->din[BIAS]) return;
    ag_parallel(j.width, 64, (double)rows, layer_columns,
                &(column_job){ j.x, j.g, j.mean, j.rstd, n->din[WEIGHT] ? ag_real(n->din[WEIGHT]) : NULL,
                               n->din[BIAS] ? ag_real(n->din[BIAS]) : NULL, rows, j.width, n->accumulate[WEIGHT],
                               n->accumulate[BIAS] });
}

static ag_tensor *layer_check(ag_tensor **in) { return ag_layer_norm(in[0], .weight = in[1], .bias = in[2]); }
static ag_tensor *layer_plain(ag_tensor **in) { return ag_layer_norm(in[0], .eps = 1e-3); }

const ag_op ag_op_layer_norm = {
    .name = "layer_norm", .inputs = "x weight bias", .infer = layer_infer,
    .forward = { layer_forward }, .backward = { layer_backward },
    .check = { { "x[3,7] weight[7] bias[7]", layer_check }, { "x[2,3,5]", layer_plain } },
};

ag_tensor *ag_layer_norm_(const char *at, ag_tensor *x, ag_layer_norm_opts opts)
{
    const double eps = opts.eps > 0 ? opts.eps : 1e-5;
    return ag_apply_(at, &ag_op_layer_norm, INPUTS, (ag_tensor *[]){ x, opts.weight, opts.bias }, &eps, sizeof eps);
}

/* ---- batch_norm ---------------------------------------------------------------------------------------- */

enum { RUNNING_MEAN = INPUTS, RUNNING_VAR, BATCH_INPUTS };
typedef struct { double momentum, eps; bool training; } batch_arg;

static void batch_infer(ag_node *n)
{
    const ag_tensor *x = n->in[X];
    ag_node_require_real(n, x, "x");
    AG_REQUIRE(n, x->ndim >= 2, "needs x [..., C] with at least two axes");
    const int64_t channels = x->shape[x->ndim - 1];
    require_channels(n, WEIGHT, "weight", channels);
    require_channels(n, BIAS, "bias", channels);
    require_channels(n, RUNNING_MEAN, "running_mean", channels);
    require_channels(n, RUNNING_VAR, "running_var", channels);
    AG_REQUIRE(n, !((const batch_arg *)n->arg)->training || (channels && ag_numel(x) / channels > 1),
               "needs more than one value per channel to train; a last batch of one sample: .drop_last of the loader");
    ag_node_out_like(n, x);
    ag_node_save(n, 0, AG_F32, AG_SHAPE(channels));
    ag_node_save(n, 1, AG_F32, AG_SHAPE(channels));
}

typedef struct {
    const real *x, *g, *w, *b;
    real *mean, *rstd, *running_mean, *running_var, *y, *dw, *db;
    int64_t rows, width;
    double momentum, eps;
    bool training, add, add_w, add_b;
} batch_job;

static batch_job batch_job_of(const ag_node *n)
{
    const batch_arg *a = n->arg;
    const ag_tensor *x = n->in[X];
    const int64_t width = x->shape[x->ndim - 1];
    return (batch_job){ .x = ag_real(x), .w = optional(n->in[WEIGHT]), .b = optional(n->in[BIAS]),
                        .mean = ag_real(n->saved[0]), .rstd = ag_real(n->saved[1]), .rows = ag_numel(x) / width,
                        .running_mean = ag_real(n->in[RUNNING_MEAN]), .running_var = ag_real(n->in[RUNNING_VAR]),
                        .width = width, .momentum = a->momentum, .eps = a->eps, .training = a->training };
}

/* The columns begin .. end, by rows so that memory is read in order. Sums of RUN rows are taken in real, the runs in
 * double: as exact as double for what a batch holds, at the speed of real. */
enum { COLUMNS = 64, RUN = 64 };

static void batch_statistics(const batch_job *j, int64_t begin, int64_t end)
{
    double sum[COLUMNS] = { 0 }, square[COLUMNS] = { 0 };
    const int64_t n = end - begin;
    for (int64_t r = 0; r < j->rows; r += RUN) {
        real part[COLUMNS] = { 0 };
        for (int64_t k = r; k < j->rows && k < r + RUN; k++)
            for (int64_t i = 0; i < n; i++) part[i] += j->x[k * j->width + begin + i];
        for (int64_t i = 0; i < n; i++) sum[i] += (double)part[i];
    }
    for (int64_t i = begin; i < end; i++) {
        sum[i - begin] /= (double)j->rows;
        j->mean[i] = (real)sum[i - begin];
    }
    for (int64_t r = 0; r < j->rows; r += RUN) {
        real part[COLUMNS] = { 0 };
        for (int64_t k = r; k < j->rows && k < r + RUN; k++)
            for (int64_t i = 0; i < n; i++) {
                const real d = j->x[k * j->width + begin + i] - j->mean[begin + i];
                part[i] += d * d;
            }
        for (int64_t i = 0; i < n; i++) square[i] += (double)part[i];
    }
    for (int64_t i = begin; i < end; i++) {
        const double var = square[i - begin] / (double)j->rows, unbiased = square[i - begin] / (double)(j->rows - 1);
        j->rstd[i] = (real)(1 / sqrt(var + j->eps));
        j->running_mean[i] += (real)(j->momentum * (sum[i - begin] - (double)j->running_mean[i]));
        j->running_var[i] += (real)(j->momentum * (unbiased - (double)j->running_var[i]));
    }
}

static void batch_columns(int64_t begin, int64_t end, void *arg)
{
    const batch_job j = *(batch_job *)arg;
    for (int64_t b = begin; b < end; b += COLUMNS) {
        const int64_t e = b + COLUMNS < end ? b + COLUMNS : end;
        if (j.training) batch_statistics(&j, b, e);
        else for (int64_t i = b; i < e; i++) {
            j.mean[i] = j.running_mean[i];
            j.rstd[i] = (real)(1 / sqrt((double)j.running_var[i] + j.eps));
        }
        for (int64_t r = 0; r < j.rows; r++)
            for (int64_t i = b; i < e; i++)
                j.y[r * j.width + i] = (j.x[r * j.width + i] - j.mean[i]) * j.rstd[i] * (j.w ? j.w[i] : 1) + (j.b ? j.b[i] : 0);
    }
}

/* d x = w rstd (g - mean(g) - h mean(g h)), h = (x - mean) rstd; in evaluation the statistics are constants. */
static void batch_columns_grad(int64_t begin, int64_t end, void *arg)
{
    const batch_job j = *(batch_job *)arg;
    for (int64_t b = begin; b < end; b += COLUMNS) {
        const int64_t e = b + COLUMNS < end ? b + COLUMNS : end;
        double sum[COLUMNS] = { 0 }, dot[COLUMNS] = { 0 };
        for (int64_t r = 0; r < j.rows; r += RUN) {
            real part[COLUMNS] = { 0 }, part_dot[COLUMNS] = { 0 };
            for (int64_t k = r; k < j.rows && k < r + RUN; k++)
                for (int64_t i = b; i < e; i++) {
                    const real g = j.g[k * j.width + i];
                    part[i - b] += g;
                    part_dot[i - b] += g * (j.x[k * j.width + i] - j.mean[i]) * j.rstd[i];
                }
            for (int64_t i = 0; i < e - b; i++) sum[i] += (double)part[i], dot[i] += (double)part_dot[i];
        }
        for (int64_t i = b; i < e; i++) {
            if (j.dw) j.dw[i] = (j.add_w ? j.dw[i] : 0) + (real)dot[i - b];
            if (j.db) j.db[i] = (j.add_b ? j.db[i] : 0) + (real)sum[i - b];
        }
        for (int64_t r = 0; r < j.rows && j.y; r++)
            for (int64_t i = b; i < e; i++) {
                const real h = (j.x[r * j.width + i] - j.mean[i]) * j.rstd[i], n = (real)j.rows;
                const real centred = j.training ? (real)sum[i - b] / n + h * ((real)dot[i - b] / n) : 0;
                const real v = (j.w ? j.w[i] : 1) * j.rstd[i] * (j.g[r * j.width + i] - centred);
                j.y[r * j.width + i] = j.add ? j.y[r * j.width + i] + v : v;
            }
    }
}

static void batch_forward(ag_node *n)
{
    batch_job j = batch_job_of(n);
    j.y = ag_real(n->out);
    ag_parallel(j.width, COLUMNS, 3 * (double)j.rows, batch_columns, &j);
}

static void batch_backward(ag_node *n)
{
    batch_job j = batch_job_of(n);
    j.g = ag_real(n->out->grad);
    j.y = n->din[X] ? ag_real(n->din[X]) : NULL, j.add = n->accumulate[X];
    j.dw = n->din[WEIGHT] ? ag_real(n->din[WEIGHT]) : NULL, j.add_w = n->accumulate[WEIGHT];
    j.db = n->din[BIAS] ? ag_real(n->din[BIAS]) : NULL, j.add_b = n->accumulate[BIAS];
    ag_parallel(j.width, COLUMNS, 3 * (double)j.rows, batch_columns_grad, &j);
}

static ag_tensor *batch_check(ag_tensor **in)
{
    return ag_batch_norm(in[0], ag_zeros(5), ag_ones(5), .weight = in[1], .bias = in[2], .training = true);
}
static ag_tensor *batch_eval_check(ag_tensor **in)
{
    return ag_batch_norm(in[0], in[3], in[4], .weight = in[1], .bias = in[2]);
}
static ag_tensor *batch_running_check(ag_tensor **in)       /* what training does to the running statistics */
{
    ag_tensor *mean = ag_zeros(3), *var = ag_ones(3);
    AG_NO_GRAD;
    const ag_tensor *y = ag_batch_norm(in[0], mean, var, .training = true, .momentum = 0.3);
    (void)y;
    return ag_keep(ag_stack(0, mean, var));
}

const ag_op ag_op_batch_norm = {
    .name = "batch_norm", .inputs = "x weight bias running_mean running_var", .infer = batch_infer,
    .forward = { batch_forward }, .backward = { batch_backward },
    .check = { { "x[4,5] weight[5] bias[5]", batch_check }, { "x[2,3,5] weight[5] bias[5]", batch_check },
               { "x[4,5] weight[5] bias[5] m[5]:const v[5]:cpos", batch_eval_check },
               { "x[7,3]:const", batch_running_check } },
};

ag_tensor *ag_batch_norm_(const char *at, ag_tensor *x, ag_tensor *running_mean, ag_tensor *running_var,
                          ag_batch_norm_opts opts)
{
    const batch_arg a = { opts.momentum > 0 ? opts.momentum : 0.1, opts.eps > 0 ? opts.eps : 1e-5, opts.training };
    return ag_apply_(at, &ag_op_batch_norm, BATCH_INPUTS,
                     (ag_tensor *[]){ x, opts.weight, opts.bias, running_mean, running_var }, &a, sizeof a);
}

/* ---- cosine similarity: a . b / (max(|a|, eps) max(|b|, eps)), composed -------------------------------- */

static ag_tensor *length(const char *at, ag_tensor *x, uint32_t axes)
{
    const double tiny = 1e-16;                      /* eps^2, eps = 1e-8 */
    ag_tensor *square = ag_sum_(at, ag_square_(at, x), (ag_reduce_opts){ .axes = axes });
    return ag_sqrt_(at, ag_clamp_(at, square, tiny, 1e300));
}

ag_tensor *ag_cosine_similarity_(const char *at, ag_tensor *a, ag_tensor *b, int axis)
{
    const uint32_t axes = ag_axes_((ag_axis_list){ 1, { axis } });
    ag_tensor *dot = ag_sum_(at, ag_mul_(at, a, b), (ag_reduce_opts){ .axes = axes });
    return ag_div_(at, dot, ag_mul_(at, length(at, a, axes), length(at, b, axes)));
}
