/* cuda/relative_position.cu - ops/relative_position.c: entry e = (w-1 + yi-yj) (2w-1) + w-1 + xi-xj of the table is the bias
 * of tokens i and j; its gradient is summed over all pairs so far apart, in their order. */
#include "cuda/cuda.h"
#include "ops/registry.h"

/* bias: [heads, w w, w w]; table: [(2w-1)^2, heads] */
static __global__ void bias_forward(int64_t n, int64_t w, int64_t heads, const float *table, float *bias)
{
    AG_EACH (at, n) {
        const int64_t tokens = w * w, j = at % tokens, i = at / tokens % tokens, h = at / tokens / tokens;
        const int64_t e = (w - 1 + i / w - j / w) * (2 * w - 1) + w - 1 + i % w - j % w;
        bias[at] = table[e * heads + h];
    }
}

static __global__ void bias_backward(int64_t n, int64_t w, int64_t heads, const float *g, float *dtable, bool add)
{
    AG_EACH (at, n) {
        const int64_t h = at % heads, e = at / heads, tokens = w * w;
        const int64_t dy = e / (2 * w - 1) - (w - 1), dx = e % (2 * w - 1) - (w - 1);      /* of i from j */
        float sum = add ? dtable[at] : 0;
        for (int64_t y = dy > 0 ? dy : 0; y < w && y - dy < w; y++)
            for (int64_t x = dx > 0 ? dx : 0; x < w && x - dx < w; x++)
                sum += g[(h * tokens + y * w + x) * tokens + (y - dy) * w + x - dx];
        dtable[at] = sum;
    }
}

static int64_t window_of(const ag_node *n)
{
    return *(const int64_t *)n->arg;
}

void ag_relative_position_bias_forward_cuda(ag_node *n)
{
    const int64_t size = ag_numel(n->out);
    if (size)
        LAUNCH(bias_forward, ag_blocks(size), AG_BLOCK, 0, size, window_of(n), n->in[0]->shape[1], ag_real(n->in[0]),
               ag_real(n->out));
}

void ag_relative_position_bias_backward_cuda(ag_node *n)
{
    const int64_t size = ag_numel(n->in[0]);
    if (size && n->din[0])
        LAUNCH(bias_backward, ag_blocks(size), AG_BLOCK, 0, size, window_of(n), n->in[0]->shape[1], ag_real(n->out->grad),
               ag_real(n->din[0]), n->accumulate[0]);
}
