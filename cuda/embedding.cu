/* cuda/embedding.cu - ops/embedding.c: rows of a table. */
#include "cuda/device.h"
#include "cuda/embedding.h"
#include "ops/indexing.h"
#include "ops/registry.h"

static __global__ void embedding_forward(ag_ids ids, int64_t width, const float *w, float *y, ag_cuda_trap *trap,
                                         const char *at)
{
    AG_EACH (i, ids.n * width) {
        const int64_t p = i / width, d = i - p * width;
        if (ids.valid(p)) y[i] = w[ids.at(p) * width + d];
        else if (!d) ag_trap(trap, at, "ag_embedding", p, ids.at(p), ids.rows);
    }
}

static ag_ids ids_of(const ag_node *n)
{
    return { (const int64_t *)n->in[1]->data, ag_numel(n->in[1]), 1, n->in[0]->shape[0] };
}

void ag_embedding_forward_cuda(ag_node *n)
{
    const int64_t size = ag_numel(n->out);
    const int all = -1;
    ag_before_read(1, n->in, &all, n->in[1]);
    if (size)
        LAUNCH(embedding_forward, ag_blocks(size), AG_BLOCK, 0, ids_of(n), n->in[0]->shape[1], ag_real(n->in[0]),
               ag_real(n->out), ag_cuda_trap_device(), n->at);
}

struct output_row {
    const float *g;
    int64_t width;
    __device__ inline float operator()(int64_t p, int64_t d) const { return g[p * width + d]; }
};

void ag_embedding_backward_cuda(ag_node *n)
{
    const int64_t width = n->in[0]->shape[1];
    const ag_ids ids = ids_of(n);
    ag_sorted s;
    if (ag_node_wants_rows(n, 0)) {
        ag_tensor *flat = ag_reshape(n->in[1], ids.n), *rows = ag_reshape(n->out->grad, ids.n, width);
        ag_node_give_rows(n, 0, ag_retain(flat), ag_retain(rows));
        return;
    }
    if (!n->din[0]) return;
    ag_sort_ids(1, &ids, (uint64_t *)ag_workspace(n, ag_sort_size(1, &ids), sizeof(uint64_t)), &s);
    ag_rows_add(s, ids.rows, width, output_row{ ag_real(n->out->grad), width }, n->din[0], n->accumulate[0]);
}

/* The positions' memory goes back to the allocator, which hands it to later work only. */
void ag_cuda_add_rows(ag_tensor *table, const ag_tensor *ids, const ag_tensor *values)
{
    const int64_t width = table->shape[1];
    const ag_ids i = { (const int64_t *)ids->data, ids->shape[0], ids->stride[0], table->shape[0] };
    const int64_t size = ag_mul_size(nullptr, ag_sort_size(1, &i), sizeof(uint64_t));
    ag_sorted s;
    uint64_t *memory = (uint64_t *)ag_cuda_alloc((size_t)size);
    if (!memory) ag_fail(nullptr, "cuda: out of memory: %" PRId64 " bytes to gather the rows of %" PRId64 " ids", size, i.n);
    ag_sort_ids(1, &i, memory, &s);
    ag_rows_add(s, i.rows, width, output_row{ ag_real(values), width }, table, true);
    ag_cuda_free(memory);
}

/* ---- one_hot ------------------------------------------------------------------------------------------- */

static __global__ void one_hot(ag_ids ids, float *y, ag_cuda_trap *trap, const char *at)
{
    AG_EACH (i, ids.n * ids.rows) {
        const int64_t p = i / ids.rows, c = i - p * ids.rows;
        y[i] = ids.at(p) == c;
        if (!c && !ids.valid(p)) ag_trap(trap, at, "ag_one_hot", p, ids.at(p), ids.rows);
    }
}

void ag_one_hot_forward_cuda(ag_node *n)
{
    const int64_t size = ag_numel(n->out), classes = *(const int64_t *)n->arg;
    const ag_ids ids = { (const int64_t *)n->in[0]->data, ag_numel(n->in[0]), 1, classes };
    if (size)
        LAUNCH(one_hot, ag_blocks(size), AG_BLOCK, 0, ids, ag_real(n->out), ag_cuda_trap_device(), n->at);
}
