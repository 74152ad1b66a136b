/* data/warp.h - one pixel of the result of a data_map: the formulas of data/warp.c and of cuda/augment.cu. */
#ifndef AG_DATA_WARP_H
#define AG_DATA_WARP_H
#include "data/transform.h"
#include "ops/formulas.h"

/* ---- places ------------------------------------------------------------------------------------------------------ */

/* Pixel x + i of row y lies at (along[0], along[1]) / along[2] with along[k] = a[k] i + b[k]. The piece of a row from x on,
 * AG_WARP_PIECE pixels, has an origin of its own, so that f32 tells places to 1e-5 of a pixel. */
enum { AG_WARP_PIECE = 256 };
typedef struct { float a[3], b[3]; } ag_warp_line;

AG_FORMULA ag_warp_line ag_warp_line_of(const double to_source[9], int64_t x, int64_t y)
{
    ag_warp_line l;
    for (int k = 0; k < 3; k++) {
        const double *m = to_source + 3 * k;
        l.a[k] = (float)m[0], l.b[k] = (float)(m[0] * (double)x + m[1] * (double)y + m[2]);
    }
    return l;
}

AG_FORMULA float ag_warp_place(float a, float b, float i, float turn)
{
    return (a * i + b) * turn;
}

/* The mirror's place of u, period = 2 last, turns = 1 / period or 0. */
AG_FORMULA float ag_warp_mirror(float u, float period, float turns)
{
    return fabsf(u - period * rintf(u * turns));
}

/* How much of a pixel at u lies inside: up to a pixel away a share of it. */
AG_FORMULA float ag_warp_cover(float u, float last)
{
    const float inside = u + 1 < last + 1 - u ? u + 1 : last + 1 - u;
    return inside > 0 ? inside < 1 ? inside : 1 : 0;
}

/* Into 0 .. last. NaN: 0. */
AG_FORMULA float ag_warp_clamp(float u, float last)
{
    return u > 0 ? u < last ? u : last : 0;
}

/* The first of the two pixels that u, 0 .. size - 1, lies between. */
AG_FORMULA int32_t ag_warp_corner(float u, int32_t size)
{
    const int32_t most = size > 1 ? size - 2 : 0;
    return (int32_t)u < most ? (int32_t)u : most;
}

AG_FORMULA float ag_warp_mix(float a, float b, float c, float d, float u, float v)
{
    const float up = a + (b - a) * u, down = c + (d - c) * u;
    return up + (down - up) * v;
}

/* Pixel i of n is the mean of from .. to - 1 of `size`. (torch.nn.functional.adaptive_avg_pool2d, interpolate's mode "area") */
typedef struct { int64_t from, to; } ag_warp_span;
AG_FORMULA ag_warp_span ag_warp_span_of(int64_t i, int64_t size, int64_t n)
{
    const ag_warp_span s = { i * size / n, ((i + 1) * size + n - 1) / n };
    return s;
}

/* ---- colours ------------------------------------------------------------------------------------------------------- */

/* On a GPU logarithm, power and reciprocal are its special function unit's, as exact as what the CPU computes. */

/* log2, x > 0: 2^e m with m in sqrt(1/2) .. sqrt(2); minimax in m - 1, error 2e-6 */
AG_FORMULA float ag_warp_log2(float x)
{
#ifdef __CUDA_ARCH__
    return __log2f(x);
#else
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const int32_t e = (int32_t)(bits - 0x3f3504f3u) >> 23;
    bits -= (uint32_t)e << 23;
    memcpy(&x, &bits, sizeof x);
    const float t = x - 1;
    float p = -0.20659133f;
    p = p * t + 0.32215469f, p = p * t - 0.36749004f, p = p * t + 0.47934803f, p = p * t - 0.72113186f;
    p = p * t + 1.44271348f;
    return (float)e + t * p;
#endif
}

AG_FORMULA float ag_warp_log2_odds(float x)
{
    x = x > 1e-7f ? x < 1 - 1e-7f ? x : 1 - 1e-7f : 1e-7f;
    return ag_warp_log2(x) - ag_warp_log2(1 - x);
}

AG_FORMULA float ag_warp_of_log2_odds(float x)
{
    const float c = -x < 126 ? -x : 126;
#ifdef __CUDA_ARCH__
    return __fdividef(1, 1 + exp2f(c));
#else
    return 1 / (1 + ag_exp2_f32(c));
#endif
}

/* 0 .. 1, through the matrix m [3, 4] in the space of logits. (fastai's lighting) */
AG_FORMULA void ag_warp_light(const float *m, float *red, float *green, float *blue)
{
    const float unit = 1.44269504088896341f;
    const float r = ag_warp_log2_odds(*red), g = ag_warp_log2_odds(*green), b = ag_warp_log2_odds(*blue);
    *red = ag_warp_of_log2_odds(m[0] * r + m[1] * g + m[2] * b + m[3] * unit);
    *green = ag_warp_of_log2_odds(m[4] * r + m[5] * g + m[6] * b + m[7] * unit);
    *blue = ag_warp_of_log2_odds(m[8] * r + m[9] * g + m[10] * b + m[11] * unit);
}

AG_FORMULA float ag_warp_largest(float a, float b)
{
    return a > b ? a : b;
}

/* value - chroma max(0, min(k, 4 - k, 1)), k = (n + 6 hue) mod 6, n = 5, 3, 1 for red, green, blue (Smith 1978) */
AG_FORMULA float ag_warp_of_hue(float sixths, float value, float chroma)
{
    const float k = sixths - 6 * floorf(sixths * (1.0f / 6)), far = k < 4 - k ? k : 4 - k;
    return value - chroma * (far > 0 ? far < 1 ? far : 1 : 0);
}

AG_FORMULA void ag_warp_turn_hue(float turns, float *red, float *green, float *blue)
{
    const float r = *red, g = *green, b = *blue;
    const float high = ag_warp_largest(r, ag_warp_largest(g, b));
    const float chroma = high + ag_warp_largest(-r, ag_warp_largest(-g, -b)), unit = chroma > 0 ? 1 / chroma : 0;
    const float hue = high == r ? (g - b) * unit : high == g ? 2 + (b - r) * unit : 4 + (r - g) * unit;
    const float turned = hue + 6 * turns;
    *red = ag_warp_of_hue(turned + 5, high, chroma);
    *green = ag_warp_of_hue(turned + 3, high, chroma);
    *blue = ag_warp_of_hue(turned + 1, high, chroma);
}

/* (x - mean) / std as x scale + shift */
typedef struct { float scale[3], shift[3]; } ag_warp_norm;
AG_FORMULA ag_warp_norm ag_warp_norm_of(const data_stats *stats)
{
    ag_warp_norm n;
    for (int c = 0; c < 3; c++) {
        n.scale[c] = stats->std[c] > 0 ? 1 / stats->std[c] : 1;
        n.shift[c] = -stats->mean[c] * n.scale[c];
    }
    return n;
}

#endif
