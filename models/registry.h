/* models/registry.h - for the files of image models: one row per model, the first part of their structs.
 *
 *     const model_info ag_models_convnext[] = {
 *         { .name = "convnext_tiny", .size = 224, .least = 32, MODEL_IMAGENET, .first = "stem.0", .head = "head.fc",
 *           .create = create, .config = &tiny },
 *         { 0 }
 *     };
 *
 * A new family is named in AG_MODEL_FAMILIES and nowhere else. */
#ifndef AG_MODELS_REGISTRY_H
#define AG_MODELS_REGISTRY_H
#include "models/vision.h"
AG_BEGIN_DECLS

#define AG_MODEL_FAMILIES(FAMILY) \
    FAMILY(convnext) FAMILY(resnet) FAMILY(efficientnet) FAMILY(mobilenetv3) FAMILY(vit) FAMILY(swin) FAMILY(swin_v2)

#define AG_DECLARE_FAMILY(name) extern const model_info ag_models_##name[];
AG_MODEL_FAMILIES(AG_DECLARE_FAMILY)
#undef AG_DECLARE_FAMILY

#define MODEL_IMAGENET .mean = { 0.485, 0.456, 0.406 }, .std = { 0.229, 0.224, 0.225 }
#define MODEL_HALF .mean = { 0.5, 0.5, 0.5 }, .std = { 0.5, 0.5, 0.5 }

/* The first member of an image model's struct. */
typedef struct {
    nn_module base;
    const model_info *info;
    model_opts opts;                /* with the defaults filled in; classes 0: no classifier */
    ag_tensor *(*features)(nn_module *net, ag_tensor *x);       /* images, checked -> map or tokens */
    ag_tensor *(*pool)(nn_module *net, ag_tensor *features);    /* -> [N, width] */
    ag_tensor *(*for_pool)(nn_module *net,
                           ag_tensor *x);       /* features of which pool and logits read all; NULL: those above */
    /* t of a file, fitted to the net's tensor of this name; NULL where that cannot be. May be NULL itself. */
    ag_tensor *(*adapt)(nn_module *net, const char *name, ag_tensor *t);
    /* Where there are two classifiers: map or tokens -> [N, classes], and new ones. NULL for all others. */
    ag_tensor *(*logits)(nn_module *net, ag_tensor *features);
    void (*reset)(nn_module *net);
    const char *ignored;            /* patterns of tensors in files that the net computes by itself, or NULL */
    nn_module *classifier;          /* the child at info->head, or NULL */
    bool takes_map;                 /* it pools by itself */
    int64_t width;                  /* of what the classifier takes */
} model_vision;

/* A zeroed T with the two functions; create() then adds the children and sets width and classifier. */
#define MODEL_NEW(T, at, info, opts, features, pool) \
    ((T *)(void *)ag_model_new_(at, sizeof(T), info, opts, features, pool))
model_vision *ag_model_new_(const char *at, size_t size, const model_info *info, model_opts opts,
                            ag_tensor *(*features)(nn_module *, ag_tensor *),
                            ag_tensor *(*pool)(nn_module *, ag_tensor *)) AG_PURE;
/* s->classifier = a linear layer from width to classes, child `name` of parent; NULL where no classes are wanted. */
nn_module *ag_model_add_classifier_(const char *at, model_vision *s, nn_module *parent, const char *name, int64_t width);
/* The net as such; fails where it is no image model. */
model_vision *ag_model_vision(const char *at, const nn_module *net);
/* Another child at info->head; NULL: none. */
void ag_model_set_classifier(const char *at, nn_module *net, nn_module *classifier, int64_t classes);
/* f with the dropout before the classifier, in training. */
ag_tensor *ag_model_dropout(const model_vision *s, ag_tensor *f) AG_PURE;
/* Rate of block i of n. */
double ag_model_drop_path(const model_vision *s, int i, int n);

AG_END_DECLS
#endif
