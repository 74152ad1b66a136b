#include "models/vision_learner.h"
#include <stdio.h>
#include <string.h>
#include "core/memory.h"
#include "nn/plan.h"

static int64_t classes_of(const data_targets *t)
{
    int64_t n = 0;
    for (int i = 0; i < t->n; i++) n += t->target[i].classes;
    return n;
}

static nn_module *make_net(const char *at, const model_info *info, const data_loaders *dls, const vision_learner_opts *o,
                           ag_shape image)
{
    nn_module *net = ag_model_create_(at, info->name, (model_opts){
        .classes = classes_of(&dls->targets), .size = image.dim[1], .drop_path = o->drop_path,
        .dropout = o->dropout, .recompute = o->recompute });
    const bool wanted = o->head && !strcmp(o->head, "fastai");
    if (o->head && !wanted && strcmp(o->head, "timm"))
        ag_fail(at, "vision_learner: .head = \"%s\"; it is \"fastai\" or \"timm\"", o->head);
    if (wanted || (o->weights && !o->head && model_takes_fastai_head(net)))
        ag_model_use_fastai_head_(at, net, classes_of(&dls->targets));
    if (!o->weights) return net;
    char *others = ag_sprintf("%s.* optim.* callback.*", info->head);
    ag_defer(ag_free, others);
    ag_model_load_(at, net, o->weights, (nn_load_opts){ .skip = others });
    return net;
}

static optim *make_optimizer(const char *at, nn_module *net, const vision_learner_opts *o)
{
    optim_adam_opts a = { .fastai = true, .weight_decay = o->learner.weight_decay };
    if (o->weights) a.groups = OPTIM_GROUPS({ .params = model_group(net, 0, 2) });
    return ag_optim_adamw_(at, net, 1e-3, a);
}

static void tell_plan(const char *at, nn_module *net, ag_shape batch, const learner_opts *o)
{
    const bool narrow = o->precision && o->precision[0] == 'b';
    const ag_plan p = ag_memory_plan_(at, net, batch, (ag_plan_opts){ .train = true, .precision = narrow ? AG_BF16 : AG_F32 });
    printf("a batch of %" PRId64 " x %" PRId64 " x %" PRId64 " needs %.0f MB by plan, of %.0f\n", batch.dim[0], batch.dim[1],
           batch.dim[2], (double)p.resident / 1e6, (double)ag_memory_budget(nn_param_at(net, 0)->device) / 1e6);
}

learner *ag_vision_learner_(const char *at, const data_loaders *dls, const char *arch, vision_learner_opts o)
{
    const model_info *info = ag_model_find_(at, arch);
    const ag_shape batch = ag_data_batch_shape(dls->train);
    if (info->fixed_size && batch.dim[1] != batch.dim[2])
        ag_fail(at, "%s takes squares, the loaders give images of %" PRId64 " x %" PRId64, arch, batch.dim[1], batch.dim[2]);
    data_stats stats = { { 0 }, { 0 } };
    for (int k = 0; k < 3; k++) stats.mean[k] = (float)info->mean[k], stats.std[k] = (float)info->std[k];
    ag_data_normalize_default(dls, stats);
    nn_module *net = make_net(at, info, dls, &o, batch);
    learner_opts l = o.learner;
    l.targets = dls->targets;
    if (!l.opt) l.opt = make_optimizer(at, net, &o);
    if (!l.quiet) tell_plan(at, net, batch, &l);
    return ag_learner_new_(at, dls->train, dls->valid, net, NULL, l);
}
