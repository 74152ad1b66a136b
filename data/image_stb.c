/* data/image_stb.c - PNG, BMP and GIF (and JPEG where there is no libjpeg) by stb_image; writing by stb_image_write. */
#include "data/image_inside.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "core/io.h"
#include "core/memory.h"

#ifdef AG_HAVE_STB
/* No single piece of memory beyond what the header asks for: a stream that unpacks to more is a lie. */
static _Thread_local int64_t most;

static void *take(size_t n) { return (int64_t)n > most ? NULL : ag_alloc((int64_t)n, 1); }
static void *take_more(void *p, size_t n) { return (int64_t)n > most ? NULL : ag_realloc(p, (int64_t)n, 1); }

/* What the compiler thinks of stb's code is not ours to mend. */
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wsign-compare"
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#define STBI_ONLY_GIF
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_MAX_DIMENSIONS 16384
#define STBI_MALLOC(n) take(n)
#define STBI_REALLOC(p, n) take_more(p, n)
#define STBI_FREE(p) ag_free(p)
#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>
#define STBI_WRITE_NO_STDIO
#define STBIW_MALLOC(n) ag_alloc((int64_t)(n), 1)
#define STBIW_REALLOC(p, n) ag_realloc(p, (int64_t)(n), 1)
#define STBIW_FREE(p) ag_free(p)
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>

bool ag_image_stb_decode(image_bytes b, const image_header *h, data_image *to, char why[DATA_WHY])
{
    int w = 0, t = 0, channels;
    const int64_t pixels = h->width * h->height * 4, unpacked = 2 * h->most;
    most = (unpacked > pixels ? unpacked : pixels) + (1 << 16);
    if (most < 2 * b.size) most = 2 * b.size;
    if (b.size > INT32_MAX) return ag_image_bad(why, "a file of %" PRId64 " bytes", b.size);
    uint8_t *p = stbi_load_from_memory(b.data, (int)b.size, &w, &t, &channels, 3);
    if (!p) return ag_image_bad(why, "damaged: %s", stbi_failure_reason() ? stbi_failure_reason() : "not to be decoded");
    *to = (data_image){ w, t, p };
    return true;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

typedef struct { uint8_t *data; int64_t size, room; } growing;

static void append(void *arg, void *data, int n)
{
    growing *g = arg;
    if (g->size + n > g->room) {
        g->room = 2 * (g->size + n);
        g->data = ag_realloc(g->data, g->room, 1);
    }
    memcpy(g->data + g->size, data, (size_t)n);
    g->size += n;
}

void *ag_data_image_encode_(const char *at, const data_image *image, data_image_format format, int64_t *size, data_write_opts o)
{
    growing g = { 0 };
    const int w = (int)image->width, h = (int)image->height, quality = o.quality > 0 ? o.quality : 90;
    if (image->width < 1 || image->height < 1 || image->width > DATA_MAX_SIDE || image->height > DATA_MAX_SIDE)
        ag_fail(at, "data_image_write: an image of %" PRId64 " x %" PRId64 " pixels; 1 .. %d a side are written", image->width,
                image->height, DATA_MAX_SIDE);
    if (format != DATA_PNG && format != DATA_JPEG) ag_fail(at, "data_image_encode: PNG and JPEG are written");
    if (format == DATA_JPEG && ag_image_jpeg_encode(image, quality, &g.data, size)) return g.data;
    const int good = format == DATA_PNG ? stbi_write_png_to_func(append, &g, w, h, 3, image->pixels, 3 * w)
                                        : stbi_write_jpg_to_func(append, &g, w, h, 3, image->pixels, quality);
    if (!good) ag_fail(at, "data_image_encode: the image of %d x %d pixels cannot be packed", w, h);
    *size = g.size;
    return g.data;
}
#else
bool ag_image_stb_decode(image_bytes b, const image_header *h, data_image *to, char why[DATA_WHY])
{
    (void)b, (void)h, (void)to;
    return ag_image_bad(why, "this build reads no such images: it was made without stb_image (Debian: libstb-dev)");
}

void *ag_data_image_encode_(const char *at, const data_image *image, data_image_format format, int64_t *size, data_write_opts o)
{
    (void)image, (void)format, (void)size, (void)o;
    ag_fail(at, "this build writes no images: it was made without stb_image_write (Debian: libstb-dev)");
}
#endif

void ag_data_image_write_(const char *at, const char *path, const data_image *image, data_write_opts o)
{
    const char *dot = strrchr(path, '.');
    const bool png = dot && !strcasecmp(dot, ".png"), jpeg = dot && (!strcasecmp(dot, ".jpg") || !strcasecmp(dot, ".jpeg"));
    int64_t size;
    if (!png && !jpeg) ag_fail(at, "data_image_write: %s ends neither in .png nor in .jpg", path);
    AG_SCOPE;
    void *bytes = ag_data_image_encode_(at, image, png ? DATA_PNG : DATA_JPEG, &size, o);
    ag_defer(ag_free, bytes);
    ag_file *f = ag_file_create_(at, path);
    ag_file_write(f, bytes, size);
    ag_file_commit(f);
}
