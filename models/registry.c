/* models/registry.c - what all image models share: the list, checking images, classifier, files. */
#include "models/registry.h"
#include <stdio.h>
#include <string.h>
#include "core/memory.h"
#include "core/nearest.h"
#include "core/random.h"
#include "nn/module.h"
#include "ops/ops.h"

#define AG_FAMILY(name) ag_models_##name,
static const model_info *const families[] = { AG_MODEL_FAMILIES(AG_FAMILY) NULL };

/* ---- the list ------------------------------------------------------------------------------------------ */

static const model_info *next(const model_info *m, int *family)
{
    if (m && m[1].name) return m + 1;
    if (m) ++*family;
    while (families[*family] && !families[*family]->name) ++*family;
    return families[*family];
}

const model_info **ag_model_list_(const char *at, const char *patterns)
{
    int n = 0, family = 0;
    (void)at;
    for (const model_info *m = NULL; (m = next(m, &family));) n++;
    const model_info **list = ag_alloc(n + 1, sizeof *list);
    ag_defer(ag_free, list);
    n = family = 0;
    for (const model_info *m = NULL; (m = next(m, &family));)
        if (nn_match(patterns, m->name)) list[n++] = m;
    return list;
}

enum { SUGGESTED = 3 };

const model_info *ag_model_find_(const char *at, const char *name)
{
    const model_info *near[SUGGESTED] = { 0 };
    double distance[SUGGESTED] = { 1e9, 1e9, 1e9 };
    char text[256] = "";
    int family = 0;
    for (const model_info *m = NULL; (m = next(m, &family));) {
        double d = ag_edit_distance(name, m->name);
        const model_info *candidate = m;
        if (!strcmp(name, m->name)) return m;
        for (int i = 0; i < SUGGESTED; i++) {
            if (d >= distance[i]) continue;
            const double worse = distance[i];
            const model_info *out = near[i];
            distance[i] = d, near[i] = candidate;
            d = worse, candidate = out;
        }
    }
    for (int i = 0; i < SUGGESTED && near[i]; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i ? ", " : "", near[i]->name);
    ag_fail(at, "there is no model '%s'; the nearest are %s (model_list(\"*\") has all)", name, text);
}

/* ---- making -------------------------------------------------------------------------------------------- */

static void check_opts(const char *at, const char *name, const model_opts *o)
{
    if (o->classes < -1)
        ag_fail(at, "%s: .classes = %" PRId64 "; it is positive, or -1 for no classifier", name, o->classes);
    if (o->in_channels < 0) ag_fail(at, "%s: .in_channels = %" PRId64 "; it is positive", name, o->in_channels);
    if (!(o->drop_path >= 0 && o->drop_path < 1) || !(o->dropout >= 0 && o->dropout < 1))
        ag_fail(at, "%s: .drop_path = %g, .dropout = %g; they are 0 or more and below 1", name, o->drop_path, o->dropout);
}

/* Of the side h x w, wanted by a net that was made for `size`. */
static void check_sides(const char *at, const model_info *m, int64_t size, int64_t h, int64_t w)
{
    if (m->fixed_size && (h != size || w != size))
        ag_fail(at,
                "%s needs %" PRId64 " x %" PRId64 " images, got %" PRId64 " x %" PRId64 ": resize to squares of that size, or "
                "make the net with .size", m->name, size, size, h, w);
    if (m->multiple > 1 && (h % m->multiple || w % m->multiple))
        ag_fail(at, "%s: sides of images must be multiples of %" PRId64 ", got %" PRId64 " x %" PRId64, m->name, m->multiple,
                h, w);
    if (h < m->least || w < m->least)
        ag_fail(at, "%s: sides of images must be at least %" PRId64 ", got %" PRId64 " x %" PRId64, m->name, m->least, h, w);
}

nn_module *ag_model_create_(const char *at, const char *name, model_opts opts)
{
    const model_info *m = ag_model_find_(at, name);
    check_opts(at, name, &opts);
    if (opts.size) {
        model_info any = *m;
        any.fixed_size = false;
        check_sides(at, &any, opts.size, opts.size, opts.size);
    }
    opts.size = opts.size ? opts.size : m->size;
    opts.classes = opts.classes < 0 ? 0 : opts.classes ? opts.classes : 1000;
    opts.in_channels = opts.in_channels ? opts.in_channels : 3;
    return m->create(at, m, opts);
}

static ag_tensor *features_for_pool(const char *at, nn_module *net, ag_tensor *x);

static ag_tensor *forward(nn_module *m, ag_tensor *x)
{
    return ag_model_forward_head_(m->at, m, features_for_pool(m->at, m, x));
}

ag_tensor *ag_model_dropout(const model_vision *s, ag_tensor *f)
{
    const double p = s->base.training ? s->opts.dropout : 0;
    return p > 0 ? ag_dropout_(s->base.at, f, p, ag_rng_draw()) : f;
}

model_vision *ag_model_new_(const char *at, size_t size, const model_info *info, model_opts opts,
                            ag_tensor *(*features)(nn_module *, ag_tensor *), ag_tensor *(*pool)(nn_module *, ag_tensor *))
{
    model_vision *s = (model_vision *)(void *)ag_nn_new_(at, size, info->name, forward);
    s->info = info, s->opts = opts, s->features = features, s->pool = pool;
    return s;
}

nn_module *ag_model_add_classifier_(const char *at, model_vision *s, nn_module *parent, const char *name, int64_t width)
{
    s->width = width;
    if (!s->opts.classes) return NULL;
    nn_module *fc = ag_nn_linear_(at, width, s->opts.classes, (nn_linear_opts){ 0 });
    return s->classifier = ag_nn_child_(at, parent, name, -1, fc);
}

double ag_model_drop_path(const model_vision *s, int i, int n)
{
    return n > 1 ? s->opts.drop_path * i / (n - 1) : 0;
}

/* ---- using --------------------------------------------------------------------------------------------- */

model_vision *ag_model_vision(const char *at, const nn_module *net)
{
    if (net->forward != forward) ag_fail(at, "a %s is no image model made by model_create", net->type);
    return (model_vision *)(uintptr_t)net;
}

const model_info *ag_model_info_of_(const char *at, const nn_module *net)
{
    return ag_model_vision(at, net)->info;
}

static void check_images(const char *at, const model_vision *s, const ag_tensor *x)
{
    char shape[128];
    ag_describe(x, shape, sizeof shape);
    const bool channels_first = x->ndim == 4 && x->shape[1] == s->opts.in_channels;
    if (x->ndim != 4 || x->shape[3] != s->opts.in_channels)
        ag_fail(at, "%s takes images [N, H, W, %" PRId64 "], got %s%s", s->info->name, s->opts.in_channels, shape,
                channels_first ? "; ag_permute(x, 0, 2, 3, 1) moves the channels last" : "");
    if (x->dtype != AG_F32 && x->dtype != AG_BF16)
        ag_fail(at, "%s takes f32 images, got %s; convert with ag_cast, divide by 255 and normalise", s->info->name, shape);
    if (!x->shape[0]) ag_fail(at, "%s: the batch is empty, %s", s->info->name, shape);
    check_sides(at, s->info, s->opts.size, x->shape[1], x->shape[2]);
}

ag_tensor *ag_model_forward_features_(const char *at, nn_module *net, ag_tensor *x)
{
    const model_vision *s = ag_model_vision(at, net);
    check_images(at, s, x);
    return s->features(net, x);
}

static ag_tensor *features_for_pool(const char *at, nn_module *net, ag_tensor *x)
{
    const model_vision *s = ag_model_vision(at, net);
    check_images(at, s, x);
    return (s->for_pool ? s->for_pool : s->features)(net, x);
}

ag_tensor *ag_model_pool_(const char *at, nn_module *net, ag_tensor *features)
{
    return ag_model_vision(at, net)->pool(net, features);
}

ag_tensor *ag_model_forward_head_(const char *at, nn_module *net, ag_tensor *features)
{
    const model_vision *s = ag_model_vision(at, net);
    if (s->takes_map) return nn_call(s->classifier, features);
    if (s->classifier && s->logits) return s->logits(net, features);
    ag_tensor *f = ag_model_dropout(s, s->pool(net, features));
    return s->classifier ? nn_call(s->classifier, f) : f;
}

ag_tensor *ag_model_features_(const char *at, nn_module *net, ag_tensor *x)
{
    AG_SCOPE;
    return ag_keep(ag_model_vision(at, net)->pool(net, features_for_pool(at, net, x)));
}

void ag_model_set_classifier(const char *at, nn_module *net, nn_module *classifier, int64_t classes)
{
    model_vision *s = ag_model_vision(at, net);
    const char *dot = strrchr(s->info->head, '.'), *name = dot ? dot + 1 : s->info->head;
    char path[256];
    snprintf(path, sizeof path, "%.*s", dot ? (int)(dot - s->info->head) : 0, s->info->head);
    if (classifier) ag_nn_train(classifier, net->training);
    ag_nn_replace_(at, ag_nn_at(net, path), name, classifier);
    s->opts.classes = classes, s->classifier = classifier, s->takes_map = false;
    if (s->reset) s->reset(net);
}

void ag_nn_reset_classifier_(const char *at, nn_module *net, int64_t classes)
{
    if (classes < -1 || !classes)
        ag_fail(at, "nn_reset_classifier: %" PRId64 " classes; a positive number, or -1 for none", classes);
    AG_SCOPE;
    const int64_t width = ag_model_vision(at, net)->width;
    ag_model_set_classifier(at, net, classes < 0 ? NULL : ag_nn_linear_(at, width, classes, (nn_linear_opts){ 0 }),
                            classes < 0 ? 0 : classes);
}

/* ---- files --------------------------------------------------------------------------------------------- */

ag_tensor *ag_model_adapt_input_(const char *at, ag_tensor *weight, int64_t channels)
{
    AG_NO_GRAD;
    if (weight->ndim != 4 || channels < 1)
        ag_fail(at, "model_adapt_input: a weight [O, I, kh, kw] and 1 or more channels, got %d axes and %" PRId64, weight->ndim,
                channels);
    const int64_t in = weight->shape[1];
    enum { MOST_REPEATS = 64 };
    ag_tensor *parts[MOST_REPEATS];
    if (channels == in) return ag_keep(weight);
    if (channels == 1) return ag_keep(ag_sum_(at, weight, (ag_reduce_opts){ .axes = AG_AXES(1), .keepdim = true }));
    const int n = (int)((channels + in - 1) / in);
    if (n > MOST_REPEATS) ag_fail(at, "model_adapt_input: %" PRId64 " channels from %" PRId64, channels, in);
    for (int i = 0; i < n; i++) parts[i] = weight;
    ag_tensor *wide = ag_slice_(at, ag_concat_(at, 1, n, parts), 1, 0, channels);
    return ag_keep(ag_scale_(at, wide, (double)in / (double)channels));
}

static bool same_shape(const ag_tensor *t, ag_shape s)
{
    bool same = t->ndim == s.ndim;
    for (int i = 0; same && i < s.ndim; i++) same = t->shape[i] == s.dim[i];
    return same;
}

static ag_tensor *fitted(const char *at, const model_vision *s, const char *name, ag_tensor *t, const ag_tensor *to)
{
    const size_t n = strlen(s->info->first);
    ag_tensor *fit = NULL;
    if (!strncmp(name, s->info->first, n) && !strcmp(name + n, ".weight") && t->ndim == 4 && to->ndim == 4)
        fit = ag_model_adapt_input_(at, t, to->shape[1]);
    else if (s->adapt)
        fit = s->adapt((nn_module *)(uintptr_t)&s->base, name, t);
    return fit && same_shape(to, ag_shape_of(fit)) ? fit : NULL;
}

/* Loads what fits as it is, then what was made to fit. */
void ag_model_load_(const char *at, nn_module *net, const char *path, nn_load_opts opts)
{
    AG_NO_GRAD;
    const model_vision *s = ag_model_vision(at, net);
    const ag_weights f = ag_weights_open_(at, path);
    const int64_t n = ag_nn_named_count(net);
    char skip[4096];
    ag_named *own = ag_alloc(n, sizeof *own), *adapted = ag_alloc(n, sizeof *adapted);
    int64_t n_adapted = 0;
    ag_defer(ag_free, own);
    ag_defer(ag_free, adapted);
    ag_nn_to_named(net, own);
    size_t used = (size_t)snprintf(skip, sizeof skip, "%s %s", opts.skip ? opts.skip : "", s->ignored ? s->ignored : "");
    for (int64_t i = 0; i < n; i++) {
        const char *name = own[i].name;
        if ((opts.skip && nn_match(opts.skip, name)) || !ag_weights_has(f, name)) continue;
        if (same_shape(own[i].tensor, ag_weights_shape(f, name))) continue;
        ag_tensor *fit = fitted(at, s, name, ag_weights_get_(at, f, name), own[i].tensor);
        if (!fit || used + strlen(name) + 2 > sizeof skip) continue;
        used += (size_t)snprintf(skip + used, sizeof skip - used, " %s", name);
        adapted[n_adapted++] = (ag_named){ name, fit };
    }
    opts.skip = skip;
    ag_nn_load_weights(at, net, f, "", opts);
    for (int64_t i = 0; i < n_adapted; i++) ag_copy_(at, ag_nn_find_(at, net, adapted[i].name), adapted[i].tensor);
}
