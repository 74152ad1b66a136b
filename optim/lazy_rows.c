/* optim/lazy_rows.c - the rows of lazily stepped tables: bringing them up to date, all or those about to be read. */
#include <math.h>
#include "optim/state.h"

#ifdef AG_F64
#define SQRT sqrt
#else
#define SQRT sqrtf
#endif

/* Moments of a row up to the step its weights are at. */
static void catch_up_moments(const optim_param *p, int64_t id, optim_row row, int64_t width)
{
    real *restrict m = (real *)p->slot[0]->data + id * width;
    real *restrict v = (real *)p->slot[1]->data + id * width;
    real p1, p2;
    if (row.moments == row.weights) return;
    ag_optim_clock_moments(p->clock, row.moments, row.weights, &p1, &p2);
    for (int64_t i = 0; i < width; i++) {
        m[i] *= p1;
        v[i] *= p2;
    }
    p->row[id].moments = row.weights;
}

/* Weights of a row to the clock's now. */
OPTIM_NEWTON
static void catch_up(const optim_param *p, int64_t id, int32_t from, int64_t width, real eps)
{
    catch_up_moments(p, id, (optim_row){ from, p->row[id].moments }, width);
    const optim_gap k = ag_optim_clock_gap(p->clock, from);
    real *restrict w = (real *)p->t->data + id * width;
    const real *restrict m = (const real *)p->slot[0]->data + id * width;
    const real *restrict v = (const real *)p->slot[1]->data + id * width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        w[i] = ag_optim_clock_weight(&k, w[i], m[i], OPTIM_ROOT(v[i]), eps);
    }
}

typedef struct {
    const optim_param *p;
    const int64_t *ids;                 /* NULL: every row */
    int64_t stride, width, rows;
    int32_t now;
    real eps;
} touch_job;

enum { AHEAD = 12 };                     /* rows asked for before they are needed: tables are larger than the caches */

static void prefetch(const touch_job *j, int64_t id)
{
    for (int64_t c = 0; c < j->width; c += (int64_t)(64 / sizeof(real))) {
        __builtin_prefetch((real *)j->p->t->data + id * j->width + c, 1);
        __builtin_prefetch((real *)j->p->slot[0]->data + id * j->width + c, 0);
        __builtin_prefetch((real *)j->p->slot[1]->data + id * j->width + c, 0);
    }
}

enum { CLAIMS = 256 };

typedef struct { int64_t id; int32_t before; } claim;

/* Ids repeat; of the threads that meet a row, the one that swaps its step for now brings it up to date. Rows are claimed
 * some hundred at a time, because the swap waits for all stores before it. Ids out of range are reported by the op. */
static int claim_rows(const touch_job *j, int64_t begin, int64_t end, claim *to)
{
    optim_row *row = j->p->row;
    int n = 0;
    for (int64_t i = begin; i < end; i++) {
        const int64_t id = j->ids ? j->ids[i * j->stride] : i;
        if (id < 0 || id >= j->rows || __atomic_load_n(&row[id].weights, __ATOMIC_RELAXED) == j->now) continue;
        const int32_t before = __atomic_exchange_n(&row[id].weights, j->now, __ATOMIC_RELAXED);
        if (before != j->now) to[n++] = (claim){ id, before };
    }
    return n;
}

static void touch_rows(int64_t begin, int64_t end, void *arg)
{
    const touch_job *j = arg;
    claim rows[CLAIMS];
    for (int64_t i = begin; i < end; i += CLAIMS) {
        const int n = claim_rows(j, i, i + CLAIMS < end ? i + CLAIMS : end, rows);
        for (int k = 0; k < AHEAD && k < n; k++) prefetch(j, rows[k].id);
        for (int k = 0; k < n; k++) {
            if (k + AHEAD < n) prefetch(j, rows[k + AHEAD].id);
            catch_up(j->p, rows[k].id, rows[k].before, j->width, j->eps);
        }
    }
}

void ag_optim_lazy_touch(optim_param *p, int64_t n, const int64_t *ids, int64_t stride)
{
    const int64_t rows = p->t->shape[0];
    if (p->clock->now == p->clock->base || rows == 0) return;
    touch_job j = { p, ids, stride, ag_numel(p->t) / rows, rows, (int32_t)p->clock->now, (real)p->opt->eps };
    ag_parallel(n, 64, 10 + 0.5 * (double)j.width, touch_rows, &j);
}

void ag_optim_lazy_catch_up(optim_param *p)
{
    const int64_t rows = p->t->shape[0];
    if (p->t->device == AG_CUDA) {
        ag_optim_rows_gpu_catch_up(p);
        return;
    }
    ag_optim_lazy_touch(p, rows, NULL, 0);
    for (int64_t i = 0; i < rows; i++) catch_up_moments(p, i, p->row[i], ag_numel(p->t) / rows);
}

/* ids[..., column] of i64[B, C], or all of them. */
static void touch(ag_tensor *t, const ag_tensor *ids, int column)
{
    optim_param *p = t->before_read_ctx;
    const int64_t *v = ids->data;
    if (column >= 0) {
        ag_optim_lazy_touch(p, ids->shape[0], v + column * ids->stride[1], ids->stride[0]);
    } else if (ag_is_contiguous(ids)) {
        ag_optim_lazy_touch(p, ag_numel(ids), v, 1);
    } else if (ids->ndim == 1) {
        ag_optim_lazy_touch(p, ids->shape[0], v, ids->stride[0]);
    } else {
        ag_optim_lazy_catch_up(p);
    }
}

static void before_read(int n, ag_tensor *const *table, const int *column, const ag_tensor *ids)
{
    if (ids->device == AG_CUDA) ag_optim_rows_gpu_touch(n, table, column, ids);
    for (int k = 0; k < n && ids->device == AG_CPU; k++) touch(table[k], ids, column[k]);
}

void ag_optim_lazy_start(optim_param *p)
{
    const int64_t rows = p->t->shape[0];
    if (p->t->device == AG_CUDA) {
        ag_optim_rows_gpu_start(p);
    } else {
        if (!p->row) p->row = ag_alloc(rows ? rows : 1, sizeof *p->row);
        for (int64_t i = 0; i < rows; i++) p->row[i] = (optim_row){ (int32_t)p->clock->now, (int32_t)p->clock->now };
    }
    p->lazy = true;
    p->t->before_read = before_read;
    p->t->before_read_ctx = p;
}

void ag_optim_lazy_stop(optim_param *p)
{
    if (!p->lazy) return;
    ag_optim_lazy_catch_up(p);
    p->lazy = false;
    p->t->before_read = NULL;
    p->t->before_read_ctx = NULL;
    if (!p->row_memory) ag_free(p->row);
    ag_release(p->row_memory);
    p->row = NULL, p->row_memory = NULL;
}
