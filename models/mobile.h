/* models/mobile.h - networks of inverted residual blocks: what EfficientNet-Lite and MobileNetV3 share. */
#ifndef AG_MODELS_MOBILE_H
#define AG_MODELS_MOBILE_H
#include "models/registry.h"
#include "nn/vision.h"

enum { AG_MOBILE_STAGES = 7 };

/* Blocks as timm writes them, "ir_r2_k3_s2_e6_c24_se0.25_nre", a string for each stage:
 *   ir  1x1 to e times the channels, depthwise, 1x1        r      repeated, only the first with its stride
 *   ds  depthwise, 1x1                                     k s c  kernel, stride, channels
 *   cn  a convolution                                      se     squeeze and excitation, share of the channels
 *   nre ReLU instead of the net's activation
 *   width depth   multiply channels (rounded to 8) and repeats (rounded up)
 *   fixed_ends    repeats of the first and last stage are not multiplied
 *   fixed_stem    the stem's channels are not multiplied
 *   pool_first    head: pooling, convolution with bias; else convolution, norm, pooling
 *   same          TensorFlow's padding        eps   of the norms, 1e-5 */
typedef struct {
    const char *stage[AG_MOBILE_STAGES];
    int stem, head;
    ag_activation activation;
    bool fixed_ends, pool_first;
} ag_mobile_plan;
typedef struct { const ag_mobile_plan *plan; double width, depth, eps; bool fixed_stem, same; } ag_mobile;

/* For model_info: .config is an ag_mobile. */
nn_module *ag_mobile_create(const char *at, const model_info *info, model_opts opts);

#endif
