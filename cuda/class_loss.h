/* cuda/class_loss.h - what the losses over classes share: a row of logits is a block's or a warp's, its threads hold every
 * `step`-th class; the mean over the rows. */
#ifndef AG_CUDA_CLASS_LOSS_H
#define AG_CUDA_CLASS_LOSS_H
#include "cuda/reduce.h"
#include "cuda/rows.h"
#include "ops/formulas.h"

enum { AG_CLASSES_OF_A_WARP = 2048 };       /* rows with more classes have a block each */

/* The threads of one row, and sums and maxima over them. */
template <bool WIDE> struct ag_row_team {
    float *shared;
    __device__ inline int64_t row() const
    {
        return WIDE ? blockIdx.x : blockIdx.x * (int64_t)(AG_BLOCK / AG_WARP) + threadIdx.x / AG_WARP;
    }
    __device__ inline int first() const { return (int)(WIDE ? threadIdx.x : threadIdx.x % AG_WARP); }
    __device__ inline int step() const { return (int)(WIDE ? AG_BLOCK : AG_WARP); }
    __device__ inline float sum(float v) const { return WIDE ? ag_block_fold<false>(v, shared) : ag_lanes_sum(v, AG_WARP); }
    __device__ inline float max(float v) const { return WIDE ? ag_block_fold<true>(v, shared) : ag_lanes_max(v, AG_WARP); }
    template <class T> __device__ inline float log_sum_exp(const T *x, int64_t n) const
    {
        float m = -INFINITY, s = 0;
        for (int64_t c = first(); c < n; c += step()) m = ag_load(x[c]) > m ? ag_load(x[c]) : m;
        m = max(m);
        for (int64_t c = first(); c < n; c += step()) s += EXP(ag_load(x[c]) - m);
        return m + LOG(sum(s));
    }
};

/* Blocks for `rows` rows, whose kernel has a template argument WIDE. */
static inline unsigned ag_team_blocks(int64_t rows, bool wide)
{
    return (unsigned)(wide ? rows : (rows + AG_BLOCK / AG_WARP - 1) / (AG_BLOCK / AG_WARP));
}

/* Losses and what their mean divides by, added up in the same order. */
struct ag_fold_pair {
    struct acc { float sum, weight; };
    static __device__ inline acc none() { return { 0, 0 }; }
    static __device__ inline acc join(acc a, acc b) { return { a.sum + b.sum, a.weight + b.weight }; }
};

#endif
