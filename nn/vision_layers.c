/* nn/vision_layers.c - the layers of nn/vision.h. */
#include <math.h>
#include "core/random.h"
#include "nn/layers.h"

/* ---- convolution --------------------------------------------------------------------------------------- */

static ag_tensor *conv_forward(nn_module *m, ag_tensor *x)
{
    const ag_conv_layer *s = NN_SELF(ag_conv_layer, m);
    return ag_conv2d_(m->at, x, s->weight, s->opts);
}

nn_module *ag_nn_conv2d_(const char *at, int64_t in, int64_t out, int kernel, nn_conv2d_opts o)
{
    const int64_t groups = o.groups ? o.groups : 1;
    if (in < 1 || out < 1 || kernel < 1 || groups < 1 || in % groups || out % groups)
        ag_fail(at, "nn_conv2d: %" PRId64 " to %" PRId64 " channels, kernel %d, %" PRId64 " groups; all are positive and the "
                "groups divide both numbers of channels", in, out, kernel, groups);
    ag_conv_layer *s = (ag_conv_layer *)(void *)ag_nn_new_(at, sizeof *s, "conv2d", conv_forward);
    s->opts = (ag_conv2d_opts){ .stride = o.stride, .pad = o.pad, .dilation = o.dilation, .groups = o.groups,
                                .same = o.same };
    AG_SCOPE;
    NN_PARAM(s, weight, ag_empty(AG_F32, out, in / groups, kernel, kernel));
    ag_nn_init_kaiming_uniform(s->weight, sqrt(5));
    if (o.no_bias) return &s->base;
    const double bound = 1 / sqrt((double)(in / groups) * kernel * kernel);
    s->opts.bias = NN_PARAM(s, bias, ag_empty(AG_F32, out));
    ag_nn_init_uniform(s->bias, -bound, bound);
    return &s->base;
}

/* ---- norms --------------------------------------------------------------------------------------------- */

static ag_tensor *group_norm_forward(nn_module *m, ag_tensor *x)
{
    const ag_norm_layer *s = NN_SELF(ag_norm_layer, m);
    return ag_group_norm_(m->at, x, s->groups, (ag_group_norm_opts){ .weight = s->weight, .bias = s->bias, .eps = s->eps });
}

nn_module *ag_nn_group_norm_(const char *at, int64_t groups, int64_t channels, nn_norm_opts opts)
{
    if (groups < 1 || channels % groups)
        ag_fail(at, "nn_group_norm: %" PRId64 " groups do not divide %" PRId64 " channels", groups, channels);
    ag_norm_layer *s = ag_norm_layer_new(at, "group_norm", group_norm_forward, channels, opts);
    s->groups = groups;
    return &s->base;
}

static ag_tensor *grn_forward(nn_module *m, ag_tensor *x)
{
    const ag_norm_layer *s = NN_SELF(ag_norm_layer, m);
    return ag_grn_(m->at, x, s->weight, s->bias);
}

nn_module *ag_nn_grn_(const char *at, int64_t channels)
{
    ag_norm_layer *s = ag_norm_layer_new(at, "grn", grn_forward, channels, (nn_norm_opts){ 0 });
    ag_fill(s->weight, 0);
    return &s->base;
}

/* ---- pooling and shapes -------------------------------------------------------------------------------- */

typedef struct { nn_module base; int kernel; ag_pool2d_opts opts; } pool;

static ag_tensor *max_pool_forward(nn_module *m, ag_tensor *x)
{
    const pool *s = NN_SELF(pool, m);
    return ag_max_pool2d_(m->at, x, s->kernel, s->opts);
}

static ag_tensor *avg_pool_forward(nn_module *m, ag_tensor *x)
{
    const pool *s = NN_SELF(pool, m);
    return ag_avg_pool2d_(m->at, x, s->kernel, s->opts);
}

nn_module *ag_nn_pool2d_(const char *at, bool max, int kernel, ag_pool2d_opts opts)
{
    nn_module *m = ag_nn_new_(at, sizeof(pool), max ? "max_pool2d" : "avg_pool2d", max ? max_pool_forward : avg_pool_forward);
    NN_SELF(pool, m)->kernel = kernel, NN_SELF(pool, m)->opts = opts;
    return m;
}

typedef struct { nn_module base; int64_t h, w; } adaptive;

static ag_tensor *adaptive_forward(nn_module *m, ag_tensor *x)
{
    const adaptive *s = NN_SELF(adaptive, m);
    return ag_adaptive_avg_pool2d_(m->at, x, s->h, s->w);
}

nn_module *ag_nn_adaptive_avg_pool2d_(const char *at, int64_t h, int64_t w)
{
    adaptive *s = (adaptive *)(void *)ag_nn_new_(at, sizeof *s, "adaptive_avg_pool2d", adaptive_forward);
    s->h = h, s->w = w;
    return &s->base;
}

static ag_tensor *concat_pool_forward(nn_module *m, ag_tensor *x) { return ag_concat_pool2d_(m->at, x); }
static ag_tensor *identity_forward(nn_module *m, ag_tensor *x) { return (void)m, x; }

static ag_tensor *flatten_forward(nn_module *m, ag_tensor *x)
{
    return ag_reshape_(m->at, x, AG_SHAPE(x->shape[0], -1));
}

static nn_module *without_state(const char *at, const char *type, nn_forward_fn forward)
{
    return ag_nn_new_(at, sizeof(nn_module), type, forward);
}

nn_module *ag_nn_concat_pool2d_(const char *at) { return without_state(at, "concat_pool2d", concat_pool_forward); }
nn_module *ag_nn_flatten_(const char *at) { return without_state(at, "flatten", flatten_forward); }
nn_module *ag_nn_identity_(const char *at) { return without_state(at, "identity", identity_forward); }

/* ---- branches ------------------------------------------------------------------------------------------ */

ag_residual_opts ag_nn_residual_opts(const nn_module *m, ag_tensor *scale, double drop_path)
{
    const bool drop = m->training && drop_path > 0;
    return (ag_residual_opts){ .scale = scale, .drop_path = drop ? drop_path : 0, .key = drop ? ag_rng_draw() : 0 };
}

ag_tensor *ag_nn_residual(nn_module *m, ag_tensor *x, ag_tensor *branch, ag_tensor *scale, double drop_path)
{
    return ag_residual_(m->at, x, branch, ag_nn_residual_opts(m, scale, drop_path));
}
