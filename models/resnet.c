/* models/resnet.c - ResNet (He et al. 2016) with the stems and shortcuts of "Bag of Tricks" (He et al. 2019) and ResNeXt
 * (Xie et al. 2017), as timm's resnet.py. */
#include <math.h>
#include "models/registry.h"
#include "nn/vision.h"
#include "ops/ops.h"

/*   bottleneck   1x1, 3x3, 1x1 convolutions of widths w, w, 4 w instead of two 3x3
 *   deep         stem of three 3x3 convolutions instead of one 7x7, of deep, deep and 2 deep channels
 *   tiered       of 3/4 deep, deep, 2 deep
 *   avg_down     the shortcut averages 2x2 pixels before its convolution
 *   cardinality, base   groups of the 3x3 convolution and channels of each, for w = 64 */
typedef struct { int depth[4]; bool bottleneck, tiered, avg_down, group_norm; int deep, cardinality, base; } config;

static nn_module *norm_new(const char *at, const config *c, int64_t channels)
{
    return c->group_norm ? ag_nn_group_norm_(at, 32, channels, (nn_norm_opts){ 0 })
                         : ag_nn_batch_norm2d_(at, channels, (nn_norm_opts){ 0 });
}

static nn_module *conv_new(const char *at, int64_t in, int64_t out, int kernel, int stride, int groups)
{
    return ag_nn_conv2d_(at, in, out, kernel,
                         (nn_conv2d_opts){ .stride = stride, .pad = kernel / 2, .groups = groups, .no_bias = true });
}

/* ---- block --------------------------------------------------------------------------------------------- */

typedef struct {
    nn_module base;
    nn_module *conv[3], *bn[3], *pool, *down_conv, *down_norm;
    int n;
    double drop_path;
} block;

static ag_tensor *shortcut(const block *s, ag_tensor *x)
{
    if (!s->down_conv) return x;
    AG_SCOPE;
    if (s->pool) x = nn_call(s->pool, x);
    return ag_keep(nn_conv_norm_act(s->down_conv, s->down_norm, x, AG_LINEAR_PLAIN, NULL));
}

static ag_tensor *block_forward(nn_module *m, ag_tensor *x)
{
    const block *s = NN_SELF(block, m);
    const int last = s->n - 1;
    const bool drops = m->training && s->drop_path > 0;
    ag_tensor *y = x, *side = shortcut(s, x);
    {
        AG_SCOPE;
        for (int i = 0; i < last; i++) y = nn_conv_norm_act(s->conv[i], s->bn[i], y, AG_LINEAR_RELU, NULL);
        ag_keep(y);
    }
    if (!drops) return nn_conv_norm_act(s->conv[last], s->bn[last], y, AG_LINEAR_RELU, side);
    y = nn_conv_norm_act(s->conv[last], s->bn[last], y, AG_LINEAR_PLAIN, NULL);
    return ag_relu_(m->at, nn_residual(m, side, y, NULL, s->drop_path));
}

static void add_layer(const char *at, block *s, const config *c, int64_t in, int64_t out, int kernel, int stride,
                      int groups)
{
    static const char *const conv[] = { "conv1", "conv2", "conv3" }, *const bn[] = { "bn1", "bn2", "bn3" };
    const int i = s->n++;
    s->conv[i] = ag_nn_child_(at, &s->base, conv[i], -1, conv_new(at, in, out, kernel, stride, groups));
    s->bn[i] = ag_nn_child_(at, &s->base, bn[i], -1, norm_new(at, c, out));
}

static void add_downsample(const char *at, block *s, const config *c, int64_t in, int64_t out, int stride)
{
    nn_module *down = ag_nn_child_(at, &s->base, "downsample", -1, nn_sequential(NULL));
    const bool pools = c->avg_down && stride > 1;
    if (c->avg_down) nn_append(down, stride > 1 ? nn_avg_pool2d(2, .ceil = true, .exclude_pad = true) : nn_identity());
    s->pool = pools ? nn_at(down, "0") : NULL;
    s->down_conv = nn_append(down, conv_new(at, in, out, 1, pools ? 1 : stride, 1));
    s->down_norm = nn_append(down, norm_new(at, c, out));
}

static nn_module *block_new(const char *at, const config *c, int64_t in, int64_t planes, int stride, double drop_path)
{
    block *s = NN_NEW(block, block_forward);
    const int64_t cards = c->cardinality ? c->cardinality : 1, out = c->bottleneck ? 4 * planes : planes;
    const int64_t width = planes * (c->base ? c->base : 64) / 64 * cards;
    s->base.at = at, s->drop_path = drop_path;
    if (c->bottleneck) {
        add_layer(at, s, c, in, width, 1, 1, 1);
        add_layer(at, s, c, width, width, 3, stride, (int)cards);
        add_layer(at, s, c, width, out, 1, 1, 1);
    } else {
        add_layer(at, s, c, in, planes, 3, stride, 1);
        add_layer(at, s, c, planes, out, 3, 1, 1);
    }
    if (stride > 1 || in != out) add_downsample(at, s, c, in, out, stride);
    return &s->base;
}

/* ---- net ----------------------------------------------------------------------------------------------- */

typedef struct {
    union { nn_module base; model_vision vision; };
    nn_module *conv[3], *bn[3], *maxpool, *layer[4];
    int n;
} resnet;

static ag_tensor *features(nn_module *m, ag_tensor *x)
{
    const resnet *s = NN_SELF(resnet, m);
    {
        AG_SCOPE;
        for (int i = 0; i < s->n; i++) x = nn_conv_norm_act(s->conv[i], s->bn[i], x, AG_LINEAR_RELU, NULL);
        x = ag_keep(nn_call(s->maxpool, x));
    }
    for (int i = 0; i < 4; i++) x = nn_call(s->layer[i], x);
    return x;
}

static ag_tensor *pool(nn_module *m, ag_tensor *x)
{
    return ag_mean_(m->at, x, (ag_reduce_opts){ .axes = AG_AXES(1, 2) });
}

/* conv1, bn1; the deep one has conv1.0 conv1.1 relu conv1.3 conv1.4 relu conv1.6. Returns its channels. */
static int64_t add_stem(const char *at, resnet *s, const config *c, int64_t in)
{
    if (!c->deep) {
        s->conv[s->n++] = ag_nn_child_(at, &s->base, "conv1", -1, conv_new(at, in, 64, 7, 2, 1));
        s->bn[0] = ag_nn_child_(at, &s->base, "bn1", -1, norm_new(at, c, 64));
        return 64;
    }
    const int64_t width[4] = { in, c->tiered ? 3 * (c->deep / 4) : c->deep, c->deep, 2 * c->deep };
    nn_module *list = ag_nn_child_(at, &s->base, "conv1", -1, nn_sequential(NULL));
    for (; s->n < 3; s->n++) {
        const int i = s->n;
        s->conv[i] = nn_append(list, conv_new(at, width[i], width[i + 1], 3, i ? 1 : 2, 1));
        nn_module *norm = norm_new(at, c, width[i + 1]);
        s->bn[i] = i < 2 ? nn_append(list, norm) : ag_nn_child_(at, &s->base, "bn1", -1, norm);
        if (i < 2) nn_append(list, nn_relu());
    }
    return width[3];
}

/* Convolutions N(0, 2 / fan_out); the last norm of each branch begins with zeros. */
static void initialise(nn_module *net, const char *last_norm)
{
    for (int64_t i = 0, n = nn_param_count(net); i < n; i++) {
        ag_tensor *t = nn_param_at(net, i);
        if (t->ndim == 4) nn_init_normal(t, 0, sqrt(2 / (double)(t->shape[0] * t->shape[2] * t->shape[3])));
        else if (nn_match(last_norm, t->name)) ag_fill(t, 0);
    }
}

static nn_module *create(const char *at, const model_info *info, model_opts opts)
{
    static const char *const names[] = { "layer1", "layer2", "layer3", "layer4" };
    const config *c = info->config;
    const int total = c->depth[0] + c->depth[1] + c->depth[2] + c->depth[3];
    resnet *s = MODEL_NEW(resnet, at, info, opts, features, pool);
    int64_t in = add_stem(at, s, c, opts.in_channels);
    s->maxpool = nn_max_pool2d(3, .stride = 2, .pad = 1);
    ag_nn_child_(at, &s->base, "maxpool", -1, s->maxpool);
    for (int i = 0, done = 0; i < 4; i++) {
        s->layer[i] = ag_nn_child_(at, &s->base, names[i], -1, nn_sequential(NULL));
        if (opts.recompute) nn_recompute(s->layer[i], true);
        for (int k = 0; k < c->depth[i]; k++, done++) {
            const int64_t planes = (int64_t)64 << i;
            const double drop_path = ag_model_drop_path(&s->vision, done, total);
            nn_append(s->layer[i], block_new(at, c, in, planes, i && !k ? 2 : 1, drop_path));
            in = c->bottleneck ? 4 * planes : planes;
        }
    }
    initialise(&s->base, c->bottleneck ? "layer*.bn3.weight" : "layer*.bn2.weight");
    ag_model_add_classifier_(at, &s->vision, &s->base, "fc", in);
    return &s->base;
}

/* ---- the models ---------------------------------------------------------------------------------------- */

#define MODEL(n, side, first_conv, ...) \
    { .name = n, .size = side, MODEL_IMAGENET, .first = first_conv, .head = "fc", .create = create, \
      .config = &(const config){ __VA_ARGS__ } },
#define DEPTHS(...) .depth = { __VA_ARGS__ }
#define PLAIN(n, ...) MODEL(n, 224, "conv1", __VA_ARGS__)
#define C(n, side, ...) MODEL(n, side, "conv1.0", __VA_ARGS__, .deep = 32)
#define D(n, side, ...) C(n, side, __VA_ARGS__, .avg_down = true)
#define T(n, side, ...) D(n, side, __VA_ARGS__, .tiered = true)
#define S(n, ...) MODEL(n, 224, "conv1.0", __VA_ARGS__, .deep = 64)
#define B .bottleneck = true

const model_info ag_models_resnet[] = {
    T("resnet10t", 176, DEPTHS(1, 1, 1, 1))
    T("resnet14t", 176, DEPTHS(1, 1, 1, 1), B)
    PLAIN("resnet18", DEPTHS(2, 2, 2, 2))
    D("resnet18d", 224, DEPTHS(2, 2, 2, 2))
    PLAIN("resnet26", DEPTHS(2, 2, 2, 2), B)
    D("resnet26d", 224, DEPTHS(2, 2, 2, 2), B)
    T("resnet26t", 256, DEPTHS(2, 2, 2, 2), B)
    PLAIN("resnet34", DEPTHS(3, 4, 6, 3))
    D("resnet34d", 224, DEPTHS(3, 4, 6, 3))
    PLAIN("resnet50", DEPTHS(3, 4, 6, 3), B)
    C("resnet50c", 224, DEPTHS(3, 4, 6, 3), B)
    D("resnet50d", 224, DEPTHS(3, 4, 6, 3), B)
    S("resnet50s", DEPTHS(3, 4, 6, 3), B)
    T("resnet50t", 224, DEPTHS(3, 4, 6, 3), B)
    PLAIN("resnet50_gn", DEPTHS(3, 4, 6, 3), B, .group_norm = true)
    PLAIN("resnet101", DEPTHS(3, 4, 23, 3), B)
    C("resnet101c", 224, DEPTHS(3, 4, 23, 3), B)
    D("resnet101d", 256, DEPTHS(3, 4, 23, 3), B)
    S("resnet101s", DEPTHS(3, 4, 23, 3), B)
    PLAIN("resnet152", DEPTHS(3, 8, 36, 3), B)
    C("resnet152c", 224, DEPTHS(3, 8, 36, 3), B)
    D("resnet152d", 256, DEPTHS(3, 8, 36, 3), B)
    S("resnet152s", DEPTHS(3, 8, 36, 3), B)
    PLAIN("resnet200", DEPTHS(3, 24, 36, 3), B)
    D("resnet200d", 256, DEPTHS(3, 24, 36, 3), B)
    PLAIN("resnext50_32x4d", DEPTHS(3, 4, 6, 3), B, .cardinality = 32, .base = 4)
    D("resnext50d_32x4d", 224, DEPTHS(3, 4, 6, 3), B, .cardinality = 32, .base = 4)
    PLAIN("resnext101_32x4d", DEPTHS(3, 4, 23, 3), B, .cardinality = 32, .base = 4)
    PLAIN("resnext101_32x8d", DEPTHS(3, 4, 23, 3), B, .cardinality = 32, .base = 8)
    PLAIN("resnext101_64x4d", DEPTHS(3, 4, 23, 3), B, .cardinality = 64, .base = 4)
    PLAIN("wide_resnet50_2", DEPTHS(3, 4, 6, 3), B, .base = 128)
    PLAIN("wide_resnet101_2", DEPTHS(3, 4, 23, 3), B, .base = 128)
    { .name = NULL }
};
