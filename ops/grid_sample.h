/* ops/grid_sample.h - which pixels lie around a place, on both devices. */
#ifndef AG_GRID_SAMPLE_H
#define AG_GRID_SAMPLE_H
#include "ops/formulas.h"
#include "ops/vision.h"

/* The pixel before a place, the distance from it, and d pixels / d grid. */
typedef struct { int64_t low; real t, slope; } ag_grid_spot;

AG_FORMULA real ag_grid_mirrored(real v, real low, real span, real *slope)
{
    if (span == 0) return *slope = 0, 0;
    if (v < low) *slope = -*slope;
    const real far = v < low ? low - v : v - low, turns = (real)floor((double)(far / span));
    const real rest = far - turns * span;
    if (turns == 2 * (real)floor((double)turns / 2)) return low + rest;
    *slope = -*slope;
    return low + span - rest;
}

AG_FORMULA ag_grid_spot ag_grid_spot_of(real c, int64_t size, const ag_grid_sample_opts *o)
{
    const real last = (real)(size - 1);
    ag_grid_spot s = { 0, 0, o->align_corners ? last / 2 : (real)size / 2 };
    real v = o->align_corners ? (c + 1) / 2 * last : ((c + 1) * (real)size - 1) / 2;
    if (o->pad == AG_PAD_REFLECTION)
        v = o->align_corners ? ag_grid_mirrored(v, 0, last, &s.slope) : ag_grid_mirrored(v, R(-0.5), (real)size, &s.slope);
    if (o->pad != AG_PAD_ZEROS) {
        if (v <= 0 || v >= last) s.slope = 0;
        v = v > 0 ? v < last ? v : last : 0;            /* NaN becomes 0 */
    }
    if (!(v > -2)) v = -2;                              /* as far outside as matters, and it fits an integer */
    if (v > last + 2) v = last + 2;
    s.low = (int64_t)(o->mode == AG_NEAREST ? nearbyint((double)v) : floor((double)v));
    s.t = v - (real)s.low;
    if (o->mode == AG_NEAREST) s.t = s.slope = 0;
    return s;
}

/* One of the four pixels around a place. */
typedef struct { int64_t pixel; real weight, along_x, along_y; } ag_grid_corner;
typedef struct { int64_t h, w; ag_grid_sample_opts opts; } ag_grid;

/* At most four into c; those outside are left out. */
AG_FORMULA int ag_grid_corners(const ag_grid *g, int64_t image, ag_grid_spot x, ag_grid_spot y, ag_grid_corner *c)
{
    int n = 0;
    for (int k = 0; k < (g->opts.mode == AG_NEAREST ? 1 : 4); k++) {
        const int64_t row = y.low + k / 2, column = x.low + k % 2;
        const real wx = k % 2 ? x.t : 1 - x.t, wy = k / 2 ? y.t : 1 - y.t;
        if (row < 0 || row >= g->h || column < 0 || column >= g->w) continue;
        const ag_grid_corner here = { (image * g->h + row) * g->w + column, wx * wy, k % 2 ? wy : -wy, k / 2 ? wx : -wx };
        c[n++] = here;
    }
    return n;
}

#endif
