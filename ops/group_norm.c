/* ops/group_norm.c - y = (x - mean) rstd w + b, statistics of each sample over C / groups channels and all pixels. */
#include <math.h>
#include "core/bf16.h"
#include "ops/affine.h"
#include "ops/args.h"
#include "ops/channels.h"
#include "ops/registry.h"
#include "ops/vision.h"

enum { X, WEIGHT, BIAS, INPUTS };

static void group_infer(ag_node *n)
{
    const ag_group_arg *a = n->arg;
    const ag_tensor *x = n->in[X];
    ag_node_require_real(n, x, "x");
    AG_REQUIRE(n, x->ndim >= 2, "needs x [N, ..., C] with at least two axes");
    const int64_t channels = x->shape[x->ndim - 1];
    AG_REQUIRE(n, a->groups > 0 && channels % a->groups == 0, "%" PRId64 " channels do not split into %" PRId64 " groups",
               channels, a->groups);
    ag_node_require_channels(n, n->in[WEIGHT], "weight", channels);
    ag_node_require_channels(n, n->in[BIAS], "bias", channels);
    ag_node_out_like(n, x);
    if (!ag_node_trains(n)) return;
    ag_node_save(n, 0, AG_F32, AG_SHAPE(x->shape[0], a->groups));
    ag_node_save(n, 1, AG_F32, AG_SHAPE(x->shape[0], a->groups));
}

static double value_or(const ag_tensor *t, int64_t i, double none) { return t ? (double)ag_real(t)[i] : none; }

/* Of the channels first .. last of sample s; sums: of x - x0 and its square, x0 the first pixel. */
static double mean_of(const ag_affine *a, const double *sums, const real *x0, int64_t first, int64_t last, double *var)
{
    double mean = 0, square = 0;
    for (int64_t c = first; c < last; c++) mean += (double)x0[c] + sums[c] / (double)a->rows;
    mean /= (double)(last - first);
    for (int64_t c = first; c < last; c++) {
        const double d = (double)x0[c] - mean;
        square += sums[a->channels + c] + d * (2 * sums[c] + d * (double)a->rows);
    }
    *var = fmax(square, 0) / (double)((last - first) * a->rows);
    return mean;
}

static void group_forward(ag_node *n)
{
    const ag_group_arg *arg = n->arg;
    ag_affine a = ag_affine_of(n, false);
    const int64_t per = a.channels / arg->groups;
    real *buf = ag_workspace(n, a.channels, sizeof *buf);
    const double *sums = ag_affine_sums(n, &a);
    for (int64_t s = 0; s < a.samples; s++) {
        const real *x0 = ag_widen(a.x, a.dtype, s * a.rows * a.channels, a.channels, buf);
        for (int64_t g = 0; g < arg->groups; g++) {
            double var;
            const double mean = mean_of(&a, sums + 2 * s * a.channels, x0, g * per, (g + 1) * per, &var);
            const double rstd = 1 / sqrt(var + arg->eps);
            for (int64_t c = g * per; c < (g + 1) * per; c++) {
                const double by = rstd * value_or(n->in[WEIGHT], c, 1);
                a.by_x[s * a.channels + c] = (real)by;
                a.by_1[s * a.channels + c] = (real)(value_or(n->in[BIAS], c, 0) - mean * by);
            }
            if (!n->saved[0]) continue;
            ag_real(n->saved[0])[s * arg->groups + g] = (real)mean;
            ag_real(n->saved[1])[s * arg->groups + g] = (real)rstd;
        }
    }
    a.out = n->out->data;
    ag_affine_run(n, &a);
}

/* With h = (x - mean) rstd and u = g w:   d w = sum g h,  d b = sum g,  d x = rstd (u - mean(u) - h mean(u h)).
 * gx, g: the sums of sample s; turned into those of g h and g. */
static void group_coefficients(const ag_node *n, const ag_affine *a, int64_t s, int64_t group, double *gx, double *g)
{
    const int64_t groups = ((const ag_group_arg *)n->arg)->groups, per = a->channels / groups, k = s * groups + group;
    const double mean = (double)ag_real(n->saved[0])[k], rstd = (double)ag_real(n->saved[1])[k];
    double u = 0, uh = 0;
    for (int64_t c = group * per; c < (group + 1) * per; c++) {
        const double w = value_or(n->in[WEIGHT], c, 1);
        gx[c] = (gx[c] - mean * g[c]) * rstd;
        u += w * g[c], uh += w * gx[c];
    }
    u /= (double)(per * a->rows), uh /= (double)(per * a->rows);
    for (int64_t c = group * per; c < (group + 1) * per; c++) {
        const int64_t i = s * a->channels + c;
        a->by_g[i] = (real)(rstd * value_or(n->in[WEIGHT], c, 1));
        a->by_x[i] = (real)(-rstd * rstd * uh);
        a->by_1[i] = (real)(rstd * (mean * rstd * uh - u));
    }
}

static void group_backward(ag_node *n)
{
    const ag_affine a = ag_affine_of(n, true);
    double *sums = ag_affine_sums(n, &a);
    for (int64_t s = 0; s < a.samples; s++) {
        double *gx = sums + 2 * s * a.channels, *g = gx + a.channels;
        for (int64_t k = 0; k < ((const ag_group_arg *)n->arg)->groups; k++) group_coefficients(n, &a, s, k, gx, g);
        for (int64_t c = 0; s && c < 2 * a.channels; c++) sums[c] += gx[c];
    }
    ag_give_channels(n, WEIGHT, sums);
    ag_give_channels(n, BIAS, sums + a.channels);
    if (a.out) ag_affine_run(n, &a);
}

static int64_t group_workspace(const ag_node *n, bool backward)
{
    const int64_t channels = n->in[X]->shape[n->in[X]->ndim - 1];
    return ag_affine_workspace(n, backward) + (backward ? 0 : channels * (int64_t)sizeof(real));
}

static ag_tensor *group_check(ag_tensor **in) { return ag_group_norm(in[0], 2, .weight = in[1], .bias = in[2]); }
static ag_tensor *group_plain(ag_tensor **in) { return ag_group_norm(in[0], 3, .eps = 1e-3); }

const ag_op ag_op_group_norm = {
    .name = "group_norm", .inputs = "x weight bias", .infer = group_infer,
    .unread_out = true, .unread_cuda = true, .bf16 = 1 << X, .bf16_cuda = 1 << X, .workspace = group_workspace,
    .forward = { group_forward, AG_CUDA_FN(ag_group_norm_forward_cuda) },
    .backward = { group_backward, AG_CUDA_FN(ag_group_norm_backward_cuda) },
    .check = { { "x[2,3,3,4] weight[4] bias[4]", group_check }, { "x[3,6]:far", group_plain },
               { "x[1,67,2] weight[2] bias[2]", group_check } },
};

ag_tensor *ag_group_norm_(const char *at, ag_tensor *x, int64_t groups, ag_group_norm_opts opts)
{
    const ag_group_arg a = { groups, opts.eps > 0 ? opts.eps : 1e-5 };
    return ag_apply_(at, &ag_op_group_norm, INPUTS, (ag_tensor *[]){ x, opts.weight, opts.bias }, &a, sizeof a);
}
