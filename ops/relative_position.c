/* ops/relative_position.c - biases of attention in a window by the relative position of its tokens. */
#include <string.h>
#include "core/thread.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/vision.h"

/* Of a head: its column of the table, last entry first. Token (yj, xj) seen from (yi, xi) then lies at
 * (w-1-yi+yj) (2w-1) + w-1-xi+xj: the tokens of a row of the window lie side by side. */
typedef struct { real *table, *bias, *column; int64_t window, heads, entries; bool add; } bias_job;

static inline int64_t row_of(const bias_job *j, int64_t i, int64_t row)
{
    const int64_t w = j->window;
    return (w - 1 - i / w + row) * (2 * w - 1) + w - 1 - i % w;
}

static void bias_heads(int64_t begin, int64_t end, void *arg)
{
    const bias_job j = *(bias_job *)arg;
    const int64_t w = j.window, tokens = w * w;
    for (int64_t h = begin; h < end; h++) {
        real *column = j.column + h * j.entries, *bias = j.bias + h * tokens * tokens;
        for (int64_t e = 0; e < j.entries; e++) column[e] = j.table[(j.entries - 1 - e) * j.heads + h];
        for (int64_t i = 0; i < tokens; i++)
            for (int64_t row = 0; row < w; row++, bias += w)
                memcpy(bias, column + row_of(&j, i, row), (size_t)w * sizeof *bias);
    }
}

static void bias_heads_grad(int64_t begin, int64_t end, void *arg)
{
    const bias_job j = *(bias_job *)arg;
    const int64_t w = j.window, tokens = w * w;
    for (int64_t h = begin; h < end; h++) {
        real *column = j.column + h * j.entries;
        const real *g = j.bias + h * tokens * tokens;
        for (int64_t e = 0; e < j.entries; e++) column[e] = j.add ? j.table[(j.entries - 1 - e) * j.heads + h] : 0;
        for (int64_t i = 0; i < tokens; i++)
            for (int64_t row = 0; row < w; row++, g += w) {
                real *restrict d = column + row_of(&j, i, row);
                for (int64_t x = 0; x < w; x++) d[x] += g[x];
            }
        for (int64_t e = 0; e < j.entries; e++) j.table[(j.entries - 1 - e) * j.heads + h] = column[e];
    }
}

static void bias_infer(ag_node *n)
{
    const int64_t w = *(const int64_t *)n->arg;
    const ag_tensor *table = n->in[0];
    ag_node_require_real(n, table, "table");
    AG_REQUIRE(n, w > 0 && w < 1 << 12, "a window of %" PRId64 " x %" PRId64 " tokens", w, w);
    AG_REQUIRE(n, table->ndim == 2 && table->shape[0] == (2 * w - 1) * (2 * w - 1),
               "a window of %" PRId64 " x %" PRId64 " tokens has %" PRId64 " relative positions: the table must be "
               "[%" PRId64 ", heads]", w, w, (2 * w - 1) * (2 * w - 1), (2 * w - 1) * (2 * w - 1));
    ag_node_out(n, AG_F32, AG_SHAPE(table->shape[1], w * w, w * w));
}

static bias_job bias_job_of(const ag_node *n, ag_tensor *table, ag_tensor *bias, bool add)
{
    const int64_t entries = table->shape[0], heads = table->shape[1];
    return (bias_job){ ag_real(table), ag_real(bias), ag_workspace(n, heads * entries, sizeof(real)),
                       *(const int64_t *)n->arg, heads, entries, add };
}

static double bias_cost(const bias_job *j) { return 0.2 * (double)(j->window * j->window * j->window * j->window); }

static int64_t bias_workspace(const ag_node *n, bool backward)
{
    (void)backward;
    return ag_numel(n->in[0]) * (int64_t)sizeof(real);
}

static void bias_forward(ag_node *n)
{
    bias_job j = bias_job_of(n, n->in[0], n->out, false);
    ag_parallel(j.heads, 1, bias_cost(&j), bias_heads, &j);
}

static void bias_backward(ag_node *n)
{
    bias_job j = bias_job_of(n, n->din[0], n->out->grad, n->accumulate[0]);
    ag_parallel(j.heads, 1, bias_cost(&j), bias_heads_grad, &j);
}

static ag_tensor *bias_check(ag_tensor **in) { return ag_relative_position_bias(in[0], 3); }

const ag_op ag_op_relative_position_bias = {
    .name = "relative_position_bias", .inputs = "table", .infer = bias_infer, .workspace = bias_workspace,
    .forward = { bias_forward, AG_CUDA_FN(ag_relative_position_bias_forward_cuda) },
    .backward = { bias_backward, AG_CUDA_FN(ag_relative_position_bias_backward_cuda) },
    .check = { { "table[25,2]", bias_check } },
};

ag_tensor *ag_relative_position_bias_(const char *at, ag_tensor *table, int64_t window)
{
    return ag_apply_(at, &ag_op_relative_position_bias, 1, &table, &window, sizeof window);
}
