/* models/mobile.c - inverted residual blocks (Sandler et al. 2018; Howard et al. 2019), and nets of them, as timm's
 * _efficientnet_builder.py. */
#include "models/mobile.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "nn/layers.h"
#include "ops/ops.h"

/* Rounded to a multiple of 8, at least 8 and not below nine tenths of v. */
static int64_t round_channels(double v)
{
    int64_t n = (int64_t)(v + 4) / 8 * 8;
    if (n < 8) n = 8;
    return (double)n < 0.9 * v ? n + 8 : n;
}

/* ---- squeeze and excitation: x hardsigmoid(expand(relu(reduce(mean of x)))) ---------------------------- */

typedef struct { nn_module base; nn_module *conv_reduce, *conv_expand; } excite;

static ag_tensor *excite_forward(nn_module *m, ag_tensor *x)
{
    const excite *s = NN_SELF(excite, m);
    ag_tensor *y = ag_mean_(m->at, x, (ag_reduce_opts){ .axes = AG_AXES(1, 2), .keepdim = true });
    y = nn_call(s->conv_expand, ag_relu_(m->at, nn_call(s->conv_reduce, y)));
    return ag_mul_(m->at, x, ag_hardsigmoid_(m->at, y));
}

static nn_module *excite_new(int64_t channels, double share)
{
    excite *s = NN_NEW(excite, excite_forward);
    const int64_t reduced = round_channels((double)channels * share);
    NN_CHILD(s, conv_reduce, nn_conv2d(channels, reduced, 1));
    NN_CHILD(s, conv_expand, nn_conv2d(reduced, channels, 1));
    return &s->base;
}

/* ---- block --------------------------------------------------------------------------------------------- */

typedef struct { char kind[4]; int repeat, kernel, stride, channels; double expand, excite; bool relu; } block_spec;

static block_spec parse(const char *text)
{
    block_spec b = { .repeat = 1, .kernel = 3, .stride = 1, .expand = 1 };
    snprintf(b.kind, sizeof b.kind, "%.2s", text);
    for (const char *p = strchr(text, '_'); p && *p == '_'; p += 1 + strcspn(p + 1, "_ ")) {
        const char *value = p + 2;
        if (!strncmp(p, "_se", 3)) b.excite = strtod(p + 3, NULL);
        else if (!strncmp(p, "_nre", 4)) b.relu = true;
        else if (p[1] == 'r') b.repeat = atoi(value);
        else if (p[1] == 'k') b.kernel = atoi(value);
        else if (p[1] == 's') b.stride = atoi(value);
        else if (p[1] == 'e') b.expand = strtod(value, NULL);
        else if (p[1] == 'c') b.channels = atoi(value);
    }
    return b;
}

typedef struct {
    nn_module base;
    nn_module *conv[3], *bn[3], *se;
    int n;
    ag_activation activation, last;
    bool skip;
    double drop_path;
} block;

static ag_tensor *block_forward(nn_module *m, ag_tensor *x)
{
    const block *s = NN_SELF(block, m);
    const int last = s->n - 1;
    const bool drops = s->skip && m->training && s->drop_path > 0;
    ag_tensor *y = x;
    {
        AG_SCOPE;
        for (int i = 0; i < last; i++) y = nn_conv_norm_act(s->conv[i], s->bn[i], y, s->activation, NULL);
        if (s->se) y = nn_call(s->se, y);
        ag_keep(y);
    }
    y = nn_conv_norm_act(s->conv[last], s->bn[last], y, s->last, s->skip && !drops ? x : NULL);
    return drops ? nn_residual(m, x, y, NULL, s->drop_path) : y;
}

static nn_module *norm_new(const char *at, const ag_mobile *c, int64_t channels)
{
    return ag_nn_batch_norm2d_(at, channels, (nn_norm_opts){ .eps = c->eps });
}

static nn_module *conv_new(const char *at, const ag_mobile *c, int64_t in, int64_t out, int kernel, int stride, int64_t groups)
{
    const int pad = c->same ? 0 : kernel / 2;
    return ag_nn_conv2d_(at, in, out, kernel, (nn_conv2d_opts){ .stride = stride, .pad = pad, .same = c->same,
                                                               .groups = (int)groups, .no_bias = true });
}

static void add_layer(const char *at, block *s, const char *name, nn_module *conv, nn_module *norm)
{
    static const char *const bn[] = { "bn1", "bn2", "bn3" };
    s->conv[s->n] = ag_nn_child_(at, &s->base, name, -1, conv);
    s->bn[s->n] = ag_nn_child_(at, &s->base, bn[s->n], -1, norm);
    s->n++;
}

static nn_module *block_new(const char *at, const ag_mobile *c, const block_spec *b, int64_t in, int stride,
                            double drop_path)
{
    block *s = NN_NEW(block, block_forward);
    const int64_t out = round_channels(b->channels * c->width);
    const bool plain = !strcmp(b->kind, "cn"), inverted = !strcmp(b->kind, "ir");
    const int64_t middle = inverted ? round_channels((double)in * b->expand) : in;
    s->base.at = at, s->drop_path = drop_path, s->skip = !plain && stride == 1 && in == out;
    s->activation = b->relu ? AG_LINEAR_RELU : c->plan->activation;
    s->last = plain ? s->activation : AG_LINEAR_PLAIN;
    if (plain) {
        add_layer(at, s, "conv", conv_new(at, c, in, out, b->kernel, stride, 1), norm_new(at, c, out));
        return &s->base;
    }
    if (inverted) add_layer(at, s, "conv_pw", conv_new(at, c, in, middle, 1, 1, 1), norm_new(at, c, middle));
    add_layer(at, s, "conv_dw", conv_new(at, c, middle, middle, b->kernel, stride, middle), norm_new(at, c, middle));
    if (b->excite > 0) NN_CHILD(s, se, excite_new(middle, b->excite));
    add_layer(at, s, inverted ? "conv_pwl" : "conv_pw", conv_new(at, c, middle, out, 1, 1, 1), norm_new(at, c, out));
    return &s->base;
}

/* ---- net ----------------------------------------------------------------------------------------------- */

typedef struct {
    union { nn_module base; model_vision vision; };
    nn_module *conv_stem, *bn1, *blocks, *conv_head, *bn2;
    ag_activation activation;
} mobile;

static ag_tensor *features(nn_module *m, ag_tensor *x)
{
    const mobile *s = NN_SELF(mobile, m);
    AG_SCOPE;
    x = nn_call(s->blocks, nn_conv_norm_act(s->conv_stem, s->bn1, x, s->activation, NULL));
    return ag_keep(s->bn2 ? nn_conv_norm_act(s->conv_head, s->bn2, x, s->activation, NULL) : x);
}

static ag_tensor *pool(nn_module *m, ag_tensor *x)
{
    const mobile *s = NN_SELF(mobile, m);
    if (s->bn2) return ag_mean_(m->at, x, (ag_reduce_opts){ .axes = AG_AXES(1, 2) });
    x = nn_call(s->conv_head, ag_mean_(m->at, x, (ag_reduce_opts){ .axes = AG_AXES(1, 2), .keepdim = true }));
    return ag_nn_activated(m->at, ag_reshape_(m->at, x, AG_SHAPE(x->shape[0], -1)), s->activation);
}

/* The next block of a stage's text, repeated as the plan says; moves on to the one after it. */
static block_spec next_block(const ag_mobile *c, int stage, const char **text)
{
    block_spec b = parse(*text);
    const bool end = !stage || stage == AG_MOBILE_STAGES - 1 || !c->plan->stage[stage + 1];
    if (!c->plan->fixed_ends || !end) b.repeat = (int)ceil(b.repeat * c->depth);
    *text += strcspn(*text, " ");
    *text += strspn(*text, " ");
    return b;
}

static int count_blocks(const ag_mobile *c)
{
    int n = 0;
    for (int i = 0; i < AG_MOBILE_STAGES && c->plan->stage[i]; i++)
        for (const char *text = c->plan->stage[i]; *text;) n += next_block(c, i, &text).repeat;
    return n;
}

/* The stages below s->blocks; returns the channels of the last. */
static int64_t add_stages(const char *at, mobile *s, const ag_mobile *c, int64_t in)
{
    const int total = count_blocks(c);
    int done = 0;
    for (int i = 0; i < AG_MOBILE_STAGES && c->plan->stage[i]; i++) {
        nn_module *stage = nn_append(s->blocks, nn_sequential(NULL));
        if (s->vision.opts.recompute) nn_recompute(stage, true);
        for (const char *text = c->plan->stage[i]; *text;) {
            const bool first = !stage->n_slots;
            const block_spec b = next_block(c, i, &text);
            for (int k = 0; k < b.repeat; k++, done++) {
                const double drop_path = s->vision.opts.drop_path * done / total;
                nn_append(stage, block_new(at, c, &b, in, first && !k ? b.stride : 1, drop_path));
                in = round_channels(b.channels * c->width);
            }
        }
    }
    return in;
}

/* Convolutions N(0, 2 / fan_out), the classifier U(-b, b), b = 1 / sqrt(classes). */
static void initialise(nn_module *net)
{
    for (int64_t i = 0, n = nn_param_count(net); i < n; i++) {
        ag_tensor *t = nn_param_at(net, i);
        const double out = nn_match("*conv_dw.weight", t->name) ? 1 : (double)t->shape[0];
        if (t->ndim == 4) nn_init_normal(t, 0, sqrt(2 / (out * (double)t->shape[2] * (double)t->shape[3])));
        else if (t->ndim == 2) nn_init_uniform(t, -1 / sqrt(out), 1 / sqrt(out));
        else if (nn_match("*.bias", t->name)) ag_fill(t, 0);
    }
}

nn_module *ag_mobile_create(const char *at, const model_info *info, model_opts opts)
{
    const ag_mobile *c = info->config;
    const ag_mobile_plan *p = c->plan;
    const int64_t stem = c->fixed_stem ? p->stem : round_channels(p->stem * c->width);
    mobile *s = MODEL_NEW(mobile, at, info, opts, features, pool);
    s->activation = p->activation;
    NN_CHILD(s, conv_stem, conv_new(at, c, opts.in_channels, stem, 3, 2, 1));
    NN_CHILD(s, bn1, norm_new(at, c, stem));
    NN_CHILD(s, blocks, nn_sequential(NULL));
    const int64_t last = add_stages(at, s, c, stem);
    if (p->pool_first) {
        NN_CHILD(s, conv_head, nn_conv2d(last, p->head, 1));
    } else {
        NN_CHILD(s, conv_head, conv_new(at, c, last, p->head, 1, 1, 1));
        NN_CHILD(s, bn2, norm_new(at, c, p->head));
    }
    ag_model_add_classifier_(at, &s->vision, &s->base, "classifier", p->head);
    initialise(&s->base);
    return &s->base;
}
