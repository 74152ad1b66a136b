/* ops/softmax.c - softmax and log_softmax over one axis, seen as [outer, axis, inner]. */
#include "core/bf16.h"
#include "core/thread.h"
#include "ops/formulas.h"
#include "ops/ops.h"
#include "ops/registry.h"

/* Lines along the axis are taken one by one where they are dense (inner = 1), else COLUMNS beside one another. */
enum { COLUMNS = 64 };
typedef struct {
    const void *x, *y, *g;
    void *out;
    ag_dtype dtype;
    real *scratch;                      /* lines of bf16 in real, for each thread */
    int64_t size, inner, blocks;
    bool add, log;
} softmax_job;

enum { BUFFERS = 3 };

static softmax_job job_of(const ag_node *n, bool log)
{
    const int axis = *(const int *)n->arg;
    softmax_job j = { .size = n->out->shape[axis], .inner = 1, .y = n->out->data, .dtype = n->out->dtype, .log = log };
    for (int i = axis + 1; i < n->out->ndim; i++) j.inner *= n->out->shape[i];
    j.blocks = (j.inner + COLUMNS - 1) / COLUMNS;
    if (j.dtype == AG_BF16 && j.inner == 1) j.scratch = ag_workspace(n, ag_threads() * BUFFERS * j.size, sizeof(real));
    return j;
}

static int64_t softmax_workspace(const ag_node *n, bool backward)
{
    const int64_t size = n->out->shape[*(const int *)n->arg];
    (void)backward;
    return n->out->dtype == AG_BF16 ? ag_threads() * BUFFERS * size * (int64_t)sizeof(real) : 0;
}

static void softmax_infer(ag_node *n)
{
    int *axis = n->arg;
    AG_REQUIRE(n, n->in[0]->ndim > 0, "a scalar has no axis");
    *axis = ag_node_axis(n, n->in[0], *axis);
    ag_infer_same(n);
}

/* exp(x - max) / sum; log: x - max - log sum */
static void forward_line(const softmax_job *j, const real *x, real *y)
{
    const int64_t n = j->size;
    real m = x[0], sum = 0;
#pragma omp simd reduction(max : m)
    for (int64_t i = 1; i < n; i++) m = x[i] > m ? x[i] : m;
    if (j->log)
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += EXP(x[i] - m);
    else
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += y[i] = EXP(x[i] - m);
    const real shift = m + LOG(sum), inverse = 1 / sum;
    if (j->log) for (int64_t i = 0; i < n; i++) y[i] = x[i] - shift;
    else for (int64_t i = 0; i < n; i++) y[i] *= inverse;
}

/* y (g - sum g y); log: g - exp(y) sum g */
static void backward_line(const softmax_job *j, const real *y, const real *g, real *d)
{
    const int64_t n = j->size;
    real sum = 0;
    if (!j->add) memset(d, 0, (size_t)n * sizeof *d);
    if (j->log) {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += g[i];
        for (int64_t i = 0; i < n; i++) d[i] += g[i] - EXP(y[i]) * sum;
    } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += g[i] * y[i];
        for (int64_t i = 0; i < n; i++) d[i] += y[i] * (g[i] - sum);
    }
}

static void forward_lines(int64_t begin, int64_t end, void *arg)
{
    const softmax_job *j = arg;
    const int64_t n = j->size;
    real *buf = j->scratch + ag_thread_id() * BUFFERS * n;
    for (int64_t at = begin * n; at < end * n; at += n) {
        real *y = ag_narrow_to(j->out, j->dtype, at, buf + n);
        forward_line(j, ag_widen(j->x, j->dtype, at, n, buf), y);
        ag_narrow(j->out, j->dtype, at, n, y);
    }
}

static void backward_lines(int64_t begin, int64_t end, void *arg)
{
    const softmax_job *j = arg;
    const int64_t n = j->size;
    real *buf = j->scratch + ag_thread_id() * BUFFERS * n;
    for (int64_t at = begin * n; at < end * n; at += n) {
        const real *y = ag_widen(j->y, j->dtype, at, n, buf), *g = ag_widen(j->g, j->dtype, at, n, buf + n);
        real *d = ag_narrow_grad(j->out, j->dtype, at, n, buf + 2 * n, j->add);
        backward_line(j, y, g, d);
        ag_narrow(j->out, j->dtype, at, n, d);
    }
}

/* The same for n lines beside one another, from `at` on. */
static void forward_block(const softmax_job *j, int64_t at, int64_t n)
{
    real buf[COLUMNS], y_buf[COLUMNS], m[COLUMNS], sum[COLUMNS] = { 0 };
    for (int64_t i = 0; i < j->size; i++) {
        const real *x = ag_widen(j->x, j->dtype, at + i * j->inner, n, buf);
        for (int64_t c = 0; c < n; c++) m[c] = !i || x[c] > m[c] ? x[c] : m[c];
    }
    for (int64_t i = 0; i < j->size; i++) {
        const real *x = ag_widen(j->x, j->dtype, at + i * j->inner, n, buf);
        for (int64_t c = 0; c < n; c++) sum[c] += EXP(x[c] - m[c]);
    }
    for (int64_t c = 0; c < n; c++) m[c] += LOG(sum[c]);
    for (int64_t i = 0; i < j->size; i++) {
        const int64_t row = at + i * j->inner;
        const real *x = ag_widen(j->x, j->dtype, row, n, buf);
        real *y = ag_narrow_to(j->out, j->dtype, row, y_buf);
        for (int64_t c = 0; c < n; c++) y[c] = j->log ? x[c] - m[c] : EXP(x[c] - m[c]);
        ag_narrow(j->out, j->dtype, row, n, y);
    }
}

static void backward_block(const softmax_job *j, int64_t at, int64_t n)
{
    real y_buf[COLUMNS], g_buf[COLUMNS], d_buf[COLUMNS], sum[COLUMNS] = { 0 };
    for (int64_t i = 0; i < j->size; i++) {
        const int64_t row = at + i * j->inner;
        const real *y = ag_widen(j->y, j->dtype, row, n, y_buf), *g = ag_widen(j->g, j->dtype, row, n, g_buf);
        for (int64_t c = 0; c < n; c++) sum[c] += g[c] * (j->log ? 1 : y[c]);
    }
    for (int64_t i = 0; i < j->size; i++) {
        const int64_t row = at + i * j->inner;
        const real *y = ag_widen(j->y, j->dtype, row, n, y_buf), *g = ag_widen(j->g, j->dtype, row, n, g_buf);
        real *d = ag_narrow_onto(j->out, j->dtype, row, n, d_buf);
        for (int64_t c = 0; c < n; c++) {
            const real v = j->log ? g[c] - EXP(y[c]) * sum[c] : y[c] * (g[c] - sum[c]);
            d[c] = j->add ? d[c] + v : v;
        }
        ag_narrow(j->out, j->dtype, row, n, d);
    }
}

static void run_blocks(int64_t begin, int64_t end, void *arg)
{
    const softmax_job *j = arg;
    for (int64_t k = begin; k < end; k++) {
        const int64_t c = k % j->blocks * COLUMNS, n = j->inner - c < COLUMNS ? j->inner - c : COLUMNS;
        (j->g ? backward_block : forward_block)(j, k / j->blocks * j->size * j->inner + c, n);
    }
}

static void run(const ag_node *n, softmax_job *j)
{
    const int64_t outer = ag_numel(n->out) / (j->size * j->inner);
    if (j->inner == 1) ag_parallel(outer, 8, 1.5 * (double)j->size, j->g ? backward_lines : forward_lines, j);
    else ag_parallel(outer * j->blocks, 1, 3.0 * (double)(j->size * (j->inner / j->blocks)), run_blocks, j);
}

static void forward(ag_node *n, bool log)
{
    softmax_job j = job_of(n, log);
    j.x = n->in[0]->data, j.out = n->out->data;
    run(n, &j);
}

static void backward(ag_node *n, bool log)
{
    softmax_job j = job_of(n, log);
    if (!n->din[0]) return;
    j.g = n->out->grad->data, j.out = n->din[0]->data, j.add = n->accumulate[0];
    run(n, &j);
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
    .name = "softmax", .inputs = "x", .infer = softmax_infer, .bf16 = 1, .bf16_cuda = 1, .unread = 1, .unread_cuda = true,
    .workspace = softmax_workspace,
    .forward = { softmax_forward, AG_CUDA_FN(ag_softmax_forward_cuda) },
    .backward = { softmax_backward, AG_CUDA_FN(ag_softmax_backward_cuda) },
    .check = { { "x[3,7]", softmax_last }, { "x[3,2,5]", softmax_first } },
};
const ag_op ag_op_log_softmax = {
    .name = "log_softmax", .inputs = "x", .infer = softmax_infer, .bf16 = 1, .bf16_cuda = 1, .unread = 1, .unread_cuda = true,
    .workspace = softmax_workspace,
    .forward = { log_softmax_forward, AG_CUDA_FN(ag_log_softmax_forward_cuda) },
    .backward = { log_softmax_backward, AG_CUDA_FN(ag_log_softmax_backward_cuda) },
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
