/* cuda/columns.h - passes over x [groups, rows, width] that do the same along a column: sums of each column of each group,
 * and elementwise passes whose coefficients belong to columns.
 *
 * A thread keeps V neighbouring columns (16 bytes where the width allows) and walks down rows; its coefficients are loaded
 * once. What it does is a `map` with a member
 *     template <int V> struct at {
 *         at(const Map &m, int64_t group, int64_t column);             loads them
 *         void operator()(const Map &m, int64_t i, float (&s)[S][V]);   adds elements i .. i + V to the sums
 *         void operator()(const Map &m, int64_t i);                    or, elementwise, works on them
 *     };
 * Sums are gathered in f32 by part of the rows, then in double over the parts: put(group, column, sums). Which rows make a
 * part depends on the sizes alone: the same bits in every run. */
#ifndef AG_CUDA_COLUMNS_H
#define AG_CUDA_COLUMNS_H
#include "cuda/rows.h"

struct ag_columns {
    int64_t groups, rows, width, blocks;        /* blocks: beside one another, for the width */
    int v;
    unsigned x, y;                              /* threads of a block */
};

/* aligned: every pointer lies on 16 bytes. */
template <class T> static ag_columns ag_columns_of(int64_t groups, int64_t rows, int64_t width, bool aligned)
{
    ag_columns p;
    p.groups = groups, p.rows = rows, p.width = width;
    p.v = aligned && width % ag_packs<T>::N == 0 ? (int)ag_packs<T>::N : 1;
    const int64_t units = width / p.v;
    for (p.x = 1; p.x < AG_WARP && p.x < units;) p.x *= 2;
    p.y = AG_BLOCK / p.x;
    p.blocks = (units + p.x - 1) / p.x;
    return p;
}

/* Parts of the rows with at least `least` rows for each thread, so many that there are about `blocks` blocks. */
static inline int64_t ag_columns_parts(const ag_columns &p, int64_t least, int64_t blocks)
{
    const int64_t most = (p.rows + p.y * least - 1) / (p.y * least), wanted = blocks / (p.blocks * p.groups);
    const int64_t parts = most < wanted ? most : wanted;
    return parts < 1 ? 1 : parts > 65535 ? 65535 : parts;
}

template <int S, int V, class Map>
static __global__ void columns_sum(ag_columns p, Map map, int64_t per_part, float *parts)
{
    AG_SHARED(float, shared, AG_BLOCK * V);
    const int64_t group = blockIdx.x / p.blocks, c = (blockIdx.x % p.blocks * blockDim.x + threadIdx.x) * V;
    const int64_t begin = blockIdx.y * per_part, end = begin + per_part < p.rows ? begin + per_part : p.rows;
    const unsigned me = threadIdx.y * blockDim.x + threadIdx.x;
    float s[S][V];
    for (int k = 0; k < S; k++)
        for (int i = 0; i < V; i++) s[k][i] = 0;
    if (c < p.width) {
        typename Map::template at<V> f(map, group, c);
        for (int64_t r = begin + threadIdx.y; r < end; r += blockDim.y) f(map, (group * p.rows + r) * p.width + c, s);
    }
    for (int k = 0; k < S; k++) {
        for (int i = 0; i < V; i++) shared[i * AG_BLOCK + me] = s[k][i];
        __syncthreads();
        for (unsigned half = blockDim.y / 2; half; half /= 2) {
            if (threadIdx.y < half)
                for (int i = 0; i < V; i++) shared[i * AG_BLOCK + me] += shared[i * AG_BLOCK + me + half * blockDim.x];
            __syncthreads();
        }
        if (!threadIdx.y && c < p.width)
            for (int i = 0; i < V; i++)
                parts[((blockIdx.y * p.groups + group) * S + k) * p.width + c + i] = shared[i * AG_BLOCK + me];
    }
}

enum { AG_FOLD_ROWS = AG_BLOCK / AG_WARP };

/* put(group, column, double s[S]) of the sums of parts [count, groups, S, width] */
template <int S, class Part, class Put>
static __global__ void columns_fold(int64_t groups, int64_t width, int64_t count, const Part *parts, Put put)
{
    AG_SHARED(double, shared, S * AG_BLOCK);
    const int64_t o = blockIdx.x * (int64_t)AG_WARP + threadIdx.x, group = o / width, c = o - group * width;
    const unsigned me = threadIdx.y * AG_WARP + threadIdx.x;
    double s[S];
    for (int k = 0; k < S; k++) s[k] = 0;
    if (o < groups * width)
        for (int64_t p = threadIdx.y; p < count; p += AG_FOLD_ROWS)
            for (int k = 0; k < S; k++) s[k] += (double)parts[((p * groups + group) * S + k) * width + c];
    for (int k = 0; k < S; k++) shared[k * AG_BLOCK + me] = s[k];
    __syncthreads();
    if (threadIdx.y || o >= groups * width) return;
    for (int k = 0; k < S; k++)
        for (int y = 1; y < AG_FOLD_ROWS; y++) s[k] += shared[k * AG_BLOCK + y * AG_WARP + me];
    put(group, c, s);
}

template <int S, class Part, class Put>
static void ag_columns_fold(int64_t groups, int64_t width, int64_t count, const Part *parts, Put put)
{
    const int64_t n = groups * width;
    if (n)
        LAUNCH((columns_fold<S, Part, Put>), (unsigned)((n + AG_WARP - 1) / AG_WARP), dim3(AG_WARP, AG_FOLD_ROWS), 0, groups,
               width, count, parts, put);
}

template <int S, class T, class Map, class Put>
static void ag_columns_sum(const ag_node *n, const ag_columns &p, Map map, Put put)
{
    if (!p.groups || !p.width) return;
    const int64_t parts = ag_columns_parts(p, 8, 528), per_part = (p.rows + parts - 1) / parts;
    float *sums = (float *)ag_workspace(n, parts * p.groups * S * p.width, sizeof *sums);
    const dim3 grid((unsigned)(p.blocks * p.groups), (unsigned)parts), block(p.x, p.y);
    if (p.v == 1) LAUNCH((columns_sum<S, 1, Map>), grid, block, 0, p, map, per_part, sums);
    else LAUNCH((columns_sum<S, ag_packs<T>::N, Map>), grid, block, 0, p, map, per_part, sums);
    ag_columns_fold<S>(p.groups, p.width, parts, sums, put);
}

template <int V, class Map> static __global__ void columns_each(ag_columns p, Map map, int64_t per_part)
{
    const int64_t group = blockIdx.x / p.blocks, c = (blockIdx.x % p.blocks * blockDim.x + threadIdx.x) * V;
    const int64_t begin = blockIdx.y * per_part, end = begin + per_part < p.rows ? begin + per_part : p.rows;
    if (c >= p.width) return;
    typename Map::template at<V> f(map, group, c);
    for (int64_t r = begin + threadIdx.y; r < end; r += blockDim.y) f(map, (group * p.rows + r) * p.width + c);
}

template <class T, class Map> static void ag_columns_each(const ag_columns &p, Map map)
{
    if (!p.groups || !p.rows || !p.width) return;
    const int64_t parts = ag_columns_parts(p, 4, 8192), per_part = (p.rows + parts - 1) / parts;
    const dim3 grid((unsigned)(p.blocks * p.groups), (unsigned)parts), block(p.x, p.y);
    if (p.v == 1) LAUNCH((columns_each<1, Map>), grid, block, 0, p, map, per_part);
    else LAUNCH((columns_each<ag_packs<T>::N, Map>), grid, block, 0, p, map, per_part);
}

/* d[c] = or += s[K] of the sums, where d is wanted */
template <int K> struct ag_put_column {
    float *d;
    bool add;
    __device__ inline void operator()(int64_t c, const double *s) const
    {
        if (d) d[c] = (add ? d[c] : 0) + (float)s[K];
    }
};

/* The only sum, over all groups in one. */
struct ag_put_only {
    ag_put_column<0> d;
    __device__ inline void operator()(int64_t, int64_t c, const double *s) const { d(c, s); }
};

static inline float *ag_real_or_null(const ag_tensor *t) { return t ? ag_real(t) : nullptr; }

/* For backward without elements: a sum of nothing. */
static inline void ag_give_nothing(ag_node *n, int k)
{
    if (n->din[k] && !n->accumulate[k]) ag_fill(n->din[k], 0);
}

/* d weight from the first sum, d bias from the second; each where it is wanted */
struct ag_put_parameters {
    ag_put_column<0> w;
    ag_put_column<1> b;
    __device__ inline void operator()(int64_t, int64_t c, const double *s) const { w(c, s), b(c, s); }
};

static inline ag_put_parameters ag_put_parameters_of(const ag_node *n, int w, int b)
{
    return { { ag_real_or_null(n->din[w]), n->accumulate[w] }, { ag_real_or_null(n->din[b]), n->accumulate[b] } };
}

#endif
