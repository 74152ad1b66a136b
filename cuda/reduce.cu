/* cuda/reduce.cu - the reductions of ops/reduce.c. */
#include "cuda/reduce.h"
#include "ops/formulas.h"
#include "ops/registry.h"

static uint32_t axes_of(const ag_node *n)
{
    return ag_node_axes(n, n->in[0], ((const ag_reduce_opts *)n->arg)->axes);
}

/* x's shape with 1 on the axes: what the output is before keepdim; and x's shape, contiguous. */
static ag_tensor like(const ag_tensor *x, uint32_t axes)
{
    ag_tensor t = *x;
    int64_t stride = 1;
    for (int d = x->ndim - 1; d >= 0; d--) {
        if (axes >> d & 1) t.shape[d] = 1;
        t.stride[d] = stride;
        stride *= t.shape[d];
    }
    return t;
}

/* offsets: of x, and of x as if it were contiguous */
static ag_split<2> split(const ag_node *n, uint32_t axes)
{
    const ag_tensor flat = like(n->in[0], 0), *both[2] = { n->in[0], &flat };
    return ag_split_of<2>(n->in[0], axes, both);
}

/* dx[i] = or += f(x, i, o) with o the output element that x[i] went into; x NULL: f does not ask */
template <class F, class T>
static __global__ void spread(ag_walk<2> w, F f, const float *x, T *dx, bool add)
{
    AG_EACH (i, w.n) {
        int64_t at[2];
        ag_walk_at(w, i, at);
        const float d = f(x ? x[at[0]] : 0, i, at[1]);
        ag_store(dx + i, add ? ag_load(dx[i]) + d : d);
    }
}

template <class T, class F> static void run_spread_typed(ag_node *n, F f)
{
    const ag_tensor out = like(n->in[0], axes_of(n)), *both[2] = { n->in[0], &out };
    const ag_walk<2> w = ag_walk_of<2>(n->in[0], both);
    if (w.n && n->din[0])
        LAUNCH((spread<F, T>), ag_blocks(w.n), AG_BLOCK, 0, w, f, n->unread & 1 ? nullptr : ag_real(n->in[0]),
               (T *)n->din[0]->data, n->accumulate[0]);
}

template <class F> static void run_spread(ag_node *n, F f) { run_spread_typed<float>(n, f); }

/* ---- sum, mean ----------------------------------------------------------------------------------------- */

template <class T> struct value_of {
    const T *x;
    __device__ inline float operator()(const int64_t *at, int64_t, int64_t) const { return ag_load(x[at[0]]); }
};

template <class T> struct spread_sum {
    const T *g;
    float scale;
    __device__ inline float operator()(float, int64_t, int64_t o) const { return scale * ag_load(g[o]); }
};

template <class T> static void sum_into(ag_node *n, T *y, bool mean)
{
    const ag_split<2> w = split(n, axes_of(n));
    ag_reduce<ag_fold_sum>(n, w, value_of<T>{ (const T *)n->in[0]->data },
                           ag_put_scaled<T>{ y, mean ? 1 / (float)w.reduced.n : 1, false });
}

static void sum_forward(ag_node *n, bool mean)
{
    if (n->out->dtype == AG_BF16) sum_into(n, (ag_bf16 *)n->out->data, mean);
    else sum_into(n, ag_real(n->out), mean);
}

static void sum_backward(ag_node *n, float scale)
{
    const ag_tensor *g = n->out->grad;
    if (g->dtype == AG_BF16) run_spread_typed<ag_bf16>(n, spread_sum<ag_bf16>{ (const ag_bf16 *)g->data, scale });
    else run_spread(n, spread_sum<float>{ ag_real(g), scale });
}

void ag_sum_forward_cuda(ag_node *n) { sum_forward(n, false); }
void ag_sum_backward_cuda(ag_node *n) { sum_backward(n, 1); }
void ag_mean_forward_cuda(ag_node *n) { sum_forward(n, true); }
void ag_mean_backward_cuda(ag_node *n) { sum_backward(n, 1 / (float)split(n, axes_of(n)).reduced.n); }

/* ---- max, min, argmax ---------------------------------------------------------------------------------- */

/* A place is the element's row-major number in x: in the order of r for every output. */
struct place_of {
    const float *x;
    __device__ inline ag_place operator()(const int64_t *at, int64_t, int64_t) const { return { x[at[0]], at[1] }; }
};

struct put_extreme {
    float *y;
    int64_t *place;
    __device__ inline void operator()(int64_t o, ag_place a) const
    {
        y[o] = a.value;
        place[o] = a.at;
    }
};

struct spread_place {
    const float *g;
    const int64_t *place;
    __device__ inline float operator()(float, int64_t i, int64_t o) const { return place[o] == i ? g[o] : 0; }
};

template <int SIGN> static void extreme(ag_node *n)
{
    ag_reduce<ag_fold_first<SIGN>>(n, split(n, axes_of(n)), place_of{ ag_real(n->in[0]) },
                                   put_extreme{ ag_real(n->out), (int64_t *)n->saved[0]->data });
}

static void extreme_backward(ag_node *n)
{
    run_spread(n, spread_place{ ag_real(n->out->grad), (const int64_t *)n->saved[0]->data });
}

void ag_max_forward_cuda(ag_node *n) { extreme<1>(n); }
void ag_max_backward_cuda(ag_node *n) { extreme_backward(n); }
void ag_min_forward_cuda(ag_node *n) { extreme<-1>(n); }
void ag_min_backward_cuda(ag_node *n) { extreme_backward(n); }

struct rank_of {
    const float *x;
    __device__ inline ag_place operator()(const int64_t *at, int64_t, int64_t r) const { return { x[at[0]], r }; }
};

struct put_rank {
    int64_t *y;
    __device__ inline void operator()(int64_t o, ag_place a) const { y[o] = a.at; }
};

void ag_argmax_forward_cuda(ag_node *n)
{
    ag_reduce<ag_fold_first<1>>(n, split(n, axes_of(n)), rank_of{ ag_real(n->in[0]) },
                                put_rank{ (int64_t *)n->out->data });
}

/* ---- variance: sum (x - m)^2 / (N - correction), in two passes ----------------------------------------- */

struct square_of {
    const float *x, *mean;
    __device__ inline float operator()(const int64_t *at, int64_t o, int64_t) const
    {
        const float d = x[at[0]] - mean[o];
        return d * d;
    }
};

struct spread_var {
    const float *g, *mean;
    float scale;
    __device__ inline float operator()(float x, int64_t, int64_t o) const { return g[o] * scale * (x - mean[o]); }
};

static float degrees(const ag_node *n)
{
    return (float)(split(n, axes_of(n)).reduced.n - ((const ag_reduce_opts *)n->arg)->correction);
}

void ag_var_forward_cuda(ag_node *n)
{
    float *mean = ag_real(n->saved[0]);
    sum_into(n, mean, true);
    ag_reduce<ag_fold_sum>(n, split(n, axes_of(n)), square_of{ ag_real(n->in[0]), mean },
                           ag_put_sum{ ag_real(n->out), 1 / degrees(n), false });
}

void ag_var_backward_cuda(ag_node *n)
{
    run_spread(n, spread_var{ ag_real(n->out->grad), ag_real(n->saved[0]), 2 / degrees(n) });
}

/* ---- logsumexp: m + log sum exp(x - m), m = max, or 0 where that is infinite --------------------------- */

struct put_finite {
    float *y;
    __device__ inline void operator()(int64_t o, ag_place a) const { y[o] = isinf(a.value) ? 0 : a.value; }
};

struct exp_of {
    const float *x, *m;
    __device__ inline float operator()(const int64_t *at, int64_t o, int64_t) const { return EXP(x[at[0]] - m[o]); }
};

struct put_log {
    float *y;
    const float *m;
    __device__ inline void operator()(int64_t o, float s) const { y[o] = m[o] + LOG(s); }
};

struct spread_logsumexp {
    const float *g, *y;
    __device__ inline float operator()(float x, int64_t, int64_t o) const { return g[o] * EXP(x - y[o]); }
};

void ag_logsumexp_forward_cuda(ag_node *n)
{
    float *m = (float *)ag_workspace(n, ag_numel(n->out), sizeof *m);
    ag_reduce<ag_fold_first<1>>(n, split(n, axes_of(n)), place_of{ ag_real(n->in[0]) }, put_finite{ m });
    const exp_of map = { ag_real(n->in[0]), m };
    ag_reduce<ag_fold_sum>(n, split(n, axes_of(n)), map, put_log{ ag_real(n->out), m });
}

void ag_logsumexp_backward_cuda(ag_node *n)
{
    run_spread(n, spread_logsumexp{ ag_real(n->out->grad), ag_real(n->out) });
}
