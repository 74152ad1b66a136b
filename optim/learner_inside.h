/* optim/learner_inside.h - what the files of the learner share. */
#ifndef AG_LEARNER_INSIDE_H
#define AG_LEARNER_INSIDE_H
#include "core/io.h"
#include "core/memory.h"
#include "optim/learner.h"

enum { LEARNER_MAX_META = 32, LEARNER_MAX_NUMBERS = 4, LEARNER_FIT_TEXT = 256 };

struct learner_inside {
    const char *at;
    learner_callback callbacks[LEARNER_MAX_CALLBACKS];
    int n_callbacks;
    int accumulate;
    int target_of[LEARNER_MAX_COLUMNS]; /* whose metric it is */
    char *owned_name[LEARNER_MAX_COLUMNS];
    double weight[DATA_MAX_TARGETS], label_smoothing, focal;
    double clip, lr_scale;              /* lr_scale: from reduce_on_plateau */
    char *checkpoint, *resume_hint;
    int64_t saved_step;                 /* of what lies in the checkpoint; below 0: nothing of this learner */
    char *log_path;
    ag_log *log;
    int log_rows;
    char *history;                      /* the same table without seconds, of all epochs so far; NULL: none yet */
    bool quiet;
    const char *precision;              /* NULL: as around the fit */
    /* The batch is mixed: its loss is share [N] times that for y and 1 - share that for mixed_y. NULL: it is not. (mixing.c) */
    ag_tensor *mixed_y, *mixed_share;
    bool last_backward, stop;           /* of the step, of this rank; a rank was told to stop */
    bool eager;
    struct ag_replay *replay;           /* replay.c; NULL: steps are not captured */
    const bool *stepped;                /* the graph that was launched has taken the step of these parameters; NULL: it has not */
    /* memory.c */
    bool fit_memory;
    int64_t part;                       /* samples that fit at once; 0: not known yet */
    int64_t others;                     /* bytes that were held before the fit by what is not the learner's */
    ag_shape shape_x, shape_y;          /* of the batch */
    ag_dtype type_x, type_y;
    int n_meta;
    const ag_meta *meta;
    /* the fit that is running */
    char fit[LEARNER_FIT_TEXT];                      /* its name and arguments, compared on resuming */
    const optim_schedule *lr, *momentum;
    double lr_lo;                       /* of the first group, as a share of lr; 0: all alike; below: a tenth but for the last */
    double smooth;                      /* train_loss before its correction, after `smooth_n` batches */
    int64_t smooth_n;
    /* what the next fit begins with, after learner_resume */
    bool resumed;
    int resume_epoch;
    int64_t resume_step;
    double resume_scale;
    char resume_fit[LEARNER_FIT_TEXT];
    bool continues;                     /* the fit that is running began so */
    /* the terminal */
    bool terminal, header_done;
    double epoch_start, last_draw;
    double *rates, *losses;             /* of the last lr_find */
    bool searching;                     /* in lr_find: no callbacks, and a loss may be no number */
};

double ag_learner_now(void);                                    /* seconds, monotonic */
void ag_learner_run(const char *at, learner *l, int epochs);    /* the loop, with l->in->fit, lr and momentum set */
double ag_learner_gradients(learner *l, data_batch *b);         /* forward and backward of one batch; its loss */
void ag_learner_smooth(learner *l, double loss);
double ag_learner_smoothed(const learner *l);

/* Fails where batch_loss is no number. */
void ag_learner_require_number(const learner *l);
bool ag_learner_keeps_best(const learner *l);                  /* keep_best was added */

/* The net's result, in the learner's precision. */
ag_tensor *ag_learner_forward(learner *l, ag_tensor *x);
ag_scope ag_learner_precision(const learner *l);
/* The loader's batches are divided among the ranks, and come in the learner's precision. */
void ag_learner_use(const learner *l, data_loader *loader);

/* memory.c: from here to the end of the scope a failure for want of memory says which batch would fit. */
void ag_learner_memory_begin(learner *l);
void ag_learner_memory_batch(learner *l, const ag_tensor *x, const ag_tensor *y);
/* In how many parts the batch is computed, one after the other; on all ranks the same. */
int64_t ag_learner_parts(learner *l);

/* lost.c: from here to the end of the scope the failure of a GPU that is lost says where it was and how to go on. */
void ag_learner_lost_begin(learner *l);
void ag_learner_saved(learner *l, const char *path, int64_t step);

/* replay.c: from here to the end of the scope steps may become graphs. */
void ag_learner_replay_begin(learner *l);
/* The batch, forward and backward, and where last_backward is set the step. False: it was not done. */
bool ag_learner_replay(learner *l, double weight);
void ag_learner_settle(learner *l);     /* waits for the loss that is not yet known; fails where it is no number */

/* targets.c */
void ag_learner_set_targets(const char *at, learner *l, const learner_opts *o);     /* and the metrics */
int64_t ag_learner_classes(const learner *l);                   /* outputs of all targets */
/* One element; `each`: the targets' own losses, or NULL. _arg: the same for a plan, arg the learner. */
ag_tensor *ag_learner_loss(const learner *l, ag_tensor *pred, ag_tensor *y, double *each);
ag_tensor *ag_learner_loss_arg(void *arg, ag_tensor *pred, ag_tensor *y);
/* A target's part of the output, [N, classes], and of y: i64 [N] or f32 [N, columns]. */
ag_tensor *ag_learner_target_pred(const learner *l, int target, ag_tensor *pred);
ag_tensor *ag_learner_target_y(const learner *l, int target, ag_tensor *y);

/* progress.c */
void ag_learner_show_batch(learner *l);
void ag_learner_show_epoch(learner *l);
void ag_learner_clear_line(learner *l);

/* log.c */
void ag_learner_log_begin(learner *l);
void ag_learner_log_epoch(learner *l);

/* signals: Ctrl-C during a fit with a checkpoint */
void ag_learner_signals_begin(void);
void ag_learner_signals_end(void);
bool ag_learner_signalled(void);

#endif
