/* ops/focal.c - focal loss on logits (Lin et al. 2017, with a softmax over classes as in fastai's FocalLoss).
 *
 * With l = log p_t, p = softmax(x) and weights w over classes:   loss = -w_t (1 - p_t)^gamma l,
 *   d loss / d x_c = w_t ((1 - p_t)^gamma - gamma p_t (1 - p_t)^(gamma - 1) l) (p_c - [c = t])
 * The mean divides by the number of samples. */
#include "core/thread.h"
#include "ops/args.h"
#include "ops/formulas.h"
#include "ops/indexing.h"
#include "ops/ops.h"
#include "ops/registry.h"

enum { X, TARGET, WEIGHT, INPUTS };

typedef struct {
    const real *x, *weight, *g;
    const int64_t *target;
    real *d, *lse, *loss, gamma, scale;
    int64_t classes;
    bool add, each;
} focal_job;

static void infer(ag_node *n)
{
    const ag_focal_arg *a = n->arg;
    const ag_tensor *x = n->in[X], *t = n->in[TARGET], *w = n->in[WEIGHT];
    ag_node_require_real(n, x, "x");
    AG_REQUIRE(n, x->ndim == 2, "x must be [N, C], got %d axes; ag_reshape joins leading axes", x->ndim);
    AG_REQUIRE(n, a->reduction == AG_NONE || x->shape[0], "there are no rows to take the mean of");
    AG_REQUIRE(n, t->dtype == AG_I64, "targets must be i64 classes, got %s", ag_dtype_name(t->dtype));
    AG_REQUIRE(n, t->ndim == 1 && t->shape[0] == x->shape[0], "targets must be [%" PRId64 "], one for each row",
               x->shape[0]);
    AG_REQUIRE(n, !w || (w->dtype == AG_F32 && w->ndim == 1 && w->shape[0] == x->shape[1]),
               "weight must be f32 [%" PRId64 "]", x->shape[1]);
    AG_REQUIRE(n, a->gamma > 0 && a->gamma < 1e3, ".gamma = %g; it is above 0 (0: the default of 2; without it, "
               "ag_cross_entropy)", a->gamma);
    ag_node_out(n, AG_F32, a->reduction == AG_NONE ? AG_SHAPE(x->shape[0]) : (ag_shape){ 0 });
    ag_node_save(n, 0, AG_F32, AG_SHAPE(x->shape[0]));      /* log sum exp of each row */
}

static focal_job job_of(const ag_node *n)
{
    const ag_focal_arg *a = n->arg;
    const ag_tensor *w = n->in[WEIGHT];
    const bool mean = a->reduction == AG_MEAN;
    return (focal_job){ .x = ag_real(n->in[X]), .target = n->in[TARGET]->data, .weight = w ? ag_real(w) : NULL,
                        .lse = ag_real(n->saved[0]), .gamma = (real)a->gamma, .classes = n->in[X]->shape[1],
                        .each = a->reduction == AG_NONE, .scale = mean ? 1 / (real)n->in[X]->shape[0] : 1 };
}

static void forward_rows(int64_t begin, int64_t end, void *arg)
{
    const focal_job j = *(focal_job *)arg;
    for (int64_t row = begin; row < end; row++) {
        const real *x = j.x + row * j.classes;
        const int64_t t = j.target[row];
        real m = x[0], sum = 0;
        for (int64_t c = 1; c < j.classes; c++) m = x[c] > m ? x[c] : m;
        for (int64_t c = 0; c < j.classes; c++) sum += EXP(x[c] - m);
        j.lse[row] = m + LOG(sum);
        const real l = x[t] - j.lse[row], miss = 1 - EXP(l);
        j.loss[row] = miss > 0 ? -(j.weight ? j.weight[t] : 1) * POW(miss, j.gamma) * l : 0;
    }
}

static void backward_rows(int64_t begin, int64_t end, void *arg)
{
    const focal_job j = *(focal_job *)arg;
    for (int64_t row = begin; row < end; row++) {
        const real *x = j.x + row * j.classes;
        const int64_t t = j.target[row];
        real *d = j.d + row * j.classes;
        const real l = x[t] - j.lse[row], p = EXP(l), miss = 1 - p;
        const real slope = miss > 0 ? POW(miss, j.gamma) * (1 - j.gamma * p * l / miss) : 0;
        const real g = j.g[j.each ? row : 0] * j.scale * (j.weight ? j.weight[t] : 1) * slope;
        for (int64_t c = 0; c < j.classes; c++) {
            const real v = g * (EXP(x[c] - j.lse[row]) - (c == t));
            d[c] = j.add ? d[c] + v : v;
        }
    }
}

static void forward(ag_node *n)
{
    const int64_t rows = n->in[X]->shape[0];
    focal_job j = job_of(n);
    double total = 0;
    ag_check_ids(n, n->in[TARGET], 0, 1, rows, j.classes, "the classes");
    j.loss = j.each ? ag_real(n->out) : ag_workspace(n, rows, sizeof(real));
    ag_parallel(rows, 16, 3 * (double)j.classes, forward_rows, &j);
    for (int64_t i = 0; i < rows && !j.each; i++) total += (double)j.loss[i];
    if (!j.each) *ag_real(n->out) = (real)total * j.scale;
}

static void backward(ag_node *n)
{
    focal_job j = job_of(n);
    if (!n->din[X]) return;
    j.g = ag_real(n->out->grad), j.d = ag_real(n->din[X]), j.add = n->accumulate[X];
    ag_parallel(n->in[X]->shape[0], 16, 3 * (double)j.classes, backward_rows, &j);
}

static int64_t workspace(const ag_node *n, bool backward)
{
    return backward || n->out->ndim ? 0 : n->in[X]->shape[0] * (int64_t)sizeof(real);
}

static ag_tensor *check_mean(ag_tensor **in) { return ag_focal_loss(in[0], in[1]); }
static ag_tensor *check_weighted(ag_tensor **in)
{
    return ag_focal_loss(in[0], in[1], .weight = in[2], .gamma = 0.5, .reduction = AG_NONE);
}
static ag_tensor *check_sum(ag_tensor **in) { return ag_focal_loss(in[0], in[1], .gamma = 3, .reduction = AG_SUM); }

const ag_op ag_op_focal_loss = {
    .name = "focal_loss", .inputs = "x target weight", .infer = infer, .workspace = workspace,
    .forward = { forward, AG_CUDA_FN(ag_focal_loss_forward_cuda) },
    .backward = { backward, AG_CUDA_FN(ag_focal_loss_backward_cuda) },
    .check = { { "x[6,5] target[6]:i64<5", check_mean }, { "x[6,5] target[6]:i64<5 weight[5]:cpos", check_weighted },
               { "x[3,20]:far target[3]:i64<20", check_sum } },
};

ag_tensor *ag_focal_loss_(const char *at, ag_tensor *x, ag_tensor *target, ag_loss_opts opts)
{
    const ag_focal_arg a = { opts.reduction, opts.gamma != 0 ? opts.gamma : 2 };
    return ag_apply_(at, &ag_op_focal_loss, INPUTS, (ag_tensor *[]){ x, target, opts.weight }, &a, sizeof a);
}
