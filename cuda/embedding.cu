/* cuda/embedding.cu - ops/embedding.c: rows of a table. */
#include "cuda/embedding.h"
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
    if (!n->din[0]) return;
    ag_sort_ids(1, &ids, (uint64_t *)ag_workspace(n, ag_sort_size(1, &ids), sizeof(uint64_t)), &s);
    ag_rows_add(s, ids.rows, width, output_row{ ag_real(n->out->grad), width }, n->din[0], n->accumulate[0]);
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
