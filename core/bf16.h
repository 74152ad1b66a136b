/* core/bf16.h - bf16 values and rows. A kernel works in `real` on rows that fit the first cache and is one kernel for
 * both dtypes:
 *
 *     real from[ROW], to[ROW];
 *     const real *x = ag_widen(in->data, in->dtype, at, n, from);
 *     real *y = ag_narrow_to(out->data, out->dtype, at, to);
 *     for (int64_t i = 0; i < n; i++) y[i] = f(x[i]);
 *     ag_narrow(out->data, out->dtype, at, n, y);
 */
#ifndef AG_BF16_H
#define AG_BF16_H
#include <string.h>
#include "core/base.h"
#if defined(__AVX512BF16__) && !defined(AG_F64)
#include <immintrin.h>
#endif

static inline real ag_bf16_to_real(uint16_t h)
{
    const uint32_t w = (uint32_t)h << 16;
    float f;
    memcpy(&f, &w, sizeof f);
    return (real)f;
}

/* Round to nearest, ties to even; NaN stays NaN. */
static inline uint16_t ag_bf16_of(real v)
{
    const float f = (float)v;
    uint32_t w;
    memcpy(&w, &f, sizeof w);
    const uint32_t rounded = (w + 0x7fff + (w >> 16 & 1)) >> 16, nan = w >> 16 | 0x40;
    return (uint16_t)((w & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

/* Elements offset .. offset+n of p (f32 or bf16) as reals: where they lie, or converted into buf. */
static inline const real *ag_widen(const void *p, ag_dtype t, int64_t offset, int64_t n, real *restrict buf)
{
    if (t != AG_BF16) return (const real *)p + offset;
    const uint16_t *restrict h = (const uint16_t *)p + offset;
    for (int64_t i = 0; i < n; i++) buf[i] = ag_bf16_to_real(h[i]);
    return buf;
}

/* Where a kernel writes elements from `offset` on, to be followed by ag_narrow; and where they are added to, already
 * holding what is there. */
static inline real *ag_narrow_to(void *p, ag_dtype t, int64_t offset, real *buf)
{
    return t == AG_BF16 ? buf : (real *)p + offset;
}

static inline real *ag_narrow_onto(void *p, ag_dtype t, int64_t offset, int64_t n, real *buf)
{
    if (t != AG_BF16) return (real *)p + offset;
    ag_widen(p, t, offset, n, buf);
    return buf;
}

/* Where a gradient is written, or added to what is there. */
static inline real *ag_narrow_grad(void *p, ag_dtype t, int64_t offset, int64_t n, real *buf, bool add)
{
    return add ? ag_narrow_onto(p, t, offset, n, buf) : ag_narrow_to(p, t, offset, buf);
}

static inline void ag_narrow(void *p, ag_dtype t, int64_t offset, int64_t n, const real *restrict buf)
{
    if (t != AG_BF16) return;
    uint16_t *restrict h = (uint16_t *)p + offset;
    int64_t i = 0;
#if defined(__AVX512BF16__) && !defined(AG_F64)    /* 0.03 ns an element; the loop below: 0.14 */
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((void *)(h + i), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(buf + i)));
#endif
    for (; i < n; i++) h[i] = ag_bf16_of(buf[i]);
}

/* Element i of p. For loops in AG_INLINE functions that are called with t as a constant, once for each dtype: the
 * conversion then is part of the loop's vector code. */
#define AG_INLINE static inline __attribute__((always_inline))
AG_INLINE real ag_get(const void *p, ag_dtype t, int64_t i)
{
    return t == AG_BF16 ? ag_bf16_to_real(((const uint16_t *)p)[i]) : ((const real *)p)[i];
}

/* Element i of p = v, or += v. */
static inline void ag_put(void *p, ag_dtype t, int64_t i, bool add, real v)
{
    if (t == AG_BF16) {
        uint16_t *h = (uint16_t *)p + i;
        *h = ag_bf16_of((add ? ag_bf16_to_real(*h) : 0) + v);
    } else {
        real *f = (real *)p + i;
        *f = (add ? *f : 0) + v;
    }
}

#endif
