/* ops/matmul.c - matmul (any leading axes, broadcast; any strides) and linear, on ops/gemm.h. */
#include <string.h>
#include "core/bf16.h"
#include "ops/fused.h"
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
    AG_REQUIRE(n, a->ndim >= 2 && b->ndim >= 2, "needs two or more axes; ag_reshape makes a row or a column of a vector");
    AG_REQUIRE(n, a->shape[a->ndim - 1] == b->shape[b->ndim - 2], "inner dimensions differ: got %" PRId64 " and %" PRId64,
               a->shape[a->ndim - 1], b->shape[b->ndim - 2]);
    const ag_tensor la = leading(a), lb = leading(b);
    ag_shape s = ag_node_broadcast(n, &la, &lb);
    s.dim[s.ndim++] = a->shape[a->ndim - 2];
    s.dim[s.ndim++] = b->shape[b->ndim - 1];
    ag_node_out(n, a->dtype, s);
    n->unread = (b->requires_grad ? 0 : 1u << 0) | (a->requires_grad ? 0 : 1u << 1);
}

/* c (+)= a b for every entry of the leading axes; transposed operands are read as such. Where c is shared by several
 * entries (the gradient of a broadcast operand) they are added one after another. */
static void multiply(const ag_tensor *a, bool turn_a, const ag_tensor *b, bool turn_b, ag_tensor *c, bool add)
{
    const int ra = a->ndim - 2 + turn_a, ca = a->ndim - 1 - turn_a, rb = b->ndim - 2 + turn_b, cb = b->ndim - 1 - turn_b;
    ag_gemm g = { .n = a->shape[ra], .k = a->shape[ca], .m = b->shape[cb], .a_row = a->stride[ra], .a_col = a->stride[ca],
                  .b_row = b->stride[rb], .b_col = b->stride[cb], .c_row = c->shape[c->ndim - 1], .add = add,
                  .a_type = a->dtype, .b_type = b->dtype, .c_type = c->dtype };
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
            g.a = ag_element(a->data, a->dtype, w.offset[0] + i * w.step[0]);
            g.b = ag_element(b->data, b->dtype, w.offset[1] + i * w.step[1]);
            g.c = ag_element(c->data, c->dtype, w.offset[2]);
            ag_gemm_run(&g);
            if (!w.step[2]) g.add = true;
        }
    }
}

static double matmul_flops(const ag_node *n)
{
    return 2 * (double)ag_numel(n->out) * (double)n->in[0]->shape[n->in[0]->ndim - 1];
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

static int64_t matmul_workspace(const ag_node *n, bool backward)
{
    int64_t most = 0;
    for (int k = 0; k < 2 && backward && n->out->dtype == AG_BF16; k++)
        if (shared(n->in[k], n->out)) most += ag_numel(n->in[k]) * (int64_t)sizeof(real);
    return most;
}

/* d a = g b^T, d b = a^T g; what several entries add up to is summed in real. */
static void matmul_backward(ag_node *n)
{
    for (int k = 0; k < 2; k++) {
        ag_tensor *d = n->din[k], sum;
        bool add = n->accumulate[k];
        if (!d) continue;
        const bool narrow = d->dtype == AG_BF16 && shared(d, n->out);
        if (narrow) {
            sum = *d, sum.dtype = AG_F32, sum.data = ag_workspace(n, ag_numel(d), sizeof(real));
            if (add) ag_widen(d->data, d->dtype, 0, ag_numel(d), ag_real(&sum));
        }
        ag_tensor *to = narrow ? &sum : d;
        if (shared(d, n->out) && !add) memset(to->data, 0, (size_t)ag_numel(to) * sizeof(real)), add = true;
        if (k == 0) multiply(n->out->grad, false, n->in[1], true, to, add);
        else multiply(n->in[0], true, n->out->grad, false, to, add);
        if (narrow) ag_narrow(d->data, d->dtype, 0, ag_numel(d), ag_real(&sum));
    }
}

static ag_tensor *matmul_check(ag_tensor **in) { return ag_matmul(in[0], in[1]); }
static ag_tensor *matmul_turned(ag_tensor **in) { return ag_matmul(ag_transpose(in[0], 0, 1), ag_transpose(in[1], 0, 1)); }

const ag_op ag_op_matmul = {
    .name = "matmul", .inputs = "a b", .infer = matmul_infer, .strided = true, .bf16 = 1 | 2, .bf16_cuda = 1 | 2,
    .unread_out = true, .unread_cuda = true,
    .workspace = matmul_workspace, .flops = matmul_flops,
    .forward = { matmul_forward, AG_CUDA_FN(ag_matmul_forward_cuda) },
    .backward = { matmul_backward, AG_CUDA_FN(ag_matmul_backward_cuda) },
    .check = { { "a[3,4] b[4,5]", matmul_check }, { "a[2,7,33] b[2,33,35]", matmul_check },
               { "a[5,3] b[4,5]", matmul_turned }, { "a[2,3,4] b[4,5]", matmul_check },
               { "a[3,4] b[2,2,4,3]", matmul_check }, { "a[2,1,3,4] b[5,4,2]", matmul_check } },
};

ag_tensor *ag_matmul_(const char *at, ag_tensor *a, ag_tensor *b)
{
    ag_tensor *in[] = { ag_autocast_input(at, a), ag_autocast_input(at, b) };
    return ag_apply_(at, &ag_op_matmul, 2, in, NULL, 0);
}

/* ---- linear: y = activation(x w^T + bias) -------------------------------------------------------------- */

enum { X, WEIGHT, BIAS, INPUTS };
typedef struct { ag_activation activation; } linear_arg;

static ag_activation activation_of(const ag_node *n)
{
    return ((const linear_arg *)n->arg)->activation;
}

static void linear_infer(ag_node *n)
{
    const ag_tensor *x = n->in[X], *w = n->in[WEIGHT], *bias = n->in[BIAS];
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
    ag_node_out(n, x->dtype, s);
    ag_fused_infer(n, activation_of(n));
}

static double linear_flops(const ag_node *n)
{
    return 2 * (double)ag_numel(n->out) * (double)n->in[WEIGHT]->shape[1];
}

/* [rows, in] times the weight's transpose, or (back) [rows, out] times the weight. */
static ag_gemm by_weight(const ag_node *n, bool back)
{
    const ag_tensor *w = n->in[WEIGHT];
    const int64_t out = w->shape[0], in = w->shape[1], m = back ? in : out, k = back ? out : in;
    ag_gemm g = { .batch = 1, .n = out ? ag_numel(n->out) / out : 0, .m = m, .k = k, .a_type = n->out->dtype, .a_row = k,
                  .a_col = 1, .b = w->data, .b_row = back ? in : 1, .b_col = back ? 1 : in, .b_param = w,
                  .c_type = n->out->dtype, .c_row = m };
    ag_gemm_prepare(n, &g);
    return g;
}

static int64_t linear_workspace(const ag_node *n, bool backward)
{
    if (!backward || n->din[X]) (void)by_weight(n, backward);
    return backward ? ag_fused_workspace(n, activation_of(n)) : 0;
}

static void linear_forward(ag_node *n)
{
    ag_gemm g = by_weight(n, false);
    g.a = n->in[X]->data, g.c = ag_fused_target(n);
    g.bias = n->in[BIAS] ? ag_real(n->in[BIAS]) : NULL, g.activation = ag_fused_activation(n, activation_of(n));
    ag_gemm_run(&g);
    ag_fused_finish(n, activation_of(n));
}

/* d x = g w, d w = g^T x */
static void linear_backward(ag_node *n)
{
    const ag_tensor *x = n->in[X], *w = n->in[WEIGHT];
    const int64_t out = w->shape[0], in = w->shape[1], rows = ag_numel(n->out) / out;
    const ag_dtype type = n->out->dtype;
    const void *g = ag_fused_gradient(n, activation_of(n));
    ag_gemm dw = { .batch = 1, .n = out, .m = in, .k = rows, .a = g, .a_type = type, .a_row = 1, .a_col = out, .b = x->data,
                   .b_type = type, .b_row = in, .b_col = 1, .c_row = in, .add = n->accumulate[WEIGHT] };
    if (n->din[X]) {
        ag_gemm dx = by_weight(n, true);
        dx.a = g, dx.c = n->din[X]->data, dx.add = n->accumulate[X];
        ag_gemm_run(&dx);
    }
    if (n->din[WEIGHT]) {
        dw.c = n->din[WEIGHT]->data;
        ag_gemm_run(&dw);
    }
    ag_fused_bias_gradient(n, BIAS, g);
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
    .name = "linear", .inputs = "x weight bias", .infer = linear_infer, .bf16 = 1 << X, .bf16_cuda = 1 << X,
    .unread_cuda = true, .workspace = linear_workspace, .flops = linear_flops,
    .forward = { linear_forward, AG_CUDA_FN(ag_linear_forward_cuda) },
    .backward = { linear_backward, AG_CUDA_FN(ag_linear_backward_cuda) },
    .check = { { "x[3,4] weight[5,4] bias[5]", linear_check }, { "x[2,3,4] weight[5,4]", linear_plain_check },
               { "x[40,33] weight[35,33] bias[35]", linear_check }, { "x[3,4] weight[5,4] bias[5]", linear_gelu_check },
               { "x[3,4] weight[5,4] bias[5]", linear_relu_check }, { "x[33,32] weight[34,32] bias[34]", linear_gelu_check } },
};

ag_tensor *ag_linear_(const char *at, ag_tensor *x, ag_tensor *weight, ag_linear_opts opts)
{
    ag_tensor *in[] = { ag_autocast_input(at, x), weight, opts.bias };
    return ag_apply_(at, &ag_op_linear, INPUTS, in, &(linear_arg){ opts.activation }, sizeof(linear_arg));
}
