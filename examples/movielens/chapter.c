/* chapter.c - every model of fastbook's chapter 8 (08_collab.ipynb): the book's last validation loss beside ours. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "movielens.h"

/* The book's CollabNN: both embeddings, one layer of 100, no batch norm. */
typedef struct { nn_module base; nn_module *user_factors, *item_factors, *layers; } collab_nn;

static ag_tensor *collab_nn_forward(nn_module *m, ag_tensor *ids)
{
    const collab_nn *s = NN_SELF(collab_nn, m);
    ag_tensor *both = ag_concat(1, nn_call(s->user_factors, ag_column(ids, 0)), nn_call(s->item_factors, ag_column(ids, 1)));
    return ag_sigmoid_range(ag_column(nn_call(s->layers, both), 0), 0, 5.5);
}

static nn_module *collab_nn_new(int64_t users, int64_t items)
{
    const int64_t u = model_embedding_width(users), i = model_embedding_width(items);
    collab_nn *s = NN_NEW(collab_nn, collab_nn_forward);
    NN_CHILD(s, user_factors, nn_embedding(users, u, .std = 0.01));
    NN_CHILD(s, item_factors, nn_embedding(items, i, .std = 0.01));
    NN_CHILD(s, layers, nn_sequential(nn_linear(u + i, 100), nn_relu(), nn_linear(100, 1)));
    return &s->base;
}

/* The book's own nn.Parameter tables: normal with deviation 0.01 instead of the wrapped one. */
static nn_module *own_parameters(const options *o, int64_t users, int64_t items)
{
    nn_module *net = make_model(o, users, items);
    for (int64_t i = 0; i < nn_param_count(net); i++)
        if (strstr(nn_param_at(net, i)->name, "bias")) ag_fill(nn_param_at(net, i), 0);
        else nn_init_normal(nn_param_at(net, i), 0, 0.01);
    return net;
}

typedef struct { const char *name, *model; bool range; double wd, book; } row;
static const row rows[] = {
    { "dot product", "dot", false, 0.01, 0.884209 },
    { "dot product, range 0 to 5.5", "dot", true, 0.01, 0.877610 },
    { "with biases", "bias", true, 0.01, 0.892580 },
    { "with biases, weight decay 0.1", "bias", true, 0.1, 0.823060 },
    { "the same on own parameters", "own", true, 0.1, 0.824263 },
    { "collab_learner", "bias", true, 0.1, 0.821688 },
    { "CollabNN, 100 activations", "collab_nn", true, 0.01, 0.867455 },
    { "collab_learner, layers 100,50", "nn", true, 0.1, 0.864936 },
};

/* The validation loss after five epochs; *seconds: what the training took. */
static double run(const options *given, const row *r, const ratings *source, uint64_t seed, double *seconds)
{
    AG_SCOPE;
    options o = *given;
    o.model = r->model, o.wd = r->wd, o.seed = (int64_t)seed, o.lo = 0, o.hi = r->range ? 5.5 : 0, o.lr = 5e-3, o.batch = 64;
    o.valid = 0.2, o.accumulate = 1, o.factors = 50, o.layers = (model_layers){ { 100, 50 } }, o.valid_file = NULL;
    ag_manual_seed(seed);
    const ratings data = ratings_read(source->made_up ? "made up" : source->source, o.by, true);
    const batches b = ratings_batches(&data, &o);
    const bool own = !strcmp(r->model, "own");
    if (own) o.model = "bias";
    nn_module *net = !strcmp(r->model, "collab_nn") ? collab_nn_new(b.n_users, b.n_items)
                   : own ? own_parameters(&o, b.n_users, b.n_items) : make_model(&o, b.n_users, b.n_items);
    learner *l = learner_new(b.train, b.valid, net, learner_mse, .opt = make_optimizer(&o, net), .quiet = true);
    learner_fit_one_cycle(l, 5, 5e-3);
    *seconds += 5 * l->seconds;
    return l->valid_loss;
}

int chapter(const options *o)
{
    const ratings data = ratings_read(o->ratings, o->by, false);
    printf("fastbook chapter 8: mean squared error on 20 %% of the ratings after 5 epochs of one cycle at 5e-3; %" PRId64
           " seeds\n\n", o->seeds);
    printf("%-32s %8s %10s %10s %10s\n", "model", "book", "ours", "+-", "seconds");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double sum = 0, square = 0, seconds = 0;
        for (int64_t seed = 1; seed <= o->seeds; seed++) {
            const double loss = run(o, &rows[i], &data, (uint64_t)seed, &seconds);
            sum += loss, square += loss * loss;
        }
        const double n = (double)o->seeds, mean = sum / n;
        printf("%-32s %8.4f %10.4f %10.4f %10.2f\n", rows[i].name, rows[i].book, mean,
               n > 1 ? sqrt(fmax(0, (square - n * mean * mean) / (n - 1))) : 0, seconds / n);
        fflush(stdout);
    }
    cold_evaluate(o);
    return 0;
}
