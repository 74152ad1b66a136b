#include "cuda/fused.h"
#include "cuda/activation.h"
#include "cuda/columns.h"
#include "cuda/device.h"
#include "cuda/vector.h"
#include "ops/fused.h"

int64_t ag_cuda_chunk = 16 << 20;

/* ---- the activation ------------------------------------------------------------------------------------ */

/* z: what it takes; y may be z. n: vectors of N. */
template <int N, class T> static __global__ void activate(int64_t n, ag_activation a, const T *z, T *y)
{
    AG_EACH (i, n) {
        ag_pack<T, N> v = ag_get<N>(z, i);
        for (int k = 0; k < N; k++) ag_store(&v.v[k], ag_activation_value(a, ag_load(v.v[k])));
        ag_put(y, i, v);
    }
}

template <int N, class T>
static __global__ void activation_gradient(int64_t n, ag_activation a, const T *z, const T *g, T *d)
{
    AG_EACH (i, n) {
        const ag_pack<T, N> zs = ag_get<N>(z, i);
        ag_pack<T, N> v = ag_get<N>(g, i);
        for (int k = 0; k < N; k++) ag_store(&v.v[k], ag_load(v.v[k]) * ag_activation_slope(a, ag_load(zs.v[k])));
        ag_put(d, i, v);
    }
}

template <class T> static void run_activate(int64_t n, ag_activation a, const T *z, T *y)
{
    enum { N = 16 / sizeof(T) };
    if (ag_wide(n, z, y)) LAUNCH((activate<N, T>), ag_blocks(n / N), AG_BLOCK, 0, n / N, a, z, y);
    else LAUNCH((activate<1, T>), ag_blocks(n), AG_BLOCK, 0, n, a, z, y);
}

template <class T> static void run_gradient(int64_t n, ag_activation a, const T *z, const T *g, T *d)
{
    enum { N = 16 / sizeof(T) };
    if (ag_wide(n, z, g, d)) LAUNCH((activation_gradient<N, T>), ag_blocks(n / N), AG_BLOCK, 0, n / N, a, z, g, d);
    else LAUNCH((activation_gradient<1, T>), ag_blocks(n), AG_BLOCK, 0, n, a, z, g, d);
}

void ag_cuda_activate(ag_activation activation, ag_dtype type, int64_t n, const void *z, void *y)
{
    if (n && (activation != AG_LINEAR_PLAIN || y != z))
        AG_TYPED(type, T, run_activate(n, activation, (const T *)z, (T *)y));
}

void ag_cuda_fused_finish(ag_node *n, ag_activation activation)
{
    ag_cuda_activate(activation, n->out->dtype, ag_numel(n->out), ag_fused_target(n), n->out->data);
}

const void *ag_cuda_fused_gradient(ag_node *n, ag_activation activation)
{
    const ag_tensor *g = n->out->grad;
    const int64_t count = ag_numel(g);
    if (!count || activation == AG_LINEAR_PLAIN) return g->data;
    void *d = ag_workspace(n, count, ag_dtype_size(g->dtype));
    AG_TYPED(g->dtype, T,
             run_gradient(count, activation, (const T *)ag_fused_target(n), (const T *)g->data, (T *)d));
    return d;
}

/* ---- the bias ------------------------------------------------------------------------------------------ */

template <class T> static __global__ void add_bias(int64_t n, int64_t width, const float *bias, T *y)
{
    AG_EACH (i, n) ag_store(&y[i], ag_load(y[i]) + bias[i % width]);
}

void ag_cuda_add_bias(void *y, ag_dtype type, int64_t rows, int64_t width, const float *bias)
{
    const int64_t n = rows * width;
    if (n) AG_TYPED(type, T, LAUNCH(add_bias<T>, ag_blocks(n), AG_BLOCK, 0, n, width, bias, (T *)y));
}

template <class T> struct column_values {
    const T *g;
    template <int V> struct at {
        const T *g;
        __device__ inline at(const column_values &m, int64_t, int64_t) : g(m.g) {}
        __device__ inline void operator()(const column_values &, int64_t i, float (&s)[1][V])
        {
            float v[V];
            ag_get_pack(g + i, v);
            for (int k = 0; k < V; k++) s[0][k] += v[k];
        }
    };
};

void ag_cuda_column_sums(const ag_node *n, const void *g, ag_dtype type, int64_t rows, int64_t width, float *to, bool add)
{
    AG_TYPED(type, T, ag_columns_sum<1, T>(n, ag_columns_of<T>(1, rows, width, ag_aligned(g)), column_values<T>{ (const T *)g },
                                           ag_put_only{ { to, add } }));
}

void ag_cuda_bias_gradient(const ag_node *n, int k, const void *g)
{
    if (!n->din[k]) return;
    const int64_t width = n->out->shape[n->out->ndim - 1];
    ag_cuda_column_sums(n, g, n->out->dtype, width ? ag_numel(n->out) / width : 0, width, ag_real(n->din[k]),
                        n->accumulate[k]);
}

/* ---- parameters ---------------------------------------------------------------------------------------- */

static void narrow(const ag_tensor *t, void *to, const void *)
{
    ag_tensor copy = *t;
    copy.dtype = AG_BF16, copy.data = to;
    ag_cuda_assign(&copy, t);
}

const void *ag_cuda_param(const ag_node *n, const ag_tensor *t, ag_dtype type)
{
    enum { KEY = 0x62663136 };
    if (!t || type == t->dtype) return t ? t->data : nullptr;
    return ag_packed(n, t, KEY, ag_numel(t) * (int64_t)ag_dtype_size(type), narrow, nullptr);
}
