/* ops/window.c - images cut into windows of tokens and put together again, with a cyclic shift on the way; roll. All three
 * move runs of elements, so they are one pass over memory each way. */
#include <string.h>
#include "core/bf16.h"
#include "core/thread.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/vision.h"
#include "ops/window.h"

enum { CHUNK = 512 };

void ag_move_run(bool add, int64_t n, ag_dtype to_type, char *to, ag_dtype from_type, const char *from)
{
    if (!add && to_type == from_type) memcpy(to, from, (size_t)n * ag_dtype_size(to_type));
    else for (int64_t i = 0; i < n; i += CHUNK) {
        real a[CHUNK], b[CHUNK];
        const int64_t m = n - i < CHUNK ? n - i : CHUNK;
        const real *x = ag_widen(from, from_type, i, m, a);
        real *y = add ? ag_narrow_onto(to, to_type, i, m, b) : ag_narrow_to(to, to_type, i, b);
#pragma omp simd
        for (int64_t k = 0; k < m; k++) y[k] = (add ? y[k] : 0) + x[k];
        ag_narrow(to, to_type, i, m, y);
    }
}

static int64_t cyclic(int64_t i, int64_t size)
{
    return (i % size + size) % size;
}

/* ---- windows ------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t size, shift, h, w, channels;
    ag_dtype type;
    char *image, *windows;
    bool cut, add;              /* image to windows, or windows to image */
} window_job;

/* Rows of the shifted images, each of w / size parts that are a row of a window. */
static void move_rows(int64_t begin, int64_t end, void *arg)
{
    const window_job j = *(window_job *)arg;
    const int64_t pixel = j.channels * (int64_t)ag_dtype_size(j.type), across = j.w / j.size;
    for (int64_t r = begin; r < end; r++) {
        const int64_t y = r % j.h, from_y = cyclic(y + j.shift, j.h);
        char *image = j.image + (r - y + from_y) * j.w * pixel;
        for (int64_t x = 0; x < j.w;) {
            const int64_t from_x = cyclic(x + j.shift, j.w), column = x % j.size;
            const int64_t window = r / j.size * across + x / j.size, token = y % j.size * j.size + column;
            char *part = j.windows + (window * j.size * j.size + token) * pixel;
            int64_t run = j.size - column;
            if (run > j.w - from_x) run = j.w - from_x;
            if (j.cut) ag_move_run(j.add, run * j.channels, j.type, part, j.type, image + from_x * pixel);
            else ag_move_run(j.add, run * j.channels, j.type, image + from_x * pixel, j.type, part);
            x += run;
        }
    }
}

static void move_windows(ag_node *n, const ag_tensor *image, const ag_tensor *windows, bool cut, bool add)
{
    const ag_window_arg *a = n->arg;
    window_job j = { .size = a->size, .shift = a->shift, .h = image->shape[1], .w = image->shape[2],
                     .channels = image->shape[3], .type = image->dtype, .image = image->data, .windows = windows->data,
                     .cut = cut, .add = add };
    ag_parallel(image->shape[0] * j.h, 1, 0.2 * (double)(j.w * j.channels), move_rows, &j);
}

static void require_parts(const ag_node *n, int64_t h, int64_t w)
{
    const ag_window_arg *a = n->arg;
    AG_REQUIRE(n, a->size > 0 && h % a->size == 0 && w % a->size == 0, "windows of %" PRId64 " x %" PRId64 " do not cut %"
               PRId64 " x %" PRId64 " pixels evenly; enlarge the image with ag_pad", a->size, a->size, h, w);
}

static void partition_infer(ag_node *n)
{
    const ag_tensor *x = n->in[0];
    const int64_t size = ((const ag_window_arg *)n->arg)->size;
    AG_REQUIRE(n, x->ndim == 4, "needs images [N, H, W, C]");
    require_parts(n, x->shape[1], x->shape[2]);
    ag_node_out(n, x->dtype, AG_SHAPE(x->shape[0] * (x->shape[1] / size) * (x->shape[2] / size), size * size, x->shape[3]));
}

static void partition_forward(ag_node *n) { move_windows(n, n->in[0], n->out, true, false); }

static void partition_backward(ag_node *n)
{
    if (n->din[0]) move_windows(n, n->din[0], n->out->grad, false, n->accumulate[0]);
}

static ag_tensor *partition_check(ag_tensor **in) { return ag_window_partition(in[0], 3, 0); }
static ag_tensor *partition_shifted(ag_tensor **in) { return ag_window_partition(in[0], 2, 1); }

const ag_op ag_op_window_partition = {
    .name = "window_partition", .inputs = "x", .unread = 1, .unread_out = true, .unread_cuda = true,
    .infer = partition_infer, .bf16 = 1, .bf16_cuda = 1,
    .forward = { partition_forward, AG_CUDA_FN(ag_window_partition_forward_cuda) },
    .backward = { partition_backward, AG_CUDA_FN(ag_window_partition_backward_cuda) },
    .check = { { "x[2,6,3,5]", partition_check }, { "x[1,4,6,3]", partition_shifted } },
};

ag_tensor *ag_window_partition_(const char *at, ag_tensor *x, int64_t size, int64_t shift)
{
    return ag_apply_(at, &ag_op_window_partition, 1, &x, &(ag_window_arg){ size, shift, 0, 0 }, sizeof(ag_window_arg));
}

static void reverse_infer(ag_node *n)
{
    const ag_tensor *x = n->in[0];
    const ag_window_arg *a = n->arg;
    AG_REQUIRE(n, x->ndim == 3 && x->shape[1] == a->size * a->size, "needs windows [N, %" PRId64 ", C]", a->size * a->size);
    require_parts(n, a->h, a->w);
    const int64_t parts = (a->h / a->size) * (a->w / a->size);
    AG_REQUIRE(n, parts > 0 && x->shape[0] % parts == 0, "an image of %" PRId64 " x %" PRId64 " has %" PRId64
               " windows; %" PRId64 " are no multiple of that", a->h, a->w, parts, x->shape[0]);
    ag_node_out(n, x->dtype, AG_SHAPE(x->shape[0] / parts, a->h, a->w, x->shape[2]));
}

static void reverse_forward(ag_node *n) { move_windows(n, n->out, n->in[0], false, false); }

static void reverse_backward(ag_node *n)
{
    if (n->din[0]) move_windows(n, n->out->grad, n->din[0], true, n->accumulate[0]);
}

static ag_tensor *reverse_check(ag_tensor **in) { return ag_window_reverse(in[0], 3, 0, 6, 3); }
static ag_tensor *reverse_shifted(ag_tensor **in) { return ag_window_reverse(in[0], 2, 1, 4, 6); }

const ag_op ag_op_window_reverse = {
    .name = "window_reverse", .inputs = "windows", .unread = 1, .unread_out = true, .unread_cuda = true,
    .infer = reverse_infer, .bf16 = 1, .bf16_cuda = 1,
    .forward = { reverse_forward, AG_CUDA_FN(ag_window_reverse_forward_cuda) },
    .backward = { reverse_backward, AG_CUDA_FN(ag_window_reverse_backward_cuda) },
    .check = { { "windows[4,9,5]", reverse_check }, { "windows[6,4,3]", reverse_shifted } },
};

ag_tensor *ag_window_reverse_(const char *at, ag_tensor *windows, int64_t size, int64_t shift, int64_t h, int64_t w)
{
    return ag_apply_(at, &ag_op_window_reverse, 1, &windows, &(ag_window_arg){ size, shift, h, w }, sizeof(ag_window_arg));
}

/* ---- roll: x as [outer, size, inner] ------------------------------------------------------------------- */

typedef struct { int64_t size, inner, shift; ag_dtype type; const char *from; char *to; bool add; } roll_job;

static void roll_lines(int64_t begin, int64_t end, void *arg)
{
    const roll_job j = *(roll_job *)arg;
    const int64_t line = j.inner * (int64_t)ag_dtype_size(j.type);
    for (int64_t p = begin; p < end;) {
        const int64_t i = p % j.size, from = cyclic(i - j.shift, j.size);
        int64_t run = j.size - (i > from ? i : from);
        if (run > end - p) run = end - p;
        ag_move_run(j.add, run * j.inner, j.type, j.to + p * line, j.type, j.from + (p - i + from) * line);
        p += run;
    }
}

static void roll(ag_node *n, const ag_tensor *from, ag_tensor *to, int64_t shift, bool add)
{
    const int axis = ((const ag_roll_arg *)n->arg)->axis;
    roll_job j = { .size = from->shape[axis], .inner = 1, .shift = shift, .type = from->dtype, .from = from->data,
                   .to = to->data, .add = add };
    for (int i = axis + 1; i < from->ndim; i++) j.inner *= from->shape[i];
    ag_parallel(ag_numel(from) / j.inner, 1, 0.2 * (double)j.inner, roll_lines, &j);
}

static void roll_infer(ag_node *n)
{
    ag_roll_arg *a = n->arg;
    a->axis = ag_node_axis(n, n->in[0], a->axis);
    ag_node_out_like(n, n->in[0]);
}

static void roll_forward(ag_node *n) { roll(n, n->in[0], n->out, ((const ag_roll_arg *)n->arg)->shift, false); }

static void roll_backward(ag_node *n)
{
    if (n->din[0]) roll(n, n->out->grad, n->din[0], -((const ag_roll_arg *)n->arg)->shift, n->accumulate[0]);
}

static ag_tensor *roll_check(ag_tensor **in) { return ag_roll(in[0], 1, 2); }
static ag_tensor *roll_back_check(ag_tensor **in) { return ag_roll(in[0], -1, -6); }

const ag_op ag_op_roll = {
    .name = "roll", .inputs = "x", .unread = 1, .unread_out = true, .unread_cuda = true,
    .infer = roll_infer, .bf16 = 1, .bf16_cuda = 1, .forward = { roll_forward, AG_CUDA_FN(ag_roll_forward_cuda) },
    .backward = { roll_backward, AG_CUDA_FN(ag_roll_backward_cuda) },
    .check = { { "x[2,5,3]", roll_check }, { "x[3,4]", roll_back_check } },
};

ag_tensor *ag_roll_(const char *at, ag_tensor *x, int axis, int64_t shift)
{
    return ag_apply_(at, &ag_op_roll, 1, &x, &(ag_roll_arg){ axis, shift }, sizeof(ag_roll_arg));
}
