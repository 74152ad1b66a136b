/* data/image_jpeg.c - JPEGs by libjpeg-turbo: at a fraction of the size, strict about what is missing. */
#include "data/image_inside.h"
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/memory.h"

#ifndef AG_HAVE_JPEG
const char *ag_image_decoders(void) { return "stb"; }

bool ag_image_jpeg_decode(image_bytes b, const image_header *h, int eighths, const image_rows *rows, data_image *to,
                          char why[DATA_WHY])
{
    (void)eighths, (void)rows;
    return ag_image_stb_decode(b, h, to, why);
}

bool ag_image_jpeg_encode(const data_image *image, int quality, uint8_t **bytes, int64_t *size)
{
    (void)image, (void)quality, (void)bytes, (void)size;
    return false;
}
#else
#include <jpeglib.h>
#include <jerror.h>

enum { SCANS_MOST = 100 };

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#ifdef LIBJPEG_TURBO_VERSION
const char *ag_image_decoders(void) { return "stb, libjpeg-turbo " TEXT(LIBJPEG_TURBO_VERSION); }
#else
const char *ag_image_decoders(void) { return "stb, libjpeg " TEXT(JPEG_LIB_VERSION); }
#endif

typedef struct {
    struct jpeg_error_mgr mgr;
    struct jpeg_progress_mgr progress;
    jmp_buf back;
    char *why;
    uint8_t *pixels, *row;
    const image_rows *rows;             /* NULL: wanted whole */
} errors;

static void fail(j_common_ptr c)
{
    errors *e = (errors *)(void *)c->err;
    char text[JMSG_LENGTH_MAX];
    c->err->format_message(c, text);
    ag_image_bad(e->why, "%s", text);
    longjmp(e->back, 1);
}

/* Warnings that say that pixels are missing or made up; the others concern what stands between the picture's parts. */
static void warn(j_common_ptr c, int level)
{
    const int code = c->err->msg_code;
    if (level >= 0) return;
    if (code != JWRN_JPEG_EOF && code != JWRN_HIT_MARKER && code != JWRN_HUFF_BAD_CODE && code != JWRN_MUST_RESYNC &&
        code != JWRN_ARITH_BAD_CODE) return;
    errors *e = (errors *)(void *)c->err;
    const struct jpeg_decompress_struct *d = (const struct jpeg_decompress_struct *)(void *)c;
    char text[JMSG_LENGTH_MAX];
    c->err->format_message(c, text);
    ag_image_bad(e->why, "damaged in row %u of %u: %s", d->output_scanline, d->output_height, text);
    longjmp(e->back, 1);
}

static void watch(j_common_ptr c)
{
    const struct jpeg_decompress_struct *d = (const struct jpeg_decompress_struct *)(void *)c;
    errors *e = (errors *)(void *)c->err;
    if (d->input_scan_number <= SCANS_MOST) return;
    ag_image_bad(e->why, "more than %d scans", SCANS_MOST);
    longjmp(e->back, 1);
}

/* (255 - c)(255 - k) / 255; Adobe's files hold 255 - c and 255 - k already. */
static void cmyk_row(const uint8_t *from, int64_t n, bool adobe, uint8_t *to)
{
    for (int64_t i = 0; i < n; i++, from += 4)
        for (int k = 0; k < 3; k++) {
            const int ink = adobe ? from[k] : 255 - from[k], black = adobe ? from[3] : 255 - from[3];
            *to++ = (uint8_t)((ink * black + 127) / 255);
        }
}

static void read_rows(struct jpeg_decompress_struct *d, errors *e, bool cmyk)
{
    const int64_t w = d->output_width, h = d->output_height;
    if (e->rows && !e->rows->begin(e->rows->arg, w, h)) e->rows = NULL;
    if (!e->rows) e->pixels = ag_alloc(w * h, 3);
    if (cmyk) e->row = ag_alloc(w, 4);
    while (d->output_scanline < d->output_height) {
        const int64_t y = d->output_scanline;
        uint8_t *to = e->rows ? e->rows->row(e->rows->arg, y) : e->pixels + 3 * w * y;
        JSAMPROW row = cmyk ? e->row : to;
        jpeg_read_scanlines(d, &row, 1);
        if (cmyk) cmyk_row(e->row, w, d->saw_Adobe_marker, to);
    }
    if (e->rows) e->rows->row(e->rows->arg, h);
    jpeg_finish_decompress(d);
}

static bool decode(struct jpeg_decompress_struct *d, errors *e, image_bytes b, int eighths)
{
    if (setjmp(e->back)) {
        ag_free(e->pixels);
        e->pixels = NULL;
        return false;
    }
    jpeg_create_decompress(d);
    d->progress = &e->progress;
    jpeg_mem_src(d, b.data, (unsigned long)b.size);
    jpeg_read_header(d, TRUE);
    const bool cmyk = d->jpeg_color_space == JCS_CMYK || d->jpeg_color_space == JCS_YCCK;
    d->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    d->scale_num = (unsigned)eighths, d->scale_denom = 8;
    jpeg_start_decompress(d);
    read_rows(d, e, cmyk);
    return true;
}

bool ag_image_jpeg_decode(image_bytes b, const image_header *h, int eighths, const image_rows *rows, data_image *to,
                          char why[DATA_WHY])
{
    struct jpeg_decompress_struct d = { 0 };
    errors e = { .why = why, .rows = h->orientation == 1 ? rows : NULL };
    d.err = jpeg_std_error(&e.mgr);
    e.mgr.error_exit = fail, e.mgr.emit_message = warn;
    e.progress.progress_monitor = watch;
    const bool good = decode(&d, &e, b, eighths);
    if (good) *to = (data_image){ d.output_width, d.output_height, e.pixels };
    ag_free(e.row);
    jpeg_destroy_decompress(&d);
    return good;
}

bool ag_image_jpeg_encode(const data_image *image, int quality, uint8_t **bytes, int64_t *size)
{
    struct jpeg_compress_struct c = { 0 };
    char why[DATA_WHY];
    errors e = { .why = why };
    unsigned char *made = NULL;
    unsigned long n = 0;
    c.err = jpeg_std_error(&e.mgr);
    e.mgr.error_exit = fail;
    if (setjmp(e.back)) {
        jpeg_destroy_compress(&c);
        free(made);
        return false;
    }
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &made, &n);
    c.image_width = (unsigned)image->width, c.image_height = (unsigned)image->height;
    c.input_components = 3, c.in_color_space = JCS_RGB;
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, quality, TRUE);
    jpeg_start_compress(&c, TRUE);
    while (c.next_scanline < c.image_height) {
        JSAMPROW row = image->pixels + 3 * image->width * c.next_scanline;
        jpeg_write_scanlines(&c, &row, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    *size = (int64_t)n;
    *bytes = memcpy(ag_alloc(*size, 1), made, n);
    free(made);
    return true;
}
#endif
