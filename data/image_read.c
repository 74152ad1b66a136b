/* data/image_read.c - a photograph made smaller while it is decoded: its rows go from the decoder through the resizer's ring,
 * and the whole picture is nowhere. */
#include "data/image_inside.h"
#include "data/resize.h"

typedef struct { const data_transform *t; data_random r; bool whole; data_resizer *resizer; } reading;

static void size(void *arg, int64_t width, int64_t height, data_image_opts *o)
{
    const reading *p = arg;
    if (!p->t || !p->t->needs) return;
    o->width = width, o->height = height;
    p->t->needs(p->t, &o->width, &o->height);
}

static bool begin(void *arg, int64_t width, int64_t height)
{
    reading *p = arg;
    data_box box;
    if (!p->t || !p->t->box || p->whole || !p->t->box(p->t, width, height, &p->r, &box)) return false;
    p->resizer = ag_data_resizer_new(width, height, box, p->t->width, p->t->height);
    return true;
}

static uint8_t *row(void *arg, int64_t y)
{
    return ag_data_resizer_row(((reading *)arg)->resizer, y);
}

bool ag_image_read(const char *path, const data_transform *first, data_random r, bool whole, data_image *to, int *done,
                   char why[DATA_WHY])
{
    reading p = { first, r, whole, NULL };
    const image_rows rows = { &p, size, begin, row };
    const bool good = ag_image_try_rows(path, &rows, to, why);
    *done = good && p.resizer;
    if (!p.resizer) return good;
    *to = ag_data_resizer_end(p.resizer);
    if (!good) ag_data_image_free(to);
    return good;
}
