/* nn/layers.h - layers whose parts other files of nn/ and models/ read. */
#ifndef AG_NN_LAYERS_H
#define AG_NN_LAYERS_H
#include "nn/vision.h"

typedef struct {
    nn_module base;
    ag_tensor *weight, *bias, *running_mean, *running_var, *num_batches_tracked;
    double eps, momentum;
    int64_t groups;                     /* of a group norm */
} ag_norm_layer;
ag_norm_layer *ag_norm_layer_new(const char *at, const char *type, nn_forward_fn forward, int64_t channels,
                                 nn_norm_opts opts);

/* activation(norm(x) + residual) of a batch norm. */
ag_tensor *ag_batch_norm_run(nn_module *m, ag_tensor *x, ag_activation activation, ag_tensor *residual);

/* Weights with a norm in them (nn/conv_norm.c), and what they were made from: how often each tensor was written to, and
 * the batches that moved the statistics. */
enum { AG_FOLDED_PARTS = 6 };
typedef struct { ag_tensor *weight, *bias; uint32_t version[AG_FOLDED_PARTS]; int64_t batches; } ag_folded;

typedef struct {
    nn_module base;
    ag_tensor *weight, *bias;
    ag_conv2d_opts opts;
    ag_folded folded;
} ag_conv_layer;

/* activation(x) by an op of its own. */
ag_tensor *ag_nn_activated(const char *at, ag_tensor *x, ag_activation activation);

#endif
