/* models/vit.c - ViT (Dosovitskiy et al. 2021), DeiT with its distillation token (Touvron et al. 2021) and DeiT III
 * (Touvron et al. 2022); timm/models/vision_transformer.py, deit.py. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/op.h"
#include "models/transformer.h"
#include "nn/module.h"

static const double eps = 1e-6;

typedef struct {
    int64_t width, depth, heads, patch;
    bool distilled;
    bool bare_class;            /* the class token has no position */
    double layer_scale;
} config;

typedef struct {
    union { nn_module base; model_vision vision; };
    const config *config;
    ag_tensor *cls_token, *dist_token, *pos_embed;
    nn_module *patch_embed, *blocks, *norm, *head_dist;
    int64_t grid;
} vit;

/* ---- blocks -------------------------------------------------------------------------------------------- */

typedef struct { nn_module base; nn_module *qkv, *proj; int64_t heads; } attention;

/* [N, L, C] -> [N, count, C], of the first tokens only */
static ag_tensor *attend(nn_module *m, ag_tensor *x, const void *count)
{
    const attention *s = NN_SELF(attention, m);
    const char *at = m->at;
    const int64_t n = x->shape[0], tokens = x->shape[1], width = x->shape[2], first = *(const int64_t *)count;
    ag_tensor *qkv = ag_reshape_(at, nn_call(s->qkv, x), AG_SHAPE(n, tokens, 3, s->heads, width / s->heads)), *y;
    if (first == tokens) y = ag_attention_qkv_(at, qkv, (ag_attention_opts){ .scale = 0 });
    else y = ag_attention_(at, ag_slice_(at, ag_select_(at, qkv, 2, 0), 1, 0, first), ag_select_(at, qkv, 2, 1),
                           ag_select_(at, qkv, 2, 2), (ag_attention_opts){ .scale = 0 });
    return nn_call(s->proj, ag_reshape_(at, y, AG_SHAPE(n, first, width)));
}

static ag_tensor *attention_forward(nn_module *m, ag_tensor *x)
{
    return attend(m, x, &x->shape[1]);
}

static nn_module *attention_new(const char *at, int64_t width, int64_t heads)
{
    attention *s = NN_NEW(attention, attention_forward);
    s->base.at = at, s->heads = heads;
    NN_CHILD(s, qkv, ag_transformer_linear(at, width, 3 * width, (nn_linear_opts){ 0 }));
    NN_CHILD(s, proj, ag_transformer_linear(at, width, width, (nn_linear_opts){ 0 }));
    return &s->base;
}

typedef struct {
    nn_module base;
    nn_module *norm1, *attn, *norm2, *mlp;
    ag_tensor *ls1, *ls2;
    double drop_path;
} block;

static ag_tensor *block_forward(nn_module *m, ag_tensor *x)
{
    const block *s = NN_SELF(block, m);
    x = nn_residual(m, x, nn_call(s->attn, nn_call(s->norm1, x)), s->ls1, s->drop_path);
    return nn_residual(m, x, nn_call(s->mlp, nn_call(s->norm2, x)), s->ls2, s->drop_path);
}

/* The same for the first tokens: nothing of the others is computed that they do not need. */
static ag_tensor *first_tokens(nn_module *m, ag_tensor *x, const void *count)
{
    const block *s = NN_SELF(block, m);
    ag_tensor *y = ag_nn_run(s->attn, nn_call(s->norm1, x), attend, count);
    x = nn_residual(m, ag_slice_(m->at, x, 1, 0, *(const int64_t *)count), y, s->ls1, s->drop_path);
    return nn_residual(m, x, nn_call(s->mlp, nn_call(s->norm2, x)), s->ls2, s->drop_path);
}

static ag_tensor *layer_scale(const char *at, nn_module *m, const char *name, const config *c)
{
    return c->layer_scale > 0 ? ag_nn_param_(at, m, name, ag_full(c->layer_scale, c->width)) : NULL;
}

static nn_module *block_new(const char *at, const config *c, double drop_path)
{
    const nn_norm_opts norm = { .eps = eps };
    block *s = NN_NEW(block, block_forward);
    s->base.at = at, s->drop_path = drop_path;
    NN_CHILD(s, norm1, ag_nn_layer_norm_(at, c->width, norm));
    NN_CHILD(s, attn, attention_new(at, c->width, c->heads));
    s->ls1 = layer_scale(at, &s->base, "ls1.gamma", c);
    NN_CHILD(s, norm2, ag_nn_layer_norm_(at, c->width, norm));
    NN_CHILD(s, mlp, ag_transformer_mlp(at, c->width, 4 * c->width));
    s->ls2 = layer_scale(at, &s->base, "ls2.gamma", c);
    return &s->base;
}

/* ---- the net ------------------------------------------------------------------------------------------- */

/* Patches [N, L, C] -> tokens: class [, distillation], patches; each plus its position. */
static ag_tensor *tokens_of(const vit *s, ag_tensor *x)
{
    const char *at = s->base.at;
    const ag_shape one = AG_SHAPE(x->shape[0], 1, x->shape[2]);
    ag_tensor *parts[3] = { ag_expand_(at, s->cls_token, one) };
    int n = 1;
    if (s->dist_token) parts[n++] = ag_expand_(at, s->dist_token, one);
    parts[n++] = s->config->bare_class ? ag_add_(at, x, s->pos_embed) : x;
    x = ag_concat_(at, 1, n, parts);
    return ag_autocast_input(at, s->config->bare_class ? x : ag_add_(at, x, s->pos_embed));
}

static ag_tensor *embedded(const vit *s, ag_tensor *x)
{
    x = nn_call(s->patch_embed, x);
    return tokens_of(s, ag_reshape_(s->base.at, x, AG_SHAPE(x->shape[0], x->shape[1] * x->shape[2], x->shape[3])));
}

static ag_tensor *features(nn_module *net, ag_tensor *x)
{
    const vit *s = NN_SELF(vit, net);
    return nn_call(s->norm, nn_call(s->blocks, embedded(s, x)));
}

/* Of the last block only the tokens that the classifiers read. */
static ag_tensor *features_for_pool(nn_module *net, ag_tensor *x)
{
    const vit *s = NN_SELF(vit, net);
    const int64_t count = s->dist_token ? 2 : 1;
    const int last = s->blocks->n_slots - 1;
    x = ag_nn_call_range(s->blocks, 0, last, embedded(s, x));
    return nn_call(s->norm, ag_nn_run(s->blocks->slots[last].child, x, first_tokens, &count));
}

static ag_tensor *mean_of(const char *at, ag_tensor *a, ag_tensor *b)
{
    return ag_scale_(at, ag_add_(at, a, b), 0.5);
}

static ag_tensor *pool(nn_module *net, ag_tensor *x)
{
    ag_tensor *class = ag_select_(net->at, x, 1, 0);
    return NN_SELF(vit, net)->dist_token ? mean_of(net->at, class, ag_select_(net->at, x, 1, 1)) : class;
}

static ag_tensor *head_of(const vit *s, nn_module *head, ag_tensor *x, int64_t token)
{
    return nn_call(head, ag_model_dropout(&s->vision, ag_select_(s->base.at, x, 1, token)));
}

static ag_tensor *distilled_logits(nn_module *net, ag_tensor *x)
{
    const vit *s = NN_SELF(vit, net);
    return mean_of(net->at, head_of(s, s->vision.classifier, x, 0), head_of(s, s->head_dist, x, 1));
}

static void reset_distilled(nn_module *net)
{
    vit *s = NN_SELF(vit, net);
    const int64_t classes = s->vision.opts.classes;
    s->head_dist = classes ? ag_nn_linear_(net->at, s->config->width, classes, (nn_linear_opts){ 0 }) : NULL;
    if (s->head_dist) ag_nn_train(s->head_dist, net->training);
    nn_replace(net, "head_dist", s->head_dist);
}

/* How many tokens before the patches have a position. */
static int64_t placed_prefix(const config *c)
{
    return c->bare_class ? 0 : c->distilled ? 2 : 1;
}

static ag_tensor *adapt(nn_module *net, const char *name, ag_tensor *t)
{
    const vit *s = NN_SELF(vit, net);
    const int64_t prefix = placed_prefix(s->config);
    if (strcmp(name, "pos_embed") || t->ndim != 3 || t->shape[1] <= prefix) return NULL;
    const int64_t old = llround(sqrt((double)(t->shape[1] - prefix)));
    if (old * old != t->shape[1] - prefix) return NULL;
    fprintf(stderr, "%s: position embeddings resampled from %" PRId64 " patches a side to %" PRId64 "\n",
            s->vision.info->name, old, s->grid);
    return ag_resample_positions_(net->at, t, prefix, s->grid, s->grid);
}

static nn_module *create(const char *at, const model_info *info, model_opts opts)
{
    const config *c = info->config;
    vit *s = MODEL_NEW(vit, at, info, opts, features, pool);
    nn_module *net = &s->base;
    s->config = c, s->vision.adapt = adapt, s->vision.for_pool = features_for_pool;
    s->grid = opts.size / c->patch;
    NN_PARAM(s, cls_token, ag_empty(AG_F32, 1, 1, c->width));
    NN_PARAM(s, pos_embed, ag_empty(AG_F32, 1, placed_prefix(c) + s->grid * s->grid, c->width));
    nn_init_normal(s->cls_token, 0, 1e-6);
    nn_init_trunc_normal(s->pos_embed, 0, 0.02, -2, 2);
    if (c->distilled) {
        NN_PARAM(s, dist_token, ag_empty(AG_F32, 1, 1, c->width));
        nn_init_trunc_normal(s->dist_token, 0, 0.02, -2, 2);
    }
    NN_CHILD(s, patch_embed, ag_patch_embed(at, opts.in_channels, c->width, c->patch, false));
    NN_CHILD(s, blocks, nn_sequential(NULL));
    for (int i = 0; i < c->depth; i++)
        nn_append(s->blocks, block_new(at, c, ag_model_drop_path(&s->vision, i, (int)c->depth)));
    nn_recompute(s->blocks, opts.recompute);
    NN_CHILD(s, norm, ag_nn_layer_norm_(at, c->width, (nn_norm_opts){ .eps = eps }));
    ag_transformer_classifier(at, &s->vision, net, "head", c->width);
    if (c->distilled && opts.classes) {
        s->vision.logits = distilled_logits, s->vision.reset = reset_distilled;
        NN_CHILD(s, head_dist, ag_transformer_linear(at, c->width, opts.classes, (nn_linear_opts){ 0 }));
    }
    return net;
}

/* ---- the list ------------------------------------------------------------------------------------------ */

#define SIZES(name, width_, depth_, heads_, patch_, kind) \
    static const config name = { .width = width_, .depth = depth_, .heads = heads_, .patch = patch_, kind };
#define PLAIN .distilled = false
#define DISTILLED .distilled = true
#define THIRD .bare_class = true, .layer_scale = 1e-6
SIZES(tiny_16, 192, 12, 3, 16, PLAIN)
SIZES(small_16, 384, 12, 6, 16, PLAIN)
SIZES(small_32, 384, 12, 6, 32, PLAIN)
SIZES(base_16, 768, 12, 12, 16, PLAIN)
SIZES(base_32, 768, 12, 12, 32, PLAIN)
SIZES(large_16, 1024, 24, 16, 16, PLAIN)
SIZES(large_32, 1024, 24, 16, 32, PLAIN)
SIZES(tiny_distilled, 192, 12, 3, 16, DISTILLED)
SIZES(small_distilled, 384, 12, 6, 16, DISTILLED)
SIZES(base_distilled, 768, 12, 12, 16, DISTILLED)
SIZES(small_3, 384, 12, 6, 16, THIRD)
SIZES(medium_3, 512, 12, 8, 16, THIRD)
SIZES(base_3, 768, 12, 12, 16, THIRD)
SIZES(large_3, 1024, 24, 16, 16, THIRD)

#define ROW(name_, size_, patch_, config_, pixels, head_) \
    { .name = name_, .size = size_, .fixed_size = true, .multiple = patch_, .least = patch_, pixels, \
      .first = "patch_embed.proj", .head = head_, .create = create, .config = &config_ },
#define VIT(name, size, patch, config) ROW("vit_" name, size, patch, config, MODEL_HALF, "head")
#define DEIT(name, size, config) ROW("deit" name, size, 16, config, MODEL_IMAGENET, "head")
const model_info ag_models_vit[] = {
    VIT("tiny_patch16_224", 224, 16, tiny_16) VIT("tiny_patch16_384", 384, 16, tiny_16)
    VIT("small_patch16_224", 224, 16, small_16) VIT("small_patch16_384", 384, 16, small_16)
    VIT("small_patch32_224", 224, 32, small_32) VIT("small_patch32_384", 384, 32, small_32)
    VIT("base_patch16_224", 224, 16, base_16) VIT("base_patch16_384", 384, 16, base_16)
    VIT("base_patch32_224", 224, 32, base_32) VIT("base_patch32_384", 384, 32, base_32)
    VIT("large_patch16_224", 224, 16, large_16) VIT("large_patch16_384", 384, 16, large_16)
    VIT("large_patch32_224", 224, 32, large_32) VIT("large_patch32_384", 384, 32, large_32)
    DEIT("_tiny_patch16_224", 224, tiny_16) DEIT("_small_patch16_224", 224, small_16)
    DEIT("_base_patch16_224", 224, base_16) DEIT("_base_patch16_384", 384, base_16)
    DEIT("_tiny_distilled_patch16_224", 224, tiny_distilled) DEIT("_small_distilled_patch16_224", 224, small_distilled)
    DEIT("_base_distilled_patch16_224", 224, base_distilled) DEIT("_base_distilled_patch16_384", 384, base_distilled)
    DEIT("3_small_patch16_224", 224, small_3) DEIT("3_small_patch16_384", 384, small_3)
    DEIT("3_medium_patch16_224", 224, medium_3)
    DEIT("3_base_patch16_224", 224, base_3) DEIT("3_base_patch16_384", 384, base_3)
    DEIT("3_large_patch16_224", 224, large_3) DEIT("3_large_patch16_384", 384, large_3)
    { 0 }
};
