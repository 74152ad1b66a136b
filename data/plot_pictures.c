/* data/plot_pictures.c - photographs with captions, and confusion matrices. */
#include "data/plot.h"
#include "data/plot_inside.h"
#ifndef AG_HAVE_CAIRO

void ag_data_plot_grid_(const char *at, const char *path, int n, const data_plot_picture *pictures, data_plot_grid_opts opts)
{
    (void)n, (void)pictures, (void)opts;
    ag_plot_absent(at, path);
}

void ag_data_plot_confusion_(const char *at, const char *path, int n, const int64_t *count, const char *const *names,
                             data_plot_confusion_opts opts)
{
    (void)n, (void)count, (void)names, (void)opts;
    ag_plot_absent(at, path);
}

#else
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/memory.h"

enum { GAP = 12, LINE = 18, CAPTION_LINES = 3, TITLE = 44, LONGEST = 120 };

static void title(const ag_picture *p, const char *s)
{
    if (!s) return;
    cairo_set_font_size(p->c, 20);
    cairo_set_source_rgb(p->c, 0.1, 0.1, 0.1);
    ag_picture_text(p, p->width / 2.0, 30, 0.5, s);
    cairo_set_font_size(p->c, 14);
}

/* s, or as much of its beginning as is at most `width` points wide, with "..." behind it. */
static void fit_text(const ag_picture *p, char s[LONGEST], double width)
{
    cairo_text_extents_t e;
    for (size_t n = strlen(s);; ) {
        cairo_text_extents(p->c, s, &e);
        if (e.width <= width || n < 4) return;
        for (n--; n > 3 && ((unsigned char)s[n - 3] & 0xc0) == 0x80; n--) {}      /* not within a letter */
        memcpy(s + n - 3, "...", 4);
    }
}

static void draw_image(const ag_picture *p, const data_image *im, double x, double y, double side)
{
    AG_SCOPE;
    const int w = (int)im->width, h = (int)im->height;
    cairo_surface_t *s = cairo_image_surface_create(CAIRO_FORMAT_RGB24, w, h);
    unsigned char *rows = cairo_image_surface_get_data(s);
    const int stride = cairo_image_surface_get_stride(s);
    for (int r = 0; rows && r < h; r++)
        for (int k = 0; k < w; k++) {
            const uint8_t *from = im->pixels + 3 * ((int64_t)r * w + k);
            const uint32_t v = (uint32_t)from[0] << 16 | (uint32_t)from[1] << 8 | from[2];
            memcpy(rows + (int64_t)r * stride + 4 * k, &v, 4);
        }
    cairo_surface_mark_dirty(s);
    const double scale = side / (w > h ? w : h);
    cairo_save(p->c);
    cairo_translate(p->c, x + (side - scale * w) / 2, y + (side - scale * h) / 2);
    cairo_scale(p->c, scale, scale);
    cairo_set_source_surface(p->c, s, 0, 0);
    cairo_pattern_set_filter(cairo_get_source(p->c), CAIRO_FILTER_GOOD);
    cairo_rectangle(p->c, 0, 0, w, h);
    cairo_fill(p->c);
    cairo_restore(p->c);
    cairo_surface_destroy(s);
}

static void draw_caption(const ag_picture *p, const data_plot_picture *of, double x, double y, double width)
{
    const char *s = of->caption;
    cairo_set_source_rgb(p->c, of->wrong ? 0.75 : 0.1, 0.1, 0.1);
    for (int line = 0; line < CAPTION_LINES && s && *s; line++) {
        char text[LONGEST];
        const size_t n = strcspn(s, "\n");
        snprintf(text, sizeof text, "%.*s", (int)n, s);
        fit_text(p, text, width);
        ag_picture_text(p, x + width / 2, y + LINE * (line + 1) - 3, 0.5, text);
        s += n + (s[n] == '\n');
    }
}

static int caption_lines(int n, const data_plot_picture *pictures)
{
    int most = 0;
    for (int i = 0; i < n; i++) {
        int lines = pictures[i].caption && *pictures[i].caption;
        for (const char *s = pictures[i].caption; s && *s; s++) lines += *s == '\n';
        most = lines > most ? lines : most;
    }
    return most < CAPTION_LINES ? most : CAPTION_LINES;
}

void ag_data_plot_grid_(const char *at, const char *path, int n, const data_plot_picture *pictures, data_plot_grid_opts o)
{
    AG_SCOPE;
    if (n < 1) ag_fail(at, "plot: there is no picture to draw");
    const int cell = o.cell ? o.cell : 224, columns = o.columns ? o.columns : (int)ceil(sqrt(n)), top = o.title ? TITLE : GAP;
    const int step = cell + LINE * caption_lines(n, pictures) + GAP;
    const ag_picture *p = ag_picture_new(at, GAP + columns * (cell + GAP), top + (n + columns - 1) / columns * step);
    title(p, o.title);
    for (int i = 0; i < n; i++) {
        const double x = GAP + i % columns * (cell + GAP), y = top + (double)(i / columns) * step;
        draw_image(p, pictures[i].image, x, y, cell);
        draw_caption(p, &pictures[i], x, y + cell, cell);
    }
    ag_picture_finish(at, path, p);
}

/* ---- confusion matrices -------------------------------------------------------------------------------- */

static double longest(const ag_picture *p, int n, const char *const *names)
{
    double most = 0;
    for (int i = 0; i < n; i++) {
        cairo_text_extents_t e;
        cairo_text_extents(p->c, names[i], &e);
        most = fmax(most, e.width);
    }
    return most;
}

static void upward(const ag_picture *p, double x, double y, double anchor, const char *s)
{
    cairo_save(p->c);
    cairo_translate(p->c, x, y);
    cairo_rotate(p->c, -M_PI / 2);
    ag_picture_text(p, 0, 0, anchor, s);
    cairo_restore(p->c);
}

static void draw_cell(const ag_picture *p, double x, double y, double side, int64_t count, double share)
{
    char s[24];
    cairo_set_source_rgb(p->c, 1 - 0.88 * share, 1 - 0.65 * share, 1 - 0.35 * share);
    cairo_rectangle(p->c, x, y, side - 1, side - 1);
    cairo_fill(p->c);
    if (!count) return;
    snprintf(s, sizeof s, "%" PRId64, count);
    if (share > 0.5) cairo_set_source_rgb(p->c, 1, 1, 1);
    else cairo_set_source_rgb(p->c, 0.1, 0.1, 0.1);
    ag_picture_text(p, x + side / 2, y + side / 2 + 5, 0.5, s);
}

void ag_data_plot_confusion_(const char *at, const char *path, int n, const int64_t *count, const char *const *names,
                             data_plot_confusion_opts o)
{
    AG_SCOPE;
    if (n < 1) ag_fail(at, "plot: there is no class to draw");
    const double side = n <= 12 ? 56 : fmax(14, 680.0 / n), names_wide = longest(ag_picture_new(at, 8, 8), n, names);
    const double left = names_wide + 56, extent = left + side * n + GAP;
    const ag_picture *p = ag_picture_new(at, (int)extent, (int)(TITLE + side * n + names_wide + 56));
    title(p, o.title);
    const double foot = TITLE + side * n;
    for (int i = 0; i < n; i++) {
        double row = 0;
        for (int j = 0; j < n; j++) row += (double)count[i * n + j];
        for (int j = 0; j < n; j++)
            draw_cell(p, left + side * j, TITLE + side * i, side, count[i * n + j], row > 0 ? (double)count[i * n + j] / row : 0);
        cairo_set_source_rgb(p->c, 0.1, 0.1, 0.1);
        ag_picture_text(p, left - 10, TITLE + side * (i + 0.5) + 5, 1, names[i]);
        upward(p, left + side * (i + 0.5) + 5, foot + 10, 1, names[i]);
    }
    cairo_set_source_rgb(p->c, 0.4, 0.4, 0.4);
    upward(p, 24, TITLE + side * n / 2, 0.5, "actual");
    ag_picture_text(p, left + side * n / 2, foot + names_wide + 40, 0.5, "predicted");
    ag_picture_finish(at, path, p);
}
#endif
