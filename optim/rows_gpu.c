/* optim/rows_gpu.c - steps on rows of tables on the GPU: what rows.c and lazy_rows.c do on the CPU, for all tables at once.
 *
 * Nothing waits for the device and nothing is read back: how many rows a batch has, which of them repeat and how far each of
 * them is stays there. The numbers that a step says anew are copied in once, before everything else. */
#include "core/device.h"
#include "core/engine.h"
#include "core/op.h"
#include "ops/ops.h"
#include "optim/state.h"

/* All NULL in a build without kernels, where no tensor is on the GPU. */
static const struct {
    void (*sort)(const char *, optim_tables *);
    void (*norm2)(const char *, const optim_tables *, double *, bool);
    void (*touch)(optim_touches *);
    void (*row_start)(optim_row *, int64_t, int64_t);
    void (*clock_start)(optim_clock *, int64_t, double);
    void (*clocks_step)(int, optim_clock *const *, const int *, const optim_number *, const struct ag_step_state *);
} gpu = { AG_CUDA_FN(ag_optim_rows_sort_cuda), AG_CUDA_FN(ag_optim_rows_norm2_cuda), AG_CUDA_FN(ag_optim_touch_cuda),
          AG_CUDA_FN(ag_optim_row_start_cuda), AG_CUDA_FN(ag_optim_clock_start_cuda), AG_CUDA_FN(ag_optim_clocks_step_cuda) };

static int64_t width_of(const ag_tensor *t)
{
    return t->shape[0] ? ag_numel(t) / t->shape[0] : 0;
}

/* ---- row gradients ------------------------------------------------------------------------------------- */

/* Several blocks of row gradients behind one another, until the end of the innermost scope. */
static ag_rows joined(const char *at, const ag_tensor *t)
{
    int64_t n = 0, begin = 0;
    const ag_rows *first = t->rows;
    if (!first->next) return *first;
    for (const ag_rows *r = first; r; r = r->next) n = ag_add_size(at, n, r->ids->shape[0]);
    const int64_t width = first->values->shape[1];
    ag_rows all = { .ids = ag_scoped(ag_tensor_new(at, AG_CUDA, AG_MEM_WORKSPACE, AG_I64, AG_SHAPE(n))),
                    .values = ag_scoped(ag_tensor_new(at, AG_CUDA, AG_MEM_WORKSPACE, AG_F32, AG_SHAPE(n, width))) };
    for (const ag_rows *r = first; r; r = r->next) {
        const int64_t end = begin + r->ids->shape[0];
        ag_copy(ag_slice(all.ids, 0, begin, end), r->ids);
        ag_copy(ag_slice(all.values, 0, begin, end), r->values);
        begin = end;
    }
    return all;
}

/* The list's place among those of the launch: tables read by the same ids (factors and biases) share one. */
static int list_of(optim_tables *b, optim_list l)
{
    int i = 0;
    while (i < b->lists && !(b->list[i].id == l.id && b->list[i].n == l.n && b->list[i].stride == l.stride &&
                             b->list[i].rows == l.rows)) i++;
    if (i == b->lists) b->list[b->lists++] = l;
    return i;
}

static optim_tables tables_of(const char *at, int n, optim_param *const *p)
{
    optim_tables b = { .n = n, .eps = (real)p[0]->opt->eps };
    AG_NO_GRAD;
    for (int i = 0; i < n; i++) {
        const ag_tensor *t = p[i]->t;
        const ag_rows r = joined(at, t);
        const optim_list l = { r.ids->data, r.ids->shape[0], r.ids->stride[0], t->shape[0] };
        b.table[i] = (optim_table){ .w = t->data, .values = r.values->data, .width = width_of(t), .list = list_of(&b, l),
                                    .s0 = p[i]->slot[0] ? p[i]->slot[0]->data : NULL,
                                    .s1 = p[i]->slot[1] ? p[i]->slot[1]->data : NULL,
                                    .row = p[i]->row, .clock = p[i]->lazy ? p[i]->clock->there : NULL };
    }
    gpu.sort(at, &b);
    return b;
}

void ag_optim_rows_gpu_ready(const char *at, optim *o)
{
    const int64_t bytes = 3 * o->n_params * (int64_t)sizeof *o->number;
    if (!o->number_there) o->number_there = ag_tensor_new(at, AG_CUDA, AG_MEM_OPTIM, AG_I64, AG_SHAPE((bytes + 7) / 8));
}

/* Clocks first, then the tables. */
void ag_optim_rows_gpu_numbers(optim *o, const bool *part, int n, optim_param *const *p)
{
    for (int k = 0; k < o->n_clocks; k++) (void)ag_optim_clock_tick(o, k, part, &o->number[k].tick);
    for (int i = 0; i < n; i++) o->number[o->n_clocks + i].scalars = ag_optim_scalars(p[i]);
    ag_device_table(AG_CUDA)->copy_in(o->number_there->data, o->number, (size_t)(o->n_clocks + n) * sizeof *o->number);
}

void ag_optim_rows_gpu_capture(const char *at, optim *o, int n, optim_param *const *p, const struct ag_step_state *state,
                               bool clips)
{
    for (int first = 0; first < n; first += OPTIM_TABLES) {
        AG_SCOPE;
        optim_tables b = tables_of(at, n - first < OPTIM_TABLES ? n - first : OPTIM_TABLES, p + first);
        b.number = (const optim_number *)o->number_there->data + o->n_clocks + first;
        b.state = state, b.clips = clips;
        o->rule->rows(&b);
    }
}

void ag_optim_rows_gpu_step(const char *at, optim *o, int n, optim_param *const *p)
{
    ag_optim_rows_gpu_ready(at, o);
    ag_optim_rows_gpu_numbers(o, NULL, n, p);
    ag_optim_rows_gpu_capture(at, o, n, p, NULL, false);
}

void ag_optim_rows_gpu_norm2(const char *at, int n, optim_param *const *p, double *to, bool add)
{
    for (int first = 0; first < n; first += OPTIM_TABLES) {
        AG_SCOPE;
        const optim_tables b = tables_of(at, n - first < OPTIM_TABLES ? n - first : OPTIM_TABLES, p + first);
        gpu.norm2(at, &b, to, add || first);
    }
}

/* ---- lazy rows ----------------------------------------------------------------------------------------- */

static optim_touch touch_of(const optim_param *p, optim_list list)
{
    return (optim_touch){ .w = p->t->data, .m = p->slot[0]->data, .v = p->slot[1]->data, .width = width_of(p->t), .list = list,
                          .row = p->row, .clock = p->clock->there };
}

void ag_optim_rows_gpu_catch_up(optim_param *p)
{
    const int64_t rows = p->t->shape[0];
    optim_touches b = { .n = 1, .eps = (real)p->opt->eps, .touch = { touch_of(p, (optim_list){ NULL, rows, 1, rows }) } };
    gpu.touch(&b);
}

/* ids[:, column] of i64[B, C], or all of them, which lie behind one another. */
void ag_optim_rows_gpu_touch(int n, ag_tensor *const *table, const int *column, const ag_tensor *ids)
{
    optim_touches b = { .n = 0 };
    for (int k = 0; k < n; k++) {
        const optim_param *p = table[k]->before_read_ctx;
        const int64_t *v = ids->data, rows = p->t->shape[0];
        const optim_list l = column[k] >= 0 ? (optim_list){ v + column[k] * ids->stride[1], ids->shape[0], ids->stride[0], rows }
                                            : (optim_list){ v, ag_numel(ids), 1, rows };
        AG_ASSERT(column[k] >= 0 || ag_is_contiguous(ids));
        if (b.n == OPTIM_TABLES || (b.n && b.eps != (real)p->opt->eps)) gpu.touch(&b), b.n = 0;
        b.eps = (real)p->opt->eps;
        b.touch[b.n++] = touch_of(p, l);
    }
    if (b.n) gpu.touch(&b);
}

void ag_optim_rows_gpu_start(optim_param *p)
{
    const int64_t rows = p->t->shape[0];
    if (!p->row_memory) p->row_memory = ag_tensor_new(NULL, AG_CUDA, AG_MEM_OPTIM, AG_I64, AG_SHAPE(rows ? rows : 1));
    p->row = p->row_memory->data;
    gpu.row_start(p->row, rows, p->clock->now);
}

void ag_optim_clock_gpu_start(optim_clock *k, double beta2)
{
    gpu.clock_start(k->there, k->now, beta2);
}

/* Of the clocks that go on in this step; their numbers went in with those of the tables. */
void ag_optim_clocks_gpu_step(optim *o, const struct ag_step_state *state)
{
    optim_clock *k[OPTIM_TABLES];
    int at[OPTIM_TABLES], n = 0;
    optim_tick tick;
    for (int i = 0; i < o->n_clocks; i++) {
        if (!o->clock[i]->there || !ag_optim_clock_tick(o, i, NULL, &tick)) continue;
        k[n] = o->clock[i]->there, at[n++] = i;
        if (n == OPTIM_TABLES) gpu.clocks_step(n, k, at, o->number_there->data, state), n = 0;
    }
    if (n) gpu.clocks_step(n, k, at, o->number_there->data, state);
}
