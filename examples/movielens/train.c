/* train.c - learning from ratings: the script this program exists for. */
#include <stdio.h>
#include <string.h>
#include "core/io.h"
#include "movielens.h"

nn_module *make_model(const options *o, int64_t users, int64_t items)
{
    const bool rows = !strcmp(o->optimizer, "lazy");
    if (!strcmp(o->model, "dot")) return model_dot(users, items, o->factors, .lo = o->lo, .hi = o->hi, .sparse = rows);
    if (!strcmp(o->model, "bias")) return model_dot_bias(users, items, o->factors, .lo = o->lo, .hi = o->hi, .sparse = rows);
    return model_embedding_nn(users, items, .layers = o->layers, .lo = o->lo, .hi = o->hi, .sparse = rows);
}

optim *make_optimizer(const options *o, nn_module *net)
{
    if (!strcmp(o->optimizer, "sgd")) return optim_sgd(net, o->lr, .weight_decay = o->wd);
    if (!strcmp(o->optimizer, "adam")) return optim_adam(net, o->lr, .beta2 = 0.99, .eps = 1e-5, .weight_decay = o->wd);
    return optim_adamw(net, o->lr, .beta2 = 0.99, .eps = 1e-5, .weight_decay = o->wd);
}

int train(const options *o)
{
    options_require_writable(&o->line, o->save);
    const ratings data = ratings_read(o->ratings, o->by, false);
    const batches b = ratings_batches(&data, o);
    nn_module *net = make_model(o, b.n_users, b.n_items);
    char *hint = o->save ? options_resume_command(&o->line, o->save) : NULL;
    learner *l = learner_new(b.train, b.valid, net, learner_mse, .opt = make_optimizer(o, net), .metrics = { learner_rmse },
                             .accumulate = (int)o->accumulate, .checkpoint = o->save, .resume_hint = hint, .log = o->log);
    ag_meta meta[MODEL_META];
    learner_set_meta(l, model_meta(o, &data, &b, meta), meta);
    if (o->resume) learner_resume(l, o->resume);
    learner_fit_one_cycle(l, (int)o->epochs, o->lr);
    if (o->save && !l->interrupted) printf("saved in %s\n", o->save);
    ag_free(hint);
    return l->interrupted ? 130 : 0;
}

int lr_find(const options *o)
{
    options_require_writable(&o->line, o->out);
    const ratings data = ratings_read(o->ratings, o->by, false);
    const batches b = ratings_batches(&data, o);
    nn_module *net = make_model(o, b.n_users, b.n_items);
    learner *l = learner_new(b.train, b.valid, net, learner_mse, .opt = make_optimizer(o, net));
    const learner_rates r = learner_lr_find(l);
    printf("valley %.2g   slide %.2g   steep %.2g   minimum/10 %.2g\n", r.valley, r.slide, r.steep, r.minimum);
    if (!o->out) return 0;
    learner_rates_plot(&r, o->out);
    printf("drawn in %s\n", o->out);
    return 0;
}
