/* cuda/matmul.cu - ops/matmul.c: matmul, linear and their gradients through cuBLASLt. */
#include "cuda/device.h"
#include "cuda/fused.h"
#include "ops/fused.h"
#include "ops/registry.h"

/* A stack of matrices with leading axes broadcast to the output's. */
struct stack {
    char *data;
    int64_t rows, cols, row_stride, col_stride;
    int64_t batch_stride[AG_MAX_DIMS];                  /* along each leading axis of the output; 0: repeated */
};

struct batches {
    int ndim;
    int64_t size[AG_MAX_DIMS];
};

static stack stack_of(const ag_tensor *t, const batches *b, bool transposed)
{
    stack s = { (char *)t->data, t->shape[t->ndim - 2], t->shape[t->ndim - 1], t->stride[t->ndim - 2],
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
    p.narrow = p.narrow_d = n->out->dtype == AG_BF16;
    p.m = y.cols, p.n = y.rows, p.k = x.cols;
    AG_ASSERT(ag_blas_layout(w.cols, w.rows, w.col_stride, w.row_stride, &p.a, &p.trans_a));
    AG_ASSERT(ag_blas_layout(x.cols, x.rows, x.col_stride, x.row_stride, &p.b, &p.trans_b));
    bool trans_d;
    AG_ASSERT(ag_blas_layout(y.cols, y.rows, y.col_stride, y.row_stride, &p.d, &trans_d) && !trans_d);
    const int last = b->ndim - 1;
    const int64_t size = (int64_t)ag_dtype_size(n->out->dtype);
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
        ag_blas_multiply(n->at, &p, w.data + ow * size, x.data + ox * size, y.data + oy * size, nullptr);
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

static ag_activation activation_of(const ag_node *n)
{
    return *(const ag_activation *)n->arg;
}

void ag_linear_forward_cuda(ag_node *n)
{
    const ag_tensor *x = n->in[0], *w = n->in[1];
    const int64_t out = w->shape[0], in = w->shape[1];
    ag_blas_product p = {};
    if (!out) return;
    p.n = ag_numel(n->out) / out, p.k = in, p.m = out, p.type = p.to = x->dtype;
    p.x = x->data, p.w = ag_cuda_param(n, w, p.type), p.wt = true, p.bias = ag_cuda_param(n, n->in[2], p.type);
    p.y = ag_fused_target(n);
    ag_blas_run(n->at, &p);
    ag_cuda_fused_finish(n, activation_of(n));
}

/* d x = g w, d w = g' x */
void ag_linear_backward_cuda(ag_node *n)
{
    const ag_tensor *x = n->in[0], *w = n->in[1];
    const int64_t out = w->shape[0], in = w->shape[1];
    const void *g = ag_cuda_fused_gradient(n, activation_of(n));
    ag_blas_product p = {};
    p.type = x->dtype, p.x = g;
    if (n->din[0]) {
        p.n = in ? ag_numel(x) / in : 0, p.k = out, p.m = in, p.to = p.type, p.add = n->accumulate[0];
        p.w = ag_cuda_param(n, w, p.type), p.y = n->din[0]->data;
        ag_blas_run(n->at, &p);
    }
    if (n->din[1]) {
        p.n = out, p.k = out ? ag_numel(n->out) / out : 0, p.m = in, p.to = AG_F32, p.add = n->accumulate[1];
        p.xt = true, p.w = x->data, p.y = n->din[1]->data;
        ag_blas_run(n->at, &p);
    }
    ag_cuda_bias_gradient(n, 2, g);
}
