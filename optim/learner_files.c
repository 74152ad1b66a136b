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

enum { ENTRIES = 16 + LEARNER_MAX_CALLBACKS, TEXT = LEARNER_FIT_TEXT };
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

#define KEY(i) "callback." #i
static const char *const callback_key[LEARNER_MAX_CALLBACKS] = {
    KEY(0), KEY(1), KEY(2), KEY(3), KEY(4), KEY(5), KEY(6), KEY(7), KEY(8), KEY(9), KEY(10), KEY(11), KEY(12), KEY(13), KEY(14),
    KEY(15)
};

/* The callbacks that have something to keep; a checkpoint numbers these alone. */
static int kept_callbacks(const learner *l, const learner_callback **out)
{
    int n = 0;
    for (int i = 0; i < l->in->n_callbacks; i++)
        if (l->in->callbacks[i].n_numbers || l->in->callbacks[i].tensors) out[n++] = &l->in->callbacks[i];
    return n;
}

static void describe(metadata *m, const learner *l)
{
    const data_position p = data_loader_tell(l->train);
    const ag_rng r = ag_rng_get();
    put(m, "format", "%s", format);
    put(m, "fit", "%s", l->in->fit);
    put(m, "epoch", "%d", l->epoch);
    put(m, "step", "%" PRId64, l->step);
    put(m, "loader", "%" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRIu64, p.epoch, p.batch, data_samples(l->train),
        data_batch_size(l->train), data_loader_seed(l->train));
    put(m, "random", "%" PRIu64 " %" PRIu64 " %" PRIu64, r.seed, r.stream, r.next);
    put(m, "smooth", "%a %" PRId64, l->in->smooth, l->in->smooth_n);
    put(m, "accumulate", "%d", l->in->accumulate);
    put(m, "valid_loss", "%a", l->valid_loss);
    put(m, "lr_scale", "%a", l->in->lr_scale);
    put(m, "log", "%d", l->in->log_rows);
    if (l->in->history) m->meta[m->n++] = (ag_meta){ "history", l->in->history };
    const learner_callback *kept[LEARNER_MAX_CALLBACKS];
    const int n = kept_callbacks(l, kept);
    put(m, "callbacks", "%d", n);
    for (int i = 0; i < n; i++) {
        char text[TEXT] = "";
        const learner_callback *c = kept[i];
        for (int k = 0, used = 0; k < c->n_numbers; k++)
            used += snprintf(text + used, sizeof text - (size_t)used, "%a ", c->numbers[k]);
        if (c->n_numbers) put(m, callback_key[i], "%s", text);
    }
}

/* The callbacks' tensors, under "callback.<number>."; counts where out is NULL. The names are the scope's. */
static int64_t callback_tensors(learner *l, ag_named *out)
{
    int64_t n = 0;
    const learner_callback *kept[LEARNER_MAX_CALLBACKS];
    const int n_kept = kept_callbacks(l, kept);
    for (int i = 0; i < n_kept; i++) {
        const learner_callback *c = kept[i];
        if (!c->tensors) continue;
        const int64_t own = c->tensors(l, c->state, out ? out + n : NULL);
        for (int64_t k = n; out && k < n + own; k++) {
            char *name = ag_sprintf("%s.%s", callback_key[i], out[k].name);
            ag_defer(ag_free, name);
            out[k].name = name;
        }
        n += own;
    }
    return n;
}

void ag_learner_save_(const char *at, learner *l, const char *path, int n_meta, const ag_meta *meta)
{
    AG_SCOPE;
    ag_learner_settle(l);
    const int64_t own = nn_named_count(l->net), state = optim_state_count(l->opt), more = callback_tensors(l, NULL);
    ag_named *all = ag_alloc(own + state + more, sizeof *all);
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
    callback_tensors(l, all + own + state);
    describe(m, l);
    put_all(m, at, l->in->n_meta, l->in->meta);
    put_all(m, at, n_meta, meta);
    ag_safetensors_save_(at, path, own + state + more, all, m->n, m->meta);
    ag_learner_saved(l, path, l->step);
}

static const char *require(const char *at, const char *path, const ag_safetensors *f, const char *key)
{
    const char *v = ag_safetensors_meta(f, key);
    if (!v) ag_fail(at, "%s is not a checkpoint of a learner: its metadata lacks '%s'", path, key);
    return v;
}

/* The numbers of a text, as many as wanted; false where there are fewer. */
static bool read_numbers(const char *text, int n, double *out)
{
    for (int i = 0; i < n; i++) {
        char *rest;
        out[i] = strtod(text, &rest);
        if (rest == text) return false;
        text = rest;
    }
    return true;
}

static int64_t require_integer(const char *at, const char *path, const ag_safetensors *f, const char *key)
{
    char *rest;
    const char *text = require(at, path, f, key);
    const int64_t v = strtoll(text, &rest, 10);
    if (rest == text || *rest || v < 0) ag_fail(at, "%s: its metadata is damaged: '%s' is '%s'", path, key, text);
    return v;
}

static void check_loader(const char *at, const char *path, const ag_safetensors *f, const learner *l, data_position *p)
{
    int64_t samples, size;
    uint64_t seed;
    const char *text = require(at, path, f, "loader");
    if (sscanf(text, "%" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNu64, &p->epoch, &p->batch, &samples, &size,
               &seed) != 5)
        ag_fail(at, "%s: its metadata is damaged: 'loader' is '%s'", path, text);
    if (samples != data_samples(l->train) || size != data_batch_size(l->train))
        ag_fail(at, "%s was trained on %" PRId64 " samples in batches of %" PRId64 ", this loader has %" PRId64 " in batches of %"
                PRId64, path, samples, size, data_samples(l->train), data_batch_size(l->train));
    if (seed != data_loader_seed(l->train))
        ag_fail(at, "%s was trained in the order of seed %" PRIu64 ", this loader has %" PRIu64 "; go on with the same seed",
                path, seed, data_loader_seed(l->train));
    if (p->epoch < 0 || p->batch < 0 || p->batch > data_batches(l->train))
        ag_fail(at, "%s: its metadata is damaged: 'loader' is '%s'", path, text);
    const int64_t accumulate = require_integer(at, path, f, "accumulate");
    if (accumulate != l->in->accumulate)
        ag_fail(at, "%s was trained with %" PRId64 " batches a step, this learner takes %d", path, accumulate, l->in->accumulate);
}

static void load_callbacks(const char *at, const char *path, const ag_safetensors *f, learner *l)
{
    const learner_callback *kept[LEARNER_MAX_CALLBACKS];
    const int64_t saved = require_integer(at, path, f, "callbacks"), more = callback_tensors(l, NULL);
    const int n = kept_callbacks(l, kept);
    if (saved != n)
        ag_fail(at, "%s has the state of %" PRId64 " callbacks, this learner has %d with a state; add the same ones before "
                "learner_resume", path, saved, n);
    ag_named *all = ag_alloc(more, sizeof *all);
    ag_defer(ag_free, all);
    callback_tensors(l, all);
    for (int64_t i = 0; i < more; i++) ag_copy_(at, all[i].tensor, ag_safetensors_get_(at, f, all[i].name));
    for (int i = 0; i < n; i++) {
        const learner_callback *c = kept[i];
        if (c->n_numbers && !read_numbers(require(at, path, f, callback_key[i]), c->n_numbers, c->numbers))
            ag_fail(at, "%s: its metadata is damaged: '%s'", path, callback_key[i]);
    }
}

void ag_learner_resume_(const char *at, learner *l, const char *path)
{
    AG_SCOPE;
    const ag_safetensors *f = ag_safetensors_open_(at, path);
    struct learner_inside *in = l->in;
    data_position position;
    ag_rng rng;
    double smooth[2], loss, scale;
    if (strcmp(require(at, path, f, "format"), format))
        ag_fail(at, "%s is a checkpoint of another version: %s, this is %s", path, require(at, path, f, "format"), format);
    check_loader(at, path, f, l, &position);
    if (sscanf(require(at, path, f, "random"), "%" SCNu64 " %" SCNu64 " %" SCNu64, &rng.seed, &rng.stream, &rng.next) != 3 ||
        !read_numbers(require(at, path, f, "smooth"), 2, smooth) || !read_numbers(require(at, path, f, "valid_loss"), 1, &loss) ||
        !read_numbers(require(at, path, f, "lr_scale"), 1, &scale))
        ag_fail(at, "%s: its metadata is damaged", path);
    const int64_t epoch = require_integer(at, path, f, "epoch"), step = require_integer(at, path, f, "step");
    const int64_t rows = require_integer(at, path, f, "log");
    snprintf(in->resume_fit, sizeof in->resume_fit, "%s", require(at, path, f, "fit"));
    optim_flush(l->opt);
    ag_nn_load_from(at, l->net, f, "", "optim.* callback.*");
    optim_load_state(l->opt, f, prefix);
    load_callbacks(at, path, f, l);
    in->smooth = smooth[0], in->smooth_n = (int64_t)smooth[1];
    l->train_loss = ag_learner_smoothed(l), l->valid_loss = loss;
    ag_free(in->history);
    in->history = ag_safetensors_meta(f, "history") ? ag_strdup(ag_safetensors_meta(f, "history")) : NULL;
    in->resume_epoch = (int)epoch, in->resume_step = step, in->resume_scale = scale, in->log_rows = (int)rows;
    in->resumed = true;
    ag_learner_saved(l, path, step);
    ag_rng_set(rng);
    data_loader_seek(l->train, position);
}
