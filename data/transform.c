/* data/transform.c - item transforms: resize by crop, squish and pad; random resized crops. Geometry: fastai's. */
#include "data/transform.h"
#include <math.h>
#include <string.h>
#include "core/memory.h"
#include "core/random.h"

enum { LARGEST = 16384 };

/* ---- chance ------------------------------------------------------------------------------------------------ */

static const uint64_t of_pictures = 0x696d616765;       /* no other use of a sample's key draws the same words */

data_random ag_data_random_of(uint64_t key, int transform, bool train)
{
    return (data_random){ .key = key, .next = (uint64_t)transform << 32, .train = train };
}

static double uniform01(data_random *r)
{
    const ag_philox4 p = ag_philox(r->key, of_pictures, r->next++);
    return ag_uniform01(p.v[0], p.v[1]);
}

double ag_data_uniform(data_random *r, double lo, double hi)
{
    return lo + (hi - lo) * (r->train ? uniform01(r) : 0.5);
}

bool ag_data_chance(data_random *r, double p)
{
    return r->train && uniform01(r) < p;
}

int64_t ag_data_below(data_random *r, int64_t n)
{
    return r->train ? (int64_t)(uniform01(r) * (double)n) : (n - 1) / 2;
}

/* ---- boxes --------------------------------------------------------------------------------------------------- */

static void put(data_image *image, data_image with)
{
    ag_free(image->pixels);
    *image = with;
}

/* v mirrored at 0 and last, its own mirror images without end (numpy.pad's "reflect"). */
static int64_t mirrored(int64_t v, int64_t last)
{
    if (last == 0) return 0;
    const int64_t far = (v < 0 ? -v : v) % (2 * last);
    return far <= last ? far : 2 * last - far;
}

/* Where padded pixel v is found in a row of last + 1; -1: nowhere. */
static int64_t found_at(int64_t v, int64_t last, data_pad_mode pad)
{
    if (v >= 0 && v <= last) return v;
    if (pad == DATA_ZEROS) return -1;
    return pad == DATA_REFLECTION ? mirrored(v, last) : v < 0 ? 0 : last;
}

static data_image padded(const data_image *from, int64_t left, int64_t top, int64_t width, int64_t height, data_pad_mode pad)
{
    data_image to = { .width = width, .height = height, .pixels = ag_alloc(ag_mul_size(NULL, width, height), 3) };
    const int64_t inside = left + from->width < width ? from->width : width - left;
    for (int64_t y = 0; y < height; y++) {
        const int64_t row = found_at(y - top, from->height - 1, pad);
        if (row < 0) continue;
        const uint8_t *a = from->pixels + 3 * row * from->width;
        uint8_t *b = to.pixels + 3 * y * width;
        memcpy(b + 3 * left, a, (size_t)(3 * inside));
        for (int64_t x = 0; x < width; x++) {
            if (x == left) x += inside;
            const int64_t column = x < width ? found_at(x - left, from->width - 1, pad) : -1;
            if (column >= 0) memcpy(b + 3 * x, a + 3 * column, 3);
        }
    }
    return to;
}

typedef struct { int64_t left, top, width, height; } part;       /* of a picture; may lie outside */

/* False where some of it lies outside. */
static bool box_of(part p, int64_t width, int64_t height, data_box *box)
{
    *box = (data_box){ (double)p.left, (double)p.top, (double)(p.left + p.width), (double)(p.top + p.height) };
    return p.left >= 0 && p.top >= 0 && p.left + p.width <= width && p.top + p.height <= height;
}

/* (fastai's crop_pad with resize_to) */
static void crop_pad(data_image *image, part p, const data_transform *t)
{
    data_image pad, made;
    data_box box;
    const bool outside = !box_of(p, image->width, image->height, &box);
    if (outside) {
        pad = padded(image, p.left < 0 ? -p.left : 0, p.top < 0 ? -p.top : 0, p.width, p.height, (data_pad_mode)t->pad);
        box = (data_box){ 0, 0, (double)p.width, (double)p.height };
    }
    ag_data_resize_box(outside ? &pad : image, box, t->width, t->height, &made);
    if (outside) ag_free(pad.pixels);
    put(image, made);
}

/* ---- resize ---------------------------------------------------------------------------------------------------- */

/* Source pixels per pixel of the result: the smaller of both ways for a crop, the larger for a pad. */
static double step_of(const data_transform *t, int64_t width, int64_t height)
{
    const double x = (double)width / (double)t->width, y = (double)height / (double)t->height;
    return t->method == DATA_PAD ? fmax(x, y) : fmin(x, y);
}

static part resize_part(const data_transform *t, int64_t width, int64_t height, data_random *r)
{
    if (t->method == DATA_SQUISH) return (part){ 0, 0, width, height };
    const double step = step_of(t, width, height);
    int64_t w = (int64_t)(step * (double)t->width), h = (int64_t)(step * (double)t->height);
    w = w > 0 ? w : 1, h = h > 0 ? h : 1;
    const double left = ag_data_uniform(r, 0, 1) * (double)(width - w);
    const double top = ag_data_uniform(r, 0, 1) * (double)(height - h);
    return (part){ (int64_t)left, (int64_t)top, w, h };
}

static void resize_apply(const data_transform *t, data_image *image, data_random *r)
{
    crop_pad(image, resize_part(t, image->width, image->height, r), t);
}

static bool resize_box(const data_transform *t, int64_t width, int64_t height, data_random *r, data_box *box)
{
    return box_of(resize_part(t, width, height, r), width, height, box);
}

static void shrink(int64_t *width, int64_t *height, double x, double y)
{
    const double rounding = 1e-9;
    if (x > 1) *width = (int64_t)ceil((double)*width / x - rounding);
    if (y > 1) *height = (int64_t)ceil((double)*height / y - rounding);
}

static void resize_needs(const data_transform *t, int64_t *width, int64_t *height)
{
    const double step = step_of(t, *width, *height);
    if (t->method != DATA_SQUISH) shrink(width, height, step, step);
    else shrink(width, height, (double)*width / (double)t->width, (double)*height / (double)t->height);
}

static void require_size(const char *at, const char *what, int64_t height, int64_t width)
{
    if (height < 1 || width < 1 || height > LARGEST || width > LARGEST)
        ag_fail(at, "%s: %" PRId64 " x %" PRId64 " (height x width): sizes are 1 to %d", what, height, width, LARGEST);
}

data_transform ag_data_resize_(const char *at, int64_t size, data_resize_opts o)
{
    const int64_t width = o.width ? o.width : size;
    require_size(at, "data_resize", size, width);
    return (data_transform){ .name = "resize", .apply = resize_apply, .needs = resize_needs, .box = resize_box,
                             .random = o.method != DATA_SQUISH, .width = width, .height = size, .method = o.method,
                             .pad = o.pad };
}

/* ---- random resized crops ------------------------------------------------------------------------------------------ */

enum { MIN_SCALE, MAX_SCALE, LOG_RATIO, VAL_XTRA = 4 };

static int64_t margin(const data_transform *t)
{
    return (int64_t)ceil((double)(t->width > t->height ? t->width : t->height) * t->number[VAL_XTRA] / 8) * 8;
}

/* In validation: all of it to a larger size, of which the middle stays. */
static void crop_middle(const data_transform *t, data_image *image)
{
    const int64_t more = margin(t);
    data_transform whole = *t;
    whole.width += more, whole.height += more;
    crop_pad(image, (part){ 0, 0, image->width, image->height }, &whole);
    crop_pad(image, (part){ more / 2, more / 2, t->width, t->height }, t);
}

static part crop_part(const data_transform *t, int64_t w, int64_t h, data_random *r)
{
    for (int attempt = 0; attempt < 10; attempt++) {
        const double area = ag_data_uniform(r, t->number[MIN_SCALE], t->number[MAX_SCALE]) * (double)w * (double)h;
        const double ratio = exp(ag_data_uniform(r, t->number[LOG_RATIO], t->number[LOG_RATIO + 1]));
        const int64_t nw = llrint(sqrt(area * ratio)), nh = llrint(sqrt(area / ratio));
        if (nw > w || nh > h || nw < 1 || nh < 1) continue;
        const int64_t left = ag_data_below(r, w - nw + 1), top = ag_data_below(r, h - nh + 1);
        return (part){ left, top, nw, nh };
    }
    const double shape = (double)w / (double)h, low = exp(t->number[LOG_RATIO]), high = exp(t->number[LOG_RATIO + 1]);
    int64_t nw = shape > high ? (int64_t)((double)h * high) : w, nh = shape < low ? (int64_t)((double)w / low) : h;
    nw = nw > 0 ? nw : 1, nh = nh > 0 ? nh : 1;
    return (part){ (w - nw) / 2, (h - nh) / 2, nw, nh };
}

static void crop_apply(const data_transform *t, data_image *image, data_random *r)
{
    if (r->train) crop_pad(image, crop_part(t, image->width, image->height, r), t);
    else crop_middle(t, image);
}

static bool crop_box(const data_transform *t, int64_t width, int64_t height, data_random *r, data_box *box)
{
    return r->train && box_of(crop_part(t, width, height, r), width, height, box);
}

/* The smallest part must still have as many pixels as the result, and all of it as many as in validation. */
static void crop_needs(const data_transform *t, int64_t *width, int64_t *height)
{
    const double side = sqrt(t->number[MIN_SCALE] * (double)*width * (double)*height), more = (double)margin(t);
    const double x = side * exp(t->number[LOG_RATIO] / 2) / (double)t->width;
    const double y = side * exp(-t->number[LOG_RATIO + 1] / 2) / (double)t->height;
    const double all_x = (double)*width / ((double)t->width + more), all_y = (double)*height / ((double)t->height + more);
    const double step = fmin(fmin(x, y), fmin(all_x, all_y));
    shrink(width, height, step, step);
}

data_transform ag_data_random_resized_crop_(const char *at, int64_t size, data_crop_opts o)
{
    const double low = o.min_scale ? o.min_scale : 0.08, high = o.max_scale ? o.max_scale : 1;
    const double narrow = o.ratio[0] ? o.ratio[0] : 3.0 / 4, wide = o.ratio[1] ? o.ratio[1] : 4.0 / 3;
    const int64_t width = o.width ? o.width : size;
    require_size(at, "data_random_resized_crop", size, width);
    if (!(low > 0 && low <= high && high <= 1))
        ag_fail(at, "data_random_resized_crop: .min_scale %g, .max_scale %g: shares of the area, 0 to 1 in order", low, high);
    if (!(narrow > 0 && narrow <= wide))
        ag_fail(at, "data_random_resized_crop: .ratio %g to %g: positive, in order", narrow, wide);
    return (data_transform){ .name = "random_resized_crop", .apply = crop_apply, .needs = crop_needs, .box = crop_box,
                             .random = true, .width = width, .height = size,
                             .number = { low, high, log(narrow), log(wide), o.val_xtra ? o.val_xtra : 0.14 } };
}

bool ag_data_transform_is_own(const data_transform *t)
{
    return t->apply == resize_apply || t->apply == crop_apply;
}
