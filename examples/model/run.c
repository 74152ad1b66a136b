/* run.c - a model on images in a file: its results, or the gradients of its parameters, into another file. */
#include <string.h>
#include "core/safetensors.h"
#include "model.h"

/* "x" [N, H, W, C]: f32 as it is; u8 pixels become (x / 255 - mean) / std. */
static ag_tensor *read_images(const options *o)
{
    const model_info *m = ag_model_find_(NULL, o->line.argument[0]);
    ag_tensor *x = ag_safetensors_get_(NULL, ag_safetensors_open_(NULL, o->input), "x");
    char shape[128];
    if (x->ndim != 4 || !ag_numel(x))
        ag_fail(NULL, "%s: \"x\" is %s, images [N, H, W, C] are needed", o->input,
                ag_describe(x, shape, sizeof shape));
    if (x->dtype != AG_U8) return x;
    if (x->shape[3] != 3)
        ag_fail(NULL, "%s: pixels of %" PRId64 " channels; the means are known of 3", o->input, x->shape[3]);
    real mean[3], scale[3];
    for (int k = 0; k < 3; k++) mean[k] = (real)(255 * m->mean[k]), scale[k] = (real)(1 / (255 * m->std[k]));
    return ag_mul(ag_sub(ag_cast(x, AG_F32), ag_from(AG_F32, mean, 3)), ag_from(AG_F32, scale, 3));
}

/* The model with the file's weights, for images like x; as many classes as the file has. */
static nn_module *read_model(const options *o, const ag_tensor *x)
{
    const model_info *m = ag_model_find_(NULL, o->line.argument[0]);
    options fit = *o;
    char head[128];
    fit.channels = x->shape[3];
    if (!o->size && m->fixed_size && x->shape[1] == x->shape[2]) fit.size = x->shape[1];
    {
        AG_SCOPE;
        const ag_weights w = ag_weights_open_(NULL, o->weights);
        snprintf(head, sizeof head, "%s.weight", m->head);
        if (!o->classes && ag_weights_has(w, head)) fit.classes = ag_weights_shape(w, head).dim[0];
        if (*ag_weights_choice(w)) fprintf(stderr, "%s: taking %s\n", o->weights, ag_weights_choice(w));
    }
    nn_module *net = make_model(&fit);
    ag_model_load_(NULL, net, o->weights, (nn_load_opts){ .skip = o->skip, .check_finite = o->finite });
    return net;
}

/* ---- forward ------------------------------------------------------------------------------------------- */

/* Of images begin .. end - 1, in f32. */
static void run_batch(const options *o, nn_module *net, ag_tensor *x, int64_t begin, int64_t end, ag_tensor **logits,
                      ag_tensor **features)
{
    PRECISION(o->precision);
    ag_tensor *map = model_forward_features(net, ag_slice(x, 0, begin, end));
    *logits = ag_keep(ag_cast(model_forward_head(net, map), AG_F32));
    *features = ag_keep(ag_cast(model_pool(net, map), AG_F32));
}

int forward(const options *o)
{
    ag_tensor *x = read_images(o);
    nn_module *net = read_model(o, x);
    const int64_t n = x->shape[0], batches = (n + o->batch - 1) / o->batch;
    ag_tensor **logits = ag_alloc(2 * batches, sizeof *logits), **features = logits + batches;
    char a[64], b[64];
    ag_defer(ag_free, logits);
    NN_EVAL(net);
    for (int64_t i = 0; i < batches; i++) {
        const int64_t end = (i + 1) * o->batch;
        run_batch(o, net, x, i * o->batch, end < n ? end : n, &logits[i], &features[i]);
    }
    const ag_named out[] = { { "logits", ag_concat_(AG_HERE, 0, (int)batches, logits) },
                             { "features", ag_concat_(AG_HERE, 0, (int)batches, features) } };
    ag_safetensors_save_(NULL, o->output, 2, out, 0, NULL);
    printf("%s: logits %s, features %s\n", o->output, ag_describe(out[0].tensor, a, sizeof a),
           ag_describe(out[1].tensor, b, sizeof b));
    return 0;
}

/* ---- grad ---------------------------------------------------------------------------------------------- */

/* "t" or "target", or the only tensor of the file. */
static ag_tensor *read_target(const options *o, int64_t images)
{
    const ag_safetensors *f = ag_safetensors_open_(NULL, o->target);
    const char *name = ag_safetensors_has(f, "t") ? "t" : ag_safetensors_has(f, "target") ? "target" : NULL;
    char shape[128];
    if (!name && ag_safetensors_count(f) == 1) name = ag_safetensors_name(f, 0);
    if (!name)
        ag_fail(NULL, "%s: a tensor \"t\" is needed, classes i64 [N] or probabilities f32 [N, classes]", o->target);
    ag_tensor *t = ag_safetensors_get(f, name);
    if (t->ndim < 1 || t->shape[0] != images)
        ag_fail(NULL, "%s: targets %s for %" PRId64 " images", o->target, ag_describe(t, shape, sizeof shape), images);
    return t->dtype == AG_F32 ? t : ag_cast(t, AG_I64);
}

ag_tensor *loss_of(const options *o, nn_module *net, ag_tensor *x, ag_tensor *target)
{
    PRECISION(o->precision);
    return ag_keep(ag_cross_entropy(ag_cast(nn_call(net, x), AG_F32), target));
}

/* In training mode: batch statistics, no drop-path, no dropout. */
int gradients(const options *o)
{
    ag_tensor *x = read_images(o), *target = read_target(o, x->shape[0]);
    nn_module *net = read_model(o, x);
    const int64_t n = nn_param_count(net);
    ag_named *out = ag_alloc(n, sizeof *out);
    ag_defer(ag_free, out);
    ag_tensor *loss = loss_of(o, net, x, target);
    ag_backward(loss);
    for (int64_t i = 0; i < n; i++) {
        ag_tensor *p = nn_param_at(net, i);
        out[i] = (ag_named){ p->name, p->grad ? p->grad : ag_scale(ag_detach(p), 0) };
    }
    ag_safetensors_save_(NULL, o->output, n, out, 0, NULL);
    printf("%s: gradients of %" PRId64 " parameters, loss %.9g\n", o->output, n, ag_item(loss));
    return 0;
}
