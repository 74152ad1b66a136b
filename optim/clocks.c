/* optim/clocks.c - the clocks of lazy parameters (lazy.h): which parameter is lazy, and the steps its rows may have missed. */
#include "core/engine.h"
#include "optim/state.h"

static int64_t steps_of(const optim_param *p)
{
    return *(const int64_t *)p->step->data;
}

static void start(const optim *o, optim_clock *k, int64_t now)
{
    ag_optim_clock_start(k, now, o->beta2);
    if (k->there) ag_optim_clock_gpu_start(k, o->beta2);
}

static optim_clock *clock_new(optim *o, const optim_param *p)
{
    optim_clock *k = o->clock[o->n_clocks++] = ag_alloc(1, sizeof *k);
    k->group = p->group;
    k->decays = p->decays;
    if (p->t->device == AG_CUDA) {
        k->memory = ag_tensor_new(NULL, AG_CUDA, AG_MEM_OPTIM, AG_I64, AG_SHAPE((int64_t)(sizeof *k + 7) / 8));
        k->there = k->memory->data;
    }
    start(o, k, steps_of(p));
    return k;
}

void ag_optim_clocks_free(optim *o)
{
    for (int i = 0; i < o->n_clocks; i++) {
        ag_release(o->clock[i]->memory);
        ag_free(o->clock[i]);
    }
    o->n_clocks = 0;
}

/* Below it v decays too fast for the interpolation of lazy.h (0.9: errors of 1e-4); such a table is stepped densely. */
static const double least_lazy_beta2 = 0.98;

void ag_optim_clocks_start(optim *o)
{
    ag_optim_clocks_free(o);
    for (int i = 0; i < o->n_params; i++) {
        optim_param *p = &o->param[i];
        if (!o->rule->lazy || !p->t->sparse_grad || p->t->ndim < 1 || p->t->device == AG_META) continue;
        if ((o->l2 && ag_optim_hyper(p).wd != 0) || o->beta2 < least_lazy_beta2) continue;
        p->clock = NULL;
        for (int k = 0; k < o->n_clocks; k++)
            if (o->clock[k]->group == p->group && o->clock[k]->decays == p->decays && o->clock[k]->now == steps_of(p) &&
                (o->clock[k]->there != NULL) == (p->t->device == AG_CUDA))
                p->clock = o->clock[k];
        if (!p->clock) p->clock = clock_new(o, p);
        ag_optim_lazy_start(p);
    }
}

/* A parameter that stands still while others on its clock go on gets a clock of its own. */
static void leave_clock(optim_param *p)
{
    for (int i = 0; i < p->opt->n_params; i++) {
        const optim_param *q = &p->opt->param[i];
        if (q == p || !q->lazy || q->clock != p->clock || !ag_optim_takes_part(q)) continue;
        ag_optim_lazy_catch_up(p);
        p->clock = clock_new(p->opt, p);
        return;
    }
}

/* Brings every row on a clock to its now, and begins the table anew. */
static void restart_clock(optim *o, optim_clock *k)
{
    for (int i = 0; i < o->n_params; i++)
        if (o->param[i].lazy && o->param[i].clock == k) ag_optim_lazy_catch_up(&o->param[i]);
    start(o, k, k->now);
}

/* On the CPU a step on n rows costs about n (20 + width) ns here and 40 ns more when they are read, on all rows 0.4 ns an
 * element: narrow tables under large batches (biases) are better off dense. */
static bool is_better_dense(const optim_param *p)
{
    int64_t n = 0;
    if (p->t->device != AG_CPU) return false;
    for (const ag_rows *r = p->t->rows; r; r = r->next) n += r->ids->shape[0];
    const double width = (double)ag_numel(p->t) / (double)p->t->shape[0];
    return 0.4 * (double)ag_numel(p->t) < (double)n * (60 + width);
}

/* Before the rows are stepped: room on the clocks; a table that turned out to be read whole (it has a dense gradient),
 * or whose weights vanish within one step, becomes a dense parameter. */
void ag_optim_clocks_prepare(optim *o)
{
    for (int i = 0; i < o->n_params; i++) {
        optim_param *p = &o->param[i];
        if (!p->lazy) continue;
        if (!ag_optim_takes_part(p)) {
            leave_clock(p);
            continue;
        }
        const optim_hyper h = ag_optim_hyper(p);
        if (ag_optim_clock_full(p->clock, 1 - h.lr * h.wd)) restart_clock(o, p->clock);
        if (ag_optim_has_dense_grad(p->t) || is_better_dense(p) || ag_optim_clock_full(p->clock, 1 - h.lr * h.wd))
            ag_optim_lazy_stop(p);
    }
}

/* A parameter of clock k in this step; NULL: the clock stands still. */
static const optim_param *user_of(const optim *o, int k, const bool *part)
{
    for (int i = 0; i < o->n_params; i++) {
        const optim_param *p = &o->param[i];
        if (p->lazy && p->clock == o->clock[k] && (part ? part[i] : ag_optim_takes_part(p))) return p;
    }
    return NULL;
}

static optim_tick tick_of(const optim *o, const optim_param *p)
{
    const optim_hyper h = ag_optim_hyper(p);
    return (optim_tick){ h.lr, o->l2 ? 1 : 1 - h.lr * h.wd, h.beta1, h.beta2 };
}

bool ag_optim_clock_tick(const optim *o, int k, const bool *part, optim_tick *tick)
{
    const optim_param *p = user_of(o, k, part);
    if (p) *tick = tick_of(o, p);
    return p != NULL;
}

void ag_optim_clocks_make_room(optim *o, const bool *part)
{
    optim_tick tick;
    for (int k = 0; k < o->n_clocks; k++)
        if (ag_optim_clock_tick(o, k, part, &tick) && ag_optim_clock_full(o->clock[k], tick.decay)) restart_clock(o, o->clock[k]);
}

void ag_optim_clocks_advance(optim *o, const bool *part)
{
    if (o->number_there && !part) ag_optim_clocks_gpu_step(o, NULL);
    for (int k = 0; k < o->n_clocks; k++) {
        optim_tick tick;
        if (ag_optim_clock_tick(o, k, part, &tick)) ag_optim_clock_step(o->clock[k], &tick);
    }
}
