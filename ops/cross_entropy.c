/* ops/cross_entropy.c - cross-entropy on logits, and nll_loss on log-probabilities.
 *
 * With p = softmax(x), weights w, smoothing s over C classes, an integer target t counts as the distribution
 * q_c = (1 - s) [c = t] + s/C and   loss = -sum_c w_c q_c log p_c;
 * the mean divides by sum w_t (integers) or by N (probabilities), as F.cross_entropy does. */
#include "core/thread.h"
#include "ops/formulas.h"
#include "ops/indexing.h"
#include "ops/ops.h"
#include "ops/registry.h"

enum { X, TARGET, WEIGHT, INPUTS };

typedef struct { ag_reduction reduction; double smoothing; bool logits; } entropy_arg;

typedef struct {
    const real *x, *soft, *weight, *g;
    const int64_t *hard;
    real *d, *lse, *loss, smoothing, scale;
    int64_t classes;
    bool add, each, logits;
} entropy_job;

static void entropy_infer(ag_node *n)
{
    const entropy_arg *a = n->arg;
    const ag_tensor *x = n->in[X], *t = n->in[TARGET], *w = n->in[WEIGHT];
    ag_node_require_real(n, x, "x");
    AG_REQUIRE(n, x->ndim == 2, "x must be [N, C], got %d axes; ag_reshape joins leading axes", x->ndim);
    AG_REQUIRE(n, a->reduction == AG_NONE || x->shape[0], "there are no rows to take the mean of");
    if (t->dtype == AG_I64) {
        AG_REQUIRE(n, t->ndim == 1 && t->shape[0] == x->shape[0], "integer targets must be [%" PRId64 "], one for each row",
                   x->shape[0]);
    } else {
        AG_REQUIRE(n, a->logits, "targets must be i64 classes, got %s", ag_dtype_name(t->dtype));
        ag_node_require_real(n, t, "target");
        AG_REQUIRE(n, t->ndim == 2 && t->shape[0] == x->shape[0] && t->shape[1] == x->shape[1],
                   "target probabilities must have the shape of x");
        AG_REQUIRE(n, !t->requires_grad, "has no gradient with respect to the target; ag_detach it");
    }
    AG_REQUIRE(n, !w || (w->dtype == AG_F32 && w->ndim == 1 && w->shape[0] == x->shape[1]), "weight must be f32 [%" PRId64 "]",
               x->shape[1]);
    AG_REQUIRE(n, a->smoothing >= 0 && a->smoothing <= 1, ".label_smoothing = %g; it lies between 0 and 1", a->smoothing);
    ag_node_out(n, AG_F32, a->reduction == AG_NONE ? AG_SHAPE(x->shape[0]) : (ag_shape){ 0 });
    ag_node_save(n, 0, AG_F32, AG_SHAPE(x->shape[0]));      /* log sum exp of each row */
}

static entropy_job job_of(const ag_node *n)
{
    const entropy_arg *a = n->arg;
    const ag_tensor *t = n->in[TARGET], *w = n->in[WEIGHT];
    return (entropy_job){ .x = ag_real(n->in[X]), .soft = t->dtype == AG_F32 ? ag_real(t) : NULL,
                          .hard = t->dtype == AG_I64 ? t->data : NULL, .weight = w ? ag_real(w) : NULL,
                          .lse = ag_real(n->saved[0]), .smoothing = (real)a->smoothing, .classes = n->in[X]->shape[1],
                          .each = a->reduction == AG_NONE, .logits = a->logits };
}

/* w_c q_c */
static inline real share(const entropy_job *j, int64_t row, int64_t c)
{
    const real hit = j->soft ? j->soft[row * j->classes + c] : (real)(j->hard[row] == c);
    return ((1 - j->smoothing) * hit + j->smoothing / (real)j->classes) * (j->weight ? j->weight[c] : 1);
}

static void forward_rows(int64_t begin, int64_t end, void *arg)
{
    const entropy_job j = *(entropy_job *)arg;
    for (int64_t row = begin; row < end; row++) {
        const real *x = j.x + row * j.classes;
        real m = x[0], sum = 0, loss = 0, lse = 0;
        for (int64_t c = 1; c < j.classes; c++) m = x[c] > m ? x[c] : m;
        for (int64_t c = 0; c < j.classes && j.logits; c++) sum += EXP(x[c] - m);
        if (j.logits) lse = m + LOG(sum);
        if (j.hard && !j.smoothing) loss = (lse - x[j.hard[row]]) * (j.weight ? j.weight[j.hard[row]] : 1);
        else for (int64_t c = 0; c < j.classes; c++) loss += share(&j, row, c) * (lse - x[c]);
        j.lse[row] = lse;
        j.loss[row] = loss;
    }
}

/* d x_c = p_c sum_k w_k q_k - w_c q_c; without the softmax the first term is absent */
static void backward_rows(int64_t begin, int64_t end, void *arg)
{
    const entropy_job j = *(entropy_job *)arg;
    for (int64_t row = begin; row < end; row++) {
        const real *x = j.x + row * j.classes, g = j.g[j.each ? row : 0] * j.scale;
        real *d = j.d + row * j.classes, total = 0;
        for (int64_t c = 0; c < j.classes && j.logits; c++) total += share(&j, row, c);
        for (int64_t c = 0; c < j.classes; c++) {
            const real p = j.logits ? EXP(x[c] - j.lse[row]) * total : 0, v = g * (p - share(&j, row, c));
            d[c] = j.add ? d[c] + v : v;
        }
    }
}

static double divisor(const ag_node *n)
{
    const entropy_arg *a = n->arg;
    const ag_tensor *t = n->in[TARGET], *w = n->in[WEIGHT];
    double sum = 0;
    if (a->reduction != AG_MEAN) return 1;
    if (!w || t->dtype != AG_I64) return (double)n->in[X]->shape[0];
    for (int64_t i = 0; i < t->shape[0]; i++) sum += (double)ag_real(w)[((const int64_t *)t->data)[i]];
    return sum;
}

static void entropy_forward(ag_node *n)
{
    const int64_t rows = n->in[X]->shape[0];
    entropy_job j = job_of(n);
    double total = 0;
    if (j.hard) ag_check_ids(n, n->in[TARGET], 0, 1, rows, j.classes, "the classes");
    j.loss = j.each ? ag_real(n->out) : ag_workspace(n, rows, sizeof(real));
    ag_parallel(rows, 16, 3 * (double)j.classes, forward_rows, &j);
    if (j.each) return;
    for (int64_t i = 0; i < rows; i++) total += (double)j.loss[i];
    *ag_real(n->out) = (real)(total / divisor(n));
}

static void entropy_backward(ag_node *n)
{
    entropy_job j = job_of(n);
    if (!n->din[X]) return;
    j.g = ag_real(n->out->grad), j.d = ag_real(n->din[X]), j.add = n->accumulate[X], j.scale = (real)(1 / divisor(n));
    ag_parallel(n->in[X]->shape[0], 16, 3 * (double)j.classes, backward_rows, &j);
}

static ag_tensor *apply(const char *at, const ag_op *op, ag_tensor *x, ag_tensor *target, ag_loss_opts opts, bool logits)
{
    const entropy_arg a = { opts.reduction, opts.label_smoothing, logits };
    return ag_apply_(at, op, INPUTS, (ag_tensor *[]){ x, target, opts.weight }, &a, sizeof a);
}

static ag_tensor *hard(ag_tensor **in) { return ag_cross_entropy(in[0], in[1]); }
static ag_tensor *hard_none(ag_tensor **in) { return ag_cross_entropy(in[0], in[1], .reduction = AG_NONE); }
static ag_tensor *smooth(ag_tensor **in)
{
    return ag_cross_entropy(in[0], in[1], .weight = in[2], .label_smoothing = 0.1);
}
static ag_tensor *soft(ag_tensor **in) { return ag_cross_entropy(in[0], ag_softmax(in[1], 1), .label_smoothing = 0.2); }
static ag_tensor *soft_sum(ag_tensor **in)
{
    return ag_cross_entropy(in[0], in[1], .weight = in[2], .reduction = AG_SUM);
}
static ag_tensor *nll(ag_tensor **in) { return ag_nll_loss(in[0], in[1], .weight = in[2]); }
static ag_tensor *nll_sum(ag_tensor **in) { return ag_nll_loss(in[0], in[1], .reduction = AG_SUM); }

const ag_op ag_op_cross_entropy = {
    .name = "cross_entropy", .inputs = "x target weight", .infer = entropy_infer,
    .forward = { entropy_forward }, .backward = { entropy_backward },
    .check = { { "x[6,5] target[6]:i64<5", hard }, { "x[6,5] target[6]:i64<5", hard_none },
               { "x[6,5] target[6]:i64<5 weight[5]:cpos", smooth }, { "x[6,5] target[6,5]:const", soft },
               { "x[3,20] target[3,20]:u01 weight[20]:cpos", soft_sum } },
};
const ag_op ag_op_nll_loss = {
    .name = "nll_loss", .inputs = "x target weight", .infer = entropy_infer,
    .forward = { entropy_forward }, .backward = { entropy_backward },
    .check = { { "x[6,5] target[6]:i64<5 weight[5]:cpos", nll }, { "x[6,5] target[6]:i64<5", nll_sum } },
};

ag_tensor *ag_cross_entropy_(const char *at, ag_tensor *x, ag_tensor *target, ag_loss_opts opts)
{
    return apply(at, &ag_op_cross_entropy, x, target, opts, true);
}

ag_tensor *ag_nll_loss_(const char *at, ag_tensor *x, ag_tensor *target, ag_loss_opts opts)
{
    return apply(at, &ag_op_nll_loss, x, target, opts, false);
}
