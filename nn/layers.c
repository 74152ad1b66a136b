/* nn/layers.c - the layers of nn.h. */
#include <math.h>
#include <string.h>
#include "core/memory.h"
#include "core/random.h"
#include "nn/layers.h"
#include "nn/module.h"
#include "ops/ops.h"

static void require_sizes(const char *at, const char *what, int64_t a, int64_t b)
{
    if (a < 1 || b < 1) ag_fail(at, "%s: sizes must be positive, got %" PRId64 " and %" PRId64, what, a, b);
}

/* ---- linear -------------------------------------------------------------------------------------------- */

typedef struct { nn_module base; ag_tensor *weight, *bias; } linear;

static ag_tensor *linear_forward(nn_module *m, ag_tensor *x)
{
    const linear *s = NN_SELF(linear, m);
    return ag_linear_(m->at, x, s->weight, (ag_linear_opts){ .bias = s->bias });
}

nn_module *ag_nn_linear_(const char *at, int64_t in, int64_t out, nn_linear_opts opts)
{
    require_sizes(at, "nn_linear", in, out);
    linear *s = NN_NEW(linear, linear_forward);
    s->base.at = at;
    AG_SCOPE;
    NN_PARAM(s, weight, ag_empty(AG_F32, out, in));
    ag_nn_init_kaiming_uniform(s->weight, sqrt(5));
    if (opts.no_bias) return &s->base;
    NN_PARAM(s, bias, ag_empty(AG_F32, out));
    ag_nn_init_uniform(s->bias, -1 / sqrt((double)in), 1 / sqrt((double)in));
    return &s->base;
}

/* ---- embedding ----------------------------------------------------------------------------------------- */

typedef struct { nn_module base; ag_tensor *weight; } embedding;

static ag_tensor *embedding_forward(nn_module *m, ag_tensor *ids)
{
    return ag_embedding_(m->at, NN_SELF(embedding, m)->weight, ids);
}

nn_module *ag_nn_embedding_(const char *at, int64_t n, int64_t width, nn_embedding_opts opts)
{
    require_sizes(at, "nn_embedding", n, width);
    embedding *s = NN_NEW(embedding, embedding_forward);
    s->base.at = at;
    AG_SCOPE;
    NN_PARAM(s, weight, ag_empty(AG_F32, n, width));
    s->weight->sparse_grad = opts.sparse;
    if (opts.std > 0) ag_nn_init_fastai(s->weight, opts.std);
    else ag_nn_init_normal(s->weight, 0, 1);
    return &s->base;
}

/* ---- norms --------------------------------------------------------------------------------------------- */

ag_tensor *ag_batch_norm_run(nn_module *m, ag_tensor *x, ag_activation activation, ag_tensor *residual)
{
    const ag_norm_layer *s = NN_SELF(ag_norm_layer, m);
    int64_t *batches = s->num_batches_tracked->data;        /* NULL on the device meta */
    if (m->training && batches) ++*batches;
    return ag_batch_norm_(m->at, x, s->running_mean, s->running_var,
                          (ag_batch_norm_opts){ .weight = s->weight, .bias = s->bias, .training = m->training,
                                                .momentum = s->momentum, .eps = s->eps, .residual = residual,
                                                .activation = activation });
}

static ag_tensor *batch_norm_forward(nn_module *m, ag_tensor *x)
{
    return ag_batch_norm_run(m, x, AG_LINEAR_PLAIN, NULL);
}

static ag_tensor *layer_norm_forward(nn_module *m, ag_tensor *x)
{
    const ag_norm_layer *s = NN_SELF(ag_norm_layer, m);
    return ag_layer_norm_(m->at, x, (ag_layer_norm_opts){ .weight = s->weight, .bias = s->bias, .eps = s->eps });
}

ag_norm_layer *ag_norm_layer_new(const char *at, const char *type, nn_forward_fn forward, int64_t channels,
                                 nn_norm_opts opts)
{
    require_sizes(at, type, channels, 1);
    ag_norm_layer *s = (ag_norm_layer *)(void *)ag_nn_new_(at, sizeof *s, type, forward);
    s->eps = opts.eps, s->momentum = opts.momentum;
    AG_SCOPE;
    NN_PARAM(s, weight, ag_ones(channels));
    NN_PARAM(s, bias, ag_zeros(channels));
    return s;
}

static nn_module *batch_norm_new(const char *at, const char *type, int64_t channels, nn_norm_opts opts)
{
    ag_norm_layer *s = ag_norm_layer_new(at, type, batch_norm_forward, channels, opts);
    int64_t none = 0;
    AG_SCOPE;
    NN_BUFFER(s, running_mean, ag_zeros(channels));
    NN_BUFFER(s, running_var, ag_ones(channels));
    NN_BUFFER(s, num_batches_tracked, ag_to_(at, ag_from_(at, AG_I64, &none, (ag_shape){ 0 }), AG_CPU));
    return &s->base;
}

nn_module *ag_nn_batch_norm1d_(const char *at, int64_t channels, nn_norm_opts opts)
{
    return batch_norm_new(at, "batch_norm1d", channels, opts);
}

nn_module *ag_nn_batch_norm2d_(const char *at, int64_t channels, nn_norm_opts opts)
{
    return batch_norm_new(at, "batch_norm2d", channels, opts);
}

nn_module *ag_nn_layer_norm_(const char *at, int64_t channels, nn_norm_opts opts)
{
    return &ag_norm_layer_new(at, "layer_norm", layer_norm_forward, channels, opts)->base;
}

/* ---- dropout ------------------------------------------------------------------------------------------- */

typedef struct { nn_module base; double p; } dropout;

static ag_tensor *dropout_forward(nn_module *m, ag_tensor *x)
{
    const dropout *s = NN_SELF(dropout, m);
    return m->training && s->p > 0 ? ag_dropout_(m->at, x, s->p, ag_rng_draw()) : x;
}

nn_module *ag_nn_dropout_(const char *at, double p)
{
    if (!(p >= 0 && p < 1)) ag_fail(at, "nn_dropout: p = %g; it is 0 or more and below 1", p);
    dropout *s = NN_NEW(dropout, dropout_forward);
    s->base.at = at, s->p = p;
    return &s->base;
}

/* ---- sequential ---------------------------------------------------------------------------------------- */

typedef struct { nn_module base; bool recompute; } sequential;

ag_tensor *ag_nn_call_range(nn_module *m, int begin, int end, ag_tensor *x)
{
    const bool again = NN_SELF(sequential, m)->recompute;
    ag_retain(x);
    for (int i = begin; i < end; i++) {
        AG_SCOPE;
        ag_scoped(x);
        x = ag_retain((again ? ag_nn_call_recompute : ag_nn_call)(m->slots[i].child, x));
    }
    return ag_scoped(x);
}

static ag_tensor *sequential_forward(nn_module *m, ag_tensor *x)
{
    return ag_nn_call_range(m, 0, m->n_slots, x);
}

static void require_sequential(const char *at, const char *function, const nn_module *m)
{
    if (m->forward != sequential_forward) ag_fail(at, "%s: a %s is not a sequential", function, m->type);
}

void ag_nn_recompute_(const char *at, nn_module *m, bool again)
{
    require_sequential(at, "nn_recompute", m);
    NN_SELF(sequential, m)->recompute = again;
}

nn_module *ag_nn_append_(const char *at, nn_module *m, nn_module *module)
{
    require_sequential(at, "nn_append", m);
    return ag_nn_child_(at, m, "", m->n_slots, module);
}

nn_module *ag_nn_sequential_(const char *at, nn_module **modules)
{
    sequential *s = NN_NEW(sequential, sequential_forward);
    s->base.at = at;
    for (; *modules; modules++) ag_nn_append_(at, &s->base, *modules);
    return &s->base;
}

/* ---- activations --------------------------------------------------------------------------------------- */

typedef ag_tensor *(*activation_fn)(const char *at, ag_tensor *x);
typedef struct { nn_module base; activation_fn fn; double lo, hi; } activation;

static ag_tensor *activation_forward(nn_module *m, ag_tensor *x)
{
    return NN_SELF(activation, m)->fn(m->at, x);
}

nn_module *ag_nn_activation_(const char *at, const char *name)
{
    static const struct { const char *name; activation_fn fn; } known[] = {
        { "relu", ag_relu_ }, { "gelu", ag_gelu_ }, { "silu", ag_silu_ }, { "tanh", ag_tanh_ }, { "sigmoid", ag_sigmoid_ },
        { "relu6", ag_relu6_ }, { "hardswish", ag_hardswish_ }, { "hardsigmoid", ag_hardsigmoid_ },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].name, name)) continue;
        activation *s = (activation *)(void *)ag_nn_new_(at, sizeof *s, known[i].name, activation_forward);
        s->fn = known[i].fn;
        return &s->base;
    }
    ag_fail(at, "there is no activation '%s'", name);
}

static ag_tensor *sigmoid_range_forward(nn_module *m, ag_tensor *x)
{
    const activation *s = NN_SELF(activation, m);
    return ag_sigmoid_range_(m->at, x, s->lo, s->hi);
}

nn_module *ag_nn_sigmoid_range_(const char *at, double lo, double hi)
{
    if (!(lo < hi)) ag_fail(at, "nn_sigmoid_range: from %g to %g is no range", lo, hi);
    activation *s = (activation *)(void *)ag_nn_new_(at, sizeof *s, "sigmoid_range", sigmoid_range_forward);
    s->lo = lo, s->hi = hi;
    return &s->base;
}
