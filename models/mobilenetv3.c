/* models/mobilenetv3.c - MobileNetV3 (Howard et al. 2019), as timm's mobilenetv3.py. tf_: padding and eps of the TensorFlow
 * weights; minimal: 3x3 only, ReLU, no squeeze and excitation. */
#include "models/mobile.h"

#define HEAD(channels, act) .stem = 16, .head = channels, .activation = act, .pool_first = true

static const ag_mobile_plan small = {
    .stage = { "ds_r1_k3_s2_e1_c16_se0.25_nre", "ir_r1_k3_s2_e4.5_c24_nre ir_r1_k3_s1_e3.67_c24_nre",
               "ir_r1_k5_s2_e4_c40_se0.25 ir_r2_k5_s1_e6_c40_se0.25", "ir_r2_k5_s1_e3_c48_se0.25",
               "ir_r3_k5_s2_e6_c96_se0.25", "cn_r1_k1_s1_c576" },
    HEAD(1024, AG_LINEAR_HARDSWISH)
};
static const ag_mobile_plan small_minimal = {
    .stage = { "ds_r1_k3_s2_e1_c16", "ir_r1_k3_s2_e4.5_c24 ir_r1_k3_s1_e3.67_c24", "ir_r1_k3_s2_e4_c40 ir_r2_k3_s1_e6_c40",
               "ir_r2_k3_s1_e3_c48", "ir_r3_k3_s2_e6_c96", "cn_r1_k1_s1_c576" },
    HEAD(1024, AG_LINEAR_RELU)
};
static const ag_mobile_plan large = {
    .stage = { "ds_r1_k3_s1_e1_c16_nre", "ir_r1_k3_s2_e4_c24_nre ir_r1_k3_s1_e3_c24_nre", "ir_r3_k5_s2_e3_c40_se0.25_nre",
               "ir_r1_k3_s2_e6_c80 ir_r1_k3_s1_e2.5_c80 ir_r2_k3_s1_e2.3_c80", "ir_r2_k3_s1_e6_c112_se0.25",
               "ir_r3_k5_s2_e6_c160_se0.25", "cn_r1_k1_s1_c960" },
    HEAD(1280, AG_LINEAR_HARDSWISH)
};
static const ag_mobile_plan large_minimal = {
    .stage = { "ds_r1_k3_s1_e1_c16", "ir_r1_k3_s2_e4_c24 ir_r1_k3_s1_e3_c24", "ir_r3_k3_s2_e3_c40",
               "ir_r1_k3_s2_e6_c80 ir_r1_k3_s1_e2.5_c80 ir_r2_k3_s1_e2.3_c80", "ir_r2_k3_s1_e6_c112", "ir_r3_k3_s2_e6_c160",
               "cn_r1_k1_s1_c960" },
    HEAD(1280, AG_LINEAR_RELU)
};

#define MODEL(n, norm, ...) \
    { .name = n, .size = 224, norm, .first = "conv_stem", .head = "classifier", .create = ag_mobile_create, \
      .config = &(const ag_mobile){ .depth = 1, __VA_ARGS__ } },
#define PLAIN(n, ...) MODEL(n, MODEL_IMAGENET, __VA_ARGS__)
#define TF(n, ...) MODEL(n, MODEL_HALF, __VA_ARGS__, .same = true, .eps = 1e-3)

const model_info ag_models_mobilenetv3[] = {
    PLAIN("mobilenetv3_small_050", .plan = &small, .width = 0.5, .fixed_stem = true)
    PLAIN("mobilenetv3_small_075", .plan = &small, .width = 0.75)
    PLAIN("mobilenetv3_small_100", .plan = &small, .width = 1)
    PLAIN("mobilenetv3_large_075", .plan = &large, .width = 0.75)
    PLAIN("mobilenetv3_large_100", .plan = &large, .width = 1)
    TF("tf_mobilenetv3_small_075", .plan = &small, .width = 0.75)
    TF("tf_mobilenetv3_small_100", .plan = &small, .width = 1)
    TF("tf_mobilenetv3_small_minimal_100", .plan = &small_minimal, .width = 1)
    TF("tf_mobilenetv3_large_075", .plan = &large, .width = 0.75)
    TF("tf_mobilenetv3_large_100", .plan = &large, .width = 1)
    TF("tf_mobilenetv3_large_minimal_100", .plan = &large_minimal, .width = 1)
    { .name = NULL }
};
