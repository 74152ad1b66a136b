/* models/efficientnet.c - EfficientNet-Lite (Tan & Le 2019; without squeeze and excitation, ReLU6), as timm's
 * efficientnet.py. tf_: padding and eps of the TensorFlow weights. */
#include "models/mobile.h"

static const ag_mobile_plan lite = {
    .stage = { "ds_r1_k3_s1_e1_c16", "ir_r2_k3_s2_e6_c24", "ir_r2_k5_s2_e6_c40", "ir_r3_k3_s2_e6_c80", "ir_r3_k5_s1_e6_c112",
               "ir_r4_k5_s2_e6_c192", "ir_r1_k3_s1_e6_c320" },
    .stem = 32, .head = 1280, .activation = AG_LINEAR_RELU6, .fixed_ends = true,
};

#define MODEL(n, side, norm, ...) \
    { .name = n, .size = side, norm, .first = "conv_stem", .head = "classifier", .create = ag_mobile_create, \
      .config = &(const ag_mobile){ .plan = &lite, .fixed_stem = true, __VA_ARGS__ } },
#define LITE(n, side, ...) \
    MODEL("efficientnet_lite" n, side, MODEL_IMAGENET, __VA_ARGS__) \
    MODEL("tf_efficientnet_lite" n, side, MODEL_HALF, __VA_ARGS__, .same = true, .eps = 1e-3)

const model_info ag_models_efficientnet[] = {
    LITE("0", 224, .width = 1.0, .depth = 1.0)
    LITE("1", 240, .width = 1.0, .depth = 1.1)
    LITE("2", 260, .width = 1.1, .depth = 1.2)
    LITE("3", 300, .width = 1.2, .depth = 1.4)
    LITE("4", 380, .width = 1.4, .depth = 1.8)
    { .name = NULL }
};
