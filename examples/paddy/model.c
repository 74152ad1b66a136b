/* model.c - a saved model: what it was, and the names of its classes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/safetensors.h"
#include "paddy.h"

static const char *kept(char *text)         /* until the scope ends */
{
    ag_defer(ag_free, text);
    return text;
}

static const char *const name_key[DATA_MAX_TARGETS] = { "target.0", "target.1", "target.2", "target.3",
                                                        "target.4", "target.5", "target.6", "target.7" };
static const char *const vocab_key[DATA_MAX_TARGETS] = { "vocab.0", "vocab.1", "vocab.2", "vocab.3",
                                                         "vocab.4", "vocab.5", "vocab.6", "vocab.7" };

int model_meta(const options *o, const data_targets *t, ag_meta *meta)
{
    int n = 0;
    meta[n++] = (ag_meta){ "arch", o->arch };
    meta[n++] = (ag_meta){ "resize", o->resize };
    meta[n++] = (ag_meta){ "size", kept(ag_sprintf("%" PRId64, o->size)) };
    meta[n++] = (ag_meta){ "head", o->weights ? "fastai" : "timm" };
    meta[n++] = (ag_meta){ "seed", kept(ag_sprintf("%" PRId64, o->seed)) };
    meta[n++] = (ag_meta){ "valid", kept(ag_sprintf("%.17g", o->valid)) };
    if (o->valid_table) meta[n++] = (ag_meta){ "valid_table", o->valid_table };
    for (int k = 0; k < t->n && n + 2 <= MODEL_META; k++) {
        meta[n++] = (ag_meta){ name_key[k], t->target[k].name };
        meta[n++] = (ag_meta){ vocab_key[k], kept(data_vocab_save(t->target[k].vocab)) };
    }
    return n;
}

static const char *require(const ag_safetensors *f, const char *path, const char *key)
{
    const char *v = ag_safetensors_meta(f, key);
    if (!v) ag_fail(NULL, "%s is no model that `paddy train --save` wrote: its metadata lacks '%s'", path, key);
    return v;
}

model model_open(const char *path)
{
    const ag_safetensors *f = ag_safetensors_open_(NULL, path);
    model m = { .path = path, .arch = require(f, path, "arch"), .resize = require(f, path, "resize"),
                .size = strtoll(require(f, path, "size"), NULL, 10), .seed = strtoll(require(f, path, "seed"), NULL, 10),
                .valid = strtod(require(f, path, "valid"), NULL), .valid_table = ag_safetensors_meta(f, "valid_table"),
                .history = ag_safetensors_meta(f, "history") };
    int64_t classes = 0;
    if (m.size < 1 || m.size > DATA_MAX_SIDE) ag_fail(NULL, "%s: a size of %s pixels", path, require(f, path, "size"));
    for (int k = 0; k < DATA_MAX_TARGETS && ag_safetensors_meta(f, name_key[k]); k++) {
        data_target *t = &m.targets.target[m.targets.n++];
        *t = (data_target){ .name = require(f, path, name_key[k]), .vocab = data_vocab_load(require(f, path, vocab_key[k])),
                            .kind = DATA_TARGET_CATEGORY, .column = k, .columns = 1 };
        classes += t->classes = data_vocab_size(t->vocab);
    }
    if (!classes) ag_fail(NULL, "%s: no targets", path);
    m.net = model_create(m.arch, .classes = classes, .size = m.size);
    if (!strcmp(require(f, path, "head"), "fastai") && model_takes_fastai_head(m.net)) model_use_fastai_head(m.net, classes);
    nn_load_from(m.net, f, "", "optim.* callback.*");
    return m;
}

static void require_same_classes(const model *a, const model *b)
{
    bool same = a->targets.n == b->targets.n;
    for (int k = 0; same && k < a->targets.n; k++) {
        const data_vocab *v = a->targets.target[k].vocab, *w = b->targets.target[k].vocab;
        same = data_vocab_size(v) == data_vocab_size(w);
        for (int64_t c = 0; same && c < data_vocab_size(v); c++) same = !strcmp(data_vocab_text(v, c), data_vocab_text(w, c));
    }
    if (!same) ag_fail(NULL, "%s knows other classes than %s; models of one ensemble know the same", b->path, a->path);
}

int models_open(const options *o, model *m)
{
    int n = 0;
    for (const char *const *path = o->line.argument; *path; path++, n++) {
        const char *dot = strrchr(*path, '.');
        if (!dot || strcmp(dot, ".safetensors")) break;
        if (n == MAX_MODELS) ag_fail(NULL, "paddy: more than %d models", MAX_MODELS);
        m[n] = model_open(*path);
        require_same_classes(&m[0], &m[n]);
    }
    if (!n) ag_fail(NULL, "paddy: %s takes a model that `train --save F.safetensors` wrote, then photographs",
                    o->line.command->name);
    return n;
}
