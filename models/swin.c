/* models/swin.c - Swin Transformer (Liu et al. 2021); timm/models/swin_transformer.py. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "models/swin.h"
#include "nn/module.h"

typedef struct {
    union { nn_module base; model_vision vision; };
    nn_module *patch_embed, *layers, *norm, *head;
} swin;

/* ---- windows ------------------------------------------------------------------------------------------- */

ag_tensor *ag_swin_gather(const char *at, ag_tensor *x)
{
    const int64_t n = x->shape[0], h = x->shape[1] / 2, w = x->shape[2] / 2, c = x->shape[3];
    x = ag_permute_(at, ag_reshape_(at, x, AG_SHAPE(n, h, 2, w, 2, c)), AG_SHAPE(0, 1, 3, 4, 2, 5));
    return ag_reshape_(at, x, AG_SHAPE(n, h, w, 4 * c));
}

/* Of a row or column of the shifted map: the part of the map that it came from; of a window's token: that of both. */
static int line_part(const swin_windows *w, int64_t i)
{
    return i < w->side - w->window ? 0 : i < w->side - w->shift ? 1 : 2;
}

static int token_part(const swin_windows *w, int64_t window, int64_t token)
{
    const int64_t across = w->side / w->window;
    const int64_t y = window / across * w->window + token / w->window, x = window % across * w->window + token % w->window;
    return 3 * line_part(w, y) + line_part(w, x);
}

ag_tensor *ag_swin_mask(nn_module *m, const swin_windows *w)
{
    if (!w->shift) return NULL;
    const int64_t windows = (w->side / w->window) * (w->side / w->window), tokens = w->window * w->window;
    ag_tensor *mask = ag_nn_hidden_(m->at, m, "attn_mask", ag_empty(AG_F32, windows, 1, tokens, tokens));
    real *to = mask->data;
    int part[1 << 10];
    for (int64_t n = 0; to && n < windows; n++) {
        for (int64_t i = 0; i < tokens; i++) part[i] = token_part(w, n, i);
        for (int64_t i = 0; i < tokens; i++)
            for (int64_t k = 0; k < tokens; k++) *to++ = part[i] == part[k] ? 0 : -100;
    }
    return mask;
}

ag_tensor *ag_swin_attention(const char *at, const swin_windows *w, ag_tensor *qkv, ag_attention_opts opts)
{
    const int64_t n = qkv->shape[0];
    qkv = ag_reshape_(at, qkv, AG_SHAPE(n, w->side, w->side, 3, w->heads, w->width / w->heads));
    ag_tensor *y = ag_window_attention_(at, qkv, w->window, w->shift, opts);
    return ag_reshape_(at, y, AG_SHAPE(n, w->side, w->side, w->width));
}

/* ---- blocks -------------------------------------------------------------------------------------------- */

typedef struct {
    nn_module base;
    ag_tensor *relative_position_bias_table, *mask;
    nn_module *qkv, *proj;
    swin_windows windows;
} attention;

static ag_tensor *attention_forward(nn_module *m, ag_tensor *x)
{
    const attention *s = NN_SELF(attention, m);
    ag_tensor *bias = ag_relative_position_bias_(m->at, s->relative_position_bias_table, s->windows.window);
    const ag_attention_opts opts = { .bias = bias, .mask = s->mask };
    return nn_call(s->proj, ag_swin_attention(m->at, &s->windows, nn_call(s->qkv, x), opts));
}

static nn_module *attention_new(const char *at, const swin_windows *w)
{
    attention *s = NN_NEW(attention, attention_forward);
    const int64_t positions = (2 * w->window - 1) * (2 * w->window - 1);
    s->base.at = at, s->windows = *w;
    NN_PARAM(s, relative_position_bias_table, ag_empty(AG_F32, positions, w->heads));
    nn_init_trunc_normal(s->relative_position_bias_table, 0, 0.02, -2, 2);
    NN_CHILD(s, qkv, ag_transformer_linear(at, w->width, 3 * w->width, (nn_linear_opts){ 0 }));
    NN_CHILD(s, proj, ag_transformer_linear(at, w->width, w->width, (nn_linear_opts){ 0 }));
    s->mask = ag_swin_mask(&s->base, w);
    return &s->base;
}

typedef struct { nn_module base; nn_module *norm1, *attn, *norm2, *mlp; double drop_path; } block;

static ag_tensor *block_forward(nn_module *m, ag_tensor *x)
{
    const block *s = NN_SELF(block, m);
    x = nn_residual(m, x, nn_call(s->attn, nn_call(s->norm1, x)), NULL, s->drop_path);
    return nn_residual(m, x, nn_call(s->mlp, nn_call(s->norm2, x)), NULL, s->drop_path);
}

static nn_module *block_new(const char *at, const swin_windows *w, double drop_path)
{
    block *s = NN_NEW(block, block_forward);
    s->base.at = at, s->drop_path = drop_path;
    NN_CHILD(s, norm1, nn_layer_norm(w->width));
    NN_CHILD(s, attn, attention_new(at, w));
    NN_CHILD(s, norm2, nn_layer_norm(w->width));
    NN_CHILD(s, mlp, ag_transformer_mlp(at, w->width, 4 * w->width));
    return &s->base;
}

typedef struct { nn_module base; nn_module *norm, *reduction; } merge;

static ag_tensor *merge_forward(nn_module *m, ag_tensor *x)
{
    const merge *s = NN_SELF(merge, m);
    return nn_call(s->reduction, nn_call(s->norm, ag_swin_gather(m->at, x)));
}

static nn_module *merge_new(const char *at, int64_t width)
{
    merge *s = NN_NEW(merge, merge_forward);
    s->base.at = at;
    NN_CHILD(s, norm, nn_layer_norm(4 * width));
    NN_CHILD(s, reduction, ag_transformer_linear(at, 4 * width, 2 * width, (nn_linear_opts){ .no_bias = true }));
    return &s->base;
}

/* ---- the net, of either version ------------------------------------------------------------------------ */

static ag_tensor *features(nn_module *net, ag_tensor *x)
{
    const swin *s = NN_SELF(swin, net);
    return nn_call(s->norm, nn_call(s->layers, nn_call(s->patch_embed, x)));
}

static ag_tensor *pool(nn_module *net, ag_tensor *x)
{
    return ag_mean_(net->at, x, (ag_reduce_opts){ .axes = AG_AXES(1, 2) });
}

/* A stage of `side` tokens: one window, or several side by side; all but the last are halved. */
static bool fits(const swin_config *c, int64_t size)
{
    for (int64_t side = size / 4, i = 0; i < SWIN_STAGES; i++, side /= 2)
        if (size % 32 || side < 1 || (side > c->window && side % c->window)) return false;
    return true;
}

static void require_size(const char *at, const model_info *info, int64_t size)
{
    const swin_config *c = info->config;
    if (fits(c, size)) return;
    int64_t below = size / 32 * 32, above = below + 32;
    while (below > 32 && !fits(c, below)) below -= 32;
    while (!fits(c, above)) above += 32;
    ag_fail(at, "%s: images of %" PRId64 " x %" PRId64 " cannot be cut into windows of %" PRId64 " tokens in every stage; the "
            "nearest .size that can: %" PRId64 " and %" PRId64, info->name, size, size, c->window, below, above);
}

typedef struct { nn_module base; nn_module *downsample, *blocks; } stage;

static ag_tensor *stage_forward(nn_module *m, ag_tensor *x)
{
    const stage *s = NN_SELF(stage, m);
    return nn_call(s->blocks, s->downsample ? nn_call(s->downsample, x) : x);
}

/* Stage i, whose first block is number `before` of all `depth` blocks. */
static nn_module *stage_new(const swin *net, int i, int before, int depth)
{
    const char *at = net->base.at;
    const swin_config *c = net->vision.info->config;
    stage *s = NN_NEW(stage, stage_forward);
    swin_windows w = { .width = c->width << i, .heads = c->heads << i, .side = net->vision.opts.size / 4 >> i,
                       .pretrained_window = c->pretrained_windows[i] };
    s->base.at = at;
    w.window = w.side < c->window ? w.side : c->window;
    if (i) NN_CHILD(s, downsample, c->merge(at, w.width / 2));
    NN_CHILD(s, blocks, nn_sequential(NULL));
    for (int k = 0; k < c->depths[i]; k++) {
        w.shift = k % 2 && w.side > w.window ? w.window / 2 : 0;
        nn_append(s->blocks, c->block(at, &w, ag_model_drop_path(&net->vision, before + k, depth)));
    }
    nn_recompute(s->blocks, net->vision.opts.recompute);
    return &s->base;
}

/* ---- tables of another window, as timm's resize_rel_pos_bias_table ------------------------------------- */

/* A target between two points of the source: the share of the right one. */
typedef struct { int64_t left, right; double share; } between;

/* The points of the source lie at 0, 1, 1 + q, 1 + q + q^2 ... to both sides, with the ratio q that makes them reach as far as
 * the targets. */
static double ratio(int64_t n, double reach)
{
    double lo = 1.01, hi = 1.5;
    while (hi - lo > 1e-6) {
        const double q = (lo + hi) / 2;
        if ((1 - pow(q, (double)n)) / (1 - q) > reach) hi = q;
        else lo = q;
    }
    return (lo + hi) / 2;
}

static between find(int64_t target, int64_t half, double q)
{
    double below = 0, above = 1;            /* of the points k and k + 1 */
    int64_t k = 0;
    const int64_t far = llabs(target), sign = target < 0 ? -1 : 1;
    while (k < half && above < (double)far) below = above, above += pow(q, (double)++k);
    if (k == half || !far) return (between){ half + sign * k, half + sign * k, 0 };
    return (between){ half + sign * k, half + sign * (k + 1), ((double)far - below) / (above - below) };
}

static double mixed(const real *line, int64_t step, between x)
{
    const double left = (double)line[x.left * step], right = (double)line[x.right * step];
    return left + (right - left) * x.share;
}

static ag_tensor *resized(const char *at, const ag_tensor *table, int64_t old, int64_t new)
{
    const int64_t heads = table->shape[1], half = old / 2, reach = new / 2;
    const double q = ratio(half, (double)reach);
    ag_tensor *out = ag_empty_(at, AG_F32, AG_SHAPE(new * new, heads));
    const real *from = table->data;
    real *to = out->data;
    for (int64_t i = 0; i < new * new; i++) {
        const between y = find(i / new - reach, half, q), x = find(i % new - reach, half, q);
        for (int64_t h = 0; h < heads; h++) {
            const double above = mixed(from + y.left * old * heads + h, heads, x);
            const double below = mixed(from + y.right * old * heads + h, heads, x);
            *to++ = (real)(above + (below - above) * y.share);
        }
    }
    return out;
}

static int64_t root(int64_t n)
{
    const int64_t r = llround(sqrt((double)n));
    return r * r == n ? r : 0;
}

static ag_tensor *adapt(nn_module *net, const char *name, ag_tensor *t)
{
    if (!nn_match("*.relative_position_bias_table", name) || t->ndim != 2) return NULL;
    const int64_t old = root(t->shape[0]), new = root(nn_param(net, name)->shape[0]);
    if (old < 3 || old % 2 == 0) return NULL;
    if (nn_match("layers.0.blocks.0.*", name))
        fprintf(stderr, "%s: biases of relative positions resampled from windows of side %" PRId64 " to %" PRId64 "\n",
                NN_SELF(swin, net)->vision.info->name, old / 2 + 1, new / 2 + 1);
    return resized(net->at, ag_contiguous_(net->at, t), old, new);
}

nn_module *ag_swin_create(const char *at, const model_info *info, model_opts opts)
{
    const swin_config *c = info->config;
    const int64_t last = c->width << (SWIN_STAGES - 1);
    int depth = 0, before = 0;
    require_size(at, info, opts.size);
    swin *s = MODEL_NEW(swin, at, info, opts, features, pool);
    for (int i = 0; i < SWIN_STAGES; i++) depth += (int)c->depths[i];
    NN_CHILD(s, patch_embed, ag_patch_embed(at, opts.in_channels, c->width, 4, true));
    NN_CHILD(s, layers, nn_sequential(NULL));
    for (int i = 0; i < SWIN_STAGES; before += (int)c->depths[i++]) nn_append(s->layers, stage_new(s, i, before, depth));
    NN_CHILD(s, norm, nn_layer_norm(last));
    NN_CHILD(s, head, nn_sequential(NULL));
    ag_transformer_classifier(at, &s->vision, s->head, "fc", last);
    s->vision.adapt = adapt;
    s->vision.ignored = "*.relative_position_index *.relative_coords_table *.attn_mask";
    return &s->base;
}

/* ---- the list of the first version --------------------------------------------------------------------- */

#define SWIN(name, width_, heads_, window_, third) \
    static const swin_config name = { .width = width_, .heads = heads_, .window = window_, \
                                      .depths = { 2, 2, third, 2 }, .block = block_new, .merge = merge_new };
SWIN(tiny, 96, 3, 7, 6)
SWIN(small, 96, 3, 7, 18)
SWIN(base, 128, 4, 7, 18)
SWIN(large, 192, 6, 7, 18)
SWIN(base_12, 128, 4, 12, 18)
SWIN(large_12, 192, 6, 12, 18)

const model_info ag_models_swin[] = {
    SWIN_ROW("swin_tiny_patch4_window7_224", 224, tiny) SWIN_ROW("swin_small_patch4_window7_224", 224, small)
    SWIN_ROW("swin_base_patch4_window7_224", 224, base) SWIN_ROW("swin_base_patch4_window12_384", 384, base_12)
    SWIN_ROW("swin_large_patch4_window7_224", 224, large) SWIN_ROW("swin_large_patch4_window12_384", 384, large_12)
    { 0 }
};
