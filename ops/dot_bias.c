/* ops/dot_bias.c - the recommender's score in one pass: s[b] = U[u] . I[i] + bu[u] + bi[i], (u, i) = ids[b], or in a range:
 * y = lo + (hi - lo) sigmoid(s).
 *
 * Composed of embeddings, a product, a sum and two additions the same step takes eight passes over [B, K]. */
#include "core/thread.h"
#include "ops/args.h"
#include "ops/formulas.h"
#include "ops/indexing.h"
#include "ops/ops.h"
#include "ops/registry.h"

enum { USERS, ITEMS, USER_BIAS, ITEM_BIAS, IDS };
enum { GRAIN = 256 };

static void require_table(const ag_node *n, int k, const char *name, int64_t rows, int64_t width)
{
    const ag_tensor *t = n->in[k];
    if (!t) return;
    ag_node_require_real(n, t, name);
    AG_REQUIRE(n, t->ndim == 2, "%s must be [rows, width], got %d axes", name, t->ndim);
    AG_REQUIRE(n, rows < 0 || t->shape[0] == rows, "%s has %" PRId64 " rows, its factors %" PRId64, name, t->shape[0], rows);
    AG_REQUIRE(n, t->shape[1] == width, "%s has width %" PRId64 ", not %" PRId64, name, t->shape[1], width);
}

static void dot_bias_infer(ag_node *n)
{
    const ag_tensor *ids = n->in[IDS];
    ag_require_ids(n, ids, "ids");
    AG_REQUIRE(n, ids->ndim == 2 && ids->shape[1] == 2, "ids must be [B, 2]: user and item");
    require_table(n, USERS, "users", -1, n->in[USERS]->ndim == 2 ? n->in[USERS]->shape[1] : -1);
    require_table(n, ITEMS, "items", -1, n->in[USERS]->shape[1]);
    require_table(n, USER_BIAS, "user_bias", n->in[USERS]->shape[0], 1);
    require_table(n, ITEM_BIAS, "item_bias", n->in[ITEMS]->shape[0], 1);
    const ag_range_arg *r = n->arg;
    AG_REQUIRE(n, r->lo <= r->hi && isfinite(r->lo) && isfinite(r->hi), "the range .lo = %g to .hi = %g is none", r->lo, r->hi);
    ag_node_out(n, AG_F32, AG_SHAPE(ids->shape[0]));
    n->unread_out = !(r->lo < r->hi);
}

typedef struct {
    const real *users, *items, *user_bias, *item_bias, *g;
    const int64_t *ids;
    real *out, *du, *di, *ds;
    int64_t width;
    real lo, hi;
} scores;

static const real *optional(const ag_tensor *t) { return t ? ag_real(t) : NULL; }

static scores job(const ag_node *n)
{
    const ag_range_arg *r = n->arg;
    return (scores){ .users = ag_real(n->in[USERS]), .items = ag_real(n->in[ITEMS]), .ids = n->in[IDS]->data,
                     .user_bias = optional(n->in[USER_BIAS]), .item_bias = optional(n->in[ITEM_BIAS]),
                     .out = ag_real(n->out), .width = n->in[USERS]->shape[1],
                     .lo = (real)r->lo, .hi = (real)r->hi };
}

/* Asks for the rows of a pair that comes soon: large tables lie beyond the caches, and each row elsewhere. */
static inline void prefetch(const scores *s, int64_t b, int64_t end)
{
    enum { AHEAD = 10, LINE = 64 / sizeof(real) };
    if (b + AHEAD >= end) return;
    const real *u = s->users + s->ids[2 * (b + AHEAD)] * s->width, *i = s->items + s->ids[2 * (b + AHEAD) + 1] * s->width;
    for (int64_t k = 0; k < s->width; k += LINE) {
        __builtin_prefetch(u + k);
        __builtin_prefetch(i + k);
    }
}

static void score(int64_t begin, int64_t end, void *arg)
{
    const scores s = *(scores *)arg;
    for (int64_t b = begin; b < end; b++) {
        prefetch(&s, b, end);
        const int64_t user = s.ids[2 * b], item = s.ids[2 * b + 1];
        const real *u = s.users + user * s.width, *i = s.items + item * s.width;
        real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < s.width; k++) sum += u[k] * i[k];
        if (s.user_bias) sum += s.user_bias[user];
        if (s.item_bias) sum += s.item_bias[item];
        s.out[b] = s.lo < s.hi ? RANGE(sum, s.lo, s.hi) : sum;
    }
}

static void dot_bias_forward(ag_node *n)
{
    ag_tensor *ids = n->in[IDS];
    const int64_t count = ids->shape[0];
    scores s = job(n);
    ag_check_ids(n, ids, 0, 2, count, n->in[USERS]->shape[0], "users");
    ag_check_ids(n, ids, 1, 2, count, n->in[ITEMS]->shape[0], "items");
    ag_before_read(4, n->in, (int[]){ 0, 1, 0, 1 }, ids);
    ag_parallel(count, GRAIN, 10 + 0.3 * (double)s.width, score, &s);
}

/* d s[b] */
static inline real slope(const scores *s, int64_t b)
{
    return s->lo < s->hi ? RANGE_GRAD(s->g[b], s->out[b], s->lo, s->hi) : s->g[b];
}

/* The gradients of each pair's two rows, and of its score, side by side with the batch. */
static void row_gradients(int64_t begin, int64_t end, void *arg)
{
    const scores s = *(scores *)arg;
    for (int64_t b = begin; b < end; b++) {
        prefetch(&s, b, end);
        const real *u = s.users + s.ids[2 * b] * s.width, *i = s.items + s.ids[2 * b + 1] * s.width, g = slope(&s, b);
        if (s.ds) s.ds[b] = g;
        if (s.du) for (int64_t k = 0; k < s.width; k++) s.du[b * s.width + k] = g * i[k];
        if (s.di) for (int64_t k = 0; k < s.width; k++) s.di[b * s.width + k] = g * u[k];
    }
}

static void give_rows(ag_node *n)
{
    const int64_t count = n->in[IDS]->shape[0];
    ag_tensor *column[2] = { NULL, NULL }, *values[4] = { NULL }, *ds = ag_reshape(n->out->grad, count, 1);
    scores s = job(n);
    if (s.lo < s.hi) {
        ds = ag_scoped(ag_node_rows_new(n, AG_F32, AG_SHAPE(count, 1)));
        s.ds = ag_real(ds);
    }
    for (int k = USERS; k <= ITEM_BIAS; k++) {
        if (!ag_node_wants_rows(n, k)) continue;
        const int side = k == ITEMS || k == ITEM_BIAS;
        if (!column[side]) column[side] = ag_contiguous(ag_select(n->in[IDS], 1, side));
        values[k] = k < USER_BIAS ? ag_node_rows_new(n, AG_F32, AG_SHAPE(count, n->in[k]->shape[1]))
                                  : ag_retain(ds);
    }
    s.g = ag_real(n->out->grad);
    s.du = values[USERS] ? ag_real(values[USERS]) : NULL, s.di = values[ITEMS] ? ag_real(values[ITEMS]) : NULL;
    if (column[0] || column[1]) ag_parallel(count, GRAIN, 10 + 0.5 * (double)s.width, row_gradients, &s);
    for (int k = USERS; k <= ITEM_BIAS; k++)
        if (values[k]) ag_node_give_rows(n, k, ag_retain(column[k == ITEMS || k == ITEM_BIAS]), values[k]);
}

static void add_dense(ag_node *n)
{
    scores s = job(n);
    s.g = ag_real(n->out->grad);
    real *d[4];
    for (int k = USERS; k <= ITEM_BIAS; k++) {
        d[k] = n->din[k] ? ag_real(n->din[k]) : NULL;
        if (d[k] && !n->accumulate[k]) ag_fill(n->din[k], 0);
    }
    for (int64_t b = 0; b < n->in[IDS]->shape[0]; b++) {
        const int64_t user = s.ids[2 * b], item = s.ids[2 * b + 1];
        const real *u = s.users + user * s.width, *i = s.items + item * s.width, g = slope(&s, b);
        if (d[USERS]) for (int64_t k = 0; k < s.width; k++) d[USERS][user * s.width + k] += g * i[k];
        if (d[ITEMS]) for (int64_t k = 0; k < s.width; k++) d[ITEMS][item * s.width + k] += g * u[k];
        if (d[USER_BIAS]) d[USER_BIAS][user] += g;
        if (d[ITEM_BIAS]) d[ITEM_BIAS][item] += g;
    }
}

static void dot_bias_backward(ag_node *n)
{
    give_rows(n);
    add_dense(n);
}

static ag_tensor *dot_bias_check(ag_tensor **in) { return ag_dot_bias(in[0], in[1], in[2], in[3], in[4]); }
static ag_tensor *dot_check(ag_tensor **in) { return ag_dot_bias(in[0], in[1], NULL, NULL, in[2]); }
static ag_tensor *range_check(ag_tensor **in) { return ag_dot_bias(in[0], in[1], in[2], in[3], in[4], .lo = -0.5, .hi = 5.5); }

const ag_op ag_op_dot_bias = {
    .name = "dot_bias", .inputs = "users items user_bias item_bias ids", .infer = dot_bias_infer, .rows = true,
    .unread = 1 << USER_BIAS | 1 << ITEM_BIAS, .unread_cuda = true,
    .forward = { dot_bias_forward, AG_CUDA_FN(ag_dot_bias_forward_cuda) },
    .backward = { dot_bias_backward, AG_CUDA_FN(ag_dot_bias_backward_cuda) },
    .check = { { "users[5,7] items[4,7] user_bias[5,1] item_bias[4,1] ids[9,2]:i64<4", dot_bias_check },
               { "users[5,3] items[4,3] ids[6,2]:i64<4", dot_check },
               { "users[5,3] items[4,3] user_bias[5,1] item_bias[4,1] ids[9,2]:i64<4", range_check } },
};

ag_tensor *ag_dot_bias_(const char *at, ag_tensor *users, ag_tensor *items, ag_tensor *user_bias, ag_tensor *item_bias,
                        ag_tensor *ids, ag_dot_opts opts)
{
    return ag_apply_(at, &ag_op_dot_bias, 5, (ag_tensor *[]){ users, items, user_bias, item_bias, ids },
                     &(ag_range_arg){ opts.lo, opts.hi }, sizeof(ag_range_arg));
}
