/* cuda/embedding.h - gradients of tables read by ids: dw[row] = sum over positions p with ids[p] == row of value(p, d).
 *
 * The positions are sorted by row (sort.cu), so that those of a row lie side by side in their order. Whoever meets the first
 * of them adds the others in that order: no float atomics, the same bits in every run, and those of the CPU. How many rows
 * there are nobody needs to know: launches have room for one per position. */
#ifndef AG_CUDA_EMBEDDING_H
#define AG_CUDA_EMBEDDING_H
#include "cuda/cuda.h"

struct ag_ids {
    const int64_t *id;
    int64_t n, stride, rows;
    __device__ inline int64_t at(int64_t p) const { return id[p * stride]; }
    __device__ inline bool valid(int64_t p) const { return (uint64_t)at(p) < (uint64_t)rows; }
};

/* Positions by row: key[k] = row << 32 | position, ascending; those whose id is no row come last, as row NO_ROW. */
struct ag_sorted {
    enum : uint32_t { NO_ROW = 0xffffffffu };
    const uint64_t *key;
    int64_t n;
    __device__ inline uint32_t row(int64_t k) const { return (uint32_t)(key[k] >> 32); }
    __device__ inline int64_t position(int64_t k) const { return (int64_t)(key[k] & 0xffffffffu); }
    /* Whether a row begins at k. */
    __device__ inline bool first(int64_t k) const { return row(k) != NO_ROW && (!k || row(k - 1) != row(k)); }
};

enum { AG_SORTS = 8 };              /* lists of one call */

/* to[i]: the positions of ids[i], sorted, all lists in the same launches. memory: ag_sort_size(count, ids) keys, which hold the
 * results. */
int64_t ag_sort_size(int count, const ag_ids *ids);
void ag_sort_ids(int count, const ag_ids *ids, uint64_t *memory, ag_sorted *to);

/* Lanes of a warp for a row of so many columns: a power of 2. */
static inline int ag_row_lanes(int64_t width)
{
    int lanes = AG_WARP;
    while (lanes > 1 && width <= lanes / 2) lanes /= 2;
    return lanes;
}

/* Blocks for n rows of `lanes` lanes each. */
static inline unsigned ag_lane_blocks(int64_t n, int lanes)
{
    return (unsigned)((n * lanes + AG_BLOCK - 1) / AG_BLOCK);
}

/* sum + value(p, d) for the positions of the row that begins at k. The values of several are under way at once: a row that
 * the whole batch has in common waits for memory once for so many, not for each. */
template <class Value> static __device__ inline float ag_row_sum(const ag_sorted &s, int64_t k, int64_t d, Value value, float sum)
{
    enum { AHEAD = 8 };
    const uint32_t row = s.row(k);
    for (bool more = true; more; k += AHEAD) {
        float v[AHEAD];
        bool mine[AHEAD];
        AG_UNROLL(8)
        for (int i = 0; i < AHEAD; i++) {
            mine[i] = k + i < s.n && s.row(k + i) == row;
            v[i] = mine[i] ? value(s.position(k + i), d) : 0;
        }
        AG_UNROLL(8)
        for (int i = 0; i < AHEAD; i++)
            if (mine[i]) sum += v[i];
        more = mine[AHEAD - 1];
    }
    return sum;
}

template <class Value>
static __global__ void rows_add(ag_sorted s, int64_t width, int lanes, Value value, float *dw)
{
    const int64_t t = blockIdx.x * (int64_t)AG_BLOCK + threadIdx.x, k = t / lanes;
    if (k >= s.n || !s.first(k)) return;
    float *to = dw + s.row(k) * width;
    for (int64_t d = t % lanes; d < width; d += lanes) to[d] = ag_row_sum(s, k, d, value, to[d]);
}

/* dw: [rows, width], NULL: nothing to do; zeroed first unless it is added to. */
template <class Value>
static void ag_rows_add(const ag_sorted &s, int64_t rows, int64_t width, Value value, ag_tensor *dw, bool add)
{
    if (!dw) return;
    if (!add) ag_cuda_clear(dw->data, rows * width * (int64_t)sizeof(float), "clearing a table's gradient");
    const int lanes = ag_row_lanes(width);
    if (s.n && width)
        LAUNCH(rows_add<Value>, ag_lane_blocks(s.n, lanes), AG_BLOCK, 0, s, width, lanes, value, ag_real(dw));
}

#endif
