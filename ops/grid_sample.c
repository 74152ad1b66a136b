/* ops/grid_sample.c - images looked up at given places.
 *
 * A place (x, y) in -1 .. 1 becomes a column and a row; what lies outside is zero, the border's or the mirror's.
 * Between four pixels they are mixed by distance, so the value also has a slope along x and y. */
#include <math.h>
#include <string.h>
#include "core/thread.h"
#include "ops/grid_sample.h"
#include "ops/image.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/vision.h"

enum { X, GRID, INPUTS, CHUNK = 512 };

typedef struct {
    const void *x, *g;
    void *y;
    const real *grid;
    real *dgrid, *images;                               /* images: one of each thread, for bf16 */
    ag_dtype dtype;
    ag_grid shape;
    int64_t channels, out_h, out_w;
    bool add, add_grid;
} sample_job;

static void blend(const sample_job *j, const ag_grid_corner *c, int n, int64_t at, int64_t m, real *restrict to)
{
    real buf[4][CHUNK];
    const real *v[4];
    for (int k = 0; k < n; k++) v[k] = ag_widen(j->x, j->dtype, c[k].pixel * j->channels + at, m, buf[k]);
    if (n == 4) {
        for (int64_t i = 0; i < m; i++)
            to[i] = c[0].weight * v[0][i] + c[1].weight * v[1][i] + c[2].weight * v[2][i] + c[3].weight * v[3][i];
        return;
    }
    memset(to, 0, (size_t)m * sizeof *to);
    for (int k = 0; k < n; k++)
        for (int64_t i = 0; i < m; i++) to[i] += c[k].weight * v[k][i];
}

static void sample_rows(int64_t begin, int64_t end, void *arg)
{
    const sample_job *j = arg;
    ag_grid_corner c[4];
    real buf[CHUNK];
    for (int64_t p = begin * j->out_w; p < end * j->out_w; p++) {
        const ag_grid_spot x = ag_grid_spot_of(j->grid[2 * p], j->shape.w, &j->shape.opts);
        const ag_grid_spot y = ag_grid_spot_of(j->grid[2 * p + 1], j->shape.h, &j->shape.opts);
        const int n = ag_grid_corners(&j->shape, p / (j->out_h * j->out_w), x, y, c);
        for (int64_t at = 0; at < j->channels; at += CHUNK) {
            const int64_t m = j->channels - at < CHUNK ? j->channels - at : CHUNK;
            real *to = ag_narrow_to(j->y, j->dtype, p * j->channels + at, buf);
            blend(j, c, n, at, m, to);
            ag_narrow(j->y, j->dtype, p * j->channels + at, m, to);
        }
    }
}

/* The gradient at output p to the pixels around its place (d: the image) and to the place. */
static void spread(const sample_job *j, int64_t image, int64_t p, real *d)
{
    const ag_grid_spot x = ag_grid_spot_of(j->grid[2 * p], j->shape.w, &j->shape.opts);
    const ag_grid_spot y = ag_grid_spot_of(j->grid[2 * p + 1], j->shape.h, &j->shape.opts);
    ag_grid_corner c[4];
    real dx = 0, dy = 0, gbuf[CHUNK], from[CHUNK];
    const int n = ag_grid_corners(&j->shape, image, x, y, c);
    for (int64_t at = 0; at < j->channels; at += CHUNK) {
        const int64_t m = j->channels - at < CHUNK ? j->channels - at : CHUNK;
        const real *g = ag_widen(j->g, j->dtype, p * j->channels + at, m, gbuf);
        for (int k = 0; k < n; k++) {
            real *to = d ? d + (c[k].pixel - image * j->shape.h * j->shape.w) * j->channels + at : NULL, dot = 0;
            if (to) for (int64_t i = 0; i < m; i++) to[i] += c[k].weight * g[i];
            if (!j->dgrid) continue;
            const real *v = ag_widen(j->x, j->dtype, c[k].pixel * j->channels + at, m, from);
#pragma omp simd reduction(+ : dot)
            for (int64_t i = 0; i < m; i++) dot += g[i] * v[i];
            dx += dot * c[k].along_x, dy += dot * c[k].along_y;
        }
    }
    if (!j->dgrid) return;
    j->dgrid[2 * p] = (j->add_grid ? j->dgrid[2 * p] : 0) + dx * x.slope;
    j->dgrid[2 * p + 1] = (j->add_grid ? j->dgrid[2 * p + 1] : 0) + dy * y.slope;
}

static void spread_images(int64_t begin, int64_t end, void *arg)
{
    const sample_job *j = arg;
    const int64_t size = j->shape.h * j->shape.w * j->channels, places = j->out_h * j->out_w;
    real *buf = j->images ? j->images + ag_thread_id() * size : NULL;
    for (int64_t image = begin; image < end; image++) {
        real *d = NULL;
        if (j->y) {
            d = j->add ? ag_narrow_onto(j->y, j->dtype, image * size, size, buf)
                       : ag_narrow_to(j->y, j->dtype, image * size, buf);
            if (!j->add) memset(d, 0, (size_t)size * sizeof *d);
        }
        for (int64_t p = 0; p < places; p++) spread(j, image, image * places + p, d);
        if (j->y) ag_narrow(j->y, j->dtype, image * size, size, d);
    }
}

/* ---- the op -------------------------------------------------------------------------------------------- */

static void sample_infer(ag_node *n)
{
    const ag_tensor *x = n->in[X], *grid = n->in[GRID];
    ag_require_image(n, x, "x");
    ag_node_require_real(n, grid, "grid");
    AG_REQUIRE(n, grid->ndim == 4 && grid->shape[3] == 2 && grid->shape[0] == x->shape[0],
               "grid must be [%" PRId64 ", h, w, 2], a place (x, y) for each pixel", x->shape[0]);
    AG_REQUIRE(n, ((const ag_grid_sample_opts *)n->arg)->mode != AG_BICUBIC, ".mode is bilinear or nearest");
    ag_node_out(n, x->dtype, AG_SHAPE(x->shape[0], grid->shape[1], grid->shape[2], x->shape[3]));
}

static sample_job sample_job_of(const ag_node *n)
{
    const ag_tensor *x = n->in[X], *grid = n->in[GRID];
    return (sample_job){ .x = x->data, .grid = ag_real(grid), .dtype = x->dtype,
                         .shape = { x->shape[1], x->shape[2], *(const ag_grid_sample_opts *)n->arg },
                         .channels = x->shape[3], .out_h = grid->shape[1], .out_w = grid->shape[2] };
}

static void sample_forward(ag_node *n)
{
    sample_job j = sample_job_of(n);
    j.y = n->out->data;
    ag_parallel(n->out->shape[0] * j.out_h, 1, (double)j.out_w * (40 + 0.3 * (double)j.channels), sample_rows, &j);
}

static int64_t sample_workspace(const ag_node *n, bool backward)
{
    const ag_tensor *x = n->in[X];
    if (!backward || x->dtype != AG_BF16) return 0;
    return ag_threads() * x->shape[1] * x->shape[2] * x->shape[3] * (int64_t)sizeof(real);
}

static void sample_backward(ag_node *n)
{
    sample_job j = sample_job_of(n);
    const int64_t bytes = sample_workspace(n, true);
    j.g = n->out->grad->data, j.add = n->accumulate[X], j.add_grid = n->accumulate[GRID];
    if (n->din[X]) j.y = n->din[X]->data;
    if (n->din[GRID]) j.dgrid = ag_real(n->din[GRID]);
    if (bytes) j.images = ag_workspace(n, bytes, 1);
    const double cost = (double)(j.out_h * j.out_w) * (40 + 0.5 * (double)j.channels);
    ag_parallel(n->out->shape[0], 1, cost, spread_images, &j);
}

#define SAMPLE_CHECK(name, ...) \
    static ag_tensor *name(ag_tensor **in) { return ag_grid_sample(in[0], in[1], __VA_ARGS__); }
SAMPLE_CHECK(mirror_check, .pad = AG_PAD_REFLECTION)
SAMPLE_CHECK(mirror_corners_check, .align_corners = true)
SAMPLE_CHECK(zeros_check, .pad = AG_PAD_ZEROS)
SAMPLE_CHECK(zeros_corners_check, .pad = AG_PAD_ZEROS, .align_corners = true)
SAMPLE_CHECK(border_check, .pad = AG_PAD_BORDER)
SAMPLE_CHECK(border_corners_check, .pad = AG_PAD_BORDER, .align_corners = true)
SAMPLE_CHECK(nearest_check, .mode = AG_NEAREST, .pad = AG_PAD_ZEROS)
SAMPLE_CHECK(nearest_mirror_check, .mode = AG_NEAREST, .align_corners = true)

const ag_op ag_op_grid_sample = {
    .name = "grid_sample", .inputs = "x grid", .infer = sample_infer, .bf16 = 1, .bf16_cuda = 1,
    .forward = { sample_forward, AG_CUDA_FN(ag_grid_sample_forward_cuda) },
    .backward = { sample_backward, AG_CUDA_FN(ag_grid_sample_backward_cuda) }, .workspace = sample_workspace,
    .check = { { "x[2,4,5,3] grid[2,2,3,2]", mirror_check }, { "x[1,4,5,3] grid[1,3,2,2]", mirror_corners_check },
               { "x[1,4,5,3] grid[1,3,2,2]", zeros_check }, { "x[1,4,5,3] grid[1,2,3,2]", zeros_corners_check },
               { "x[1,4,5,2] grid[1,3,2,2]", border_check }, { "x[1,4,5,3] grid[1,3,2,2]", border_corners_check },
               { "x[1,4,5,3] grid[1,3,3,2]:const", nearest_check },
               { "x[1,4,5,3] grid[1,3,3,2]:const", nearest_mirror_check } },
};

ag_tensor *ag_grid_sample_(const char *at, ag_tensor *x, ag_tensor *grid, ag_grid_sample_opts opts)
{
    return ag_apply_(at, &ag_op_grid_sample, INPUTS, (ag_tensor *[]){ x, grid }, &opts, sizeof opts);
}
