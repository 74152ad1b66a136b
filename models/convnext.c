/* models/convnext.c - ConvNeXt (Liu et al. 2022) and ConvNeXt V2 (Woo et al. 2023), as timm's convnext.py. */
#include "models/registry.h"
#include "nn/layers.h"
#include "ops/ops.h"

typedef enum { PATCH, OVERLAP, OVERLAP_TIERED } stem_kind;

/*   conv_mlp    weights of the MLP are those of 1x1 convolutions, [O, I, 1, 1]
 *   grn         V2: response normalisation in the MLP, no layer scale
 *   norm_first  of the head: norm, then pooling
 *   hidden      width of a layer before the classifier
 *   eps         of the norms, 1e-6 */
typedef struct {
    int depth[4], width[4], hidden;
    stem_kind stem;
    bool conv_mlp, grn, norm_first;
    double eps;
} config;

/* ---- MLP: fc1, GELU, [grn], fc2 ------------------------------------------------------------------------ */

typedef struct { nn_module base; nn_module *fc1, *grn, *fc2; } mlp;

/* [O, I, 1, 1] or [O, I] as [O, I]. */
static ag_tensor *matrix(nn_module *fc)
{
    ag_tensor *w = nn_param_at(fc, 0);
    return w->ndim == 4 ? ag_reshape_(fc->at, w, AG_SHAPE(w->shape[0], w->shape[1])) : w;
}

/* With grn; without, the block calls ag_mlp_residual. */
static ag_tensor *mlp_forward(nn_module *m, ag_tensor *x)
{
    const mlp *s = NN_SELF(mlp, m);
    ag_tensor *w1 = matrix(s->fc1), *b1 = nn_param_at(s->fc1, 1), *w2 = matrix(s->fc2), *b2 = nn_param_at(s->fc2, 1);
    ag_tensor *hidden = ag_linear_(m->at, x, w1, (ag_linear_opts){ .bias = b1, .activation = AG_LINEAR_GELU });
    return ag_linear_(m->at, nn_call(s->grn, hidden), w2, (ag_linear_opts){ .bias = b2 });
}

static nn_module *fully_connected(const char *at, const config *c, int64_t in, int64_t out)
{
    if (c->conv_mlp) return ag_nn_conv2d_(at, in, out, 1, (nn_conv2d_opts){ 0 });
    return ag_nn_linear_(at, in, out, (nn_linear_opts){ 0 });
}

static nn_module *mlp_new(const char *at, const config *c, int64_t width)
{
    mlp *s = NN_NEW(mlp, mlp_forward);
    s->base.at = at;
    NN_CHILD(s, fc1, fully_connected(at, c, width, 4 * width));
    if (c->grn) NN_CHILD(s, grn, ag_nn_grn_(at, 4 * width));
    NN_CHILD(s, fc2, fully_connected(at, c, 4 * width, width));
    return &s->base;
}

/* ---- block: x + drop_path(gamma mlp(norm(conv_dw(x)))) ------------------------------------------------- */

typedef struct { nn_module base; ag_tensor *gamma; nn_module *conv_dw, *norm, *mlp; double drop_path; } block;

static ag_tensor *block_forward(nn_module *m, ag_tensor *x)
{
    const block *s = NN_SELF(block, m);
    ag_tensor *y;
    {
        AG_SCOPE;
        y = ag_keep(nn_call(s->norm, nn_call(s->conv_dw, x)));
    }
    if (!s->gamma) return nn_residual(m, x, nn_call(s->mlp, y), NULL, s->drop_path);
    const mlp *f = NN_SELF(mlp, s->mlp);
    return ag_mlp_residual_(m->at, x, y, matrix(f->fc1), nn_param_at(f->fc1, 1), matrix(f->fc2), nn_param_at(f->fc2, 1),
                            AG_LINEAR_GELU, nn_residual_opts(m, s->gamma, s->drop_path));
}

static nn_module *norm_new(const char *at, const config *c, int64_t width)
{
    return ag_nn_layer_norm_(at, width, (nn_norm_opts){ .eps = c->eps > 0 ? c->eps : 1e-6 });
}

static nn_module *block_new(const char *at, const config *c, int64_t width, double drop_path)
{
    block *s = NN_NEW(block, block_forward);
    s->base.at = at, s->drop_path = drop_path;
    if (!c->grn) NN_PARAM(s, gamma, ag_full(1e-6, width));
    NN_CHILD(s, conv_dw, ag_nn_conv2d_(at, width, width, 7, (nn_conv2d_opts){ .pad = 3, .groups = (int)width }));
    NN_CHILD(s, norm, norm_new(at, c, width));
    NN_CHILD(s, mlp, mlp_new(at, c, width));
    return &s->base;
}

/* ---- stage, head, net ---------------------------------------------------------------------------------- */

typedef struct { nn_module base; nn_module *downsample, *blocks; } stage;

static ag_tensor *stage_forward(nn_module *m, ag_tensor *x)
{
    const stage *s = NN_SELF(stage, m);
    return nn_call(s->blocks, s->downsample ? nn_call(s->downsample, x) : x);
}

static nn_module *stage_new(const char *at, const model_vision *net, int i)
{
    const config *c = net->info->config;
    stage *s = NN_NEW(stage, stage_forward);
    s->base.at = at;
    if (i) NN_CHILD(s, downsample, nn_sequential(norm_new(at, c, c->width[i - 1]),
                                                 nn_conv2d(c->width[i - 1], c->width[i], 2, .stride = 2)));
    NN_CHILD(s, blocks, nn_sequential(NULL));
    int before = 0, total = 0;
    for (int k = 0; k < 4; k++) {
        if (k < i) before += c->depth[k];
        total += c->depth[k];
    }
    for (int k = 0; k < c->depth[i]; k++)
        nn_append(s->blocks, block_new(at, c, c->width[i], ag_model_drop_path(net, before + k, total)));
    if (net->opts.recompute) nn_recompute(s->blocks, true);
    return &s->base;
}

static nn_module *stem_new(const config *c, int64_t in, nn_module *norm)
{
    const int64_t width = c->width[0], half = c->stem == OVERLAP_TIERED ? (width / 2 + 4) / 8 * 8 : width;
    if (c->stem == PATCH) return nn_sequential(nn_conv2d(in, width, 4, .stride = 4), norm);
    nn_module *first = nn_conv2d(in, half, 3, .stride = 2, .pad = 1);
    return nn_sequential(first, nn_conv2d(half, width, 3, .stride = 2, .pad = 1), norm);
}

typedef struct {
    union { nn_module base; model_vision vision; };
    nn_module *stem, *stages, *norm_pre, *norm, *hidden;
} convnext;

static ag_tensor *features(nn_module *m, ag_tensor *x)
{
    const convnext *s = NN_SELF(convnext, m);
    x = nn_call(s->stages, nn_call(s->stem, x));
    return s->norm_pre ? nn_call(s->norm_pre, x) : x;
}

static ag_tensor *pool(nn_module *m, ag_tensor *x)
{
    const convnext *s = NN_SELF(convnext, m);
    x = ag_mean_(m->at, x, (ag_reduce_opts){ .axes = AG_AXES(1, 2) });
    if (s->norm) x = nn_call(s->norm, x);
    return s->hidden ? ag_gelu_(m->at, nn_call(s->hidden, x)) : x;
}

static void initialise(nn_module *net)
{
    for (int64_t i = 0, n = nn_param_count(net); i < n; i++) {
        ag_tensor *t = nn_param_at(net, i);
        if (t->ndim > 1) nn_init_trunc_normal(t, 0, 0.02, -2, 2);
        else if (nn_match("*.bias", t->name)) ag_fill(t, 0);
    }
}

static nn_module *create(const char *at, const model_info *info, model_opts opts)
{
    const config *c = info->config;
    const int64_t width = c->width[3];
    convnext *s = MODEL_NEW(convnext, at, info, opts, features, pool);
    NN_CHILD(s, stem, stem_new(c, opts.in_channels, norm_new(at, c, c->width[0])));
    NN_CHILD(s, stages, nn_sequential(NULL));
    for (int i = 0; i < 4; i++) nn_append(s->stages, stage_new(at, &s->vision, i));
    if (c->norm_first) NN_CHILD(s, norm_pre, norm_new(at, c, width));
    nn_module *head = ag_nn_child_(at, &s->base, "head", -1, ag_nn_new_(at, sizeof *head, "head", NULL));
    if (!c->norm_first) s->norm = ag_nn_child_(at, head, "norm", -1, norm_new(at, c, width));
    if (c->hidden) s->hidden = ag_nn_child_(at, head, "pre_logits.fc", -1, nn_linear(width, c->hidden));
    ag_model_add_classifier_(at, &s->vision, head, "fc", c->hidden ? c->hidden : width);
    initialise(&s->base);
    return &s->base;
}

/* ---- the models ---------------------------------------------------------------------------------------- */

#define CLIP .mean = { 0.48145466, 0.4578275, 0.40821073 }, .std = { 0.26862954, 0.26130258, 0.27577711 }
#define MODEL(n, side, norm, ...) \
    { .name = n, .size = side, .least = 32, norm, .first = "stem.0", .head = "head.fc", .create = create, \
      .config = &(const config){ __VA_ARGS__ } },
#define DEPTHS(...) .depth = { __VA_ARGS__ }
#define WIDTHS(...) .width = { __VA_ARGS__ }
#define V1(n, ...) MODEL("convnext_" n, 224, MODEL_IMAGENET, __VA_ARGS__)
#define V2(n, side, ...) MODEL("convnextv2_" n, side, MODEL_IMAGENET, __VA_ARGS__, .grn = true)

const model_info ag_models_convnext[] = {
    V1("atto", DEPTHS(2, 2, 6, 2), WIDTHS(40, 80, 160, 320), .conv_mlp = true)
    V1("atto_ols", DEPTHS(2, 2, 6, 2), WIDTHS(40, 80, 160, 320), .conv_mlp = true, .stem = OVERLAP_TIERED)
    V1("femto", DEPTHS(2, 2, 6, 2), WIDTHS(48, 96, 192, 384), .conv_mlp = true)
    V1("femto_ols", DEPTHS(2, 2, 6, 2), WIDTHS(48, 96, 192, 384), .conv_mlp = true, .stem = OVERLAP_TIERED)
    V1("pico", DEPTHS(2, 2, 6, 2), WIDTHS(64, 128, 256, 512), .conv_mlp = true)
    V1("pico_ols", DEPTHS(2, 2, 6, 2), WIDTHS(64, 128, 256, 512), .conv_mlp = true, .stem = OVERLAP_TIERED)
    V1("nano", DEPTHS(2, 2, 8, 2), WIDTHS(80, 160, 320, 640), .conv_mlp = true)
    V1("nano_ols", DEPTHS(2, 2, 8, 2), WIDTHS(80, 160, 320, 640), .conv_mlp = true, .stem = OVERLAP)
    V1("tiny_hnf", DEPTHS(3, 3, 9, 3), WIDTHS(96, 192, 384, 768), .conv_mlp = true, .norm_first = true)
    V1("tiny", DEPTHS(3, 3, 9, 3), WIDTHS(96, 192, 384, 768))
    V1("small", DEPTHS(3, 3, 27, 3), WIDTHS(96, 192, 384, 768))
    V1("base", DEPTHS(3, 3, 27, 3), WIDTHS(128, 256, 512, 1024))
    V1("large", DEPTHS(3, 3, 27, 3), WIDTHS(192, 384, 768, 1536))
    V1("xlarge", DEPTHS(3, 3, 27, 3), WIDTHS(256, 512, 1024, 2048))
    MODEL("convnext_large_mlp", 320, CLIP, DEPTHS(3, 3, 27, 3), WIDTHS(192, 384, 768, 1536), .hidden = 1536)
    MODEL("convnext_xxlarge", 256, CLIP, DEPTHS(3, 4, 30, 3), WIDTHS(384, 768, 1536, 3072), .eps = 1e-5)
    V2("atto", 224, DEPTHS(2, 2, 6, 2), WIDTHS(40, 80, 160, 320), .conv_mlp = true)
    V2("femto", 224, DEPTHS(2, 2, 6, 2), WIDTHS(48, 96, 192, 384), .conv_mlp = true)
    V2("pico", 224, DEPTHS(2, 2, 6, 2), WIDTHS(64, 128, 256, 512), .conv_mlp = true)
    V2("nano", 224, DEPTHS(2, 2, 8, 2), WIDTHS(80, 160, 320, 640), .conv_mlp = true)
    V2("tiny", 224, DEPTHS(3, 3, 9, 3), WIDTHS(96, 192, 384, 768))
    V2("small", 224, DEPTHS(3, 3, 27, 3), WIDTHS(96, 192, 384, 768))
    V2("base", 224, DEPTHS(3, 3, 27, 3), WIDTHS(128, 256, 512, 1024))
    V2("large", 224, DEPTHS(3, 3, 27, 3), WIDTHS(192, 384, 768, 1536))
    V2("huge", 384, DEPTHS(3, 3, 27, 3), WIDTHS(352, 704, 1408, 2816))
    { .name = NULL }
};
