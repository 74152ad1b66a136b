/* leaves.c - where photographs come from: a folder, the usual places, or the brush. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/io.h"
#include "core/ranks.h"
#include "core/thread.h"
#include "leaf.h"
#include "paddy.h"

static bool take(leaves *l, const char *dir, const char *below)
{
    if (!dir) return false;
    snprintf(l->dir, sizeof l->dir, "%s%s%s", dir, *below ? "/" : "", below);
    return ag_is_folder(l->dir);
}

leaves leaves_find(const options *o, const char *own)
{
    leaves l = { 0 };
    const char *painted = "build/painted-leaves";
    if (own && !take(&l, own, "")) ag_fail(NULL, "paddy: there is no folder %s", own);
    if (own || take(&l, getenv("AGRAD_DATA"), "paddy-small") || take(&l, "../shared/data", "paddy-small")) {
        printf("photographs: %s\n", l.dir);
    } else {
        printf("leaves are painted, in %s: there are no photographs in $AGRAD_DATA/paddy-small or ../shared/data/paddy-small\n",
               painted);
        if (!take(&l, painted, "train_images")) leaves_paint(painted, 600, 192, 10, 10, 1);
        ag_ranks_barrier();
        take(&l, painted, "");
    }
    snprintf(l.table, sizeof l.table, "%s/train.csv", l.dir);
    if (o->table) snprintf(l.table, sizeof l.table, "%s", o->table);
    l.has_table = o->table || ag_file_exists(l.table);
    fflush(stdout);
    return l;
}

data_transform leaves_resize(const char *text)
{
    static const char *const methods[] = { "crop", "squish", "pad" };       /* as data_resize_method */
    char *end;
    const long side = strtol(text, &end, 10);
    for (int m = 0; m < 3; m++)
        if (side > 0 && *end == ',' && !strcmp(end + 1, methods[m]))
            return data_resize(side, .method = (data_resize_method)m);
    ag_fail(NULL, "paddy: --resize takes a side and a method, as 192,squish, 192,crop or 192,pad; got '%s'", text);
}

/* The columns of a table that a model's targets come from: "label,variety". */
static const char *columns_of(const data_targets *t)
{
    const char *text = "";
    for (int k = 0; k < t->n; k++) {
        char *more = ag_sprintf("%s%s%s", text, k ? "," : "", strcmp(t->target[k].name, "disease") ? t->target[k].name : "label");
        ag_defer(ag_free, more);
        text = more;
    }
    return text;
}

static void be_like(data_folder_opts *d, const model *m)
{
    const model_info *info = model_find(m->arch);
    d->item_tfms[0] = leaves_resize(m->resize);
    d->batch_tfms.size = m->size;
    d->labels = columns_of(&m->targets);
    d->loaders.valid_batch = d->loaders.batch, d->loaders.batch = 1;        /* nothing is trained, however few there are */
    for (int k = 0; k < m->targets.n; k++) d->vocab[k] = m->targets.target[k].vocab;
    for (int k = 0; k < 3; k++) d->normalize.mean[k] = (float)info->mean[k], d->normalize.std[k] = (float)info->std[k];
}

data_loaders leaves_loaders(const options *o, const leaves *where, const model *like)
{
    data_splitter held_out;
    data_folder_opts d = {
        .item_tfms = { leaves_resize(o->resize) }, .valid_pct = o->valid, .split_seed = (uint64_t)o->seed,
        .batch_tfms = data_aug_transforms(.size = o->size, .min_scale = o->weights ? 0.75 : 0.35),
        .loaders = { .batch = o->batch, .seed = (uint64_t)o->seed, .workers = (int)o->workers, .cache = "ram" },
        .labels = o->targets ? o->targets : where->has_table ? "label,variety" : "label" };
    if (like) be_like(&d, like);
    if (o->valid_table) {
        held_out = data_list_splitter(data_csv(o->valid_table, .types = "image_id:text"), "image_id");
        d.split = &held_out;
    }
    if (o->memory) ag_memory_limit(o->memory);
    data_loaders dls = where->has_table ? ag_data_from_csv_(NULL, where->dir, where->table, d)
                                        : ag_data_image_folder_(NULL, where->dir, d);
    for (int k = 0; k < dls.targets.n; k++)
        if (!strcmp(dls.targets.target[k].name, "label")) dls.targets.target[k].name = "disease";
    return dls;
}

/* ---- painting ------------------------------------------------------------------------------------------ */

typedef struct { const char *dir; int64_t size, diseases, varieties; uint64_t seed; } canvas;

/* Every disease and variety together, the first varieties more often, as in the field. */
static void subject(const canvas *c, int64_t i, int *disease, int *variety)
{
    const ag_philox4 r = ag_philox(c->seed, 77, (uint64_t)i);
    *disease = (int)(i % c->diseases);
    *variety = (int)((i / c->diseases) % c->varieties);
    if (r.v[0] % 3 == 0) *variety = 0;
}

enum { AT_ONCE = 64 };
typedef struct { const canvas *c; int64_t first; data_image image[AT_ONCE]; } easel;

static void paint_some(int64_t begin, int64_t end, void *arg)
{
    easel *e = arg;
    for (int64_t k = begin; k < end; k++) {
        int disease, variety;
        subject(e->c, e->first + k, &disease, &variety);
        const ag_philox4 r = ag_philox(e->c->seed, 78, (uint64_t)(e->first + k));
        leaf_paint(&e->image[k], disease, variety, (uint64_t)r.v[0] << 32 | r.v[1]);
    }
}

/* Painted by all threads, written by one, so that a full disk is an error like any other. */
static void paint_and_write(easel *e, int64_t n)
{
    ag_parallel(n, 1, 1e6, paint_some, e);
    for (int64_t k = 0; k < n; k++) {
        AG_SCOPE;
        int disease, variety;
        subject(e->c, e->first + k, &disease, &variety);
        char *path = ag_sprintf("%s/train_images/%s/%06d.jpg", e->c->dir, leaf_disease[disease], (int)(100000 + e->first + k));
        ag_defer(ag_free, path);
        data_image_write(path, &e->image[k]);
    }
}

static void write_table(const canvas *c, int64_t n)
{
    char *path = ag_sprintf("%s/train.csv", c->dir);
    ag_defer(ag_free, path);
    ag_file *table = ag_file_create(path);
    ag_file_printf(table, "image_id,label,variety,age\n");
    for (int64_t i = 0; i < n; i++) {
        int disease, variety;
        subject(c, i, &disease, &variety);
        ag_file_printf(table, "%06d.jpg,%s,%s,%d\n", (int)(100000 + i), leaf_disease[disease], leaf_variety[variety],
                       45 + (int)(ag_philox(c->seed, 79, (uint64_t)i).v[0] % 38));
    }
    ag_file_commit(table);
}

void leaves_paint(const char *dir, int64_t n, int64_t size, int64_t diseases, int64_t varieties, uint64_t seed)
{
    AG_SCOPE;
    const canvas c = { dir, size, diseases, varieties, seed };
    easel *e = ag_alloc(1, sizeof *e);
    ag_defer(ag_free, e);
    e->c = &c;
    for (int64_t k = 0; k < diseases; k++) {
        char *folder = ag_sprintf("%s/train_images/%s", dir, leaf_disease[k]);
        ag_defer(ag_free, folder);
        ag_make_folder(folder);
    }
    for (int k = 0; k < AT_ONCE; k++) {
        e->image[k] = (data_image){ size * 3 / 4, size, ag_alloc(size * (size * 3 / 4), 3) };
        ag_defer(ag_free, e->image[k].pixels);
    }
    for (; e->first < n; e->first += AT_ONCE) paint_and_write(e, n - e->first < AT_ONCE ? n - e->first : AT_ONCE);
    write_table(&c, n);
}

int paint(const options *o)
{
    const char *dir = o->line.argument[0];
    leaves_paint(dir, o->n, o->size < 32 ? 32 : o->size, o->diseases, o->varieties, (uint64_t)o->seed);
    printf("%s: %" PRId64 " leaves of %" PRId64 " diseases and %" PRId64 " varieties, and train.csv\n", dir, o->n, o->diseases,
           o->varieties);
    return 0;
}
