/* cuda/cast.cu - where, of ops/cast.c: y = mask ? a : b, all three broadcast. */
#include "cuda/reduce.h"
#include "ops/registry.h"

static __global__ void choose(ag_walk<3> w, const uint8_t *mask, const float *a, const float *b, float *y)
{
    AG_EACH (i, w.n) {
        int64_t at[3];
        ag_walk_at(w, i, at);
        y[i] = mask[at[0]] ? a[at[1]] : b[at[2]];
    }
}

void ag_where_forward_cuda(ag_node *n)
{
    const ag_walk<3> w = ag_walk_of<3>(n->out, n->in);
    if (w.n)
        LAUNCH(choose, ag_blocks(w.n), AG_BLOCK, 0, w, (const uint8_t *)n->in[0]->data, ag_real(n->in[1]),
               ag_real(n->in[2]), ag_real(n->out));
}

struct chosen {
    const uint8_t *mask;
    const float *g;
    bool when;
    __device__ inline float operator()(const int64_t *at, int64_t, int64_t) const
    {
        return (mask[at[0]] != 0) == when ? g[at[1]] : 0;
    }
};

/* Summed over the axes that the operand was repeated along. */
void ag_where_backward_cuda(ag_node *n)
{
    const ag_tensor *both[2] = { n->in[0], n->out };
    for (int k = 1; k <= 2; k++) {
        if (!n->din[k]) continue;
        uint32_t repeated = 0;
        for (int d = 0; d < n->out->ndim; d++) {
            const int own = d - (n->out->ndim - n->in[k]->ndim);
            if (own < 0 || n->in[k]->shape[own] != n->out->shape[d]) repeated |= 1u << d;
        }
        ag_reduce<ag_fold_sum>(n, ag_split_of<2>(n->out, repeated, both),
                               chosen{ (const uint8_t *)n->in[0]->data, ag_real(n->out->grad), k == 1 },
                               ag_put_sum{ ag_real(n->din[k]), 1, n->accumulate[k] });
    }
}
