/* cuda/rows.h - packs of 16 bytes, sums over lanes, and rows that lie in the registers of a few lanes.
 *
 * A row of up to AG_ROW_MOST elements (half of that where it cannot be read in packs) is read once: `lanes` neighbours of
 * a warp (32, 16, 8, 4) hold K packs of V elements each, pack k of lane l being the elements (k lanes + l) V ... Longer
 * rows are walked over by a block, from the cache. */
#ifndef AG_CUDA_ROWS_H
#define AG_CUDA_ROWS_H
#include "cuda/cuda.h"

template <class T, int V> struct alignas(sizeof(T) * V) ag_pack { T v[V]; };

template <class T> struct ag_packs { enum { N = 16 / sizeof(T) }; };

/* Whether packs of T may be read from p: NULL counts as yes. */
static inline bool ag_aligned(const void *p) { return (uintptr_t)p % 16 == 0; }

/* V elements from p on; p is aligned to them, or to 16 bytes where they are more. */
template <int V, class T> static __device__ inline void ag_get_pack(const T *p, float (&to)[V])
{
    constexpr int N = V * (int)sizeof(T) > 16 ? (int)ag_packs<T>::N : V;
    for (int i = 0; i < V; i += N) {
        const ag_pack<T, N> a = *(const ag_pack<T, N> *)(p + i);
        for (int k = 0; k < N; k++) to[i + k] = ag_load(a.v[k]);
    }
}

/* p[i] = or += v[i] */
template <int V, class T> static __device__ inline void ag_put_pack(T *p, const float (&v)[V], bool add)
{
    constexpr int N = V * (int)sizeof(T) > 16 ? (int)ag_packs<T>::N : V;
    for (int i = 0; i < V; i += N) {
        ag_pack<T, N> a;
        if (add) a = *(const ag_pack<T, N> *)(p + i);
        for (int k = 0; k < N; k++) ag_store(&a.v[k], add ? ag_load(a.v[k]) + v[i + k] : v[i + k]);
        *(ag_pack<T, N> *)(p + i) = a;
    }
}

/* ---- sums over lanes: lanes = 2, 4 ... 32 neighbours; every lane gets the result ------------------------ */

template <class A> static __device__ inline A ag_lanes_sum(A v, int lanes)
{
    for (int o = lanes / 2; o > 0; o /= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

template <class A> static __device__ inline A ag_lanes_max(A v, int lanes)
{
    for (int o = lanes / 2; o > 0; o /= 2) {
        const A w = __shfl_xor_sync(0xffffffffu, v, o);
        v = w > v ? w : v;
    }
    return v;
}

/* Over a block of AG_BLOCK threads; every thread gets the result. `shared` has AG_BLOCK / AG_WARP elements. */
template <bool MAX, class A> static __device__ inline A ag_block_fold(A v, A *shared)
{
    v = MAX ? ag_lanes_max(v, AG_WARP) : ag_lanes_sum(v, AG_WARP);
    __syncthreads();
    if (threadIdx.x % AG_WARP == 0) shared[threadIdx.x / AG_WARP] = v;
    __syncthreads();
    A a = shared[0];
    for (int w = 1; w < AG_BLOCK / AG_WARP; w++) a = MAX ? (shared[w] > a ? shared[w] : a) : a + shared[w];
    return a;
}

/* ---- rows in registers --------------------------------------------------------------------------------- */

enum { AG_ROW_MOST = 1024 };

template <int V, int K> struct ag_row {
    float v[K][V];
    /* f(column, reference to the element) for all of the row that this lane holds */
    template <class F> __device__ inline void each(int64_t width, int lane, int lanes, F f)
    {
        for (int k = 0; k < K; k++) {
            const int64_t c = (int64_t)(k * lanes + lane) * V;
            if (c < width)
                for (int i = 0; i < V; i++) f(c + i, v[k][i]);
        }
    }
    /* What lies beyond the row becomes `rest`. */
    template <class T> __device__ inline void load(const T *p, int64_t width, int lane, int lanes, float rest)
    {
        for (int k = 0; k < K; k++) {
            const int64_t c = (int64_t)(k * lanes + lane) * V;
            if (c < width) ag_get_pack<V>(p + c, v[k]);
            else
                for (int i = 0; i < V; i++) v[k][i] = rest;
        }
    }
    template <class T> __device__ inline void store(T *p, int64_t width, int lane, int lanes, bool add) const
    {
        for (int k = 0; k < K; k++) {
            const int64_t c = (int64_t)(k * lanes + lane) * V;
            if (c < width) ag_put_pack<V>(p + c, v[k], add);
        }
    }
    __device__ inline float sum(int lanes) const
    {
        float s = 0;
        for (int k = 0; k < K; k++)
            for (int i = 0; i < V; i++) s += v[k][i];
        return ag_lanes_sum(s, lanes);
    }
    __device__ inline float max(int lanes) const
    {
        float m = v[0][0];
        for (int k = 0; k < K; k++)
            for (int i = 0; i < V; i++) m = v[k][i] > m ? v[k][i] : m;
        return ag_lanes_max(m, lanes);
    }
};

/* f.run<V, K>(lanes) with the V and K that rows of `width` elements want; false: they are too long. */
template <class T, class F> static bool ag_row_shape(int64_t width, bool aligned, F f)
{
    constexpr int N = ag_packs<T>::N;
    const bool packed = aligned && width % N == 0;
    const int64_t units = packed ? width / N : width;
    int lanes = AG_WARP;
    while (lanes > 4 && units <= lanes / 2) lanes /= 2;
    const int64_t each = (units + lanes - 1) / lanes;
    if (width > (packed ? AG_ROW_MOST : AG_ROW_MOST / 2)) return false;
    if (!packed && each <= 2) f.template run<1, 2>(lanes);
    else if (!packed && each <= 8) f.template run<1, 8>(lanes);
    else if (!packed) f.template run<1, 16>(lanes);
    else if (each <= 1) f.template run<N, 1>(lanes);
    else if (each <= 2) f.template run<N, 2>(lanes);
    else if (each <= 3) f.template run<N, 3>(lanes);
    else if (each <= 4) f.template run<N, 4>(lanes);
    else f.template run<N, 32 / N>(lanes);
    return true;
}

/* Blocks for `rows` rows of `lanes` lanes each, at most `most` of them; the kernel walks on in steps of all. */
static inline unsigned ag_row_blocks(int64_t rows, int lanes, int64_t most)
{
    const int64_t per_block = AG_BLOCK / lanes, b = (rows + per_block - 1) / per_block;
    return (unsigned)(b < most ? b : most);
}

#endif
