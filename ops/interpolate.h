/* ops/interpolate.h - the taps of resized images, on both devices: output i of an axis is a weighted sum of inputs. */
#ifndef AG_INTERPOLATE_H
#define AG_INTERPOLATE_H
#include "ops/formulas.h"
#include "ops/vision.h"

typedef struct { int64_t h, w; ag_interpolate_opts opts; } ag_resize_arg;

/* Keys' cubic: a = -0.75 as in most image libraries, -0.5 where it is a filter. */
AG_FORMULA double ag_taps_cubic(double x, double a)
{
    x = fabs(x);
    return x < 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

AG_FORMULA double ag_taps_filter(ag_interpolation mode, double x)
{
    if (mode == AG_BICUBIC) return ag_taps_cubic(x, -0.5);
    return fabs(x) < 1 ? 1 - fabs(x) : 0;
}

AG_FORMULA double ag_taps_scale(const ag_interpolate_opts *o, int64_t in, int64_t out)
{
    if (o->align_corners) return out > 1 ? (double)(in - 1) / (double)(out - 1) : 0;
    return (double)in / (double)out;
}

AG_FORMULA double ag_taps_reach(const ag_interpolate_opts *o, int64_t in, int64_t out)
{
    const double scale = ag_taps_scale(o, in, out), reach = o->mode == AG_BICUBIC ? 2 : 1;
    return o->antialias && scale > 1 ? reach * scale : reach;
}

/* The most taps of an output. */
AG_FORMULA int64_t ag_taps_most(const ag_interpolate_opts *o, int64_t in, int64_t out)
{
    const int64_t most = 2 * (int64_t)ceil(ag_taps_reach(o, in, out)) + 1;
    return most < in ? most : in;
}

/* The weights of inputs first .. first + return - 1; w is zero before. */
AG_FORMULA int64_t ag_taps_filtered(const ag_interpolate_opts *o, int64_t in, int64_t out, int64_t i, int64_t *first,
                           real *w)
{
    const double scale = ag_taps_scale(o, in, out), reach = ag_taps_reach(o, in, out), center = scale * ((double)i + 0.5);
    const double narrow = scale > 1 ? 1 / scale : 1;
    const int64_t low = (int64_t)(center - reach + 0.5), high = (int64_t)(center + reach + 0.5);
    double sum = 0;
    *first = low > 0 ? low : 0;
    const int64_t n = (high < in ? high : in) - *first;
    for (int64_t k = 0; k < n; k++) sum += ag_taps_filter(o->mode, ((double)(k + *first) - center + 0.5) * narrow);
    for (int64_t k = 0; k < n; k++)
        w[k] = (real)(ag_taps_filter(o->mode, ((double)(k + *first) - center + 0.5) * narrow) / sum);
    return n;
}

AG_FORMULA int64_t ag_taps_clamped(int64_t i, int64_t n)
{
    return i < 0 ? 0 : i < n ? i : n - 1;
}

AG_FORMULA int64_t ag_taps_point(const ag_interpolate_opts *o, int64_t in, int64_t out, int64_t i, int64_t *first,
                          real *w)
{
    const double scale = ag_taps_scale(o, in, out);
    double x = o->align_corners ? scale * (double)i : scale * ((double)i + 0.5) - 0.5;
    int64_t before = 0, after = 1;
    if (o->mode == AG_BICUBIC) before = 1, after = 2;
    else if (x < 0) x = 0;
    const int64_t at = (int64_t)floor(x), last = ag_taps_clamped(at + after, in);
    const double t = x - (double)at;
    *first = ag_taps_clamped(at - before, in);
    for (int64_t k = -before; k <= after; k++) {        /* beyond the border lies the last pixel, repeated */
        const double share = o->mode == AG_BICUBIC ? ag_taps_cubic((double)k - t, -0.75) : k ? t : 1 - t;
        w[ag_taps_clamped(at + k, in) - *first] += (real)share;
    }
    return last - *first + 1;
}

/* In single precision, as PyTorch rounds. */
AG_FORMULA int64_t ag_taps_nearest(int64_t in, int64_t out, int64_t i, int64_t *first, real *w)
{
    *first = ag_taps_clamped((int64_t)floorf((float)i * ((float)in / (float)out)), in);
    w[0] = 1;
    return 1;
}

/* Output i is the sum of w[k] times input first + k, k < the return; w has ag_taps_most zeros before. */
AG_FORMULA int64_t ag_taps_at(const ag_interpolate_opts *o, int64_t in, int64_t out, int64_t i, int64_t *first, real *w)
{
    if (o->mode == AG_NEAREST) return ag_taps_nearest(in, out, i, first, w);
    return o->antialias ? ag_taps_filtered(o, in, out, i, first, w) : ag_taps_point(o, in, out, i, first, w);
}

#endif
