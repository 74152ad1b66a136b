/* ops/attention.c - attention of separate q, k, v, of a packed qkv, and inside the windows of an image: rules and shapes.
 * The kernels: ops/attention_kernel.c. */
#include "ops/attention.h"
#include <math.h>
#include "ops/registry.h"
#include "ops/vision.h"

/* The operands end in these; before them stand q k v, or qkv. */
enum { BIAS, MASK, LOGIT_SCALE, OPTIONAL };
enum { Q, K, V };

typedef struct { double scale, dropout; uint64_t key; int64_t window, shift; } attention_arg;

static int slot(const ag_node *n, int optional) { return n->n_in - OPTIONAL + optional; }
static bool packed(const ag_node *n) { return slot(n, 0) == 1; }
static bool gradient_wanted(const ag_node *n, int k) { return n->in[k] && n->in[k]->requires_grad; }

/* ---- the job of a node --------------------------------------------------------------------------------- */

/* Dense tokens [N, L, (3,) heads, D] of t, the part `which` of the three. Images count as tokens in order. */
static ag_heads dense(const ag_tensor *t, int parts, int which, bool add)
{
    if (!t) return (ag_heads){ 0 };
    const int last = t->ndim - 1, token = last - (parts > 1 ? 3 : 2);
    char *data = t->data;
    if (data && which) data += which * t->stride[last - 2] * (int64_t)ag_dtype_size(t->dtype);
    return (ag_heads){ data, t->dtype, t->stride[0], t->stride[token], t->stride[last - 1], add };
}

static ag_terms terms(const ag_tensor *t, const ag_tensor *shape, bool add)
{
    if (!shape) return (ag_terms){ 0 };
    return (ag_terms){ t ? t->data : NULL, shape->ndim == 4 ? shape->shape[0] : 1, shape->shape[shape->ndim - 3], add };
}

static ag_attention_job job_of(const ag_node *n)
{
    const attention_arg *a = n->arg;
    const ag_tensor *q = n->in[Q], *out = n->out, *logit = n->in[slot(n, LOGIT_SCALE)];
    const int parts = packed(n) ? 3 : 1;
    ag_attention_job j = {
        .n = q->shape[0], .type = q->dtype, .heads = out->shape[out->ndim - 2], .d = out->shape[out->ndim - 1],
        .window = a->window,
        .scale = a->scale, .dropout = a->dropout, .key = a->key, .cosine = logit != NULL,
        .at.q = dense(q, parts, Q, false), .at.k = dense(n->in[parts == 3 ? 0 : K], parts, parts == 3 ? K : 0, false),
        .at.v = dense(n->in[parts == 3 ? 0 : V], parts, parts == 3 ? V : 0, false), .at.out = dense(out, 1, 0, false),
        .bias = terms(n->in[slot(n, BIAS)], n->in[slot(n, BIAS)], false),
        .mask = terms(n->in[slot(n, MASK)], n->in[slot(n, MASK)], false),
        .logit_scale = logit ? ag_real(logit) : NULL, .lse = n->saved[0] ? ag_real(n->saved[0]) : NULL,
    };
    j.l = q->shape[1], j.s = packed(n) ? j.l : n->in[K]->shape[1];
    if (!a->window) return j;
    j.h = q->shape[1], j.w = q->shape[2], j.l = j.s = a->window * a->window;
    j.n *= (j.h / a->window) * (j.w / a->window);
    j.shift = a->shift;
    return j;
}

static ag_attention_job backward_job_of(const ag_node *n)
{
    ag_attention_job j = job_of(n);
    const int parts = packed(n) ? 3 : 1, bias = slot(n, BIAS), logit = slot(n, LOGIT_SCALE);
    j.at.dout = dense(n->out->grad, 1, 0, false);
    ag_heads *const d[] = { &j.at.dq, &j.at.dk, &j.at.dv };
    for (int i = 0; i < 3; i++) {
        const int k = packed(n) ? 0 : i;
        *d[i] = dense(n->din[k], parts, packed(n) ? i : 0, n->accumulate[k]);
        d[i]->type = j.at.q.type;
    }
    j.dbias = terms(n->din[bias], gradient_wanted(n, bias) ? n->in[bias] : NULL, n->accumulate[bias]);
    if (!j.dbias.data && n->out->device == AG_CPU) j.dbias.batches = 0;
    j.dlogit_scale = n->din[logit] ? ag_real(n->din[logit]) : NULL, j.add_logit_scale = n->accumulate[logit];
    return j;
}

ag_attention_job ag_attention_job_of(const ag_node *n, bool backward)
{
    return backward ? backward_job_of(n) : job_of(n);
}

static void forward(ag_node *n)
{
    const ag_attention_job j = job_of(n);
    ag_attention_run(n, &j);
}

static void backward(ag_node *n)
{
    const ag_attention_job j = backward_job_of(n);
    ag_attention_run_backward(n, &j);
}

static int64_t workspace(const ag_node *n, bool back)
{
    const ag_attention_job j = ag_attention_job_of(n, back);
    return ag_attention_workspace(&j, back);
}

static double flops(const ag_node *n)
{
    const ag_attention_job j = job_of(n);
    return 4 * (double)(j.n * j.heads) * (double)(j.l * j.s) * (double)j.d;
}

/* ---- rules --------------------------------------------------------------------------------------------- */

static void require_terms(const ag_node *n, int k, const char *name, int64_t batch, int64_t heads, int64_t l, int64_t s)
{
    const ag_tensor *t = n->in[k];
    if (!t) return;
    ag_node_require_real(n, t, name);
    AG_REQUIRE(n, t->ndim == 3 || t->ndim == 4, "%s must be [heads or 1, L, S] or [N or 1, heads or 1, L, S]", name);
    const int64_t *shape = t->shape + t->ndim - 3, own = t->ndim == 4 ? t->shape[0] : 1;
    AG_REQUIRE(n, shape[0] == heads || shape[0] == 1, "%s is for %" PRId64 " heads, there are %" PRId64, name, shape[0], heads);
    AG_REQUIRE(n, shape[1] == l && shape[2] == s, "%s is for %" PRId64 " queries and %" PRId64 " keys, there are %" PRId64
               " and %" PRId64, name, shape[1], shape[2], l, s);
    AG_REQUIRE(n, own == 1 || own == batch || (k == slot(n, MASK) && own > 0 && batch % own == 0),
               "%s is for %" PRId64 " samples, there are %" PRId64, name, own, batch);
}

/* What all three have in common, once the shape of the products is known. */
static void require_options(ag_node *n, int64_t batch, int64_t heads, int64_t l, int64_t s, int64_t d)
{
    attention_arg *a = n->arg;
    const ag_tensor *logit = n->in[slot(n, LOGIT_SCALE)], *mask = n->in[slot(n, MASK)];
    AG_REQUIRE(n, s > 0 && d > 0, "needs a key and a width, got S = %" PRId64 " and D = %" PRId64, s, d);
    AG_REQUIRE(n, a->dropout >= 0 && a->dropout <= 1, ".dropout = %g; a share lies between 0 and 1", a->dropout);
    require_terms(n, slot(n, BIAS), "bias", batch, heads, l, s);
    require_terms(n, slot(n, MASK), "mask", batch, heads, l, s);
    AG_REQUIRE(n, !mask || !mask->requires_grad, "a mask is constant; give what is trained as .bias");
    if (logit) {
        ag_node_require_real(n, logit, "logit_scale");
        AG_REQUIRE(n, ag_numel(logit) == heads, "logit_scale has %" PRId64 " elements, there are %" PRId64 " heads",
                   ag_numel(logit), heads);
        AG_REQUIRE(n, a->scale == 0, ".scale and .logit_scale exclude one another");
    }
    if (a->scale == 0) a->scale = 1 / sqrt((double)d);
    if (ag_node_trains(n)) ag_node_save(n, 0, AG_F32, AG_SHAPE(batch, heads, l));
}

static void attention_infer(ag_node *n)
{
    const ag_tensor *q = n->in[Q], *k = n->in[K], *v = n->in[V];
    ag_node_require_real(n, q, "q");
    ag_node_require_real(n, k, "k");
    ag_node_require_real(n, v, "v");
    AG_REQUIRE(n, q->ndim == 4 && k->ndim == 4 && v->ndim == 4, "needs q [N, L, heads, D] and k, v [N, S, heads, D]");
    for (int i = 0; i < 4; i++) {
        AG_REQUIRE(n, k->shape[i] == v->shape[i], "k and v differ on axis %d", i);
        AG_REQUIRE(n, i == 1 || q->shape[i] == k->shape[i], "q and k differ on axis %d", i);
    }
    ag_node_out(n, q->dtype, ag_shape_of(q));
    require_options(n, q->shape[0], q->shape[2], q->shape[1], k->shape[1], q->shape[3]);
}

static void qkv_infer(ag_node *n)
{
    attention_arg *a = n->arg;
    const ag_tensor *x = n->in[0];
    const int64_t size = a->window, *dim = x->shape;
    ag_node_require_real(n, x, "qkv");
    AG_REQUIRE(n, x->ndim == (size ? 6 : 5) && dim[x->ndim - 3] == 3, "needs qkv [N, %s, 3, heads, D]", size ? "H, W" : "L");
    ag_shape s = { .ndim = x->ndim - 1 };
    for (int i = 0, to = 0; i < x->ndim; i++) if (i != x->ndim - 3) s.dim[to++] = dim[i];
    int64_t batch = dim[0], l = dim[1];
    if (size) {
        AG_REQUIRE(n, size > 0 && dim[1] % size == 0 && dim[2] % size == 0, "windows of %" PRId64 " x %" PRId64 " do not cut %"
                   PRId64 " x %" PRId64 " pixels evenly; enlarge the image with ag_pad", size, size, dim[1], dim[2]);
        AG_REQUIRE(n, a->shift >= 0 && a->shift < size, "a shift of %" PRId64 " is not inside a window of %" PRId64,
                   a->shift, size);
        batch *= (dim[1] / size) * (dim[2] / size), l = size * size;
    }
    ag_node_out(n, x->dtype, s);
    require_options(n, batch, dim[x->ndim - 2], l, l, dim[x->ndim - 1]);
}

/* ---- tested on ----------------------------------------------------------------------------------------- */

static ag_tensor *plain_check(ag_tensor **in) { return ag_attention(in[0], in[1], in[2]); }
static ag_tensor *scale_check(ag_tensor **in) { return ag_attention(in[0], in[1], in[2], .scale = 0.7, .bias = in[3]); }
static ag_tensor *mask_check(ag_tensor **in) { return ag_attention(in[0], in[1], in[2], .bias = in[3], .mask = in[4]); }
static ag_tensor *dropped_check(ag_tensor **in)
{
    return ag_attention(in[0], in[1], in[2], .dropout = 1, .key = 5);
}
static ag_tensor *cosine_check(ag_tensor **in)
{
    return ag_attention(in[0], in[1], in[2], .bias = in[3], .logit_scale = in[4]);
}

#define OPERANDS "bias mask logit_scale"
const ag_op ag_op_attention = {
    .name = "attention", .inputs = "q k v " OPERANDS, .infer = attention_infer, .strided = true, .bf16 = 7, .bf16_cuda = 7,
    .forward = { forward, AG_CUDA_FN(ag_attention_forward_cuda) }, .workspace = workspace,
    .backward = { backward, AG_CUDA_FN(ag_attention_backward_cuda) }, .flops = flops,
    .check = { { "q[2,3,2,5] k[2,4,2,5] v[2,4,2,5]", plain_check }, { "q[1,1,1,7] k[1,1,1,7] v[1,1,1,7]", plain_check },
               { "q[2,3,2,4] k[2,5,2,4] v[2,5,2,4] bias[1,3,5]", scale_check },
               { "q[4,3,2,3] k[4,3,2,3] v[4,3,2,3] bias[2,3,3] mask[2,1,3,3]:const", mask_check },
               { "q[2,3,2,3] k[2,4,2,3] v[2,4,2,3] bias[2,2,3,4] mask[2,3,4]:const", mask_check },
               { "q[3,4,2,5] k[3,4,2,5] v[3,4,2,5] bias[2,4,4] logit_scale[2]:pos", cosine_check },
               { "q[1,2,1,3] k[1,2,1,3] v[1,2,1,3]", dropped_check }, { "q[1,7,1,16] k[1,19,1,16] v[1,19,1,16]", plain_check } },
};

static ag_tensor *packed_check(ag_tensor **in) { return ag_attention_qkv(in[0], .scale = 0.6); }
static ag_tensor *packed_bias_check(ag_tensor **in) { return ag_attention_qkv(in[0], .bias = in[1], .mask = in[2]); }
static ag_tensor *packed_cosine_check(ag_tensor **in)
{
    return ag_attention_qkv(in[0], .bias = in[1], .logit_scale = in[2]);
}
static ag_tensor *window_check(ag_tensor **in) { return ag_window_attention(in[0], 2, 0, .bias = in[1]); }
static ag_tensor *shifted_check(ag_tensor **in) { return ag_window_attention(in[0], 2, 1, .bias = in[1], .mask = in[2]); }
static ag_tensor *shifted_cosine_check(ag_tensor **in)
{
    return ag_window_attention(in[0], 3, 2, .mask = in[1], .logit_scale = in[2]);
}

const ag_op ag_op_attention_qkv = {
    .name = "attention_qkv", .inputs = "qkv " OPERANDS, .infer = qkv_infer, .bf16 = 1, .bf16_cuda = 1,
    .forward = { forward, AG_CUDA_FN(ag_attention_qkv_forward_cuda) }, .workspace = workspace,
    .backward = { backward, AG_CUDA_FN(ag_attention_qkv_backward_cuda) }, .flops = flops,
    .check = { { "qkv[2,5,3,2,3]", packed_check }, { "qkv[4,3,3,2,4] bias[2,3,3] mask[2,1,3,3]:const", packed_bias_check },
               { "qkv[2,4,3,2,3] bias[1,4,4] logit_scale[2,1,1]:pos", packed_cosine_check },
               { "qkv[1,4,2,3,2,3] bias[2,4,4]", window_check },
               { "qkv[2,4,4,3,1,3] bias[1,4,4] mask[4,1,4,4]:const", shifted_check },
               { "qkv[1,3,6,3,2,3] mask[2,1,9,9]:const logit_scale[2]:pos", shifted_cosine_check } },
};

/* ---- functions ----------------------------------------------------------------------------------------- */

static ag_tensor *dense_or_null(const char *at, ag_tensor *t)
{
    return t ? ag_contiguous_(at, t) : NULL;
}

static attention_arg arg_of(const ag_attention_opts *o, int64_t window, int64_t shift)
{
    return (attention_arg){ o->scale, o->dropout, o->key, window, shift };
}

/* Rows of a head must be dense; every other stride is the kernels' own business. */
static ag_tensor *operand(const char *at, ag_tensor *x)
{
    x = ag_autocast_input(at, x);
    return x->ndim && x->stride[x->ndim - 1] != 1 ? ag_contiguous_(at, x) : x;
}

ag_tensor *ag_attention_(const char *at, ag_tensor *q, ag_tensor *k, ag_tensor *v, ag_attention_opts opts)
{
    const attention_arg a = arg_of(&opts, 0, 0);
    ag_tensor *in[] = { operand(at, q), operand(at, k), operand(at, v), dense_or_null(at, opts.bias),
                        dense_or_null(at, opts.mask), dense_or_null(at, opts.logit_scale) };
    return ag_apply_(at, &ag_op_attention, 6, in, &a, sizeof a);
}

static ag_tensor *apply_packed(const char *at, ag_tensor *qkv, const attention_arg *a, const ag_attention_opts *opts)
{
    ag_tensor *in[] = { ag_autocast_input(at, qkv), opts->bias, opts->mask, opts->logit_scale };
    return ag_apply_(at, &ag_op_attention_qkv, 4, in, a, sizeof *a);
}

ag_tensor *ag_attention_qkv_(const char *at, ag_tensor *qkv, ag_attention_opts opts)
{
    const attention_arg a = arg_of(&opts, 0, 0);
    return apply_packed(at, qkv, &a, &opts);
}

ag_tensor *ag_window_attention_(const char *at, ag_tensor *qkv, int64_t size, int64_t shift, ag_attention_opts opts)
{
    if (size < 1) ag_fail(at, "ag_window_attention: windows have 1 or more pixels a side, not %" PRId64, size);
    const attention_arg a = arg_of(&opts, size, shift);
    return apply_packed(at, qkv, &a, &opts);
}
