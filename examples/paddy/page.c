/* page.c - HTML, base64 (RFC 4648) and SVG by hand: a page for any browser, without a script. */
#include "page.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/io.h"
#include "core/memory.h"
#include "data/transform.h"

struct page { ag_file *file; };

static const char *const style =
    "body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}"
    "h1,h2{line-height:1.2;font-weight:600}h2{margin-top:2.5rem}h2::first-letter{text-transform:uppercase}"
    "table{border-collapse:collapse;margin:1rem 0;font-size:.9rem}th,td{padding:.25rem .6rem;text-align:right;font-weight:400}"
    "th:first-child{text-align:left}tr:first-child th{border-bottom:1px solid #999;font-weight:600}"
    "caption{caption-side:bottom;text-align:left;color:#666;padding-top:.4rem}"
    ".errors td{font-variant-numeric:tabular-nums}.wide{overflow-x:auto}"
    ".confusion td{width:2.4rem;text-align:center;border:1px solid #eee}.confusion th{white-space:nowrap}"
    ".confusion th.up{height:9rem;vertical-align:bottom;padding:0 0 .3rem;text-align:center}"
    ".up span{writing-mode:vertical-rl;transform:rotate(180deg)}"
    ".grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(13rem,1fr));gap:1rem}"
    "figure{margin:0;font-size:.85rem}figure img{width:100%;height:15rem;object-fit:contain;background:#f2f2f2}"
    ".wrong{color:#b3261e}.name{color:#777}.curves{display:flex;flex-wrap:wrap;gap:1rem}svg{max-width:100%;height:auto}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}.confusion td{border-color:#333}"
    "figure img{background:#222}.wrong{color:#ff8a80}svg text{fill:#ddd}}";

page *page_begin(const char *command, const char *path, const char *title)
{
    page *p = ag_alloc(1, sizeof *p);
    ag_defer(ag_free, p);
    p->file = ag_file_create_(NULL, path);
    page_print(p, "<!DOCTYPE html>\n<html lang=en>\n<meta charset=utf-8>\n<meta name=viewport content=\"width=device-width\">\n"
                  "<meta name=generator content=\"paddy %s\">\n<title>%s</title>\n<style>%s</style>\n<h1>%s</h1>\n",
               command, title, style, title);
    return p;
}

void page_end(page *p)
{
    page_print(p, "</html>\n");
    ag_file_commit(p->file);
}

void page_print(page *p, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    ag_file_vprintf(p->file, fmt, args);
    va_end(args);
}

void page_text(page *p, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '&': page_print(p, "&amp;"); break;
        case '<': page_print(p, "&lt;"); break;
        case '>': page_print(p, "&gt;"); break;
        case '"': page_print(p, "&quot;"); break;
        default: page_print(p, "%c", *text);
        }
}

/* ---- pictures ---------------------------------------------------------------------------------------------- */

void page_image(page *p, const data_image *image)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    int64_t size;
    uint8_t *bytes = data_image_encode(image, DATA_JPEG, &size, .quality = 80);
    ag_defer(ag_free, bytes);
    page_print(p, "<img alt=\"\" width=%" PRId64 " height=%" PRId64, image->width, image->height);
    page_print(p, " src=\"data:image/jpeg;base64,");
    for (int64_t i = 0; i < size; i += 3) {
        const int64_t left = size - i;
        unsigned v = (unsigned)bytes[i] << 16;
        if (left > 1) v |= (unsigned)bytes[i + 1] << 8;
        if (left > 2) v |= bytes[i + 2];
        page_print(p, "%c%c%c%c", digit[v >> 18], digit[v >> 12 & 63], left > 1 ? digit[v >> 6 & 63] : '=',
                   left > 2 ? digit[v & 63] : '=');
    }
    page_print(p, "\">");
}

data_image page_thumbnail(const char *path, int64_t side)
{
    char why[DATA_WHY];
    data_image whole, small;
    const bool read = data_image_try(path, &whole, why, .width = side, .height = side);
    if (!read) {
        whole = (data_image){ 1, 1, ag_alloc(3, 1) };
        memset(whole.pixels, 128, 3);
    }
    const double scale = fmin(1, (double)side / (double)(whole.width > whole.height ? whole.width : whole.height));
    const int64_t w = (int64_t)fmax(1, nearbyint(scale * (double)whole.width));
    const int64_t h = (int64_t)fmax(1, nearbyint(scale * (double)whole.height));
    ag_data_resize_box(&whole, (data_box){ 0, 0, (double)whole.width, (double)whole.height }, w, h, &small);
    data_image_free(&whole);
    ag_defer(ag_free, small.pixels);
    return small;
}

/* ---- curves ------------------------------------------------------------------------------------------------ */

enum { MAX_SERIES = 24, MAX_EPOCHS = 4096, WIDTH = 460, HEIGHT = 280, LEFT = 48, BOTTOM = 32, TOP = 12, RIGHT = 12 };
typedef struct { char name[MAX_SERIES][48]; double *value[MAX_SERIES]; int columns, rows; } history;

static const char *cell(const char *p, char *text, size_t size)
{
    const size_t n = strcspn(p, ",\n");
    snprintf(text, size, "%.*s", (int)n, p);
    return p + n;
}

static history *read_history(const char *csv)
{
    history *h = ag_alloc(1, sizeof *h);
    char text[64];
    ag_defer(ag_free, h);
    for (; *csv && h->columns < MAX_SERIES; h->columns++) {
        csv = cell(csv, h->name[h->columns], sizeof h->name[0]);
        h->value[h->columns] = ag_alloc(MAX_EPOCHS, sizeof(double));
        ag_defer(ag_free, h->value[h->columns]);
        if (*csv != ',') break;
        csv++;
    }
    h->columns += h->columns < MAX_SERIES;
    for (csv += strcspn(csv, "\n"); *csv == '\n' && csv[1] && h->rows < MAX_EPOCHS; h->rows++) {
        for (int c = 0; *csv && (c == 0 || *csv == ','); c++) {
            csv = cell(csv + 1, text, sizeof text);
            if (c < h->columns) h->value[c][h->rows] = strtod(text, NULL);
        }
        csv += strcspn(csv, "\n");
    }
    return h;
}

static bool ends_with(const char *name, const char *end)
{
    const size_t n = strlen(name), m = strlen(end);
    return n >= m && !strcmp(name + n - m, end);
}

/* The columns that are drawn together: losses of all, or errors. */
static bool belongs(const char *name, const char *end)
{
    return ends_with(name, end) && (strcmp(end, "loss") || !strncmp(name, "train_", 6) || !strncmp(name, "valid_", 6));
}

static double largest(const history *h, const char *end)
{
    double top = 0;
    for (int c = 0; c < h->columns; c++)
        for (int r = 0; belongs(h->name[c], end) && r < h->rows; r++)
            if (isfinite(h->value[c][r])) top = fmax(top, h->value[c][r]);
    return top;
}

/* 1, 2 or 5 times a power of ten: about four lines up to `top`. */
static double step_of(double top)
{
    const double raw = top / 4, power = pow(10, floor(log10(raw))), m = raw / power;
    return power * (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10);
}

static void draw(page *p, const history *h, const char *end)
{
    static const char *const colour[] = { "#2a6fb0", "#d0662a", "#3a8f4d", "#8a4fae", "#b8860b", "#c0397a" };
    const double top = largest(h, end), w = WIDTH - LEFT - RIGHT, tall = HEIGHT - TOP - BOTTOM;
    if (!(top > 0) || h->rows < 2) return;
    page_print(p, "<svg role=img width=%d height=%d viewBox=\"0 0 %d %d\" font-size=12>\n", WIDTH, HEIGHT, WIDTH, HEIGHT);
    for (double v = 0; v <= top; v += step_of(top)) {
        const double y = TOP + tall * (1 - v / top);
        page_print(p, "<line x1=%d x2=%d y1=%.1f y2=%.1f stroke=\"#8884\"/><text x=%d y=%.1f text-anchor=end>%g</text>\n", LEFT,
                   WIDTH - RIGHT, y, y, LEFT - 6, y + 4, v);
    }
    page_print(p, "<text x=%d y=%d text-anchor=end>epoch %d</text>\n", WIDTH - RIGHT, HEIGHT - 10, h->rows);
    int drawn = 0;
    for (int c = 0; c < h->columns; c++) {
        if (!belongs(h->name[c], end)) continue;
        const char *ink = colour[drawn % 6];
        page_print(p, "<polyline fill=none stroke=\"%s\" stroke-width=2 points=\"", ink);
        for (int r = 0; r < h->rows; r++)
            if (isfinite(h->value[c][r]))
                page_print(p, "%.1f,%.1f ", LEFT + w * r / (h->rows - 1), TOP + tall * (1 - h->value[c][r] / top));
        page_print(p, "\"/><text x=%d y=%d text-anchor=end style=\"fill:%s\">", WIDTH - RIGHT - 4, TOP + 14 + 16 * drawn++, ink);
        page_text(p, h->name[c]), page_print(p, "</text>\n");
    }
    page_print(p, "</svg>\n");
}

void page_curves(page *p, const char *csv)
{
    AG_SCOPE;
    const history *h = read_history(csv);
    page_print(p, "<div class=curves>\n");
    draw(p, h, "loss");
    draw(p, h, "error");
    page_print(p, "</div>\n");
}
