/* cuda/gather.cu - ops/gather.c: picking along an axis, and the orders that say what to pick. */
#include "cuda/cuda.h"
#include "ops/args.h"
#include "ops/registry.h"

/* ---- gather: y[o, k, i] = x[o, id[o, k, i], i], o and i standing for the axes before and behind ----------- */

struct gather {
    ag_walk<2> lines;           /* offsets of the start of a line in the index and in x */
    const int64_t *id;
    int64_t count, step, size, x_step;      /* along a line: ids and their stride, elements of x and theirs */
    ag_cuda_trap *trap;
    const char *at;
    __device__ inline int64_t of(int64_t begin, int64_t k) const { return id[begin + k * step]; }
};

static gather lines_of(const ag_node *n)
{
    const int axis = *(const int *)n->arg;
    const ag_tensor *x = n->in[0], *index = n->in[1];
    gather g;
    ag_walk_begin(&g.lines);
    for (int d = 0; d < index->ndim; d++) {
        const int64_t stride[2] = { index->stride[d], x->stride[d] };
        if (d != axis) ag_walk_axis(&g.lines, index->shape[d], stride);
    }
    g.id = (const int64_t *)index->data, g.count = index->shape[axis], g.step = index->stride[axis];
    g.size = x->shape[axis], g.x_step = x->stride[axis], g.trap = ag_cuda_trap_device(), g.at = n->at;
    return g;
}

static __global__ void gather_forward(gather j, const float *x, float *y)
{
    AG_EACH (i, j.lines.n * j.count) {
        const int64_t k = i / j.lines.n;
        int64_t at[2];
        ag_walk_at(j.lines, i - k * j.lines.n, at);
        const int64_t id = j.of(at[0], k), to = at[0] + k * j.step;
        if ((uint64_t)id < (uint64_t)j.size) y[to] = x[at[1] + id * j.x_step];
        else ag_trap(j.trap, j.at, "ag_gather", to, id, j.size);
    }
}

/* The first place of an id along its line owns it and adds the others in their order: no float atomics. */
static __global__ void gather_backward(gather j, const float *g, float *dx)
{
    AG_EACH (i, j.lines.n * j.count) {
        const int64_t k = i / j.lines.n;
        int64_t at[2];
        ag_walk_at(j.lines, i - k * j.lines.n, at);
        const int64_t id = j.of(at[0], k);
        bool owner = (uint64_t)id < (uint64_t)j.size;
        for (int64_t p = 0; p < k && owner; p++) owner = j.of(at[0], p) != id;
        if (!owner) continue;
        float sum = dx[at[1] + id * j.x_step];
        for (int64_t p = k; p < j.count; p++)
            if (j.of(at[0], p) == id) sum += g[at[0] + p * j.step];
        dx[at[1] + id * j.x_step] = sum;
    }
}

void ag_gather_forward_cuda(ag_node *n)
{
    const int64_t size = ag_numel(n->out);
    if (size) LAUNCH(gather_forward, ag_blocks(size), AG_BLOCK, 0, lines_of(n), ag_real(n->in[0]), ag_real(n->out));
}

void ag_gather_backward_cuda(ag_node *n)
{
    const int64_t size = ag_numel(n->out);
    ag_tensor *d = n->din[0];
    if (!d) return;
    if (!n->accumulate[0]) ag_fill(d, 0);
    if (size) LAUNCH(gather_backward, ag_blocks(size), AG_BLOCK, 0, lines_of(n), ag_real(n->out->grad), ag_real(d));
}

/* ---- argsort, argtopk: an element's place is the number of those before it --------------------------------- */

/* NaN counts as the largest; equals keep their order. */
static __device__ inline bool before(float a, int64_t i, float b, int64_t j, bool descending)
{
    if (descending ? a > b : a < b) return true;
    if (descending ? a < b : a > b) return false;
    if ((a != a) != (b != b)) return (a != a) == descending;
    return i < j;
}

/* blockIdx.x: row and 256 elements of it, each of which looks at all of the row, tile by tile. */
static __global__ void rank_elements(const float *x, int64_t width, int64_t blocks, int64_t keep, bool descending,
                                     int64_t *order)
{
    AG_SHARED(float, tile, AG_BLOCK);
    const int64_t row = blockIdx.x / blocks, me = blockIdx.x % blocks * AG_BLOCK + threadIdx.x;
    const float own = me < width ? x[row * width + me] : 0;
    int64_t rank = 0;
    for (int64_t begin = 0; begin < width; begin += AG_BLOCK) {
        const int64_t left = width - begin < AG_BLOCK ? width - begin : (int64_t)AG_BLOCK;
        if ((int64_t)threadIdx.x < left) tile[threadIdx.x] = x[row * width + begin + threadIdx.x];
        __syncthreads();
        for (int64_t k = 0; k < left; k++) rank += before(tile[k], begin + k, own, me, descending);
        __syncthreads();
    }
    if (me < width && rank < keep) order[row * keep + rank] = me;
}

void ag_argsort_forward_cuda(ag_node *n)
{
    const ag_tensor *x = n->in[0];
    const int64_t width = x->shape[x->ndim - 1], keep = n->out->shape[x->ndim - 1];
    if (!ag_numel(n->out)) return;
    const int64_t rows = ag_numel(x) / width, blocks = (width + AG_BLOCK - 1) / AG_BLOCK;
    LAUNCH(rank_elements, (unsigned)(rows * blocks), AG_BLOCK, 0, ag_real(x), width, blocks, keep,
           ((const ag_order_arg *)n->arg)->descending, (int64_t *)n->out->data);
}
