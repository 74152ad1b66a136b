/* cuda/mlp.cu - ops/mlp.c: linear, activation, linear, alone or as the branch of a residual network.
 *
 * As on the CPU (M1, M2, M5 there): training keeps h, what the activation took. Rows go in chunks whose hidden layer stays in
 * the second cache between the kernel that writes it and the product that reads it; a chunk's a, da and dh are all that is in
 * memory beside h. */
#include "cuda/activation.h"
#include "cuda/columns.h"
#include "cuda/fused.h"
#include "cuda/reduce.h"
#include "cuda/vector.h"
#include "ops/dropout.h"
#include "ops/mlp.h"
#include "ops/registry.h"

enum { X = AG_MLP_X, W1, B1, W2, B2, RESIDUAL, SCALE };
enum { FEWEST = 256 };                                  /* rows at once */

struct mlp {
    ag_node *n;
    ag_mlp_arg arg;
    ag_dtype type;
    int64_t size, rows, in, hidden, out, chunk, sample;  /* size: bytes of an element; sample: rows of one */
    bool tail;
    const float *scale, *keep;                          /* [out]; [samples], of drop path; NULL: 1 */
};

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static __global__ void keep_samples(int64_t n, double p, ag_cuda_key key, float *keep)
{
    AG_EACH (i, n) keep[i] = ag_drop_path_keep(p, key.get(), i);
}

static mlp sizes_of(ag_node *n)
{
    const ag_tensor *x = n->in[X], *w1 = n->in[W1];
    mlp m = {};
    m.n = n, m.arg = *(const ag_mlp_arg *)n->arg, m.type = x->dtype, m.size = (int64_t)ag_dtype_size(m.type);
    m.in = w1->shape[1], m.hidden = w1->shape[0], m.out = n->in[W2]->shape[0], m.rows = ag_numel(n->out) / m.out;
    m.chunk = most(ag_cuda_chunk / (m.hidden * m.size) / FEWEST * FEWEST, FEWEST);
    m.tail = n->n_in == AG_MLP_TAIL_INPUTS;
    if (!m.tail) return m;
    const int64_t samples = x->ndim > 1 ? most(x->shape[0], 1) : 1;
    m.sample = most(m.rows / samples, 1);
    if (n->in[SCALE]) m.scale = ag_real(n->in[SCALE]);
    if (m.arg.drop_path > 0) {
        float *keep = (float *)ag_workspace(n, samples, sizeof *keep);
        LAUNCH(keep_samples, ag_blocks(samples), AG_BLOCK, 0, samples, m.arg.drop_path,
               ag_cuda_key_of(m.arg.key), keep);
        m.keep = keep;
    }
    return m;
}

static void *at_row(const mlp &m, const void *p, int64_t row, int64_t width)
{
    return (char *)(uintptr_t)p + row * width * m.size;
}

/* y = or += x w' + bias, or (plain) x w */
static void by_weight(const mlp &m, int64_t rows, const void *x, int weight, bool turned, const ag_tensor *bias, void *y,
                      ag_dtype to, bool add)
{
    const ag_tensor *w = m.n->in[weight];
    ag_blas_product p = {};
    p.n = rows, p.k = w->shape[turned ? 1 : 0], p.m = w->shape[turned ? 0 : 1];
    p.x = x, p.w = ag_cuda_param(m.n, w, m.type), p.wt = turned, p.bias = ag_cuda_param(m.n, bias, to);
    p.y = y, p.type = m.type, p.to = to, p.add = add;
    ag_blas_run(m.n->at, &p);
}

/* ---- forward ------------------------------------------------------------------------------------------- */

/* V neighbouring columns of rows from `first` on a thread: y = residual + keep scale branch */
template <int V, class T>
static __global__ void add_branch(mlp m, int64_t first, int64_t rows, const float *branch, const T *residual, T *y)
{
    const int64_t units = m.out / V;
    AG_EACH (i, rows * units) {
        const int64_t row = first + i / units, c = i % units * V;
        const float kept = m.keep ? m.keep[row / m.sample] : 1;
        const ag_pack<float, V> b = ag_get<V>(branch, i);
        ag_pack<T, V> v = ag_get<V>(residual + row * m.out + c, 0);
        for (int k = 0; k < V; k++) ag_store(&v.v[k], ag_load(v.v[k]) + kept * (m.scale ? m.scale[c + k] : 1) * b.v[k]);
        ag_put(y + row * m.out + c, 0, v);
    }
}

template <class T> static void run_add_branch(const mlp &m, int64_t first, int64_t rows, const float *branch)
{
    const T *residual = (const T *)m.n->in[RESIDUAL]->data;
    T *y = (T *)m.n->out->data;
    const int64_t n = rows * m.out;
    if (m.out % 4 == 0 && ag_wide<float>(0, branch, residual, y))
        LAUNCH((add_branch<4, T>), ag_blocks(n / 4), AG_BLOCK, 0, m, first, rows, branch, residual, y);
    else LAUNCH((add_branch<1, T>), ag_blocks(n), AG_BLOCK, 0, m, first, rows, branch, residual, y);
}

static void forward(ag_node *n)
{
    const mlp m = sizes_of(n);
    const int64_t rows = least(m.rows, m.chunk);
    void *a = ag_workspace(n, rows * m.hidden, (size_t)m.size);
    float *branch = m.tail ? (float *)ag_workspace(n, rows * m.out, sizeof *branch) : nullptr;
    for (int64_t first = 0, count; first < m.rows; first += count) {
        count = least(m.rows - first, m.chunk);
        void *h = n->saved[0] ? at_row(m, n->saved[0]->data, first, m.hidden) : a;
        by_weight(m, count, at_row(m, n->in[X]->data, first, m.in), W1, true, n->in[B1], h, m.type, false);
        ag_cuda_activate(m.arg.activation, m.type, count * m.hidden, h, a);
        if (!m.tail) {
            by_weight(m, count, a, W2, true, n->in[B2], at_row(m, n->out->data, first, m.out), m.type, false);
            continue;
        }
        by_weight(m, count, a, W2, true, n->in[B2], branch, AG_F32, false);
        AG_TYPED(m.type, T, run_add_branch<T>(m, first, count, branch));
    }
}

/* ---- backward ------------------------------------------------------------------------------------------ */

/* a = activation(h), dh = da activation'(h) in the place of da, and its sums. */
template <class T> struct hidden_gradient {
    ag_activation activation;
    const T *h;
    T *a, *dh;
    template <int V> struct at {
        __device__ inline at(const hidden_gradient &, int64_t, int64_t) {}
        __device__ inline void operator()(const hidden_gradient &m, int64_t i, float (&s)[1][V])
        {
            float z[V], d[V];
            ag_get_pack(m.h + i, z);
            ag_get_pack(m.dh + i, d);
            for (int k = 0; k < V; k++) {
                d[k] *= ag_activation_slope(m.activation, z[k]);
                z[k] = ag_activation_value(m.activation, z[k]);
                s[0][k] += d[k];
            }
            ag_put_pack(m.a + i, z, false);
            ag_put_pack(m.dh + i, d, false);
        }
    };
};

/* kept = keep dy (and its sums), scaled = scale keep dy, for rows from `first` on; both only where they are wanted */
template <class T> struct mlp_branch_gradient {
    mlp m;
    int64_t first;
    const T *dy;
    T *kept, *scaled;
    template <int V> struct at {
        float scale[V];
        __device__ inline at(const mlp_branch_gradient &b, int64_t, int64_t c)
        {
            for (int k = 0; k < V; k++) scale[k] = b.m.scale ? b.m.scale[c + k] : 1;
        }
        __device__ inline void operator()(const mlp_branch_gradient &b, int64_t i, float (&s)[1][V])
        {
            const float keep = b.m.keep ? b.m.keep[(b.first + i / b.m.out) / b.m.sample] : 1;
            float g[V];
            ag_get_pack(b.dy + i, g);
            for (int k = 0; k < V; k++) s[0][k] += g[k] *= keep;
            if (b.kept) ag_put_pack(b.kept + i, g, false);
            for (int k = 0; k < V; k++) g[k] *= scale[k];
            if (b.scaled) ag_put_pack(b.scaled + i, g, false);
        }
    };
};

struct product_of {
    const float *a, *b;
    __device__ inline float operator()(const int64_t *at, int64_t, int64_t) const { return a[at[0]] * b[at[1]]; }
};

struct put_scale {
    const float *b2, *sums;
    float *d;
    bool add;
    __device__ inline void operator()(int64_t o, float dot) const
    {
        const float v = dot + (b2 ? b2[o] * sums[o] : 0);
        d[o] = add ? d[o] + v : v;
    }
};

/* d[r, c] = or += scale[r] g[r, c]; scale NULL: 1 */
static __global__ void scale_rows(int64_t rows, int64_t width, const float *scale, const float *g, float *d, bool add)
{
    AG_EACH (i, rows * width) {
        const float v = (scale ? scale[i / width] : 1) * g[i];
        d[i] = add ? d[i] + v : v;
    }
}

/* d[n, cols] = or += g' a, sums over rows */
static void weight_gradient(const mlp &m, int64_t rows, int64_t n, int64_t cols, const void *g, const void *a, float *d, bool add)
{
    ag_blas_product p = {};
    p.n = n, p.k = rows, p.m = cols, p.x = g, p.xt = true, p.w = a, p.y = d, p.type = m.type, p.to = AG_F32, p.add = add;
    ag_blas_run(m.n->at, &p);
}

/* dw2 = scale G, dscale = sum G w2 + b2 sums */
static void finish_scale(const mlp &m, float *sums_of_w2, const float *sums)
{
    const ag_node *n = m.n;
    const ag_tensor *dw2 = n->din[W2], *dscale = n->din[SCALE], *w2 = n->in[W2], *both[2] = { w2, w2 }, *b2 = n->in[B2];
    if (dscale)
        ag_reduce<ag_fold_sum>(n, ag_split_of<2>(w2, 2, both), product_of{ sums_of_w2, ag_real(w2) },
                               put_scale{ b2 ? ag_real(b2) : nullptr, sums, ag_real(dscale), n->accumulate[SCALE] });
    if (dw2)
        LAUNCH(scale_rows, ag_blocks(m.out * m.hidden), AG_BLOCK, 0, m.out, m.hidden, m.scale, sums_of_w2, ag_real(dw2),
               n->accumulate[W2]);
}

struct desk { void *a, *dh, *kept, *scaled; float *sums_of_w2, *sums; bool add_w2; };

static desk desk_of(const mlp &m)
{
    ag_node *n = m.n;
    const int64_t rows = least(m.rows, m.chunk);
    desk d = {};
    d.a = ag_workspace(n, rows * m.hidden, (size_t)m.size), d.dh = ag_workspace(n, rows * m.hidden, (size_t)m.size);
    if (m.keep) d.kept = ag_workspace(n, rows * m.out, (size_t)m.size);
    if (m.scale) d.scaled = ag_workspace(n, rows * m.out, (size_t)m.size);
    d.sums = (float *)ag_workspace(n, m.out, sizeof *d.sums);
    d.add_w2 = n->din[W2] && n->accumulate[W2];
    if (n->din[W2]) d.sums_of_w2 = ag_real(n->din[W2]);
    if (m.scale && (d.add_w2 || (!n->din[W2] && n->din[SCALE]))) {
        d.sums_of_w2 = (float *)ag_workspace(n, m.out * m.hidden, sizeof(float));
        d.add_w2 = false;
    }
    return d;
}

/* What the branch's gradient is made of, and the sums of dh into din[B1] where that is wanted. */
template <class T> static void chunk_gradients(const mlp &m, const desk &d, int64_t first, int64_t rows, bool branch)
{
    ag_node *n = m.n;
    if (branch) {
        const mlp_branch_gradient<T> b = { m, first, (const T *)at_row(m, n->out->grad->data, first, m.out), (T *)d.kept,
                                       (T *)d.scaled };
        ag_columns_sum<1, T>(n, ag_columns_of<T>(1, rows, m.out, ag_aligned(b.dy) && ag_aligned(d.kept) && ag_aligned(d.scaled)),
                             b, ag_put_only{ { d.sums, first > 0 } });
        return;
    }
    const hidden_gradient<T> h = { m.arg.activation, (const T *)at_row(m, n->saved[0]->data, first, m.hidden), (T *)d.a,
                                   (T *)d.dh };
    ag_columns_sum<1, T>(n, ag_columns_of<T>(1, rows, m.hidden, ag_aligned(h.h) && ag_aligned(h.a) && ag_aligned(h.dh)), h,
                         ag_put_only{ { ag_real_or_null(n->din[B1]), first > 0 || n->accumulate[B1] } });
}

static void backward_chunk(const mlp &m, const desk &d, int64_t first, int64_t rows)
{
    ag_node *n = m.n;
    const void *g = m.keep ? d.kept : at_row(m, n->out->grad->data, first, m.out);
    AG_TYPED(m.type, T, chunk_gradients<T>(m, d, first, rows, true));
    by_weight(m, rows, m.scale ? d.scaled : g, W2, false, nullptr, d.dh, m.type, false);
    AG_TYPED(m.type, T, chunk_gradients<T>(m, d, first, rows, false));
    if (d.sums_of_w2) weight_gradient(m, rows, m.out, m.hidden, g, d.a, d.sums_of_w2, first > 0 || d.add_w2);
    if (n->din[W1])
        weight_gradient(m, rows, m.hidden, m.in, d.dh, at_row(m, n->in[X]->data, first, m.in), ag_real(n->din[W1]),
                        first > 0 || n->accumulate[W1]);
    if (n->din[X])
        by_weight(m, rows, d.dh, W1, false, nullptr, at_row(m, n->din[X]->data, first, m.in), m.type, n->accumulate[X]);
}

static void backward(ag_node *n)
{
    const mlp m = sizes_of(n);
    const desk d = desk_of(m);
    for (int64_t first = 0; first < m.rows || !first; first += m.chunk)
        backward_chunk(m, d, first, least(m.rows - first, m.chunk));
    if (n->din[B2])
        LAUNCH(scale_rows, ag_blocks(m.out), AG_BLOCK, 0, m.out, (int64_t)1, m.scale, d.sums, ag_real(n->din[B2]),
               n->accumulate[B2]);
    if (m.scale && d.sums_of_w2) finish_scale(m, d.sums_of_w2, d.sums);
}

void ag_mlp_forward_cuda(ag_node *n) { forward(n); }
void ag_mlp_backward_cuda(ag_node *n) { backward(n); }
void ag_mlp_residual_forward_cuda(ag_node *n) { forward(n); }

void ag_mlp_residual_backward_cuda(ag_node *n)
{
    backward(n);
    ag_node_give(n, RESIDUAL, n->out->grad);
}
