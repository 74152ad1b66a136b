/* models/vision_learner.h - an image model, its targets and a learner for them, in one call. (fastai's vision_learner)
 *
 *     learner *l = vision_learner(&dls, "convnext_small", .weights = "convnext_small.safetensors");
 *     learner_fine_tune(l, 5, 0.01);
 *
 * The model has one output, split among the targets of the loaders: 20 = 10 diseases + 10 varieties. */
#ifndef AG_VISION_LEARNER_H
#define AG_VISION_LEARNER_H
#include "data/block.h"
#include "models/vision.h"
#include "optim/learner.h"
AG_BEGIN_DECLS

/*   .weights     a file of the whole model (model_load), or a learner's checkpoint, of which all but the classifier is taken;
 *                two parameter groups, body and head, for learner_fine_tune. Default: from scratch, one group
 *   .head        "fastai" (model_use_fastai_head) or "timm", the model's own; default: fastai's with .weights, where it fits
 *   .drop_path .dropout .recompute   as model_create's
 *   .learner     options of the learner: .metrics (error rates), .weight_decay, .accumulate, .precision, .checkpoint ...; its
 *                .targets are those of the loaders
 * Loaders without .normalize get the model's mean and standard deviation.
 * Prints the memory a step will need, by plan, unless .learner.quiet. Fails on pictures of a size that the model does not
 * take, and on weights of another model. */
typedef struct {
    AG_NAMED_OPTIONS;
    const char *weights, *head;
    double drop_path, dropout;
    bool recompute;
    learner_opts learner;
} vision_learner_opts;
#define vision_learner(dls, ...) \
    ag_vision_learner_(AG_HERE, dls, AG_HEAD(__VA_ARGS__), AG_OPTS(vision_learner_opts, __VA_ARGS__))
learner *ag_vision_learner_(const char *at, const data_loaders *dls, const char *arch, vision_learner_opts opts) AG_PURE;

AG_END_DECLS
#endif
