/* ops/softmax.c - softmax and log_softmax over one axis, seen as [outer, axis, inner]. */
#include "core/thread.h"
#include "ops/formulas.h"
#include "ops/ops.h"
#include "ops/registry.h"

typedef struct { const real *x, *y, *g; real *out; int64_t size, inner; bool add, log; } softmax_job;

static softmax_job job_of(const ag_node *n, int64_t *lines)
{
    const int axis = *(const int *)n->arg;
    softmax_job j = { .size = n->out->shape[axis], .inner = 1, .y = ag_real(n->out) };
    for (int i = axis + 1; i < n->out->ndim; i++) j.inner *= n->out->shape[i];
    *lines = j.size ? ag_numel(n->out) / j.size : 0;
    return j;
}

static void softmax_infer(ag_node *n)
{
    int *axis = n->arg;
    AG_REQUIRE(n, n->in[0]->ndim > 0, "a scalar has no axis");
    *axis = ag_node_axis(n, n->in[0], *axis);
    ag_infer_same(n);
}

/* exp(x - max) / sum; log: x - max - log sum */
static void forward_lines(int64_t begin, int64_t end, void *arg)
{
    const softmax_job j = *(softmax_job *)arg;
    for (int64_t line = begin; line < end; line++) {
        const int64_t first = line / j.inner * j.size * j.inner + line % j.inner, step = j.inner;
        const real *x = j.x + first;
        real *y = j.out + first, m = x[0], sum = 0;
        for (int64_t i = 1; i < j.size; i++) m = x[i * step] > m ? x[i * step] : m;
        for (int64_t i = 0; i < j.size; i++) {
            const real e = EXP(x[i * step] - m);
            y[i * step] = j.log ? x[i * step] - m : e;
            sum += e;
        }
        const real log_sum = LOG(sum), inverse = 1 / sum;
        if (j.log) for (int64_t i = 0; i < j.size; i++) y[i * step] -= log_sum;
        else for (int64_t i = 0; i < j.size; i++) y[i * step] *= inverse;
    }
}

/* y (g - sum g y); log: g - exp(y) sum g */
static void backward_lines(int64_t begin, int64_t end, void *arg)
{
    const softmax_job j = *(softmax_job *)arg;
    for (int64_t line = begin; line < end; line++) {
        const int64_t first = line / j.inner * j.size * j.inner + line % j.inner, step = j.inner;
        const real *y = j.y + first, *g = j.g + first;
        real *d = j.out + first, sum = 0;
        for (int64_t i = 0; i < j.size; i++) sum += g[i * step] * (j.log ? 1 : y[i * step]);
        for (int64_t i = 0; i < j.size; i++) {
            const real v = j.log ? g[i * step] - EXP(y[i * step]) * sum : y[i * step] * (g[i * step] - sum);
            d[i * step] = j.add ? d[i * step] + v : v;
        }
    }
}

static void forward(ag_node *n, bool log)
{
    int64_t lines;
    softmax_job j = job_of(n, &lines);
    j.x = ag_real(n->in[0]), j.out = ag_real(n->out), j.log = log;
    ag_parallel(lines, 8, 3 * (double)j.size, forward_lines, &j);
}

static void backward(ag_node *n, bool log)
{
    int64_t lines;
    softmax_job j = job_of(n, &lines);
    if (!n->din[0]) return;
    j.g = ag_real(n->out->grad), j.out = ag_real(n->din[0]), j.add = n->accumulate[0], j.log = log;
    ag_parallel(lines, 8, 2 * (double)j.size, backward_lines, &j);
}

static void softmax_forward(ag_node *n) { forward(n, false); }
static void softmax_backward(ag_node *n) { backward(n, false); }
static void log_softmax_forward(ag_node *n) { forward(n, true); }
static void log_softmax_backward(ag_node *n) { backward(n, true); }
static ag_tensor *softmax_last(ag_tensor **in) { return ag_softmax(in[0], -1); }
static ag_tensor *softmax_first(ag_tensor **in) { return ag_softmax(in[0], 0); }
static ag_tensor *log_softmax_last(ag_tensor **in) { return ag_log_softmax(in[0], -1); }
static ag_tensor *log_softmax_middle(ag_tensor **in) { return ag_log_softmax(in[0], 1); }

const ag_op ag_op_softmax = {
    .name = "softmax", .inputs = "x", .infer = softmax_infer,
    .forward = { softmax_forward }, .backward = { softmax_backward },
    .check = { { "x[3,7]", softmax_last }, { "x[3,2,5]", softmax_first } },
};
const ag_op ag_op_log_softmax = {
    .name = "log_softmax", .inputs = "x", .infer = softmax_infer,
    .forward = { log_softmax_forward }, .backward = { log_softmax_backward },
    .check = { { "x[3,7]", log_softmax_last }, { "x[3,4,5]", log_softmax_middle } },
};

ag_tensor *ag_softmax_(const char *at, ag_tensor *x, int axis)
{
    return ag_apply_(at, &ag_op_softmax, 1, &x, &axis, sizeof axis);
}

ag_tensor *ag_log_softmax_(const char *at, ag_tensor *x, int axis)
{
    return ag_apply_(at, &ag_op_log_softmax, 1, &x, &axis, sizeof axis);
}
