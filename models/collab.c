/* models/collab.c - the recommender's models (fastai/collab.py). */
#include <math.h>
#include "models/models.h"
#include "ops/ops.h"

static const double init_std = 0.01;        /* fastai's Embedding */

static void check_range(const char *at, double lo, double hi)
{
    if (!(lo <= hi) || !isfinite(lo) || !isfinite(hi)) ag_fail(at, "the range .lo = %g to .hi = %g is none", lo, hi);
}

static ag_tensor *in_range(const char *at, ag_tensor *y, double lo, double hi)
{
    return hi > lo ? ag_sigmoid_range_(at, y, lo, hi) : y;
}

/* ---- dot, dot_bias ------------------------------------------------------------------------------------- */

typedef struct { nn_module base; nn_module *u_weight, *i_weight, *u_bias, *i_bias; ag_tensor *table[4]; double lo, hi; } dot;

static ag_tensor *dot_forward(nn_module *m, ag_tensor *ids)
{
    const dot *s = NN_SELF(dot, m);
    const ag_dot_opts range = { .lo = s->lo, .hi = s->hi };
    return ag_dot_bias_(m->at, s->table[0], s->table[1], s->table[2], s->table[3], ids, range);
}

static dot *dot_new(const char *at, const char *type, int64_t users, int64_t items, int64_t factors, model_dot_opts o)
{
    const nn_embedding_opts e = { .std = init_std, .sparse = o.sparse };
    check_range(at, o.lo, o.hi);
    dot *s = (dot *)(void *)ag_nn_new_(at, sizeof *s, type, dot_forward);
    s->lo = o.lo, s->hi = o.hi;
    NN_CHILD(s, u_weight, ag_nn_embedding_(at, users, factors, e));
    NN_CHILD(s, i_weight, ag_nn_embedding_(at, items, factors, e));
    s->table[0] = nn_param_at(s->u_weight, 0), s->table[1] = nn_param_at(s->i_weight, 0);
    return s;
}

nn_module *ag_model_dot_(const char *at, int64_t users, int64_t items, int64_t factors, model_dot_opts opts)
{
    return &dot_new(at, "dot", users, items, factors, opts)->base;
}

nn_module *ag_model_dot_bias_(const char *at, int64_t users, int64_t items, int64_t factors, model_dot_opts opts)
{
    const nn_embedding_opts e = { .std = init_std, .sparse = opts.sparse };
    dot *s = dot_new(at, "dot_bias", users, items, factors, opts);
    NN_CHILD(s, u_bias, ag_nn_embedding_(at, users, 1, e));
    NN_CHILD(s, i_bias, ag_nn_embedding_(at, items, 1, e));
    s->table[2] = nn_param_at(s->u_bias, 0), s->table[3] = nn_param_at(s->i_bias, 0);
    return &s->base;
}

/* ---- embedding_nn -------------------------------------------------------------------------------------- */

typedef struct { nn_module base; nn_module *embed[2], *layers; double lo, hi; } embedding_nn;

static ag_tensor *embedding_nn_forward(nn_module *m, ag_tensor *ids)
{
    const embedding_nn *s = NN_SELF(embedding_nn, m);
    ag_tensor *side[2];
    for (int k = 0; k < 2; k++) side[k] = nn_call(s->embed[k], ag_select_(m->at, ids, 1, k));
    ag_tensor *y = nn_call(s->layers, ag_concat_(m->at, 1, 2, side));
    return in_range(m->at, ag_select_(m->at, y, 1, 0), s->lo, s->hi);
}

int64_t ag_model_embedding_width(int64_t n)
{
    const int64_t width = (int64_t)nearbyint(1.6 * pow((double)n, 0.56));
    return width < 600 ? width : 600;
}

nn_module *ag_model_embedding_nn_(const char *at, int64_t users, int64_t items, model_nn_opts o)
{
    const int64_t n[2] = { users, items }, given[2] = { o.user_width, o.item_width };
    int64_t width = 0;
    if (!o.layers.size[0]) o.layers = MODEL_LAYERS(100, 50);
    check_range(at, o.lo, o.hi);
    embedding_nn *s = NN_NEW(embedding_nn, embedding_nn_forward);
    s->base.at = at, s->lo = o.lo, s->hi = o.hi;
    for (int k = 0; k < 2; k++) {
        const int64_t w = given[k] ? given[k] : ag_model_embedding_width(n[k]);
        const nn_embedding_opts e = { .std = init_std, .sparse = o.sparse };
        s->embed[k] = NN_CHILD_AT(s, "embeds", k, ag_nn_embedding_(at, n[k], w, e));
        width += w;
    }
    NN_CHILD(s, layers, nn_sequential(NULL));
    for (int i = 0; i < MODEL_MAX_LAYERS && o.layers.size[i]; i++) {
        const int64_t size = o.layers.size[i];
        nn_module *norm = nn_batch_norm1d(size);
        ag_fill(nn_param(norm, "bias"), 1e-3);
        nn_module *block = nn_sequential(ag_nn_linear_(at, width, size, (nn_linear_opts){ .no_bias = true }), nn_relu(), norm);
        if (o.dropout > 0) nn_append(block, nn_dropout(o.dropout));
        nn_append(s->layers, block);
        width = size;
    }
    nn_append(s->layers, nn_sequential(nn_linear(width, 1)));
    return &s->base;
}
