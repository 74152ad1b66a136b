/* optim/fit.c - fastai's ways to fit, in terms of the loop (learner.c) and schedules. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/memory.h"
#include "core/random.h"
#include "data/plot.h"
#include "optim/learner_inside.h"

static double or_default(double v, double otherwise)
{
    return v > 0 ? v : otherwise;
}

static void check_rate(const char *at, const char *what, double lr)
{
    if (!(lr > 0 && lr < 1e6)) ag_fail(at, "%s: a learning rate of %g; it is above 0", what, lr);
}

static void run(const char *at, learner *l, int epochs, const optim_schedule *lr, const optim_schedule *momentum, double lo)
{
    l->in->lr = lr, l->in->momentum = momentum, l->in->lr_lo = lo;
    ag_learner_run(at, l, epochs);
    l->in->lr = l->in->momentum = NULL;
}

void ag_learner_fit_schedule_(const char *at, learner *l, int epochs, const optim_schedule *lr, const optim_schedule *momentum)
{
    snprintf(l->in->fit, sizeof l->in->fit, "fit_schedule epochs %d", epochs);
    run(at, l, epochs, lr, momentum, 0);
}

void ag_learner_fit_(const char *at, learner *l, int epochs, double lr)
{
    check_rate(at, "learner_fit", lr);
    snprintf(l->in->fit, sizeof l->in->fit, "fit epochs %d lr %g", epochs, lr);
    const optim_schedule constant = optim_linear(lr, lr);
    run(at, l, epochs, &constant, NULL, 0);
}

void ag_learner_fit_one_cycle_(const char *at, learner *l, int epochs, double lr, learner_fit_opts o)
{
    check_rate(at, "learner_fit_one_cycle", lr);
    const double start = or_default(o.pct_start, 0.25);
    const double *m = o.moms[0] > 0 ? o.moms : (const double[]){ 0.95, 0.85, 0.95 };
    snprintf(l->in->fit, sizeof l->in->fit,
             "fit_one_cycle epochs %d lr %g pct_start %g div %g div_final %g lr_lo %g moms %g %g %g", epochs, lr, start, o.div,
             o.div_final, o.lr_lo, m[0], m[1], m[2]);
    const optim_schedule rate = optim_one_cycle(lr, .div = o.div, .div_final = o.div_final, .pct_start = start);
    const optim_schedule momentum = optim_combined_cos(start, m[0], m[1], m[2]);
    run(at, l, epochs, &rate, &momentum, o.lr_lo / lr);
}

void ag_learner_fit_flat_cos_(const char *at, learner *l, int epochs, double lr, learner_fit_opts o)
{
    check_rate(at, "learner_fit_flat_cos", lr);
    snprintf(l->in->fit, sizeof l->in->fit, "fit_flat_cos epochs %d lr %g pct_start %g div_final %g lr_lo %g", epochs, lr,
             o.pct_start, o.div_final, o.lr_lo);
    const optim_schedule rate = optim_flat_cos(lr, .div_final = o.div_final, .pct_start = o.pct_start);
    run(at, l, epochs, &rate, NULL, o.lr_lo / lr);
}

void ag_learner_fine_tune_(const char *at, learner *l, int epochs, double lr, learner_fine_tune_opts o)
{
    const int frozen = o.freeze_epochs ? o.freeze_epochs : 1;
    check_rate(at, "learner_fine_tune", lr);
    if (optim_groups(l->opt) < 2)
        ag_fail(at, "learner_fine_tune: the optimizer has one parameter group; make it with .groups = OPTIM_GROUPS({ .params = "
                "\"body.*\" }), so that the rest forms the head");
    const bool resumes_second = l->in->resumed && strstr(l->in->resume_fit, "pct_start 0.3 ");
    if (!resumes_second) {
        ag_optim_freeze_to_(at, l->opt, optim_groups(l->opt) - 1);
        if (!l->in->resumed) optim_reset(l->opt);
        ag_learner_fit_one_cycle_(at, l, frozen, lr, (learner_fit_opts){ .pct_start = 0.99, .lr_lo = -1 });
        if (l->interrupted) return;
        optim_reset(l->opt);
    }
    ag_optim_freeze_to_(at, l->opt, 0);
    ag_learner_fit_one_cycle_(at, l, epochs, lr / 2, (learner_fit_opts){ .pct_start = 0.3, .div = 5, .lr_lo = lr / 200 });
}

/* ---- lr_find ------------------------------------------------------------------------------------------- */

/* Copies of everything training changes. */
typedef struct {
    learner *l;
    int64_t n;
    ag_named *live;
    ag_tensor **copy;
    ag_rng rng;
    data_position at;
    double *lr, momentum, train_loss, smooth;
    int64_t smooth_n;
    bool training;
} snapshot;

static void put_back(void *p)
{
    snapshot *s = p;
    learner *l = s->l;
    optim_zero_grad(l->opt);
    for (int64_t i = 0; i < s->n; i++) ag_copy(s->live[i].tensor, s->copy[i]);
    optim_refresh(l->opt);
    for (int g = 0; g < optim_groups(l->opt); g++) optim_set_lr(l->opt, g, s->lr[g]);
    optim_set_momentum(l->opt, s->momentum);
    ag_rng_set(s->rng);
    data_loader_seek(l->train, s->at);
    l->train_loss = s->train_loss, l->in->smooth = s->smooth, l->in->smooth_n = s->smooth_n;
    nn_train(l->net, s->training);
    l->x = l->y = l->pred = NULL;
    l->in->searching = false;
    ag_free(s->live);
    ag_free(s->copy);
    ag_free(s->lr);
    ag_free(s);
}

/* In the innermost scope; put back when it ends, however it ends. */
static void take_snapshot(learner *l)
{
    snapshot *s = ag_alloc(1, sizeof *s);
    const int64_t own = nn_named_count(l->net), state = optim_state_count(l->opt);
    *s = (snapshot){ .l = l, .n = own + state, .rng = ag_rng_get(), .at = data_loader_tell(l->train),
                     .momentum = optim_momentum(l->opt), .train_loss = l->train_loss, .smooth = l->in->smooth,
                     .smooth_n = l->in->smooth_n, .training = l->net->training };
    s->live = ag_alloc(s->n, sizeof *s->live);
    s->copy = ag_alloc(s->n, sizeof *s->copy);
    s->lr = ag_alloc(optim_groups(l->opt), sizeof *s->lr);
    optim_flush(l->opt);
    nn_to_named(l->net, s->live);
    for (int64_t i = 0; i < state; i++) s->live[own + i] = optim_state_at(l->opt, i);
    for (int g = 0; g < optim_groups(l->opt); g++) s->lr[g] = optim_lr(l->opt, g);
    for (int64_t i = 0; i < s->n; i++) {
        const ag_tensor *t = s->live[i].tensor;
        s->copy[i] = ag_to(ag_empty_(AG_HERE, t->dtype, ag_shape_of(t)), t->device);
        ag_copy(s->copy[i], t);
    }
    ag_defer(put_back, s);
}

learner_rates ag_learner_lr_find_(const char *at, learner *l, learner_lr_find_opts o)
{
    const double start = or_default(o.start, 1e-7), end = or_default(o.end, 10);
    const int steps = o.steps > 0 ? o.steps : 100;
    if (!(start < end)) ag_fail(at, "learner_lr_find: from %g up to %g", start, end);
    l->in->rates = ag_realloc(l->in->rates, steps, sizeof *l->in->rates);
    l->in->losses = ag_realloc(l->in->losses, steps, sizeof *l->in->losses);
    learner_rates r = { .steps = steps, .lr = l->in->rates, .loss = l->in->losses };
    AG_SCOPE;
    take_snapshot(l);
    nn_train(l->net, true);
    l->in->smooth = 0, l->in->smooth_n = 0, l->in->at = at;
    l->in->searching = true;
    ag_learner_use(l, l->train);
    ag_learner_memory_begin(l);
    double best = INFINITY;
    bool stop = false;
    while (r.n < steps && !stop) {          /* as many epochs as it takes */
        DATA_EACH(b, l->train) {
            const double lr = start * pow(end / start, (double)r.n / steps);
            optim_set_lr(l->opt, -1, lr);
            AG_SCOPE;
            if (!isfinite(ag_learner_gradients(l, &b))) stop = true;
            if (stop) break;
            l->in->rates[r.n] = lr, l->in->losses[r.n++] = l->train_loss;
            best = fmin(best, l->train_loss);
            stop = r.n == steps || l->train_loss > 4 * best;
            if (stop) break;
            optim_step(l->opt);
        }
    }
    ag_learner_suggest(&r);
    return r;
}

/* The middle of the longest falling subsequence, without its first third. (fastai's valley) */
static double valley(const double *lr, const double *loss, int n)
{
    int *length = ag_alloc(n, sizeof *length), end = 0;
    for (int i = 0; i < n; i++) {
        length[i] = 1;
        for (int k = 0; k < i; k++)
            if (loss[i] < loss[k] && length[k] + 1 > length[i]) length[i] = length[k] + 1;
        if (length[i] > length[end]) end = i;
    }
    const int start = end - length[end];
    const double sections = (end - start) / 3.0;
    const int at = start + (int)sections + (int)(sections / 2);
    ag_free(length);
    return lr[at < 0 ? 0 : at];
}

static double gradient(const double *loss, int n, int i)       /* numpy.gradient */
{
    if (i == 0) return loss[1] - loss[0];
    return i == n - 1 ? loss[n - 1] - loss[n - 2] : (loss[i + 1] - loss[i - 1]) / 2;
}

/* Where the slope becomes steady, walking left from the end. (fastai's slide: lr_diff 15, thresh 0.005) */
static double slide(const double *lr, const double *loss, int n)
{
    int right = n - 1, left = right - 15, at = left;
    if (left < 0) return NAN;
    while (left >= 0 && fabs(gradient(loss, n, right) - gradient(loss, n, left)) > 0.005) at = left--, right--;
    return lr[at];
}

void ag_learner_suggest(learner_rates *r)
{
    const int first = r->steps / 10, n = r->n - first - 5;
    r->valley = r->slide = r->steep = r->minimum = NAN;
    if (n < 3) return;
    const double *lr = r->lr + first, *loss = r->loss + first;
    int low = 0, steep = 0;
    double slope = INFINITY;
    for (int i = 0; i < n; i++) {
        if (loss[i] < loss[low]) low = i;
        if (i + 1 < n && (loss[i + 1] - loss[i]) / (log(lr[i + 1]) - log(lr[i])) < slope)
            slope = (loss[i + 1] - loss[i]) / (log(lr[i + 1]) - log(lr[i])), steep = i;
    }
    r->minimum = lr[low] / 10;
    r->steep = lr[steep];
    r->valley = valley(lr, loss, n);
    r->slide = slide(lr, loss, n);
}

void ag_learner_rates_plot_(const char *at, const learner_rates *r, const char *path)
{
    const data_plot_mark marks[] = { { r->valley, "valley" }, { r->slide, "slide" } };
    ag_data_plot_curve_(at, path, r->n, r->lr, r->loss, (data_plot_opts){
        .title = "learning rate finder", .x = "learning rate", .y = "loss (smoothed)", .log_x = true, .marks = marks,
        .n_marks = 2 });
}
