/* ops/pool.c - maxima and means of windows of images [N, H, W, C], windows of one size or adapted to the output's.
 *
 * Nothing is saved: in backward the maximum is known (the output) and its place is the first pixel that equals it. */
#include <math.h>
#include <string.h>
#include "core/thread.h"
#include "ops/image.h"
#include "ops/ops.h"
#include "ops/pool.h"
#include "ops/registry.h"
#include "ops/vision.h"

enum { H = AG_POOL_H_AXIS, W = AG_POOL_W_AXIS };
typedef ag_pool_axis axis;
typedef ag_pool_window window;

static axis fixed_axis(const ag_node *n, int64_t in, int64_t kernel, const ag_pool2d_opts *o)
{
    axis a = { .in = in, .kernel = kernel, .stride = o->stride ? o->stride : kernel, .pad = o->pad,
               .limit = in + o->pad };
    if (o->same) {
        a.out = (in + a.stride - 1) / a.stride;
        const int64_t padding = (a.out - 1) * a.stride + kernel - in;
        a.pad = padding > 0 ? padding / 2 : 0;
        a.limit = padding > 0 ? in + padding - a.pad : in;
        return a;
    }
    const int64_t room = in + 2 * a.pad - kernel;
    AG_REQUIRE(n, room >= 0, "a kernel of %" PRId64 " is larger than the padded image of %" PRId64, kernel,
               in + 2 * a.pad);
    a.out = (o->ceil ? room + a.stride - 1 : room) / a.stride + 1;
    if (o->ceil && (a.out - 1) * a.stride >= in + a.pad) a.out--;      /* windows begin before the end */
    return a;
}

/* ---- kernels ------------------------------------------------------------------------------------------- */

enum { CHUNK = 256, BAND = 8 };             /* channels at a time; rows of a bf16 gradient at a time */
typedef struct {
    const void *x, *g, *y;
    void *to;
    ag_dtype dtype;
    ag_pool arg;
    int64_t channels;
    bool add;
    real *bands;                            /* BAND rows of each thread, for bf16 */
} pool_job;

static void pool_pixel(const pool_job *j, int64_t image, window rows, window cols, int64_t c, int64_t m,
                       real *restrict acc)
{
    const axis *a = j->arg.axis;
    const real share = j->arg.max ? 1 : 1 / (real)(rows.count * cols.count);
    real buf[CHUNK];
    bool first = true;
    for (int64_t y = rows.begin; y < rows.end; y++)
        for (int64_t x = cols.begin; x < cols.end; x++, first = false) {
            const int64_t pixel = (image * a[H].in + y) * a[W].in + x;
            const real *v = ag_widen(j->x, j->dtype, pixel * j->channels + c, m, buf);
            if (first) for (int64_t i = 0; i < m; i++) acc[i] = v[i] * share;
            else if (j->arg.max)
                for (int64_t i = 0; i < m; i++) acc[i] = v[i] > acc[i] || v[i] != v[i] ? v[i] : acc[i];
            else for (int64_t i = 0; i < m; i++) acc[i] += v[i] * share;
        }
}

static void pool_rows(int64_t begin, int64_t end, void *arg)
{
    const pool_job *j = arg;
    const axis *a = j->arg.axis;
    real buf[CHUNK];
    for (int64_t r = begin; r < end; r++) {
        const window rows = ag_pool_window_at(&a[H], r % a[H].out, j->arg.exclude_pad);
        for (int64_t x = 0; x < a[W].out; x++) {
            const window cols = ag_pool_window_at(&a[W], x, j->arg.exclude_pad);
            for (int64_t c = 0; c < j->channels; c += CHUNK) {
                const int64_t m = j->channels - c < CHUNK ? j->channels - c : CHUNK;
                const int64_t at = (r * a[W].out + x) * j->channels + c;
                real *y = ag_narrow_to(j->to, j->dtype, at, buf);
                pool_pixel(j, r / a[H].out, rows, cols, c, m, y);
                ag_narrow(j->to, j->dtype, at, m, y);
            }
        }
    }
}

/* The gradient of one output pixel into d, input rows top .. bottom - 1: to each pixel its share, or all to the first
 * that equals the maximum. */
static void spread_pixel(const pool_job *j, int64_t image, window rows, window cols, int64_t c, int64_t m, int64_t at,
                         int64_t top, int64_t bottom, real *restrict d)
{
    const axis *a = j->arg.axis;
    const bool max = j->arg.max;
    const real share = max ? 1 : 1 / (real)(rows.count * cols.count);
    real rest[CHUNK], gbuf[CHUNK], ybuf[CHUNK], xbuf[CHUNK];
    const real *g = ag_widen(j->g, j->dtype, at, m, gbuf), *peak = max ? ag_widen(j->y, j->dtype, at, m, ybuf) : NULL;
    for (int64_t i = 0; i < m; i++) rest[i] = g[i] * share;
    for (int64_t y = max || rows.begin > top ? rows.begin : top; y < rows.end && y < bottom; y++)
        for (int64_t x = cols.begin; x < cols.end; x++) {
            real *restrict to = y < top ? NULL : d + ((y - top) * a[W].in + x) * j->channels + c;
            if (!max) {
                for (int64_t i = 0; i < m; i++) to[i] += rest[i];
                continue;
            }
            const int64_t pixel = (image * a[H].in + y) * a[W].in + x;
            const real *v = ag_widen(j->x, j->dtype, pixel * j->channels + c, m, xbuf);
            if (to) for (int64_t i = 0; i < m; i++) to[i] += v[i] == peak[i] || v[i] != v[i] ? rest[i] : 0;
            for (int64_t i = 0; i < m; i++) rest[i] = v[i] == peak[i] || v[i] != v[i] ? 0 : rest[i];
        }
}

/* d: input rows top .. bottom - 1 of an image, from all windows that touch them. */
static void spread_band(const pool_job *j, int64_t image, int64_t top, int64_t bottom, real *d)
{
    const axis *a = j->arg.axis;
    for (int64_t y = 0; y < a[H].out; y++) {
        const window rows = ag_pool_window_at(&a[H], y, j->arg.exclude_pad);
        if (rows.end <= top || rows.begin >= bottom) continue;
        for (int64_t x = 0; x < a[W].out; x++) {
            const window cols = ag_pool_window_at(&a[W], x, j->arg.exclude_pad);
            const int64_t at = ((image * a[H].out + y) * a[W].out + x) * j->channels;
            for (int64_t c = 0; c < j->channels; c += CHUNK) {
                const int64_t m = j->channels - c < CHUNK ? j->channels - c : CHUNK;
                spread_pixel(j, image, rows, cols, c, m, at + c, top, bottom, d);
            }
        }
    }
}

static void spread_rows(int64_t begin, int64_t end, void *arg)
{
    const pool_job *j = arg;
    const int64_t height = j->arg.axis[H].in, row = j->arg.axis[W].in * j->channels;
    const int64_t band = j->dtype == AG_BF16 ? BAND : height;
    real *buf = j->bands ? j->bands + ag_thread_id() * BAND * row : NULL;
    for (int64_t r = begin; r < end;) {
        const int64_t top = r % height;
        int64_t bottom = top + (end - r);
        if (bottom > top + band) bottom = top + band;
        if (bottom > height) bottom = height;
        const int64_t n = (bottom - top) * row;
        real *d = j->add ? ag_narrow_onto(j->to, j->dtype, r * row, n, buf)
                         : ag_narrow_to(j->to, j->dtype, r * row, buf);
        if (!j->add) memset(d, 0, (size_t)n * sizeof *d);
        spread_band(j, r / height, top, bottom, d);
        ag_narrow(j->to, j->dtype, r * row, n, d);
        r += bottom - top;
    }
}

/* ---- the op -------------------------------------------------------------------------------------------- */

typedef struct { int64_t kernel, h, w; bool max; ag_pool2d_opts opts; } pool_call;     /* kernel 0: adaptive, h x w */

ag_pool ag_pool_of(const ag_node *n)
{
    const pool_call *c = n->arg;
    const ag_tensor *x = n->in[0];
    ag_pool a = { .max = c->max, .exclude_pad = c->opts.exclude_pad };
    for (int k = H; k < AG_POOL_AXES; k++)
        a.axis[k] = c->kernel ? fixed_axis(n, x->shape[1 + k], c->kernel, &c->opts)
                              : (axis){ .in = x->shape[1 + k], .out = k == H ? c->h : c->w };
    return a;
}

static void pool_infer(ag_node *n)
{
    const pool_call *c = n->arg;
    const ag_tensor *x = n->in[0];
    ag_require_image(n, x, "x");
    if (c->kernel) {
        AG_REQUIRE(n, c->kernel > 0 && c->opts.stride >= 0 && c->opts.pad >= 0,
                   "a kernel of %" PRId64 ", stride %d, padding %d", c->kernel, c->opts.stride, c->opts.pad);
        AG_REQUIRE(n, c->opts.pad <= c->kernel / 2, "padding of %d is more than half of the kernel of %" PRId64,
                   c->opts.pad, c->kernel);
    } else {
        AG_REQUIRE(n, c->h > 0 && c->w > 0, "to %" PRId64 " x %" PRId64 " pixels", c->h, c->w);
        ag_mul_size(n->at, ag_add_size(n->at, c->h, 1), x->shape[1]);
        ag_mul_size(n->at, ag_add_size(n->at, c->w, 1), x->shape[2]);
    }
    const ag_pool a = ag_pool_of(n);
    ag_node_out(n, x->dtype, AG_SHAPE(x->shape[0], a.axis[H].out, a.axis[W].out, x->shape[3]));
}

static void pool_forward(ag_node *n)
{
    const ag_tensor *x = n->in[0], *y = n->out;
    pool_job j = { .x = x->data, .to = y->data, .dtype = x->dtype, .arg = ag_pool_of(n), .channels = x->shape[3] };
    const double pixels = (double)(x->shape[1] * x->shape[2]) / (double)(y->shape[1] * y->shape[2]) + 3;
    ag_parallel(y->shape[0] * y->shape[1], 1, 0.1 * pixels * (double)(y->shape[2] * y->shape[3]), pool_rows, &j);
}

static int64_t pool_workspace(const ag_node *n, bool backward)
{
    const ag_tensor *x = n->in[0];
    if (!backward || x->dtype != AG_BF16) return 0;
    return ag_threads() * BAND * x->shape[2] * x->shape[3] * (int64_t)sizeof(real);
}

static void pool_backward(ag_node *n)
{
    const ag_tensor *x = n->in[0];
    if (!n->din[0]) return;
    pool_job j = { .x = x->data, .y = n->out->data, .g = n->out->grad->data, .to = n->din[0]->data, .dtype = x->dtype,
                   .arg = ag_pool_of(n), .channels = x->shape[3], .add = n->accumulate[0] };
    const int64_t bytes = pool_workspace(n, true);
    if (bytes) j.bands = ag_workspace(n, bytes, 1);
    ag_parallel(x->shape[0] * x->shape[1], BAND, 0.3 * (double)(x->shape[2] * x->shape[3]), spread_rows, &j);
}

static ag_tensor *max_check(ag_tensor **in) { return ag_max_pool2d(in[0], 3, .stride = 2, .pad = 1); }
static ag_tensor *max_plain_check(ag_tensor **in) { return ag_max_pool2d(in[0], 2); }
static ag_tensor *max_ceil_check(ag_tensor **in)
{
    return ag_max_pool2d(in[0], 3, .stride = 2, .pad = 1, .ceil = true);
}
static ag_tensor *max_same_check(ag_tensor **in) { return ag_max_pool2d(in[0], 3, .stride = 2, .same = true); }
static ag_tensor *max_adaptive_check(ag_tensor **in) { return ag_adaptive_max_pool2d(in[0], 3, 2); }
static ag_tensor *concat_check(ag_tensor **in) { return ag_concat_pool2d(in[0]); }

const ag_op ag_op_max_pool2d = {
    .name = "max_pool2d", .inputs = "x", .infer = pool_infer, .bf16 = 1, .bf16_cuda = 1, .workspace = pool_workspace,
    .forward = { pool_forward, AG_CUDA_FN(ag_max_pool2d_forward_cuda) },
    .backward = { pool_backward, AG_CUDA_FN(ag_max_pool2d_backward_cuda) },
    .check = { { "x[2,7,5,3]", max_check }, { "x[1,5,4,17]", max_plain_check }, { "x[1,4,6,3]", max_ceil_check },
               { "x[2,6,5,2]", max_same_check }, { "x[2,7,5,3]", max_adaptive_check }, { "x[2,3,5,4]", concat_check } },
};

static ag_tensor *avg_check(ag_tensor **in) { return ag_avg_pool2d(in[0], 3, .stride = 2, .pad = 1); }
static ag_tensor *avg_plain_check(ag_tensor **in) { return ag_avg_pool2d(in[0], 2); }
static ag_tensor *avg_ceil_check(ag_tensor **in)
{
    return ag_avg_pool2d(in[0], 3, .stride = 2, .pad = 1, .ceil = true);
}
static ag_tensor *avg_real_check(ag_tensor **in)
{
    return ag_avg_pool2d(in[0], 2, .ceil = true, .exclude_pad = true);
}
static ag_tensor *avg_same_check(ag_tensor **in) { return ag_avg_pool2d(in[0], 3, .stride = 1, .same = true); }
static ag_tensor *avg_adaptive_check(ag_tensor **in) { return ag_adaptive_avg_pool2d(in[0], 3, 2); }
static ag_tensor *avg_global_check(ag_tensor **in) { return ag_adaptive_avg_pool2d(in[0], 1, 1); }

const ag_op ag_op_avg_pool2d = {
    .name = "avg_pool2d", .inputs = "x", .unread = 1, .unread_out = true, .unread_cuda = true, .infer = pool_infer,
    .bf16 = 1, .bf16_cuda = 1,
    .workspace = pool_workspace, .forward = { pool_forward, AG_CUDA_FN(ag_avg_pool2d_forward_cuda) },
    .backward = { pool_backward, AG_CUDA_FN(ag_avg_pool2d_backward_cuda) },
    .check = { { "x[2,7,5,3]", avg_check }, { "x[1,5,4,17]", avg_plain_check }, { "x[1,6,6,2]", avg_ceil_check },
               { "x[2,5,7,3]", avg_real_check }, { "x[1,4,5,2]", avg_same_check }, { "x[2,7,5,3]", avg_adaptive_check },
               { "x[2,3,5,4]", avg_global_check } },
};

static ag_tensor *pool(const char *at, const ag_op *op, ag_tensor *x, pool_call c)
{
    c.max = op == &ag_op_max_pool2d;
    return ag_apply_(at, op, 1, &x, &c, sizeof c);
}

static pool_call fixed(const char *at, const ag_op *op, int kernel, ag_pool2d_opts opts)
{
    if (kernel < 1) ag_fail(at, "ag_%s: a kernel of %d", op->name, kernel);
    return (pool_call){ .kernel = kernel, .opts = opts };
}

ag_tensor *ag_max_pool2d_(const char *at, ag_tensor *x, int kernel, ag_pool2d_opts opts)
{
    return pool(at, &ag_op_max_pool2d, x, fixed(at, &ag_op_max_pool2d, kernel, opts));
}

ag_tensor *ag_avg_pool2d_(const char *at, ag_tensor *x, int kernel, ag_pool2d_opts opts)
{
    return pool(at, &ag_op_avg_pool2d, x, fixed(at, &ag_op_avg_pool2d, kernel, opts));
}

ag_tensor *ag_adaptive_max_pool2d_(const char *at, ag_tensor *x, int64_t h, int64_t w)
{
    return pool(at, &ag_op_max_pool2d, x, (pool_call){ .h = h, .w = w });
}

ag_tensor *ag_adaptive_avg_pool2d_(const char *at, ag_tensor *x, int64_t h, int64_t w)
{
    return pool(at, &ag_op_avg_pool2d, x, (pool_call){ .h = h, .w = w });
}

ag_tensor *ag_concat_pool2d_(const char *at, ag_tensor *x)
{
    ag_tensor *parts[] = { ag_adaptive_max_pool2d_(at, x, 1, 1), ag_adaptive_avg_pool2d_(at, x, 1, 1) };
    for (int k = 0; k < 2; k++) parts[k] = ag_reshape_(at, parts[k], AG_SHAPE(x->shape[0], x->shape[3]));
    return ag_concat_(at, 1, 2, parts);
}
