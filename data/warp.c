/* data/warp.c - a picture through one map: places of the source, four pixels mixed at each, colours, normalised numbers.
 *
 * Each step is a loop over a piece of a row, its numbers beside each other, so that every loop is vector code. */
#include <math.h>
#include <string.h>
#include "core/memory.h"
#include "data/transform.h"
#include "ops/formulas.h"

enum { PIECE = 256 };

typedef struct {
    float u[PIECE], v[PIECE], cover[PIECE];     /* places; then what is left of a pixel to the next. cover: DATA_ZEROS */
    int32_t at[PIECE];                          /* the upper left of four pixels */
    float colour[3][PIECE];
} piece;

/* Bytes [height, width, 3], or means of them as planes [3, height, width]. */
typedef struct { const uint8_t *bytes; const float *means; int64_t width, height; } source;

/* ---- places ------------------------------------------------------------------------------------------------------ */

static void places(const data_map *map, int64_t x, int64_t y, int n, piece *p)
{
    float a[3], b[3];                                       /* along the row: a i + b */
    for (int k = 0; k < 3; k++) {
        const double *m = map->to_source + 3 * k;
        a[k] = (float)m[0], b[k] = (float)(m[0] * (double)x + m[1] * (double)y + m[2]);
    }
    if (a[2] == 0) {
        const float turn = 1 / b[2];
        for (int i = 0; i < n; i++) p->u[i] = (a[0] * (float)i + b[0]) * turn, p->v[i] = (a[1] * (float)i + b[1]) * turn;
    } else {
        for (int i = 0; i < n; i++) {
            const float turn = 1 / (a[2] * (float)i + b[2]);
            p->u[i] = (a[0] * (float)i + b[0]) * turn, p->v[i] = (a[1] * (float)i + b[1]) * turn;
        }
    }
}

/* Into 0 .. last. What lies outside is the mirror's, the border's, or, up to a pixel away, a share of it. NaN: 0. */
static void fold(float *restrict u, float last, data_pad_mode pad, int n, float *restrict cover)
{
    const float period = 2 * last, turns = last > 0 ? 1 / period : 0;
    if (pad == DATA_REFLECTION)
        for (int i = 0; i < n; i++) u[i] = fabsf(u[i] - period * rintf(u[i] * turns));
    if (pad == DATA_ZEROS)
        for (int i = 0; i < n; i++) {
            const float inside = u[i] + 1 < last + 1 - u[i] ? u[i] + 1 : last + 1 - u[i];
            cover[i] *= inside > 0 ? inside < 1 ? inside : 1 : 0;
        }
    for (int i = 0; i < n; i++) u[i] = u[i] > 0 ? u[i] < last ? u[i] : last : 0;
}

static void look_up(const data_map *map, const source *s, int64_t x, int64_t y, int n, piece *p)
{
    places(map, x, y, n, p);
    if (map->pad == DATA_ZEROS)
        for (int i = 0; i < n; i++) p->cover[i] = 1;
    fold(p->u, (float)(s->width - 1), map->pad, n, p->cover);
    fold(p->v, (float)(s->height - 1), map->pad, n, p->cover);
    const int32_t right = (int32_t)(s->width > 1 ? s->width - 2 : 0), low = (int32_t)(s->height > 1 ? s->height - 2 : 0);
    const int32_t width = (int32_t)s->width, step = s->bytes ? 3 : 1;
    for (int i = 0; i < n; i++) {
        const int32_t column = (int32_t)p->u[i] < right ? (int32_t)p->u[i] : right;
        const int32_t row = (int32_t)p->v[i] < low ? (int32_t)p->v[i] : low;
        p->at[i] = (row * width + column) * step;
        p->u[i] -= (float)column, p->v[i] -= (float)row;
    }
}

/* ---- pixels ------------------------------------------------------------------------------------------------------ */

static inline float mixed(float a, float b, float c, float d, float u, float v)
{
    const float up = a + (b - a) * u, down = c + (d - c) * u;
    return up + (down - up) * v;
}

typedef uint32_t unaligned __attribute__((aligned(1), may_alias));

static inline uint32_t pixel(const uint8_t *p, int32_t at)
{
    return *(const unaligned *)(p + at);
}

static inline float part(uint32_t rgb, int shift)
{
    return (float)(int32_t)(rgb >> shift & 255);
}

/* A pixel is read with the byte after it, the last one of the picture with the byte before. */
static void mix_bytes(const source *s, int n, piece *restrict p)
{
    const uint8_t *bytes = s->bytes;
    const int32_t down = (int32_t)(3 * s->width), end = (int32_t)(3 * s->width * s->height - 4);
    for (int i = 0; i < n; i++) {
        const int32_t at = p->at[i], last = at + down + 3, safe = last < end ? last : end;
        const uint32_t a = pixel(bytes, at), b = pixel(bytes, at + 3), c = pixel(bytes, at + down);
        const uint32_t d = pixel(bytes, safe) >> (8 * (last - safe));
        const float u = p->u[i], v = p->v[i];
        p->colour[0][i] = mixed(part(a, 0), part(b, 0), part(c, 0), part(d, 0), u, v);
        p->colour[1][i] = mixed(part(a, 8), part(b, 8), part(c, 8), part(d, 8), u, v);
        p->colour[2][i] = mixed(part(a, 16), part(b, 16), part(c, 16), part(d, 16), u, v);
    }
}

static void mix_means(const source *s, int n, piece *restrict p)
{
    const int32_t right = s->width > 1, down = s->height > 1 ? (int32_t)s->width : 0;
    for (int c = 0; c < 3; c++) {
        const float *m = s->means + c * s->width * s->height;
        for (int i = 0; i < n; i++) {
            const float *at = m + p->at[i];
            p->colour[c][i] = mixed(at[0], at[right], at[down], at[down + right], p->u[i], p->v[i]);
        }
    }
}

/* Planes of means of the bytes: pixel i of n is the mean of floor(i size / n) .. ceil((i + 1) size / n), both ways.
 * (torch.nn.functional.adaptive_avg_pool2d, which is interpolate's mode "area") */
static float *means_of(const data_image *from, int64_t width, int64_t height)
{
    float *means = ag_alloc(ag_mul_size(NULL, width, height), 3 * sizeof *means);
    float *row = ag_alloc(3 * from->width, sizeof *row);
    for (int64_t y = 0; y < height; y++) {
        const int64_t top = y * from->height / height, bottom = ((y + 1) * from->height + height - 1) / height;
        memset(row, 0, (size_t)(3 * from->width) * sizeof *row);
        for (int64_t k = top; k < bottom; k++) {
            const uint8_t *line = from->pixels + 3 * k * from->width;
            for (int64_t i = 0; i < 3 * from->width; i++) row[i] += (float)line[i];
        }
        for (int64_t x = 0; x < width; x++) {
            const int64_t left = x * from->width / width, right = ((x + 1) * from->width + width - 1) / width;
            float sum[3] = { 0 };
            for (int64_t k = left; k < right; k++)
                for (int c = 0; c < 3; c++) sum[c] += row[3 * k + c];
            const float share = 1 / (float)((bottom - top) * (right - left));
            for (int c = 0; c < 3; c++) means[(c * height + y) * width + x] = sum[c] * share;
        }
    }
    ag_free(row);
    return means;
}

/* ---- colours ------------------------------------------------------------------------------------------------------- */

/* log2, x > 0: 2^e m with m in sqrt(1/2) .. sqrt(2); minimax in m - 1, error 2e-6 */
static inline float log2_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const int32_t e = (int32_t)(bits - 0x3f3504f3u) >> 23;
    bits -= (uint32_t)e << 23;
    memcpy(&x, &bits, sizeof x);
    const float t = x - 1;
    float p = -0.20659133f;
    p = p * t + 0.32215469f, p = p * t - 0.36749004f, p = p * t + 0.47934803f, p = p * t - 0.72113186f;
    p = p * t + 1.44271348f;
    return (float)e + t * p;
}

static inline float log2_odds(float x)
{
    x = x > 1e-7f ? x < 1 - 1e-7f ? x : 1 - 1e-7f : 1e-7f;
    return log2_of(x) - log2_of(1 - x);
}

static inline float of_log2_odds(float x)
{
    const float c = -x < 126 ? -x : 126;
    return 1 / (1 + ag_exp2_f32(c));
}

/* 0 .. 1, in place: through the matrix in the space of logits. (fastai's lighting) */
static void light(const float m[12], int n, piece *restrict p)
{
    const float unit = 1.44269504088896341f;
    for (int i = 0; i < n; i++) {
        const float r = log2_odds(p->colour[0][i]), g = log2_odds(p->colour[1][i]), b = log2_odds(p->colour[2][i]);
        p->colour[0][i] = of_log2_odds(m[0] * r + m[1] * g + m[2] * b + m[3] * unit);
        p->colour[1][i] = of_log2_odds(m[4] * r + m[5] * g + m[6] * b + m[7] * unit);
        p->colour[2][i] = of_log2_odds(m[8] * r + m[9] * g + m[10] * b + m[11] * unit);
    }
}

/* value - chroma max(0, min(k, 4 - k, 1)), k = (n + 6 hue) mod 6, n = 5, 3, 1 for red, green, blue (Smith 1978) */
static inline float of_hue(float sixths, float value, float chroma)
{
    const float k = sixths - 6 * floorf(sixths * (1.0f / 6)), far = k < 4 - k ? k : 4 - k;
    return value - chroma * (far > 0 ? far < 1 ? far : 1 : 0);
}

static inline float largest(float a, float b)
{
    return a > b ? a : b;
}

static void turn_hue(float turns, int n, piece *restrict p)
{
    for (int i = 0; i < n; i++) {
        const float r = p->colour[0][i], g = p->colour[1][i], b = p->colour[2][i];
        const float high = largest(r, largest(g, b)), chroma = high + largest(-r, largest(-g, -b));
        const float unit = chroma > 0 ? 1 / chroma : 0;
        const float hue = high == r ? (g - b) * unit : high == g ? 2 + (b - r) * unit : 4 + (r - g) * unit;
        const float turned = hue + 6 * turns;
        p->colour[0][i] = of_hue(turned + 5, high, chroma);
        p->colour[1][i] = of_hue(turned + 3, high, chroma);
        p->colour[2][i] = of_hue(turned + 1, high, chroma);
    }
}

/* ---- the whole ------------------------------------------------------------------------------------------------------- */

static void colours(const data_map *map, int n, piece *restrict p)
{
    for (int c = 0; c < 3; c++) {
        for (int i = 0; i < n; i++) p->colour[c][i] *= 1.0f / 255;
        if (map->pad == DATA_ZEROS)
            for (int i = 0; i < n; i++) p->colour[c][i] *= p->cover[i];
    }
    if (map->has_colour) light(map->colour, n, p);
    if (map->hue != 0) turn_hue(map->hue, n, p);
}

static void normalise(const data_stats *stats, int n, const piece *restrict p, float *restrict to)
{
    float scale[3], shift[3];
    for (int c = 0; c < 3; c++) {
        scale[c] = stats->std[c] > 0 ? 1 / stats->std[c] : 1;
        shift[c] = -stats->mean[c] * scale[c];
    }
    for (int i = 0; i < n; i++)
        for (int c = 0; c < 3; c++) to[3 * i + c] = p->colour[c][i] * scale[c] + shift[c];
}

void ag_data_map_apply(const data_image *from, const data_map *map, float *to)
{
    piece p;
    source s = { .bytes = from->pixels, .width = from->width, .height = from->height };
    float *means = NULL;
    const bool narrow = from->width < 2 || from->height < 2;
    if (map->mean_width || narrow) {
        if (map->mean_width) s.width = map->mean_width, s.height = map->mean_height;
        s.means = means = means_of(from, s.width, s.height), s.bytes = NULL;
    }
    for (int64_t y = 0; y < map->height; y++)
        for (int64_t x = 0; x < map->width; x += PIECE) {
            const int n = (int)(map->width - x < PIECE ? map->width - x : PIECE);
            look_up(map, &s, x, y, n, &p);
            if (s.bytes) mix_bytes(&s, n, &p);
            else mix_means(&s, n, &p);
            colours(map, n, &p);
            normalise(&map->stats, n, &p, to + 3 * (y * map->width + x));
        }
    ag_free(means);
}
