/* data/block.c - items listed, labelled, divided; loaders of them. */
#include <stdio.h>
#include <string.h>
#include "core/io.h"
#include "core/memory.h"
#include "data/block_inside.h"

typedef struct {
    const char *at, *source;
    const data_block *block;
    int64_t n;
    const char *const *name;
    unsigned char *part;        /* of each item: 0 training, 1 validation, 2 neither */
} plan;

/* ---- items -------------------------------------------------------------------------------------------------- */

static int count_parts(const data_block *b)
{
    int n = 0;
    while (n < DATA_MAX_BLOCKS && b->blocks[n].kind) n++;
    return n;
}

static int inputs_of(const data_block *b) { return b->n_inputs > 0 ? b->n_inputs : 1; }

static void check_block(const char *at, const data_block *b)
{
    const int n = count_parts(b), inputs = inputs_of(b);
    if (n < inputs) ag_fail(at, "the block has %d parts, and .n_inputs = %d of them are inputs; give .blocks", n, inputs);
    for (int k = 0; k < n; k++) {
        const bool image = b->blocks[k].kind == DATA_IMAGE_BLOCK;
        if (image != (k < inputs))
            ag_fail(at, "block %d is %s, and the first %d are inputs; inputs are images, targets are not", k,
                    image ? "an image" : b->blocks[k].name, inputs);
    }
}

static plan list_items(const char *at, const data_block *b, const char *source)
{
    plan p = { .at = at, .source = source, .block = b, .n = b->n_items, .name = b->items };
    if (!b->items) {
        const data_files f = ag_data_image_files_(at, source);
        p.n = f.n, p.name = f.name;
    }
    if (p.n < 1) ag_fail(at, "no pictures below %s (.jpg, .jpeg, .png, .bmp, .gif)", source);
    return p;
}

static char *join(const char *source, const char *name)
{
    return *name == '/' ? ag_strdup(name) : ag_sprintf("%s/%s", source, name);
}

/* ---- targets ------------------------------------------------------------------------------------------------ */

/* The labels of target t, all of them there. */
static const char **labels_of(const plan *p, int t)
{
    const data_part *part = &p->block->blocks[inputs_of(p->block) + t];
    const char **label = ag_alloc(p->n, sizeof *label);
    ag_defer(ag_free, label);
    unsigned char *missing = ag_alloc(p->n, 1);
    ag_defer(ag_free, missing);
    int64_t n = 0;
    for (int64_t i = 0; i < p->n; i++) {
        label[i] = ag_data_label(p->at, &p->block->get_y[t], p->name[i]);
        if (!label[i] && part->kind == DATA_MULTICATEGORY_BLOCK) label[i] = "";
        missing[i] = !label[i];
        n += missing[i];
    }
    if (n) ag_fail(p->at, "%" PRId64 " of %" PRId64 " items have no label \"%s\": %s\nComplete the table or remove these files",
                   n, p->n, part->name, ag_data_first_names(p->name, missing, 1, p->n));
    return label;
}

/* A label's tags in turn: the next one from *rest, in the innermost scope; NULL: no more. */
static const char *next_tag(const data_part *part, const char **rest)
{
    const char *sep = part->opts.sep ? part->opts.sep : " ";
    if (part->kind == DATA_CATEGORY_BLOCK) {
        const char *all = *rest;
        *rest = "";
        return *all ? all : NULL;
    }
    *rest += strspn(*rest, sep);
    const size_t len = strcspn(*rest, sep);
    const char *tag = len ? ag_data_text_printf("%.*s", (int)len, *rest) : NULL;
    *rest += len;
    return tag;
}

/* The sorted different labels of the training part. */
static data_vocab *vocab_of(const plan *p, const data_part *part, const char *const *label)
{
    if (part->opts.vocab) return ag_data_vocab_retain(part->opts.vocab);
    int64_t n = 0, room = 0;
    const char **tag = NULL;
    AG_SCOPE;
    for (int64_t i = 0; i < p->n; i++) {
        const char *rest = label[i];
        for (const char *next; p->part[i] == 0 && (next = next_tag(part, &rest)); ) {
            if (n == room) tag = ag_realloc(tag, room = 2 * room + 64, sizeof *tag);
            tag[n++] = next;
        }
    }
    if (!n) ag_fail(p->at, "no item of the training part has a label \"%s\"", part->name);
    data_table *t = ag_data_table_new_(p->at, n);
    ag_data_add_text_(p->at, t, "label", tag);
    ag_free(tag);
    ag_data_categorify_(p->at, t, "label", (data_categorify_opts){ .no_na = true });
    return ag_data_vocab_retain(ag_data_vocab_of_(p->at, t, "label"));
}

static void check_known(const plan *p, const data_part *part, const data_vocab *v, const char *const *label)
{
    AG_SCOPE;
    unsigned char *unknown = ag_alloc(p->n, 1);
    ag_defer(ag_free, unknown);
    const char *first = NULL;
    int64_t n = 0;
    for (int64_t i = 0; i < p->n; i++) {
        const char *rest = label[i];
        for (const char *tag; p->part[i] != 2 && (tag = next_tag(part, &rest)); ) {
            if (ag_data_vocab_find(v, tag) >= 0) continue;
            if (!first) first = tag;
            unknown[i] = 1;
        }
        n += unknown[i];
    }
    if (!n) return;
    ag_fail(p->at, "label \"%s\" of %s is not %s; %" PRId64 " items have such labels: %s\n%s", first, part->name,
            part->opts.vocab ? "in the vocabulary" : "in the training part, only in validation", n,
            ag_data_first_names(p->name, unknown, 1, p->n),
            part->opts.vocab ? "Remove them, or give a vocabulary that has them"
                             : "Use another split or seed, or give all classes as .vocab");
}

static void put(data_images *m, int64_t i, int64_t column, double value)
{
    if (m->numbers) ((real *)m->y)[i * m->columns + column] = (real)value;
    else ((int64_t *)m->y)[i * m->columns + column] = (int64_t)value;
}

static void fill_numbers(const plan *p, data_images *m, const data_part *part, const data_target *t,
                         const char *const *label)
{
    for (int64_t i = 0; i < p->n; i++) {
        AG_SCOPE;
        const char *rest = label[i], *text;
        int64_t k = 0, whole;
        double f;
        for (; (text = next_tag(part, &rest)); k++) {
            const data_number_kind kind = ag_data_scan_number(text, (int64_t)strlen(text), &whole, &f);
            if ((kind != DATA_IS_INT && kind != DATA_IS_FLOAT) || k >= t->columns) break;
            put(m, i, t->column + k, f);
        }
        if (text || k < t->columns)
            ag_fail(p->at, "%s: \"%s\" as %s; %" PRId64 " number(s) are wanted", p->name[i], label[i], part->name, t->columns);
    }
}

static void fill_target(const plan *p, data_images *m, int t, const char *const *label)
{
    const data_part *part = &p->block->blocks[inputs_of(p->block) + t];
    const data_target *to = &m->targets.target[t];
    if (to->kind == DATA_TARGET_REGRESSION) {
        fill_numbers(p, m, part, to, label);
        return;
    }
    for (int64_t i = 0; i < p->n; i++) {
        AG_SCOPE;
        const char *rest = label[i];
        for (const char *tag; p->part[i] != 2 && (tag = next_tag(part, &rest)); ) {
            const int64_t code = ag_data_vocab_find(to->vocab, tag);
            if (to->kind == DATA_TARGET_CATEGORY) put(m, i, to->column, (double)code);
            else put(m, i, to->column + code, 1);
        }
    }
}

static void make_targets(const plan *p, data_images *m)
{
    AG_SCOPE;
    const char **label[DATA_MAX_TARGETS];
    const int n = count_parts(p->block) - inputs_of(p->block);
    for (int t = 0; t < n; t++) {
        const data_part *part = &p->block->blocks[inputs_of(p->block) + t];
        data_target *to = &m->targets.target[t];
        label[t] = labels_of(p, t);
        *to = (data_target){ .name = ag_strdup(part->name), .column = m->columns };
        m->targets.n = t + 1;
        if (part->kind != DATA_REGRESSION_BLOCK) {
            to->vocab = vocab_of(p, part, label[t]);
            check_known(p, part, to->vocab, label[t]);
            to->classes = ag_data_vocab_size(to->vocab);
        } else to->classes = part->opts.n > 0 ? part->opts.n : 1;
        to->kind = part->kind == DATA_CATEGORY_BLOCK ? DATA_TARGET_CATEGORY
                 : part->kind == DATA_REGRESSION_BLOCK ? DATA_TARGET_REGRESSION : DATA_TARGET_MULTICATEGORY;
        to->columns = to->kind == DATA_TARGET_CATEGORY ? 1 : to->classes;
        m->columns += to->columns;
        m->numbers |= to->kind != DATA_TARGET_CATEGORY;
    }
    if (!n) return;
    m->y = ag_alloc(ag_mul_size(p->at, p->n, m->columns), sizeof(int64_t));
    for (int t = 0; t < n; t++) fill_target(p, m, t, label[t]);
}

/* ---- images ------------------------------------------------------------------------------------------------- */

static data_images *new_images(const char *at, const data_block *b, int64_t n)
{
    data_images *m = ag_alloc(1, sizeof *m);
    m->at = at, m->n = n, m->inputs = inputs_of(b);
    pthread_mutex_init(&m->lock, NULL);
    ag_defer(ag_data_images_free, m);
    m->path = ag_alloc(n * m->inputs, sizeof *m->path);
    m->bad = ag_alloc(n * m->inputs, 1);
    m->augment = b->batch_tfms, m->stats = b->normalize;
    for (int k = 0; k < DATA_MAX_TRANSFORMS && b->item_tfms[k].apply; k++) m->tfms[m->n_tfms++] = b->item_tfms[k];
    while (m->fixed < m->n_tfms && !m->tfms[m->fixed].random) m->fixed++;
    for (int k = 0; k < 2; k++) m->view[k] = (data_view){ m, k };
    return m;
}

static void find_inputs(const plan *p, data_images *m)
{
    for (int64_t i = 0; i < p->n; i++)
        for (int k = 0; k < m->inputs; k++) {
            AG_SCOPE;
            const data_getter *g = &p->block->get_x[k];
            const bool own = g->get || g->table || g->text;
            const char *name = own ? ag_data_label(p->at, g, p->name[i]) : p->name[i];
            if (!name) ag_fail(p->at, "item %s has no input %d (.get_x)", p->name[i], k);
            m->path[i * m->inputs + k] = join(p->source, name);
        }
}

static data_images *prepare(const plan *p, const data_loaders_opts *o)
{
    data_images *m = new_images(p->at, p->block, p->n);
    find_inputs(p, m);
    make_targets(p, m);
    const double share = o->max_bad > 0 ? o->max_bad : o->max_bad < 0 ? 0 : 0.01;
    m->most_bad = (int64_t)(share * (double)(p->n * m->inputs));
    if (m->most_bad < 1 && o->max_bad >= 0) m->most_bad = 1;
    ag_data_images_measure(m);
    ag_data_images_keep(m, o->cache, p->source, o->cache_folder);
    return m;
}

static data_set *part_of(const plan *p, data_images *m, int which)
{
    int64_t n = 0, *rows = ag_alloc(p->n, sizeof *rows);
    ag_defer(ag_free, rows);
    for (int64_t i = 0; i < p->n; i++) if (p->part[i] == which) rows[n++] = i;
    return ag_data_subset_(p->at, ag_data_images_set(p->at, m, which == 0, true), rows, n);
}

data_loaders ag_data_block_loaders_(const char *at, const data_block *b, const char *source, data_loaders_opts o)
{
    check_block(at, b);
    plan p = list_items(at, b, source);
    p.part = ag_data_divide(at, &b->splitter, p.name, p.n);
    data_images *m = prepare(&p, &o);
    data_set *train = part_of(&p, m, 0), *valid = part_of(&p, m, 1);
    int64_t batch = o.batch ? o.batch : 64;
    if (!o.batch && batch > train->n) batch = train->n;
    data_loader_opts l = { .shuffle = true, .drop_last = true, .workers = o.workers, .prefetch = o.prefetch, .seed = o.seed };
    data_loaders d = { .targets = m->targets, .images = m };
    d.train = ag_data_loader_new_(at, train, batch, l);
    l.shuffle = l.drop_last = false;
    d.valid = ag_data_loader_new_(at, valid, o.valid_batch ? o.valid_batch : batch, l);
    return d;
}

/* Pictures without labels; size 0: what the transforms make of the first. */
static data_loader *loose(const char *at, const data_block *b, const char *const *paths, int64_t n, bool varied,
                          int64_t height, int64_t width, const data_loaders_opts *o)
{
    if (n < 1) ag_fail(at, "no pictures are named");
    data_images *m = new_images(at, b, n);
    for (int64_t i = 0; i < n; i++) m->path[i] = ag_strdup(paths[i]);
    m->most_bad = n;
    m->height = height, m->width = width, m->resized = height > 0;
    if (!m->resized) ag_data_images_measure(m);
    return ag_data_loader_new_(at, ag_data_images_set(at, m, varied, false), o->batch ? o->batch : 64,
                               (data_loader_opts){ .workers = o->workers, .prefetch = o->prefetch });
}

data_loader *ag_data_test_loader_(const char *at, const data_loaders *dls, const char *const *paths, int64_t n)
{
    const data_images *like = dls->images;
    if (like->inputs > 1) ag_fail(at, "data_test_loader: the items have %d inputs; it takes one file each", like->inputs);
    data_block b = { .batch_tfms = like->augment, .normalize = like->stats };
    memcpy(b.item_tfms, like->tfms, sizeof b.item_tfms);
    return loose(at, &b, paths, n, false, like->resized ? like->height : 0, like->width, &(data_loaders_opts){
        .batch = ag_data_batch_size(dls->valid), .workers = ag_data_loader_workers(dls->valid) });
}

data_loader *ag_data_pictures_(const char *at, const char *const *paths, int64_t n, bool varied, data_folder_opts o)
{
    data_block b = { .batch_tfms = o.batch_tfms, .normalize = o.normalize };
    memcpy(b.item_tfms, o.item_tfms, sizeof b.item_tfms);
    return loose(at, &b, paths, n, varied, 0, 0, &o.loaders);
}
