/* optim/trackers.c - callbacks that watch a number from epoch to epoch. (fastai's TrackerCallback) */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/memory.h"
#include "optim/learner_inside.h"

typedef struct {
    learner_tracker_opts o;
    double number[2];           /* BEST, WAITED: what a checkpoint keeps */
    ag_owner *owner;            /* of the copies that keep_best holds */
    ag_named *copy;
    int64_t n;
} tracker;

enum { BEST, WAITED };

static void drop(void *p)
{
    tracker *t = p;
    ag_owner_free(t->owner);
    ag_free(t->copy);
    ag_free(t);
}

static learner_callback make(learner_tracker_opts o, learner_flow (*on)(learner *, learner_event, void *))
{
    tracker *t = ag_alloc(1, sizeof *t);
    t->o = o;
    if (!o.monitor) t->o.monitor = "valid_loss";
    if (o.patience < 1) t->o.patience = 1;
    t->number[BEST] = NAN;
    return (learner_callback){ .on = on, .between_steps = true, .state = t, .drop = drop, .numbers = t->number, .n_numbers = 2 };
}

static double monitored(const learner *l, const tracker *t, bool *higher)
{
    *higher = false;
    if (!strcmp(t->o.monitor, "train_loss")) return l->train_loss;
    if (!l->valid)
        ag_fail(l->in->at, "a callback watches '%s', the learner has no validation set; .monitor = \"train_loss\" needs none",
                t->o.monitor);
    if (!strcmp(t->o.monitor, "valid_loss")) return l->valid_loss;
    for (int i = 0; i < l->n_metrics; i++) {
        if (strcmp(l->metrics[i].name, t->o.monitor)) continue;
        *higher = l->metrics[i].higher_is_better;
        return l->metric[i];
    }
    ag_fail(l->in->at, "a callback watches '%s'; there is valid_loss, train_loss and the metrics%s%s", t->o.monitor,
            l->n_metrics ? ", the first is " : "", l->n_metrics ? l->metrics[0].name : "");
}

/* Whether this epoch is the best so far. */
static bool improved(const learner *l, tracker *t)
{
    bool higher;
    double *best = &t->number[BEST];
    const double v = monitored(l, t, &higher), gain = higher ? v - *best : *best - v;
    if (!isnan(*best) && !(gain > t->o.min_delta)) {
        t->number[WAITED]++;
        return false;
    }
    *best = v;
    t->number[WAITED] = 0;
    return true;
}

/* A fit begins without a best value, unless it goes on. The monitor is checked now, not after an epoch's work. */
static void start(const learner *l, tracker *t)
{
    bool higher;
    monitored(l, t, &higher);
    if (!l->in->continues) t->number[BEST] = NAN, t->number[WAITED] = 0;
}

static bool patience_ended(const learner *l, learner_event e, tracker *t)
{
    if (e == LEARNER_BEFORE_FIT) start(l, t);
    return e == LEARNER_AFTER_EPOCH && !improved(l, t) && t->number[WAITED] >= t->o.patience;
}

static learner_flow early_stopping(learner *l, learner_event e, void *state)
{
    tracker *t = state;
    if (!patience_ended(l, e, t)) return LEARNER_GO;
    if (!l->in->quiet)
        printf("no gain in %s for %g epochs: stopped after epoch %d\n", t->o.monitor, t->number[WAITED], l->epoch);
    return LEARNER_CANCEL_FIT;
}

static learner_flow reduce_on_plateau(learner *l, learner_event e, void *state)
{
    tracker *t = state;
    const double factor = t->o.factor > 0 ? t->o.factor : 0.1;
    if (!patience_ended(l, e, t) || optim_lr(l->opt, 0) * factor < t->o.min_lr) return LEARNER_GO;
    t->number[WAITED] = 0;
    l->in->lr_scale *= factor;
    if (!l->in->quiet) printf("epoch %d: no gain in %s, learning rate times %g\n", l->epoch, t->o.monitor, factor);
    return LEARNER_GO;
}

static void make_copies(const learner *l, tracker *t)
{
    t->n = nn_named_count(l->net);
    t->copy = ag_alloc(t->n, sizeof *t->copy);
    nn_to_named(l->net, t->copy);
    t->owner = ag_owner_new();
    ag_owner_enter(t->owner);
    for (int64_t i = 0; i < t->n; i++) {
        const ag_tensor *live = t->copy[i].tensor;
        t->copy[i].tensor = ag_empty_(AG_HERE, live->dtype, ag_shape_of(live));
        ag_copy(t->copy[i].tensor, live);
    }
    ag_owner_leave(t->owner);
}

static int64_t best_weights(learner *l, void *state, ag_named *out)
{
    tracker *t = state;
    if (!t->owner) make_copies(l, t);
    for (int64_t i = 0; out && i < t->n; i++) out[i] = t->copy[i];
    return t->n;
}

static void copy_weights(const learner *l, tracker *t, bool back)
{
    AG_SCOPE;
    ag_named *live = ag_alloc(t->n, sizeof *live);
    ag_defer(ag_free, live);
    nn_to_named(l->net, live);
    for (int64_t i = 0; i < t->n; i++)
        ag_copy(back ? live[i].tensor : t->copy[i].tensor, back ? t->copy[i].tensor : live[i].tensor);
}

static learner_flow keep_best(learner *l, learner_event e, void *state)
{
    tracker *t = state;
    if (e == LEARNER_BEFORE_FIT) {
        start(l, t);
        best_weights(l, t, NULL);
    }
    if (e == LEARNER_AFTER_EPOCH && improved(l, t)) copy_weights(l, t, false);
    if (e == LEARNER_AFTER_FIT && !l->interrupted && !isnan(t->number[BEST])) {
        optim_flush(l->opt);
        copy_weights(l, t, true);
    }
    return LEARNER_GO;
}

bool ag_learner_keeps_best(const learner *l)
{
    for (int i = 0; i < l->in->n_callbacks; i++)
        if (l->in->callbacks[i].on == keep_best) return true;
    return false;
}

learner_callback ag_learner_early_stopping(learner_tracker_opts o) { return make(o, early_stopping); }
learner_callback ag_learner_keep_best(learner_tracker_opts o)
{
    learner_callback c = make(o, keep_best);
    c.tensors = best_weights;
    return c;
}

learner_callback ag_learner_reduce_on_plateau(learner_tracker_opts o) { return make(o, reduce_on_plateau); }
