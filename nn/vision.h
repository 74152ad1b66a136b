/* nn/vision.h - layers of image models: x [N, H, W, C], weights as in PyTorch. */
#ifndef AG_NN_VISION_H
#define AG_NN_VISION_H
#include "nn/nn.h"
#include "ops/vision.h"
AG_BEGIN_DECLS

/*   .stride 1   .pad 0   .dilation 1   .groups 1   .no_bias   .same: TensorFlow's padding (ag_conv2d) */
typedef struct { AG_NAMED_OPTIONS; int stride, pad, dilation, groups; bool no_bias, same; } nn_conv2d_opts;
/* weight [out, in / groups, kernel, kernel], bias [out], both U(-b, b), b = 1 / sqrt(in / groups kernel^2).
 * (nn.Conv2d) */
#define nn_conv2d(in, out, ...) \
    ag_nn_conv2d_(AG_HERE, in, out, AG_HEAD(__VA_ARGS__), AG_OPTS(nn_conv2d_opts, __VA_ARGS__))
nn_module *ag_nn_conv2d_(const char *at, int64_t in, int64_t out, int kernel, nn_conv2d_opts opts) AG_PURE;

/* Parameters and buffers as nn_batch_norm1d. (nn.BatchNorm2d) */
#define nn_batch_norm2d(...) ag_nn_batch_norm2d_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(nn_norm_opts, __VA_ARGS__))
nn_module *ag_nn_batch_norm2d_(const char *at, int64_t channels, nn_norm_opts opts) AG_PURE;
/* activation(norm(conv(x)) + residual) of a nn_conv2d and a norm; residual may be NULL. In evaluation without gradients
 * a batch norm goes into the convolution; the weights with it are remembered until a parameter or statistic changes. */
ag_tensor *ag_nn_conv_norm_act(nn_module *conv, nn_module *norm, ag_tensor *x, ag_activation activation,
                               ag_tensor *residual) AG_PURE;
#define nn_conv_norm_act ag_nn_conv_norm_act

/* .eps 1e-5 (nn.GroupNorm) */
#define nn_group_norm(groups, ...) \
    ag_nn_group_norm_(AG_HERE, groups, AG_HEAD(__VA_ARGS__), AG_OPTS(nn_norm_opts, __VA_ARGS__))
nn_module *ag_nn_group_norm_(const char *at, int64_t groups, int64_t channels, nn_norm_opts opts) AG_PURE;
/* weight and bias begin as zeros. (timm's GlobalResponseNorm) */
#define nn_grn(channels) ag_nn_grn_(AG_HERE, channels)
nn_module *ag_nn_grn_(const char *at, int64_t channels) AG_PURE;

/* (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, fastai's AdaptiveConcatPool2d with Flatten) */
#define nn_max_pool2d(...) ag_nn_pool2d_(AG_HERE, true, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_pool2d_opts, __VA_ARGS__))
#define nn_avg_pool2d(...) ag_nn_pool2d_(AG_HERE, false, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_pool2d_opts, __VA_ARGS__))
nn_module *ag_nn_pool2d_(const char *at, bool max, int kernel, ag_pool2d_opts opts) AG_PURE;
#define nn_adaptive_avg_pool2d(h, w) ag_nn_adaptive_avg_pool2d_(AG_HERE, h, w)
nn_module *ag_nn_adaptive_avg_pool2d_(const char *at, int64_t h, int64_t w) AG_PURE;
#define nn_concat_pool2d() ag_nn_concat_pool2d_(AG_HERE)
nn_module *ag_nn_concat_pool2d_(const char *at) AG_PURE;
/* [N, ...] -> [N, C] (nn.Flatten) */
#define nn_flatten() ag_nn_flatten_(AG_HERE)
nn_module *ag_nn_flatten_(const char *at) AG_PURE;
#define nn_identity() ag_nn_identity_(AG_HERE)
nn_module *ag_nn_identity_(const char *at) AG_PURE;

/* x + scale branch for a block m: in training the branch is dropped for a share `drop_path` of the samples. scale [C] or
 * NULL. */
ag_tensor *ag_nn_residual(nn_module *m, ag_tensor *x, ag_tensor *branch, ag_tensor *scale, double drop_path) AG_PURE;
#define nn_residual ag_nn_residual
/* The same as options, for ag_mlp_residual. */
ag_residual_opts ag_nn_residual_opts(const nn_module *m, ag_tensor *scale, double drop_path);
#define nn_residual_opts ag_nn_residual_opts

AG_END_DECLS
#endif
