/* models/swin_v2.c - Swin Transformer V2 (Liu et al. 2022): cosine attention, biases from a small net over the logarithms of
 * relative positions, norms after the branches; timm/models/swin_transformer_v2.py. */
#include <math.h>
#include "models/swin.h"
#include "nn/module.h"

/* ---- attention ----------------------------------------------------------------------------------------- */

typedef struct {
    nn_module base;
    ag_tensor *logit_scale, *q_bias, *v_bias, *coords, *mask;
    nn_module *cpb_mlp, *qkv, *proj;
    ag_tensor *qkv_weight;
    swin_windows windows;
} attention;

enum { HIDDEN = 512 };
static const double steepest = 4.605170185988092;       /* of logit_scale: log 100 */

/* Along one axis: sign(d) log2(1 + |d|) / 3, d from -8 to 8. */
static real coordinate(const swin_windows *w, int64_t i)
{
    const int64_t reach = (w->pretrained_window ? w->pretrained_window : w->window) - 1;
    const double d = 8 * (double)(i - (w->window - 1)) / (double)(reach > 0 ? reach : 1);
    return (real)(copysign(log2(fabs(d) + 1), d) / 3);
}

/* [(2 w - 1)^2, 2] */
static ag_tensor *coordinates(const char *at, const swin_windows *w)
{
    const int64_t across = 2 * w->window - 1;
    ag_tensor *table = ag_empty_(at, AG_F32, AG_SHAPE(across * across, 2));
    real *to = table->data;
    for (int64_t i = 0; to && i < across * across; i++)
        *to++ = coordinate(w, i / across), *to++ = coordinate(w, i % across);
    return table;
}

static ag_tensor *bias_of(const attention *s)
{
    const char *at = s->base.at;
    ag_tensor *table = ag_sigmoid_range_(at, nn_call(s->cpb_mlp, s->coords), 0, 16);
    return ag_relative_position_bias_(at, table, s->windows.window);
}

static ag_tensor *attention_forward(nn_module *m, ag_tensor *x)
{
    const attention *s = NN_SELF(attention, m);
    ag_tensor *none = ag_full_(m->at, 0, AG_SHAPE(s->windows.width)), *biases[] = { s->q_bias, none, s->v_bias };
    ag_tensor *scale = ag_exp_(m->at, ag_clamp_(m->at, s->logit_scale, -1e9, steepest));
    x = ag_linear_(m->at, x, s->qkv_weight, (ag_linear_opts){ .bias = ag_concat_(m->at, 0, 3, biases) });
    const ag_attention_opts opts = { .bias = bias_of(s), .mask = s->mask, .logit_scale = scale };
    return nn_call(s->proj, ag_swin_attention(m->at, &s->windows, x, opts));
}

static nn_module *attention_new(const char *at, const swin_windows *w)
{
    const nn_linear_opts no_bias = { .no_bias = true };
    attention *s = NN_NEW(attention, attention_forward);
    s->base.at = at, s->windows = *w;
    NN_PARAM(s, logit_scale, ag_full(log(10), w->heads, 1, 1));
    NN_PARAM(s, q_bias, ag_zeros(w->width));
    NN_PARAM(s, v_bias, ag_zeros(w->width));
    NN_CHILD(s, cpb_mlp, nn_sequential(ag_transformer_linear(at, 2, HIDDEN, (nn_linear_opts){ 0 }), nn_relu(),
                                       ag_transformer_linear(at, HIDDEN, w->heads, no_bias)));
    NN_CHILD(s, qkv, ag_transformer_linear(at, w->width, 3 * w->width, no_bias));
    NN_CHILD(s, proj, ag_transformer_linear(at, w->width, w->width, (nn_linear_opts){ 0 }));
    s->qkv_weight = nn_param_at(s->qkv, 0);
    s->coords = ag_nn_hidden_(at, &s->base, "relative_coords_table", coordinates(at, w));
    s->mask = ag_swin_mask(&s->base, w);
    return &s->base;
}

/* ---- blocks and mergers, their norms last -------------------------------------------------------------- */

typedef struct { nn_module base; nn_module *attn, *norm1, *mlp, *norm2; double drop_path; } block;

static ag_tensor *block_forward(nn_module *m, ag_tensor *x)
{
    const block *s = NN_SELF(block, m);
    x = nn_residual(m, x, nn_call(s->norm1, nn_call(s->attn, x)), NULL, s->drop_path);
    return nn_residual(m, x, nn_call(s->norm2, nn_call(s->mlp, x)), NULL, s->drop_path);
}

/* Weight 0: at first the block is the identity. */
static nn_module *norm_new(int64_t width)
{
    nn_module *norm = nn_layer_norm(width);
    ag_fill(nn_param(norm, "weight"), 0);
    return norm;
}

static nn_module *block_new(const char *at, const swin_windows *w, double drop_path)
{
    block *s = NN_NEW(block, block_forward);
    s->base.at = at, s->drop_path = drop_path;
    NN_CHILD(s, attn, attention_new(at, w));
    NN_CHILD(s, norm1, norm_new(w->width));
    NN_CHILD(s, mlp, ag_transformer_mlp(at, w->width, 4 * w->width));
    NN_CHILD(s, norm2, norm_new(w->width));
    return &s->base;
}

typedef struct { nn_module base; nn_module *reduction, *norm; } merge;

static ag_tensor *merge_forward(nn_module *m, ag_tensor *x)
{
    const merge *s = NN_SELF(merge, m);
    return nn_call(s->norm, nn_call(s->reduction, ag_swin_gather(m->at, x)));
}

static nn_module *merge_new(const char *at, int64_t width)
{
    merge *s = NN_NEW(merge, merge_forward);
    s->base.at = at;
    NN_CHILD(s, reduction, ag_transformer_linear(at, 4 * width, 2 * width, (nn_linear_opts){ .no_bias = true }));
    NN_CHILD(s, norm, nn_layer_norm(2 * width));
    return &s->base;
}

/* ---- the list ------------------------------------------------------------------------------------------ */

#define SWIN(name, width_, heads_, window_, third, pretrained) \
    static const swin_config name = { .width = width_, .heads = heads_, .window = window_, \
                                      .depths = { 2, 2, third, 2 }, .pretrained_windows = pretrained, \
                                      .block = block_new, .merge = merge_new };
#define SAME { 0 }
#define FINER { 12, 12, 12, 6 }
SWIN(tiny_8, 96, 3, 8, 6, SAME)
SWIN(tiny_16, 96, 3, 16, 6, SAME)
SWIN(small_8, 96, 3, 8, 18, SAME)
SWIN(small_16, 96, 3, 16, 18, SAME)
SWIN(base_8, 128, 4, 8, 18, SAME)
SWIN(base_16, 128, 4, 16, 18, SAME)
SWIN(base_12, 128, 4, 12, 18, SAME)
SWIN(base_12_16, 128, 4, 16, 18, FINER)
SWIN(base_12_24, 128, 4, 24, 18, FINER)
SWIN(large_12, 192, 6, 12, 18, SAME)
SWIN(large_12_16, 192, 6, 16, 18, FINER)
SWIN(large_12_24, 192, 6, 24, 18, FINER)

const model_info ag_models_swin_v2[] = {
    SWIN_ROW("swinv2_tiny_window8_256", 256, tiny_8) SWIN_ROW("swinv2_tiny_window16_256", 256, tiny_16)
    SWIN_ROW("swinv2_small_window8_256", 256, small_8) SWIN_ROW("swinv2_small_window16_256", 256, small_16)
    SWIN_ROW("swinv2_base_window8_256", 256, base_8) SWIN_ROW("swinv2_base_window16_256", 256, base_16)
    SWIN_ROW("swinv2_base_window12_192", 192, base_12)
    SWIN_ROW("swinv2_base_window12to16_192to256", 256, base_12_16)
    SWIN_ROW("swinv2_base_window12to24_192to384", 384, base_12_24)
    SWIN_ROW("swinv2_large_window12_192", 192, large_12)
    SWIN_ROW("swinv2_large_window12to16_192to256", 256, large_12_16)
    SWIN_ROW("swinv2_large_window12to24_192to384", 384, large_12_24)
    { 0 }
};
