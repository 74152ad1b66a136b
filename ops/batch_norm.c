/* ops/batch_norm.c - per channel over all other axes, then a residual and an activation in the same pass:
 * y = activation((x - mean) rstd w + b + residual).
 *
 * Backward computes the sum before the activation once more from x (and the residual) instead of keeping it. Narrow rows
 * are folded (ag_tiles_fold): the parameters then lie several times behind one another. */
#include <math.h>
#include <string.h>
#include "core/ranks.h"
#include "core/thread.h"
#include "ops/activation.h"
#include "ops/args.h"
#include "ops/channels.h"
#include "ops/registry.h"
#include "ops/tiles.h"

enum { X, WEIGHT, BIAS, RUNNING_MEAN, RUNNING_VAR, RESIDUAL, INPUTS };

static void batch_infer(ag_node *n)
{
    const ag_batch_arg *a = n->arg;
    const ag_tensor *x = n->in[X], *residual = n->in[RESIDUAL];
    ag_node_require_real(n, x, "x");
    AG_REQUIRE(n, x->ndim >= 2, "needs x [..., C] with at least two axes");
    const int64_t channels = x->shape[x->ndim - 1];
    ag_node_require_channels(n, n->in[WEIGHT], "weight", channels);
    ag_node_require_channels(n, n->in[BIAS], "bias", channels);
    ag_node_require_channels(n, n->in[RUNNING_MEAN], "running_mean", channels);
    ag_node_require_channels(n, n->in[RUNNING_VAR], "running_var", channels);
    ag_node_require_activation(n, a->activation);
    AG_REQUIRE(n, !residual || ag_same_shape(x, residual), "residual must have the shape of x");
    AG_REQUIRE(n, !a->training || (channels && ag_numel(x) / channels > 1),
               "needs more than one value per channel to train; a last batch of one sample: .drop_last of the loader");
    ag_node_out_like(n, x);
    if (!ag_node_trains(n)) return;
    ag_node_save(n, 0, AG_F32, AG_SHAPE(channels));
    ag_node_save(n, 1, AG_F32, AG_SHAPE(channels));
}

/* By folded column: what a row meets. */
typedef struct {
    const void *x, *residual, *g;
    void *y, *dx, *dresidual;
    ag_dtype dtype;
    ag_activation activation;           /* the clamp to lo .. hi, or what comes behind it */
    real lo, hi;
    real *mean, *scale, *bias;          /* z = (x - mean) scale + bias + residual */
    real *by_g, *by_x, *by_1;           /* d x = g by_g + (x - mean) by_x + by_1 */
    int64_t width, channels;
    bool add, add_residual, clamps;
} batch_job;

static ag_tiles tiles_of(const ag_node *n, const batch_job *j, void (*tile)(ag_tile, real *, const void *), int sums)
{
    const ag_tensor *x = n->in[X];
    const int64_t channels = x->shape[x->ndim - 1], rows = ag_numel(x) / channels, fold = ag_tiles_fold(rows, channels);
    return (ag_tiles){ .groups = 1, .rows = rows / fold, .width = channels * fold, .sums = sums,
                       .cost = 0.5 * (double)(channels * fold), .tile = tile, .arg = j };
}

static batch_job job_of(const ag_node *n, int columns)
{
    const ag_tensor *x = n->in[X], *residual = n->in[RESIDUAL];
    batch_job j = { .x = x->data, .residual = residual ? residual->data : NULL, .dtype = x->dtype,
                    .activation = ((const ag_batch_arg *)n->arg)->activation, .channels = x->shape[x->ndim - 1],
                    .width = tiles_of(n, NULL, NULL, 0).width, .lo = -INFINITY, .hi = INFINITY };
    if (ag_activation_by_output(j.activation)) {
        if (j.activation) j.lo = 0;
        if (j.activation == AG_LINEAR_RELU6) j.hi = 6;
        j.clamps = j.activation, j.activation = AG_LINEAR_PLAIN;
    }
    j.mean = ag_workspace(n, columns * j.width, sizeof *j.mean);
    j.scale = j.mean + j.width, j.bias = j.scale + j.width;
    j.by_g = j.bias + j.width, j.by_x = j.by_g + j.width, j.by_1 = j.by_x + j.width;
    return j;
}

static void fold_columns(const batch_job *j, real *column)
{
    for (int64_t i = j->channels; i < j->width; i++) column[i] = column[i - j->channels];
}

static double unfolded(const batch_job *j, const double *sums, int64_t c)
{
    double sum = 0;
    for (int64_t i = c; i < j->width; i += j->channels) sum += sums[i];
    return sum;
}

/* ---- statistics ---------------------------------------------------------------------------------------- */

/* Sums of x - about and of its square; about: any value not far from the mean, so that little is lost in
 * variance = mean square - squared mean. */
AG_INLINE void statistics_rows(ag_dtype type, const batch_job *j, ag_tile t, real *sums)
{
    const real *about = j->mean + t.column;
    real *restrict sum = sums, *restrict square = sums + t.n;
    for (int64_t r = t.row, at = r * j->width + t.column; r < t.end; r++, at += j->width)
        for (int64_t i = 0; i < t.n; i++) {
            const real d = ag_get(j->x, type, at + i) - about[i];
            sum[i] += d, square[i] += d * d;
        }
}

static void statistics_tile(ag_tile t, real *sums, const void *arg)
{
    const batch_job *j = arg;
    if (j->dtype == AG_BF16) statistics_rows(AG_BF16, j, t, sums);
    else statistics_rows(AG_F32, j, t, sums);
}

/* The mean of a few rows from all over x. */
static void guess_mean(const batch_job *j, int64_t rows)
{
    enum { SAMPLE = 64 };
    const int64_t sample = rows < SAMPLE ? rows : SAMPLE;
    real buf[AG_TILE_COLUMNS];
    for (int64_t c = 0; c < j->channels; c += AG_TILE_COLUMNS) {
        const int64_t n = j->channels - c < AG_TILE_COLUMNS ? j->channels - c : AG_TILE_COLUMNS;
        real *mean = j->mean + c;
        for (int64_t k = 0; k < sample; k++) {
            const real *x = ag_widen(j->x, j->dtype, (2 * k + 1) * rows / (2 * sample) * j->channels + c, n, buf);
            for (int64_t i = 0; i < n; i++) mean[i] = (k ? mean[i] : 0) + x[i] / (real)sample;
        }
    }
    fold_columns(j, j->mean);
}

/* The sums over all ranks' rows, of all about rank 0's guess; returns how many rows those are. (SyncBatchNorm) */
static double sums_of_ranks(const ag_node *n, const batch_job *j, double *sums)
{
    const int64_t channels = j->channels;
    double rows = (double)(ag_numel(n->in[X]) / channels), *all = ag_workspace(n, 2 * channels + 1, sizeof *all);
    real *own = ag_workspace(n, channels, sizeof *own);
    memcpy(own, j->mean, (size_t)channels * sizeof *own);
    ag_ranks_broadcast(j->mean, channels * (int64_t)sizeof *j->mean);
    for (int64_t c = 0; c < channels; c++) {        /* x - theirs = (x - own) + shift */
        const double shift = (double)own[c] - (double)j->mean[c];
        const double sum = unfolded(j, sums, c), square = unfolded(j, sums + j->width, c);
        all[c] = sum + rows * shift, all[channels + c] = square + 2 * shift * sum + rows * shift * shift;
    }
    all[2 * channels] = rows;
    ag_ranks_sum(all, 2 * channels + 1);
    memset(sums, 0, (size_t)(2 * j->width) * sizeof *sums);
    memcpy(sums, all, (size_t)channels * sizeof *sums);
    memcpy(sums + j->width, all + channels, (size_t)channels * sizeof *sums);
    return all[2 * channels];
}

static void batch_statistics(const ag_node *n, const batch_job *j, real *rstd)
{
    const ag_batch_arg *a = n->arg;
    double rows = (double)(ag_numel(n->in[X]) / j->channels);
    real *running_mean = ag_real(n->in[RUNNING_MEAN]), *running_var = ag_real(n->in[RUNNING_VAR]);
    guess_mean(j, ag_numel(n->in[X]) / j->channels);
    const ag_tiles t = tiles_of(n, j, statistics_tile, 2);
    double *sums = ag_tiles_run(n, &t);
    if (ag_ranks() > 1) rows = sums_of_ranks(n, j, sums);
    for (int64_t c = 0; c < j->channels; c++) {
        const double beyond = unfolded(j, sums, c) / rows, mean = (double)j->mean[c] + beyond;
        const double square = fmax(unfolded(j, sums + j->width, c) - rows * beyond * beyond, 0);
        j->mean[c] = (real)mean;
        rstd[c] = (real)(1 / sqrt(square / rows + a->eps));
        running_mean[c] += (real)(a->momentum * (mean - (double)running_mean[c]));
        running_var[c] += (real)(a->momentum * (square / (rows - 1) - (double)running_var[c]));
    }
}

static void running_statistics(const ag_node *n, const batch_job *j, real *rstd)
{
    const double eps = ((const ag_batch_arg *)n->arg)->eps;
    for (int64_t c = 0; c < j->channels; c++) {
        j->mean[c] = ag_real(n->in[RUNNING_MEAN])[c];
        rstd[c] = (real)(1 / sqrt((double)ag_real(n->in[RUNNING_VAR])[c] + eps));
    }
}

static void set_columns(const ag_node *n, const batch_job *j, const real *rstd)
{
    const ag_tensor *w = n->in[WEIGHT], *b = n->in[BIAS];
    for (int64_t c = 0; c < j->channels; c++) {
        j->scale[c] = rstd[c] * (w ? ag_real(w)[c] : 1);
        j->bias[c] = b ? ag_real(b)[c] : 0;
    }
    fold_columns(j, j->mean), fold_columns(j, j->scale), fold_columns(j, j->bias);
}

/* ---- forward ------------------------------------------------------------------------------------------- */

/* z of n elements from `at` on, in columns from `column` on, clamped. */
AG_INLINE void normalise(ag_dtype type, const batch_job *j, int64_t at, int64_t column, int64_t n, real *restrict z)
{
    const real *mean = j->mean + column, *scale = j->scale + column, *bias = j->bias + column, lo = j->lo, hi = j->hi;
    if (j->residual)
        for (int64_t i = 0; i < n; i++) {
            const real v = (ag_get(j->x, type, at + i) - mean[i]) * scale[i] + bias[i]
                           + ag_get(j->residual, type, at + i);
            z[i] = v < lo ? lo : v > hi ? hi : v;
        }
    else
        for (int64_t i = 0; i < n; i++) {
            const real v = (ag_get(j->x, type, at + i) - mean[i]) * scale[i] + bias[i];
            z[i] = v < lo ? lo : v > hi ? hi : v;
        }
}

AG_INLINE void forward_rows(ag_dtype type, const batch_job *j, ag_tile t)
{
    real buf[AG_TILE_COLUMNS];
    for (int64_t r = t.row, at = r * j->width + t.column; r < t.end; r++, at += j->width) {
        real *y = ag_narrow_to(j->y, type, at, buf);
        normalise(type, j, at, t.column, t.n, y);
        ag_activate(j->activation, t.n, y);
        ag_narrow(j->y, type, at, t.n, y);
    }
}

static void forward_tile(ag_tile t, real *sums, const void *arg)
{
    const batch_job *j = arg;
    (void)sums;
    if (j->dtype == AG_BF16) forward_rows(AG_BF16, j, t);
    else forward_rows(AG_F32, j, t);
}

static void batch_forward(ag_node *n)
{
    batch_job j = job_of(n, 3);
    real *rstd = n->saved[1] ? ag_real(n->saved[1]) : ag_workspace(n, j.channels, sizeof *rstd);
    if (((const ag_batch_arg *)n->arg)->training) batch_statistics(n, &j, rstd);
    else running_statistics(n, &j, rstd);
    set_columns(n, &j, rstd);
    if (n->saved[0]) memcpy(n->saved[0]->data, j.mean, (size_t)j.channels * sizeof *j.mean);
    j.y = n->out->data;
    const ag_tiles t = tiles_of(n, &j, forward_tile, 0);
    ag_tiles_run(n, &t);
}

/* ---- backward ------------------------------------------------------------------------------------------ */

/* Of a clamp the gradient passes within. */
AG_INLINE void clamp_grad(ag_dtype type, const batch_job *j, int64_t at, int64_t column, int64_t n, real *restrict g)
{
    const real *mean = j->mean + column, *scale = j->scale + column, *bias = j->bias + column, lo = j->lo, hi = j->hi;
    if (j->residual)
        for (int64_t i = 0; i < n; i++) {
            const real z = (ag_get(j->x, type, at + i) - mean[i]) * scale[i] + bias[i]
                           + ag_get(j->residual, type, at + i);
            const real v = ag_get(j->g, type, at + i);
            g[i] = z > lo && z < hi ? v : 0;
        }
    else
        for (int64_t i = 0; i < n; i++) {
            const real z = (ag_get(j->x, type, at + i) - mean[i]) * scale[i] + bias[i], v = ag_get(j->g, type, at + i);
            g[i] = z > lo && z < hi ? v : 0;
        }
}

/* The gradient of z; in buf where it is not g itself. */
AG_INLINE const real *gradient(ag_dtype type, const batch_job *j, int64_t at, int64_t column, int64_t n, real *buf)
{
    if (j->clamps) {
        clamp_grad(type, j, at, column, n, buf);
        return buf;
    }
    const real *g = ag_widen(j->g, type, at, n, buf);
    if (!j->activation) return g;
    real z[AG_TILE_COLUMNS];
    normalise(type, j, at, column, n, z);
    ag_activate_grad(j->activation, n, z, g, buf);
    return buf;
}

AG_INLINE void sums_rows(ag_dtype type, const batch_job *j, ag_tile t, real *sums)
{
    const real *mean = j->mean + t.column;
    real buf[AG_TILE_COLUMNS], *restrict sum = sums, *restrict dot = sums + t.n;
    for (int64_t r = t.row, at = r * j->width + t.column; r < t.end; r++, at += j->width) {
        const real *g = gradient(type, j, at, t.column, t.n, buf);
        for (int64_t i = 0; i < t.n; i++) sum[i] += g[i], dot[i] += g[i] * (ag_get(j->x, type, at + i) - mean[i]);
    }
}

static void grad_sums_tile(ag_tile t, real *sums, const void *arg)
{
    const batch_job *j = arg;
    if (j->dtype == AG_BF16) sums_rows(AG_BF16, j, t, sums);
    else sums_rows(AG_F32, j, t, sums);
}

static void give_row(void *d, ag_dtype dtype, int64_t at, int64_t n, const real *v, bool add)
{
    real buf[AG_TILE_COLUMNS], *to = ag_narrow_grad(d, dtype, at, n, buf, add);
    for (int64_t i = 0; i < n; i++) to[i] = add ? to[i] + v[i] : v[i];
    ag_narrow(d, dtype, at, n, to);
}

AG_INLINE void grad_rows(ag_dtype type, const batch_job *j, ag_tile t)
{
    const real *mean = j->mean + t.column, *by_g = j->by_g + t.column;
    const real *by_x = j->by_x + t.column, *by_1 = j->by_1 + t.column;
    real g_buf[AG_TILE_COLUMNS], d_buf[AG_TILE_COLUMNS];
    for (int64_t r = t.row, at = r * j->width + t.column; r < t.end; r++, at += j->width) {
        const real *g = gradient(type, j, at, t.column, t.n, g_buf);
        if (j->dresidual) give_row(j->dresidual, type, at, t.n, g, j->add_residual);
        if (!j->dx) continue;
        real *restrict d = ag_narrow_grad(j->dx, type, at, t.n, d_buf, j->add);
        if (j->add)
            for (int64_t i = 0; i < t.n; i++)
                d[i] += g[i] * by_g[i] + (ag_get(j->x, type, at + i) - mean[i]) * by_x[i] + by_1[i];
        else
            for (int64_t i = 0; i < t.n; i++)
                d[i] = g[i] * by_g[i] + (ag_get(j->x, type, at + i) - mean[i]) * by_x[i] + by_1[i];
        ag_narrow(j->dx, type, at, t.n, d);
    }
}

static void grad_tile(ag_tile t, real *sums, const void *arg)
{
    const batch_job *j = arg;
    (void)sums;
    if (j->dtype == AG_BF16) grad_rows(AG_BF16, j, t);
    else grad_rows(AG_F32, j, t);
}

/* With h = (x - mean) rstd:  d w = sum g h,  d b = sum g,  d x = w rstd (g - mean(g) - h mean(g h)); in evaluation the
 * statistics are constants and the means absent. */
static void gradient_sums(ag_node *n, const batch_job *j, const real *rstd)
{
    const bool training = ((const ag_batch_arg *)n->arg)->training;
    double rows = (double)ag_numel(n->out) / (double)j->channels;
    const ag_tiles t = tiles_of(n, j, grad_sums_tile, 2);
    double *sums = ag_tiles_run(n, &t), *dots = sums + j->width;
    for (int64_t c = 0; c < j->channels; c++)
        sums[c] = unfolded(j, sums, c), dots[c] = unfolded(j, dots, c) * (double)rstd[c];
    ag_give_channels(n, BIAS, sums);
    ag_give_channels(n, WEIGHT, dots);
    if (training && ag_ranks() > 1) {               /* parameters have their own rank's part, x that of all */
        ag_ranks_sum(sums, j->channels);
        ag_ranks_sum(dots, j->channels);
        ag_ranks_sum(&rows, 1);
    }
    const double share = training ? 1 / rows : 0;
    for (int64_t c = 0; c < j->channels; c++) {
        j->by_g[c] = j->scale[c];
        j->by_x[c] = (real)(-dots[c] * share * (double)(j->scale[c] * rstd[c]));
        j->by_1[c] = (real)(-sums[c] * share * (double)j->scale[c]);
    }
    fold_columns(j, j->by_g), fold_columns(j, j->by_x), fold_columns(j, j->by_1);
}

static void batch_backward(ag_node *n)
{
    batch_job j = job_of(n, 6);
    const real *rstd = ag_real(n->saved[1]);
    memcpy(j.mean, n->saved[0]->data, (size_t)j.channels * sizeof *j.mean);
    set_columns(n, &j, rstd);
    j.g = n->out->grad->data;
    gradient_sums(n, &j, rstd);
    j.dx = n->din[X] ? n->din[X]->data : NULL, j.add = n->accumulate[X];
    if (!j.clamps && !j.activation) ag_node_give(n, RESIDUAL, n->out->grad);
    else if (n->din[RESIDUAL]) j.dresidual = n->din[RESIDUAL]->data, j.add_residual = n->accumulate[RESIDUAL];
    const ag_tiles t = tiles_of(n, &j, grad_tile, 0);
    if (j.dx || j.dresidual) ag_tiles_run(n, &t);
}

static int64_t batch_workspace(const ag_node *n, bool backward)
{
    const ag_tiles t = tiles_of(n, NULL, NULL, 2);
    const bool sums = backward || ((const ag_batch_arg *)n->arg)->training;
    const int64_t rstd = n->saved[1] ? 0 : n->in[X]->shape[n->in[X]->ndim - 1];
    return ((backward ? 6 : 3) * t.width + rstd) * (int64_t)sizeof(real) + (sums ? ag_tiles_workspace(&t) : 0);
}

/* ---- the op -------------------------------------------------------------------------------------------- */

static ag_tensor *train(ag_tensor **in, ag_tensor *residual, ag_activation activation)
{
    const int64_t c = in[1]->shape[0];
    return ag_batch_norm(in[0], ag_zeros(c), ag_ones(c), .weight = in[1], .bias = in[2], .training = true,
                         .residual = residual, .activation = activation);
}
static ag_tensor *train_check(ag_tensor **in) { return train(in, NULL, AG_LINEAR_PLAIN); }
static ag_tensor *train_hardswish_check(ag_tensor **in) { return train(in, NULL, AG_LINEAR_HARDSWISH); }
static ag_tensor *train_relu_check(ag_tensor **in) { return train(in, in[3], AG_LINEAR_RELU); }
static ag_tensor *train_residual_check(ag_tensor **in) { return train(in, in[3], AG_LINEAR_PLAIN); }
static ag_tensor *eval_check(ag_tensor **in)
{
    return ag_batch_norm(in[0], in[3], in[4], .weight = in[1], .bias = in[2]);
}
static ag_tensor *eval_relu6_check(ag_tensor **in)
{
    return ag_batch_norm(in[0], in[3], in[4], .weight = in[1], .bias = in[2], .residual = in[5],
                         .activation = AG_LINEAR_RELU6);
}
static ag_tensor *running_check(ag_tensor **in)       /* what training does to the running statistics */
{
    ag_tensor *mean = ag_zeros(3), *var = ag_ones(3);
    AG_NO_GRAD;
    const ag_tensor *y = ag_batch_norm(in[0], mean, var, .training = true, .momentum = 0.3);
    (void)y;
    return ag_keep(ag_stack(0, mean, var));
}

const ag_op ag_op_batch_norm = {
    .name = "batch_norm", .inputs = "x weight bias running_mean running_var residual", .infer = batch_infer,
    .unread_out = true, .unread_cuda = true, .bf16 = 1 << X | 1 << RESIDUAL, .bf16_cuda = 1 << X | 1 << RESIDUAL,
    .workspace = batch_workspace,
    .forward = { batch_forward, AG_CUDA_FN(ag_batch_norm_forward_cuda) },
    .backward = { batch_backward, AG_CUDA_FN(ag_batch_norm_backward_cuda) },
    .check = { { "x[4,5] weight[5] bias[5]", train_check }, { "x[2,3,5] weight[5] bias[5]", train_hardswish_check },
               { "x[4,5] weight[5] bias[5] m[5]:const v[5]:cpos", eval_check }, { "x[7,3]:const", running_check },
               { "x[2,3,3] weight[3] bias[3] residual[2,3,3]", train_relu_check },
               { "x[3,43,2] weight[2] bias[2] residual[3,43,2]", train_residual_check },
               { "x[4,5]:far weight[5] bias[5] m[5]:const v[5]:cpos residual[4,5]", eval_relu6_check } },
};

ag_tensor *ag_batch_norm_(const char *at, ag_tensor *x, ag_tensor *running_mean, ag_tensor *running_var,
                          ag_batch_norm_opts opts)
{
    const ag_batch_arg a = { opts.momentum > 0 ? opts.momentum : 0.1, opts.eps > 0 ? opts.eps : 1e-5, opts.training,
                          opts.activation };
    return ag_apply_(at, &ag_op_batch_norm, INPUTS,
                     (ag_tensor *[]){ x, opts.weight, opts.bias, running_mean, running_var, opts.residual }, &a, sizeof a);
}
