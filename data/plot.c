#include "data/plot.h"
#include "data/plot_inside.h"
#ifndef AG_HAVE_CAIRO

void ag_plot_absent(const char *at, const char *path)
{
    ag_fail(at, "cannot draw %s: this build has no cairo; install libcairo2-dev and build again", path);
}

bool ag_data_plot_available(void) { return false; }

void ag_data_plot_curves_(const char *at, const char *path, int n, const data_plot_series *series, data_plot_opts opts)
{
    (void)n, (void)series, (void)opts;
    ag_plot_absent(at, path);
}

void ag_data_plot_scatter_(const char *at, const char *path, int64_t n, const double *x, const double *y,
                           const char *const *labels, data_plot_opts opts)
{
    (void)n, (void)x, (void)y, (void)labels, (void)opts;
    ag_plot_absent(at, path);
}

#else
#include <cairo.h>
#include <math.h>
#include <stdio.h>
#include "core/io.h"
#include "core/memory.h"

enum { WIDTH = 1200, HEIGHT = 900, LEFT = 90, RIGHT = 30, TOP = 60, BOTTOM = 70 };

typedef struct { double lo, hi; bool log; } axis;
typedef struct { cairo_t *c; ag_picture *of; axis x, y; } picture;

bool ag_data_plot_available(void) { return true; }

static void drop_picture(void *p)
{
    ag_picture *s = p;
    cairo_destroy(s->c);
    cairo_surface_destroy(s->surface);
    ag_free(s);
}

ag_picture *ag_picture_new(const char *at, int width, int height)
{
    ag_picture *p = ag_alloc(1, sizeof *p);
    ag_defer(drop_picture, p);
    p->width = width, p->height = height;
    p->surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, width, height);
    p->c = cairo_create(p->surface);
    if (cairo_status(p->c)) ag_fail(at, "cannot draw a picture of %d x %d points", width, height);
    cairo_set_source_rgb(p->c, 1, 1, 1);
    cairo_paint(p->c);
    cairo_select_font_face(p->c, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(p->c, 14);
    cairo_set_source_rgb(p->c, 0.1, 0.1, 0.1);
    return p;
}

void ag_picture_text(const ag_picture *p, double x, double y, double anchor, const char *s)
{
    cairo_text_extents_t e;
    cairo_text_extents(p->c, s, &e);
    cairo_move_to(p->c, x - anchor * e.width, y);
    cairo_show_text(p->c, s);
}

static void widen(const char *at, axis *a, int64_t n, const double *v)
{
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(v[i])) continue;
        if (a->log && v[i] <= 0)
            ag_fail(at, "plot: a logarithmic axis needs positive numbers, value %" PRId64 " is %g", i, v[i]);
        a->lo = fmin(a->lo, v[i]), a->hi = fmax(a->hi, v[i]);
    }
}

static axis with_margin(const char *at, axis a)
{
    if (!(a.lo <= a.hi)) ag_fail(at, "plot: there is no number to draw");
    if (a.log) return a.lo == a.hi ? (axis){ a.lo / 2, a.hi * 2, true } : a;
    const double pad = a.hi > a.lo ? 0.05 * (a.hi - a.lo) : 1;
    return (axis){ a.lo - pad, a.hi + pad, false };
}

static double place(axis a, double v)
{
    return a.log ? log(v / a.lo) / log(a.hi / a.lo) : (v - a.lo) / (a.hi - a.lo);
}

static double at_x(const picture *p, double v) { return LEFT + place(p->x, v) * (WIDTH - LEFT - RIGHT); }
static double at_y(const picture *p, double v) { return HEIGHT - BOTTOM - place(p->y, v) * (HEIGHT - TOP - BOTTOM); }

static void text(const picture *p, double x, double y, double anchor, const char *s)
{
    ag_picture_text(p->of, x, y, anchor, s);
}

static void tick(const picture *p, bool horizontal, double v)
{
    char s[32];
    const double x = at_x(p, v), y = at_y(p, v);
    snprintf(s, sizeof s, "%.6g", fabs(v) < 1e-12 ? 0 : v);
    cairo_set_source_rgb(p->c, 0.88, 0.88, 0.88);
    cairo_set_line_width(p->c, 1);
    if (horizontal) cairo_move_to(p->c, x, TOP), cairo_line_to(p->c, x, HEIGHT - BOTTOM);
    else cairo_move_to(p->c, LEFT, y), cairo_line_to(p->c, WIDTH - RIGHT, y);
    cairo_stroke(p->c);
    cairo_set_source_rgb(p->c, 0.3, 0.3, 0.3);
    if (horizontal) text(p, x, HEIGHT - BOTTOM + 20, 0.5, s);
    else text(p, LEFT - 10, y + 5, 1, s);
}

/* Round numbers, or powers of ten. */
static void ticks(const picture *p, bool horizontal)
{
    const axis a = horizontal ? p->x : p->y;
    if (a.log) {
        for (double v = pow(10, ceil(log10(a.lo) - 1e-9)); v <= a.hi * (1 + 1e-9); v *= 10) tick(p, horizontal, v);
        return;
    }
    const double rough = (a.hi - a.lo) / 7, unit = pow(10, floor(log10(rough)));
    const double step = unit * (rough / unit < 1.5 ? 1 : rough / unit < 3.5 ? 2 : rough / unit < 7.5 ? 5 : 10);
    for (double v = ceil(a.lo / step) * step; v <= a.hi; v += step) tick(p, horizontal, v);
}

static picture begin(const char *at, int n, const data_plot_series *series, const data_plot_opts *o)
{
    picture p = { .of = ag_picture_new(at, WIDTH, HEIGHT), .x = { INFINITY, -INFINITY, o->log_x },
                  .y = { INFINITY, -INFINITY, false } };
    p.c = p.of->c;
    for (int i = 0; i < n; i++) widen(at, &p.x, series[i].n, series[i].x), widen(at, &p.y, series[i].n, series[i].y);
    p.x = with_margin(at, p.x), p.y = with_margin(at, p.y);
    ticks(&p, true);
    ticks(&p, false);
    cairo_set_source_rgb(p.c, 0.1, 0.1, 0.1);
    if (o->x) text(&p, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 22, 0.5, o->x);
    if (o->y) {
        cairo_save(p.c);
        cairo_translate(p.c, 24, (TOP + HEIGHT - BOTTOM) / 2.0);
        cairo_rotate(p.c, -M_PI / 2);
        text(&p, 0, 0, 0.5, o->y);
        cairo_restore(p.c);
    }
    cairo_set_font_size(p.c, 20);
    if (o->title) text(&p, (LEFT + WIDTH - RIGHT) / 2.0, 36, 0.5, o->title);
    cairo_set_font_size(p.c, 14);
    return p;
}

/* Encoded into memory first: a failing write must not unwind through the library. */
typedef struct { unsigned char *data; int64_t size, capacity; } memory;

static cairo_status_t collect(void *closure, const unsigned char *data, unsigned size)
{
    memory *m = closure;
    if (m->size + size > m->capacity) {
        m->capacity = 2 * (m->capacity + size);
        m->data = ag_realloc(m->data, m->capacity, 1);
    }
    for (unsigned i = 0; i < size; i++) m->data[m->size++] = data[i];
    return CAIRO_STATUS_SUCCESS;
}

void ag_picture_finish(const char *at, const char *path, const ag_picture *p)
{
    memory m = { 0 };
    cairo_surface_write_to_png_stream(p->surface, collect, &m);
    ag_defer(ag_free, m.data);
    ag_file *f = ag_file_create_(at, path);
    ag_file_write(f, m.data, m.size);
    ag_file_commit(f);
}

/* ---- curves -------------------------------------------------------------------------------------------- */

static void draw_marks(const picture *p, const data_plot_opts *o)
{
    cairo_set_source_rgb(p->c, 0.8, 0.3, 0.1);
    cairo_set_line_width(p->c, 1.5);
    for (int i = 0; i < o->n_marks; i++) {
        if (!isfinite(o->marks[i].x)) continue;
        const double mx = at_x(p, o->marks[i].x);
        cairo_move_to(p->c, mx, TOP);
        cairo_line_to(p->c, mx, HEIGHT - BOTTOM);
        cairo_stroke(p->c);
        text(p, mx + 6, TOP + 18 + 20 * i, 0, o->marks[i].label);
    }
}

static void draw_series(const picture *p, const data_plot_series *s, const double *rgb)
{
    cairo_set_source_rgb(p->c, rgb[0], rgb[1], rgb[2]);
    cairo_set_line_width(p->c, 2.5);
    cairo_new_path(p->c);                   /* text leaves its own end behind */
    for (int64_t i = 0; i < s->n; i++)
        if (isfinite(s->y[i])) cairo_line_to(p->c, at_x(p, s->x[i]), at_y(p, s->y[i]));
    cairo_stroke(p->c);
}

static void draw_legend(const picture *p, int i, const char *name)
{
    const double y = TOP + 22 + 22 * i, x = WIDTH - RIGHT - 200;
    cairo_move_to(p->c, x, y - 5), cairo_line_to(p->c, x + 28, y - 5);
    cairo_stroke(p->c);
    cairo_set_source_rgb(p->c, 0.1, 0.1, 0.1);
    text(p, x + 36, y, 0, name);
}

void ag_data_plot_curves_(const char *at, const char *path, int n, const data_plot_series *series, data_plot_opts o)
{
    static const double colours[][3] = { { .12, .35, .65 }, { .85, .37, .05 }, { .17, .55, .24 }, { .58, .20, .60 },
                                         { .75, .15, .20 }, { .35, .35, .35 } };
    AG_SCOPE;
    const picture p = begin(at, n, series, &o);
    draw_marks(&p, &o);
    for (int i = 0; i < n; i++) {
        draw_series(&p, &series[i], colours[i % 6]);
        if (series[i].name) draw_legend(&p, i, series[i].name);
    }
    ag_picture_finish(at, path, p.of);
}

/* ---- scatter ------------------------------------------------------------------------------------------- */

typedef struct { double x, y, w, h; } box;

static bool overlap(box a, box b)
{
    return a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
}

static bool is_free(const box *taken, int64_t n, box b)
{
    if (b.x < 2 || b.y < TOP || b.x + b.w > WIDTH - 2 || b.y + b.h > HEIGHT - BOTTOM) return false;
    for (int64_t i = 0; i < n; i++) if (overlap(taken[i], b)) return false;
    return true;
}

/* Around the point in growing rings: the first free place for a box of this size. */
static bool find_place(const box *taken, int64_t n, double x, double y, box *b)
{
    for (int ring = 1; ring <= 10; ring++)
        for (int k = 0; k < 12; k++) {
            const double angle = 2 * M_PI * k / 12, r = 8.0 * ring;
            b->x = x + (r + (cos(angle) < 0 ? b->w : 0)) * cos(angle) - (fabs(cos(angle)) < 0.1 ? b->w / 2 : 0);
            b->y = y + r * sin(angle) - b->h / 2;
            if (is_free(taken, n, *b)) return true;
        }
    return false;
}

void ag_data_plot_scatter_(const char *at, const char *path, int64_t n, const double *x, const double *y,
                           const char *const *labels, data_plot_opts o)
{
    AG_SCOPE;
    const picture frame = begin(at, 1, &(data_plot_series){ NULL, n, x, y }, &o), *p = &frame;
    box *taken = ag_alloc(2 * n, sizeof *taken);
    ag_defer(ag_free, taken);
    int64_t count = 0;
    cairo_set_source_rgb(p->c, 0.12, 0.35, 0.65);
    for (int64_t i = 0; i < n; i++) {
        const double px = at_x(p, x[i]), py = at_y(p, y[i]);
        cairo_arc(p->c, px, py, 4, 0, 2 * M_PI);
        cairo_fill(p->c);
        taken[count++] = (box){ px - 5, py - 5, 10, 10 };
    }
    for (int64_t i = 0; i < n; i++) {
        cairo_text_extents_t e;
        const double px = at_x(p, x[i]), py = at_y(p, y[i]);
        cairo_text_extents(p->c, labels[i], &e);
        box b = { 0, 0, e.width + 4, 17 };
        if (!find_place(taken, count, px, py, &b)) continue;
        taken[count++] = b;
        cairo_set_source_rgb(p->c, 0.7, 0.7, 0.7);
        cairo_set_line_width(p->c, 0.8);
        cairo_move_to(p->c, px, py);
        cairo_line_to(p->c, fmax(b.x, fmin(px, b.x + b.w)), fmax(b.y, fmin(py, b.y + b.h)));
        cairo_stroke(p->c);
        cairo_set_source_rgb(p->c, 0.1, 0.1, 0.1);
        cairo_move_to(p->c, b.x + 2, b.y + 13);
        cairo_show_text(p->c, labels[i]);
    }
    ag_picture_finish(at, path, p->of);
}
#endif
