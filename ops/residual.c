/* ops/residual.c - y = x + branch scale keep in one pass: keep is 0 for the samples whose branch is dropped, 1 / (1 - p)
 * for the others, a function of (key, sample) that backward computes again. */
#include "ops/args.h"
#include "ops/channels.h"
#include "ops/registry.h"
#include "ops/dropout.h"
#include "ops/tiles.h"
#include "ops/vision.h"

enum { X, BRANCH, SCALE, INPUTS };

static void residual_infer(ag_node *n)
{
    const ag_drop_arg *a = n->arg;
    const ag_tensor *x = n->in[X], *branch = n->in[BRANCH];
    ag_node_require_real(n, x, "x");
    ag_node_require_real(n, branch, "branch");
    AG_REQUIRE(n, ag_same_shape(x, branch), "x and branch must have the same shape");
    AG_REQUIRE(n, x->ndim >= 1, "needs x [N, ..., C]");
    ag_node_require_channels(n, n->in[SCALE], "scale", x->shape[x->ndim - 1]);
    AG_REQUIRE(n, a->p >= 0 && a->p <= 1, ".drop_path = %g; a share lies between 0 and 1", a->p);
    ag_node_out_like(n, x);
    n->unread = 1u << X | (n->in[SCALE] && n->in[SCALE]->requires_grad ? 0 : 1u << BRANCH);
}

typedef struct {
    const void *x, *branch, *g;
    void *y, *d_branch;
    const real *scale;                  /* NULL: 1 */
    ag_dtype dtype;
    int64_t rows, width, channels;      /* of a sample; narrow rows are folded */
    ag_drop_arg drop;
    bool add;
} residual_job;

/* scale keep of the tile's columns; returns keep. */
static real factors(const residual_job *j, ag_tile t, real *by)
{
    const real kept = ag_drop_path_keep(j->drop.p, j->drop.key, t.row / j->rows);
    for (int64_t i = 0, c = t.column % j->channels; i < t.n; i++, c = c + 1 < j->channels ? c + 1 : 0)
        by[i] = kept * (j->scale ? j->scale[c] : 1);
    return kept;
}

AG_INLINE void forward_rows(ag_dtype type, const residual_job *j, ag_tile t)
{
    real by[AG_TILE_COLUMNS], buf[AG_TILE_COLUMNS];
    const real kept = factors(j, t, by);
    for (int64_t r = t.row, at = r * j->width + t.column; r < t.end; r++, at += j->width) {
        real *restrict y = ag_narrow_to(j->y, type, at, buf);
        if (kept == 0) for (int64_t i = 0; i < t.n; i++) y[i] = ag_get(j->x, type, at + i);
        else
            for (int64_t i = 0; i < t.n; i++)
                y[i] = ag_get(j->x, type, at + i) + ag_get(j->branch, type, at + i) * by[i];
        ag_narrow(j->y, type, at, t.n, y);
    }
}

static void forward_tile(ag_tile t, real *sums, const void *arg)
{
    const residual_job *j = arg;
    (void)sums;
    if (j->dtype == AG_BF16) forward_rows(AG_BF16, j, t);
    else forward_rows(AG_F32, j, t);
}

/* d branch = g scale keep,  d scale = sum g branch keep */
AG_INLINE void grad_row(ag_dtype type, const residual_job *j, int64_t at, int64_t n, const real *by, real kept,
                        real *restrict sums, real *restrict d)
{
    if (sums && d && !j->add)
        for (int64_t i = 0; i < n; i++) {
            const real g = ag_get(j->g, type, at + i);
            sums[i] += g * ag_get(j->branch, type, at + i) * kept;
            d[i] = g * by[i];
        }
    else {
        if (sums)
            for (int64_t i = 0; i < n; i++)
                sums[i] += ag_get(j->g, type, at + i) * ag_get(j->branch, type, at + i) * kept;
        if (d && j->add) for (int64_t i = 0; i < n; i++) d[i] += ag_get(j->g, type, at + i) * by[i];
        else if (d) for (int64_t i = 0; i < n; i++) d[i] = ag_get(j->g, type, at + i) * by[i];
    }
}

AG_INLINE void grad_rows(ag_dtype type, const residual_job *j, ag_tile t, real *sums)
{
    real by[AG_TILE_COLUMNS], buf[AG_TILE_COLUMNS], *d = NULL;
    const real kept = factors(j, t, by);
    for (int64_t r = t.row, at = r * j->width + t.column; r < t.end; r++, at += j->width) {
        if (j->d_branch) d = ag_narrow_grad(j->d_branch, type, at, t.n, buf, j->add);
        grad_row(type, j, at, t.n, by, kept, kept != 0 ? sums : NULL, d);
        if (d) ag_narrow(j->d_branch, type, at, t.n, d);
    }
}

static void grad_tile(ag_tile t, real *sums, const void *arg)
{
    const residual_job *j = arg;
    if (j->dtype == AG_BF16) grad_rows(AG_BF16, j, t, sums);
    else grad_rows(AG_F32, j, t, sums);
}

static residual_job job_of(const ag_node *n)
{
    const ag_tensor *x = n->in[X];
    residual_job j = { .x = x->data, .branch = n->in[BRANCH]->data,
                       .scale = n->in[SCALE] ? ag_real(n->in[SCALE]) : NULL,
                       .dtype = x->dtype, .channels = x->shape[x->ndim - 1], .drop = *(const ag_drop_arg *)n->arg };
    const int64_t samples = x->ndim > 1 && j.drop.p > 0 ? x->shape[0] : 1;
    const int64_t rows = ag_numel(x) / (samples * j.channels), fold = ag_tiles_fold(rows, j.channels);
    j.rows = rows / fold, j.width = j.channels * fold;
    return j;
}

static ag_tiles tiles_of(const ag_node *n, const residual_job *j, bool backward)
{
    return (ag_tiles){ .groups = ag_numel(n->in[X]) / (j->rows * j->width), .rows = j->rows, .width = j->width,
                       .arg = j, .sums = backward && ag_node_trained(n, SCALE), .tile = backward ? grad_tile : forward_tile,
                       .cost = 0.5 * (double)j->width };
}

static void residual_forward(ag_node *n)
{
    residual_job j = job_of(n);
    j.y = n->out->data;
    const ag_tiles t = tiles_of(n, &j, false);
    ag_tiles_run(n, &t);
}

/* Whether y = x + branch, so that both gradients are g. */
static bool plain(const ag_node *n)
{
    return !n->in[SCALE] && ((const ag_drop_arg *)n->arg)->p == 0;
}

static void residual_give(ag_node *n)
{
    ag_node_give(n, X, n->out->grad);
    if (plain(n)) ag_node_give(n, BRANCH, n->out->grad);
}

static void residual_backward(ag_node *n)
{
    residual_job j = job_of(n);
    const ag_tensor *d = n->din[BRANCH];
    residual_give(n);
    if (plain(n)) return;
    j.g = n->out->grad->data, j.d_branch = d ? d->data : NULL, j.add = n->accumulate[BRANCH];
    const ag_tiles t = tiles_of(n, &j, true);
    double *sums = ag_tiles_run(n, &t);
    if (!sums) return;
    for (int64_t i = j.channels; i < t.groups * j.width; i++) sums[i % j.channels] += sums[i];
    ag_give_channels(n, SCALE, sums);
}

static int64_t residual_workspace(const ag_node *n, bool backward)
{
    if (!ag_numel(n->out)) return 0;
    const residual_job j = job_of(n);
    const ag_tiles t = tiles_of(n, &j, backward);
    return ag_tiles_workspace(&t);
}

static ag_tensor *plain_check(ag_tensor **in) { return ag_residual(in[0], in[1]); }
static ag_tensor *scale_check(ag_tensor **in) { return ag_residual(in[0], in[1], .scale = in[2]); }
/* With this key the first of two samples is dropped, the second kept. */
static ag_tensor *drop_check(ag_tensor **in)
{
    return ag_residual(in[0], in[1], .scale = in[2], .drop_path = 0.25, .key = 4);
}

const ag_op ag_op_residual = {
    .name = "residual", .inputs = "x branch scale", .infer = residual_infer, .unread_out = true, .unread_cuda = true,
    .bf16 = 1 << X | 1 << BRANCH, .bf16_cuda = 1 << X | 1 << BRANCH, .workspace = residual_workspace,
    .forward = { residual_forward, AG_CUDA_FN(ag_residual_forward_cuda) },
    .backward = { residual_backward, AG_CUDA_FN(ag_residual_backward_cuda), residual_give },
    .check = { { "x[2,3,5] branch[2,3,5]", plain_check }, { "x[2,3,5] branch[2,3,5] scale[5]", scale_check },
               { "x[2,3,5] branch[2,3,5] scale[5]", drop_check },
               { "x[1,67,3] branch[1,67,3] scale[3]", scale_check } },
};

ag_tensor *ag_residual_(const char *at, ag_tensor *x, ag_tensor *branch, ag_residual_opts opts)
{
    const ag_drop_arg a = { opts.drop_path, opts.key };
    return ag_apply_(at, &ag_op_residual, INPUTS, (ag_tensor *[]){ x, branch, opts.scale }, &a, sizeof a);
}
