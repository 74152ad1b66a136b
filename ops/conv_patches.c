/* ops/conv_patches.c - convolutions as products of patches: the window of every output pixel becomes a row of numbers
 * [kh, kw, in / groups], some rows at a time. The way for windows that do not overlap, which copy every pixel at most once,
 * and for all convolutions where there is no oneDNN. */
#include <string.h>
#include "core/bf16.h"
#include "core/thread.h"
#include "ops/conv_ways.h"
#include "ops/gemm.h"

/* Patches at a time: bytes and rows, for a thread; bytes, for the team. Elements in the first cache. */
enum { CHUNK = 256 << 10, LEAST = 16, MOST = 1024, RUN = 4 << 20, PIECE = 512 };

typedef struct {
    const ag_conv *c;
    const void *x, *g;
    void *to, *rows;                /* rows: scratch of each thread */
    ag_dtype to_type;
    int64_t to_first;               /* the element of x that lies at `to` */
    real *image, *sums;             /* image: of each thread */
    bool add;
    int64_t chunk, first, group;
    ag_gemm product;                /* of a chunk, but for what changes with it */
} job;

static int64_t size_of(ag_dtype type) { return type == AG_BF16 ? 2 : (int64_t)sizeof(real); }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t chunk_of(const ag_conv *c)
{
    const int64_t rows = CHUNK / (ag_conv_depth(c) * (int64_t)sizeof(real));
    return smaller(rows < LEAST ? LEAST : rows > MOST ? MOST : rows, ag_conv_pixels(c));
}

static bool overlap(const ag_conv *c)
{
    return c->at.dilation_h * (c->kh - 1) >= c->at.stride_h || c->at.dilation_w * (c->kw - 1) >= c->at.stride_w;
}

/* ---- the weight as [out, kh, kw, in / groups] ---------------------------------------------------------- */

static const uint64_t form = 0x6f687769;

static bool turned(const ag_conv *c) { return c->kh * c->kw > 1; }

typedef struct { const ag_conv *c; const real *from; real *to; bool add; } turn_job;

static void turn(int64_t begin, int64_t end, void *arg)
{
    const turn_job *j = arg;
    const int64_t taps = j->c->kh * j->c->kw, in = j->c->in / j->c->at.groups;
    for (int64_t o = begin; o < end; o++) {
        const real *restrict from = j->from + o * taps * in;
        real *restrict to = j->to + o * taps * in;
        for (int64_t t = 0; t < taps; t++)
            for (int64_t i = 0; i < in; i++) to[t * in + i] = from[i * taps + t];
    }
}

static void pack(const ag_tensor *weight, void *to, const void *arg)
{
    const ag_conv *c = arg;
    ag_parallel(c->out, 1, (double)ag_conv_depth(c), turn, &(turn_job){ .c = c, .from = ag_real(weight), .to = to });
}

/* The product of patches with the weight (or of gradients with its transpose: back). */
static ag_gemm by_weight(const ag_node *n, const ag_conv *c, const ag_tensor *weight, bool back)
{
    const int64_t depth = ag_conv_depth(c), out = c->out / c->at.groups;
    ag_gemm g = { .batch = 1, .n = ag_conv_pixels(c), .m = back ? depth : out, .k = back ? out : depth, .a_type = c->type,
                  .a_row = back ? c->out : depth, .a_col = 1, .b_row = back ? depth : 1, .b_col = back ? 1 : depth,
                  .b_param = c->at.groups == 1 ? weight : NULL, .b_form = turned(c) ? form : 0, .c_row = back ? depth : c->out,
                  .c_type = back ? AG_F32 : c->type };
    g.b = turned(c) ? ag_packed(n, weight, form, ag_numel(weight) * (int64_t)sizeof(real), pack, c) : weight->data;
    ag_gemm_prepare(n, &g);
    return g;
}

void ag_patches_prepare(const ag_node *n, const ag_conv *c, const ag_tensor *weight, bool back)
{
    (void)by_weight(n, c, weight, back);
}

/* ---- patches ------------------------------------------------------------------------------------------- */

typedef struct { int64_t n, y, x; } pixel;

static pixel pixel_at(const ag_conv *c, int64_t p)
{
    return (pixel){ p / (c->oh * c->ow), p / c->ow % c->oh, p % c->ow };
}

typedef void (*run_fn)(const job *j, void *row, int64_t from, int64_t to, int64_t n);

/* A patch is runs of n numbers: element `from` of x (-1: padding), element `to` of the row. */
static inline void each_run(const job *j, int64_t group, pixel at, run_fn run, void *row)
{
    const ag_conv *c = j->c;
    const ag_conv_arg *a = &c->at;
    const int64_t in = c->in / a->groups, left = at.x * a->stride_w - a->pad_left;
    const bool whole = a->groups == 1 && a->dilation_w == 1 && left >= 0 && left + c->kw <= c->w;
    for (int64_t ky = 0; ky < c->kh; ky++) {
        const int64_t y = at.y * a->stride_h - a->pad_top + ky * a->dilation_h, to = ky * c->kw * in;
        const int64_t line = ((at.n * c->h + y) * c->w) * c->in + group * in;
        if (y < 0 || y >= c->h) run(j, row, -1, to, c->kw * in);
        else if (whole) run(j, row, line + left * c->in, to, c->kw * in);
        else for (int64_t k = 0; k < c->kw; k++) {
            const int64_t x = left + k * a->dilation_w;
            run(j, row, x < 0 || x >= c->w ? -1 : line + x * c->in, to + k * in, in);
        }
    }
}

static inline void gather_run(const job *j, void *row, int64_t from, int64_t to, int64_t n)
{
    void *y = ag_element(row, j->c->type, to);
    const size_t bytes = (size_t)(n * size_of(j->c->type));
    if (from < 0) memset(y, 0, bytes);
    else memcpy(y, ag_element(j->x, j->c->type, from), bytes);
}

/* The gradient of a patch to where its pixels lie: set, or added. */
static inline void scatter_run(const job *j, void *row, int64_t from, int64_t to, int64_t n)
{
    const real *d = (const real *)row + to;
    if (from < 0) return;
    for (int64_t i = 0; i < n; i += PIECE) {
        const int64_t m = smaller(n - i, PIECE), at = from - j->to_first + i;
        real wide[PIECE];
        real *y = j->add ? ag_narrow_onto(j->to, j->to_type, at, m, wide) : ag_narrow_to(j->to, j->to_type, at, wide);
        for (int64_t k = 0; k < m; k++) y[k] = d[i + k] + (j->add ? y[k] : 0);
        ag_narrow(j->to, j->to_type, at, m, y);
    }
}

static void each_patch(const job *j, int64_t group, int64_t first, int64_t count, run_fn run, void *rows, ag_dtype type)
{
    const int64_t depth = ag_conv_depth(j->c);
    for (int64_t p = 0; p < count; p++)
        each_run(j, group, pixel_at(j->c, first + p), run, ag_element(rows, type, p * depth));
}

static void *my_rows(const job *j, ag_dtype type)
{
    return ag_element(j->rows, type, ag_thread_id() * j->chunk * ag_conv_depth(j->c));
}

/* ---- forward ------------------------------------------------------------------------------------------- */

static void forward_pixels(int64_t begin, int64_t end, void *arg)
{
    const job *j = arg;
    const ag_conv *c = j->c;
    const int64_t depth = ag_conv_depth(c), out = c->out / c->at.groups;
    void *rows = my_rows(j, c->type);
    for (int64_t p = begin; p < end; p += j->chunk)
        for (int64_t q = 0; q < c->at.groups; q++) {
            ag_gemm g = j->product;
            g.n = smaller(end - p, j->chunk);
            each_patch(j, q, p, g.n, gather_run, rows, c->type);
            g.a = rows, g.b = ag_element(g.b, AG_F32, q * out * depth), g.c = ag_element(j->to, c->type, p * c->out + q * out);
            if (g.bias) g.bias += q * out;
            ag_gemm_run(&g);
        }
}

static double pixel_ns(const ag_conv *c)
{
    return (double)c->out * (double)ag_conv_depth(c) / (c->type == AG_BF16 ? 300 : 60);
}

void ag_patches_forward(const ag_node *n, const ag_conv *c, const void *x, const ag_tensor *weight, const ag_tensor *bias,
                        ag_activation activation, void *y, bool add)
{
    job j = { .c = c, .x = x, .to = y, .chunk = chunk_of(c), .product = by_weight(n, c, weight, false) };
    j.product.bias = bias ? ag_real(bias) : NULL, j.product.activation = activation, j.product.add = add;
    j.rows = ag_workspace(n, ag_threads() * j.chunk * ag_conv_depth(c), (size_t)size_of(c->type));
    ag_parallel(ag_conv_pixels(c), 16, pixel_ns(c), forward_pixels, &j);
}

/* ---- the gradient of x --------------------------------------------------------------------------------- */

static void scatter_pixels(const job *j, int64_t begin, int64_t end)
{
    const ag_conv *c = j->c;
    const int64_t depth = ag_conv_depth(c), out = c->out / c->at.groups;
    real *rows = my_rows(j, AG_F32);
    for (int64_t p = begin; p < end; p += j->chunk)
        for (int64_t q = 0; q < c->at.groups; q++) {
            ag_gemm g = j->product;
            g.n = smaller(end - p, j->chunk);
            g.a = ag_element(j->g, c->type, p * c->out + q * out), g.b = ag_element(g.b, AG_F32, q * out * depth), g.c = rows;
            ag_gemm_run(&g);
            each_patch(j, q, p, g.n, scatter_run, rows, AG_F32);
        }
}

static void input_pixels(int64_t begin, int64_t end, void *arg)
{
    scatter_pixels(arg, begin, end);
}

/* Where windows overlap a thread has whole images, whose sums are taken in real. */
static void input_images(int64_t begin, int64_t end, void *arg)
{
    const job *j = arg;
    const ag_conv *c = j->c;
    const int64_t size = c->h * c->w * c->in, pixels = c->oh * c->ow;
    for (int64_t i = begin; i < end; i++) {
        job one = *j;
        real *sum = ag_narrow_onto(j->to, c->type, i * size, size, j->image + (j->image ? ag_thread_id() * size : 0));
        if (!j->add) memset(sum, 0, (size_t)size * sizeof *sum);
        one.to = sum, one.to_type = AG_F32, one.to_first = i * size, one.add = true;
        scatter_pixels(&one, i * pixels, (i + 1) * pixels);
        ag_narrow(j->to, c->type, i * size, size, sum);
    }
}

/* Every pixel of x lies in a window. */
static bool covers(const ag_conv *c)
{
    return c->kh >= c->at.stride_h && c->kw >= c->at.stride_w && c->oh * c->at.stride_h >= c->h + c->at.pad_top &&
           c->ow * c->at.stride_w >= c->w + c->at.pad_left && c->at.dilation_h == 1 && c->at.dilation_w == 1;
}

static int64_t image_slots(const ag_conv *c)
{
    return overlap(c) && c->type == AG_BF16 ? ag_threads() * c->h * c->w * c->in : 0;
}

void ag_patches_input_gradient(const ag_node *n, const ag_conv *c, const void *g, const ag_tensor *weight, void *dx, bool add)
{
    job j = { .c = c, .g = g, .to = dx, .to_type = c->type, .add = add, .chunk = chunk_of(c),
              .product = by_weight(n, c, weight, true) };
    j.rows = ag_workspace(n, ag_threads() * j.chunk * ag_conv_depth(c), sizeof(real));
    if (overlap(c)) {
        if (image_slots(c)) j.image = ag_workspace(n, image_slots(c), sizeof(real));
        ag_parallel(c->n, 1, pixel_ns(c) * (double)(c->oh * c->ow), input_images, &j);
        return;
    }
    if (!add && !covers(c)) memset(dx, 0, (size_t)(c->n * c->h * c->w * c->in * size_of(c->type)));
    ag_parallel(ag_conv_pixels(c), 16, pixel_ns(c), input_pixels, &j);
}

/* ---- the gradient of the weight: the patches of a run of pixels, by the team, then the product, by the team ---- */

static int64_t run_of(const ag_conv *c)
{
    const int64_t rows = RUN / (ag_conv_depth(c) * size_of(c->type)), groups = c->at.groups;
    return smaller(groups > 1 ? chunk_of(c) : rows < 64 ? 64 : rows, ag_conv_pixels(c));
}

static void gather_pixels(int64_t begin, int64_t end, void *arg)
{
    const job *j = arg;
    const ag_dtype type = j->c->type;
    each_patch(j, j->group, j->first + begin, end - begin, gather_run,
               ag_element(j->rows, type, begin * ag_conv_depth(j->c)), type);
}

/* sums [out, kh, kw, in / groups], or dw itself where that is the same */
static void sum_patches(job *j)
{
    const ag_conv *c = j->c;
    const int64_t depth = ag_conv_depth(c), out = c->out / c->at.groups, pixels = ag_conv_pixels(c);
    for (j->first = 0; j->first < pixels; j->first += j->chunk)
        for (j->group = 0; j->group < c->at.groups; j->group++) {
            const int64_t count = smaller(pixels - j->first, j->chunk);
            ag_parallel(count, 8, 0.2 * (double)(depth * size_of(c->type)), gather_pixels, j);
            ag_gemm_run(&(ag_gemm){ .batch = 1, .n = out, .m = depth, .k = count, .a_type = c->type, .a_row = 1, .a_col = c->out,
                                    .a = ag_element(j->g, c->type, j->first * c->out + j->group * out), .b = j->rows,
                                    .b_type = c->type, .b_row = depth, .b_col = 1, .c = j->sums + j->group * out * depth,
                                    .c_row = depth, .add = j->add || j->first > 0 });
        }
}

/* dw [out, in / groups, kh, kw] (+)= the sums */
static void turn_back(int64_t begin, int64_t end, void *arg)
{
    const turn_job *j = arg;
    const int64_t taps = j->c->kh * j->c->kw, in = j->c->in / j->c->at.groups;
    for (int64_t o = begin; o < end; o++) {
        const real *restrict from = j->from + o * taps * in;
        real *restrict to = j->to + o * taps * in;
        for (int64_t t = 0; t < taps; t++)
            if (j->add) for (int64_t i = 0; i < in; i++) to[i * taps + t] += from[t * in + i];
            else for (int64_t i = 0; i < in; i++) to[i * taps + t] = from[t * in + i];
    }
}

void ag_patches_weight_gradient(const ag_node *n, const ag_conv *c, const void *x, const void *g, real *dw, bool add)
{
    const int64_t depth = ag_conv_depth(c);
    job j = { .c = c, .x = x, .g = g, .chunk = run_of(c), .sums = dw, .add = add };
    j.rows = ag_workspace(n, j.chunk * depth, (size_t)size_of(c->type));
    if (turned(c)) j.sums = ag_workspace(n, c->out * depth, sizeof(real)), j.add = false;
    sum_patches(&j);
    if (turned(c)) ag_parallel(c->out, 1, (double)depth, turn_back, &(turn_job){ .c = c, .from = j.sums, .to = dw, .add = add });
}

/* ---- workspace ----------------------------------------------------------------------------------------- */

int64_t ag_patches_forward_workspace(const ag_conv *c)
{
    return ag_threads() * chunk_of(c) * ag_conv_depth(c) * size_of(c->type);
}

int64_t ag_patches_input_workspace(const ag_conv *c)
{
    return (ag_threads() * chunk_of(c) * ag_conv_depth(c) + image_slots(c)) * (int64_t)sizeof(real);
}

int64_t ag_patches_weight_workspace(const ag_conv *c)
{
    return run_of(c) * ag_conv_depth(c) * size_of(c->type) + (turned(c) ? c->out * ag_conv_depth(c) * (int64_t)sizeof(real) : 0);
}
