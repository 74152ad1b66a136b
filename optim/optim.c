/* optim/optim.c - one step: which parameters take part, the dense ones in one pass over all of them, rows, clocks. */
#include <math.h>
#include <string.h>
#include "core/device.h"
#include "core/engine.h"
#include "core/op.h"
#include "core/profile.h"
#include "ops/ops.h"
#include "optim/state.h"

/* ---- hyper-parameters of a parameter's next step ------------------------------------------------------- */

static int64_t *steps_of(const optim_param *p)
{
    return p->step->data;
}

optim_hyper ag_optim_hyper(const optim_param *p)
{
    const optim *o = p->opt;
    const optim_group *g = &o->group[p->group];
    const double wd = g->no_decay || !p->decays ? 0 : g->weight_decay ? g->weight_decay : o->weight_decay;
    return (optim_hyper){ .lr = o->lr[p->group] * (g->lr_mult ? g->lr_mult : 1), .wd = wd, .beta1 = o->beta1,
                          .beta2 = o->beta2, .eps = o->eps, .t = *steps_of(p) + 1, .fastai = o->fastai };
}

optim_scalars ag_optim_scalars(const optim_param *p)
{
    const optim *o = p->opt;
    const optim_hyper h = ag_optim_hyper(p);
    optim_scalars s = { .scale = (real)o->clip, .lr = (real)h.lr, .decay = (real)(o->l2 ? 1 : 1 - h.lr * h.wd),
                        .l2 = (real)(o->l2 ? h.wd : 0), .beta1 = (real)h.beta1, .beta2 = (real)h.beta2,
                        .new1 = (real)(1 - h.beta1), .new2 = (real)(1 - h.beta2) };
    o->rule->scalars(&h, &s);
    return s;
}

/* ---- the dense pass ------------------------------------------------------------------------------------ */

typedef struct { const optim_segment *seg; int n; optim_kernel kernel; } dense_job;

static void step_segments(int64_t begin, int64_t end, void *arg)
{
    const dense_job *j = arg;
    int lo = 0, hi = j->n - 1;
    while (lo < hi) {                   /* the last segment that begins at or before `begin` */
        const int mid = (lo + hi + 1) / 2;
        if (j->seg[mid].begin <= begin) lo = mid;
        else hi = mid - 1;
    }
    for (int i = lo; i < j->n && j->seg[i].begin < end; i++) {
        const optim_segment *s = &j->seg[i];
        const int64_t a = (begin > s->begin ? begin : s->begin) - s->begin;
        const int64_t b = (end < s->begin + s->n ? end : s->begin + s->n) - s->begin;
        if (a < b)
            j->kernel(&s->scalars, b - a, s->w + a, s->g + a, s->s0 ? s->s0 + a : NULL, s->s1 ? s->s1 + a : NULL);
    }
}

bool ag_optim_has_dense_grad(const ag_tensor *t)
{
    return t->grad && !t->grad_fresh;
}

bool ag_optim_takes_part(const optim_param *p)
{
    return p->t->requires_grad && (p->t->rows || ag_optim_has_dense_grad(p->t));
}

/* Whether this step touches only the rows with a gradient. */
static bool steps_by_rows(const optim_param *p)
{
    const optim *o = p->opt;
    if (!p->t->rows || ag_optim_has_dense_grad(p->t) || !o->rule->by_rows) return false;
    return !o->rule->lazy ? ag_optim_hyper(p).wd == 0 : p->lazy;
}

static optim_segment segment_of(const char *at, const optim_param *p)
{
    const ag_tensor *t = p->t;
    if (!ag_is_contiguous(t) || !ag_is_contiguous(t->grad))
        ag_fail(at, "%s: parameter %s or its gradient is not contiguous; make the parameter from ag_contiguous(x)",
                p->opt->rule->name, t->name);
    return (optim_segment){ .n = ag_numel(t), .w = t->data, .g = t->grad->data, .scalars = ag_optim_scalars(p),
                      .s0 = p->slot[0] ? p->slot[0]->data : NULL, .s1 = p->slot[1] ? p->slot[1]->data : NULL };
}

double *ag_optim_scratch(const char *at, int64_t count)
{
    return ag_scoped(ag_tensor_new(at, AG_CUDA, AG_MEM_WORKSPACE, AG_I64, AG_SHAPE(count)))->data;
}

/* Segments are one range of elements to the threads: many small tensors cost no more than one large one. They begin at
 * multiples of 16 elements, so that pieces are cut at whole vectors. */
void ag_optim_pass(const char *at, const optim_rule *rule, ag_device device, int n, optim_segment *segment,
                   const optim_live *live)
{
    int64_t total = 0;
    for (int i = 0; i < n; i++) {
        segment[i].begin = total;
        total += (segment[i].n + 15) / 16 * 16;
    }
    if (n && device == AG_CPU) ag_parallel(total, 2048, 0.25, step_segments, &(dense_job){ segment, n, rule->kernel });
    if (!n || device == AG_CPU) return;
    AG_SCOPE;
    rule->cuda(segment, n, rule->trust ? ag_optim_scratch(at, 2 * ag_optim_pieces(n, segment)) : NULL, live);
}

/* Tables on the GPU are stepped together, in a few launches. */
static void step_rows(const char *at, optim *o)
{
    int n = 0;
    for (int i = 0; i < o->n_params; i++) {
        optim_param *p = &o->param[i];
        if (!ag_optim_takes_part(p) || !steps_by_rows(p)) continue;
        if (p->t->device == AG_CPU) ag_optim_rows_step(p);
        else o->by_rows[n++] = p;
    }
    if (n) ag_optim_rows_gpu_step(at, o, n, o->by_rows);
}

static void dense_step_on(const char *at, optim *o, ag_device device)
{
    int n = 0;
    for (int i = 0; i < o->n_params; i++) {
        const optim_param *p = &o->param[i];
        if (p->t->device != device || !ag_optim_takes_part(p) || steps_by_rows(p)) continue;
        if (p->t->rows) ag_rows_to_dense(p->t);
        optim_segment s = segment_of(at, p);
        if (o->rule->trust && device == AG_CPU) ag_optim_trust_step(&s.scalars, s.n, s.w, s.g, s.s0, s.s1);
        else o->segment[n++] = s;
    }
    ag_optim_pass(at, o->rule, device, n, o->segment, NULL);
}

/* ---- the public calls ---------------------------------------------------------------------------------- */

static void require_kernel(const char *at, const optim *o)
{
    for (int i = 0; i < o->n_params; i++)
        if (o->param[i].t->device != AG_CPU && !(o->param[i].t->device == AG_CUDA && o->rule->cuda))
            ag_fail(at, "%s: no step on %s for parameter %s", o->rule->name, ag_device_name(o->param[i].t->device),
                    o->param[i].t->name);
}

static void count(const optim_param *p)
{
    ++*steps_of(p);
    ag_touched(p->t);
}

void ag_optim_step_(const char *at, optim *o)
{
    const double start = ag_profiling ? ag_profile_now() : 0;
    require_kernel(at, o);
    ag_optim_ranks_mean(at, o);
    o->n_gathers = 0;
    if (o->n_clocks) ag_optim_clocks_prepare(o);
    step_rows(at, o);
    dense_step_on(at, o, AG_CPU);
    dense_step_on(at, o, AG_CUDA);
    if (o->n_clocks) ag_optim_clocks_advance(o, NULL);
    for (int i = 0; i < o->n_params; i++)
        if (ag_optim_takes_part(&o->param[i])) count(&o->param[i]);
    ag_optim_zero_grad(o);
    o->steps++;
    if (ag_profiling) ag_profile_other("optimizer step", start, 0);
}

/* ---- a step in a graph --------------------------------------------------------------------------------- */

bool ag_optim_can_capture(optim *o)
{
    if (!o->rule->cuda || !o->n_params) return false;
    for (int i = 0; i < o->n_params; i++) {
        if (o->param[i].t->device != AG_CUDA || o->param[i].t->rows) return false;
        if (o->param[i].t->sparse_grad) ag_optim_rows_gpu_ready(NULL, o);
    }
    if (!o->live) o->live = ag_device_table(AG_CUDA)->alloc((size_t)o->n_params * sizeof *o->live);
    return o->live;
}

/* Whether a captured step of p is one of rows; the same when it is launched, without the gradients. */
static bool captured_by_rows(const optim_param *p)
{
    const optim_rule *rule = p->opt->rule;
    return p->t->sparse_grad && rule->by_rows && (rule->lazy ? p->lazy : ag_optim_hyper(p).wd == 0);
}

/* Of all that a captured step relies on: which parameters are trained, where they lie, what is in the others; which are
 * stepped by rows, and where their clocks are. */
uint64_t ag_optim_signature(const optim *o)
{
    uint64_t h = 0;
    for (int i = 0; i < o->n_params; i++) {
        const ag_tensor *t = o->param[i].t;
        h = (h ^ (uint64_t)(uintptr_t)t->data ^ (t->requires_grad ? 1 : 2 + (uint64_t)ag_version(t))) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
        if (!captured_by_rows(&o->param[i])) continue;
        h = (h ^ 3 ^ (o->param[i].lazy ? (uint64_t)(uintptr_t)o->param[i].clock->there : 0)) * 0x9E3779B97F4A7C15u;
        h ^= h >> 31;
    }
    return h;
}

void ag_optim_capture(const char *at, optim *o, double clip, bool *part)
{
    static void (*const norm)(const optim_segment *, int, double *) = AG_CUDA_FN(ag_optim_norm2_cuda);
    static void (*const factor)(const double *, double, struct ag_step_state *) = AG_CUDA_FN(ag_optim_clip_cuda);
    static struct ag_step_state *(*const state)(void) = AG_CUDA_FN(ag_cuda_step_state);
    AG_SCOPE;
    int n = 0, rows = 0;
    for (int i = 0; i < o->n_params; i++) {
        optim_param *p = &o->param[i];
        if (!(part[i] = ag_optim_takes_part(p))) continue;
        const bool by_rows = captured_by_rows(p);
        if (by_rows && !steps_by_rows(p)) ag_fail(at, "%s has a gradient of rows and a dense one", p->t->name);
        if (p->t->rows && !by_rows) ag_rows_to_dense(p->t);
        if (by_rows) o->by_rows[rows++] = p;
        else o->segment[n++] = segment_of(at, p);
    }
    if (!n && !rows) return;
    if (clip > 0) {
        double *sum = ag_optim_scratch(at, 1 + ag_optim_pieces(n, o->segment));
        if (n) norm(o->segment, n, sum);
        if (rows) ag_optim_rows_gpu_norm2(at, rows, o->by_rows, sum, n > 0);
        factor(sum, clip, state());
    }
    if (rows) ag_optim_rows_gpu_capture(at, o, rows, o->by_rows, state(), clip > 0);
    if (n) ag_optim_pass(at, o->rule, AG_CUDA, n, o->segment, &(optim_live){ o->live, state(), clip > 0 });
    if (rows && o->n_clocks) ag_optim_clocks_gpu_step(o, state());
    for (int i = 0; i < rows; i++) ag_zero_grad(o->by_rows[i]->t);          /* their memory is the graph's */
}

/* Copied in one piece, and one for rows; the graph reads them in the order of its segments and tables. */
void ag_optim_numbers(optim *o, const bool *part)
{
    optim_scalars *k = ag_alloc(o->n_params, sizeof *k);
    int n = 0, rows = 0;
    if (o->n_clocks) ag_optim_clocks_make_room(o, part);
    for (int i = 0; i < o->n_params; i++) {
        if (part[i] && captured_by_rows(&o->param[i])) o->by_rows[rows++] = &o->param[i];
        else if (part[i]) k[n++] = ag_optim_scalars(&o->param[i]);
    }
    if (n) ag_device_table(AG_CUDA)->copy_in(o->live, k, (size_t)n * sizeof *k);
    if (rows) ag_optim_rows_gpu_numbers(o, part, rows, o->by_rows);
    ag_free(k);
}

void ag_optim_count_step(optim *o, const bool *part)
{
    if (o->n_clocks) ag_optim_clocks_advance(o, part);
    for (int i = 0; i < o->n_params; i++)
        if (part[i]) count(&o->param[i]);
    ag_optim_zero_grad(o);
    o->steps++;
}

void ag_optim_zero_grad(optim *o)
{
    for (int i = 0; i < o->n_params; i++) ag_zero_grad(o->param[i].t);
    o->clip = 1;
    ag_optim_ranks_reset(o);
}

void ag_optim_freeze_to_(const char *at, optim *o, int group)
{
    if (group < 0 || group >= o->n_groups) ag_fail(at, "optim_freeze_to: group %d of %d", group, o->n_groups);
    for (int i = 0; i < o->n_params; i++) {
        optim_param *p = &o->param[i];
        p->t->requires_grad = p->group >= group || p->norm;
        if (!p->t->requires_grad) ag_zero_grad(p->t);
    }
}

void ag_optim_flush(optim *o)
{
    for (int i = 0; i < o->n_params; i++)
        if (o->param[i].lazy) ag_optim_lazy_catch_up(&o->param[i]);
}

/* ---- clipping ------------------------------------------------------------------------------------------ */

enum { NORM_PIECE = 4096 };

typedef struct { const real *g; int64_t n; double *piece; } norm_job;

static void norm_pieces(int64_t begin, int64_t end, void *arg)
{
    const norm_job *j = arg;
    for (int64_t k = begin; k < end; k++) {
        const int64_t stop = (k + 1) * NORM_PIECE < j->n ? (k + 1) * NORM_PIECE : j->n;
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = k * NORM_PIECE; i < stop; i++) sum += (double)j->g[i] * j->g[i];
        j->piece[k] = sum;
    }
}

/* Of all parameters on the GPU: one pass over the dense gradients, one over rows, and one wait. */
static double norm2_on_cuda(const char *at, const optim *o)
{
    static void (*const kernel)(const optim_segment *, int, double *) = AG_CUDA_FN(ag_optim_norm2_cuda);
    AG_SCOPE;
    int n = 0, rows = 0;
    double sum;
    for (int i = 0; i < o->n_params; i++) {
        optim_param *p = &o->param[i];
        if (p->t->device != AG_CUDA || !ag_optim_takes_part(p)) continue;
        if (p->t->rows && ag_optim_has_dense_grad(p->t)) ag_rows_to_dense(p->t);
        if (p->t->rows) o->by_rows[rows++] = p;
        else o->segment[n++] = segment_of(at, p);
    }
    if (!n && !rows) return 0;
    double *scratch = ag_optim_scratch(at, 1 + ag_optim_pieces(n, o->segment));
    if (n) kernel(o->segment, n, scratch);
    if (rows) ag_optim_rows_gpu_norm2(at, rows, o->by_rows, scratch, n > 0);
    ag_device_table(AG_CUDA)->copy_out(&sum, scratch, sizeof sum);
    return sum;
}

/* In pieces of fixed size: the same bits for any number of threads. */
static double norm2(ag_tensor *g)
{
    const int64_t n = ag_numel(g), pieces = (n + NORM_PIECE - 1) / NORM_PIECE;
    norm_job j = { g->data, n, ag_alloc(pieces ? pieces : 1, sizeof(double)) };
    ag_parallel(pieces, 1, NORM_PIECE * 0.2, norm_pieces, &j);
    double sum = 0;
    for (int64_t k = 0; k < pieces; k++) sum += j.piece[k];
    ag_free(j.piece);
    return sum;
}

double ag_optim_clip_norm_(const char *at, optim *o, double max)
{
    if (!(max > 0)) ag_fail(at, "optim_clip_norm: the largest norm must be positive (got %g)", max);
    require_kernel(at, o);
    ag_optim_ranks_mean(at, o);
    double sum = norm2_on_cuda(at, o);
    o->n_gathers = 0;
    for (int i = 0; i < o->n_params; i++) {
        optim_param *p = &o->param[i];
        if (!ag_optim_takes_part(p) || p->t->device != AG_CPU) continue;
        if (p->t->rows && ag_optim_has_dense_grad(p->t)) ag_rows_to_dense(p->t);
        sum += p->t->rows ? ag_optim_rows_norm2(p) : norm2(p->t->grad);
    }
    o->clip = ag_optim_clip_factor(sum, max);
    return sqrt(sum);
}

/* ---- rates and momentum -------------------------------------------------------------------------------- */

int ag_optim_groups(const optim *o)
{
    return o->n_groups;
}

static void check_rate(const char *at, const char *what, double value)
{
    if (!(value >= 0) || isinf(value)) ag_fail(at, "%s: %g is not a number from 0 on", what, value);
}

static void check_group(const char *at, const char *what, const optim *o, int group)
{
    if (group < 0 || group >= o->n_groups)
        ag_fail(at, "%s: group %d of an optimizer with %d group%s", what, group, o->n_groups, o->n_groups > 1 ? "s" : "");
}

void ag_optim_set_lr_(const char *at, optim *o, int group, double lr)
{
    check_rate(at, "optim_set_lr", lr);
    if (group != -1) check_group(at, "optim_set_lr", o, group);
    for (int i = 0; i < o->n_groups; i++)
        if (group == -1 || group == i) o->lr[i] = lr;
}

void ag_optim_set_lrs_(const char *at, optim *o, double lo, double hi)
{
    check_rate(at, "optim_set_lrs", lo);
    check_rate(at, "optim_set_lrs", hi);
    const int n = o->n_groups;
    for (int i = 0; i < n; i++)
        o->lr[i] = i == n - 1 ? hi : lo == 0 ? hi / 10 : lo * pow(hi / lo, (double)i / (n - 1));
}

double ag_optim_lr_(const char *at, const optim *o, int group)
{
    check_group(at, "optim_lr", o, group);
    return o->lr[group];
}

void ag_optim_set_momentum_(const char *at, optim *o, double m)
{
    if (!(m >= 0 && m < 1)) ag_fail(at, "optim_set_momentum: %g is not in [0, 1)", m);
    if (o->has_momentum) o->beta1 = m;
}

double ag_optim_momentum(const optim *o)
{
    return o->has_momentum ? o->beta1 : 0;
}

void ag_optim_set_weight_decay_(const char *at, optim *o, double wd)
{
    check_rate(at, "optim_set_weight_decay", wd);
    o->weight_decay = wd;
    for (int i = 0; i < o->n_params; i++)           /* L2 decay pulls at every element in every step */
        if (o->l2 && o->param[i].lazy && ag_optim_hyper(&o->param[i]).wd != 0) ag_optim_lazy_stop(&o->param[i]);
}

int64_t ag_optim_steps(const optim *o)
{
    return o->steps;
}
