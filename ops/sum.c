/* ops/sum.c - sum and mean over any axes. Partial sums of short runs are real, those of the runs double, in an order
 * that depends on the shape alone. */
#include "core/thread.h"
#include "ops/reduce.h"
#include "ops/registry.h"
#include "ops/tiles.h"

enum { PIECE = 1 << 16, MOST_PIECES = 64, CHUNK = AG_TILE_COLUMNS };

typedef struct {
    const void *x, *g;
    void *d;
    ag_dtype dtype;
    int64_t reduced, inner, width, pieces;      /* width: of a row, narrow ones are folded */
    double *sums;                       /* [outer, pieces, inner] */
    real scale;
    bool add;
} sum_job;

/* ---- forward ------------------------------------------------------------------------------------------- */

static double dense_sum(const sum_job *j, int64_t first, int64_t last)
{
    real buf[CHUNK];
    double total = 0;
    for (int64_t at = first; at < last; at += CHUNK) {
        const int64_t n = last - at < CHUNK ? last - at : CHUNK;
        const real *x = ag_widen(j->x, j->dtype, at, n, buf);
        real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += x[i];
        total += (double)sum;
    }
    return total;
}

static void dense_pieces(int64_t begin, int64_t end, void *arg)
{
    const sum_job *j = arg;
    for (int64_t k = begin; k < end; k++) {
        const int64_t first = k / j->pieces * j->reduced, p = k % j->pieces;
        j->sums[k] = dense_sum(j, first + j->reduced * p / j->pieces, first + j->reduced * (p + 1) / j->pieces);
    }
}

static void sum_tile(ag_tile t, real *restrict sums, const void *arg)
{
    const sum_job *j = arg;
    real buf[CHUNK];
    for (int64_t r = t.row; r < t.end; r++) {
        const real *x = ag_widen(j->x, j->dtype, r * j->width + t.column, t.n, buf);
        for (int64_t i = 0; i < t.n; i++) sums[i] += x[i];
    }
}

/* Runs of one element are cut by their length alone, narrow rows are folded. */
static int64_t pieces_of(const ag_reduce_layout *l)
{
    int64_t pieces = 1;
    if (l->inner > 1) return ag_tiles_fold(l->reduced, l->inner);
    while (pieces < MOST_PIECES && pieces * PIECE < l->reduced) pieces *= 2;
    return pieces;
}

static ag_tiles tiles_of(const ag_reduce_layout *l, const sum_job *j)
{
    const int64_t fold = pieces_of(l);
    return (ag_tiles){ .groups = l->outer, .rows = l->reduced / fold, .width = l->inner * fold, .sums = 1,
                       .tile = sum_tile, .arg = j, .cost = 0.3 * (double)(l->inner * fold) };
}

static void sum_scaled(ag_node *n, bool mean)
{
    const ag_reduce_layout l = ag_reduce_layout_of(n);
    sum_job j = { .x = ag_reduce_values(n, &l), .dtype = n->in[0]->dtype, .reduced = l.reduced,
                  .pieces = pieces_of(&l) };
    if (l.inner > 1) {
        const ag_tiles t = tiles_of(&l, &j);
        j.width = t.width;
        j.sums = ag_tiles_run(n, &t);
    } else {
        j.sums = ag_workspace(n, l.outer * j.pieces, sizeof *j.sums);
        ag_parallel(l.outer * j.pieces, 1, 0.3 * (double)(l.reduced / j.pieces), dense_pieces, &j);
    }
    for (int64_t i = 0; i < l.outer * l.inner; i++) {
        const double *piece = j.sums + i / l.inner * j.pieces * l.inner + i % l.inner;
        double sum = 0;
        for (int64_t p = 0; p < j.pieces; p++) sum += piece[p * l.inner];
        ag_put(n->out->data, n->out->dtype, i, false, (real)(mean ? sum / (double)l.reduced : sum));
    }
}

/* ---- backward ------------------------------------------------------------------------------------------ */

/* [outer, reduced, inner]: each row is g's; without inner axes, [outer, 1, reduced], one value of g. */
static void spread_tile(ag_tile t, real *sums, const void *arg)
{
    const sum_job *j = arg;
    const int64_t from = t.row / j->reduced * j->inner;
    real v[CHUNK], buf[CHUNK];
    (void)sums;
    for (int64_t i = 0, c = t.column % j->inner; i < t.n; i++, c = c + 1 < j->inner ? c + 1 : 0)
        v[i] = ag_get(j->g, j->dtype, from + c) * j->scale;
    for (int64_t r = t.row; r < t.end; r++) {
        const int64_t at = r * j->width + t.column;
        real *d = ag_narrow_grad(j->d, j->dtype, at, t.n, buf, j->add);
        if (j->add) for (int64_t i = 0; i < t.n; i++) d[i] += v[i];
        else memcpy(d, v, (size_t)t.n * sizeof *d);
        ag_narrow(j->d, j->dtype, at, t.n, d);
    }
}

static void spread(ag_node *n, bool mean)
{
    if (!n->din[0]) return;
    const ag_reduce_layout l = ag_reduce_layout_of(n);
    if (!l.reduced) return;
    ag_tensor *d = ag_reduce_gradient(n, &l);
    const int64_t fold = l.inner > 1 ? pieces_of(&l) : l.reduced;
    sum_job j = { .g = n->out->grad->data, .d = d->data, .dtype = d->dtype, .reduced = l.reduced / fold,
                  .inner = l.inner, .width = l.inner * fold, .scale = mean ? (real)(1.0 / (double)l.reduced) : 1,
                  .add = n->accumulate[0] && !l.moved };
    ag_tiles_run(n, &(ag_tiles){ .groups = l.outer, .rows = j.reduced, .width = j.width, .cost = 0.3 * (double)j.width,
                                 .tile = spread_tile, .arg = &j });
    ag_reduce_hand_over(n, &l, d);
}

/* ---- the ops ------------------------------------------------------------------------------------------- */

static int64_t sum_workspace(const ag_node *n, bool backward)
{
    const ag_reduce_layout l = ag_reduce_layout_of(n);
    const ag_tiles t = tiles_of(&l, NULL);
    if (backward) return 0;
    return l.inner > 1 ? ag_tiles_workspace(&t) : l.outer * pieces_of(&l) * (int64_t)sizeof(double);
}

static void mean_infer(ag_node *n)
{
    ag_reduce_infer(n);
    ag_reduce_require_elements(n);
}

static void sum_forward(ag_node *n) { sum_scaled(n, false); }
static void sum_backward(ag_node *n) { spread(n, false); }
static void mean_forward(ag_node *n) { sum_scaled(n, true); }
static void mean_backward(ag_node *n) { spread(n, true); }

AG_REDUCTION_OP(sum, "x[2,9,8,3]", ag_reduce_infer, sum_backward, .unread = 1, .unread_out = true, .bf16 = 1, .bf16_cuda = 1,
                .workspace = sum_workspace,)
AG_REDUCTION_OP(mean, "x[2,9,8,3]", mean_infer, mean_backward, .unread = 1, .unread_out = true, .bf16 = 1, .bf16_cuda = 1,
                .workspace = sum_workspace,)
