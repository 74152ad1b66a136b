/* ops/conv_direct.c - convolutions by oneDNN, shared by the team.
 *
 * D1  Work is cut into runs of rows of all images one below the other: of y, for the gradient of x of x. A run is the end of
 *     one image, whole images, the beginning of another: pieces, each a convolution with paddings of its own.
 * D2  Where the stride is 1 the gradient of x is itself a convolution: of g, with the weight turned round; it is faster than
 *     oneDNN's kernel for gradients, and adds.
 * D3  The gradient of a small weight is summed over runs of rows, one sum per part, added up in order. A large one is cut
 *     into runs of output channels instead, so that nothing needs to be added: there g is small, and copied for that. */
#include <stdatomic.h>
#include <string.h>
#include "core/bf16.h"
#include "core/ledger.h"
#include "core/thread.h"
#include "ops/conv_ways.h"

enum { PIECES = 3 };

typedef struct {
    ag_conv c;
    int64_t x, y;               /* first elements */
    const void *weight;
    bool zero;                  /* nothing reaches these rows of x */
} piece;

typedef struct {
    const ag_conv *c;
    int64_t parts;
    bool turned, add;
    const void *x, *y;
    const real *bias;
    piece *pieces;              /* PIECES of each part; c.n == 0: none */
    atomic_bool failed;
} job;

static int64_t size_of(ag_dtype type) { return type == AG_BF16 ? 2 : (int64_t)sizeof(real); }
static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

static int64_t reach_h(const ag_conv *c) { return c->at.dilation_h * (c->kh - 1) + 1; }
static int64_t reach_w(const ag_conv *c) { return c->at.dilation_w * (c->kw - 1) + 1; }

/* Windows that overlap and reach into the image everywhere. */
bool ag_direct_fits(const ag_conv *c)
{
    const ag_conv_arg *a = &c->at;
    const int64_t h = reach_h(c), w = reach_w(c);
    const bool overlap = h >= a->stride_h && w >= a->stride_w && (h > a->stride_h || w > a->stride_w || a->groups > 1);
    return ag_onednn_there() && overlap && a->pad_top < h && a->pad_bottom < h && a->pad_left < w && a->pad_right < w;
}

/* ---- pieces -------------------------------------------------------------------------------------------- */

/* Rows first .. last of y in image i. */
static piece rows_of_y(const ag_conv *c, int64_t i, int64_t first, int64_t last)
{
    piece p = { .c = *c, .y = (i * c->oh + first) * c->ow * c->out };
    const int64_t top = first * c->at.stride_h - c->at.pad_top, bottom = (last - 1) * c->at.stride_h - c->at.pad_top + reach_h(c);
    const int64_t from = at_least(top, 0), to = at_most(bottom, c->h);
    p.c.n = 1, p.c.oh = last - first, p.c.h = to - from, p.c.at.pad_top = from - top, p.c.at.pad_bottom = bottom - to;
    p.x = (i * c->h + from) * c->w * c->in;
    return p;
}

static int64_t up(int64_t a, int64_t b) { return a <= 0 ? 0 : (a + b - 1) / b; }

/* Rows first .. last of x in image i, and all rows of y that they are read for. */
static piece rows_of_x(const ag_conv *c, int64_t i, int64_t first, int64_t last)
{
    piece p = { .c = *c, .x = (i * c->h + first) * c->w * c->in };
    const int64_t s = c->at.stride_h, begin = up(first + c->at.pad_top - reach_h(c) + 1, s);
    const int64_t end = at_most((last - 1 + c->at.pad_top) / s + 1, c->oh);
    p.c.n = 1, p.c.h = last - first, p.c.oh = end - begin, p.zero = end <= begin;
    p.c.at.pad_top = first - (begin * s - c->at.pad_top);
    p.c.at.pad_bottom = at_least((end - 1) * s - c->at.pad_top + reach_h(c) - last, 0);
    p.y = (i * c->oh + begin) * c->ow * c->out;
    return p;
}

/* Rows first .. last of all images' y (or x) as pieces; returns how many. */
static int cut(const ag_conv *c, bool by_x, int64_t first, int64_t last, piece *to)
{
    const int64_t h = by_x ? c->h : c->oh;
    int n = 0;
    while (first < last) {
        const int64_t i = first / h, row = first % h, images = row ? 0 : (last - first) / h;
        if (images) {
            to[n] = (piece){ .c = *c, .x = i * c->h * c->w * c->in, .y = i * c->oh * c->ow * c->out };
            to[n++].c.n = images;
            first += images * h;
            continue;
        }
        const int64_t end = at_most(row + last - first, h);
        to[n++] = by_x ? rows_of_x(c, i, row, end) : rows_of_y(c, i, row, end);
        first += end - row;
    }
    return n;
}

static int64_t parts_of(const ag_conv *c)
{
    const int64_t worth = (int64_t)(ag_conv_flops(c) / 2e6), threads = at_most(ag_threads(), 64);
    return at_least(at_most(worth, threads), 1);
}

/* ---- the weight ---------------------------------------------------------------------------------------- */

typedef struct { const ag_conv *c; ag_conv_way way; bool bias, turned; const ag_node *n; } pack_arg;
typedef struct { const pack_arg *a; const real *from; void *to; atomic_bool failed; } pack_job;

/* Input channels begin .. end: [out, in / groups, kh, kw] -> [in, out / groups, kh, kw], the taps in reverse; c has the sizes
 * after that. Some channels at a time, for the lines they are read from. */
static void turn(int64_t begin, int64_t end, void *arg)
{
    const pack_job *j = arg;
    const ag_conv *c = j->a->c;
    const int64_t out = c->in / c->at.groups, in = c->out / c->at.groups, taps = c->kh * c->kw;
    const int64_t first = begin / in * in;
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = begin; i < end; i++) {
            const real *restrict from = j->from + ((first / in * out + o) * in + i - first) * taps;
            real *restrict to = (real *)j->to + (i * out + o) * taps;
            if (taps == 9) for (int64_t t = 0; t < 9; t++) to[t] = from[8 - t];     /* unrolled: 3 times as fast */
            else for (int64_t t = 0; t < taps; t++) to[t] = from[taps - 1 - t];
        }
}

static void turn_some(int64_t begin, int64_t end, void *arg)
{
    const ag_conv *c = ((const pack_job *)arg)->a->c;
    const int64_t in = c->out / c->at.groups;
    for (int64_t i = begin, next; i < end; i = next) {
        next = at_most(at_most(i + 16, end), (i / in + 1) * in);        /* of one group */
        turn(i, next, arg);
    }
}

static void pack_panels(int64_t begin, int64_t end, void *arg)
{
    pack_job *j = arg;
    const pack_arg *a = j->a;
    for (int64_t i = begin; i < end; i += AG_CONV_PANEL)
        if (!ag_onednn_conv_pack(a->c, a->way, a->bias, i, at_most(end - i, AG_CONV_PANEL), j->from, j->to))
            atomic_store(&j->failed, true);
}

static void pack(const ag_tensor *weight, void *to, const void *arg)
{
    const pack_arg *a = arg;
    const double row = (double)ag_conv_depth(a->c);
    pack_job j = { .a = a, .from = ag_real(weight) };
    AG_SCOPE;
    if (a->turned) {
        j.to = ag_workspace(a->n, ag_numel(weight), sizeof(real));
        ag_parallel(a->c->out, 16, 0.5 * row, turn_some, &j);
        j.from = j.to;
    }
    j.to = to;
    if (a->c->at.groups == 1) ag_parallel(a->c->out, AG_CONV_PANEL, 0.4 * row, pack_panels, &j);
    if (a->c->at.groups == 1 && !atomic_load(&j.failed)) return;
    if (!ag_onednn_conv_pack(a->c, a->way, a->bias, 0, a->c->out, j.from, to))
        ag_fail(weight->at, "no memory to rearrange a parameter");
}

/* Finds every piece's form of the weight; false where oneDNN has no fast kernel for one. */
static bool find_weights(const ag_node *n, job *j, ag_conv_way way, const ag_tensor *weight)
{
    for (int64_t i = 0; i < j->parts * PIECES; i++) {
        piece *p = &j->pieces[i];
        int64_t bytes;
        uint64_t form;
        if (!p->c.n || p->zero) continue;
        if (!ag_onednn_conv_form(&p->c, way, j->bias, j->add && way == AG_CONV_FORWARD, &bytes, &form)) return false;
        const pack_arg arg = { .c = &p->c, .way = way, .bias = j->bias, .turned = j->turned, .n = n };
        p->weight = ag_packed(n, weight, form * 2 + j->turned, bytes, pack, &arg);
    }
    return true;
}

/* ---- forward, and the gradient of x where the stride is 1 ------------------------------------------------ */

static void forward_parts(int64_t begin, int64_t end, void *arg)
{
    job *j = arg;
    const ag_dtype type = j->c->type;
    for (piece *p = j->pieces + begin * PIECES; p < j->pieces + end * PIECES; p++)
        if (p->c.n && !ag_onednn_conv(&p->c, AG_CONV_FORWARD, (const char *)j->x + p->x * size_of(type), p->weight, j->bias,
                                      (const char *)j->y + p->y * size_of(type), j->add))
            atomic_store(&j->failed, true);
}

/* A plan of memory comes as far as this. */
static void run(const ag_node *n, job *j, void (*body)(int64_t, int64_t, void *))
{
    if (ag_planning()) return;
    ag_parallel(j->parts, 1, ag_conv_flops(j->c) / (double)j->parts / (j->c->type == AG_BF16 ? 500 : 100), body, j);
    if (atomic_load(&j->failed)) ag_node_fail(n, "no memory for the convolution");
}

static piece *pieces_new(const ag_node *n, int64_t count)
{
    piece *p = ag_planning() ? ag_alloc(count, sizeof *p) : ag_workspace(n, count, sizeof *p);
    if (ag_planning()) ag_defer(ag_free, p);
    return memset(p, 0, (size_t)count * sizeof *p);
}

static void cut_all(const ag_node *n, job *j, bool by_x)
{
    const int64_t rows = j->c->n * (by_x ? j->c->h : j->c->oh);
    j->pieces = pieces_new(n, j->parts * PIECES);
    for (int64_t p = 0; p < j->parts; p++)
        cut(j->c, by_x, rows * p / j->parts, rows * (p + 1) / j->parts, j->pieces + p * PIECES);
}

bool ag_direct_forward(const ag_node *n, const ag_conv *c, const void *x, const ag_tensor *weight, const ag_tensor *bias,
                       ag_activation activation, void *y, bool add)
{
    ag_conv fused = *c;
    fused.at.activation = activation;
    job j = { .c = &fused, .x = x, .y = y, .add = add, .bias = bias ? ag_real(bias) : NULL, .parts = parts_of(c) };
    cut_all(n, &j, false);
    if (!find_weights(n, &j, AG_CONV_FORWARD, weight)) return false;
    run(n, &j, forward_parts);
    return true;
}

static bool turned_forward(const ag_node *n, const ag_conv *c, const void *g, const ag_tensor *weight, void *dx, bool add)
{
    const ag_conv_arg *a = &c->at;
    ag_conv t = *c;
    t.h = c->oh, t.w = c->ow, t.in = c->out, t.oh = c->h, t.ow = c->w, t.out = c->in;
    t.at.pad_top = reach_h(c) - 1 - a->pad_top, t.at.pad_bottom = reach_h(c) - 1 - a->pad_bottom;
    t.at.pad_left = reach_w(c) - 1 - a->pad_left, t.at.pad_right = reach_w(c) - 1 - a->pad_right;
    t.at.activation = AG_LINEAR_PLAIN;
    job j = { .c = &t, .x = g, .y = dx, .turned = true, .add = add, .parts = parts_of(c) };
    cut_all(n, &j, false);
    if (!find_weights(n, &j, AG_CONV_FORWARD, weight)) return false;
    run(n, &j, forward_parts);
    return true;
}

static bool turns(const ag_conv *c)
{
    enum { LEAST_PIXELS = 2048 };       /* for turning the weight to pay */
    return c->at.stride_h == 1 && c->at.stride_w == 1 && ag_conv_pixels(c) >= LEAST_PIXELS;
}

/* ---- the gradient of x by oneDNN's kernel for that ------------------------------------------------------------------- */

static void input_parts(int64_t begin, int64_t end, void *arg)
{
    job *j = arg;
    const int64_t size = size_of(j->c->type);
    for (piece *p = j->pieces + begin * PIECES; p < j->pieces + end * PIECES; p++) {
        char *dx = (char *)(uintptr_t)j->x + p->x * size;
        if (p->zero) memset(dx, 0, (size_t)(p->c.n * p->c.h * p->c.w * p->c.in * size));
        else if (p->c.n && !ag_onednn_conv(&p->c, AG_CONV_INPUT, dx, p->weight, NULL, (const char *)j->y + p->y * size, false))
            atomic_store(&j->failed, true);
    }
}

typedef struct { const void *from; void *to; ag_dtype type; } add_job;

static void add_values(int64_t begin, int64_t end, void *arg)
{
    enum { PIECE = 1024 };
    const add_job *j = arg;
    real a[PIECE], b[PIECE];
    for (int64_t i = begin; i < end; i += PIECE) {
        const int64_t n = at_most(end - i, PIECE);
        const real *x = ag_widen(j->from, j->type, i, n, a);
        real *y = ag_narrow_onto(j->to, j->type, i, n, b);
        for (int64_t k = 0; k < n; k++) y[k] += x[k];
        ag_narrow(j->to, j->type, i, n, y);
    }
}

bool ag_direct_input_gradient(const ag_node *n, const ag_conv *c, const void *g, const ag_tensor *weight, void *dx, bool add)
{
    if (turns(c)) return turned_forward(n, c, g, weight, dx, add);
    ag_conv plain = *c;
    plain.at.activation = AG_LINEAR_PLAIN;
    const int64_t count = c->n * c->h * c->w * c->in;
    job j = { .c = &plain, .x = dx, .y = g, .parts = parts_of(c) };
    cut_all(n, &j, true);
    if (!find_weights(n, &j, AG_CONV_INPUT, weight)) return false;
    if (add) j.x = ag_workspace(n, count, (size_t)size_of(c->type));
    run(n, &j, input_parts);
    if (add && !ag_planning()) ag_parallel(count, 1024, 0.3, add_values, &(add_job){ j.x, dx, c->type });
    return true;
}

/* ---- the gradient of the weight -------------------------------------------------------------------------- */

/* D3 */
static bool by_channels(const ag_conv *c)
{
    const double parts = (double)parts_of(c), size = (double)size_of(c->type);
    const double weight = (double)(c->out * ag_conv_depth(c)) * sizeof(real);
    const double x = (double)(c->n * c->h * c->w * c->in) * size, y = (double)(ag_conv_pixels(c) * c->out) * size;
    return parts > 1 && c->at.groups == 1 && (double)c->out >= 32 * parts && weight * parts > y / parts + 2 * x * (1 - 1 / parts);
}

typedef struct {
    const ag_conv *c;
    const void *x, *g;
    real *dw;
    char *slices, *sums;
    int64_t parts, slice_bytes, sum_bytes;      /* of each part */
    bool add;
    atomic_bool failed;
} channels_job;

static ag_conv channels_of(const ag_conv *c, int64_t part, int64_t parts, int64_t *first)
{
    ag_conv some = *c;
    const int64_t blocks = (c->out + 15) / 16;
    *first = blocks * part / parts * 16;
    some.out = at_most(blocks * (part + 1) / parts * 16, c->out) - *first;
    return some;
}

static void channel_parts(int64_t begin, int64_t end, void *arg)
{
    channels_job *j = arg;
    const int64_t size = size_of(j->c->type), pixels = ag_conv_pixels(j->c);
    for (int64_t p = begin; p < end; p++) {
        int64_t first;
        const ag_conv some = channels_of(j->c, p, j->parts, &first);
        char *slice = j->slices + p * j->slice_bytes, *sums = j->sums + p * j->sum_bytes;
        for (int64_t i = 0; i < pixels; i++)
            memcpy(slice + i * some.out * size, (const char *)j->g + (i * j->c->out + first) * size, (size_t)(some.out * size));
        if (!ag_onednn_conv(&some, AG_CONV_WEIGHTS, j->x, sums, NULL, slice, false) ||
            !ag_onednn_conv_unpack(&some, sums, j->dw + first * ag_conv_depth(j->c), j->add))
            atomic_store(&j->failed, true);
    }
}

static bool channel_sizes(const ag_conv *c, channels_job *j)
{
    uint64_t form;
    j->parts = parts_of(c), j->slice_bytes = 0, j->sum_bytes = 0;
    for (int64_t p = 0; p < j->parts; p++) {
        int64_t first, bytes;
        const ag_conv some = channels_of(c, p, j->parts, &first);
        if (!ag_onednn_conv_form(&some, AG_CONV_WEIGHTS, false, false, &bytes, &form)) return false;
        j->slice_bytes = at_least(j->slice_bytes, ag_conv_pixels(c) * some.out * size_of(c->type));
        j->sum_bytes = at_least(j->sum_bytes, (bytes + 63) / 64 * 64);
    }
    j->slice_bytes = (j->slice_bytes + 63) / 64 * 64;
    return true;
}

static bool weight_by_channels(const ag_node *n, const ag_conv *c, const void *x, const void *g, real *dw, bool add)
{
    channels_job j = { .c = c, .x = x, .g = g, .dw = dw, .add = add };
    if (!channel_sizes(c, &j)) return false;
    j.slices = ag_workspace(n, j.parts, (size_t)j.slice_bytes);
    j.sums = ag_workspace(n, j.parts, (size_t)j.sum_bytes);
    ag_parallel(j.parts, 1, ag_conv_flops(c) / (double)j.parts / 100, channel_parts, &j);
    if (atomic_load(&j.failed)) ag_node_fail(n, "no memory for the gradient of the convolution");
    return true;
}

static void weight_parts(int64_t begin, int64_t end, void *arg)
{
    job *j = arg;
    const int64_t size = size_of(j->c->type);
    for (piece *p = j->pieces + begin * PIECES; p < j->pieces + end * PIECES; p++)
        if (p->c.n && !ag_onednn_conv(&p->c, AG_CONV_WEIGHTS, (const char *)j->x + p->x * size, p->weight, NULL,
                                      (const char *)j->y + p->y * size, false))
            atomic_store(&j->failed, true);
}

/* Whole images where there are many, as every piece has sums of its own. */
static void cut_images(const ag_node *n, job *j)
{
    if (j->c->n < 4 * j->parts) {
        cut_all(n, j, false);
        return;
    }
    j->pieces = pieces_new(n, j->parts * PIECES);
    for (int64_t p = 0; p < j->parts; p++)
        cut(j->c, false, j->c->n * p / j->parts * j->c->oh, j->c->n * (p + 1) / j->parts * j->c->oh, j->pieces + p * PIECES);
}

bool ag_direct_weight_gradient(const ag_node *n, const ag_conv *c, const void *x, const void *g, real *dw, bool add)
{
    ag_conv plain = *c;
    plain.at.activation = AG_LINEAR_PLAIN;
    if (by_channels(&plain)) return weight_by_channels(n, &plain, x, g, dw, add);
    job j = { .c = &plain, .x = x, .y = g, .parts = parts_of(c) };
    cut_images(n, &j);
    for (piece *p = j.pieces; p < j.pieces + j.parts * PIECES; p++) {
        int64_t bytes;
        uint64_t form;
        if (!p->c.n) continue;
        if (!ag_onednn_conv_form(&p->c, AG_CONV_WEIGHTS, false, false, &bytes, &form)) return false;
        p->weight = ag_workspace(n, bytes, 1);
    }
    run(n, &j, weight_parts);
    for (piece *p = j.pieces; p < j.pieces + j.parts * PIECES; p++)
        if (p->c.n) {
            if (!ag_onednn_conv_unpack(&p->c, p->weight, dw, add))
                ag_node_fail(n, "no memory for the gradient of the convolution");
            add = true;
        }
    return true;
}

/* ---- workspace ------------------------------------------------------------------------------------------- */

static int64_t piece_bytes(const ag_conv *c)
{
    return parts_of(c) * PIECES * (int64_t)sizeof(piece);
}

int64_t ag_direct_forward_workspace(const ag_conv *c)
{
    return piece_bytes(c);
}

int64_t ag_direct_input_workspace(const ag_conv *c)
{
    const int64_t weight = c->out * ag_conv_depth(c) * (int64_t)sizeof(real), x = c->n * c->h * c->w * c->in * size_of(c->type);
    return piece_bytes(c) + (turns(c) ? weight : x);
}

/* Blocks of 16 channels at worst. */
int64_t ag_direct_weight_workspace(const ag_conv *c)
{
    const int64_t in = (c->in / c->at.groups + 15) / 16 * 16, out = (c->out / c->at.groups + 15) / 16 * 16 * c->at.groups;
    const int64_t weight = out * in * c->kh * c->kw * (int64_t)sizeof(real), parts = parts_of(c);
    if (by_channels(c)) return weight + ag_conv_pixels(c) * c->out * size_of(c->type);
    return piece_bytes(c) + weight * (c->n >= 4 * parts || c->n % parts == 0 ? parts : PIECES * parts);
}
