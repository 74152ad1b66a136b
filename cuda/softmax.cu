/* cuda/softmax.cu - ops/softmax.c: over one axis, seen as [outer, axis, inner]. Dense lines (inner = 1) are rows, in registers
 * where they fit; others lie beside one another, a thread for each. */
#include "cuda/rows.h"
#include "ops/formulas.h"
#include "ops/registry.h"

template <class T> struct softmax_args {
    const T *x, *y, *g;         /* forward reads x, backward y and g */
    T *out;
    int64_t lines, size, inner;
    bool add;
};

template <class T> static softmax_args<T> args_of(const ag_node *n)
{
    const int axis = *(const int *)n->arg;
    softmax_args<T> a;
    a.x = (const T *)n->in[0]->data, a.y = (const T *)n->out->data, a.g = nullptr, a.out = (T *)n->out->data;
    a.size = n->out->shape[axis], a.inner = 1, a.add = false;
    for (int d = axis + 1; d < n->out->ndim; d++) a.inner *= n->out->shape[d];
    a.lines = a.size ? ag_numel(n->out) / a.size : 0;
    return a;
}

/* exp(x - max) / sum; log: x - max - log sum */
template <bool LOGS> struct softmax_value {
    float shift, inverse;
    __device__ inline softmax_value(float max, float sum) : shift(LOGS ? max + LOG(sum) : max), inverse(1 / sum) {}
    __device__ inline float operator()(float x) const { return LOGS ? x - shift : EXP(x - shift) * inverse; }
};

/* y (g - sum g y); log: g - exp(y) sum g */
template <bool LOGS> static __device__ inline float term(float y, float g) { return LOGS ? g : g * y; }
template <bool LOGS> static __device__ inline float slope(float y, float g, float sum)
{
    return LOGS ? g - EXP(y) * sum : y * (g - sum);
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

template <bool LOGS, class T, int V, int K> static __global__ void softmax_rows(softmax_args<T> a, int lanes)
{
    const int64_t per_block = AG_BLOCK / lanes, n = a.size;
    const int lane = (int)threadIdx.x % lanes;
    for (int64_t first = blockIdx.x * per_block; first < a.lines; first += gridDim.x * per_block) {
        const int64_t row = first + threadIdx.x / lanes, own = row < a.lines ? n : 0;
        ag_row<V, K> x;
        x.load(a.x + row * n, own, lane, lanes, -INFINITY);
        const float max = x.max(lanes);
        float sum = 0;
        x.each(own, lane, lanes, [&](int64_t, float &v) { sum += EXP(v - max); });
        const softmax_value<LOGS> value(max, ag_lanes_sum(sum, lanes));
        x.each(own, lane, lanes, [&](int64_t, float &v) { v = value(v); });
        x.store(a.out + row * n, own, lane, lanes, false);
    }
}

template <bool LOGS, class T, int V, int K> static __global__ void softmax_rows_grad(softmax_args<T> a, int lanes)
{
    const int64_t per_block = AG_BLOCK / lanes, n = a.size;
    const int lane = (int)threadIdx.x % lanes;
    for (int64_t first = blockIdx.x * per_block; first < a.lines; first += gridDim.x * per_block) {
        const int64_t row = first + threadIdx.x / lanes, own = row < a.lines ? n : 0;
        ag_row<V, K> y, g;
        y.load(a.y + row * n, own, lane, lanes, 0);
        g.load(a.g + row * n, own, lane, lanes, 0);
        float sum = 0;
        for (int k = 0; k < K; k++)
            for (int i = 0; i < V; i++) sum += term<LOGS>(y.v[k][i], g.v[k][i]);
        sum = ag_lanes_sum(sum, lanes);
        for (int k = 0; k < K; k++)
            for (int i = 0; i < V; i++) y.v[k][i] = slope<LOGS>(y.v[k][i], g.v[k][i], sum);
        y.store(a.out + row * n, own, lane, lanes, a.add);
    }
}

/* A block for each. */
template <bool LOGS, class T> static __global__ void softmax_wide(softmax_args<T> a)
{
    AG_SHARED(float, shared, AG_BLOCK / AG_WARP);
    const int64_t n = a.size;
    const T *x = a.x + blockIdx.x * n;
    float max = -INFINITY, sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += AG_BLOCK) max = ag_load(x[i]) > max ? ag_load(x[i]) : max;
    max = ag_block_fold<true>(max, shared);
    for (int64_t i = threadIdx.x; i < n; i += AG_BLOCK) sum += EXP(ag_load(x[i]) - max);
    const softmax_value<LOGS> value(max, ag_block_fold<false>(sum, shared));
    for (int64_t i = threadIdx.x; i < n; i += AG_BLOCK) ag_store(a.out + blockIdx.x * n + i, value(ag_load(x[i])));
}

template <bool LOGS, class T> static __global__ void softmax_wide_grad(softmax_args<T> a)
{
    AG_SHARED(float, shared, AG_BLOCK / AG_WARP);
    const int64_t n = a.size;
    const T *y = a.y + blockIdx.x * n, *g = a.g + blockIdx.x * n;
    T *d = a.out + blockIdx.x * n;
    float sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += AG_BLOCK) sum += term<LOGS>(ag_load(y[i]), ag_load(g[i]));
    sum = ag_block_fold<false>(sum, shared);
    for (int64_t i = threadIdx.x; i < n; i += AG_BLOCK) {
        const float v = slope<LOGS>(ag_load(y[i]), ag_load(g[i]), sum);
        ag_store(d + i, a.add ? ag_load(d[i]) + v : v);
    }
}

/* ---- lines beside one another -------------------------------------------------------------------------- */

template <bool LOGS, class T> static __global__ void softmax_lines(softmax_args<T> a)
{
    AG_EACH (line, a.lines) {
        const int64_t at = line / a.inner * a.size * a.inner + line % a.inner;
        const T *x = a.x + at;
        float max = -INFINITY, sum = 0;
        for (int64_t i = 0; i < a.size; i++) max = ag_load(x[i * a.inner]) > max ? ag_load(x[i * a.inner]) : max;
        for (int64_t i = 0; i < a.size; i++) sum += EXP(ag_load(x[i * a.inner]) - max);
        const softmax_value<LOGS> value(max, sum);
        for (int64_t i = 0; i < a.size; i++) ag_store(a.out + at + i * a.inner, value(ag_load(x[i * a.inner])));
    }
}

template <bool LOGS, class T> static __global__ void softmax_lines_grad(softmax_args<T> a)
{
    AG_EACH (line, a.lines) {
        const int64_t at = line / a.inner * a.size * a.inner + line % a.inner;
        const T *y = a.y + at, *g = a.g + at;
        float sum = 0;
        for (int64_t i = 0; i < a.size; i++) sum += term<LOGS>(ag_load(y[i * a.inner]), ag_load(g[i * a.inner]));
        for (int64_t i = 0; i < a.size; i++) {
            T *d = a.out + at + i * a.inner;
            const float v = slope<LOGS>(ag_load(y[i * a.inner]), ag_load(g[i * a.inner]), sum);
            ag_store(d, a.add ? ag_load(*d) + v : v);
        }
    }
}

/* ---- launching ----------------------------------------------------------------------------------------- */

template <bool LOGS, class T> struct run_rows {
    softmax_args<T> a;
    template <int V, int K> void run(int lanes)
    {
        const unsigned blocks = ag_row_blocks(a.lines, lanes, 1 << 20);
        if (a.g) LAUNCH((softmax_rows_grad<LOGS, T, V, K>), blocks, AG_BLOCK, 0, a, lanes);
        else LAUNCH((softmax_rows<LOGS, T, V, K>), blocks, AG_BLOCK, 0, a, lanes);
    }
};

template <bool LOGS, class T> static void run(const softmax_args<T> &a)
{
    const bool aligned = ag_aligned(a.x) && ag_aligned(a.y) && ag_aligned(a.g) && ag_aligned(a.out);
    if (!a.lines) return;
    if (a.inner > 1) {
        if (a.g) LAUNCH((softmax_lines_grad<LOGS, T>), ag_blocks(a.lines), AG_BLOCK, 0, a);
        else LAUNCH((softmax_lines<LOGS, T>), ag_blocks(a.lines), AG_BLOCK, 0, a);
    } else if (!ag_row_shape<T>(a.size, aligned, run_rows<LOGS, T>{ a })) {
        if (a.g) LAUNCH((softmax_wide_grad<LOGS, T>), (unsigned)a.lines, AG_BLOCK, 0, a);
        else LAUNCH((softmax_wide<LOGS, T>), (unsigned)a.lines, AG_BLOCK, 0, a);
    }
}

template <bool LOGS, class T> static void forward(ag_node *n) { run<LOGS, T>(args_of<T>(n)); }
template <bool LOGS, class T> static void backward(ag_node *n)
{
    softmax_args<T> a = args_of<T>(n);
    if (!n->din[0]) return;
    a.g = (const T *)n->out->grad->data, a.out = (T *)n->din[0]->data, a.add = n->accumulate[0];
    run<LOGS, T>(a);
}

static bool is_half(const ag_node *n) { return n->out->dtype == AG_BF16; }
void ag_softmax_forward_cuda(ag_node *n) { is_half(n) ? forward<false, ag_bf16>(n) : forward<false, float>(n); }
void ag_softmax_backward_cuda(ag_node *n) { is_half(n) ? backward<false, ag_bf16>(n) : backward<false, float>(n); }
void ag_log_softmax_forward_cuda(ag_node *n) { is_half(n) ? forward<true, ag_bf16>(n) : forward<true, float>(n); }
void ag_log_softmax_backward_cuda(ag_node *n) { is_half(n) ? backward<true, ag_bf16>(n) : backward<true, float>(n); }
