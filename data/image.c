/* data/image.c - what kind of image it is, whether it can be true, and which decoder reads it. */
#include "data/image_inside.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "core/io.h"
#include "core/memory.h"

bool ag_image_bad(char why[DATA_WHY], const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, DATA_WHY, fmt, args);
    va_end(args);
    return false;
}

void ag_data_image_free(data_image *image)
{
    ag_free(image->pixels);
    *image = (data_image){ 0 };
}

/* ---- recognising --------------------------------------------------------------------------------------- */

typedef struct { data_image_format format; const char *name, *begins; int64_t n; } signature;

static const signature signatures[] = {
    { DATA_PNG, "PNG", "\x89PNG\r\n\x1a\n", 8 },
    { DATA_JPEG, "JPEG", "\xff\xd8\xff", 3 },
    { DATA_GIF, "GIF", "GIF87a", 6 },
    { DATA_GIF, "GIF", "GIF89a", 6 },
    { DATA_BMP, "BMP", "BM", 2 },
    { DATA_NO_IMAGE, "PSD", "8BPS", 4 },
    { DATA_NO_IMAGE, "Radiance HDR", "#?RADIANCE", 10 },
    { DATA_NO_IMAGE, "TIFF", "II*\0", 4 },
    { DATA_NO_IMAGE, "TIFF", "MM\0*", 4 },
    { DATA_NO_IMAGE, "WebP", "RIFF", 4 },
    { DATA_NO_IMAGE, "PNM", "P5", 2 },
    { DATA_NO_IMAGE, "PNM", "P6", 2 },
    { DATA_NO_IMAGE, "PIC", "\x53\x80\xf6\x34", 4 },
};

static data_image_format recognise(image_bytes b, char why[DATA_WHY])
{
    for (size_t i = 0; i < sizeof signatures / sizeof *signatures; i++) {
        const signature *s = &signatures[i];
        if (b.size < s->n || memcmp(b.data, s->begins, (size_t)s->n)) continue;
        if (!s->format) ag_image_bad(why, "a %s file; PNG, JPEG, BMP and GIF are read", s->name);
        return s->format;
    }
    if (!b.size) ag_image_bad(why, "an empty file");
    else ag_image_bad(why, "no image: it begins with none of the signatures of PNG, JPEG, BMP and GIF");
    return DATA_NO_IMAGE;
}

static bool read_header(image_bytes b, image_header *h, char why[DATA_WHY])
{
    *h = (image_header){ .orientation = 1, .format = recognise(b, why) };
    bool good = false;
    switch (h->format) {
    case DATA_PNG: good = ag_image_png_header(b, h, why); break;
    case DATA_JPEG: good = ag_image_jpeg_header(b, h, why); break;
    case DATA_BMP: good = ag_image_bmp_header(b, h, why); break;
    case DATA_GIF: good = ag_image_gif_header(b, h, why); break;
    case DATA_NO_IMAGE: break;
    }
    if (!good) return false;
    if (h->width < 1 || h->height < 1)
        return ag_image_bad(why, "a size of %" PRId64 " x %" PRId64, h->width, h->height);
    if (h->width > DATA_MAX_SIDE || h->height > DATA_MAX_SIDE || h->width * h->height > DATA_MAX_PIXELS)
        return ag_image_bad(why, "%" PRId64 " x %" PRId64 " pixels; at most %d a side and %d in all are read", h->width,
                            h->height, DATA_MAX_SIDE, DATA_MAX_PIXELS);
    return true;
}

static bool lies_across(int orientation) { return orientation >= 5; }

/* ---- upright ------------------------------------------------------------------------------------------- */

/* EXIF 2 .. 8: where the picture's pixel (x, y) is stored. */
static void make_upright(data_image *image, int orientation)
{
    if (orientation < 2 || orientation > 8) return;
    const int64_t w = image->width, h = image->height, to_w = lies_across(orientation) ? h : w, to_h = w + h - to_w;
    const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    const bool from_below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    uint8_t *to = ag_alloc(ag_mul_size(NULL, to_w, to_h), 3), *out = to;
    for (int64_t y = 0; y < to_h; y++)
        for (int64_t x = 0; x < to_w; x++, out += 3) {
            const int64_t u = lies_across(orientation) ? y : x, v = lies_across(orientation) ? x : y;
            const int64_t column = from_right ? w - 1 - u : u, row = from_below ? h - 1 - v : v;
            memcpy(out, image->pixels + 3 * (row * w + column), 3);
        }
    ag_free(image->pixels);
    *image = (data_image){ to_w, to_h, to };
}

/* ---- reading ------------------------------------------------------------------------------------------- */

/* The largest reduction that leaves at least the pixels wanted both ways. */
static int eighths_wanted(const image_header *h, const data_image_opts *o)
{
    const bool across = lies_across(h->orientation);
    const int64_t w = across ? o->height : o->width, t = across ? o->width : o->height;
    for (int m = 1; (w > 0 || t > 0) && m < 8; m *= 2)
        if ((h->width * m + 7) / 8 >= w && (h->height * m + 7) / 8 >= t) return m;
    return 8;
}

static bool decode(image_bytes b, const data_image_opts *opts, const image_rows *rows, data_image *to, char why[DATA_WHY])
{
    data_image_opts o = opts ? *opts : (data_image_opts){ 0 };
    image_header h;
    *to = (data_image){ 0 };
    why[0] = 0;
    if (!read_header(b, &h, why)) return false;
    const bool across = lies_across(h.orientation);
    if (rows) rows->size(rows->arg, across ? h.height : h.width, across ? h.width : h.height, &o);
    const bool good = h.format == DATA_JPEG ? ag_image_jpeg_decode(b, &h, eighths_wanted(&h, &o), rows, to, why)
                                            : ag_image_stb_decode(b, &h, to, why);
    if (!good) return false;
    if (to->pixels) make_upright(to, h.orientation);
    return true;
}

bool ag_data_image_try_bytes(const void *bytes, int64_t size, data_image *to, char why[DATA_WHY], data_image_opts o)
{
    return decode((image_bytes){ bytes, size }, &o, NULL, to, why);
}

static bool decode_file(const char *path, const data_image_opts *o, const image_rows *rows, data_image *to, char why[DATA_WHY])
{
    ag_bytes b;
    *to = (data_image){ 0 };
    if (!ag_try_read(path, &b, why, DATA_WHY)) return false;
    return decode((image_bytes){ (const uint8_t *)b.data, b.size }, o, rows, to, why);
}

bool ag_data_image_try(const char *path, data_image *to, char why[DATA_WHY], data_image_opts o)
{
    return decode_file(path, &o, NULL, to, why);
}

bool ag_image_try_rows(const char *path, const image_rows *rows, data_image *to, char why[DATA_WHY])
{
    return decode_file(path, NULL, rows, to, why);
}

bool ag_data_image_probe(const char *path, data_image_info *info, char why[DATA_WHY])
{
    ag_bytes b;
    image_header h;
    *info = (data_image_info){ .orientation = 1 };
    if (!ag_try_read(path, &b, why, DATA_WHY)) return false;
    if (!read_header((image_bytes){ (const uint8_t *)b.data, b.size }, &h, why)) return false;
    const bool across = lies_across(h.orientation);
    *info = (data_image_info){ h.format, across ? h.height : h.width, across ? h.width : h.height, h.orientation };
    return true;
}

data_image ag_data_image_read_(const char *at, const char *path, data_image_opts o)
{
    char why[DATA_WHY];
    data_image image;
    if (!ag_data_image_try(path, &image, why, o)) ag_fail(at, "cannot read %s: %s", path, why);
    ag_defer(ag_free, image.pixels);
    return image;
}
