/* cuda/loss.cu - the losses of ops/losses.h on the GPU. */
#include "cuda/reduce.h"
#include "ops/losses.h"
#include "ops/registry.h"

struct loss_inputs {
    const float *x, *t, *weight;
    int64_t classes;
    float delta;
};

static const ag_loss_arg *arg_of(const ag_node *n)
{
    return (const ag_loss_arg *)n->arg;
}

static loss_inputs inputs_of(const ag_node *n)
{
    const ag_tensor *w = n->in[AG_LOSS_WEIGHT];
    return { ag_real(n->in[AG_LOSS_X]), ag_real(n->in[AG_LOSS_TARGET]), w ? ag_real(w) : nullptr, w ? w->shape[0] : 1,
             (float)arg_of(n)->delta };
}

static float scale_of(const ag_node *n)
{
    return arg_of(n)->reduction == AG_MEAN ? 1 / (float)ag_numel(n->in[AG_LOSS_X]) : 1;
}

template <class F> struct loss_value {
    loss_inputs in;
    __device__ inline float operator()(const int64_t *at, int64_t, int64_t) const
    {
        const int64_t i = at[0];
        return F::value(in.x[i], in.t[i], in.weight ? in.weight[i % in.classes] : 1, in.delta);
    }
};

/* y[i], or the sum of all in n->out. */
template <class F> static void loss_forward(ag_node *n)
{
    const ag_tensor *x[1] = { n->in[AG_LOSS_X] };
    const uint32_t axes = arg_of(n)->reduction == AG_NONE ? 0 : ~0u;
    ag_reduce<ag_fold_sum>(n, ag_split_of<1>(x[0], axes, x), loss_value<F>{ inputs_of(n) },
                           ag_put_sum{ ag_real(n->out), scale_of(n), false });
}

template <class F>
static __global__ void loss_gradient(int64_t n, loss_inputs in, const float *g, bool each, float scale, float *out,
                                     bool add)
{
    AG_EACH (i, n) {
        const float v = scale * g[each ? i : 0] *
                        F::gradient(in.x[i], in.t[i], in.weight ? in.weight[i % in.classes] : 1, in.delta);
        out[i] = add ? out[i] + v : v;
    }
}

/* d target is the negative of d x where the loss depends on the difference alone. */
template <class F> static void loss_backward(ag_node *n, bool difference)
{
    const int64_t size = ag_numel(n->in[AG_LOSS_X]);
    for (int k = AG_LOSS_X; k <= AG_LOSS_TARGET && size; k++) {
        if (!n->din[k]) continue;
        if (k == AG_LOSS_TARGET && !difference)
            ag_node_fail(n, "has no gradient with respect to the target; ag_detach it");
        LAUNCH(loss_gradient<F>, ag_blocks(size), AG_BLOCK, 0, size, inputs_of(n), ag_real(n->out->grad),
               arg_of(n)->reduction == AG_NONE, (k == AG_LOSS_X ? 1 : -1) * scale_of(n), ag_real(n->din[k]),
               n->accumulate[k]);
    }
}

#define LOSS(id, formula, derivative, difference, kind) \
    struct id##_row { \
        static __device__ inline float value(float x, float t, float w, float delta) \
        { \
            const float d = x - t; \
            return (void)d, (void)w, (void)delta, (formula); \
        } \
        static __device__ inline float gradient(float x, float t, float w, float delta) \
        { \
            const float d = x - t; \
            return (void)d, (void)w, (void)delta, (derivative); \
        } \
    }; \
    void ag_##id##_forward_cuda(ag_node *n) { loss_forward<id##_row>(n); } \
    void ag_##id##_backward_cuda(ag_node *n) { loss_backward<id##_row>(n, difference); }

AG_LOSSES(LOSS)
