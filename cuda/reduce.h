/* cuda/reduce.h - one kernel behind every reduction: sums over any axes, maxima with their places, bias gradients,
 * gradients of broadcast operands, losses.
 *
 *     put(o, fold over r of map(offsets of kept o plus reduced r, r))
 *
 * A block computes X outputs with 256 / X threads each: X = 1 where the reduced elements lie side by side, X = 32 where
 * the kept ones do, so that a warp always reads neighbours. Few outputs over many elements are cut into parts that a
 * second launch folds. The order of every sum depends on the shape alone. */
#ifndef AG_CUDA_REDUCE_H
#define AG_CUDA_REDUCE_H
#include "cuda/cuda.h"

struct ag_fold_sum {
    typedef float acc;
    static __device__ inline acc none() { return 0; }
    static __device__ inline acc join(acc a, acc b) { return a + b; }
};

struct ag_place { float value; int64_t at; };      /* at < 0: nothing seen yet */

/* SIGN 1: the largest, -1: the smallest; the first of equals; NaN beats everything. */
template <int SIGN> struct ag_fold_first {
    typedef ag_place acc;
    static __device__ inline acc none() { return { 0, -1 }; }
    static __device__ inline bool beats(float a, float b) { return a != a ? b == b : SIGN > 0 ? a > b : a < b; }
    static __device__ inline acc join(acc a, acc b)
    {
        if (a.at < 0 || b.at < 0) return a.at < 0 ? b : a;
        if (beats(a.value, b.value)) return a;
        if (beats(b.value, a.value)) return b;
        return a.at < b.at ? a : b;
    }
};

/* A tensor's axes, split into those kept and those reduced. */
template <int K> struct ag_split {
    ag_walk<K> kept, reduced;
};

/* axes: bit d set where axis d of `shape` is reduced; t[k] are broadcast to it. */
template <int K> static inline ag_split<K> ag_split_of(const ag_tensor *shape, uint32_t axes,
                                                               const ag_tensor *const *t)
{
    ag_split<K> r;
    ag_walk_begin(&r.kept);
    ag_walk_begin(&r.reduced);
    for (int d = 0; d < shape->ndim; d++) {
        int64_t stride[K];
        for (int k = 0; k < K; k++) stride[k] = ag_broadcast_stride(t[k], shape->ndim, d);
        ag_walk_axis(axes >> d & 1 ? &r.reduced : &r.kept, shape->shape[d], stride);
    }
    return r;
}

template <class Fold, class Map, class Put, int K>
static __global__ void reduce(ag_split<K> w, Map map, Put put, typename Fold::acc *parts, int64_t per_part)
{
    typedef typename Fold::acc acc;
    AG_SHARED(acc, shared, AG_BLOCK);
    const int64_t o = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    const int64_t begin = blockIdx.y * per_part, end = begin + per_part < w.reduced.n ? begin + per_part : w.reduced.n;
    const unsigned me = threadIdx.y * blockDim.x + threadIdx.x;
    acc a = Fold::none();
    if (o < w.kept.n) {
        int64_t base[K], offset[K];
        ag_walk_at(w.kept, o, base);
        for (int64_t r = begin + threadIdx.y; r < end; r += blockDim.y) {
            ag_walk_at(w.reduced, r, offset);
            for (int k = 0; k < K; k++) offset[k] += base[k];
            a = Fold::join(a, map(offset, o, r));
        }
    }
    shared[me] = a;
    __syncthreads();
    for (unsigned half = blockDim.y / 2; half; half /= 2) {
        if (threadIdx.y < half) shared[me] = Fold::join(shared[me], shared[me + half * blockDim.x]);
        __syncthreads();
    }
    if (threadIdx.y || o >= w.kept.n) return;
    if (gridDim.y > 1) parts[blockIdx.y * w.kept.n + o] = shared[me];
    else put(o, shared[me]);
}

/* Nothing to fold: an elementwise pass. */
template <class Fold, class Map, class Put, int K>
static __global__ void reduce_none(ag_walk<K> kept, Map map, Put put)
{
    AG_EACH (o, kept.n) {
        int64_t offset[K];
        ag_walk_at(kept, o, offset);
        put(o, map(offset, o, 0));
    }
}

template <class Fold, class Put>
static __global__ void reduce_parts(int64_t n, unsigned count, Put put, const typename Fold::acc *parts)
{
    AG_EACH (o, n) {
        typename Fold::acc a = Fold::none();
        for (unsigned p = 0; p < count; p++) a = Fold::join(a, parts[p * n + o]);
        put(o, a);
    }
}

template <class Fold, class Map, class Put, int K>
static void ag_reduce(const ag_node *n, const ag_split<K> &w, Map map, Put put)
{
    typedef typename Fold::acc acc;
    if (!w.kept.n) return;
    if (w.reduced.n == 1) {
        LAUNCH((reduce_none<Fold, Map, Put, K>), ag_blocks(w.kept.n), AG_BLOCK, 0, w.kept, map, put);
        return;
    }
    const bool neighbours = w.reduced.stride[0][w.reduced.ndim - 1] == 1 && w.reduced.n > AG_WARP;
    const unsigned x = neighbours || w.kept.n < AG_WARP / 2 ? 1 : AG_WARP;
    const int64_t blocks = (w.kept.n + x - 1) / x;
    int64_t parts = blocks < 256 ? (w.reduced.n + 4095) / 4096 : 1;
    if (parts > 512) parts = 512;
    if (parts < 1) parts = 1;
    const int64_t per_part = (w.reduced.n + parts - 1) / parts;
    acc *scratch = parts > 1 ? (acc *)ag_workspace(n, parts * w.kept.n, sizeof(acc)) : nullptr;
    LAUNCH((reduce<Fold, Map, Put, K>), dim3((unsigned)blocks, (unsigned)parts), dim3(x, AG_BLOCK / x), 0, w, map, put,
           scratch, per_part);
    if (parts > 1)
        LAUNCH((reduce_parts<Fold, Put>), ag_blocks(w.kept.n), AG_BLOCK, 0, w.kept.n, (unsigned)parts, put, scratch);
}

/* The usual ends: y[o] = s a, or y[o] += s a. */
template <class T> struct ag_put_scaled {
    T *y;
    float scale;
    bool add;
    __device__ inline void operator()(int64_t o, float a) const
    {
        ag_store(y + o, add ? ag_load(y[o]) + scale * a : scale * a);
    }
};
typedef ag_put_scaled<float> ag_put_sum;

#endif
