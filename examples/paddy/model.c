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
    model m = { .arch = require(f, path, "arch"), .resize = require(f, path, "resize"),
                .size = strtoll(require(f, path, "size"), NULL, 10) };
    int64_t classes = 0;
    if (m.size < 1 || m.size > DATA_MAX_SIDE) ag_fail(NULL, "%s: a size of %s pixels", path, require(f, path, "size"));
    for (int k = 0; k < DATA_MAX_TARGETS && ag_safetensors_meta(f, name_key[k]); k++) {
        data_target *t = &m.targets.target[m.targets.n++];
        *t = (data_target){ .name = require(f, path, name_key[k]), .vocab = data_vocab_load(require(f, path, vocab_key[k])),
                            .kind = DATA_TARGET_CATEGORY, .column = k, .columns = 1 };
        classes += t->classes = data_vocab_size(t->vocab);
    }
    if (!classes) ag_fail(NULL, "%s: no targets", path);
    m.net = model_create(m.arch, .classes = classes, .size = model_find(m.arch)->fixed_size ? 0 : m.size);
    nn_load_from(m.net, f, "", "optim.* callback.*");
    return m;
}
