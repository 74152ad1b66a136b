#include "ops/conv_depthwise.h"
#include <string.h>
#include "core/bf16.h"
#include "ops/activation.h"

enum { LANES = AG_DW_LANES };
typedef ag_dw_vec vec;
typedef real loose __attribute__((vector_size(AG_DW_BYTES), aligned(sizeof(real)), may_alias));
typedef float floats __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float)), may_alias));
typedef uint32_t words __attribute__((vector_size(LANES * sizeof(uint32_t)), may_alias));
typedef uint16_t halves __attribute__((vector_size(LANES * sizeof(uint16_t)), aligned(sizeof(uint16_t)), may_alias));

static inline vec widened(const uint16_t *h)
{
    return __builtin_convertvector((floats)(__builtin_convertvector(*(const halves *)h, words) << 16), vec);
}

/* As ag_bf16_of, a vector at a time. */
static inline halves narrowed(vec v)
{
    const words w = (words)__builtin_convertvector(v, floats), nan = (words)((w & 0x7fffffff) > 0x7f800000);
    const words rounded = (w + 0x7fff + (w >> 16 & 1)) >> 16, quiet = w >> 16 | 0x40;
    return __builtin_convertvector((quiet & nan) | (rounded & ~nan), halves);
}

/* One block: n pixels of `lanes` channels, `gap` elements apart, from element `at` on. */
static void pack_block(const void *from, ag_dtype dtype, int64_t at, int64_t n, int64_t gap, int64_t lanes,
                       real *restrict to)
{
    const real *x = (const real *)from + at;
    const uint16_t *h = (const uint16_t *)from + at;
    if (lanes < LANES)
        for (int64_t i = 0; i < n; i++)
            for (int64_t l = 0; l < LANES; l++)
                to[i * LANES + l] = l >= lanes         ? 0
                                    : dtype == AG_BF16 ? ag_bf16_to_real(h[i * gap + l])
                                                       : x[i * gap + l];
    else if (dtype == AG_BF16)
        for (int64_t i = 0; i < n; i++) *(vec *)(to + i * LANES) = widened(h + i * gap);
    else
        for (int64_t i = 0; i < n; i++) *(vec *)(to + i * LANES) = *(const loose *)(x + i * gap);
}

/* Whole blocks pixel by pixel: memory is read in its order. */
static void pack_pixels(const void *from, ag_dtype dtype, int64_t at, int64_t n, int64_t gap, int64_t blocks,
                        int64_t step, real *to)
{
    for (int64_t i = 0; i < n; i++, at += gap, to += LANES) {
        const real *x = (const real *)from + at;
        const uint16_t *h = (const uint16_t *)from + at;
        if (dtype == AG_BF16)
            for (int64_t b = 0; b < blocks; b++) *(vec *)(to + b * step) = widened(h + b * LANES);
        else
            for (int64_t b = 0; b < blocks; b++) *(vec *)(to + b * step) = *(const loose *)(x + b * LANES);
    }
}

static void pack_row(const ag_dw_ring *r, int64_t row, real *to)
{
    const ag_dw_images *im = r->images;
    const int64_t n = im->columns, c = im->channels, step = im->padded * LANES, at = row * n * c + r->first * LANES;
    const int64_t left = c - r->first * LANES, rest = r->blocks * LANES > left ? left % LANES : 0;
    const int64_t whole = r->blocks - (rest > 0);
    pack_pixels(im->data, im->dtype, at, n, c, whole, step, to);
    if (rest) pack_block(im->data, im->dtype, at + whole * LANES, n, c, rest, to + whole * step);
    for (int64_t b = 0; b < r->blocks && im->activation; b++) {
        pack_block(im->z, im->dtype, at + b * LANES, n, c, b < whole ? LANES : rest, r->z);
        ag_activate_grad(im->activation, n * LANES, r->z, to + b * step, to + b * step);
    }
}

/* ---- the ring ------------------------------------------------------------------------------------------ */

static int64_t lines_of(int64_t bytes) { return (bytes + 63) / 64; }
static int64_t row_reals(const ag_dw_images *im, ag_dw_ring_size s) { return s.blocks * im->padded * LANES; }

int64_t ag_dw_ring_bytes(const ag_dw_images *im, ag_dw_ring_size s)
{
    const int64_t reals = s.slots * row_reals(im, s) + im->columns * LANES;
    return 64 * (lines_of(reals * (int64_t)sizeof(real)) + lines_of(s.slots * (int64_t)sizeof(int64_t)));
}

ag_dw_ring ag_dw_ring_in(const ag_dw_images *im, ag_dw_ring_size s, void *memory)
{
    real *rows = memory, *z = rows + s.slots * row_reals(im, s), *to = rows;
    const int64_t column = LANES * (int64_t)sizeof(real), end = im->before + im->columns;
    for (int64_t i = 0; i < s.slots * s.blocks; i++, to += im->padded * LANES) {
        memset(to, 0, (size_t)(im->before * column));
        memset(to + end * LANES, 0, (size_t)((im->padded - end) * column));
    }
    return (ag_dw_ring){ im, s, rows, z, (int64_t *)(void *)(z + im->columns * LANES), -1, 0, -1 };
}

void ag_dw_ring_begin(ag_dw_ring *r, int64_t first)
{
    const int64_t left = (r->images->channels + LANES - 1) / LANES - first;
    if (r->first == first) return;
    r->first = first;
    r->blocks = left < r->size.blocks ? left : r->size.blocks;
    for (int64_t i = 0; i < r->size.slots; i++) r->holds[i] = -1;
}

const real *ag_dw_ring_get(ag_dw_ring *r, int64_t image, int64_t row)
{
    const int64_t slot = row % r->size.slots, name = image * r->images->rows + row;
    real *at = r->rows + slot * row_reals(r->images, r->size);
    if (r->holds[slot] != name) {
        pack_row(r, name, at + r->images->before * LANES);
        r->holds[slot] = name, r->newest = name;
    }
    return at + r->images->before * LANES;
}

ag_dw_ahead ag_dw_ring_ahead(const ag_dw_ring *r, int64_t rows, int64_t portions)
{
    const ag_dw_images *im = r->images;
    const int64_t size = (int64_t)ag_dtype_size(im->dtype), pixel = im->channels * size, row = im->columns * pixel;
    const int64_t first = r->newest + 1, end = first + rows < im->n * im->rows ? first + rows : im->n * im->rows;
    const bool whole = r->blocks * LANES >= im->channels;       /* then a row is one piece, else each pixel has one */
    const int64_t piece = lines_of(whole ? row : r->blocks * LANES * size), skip = (whole ? row : pixel) - 64 * piece;
    const int64_t lines = rows * piece * (whole ? 1 : im->columns), each = (lines + portions - 1) / portions;
    const char *data = (const char *)im->data + r->first * LANES * size;
    return (ag_dw_ahead){ data + first * row, data + end * row, piece, piece, skip, each };
}

/* ---- results ------------------------------------------------------------------------------------------- */

void ag_dw_put(void *to, ag_dtype dtype, const ag_dw_place *p, const vec *tile)
{
    real *x = (real *)to + p->at;
    uint16_t *h = (uint16_t *)to + p->at;
    if (p->lanes < LANES)
        for (int64_t t = 0; t < p->pixels; t++) {
            if (dtype == AG_BF16) ag_narrow(h + t * p->gap, dtype, 0, p->lanes, (const real *)&tile[t]);
            else memcpy(x + t * p->gap, &tile[t], (size_t)p->lanes * sizeof *x);
        }
    else if (dtype == AG_BF16)
        for (int64_t t = 0; t < p->pixels; t++) *(halves *)(h + t * p->gap) = narrowed(tile[t]);
    else
        for (int64_t t = 0; t < p->pixels; t++) *(loose *)(x + t * p->gap) = tile[t];
}

void ag_dw_add(const void *from, ag_dtype dtype, const ag_dw_place *p, vec *tile)
{
    vec there[AG_DW_WIDE];
    pack_block(from, dtype, p->at, p->pixels, p->gap, p->lanes, (real *)there);
    for (int64_t t = 0; t < p->pixels; t++) tile[t] += there[t];
}
