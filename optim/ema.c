/* optim/ema.c - averaged weights: one pass over all of them, and the callback that trains with them. */
#include <math.h>
#include "core/op.h"
#include "nn/nn.h"
#include "ops/ops.h"
#include "optim/learner_inside.h"
#include "optim/state.h"

typedef struct { const char *name; ag_tensor *value, *average; } pair;

struct optim_ema {
    double decay;
    ag_owner *owner;            /* of the averages */
    pair *pair;
    optim_segment *segment;     /* [n] */
    ag_named *named;            /* scratch of making them */
    int64_t n;
    bool swapped, filled;
};

static void drop(void *p)
{
    optim_ema *e = p;
    for (int64_t i = 0; i < e->n; i++) ag_release(e->pair[i].value);
    ag_owner_free(e->owner);
    ag_free(e->segment);
    ag_free(e->named);
    ag_free(e->pair);
    ag_free(e);
}

static bool is_known(const optim_ema *e, const ag_tensor *t)
{
    for (int64_t i = 0; i < e->n; i++)
        if (e->pair[i].value == t) return true;
    return false;
}

/* Without averages yet, so that someone owns it when making them fails. */
static optim_ema *make(const char *at, nn_module *net, double decay)
{
    if (!(decay >= 0 && decay < 1)) ag_fail(at, "optim_ema_new: a decay of %g; it lies in [0, 1)", decay);
    const int64_t n = nn_named_count(net);
    optim_ema *e = ag_alloc(1, sizeof *e);
    *e = (optim_ema){ .decay = decay, .owner = ag_owner_new(), .pair = ag_alloc(n, sizeof *e->pair),
                      .segment = ag_alloc(n, sizeof *e->segment), .named = ag_alloc(n, sizeof *e->named) };
    return e;
}

static void fill(const char *at, optim_ema *e, nn_module *net)
{
    const int64_t n = nn_named_count(net);
    nn_to_named(net, e->named);
    ag_owner_enter(e->owner);
    for (int64_t i = 0; i < n; i++) {
        ag_tensor *t = e->named[i].tensor;
        if (is_known(e, t)) continue;               /* under two names */
        ag_tensor *average = ag_to(ag_empty_(at, t->dtype, ag_shape_of(t)), t->device);
        e->pair[e->n++] = (pair){ ag_intern(e->named[i].name), ag_retain(t), average }; /* a net that grows moves its names */
    }
    ag_owner_leave(e->owner);
    ag_optim_ema_reset(e);
    e->filled = true;
}

optim_ema *ag_optim_ema_new_(const char *at, nn_module *net, double decay)
{
    optim_ema *e = make(at, net, decay);
    ag_defer(drop, e);
    fill(at, e, net);
    return e;
}

void ag_optim_ema_reset(optim_ema *e)
{
    if (e->swapped) ag_optim_ema_swap(e);
    for (int64_t i = 0; i < e->n; i++) ag_copy(e->pair[i].average, e->pair[i].value);
}

/* sgd's kernel with other numbers: w = decay w - (decay - 1) g */
static void update_on(const char *at, optim_ema *e, ag_device device)
{
    const optim_scalars s = { .scale = 1, .decay = (real)e->decay, .lr = (real)(e->decay - 1) };
    int n = 0;
    for (int64_t i = 0; i < e->n; i++) {
        const ag_tensor *from = e->pair[i].value, *to = e->pair[i].average;
        if (from->dtype == AG_F32 && from->device == device)
            e->segment[n++] = (optim_segment){ .n = ag_numel(to), .w = to->data, .g = from->data, .scalars = s };
    }
    ag_optim_pass(at, &ag_optim_rule_sgd, device, n, e->segment, NULL);
}

void ag_optim_ema_update_(const char *at, optim_ema *e)
{
    if (e->swapped)
        ag_fail(at, "optim_ema_update: the net holds the averages; optim_ema_swap brings the trained weights back");
    for (int64_t i = 0; i < e->n; i++) {
        const ag_tensor *t = e->pair[i].value;
        if (!ag_is_contiguous(t)) ag_fail(at, "optim_ema_update: %s is not contiguous", e->pair[i].name);
        if (t->dtype != AG_F32) ag_copy(e->pair[i].average, t);
    }
    update_on(at, e, AG_CPU);
    update_on(at, e, AG_CUDA);
}

/* Piece by piece: there may be no memory for a whole tensor more. */
static void exchange(ag_tensor *a, ag_tensor *b)
{
    enum { PIECE = 1 << 16 };
    const int64_t n = ag_numel(a);
    for (int64_t begin = 0; begin < n; begin += PIECE) {
        AG_SCOPE;
        AG_NO_GRAD;
        const int64_t end = begin + PIECE < n ? begin + PIECE : n;
        ag_tensor *p = ag_slice(ag_reshape(a, -1), 0, begin, end), *q = ag_slice(ag_reshape(b, -1), 0, begin, end);
        ag_tensor *kept = ag_to(ag_empty(a->dtype, end - begin), a->device);
        ag_copy(kept, p);
        ag_copy(p, q);
        ag_copy(q, kept);
    }
}

void ag_optim_ema_swap(optim_ema *e)
{
    static void (*const kernel)(const optim_segment *, int) = AG_CUDA_FN(ag_optim_exchange_cuda);
    int n = 0;
    e->swapped = !e->swapped;
    for (int64_t i = 0; i < e->n; i++) {
        ag_tensor *a = e->pair[i].value, *b = e->pair[i].average;
        if (a->device == AG_CUDA && a->dtype == AG_F32 && ag_is_contiguous(a)) {
            e->segment[n++] = (optim_segment){ .n = ag_numel(a), .w = a->data, .s0 = b->data };
            ag_touched(a);
        } else exchange(a, b);
    }
    if (n) kernel(e->segment, n);
}

int64_t ag_optim_ema_named(const optim_ema *e, ag_named *out)
{
    for (int64_t i = 0; i < e->n && out; i++) out[i] = (ag_named){ e->pair[i].name, e->pair[i].average };
    return e->n;
}

/* ---- the callback -------------------------------------------------------------------------------------- */

typedef struct { learner_ema_opts o; optim_ema *ema; } keeper;

static void drop_keeper(void *p)
{
    keeper *k = p;
    if (k->ema) drop(k->ema);
    ag_free(k);
}

static void swap_to(keeper *k, bool averages)
{
    if (k->ema->swapped != averages) ag_optim_ema_swap(k->ema);
}

/* Made on the first event or, before that, when a checkpoint is read. What is saved is never swapped. */
static int64_t averages(learner *l, void *state, ag_named *out)
{
    keeper *k = state;
    if (k->ema && !k->ema->filled) drop(k->ema), k->ema = NULL;
    if (!k->ema) {
        k->ema = make(l->in->at, l->net, k->o.decay);
        fill(l->in->at, k->ema, l->net);
    }
    swap_to(k, false);
    return ag_optim_ema_named(k->ema, out);
}

static learner_flow average(learner *l, learner_event e, void *state)
{
    keeper *k = state;
    if (e == LEARNER_BEFORE_FIT) {
        averages(l, k, NULL);
        if (!l->in->continues) ag_optim_ema_reset(k->ema);
    }
    if (e == LEARNER_AFTER_STEP) {
        optim_flush(l->opt);
        ag_optim_ema_update_(l->in->at, k->ema);
    }
    if (e == LEARNER_BEFORE_VALIDATE) swap_to(k, true);
    if (e == LEARNER_AFTER_EPOCH || e == LEARNER_BEFORE_EPOCH) swap_to(k, false);
    if (e == LEARNER_AFTER_FIT) {
        if (!l->interrupted && !ag_learner_keeps_best(l)) swap_to(k, true);
        k->ema->swapped = false;                    /* what the net holds is its own from now on */
    }
    return LEARNER_GO;
}

learner_callback ag_learner_ema(learner_ema_opts o)
{
    keeper *k = ag_alloc(1, sizeof *k);
    k->o = o;
    if (!(o.decay > 0)) k->o.decay = 0.9998;
    return (learner_callback){ .on = average, .between_steps = true, .state = k, .drop = drop_keeper, .tensors = averages };
}
