/* models/transformer.h - the parts that vision transformers share, with timm's names and initial values. */
#ifndef AG_MODELS_TRANSFORMER_H
#define AG_MODELS_TRANSFORMER_H
#include "models/registry.h"
#include "nn/vision.h"
AG_BEGIN_DECLS

/* A linear layer with weight N(0, 0.02) within [-2, 2] and bias 0. */
nn_module *ag_transformer_linear(const char *at, int64_t in, int64_t out, nn_linear_opts opts) AG_PURE;
/* fc2(gelu(fc1(x))) */
nn_module *ag_transformer_mlp(const char *at, int64_t width, int64_t hidden) AG_PURE;
/* [N, H, W, channels] -> [N, H / patch, W / patch, width]: proj, a convolution by patches; then norm, where it is wanted. */
nn_module *ag_patch_embed(const char *at, int64_t channels, int64_t width, int64_t patch, bool norm) AG_PURE;
/* ag_model_add_classifier_ with these initial values. */
void ag_transformer_classifier(const char *at, model_vision *s, nn_module *parent, const char *name, int64_t width);

AG_END_DECLS
#endif
