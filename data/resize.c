/* data/resize.c - pictures of any size to any size, antialiased.
 *
 * A result pixel is the mean of the source's under a triangle around its place, two steps wide. Rows are mixed first, each
 * result row into one buffer, which is then mixed along x; the source is read once, in order, and no more of its rows need be
 * there at once than one result row mixes: a photograph is made smaller while it is decoded. */
#include <math.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif
#include "core/memory.h"
#include "data/resize.h"

/* Of each result: the first of `taps` sources, and their weights. */
typedef struct { int64_t n, taps, *first; float *weight; } mix;

/* n results over size sources, of which `from` .. `to` count. (Pillow, Resample.c, precompute_coeffs) */
static mix mix_make(int64_t size, double from, double to, int64_t n)
{
    const double step = (to - from) / (double)n, wide = step > 1 ? step : 1;
    const int64_t wanted = (int64_t)ceil(2 * wide);             /* centres inside 2 wide */
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

/* ---- rows ------------------------------------------------------------------------------------------------------ */

#ifdef __AVX512F__
enum { LANES = 16 };

/* to = sum of weight[k] row[k], n bytes each */
static inline void mix_rows_of(const uint8_t *const *row, const float *weight, int64_t taps, int64_t n, float *restrict to)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t k = 0; k < taps; k++) {
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(row[k] + i));
            sum = _mm512_fmadd_ps(_mm512_set1_ps(weight[k]), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), sum);
        }
        _mm512_storeu_ps(to + i, sum);
    }
    for (; i < n; i++) {
        float sum = 0;
        for (int64_t k = 0; k < taps; k++) sum += weight[k] * (float)row[k][i];
        to[i] = sum;
    }
}

/* The usual numbers of taps with loops unrolled: compilers widen bytes in more steps than it takes. */
static void mix_rows(const uint8_t *const *row, const float *weight, int64_t taps, int64_t n, float *to)
{
    switch (taps) {
    case 2: mix_rows_of(row, weight, 2, n, to); break;
    case 3: mix_rows_of(row, weight, 3, n, to); break;
    case 4: mix_rows_of(row, weight, 4, n, to); break;
    case 5: mix_rows_of(row, weight, 5, n, to); break;
    case 6: mix_rows_of(row, weight, 6, n, to); break;
    default: mix_rows_of(row, weight, taps, n, to);
    }
}
#else
#define AT(k) weight[k] * (float)row##k[i]
#define SUM(...) for (int64_t i = 0; i < n; i++) to[i] = (first ? 0 : to[i]) + (__VA_ARGS__)

/* to [+]= sum of weight[k] row[k], n bytes each; up to six rows a pass. Returns how many it took. */
static int64_t mix_some(const uint8_t *const *row, const float *weight, int64_t taps, bool first, int64_t n, float *restrict to)
{
    const uint8_t *row0 = row[0], *row1 = row[taps > 1 ? 1 : 0], *row2 = row[taps > 2 ? 2 : 0], *row3 = row[taps > 3 ? 3 : 0];
    const uint8_t *row4 = row[taps > 4 ? 4 : 0], *row5 = row[taps > 5 ? 5 : 0];
    switch (taps) {
    case 1: SUM(AT(0)); return 1;
    case 2: SUM(AT(0) + AT(1)); return 2;
    case 3: SUM(AT(0) + AT(1) + AT(2)); return 3;
    case 4: SUM((AT(0) + AT(1)) + (AT(2) + AT(3))); return 4;
    case 5: SUM((AT(0) + AT(1)) + (AT(2) + AT(3)) + AT(4)); return 5;
    default: SUM((AT(0) + AT(1)) + (AT(2) + AT(3)) + (AT(4) + AT(5))); return 6;
    }
}

static void mix_rows(const uint8_t *const *row, const float *weight, int64_t taps, int64_t n, float *to)
{
    for (int64_t k = 0; k < taps;) k += mix_some(row + k, weight + k, taps - k, k == 0, n, to);
}
#endif

/* ---- columns --------------------------------------------------------------------------------------------------- */

/* One pixel in the first three lanes; the fourth is the next pixel's red. */
typedef float lanes __attribute__((vector_size(16)));

/* from: [., 3] and one float more; to: [n, 3] and one float more */
static inline void mix_columns_of(const mix *m, int64_t taps, const float *from, float *to)
{
    for (int64_t i = 0; i < m->n; i++) {
        const float *weight = m->weight + i * taps, *p = from + 3 * m->first[i];
        lanes sum = { 0 }, pixel;
        for (int64_t k = 0; k < taps; k++) {
            memcpy(&pixel, p + 3 * k, sizeof pixel);
            sum += pixel * weight[k];
        }
        memcpy(to + 3 * i, &sum, sizeof sum);
    }
}

/* The usual numbers of taps with loops unrolled. */
static void mix_columns(const mix *m, const float *from, float *to)
{
    switch (m->taps) {
    case 2: mix_columns_of(m, 2, from, to); break;
    case 3: mix_columns_of(m, 3, from, to); break;
    case 4: mix_columns_of(m, 4, from, to); break;
    case 5: mix_columns_of(m, 5, from, to); break;
    case 6: mix_columns_of(m, 6, from, to); break;
    default: mix_columns_of(m, m->taps, from, to);
    }
}

static void round_row(const float *from, int64_t n, uint8_t *restrict to)
{
    for (int64_t i = 0; i < n; i++) to[i] = (uint8_t)(int32_t)(from[i] + 0.5f);
}

const char *ag_data_resizer_name(void)
{
#if defined __AVX512F__
    return "avx512";
#elif defined __FMA__
    return "fma";
#else
    return "plain";
#endif
}

/* ---- row by row ------------------------------------------------------------------------------------------------ */

struct data_resizer {
    int64_t left, top, rows_in_box;     /* of the source's pixels those that count */
    int64_t n, stride;                  /* bytes of a row in the box, of a whole one */
    mix rows, columns;
    const uint8_t **row;                /* [rows.taps], of one result row */
    float *mixed, *line;
    uint8_t *ring;                      /* [rows.taps, stride] */
    int64_t made;                       /* result rows */
    data_image to;
};

data_resizer *ag_data_resizer_new(int64_t from_width, int64_t from_height, data_box box, int64_t width, int64_t height)
{
    const double x0 = floor(box.x0 < 0 ? 0 : box.x0), y0 = floor(box.y0 < 0 ? 0 : box.y0);
    const int64_t w = (int64_t)(fmin(ceil(box.x1), (double)from_width) - x0);
    const int64_t h = (int64_t)(fmin(ceil(box.y1), (double)from_height) - y0);
    AG_ASSERT(w > 0 && h > 0 && width > 0 && height > 0);
    data_resizer *r = ag_alloc(1, sizeof *r);
    *r = (data_resizer){ .left = (int64_t)x0, .top = (int64_t)y0, .rows_in_box = h, .n = 3 * w, .stride = 3 * from_width };
    r->rows = mix_make(h, box.y0 - y0, box.y1 - y0, height);
    r->columns = mix_make(w, box.x0 - x0, box.x1 - x0, width);
    r->row = ag_alloc(r->rows.taps, sizeof *r->row);
    r->mixed = ag_alloc(3 * w + 1, sizeof *r->mixed);
    r->line = ag_alloc(3 * width + 1, sizeof *r->line);
    r->to = (data_image){ .width = width, .height = height, .pixels = ag_alloc(ag_mul_size(NULL, width, height), 3) };
    return r;
}

/* The next result row, of r->row. */
static void make_row(data_resizer *r)
{
    const int64_t n = 3 * r->to.width;
    mix_rows(r->row, r->rows.weight + r->made * r->rows.taps, r->rows.taps, r->n, r->mixed);
    mix_columns(&r->columns, r->mixed, r->line);
    round_row(r->line, n, r->to.pixels + n * r->made++);
}

uint8_t *ag_data_resizer_row(data_resizer *r, int64_t y)
{
    const int64_t taps = r->rows.taps, there = y - r->top;     /* rows of the box that are complete */
    if (!r->ring) r->ring = ag_alloc(ag_mul_size(NULL, taps, r->stride), 1);
    while (r->made < r->to.height && there >= r->rows.first[r->made] + taps && there <= r->rows_in_box) {
        for (int64_t k = 0; k < taps; k++)
            r->row[k] = r->ring + (r->rows.first[r->made] + k) % taps * r->stride + 3 * r->left;
        make_row(r);
    }
    return r->ring + (there > 0 ? there % taps : 0) * r->stride;
}

data_image ag_data_resizer_end(data_resizer *r)
{
    const data_image to = r->to;
    ag_free(r->ring);
    ag_free(r->row);
    ag_free(r->mixed);
    ag_free(r->line);
    mix_free(&r->rows);
    mix_free(&r->columns);
    ag_free(r);
    return to;
}

/* ---- whole ----------------------------------------------------------------------------------------------------- */

static bool is_copy(const data_box *box, int64_t width, int64_t height)
{
    return box->x0 == floor(box->x0) && box->y0 == floor(box->y0) && box->x1 - box->x0 == (double)width &&
           box->y1 - box->y0 == (double)height;
}

void ag_data_resize_box(const data_image *from, data_box box, int64_t width, int64_t height, data_image *to)
{
    data_resizer *r = ag_data_resizer_new(from->width, from->height, box, width, height);
    const uint8_t *corner = from->pixels + r->top * r->stride + 3 * r->left;
    const bool copy = is_copy(&box, width, height) && r->n == 3 * width && r->rows_in_box == height;
    for (int64_t y = 0; copy && y < height; y++)
        memcpy(r->to.pixels + r->n * y, corner + y * r->stride, (size_t)r->n);
    while (!copy && r->made < height) {
        for (int64_t k = 0; k < r->rows.taps; k++) r->row[k] = corner + (r->rows.first[r->made] + k) * r->stride;
        make_row(r);
    }
    *to = ag_data_resizer_end(r);
}
