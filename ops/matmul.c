/* ops/matmul.c - matmul (any leading axes, broadcast; any strides) and linear, on ops/gemm.h. */
#include "core/thread.h"
#include "ops/formulas.h"
#include "ops/gemm.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/rows.h"

/* ---- matmul -------------------------------------------------------------------------------------------- */

static ag_tensor leading(const ag_tensor *t)       /* all axes but the last two */
{
    ag_tensor l = *t;
    l.ndim -= 2;
    return l;
}

static void matmul_infer(ag_node *n)
{
    const ag_tensor *a = n->in[0], *b = n->in[1];
    ag_node_require_real(n, a, "a");
    ag_node_require_real(n, b, "b");
    AG_REQUIRE(n, a->ndim >= 2 && b->ndim >= 2, "needs two or more axes; ag_reshape makes a row or a column of a vector");
    AG_REQUIRE(n, a->shape[a->ndim - 1] == b->shape[b->ndim - 2], "inner dimensions differ: got %" PRId64 " and %" PRId64,
               a->shape[a->ndim - 1], b->shape[b->ndim - 2]);
    const ag_tensor la = leading(a), lb = leading(b);
    ag_shape s = ag_node_broadcast(n, &la, &lb);
    s.dim[s.ndim++] = a->shape[a->ndim - 2];
    s.dim[s.ndim++] = b->shape[b->ndim - 1];
    ag_node_out(n, AG_F32, s);
}

/* c (+)= a b for every entry of the leading axes; transposed operands are read as such. Where c is shared by several
 * entries (the gradient of a broadcast operand) they are added one after another. */
static void multiply(const ag_tensor *a, bool turn_a, const ag_tensor *b, bool turn_b, ag_tensor *c, bool add)
{
    const int ra = a->ndim - 2 + turn_a, ca = a->ndim - 1 - turn_a, rb = b->ndim - 2 + turn_b, cb = b->ndim - 1 - turn_b;
    ag_gemm g = { .n = a->shape[ra], .k = a->shape[ca], .m = b->shape[cb], .a_row = a->stride[ra], .a_col = a->stride[ca],
                  .b_row = b->stride[rb], .b_col = b->stride[cb], .c_row = c->shape[c->ndim - 1], .add = add };
    const ag_tensor la = leading(a), lb = leading(b), lc = leading(c), *const operands[] = { &la, &lb, &lc };
    ag_shape s = { .ndim = la.ndim > lb.ndim ? la.ndim : lb.ndim };
    for (int i = 1; i <= s.ndim; i++) {
        const int64_t p = i <= la.ndim ? la.shape[la.ndim - i] : 1, q = i <= lb.ndim ? lb.shape[lb.ndim - i] : 1;
        s.dim[s.ndim - i] = p == 1 ? q : p;
    }
    ag_rows_walk w = ag_rows_begin(s, 3, operands);
    for (int64_t r = 0; r < w.count; r++, ag_rows_next(&w)) {
        const int64_t at_once = w.n == 1 || w.step[2] ? w.n : 1;
        g.batch = at_once, g.a_batch = w.step[0], g.b_batch = w.step[1], g.c_batch = w.step[2];
        for (int64_t i = 0; i < w.n; i += at_once) {
            g.a = ag_real(a) + w.offset[0] + i * w.step[0], g.b = ag_real(b) + w.offset[1] + i * w.step[1];
            g.c = ag_real(c) + w.offset[2];
            ag_gemm_run(&g);
            if (!w.step[2]) g.add = true;
        }
    }
}

static void matmul_forward(ag_node *n)
{
    if (!ag_numel(n->out)) return;
    multiply(n->in[0], false, n->in[1], false, n->out, false);
}

static bool shared(const ag_tensor *d, const ag_tensor *out)       /* by several entries of the leading axes */
{
    bool same = d->ndim == out->ndim;
    for (int i = 0; same && i < d->ndim - 2; i++) same = d->shape[i] == out->shape[i];
    return !same;
}

/* d a = g b^T, d b = a^T g */
static void matmul_backward(ag_node *n)
{
    for (int k = 0; k < 2; k++) {
        ag_tensor *d = n->din[k];
        if (!d) continue;
        bool add = n->accumulate[k];
        if (shared(d, n->out) && !add) ag_fill(d, 0), add = true;
        if (k == 0) multiply(n->out->grad, false, n->in[1], true, d, add);
        else multiply(n->in[0], true, n->out->grad, false, d, add);
    }
}

static ag_tensor *matmul_check(ag_tensor **in) { return ag_matmul(in[0], in[1]); }
static ag_tensor *matmul_turned(ag_tensor **in) { return ag_matmul(ag_transpose(in[0], 0, 1), ag_transpose(in[1], 0, 1)); }

const ag_op ag_op_matmul = {
    .name = "matmul", .inputs = "a b", .infer = matmul_infer, .strided = true,
    .forward = { matmul_forward, AG_CUDA_FN(ag_matmul_forward_cuda) },
    .backward = { matmul_backward, AG_CUDA_FN(ag_matmul_backward_cuda) },
    .check = { { "a[3,4] b[4,5]", matmul_check }, { "a[2,7,33] b[2,33,35]", matmul_check },
               { "a[5,3] b[4,5]", matmul_turned }, { "a[2,3,4] b[4,5]", matmul_check },
               { "a[3,4] b[2,2,4,3]", matmul_check }, { "a[2,1,3,4] b[5,4,2]", matmul_check } },
};

ag_tensor *ag_matmul_(const char *at, ag_tensor *a, ag_tensor *b)
{
    if (a->dtype != AG_BF16 || b->dtype != AG_BF16)
        return ag_apply_(at, &ag_op_matmul, 2, (ag_tensor *[]){ a, b }, NULL, 0);
    ag_tensor *wide = ag_matmul_(at, ag_cast_(at, a, AG_F32), ag_cast_(at, b, AG_F32));     /* f32 accumulation */
    return ag_cast_(at, wide, AG_BF16);
}

/* ---- linear: y = activation(x w^T + bias) -------------------------------------------------------------- */

typedef struct { ag_activation activation; } linear_arg;

static ag_activation activation_of(const ag_node *n)
{
    return ((const linear_arg *)n->arg)->activation;
}

/* GELU's gradient needs what went into it; ReLU's does not. */
static bool keeps_sum(const ag_node *n)
{
    return n->saved[0] != NULL;
}

static void linear_infer(ag_node *n)
{
    const ag_tensor *x = n->in[0], *w = n->in[1], *bias = n->in[2];
    ag_node_require_real(n, x, "x");
    ag_node_require_real(n, w, "weight");
    AG_REQUIRE(n, x->ndim >= 1 && w->ndim == 2, "needs x [..., in] and weight [out, in]");
    AG_REQUIRE(n, x->shape[x->ndim - 1] == w->shape[1], "x has %" PRId64 " features, weight [out, in] takes %" PRId64,
               x->shape[x->ndim - 1], w->shape[1]);
    if (bias) {
        ag_node_require_real(n, bias, "bias");
        AG_REQUIRE(n, bias->ndim == 1 && bias->shape[0] == w->shape[0], "bias must be [%" PRId64 "]", w->shape[0]);
    }
    ag_shape s = ag_shape_of(x);
    s.dim[s.ndim - 1] = w->shape[0];
    ag_node_out(n, AG_F32, s);
    bool trained = false;
    for (int i = 0; i < 3; i++) trained |= n->in[i] && n->in[i]->requires_grad;
    if (activation_of(n) == AG_LINEAR_GELU && trained && ag_grad_enabled()) ag_node_save(n, 0, AG_F32, s);
}

static void linear_forward(ag_node *n)
{
    const ag_tensor *w = n->in[1];
    const int64_t out = w->shape[0], in = w->shape[1];
    const bool keep = keeps_sum(n);
    ag_gemm_run(&(ag_gemm){ .batch = 1, .n = ag_numel(n->out) / out, .m = out, .k = in, .a = ag_real(n->in[0]), .a_row = in,
                            .a_col = 1, .b = ag_real(w), .b_row = 1, .b_col = in, .bias = n->in[2] ? ag_real(n->in[2]) : NULL,
                            .c = ag_real(keep ? n->saved[0] : n->out), .c_row = out,
                            .activation = keep ? AG_LINEAR_PLAIN : activation_of(n) });
    if (!keep) return;
    AG_NO_GRAD;
    ag_copy(n->out, ag_gelu(n->saved[0]));
}

typedef struct { const real *g, *y, *sum; real *d; } activation_job;

static void relu_gradient(int64_t begin, int64_t end, void *arg)
{
    const activation_job j = *(activation_job *)arg;
    for (int64_t i = begin; i < end; i++) j.d[i] = j.y[i] > 0 ? j.g[i] : 0;
}

static void gelu_gradient(int64_t begin, int64_t end, void *arg)
{
    const activation_job j = *(activation_job *)arg;
    for (int64_t i = begin; i < end; i++) j.d[i] = j.g[i] * GELU_GRAD(j.sum[i]);
}

static const real *gradient_of_sum(ag_node *n)
{
    const ag_activation activation = activation_of(n);
    if (activation == AG_LINEAR_PLAIN) return ag_real(n->out->grad);
    const int64_t count = ag_numel(n->out);
    activation_job j = { .g = ag_real(n->out->grad), .y = ag_real(n->out), .d = ag_workspace(n, count, sizeof(real)) };
    if (keeps_sum(n)) j.sum = ag_real(n->saved[0]);
    ag_parallel(count, 4096, 1, activation == AG_LINEAR_RELU ? relu_gradient : gelu_gradient, &j);
    return j.d;
}

typedef struct { const real *g; real *d; int64_t rows, width; bool add; } column_sums;

static void sum_columns(int64_t begin, int64_t end, void *arg)
{
    const column_sums j = *(column_sums *)arg;
    for (int64_t c = begin; c < end && !j.add; c++) j.d[c] = 0;
    for (int64_t r = 0; r < j.rows; r++)
        for (int64_t c = begin; c < end; c++) j.d[c] += j.g[r * j.width + c];
}

static void linear_backward(ag_node *n)
{
    const ag_tensor *x = n->in[0], *w = n->in[1];
    const int64_t out = w->shape[0], in = w->shape[1], rows = ag_numel(n->out) / out;
    const real *g = gradient_of_sum(n);
    if (n->din[0])
        ag_gemm_run(&(ag_gemm){ .batch = 1, .n = rows, .m = in, .k = out, .a = g, .a_row = out, .a_col = 1, .b = ag_real(w),
                                .b_row = in, .b_col = 1, .c = ag_real(n->din[0]), .c_row = in, .add = n->accumulate[0] });
    if (n->din[1])
        ag_gemm_run(&(ag_gemm){ .batch = 1, .n = out, .m = in, .k = rows, .a = g, .a_row = 1, .a_col = out, .b = ag_real(x),
                                .b_row = in, .b_col = 1, .c = ag_real(n->din[1]), .c_row = in, .add = n->accumulate[1] });
    if (n->din[2])
        ag_parallel(out, 64, 0.3 * (double)rows, sum_columns,
                    &(column_sums){ g, ag_real(n->din[2]), rows, out, n->accumulate[2] });
}

static ag_tensor *linear_check(ag_tensor **in) { return ag_linear(in[0], in[1], .bias = in[2]); }
static ag_tensor *linear_plain_check(ag_tensor **in) { return ag_linear(in[0], in[1]); }
static ag_tensor *linear_gelu_check(ag_tensor **in)
{
    return ag_linear(in[0], in[1], .bias = in[2], .activation = AG_LINEAR_GELU);
}
static ag_tensor *linear_relu_check(ag_tensor **in)
{
    return ag_linear(in[0], in[1], .bias = in[2], .activation = AG_LINEAR_RELU);
}

const ag_op ag_op_linear = {
    .name = "linear", .inputs = "x weight bias", .infer = linear_infer,
    .forward = { linear_forward, AG_CUDA_FN(ag_linear_forward_cuda) },
    .backward = { linear_backward, AG_CUDA_FN(ag_linear_backward_cuda) },
    .check = { { "x[3,4] weight[5,4] bias[5]", linear_check }, { "x[2,3,4] weight[5,4]", linear_plain_check },
               { "x[40,33] weight[35,33] bias[35]", linear_check }, { "x[3,4] weight[5,4] bias[5]", linear_gelu_check },
               { "x[3,4] weight[5,4] bias[5]", linear_relu_check }, { "x[33,32] weight[34,32] bias[34]", linear_gelu_check } },
};

ag_tensor *ag_linear_(const char *at, ag_tensor *x, ag_tensor *weight, ag_linear_opts opts)
{
    return ag_apply_(at, &ag_op_linear, 3, (ag_tensor *[]){ x, weight, opts.bias }, &(linear_arg){ opts.activation },
                     sizeof(linear_arg));
}
