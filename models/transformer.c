/* models/transformer.c - the parts that vision transformers share. */
#include "models/transformer.h"

static nn_module *initialised(nn_module *linear)
{
    nn_init_trunc_normal(nn_param_at(linear, 0), 0, 0.02, -2, 2);
    if (nn_param_count(linear) > 1) ag_fill(nn_param_at(linear, 1), 0);
    return linear;
}

nn_module *ag_transformer_linear(const char *at, int64_t in, int64_t out, nn_linear_opts opts)
{
    return initialised(ag_nn_linear_(at, in, out, opts));
}

void ag_transformer_classifier(const char *at, model_vision *s, nn_module *parent, const char *name, int64_t width)
{
    nn_module *head = ag_model_add_classifier_(at, s, parent, name, width);
    if (head) initialised(head);
}

/* ---- mlp ----------------------------------------------------------------------------------------------- */

typedef struct { nn_module base; nn_module *fc1, *fc2; ag_tensor *w1, *b1, *w2, *b2; } mlp;

static ag_tensor *mlp_forward(nn_module *m, ag_tensor *x)
{
    const mlp *s = NN_SELF(mlp, m);
    return ag_mlp_(m->at, x, s->w1, s->b1, s->w2, s->b2, AG_LINEAR_GELU);
}

nn_module *ag_transformer_mlp(const char *at, int64_t width, int64_t hidden)
{
    mlp *s = NN_NEW(mlp, mlp_forward);
    s->base.at = at;
    NN_CHILD(s, fc1, ag_transformer_linear(at, width, hidden, (nn_linear_opts){ 0 }));
    NN_CHILD(s, fc2, ag_transformer_linear(at, hidden, width, (nn_linear_opts){ 0 }));
    s->w1 = nn_param_at(s->fc1, 0), s->b1 = nn_param_at(s->fc1, 1);
    s->w2 = nn_param_at(s->fc2, 0), s->b2 = nn_param_at(s->fc2, 1);
    return &s->base;
}

/* ---- patches ------------------------------------------------------------------------------------------- */

typedef struct { nn_module base; nn_module *proj, *norm; } patch_embed;

static ag_tensor *patch_embed_forward(nn_module *m, ag_tensor *x)
{
    const patch_embed *s = NN_SELF(patch_embed, m);
    x = nn_call(s->proj, x);
    return s->norm ? nn_call(s->norm, x) : x;
}

nn_module *ag_patch_embed(const char *at, int64_t channels, int64_t width, int64_t patch, bool norm)
{
    patch_embed *s = NN_NEW(patch_embed, patch_embed_forward);
    s->base.at = at;
    NN_CHILD(s, proj, ag_nn_conv2d_(at, channels, width, (int)patch, (nn_conv2d_opts){ .stride = (int)patch }));
    if (norm) NN_CHILD(s, norm, ag_nn_layer_norm_(at, width, (nn_norm_opts){ 0 }));
    return &s->base;
}
