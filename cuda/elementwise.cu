/* cuda/elementwise.cu - the rows of ops/elementwise.def on the GPU: formulas and gradients are read from there. */
#include "cuda/reduce.h"
#include "ops/formulas.h"
#include "ops/registry.h"

static const double *constants(const ag_node *n)
{
    return (const double *)n->arg;
}

/* ---- one input ----------------------------------------------------------------------------------------- */

/* dst[i] = or += f(offsets): offset[0] of x; y and g are contiguous. */
template <class F> static __global__ void unary_forward(ag_walk<1> w, F f, const float *x, float *y)
{
    AG_EACH (i, w.n) {
        int64_t at[1];
        ag_walk_at(w, i, at);
        y[i] = f.y(x[at[0]]);
    }
}

template <class F>
static __global__ void unary_backward(ag_walk<1> w, F f, const float *x, const float *y, const float *g, float *dx,
                                      bool add)
{
    AG_EACH (i, w.n) {
        int64_t at[1];
        ag_walk_at(w, i, at);
        const float d = f.dx(x[at[0]], y[i], g[i]);
        dx[i] = add ? dx[i] + d : d;
    }
}

template <class F> static void unary_run_forward(ag_node *n, F f)
{
    const ag_tensor *x[1] = { n->in[0] };
    const ag_walk<1> w = ag_walk_of<1>(n->out, x);
    if (w.n) LAUNCH(unary_forward<F>, ag_blocks(w.n), AG_BLOCK, 0, w, f, ag_real(x[0]), ag_real(n->out));
}

template <class F> static void unary_run_backward(ag_node *n, F f)
{
    const ag_tensor *x[1] = { n->in[0] };
    const ag_walk<1> w = ag_walk_of<1>(n->out, x);
    if (!w.n || !n->din[0]) return;
    LAUNCH(unary_backward<F>, ag_blocks(w.n), AG_BLOCK, 0, w, f, ag_real(x[0]), ag_real(n->out), ag_real(n->out->grad),
           ag_real(n->din[0]), n->accumulate[0]);
}

#define UNARY(name, value, gradient, fields, ...) \
    struct name##_row { \
        fields \
        __device__ inline float y(float x) const { return value; } \
        __device__ inline float dx(float x, float y, float g) const { return (void)x, (void)y, gradient; } \
    }; \
    void ag_##name##_forward_cuda(ag_node *n) { unary_run_forward(n, name##_row{ __VA_ARGS__ }); } \
    void ag_##name##_backward_cuda(ag_node *n) { unary_run_backward(n, name##_row{ __VA_ARGS__ }); }
#define AG_UNARY(name, y, dx, domain) UNARY(name, y, dx, )
#define AG_UNARY1(name, y, dx, domain) UNARY(name, y, dx, float a;, (float)constants(n)[0])
#define AG_UNARY2(name, y, dx, domain) \
    UNARY(name, y, dx, float a; float b;, (float)constants(n)[0], (float)constants(n)[1])
#include "ops/elementwise.def"

/* ---- two inputs, broadcast ----------------------------------------------------------------------------- */

template <class F, class In, class Out>
static __global__ void binary_forward(ag_walk<2> w, F f, const In *a, const In *b, Out *y)
{
    AG_EACH (i, w.n) {
        int64_t at[2];
        ag_walk_at(w, i, at);
        y[i] = f.y(a[at[0]], b[at[1]]);
    }
}

template <class F, class In, class Out> static void binary_run_forward(ag_node *n, F f)
{
    const ag_walk<2> w = ag_walk_of<2>(n->out, n->in);
    if (!w.n) return;
    LAUNCH((binary_forward<F, In, Out>), ag_blocks(w.n), AG_BLOCK, 0, w, f, (const In *)n->in[0]->data,
           (const In *)n->in[1]->data, (Out *)n->out->data);
}

/* offsets: of a, b, and of y and g, which are contiguous */
template <class F> struct binary_gradient {
    F f;
    const float *a, *b, *y, *g;
    int which;
    __device__ inline float operator()(const int64_t *at, int64_t, int64_t) const
    {
        const float x0 = a[at[0]], x1 = b[at[1]], v = y[at[2]], d = g[at[2]];
        return which ? f.db(x0, x1, v, d) : f.da(x0, x1, v, d);
    }
};

/* The gradient of a broadcast operand is summed over the axes it was repeated along; without any, that is one term. */
template <class F> static void binary_run_backward(ag_node *n, F f)
{
    const ag_tensor *all[3] = { n->in[0], n->in[1], n->out };
    for (int k = 0; k < 2; k++) {
        if (!n->din[k]) continue;
        uint32_t repeated = 0;
        for (int d = 0; d < n->out->ndim; d++) {
            const int own = d - (n->out->ndim - n->in[k]->ndim);
            if (own < 0 || n->in[k]->shape[own] != n->out->shape[d]) repeated |= 1u << d;
        }
        const binary_gradient<F> map = { f, ag_real(n->in[0]), ag_real(n->in[1]), ag_real(n->out),
                                         ag_real(n->out->grad), k };
        ag_reduce<ag_fold_sum>(n, ag_split_of<3>(n->out, repeated, all), map,
                               ag_put_sum{ ag_real(n->din[k]), 1, n->accumulate[k] });
    }
}

#define AG_BINARY(name, value, grad_a, grad_b, domain) \
    struct name##_row { \
        __device__ inline float y(float a, float b) const { return value; } \
        __device__ inline float da(float a, float b, float y, float g) const \
        { return (void)a, (void)b, (void)y, grad_a; } \
        __device__ inline float db(float a, float b, float y, float g) const \
        { return (void)a, (void)b, (void)y, grad_b; } \
    }; \
    void ag_##name##_forward_cuda(ag_node *n) { binary_run_forward<name##_row, float, float>(n, {}); } \
    void ag_##name##_backward_cuda(ag_node *n) { binary_run_backward(n, name##_row{}); }
#define AG_COMPARE(name, condition) \
    struct name##_row { \
        template <class T> __device__ inline uint8_t y(T a, T b) const { return condition; } \
    }; \
    void ag_##name##_forward_cuda(ag_node *n) \
    { \
        switch (n->in[0]->dtype) { \
        case AG_I64: return binary_run_forward<name##_row, int64_t, uint8_t>(n, {}); \
        case AG_I32: return binary_run_forward<name##_row, int32_t, uint8_t>(n, {}); \
        case AG_U8: return binary_run_forward<name##_row, uint8_t, uint8_t>(n, {}); \
        default: return binary_run_forward<name##_row, float, uint8_t>(n, {}); \
        } \
    }
#include "ops/elementwise.def"
