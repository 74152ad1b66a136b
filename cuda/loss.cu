/* cuda/loss.cu - mse of ops/loss.c. */
#include "cuda/reduce.h"

struct squared_error {
    const float *x, *t;
    __device__ inline float operator()(const int64_t *at, int64_t, int64_t) const
    {
        const float d = x[at[0]] - t[at[0]];
        return d * d;
    }
};

static float scale_of(const ag_node *n)
{
    return ((const ag_loss_opts *)n->arg)->reduction == AG_MEAN ? 1 / (float)ag_numel(n->in[0]) : 1;
}

extern "C" void ag_mse_loss_forward_cuda(ag_node *n)
{
    const ag_tensor *x[1] = { n->in[0] };
    const uint32_t axes = ((const ag_loss_opts *)n->arg)->reduction == AG_NONE ? 0 : ~0u;
    ag_reduce<ag_fold_sum>(n, ag_split_of<1>(x[0], axes, x), squared_error{ ag_real(n->in[0]), ag_real(n->in[1]) },
                           ag_put_sum{ ag_real(n->out), scale_of(n), false });
}

static __global__ void mse_backward(int64_t n, const float *x, const float *t, const float *g, bool scalar, float scale,
                                    float *d, bool add)
{
    AG_EACH (i, n) {
        const float v = scale * g[scalar ? 0 : i] * (x[i] - t[i]);
        d[i] = add ? d[i] + v : v;
    }
}

extern "C" void ag_mse_loss_backward_cuda(ag_node *n)
{
    const int64_t size = ag_numel(n->in[0]);
    const bool scalar = ((const ag_loss_opts *)n->arg)->reduction != AG_NONE;
    for (int k = 0; k < 2 && size; k++)
        if (n->din[k])
            LAUNCH(mse_backward, ag_blocks(size), AG_BLOCK, 0, size, ag_real(n->in[0]), ag_real(n->in[1]),
                   ag_real(n->out->grad), scalar, (k ? -2 : 2) * scale_of(n), ag_real(n->din[k]), n->accumulate[k]);
}
