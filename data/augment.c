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

/* ---- draws --------------------------------------------------------------------------------------------------- */

/* A number in [lo, hi) with probability p, else the neutral one. */
static double drawn(data_random *r, double p, double lo, double hi, double neutral)
{
    const double value = ag_data_uniform(r, lo, hi);
    return ag_data_chance(r, p) ? value : neutral;
}

/* exp(U(log(1 - most), -log(1 - most))), else the neutral number */
static double drawn_factor(data_random *r, double p, double most, double neutral)
{
    const double value = exp(ag_data_uniform(r, log(1 - most), -log(1 - most)));
    return ag_data_chance(r, p) && most > 0 ? value : neutral;
}

/* fastai's RandomResizedCropGPU with ratio 1: a square. */
static void draw_part(const data_augment *a, int64_t w, int64_t h, data_random *r, data_drawn *d)
{
    d->part_width = w, d->part_height = h;
    if (!a || !a->on || a->min_scale >= 1) return;
    for (int attempt = 0; r->train && attempt < 10; attempt++) {
        const int64_t side = llrint(sqrt(ag_data_uniform(r, a->min_scale, 1) * (double)w * (double)h));
        if (side > w || side > h || side < 1) continue;
        d->top = ag_data_below(r, h - side + 1), d->left = ag_data_below(r, w - side + 1);
        d->part_width = d->part_height = side;
        return;
    }
    d->part_width = d->part_height = w < h ? w : h;
    d->left = (w - d->part_width) / 2, d->top = (h - d->part_height) / 2;
}

data_drawn ag_data_augment_draw(const data_augment *a, int64_t width, int64_t height, data_random *r)
{
    data_drawn d = { .zoom = 1, .zoom_x = 0.5, .zoom_y = 0.5, .brightness = 0.5, .contrast = 1, .saturation = 1 };
    if (a && a->on && r->train) {
        const int64_t which = ag_data_below(r, 8);
        const bool flipped = ag_data_chance(r, 0.5) && !a->no_flip;
        d.dihedral = !flipped ? 0 : a->flip_vert ? (int)which : 1;
        d.degrees = drawn(r, a->p_affine, -a->max_rotate, a->max_rotate, 0);
        d.zoom = drawn(r, a->p_affine, a->min_zoom, a->max_zoom, 1);
        d.zoom_x = ag_data_uniform(r, 0, 1), d.zoom_y = ag_data_uniform(r, 0, 1);
        d.warp_x = drawn(r, a->p_affine, -a->max_warp, a->max_warp, 0);
        d.warp_y = drawn(r, a->p_affine, -a->max_warp, a->max_warp, 0);
        d.brightness = drawn(r, a->p_lighting, (1 - a->max_lighting) / 2, (1 + a->max_lighting) / 2, 0.5);
        d.contrast = drawn_factor(r, a->p_lighting, a->max_lighting, 1);
        d.saturation = drawn_factor(r, a->p_lighting, a->saturation, 1);
        d.hue = drawn_factor(r, a->p_lighting, a->hue, 0);
    }
    draw_part(a, width, height, r, &d);
    return d;
}

/* ---- the parts ------------------------------------------------------------------------------------------------- */

static matrix flip(const data_drawn *d)
{
    static const signed char eight[8][4] = { { 1, 0, 0, 1 },   { -1, 0, 0, 1 }, { 1, 0, 0, -1 }, { 0, -1, 1, 0 },
                                             { -1, 0, 0, -1 }, { 0, 1, -1, 0 }, { 0, 1, 1, 0 },  { 0, -1, -1, 0 } };
    const signed char *m = eight[d->dihedral & 7];
    return (matrix){ { m[0], m[1], 0, m[2], m[3], 0, 0, 0, 1 } };
}

static matrix rotation(const data_drawn *d)
{
    const double angle = d->degrees * 0.017453292519943295;
    return (matrix){ { cos(angle), sin(angle), 0, -sin(angle), cos(angle), 0, 0, 0, 1 } };
}

static matrix zoom(const data_drawn *d)
{
    const double scale = 1 / d->zoom;
    return stretch(scale, (1 - scale) * (2 * d->zoom_x - 1), scale, (1 - scale) * (2 * d->zoom_y - 1));
}

/* Takes the corners of a tilted square to those of the square. (Heckbert 1989, square to quadrilateral, inverted) */
static matrix perspective(const data_drawn *d)
{
    const double x = d->warp_x, y = d->warp_y;
    if (x == 0 && y == 0) return identity;
    const double px[4] = { -1 - y, 1 + y, 1 - y, -1 + y }, py[4] = { -1 - x, -1 + x, 1 - x, 1 + x };
    const double ax = px[1] - px[2], bx = px[3] - px[2], sx = px[0] - px[1] + px[2] - px[3];
    const double ay = py[1] - py[2], by = py[3] - py[2], sy = py[0] - py[1] + py[2] - py[3];
    const double area = ax * by - bx * ay, g = (sx * by - bx * sy) / area, h = (ax * sy - sx * ay) / area;
    const matrix tilt = { { px[1] - px[0] + g * px[1], px[3] - px[0] + h * px[3], px[0],
                            py[1] - py[0] + g * py[1], py[3] - py[0] + h * py[3], py[0], g, h, 1 } };
    return adjugate(times(tilt, stretch(0.5, 0.5, 0.5, 0.5)));
}

/* Brightness, contrast and saturation: M (contrast (x + logit(brightness))), M = s + (1 - s) grey. */
static void colour(const data_drawn *d, data_map *map)
{
    static const double grey[3] = { 0.2989, 0.5870, 0.1140 };
    const double shift = log(d->brightness / (1 - d->brightness)), s = d->saturation;
    for (int i = 0; i < 3; i++) {
        float *row = map->colour + 4 * i;
        for (int j = 0; j < 3; j++) row[j] = (float)(d->contrast * ((i == j ? s : 0) + (1 - s) * grey[j]));
        row[3] = (float)(d->contrast * shift * (s + (1 - s) * (grey[0] + grey[1] + grey[2])));
    }
    map->has_colour = shift != 0 || d->contrast != 1 || s != 1;
    map->hue = (float)fmod(d->hue, 1);
}

/* ---- composition ------------------------------------------------------------------------------------------------- */

/* Places of the result -> places of the item: of the part that was drawn. */
static matrix to_item(const data_drawn *d, int64_t w, int64_t h)
{
    const double x = w > 1 ? 1 / ((double)w - 1) : 0, y = h > 1 ? 1 / ((double)h - 1) : 0;
    const double part_x = (double)d->part_width - 1, part_y = (double)d->part_height - 1;
    return stretch(w > 1 ? part_x * x : 1, w > 1 ? (2 * (double)d->left + part_x) * x - 1 : 0,
                   h > 1 ? part_y * y : 1, h > 1 ? (2 * (double)d->top + part_y) * y - 1 : 0);
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

/* fastai: where a step is more than two source pixels, half of it, d, is averaged first, unless zoomed in as much. (Its code
 * takes the result's width for its height and 2 for its width; the same for squares from squares.) */
static void average(data_map *map, const data_drawn *of, int64_t w, int64_t h, matrix places)
{
    const double x = (double)of->part_width / (double)map->width, y = (double)of->part_height / (double)map->height;
    const double d = fmin(x, y) / 2;
    const bool all = of->part_width == w && of->part_height == h;
    if (d <= 1 || (all && d <= 2 / extent(places, map->width, map->height))) return;
    map->mean_width = (int64_t)((double)w * (1 / d)), map->mean_height = (int64_t)((double)h * (1 / d));
}

void ag_data_augment_size(const data_augment *a, int64_t *width, int64_t *height)
{
    if (!a || !a->size) return;
    *width = a->width ? a->width : a->size, *height = a->size;
}

data_map ag_data_augment_map(const data_augment *a, const data_drawn *d, int64_t w, int64_t h)
{
    data_map map = { .width = w, .height = h, .pad = a ? a->pad : DATA_REFLECTION };
    ag_data_augment_size(a, &map.width, &map.height);
    matrix affine = times(flip(d), times(rotation(d), zoom(d)));
    affine.v[1] *= (double)h / (double)w, affine.v[3] *= (double)w / (double)h;
    const matrix to_place = times(to_item(d, w, h), to_places(map.width, map.height));
    const matrix places = times(perspective(d), times(affine, to_place));
    average(&map, d, w, h, places);
    const bool mean = map.mean_width > 0;
    const matrix m = times(to_pixels(mean ? map.mean_width : w, mean ? map.mean_height : h), places);
    for (int i = 0; i < 9; i++) map.to_source[i] = m.v[i] / m.v[8];
    colour(d, &map);
    return map;
}

data_map ag_data_augment_drawn_map(const data_augment *a, const data_image *from, const data_stats *stats, data_random *r)
{
    const data_drawn drawn = ag_data_augment_draw(a, from->width, from->height, r);
    data_map map = ag_data_augment_map(a, &drawn, from->width, from->height);
    if (stats) map.stats = *stats;
    return map;
}

void ag_data_augment_sample(const data_augment *a, const data_image *from, const data_stats *stats, data_random *r, float *to)
{
    const data_map map = ag_data_augment_drawn_map(a, from, stats, r);
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
