/* data/resize.c - pictures of any size to any size, antialiased.
 *
 * A result pixel is the mean of the source's under a triangle around its place, two steps wide. Rows are mixed first, each
 * result row into one buffer, which is then mixed along x; the source is read once, in order. */
#include <math.h>
#include <string.h>
#include "core/memory.h"
#include "data/transform.h"

/* Of each result: the first of `taps` sources, and their weights. */
typedef struct { int64_t n, taps, *first; float *weight; } mix;

/* n results over size sources, of which `from` .. `to` count. (Pillow, Resample.c, precompute_coeffs) */
static mix mix_make(int64_t size, double from, double to, int64_t n)
{
    const double step = (to - from) / (double)n, wide = step > 1 ? step : 1;
    const int64_t wanted = 2 * (int64_t)ceil(wide) + 1;
    mix m = { .n = n, .taps = wanted < size ? wanted : size };
    m.first = ag_alloc(n, sizeof *m.first);
    m.weight = ag_alloc(ag_mul_size(NULL, n, m.taps), sizeof *m.weight);
    for (int64_t i = 0; i < n; i++) {
        const double centre = from + ((double)i + 0.5) * step;
        int64_t low = (int64_t)floor(centre - wide + 0.5);
        low = low < 0 ? 0 : low;
        low = low < size - m.taps ? low : size - m.taps;
        double weight, sum = 0;
        for (int64_t k = 0; k < m.taps; k++)
            weight = 1 - fabs((double)(low + k) + 0.5 - centre) / wide, sum += weight > 0 ? weight : 0;
        for (int64_t k = 0; k < m.taps; k++) {
            weight = 1 - fabs((double)(low + k) + 0.5 - centre) / wide;
            m.weight[i * m.taps + k] = weight > 0 ? (float)(weight / sum) : 0;
        }
        m.first[i] = low;
    }
    return m;
}

static void mix_free(mix *m)
{
    ag_free(m->first);
    ag_free(m->weight);
}

/* to = sum of weight[k] row k, n bytes each, `stride` apart; two rows a pass. */
static void mix_rows(const uint8_t *row, int64_t stride, const float *weight, int64_t taps, int64_t n, float *restrict to)
{
    for (int64_t k = 0; k < taps; k += 2) {
        const uint8_t *a = row + k * stride, *b = k + 1 < taps ? a + stride : a;
        const float wa = weight[k], wb = k + 1 < taps ? weight[k + 1] : 0;
        if (wa == 0 && wb == 0 && k) continue;
        if (k == 0) for (int64_t i = 0; i < n; i++) to[i] = wa * (float)a[i] + wb * (float)b[i];
        else for (int64_t i = 0; i < n; i++) to[i] += wa * (float)a[i] + wb * (float)b[i];
    }
}

/* One pixel in the first three lanes; the fourth is the next pixel's red. */
typedef float lanes __attribute__((vector_size(16)));

/* from: [., 3] and one float more; to: [n, 3] and one float more */
static void mix_columns(const mix *m, const float *from, float *to)
{
    for (int64_t i = 0; i < m->n; i++) {
        const float *weight = m->weight + i * m->taps, *p = from + 3 * m->first[i];
        lanes sum = { 0 }, pixel;
        for (int64_t k = 0; k < m->taps; k++) {
            memcpy(&pixel, p + 3 * k, sizeof pixel);
            sum += pixel * weight[k];
        }
        memcpy(to + 3 * i, &sum, sizeof sum);
    }
}

static void round_row(const float *from, int64_t n, uint8_t *restrict to)
{
    for (int64_t i = 0; i < n; i++) to[i] = (uint8_t)(int32_t)(from[i] + 0.5f);
}

void ag_data_resize_box(const data_image *from, data_box box, int64_t width, int64_t height, data_image *to)
{
    const double x0 = floor(box.x0 < 0 ? 0 : box.x0), y0 = floor(box.y0 < 0 ? 0 : box.y0);
    const int64_t w = (int64_t)(fmin(ceil(box.x1), (double)from->width) - x0), stride = 3 * from->width;
    const int64_t h = (int64_t)(fmin(ceil(box.y1), (double)from->height) - y0);
    AG_ASSERT(w > 0 && h > 0 && width > 0 && height > 0);
    const uint8_t *corner = from->pixels + (int64_t)y0 * stride + 3 * (int64_t)x0;
    *to = (data_image){ .width = width, .height = height, .pixels = ag_alloc(ag_mul_size(NULL, width, height), 3) };
    if (w == width && h == height && box.x1 - box.x0 == (double)w && box.y1 - box.y0 == (double)h) {
        for (int64_t y = 0; y < h; y++) memcpy(to->pixels + 3 * y * w, corner + y * stride, (size_t)(3 * w));
        return;
    }
    mix rows = mix_make(h, box.y0 - y0, box.y1 - y0, height), columns = mix_make(w, box.x0 - x0, box.x1 - x0, width);
    float *mixed = ag_alloc(3 * w + 1, sizeof *mixed), *row = ag_alloc(3 * width + 1, sizeof *row);
    for (int64_t y = 0; y < height; y++) {
        mix_rows(corner + rows.first[y] * stride, stride, rows.weight + y * rows.taps, rows.taps, 3 * w, mixed);
        mix_columns(&columns, mixed, row);
        round_row(row, 3 * width, to->pixels + 3 * y * width);
    }
    ag_free(mixed);
    ag_free(row);
    mix_free(&rows);
    mix_free(&columns);
}
