/* cuda/attention.h - what the kernels of attention share: tiles of 64 queries x 64 keys by 256 threads, 4 x 4 each.
 *
 * A1  Thread (ty, tx) of 16 x 16 has rows 4 ty .. + 3 and columns 4 tx .. + 3 of a tile of products; of a sum [64, 16 C]
 *     it has the same rows and C columns. Rows of a product are summed over its half of a warp.
 * A2  Products of tiles: cuda/attention_tiles.h.
 * A3  Rows of a tile are found by their pixels: token i, or the i-th pixel of a window; -1 behind the last one.
 * A4  A tile's weights are made from the products again in every kernel, by the same function: no L x S matrix is kept. */
#ifndef AG_CUDA_ATTENTION_H
#define AG_CUDA_ATTENTION_H
#include "core/philox.h"
#include "cuda/attention_tiles.h"
#include "ops/attention.h"
#include "ops/formulas.h"

template <class T>
static __device__ inline head_rows<T> rows_of(const ag_attention_job &j, const ag_heads &t, int64_t n, int64_t h)
{
    const int64_t image = j.window ? n / (j.w / j.window * (j.h / j.window)) : n;
    return { (T *)t.data + (image * t.batch + h * t.head), t.token };
}

/* A3 for the tokens first .. first + 63 of sample n, of `count`. */
static __device__ inline void find_pixels(const ag_attention_job &j, int64_t n, int64_t first, int64_t count, int64_t *pixel)
{
    const int64_t i = first + threadIdx.x;
    if (threadIdx.x >= TILE) return;
    int64_t at = i < count ? i : -1;
    if (j.window && at >= 0) {
        const int64_t across = j.w / j.window, window = n % (across * (j.h / j.window));
        const int64_t y = window / across * j.window + i / j.window + j.shift;
        const int64_t x = window % across * j.window + i % j.window + j.shift;
        at = (y < j.h ? y : y - j.h) * j.w + (x < j.w ? x : x - j.w);
    }
    pixel[threadIdx.x] = at;
}

/* d[rows at pixel, columns first ...] = or += f(row, column of the sum, value) */
template <int C, class T, class F>
static __device__ inline void store_rows(int64_t d, int64_t first, head_rows<T> to, bool add, const int64_t *pixel,
                                         const float sum[4][C], F f)
{
    for (int r = 0; r < 4; r++) {
        const int64_t at = pixel[4 * tile_row() + r];
        if (at < 0) continue;
        for (int c = 0; c < C; c++) {
            const int64_t column = first + sum_column<C>(c);
            if (column >= d) continue;
            T *p = to.p + at * to.token + column;
            const float v = f(r, column, at, sum[r][c]);
            ag_store(p, add ? ag_load(*p) + v : v);
        }
    }
}

/* Sums and maxima over the 16 threads of a row. */
static __device__ inline float row_sum(float v)
{
    for (int mask = SIDE / 2; mask; mask /= 2) v += __shfl_xor_sync(~0u, v, mask);
    return v;
}

static __device__ inline float row_max(float v)
{
    for (int mask = SIDE / 2; mask; mask /= 2) {
        const float other = __shfl_xor_sync(~0u, v, mask);
        v = other > v ? other : v;
    }
    return v;
}

/* ---- weights ------------------------------------------------------------------------------------------- */

/* A tile of head h of sample n: queries i0 ..., keys c0 ...; inverse lengths of cosine attention, [N, heads, L or S]. */
struct ag_attention_tile {
    int64_t n, h, i0, c0;
    const float *q_inverse, *k_inverse;
    __device__ inline int64_t query(int r) const { return i0 + 4 * tile_row() + r; }
    __device__ inline int64_t key(int c) const { return c0 + 4 * tile_column() + c; }
};

static __device__ inline float scale_of(const ag_attention_job &j, int64_t h)
{
    return j.cosine ? j.logit_scale[h] : (float)j.scale;
}

static __device__ inline const float *term_row(const ag_attention_job &j, const ag_terms &t, const ag_attention_tile &at,
                                               int64_t i)
{
    return t.batches ? t.data + (((at.n % t.batches) * t.heads + at.h % t.heads) * j.l + i) * j.s : nullptr;
}

/* The products x of a tile, in cosine attention of vectors of length 1. */
static __device__ inline void to_unit(const ag_attention_job &j, const ag_attention_tile &at, float x[4][4])
{
    if (!j.cosine) return;
    for (int r = 0; r < 4; r++)
        for (int c = 0; c < 4; c++)
            if (at.query(r) < j.l && at.key(c) < j.s)
                x[r][c] *= at.q_inverse[(at.n * j.heads + at.h) * j.l + at.query(r)] *
                           at.k_inverse[(at.n * j.heads + at.h) * j.s + at.key(c)];
}

/* y = log2(e) (scale x + bias + mask); minus infinity where there is no query or no key */
static __device__ inline void logits(const ag_attention_job &j, const ag_attention_tile &at, const float x[4][4], float y[4][4])
{
    const float log2_e = 1.44269504088896340736f, scale = scale_of(j, at.h) * log2_e;
    for (int r = 0; r < 4; r++) {
        const int64_t i = at.query(r);
        const float *bias = i < j.l ? term_row(j, j.bias, at, i) : nullptr;
        const float *mask = i < j.l ? term_row(j, j.mask, at, i) : nullptr;
        for (int c = 0; c < 4; c++) {
            const int64_t k = at.key(c);
            const bool inside = i < j.l && k < j.s;
            const float sum = inside ? (bias ? bias[k] : 0) + (mask ? mask[k] : 0) : 0;
            y[r][c] = inside ? scale * x[r][c] + log2_e * sum : -INFINITY;
        }
    }
}

/* What dropout multiplies the weights of a row's four keys with: 0 or 1 / (1 - p). The keys of a thread are the four draws
 * of one Philox block. */
static __device__ inline void keep_of(const ag_attention_job &j, const ag_attention_tile &at, int r, float keep[4])
{
    enum { DRAWS = 4, STREAM = 4 };
    const float kept = j.dropout < 1 ? (float)(1 / (1 - j.dropout)) : 0;
    const uint64_t threshold = (uint64_t)(j.dropout * 0x1p32);
    const int64_t line = (at.n * j.heads + at.h) * j.l + at.query(r);
    const ag_philox4 p = ag_philox_block(j.key, STREAM, (uint64_t)(line * ((j.s + DRAWS - 1) / DRAWS) + at.key(0) / DRAWS));
    for (int c = 0; c < 4; c++) keep[c] = p.v[c] >= threshold ? kept : 0;
}

/* ---- launching ----------------------------------------------------------------------------------------- */

static inline int64_t tiles_of(int64_t n) { return (n + TILE - 1) / TILE; }

/* Whether cuDNN did it, all of forward or of backward. (cuda/attention_cudnn.cu) */
bool ag_attention_by_cudnn(const ag_node *n, const ag_attention_job *j, bool backward);
/* 1 / |x| of all rows of q and k; NULL where attention is not of cosines. (cuda/attention.cu) */
void ag_attention_lengths(const ag_node *n, const ag_attention_job *j, const float **q_inverse, const float **k_inverse);
/* sum of a b over the columns of every row [N, heads, count] */
void ag_attention_dots(const ag_node *n, const ag_attention_job *j, const ag_heads *a, const ag_heads *b, int64_t count,
                       bool inverse_root, float *to);

/* The kernel for heads of this width: 32, 64 or 128 columns of a sum at once. */
#define BY_WIDTH(d, type, CALL) \
    do { \
        if ((d) <= 2 * SIDE) CALL(2, type); \
        else if ((d) <= 4 * SIDE) CALL(4, type); \
        else CALL(8, type); \
    } while (0)
#define BY_TYPE(j, CALL) \
    do { \
        if ((j)->type == AG_BF16) BY_WIDTH((j)->d, ag_bf16, CALL); \
        else BY_WIDTH((j)->d, float, CALL); \
    } while (0)

#endif
