/* data/augment.c - fastai's aug_transforms: options, draws, and their composition into one map.
 *
 * As in fastai places are -1 .. 1 from the centre of the first pixel to that of the last (align_corners), and a place of
 * the result goes through zoom, rotation, flip, shape of the picture, perspective to a place of the source. */
#include <math.h>
#include "core/memory.h"
#include "data/transform.h"

/* 3 x 3, rows first; of a homography only the ratios count. */
typedef struct { double v[9]; } matrix;

static const matrix identity = { { 1, 0, 0, 0, 1, 0, 0, 0, 1 } };

static matrix times(matrix a, matrix b)
{
    matrix c = { { 0 } };
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            for (int k = 0; k < 3; k++) c.v[3 * i + j] += a.v[3 * i + k] * b.v[3 * k + j];
    return c;
}

/* The inverse, but for a factor. */
static matrix adjugate(matrix a)
{
    const double *m = a.v;
    return (matrix){ { m[4] * m[8] - m[5] * m[7], m[2] * m[7] - m[1] * m[8], m[1] * m[5] - m[2] * m[4],
                       m[5] * m[6] - m[3] * m[8], m[0] * m[8] - m[2] * m[6], m[2] * m[3] - m[0] * m[5],
                       m[3] * m[7] - m[4] * m[6], m[1] * m[6] - m[0] * m[7], m[0] * m[4] - m[1] * m[3] } };
}

/* x -> scale x + shift along x and y */
static matrix stretch(double scale_x, double shift_x, double scale_y, double shift_y)
{
    return (matrix){ { scale_x, 0, shift_x, 0, scale_y, shift_y, 0, 0, 1 } };
}

/* ---- the parts ------------------------------------------------------------------------------------------------- */

/* A number in [lo, hi) with probability p, else the neutral one. */
static double drawn(data_random *r, double p, double lo, double hi, double neutral)
{
    const double value = ag_data_uniform(r, lo, hi);
    return ag_data_chance(r, p) ? value : neutral;
}

static double drawn_factor(data_random *r, double p, double most)
{
    return exp(drawn(r, p, log(1 - most), -log(1 - most), 0));
}

static matrix flip(const data_augment *a, data_random *r)
{
    static const signed char eight[8][4] = { { 1, 0, 0, 1 },  { -1, 0, 0, 1 }, { 1, 0, 0, -1 }, { 0, -1, 1, 0 },
                                             { -1, 0, 0, -1 }, { 0, 1, -1, 0 }, { 0, 1, 1, 0 },  { 0, -1, -1, 0 } };
    const int64_t which = a->flip_vert ? ag_data_below(r, 8) : 1;
    const signed char *m = eight[ag_data_chance(r, 0.5) && !a->no_flip ? which : 0];
    return (matrix){ { m[0], m[1], 0, m[2], m[3], 0, 0, 0, 1 } };
}

static matrix rotation(const data_augment *a, data_random *r)
{
    const double angle = drawn(r, a->p_affine, -a->max_rotate, a->max_rotate, 0) * 0.017453292519943295;
    return (matrix){ { cos(angle), sin(angle), 0, -sin(angle), cos(angle), 0, 0, 0, 1 } };
}

static matrix zoom(const data_augment *a, data_random *r)
{
    const double scale = 1 / drawn(r, a->p_affine, a->min_zoom, a->max_zoom, 1);
    const double x = ag_data_uniform(r, -1, 1), y = ag_data_uniform(r, -1, 1);
    return stretch(scale, (1 - scale) * x, scale, (1 - scale) * y);
}

/* Takes the corners of a tilted square to those of the square. (Heckbert 1989, square to quadrilateral, inverted) */
static matrix perspective(const data_augment *a, data_random *r)
{
    const double x = drawn(r, a->p_affine, -a->max_warp, a->max_warp, 0);
    const double y = drawn(r, a->p_affine, -a->max_warp, a->max_warp, 0);
    if (x == 0 && y == 0) return identity;
    const double px[4] = { -1 - y, 1 + y, 1 - y, -1 + y }, py[4] = { -1 - x, -1 + x, 1 - x, 1 + x };
    const double ax = px[1] - px[2], bx = px[3] - px[2], sx = px[0] - px[1] + px[2] - px[3];
    const double ay = py[1] - py[2], by = py[3] - py[2], sy = py[0] - py[1] + py[2] - py[3];
    const double area = ax * by - bx * ay, g = (sx * by - bx * sy) / area, h = (ax * sy - sx * ay) / area;
    const matrix tilt = { { px[1] - px[0] + g * px[1], px[3] - px[0] + h * px[3], px[0],
                            py[1] - py[0] + g * py[1], py[3] - py[0] + h * py[3], py[0], g, h, 1 } };
    return adjugate(times(tilt, stretch(0.5, 0.5, 0.5, 0.5)));
}

/* The part of the items' pixels that becomes the result: left, top, width, height. (RandomResizedCropGPU, ratio 1) */
typedef struct { int64_t x, y, w, h; } part;

static part part_of(const data_augment *a, int64_t w, int64_t h, data_random *r)
{
    if (a->min_scale >= 1) return (part){ 0, 0, w, h };
    for (int attempt = 0; r->train && attempt < 10; attempt++) {
        const int64_t side = llrint(sqrt(ag_data_uniform(r, a->min_scale, 1) * (double)w * (double)h));
        if (side > w || side > h || side < 1) continue;
        const int64_t y = ag_data_below(r, h - side + 1);
        return (part){ ag_data_below(r, w - side + 1), y, side, side };
    }
    const int64_t side = w < h ? w : h;
    return (part){ (w - side) / 2, (h - side) / 2, side, side };
}

/* Brightness, contrast and saturation: M (gain (x + shift)), M = s + (1 - s) grey. */
static void draw_colour(const data_augment *a, data_random *r, data_map *map)
{
    static const double grey[3] = { 0.2989, 0.5870, 0.1140 };
    const double most = a->max_lighting, light = drawn(r, a->p_lighting, (1 - most) / 2, (1 + most) / 2, 0.5);
    const double shift = log(light / (1 - light)), gain = drawn_factor(r, a->p_lighting, most);
    const double s = drawn_factor(r, a->p_lighting, a->saturation);
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) map->colour[4 * i + j] = (float)(gain * ((i == j ? s : 0) + (1 - s) * grey[j]));
        map->colour[4 * i + 3] = (float)(gain * shift * (s + (1 - s) * (grey[0] + grey[1] + grey[2])));
    }
    map->has_colour = shift != 0 || gain != 1 || s != 1;
    const double turn = exp(ag_data_uniform(r, log(1 - a->hue), -log(1 - a->hue)));
    const bool turned = ag_data_chance(r, a->p_lighting) && a->hue > 0;
    map->hue = turned ? (float)fmod(turn, 1) : 0;
}

/* ---- composition ------------------------------------------------------------------------------------------------- */

/* Pixels of the result -> pixels of the item: of the part that was chosen. */
static matrix to_item(part of, int64_t width, int64_t height)
{
    const double w = (double)of.w - 1, h = (double)of.h - 1;
    return stretch(width > 1 ? w / ((double)width - 1) : 0, (double)of.x + (width > 1 ? 0 : w / 2),
                   height > 1 ? h / ((double)height - 1) : 0, (double)of.y + (height > 1 ? 0 : h / 2));
}

static matrix to_places(int64_t w, int64_t h)
{
    return stretch(w > 1 ? 2 / ((double)w - 1) : 0, w > 1 ? -1 : 0, h > 1 ? 2 / ((double)h - 1) : 0, h > 1 ? -1 : 0);
}

static matrix to_pixels(int64_t w, int64_t h)
{
    return stretch(((double)w - 1) / 2, ((double)w - 1) / 2, ((double)h - 1) / 2, ((double)h - 1) / 2);
}

/* The largest less the smallest coordinate, along x or y, of the result's corners. */
static double extent(matrix m, int64_t width, int64_t height)
{
    double low = INFINITY, high = -INFINITY;
    for (int k = 0; k < 4; k++) {
        const double x = k % 2 ? (double)width - 1 : 0, y = k / 2 ? (double)height - 1 : 0;
        const double d = m.v[6] * x + m.v[7] * y + m.v[8];
        const double u = (m.v[0] * x + m.v[1] * y + m.v[2]) / d, v = (m.v[3] * x + m.v[4] * y + m.v[5]) / d;
        low = fmin(low, fmin(u, v)), high = fmax(high, fmax(u, v));
    }
    return high - low;
}

/* fastai: where a step is d = more than two source pixels, half of it is averaged first, unless zoomed in as much. */
static void average(data_map *map, part of, int64_t w, int64_t h, matrix places)
{
    const double d = fmin((double)of.w / (double)map->width, (double)of.h / (double)map->height) / 2;
    if (d <= 1 || (of.w == w && of.h == h && d <= 2 / extent(places, map->width, map->height))) return;
    map->mean_width = (int64_t)((double)w * (1 / d)), map->mean_height = (int64_t)((double)h * (1 / d));
}

void ag_data_augment_size(const data_augment *a, int64_t *width, int64_t *height)
{
    if (!a || !a->size) return;
    *width = a->width ? a->width : a->size, *height = a->size;
}

data_map ag_data_augment_draw(const data_augment *a, int64_t w, int64_t h, data_random *r)
{
    data_map map = { .width = w, .height = h };
    matrix affine = identity, warp = identity;
    part of = { 0, 0, w, h };
    if (a && a->on) {
        ag_data_augment_size(a, &map.width, &map.height);
        map.pad = a->pad;
        affine = flip(a, r);
        affine = times(affine, rotation(a, r));
        affine = times(affine, zoom(a, r));
        warp = perspective(a, r);
        draw_colour(a, r, &map);
        of = part_of(a, w, h, r);
    }
    affine.v[1] *= (double)h / (double)w, affine.v[3] *= (double)w / (double)h;
    const matrix places = times(warp, times(affine, times(to_places(w, h), to_item(of, map.width, map.height))));
    average(&map, of, w, h, places);
    const bool mean = map.mean_width > 0;
    const matrix m = times(to_pixels(mean ? map.mean_width : w, mean ? map.mean_height : h), places);
    for (int i = 0; i < 9; i++) map.to_source[i] = m.v[i] / m.v[8];
    return map;
}

void ag_data_augment_sample(const data_augment *a, const data_image *from, const data_stats *stats, data_random *r, float *to)
{
    data_map map = ag_data_augment_draw(a, from->width, from->height, r);
    if (stats) map.stats = *stats;
    ag_data_map_apply(from, &map, to);
    if (a && a->own) a->own(to, map.height, map.width, r, a->own_arg);
}

/* ---- options ------------------------------------------------------------------------------------------------------- */

/* 0: the default; negative: 0. Fails outside of low .. high. */
static double option(const char *at, const char *name, double value, double otherwise, double low, double high)
{
    value = value == 0 ? otherwise : value < 0 ? 0 : value;
    if (!(value >= low && value <= high)) ag_fail(at, "data_aug_transforms: .%s = %g: %g to %g", name, value, low, high);
    return value;
}

data_augment ag_data_aug_transforms_(const char *at, data_augment a)
{
    const double most = 0.99;                           /* of lighting, saturation and hue: at 1 they end in black */
    a.mult = option(at, "mult", a.mult, 1, 0, 100);
    a.max_rotate = option(at, "max_rotate", a.max_rotate, 10, 0, 360) * a.mult;
    a.max_warp = option(at, "max_warp", a.max_warp, 0.2, 0, 1) * a.mult;
    a.max_lighting = option(at, "max_lighting", a.max_lighting, 0.2, 0, most) * a.mult;
    option(at, "max_lighting times .mult", a.max_lighting, 0, 0, most);
    a.min_zoom = option(at, "min_zoom", a.min_zoom, 1, 0.01, 100);
    a.max_zoom = option(at, "max_zoom", a.max_zoom, fmax(1.1, a.min_zoom), a.min_zoom, 100);
    a.p_affine = option(at, "p_affine", a.p_affine, 0.75, 0, 1);
    a.p_lighting = option(at, "p_lighting", a.p_lighting, 0.75, 0, 1);
    a.saturation = option(at, "saturation", a.saturation, 0, 0, most);
    a.hue = option(at, "hue", a.hue, 0, 0, most);
    a.min_scale = option(at, "min_scale", a.min_scale, 1, 1e-4, 1);
    const int64_t width = a.width ? a.width : a.size;
    if (a.size < 0 || a.size > 16384 || width < 0 || width > 16384 || (width && !a.size))
        ag_fail(at, "data_aug_transforms: .size %" PRId64 ", .width %" PRId64 ": 1 to 16384, .width beside .size", a.size,
                a.width);
    a.on = true;
    return a;
}
