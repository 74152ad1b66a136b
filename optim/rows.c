/* optim/rows.c - steps on the rows of a table that had gradients: the batch's rows are gathered by table row, then
 * every table row is summed and stepped by one thread, in the batch's order: the same bits for any number of threads. */
#include <string.h>
#include "optim/state.h"

enum {
    STACK_WIDTH = 512,                  /* widest row summed on the stack; wider ones go through in pieces */
    AHEAD = 12                           /* rows asked for before they are needed */
};

static void gather_reserve(optim_gather *a, int64_t n)
{
    if (n <= a->cap) return;
    a->id = ag_realloc(a->id, n, sizeof *a->id);
    a->head = ag_realloc(a->head, n, sizeof *a->head);
    a->tail = ag_realloc(a->tail, n, sizeof *a->tail);
    a->next = ag_realloc(a->next, n, sizeof *a->next);
    a->cap = n;
}

/* Chains positions with equal ids. `where` needs no clearing: an entry counts only if the table row it points to is
 * that row (the sparse set of Briggs and Torczon). */
static void gather_ids(optim *o, optim_gather *a, const ag_rows *rows, int64_t n)
{
    int64_t i = 0;
    gather_reserve(a, n);
    a->n = n;
    a->unique = 0;
    for (const ag_rows *r = rows; r; r = r->next) {
        const int64_t *ids = r->ids->data, stride = r->ids->stride[0];
        for (int64_t k = 0; k < r->ids->shape[0]; k++, i++) {
            const int64_t id = ids[k * stride];
            int64_t at = o->where[id];
            a->next[i] = -1;
            if (at < a->unique && a->id[at] == id) {
                a->next[a->tail[at]] = (int32_t)i;
            } else {
                at = o->where[id] = (int32_t)a->unique++;
                a->id[at] = id;
                a->head[at] = (int32_t)i;
            }
            a->tail[at] = (int32_t)i;
        }
    }
}

static void where_reserve(optim *o, int64_t rows)
{
    if (rows <= o->where_cap) return;
    o->where = ag_realloc(o->where, rows, sizeof *o->where);
    memset(o->where + o->where_cap, 0, (size_t)(rows - o->where_cap) * sizeof *o->where);
    o->where_cap = rows;
}

/* Tables read by the same ids (factors and biases) share one gathering. */
static const optim_gather *gather(optim_param *p)
{
    optim *o = p->opt;
    const ag_rows *rows = p->t->rows;
    int64_t n = 0;
    for (const ag_rows *r = rows; r; r = r->next) n += r->ids->shape[0];
    if (n > INT32_MAX) ag_fail(NULL, "%s: %" PRId64 " row gradients of %s in one step", o->rule->name, n, p->t->name);
    where_reserve(o, p->t->shape[0]);
    for (int i = 0; i < o->n_gathers && !rows->next; i++)
        if (o->gather[i].ids && o->gather[i].ids->data == rows->ids->data && o->gather[i].n == n &&
            o->gather[i].ids->stride[0] == rows->ids->stride[0])
            return &o->gather[i];
    optim_gather *a = &o->gather[o->n_gathers < OPTIM_GATHERS ? o->n_gathers++ : OPTIM_GATHERS - 1];
    gather_ids(o, a, rows, n);
    a->ids = rows->next ? NULL : rows->ids;
    return a;
}

/* All row gradients of p behind one another. */
static const real *gather_values(optim_param *p, int64_t n, int64_t width)
{
    optim *o = p->opt;
    if (!p->t->rows->next) return p->t->rows->values->data;
    const int64_t size = ag_mul_size(NULL, n, width);
    if (size > o->values_cap) {
        o->values = ag_realloc(o->values, size, sizeof *o->values);
        o->values_cap = size;
    }
    real *to = o->values;
    for (const ag_rows *r = p->t->rows; r; r = r->next) {
        const int64_t m = r->ids->shape[0] * width;
        memcpy(to, r->values->data, (size_t)m * sizeof *to);
        to += m;
    }
    return o->values;
}

typedef struct {
    const optim_gather *a;
    const real *values;
    int64_t width;
    optim_kernel kernel;
    optim_scalars scalars;
    real *w, *s0, *s1;
    optim_row *row;                     /* lazy: where the rows are, */
    const optim_clock *clock;           /* with weights at the clock's now already, */
    int32_t next;                       /* and where they will be */
    double *norm2;
} rows_job;

/* The sum of a table row's gradients, columns begin .. begin + n, into sum, or where it already stands alone. */
static const real *row_sum(const rows_job *j, int64_t k, int64_t begin, int64_t n, real *restrict sum)
{
    int32_t i = j->a->head[k];
    const real *first = j->values + i * j->width + begin;
    if ((i = j->a->next[i]) < 0) return first;
    const real *restrict second = j->values + i * j->width + begin;
    for (int64_t c = 0; c < n; c++) sum[c] = first[c] + second[c];
    while ((i = j->a->next[i]) >= 0) {
        const real *restrict g = j->values + i * j->width + begin;
        for (int64_t c = 0; c < n; c++) sum[c] += g[c];
    }
    return sum;
}

/* Asks for the lines of a row that will be needed soon: tables are larger than the caches. */
static inline void prefetch_row(const real *row, int64_t width)
{
    for (int64_t c = 0; c < width; c += (int64_t)(64 / sizeof *row)) __builtin_prefetch(row + c, 1);
}

static void prefetch(const rows_job *j, int64_t k)
{
    const int64_t at = j->a->id[k] * j->width;
    prefetch_row(j->values + j->a->head[k] * j->width, j->width);
    prefetch_row(j->w + at, j->width);
    if (j->s0) prefetch_row(j->s0 + at, j->width);
    if (j->s1) prefetch_row(j->s1 + at, j->width);
}

static void step_rows(int64_t begin, int64_t end, void *arg)
{
    const rows_job *j = arg;
    real sum[STACK_WIDTH];
    for (int64_t k = begin; k < end; k++) {
        const int64_t id = j->a->id[k];
        optim_scalars s = j->scalars;
        if (k + AHEAD < end) prefetch(j, k + AHEAD);
        if (j->row) {
            const optim_gap gap = ag_optim_clock_gap(j->clock, j->row[id].moments);
            s.beta1 *= gap.p1;
            s.beta2 *= gap.p2;
            j->row[id] = (optim_row){ j->next, j->next };
        }
        for (int64_t c = 0; c < j->width; c += STACK_WIDTH) {
            const int64_t at = id * j->width + c, n = j->width - c < STACK_WIDTH ? j->width - c : STACK_WIDTH;
            const real *g = row_sum(j, k, c, n, sum);
            j->kernel(&s, n, j->w + at, g, j->s0 ? j->s0 + at : NULL, j->s1 ? j->s1 + at : NULL);
        }
    }
}

static rows_job job_of(optim_param *p)
{
    const int64_t width = p->t->shape[0] ? ag_numel(p->t) / p->t->shape[0] : 0;
    rows_job j = { .a = gather(p), .width = width };
    j.values = gather_values(p, j.a->n, width);
    return j;
}

void ag_optim_rows_step(optim_param *p)
{
    rows_job j = job_of(p);
    if (p->lazy) ag_optim_lazy_touch(p, j.a->unique, j.a->id, 1);
    j.kernel = p->opt->rule->kernel;
    j.scalars = ag_optim_scalars(p);
    j.w = p->t->data;
    if (p->slot[0]) j.s0 = p->slot[0]->data;
    if (p->slot[1]) j.s1 = p->slot[1]->data;
    if (p->lazy) {
        j.row = p->row;
        j.clock = p->clock;
        j.next = (int32_t)p->clock->now + 1;
    }
    ag_parallel(j.a->unique, 16, 20 + 0.5 * (double)j.width, step_rows, &j);
}

static void norm_rows(int64_t begin, int64_t end, void *arg)
{
    const rows_job *j = arg;
    real sum[STACK_WIDTH];
    for (int64_t k = begin; k < end; k++) {
        double total = 0;
        for (int64_t c = 0; c < j->width; c += STACK_WIDTH) {
            const int64_t n = j->width - c < STACK_WIDTH ? j->width - c : STACK_WIDTH;
            const real *g = row_sum(j, k, c, n, sum);
            for (int64_t i = 0; i < n; i++) total += (double)g[i] * g[i];
        }
        j->norm2[k] = total;
    }
}

double ag_optim_rows_norm2(optim_param *p)
{
    rows_job j = job_of(p);
    double total = 0;
    j.norm2 = ag_alloc(j.a->unique, sizeof *j.norm2);
    ag_parallel(j.a->unique, 16, 20 + 0.5 * (double)j.width, norm_rows, &j);
    for (int64_t k = 0; k < j.a->unique; k++) total += j.norm2[k];
    ag_free(j.norm2);
    return total;
}

void ag_optim_rows_free(optim *o)
{
    for (int i = 0; i < OPTIM_GATHERS; i++) {
        ag_free(o->gather[i].id);
        ag_free(o->gather[i].head);
        ag_free(o->gather[i].tail);
        ag_free(o->gather[i].next);
    }
    ag_free(o->where);
    ag_free(o->values);
}
