/* data/warp.c - a picture through one map: places of the source, four pixels mixed at each, colours, normalised numbers.
 *
 * Each step is a loop over a piece of a row, its numbers beside each other, so that every loop is vector code. */
#include <math.h>
#include <string.h>
#include "core/memory.h"
#include "data/warp.h"

enum { PIECE = AG_WARP_PIECE };

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
    const ag_warp_line l = ag_warp_line_of(map->to_source, x, y);
    if (l.a[2] == 0) {
        const float turn = 1 / l.b[2];
        for (int i = 0; i < n; i++) {
            p->u[i] = ag_warp_place(l.a[0], l.b[0], (float)i, turn);
            p->v[i] = ag_warp_place(l.a[1], l.b[1], (float)i, turn);
        }
    } else {
        for (int i = 0; i < n; i++) {
            const float turn = 1 / (l.a[2] * (float)i + l.b[2]);
            p->u[i] = ag_warp_place(l.a[0], l.b[0], (float)i, turn);
            p->v[i] = ag_warp_place(l.a[1], l.b[1], (float)i, turn);
        }
    }
}

/* Into 0 .. last. What lies outside is the mirror's, the border's, or, up to a pixel away, a share of it. */
static void fold(float *restrict u, float last, data_pad_mode pad, int n, float *restrict cover)
{
    const float period = 2 * last, turns = last > 0 ? 1 / period : 0;
    if (pad == DATA_REFLECTION)
        for (int i = 0; i < n; i++) u[i] = ag_warp_mirror(u[i], period, turns);
    if (pad == DATA_ZEROS)
        for (int i = 0; i < n; i++) cover[i] *= ag_warp_cover(u[i], last);
    for (int i = 0; i < n; i++) u[i] = ag_warp_clamp(u[i], last);
}

static void look_up(const data_map *map, const source *s, int64_t x, int64_t y, int n, piece *p)
{
    places(map, x, y, n, p);
    if (map->pad == DATA_ZEROS)
        for (int i = 0; i < n; i++) p->cover[i] = 1;
    fold(p->u, (float)(s->width - 1), map->pad, n, p->cover);
    fold(p->v, (float)(s->height - 1), map->pad, n, p->cover);
    const int32_t width = (int32_t)s->width, height = (int32_t)s->height, step = s->bytes ? 3 : 1;
    for (int i = 0; i < n; i++) {
        const int32_t column = ag_warp_corner(p->u[i], width), row = ag_warp_corner(p->v[i], height);
        p->at[i] = (row * width + column) * step;
        p->u[i] -= (float)column, p->v[i] -= (float)row;
    }
}

/* ---- pixels ------------------------------------------------------------------------------------------------------ */

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
        p->colour[0][i] = ag_warp_mix(part(a, 0), part(b, 0), part(c, 0), part(d, 0), u, v);
        p->colour[1][i] = ag_warp_mix(part(a, 8), part(b, 8), part(c, 8), part(d, 8), u, v);
        p->colour[2][i] = ag_warp_mix(part(a, 16), part(b, 16), part(c, 16), part(d, 16), u, v);
    }
}

static void mix_means(const source *s, int n, piece *restrict p)
{
    const int32_t right = s->width > 1, down = s->height > 1 ? (int32_t)s->width : 0;
    for (int c = 0; c < 3; c++) {
        const float *m = s->means + c * s->width * s->height;
        for (int i = 0; i < n; i++) {
            const float *at = m + p->at[i];
            p->colour[c][i] = ag_warp_mix(at[0], at[right], at[down], at[down + right], p->u[i], p->v[i]);
        }
    }
}

/* Planes of means of the bytes. */
static float *means_of(const data_image *from, int64_t width, int64_t height)
{
    float *means = ag_alloc(ag_mul_size(NULL, width, height), 3 * sizeof *means);
    float *row = ag_alloc(3 * from->width, sizeof *row);
    for (int64_t y = 0; y < height; y++) {
        const ag_warp_span rows = ag_warp_span_of(y, from->height, height);
        memset(row, 0, (size_t)(3 * from->width) * sizeof *row);
        for (int64_t k = rows.from; k < rows.to; k++) {
            const uint8_t *line = from->pixels + 3 * k * from->width;
            for (int64_t i = 0; i < 3 * from->width; i++) row[i] += (float)line[i];
        }
        for (int64_t x = 0; x < width; x++) {
            const ag_warp_span columns = ag_warp_span_of(x, from->width, width);
            float sum[3] = { 0 };
            for (int64_t k = columns.from; k < columns.to; k++)
                for (int c = 0; c < 3; c++) sum[c] += row[3 * k + c];
            const float share = 1 / (float)((rows.to - rows.from) * (columns.to - columns.from));
            for (int c = 0; c < 3; c++) means[(c * height + y) * width + x] = sum[c] * share;
        }
    }
    ag_free(row);
    return means;
}

/* ---- the whole ------------------------------------------------------------------------------------------------------- */

static void colours(const data_map *map, int n, piece *restrict p)
{
    for (int c = 0; c < 3; c++) {
        for (int i = 0; i < n; i++) p->colour[c][i] *= 1.0f / 255;
        if (map->pad == DATA_ZEROS)
            for (int i = 0; i < n; i++) p->colour[c][i] *= p->cover[i];
    }
    float *restrict r = p->colour[0], *restrict g = p->colour[1], *restrict b = p->colour[2];
    if (map->has_colour)
        for (int i = 0; i < n; i++) ag_warp_light(map->colour, &r[i], &g[i], &b[i]);
    if (map->hue != 0)
        for (int i = 0; i < n; i++) ag_warp_turn_hue(map->hue, &r[i], &g[i], &b[i]);
}

static void normalise(const data_stats *stats, int n, const piece *restrict p, float *restrict to)
{
    const ag_warp_norm norm = ag_warp_norm_of(stats);
    for (int i = 0; i < n; i++)
        for (int c = 0; c < 3; c++) to[3 * i + c] = p->colour[c][i] * norm.scale[c] + norm.shift[c];
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
