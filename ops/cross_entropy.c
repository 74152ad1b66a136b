/* ops/cross_entropy.c - cross-entropy on logits, and nll_loss on log-probabilities.
 *
 * With p = softmax(x), weights w, smoothing s over C classes, an integer target t counts as the distribution
 * q_c = (1 - s) [c = t] + s/C and   loss = -sum_c w_c q_c log p_c;
 * the mean divides by sum w_t (integers) or by N (probabilities), as F.cross_entropy does. */
#include "core/bf16.h"
#include "core/thread.h"
#include "ops/args.h"
#include "ops/formulas.h"
#include "ops/indexing.h"
#include "ops/ops.h"
#include "ops/registry.h"

enum { X, TARGET, WEIGHT, INPUTS };

typedef struct {
    const void *x;
    const real *soft, *g;
    const int64_t *hard;
    void *d;
    ag_dtype dtype;                     /* of x and d */
    real *lse, *loss, *scratch, scale;
    real *kept, *spread, all_spread;    /* w_c q_c = kept_c target_c + spread_c; the sum of spread */
    int64_t classes;
    bool add, each, logits;
} entropy_job;

static void entropy_infer(ag_node *n)
{
    const ag_entropy_arg *a = n->arg;
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

/* buffers: rows of scratch for each thread */
static entropy_job job_of(const ag_node *n, int buffers)
{
    const ag_entropy_arg *a = n->arg;
    const ag_tensor *x = n->in[X], *t = n->in[TARGET], *w = n->in[WEIGHT];
    entropy_job j = { .x = x->data, .dtype = x->dtype, .soft = t->dtype == AG_F32 ? ag_real(t) : NULL,
                      .hard = t->dtype == AG_I64 ? t->data : NULL, .lse = ag_real(n->saved[0]), .classes = x->shape[1],
                      .each = a->reduction == AG_NONE, .logits = a->logits };
    j.kept = ag_workspace(n, 2 * j.classes, sizeof *j.kept);
    j.spread = j.kept + j.classes;
    for (int64_t c = 0; c < j.classes; c++) {
        const double weight = w ? (double)ag_real(w)[c] : 1;
        j.kept[c] = (real)(weight * (1 - a->smoothing));
        j.spread[c] = (real)(weight * a->smoothing / (double)j.classes);
        j.all_spread += j.spread[c];
    }
    if (j.dtype == AG_BF16) j.scratch = ag_workspace(n, ag_threads() * buffers * j.classes, sizeof(real));
    return j;
}

static int64_t entropy_workspace(const ag_node *n, bool backward)
{
    const ag_tensor *x = n->in[X];
    const int64_t scratch = x->dtype == AG_BF16 ? ag_threads() * (backward ? 2 : 1) * x->shape[1] : 0;
    return (scratch + 2 * x->shape[1] + (backward ? 0 : x->shape[0])) * (int64_t)sizeof(real);
}

static real log_sum_exp(const real *x, int64_t n)
{
    real m = x[0], sum = 0;
#pragma omp simd reduction(max : m)
    for (int64_t c = 1; c < n; c++) m = x[c] > m ? x[c] : m;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < n; c++) sum += EXP(x[c] - m);
    return m + LOG(sum);
}

/* sum_c w_c q_c (lse - x_c) */
static real row_loss(const entropy_job *j, int64_t row, const real *x, real lse)
{
    const real *kept = j->kept, *spread = j->spread, *soft = j->soft + (j->soft ? row * j->classes : 0);
    real loss = 0;
    if (j->soft)
#pragma omp simd reduction(+ : loss)
        for (int64_t c = 0; c < j->classes; c++) loss += (kept[c] * soft[c] + spread[c]) * (lse - x[c]);
    else if (j->all_spread != 0)
#pragma omp simd reduction(+ : loss)
        for (int64_t c = 0; c < j->classes; c++) loss += spread[c] * (lse - x[c]);
    return j->hard ? loss + kept[j->hard[row]] * (lse - x[j->hard[row]]) : loss;
}

static void forward_rows(int64_t begin, int64_t end, void *arg)
{
    const entropy_job *j = arg;
    real *buf = j->scratch + ag_thread_id() * j->classes;
    for (int64_t row = begin; row < end; row++) {
        const real *x = ag_widen(j->x, j->dtype, row * j->classes, j->classes, buf);
        j->lse[row] = j->logits ? log_sum_exp(x, j->classes) : 0;
        j->loss[row] = row_loss(j, row, x, j->lse[row]);
    }
}

/* d x_c = p_c sum_k w_k q_k - w_c q_c, times scale; without the softmax the first term is absent */
static void backward_row(const entropy_job *j, int64_t row, const real *x, real scale, real *d)
{
    const real *kept = j->kept, *spread = j->spread, *soft = j->soft + (j->soft ? row * j->classes : 0);
    const real lse = j->lse[row];
    real total = j->hard ? kept[j->hard[row]] : 0;
    if (!j->add) memset(d, 0, (size_t)j->classes * sizeof *d);
    if (j->soft)
#pragma omp simd reduction(+ : total)
        for (int64_t c = 0; c < j->classes; c++) total += kept[c] * soft[c], d[c] -= kept[c] * soft[c] * scale;
    else d[j->hard[row]] -= kept[j->hard[row]] * scale;
    if (j->all_spread != 0)
#pragma omp simd
        for (int64_t c = 0; c < j->classes; c++) d[c] -= spread[c] * scale;
    total = (total + j->all_spread) * scale;
    if (j->logits)
#pragma omp simd
        for (int64_t c = 0; c < j->classes; c++) d[c] += EXP(x[c] - lse) * total;
}

static void backward_rows(int64_t begin, int64_t end, void *arg)
{
    const entropy_job *j = arg;
    const int64_t n = j->classes;
    real *buf = j->scratch + ag_thread_id() * 2 * n;
    for (int64_t row = begin; row < end; row++) {
        const real *x = ag_widen(j->x, j->dtype, row * n, n, buf);
        real *d = ag_narrow_grad(j->d, j->dtype, row * n, n, buf + n, j->add);
        backward_row(j, row, x, j->g[j->each ? row : 0] * j->scale, d);
        ag_narrow(j->d, j->dtype, row * n, n, d);
    }
}

static double divisor(const ag_node *n)
{
    const ag_entropy_arg *a = n->arg;
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
    entropy_job j = job_of(n, 1);
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
    entropy_job j = job_of(n, 2);
    if (!n->din[X]) return;
    j.g = ag_real(n->out->grad), j.d = n->din[X]->data, j.add = n->accumulate[X], j.scale = (real)(1 / divisor(n));
    ag_parallel(n->in[X]->shape[0], 16, 3 * (double)j.classes, backward_rows, &j);
}

static ag_tensor *apply(const char *at, const ag_op *op, ag_tensor *x, ag_tensor *target, ag_loss_opts opts, bool logits)
{
    const ag_entropy_arg a = { opts.reduction, opts.label_smoothing, logits };
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
    .name = "cross_entropy", .inputs = "x target weight", .infer = entropy_infer, .bf16 = 1 << X, .bf16_cuda = 1 << X,
    .unread_out = true, .unread_cuda = true, .workspace = entropy_workspace,
    .forward = { entropy_forward, AG_CUDA_FN(ag_cross_entropy_forward_cuda) },
    .backward = { entropy_backward, AG_CUDA_FN(ag_cross_entropy_backward_cuda) },
    .check = { { "x[6,5] target[6]:i64<5", hard }, { "x[6,5] target[6]:i64<5", hard_none },
               { "x[6,5] target[6]:i64<5 weight[5]:cpos", smooth }, { "x[6,5] target[6,5]:const", soft },
               { "x[3,20] target[3,20]:u01 weight[20]:cpos", soft_sum } },
};
const ag_op ag_op_nll_loss = {
    .name = "nll_loss", .inputs = "x target weight", .infer = entropy_infer, .bf16 = 1 << X, .bf16_cuda = 1 << X,
    .unread_out = true, .unread_cuda = true, .workspace = entropy_workspace,
    .forward = { entropy_forward, AG_CUDA_FN(ag_nll_loss_forward_cuda) },
    .backward = { entropy_backward, AG_CUDA_FN(ag_nll_loss_backward_cuda) },
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
