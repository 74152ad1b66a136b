/* cuda/matmul.cu - ops/matmul.c: matmul, linear and their gradients through cuBLASLt. */
#include "cuda/blas.h"
#include "cuda/device.h"
#include "cuda/reduce.h"
#include "ops/formulas.h"
#include "ops/registry.h"

/* A stack of matrices with leading axes broadcast to the output's. */
struct stack {
    float *data;
    int64_t rows, cols, row_stride, col_stride;
    int64_t batch_stride[AG_MAX_DIMS];                  /* along each leading axis of the output; 0: repeated */
};

struct batches {
    int ndim;
    int64_t size[AG_MAX_DIMS];
};

static stack stack_of(const ag_tensor *t, const batches *b, bool transposed)
{
    stack s = { ag_real(t), t->shape[t->ndim - 2], t->shape[t->ndim - 1], t->stride[t->ndim - 2],
                t->stride[t->ndim - 1], {} };
    for (int d = 0; d < b->ndim; d++) {
        const int own = d - (b->ndim - (t->ndim - 2));
        s.batch_stride[d] = own < 0 || t->shape[own] == 1 ? 0 : t->stride[own];
    }
    if (transposed) {
        const int64_t rows = s.rows, stride = s.row_stride;
        s.rows = s.cols, s.row_stride = s.col_stride;
        s.cols = rows, s.col_stride = stride;
    }
    return s;
}

/* A matrix with neither axis contiguous is copied; so is one whose rows overlap (expand). */
static const ag_tensor *readable(const ag_node *n, const ag_tensor *t, ag_tensor *copy)
{
    ag_blas_matrix m;
    bool trans;
    const int r = t->ndim - 2;
    if (ag_blas_layout(t->shape[r], t->shape[r + 1], t->stride[r], t->stride[r + 1], &m, &trans)) return t;
    *copy = *t;
    copy->data = ag_workspace(n, ag_numel(t), ag_dtype_size(t->dtype));
    int64_t stride = 1;
    for (int d = t->ndim - 1; d >= 0; d--) {
        copy->stride[d] = stride;
        stride *= t->shape[d];
    }
    ag_cuda_assign(copy, t);
    return copy;
}

/* y[...] = or += x[...] w[...] for one stack after the other along the outer axes and all at once along the last one.
 * An axis along which y repeats is a sum: its products are added in their order. cuBLAS counts columns first: it is
 * asked for y' = w' x'. */
static void multiply(const ag_node *n, const batches *b, stack y, stack x, stack w, bool add)
{
    ag_blas_plan p;
    memset(&p, 0, sizeof p);
    p.m = y.cols, p.n = y.rows, p.k = x.cols;
    AG_ASSERT(ag_blas_layout(w.cols, w.rows, w.col_stride, w.row_stride, &p.a, &p.trans_a));
    AG_ASSERT(ag_blas_layout(x.cols, x.rows, x.col_stride, x.row_stride, &p.b, &p.trans_b));
    bool trans_d;
    AG_ASSERT(ag_blas_layout(y.cols, y.rows, y.col_stride, y.row_stride, &p.d, &trans_d) && !trans_d);
    const int last = b->ndim - 1;
    const bool together = last >= 0 && y.batch_stride[last] != 0;
    p.batch = together ? (int)b->size[last] : 1;
    p.a.step = together ? w.batch_stride[last] : 0;
    p.b.step = together ? x.batch_stride[last] : 0;
    p.d.step = together ? y.batch_stride[last] : 0;
    int64_t rounds = 1;
    for (int d = 0; d < b->ndim - (together ? 1 : 0); d++) rounds *= b->size[d];
    for (int64_t round = 0; round < rounds; round++) {
        int64_t rest = round, ox = 0, ow = 0, oy = 0;
        bool first = true;                              /* of those that go into this matrix of y */
        for (int d = b->ndim - 1 - (together ? 1 : 0); d >= 0; d--) {
            const int64_t i = rest % b->size[d];
            rest /= b->size[d];
            ox += i * x.batch_stride[d], ow += i * w.batch_stride[d], oy += i * y.batch_stride[d];
            if (i && !y.batch_stride[d] && b->size[d] > 1) first = false;
        }
        p.add = add || !first;
        ag_blas_multiply(n->at, &p, w.data + ow, x.data + ox, y.data + oy, nullptr);
    }
}

/* The leading axes of the output. One weight for all: they are folded into the rows. */
static batches leading(const ag_node *n)
{
    batches b = { n->out->ndim - 2, {} };
    for (int d = 0; d < b.ndim; d++) b.size[d] = n->out->shape[d];
    return b;
}

static ag_tensor folded(const ag_tensor *t)
{
    ag_tensor f = *t;
    f.ndim = 2;
    f.shape[1] = f.stride[0] = t->shape[t->ndim - 1];
    f.shape[0] = f.shape[1] ? ag_numel(t) / f.shape[1] : 0;
    f.stride[1] = 1;
    return f;
}

static bool folds(const ag_node *n)
{
    return n->in[1]->ndim == 2 && n->in[0]->ndim > 2 && ag_is_contiguous(n->in[0]);
}

/* The three tensors in the roles y = or += x w, with w or x transposed. */
static void product(const ag_node *n, const batches *b, const ag_tensor *y, const ag_tensor *x, bool xt,
                    const ag_tensor *w, bool wt, bool add)
{
    ag_tensor copy_x, copy_w;
    if (!ag_numel(y)) return;
    x = readable(n, x, &copy_x);
    w = readable(n, w, &copy_w);
    multiply(n, b, stack_of(y, b, false), stack_of(x, b, xt), stack_of(w, b, wt), add);
}

/* K = 0: an empty sum. */
static bool empty(const ag_node *n, ag_tensor *y, bool add)
{
    if (n->in[0]->shape[n->in[0]->ndim - 1] && ag_numel(n->out)) return false;
    if (!add) ag_cuda_fill(y, 0);
    return true;
}

void ag_matmul_forward_cuda(ag_node *n)
{
    const bool fold = folds(n);
    const ag_tensor x = fold ? folded(n->in[0]) : *n->in[0], y = fold ? folded(n->out) : *n->out;
    const batches none = { 0, {} }, all = leading(n);
    if (!empty(n, n->out, false)) product(n, fold ? &none : &all, &y, &x, false, n->in[1], false, false);
}

void ag_matmul_backward_cuda(ag_node *n)
{
    const bool fold = folds(n);
    const ag_tensor x = fold ? folded(n->in[0]) : *n->in[0], g = fold ? folded(n->out->grad) : *n->out->grad;
    const batches none = { 0, {} }, all = leading(n), *b = fold ? &none : &all;
    for (int k = 0; k < 2; k++) {
        if (!n->din[k] || empty(n, n->din[k], n->accumulate[k])) continue;
        const ag_tensor d = fold && k == 0 ? folded(n->din[0]) : *n->din[k];
        if (k == 0) product(n, b, &d, &g, false, n->in[1], true, n->accumulate[0]);
        else product(n, b, &d, &x, true, &g, false, n->accumulate[1]);
    }
}

/* ---- linear: y = activation(x w' + bias) --------------------------------------------------------------- */

/* Dense, row-major: y[n, m] = or += x[n, k] w[k, m] (+ bias[m]); xt, wt: x is stored [k, n], w [m, k]. */
static void dense(const char *at, int64_t n, int64_t k, int64_t m, const float *x, bool xt, const float *w, bool wt,
                  float *y, bool add, const float *bias)
{
    ag_blas_plan p;
    memset(&p, 0, sizeof p);
    p.trans_a = wt, p.trans_b = xt, p.add = add, p.batch = 1;
    p.m = m, p.n = n, p.k = k;
    p.a = wt ? ag_blas_matrix{ k, m, k, 0 } : ag_blas_matrix{ m, k, m, 0 };
    p.b = xt ? ag_blas_matrix{ n, k, n, 0 } : ag_blas_matrix{ k, n, k, 0 };
    p.d = { m, n, m, 0 };
    ag_blas_multiply(at, &p, w, x, y, bias);
}

/* s: the sum before the activation; y may be s. */
static __global__ void activate(int64_t n, bool gelu, const float *s, float *y)
{
    AG_EACH (i, n) y[i] = gelu ? GELU(s[i]) : s[i] > 0 ? s[i] : 0;
}

static __global__ void activation_gradient(int64_t n, bool gelu, const float *s, const float *g, float *d)
{
    AG_EACH (i, n) d[i] = gelu ? g[i] * GELU_GRAD(s[i]) : s[i] > 0 ? g[i] : 0;
}

static ag_activation activation_of(const ag_node *n)
{
    return *(const ag_activation *)n->arg;
}

void ag_linear_forward_cuda(ag_node *n)
{
    const ag_tensor *x = n->in[0], *w = n->in[1], *bias = n->in[2];
    const int64_t out = w->shape[0], in = w->shape[1], count = ag_numel(n->out);
    ag_tensor *sum = n->saved[0] ? n->saved[0] : n->out;
    if (in) dense(n->at, count / out, in, out, ag_real(x), false, ag_real(w), true, ag_real(sum), false,
                  bias ? ag_real(bias) : nullptr);
    else if (bias) ag_cuda_assign(sum, bias);
    else ag_cuda_fill(sum, 0);
    if (activation_of(n) != AG_LINEAR_PLAIN)
        LAUNCH(activate, ag_blocks(count), AG_BLOCK, 0, count, activation_of(n) == AG_LINEAR_GELU, ag_real(sum),
               ag_real(n->out));
}

/* GELU's needs the sum, ReLU's has the output's sign to go by. */
static ag_tensor gradient_of_sum(ag_node *n)
{
    ag_tensor g = *n->out->grad;
    const int64_t count = ag_numel(n->out);
    if (activation_of(n) == AG_LINEAR_PLAIN) return g;
    g.data = ag_workspace(n, count, sizeof(float));
    LAUNCH(activation_gradient, ag_blocks(count), AG_BLOCK, 0, count, activation_of(n) == AG_LINEAR_GELU,
           ag_real(n->saved[0] ? n->saved[0] : n->out), ag_real(n->out->grad), ag_real(&g));
    return g;
}

struct value_at {
    const float *x;
    __device__ inline float operator()(const int64_t *at, int64_t, int64_t) const { return x[at[0]]; }
};

void ag_linear_backward_cuda(ag_node *n)
{
    const ag_tensor *x = n->in[0], *w = n->in[1], g = gradient_of_sum(n), *one[1] = { &g };
    const int64_t out = w->shape[0], in = w->shape[1], rows = ag_numel(&g) / out;
    if (n->din[0] && in)
        dense(n->at, rows, out, in, ag_real(&g), false, ag_real(w), false, ag_real(n->din[0]), n->accumulate[0],
              nullptr);
    if (n->din[1] && in)
        dense(n->at, out, rows, in, ag_real(&g), true, ag_real(x), false, ag_real(n->din[1]), n->accumulate[1],
              nullptr);
    if (n->din[2])
        ag_reduce<ag_fold_sum>(n, ag_split_of<1>(&g, (1u << (g.ndim - 1)) - 1, one), value_at{ ag_real(&g) },
                               ag_put_sum{ ag_real(n->din[2]), 1, n->accumulate[2] });
}
