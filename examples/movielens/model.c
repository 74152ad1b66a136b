/* model.c - a saved model: what it was, its films, and where its ratings are. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "core/io.h"
#include "core/nearest.h"
#include "movielens.h"

static const char *kept(char *text)         /* until the scope ends */
{
    ag_defer(ag_free, text);
    return text;
}

static char *counts_text(const ratings *r, int64_t n)
{
    AG_SCOPE;
    int64_t *count = ag_alloc(n, sizeof *count);
    ag_defer(ag_free, count);
    const int32_t *item = data_codes(r->table, r->item_column);
    for (int64_t i = 0; i < data_rows(r->table); i++) count[item[i]]++;
    char *text = ag_alloc(n, 21), *to = text;
    for (int64_t i = 0; i < n; i++) to += sprintf(to, "%" PRId64 " ", count[i]);
    return text;
}

/* One line for each item. */
static char *titles_text(const ratings *r, const data_vocab *items)
{
    const int64_t n = data_vocab_size(items);
    int64_t size = 1;
    for (int64_t i = 1; i < n; i++) {
        const char *title = data_lookup(r->films, data_vocab_text(items, i), "title");
        size += 1 + (title ? (int64_t)strlen(title) : 0);
    }
    char *text = ag_alloc(size + 1, 1), *to = text;
    *to++ = '\n';
    for (int64_t i = 1; i < n; i++, *to++ = '\n') {
        const char *title = data_lookup(r->films, data_vocab_text(items, i), "title");
        for (; title && *title; title++) *to++ = *title == '\n' || *title == '\r' ? ' ' : *title;
    }
    return text;
}

int model_meta(const options *o, const ratings *r, const batches *b, ag_meta *meta)
{
    char full[PATH_MAX], layers[256] = "";
    for (int i = 0; i < MODEL_MAX_LAYERS && o->layers.size[i]; i++)
        snprintf(layers + strlen(layers), sizeof layers - strlen(layers), "%s%" PRId64, i ? "," : "", o->layers.size[i]);
    const char *source = r->made_up || !realpath(r->source, full) ? r->source : full;
    const ag_meta all[] = {
        { "model", o->model }, { "optim", o->optimizer }, { "by", o->by }, { "layers", kept(ag_strdup(layers)) },
        { "factors", kept(ag_sprintf("%" PRId64, o->factors)) }, { "range", kept(ag_sprintf("%.17g,%.17g", o->lo, o->hi)) },
        { "ratings", kept(ag_strdup(source)) }, { "users", kept(data_vocab_save(b->users)) },
        { "items", kept(data_vocab_save(b->items)) }, { "counts", kept(counts_text(r, b->n_items)) },
    };
    int n = sizeof all / sizeof *all;
    memcpy(meta, all, sizeof all);
    if (r->films && !strcmp(r->item_column, "item")) meta[n++] = (ag_meta){ "titles", kept(titles_text(r, b->items)) };
    return n;
}

static const char *require(const ag_safetensors *f, const char *path, const char *key)
{
    const char *v = ag_safetensors_meta(f, key);
    if (!v) ag_fail(NULL, "%s is not a model of this program: its metadata lacks '%s'; `movielens train --save F` makes one",
                    path, key);
    return v;
}

static void restore_options(options *o, const ag_safetensors *f, const char *path)
{
    const char *layers = require(f, path, "layers");
    *o = (options){ .model = require(f, path, "model"), .optimizer = require(f, path, "optim"), .by = require(f, path, "by"),
                    .factors = strtoll(require(f, path, "factors"), NULL, 10) };
    for (int i = 0; i < MODEL_MAX_LAYERS && *layers; i++) {
        char *end;
        o->layers.size[i] = strtoll(layers, &end, 10);
        layers = *end ? end + 1 : end;
    }
    if (sscanf(require(f, path, "range"), "%lf,%lf", &o->lo, &o->hi) != 2 || !isfinite(o->lo) || !isfinite(o->hi))
        ag_fail(NULL, "%s: its metadata is damaged: the range is '%s'", path, require(f, path, "range"));
    if (o->factors < 1 || o->factors > 4096)
        ag_fail(NULL, "%s: its metadata is damaged: %" PRId64 " factors", path, o->factors);
    if (strcmp(o->model, "dot") && strcmp(o->model, "bias") && strcmp(o->model, "nn"))
        ag_fail(NULL, "%s: its metadata names a model '%s'; this program knows dot, bias and nn", path, o->model);
}

/* The ratings it was learned from, if they are still there: what a user has seen, how often a film was rated. */
static void read_ratings(model *m, const char *source)
{
    if (strcmp(source, "made up") && !ag_file_exists(source)) {
        printf("(the ratings %s are gone: films already seen are not left out)\n", source);
        return;
    }
    m->data = ratings_read(source, m->o.by, true);
    data_categorify(m->data.table, "user", .vocab = m->users);
    data_categorify(m->data.table, m->data.item_column, .vocab = m->items);
}

static void read_films(model *m, const char *path, const char *counts, const char *titles)
{
    const int64_t n = data_vocab_size(m->items);
    m->count = ag_alloc(n, sizeof *m->count);
    ag_defer(ag_free, m->count);
    for (int64_t i = 0; i < n; i++) {
        char *end;
        m->count[i] = strtoll(counts, &end, 10);
        if (end == counts) ag_fail(NULL, "%s: its metadata is damaged: %" PRId64 " films, %" PRId64 " counts", path, n, i);
        counts = end;
    }
    if (!titles) return;
    char *line = ag_strdup(titles);
    ag_defer(ag_free, line);
    m->title = ag_alloc(n, sizeof *m->title);
    ag_defer(ag_free, m->title);
    for (int64_t i = 0; i < n; i++) {
        char *end = strchr(line, '\n');
        if (!end) ag_fail(NULL, "%s: its metadata is damaged: %" PRId64 " films, %" PRId64 " titles", path, n, i);
        *end = 0, m->title[i] = line, line = end + 1;
    }
}

model model_open(const char *path, bool with_ratings)
{
    if (!path) ag_fail(NULL, "movielens: name the model file; `movielens train --save F` makes one");
    const ag_safetensors *f = ag_safetensors_open(path);
    model m = { 0 };
    restore_options(&m.o, f, path);
    m.users = data_vocab_load(require(f, path, "users"));
    m.items = data_vocab_load(require(f, path, "items"));
    m.net = make_model(&m.o, data_vocab_size(m.users), data_vocab_size(m.items));
    nn_load_from(m.net, f, "", "optim.*");
    read_films(&m, path, require(f, path, "counts"), ag_safetensors_meta(f, "titles"));
    if (with_ratings) read_ratings(&m, require(f, path, "ratings"));
    return m;
}

/* ---- parts --------------------------------------------------------------------------------------------- */

ag_tensor *model_item_factors(const model *m)
{
    return nn_param(m->net, strcmp(m->o.model, "nn") ? "i_weight.weight" : "embeds.1.weight");
}

ag_tensor *model_item_bias(const model *m)
{
    if (strcmp(m->o.model, "bias"))
        ag_fail(NULL, "movielens: a '%s' model has no biases; train one with --model bias", m->o.model);
    return nn_param(m->net, "i_bias.weight");
}

const char *model_title(const model *m, int64_t item)
{
    const char *name = data_vocab_text(m->items, item);
    return m->title && *m->title[item] ? m->title[item] : name;
}

int64_t model_find_item(const model *m, const char *title)
{
    if (!title) ag_fail(NULL, "movielens: name a film, in quotation marks");
    const int64_t item = data_vocab_find(m->items, title);
    if (item > 0) return item;
    int64_t near = 1;
    double best = 1e9;
    for (int64_t i = 1; i < data_vocab_size(m->items); i++) {
        if (!strcasecmp(model_title(m, i), title)) return i;
        const double d = ag_edit_distance(title, model_title(m, i));
        if (d < best) best = d, near = i;
    }
    ag_fail(NULL, "movielens: no film '%s' among the %" PRId64 " of the model; the nearest is '%s'", title,
            data_vocab_size(m->items) - 1, model_title(m, near));
}
