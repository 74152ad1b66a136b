/* models/vision.h - image models by timm's names.
 *
 *     nn_module *net = model_create("convnext_tiny", .classes = 10, .drop_path = 0.1);
 *     model_load(net, "convnext_tiny.safetensors", .skip = "head.fc.*");
 *     nn_freeze(net, model_group(net, 0, 2));                                     the body; the head learns
 *     optim *opt = optim_adamw(net, 1e-3, .groups = model_groups(net, 8, 0.7));   rates falling toward the images
 *     ag_tensor *logits = nn_call(net, images);                                   [N, H, W, 3] -> [N, 10]
 *
 * Parameters and buffers have the names and shapes of timm's state_dict, so files are exchanged as they are. Images are
 * f32 [N, H, W, C], normalised with the model's mean and standard deviation. */
#ifndef AG_MODELS_VISION_H
#define AG_MODELS_VISION_H
#include "nn/nn.h"
#include "optim/optim.h"
AG_BEGIN_DECLS

/*   .classes      1000; -1: no classifier, the net's result is model_features
 *   .in_channels  3              .size    side of the images, where the model depends on it (default: the model's own)
 *   .drop_path    rate of the last block, falling linearly to 0 at the first        .dropout   before the classifier
 *   .recompute    keeps no more than the input of each block for backward and computes the block a second time */
typedef struct {
    AG_NAMED_OPTIONS;
    int64_t classes, in_channels, size;
    double drop_path, dropout;
    bool recompute;
} model_opts;

typedef struct model_info model_info;
struct model_info {
    const char *name;               /* timm's, "convnext_tiny" */
    int64_t size;                   /* side of the images it was made for */
    bool fixed_size;                /* it takes no other */
    int64_t multiple, least;        /* sides are a multiple of, at least (0: anything) */
    double mean[3], std[3];         /* of the pixels, from 0 to 1, by which images are normalised */
    const char *first, *head;       /* the first convolution and the classifier: "stem.0", "head.fc" */
    nn_module *(*create)(const char *at, const model_info *info, model_opts opts);
    const void *config;             /* the family's own */
};

/* ---- the list ------------------------------------------------------------------------------------------ */

/* All models whose names match ("convnext* resnet*"), in the innermost scope; ends with NULL.
 *     for (const model_info **m = model_list("convnext*"); *m; m++) puts((*m)->name); */
#define model_list(patterns) ag_model_list_(AG_HERE, patterns)
const model_info **ag_model_list_(const char *at, const char *patterns) AG_PURE;
/* One by its name; fails, listing the nearest. */
#define model_find(name) ag_model_find_(AG_HERE, name)
const model_info *ag_model_find_(const char *at, const char *name) AG_PURE;

/* ---- making and using ---------------------------------------------------------------------------------- */

/* With timm's initial values. */
#define model_create(...) ag_model_create_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(model_opts, __VA_ARGS__))
nn_module *ag_model_create_(const char *at, const char *name, model_opts opts) AG_PURE;
/* What a net was made from; fails where it is no image model. */
#define model_info_of(net) ag_model_info_of_(AG_HERE, net)
const model_info *ag_model_info_of_(const char *at, const nn_module *net) AG_PURE;

/* The last feature map or tokens: [N, h, w, C] or [N, L, C]. (timm's forward_features) */
#define model_forward_features(net, x) ag_model_forward_features_(AG_HERE, net, x)
ag_tensor *ag_model_forward_features_(const char *at, nn_module *net, ag_tensor *x) AG_PURE;
/* Logits [N, classes] of such features; nn_call(net, x) is both in one. (timm's forward_head) */
#define model_forward_head(net, features) ag_model_forward_head_(AG_HERE, net, features)
ag_tensor *ag_model_forward_head_(const char *at, nn_module *net, ag_tensor *features) AG_PURE;
/* [N, C] of them, what the classifier takes. (forward_head with pre_logits) */
#define model_pool(net, features) ag_model_pool_(AG_HERE, net, features)
ag_tensor *ag_model_pool_(const char *at, nn_module *net, ag_tensor *features) AG_PURE;
/* What the classifier takes: [N, C]. (timm's forward_head(forward_features(x), pre_logits=True)) */
#define model_features(net, x) ag_model_features_(AG_HERE, net, x)
ag_tensor *ag_model_features_(const char *at, nn_module *net, ag_tensor *x) AG_PURE;

/* A new classifier, initialised as nn_linear; classes -1: none. Make the optimizer after it. (timm's reset_classifier) */
#define nn_reset_classifier(net, classes) ag_nn_reset_classifier_(AG_HERE, net, classes)
void ag_nn_reset_classifier_(const char *at, nn_module *net, int64_t classes);

/* fastai's head in its place, for fine-tuning: of a map its largest and mean values side by side (of tokens: what the model's own
 * classifier takes), batch norm, dropout 0.25, linear to 512, ReLU, batch norm, dropout 0.5, linear. Its parameters stand at the
 * classifier's name: "head.fc.3.weight". Not for models with two classifiers. (create_head, fastai/vision/learner.py) */
#define model_use_fastai_head(net, classes) ag_model_use_fastai_head_(AG_HERE, net, classes)
void ag_model_use_fastai_head_(const char *at, nn_module *net, int64_t classes);
#define model_takes_fastai_head ag_model_takes_fastai_head
bool ag_model_takes_fastai_head(const nn_module *net);

/* Loads a file like nn_load, and fits to the net what depends on its options: the first convolution
 * (model_adapt_input) and position embeddings of another size (ag_resample_positions). */
#define model_load(net, ...) ag_model_load_(AG_HERE, net, AG_HEAD(__VA_ARGS__), AG_OPTS(nn_load_opts, __VA_ARGS__))
void ag_model_load_(const char *at, nn_module *net, const char *path, nn_load_opts opts);
/* weight [O, I, kh, kw] -> [O, channels, kh, kw]: the sum over I for one channel, else repeated and scaled by
 * I / channels. (timm's adapt_input_conv) */
#define model_adapt_input(weight, channels) ag_model_adapt_input_(AG_HERE, weight, channels)
ag_tensor *ag_model_adapt_input_(const char *at, ag_tensor *weight, int64_t channels) AG_PURE;

/* ---- groups of parameters ------------------------------------------------------------------------------ */

/* The patterns of group k of n, for nn_freeze and OPTIM_GROUPS; in the innermost scope. The head is the last group, the
 * stem and blocks before it are dealt out evenly, in order, to the others; n is cut to what there is (model_group_count). */
#define model_group(net, k, n) ag_model_group_(AG_HERE, net, k, n)
const char *ag_model_group_(const char *at, const nn_module *net, int k, int n) AG_PURE;
#define model_group_count(net) ag_model_group_count_(AG_HERE, net)
int ag_model_group_count_(const char *at, const nn_module *net);
/* Up to n groups for an optimizer; group k learns at decay^(n - 1 - k) times its rate. decay 1: one rate. (layer-wise
 * decay) */
#define model_groups(net, n, decay) ag_model_groups_(AG_HERE, net, n, decay)
optim_group_list ag_model_groups_(const char *at, const nn_module *net, int n, double decay);

AG_END_DECLS
#endif
