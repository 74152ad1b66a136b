/* nn/conv_norm.c - convolution, batch norm, activation and shortcut of a convolutional network as few ops.
 *
 * In evaluation the norm is an affine map per channel and goes into the convolution:
 *     scale = gamma / sqrt(var + eps)      weight' = scale weight      bias' = beta + scale (bias - mean) */
#include "core/ledger.h"
#include "core/random.h"
#include "nn/layers.h"
#include "nn/module.h"

/* Whether the folded weights are those of now; takes down what they are made from. */
static bool is_new(ag_conv_layer *c, const ag_norm_layer *n)
{
    const ag_tensor *part[AG_FOLDED_PARTS] = { c->weight, c->bias, n->weight, n->bias, n->running_mean, n->running_var };
    const int64_t *batches = n->num_batches_tracked->data;
    ag_folded now = c->folded;
    bool same = now.weight;
    now.batches = batches ? *batches : 0;
    for (int i = 0; i < AG_FOLDED_PARTS; i++) {
        now.version[i] = part[i] ? ag_version(part[i]) : 0;
        same &= now.version[i] == c->folded.version[i];
    }
    same &= now.batches == c->folded.batches;
    c->folded = now;
    return same;
}

static void fold(ag_conv_layer *c, const ag_norm_layer *n)
{
    AG_NO_GRAD;
    ag_scope kind AG_CLEANUP(ag_scope_end) = ag_memory_kind_begin(AG_MEM_PACKED);
    const char *at = c->base.at;
    ag_tensor *var = ag_add_scalar_(at, n->running_var, n->eps > 0 ? n->eps : 1e-5);
    ag_tensor *scale = ag_mul_(at, n->weight, ag_rsqrt_(at, var));
    ag_tensor *mean = c->bias ? ag_sub_(at, n->running_mean, c->bias) : n->running_mean;
    ag_tensor *weight = ag_mul_(at, c->weight, ag_reshape(scale, -1, 1, 1, 1));
    ag_tensor *bias = ag_sub_(at, n->bias, ag_mul_(at, mean, scale));
    ag_folded *f = &c->folded;
    if (f->weight) {
        ag_copy_(at, f->weight, weight);
        ag_copy_(at, f->bias, bias);
    } else {
        f->weight = ag_nn_hidden_(at, &c->base, "folded_weight", weight);
        f->bias = ag_nn_hidden_(at, &c->base, "folded_bias", bias);
    }
}

typedef struct { ag_tensor *weight, *bias; ag_activation activation; } folded_arg;

static ag_tensor *folded_forward(nn_module *m, ag_tensor *x, const void *arg)
{
    const folded_arg *a = arg;
    ag_conv2d_opts o = NN_SELF(ag_conv_layer, m)->opts;
    o.bias = a->bias, o.activation = a->activation;
    return ag_conv2d_(m->at, x, a->weight, o);
}

/* A plan counts the folded weights once and goes on with tensors of their shapes. */
static folded_arg planned(const ag_conv_layer *c, const ag_norm_layer *n)
{
    const int64_t numbers = ag_numel(c->weight) + ag_numel(n->bias);
    (void)ag_packed(NULL, c->weight, 0x646c6f66, numbers * (int64_t)sizeof(real), NULL, NULL);
    return (folded_arg){ c->weight, n->bias, AG_LINEAR_PLAIN };
}

static folded_arg folded(ag_conv_layer *c, const ag_norm_layer *n)
{
    if (ag_planning()) return planned(c, n);
    if (!is_new(c, n)) fold(c, n);
    return (folded_arg){ c->folded.weight, c->folded.bias, AG_LINEAR_PLAIN };
}

typedef struct { ag_activation activation; ag_tensor *residual; } norm_arg;

ag_tensor *ag_nn_activated(const char *at, ag_tensor *x, ag_activation activation)
{
    switch (activation) {
    case AG_LINEAR_GELU: return ag_gelu_(at, x);
    case AG_LINEAR_RELU: return ag_relu_(at, x);
    case AG_LINEAR_RELU6: return ag_relu6_(at, x);
    case AG_LINEAR_HARDSWISH: return ag_hardswish_(at, x);
    case AG_LINEAR_SILU: return ag_silu_(at, x);
    default: return x;
    }
}

static ag_tensor *norm_forward(nn_module *m, ag_tensor *x, const void *arg)
{
    const norm_arg *a = arg;
    if (NN_SELF(ag_norm_layer, m)->running_mean) return ag_batch_norm_run(m, x, a->activation, a->residual);
    ag_tensor *y = m->forward(m, x);
    if (a->residual) y = ag_add_(m->at, y, a->residual);
    return ag_nn_activated(m->at, y, a->activation);
}

ag_tensor *ag_nn_conv_norm_act(nn_module *conv, nn_module *norm, ag_tensor *x, ag_activation activation,
                               ag_tensor *residual)
{
    ag_conv_layer *c = NN_SELF(ag_conv_layer, conv);
    const ag_norm_layer *n = NN_SELF(ag_norm_layer, norm);
    if (n->running_mean && !norm->training && !ag_grad_enabled() && !residual) {
        folded_arg a = folded(c, n);
        a.activation = activation;
        return ag_nn_run(conv, x, folded_forward, &a);
    }
    const norm_arg a = { activation, residual };
    AG_SCOPE;
    return ag_keep(ag_nn_run(norm, ag_nn_call(conv, x), norm_forward, &a));
}
