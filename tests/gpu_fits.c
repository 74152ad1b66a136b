/* tests/gpu_fits.c - what training reaches on a GPU, by the learner, its loader and its graphs: lines "work, value, unit" for
 * tests/gpu_check.sh, under the names that tests/gpu_peer.py gives the same works in PyTorch. With --small: sizes for the
 * emulation. */
#include <stdio.h>
#include <string.h>
#include "agrad.h"
#include "core/device.h"
#include "core/memory.h"
#include "tests/gpu_rows.h"

/* Time is taken from the end of batch `warm` on: plans are chosen, memory is there, the step is a graph. */
enum { WARM = 4 };
typedef struct { double begin; int64_t batches; } stopwatch;

static learner_flow watch(learner *l, learner_event e, void *state)
{
    stopwatch *s = state;
    if (e == LEARNER_AFTER_BATCH && l->batch == WARM) {
        ag_device_table(AG_CUDA)->sync();
        s->begin = now();
    }
    if (e == LEARNER_AFTER_BATCH && l->batch > WARM) s->batches++;
    return LEARNER_GO;
}

static double seconds_a_step(learner *l)
{
    stopwatch s = { 0 };
    learner_add(l, (learner_callback){ .on = watch, .between_steps = true, .state = &s });
    learner_fit(l, 1, 1e-4);
    ag_device_table(AG_CUDA)->sync();
    return (now() - s.begin) / (double)s.batches;
}

/* ---- pictures: already normalised, as PyTorch's are --------------------------------------------------- */

static data_set *pictures(int64_t n, int64_t side)
{
    ag_init(.device = "cpu");
    ag_tensor *x = ag_randn(n, side, side, 3), *y = ag_empty(AG_I64, n);
    for (int64_t i = 0; i < n; i++) ((int64_t *)y->data)[i] = i % 10;
    data_set *set = data_from_tensors(ag_cast(x, AG_BF16), y);
    ag_init(.device = "cuda");
    return set;
}

static void image_fit(const char *model, int64_t batch, int64_t side, bool eager)
{
    AG_SCOPE;
    char name[96];
    const int64_t batches = small ? WARM + 3 : batch < 64 ? 60 : 24;
    data_set *set = pictures(batch, side);          /* one batch, again and again */
    int64_t *rows = ag_alloc(batch * batches, sizeof *rows);
    ag_defer(ag_free, rows);
    for (int64_t i = 0; i < batch * batches; i++) rows[i] = i % batch;
    nn_module *net = model_create(model, .classes = 10);
    data_loader *train = data_loader_new(data_subset(set, rows, batch * batches), batch, .workers = small ? 0 : 4);
    snprintf(name, sizeof name, "%s %d, batch %d", model, (int)side, (int)batch);
    ag_memory_reset_peak();
    learner *l = learner_new(train, NULL, net, learner_cross_entropy, .opt = optim_adamw(net, 1e-4), .precision = "bf16",
                             .quiet = true, .eager = eager);
    row_of(name, eager ? ", op by op" : "", (double)batch / seconds_a_step(l), "images/s");
    if (eager || batch < 128) return;
    const ag_plan p = ag_memory_plan(net, AG_SHAPE(batch, side, side, 3), .train = true, .precision = AG_BF16,
                                     .input_type = AG_BF16, .optimizer = AG_PLAN_ADAMW);
    row_of(name, ", peak memory", 1e-6 * (double)ag_memory(AG_CUDA).peak, "MB");
    row_of(name, ", planned", 1e-6 * (double)p.peak, "MB");
}

/* ---- ratings ------------------------------------------------------------------------------------------ */

typedef struct { const char *name; int64_t users, items, factors, batch; bool lazy; } ratings;

static void ratings_fit(const ratings *r, bool eager)
{
    AG_SCOPE;
    const int64_t batches = small ? WARM + 3 : r->batch < 1000 ? 3000 : 200, n = r->batch * batches;
    ag_init(.device = "cpu");
    ag_tensor *ids = ag_empty(AG_I64, n, 2), *y = ag_full(3, n);
    ag_rng rng = { .seed = 1, .stream = 2 };
    for (int64_t i = 0; i < n; i++) {
        ((int64_t *)ids->data)[2 * i] = ag_rng_below(&rng, r->users);
        ((int64_t *)ids->data)[2 * i + 1] = ag_rng_below(&rng, r->items);
    }
    data_set *set = data_from_tensors(ids, y);
    ag_init(.device = "cuda");
    nn_module *net = model_dot_bias(r->users, r->items, r->factors, .lo = 0, .hi = 5.5);
    optim *opt = r->lazy ? optim_lazy_adamw(net, 1e-3) : optim_adamw(net, 1e-3);
    learner *l = learner_new(data_loader_new(set, r->batch, .shuffle = true, .workers = small ? 0 : 2), NULL, net, learner_mse,
                             .opt = opt, .quiet = true, .eager = eager);
    const double s = seconds_a_step(l);
    row_of(r->name, eager ? ", op by op" : "", 1e6 * s, "us/step");
    row_of(r->name, eager ? ", op by op, rate" : ", rate", 1e-6 * (double)r->batch / s, "M ratings/s");
}

int main(int argc, char **argv)
{
    static const ratings big[] = {
        { "bias model, ML-100K sizes, batch 64, AdamW", 944, 1683, 50, 64, false },
        { "bias model, ML-25M sizes, batch 65536, lazy AdamW", 162542, 59048, 50, 65536, true },
    }, tiny[] = {
        { "bias model, batch 16, AdamW", 30, 20, 5, 16, false }, { "bias model, batch 16, lazy", 30, 20, 5, 16, true },
    };
    const int status = begin_rows(argc, argv);
    if (status >= 0) return status;
    ag_init(.device = "cuda");
    for (int i = 0; i < 2; i++)
        for (int eager = 0; eager < 2; eager++) ratings_fit(small ? &tiny[i] : &big[i], eager);
    if (small) image_fit("convnext_atto", 1, 32, false);
    if (small) return 0;
    for (int eager = 0; eager < 2; eager++) {
        image_fit("convnext_atto", 8, 128, eager);
        image_fit("convnext_atto", 16, 128, eager);
        image_fit("convnext_tiny", 256, 224, eager);
    }
    image_fit("vit_small_patch16_224", 256, 224, false);
    image_fit("resnet50", 256, 224, false);
    return 0;
}
