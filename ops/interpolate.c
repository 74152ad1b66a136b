/* ops/interpolate.c - images of another size: two sparse matrices, y = A x B^T for each channel; a row of A or B has
 * the weights of a few neighbours ("taps"). The gradient is the same with A and B transposed. */
#include <math.h>
#include <string.h>
#include "core/thread.h"
#include "ops/image.h"
#include "ops/interpolate.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/vision.h"

typedef ag_resize_arg resize_arg;

/* ---- taps ---------------------------------------------------------------------------------------------- */

/* Output i is the sum of weight[at[i] + k] times input first[i] + k; k < at[i + 1] - at[i]. */
typedef struct { int64_t *first, *at, out; real *weight; } taps;

static int64_t taps_bytes(const ag_interpolate_opts *o, int64_t in, int64_t out, int64_t outputs)
{
    const int64_t weights = out * ag_taps_most(o, in, out) * (int64_t)sizeof(real);
    return (2 * outputs + 1) * (int64_t)sizeof(int64_t) + (weights + 7) / 8 * 8;       /* integers follow */
}

static taps taps_in(char **memory, int64_t outputs, int64_t bytes)
{
    taps t = { .first = (int64_t *)(void *)*memory, .out = outputs };
    t.at = t.first + outputs;
    t.weight = (real *)(t.at + outputs + 1);
    memset(*memory, 0, (size_t)bytes);
    *memory += bytes;
    return t;
}

static taps make_taps(const ag_interpolate_opts *o, int64_t in, int64_t out, char **memory)
{
    taps t = taps_in(memory, out, taps_bytes(o, in, out, out));
    for (int64_t i = 0; i < out; i++) {
        real *w = t.weight + t.at[i];
        t.at[i + 1] = t.at[i] + ag_taps_at(o, in, out, i, &t.first[i], w);
    }
    return t;
}

/* The outputs that an input goes to lie side by side, because first and last input of an output never fall. */
static taps transposed(const ag_interpolate_opts *o, taps a, int64_t in, char **memory)
{
    taps t = taps_in(memory, in, taps_bytes(o, in, a.out, in));
    for (int64_t i = 0, from = 0; i < in; i++) {
        while (from < a.out && a.first[from] + a.at[from + 1] - a.at[from] <= i) from++;
        t.first[i] = from, t.at[i + 1] = t.at[i];
        for (int64_t k = from; k < a.out && a.first[k] <= i; k++)
            t.weight[t.at[i + 1]++] = a.weight[a.at[k] + i - a.first[k]];
    }
    return t;
}

/* ---- the kernel ---------------------------------------------------------------------------------------- */

enum { CHUNK = 1024 };
typedef struct {
    const void *x;
    void *y;
    ag_dtype dtype;
    taps rows, cols;
    int64_t in_h, in_w, channels;
    bool add;
    real *between;                          /* one row of in_w pixels for each thread */
} resize_job;

/* One row of outputs' height and inputs' width. */
static void mix_rows(const resize_job *j, int64_t image, int64_t y, real *restrict row)
{
    const taps *t = &j->rows;
    const int64_t width = j->in_w * j->channels;
    real buf[CHUNK];
    for (int64_t c = 0; c < width; c += CHUNK) {
        const int64_t m = width - c < CHUNK ? width - c : CHUNK;
        real *restrict to = row + c;
        memset(to, 0, (size_t)m * sizeof *to);
        for (int64_t k = t->at[y]; k < t->at[y + 1]; k++) {
            const int64_t from = image * j->in_h + t->first[y] + k - t->at[y];
            const real *v = ag_widen(j->x, j->dtype, from * width + c, m, buf), w = t->weight[k];
            for (int64_t i = 0; i < m; i++) to[i] += w * v[i];
        }
    }
}

static void mix_columns(const resize_job *j, const real *row, int64_t r)
{
    const taps *t = &j->cols;
    real buf[CHUNK];
    for (int64_t x = 0; x < t->out; x++)
        for (int64_t c = 0; c < j->channels; c += CHUNK) {
            const int64_t m = j->channels - c < CHUNK ? j->channels - c : CHUNK;
            const int64_t at = (r * t->out + x) * j->channels + c;
            real *y = j->add ? ag_narrow_onto(j->y, j->dtype, at, m, buf) : ag_narrow_to(j->y, j->dtype, at, buf);
            real *restrict to = y;
            if (!j->add) for (int64_t i = 0; i < m; i++) to[i] = 0;
            for (int64_t k = t->at[x]; k < t->at[x + 1]; k++) {
                const real *v = row + (t->first[x] + k - t->at[x]) * j->channels + c, w = t->weight[k];
                for (int64_t i = 0; i < m; i++) to[i] += w * v[i];
            }
            ag_narrow(j->y, j->dtype, at, m, y);
        }
}

static void resize_rows(int64_t begin, int64_t end, void *arg)
{
    const resize_job *j = arg;
    real *row = j->between + ag_thread_id() * j->in_w * j->channels;
    for (int64_t r = begin; r < end; r++) {
        mix_rows(j, r / j->rows.out, r % j->rows.out, row);
        mix_columns(j, row, r);
    }
}

static void resize(resize_job *j, int64_t images)
{
    const double down = (double)j->rows.at[j->rows.out] / (double)j->rows.out;
    const double across = (double)j->cols.at[j->cols.out] / (double)j->cols.out;
    const double cost = 0.05 * (down * (double)j->in_w + across * (double)j->cols.out) * (double)j->channels;
    ag_parallel(images * j->rows.out, 1, cost, resize_rows, j);
}

/* ---- the op -------------------------------------------------------------------------------------------- */

static void resize_infer(ag_node *n)
{
    const resize_arg *a = n->arg;
    const ag_tensor *x = n->in[0];
    ag_require_image(n, x, "x");
    AG_REQUIRE(n, a->h > 0 && a->w > 0, "to %" PRId64 " x %" PRId64 " pixels", a->h, a->w);
    AG_REQUIRE(n, a->opts.mode != AG_NEAREST || !(a->opts.antialias || a->opts.align_corners),
               ".antialias and .align_corners are for bilinear and bicubic");
    ag_node_out(n, x->dtype, AG_SHAPE(x->shape[0], a->h, a->w, x->shape[3]));
}

/* Both ways hold the taps of both axes, backward their transposes too, and the rows in between. */
static int64_t resize_workspace(const ag_node *n, bool backward)
{
    const resize_arg *a = n->arg;
    const int64_t *in = n->in[0]->shape, out[] = { 0, a->h, a->w };
    int64_t bytes = ag_threads() * (backward ? a->w : in[2]) * in[3] * (int64_t)sizeof(real);
    for (int k = 1; k <= 2; k++) {
        bytes += taps_bytes(&a->opts, in[k], out[k], out[k]);
        if (backward) bytes += taps_bytes(&a->opts, in[k], out[k], in[k]);
    }
    return bytes;
}

static void resize_forward(ag_node *n)
{
    const resize_arg *a = n->arg;
    const ag_tensor *x = n->in[0];
    char *memory = ag_workspace(n, resize_workspace(n, false), 1);
    const taps rows = make_taps(&a->opts, x->shape[1], a->h, &memory);
    const taps cols = make_taps(&a->opts, x->shape[2], a->w, &memory);
    resize_job j = { .x = x->data, .y = n->out->data, .dtype = x->dtype, .channels = x->shape[3], .in_h = x->shape[1],
                     .in_w = x->shape[2], .rows = rows, .cols = cols, .between = (real *)(void *)memory };
    resize(&j, x->shape[0]);
}

static void resize_backward(ag_node *n)
{
    const resize_arg *a = n->arg;
    const ag_tensor *x = n->in[0];
    if (!n->din[0]) return;
    char *memory = ag_workspace(n, resize_workspace(n, true), 1);
    taps rows = make_taps(&a->opts, x->shape[1], a->h, &memory), cols = make_taps(&a->opts, x->shape[2], a->w, &memory);
    rows = transposed(&a->opts, rows, x->shape[1], &memory);
    cols = transposed(&a->opts, cols, x->shape[2], &memory);
    resize_job j = { .x = n->out->grad->data, .y = n->din[0]->data, .dtype = x->dtype, .channels = x->shape[3],
                     .in_h = a->h, .in_w = a->w, .rows = rows, .cols = cols, .add = n->accumulate[0],
                     .between = (real *)(void *)memory };
    resize(&j, x->shape[0]);
}

static ag_tensor *nearest_check(ag_tensor **in) { return ag_interpolate(in[0], 7, 3, .mode = AG_NEAREST); }
static ag_tensor *bilinear_check(ag_tensor **in) { return ag_interpolate(in[0], 8, 3); }
static ag_tensor *corners_check(ag_tensor **in) { return ag_interpolate(in[0], 8, 1, .align_corners = true); }
static ag_tensor *filter_check(ag_tensor **in) { return ag_interpolate(in[0], 3, 7, .antialias = true); }
static ag_tensor *cubic_check(ag_tensor **in) { return ag_interpolate(in[0], 7, 3, .mode = AG_BICUBIC); }
static ag_tensor *cubic_corners_check(ag_tensor **in)
{
    return ag_interpolate(in[0], 3, 7, .mode = AG_BICUBIC, .align_corners = true);
}
static ag_tensor *cubic_filter_check(ag_tensor **in)
{
    return ag_interpolate(in[0], 3, 8, .mode = AG_BICUBIC, .antialias = true);
}
static ag_tensor *positions_check(ag_tensor **in) { return ag_resample_positions(in[0], 1, 2, 5); }

const ag_op ag_op_interpolate = {
    .name = "interpolate", .inputs = "x", .unread = 1, .unread_out = true, .unread_cuda = true, .infer = resize_infer,
    .bf16 = 1, .bf16_cuda = 1, .workspace = resize_workspace,
    .forward = { resize_forward, AG_CUDA_FN(ag_interpolate_forward_cuda) },
    .backward = { resize_backward, AG_CUDA_FN(ag_interpolate_backward_cuda) },
    .check = { { "x[2,5,4,3]", nearest_check }, { "x[2,5,4,3]", bilinear_check }, { "x[1,5,4,2]", corners_check },
               { "x[1,8,5,3]", filter_check }, { "x[1,5,4,2]", cubic_check }, { "x[1,5,4,2]", cubic_corners_check },
               { "x[1,9,5,2]", cubic_filter_check }, { "x[1,10,4]", positions_check } },
};

ag_tensor *ag_interpolate_(const char *at, ag_tensor *x, int64_t h, int64_t w, ag_interpolate_opts opts)
{
    return ag_apply_(at, &ag_op_interpolate, 1, &x, &(resize_arg){ h, w, opts }, sizeof(resize_arg));
}

ag_tensor *ag_resample_positions_(const char *at, ag_tensor *positions, int64_t prefix, int64_t h, int64_t w)
{
    char shape[128];
    const ag_tensor *p = positions;
    const int64_t tokens = p->ndim == 3 ? p->shape[1] - prefix : 0;
    const int64_t side = tokens > 0 ? (int64_t)lround(sqrt((double)tokens)) : 0;
    if (prefix < 0 || side < 1 || side * side != tokens || p->shape[0] != 1)
        ag_fail(at, "ag_resample_positions: needs positions [1, %" PRId64 " + side x side, C], got %s", prefix,
                ag_describe(p, shape, sizeof shape));
    if (side == h && side == w) return positions;
    ag_tensor *first = ag_slice_(at, positions, 1, 0, prefix), *rest = ag_slice_(at, positions, 1, prefix, prefix + tokens);
    rest = ag_reshape_(at, rest, AG_SHAPE(1, side, side, p->shape[2]));
    rest = ag_interpolate_(at, rest, h, w, (ag_interpolate_opts){ .mode = AG_BICUBIC, .antialias = true });
    rest = ag_reshape_(at, rest, AG_SHAPE(1, h * w, p->shape[2]));
    return prefix ? ag_concat_(at, 1, 2, (ag_tensor *[]){ first, rest }) : rest;
}
