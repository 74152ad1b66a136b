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
static void pack_block(const void *from, ag_dtype dtype, int64_t at, int64_t n, int64_t gap, int64_t lanes, real *restrict to)
{
    const real *x = (const real *)from + at;
    const uint16_t *h = (const uint16_t *)from + at;
    if (lanes < LANES)
        for (int64_t i = 0; i < n; i++)
            for (int64_t l = 0; l < LANES; l++)
                to[i * LANES + l] = l >= lanes ? 0 : dtype == AG_BF16 ? ag_bf16_to_real(h[i * gap + l]) : x[i * gap + l];
    else if (dtype == AG_BF16)
        for (int64_t i = 0; i < n; i++) *(vec *)(to + i * LANES) = widened(h + i * gap);
    else
        for (int64_t i = 0; i < n; i++) *(vec *)(to + i * LANES) = *(const loose *)(x + i * gap);
}

void ag_dw_pack(const ag_dw_images *im, int64_t row, int64_t first, int64_t blocks, real *to, real *buf)
{
    const int64_t n = im->columns, c = im->channels;
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t channel = (first + b) * LANES, at = row * n * c + channel, lanes = c - channel < LANES ? c - channel : LANES;
        real *block = to + (b * im->padded + im->before) * LANES;
        pack_block(im->data, im->dtype, at, n, c, lanes, block);
        if (!im->activation) continue;
        pack_block(im->z, im->dtype, at, n, c, lanes, buf);
        ag_activate_grad(im->activation, n * LANES, buf, block, block);
    }
}

void ag_dw_pad(const ag_dw_images *im, int64_t blocks, real *to)
{
    const int64_t column = LANES * (int64_t)sizeof(real);
    for (int64_t b = 0; b < blocks; b++, to += im->padded * LANES) {
        memset(to, 0, (size_t)(im->before * column));
        memset(to + (im->before + im->columns) * LANES, 0, (size_t)((im->padded - im->before - im->columns) * column));
    }
}

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
