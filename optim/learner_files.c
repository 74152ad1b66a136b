/* optim/learner_files.c - checkpoints: everything a run needs to go on with the same bits. Numbers in the metadata are
 * hexadecimal floats, which lose nothing. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/memory.h"
#include "core/random.h"
#include "optim/learner_inside.h"

static const char *const format = "agrad-checkpoint-1", *const prefix = "optim.";

void ag_learner_set_meta(learner *l, int n_meta, const ag_meta *meta)
{
    l->in->n_meta = n_meta, l->in->meta = meta;
}

enum { ENTRIES = 16, TEXT = 192 };
typedef struct { ag_meta meta[ENTRIES + 2 * LEARNER_MAX_META]; int n; char text[ENTRIES][TEXT]; int used; } metadata;

static void put(metadata *m, const char *key, const char *fmt, ...) AG_PRINTF(3, 4);
static void put(metadata *m, const char *key, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(m->text[m->used], TEXT, fmt, args);
    va_end(args);
    m->meta[m->n++] = (ag_meta){ key, m->text[m->used++] };
}

static void put_all(metadata *m, const char *at, int n, const ag_meta *meta)
{
    if (n > LEARNER_MAX_META) ag_fail(at, "learner_save: at most %d entries of metadata", LEARNER_MAX_META);
    for (int i = 0; i < n; i++) m->meta[m->n++] = meta[i];
}

static void describe(metadata *m, const learner *l)
{
    const data_position p = data_loader_tell(l->train);
    const ag_rng r = ag_rng_get();
    put(m, "format", "%s", format);
    put(m, "fit", "%s", l->in->fit);
    put(m, "epoch", "%d", l->epoch);
    put(m, "step", "%" PRId64, l->step);
    put(m, "loader", "%" PRId64 " %" PRId64 " %" PRId64 " %" PRId64, p.epoch, p.batch, data_samples(l->train),
        data_batch_size(l->train));
    put(m, "random", "%" PRIu64 " %" PRIu64 " %" PRIu64, r.seed, r.stream, r.next);
    put(m, "smooth", "%a %" PRId64, l->in->smooth, l->in->smooth_n);
    put(m, "accumulate", "%d", l->in->accumulate);
    put(m, "valid_loss", "%a", l->valid_loss);
}

void ag_learner_save_(const char *at, learner *l, const char *path, int n_meta, const ag_meta *meta)
{
    AG_SCOPE;
    const int64_t own = nn_named_count(l->net), state = optim_state_count(l->opt);
    ag_named *all = ag_alloc(own + state, sizeof *all);
    ag_defer(ag_free, all);
    metadata *m = ag_alloc(1, sizeof *m);
    ag_defer(ag_free, m);
    optim_flush(l->opt);
    nn_to_named(l->net, all);
    for (int64_t i = 0; i < state; i++) {
        all[own + i] = optim_state_at(l->opt, i);
        char *name = ag_sprintf("%s%s", prefix, all[own + i].name);
        ag_defer(ag_free, name);
        all[own + i].name = name;
    }
    describe(m, l);
    put_all(m, at, l->in->n_meta, l->in->meta);
    put_all(m, at, n_meta, meta);
    ag_safetensors_save_(at, path, own + state, all, m->n, m->meta);
}

static const char *require(const char *at, const char *path, const ag_safetensors *f, const char *key)
{
    const char *v = ag_safetensors_meta(f, key);
    if (!v) ag_fail(at, "%s is not a checkpoint of a learner: its metadata lacks '%s'", path, key);
    return v;
}

void ag_learner_resume_(const char *at, learner *l, const char *path)
{
    AG_SCOPE;
    const ag_safetensors *f = ag_safetensors_open_(at, path);
    struct learner_inside *in = l->in;
    int64_t epoch, batch, samples, size;
    uint64_t seed, stream, next;
    if (strcmp(require(at, path, f, "format"), format))
        ag_fail(at, "%s is a checkpoint of another version: %s, this is %s", path, require(at, path, f, "format"), format);
    const char *loader = require(at, path, f, "loader"), *random = require(at, path, f, "random");
    const char *smooth = require(at, path, f, "smooth");
    if (sscanf(loader, "%" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64, &epoch, &batch, &samples, &size) != 4 ||
        sscanf(random, "%" SCNu64 " %" SCNu64 " %" SCNu64, &seed, &stream, &next) != 3)
        ag_fail(at, "%s: its metadata is damaged", path);
    if (samples != data_samples(l->train) || size != data_batch_size(l->train))
        ag_fail(at, "%s was trained on %" PRId64 " samples in batches of %" PRId64 ", this loader has %" PRId64 " in batches of %"
                PRId64, path, samples, size, data_samples(l->train), data_batch_size(l->train));
    if (atoi(require(at, path, f, "accumulate")) != in->accumulate)
        ag_fail(at, "%s was trained with %s batches a step, this learner takes %d", path,
                ag_safetensors_meta(f, "accumulate"), in->accumulate);
    optim_flush(l->opt);
    ag_nn_load_from(at, l->net, f, "", "optim.*");
    optim_load_state(l->opt, f, prefix);
    char *rest;
    in->smooth = strtod(smooth, &rest);
    in->smooth_n = strtoll(rest, NULL, 10);
    in->resume_epoch = atoi(require(at, path, f, "epoch"));
    in->resume_step = strtoll(require(at, path, f, "step"), NULL, 10);
    snprintf(in->resume_fit, sizeof in->resume_fit, "%s", require(at, path, f, "fit"));
    in->resumed = true;
    ag_rng_set((ag_rng){ seed, stream, next });
    data_loader_seek(l->train, AG_LIT(data_position, epoch, batch));
}
