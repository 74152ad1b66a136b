/* optim/trackers.c - callbacks that watch a number from epoch to epoch. (fastai's TrackerCallback) */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/memory.h"
#include "optim/learner_inside.h"

typedef struct {
    learner_tracker_opts o;
    double best;
    int waited;
    ag_owner *owner;            /* of the copies that keep_best holds */
    ag_tensor **copy;
    int64_t n;
} tracker;

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
    return (learner_callback){ on, t, drop };
}

static double monitored(const learner *l, const tracker *t, bool *higher)
{
    *higher = false;
    if (!strcmp(t->o.monitor, "valid_loss")) return l->valid_loss;
    if (!strcmp(t->o.monitor, "train_loss")) return l->train_loss;
    for (int i = 0; i < l->n_metrics; i++) {
        if (strcmp(l->metrics[i].name, t->o.monitor)) continue;
        *higher = l->metrics[i].higher_is_better;
        return l->metric[i];
    }
    ag_fail(l->in->at, "a callback watches '%s'; there is valid_loss, train_loss and the metrics%s%s", t->o.monitor,
            l->n_metrics ? ", the first is " : "", l->n_metrics ? l->metrics[0].name : "");
}

/* At the end of an epoch: whether it is the best so far. */
static bool improved(const learner *l, tracker *t)
{
    bool higher;
    const double v = monitored(l, t, &higher), gain = higher ? v - t->best : t->best - v;
    if (!isnan(t->best) && !(gain > t->o.min_delta)) {
        t->waited++;
        return false;
    }
    t->best = v;
    t->waited = 0;
    return true;
}

static learner_flow early_stopping(learner *l, learner_event e, void *state)
{
    tracker *t = state;
    if (e == LEARNER_BEFORE_FIT) t->best = NAN, t->waited = 0;
    if (e != LEARNER_AFTER_EPOCH || improved(l, t) || t->waited < t->o.patience) return LEARNER_GO;
    if (!l->in->quiet) printf("no gain in %s for %d epochs: stopped after epoch %d\n", t->o.monitor, t->waited, l->epoch);
    return LEARNER_CANCEL_FIT;
}

static learner_flow reduce_on_plateau(learner *l, learner_event e, void *state)
{
    tracker *t = state;
    const double factor = t->o.factor > 0 ? t->o.factor : 0.1;
    if (e == LEARNER_BEFORE_FIT) t->best = NAN, t->waited = 0;
    if (e != LEARNER_AFTER_EPOCH || improved(l, t) || t->waited < t->o.patience) return LEARNER_GO;
    if (optim_lr(l->opt, 0) * factor < t->o.min_lr) return LEARNER_GO;
    t->waited = 0;
    l->in->lr_scale *= factor;
    if (!l->in->quiet) printf("epoch %d: no gain in %s, learning rate times %g\n", l->epoch, t->o.monitor, factor);
    return LEARNER_GO;
}

static void copy_weights(const learner *l, tracker *t, bool back)
{
    AG_SCOPE;
    const int64_t n = nn_named_count(l->net);
    ag_named *live = ag_alloc(n, sizeof *live);
    ag_defer(ag_free, live);
    nn_to_named(l->net, live);
    if (!t->owner) {
        t->owner = ag_owner_new();
        t->copy = ag_alloc(n, sizeof *t->copy);
        t->n = n;
        ag_owner_enter(t->owner);
        for (int64_t i = 0; i < n; i++) t->copy[i] = ag_empty_(AG_HERE, live[i].tensor->dtype, ag_shape_of(live[i].tensor));
        ag_owner_leave(t->owner);
    }
    for (int64_t i = 0; i < n; i++) ag_copy(back ? live[i].tensor : t->copy[i], back ? t->copy[i] : live[i].tensor);
}

static learner_flow keep_best(learner *l, learner_event e, void *state)
{
    tracker *t = state;
    if (e == LEARNER_BEFORE_FIT) t->best = NAN;
    if (e == LEARNER_AFTER_EPOCH && improved(l, t)) copy_weights(l, t, false);
    if (e == LEARNER_AFTER_FIT && t->owner) copy_weights(l, t, true);
    return LEARNER_GO;
}

learner_callback ag_learner_early_stopping(learner_tracker_opts o) { return make(o, early_stopping); }
learner_callback ag_learner_keep_best(learner_tracker_opts o) { return make(o, keep_best); }
learner_callback ag_learner_reduce_on_plateau(learner_tracker_opts o) { return make(o, reduce_on_plateau); }
