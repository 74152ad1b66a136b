/* optim/learner.c - the loop.
 *
 * L1  Every event goes to the callbacks in order; the first that does not say GO decides.
 * L2  A group of batches makes a step. A batch's gradient weighs its share of the group's samples.
 * L3  A checkpoint is written between steps only, so it never holds half a group. */
#include "optim/learner.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "core/memory.h"
#include "core/random.h"
#include "core/ranks.h"
#include "ops/ops.h"
#include "optim/learner_inside.h"
#include "optim/state.h"

double ag_learner_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- losses -------------------------------------------------------------------------------------------- */

ag_tensor *ag_learner_mse(ag_tensor *pred, ag_tensor *y) { return ag_mse_loss(pred, y); }
ag_tensor *ag_learner_cross_entropy(ag_tensor *pred, ag_tensor *y) { return ag_cross_entropy(pred, y); }
ag_tensor *ag_learner_bce(ag_tensor *pred, ag_tensor *y) { return ag_bce_with_logits(pred, y); }

/* ---- life ---------------------------------------------------------------------------------------------- */

static void drop(void *p)
{
    learner *l = p;
    for (int i = 0; i < l->in->n_callbacks; i++)
        if (l->in->callbacks[i].drop) l->in->callbacks[i].drop(l->in->callbacks[i].state);
    ag_log_close(l->in->log);
    ag_free(l->in->checkpoint);
    ag_free(l->in->resume_hint);
    ag_free(l->in->log_path);
    ag_free(l->in->history);
    for (int i = 0; i < l->n_metrics; i++) ag_free(l->in->owned_name[i]);
    ag_free(l->in->rates);
    ag_free(l->in->losses);
    ag_free(l->in);
    ag_free(l);
}

static int batches_per_step(const char *at, const data_loader *train, const learner_opts *o)
{
    const int64_t size = data_batch_size(train);
    if (o->accumulate < 0 || o->batch_effective < 0)
        ag_fail(at, "learner_new: .accumulate = %d, .batch_effective = %" PRId64 "; neither may be negative", o->accumulate,
                o->batch_effective);
    if (o->accumulate && o->batch_effective)
        ag_fail(at, "learner_new: .accumulate counts batches, .batch_effective samples; give one of them");
    if (!o->batch_effective) return o->accumulate ? o->accumulate : 1;
    if (o->batch_effective < size)
        ag_fail(at, "learner_new: .batch_effective = %" PRId64 " is less than the loader's batch of %" PRId64,
                o->batch_effective, size);
    return (int)((o->batch_effective + size - 1) / size);
}

static void check_precision(const char *at, const char *name)
{
    ag_scope there AG_CLEANUP(ag_scope_end) = ag_autocast_begin(at, name);
}

learner *ag_learner_new_(const char *at, data_loader *train, data_loader *valid, nn_module *net, learner_loss loss,
                         learner_opts o)
{
    if (!data_batches(train))
        ag_fail(at, "learner_new: the training loader has no batches: %" PRId64 " samples, batches of %" PRId64,
                data_size(data_loader_set(train)), data_batch_size(train));
    if (valid && !data_batches(valid)) ag_fail(at, "learner_new: the validation loader has no batches");
    const int per_step = batches_per_step(at, train, &o);
    if (o.precision) check_precision(at, o.precision);
    if (!o.opt) o.opt = ag_optim_adamw_(at, net, 1e-3, (optim_adam_opts){ .fastai = true, .weight_decay = o.weight_decay });
    learner *l = ag_alloc(1, sizeof *l);
    l->in = ag_alloc(1, sizeof *l->in);
    ag_defer(drop, l);
    l->train = train, l->valid = valid, l->net = net, l->loss = loss, l->opt = o.opt;
    ag_learner_set_targets(at, l, &o);
    l->train_loss = l->valid_loss = NAN;
    l->in->at = at, l->in->accumulate = per_step, l->in->clip = o.clip, l->in->quiet = o.quiet, l->in->lr_scale = 1;
    l->in->saved_step = -1;
    l->in->precision = o.precision, l->in->fit_memory = o.fit_memory, l->in->eager = o.eager;
    l->in->terminal = isatty(STDOUT_FILENO);
    ag_learner_use(l, train);
    if (valid) ag_learner_use(l, valid);
    if (o.checkpoint) l->in->checkpoint = ag_strdup(o.checkpoint);
    if (o.resume_hint) l->in->resume_hint = ag_strdup(o.resume_hint);
    if (o.log) l->in->log_path = ag_strdup(o.log);
    return l;
}

void ag_learner_add_(const char *at, learner *l, learner_callback c)
{
    if (l->in->n_callbacks == LEARNER_MAX_CALLBACKS) ag_fail(at, "learner_add: at most %d callbacks", LEARNER_MAX_CALLBACKS);
    if (c.n_numbers < 0 || c.n_numbers > LEARNER_MAX_NUMBERS)
        ag_fail(at, "learner_add: .n_numbers = %d; at most %d", c.n_numbers, LEARNER_MAX_NUMBERS);
    l->in->callbacks[l->in->n_callbacks++] = c;
}

static learner_flow tell(learner *l, learner_event event)
{
    for (int i = 0; i < l->in->n_callbacks && !l->in->searching; i++) {
        const learner_flow f = l->in->callbacks[i].on(l, event, l->in->callbacks[i].state);
        if (f != LEARNER_GO) return f;
    }
    return LEARNER_GO;
}

/* ---- one batch ----------------------------------------------------------------------------------------- */

/* fastai's AvgSmoothLoss */
static const double smooth_beta = 0.98;

double ag_learner_smoothed(const learner *l)
{
    return l->in->smooth_n ? l->in->smooth / (1 - pow(smooth_beta, (double)l->in->smooth_n)) : NAN;
}

void ag_learner_smooth(learner *l, double loss)
{
    l->in->smooth = smooth_beta * l->in->smooth + (1 - smooth_beta) * loss;
    l->in->smooth_n++;
    l->train_loss = ag_learner_smoothed(l);
}

void ag_learner_require_number(const learner *l)
{
    if (isfinite(l->batch_loss) || l->in->searching) return;
    ag_fail(l->in->at, "the loss became %s in epoch %d, step %" PRId64 ", batch %" PRId64 "; the weights of the step before "
            "are kept. A smaller learning rate or .clip helps; NaN in the data does it as well",
            isnan(l->batch_loss) ? "NaN" : "infinite", l->epoch, l->step, l->batch);
}

#define TELL(event) do { const learner_flow f_ = tell(l, event); if (f_ != LEARNER_GO) return f_; } while (0)

ag_scope ag_learner_precision(const learner *l)
{
    return ag_autocast_begin(l->in->at, l->in->precision ? l->in->precision : ag_autocast_name());
}

void ag_learner_use(const learner *l, data_loader *loader)
{
    ag_scope precision AG_CLEANUP(ag_scope_end) = ag_learner_precision(l);
    data_loader_share(loader);
    data_loader_dtype(loader, ag_autocast());
}

ag_tensor *ag_learner_forward(learner *l, ag_tensor *x)
{
    ag_scope precision AG_CLEANUP(ag_scope_end) = ag_learner_precision(l);
    return ag_keep(nn_call(l->net, x));
}

/* l->x and l->y, whose share of the batch is `share`, into the gradients with `weight`. */
static learner_flow compute(learner *l, double share, double weight)
{
    l->pred = ag_learner_forward(l, l->x);
    TELL(LEARNER_AFTER_PRED);
    ag_tensor *loss = ag_learner_loss(l, l->pred, l->y, NULL);
    l->batch_loss += share * ag_item(loss);
    ag_learner_require_number(l);
    TELL(LEARNER_AFTER_LOSS);
    weight *= share;
    if (l->in->last_backward) ag_optim_ranks_arm(l->in->at, l->opt);
    ag_backward(loss, .grad = weight == 1 ? NULL : ag_full_(l->in->at, weight, ag_shape_of(loss)));
    ag_optim_ranks_disarm();
    return LEARNER_GO;
}

/* A rank with fewer samples than there are parts takes one of them once more, with no weight: batch norm wants all ranks. */
static learner_flow compute_parts(learner *l, int64_t parts, double weight)
{
    ag_tensor *x = l->x, *y = l->y, *mixed_y = l->in->mixed_y, *share = l->in->mixed_share;
    const int64_t n = x->shape[0];
    const bool last = l->in->last_backward;
    learner_flow f = LEARNER_GO;
    for (int64_t k = 0; k < parts && f == LEARNER_GO; k++) {
        AG_SCOPE;
        int64_t first = k * n / parts, end = (k + 1) * n / parts;
        const double part = (double)(end - first) / (double)n;
        if (first == end) end = first + 1;
        l->in->last_backward = last && k == parts - 1;
        l->x = ag_slice(x, 0, first, end), l->y = y ? ag_slice(y, 0, first, end) : NULL;
        if (mixed_y) l->in->mixed_y = ag_slice(mixed_y, 0, first, end), l->in->mixed_share = ag_slice(share, 0, first, end);
        f = compute(l, part, weight);
    }
    l->in->last_backward = last;
    l->x = x, l->y = y, l->pred = NULL, l->in->mixed_y = mixed_y, l->in->mixed_share = share;
    return f;
}

/* The loss of all ranks' parts, and whether one of them was told to stop. */
static void share_loss(learner *l, const data_batch *b)
{
    double sum[3] = { b->share * l->batch_loss, b->share, ag_learner_signalled() };
    if (ag_ranks() == 1) return;
    ag_ranks_sum(sum, 3);
    l->batch_loss = sum[0] / sum[1];
    l->in->stop = sum[2] > 0;
}

static bool told_to_stop(const learner *l)
{
    return ag_ranks() > 1 ? l->in->stop : ag_learner_signalled();
}

static learner_flow forward_backward(learner *l, data_batch *b, double weight)
{
    l->x = b->x, l->y = b->y, l->in->mixed_y = NULL;
    TELL(LEARNER_BEFORE_BATCH);
    ag_learner_memory_batch(l, l->x, l->y);
    if (ag_learner_replay(l, weight)) return LEARNER_GO;
    l->batch_loss = 0;
    const int64_t parts = ag_learner_parts(l);
    const learner_flow f = parts > 1 ? compute_parts(l, parts, weight) : compute(l, 1, weight);
    if (f != LEARNER_GO) return f;
    share_loss(l, b);
    ag_learner_smooth(l, l->batch_loss);
    TELL(LEARNER_AFTER_BACKWARD);
    return LEARNER_GO;
}

double ag_learner_gradients(learner *l, data_batch *b)
{
    forward_backward(l, b, 1);
    return l->batch_loss;
}

static void set_rates(learner *l)
{
    const double position = (double)l->step / (double)l->steps;
    if (l->in->lr) {
        const double lr = optim_schedule_at(l->in->lr, position) * l->in->lr_scale;
        if (l->in->lr_lo == 0) optim_set_lr(l->opt, -1, lr);
        else optim_set_lrs(l->opt, l->in->lr_lo > 0 ? l->in->lr_lo * lr : 0, lr);
    }
    if (l->in->momentum) optim_set_momentum(l->opt, optim_schedule_at(l->in->momentum, position));
}

static learner_flow take_step(learner *l)
{
    const learner_flow f = tell(l, LEARNER_BEFORE_STEP);
    l->step++;
    if (f != LEARNER_GO) {
        optim_zero_grad(l->opt);
        return f;
    }
    if (l->in->stepped) ag_optim_count_step(l->opt, l->in->stepped);
    else {
        if (l->in->clip > 0) optim_clip_norm(l->opt, l->in->clip);
        optim_step(l->opt);
    }
    return tell(l, LEARNER_AFTER_STEP);
}

/* ---- one epoch ----------------------------------------------------------------------------------------- */

static int64_t samples_of_group(const learner *l, int64_t first)
{
    const int64_t size = data_batch_size(l->train), all = data_samples(l->train);
    const int64_t end = (first + l->in->accumulate) * size;
    return (end < all ? end : all) - first * size;
}

/* Of a batch in its group. The ranks' gradients become their mean, so that a rank's part weighs as many times more. */
static double weight_of(const learner *l, const data_batch *b, int64_t first)
{
    const bool alone = l->in->accumulate == 1;
    const int64_t size = data_batch_size(l->train), left = data_samples(l->train) - b->index * size;
    if (ag_ranks() == 1) return alone ? 1 : (double)b->n / (double)samples_of_group(l, first);
    const double whole = (double)(left < size ? left : size), part = b->share * ag_ranks();
    return alone ? part : part * whole / (double)samples_of_group(l, first);
}

static void save_interrupted(learner *l)
{
    ag_learner_clear_line(l);
    ag_learner_save_(l->in->at, l, l->in->checkpoint, 0, NULL);
    l->interrupted = true;
    printf("interrupted after step %" PRId64 " of %" PRId64 "; saved in %s\n", l->step, l->steps, l->in->checkpoint);
    if (l->in->resume_hint) printf("go on with: %s\n", l->in->resume_hint);
    fflush(stdout);
}

/* One batch, and a step when its group is complete. */
static learner_flow train_batch(learner *l, data_batch *b)
{
    const int64_t in_group = b->index % l->in->accumulate, first = b->index - in_group;
    const bool last = in_group == l->in->accumulate - 1 || b->index == data_batches(l->train) - 1;
    l->batch = b->index;
    if (in_group == 0) set_rates(l);
    l->in->last_backward = last;
    learner_flow f = forward_backward(l, b, weight_of(l, b, first));
    if (last && (f == LEARNER_GO || (f == LEARNER_CANCEL_BATCH && l->in->accumulate > 1))) f = take_step(l);
    else if (f != LEARNER_GO && l->in->accumulate == 1) optim_zero_grad(l->opt);    /* not left to the next step */
    const learner_flow after = tell(l, LEARNER_AFTER_BATCH);
    ag_learner_show_batch(l);
    l->x = l->y = l->pred = NULL;
    if (last && l->in->checkpoint && told_to_stop(l)) {
        save_interrupted(l);
        return LEARNER_CANCEL_FIT;
    }
    if (f == LEARNER_CANCEL_BATCH || f == LEARNER_GO) f = after;
    return f == LEARNER_CANCEL_BATCH ? LEARNER_GO : f;
}

static learner_flow train_epoch(learner *l)
{
    learner_flow f = tell(l, LEARNER_BEFORE_TRAIN);
    if (f == LEARNER_GO) {
        DATA_EACH(b, l->train) {
            f = train_batch(l, &b);
            if (f != LEARNER_GO) break;
        }
    }
    ag_learner_settle(l);
    if (l->interrupted) return LEARNER_CANCEL_FIT;
    if (f != LEARNER_GO) optim_zero_grad(l->opt);           /* of a group that was cut short */
    optim_flush(l->opt);
    const learner_flow after = tell(l, LEARNER_AFTER_TRAIN);
    if (f == LEARNER_GO || f == LEARNER_CANCEL_TRAIN) f = after;
    return f == LEARNER_CANCEL_TRAIN ? LEARNER_GO : f;
}

static learner_flow one_epoch(learner *l)
{
    l->in->epoch_start = ag_learner_now();
    learner_flow f = tell(l, LEARNER_BEFORE_EPOCH);
    if (f == LEARNER_GO) f = train_epoch(l);
    if (l->interrupted) return LEARNER_CANCEL_FIT;
    if (f == LEARNER_GO && l->valid) {
        f = tell(l, LEARNER_BEFORE_VALIDATE);
        if (f == LEARNER_GO) ag_learner_validate_(l->in->at, l, NULL);
        const learner_flow after = tell(l, LEARNER_AFTER_VALIDATE);
        if (f == LEARNER_GO) f = after;
    }
    l->seconds = ag_learner_now() - l->in->epoch_start;
    ag_learner_show_epoch(l);
    ag_learner_log_epoch(l);
    const learner_flow after = tell(l, LEARNER_AFTER_EPOCH);
    return f == LEARNER_CANCEL_FIT ? f : after;
}

/* ---- a fit --------------------------------------------------------------------------------------------- */

static void begin(const char *at, learner *l, int epochs)
{
    struct learner_inside *in = l->in;
    if (epochs < 1) ag_fail(at, "a fit of %d epochs; it takes 1 or more", epochs);
    const int64_t per_epoch = (data_batches(l->train) + in->accumulate - 1) / in->accumulate;
    l->epochs = epochs, l->steps = ag_mul_size(at, per_epoch, epochs);
    l->interrupted = false;
    in->at = at, in->header_done = false, in->lr_scale = 1, in->continues = in->resumed;
    l->x = l->y = l->pred = NULL;
    ag_learner_use(l, l->train);
    optim_zero_grad(l->opt);
    if (!in->resumed) {
        l->epoch = 0, l->step = 0;
        in->smooth = 0, in->smooth_n = 0;
        return;
    }
    if (strcmp(in->fit, in->resume_fit))
        ag_fail(at, "the checkpoint is of the fit '%s', this one is '%s'; go on with the same arguments", in->resume_fit,
                in->fit);
    in->resumed = false;
    l->epoch = in->resume_epoch, l->step = in->resume_step, in->lr_scale = in->resume_scale;
}

/* After an epoch that was cut short the next one begins with the loader's next order, here as after resuming. */
static void end_epoch(const char *at, learner *l)
{
    const data_position p = data_loader_tell(l->train);
    if (p.batch) ag_data_loader_seek_(at, l->train, (data_position){ p.epoch + 1, 0 });
    l->epoch++;
    if (!l->in->checkpoint) return;
    double stop = ag_learner_signalled();
    ag_ranks_sum(&stop, 1);
    if (stop > 0) save_interrupted(l);
    else ag_learner_save_(at, l, l->in->checkpoint, 0, NULL);
}

static void end_signals(void *unused)
{
    (void)unused;
    ag_learner_signals_end();
}

static void end_salt(void *unused)
{
    (void)unused;
    ag_rng_set_salt(0);
}

/* All ranks begin with rank 0's weights, and drop different things. */
static void join_ranks(learner *l)
{
    if (ag_ranks() == 1) return;
    const int64_t n = nn_named_count(l->net);
    ag_named *all = ag_alloc(n, sizeof *all);
    ag_defer(ag_free, all);
    nn_to_named(l->net, all);
    for (int64_t i = 0; i < n; i++) {
        AG_SCOPE;
        AG_NO_GRAD;
        ag_tensor *t = all[i].tensor, *here = ag_contiguous(ag_to(t, AG_CPU));
        ag_ranks_broadcast(here->data, ag_numel(t) * (int64_t)ag_dtype_size(t->dtype));
        if (here->data != t->data) ag_copy(t, here);
    }
    ag_rng_set_salt((uint64_t)ag_rank() * 0x9e3779b97f4a7c15u);
    ag_defer(end_salt, NULL);
}

void ag_learner_run(const char *at, learner *l, int epochs)
{
    begin(at, l, epochs);
    AG_SCOPE;
    ag_learner_log_begin(l);
    if (l->in->checkpoint) {
        ag_learner_signals_begin();
        ag_defer(end_signals, NULL);
    }
    ag_learner_lost_begin(l);
    join_ranks(l);
    nn_train(l->net, true);
    learner_flow f = tell(l, LEARNER_BEFORE_FIT);
    ag_learner_replay_begin(l);
    ag_learner_memory_begin(l);             /* what callbacks hold (averages of weights) is there already */
    while (f == LEARNER_GO && l->epoch < epochs) {
        f = one_epoch(l);
        if (l->interrupted) break;
        if (f == LEARNER_CANCEL_EPOCH || f == LEARNER_CANCEL_BATCH || f == LEARNER_CANCEL_TRAIN) f = LEARNER_GO;
        end_epoch(at, l);
        if (l->interrupted) break;
    }
    tell(l, LEARNER_AFTER_FIT);
}
