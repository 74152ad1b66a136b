/* cuda/layer_norm.cu - ops/layer_norm.c. With h = (x - mean) rstd and u = g w:
 *     y = h w + b,   d w = sum g h,   d b = sum g,   d x = rstd (u - mean(u) - h mean(u h))
 * Rows of up to AG_ROW_MOST elements stay in registers: x (and g) are read once, and backward gathers the sums of d w and
 * d b in the same pass. */
#include "cuda/columns.h"
#include "ops/registry.h"

enum { X, WEIGHT, BIAS };
/* Blocks whose sums of d w and d b are folded afterwards: two or four for each of some 132 processors, but a number of the
 * code's, not the machine's, so that the bits depend on sizes alone. */
enum { GRAD_BLOCKS = 264 };

template <class T> struct layer_args {
    const T *x, *g;
    T *out;                     /* y, or d x */
    const float *w, *b;         /* NULL: 1, 0 */
    float *mean, *rstd;
    int64_t rows, width;
    float eps;
    bool add;
};

template <class T> static layer_args<T> args_of(const ag_node *n)
{
    const ag_tensor *x = n->in[X];
    layer_args<T> a;
    a.x = (const T *)x->data, a.g = nullptr, a.out = (T *)n->out->data;
    a.w = ag_real_or_null(n->in[WEIGHT]), a.b = ag_real_or_null(n->in[BIAS]);
    a.mean = ag_real_or_null(n->saved[0]), a.rstd = ag_real_or_null(n->saved[1]);
    a.width = x->shape[x->ndim - 1], a.rows = ag_numel(x) / a.width;
    a.eps = (float)*(const double *)n->arg, a.add = false;
    return a;
}

template <class T> static bool aligned(const layer_args<T> &a)
{
    return ag_aligned(a.x) && ag_aligned(a.g) && ag_aligned(a.out) && ag_aligned(a.w) && ag_aligned(a.b);
}

template <int V> static __device__ inline void parameters(const float *p, int64_t c, float none, float (&to)[V])
{
    if (p) ag_get_pack<V>(p + c, to);
    else
        for (int i = 0; i < V; i++) to[i] = none;
}

/* ---- forward ------------------------------------------------------------------------------------------- */

template <class T, int V, int K>
static __global__ void __launch_bounds__(AG_BLOCK, 2) layer_forward(layer_args<T> a, int lanes)
{
    const int64_t per_block = AG_BLOCK / lanes, n = a.width;
    const int lane = (int)threadIdx.x % lanes;
    for (int64_t first = blockIdx.x * per_block; first < a.rows; first += gridDim.x * per_block) {
        const int64_t row = first + threadIdx.x / lanes, own = row < a.rows ? n : 0;
        ag_row<V, K> x;
        x.load(a.x + row * n, own, lane, lanes, 0);
        const float mean = x.sum(lanes) / (float)n;
        float square = 0;
        x.each(n, lane, lanes, [&](int64_t, float &v) { square += (v - mean) * (v - mean); });
        const float rstd = 1 / sqrtf(ag_lanes_sum(square, lanes) / (float)n + a.eps);
        for (int k = 0; k < K; k++) {
            const int64_t c = (int64_t)(k * lanes + lane) * V;
            if (c >= own) continue;
            float w[V], b[V];
            parameters(a.w, c, 1, w);
            parameters(a.b, c, 0, b);
            for (int i = 0; i < V; i++) x.v[k][i] = (x.v[k][i] - mean) * rstd * w[i] + b[i];
        }
        x.store(a.out + row * n, own, lane, lanes, false);
        if (a.mean && own && !lane) a.mean[row] = mean, a.rstd[row] = rstd;
    }
}

/* A block for each row, which it walks over three times. */
template <class T> static __global__ void layer_forward_wide(layer_args<T> a)
{
    AG_SHARED(float, shared, AG_BLOCK / AG_WARP);
    const int64_t n = a.width, row = blockIdx.x;
    const T *x = a.x + row * n;
    float sum = 0, square = 0;
    for (int64_t i = threadIdx.x; i < n; i += AG_BLOCK) sum += ag_load(x[i]);
    const float mean = ag_block_fold<false>(sum, shared) / (float)n;
    for (int64_t i = threadIdx.x; i < n; i += AG_BLOCK) {
        const float d = ag_load(x[i]) - mean;
        square += d * d;
    }
    const float rstd = 1 / sqrtf(ag_block_fold<false>(square, shared) / (float)n + a.eps);
    for (int64_t i = threadIdx.x; i < n; i += AG_BLOCK)
        ag_store(a.out + row * n + i, (ag_load(x[i]) - mean) * rstd * (a.w ? a.w[i] : 1) + (a.b ? a.b[i] : 0));
    if (a.mean && !threadIdx.x) a.mean[row] = mean, a.rstd[row] = rstd;
}

template <class T> struct run_forward {
    layer_args<T> a;
    template <int V, int K> void run(int lanes)
    {
        LAUNCH((layer_forward<T, V, K>), ag_row_blocks(a.rows, lanes, 1 << 20), AG_BLOCK, 0, a, lanes);
    }
};

template <class T> static void forward(ag_node *n)
{
    const layer_args<T> a = args_of<T>(n);
    if (!a.rows) return;
    if (!ag_row_shape<T>(a.width, aligned(a), run_forward<T>{ a }))
        LAUNCH(layer_forward_wide<T>, (unsigned)a.rows, AG_BLOCK, 0, a);
}

/* ---- backward ------------------------------------------------------------------------------------------ */

/* The sums of one of d w, d b, which the groups of lanes hold, over the groups of the block, into to[width]. */
template <int V, int K>
static __device__ inline void gather(float (&d)[K][V], int64_t width, int lane, int lanes, float *shared, float *to)
{
    const int group = (int)threadIdx.x / lanes;
    __syncthreads();
    for (int k = 0; k < K; k++) {
        const int64_t c = (int64_t)(k * lanes + lane) * V;
        if (c < width)
            for (int i = 0; i < V; i++) shared[group * width + c + i] = d[k][i];
    }
    __syncthreads();
    for (int64_t c = threadIdx.x; c < width; c += AG_BLOCK) {
        float sum = 0;
        for (int g = 0; g < AG_BLOCK / lanes; g++) sum += shared[g * width + c];
        to[c] = sum;
    }
}

/* parts [blocks, 2, width], or NULL. One block at a time will do: to make room for more, registers would be spilled. */
template <class T, int V, int K>
static __global__ void __launch_bounds__(AG_BLOCK, 1) layer_backward(layer_args<T> a, int lanes, float *parts)
{
    AG_DYNAMIC_SHARED(float, shared);
    const int64_t per_block = AG_BLOCK / lanes, n = a.width;
    const int lane = (int)threadIdx.x % lanes;
    float dw[K][V], db[K][V];
    for (int k = 0; k < K; k++)
        for (int i = 0; i < V; i++) dw[k][i] = db[k][i] = 0;
    for (int64_t first = blockIdx.x * per_block; first < a.rows; first += gridDim.x * per_block) {
        const int64_t row = first + threadIdx.x / lanes, own = row < a.rows ? n : 0;
        const float mean = own ? a.mean[row] : 0, rstd = own ? a.rstd[row] : 0;
        ag_row<V, K> x, g;
        x.load(a.x + row * n, own, lane, lanes, 0);
        g.load(a.g + row * n, own, lane, lanes, 0);
        float sum = 0, dot = 0;
        for (int k = 0; k < K; k++) {
            const int64_t c = (int64_t)(k * lanes + lane) * V;
            if (c >= own) continue;
            float w[V];
            parameters(a.w, c, 1, w);
            for (int i = 0; i < V; i++) {
                const float h = (x.v[k][i] - mean) * rstd, v = g.v[k][i], u = v * w[i];
                x.v[k][i] = h, g.v[k][i] = u;
                dw[k][i] += v * h, db[k][i] += v;
                sum += u, dot += u * h;
            }
        }
        if (!a.out) continue;
        sum = ag_lanes_sum(sum, lanes) / (float)n, dot = ag_lanes_sum(dot, lanes) / (float)n;
        for (int k = 0; k < K; k++)
            for (int i = 0; i < V; i++) x.v[k][i] = rstd * (g.v[k][i] - sum - x.v[k][i] * dot);
        x.store(a.out + row * n, own, lane, lanes, a.add);
    }
    if (!parts) return;
    gather(dw, n, lane, lanes, shared, parts + blockIdx.x * 2 * n);
    gather(db, n, lane, lanes, shared, parts + (blockIdx.x * 2 + 1) * n);
}

template <class T> static __global__ void layer_backward_wide(layer_args<T> a)
{
    AG_SHARED(float, shared, AG_BLOCK / AG_WARP);
    const int64_t n = a.width, row = blockIdx.x;
    const T *x = a.x + row * n, *g = a.g + row * n;
    const float mean = a.mean[row], rstd = a.rstd[row];
    float sum = 0, dot = 0;
    for (int64_t i = threadIdx.x; i < n; i += AG_BLOCK) {
        const float u = ag_load(g[i]) * (a.w ? a.w[i] : 1);
        sum += u, dot += u * (ag_load(x[i]) - mean) * rstd;
    }
    sum = ag_block_fold<false>(sum, shared) / (float)n;
    dot = ag_block_fold<false>(dot, shared) / (float)n;
    T *d = a.out + row * n;
    for (int64_t i = threadIdx.x; i < n; i += AG_BLOCK) {
        const float h = (ag_load(x[i]) - mean) * rstd, v = rstd * (ag_load(g[i]) * (a.w ? a.w[i] : 1) - sum - h * dot);
        ag_store(d + i, a.add ? ag_load(d[i]) + v : v);
    }
}

/* d w and d b of wide rows, by column */
template <class T> struct parameter_sums {
    layer_args<T> a;
    template <int V> struct at {
        __device__ inline at(const parameter_sums &, int64_t, int64_t) {}
        __device__ inline void operator()(const parameter_sums &m, int64_t i, float (&s)[2][V])
        {
            const int64_t row = i / m.a.width;
            const float mean = m.a.mean[row], rstd = m.a.rstd[row];
            float x[V], g[V];
            ag_get_pack<V>(m.a.x + i, x);
            ag_get_pack<V>(m.a.g + i, g);
            for (int k = 0; k < V; k++) s[0][k] += g[k] * (x[k] - mean) * rstd, s[1][k] += g[k];
        }
    };
};

template <class T> struct run_backward {
    layer_args<T> a;
    const ag_node *n;
    template <int V, int K> void run(int lanes)
    {
        const bool sums = n->din[WEIGHT] || n->din[BIAS];
        const unsigned blocks = ag_row_blocks(a.rows, lanes, !sums ? 1 << 20 : V * K <= 16 ? 2 * GRAD_BLOCKS : GRAD_BLOCKS);
        float *parts = sums ? (float *)ag_workspace(n, 2 * blocks * a.width, sizeof *parts) : nullptr;
        LAUNCH((layer_backward<T, V, K>), blocks, AG_BLOCK, sums ? AG_BLOCK / lanes * a.width * sizeof(float) : 0, a, lanes,
               parts);
        if (sums) ag_columns_fold<2>(1, a.width, blocks, parts, ag_put_parameters_of(n, WEIGHT, BIAS));
    }
};

template <class T> static void backward(ag_node *n)
{
    layer_args<T> a = args_of<T>(n);
    a.g = (const T *)n->out->grad->data;
    a.out = n->din[X] ? (T *)n->din[X]->data : nullptr, a.add = n->accumulate[X];
    if (a.rows && ag_row_shape<T>(a.width, aligned(a), run_backward<T>{ a, n })) return;
    if (a.rows && a.out) LAUNCH(layer_backward_wide<T>, (unsigned)a.rows, AG_BLOCK, 0, a);
    if (n->din[WEIGHT] || n->din[BIAS])
        ag_columns_sum<2, T>(n, ag_columns_of<T>(1, a.rows, a.width, aligned(a)), parameter_sums<T>{ a },
                             ag_put_parameters_of(n, WEIGHT, BIAS));
}

void ag_layer_norm_forward_cuda(ag_node *n)
{
    if (n->in[X]->dtype == AG_BF16) forward<ag_bf16>(n);
    else forward<float>(n);
}

void ag_layer_norm_backward_cuda(ag_node *n)
{
    if (n->in[X]->dtype == AG_BF16) backward<ag_bf16>(n);
    else backward<float>(n);
}
