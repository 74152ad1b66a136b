/* optim/interpret.h - where a classifier errs: of every target the confusions, a report by class, the samples with the largest
 * losses. (fastai's ClassificationInterpretation, for all targets)
 *
 *     learner_interpretation i = learner_interpret(l, NULL);
 *     learner_print_report(&i, 0);
 *     learner_plot_confusion(&i, 0, "disease.png");
 *     learner_plot_top_losses(&i, -1, 12, "top.png");
 *
 * Only targets that are categories can be asked for. What is returned belongs to the innermost scope. */
#ifndef AG_INTERPRET_H
#define AG_INTERPRET_H
#include "optim/learner.h"
AG_BEGIN_DECLS

/* Of sample r: actual[k][r], predicted[k][r] (-1 where it could not be had), loss[k][r] = -log of its class's probability (NaN),
 * and probabilities in row r, columns first[k] on. */
typedef struct {
    data_targets targets;
    const data_set *set;
    int64_t n;
    const ag_tensor *probability;       /* f32 [n, sum of classes] */
    int64_t first[DATA_MAX_TARGETS];
    int64_t *actual[DATA_MAX_TARGETS], *predicted[DATA_MAX_TARGETS];
    double *loss[DATA_MAX_TARGETS];
} learner_interpretation;
/* Of a loader that does not shuffle; NULL: the validation set. */
#define learner_interpret(l, loader) ag_learner_interpret_(AG_HERE, l, loader)
learner_interpretation ag_learner_interpret_(const char *at, learner *l, data_loader *loader);
/* Of any probabilities for the loader's samples, of learner_tta or learner_ensemble say. */
#define learner_interpret_probabilities(targets, loader, probability) \
    ag_learner_interpret_probabilities_(AG_HERE, targets, loader, probability)
learner_interpretation ag_learner_interpret_probabilities_(const char *at, const data_targets *targets, data_loader *loader,
                                                           const ag_tensor *probability);

/* The share of target k's samples that are wrong. */
#define learner_error(i, k) ag_learner_error_(AG_HERE, i, k)
double ag_learner_error_(const char *at, const learner_interpretation *i, int k);
/* [C, C]: how often class r (row: actual) was taken for c. */
#define learner_confusion(i, k) ag_learner_confusion_(AG_HERE, i, k)
int64_t *ag_learner_confusion_(const char *at, const learner_interpretation *i, int k) AG_PURE;
/* The wrong pairs that occur `least` times or more, most frequent first; the last has count 0. */
typedef struct { int64_t actual, predicted, count; } learner_confused;
#define learner_most_confused(i, k, least) ag_learner_most_confused_(AG_HERE, i, k, least)
learner_confused *ag_learner_most_confused_(const char *at, const learner_interpretation *i, int k, int64_t least) AG_PURE;
/* Of each class: precision (0 where it was never said), recall (0 where there is none), F1 = 2 p r / (p + r), samples; [C] is
 * their plain mean and [C + 1] that weighted by samples. (sklearn's classification_report, zero_division 0) */
typedef struct { double precision, recall, f1; int64_t support; } learner_class_score;
#define learner_class_report(i, k) ag_learner_class_report_(AG_HERE, i, k)
learner_class_score *ag_learner_class_report_(const char *at, const learner_interpretation *i, int k) AG_PURE;
#define learner_print_report(i, k) ag_learner_print_report_(AG_HERE, i, k)
void ag_learner_print_report_(const char *at, const learner_interpretation *i, int k);
/* The (at most) n samples with the largest losses of target k, -1: of the sum over targets; ends with -1. */
#define learner_top_losses(i, k, n) ag_learner_top_losses_(AG_HERE, i, k, n)
int64_t *ag_learner_top_losses_(const char *at, const learner_interpretation *i, int k, int64_t n) AG_PURE;
/* "blast 0.93, is normal": what was said of sample r, how surely, and what it is where that is something else. */
#define learner_verdict ag_learner_verdict
const char *ag_learner_verdict(const learner_interpretation *i, int k, int64_t r);

/* As PNG (data/plot.h). Top losses: the files of a block's set, one verdict for each target below. */
#define learner_plot_confusion(i, k, path) ag_learner_plot_confusion_(AG_HERE, i, k, path)
void ag_learner_plot_confusion_(const char *at, const learner_interpretation *i, int k, const char *path);
#define learner_plot_top_losses(i, k, n, path) ag_learner_plot_top_losses_(AG_HERE, i, k, n, path)
void ag_learner_plot_top_losses_(const char *at, const learner_interpretation *i, int k, int64_t n, const char *path);

AG_END_DECLS
#endif
