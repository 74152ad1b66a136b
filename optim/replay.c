/* optim/replay.c - on a GPU a batch's forward, backward and step become one graph (core/device.h), launched again for every batch
 * like it.
 *
 * R1  The first batch of a kind is computed op by op, which also leaves the memory that its like needs; the second is recorded.
 * R2  A launch does what the device did; what ops and the optimizer did on the host besides (counters of batch norms, whose
 *     gradients are there, steps) is noted when the batch is recorded, undone, and done again with every launch.
 * R3  The loss of a step is read after the next one was launched: the device never waits. After a loss that is no number it
 *     leaves the weights alone, so that they are those of the step before when the host finds out.
 * R4  What cannot be recorded, because it waits for the device, goes on op by op, with one line that says why. */
#include <stdio.h>
#include <string.h>
#include "core/device.h"
#include "core/engine.h"
#include "core/ranks.h"
#include "optim/learner_inside.h"
#include "optim/state.h"

enum { GRAPHS = 8, INPUTS = 4, ATTEMPTS = 16 };

/* Batches with equal keys launch the same work. */
typedef struct {
    ag_shape shape[INPUTS];
    ag_dtype type[INPUTS];
    double weight;
    bool first, last;                   /* of the step's batches */
    uint64_t optim;
} step_key;

typedef struct {
    step_key key;
    void *graph;                        /* NULL: not recorded */
    int64_t used;
    ag_tensor *in[INPUTS];              /* x, y and those of a mixed batch: what launches read */
    bool *part;                         /* [n_params] gets a gradient; of the last batch: is stepped */
    int64_t *count;                     /* [n_counters] is added by a launch */
} step_graph;

struct ag_replay {
    const ag_device_graphs *device;
    step_graph *graph[GRAPHS];
    int n_params, n_counters;
    int64_t **counter;                  /* buffers of the net on the host */
    bool off, waiting;
    int ticket, epoch;                  /* of the loss that is waited for */
    int64_t launches, step, batch;
};

/* ---- life ---------------------------------------------------------------------------------------------- */

static void graph_free(struct ag_replay *r, step_graph *g)
{
    if (g->graph) r->device->free(g->graph);
    for (int i = 0; i < INPUTS; i++) ag_release(g->in[i]);
    ag_free(g->part);
    ag_free(g->count);
    ag_free(g);
}

static void end(void *p)
{
    learner *l = p;
    struct ag_replay *r = l->in->replay;
    for (int i = 0; i < GRAPHS; i++)
        if (r->graph[i]) graph_free(r, r->graph[i]);
    ag_free(r->counter);
    ag_free(r);
    l->in->replay = NULL, l->in->stepped = NULL;
}

static void find_counters(struct ag_replay *r, const nn_module *net)
{
    const int64_t n = nn_named_count(net);
    ag_named *all = ag_alloc(n, sizeof *all);
    nn_to_named(net, all);
    r->counter = ag_alloc(n, sizeof *r->counter);
    for (int64_t i = 0; i < n; i++) {
        const ag_tensor *t = all[i].tensor;
        if (t->device == AG_CPU && t->dtype == AG_I64 && ag_numel(t) == 1) r->counter[r->n_counters++] = t->data;
    }
    ag_free(all);
}

static bool looks_inside(const learner *l)
{
    for (int i = 0; i < l->in->n_callbacks; i++)
        if (!l->in->callbacks[i].between_steps) return true;
    return false;
}

void ag_learner_replay_begin(learner *l)
{
    if (l->in->eager || ag_ranks() > 1 || l->in->fit_memory || looks_inside(l) || !nn_param_count(l->net)) return;
    const ag_device device = nn_param_at(l->net, 0)->device;
    if (device == AG_CPU || !ag_device_table(device)->graphs || !ag_optim_can_capture(l->opt)) return;
    struct ag_replay *r = l->in->replay = ag_alloc(1, sizeof *r);
    r->device = ag_device_table(device)->graphs, r->n_params = l->opt->n_params;
    ag_defer(end, l);
    find_counters(r, l->net);
    r->device->reset();
}

/* ---- which graph --------------------------------------------------------------------------------------- */

static void inputs_of(const learner *l, ag_tensor *in[INPUTS])
{
    ag_tensor *const all[INPUTS] = { l->x, l->y, l->in->mixed_y, l->in->mixed_share };
    memcpy(in, all, sizeof all);
}

static void use(learner *l, ag_tensor *const in[INPUTS])
{
    l->x = in[0], l->y = in[1], l->in->mixed_y = in[2], l->in->mixed_share = in[3];
}

static step_key key_of(const learner *l, double weight)
{
    ag_tensor *in[INPUTS];
    step_key k;
    memset(&k, 0, sizeof k);            /* they are compared as bytes */
    inputs_of(l, in);
    for (int i = 0; i < INPUTS; i++)
        if (in[i]) {
            k.shape[i].ndim = in[i]->ndim, k.type[i] = in[i]->dtype;
            for (int d = 0; d < in[i]->ndim; d++) k.shape[i].dim[d] = in[i]->shape[d];
        }
    k.weight = weight, k.first = l->batch % l->in->accumulate == 0, k.last = l->in->last_backward;
    k.optim = ag_optim_signature(l->opt);
    return k;
}

/* The key's, or a new one in the place of the one that was not used for longest. */
static step_graph *graph_of(struct ag_replay *r, const step_key *key, bool *is_new)
{
    int oldest = 0;
    for (int i = 0; i < GRAPHS; i++) {
        if (r->graph[i] && !memcmp(&r->graph[i]->key, key, sizeof *key)) return *is_new = false, r->graph[i];
        if (!r->graph[i] || (r->graph[oldest] && r->graph[i]->used < r->graph[oldest]->used)) oldest = i;
    }
    if (r->graph[oldest]) graph_free(r, r->graph[oldest]);
    step_graph *g = r->graph[oldest] = ag_alloc(1, sizeof *g);
    memcpy(&g->key, key, sizeof *key);
    g->part = ag_alloc(r->n_params, sizeof *g->part);
    g->count = ag_alloc(r->n_counters ? r->n_counters : 1, sizeof *g->count);
    return *is_new = true, g;
}

/* ---- recording ----------------------------------------------------------------------------------------- */

static void copies_of(ag_tensor *const in[INPUTS], ag_tensor *copy[INPUTS], ag_device device)
{
    for (int i = 0; i < INPUTS; i++)
        if (in[i] && !copy[i]) copy[i] = ag_tensor_new(AG_HERE, device, AG_MEM_TENSOR, in[i]->dtype, ag_shape_of(in[i]));
}

typedef struct { learner *l; step_graph *g; } recording;

static void record(void *p)
{
    const recording *job = p;
    learner *l = job->l;
    step_graph *g = job->g;
    const struct ag_replay *r = l->in->replay;
    ag_tensor *in[INPUTS];
    AG_SCOPE;
    inputs_of(l, in);
    copies_of(in, g->in, l->opt->param[0].t->device);
    use(l, g->in);
    r->device->begin();
    ag_tensor *loss = ag_learner_loss(l, ag_learner_forward(l, l->x), l->y, NULL);
    r->device->note_loss(loss);
    const double w = g->key.weight;
    ag_backward(loss, .grad = w == 1 ? NULL : ag_full_(l->in->at, w, ag_shape_of(loss)));
    if (g->key.last) ag_optim_capture(l->in->at, l->opt, l->in->clip, g->part);
    for (int i = 0; i < r->n_params && !g->key.last; i++) {
        const ag_tensor *t = l->opt->param[i].t;
        if (t->rows) ag_fail(l->in->at, "rows of %s are gathered from several batches", t->name);
        g->part[i] = t->requires_grad && t->grad && !t->grad_fresh;
    }
    g->graph = r->device->end();
}

typedef enum { RECORDED, REHEARSED, REFUSED, NO_ROOM } outcome;

/* R2 */
static outcome try_to_record(learner *l, step_graph *g)
{
    struct ag_replay *r = l->in->replay;
    ag_tensor *in[INPUTS];
    bool *fresh = ag_alloc(r->n_params, 2 * sizeof *fresh), *had = fresh + r->n_params;
    inputs_of(l, in);
    for (int i = 0; i < r->n_params; i++)
        fresh[i] = l->opt->param[i].t->grad_fresh, had[i] = l->opt->param[i].t->grad;
    for (int i = 0; i < r->n_counters; i++) g->count[i] = -*r->counter[i];
    const bool failed = ag_try(record, &(recording){ l, g });
    use(l, in);
    for (int i = 0; i < r->n_params; i++) {
        ag_tensor *t = l->opt->param[i].t;
        if (t->rows) ag_zero_grad(t);                                       /* of a recording that failed */
        if (!g->graph && !had[i]) ag_release(t->grad), t->grad = NULL;      /* it may have no memory */
        t->grad_fresh = fresh[i];
    }
    for (int i = 0; i < r->n_counters; i++) g->count[i] += *r->counter[i], *r->counter[i] -= g->count[i];
    ag_free(fresh);
    const int64_t missed = r->device->drop();
    return g->graph ? RECORDED : missed < 0 ? NO_ROOM : failed && !missed ? REFUSED : REHEARSED;
}

static bool record_batch(learner *l, step_graph *g)
{
    outcome o = REHEARSED;
    for (int i = 0; i < ATTEMPTS && o == REHEARSED; i++) o = try_to_record(l, g);
    if (o == RECORDED) return true;
    ag_device_table(l->opt->param[0].t->device)->sync();        /* if the device is lost, that is the error */
    l->in->replay->off = true;
    if (!l->in->quiet) ag_learner_clear_line(l);
    fprintf(stderr, "steps are launched op by op, not as one CUDA graph, because %s\n",
            o == REFUSED ? ag_error() : "the GPU has no memory left for it");
    return false;
}

/* ---- launching ----------------------------------------------------------------------------------------- */

static void launch(learner *l, step_graph *g)
{
    struct ag_replay *r = l->in->replay;
    ag_tensor *in[INPUTS];
    inputs_of(l, in);
    for (int i = 0; i < INPUTS; i++)
        if (in[i]) ag_copy(g->in[i], in[i]);
    if (g->key.last) ag_optim_numbers(l->opt, g->part);
    r->device->launch(g->graph);
    for (int i = 0; i < r->n_counters; i++) *r->counter[i] += g->count[i];
    for (int i = 0; i < r->n_params && !g->key.last; i++)
        if (g->part[i]) l->opt->param[i].t->grad_fresh = false;
    if (g->key.last) l->in->stepped = g->part;
    g->used = ++r->launches;
}

void ag_learner_settle(learner *l)
{
    struct ag_replay *r = l->in->replay;
    if (!r || !r->waiting) return;
    const int epoch = l->epoch;
    const int64_t step = l->step, batch = l->batch;
    r->waiting = false;
    l->batch_loss = r->device->receive(r->ticket);
    ag_learner_smooth(l, l->batch_loss);
    l->epoch = r->epoch, l->step = r->step, l->batch = r->batch;
    ag_learner_require_number(l);
    l->epoch = epoch, l->step = step, l->batch = batch;
}

bool ag_learner_replay(learner *l, double weight)
{
    struct ag_replay *r = l->in->replay;
    bool is_new;
    l->in->stepped = NULL;
    if (!r || r->off || l->in->searching || ag_profiling) return ag_learner_settle(l), false;
    const step_key key = key_of(l, weight);
    step_graph *g = graph_of(r, &key, &is_new);
    if (is_new || (!g->graph && !record_batch(l, g))) return ag_learner_settle(l), false;
    launch(l, g);
    const int ticket = r->device->send();
    ag_learner_settle(l);
    r->waiting = true, r->ticket = ticket, r->epoch = l->epoch, r->step = l->step, r->batch = l->batch;
    return true;
}
