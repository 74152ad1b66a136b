/* ops/swin.c - what the window attention of Swin Transformers adds to attention: biases by relative position, and
 * queries and keys of unit length. */
#include "core/bf16.h"
#include "core/thread.h"
#include "ops/formulas.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/vision.h"

/* ---- relative_position_bias ---------------------------------------------------------------------------- */

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
            for (int64_t row = 0; row < w; row++, bias += w) memcpy(bias, column + row_of(&j, i, row), (size_t)w * sizeof *bias);
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
    return (bias_job){ ag_real(table), ag_real(bias), ag_workspace(n, heads * entries, sizeof(real)), *(const int64_t *)n->arg,
                       heads, entries, add };
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
    .forward = { bias_forward }, .backward = { bias_backward },
    .check = { { "table[25,2]", bias_check } },
};

ag_tensor *ag_relative_position_bias_(const char *at, ag_tensor *table, int64_t window)
{
    return ag_apply_(at, &ag_op_relative_position_bias, 1, &table, &window, sizeof window);
}

/* ---- cosine_qkv: q <- s q / |q|, k <- k / |k| ---------------------------------------------------------- */

enum { TOKENS = 32 };           /* per piece of work, and per partial sum of the gradient of the scale */

typedef struct {
    const ag_tensor *x, *g;
    ag_tensor *y;
    const real *scale;
    real *dscale, *rows;        /* partial sums [pieces, heads], or NULL; three rows of 3 C for each thread */
    int64_t tokens, heads, width;
    bool add;
} cosine_job;

static const real tiny = R(1e-12);

static inline real unit(const real *x, int64_t n)       /* 1 / max(|x|, tiny) */
{
    real square = 0;
#pragma omp simd reduction(+ : square)
    for (int64_t i = 0; i < n; i++) square += x[i] * x[i];
    const real length = SQRT(square);
    return 1 / (length > tiny ? length : tiny);
}

static void cosine_tokens(int64_t begin, int64_t end, void *arg)
{
    const cosine_job j = *(cosine_job *)arg;
    const int64_t row = 3 * j.heads * j.width;
    real *buf = j.rows + ag_thread_id() * 3 * row;
    for (int64_t t = begin; t < end; t++) {
        const real *restrict x = ag_widen(j.x->data, j.x->dtype, t * row, row, buf);
        real *restrict y = ag_narrow_to(j.y->data, j.y->dtype, t * row, buf + row);
        for (int64_t h = 0; h < 2 * j.heads; h++, x += j.width, y += j.width) {
            const real f = unit(x, j.width) * (h < j.heads ? j.scale[h] : 1);
            for (int64_t i = 0; i < j.width; i++) y[i] = f * x[i];
        }
        memcpy(y, x, (size_t)(row / 3) * sizeof *y);
        ag_narrow(j.y->data, j.y->dtype, t * row, row, buf + row);
    }
}

/* u = x / |x|:   d x = s / |x| (g - u (u g)),   d s = sum of u g */
static void cosine_tokens_grad(int64_t begin, int64_t end, void *arg)
{
    const cosine_job j = *(cosine_job *)arg;
    const int64_t row = 3 * j.heads * j.width;
    real *buf = j.rows + ag_thread_id() * 3 * row, *dscale = j.dscale + begin / TOKENS * j.heads;
    for (int64_t t = begin; t < end; t++) {
        if (t % TOKENS == 0) dscale = memset(j.dscale + t / TOKENS * j.heads, 0, (size_t)j.heads * sizeof *dscale);
        const real *restrict x = ag_widen(j.x->data, j.x->dtype, t * row, row, buf);
        const real *restrict g = ag_widen(j.g->data, j.g->dtype, t * row, row, buf + row);
        real *restrict d = !j.y ? buf + 2 * row
                         : j.add ? ag_narrow_onto(j.y->data, j.y->dtype, t * row, row, buf + 2 * row)
                                 : ag_narrow_to(j.y->data, j.y->dtype, t * row, buf + 2 * row);
        for (int64_t h = 0; h < 3 * j.heads; h++, x += j.width, g += j.width, d += j.width) {
            real dot = 0, f = 1, u = 0;
            if (h < 2 * j.heads) {
                u = unit(x, j.width);
#pragma omp simd reduction(+ : dot)
                for (int64_t i = 0; i < j.width; i++) dot += x[i] * g[i];
                dot *= u;
                f = u * (h < j.heads ? j.scale[h] : 1);
                if (h < j.heads) dscale[h] += dot;
            }
            for (int64_t i = 0; i < j.width; i++) {
                const real v = f * (g[i] - u * x[i] * dot);
                d[i] = j.add ? d[i] + v : v;
            }
        }
        if (j.y) ag_narrow(j.y->data, j.y->dtype, t * row, row, buf + 2 * row);
    }
}

static void cosine_infer(ag_node *n)
{
    const ag_tensor *x = n->in[0], *scale = n->in[1];
    AG_REQUIRE(n, x->ndim == 5 && x->shape[2] == 3, "qkv must be [N, L, 3, heads, D]");
    ag_node_require_real(n, scale, "scale");
    AG_REQUIRE(n, ag_numel(scale) == x->shape[3], "scale must have one number for each of %" PRId64 " heads", x->shape[3]);
    ag_node_out_like(n, x);
}

static int64_t pieces(const ag_tensor *x) { return (x->shape[0] * x->shape[1] + TOKENS - 1) / TOKENS; }
static int64_t row_of_token(const ag_tensor *x) { return 3 * x->shape[3] * x->shape[4]; }

static int64_t cosine_workspace(const ag_node *n, bool backward)
{
    const ag_tensor *x = n->in[0];
    const int64_t rows = ag_threads() * 3 * row_of_token(x);
    return (rows + (backward ? pieces(x) * x->shape[3] : 0)) * (int64_t)sizeof(real);
}

static cosine_job cosine_job_of(const ag_node *n, ag_tensor *y)
{
    const ag_tensor *x = n->in[0];
    return (cosine_job){ .x = x, .g = n->out->grad, .y = y, .scale = ag_real(n->in[1]),
                         .rows = ag_workspace(n, ag_threads() * 3 * row_of_token(x), sizeof(real)),
                         .tokens = x->shape[0] * x->shape[1], .heads = x->shape[3], .width = x->shape[4] };
}

static void cosine_forward(ag_node *n)
{
    cosine_job j = cosine_job_of(n, n->out);
    ag_parallel(j.tokens, TOKENS, 0.4 * (double)row_of_token(j.x), cosine_tokens, &j);
}

static void cosine_backward(ag_node *n)
{
    cosine_job j = cosine_job_of(n, n->din[0]);
    const int64_t sums = pieces(j.x);
    j.add = n->accumulate[0];
    j.dscale = ag_workspace(n, sums * j.heads, sizeof(real));
    ag_parallel(j.tokens, TOKENS, 0.8 * (double)row_of_token(j.x), cosine_tokens_grad, &j);
    if (!n->din[1]) return;
    real *d = ag_real(n->din[1]);
    for (int64_t h = 0; h < j.heads; h++) {
        double sum = n->accumulate[1] ? (double)d[h] : 0;
        for (int64_t p = 0; p < sums; p++) sum += (double)j.dscale[p * j.heads + h];
        d[h] = (real)sum;
    }
}

static ag_tensor *cosine_check(ag_tensor **in) { return ag_cosine_qkv(in[0], in[1]); }

const ag_op ag_op_cosine_qkv = {
    .name = "cosine_qkv", .inputs = "qkv scale", .infer = cosine_infer, .bf16 = 1 << 0, .workspace = cosine_workspace,
    .forward = { cosine_forward }, .backward = { cosine_backward },
    .check = { { "qkv[2,3,3,2,5] scale[2]:pos", cosine_check }, { "qkv[1,35,3,1,3] scale[1,1,1]:pos", cosine_check } },
};

ag_tensor *ag_cosine_qkv_(const char *at, ag_tensor *qkv, ag_tensor *scale)
{
    return ag_apply_(at, &ag_op_cosine_qkv, 2, (ag_tensor *[]){ qkv, scale }, NULL, 0);
}
