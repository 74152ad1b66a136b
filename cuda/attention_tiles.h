/* cuda/attention_tiles.h - products of tiles 64 x 64 of attention, by all threads of a block: of f32 in registers, of bf16 in
 * the tensor cores. Both give every thread its 4 x 4 elements (A1).
 *
 * T1  f32 operands pass through shared memory in pieces, the summed axis outside: [32][64], rows PITCH apart, so that every
 *     thread reads its 4 in one access.
 * T2  bf16 operands lie there as they do in memory, [64][64], rows HALF_PITCH apart: a warp makes two tiles of 16 x 16, whose
 *     sums pass through shared memory to the threads that own them.
 * T3  What lies behind the last token or column is 0 there. */
#ifndef AG_CUDA_ATTENTION_TILES_H
#define AG_CUDA_ATTENTION_TILES_H
#include "cuda/mma.h"

enum { TILE = 64, SIDE = 16, PIECE = 32, PITCH = TILE + 4, HALF_PITCH = TILE + 8, BUFFER = PIECE * TILE };

struct alignas(16) quad { float v[4]; };
struct alignas(32) octet { float v[8]; };
template <int C> struct alignas(4 * (C < 4 ? C : 4)) run { float v[C < 4 ? C : 4]; };

/* Shared memory of a block: two operands, weights, sums (T2). */
struct tile_memory { float *a, *b, *weights, *sums; };
template <class T> struct tile_sizes {                      /* in elements of 4 bytes */
    enum { OPERAND = PIECE * PITCH, WEIGHTS = TILE * PITCH, SUMS = 0, ALL = 2 * OPERAND + WEIGHTS + SUMS };
};
template <> struct tile_sizes<ag_bf16> {
    enum { OPERAND = TILE * HALF_PITCH / 2, WEIGHTS = OPERAND, SUMS = TILE * PITCH, ALL = 2 * OPERAND + WEIGHTS + SUMS };
};
#define TILE_MEMORY(T, name) \
    AG_SHARED(octet, name##_all, tile_sizes<T>::ALL / 8); \
    float *const name##_at = (float *)name##_all; \
    const tile_memory name = { name##_at, name##_at + tile_sizes<T>::OPERAND, name##_at + 2 * tile_sizes<T>::OPERAND, \
                               name##_at + 2 * tile_sizes<T>::OPERAND + tile_sizes<T>::WEIGHTS }

static __device__ inline int tile_column(void) { return (int)threadIdx.x % SIDE; }
static __device__ inline int tile_row(void) { return (int)threadIdx.x / SIDE; }

/* Column c of a thread's C in a sum [64, 16 C]: runs of at most 4, those of neighbouring threads side by side. */
template <int C> static __device__ inline int sum_column(int c)
{
    const int width = C < 4 ? C : 4;
    return c / width * SIDE * width + tile_column() * width + c % width;
}

/* One head of one sample: row `pixel` at p + pixel token. */
template <class T> struct head_rows {
    T *p;
    int64_t token;
};

/* ---- f32 ----------------------------------------------------------------------------------------------- */

/* x = a b', a and b [64, d]; begins and ends with nothing of the operands being read. */
static __device__ inline void products(int64_t d, head_rows<const float> a, const int64_t *a_pixel, head_rows<const float> b,
                                       const int64_t *b_pixel, const tile_memory &m, float x[4][4])
{
    for (int r = 0; r < 4; r++)
        for (int c = 0; c < 4; c++) x[r][c] = 0;
    for (int64_t begin = 0; begin < d; begin += PIECE) {
        AG_UNROLL(2)
        for (int e = (int)threadIdx.x; e < TILE * PIECE; e += AG_BLOCK) {
            const int row = e / PIECE, c = e % PIECE;
            const bool inside = begin + c < d;
            m.a[c * PITCH + row] = inside && a_pixel[row] >= 0 ? a.p[a_pixel[row] * a.token + begin + c] : 0;
            m.b[c * PITCH + row] = inside && b_pixel[row] >= 0 ? b.p[b_pixel[row] * b.token + begin + c] : 0;
        }
        __syncthreads();
        AG_UNROLL(4)
        for (int k = 0; k < PIECE; k++) {
            const quad u = *(const quad *)(m.a + k * PITCH + 4 * tile_row());
            const quad v = *(const quad *)(m.b + k * PITCH + 4 * tile_column());
            for (int r = 0; r < 4; r++)
                for (int c = 0; c < 4; c++) x[r][c] += u.v[r] * v.v[c];
        }
        __syncthreads();
    }
}

/* A tile of queries x keys becomes the weights: [query][key], or by_key: [key][query]. */
template <class T>
static __device__ inline void lay_down(const float x[4][4], bool by_key, const tile_memory &m)
{
    const int outer = 4 * (by_key ? tile_column() : tile_row()), inner = 4 * (by_key ? tile_row() : tile_column());
    for (int k = 0; k < 4; k++) {
        quad q;
        for (int i = 0; i < 4; i++) q.v[i] = by_key ? x[i][k] : x[k][i];
        *(quad *)(m.weights + (outer + k) * PITCH + inner) = q;
    }
}

/* sum [64, 16 C] += weights' b, b the columns first ... of the rows at `pixel`, of which there are `count`. */
template <int C>
static __device__ inline void add_product(int64_t count, int64_t d, int64_t first, head_rows<const float> b, const int64_t *pixel,
                                          const tile_memory &m, float sum[4][C])
{
    enum { WIDTH = C * SIDE, ROWS = BUFFER / WIDTH, RUN = C < 4 ? C : 4 };
    for (int begin = 0; begin < TILE && begin < count; begin += ROWS) {
        AG_UNROLL(4)
        for (int e = (int)threadIdx.x; e < BUFFER; e += AG_BLOCK) {
            const int64_t at = pixel[begin + e / WIDTH], c = first + e % WIDTH;
            m.a[e] = at >= 0 && c < d ? b.p[at * b.token + c] : 0;
        }
        __syncthreads();
        AG_UNROLL(4)
        for (int k = 0; k < ROWS; k++) {
            const quad u = *(const quad *)(m.weights + (begin + k) * PITCH + 4 * tile_row());
            for (int part = 0; part < C / RUN; part++) {
                const run<C> v = *(const run<C> *)(m.a + k * WIDTH + sum_column<C>(part * RUN));
                for (int r = 0; r < 4; r++)
                    for (int c = 0; c < RUN; c++) sum[r][part * RUN + c] += u.v[r] * v.v[c];
            }
        }
        __syncthreads();
    }
}

/* ---- bf16 ---------------------------------------------------------------------------------------------- */

struct alignas(16) eight { ag_bf16 v[8]; };

/* Columns begin ... begin + 63 of 64 rows, as far as products read them; 16 bytes at a time where all lies so. */
static __device__ inline void load_tile(int64_t d, int64_t begin, head_rows<const ag_bf16> from, const int64_t *pixel,
                                        ag_bf16 *to)
{
    const bool wide = d % 8 == 0 && from.token % 8 == 0 && (uintptr_t)from.p % sizeof(eight) == 0;
    AG_UNROLL(1)
    for (int e = (int)threadIdx.x; e < TILE * 8; e += AG_BLOCK) {
        const int row = e / 8, c = e % 8 * 8;
        if (c / MMA * MMA >= d - begin) continue;
        const ag_bf16 *p = from.p + ((pixel[row] < 0 ? 0 : pixel[row]) * from.token + begin + c);
        eight v = {};
        if (pixel[row] >= 0 && wide && begin + c < d) v = *(const eight *)p;
        for (int i = 0; i < 8 && !wide; i++)
            if (pixel[row] >= 0 && begin + c + i < d) v.v[i] = p[i];
        *(eight *)(to + row * HALF_PITCH + c) = v;
    }
}

/* Where the sums of a warp begin: rows of its tiles, and the first of its `tiles` / 2 tiles of columns. */
static __device__ inline int warp_row(void) { return (int)threadIdx.x / AG_WARP / 2 * MMA; }
static __device__ inline int warp_column(int tiles) { return (int)threadIdx.x / AG_WARP % 2 * (tiles / 2) * MMA; }

static __device__ inline void products(int64_t d, head_rows<const ag_bf16> a, const int64_t *a_pixel, head_rows<const ag_bf16> b,
                                       const int64_t *b_pixel, const tile_memory &m, float x[4][4])
{
    const mma_element *pa = (const mma_element *)m.a + warp_row() * HALF_PITCH;
    const mma_element *pb = (const mma_element *)m.b + warp_column(4) * HALF_PITCH;
    mma_sum sum[2];
    for (int i = 0; i < 2; i++) nvcuda::wmma::fill_fragment(sum[i], 0.0f);
    for (int64_t begin = 0; begin < d; begin += TILE) {
        load_tile(d, begin, a, a_pixel, (ag_bf16 *)m.a);
        load_tile(d, begin, b, b_pixel, (ag_bf16 *)m.b);
        __syncthreads();
        for (int k = 0; k < TILE && k < d - begin; k += MMA) {
            mma_a<mma_rows> u;
            mma_b<mma_columns> v;
            nvcuda::wmma::load_matrix_sync(u, pa + k, HALF_PITCH);
            for (int i = 0; i < 2; i++) {
                nvcuda::wmma::load_matrix_sync(v, pb + i * MMA * HALF_PITCH + k, HALF_PITCH);
                nvcuda::wmma::mma_sync(sum[i], u, v, sum[i]);
            }
        }
        __syncthreads();
    }
    for (int i = 0; i < 2; i++)
        nvcuda::wmma::store_matrix_sync(m.sums + warp_row() * PITCH + warp_column(4) + i * MMA, sum[i], PITCH,
                                        nvcuda::wmma::mem_row_major);
    __syncthreads();
    for (int r = 0; r < 4; r++) {
        const quad q = *(const quad *)(m.sums + (4 * tile_row() + r) * PITCH + 4 * tile_column());
        for (int c = 0; c < 4; c++) x[r][c] = q.v[c];
    }
}

template <>
__device__ inline void lay_down<ag_bf16>(const float x[4][4], bool by_key, const tile_memory &m)
{
    const int outer = 4 * (by_key ? tile_column() : tile_row()), inner = 4 * (by_key ? tile_row() : tile_column());
    for (int k = 0; k < 4; k++) {
        ag_bf16 *to = (ag_bf16 *)m.weights + (outer + k) * HALF_PITCH + inner;
        for (int i = 0; i < 4; i++) ag_store(to + i, by_key ? x[i][k] : x[k][i]);
    }
}

template <int C>
static __device__ inline void add_product(int64_t count, int64_t d, int64_t first, head_rows<const ag_bf16> b,
                                          const int64_t *pixel, const tile_memory &m, float sum[4][C])
{
    enum { RUN = C < 4 ? C : 4, TILES = RUN * SIDE / MMA };         /* 32 or 64 columns at once */
    const mma_element *w = (const mma_element *)m.weights + warp_row(), *pb = (const mma_element *)m.b + warp_column(TILES);
    for (int part = 0; part < C / RUN; part++) {
        mma_sum s[TILES / 2];
        if (first + part * RUN * SIDE >= d) break;
        for (int i = 0; i < TILES / 2; i++) nvcuda::wmma::fill_fragment(s[i], 0.0f);
        load_tile(d, first + part * RUN * SIDE, b, pixel, (ag_bf16 *)m.b);
        __syncthreads();
        for (int k = 0; k < TILE && k < count; k += MMA) {
            mma_a<mma_columns> u;
            mma_b<mma_rows> v;
            nvcuda::wmma::load_matrix_sync(u, w + k * HALF_PITCH, HALF_PITCH);
            for (int i = 0; i < TILES / 2; i++) {
                nvcuda::wmma::load_matrix_sync(v, pb + k * HALF_PITCH + i * MMA, HALF_PITCH);
                nvcuda::wmma::mma_sync(s[i], u, v, s[i]);
            }
        }
        for (int i = 0; i < TILES / 2; i++)
            nvcuda::wmma::store_matrix_sync(m.sums + warp_row() * PITCH + warp_column(TILES) + i * MMA, s[i], PITCH,
                                            nvcuda::wmma::mem_row_major);
        __syncthreads();
        for (int r = 0; r < 4; r++)
            for (int c = 0; c < RUN; c++)
                sum[r][part * RUN + c] += m.sums[(4 * tile_row() + r) * PITCH + tile_column() * RUN + c];
    }
}

#endif
