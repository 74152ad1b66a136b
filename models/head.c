/* models/head.c - fastai's classifier for pretrained bodies, in the place of the model's own. */
#include "models/registry.h"
#include "nn/vision.h"
#include "ops/ops.h"

enum { HIDDEN = 512 };

static nn_module *norm(const char *at, int64_t channels)
{
    nn_module *m = ag_nn_batch_norm1d_(at, channels, (nn_norm_opts){ 0 });
    ag_fill_(at, ag_nn_find_(at, m, "bias"), 1e-3);
    return m;
}

static nn_module *linear(const char *at, int64_t in, int64_t out)
{
    nn_module *m = ag_nn_linear_(at, in, out, (nn_linear_opts){ .no_bias = true });
    ag_nn_init_kaiming_normal(ag_nn_find_(at, m, "weight"), 0);
    return m;
}

/* What the body makes of an image: a map [1, h, w, C] or tokens. */
static ag_shape features_of(const char *at, nn_module *net, const model_vision *s)
{
    AG_SCOPE;
    NN_EVAL(net);
    ag_tensor *x = ag_full_(at, 0, AG_SHAPE(1, s->opts.size, s->opts.size, s->opts.in_channels));
    return ag_shape_of(ag_model_forward_features_(at, net, ag_to(x, nn_param_at(net, 0)->device)));
}

bool ag_model_takes_fastai_head(const nn_module *net)
{
    return !ag_model_vision(NULL, net)->logits;
}

void ag_model_use_fastai_head_(const char *at, nn_module *net, int64_t classes)
{
    model_vision *s = ag_model_vision(at, net);
    if (classes < 1) ag_fail(at, "model_use_fastai_head: %" PRId64 " classes; a positive number", classes);
    if (!ag_model_takes_fastai_head(net))
        ag_fail(at, "model_use_fastai_head: %s has two classifiers that learn from different tokens; it keeps its own head",
                s->info->name);
    AG_SCOPE;
    const ag_shape f = features_of(at, net, s);
    const bool map = f.ndim == 4;
    const int64_t in = map ? 2 * f.dim[3] : s->width;
    nn_module *head = ag_nn_sequential_(at, (nn_module *[]){
        map ? ag_nn_concat_pool2d_(at) : ag_nn_identity_(at), norm(at, in), ag_nn_dropout_(at, 0.25), linear(at, in, HIDDEN),
        ag_nn_activation_(at, "relu"), norm(at, HIDDEN), ag_nn_dropout_(at, 0.5), linear(at, HIDDEN, classes), NULL });
    ag_model_set_classifier(at, net, head, classes);
    s->takes_map = map;
}
