/* ops/conv_depthwise.c - convolution of each channel by itself.
 *
 * Rows of the image are packed by blocks of channels, as vectors in f32, and stay in the second cache while the
 * kernels pass over them; nothing else is copied. The gradient of the input is the same pass over the gradient of the
 * result with the taps turned round. The gradient of the weight is summed by chunks of rows that depend on the shapes
 * alone, then over the chunks in order: the same bits for any number of threads. */
#include <string.h>
#include "core/memory.h"
#include "core/thread.h"
#include "ops/activation.h"
#include "ops/conv.h"
#include "ops/conv_depthwise.h"
#include "ops/registry.h"

enum { WIDE = AG_DW_WIDE, LANES = AG_DW_LANES };
enum { WORTH_ASKING = 25 };      /* taps to an input pixel from which there is time to ask for memory in between */
enum { NEAR = 36 << 10, FAR = 512 << 10, MOST_AT_ONCE = 8 };   /* bytes of rows for the first and second cache */
typedef ag_dw_vec vec;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t bytes_of(int64_t n, size_t size) { return up(n * (int64_t)size, 64) * 64; }

/* Input rows that a row of the result reaches over, and from one row of the result to the next. */
static int64_t reach(const ag_dw_axis *h) { return (h->taps - 1) * h->dilation / (h->turned ? h->stride : 1) + 1; }
static int64_t stride(const ag_dw_axis *h) { return h->turned ? 1 : h->stride; }

/* Rows of the result made together: of one block the rows that they meet fit the first cache, of all the second. */
static int64_t rows_at_once(const ag_dw_images *im, const ag_dw_axis *h, int64_t blocks)
{
    const int64_t row = im->padded * AG_DW_BYTES, fit = least(NEAR / row, FAR / (blocks * row));
    return most(1, least(MOST_AT_ONCE, (fit - reach(h)) / stride(h) + 1));
}

/* Room for all the rows that they meet. */
static ag_dw_ring_size ring_size(const ag_dw_images *im, const ag_dw_axis *h, int64_t at_once, int64_t most_blocks)
{
    const int64_t slots = least(im->rows, (at_once - 1) * stride(h) + reach(h) + 1);
    return (ag_dw_ring_size){ most(1, least(most_blocks, FAR / (slots * im->padded * AG_DW_BYTES))), slots };
}

/* ---- sums over taps: forward, gradient of the input ---------------------------------------------------- */

typedef struct {
    ag_dw_axis h, w;
    ag_dw_plan plan;
    ag_dw_images x;
    ag_dw_ring_size size;
    const real *weight, *bias;          /* [blocks][taps][LANES]; [channels] or NULL */
    void *out, *before;                 /* before: NULL, or what the activation was taken of */
    ag_dtype dtype;
    ag_activation activation;
    bool add;
    int64_t at_once;
    char *scratch;
} sum_job;

static int64_t sum_scratch(const sum_job *j)
{
    return ag_dw_ring_bytes(&j->x, j->size) + bytes_of(j->at_once * j->h.taps, sizeof(ag_dw_line));
}

/* The rows that row `out` of the result meets, each with the taps that it meets them with. */
static int64_t lines_of(const sum_job *j, ag_dw_ring *r, int64_t image, int64_t out, ag_dw_line *line)
{
    int64_t n = 0, in;
    for (int64_t k = 0; k < j->h.taps; k++)
        if (ag_dw_meets(&j->h, out, k, &in) && in >= 0 && in < j->h.in)
            line[n++] = (ag_dw_line){ ag_dw_ring_get(r, image, in), j->weight + k * j->w.taps * LANES };
    return n;
}

static void put(const sum_job *j, const ag_dw_place *p, vec *tile)
{
    if (j->before) ag_dw_put(j->before, j->dtype, p, tile);
    ag_activate(j->activation, p->pixels * LANES, (real *)tile);
    ag_dw_put(j->out, j->dtype, p, tile);
}

/* A block of one row: its tiles, each part by part. */
static void sum_row(const sum_job *j, int64_t row, int64_t block, int64_t x_block, int64_t n, const ag_dw_line *line,
                    ag_dw_ahead *next)
{
    const int64_t c = j->x.channels, first = block * LANES, lanes = least(LANES, c - first);
    const int64_t w_block = block * j->h.taps * j->w.taps;
    vec bias = { 0 }, tile[WIDE];
    for (int64_t l = 0; l < lanes && j->bias; l++) bias[l] = j->bias[first + l];
    for (const ag_dw_phase *p = j->plan.phase; p < j->plan.phase + j->plan.phases; p++)
        for (int64_t b = 0; b < p->tiles; b++) {
            const int64_t o = ag_dw_tile_at(p, b), pixels = least(ag_dw_tile_at(p, b + 1), p->outputs) - o;
            const int64_t pixel = row * j->w.out + p->first + o * p->step;
            const ag_dw_place at = { pixel * c + first, p->step * c, pixels, lanes };
            const vec *from = &bias;
            ag_dw_fetch(next);
            for (int t = 0; t < WIDE && !p->parts; t++) tile[t] = bias;
            for (const ag_dw_part *t = p->part; t < p->part + p->parts; t++, from = tile) {
                const ag_dw_sum sum = b < p->wide ? t->kernel->wide_sum : t->kernel->narrow_sum;
                sum(n, line, (x_block + t->column + o * p->stride) * LANES, p->stride * LANES,
                    (w_block + t->tap) * LANES, t->tap_step * LANES, from, from == tile, tile);
            }
            if (j->add) ag_dw_add(j->out, j->dtype, &at, tile);
            put(j, &at, tile);
        }
}

static void sum_rows(int64_t begin, int64_t end, void *arg)
{
    const sum_job *j = arg;
    char *memory = j->scratch + ag_thread_id() * sum_scratch(j);
    ag_dw_ring r = ag_dw_ring_in(&j->x, j->size, memory);
    ag_dw_line *line = (ag_dw_line *)(void *)(memory + ag_dw_ring_bytes(&j->x, j->size));
    const int64_t height = j->h.out, height_in = j->h.in, taps = j->h.taps, tiles = up(j->w.out, WIDE);
    int64_t n[MOST_AT_ONCE];
    for (int64_t first = 0; first * LANES < j->x.channels; first += r.blocks) {
        ag_dw_ring_begin(&r, first);
        for (int64_t row = begin, rows; row < end; row += rows) {
            rows = least(j->at_once, least(end - row, height - row % height));
            for (int64_t i = 0; i < rows; i++)
                n[i] = lines_of(j, &r, row / height, row % height + i, line + i * taps);
            ag_dw_ahead next = ag_dw_ring_ahead(&r, up(rows * height_in, height), rows * r.blocks * tiles);
            if (!j->h.turned && taps * j->w.taps < WORTH_ASKING * j->h.stride * j->w.stride) next.each = 0;
            for (int64_t b = 0; b < r.blocks; b++)
                for (int64_t i = 0; i < rows; i++)
                    sum_row(j, row + i, first + b, b * j->x.padded, n[i], line + i * taps, &next);
        }
    }
}

static void run_sum(sum_job *j, const ag_node *n)
{
    j->scratch = ag_workspace(n, ag_threads(), (size_t)sum_scratch(j));
    const double flops = 2 * (double)(j->h.taps * j->w.taps * j->w.out * j->x.channels);
    ag_parallel(j->x.n * j->h.out, 1, flops / 100, sum_rows, j);
}

/* ---- the gradients of weight and bias ------------------------------------------------------------------ */

typedef struct {
    ag_dw_axis h, w;
    ag_dw_plan plan;
    ag_dw_images x, g;
    ag_dw_ring_size x_size, g_size;
    int64_t at_once, rows, chunk, chunks, groups;       /* rows of the result: at once, in all, in a chunk */
    real *part, *weight, *bias;                 /* part: [chunks][blocks][taps + 1][LANES], the last for the bias */
    bool add_weight, add_bias;
    char *scratch;
} grad_job;

enum { UNITS = 16, CHUNK_PIXELS = 196 };        /* pieces of work, where the shape allows it; pixels of a chunk */

typedef struct { ag_dw_ring x, g; ag_dw_line *line; int64_t *n; } grad_desk;

static int64_t grad_scratch(const grad_job *j)
{
    return ag_dw_ring_bytes(&j->x, j->x_size) + ag_dw_ring_bytes(&j->g, j->g_size) +
           bytes_of(j->h.taps * j->at_once, sizeof(ag_dw_line)) + bytes_of(j->h.taps, sizeof(int64_t));
}

static grad_desk grad_desk_in(const grad_job *j, char *memory)
{
    char *g = memory + ag_dw_ring_bytes(&j->x, j->x_size), *line = g + ag_dw_ring_bytes(&j->g, j->g_size);
    return (grad_desk){ .x = ag_dw_ring_in(&j->x, j->x_size, memory), .g = ag_dw_ring_in(&j->g, j->g_size, g),
                        .line = (ag_dw_line *)(void *)line,
                        .n = (int64_t *)(void *)(line + bytes_of(j->h.taps * j->at_once, sizeof(ag_dw_line))) };
}

static vec *part_of(const grad_job *j, int64_t chunk, int64_t block)
{
    return (vec *)j->part + (chunk * up(j->g.channels, LANES) + block) * (j->h.taps * j->w.taps + 1);
}

/* For each tap of a column the rows that meet it, with the gradients that meet them there. */
static void grad_lines(const grad_job *j, grad_desk *d, int64_t row, int64_t rows)
{
    const int64_t image = row / j->h.out, first = row % j->h.out;
    for (int64_t k = 0, in; k < j->h.taps; k++) {
        d->n[k] = 0;
        for (int64_t i = 0; i < rows; i++)
            if (ag_dw_meets(&j->h, first + i, k, &in) && in >= 0 && in < j->h.in)
                d->line[k * j->at_once + d->n[k]++] =
                    (ag_dw_line){ ag_dw_ring_get(&d->x, image, in), ag_dw_ring_get(&d->g, image, first + i) };
    }
}

static void grad_block(const grad_job *j, grad_desk *d, int64_t block, vec *part)
{
    const ag_dw_phase *p = j->plan.phase;
    const int64_t g_at = block * j->g.padded, narrow = ag_dw_tile_at(p, p->wide), x_step = p->stride * LANES;
    for (int64_t k = 0; k < j->h.taps; k++, part += j->w.taps) {
        const ag_dw_line *line = d->line + k * j->at_once;
        for (const ag_dw_part *t = p->part; t < p->part + p->parts; t++) {
            const int64_t x_at = block * j->x.padded + t->column;
            vec *to = part + t->tap;
            if (p->wide) t->kernel->wide_grad(d->n[k], line, x_at * LANES, x_step, g_at * LANES, p->wide, to);
            if (p->wide < p->tiles)
                t->kernel->narrow_grad(d->n[k], line, (x_at + narrow * p->stride) * LANES, x_step,
                                       (g_at + narrow) * LANES, p->tiles - p->wide, to);
        }
    }
}

static void grad_chunk(const grad_job *j, grad_desk *d, int64_t chunk, int64_t first)
{
    const int64_t height = j->h.out, end = least(j->rows, (chunk + 1) * j->chunk), taps = j->h.taps * j->w.taps;
    ag_dw_ring_begin(&d->x, first);
    ag_dw_ring_begin(&d->g, first);
    memset(part_of(j, chunk, first), 0, (size_t)(d->g.blocks * (taps + 1)) * sizeof(vec));
    for (int64_t row = chunk * j->chunk, rows; row < end; row += rows) {
        rows = least(j->at_once, least(end - row, height - row % height));
        grad_lines(j, d, row, rows);
        for (int64_t b = 0; b < d->g.blocks; b++) {
            vec *part = part_of(j, chunk, first + b);
            grad_block(j, d, b, part);
            for (int64_t i = 0; i < rows; i++) {
                const real *g = ag_dw_ring_get(&d->g, row / height, row % height + i);
                ag_dw_add_columns(j->g.columns, g + b * j->g.padded * LANES, part + taps);
            }
        }
    }
}

/* Chunks of one group of channels follow each other: the rows they share are packed once. */
static void grad_units(int64_t begin, int64_t end, void *arg)
{
    const grad_job *j = arg;
    grad_desk d = grad_desk_in(j, j->scratch + ag_thread_id() * grad_scratch(j));
    for (int64_t u = begin; u < end; u++) grad_chunk(j, &d, u % j->chunks, u / j->chunks * j->g_size.blocks);
}

/* Onto the first chunk, in order; then [taps][LANES] -> [channels][taps]. */
static void add_chunks(int64_t begin, int64_t end, void *arg)
{
    const grad_job *j = arg;
    const int64_t taps = j->h.taps * j->w.taps;
    for (int64_t b = begin; b < end; b++) {
        vec *sum = part_of(j, 0, b);
        const real *s = (const real *)sum;
        const int64_t first = b * LANES, lanes = least(LANES, j->g.channels - first);
        for (int64_t c = 1; c < j->chunks; c++)
            for (int64_t k = 0; k <= taps; k++) sum[k] += part_of(j, c, b)[k];
        for (int64_t l = 0; l < lanes; l++) {
            real *w = j->weight ? j->weight + (first + l) * taps : NULL, *bias = j->bias ? j->bias + first + l : NULL;
            for (int64_t k = 0; k < taps && w; k++) w[k] = (j->add_weight ? w[k] : 0) + s[k * LANES + l];
            if (bias) *bias = (j->add_bias ? *bias : 0) + s[taps * LANES + l];
        }
    }
}

static void run_grad(grad_job *j, const ag_node *n)
{
    const int64_t blocks = up(j->g.channels, LANES);
    j->scratch = ag_workspace(n, ag_threads(), (size_t)grad_scratch(j));
    j->part = ag_workspace(n, j->chunks * blocks * (j->h.taps * j->w.taps + 1) * LANES, sizeof(real));
    const double flops = 2 * (double)(j->h.taps * j->w.taps * j->rows * j->w.out * j->g.channels);
    ag_parallel(j->chunks * j->groups, 1, flops / 100 / (double)(j->chunks * j->groups), grad_units, j);
    ag_parallel(blocks, 1, (double)(j->chunks * j->h.taps * j->w.taps), add_chunks, j);
}

/* ---- the op -------------------------------------------------------------------------------------------- */

static ag_dw_axis axis_of(const ag_node *n, int axis)
{
    const ag_conv_arg *a = n->arg;
    const bool h = axis == 1;
    return (ag_dw_axis){ n->in[AG_CONV_X]->shape[axis], n->out->shape[axis], n->in[AG_CONV_WEIGHT]->shape[axis + 1],
                         h ? a->stride_h : a->stride_w, h ? a->pad_top : a->pad_left,
                         h ? a->dilation_h : a->dilation_w, false };
}

static ag_dw_axis turned(ag_dw_axis a)
{
    return (ag_dw_axis){ a.out, a.in, a.taps, a.stride, a.pad, a.dilation, true };
}

static ag_dw_images images_of(const ag_tensor *t, const void *data)
{
    return (ag_dw_images){ .data = data, .dtype = t->dtype, .n = t->shape[0], .rows = t->shape[1],
                           .columns = t->shape[2], .channels = t->shape[3], .padded = t->shape[2] };
}

/* The gradient of what the activation was taken of, row by row where it is packed. */
static ag_dw_images gradients_of(const ag_node *n)
{
    const ag_conv_arg *a = n->arg;
    ag_dw_images im = images_of(n->out, n->out->grad ? n->out->grad->data : NULL);
    im.activation = a->activation;
    im.z = n->saved[0] ? n->saved[0]->data : n->out->data;
    return im;
}

static ag_dw_plan plan_of(const ag_dw_axis *w, ag_dw_images *im, void *memory)
{
    const ag_dw_plan plan = ag_dw_plan_of(w, memory);
    im->before = plan.before, im->padded = plan.columns;
    return plan;
}

static sum_job sum_job_of(const ag_node *n, bool backward, void *plan)
{
    const ag_tensor *x = n->in[AG_CONV_X];
    sum_job j = { .h = axis_of(n, 1), .w = axis_of(n, 2), .dtype = x->dtype };
    if (backward) j.h = turned(j.h), j.w = turned(j.w);
    j.x = backward ? gradients_of(n) : images_of(x, x->data);
    j.plan = plan_of(&j.w, &j.x, plan);
    j.at_once = rows_at_once(&j.x, &j.h, up(j.x.channels, LANES));
    j.size = ring_size(&j.x, &j.h, j.at_once, up(j.x.channels, LANES));
    return j;
}

static grad_job grad_job_of(const ag_node *n, void *plan)
{
    const ag_tensor *x = n->in[AG_CONV_X];
    grad_job j = { .h = axis_of(n, 1), .w = axis_of(n, 2), .x = images_of(x, x->data), .g = gradients_of(n) };
    j.plan = plan_of(&j.w, &j.x, plan);
    j.g.padded = ag_dw_tile_at(j.plan.phase, j.plan.phase->tiles);
    j.rows = x->shape[0] * j.h.out;
    j.chunk = most(up(j.rows, UNITS), up(CHUNK_PIXELS, j.w.out));
    j.chunks = up(j.rows, j.chunk);
    const int64_t blocks = up(j.g.channels, LANES), group = up(blocks, up(UNITS, j.chunks));
    j.at_once = rows_at_once(&j.x, &j.h, group);
    j.x_size = ring_size(&j.x, &j.h, j.at_once, group);
    j.g_size = (ag_dw_ring_size){ j.x_size.blocks, j.at_once };
    j.groups = up(blocks, j.g_size.blocks);
    return j;
}

static void *plan_memory(const ag_node *n, bool backward)
{
    const ag_dw_axis w = axis_of(n, 2), back = turned(w);
    return ag_workspace(n, ag_dw_plan_bytes(backward ? &back : &w), 1);
}

static void infer(ag_node *n)
{
    const ag_tensor *x = n->in[AG_CONV_X], *w = n->in[AG_CONV_WEIGHT];
    ag_conv_infer(n);
    AG_REQUIRE(n, w->shape[0] == x->shape[3] && w->shape[1] == 1,
               "weight must be [%" PRId64 ", 1, kh, kw], one filter a channel", x->shape[3]);
}

static double flops(const ag_node *n)
{
    const ag_tensor *w = n->in[AG_CONV_WEIGHT];
    return 2 * (double)ag_numel(n->out) * (double)(w->shape[2] * w->shape[3]);
}

/* [channels, 1, kh, kw] -> [blocks][kh kw][LANES] */
typedef struct { const real *from; real *to; int64_t channels, taps; } pack_job;

static void pack_blocks(int64_t begin, int64_t end, void *arg)
{
    const pack_job j = *(pack_job *)arg;
    for (int64_t b = begin; b < end; b++) {
        const real *from = j.from + b * LANES * j.taps;
        real *to = j.to + b * LANES * j.taps;
        const int64_t lanes = least(LANES, j.channels - b * LANES);
        if (lanes < LANES) memset(to, 0, (size_t)(LANES * j.taps) * sizeof(real));
        for (int64_t l = 0; l < lanes; l++)
            for (int64_t k = 0; k < j.taps; k++) to[k * LANES + l] = from[l * j.taps + k];
    }
}

static void pack_weight(const ag_tensor *w, void *to, const void *arg)
{
    pack_job j = { ag_real(w), to, w->shape[0], w->shape[2] * w->shape[3] };
    (void)arg;
    ag_parallel(up(j.channels, LANES), 1, 0.4 * (double)(LANES * j.taps), pack_blocks, &j);
}

static const real *packed_weight(const ag_node *n)
{
    const ag_tensor *w = n->in[AG_CONV_WEIGHT];
    const int64_t reals = up(w->shape[0], LANES) * w->shape[2] * w->shape[3] * LANES;
    return ag_packed(n, w, 0x6477, reals * (int64_t)sizeof(real), pack_weight, NULL);
}

static int64_t grad_bytes(const grad_job *j)
{
    const int64_t part = j->chunks * up(j->g.channels, LANES) * (j->h.taps * j->w.taps + 1) * LANES;
    return ag_dw_plan_bytes(&j->w) + ag_threads() * grad_scratch(j) + part * (int64_t)sizeof(real);
}

static int64_t workspace(const ag_node *n, bool backward)
{
    const ag_dw_axis w = axis_of(n, 2), back = turned(w);
    void *plan = ag_alloc(most(ag_dw_plan_bytes(&w), ag_dw_plan_bytes(&back)), 1);  /* a plan has no workspaces */
    const sum_job j = sum_job_of(n, backward, plan);
    (void)packed_weight(n);
    int64_t bytes = ag_dw_plan_bytes(&j.w) + ag_threads() * sum_scratch(&j);
    if (backward) {
        const grad_job g = grad_job_of(n, plan);
        bytes += grad_bytes(&g);
    }
    ag_free(plan);
    return bytes;
}

static void forward(ag_node *n)
{
    const ag_tensor *bias = n->in[AG_CONV_BIAS];
    sum_job j = sum_job_of(n, false, plan_memory(n, false));
    j.weight = packed_weight(n), j.bias = bias ? ag_real(bias) : NULL;
    j.out = n->out->data, j.before = n->saved[0] ? n->saved[0]->data : NULL;
    j.activation = ((const ag_conv_arg *)n->arg)->activation;
    run_sum(&j, n);
}

static void backward(ag_node *n)
{
    ag_tensor *dx = n->din[AG_CONV_X], *dw = n->din[AG_CONV_WEIGHT], *db = n->din[AG_CONV_BIAS];
    if (dx) {
        sum_job j = sum_job_of(n, true, plan_memory(n, true));
        j.weight = packed_weight(n), j.out = dx->data, j.add = n->accumulate[AG_CONV_X];
        run_sum(&j, n);
    }
    if (!dw && !db) return;
    grad_job j = grad_job_of(n, plan_memory(n, false));
    j.weight = dw ? ag_real(dw) : NULL, j.add_weight = n->accumulate[AG_CONV_WEIGHT];
    j.bias = db ? ag_real(db) : NULL, j.add_bias = n->accumulate[AG_CONV_BIAS];
    run_grad(&j, n);
}

static ag_tensor *conv(ag_tensor **in, ag_tensor *bias, ag_conv_arg a)
{
    a.groups = in[0]->shape[3];
    return ag_apply(&ag_op_conv_depthwise, AG_INPUTS(in[0], in[1], bias), &a, sizeof a);
}

#define CHECK(name, bias, ...) \
    static ag_tensor *name(ag_tensor **in) { return conv(in, bias, (ag_conv_arg){ __VA_ARGS__ }); }
CHECK(check_3x3, in[2], 1, 1, 1, 1, 1, 1, 1, 1, 0, AG_LINEAR_PLAIN)
CHECK(check_7x7, in[2], 1, 1, 3, 3, 3, 3, 1, 1, 0, AG_LINEAR_PLAIN)
CHECK(check_5x5, in[2], 2, 2, 2, 2, 2, 2, 1, 1, 0, AG_LINEAR_PLAIN)
CHECK(check_same, in[2], 2, 2, 0, 0, 1, 1, 1, 1, 0, AG_LINEAR_GELU)         /* TensorFlow's padding, stride 2 */
CHECK(check_dilated, NULL, 1, 2, 2, 1, 2, 0, 2, 3, 0, AG_LINEAR_PLAIN)
CHECK(check_3x9, in[2], 3, 1, 0, 4, 2, 4, 1, 1, 0, AG_LINEAR_RELU)

const ag_op ag_op_conv_depthwise = {
    .name = "conv_depthwise", .inputs = "x weight bias", .infer = infer, .unread_out = true, .unread_cuda = true,
    .bf16 = 1 << AG_CONV_X, .bf16_cuda = 1 << AG_CONV_X,
    .forward = { forward, AG_CUDA_FN(ag_conv_depthwise_forward_cuda) },
    .backward = { backward, AG_CUDA_FN(ag_conv_depthwise_backward_cuda) }, .workspace = workspace, .flops = flops,
    .check = { { "x[2,5,6,5] weight[5,1,3,3] bias[5]", check_3x3 },
               { "x[1,3,15,5] weight[5,1,7,7] bias[5]", check_7x7 },
               { "x[2,7,6,3] weight[3,1,5,5] bias[3]", check_5x5 },
               { "x[1,6,8,3] weight[3,1,3,3] bias[3]", check_same },
               { "x[2,6,9,5] weight[5,1,3,3]", check_dilated },
               { "x[1,3,4,17] weight[17,1,3,9] bias[17]", check_3x9 } },
};
