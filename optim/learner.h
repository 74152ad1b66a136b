/* optim/learner.h - the training loop: fit, validate, predict, find a learning rate, save, resume.
 *
 *     learner *l = learner_new(train, valid, net, learner_mse, .metrics = { learner_rmse }, .weight_decay = 0.1);
 *     learner_fit_one_cycle(l, 5, 5e-3);
 *
 * It is written with public functions only; the same by hand:
 *
 *     for (int epoch = 0; epoch < 5; epoch++)
 *         DATA_EACH(b, train) {
 *             optim_set_lr(opt, -1, optim_schedule_at(&schedule, position));
 *             ag_backward(ag_mse_loss(nn_call(net, b.x), b.y));
 *             optim_step(opt);
 *         }
 *
 * Gradient accumulation is a property of the loop: with .accumulate = 4 a step uses the gradients of four batches, each
 * weighed by its samples, so that they equal those of one batch four times as large; what is left at the end of an epoch
 * makes a last, smaller step. Schedules count steps.
 *
 * Started by mpirun (core/ranks.h) each of several processes has its part of each batch: the curve is that of one process, also
 * with batch norm, which sees the whole batch (on a GPU its rank's part); dropout and drop path draw different numbers. Metrics
 * are those of all samples, and a checkpoint goes on with any number of processes. Callbacks run in each of them, and decide
 * alike. */
#ifndef AG_LEARNER_H
#define AG_LEARNER_H
#include "data/data.h"
#include "data/targets.h"
#include "nn/nn.h"
#include "optim/optim.h"
#include "optim/schedule.h"
AG_BEGIN_DECLS

typedef struct learner learner;

/* ---- losses: the mean over the batch, as a tensor of one element --------------------------------------- */

typedef ag_tensor *(*learner_loss)(ag_tensor *pred, ag_tensor *y);
#define learner_mse ag_learner_mse                          /* pred and y of one shape */
#define learner_cross_entropy ag_learner_cross_entropy      /* logits [B, C], classes i64 [B] */
#define learner_bce ag_learner_bce                          /* logits and 0/1 of one shape */
ag_tensor *ag_learner_mse(ag_tensor *pred, ag_tensor *y);
ag_tensor *ag_learner_cross_entropy(ag_tensor *pred, ag_tensor *y);
ag_tensor *ag_learner_bce(ag_tensor *pred, ag_tensor *y);

/* ---- metrics: over all predictions of the validation set, not means of batches ------------------------- */

enum { LEARNER_SUMS = 8, LEARNER_MAX_METRICS = 8, LEARNER_MAX_COLUMNS = 72, LEARNER_MAX_CALLBACKS = 16 };
enum { LEARNER_CATEGORIES = 1, LEARNER_MULTICATEGORIES = 2, LEARNER_NUMBERS = 4 };      /* kinds of targets, as bits */
/* add: adds a batch's contribution to sums (zeros at first); value: the metric of the sums.
 *     static void add(const learner_metric *m, double *sums, const ag_tensor *pred, const ag_tensor *y) { ... }
 *     learner_metric my_metric = { "r2", add, value };
 *   .kinds     of targets that it fits; 0: all              .k   a number of the metric's own
 *   .by_class  behind the LEARNER_SUMS sums there are C x C more, C the size of pred's last axis */
typedef struct learner_metric learner_metric;
struct learner_metric {
    const char *name;
    void (*add)(const learner_metric *m, double *sums, const ag_tensor *pred, const ag_tensor *y);
    double (*value)(const learner_metric *m, const double *sums);
    bool higher_is_better, by_class;
    unsigned kinds;
    int64_t k;
};
#define learner_rmse ag_metric_rmse             /* sqrt of the mean squared error */
#define learner_mae ag_metric_mae               /* mean absolute error */
#define learner_accuracy ag_metric_accuracy     /* share of rows whose largest logit is the class */
#define learner_error_rate ag_metric_error_rate /* 1 - accuracy; of a target "disease" it is called "disease_error" */
#define learner_f1 ag_metric_f1                 /* mean of the classes' F1, of those that are or were said (sklearn, macro) */
#define learner_accuracy_multi ag_metric_accuracy_multi     /* share of labels whose logit is on the right side of 0 */
extern const learner_metric ag_metric_rmse, ag_metric_mae, ag_metric_accuracy, ag_metric_error_rate, ag_metric_f1,
    ag_metric_accuracy_multi;
/* Share of rows whose class is among the k largest logits; of equal ones the first comes first. (top_k_accuracy) */
#define learner_top_k(k) ag_metric_top_k(k)
learner_metric ag_metric_top_k(int64_t k);

/* ---- callbacks ----------------------------------------------------------------------------------------- */

typedef enum {
    LEARNER_BEFORE_FIT, LEARNER_BEFORE_EPOCH, LEARNER_BEFORE_TRAIN, LEARNER_BEFORE_BATCH, LEARNER_AFTER_PRED,
    LEARNER_AFTER_LOSS, LEARNER_AFTER_BACKWARD, LEARNER_BEFORE_STEP, LEARNER_AFTER_STEP, LEARNER_AFTER_BATCH,
    LEARNER_AFTER_TRAIN, LEARNER_BEFORE_VALIDATE, LEARNER_AFTER_VALIDATE, LEARNER_AFTER_EPOCH, LEARNER_AFTER_FIT
} learner_event;
/* What goes on after an event: everything; not the rest of this batch (before a step: not this step), of this epoch's
 * training, of this epoch, of the fit. The `after` events of what was cut short still come. */
typedef enum { LEARNER_GO, LEARNER_CANCEL_BATCH, LEARNER_CANCEL_TRAIN, LEARNER_CANCEL_EPOCH, LEARNER_CANCEL_FIT } learner_flow;
typedef struct {
    learner_flow (*on)(learner *l, learner_event event, void *state);
    /* It does nothing from AFTER_PRED to BEFORE_STEP and reads no batch_loss, so that on a GPU a step can be one graph: the loss
     * is then read while the next step works, and what has seen it (train_loss) is a step behind until the epoch's training ends.
     * A learner with another callback launches op by op. */
    bool between_steps;
    void *state;
    void (*drop)(void *state);          /* when the learner ends; may be NULL */
    /* What checkpoints keep of it; both may be absent. tensors: names them in out, or counts them where out is NULL. */
    double *numbers;
    int n_numbers;                      /* at most 4 */
    int64_t (*tensors)(learner *l, void *state, ag_named *out);
} learner_callback;

/* ---- the learner --------------------------------------------------------------------------------------- */

struct learner {                        /* read freely */
    data_loader *train, *valid;
    nn_module *net;
    optim *opt;
    learner_loss loss;
    data_targets targets;               /* n 0: y is one target, which loss and metrics take as it is */
    learner_metric metrics[LEARNER_MAX_COLUMNS];        /* with targets: of each ("disease_error"), and their losses */
    int n_metrics;
    int epoch, epochs;                  /* of this fit */
    int64_t step, steps;                /* optimizer steps of this fit: taken, planned */
    int64_t batch;                      /* in this epoch */
    ag_tensor *x, *y, *pred;            /* of the current batch; NULL between batches */
    double batch_loss;
    double train_loss, valid_loss;      /* fastai's: smoothed over steps (beta 0.98); mean over all samples. NaN: none yet */
    double metric[LEARNER_MAX_COLUMNS]; /* of the last validation */
    double seconds;                     /* the last epoch took */
    bool interrupted;                   /* by Ctrl-C: saved, and the fit returned early */
    struct learner_inside *in;
};

typedef struct {
    AG_NAMED_OPTIONS;
    optim *opt;                 /* default: fastai's Adam, optim_adamw(net, 1e-3, .fastai = true) with .weight_decay */
    double weight_decay;        /* of the default optimizer; 0: fastai's 0.01 */
    learner_metric metrics[LEARNER_MAX_METRICS];
    /* .targets: the loss, NULL then, is the sum over them of weight x cross entropy (categories), binary cross entropy
     * (multicategories) or mean squared error (numbers); each metric is made for every target that it fits (default: error
     * rate, accuracy_multi, rmse), and of several targets the losses are metrics as well.
     *   .target_weights  1 each; negative: measured, not learned     .label_smoothing  of categories, 0
     *   .focal           gamma of the focal loss instead of cross entropy */
    data_targets targets;
    double target_weights[DATA_MAX_TARGETS];
    double label_smoothing, focal;
    int accumulate;             /* batches per step, default 1 */
    int64_t batch_effective;    /* or: samples per step, rounded up to whole batches */
    const char *precision;      /* "bf16": computes inside AG_AUTOCAST(bf16); default: as around the fit */
    bool fit_memory;            /* batches that do not fit in memory are computed in the largest parts that do (nn/plan.h);
                                 * gradients are those of the whole batch, but for batch norm, and dropout's random numbers */
    double clip;                /* largest norm of the gradients; 0: no clipping */
    const char *checkpoint;     /* saved here after every epoch and on Ctrl-C */
    const char *resume_hint;    /* the command line that goes on from the checkpoint, printed after Ctrl-C */
    const char *log;            /* CSV: epoch,train_loss,valid_loss,<metrics>,seconds; goes on where a resumed fit does */
    bool eager;                 /* on a GPU: launches steps op by op, to look into them; else a step whose shapes were seen before
                                 * is captured as one CUDA graph and replayed: the same numbers, without the time of launches */
    bool quiet;                 /* no progress, no table */
} learner_opts;
/* A learner in the innermost scope. valid may be NULL, and loss with .targets. Fails on an empty loader, on both .accumulate
 * and .batch_effective. */
#define learner_new(train, valid, net, ...) \
    ag_learner_new_(AG_HERE, train, valid, net, AG_HEAD(__VA_ARGS__), AG_OPTS(learner_opts, __VA_ARGS__))
learner *ag_learner_new_(const char *at, data_loader *train, data_loader *valid, nn_module *net, learner_loss loss,
                         learner_opts opts) AG_PURE;
/* learner_add(l, (learner_callback){ .on = f, .state = s }): callbacks run in the order they were added. */
#define learner_add(l, ...) ag_learner_add_(AG_HERE, l, __VA_ARGS__)
void ag_learner_add_(const char *at, learner *l, learner_callback c);

/* ---- training ------------------------------------------------------------------------------------------ */

typedef struct { AG_NAMED_OPTIONS; double pct_start, div, div_final; double moms[3]; double lr_lo; } learner_fit_opts;
/* A constant rate; momentum as it is. */
#define learner_fit(l, epochs, lr) ag_learner_fit_(AG_HERE, l, epochs, lr)
void ag_learner_fit_(const char *at, learner *l, int epochs, double lr);
/* One cycle (optim/schedule.h): .pct_start 0.25, .div 25, .div_final 1e5, momentum .moms = { .95, .85, .95 }.
 * .lr_lo with several parameter groups: rates from lr_lo (first group) to lr (last), geometric; -1: lr for the last
 * group, lr/10 for the others. */
#define learner_fit_one_cycle(l, epochs, ...) \
    ag_learner_fit_one_cycle_(AG_HERE, l, epochs, AG_HEAD(__VA_ARGS__), AG_OPTS(learner_fit_opts, __VA_ARGS__))
void ag_learner_fit_one_cycle_(const char *at, learner *l, int epochs, double lr, learner_fit_opts opts);
/* lr for .pct_start 0.75 of the steps, then cosine to lr / .div_final 1e5. */
#define learner_fit_flat_cos(l, epochs, ...) \
    ag_learner_fit_flat_cos_(AG_HERE, l, epochs, AG_HEAD(__VA_ARGS__), AG_OPTS(learner_fit_opts, __VA_ARGS__))
void ag_learner_fit_flat_cos_(const char *at, learner *l, int epochs, double lr, learner_fit_opts opts);
/* Any schedules: the rate (of all groups), and momentum (NULL: as it is). */
#define learner_fit_schedule(l, epochs, lr, momentum) ag_learner_fit_schedule_(AG_HERE, l, epochs, lr, momentum)
void ag_learner_fit_schedule_(const char *at, learner *l, int epochs, const optim_schedule *lr,
                              const optim_schedule *momentum);
/* fastai's fine_tune: .freeze_epochs (1) with all groups but the last frozen (norm layers train on), one cycle with .pct_start
 * 0.99 at lr; then all for `epochs` epochs at lr/2, first group at a hundredth of that, .pct_start 0.3, .div 5. Each part
 * begins with an empty optimizer state. The optimizer needs two groups or more (OPTIM_GROUPS). */
typedef struct { AG_NAMED_OPTIONS; int freeze_epochs; } learner_fine_tune_opts;
#define learner_fine_tune(l, epochs, ...) \
    ag_learner_fine_tune_(AG_HERE, l, epochs, AG_HEAD(__VA_ARGS__), AG_OPTS(learner_fine_tune_opts, __VA_ARGS__))
void ag_learner_fine_tune_(const char *at, learner *l, int epochs, double lr, learner_fine_tune_opts opts);

/* Loss and metrics over a loader (NULL: the validation set) into l->valid_loss, l->metric. Returns the loss. */
#define learner_validate(l, loader) ag_learner_validate_(AG_HERE, l, loader)
double ag_learner_validate_(const char *at, learner *l, data_loader *loader);
/* Predictions for every sample of a loader that does not shuffle, in its order: f32 [N, ...] on the CPU. NaN for samples that
 * cannot be had. */
#define learner_predict(l, loader) ag_learner_predict_(AG_HERE, l, loader)
ag_tensor *ag_learner_predict_(const char *at, learner *l, data_loader *loader) AG_PURE;

/* The same as probabilities, [N, sum of classes]: softmax of each target's part, sigmoid of a multicategory's. */
#define learner_probabilities(l, loader) ag_learner_probabilities_(AG_HERE, l, loader)
ag_tensor *ag_learner_probabilities_(const char *at, learner *l, data_loader *loader) AG_PURE;
/* Test-time augmentation: (1 - .beta) mean of .n passes over `varied` (the same samples with training's transforms,
 * data_set_varied) + .beta of one over `plain`, of probabilities. .n 4, .beta 0.25, negative: 0; .use_max: the largest of
 * all instead. (fastai's Learner.tta) */
typedef struct { AG_NAMED_OPTIONS; int n; double beta; bool use_max; } learner_tta_opts;
#define learner_tta(l, plain, ...) \
    ag_learner_tta_(AG_HERE, l, plain, AG_HEAD(__VA_ARGS__), AG_OPTS(learner_tta_opts, __VA_ARGS__))
ag_tensor *ag_learner_tta_(const char *at, learner *l, data_loader *plain, data_loader *varied, learner_tta_opts opts) AG_PURE;
/* The mean of n predictions of one shape, weighted where weights is not NULL. */
#define learner_ensemble(n, probabilities, weights) ag_learner_ensemble_(AG_HERE, n, probabilities, weights)
ag_tensor *ag_learner_ensemble_(const char *at, int n, ag_tensor *const *probabilities, const double *weights) AG_PURE;

/* ---- finding a learning rate --------------------------------------------------------------------------- */

typedef struct { AG_NAMED_OPTIONS; double start, end; int steps; } learner_lr_find_opts;
typedef struct {
    int n, steps;                               /* tried, and asked for */
    const double *lr, *loss;                    /* n tried rates and smoothed losses; belong to the learner */
    double valley, slide, steep, minimum;       /* suggestions; NaN where the curve is too short */
} learner_rates;
/* Trains with rates growing from .start (1e-7) to .end (10) over .steps (100), until the loss is four times its best.
 * Weights, buffers, optimizer state, random stream and loader are as before afterwards. (fastai's lr_find; valley is the
 * one to use) */
#define learner_lr_find(...) ag_learner_lr_find_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(learner_lr_find_opts, __VA_ARGS__))
learner_rates ag_learner_lr_find_(const char *at, learner *l, learner_lr_find_opts opts);
/* The curve, with the suggestions valley and slide, as a PNG. */
#define learner_rates_plot(rates, path) ag_learner_rates_plot_(AG_HERE, rates, path)
void ag_learner_rates_plot_(const char *at, const learner_rates *rates, const char *path);
/* The suggestions for given curves, without their first steps / 10 and last 5 points. */
void ag_learner_suggest(learner_rates *r);

/* ---- files --------------------------------------------------------------------------------------------- */

/* The whole state: model and buffers under their names (PyTorch's), optimizer under "optim.", progress in the metadata, and
 * n_meta entries of the caller's; "history" is the table of all epochs, as in .log but for the seconds. Written atomically. */
#define learner_save(l, path, n_meta, meta) ag_learner_save_(AG_HERE, l, path, n_meta, meta)
void ag_learner_save_(const char *at, learner *l, const char *path, int n_meta, const ag_meta *meta);
/* Entries that go into every checkpoint the fit writes; kept by reference. */
#define learner_set_meta ag_learner_set_meta
void ag_learner_set_meta(learner *l, int n_meta, const ag_meta *meta);
/* Reads such a file. The next fit, which must be called with the same arguments and callbacks (added before), goes on
 * where it was saved, with the same bits as if it had not been interrupted (row gradients: when saved at an epoch's end). */
#define learner_resume(l, path) ag_learner_resume_(AG_HERE, l, path)
void ag_learner_resume_(const char *at, learner *l, const char *path);

/* ---- ready callbacks: learner_add(l, learner_early_stopping(.patience = 3)) ---------------------------- */

typedef struct { AG_NAMED_OPTIONS; const char *monitor; double min_delta, factor, min_lr; int patience; } learner_tracker_opts;
/*   .monitor "valid_loss" (default), "train_loss" or a metric's name    .min_delta 0    .patience 1 epoch without a gain
 * early_stopping cancels the fit; keep_best brings the best weights back when the fit ends; reduce_on_plateau multiplies
 * the rate by .factor (0.1), not below .min_lr. */
#define learner_early_stopping(...) ag_learner_early_stopping(AG_OPTS0(learner_tracker_opts, __VA_ARGS__))
#define learner_keep_best(...) ag_learner_keep_best(AG_OPTS0(learner_tracker_opts, __VA_ARGS__))
#define learner_reduce_on_plateau(...) ag_learner_reduce_on_plateau(AG_OPTS0(learner_tracker_opts, __VA_ARGS__))
learner_callback ag_learner_early_stopping(learner_tracker_opts opts);
learner_callback ag_learner_keep_best(learner_tracker_opts opts);
learner_callback ag_learner_reduce_on_plateau(learner_tracker_opts opts);

/* In training each picture is mixed with another of its batch, and so are the losses of .targets: with mixup lambda x + (1 -
 * lambda) x', lambda the larger of b and 1 - b, with cutmix a box of x' of area 1 - b in x; b from Beta(.alpha, .alpha) for each
 * picture. .alpha 0.4, of cutmix 1. (Zhang et al. 2018; Yun et al. 2019; fastai's MixUp, CutMix)  Validation is not mixed. */
typedef struct { AG_NAMED_OPTIONS; double alpha; } learner_mix_opts;
#define learner_mixup(...) ag_learner_mixup(AG_OPTS0(learner_mix_opts, __VA_ARGS__))
#define learner_cutmix(...) ag_learner_cutmix(AG_OPTS0(learner_mix_opts, __VA_ARGS__))
learner_callback ag_learner_mixup(learner_mix_opts opts);
learner_callback ag_learner_cutmix(learner_mix_opts opts);

/* Progressive sizes: squares of side .first in the first epoch, growing evenly to .last after .share (0.75) of the epochs;
 * between them multiples of .multiple (32). dls: &loaders of a block, which outlive the learner. (data_image_size) */
struct data_loaders;
typedef struct { AG_NAMED_OPTIONS; int64_t first, last, multiple; double share; } learner_sizes_opts;
#define learner_sizes(dls, ...) ag_learner_sizes(dls, AG_OPTS0(learner_sizes_opts, __VA_ARGS__))
learner_callback ag_learner_sizes(const struct data_loaders *dls, learner_sizes_opts opts);

typedef struct { AG_NAMED_OPTIONS; double decay; } learner_ema_opts;
/* Averages the weights over the steps of a fit (optim_ema, .decay 0.9998), validates with the averages, keeps them in
 * checkpoints, and leaves them in the net when the fit ends. Add it last: trackers then see the averaged weights, and
 * keep_best brings the best of those back. */
#define learner_ema(...) ag_learner_ema(AG_OPTS0(learner_ema_opts, __VA_ARGS__))
learner_callback ag_learner_ema(learner_ema_opts opts);

AG_END_DECLS
#endif
