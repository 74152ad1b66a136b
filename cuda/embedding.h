/* cuda/embedding.h - gradients of tables read by ids: dw[row] = sum over positions p with ids[p] == row of value(p, d).
 *
 * The first position of a row owns it and adds the others in their order: no sorting, no float atomics, the same bits
 * in every run. Every position looks at all ids before it, B^2 / 2 comparisons in all: nothing beside the memory
 * traffic of B rows up to some 16,000 positions. */
#ifndef AG_CUDA_EMBEDDING_H
#define AG_CUDA_EMBEDDING_H
#include "cuda/cuda.h"

struct ag_ids {
    const int64_t *id;
    int64_t n, stride, rows;
    __device__ inline int64_t at(int64_t p) const { return id[p * stride]; }
    __device__ inline bool valid(int64_t p) const { return (uint64_t)at(p) < (uint64_t)rows; }
};

/* One block per position; threads share the search, then take one column each. */
template <class Value>
static __global__ void rows_add(ag_ids ids, int64_t width, Value value, float *dw)
{
    AG_SHARED(unsigned char, match, AG_BLOCK);
    const int64_t me = blockIdx.x, row = ids.at(me);
    const int t = (int)threadIdx.x;
    if (!ids.valid(me)) return;
    bool seen = false;
    for (int64_t p = t; p < me && !seen; p += AG_BLOCK) seen = ids.at(p) == row;
    if (__syncthreads_or(seen)) return;
    for (int64_t begin = me; begin < ids.n; begin += AG_BLOCK) {
        const bool mine = begin + t < ids.n && ids.at(begin + t) == row;
        match[t] = mine;
        if (__syncthreads_or(mine))
            for (int64_t d = t; d < width; d += AG_BLOCK) {
                float sum = dw[row * width + d];
                for (int k = 0; k < AG_BLOCK; k++)
                    if (match[k]) sum += value(begin + k, d);
                dw[row * width + d] = sum;
            }
        __syncthreads();
    }
}

/* dw: [rows, width]; zeroed first unless it is added to. */
template <class Value> static void ag_rows_add(ag_ids ids, int64_t width, Value value, ag_tensor *dw, bool add)
{
    if (!dw) return;
    if (!add)
        ag_cuda_check(cudaMemsetAsync(dw->data, 0, (size_t)(ids.rows * width) * sizeof(float), ag_cuda_stream()),
                      "clearing a table's gradient");
    if (ids.n && width)
        LAUNCH(rows_add<Value>, (unsigned)ids.n, AG_BLOCK, 0, ids, width, value, ag_real(dw));
}

#endif
