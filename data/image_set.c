/* data/image_set.c - samples from pictures: read, transformed, kept, augmented, normalised. */
#include <stdio.h>
#include <string.h>
#include "core/io.h"
#include "core/memory.h"
#include "core/random.h"
#include "data/block_inside.h"
#include "data/files.h"
#include "data/set.h"

/* ---- one picture --------------------------------------------------------------------------------------- */

static void path_of(const data_source *s, int64_t row, char *path, size_t size)
{
    snprintf(path, size, "%s%s%s", s->folder ? s->folder : "", s->folder ? "/" : "", s->name[row]);
}

/* Read no larger than the first transform needs; the first `upto` transforms done. */
static bool read_item(const data_source *s, int64_t row, int upto, uint64_t key, bool train, data_image *image, char *why)
{
    char path[4096];
    data_image_opts o = { 0 };
    path_of(s, row, path, sizeof path);
    if (s->items && s->item[0].needs) {
        data_image_info info;
        if (!ag_data_image_probe(path, &info, why)) return false;
        o.width = info.width, o.height = info.height;
        s->item[0].needs(&s->item[0], &o.width, &o.height);
    }
    if (!ag_data_image_try(path, image, why, o)) return false;
    for (int i = 0; i < upto; i++) {
        data_random r = ag_data_random_of(key, i, train);
        s->item[i].apply(&s->item[i], image, &r);
    }
    return true;
}

static data_image copy_of(const data_image *image)
{
    const int64_t n = image->width * image->height;
    return (data_image){ image->width, image->height, memcpy(ag_alloc(n, 3), image->pixels, (size_t)n * 3) };
}

/* What can be kept of a picture, from memory or the file; *owned: the caller frees it. */
static bool kept_item(data_source *s, int64_t row, uint64_t key, bool train, data_image *image, bool *owned, char *why)
{
    data_image *have = s->cache ? atomic_load(&s->cache[row]) : NULL;
    *owned = !have;
    if (have) *image = *have;
    else if (!read_item(s, row, s->kept, key, train, image, why)) return false;
    const int64_t size = 3 * image->width * image->height;
    if (have || !s->cache || atomic_fetch_sub(&s->room, size) < size) return true;
    data_image *keep = ag_alloc(1, sizeof *keep), *none = NULL;
    *keep = *image;
    *owned = !atomic_compare_exchange_strong(&s->cache[row], &none, keep);
    if (*owned) ag_free(keep);          /* another worker was first */
    return true;
}

static bool item_of(data_source *s, int64_t row, uint64_t key, bool train, data_image *image, bool *owned, char *why)
{
    if (!kept_item(s, row, key, train, image, owned, why)) return false;
    if (s->kept < s->items && !*owned) *image = copy_of(image), *owned = true;
    for (int i = s->kept; i < s->items; i++) {
        data_random r = ag_data_random_of(key, i, train);
        s->item[i].apply(&s->item[i], image, &r);
    }
    return true;
}

static void note_bad(data_source *s, int64_t row, const char *why)
{
    pthread_mutex_lock(&s->lock);
    const bool first = !s->bad[row];
    s->bad[row] = 1;
    if (first) {
        s->bad_count++;
        ag_data_offend(&s->offenders, s->name[row]);
        fprintf(stderr, "left out: %s: %s\n", s->name[row], why);
    }
    const bool too_many = s->bad_count > s->most_bad;
    pthread_mutex_unlock(&s->lock);
    if (too_many)
        ag_fail(s->at, "%" PRId64 " of %" PRId64 " pictures are broken, more than .max_bad allows (%" PRId64 "): %s%s",
                s->bad_count, s->n, s->most_bad, s->offenders.text, s->offenders.n > DATA_NAMES_SHOWN ? ", ..." : "");
}

static data_augment sized(const data_source *s)
{
    data_augment a = s->augment;
    a.size = s->height, a.width = s->width;
    return a;
}

static void write_labels(const data_source *s, int64_t row, void *y)
{
    const double *label = s->label + row * s->columns;
    bool whole = true;
    for (int k = 0; k < s->targets.n; k++) whole &= s->targets.target[k].kind == DATA_TARGET_CATEGORY;
    for (int64_t i = 0; i < s->columns; i++) {
        if (whole) ((int64_t *)y)[i] = (int64_t)label[i];
        else ((real *)y)[i] = (real)label[i];
    }
}

static void get(data_sample *sample)
{
    const data_view *v = sample->arg;
    data_source *s = v->source;
    data_image image;
    bool owned;
    char why[DATA_WHY];
    if (!item_of(s, sample->row, sample->key, v->train, &image, &owned, why)) {
        note_bad(s, sample->row, why);
        sample->bad = true;
        return;
    }
    const data_augment a = sized(s);
    data_random r = ag_data_random_of(sample->key, DATA_MAX_TRANSFORMS, v->train);
    ag_data_augment_sample(&a, &image, &s->stats, &r, sample->x);
    if (owned) data_image_free(&image);
    if (sample->y) write_labels(s, sample->row, sample->y);
}

/* ---- sources ------------------------------------------------------------------------------------------- */

static void drop(void *arg)
{
    data_source *s = arg;
    for (int64_t i = 0; i < s->n; i++) {
        ag_free(s->name[i]);
        data_image *kept = s->cache ? atomic_load(&s->cache[i]) : NULL;
        if (kept) data_image_free(kept);
        ag_free(kept);
    }
    ag_free(s->cache);
    ag_free(s->name);
    ag_free(s->label);
    ag_free(s->bad);
    ag_free(s->folder);
    pthread_mutex_destroy(&s->lock);
    ag_free(s);
}

/* The size of results, from the augmentation's, else of the first picture that can be read. */
static void find_size(data_source *s)
{
    char why[DATA_WHY] = "";
    if (s->augment.size) {
        s->height = s->augment.size, s->width = s->augment.width ? s->augment.width : s->augment.size;
        return;
    }
    for (int64_t i = 0; i < s->n && i < 100 && !s->height; i++) {
        data_image image;
        if (!read_item(s, i, s->items, 0, false, &image, why)) continue;
        s->height = image.height, s->width = image.width;
        data_image_free(&image);
    }
    if (!s->height)
        ag_fail(s->at, "%s: none of the first pictures can be read; %s: %s", s->folder ? s->folder : "data_images_of", s->name[0],
                why);
}

static data_source *new_source(const char *at, const char *folder, char **name, int64_t n, const data_images_opts *o)
{
    data_source *s = ag_alloc(1, sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
    s->at = at, s->folder = folder ? ag_strdup(folder) : NULL, s->name = name, s->n = n;
    ag_defer(drop, s);
    while (s->items < DATA_MAX_TRANSFORMS && o->item_tfms[s->items].apply) s->item[s->items] = o->item_tfms[s->items], s->items++;
    while (s->kept < s->items && !s->item[s->kept].random) s->kept++;
    s->augment = o->batch_tfms, s->stats = o->stats;
    s->bad = ag_alloc(n, 1);
    s->most_bad = (int64_t)((o->max_bad > 0 ? o->max_bad : 0.01) * (double)n);
    if (s->most_bad < 1 && !(o->max_bad < 0)) s->most_bad = 1;
    return s;
}

data_set *ag_data_image_set(data_source *s, bool train)
{
    data_view *v = ag_alloc(1, sizeof *v);
    bool whole = true;
    *v = (data_view){ s, train };
    ag_defer(ag_free, v);
    for (int k = 0; k < s->targets.n; k++) whole &= s->targets.target[k].kind == DATA_TARGET_CATEGORY;
    return ag_data_from_function_(s->at, s->n, get, (data_function_opts){
        .arg = v, .x = AG_SHAPE(s->height, s->width, 3), .has_y = s->columns > 0, .y_dtype = whole ? AG_I64 : AG_F32,
        .y = s->columns > 1 ? AG_SHAPE(s->columns) : (ag_shape){ 0 } });
}

static data_split split(data_source *s, const data_images_opts *o)
{
    int64_t n;
    int64_t *rows = ag_data_held_out(s, o, &n);
    ag_defer(ag_free, rows);
    data_set *train = ag_data_image_set(s, true), *valid = ag_data_image_set(s, false);
    return (data_split){ ag_data_index_split_(s->at, train, rows, n).train, ag_data_index_split_(s->at, valid, rows, n).valid };
}

data_loaders ag_data_images_(const char *at, const char *folder, data_images_opts o)
{
    int64_t n;
    if (!ag_is_folder(folder)) ag_fail(at, "data_images: there is no folder %s", folder);
    char **name = ag_data_files(folder, NULL, &n);
    if (!n) ag_fail(at, "%s holds no pictures: no file below it ends in .jpg, .jpeg, .png, .bmp or .gif", folder);
    data_source *s = new_source(at, folder, name, n, &o);
    ag_data_read_labels(s, &o);
    find_size(s);
    if (!o.no_cache && s->kept == s->items && s->items) {
        s->cache = ag_alloc(n, sizeof *s->cache);
        atomic_store(&s->room, ag_memory_budget() / 4);
    }
    const data_split d = split(s, &o);
    const int64_t most = data_size(d.train), batch = o.batch ? o.batch : most < 64 ? most : 64;
    return (data_loaders){
        .train = ag_data_loader_new_(at, d.train, batch, (data_loader_opts){ .shuffle = true, .drop_last = true, .seed = o.seed,
                                                                             .workers = o.workers, .prefetch = o.prefetch }),
        .valid = ag_data_loader_new_(at, d.valid, o.valid_batch ? o.valid_batch : 2 * batch,
                                     (data_loader_opts){ .workers = o.workers, .prefetch = o.prefetch }),
        .source = s, .targets = s->targets };
}

data_loader *ag_data_images_of_(const char *at, const char *const *paths, int64_t n, data_images_opts o)
{
    if (n < 1) ag_fail(at, "data_images_of: no pictures");
    char **name = ag_alloc(n, sizeof *name);
    for (int64_t i = 0; i < n; i++) name[i] = ag_strdup(paths[i]);
    data_source *s = new_source(at, NULL, name, n, &o);
    find_size(s);
    return ag_data_loader_new_(at, ag_data_image_set(s, false), o.batch ? o.batch : 64,
                               (data_loader_opts){ .workers = o.workers, .prefetch = o.prefetch });
}

/* ---- looking and changing ------------------------------------------------------------------------------ */

static data_view *view_of(const char *at, const data_set *set)
{
    if (set->get != get) ag_fail(at, "the set does not hold pictures of data_images");
    return set->arg;
}

data_loader *ag_data_varied_(const char *at, data_loader *loader)
{
    const data_set *set = data_loader_set(loader);
    data_view *v = ag_alloc(1, sizeof *v);
    ag_defer(ag_free, v);
    *v = (data_view){ view_of(at, set)->source, true };
    data_set *varied = ag_data_subset_make(at, set, NULL, set->n);
    ag_defer(ag_data_set_drop, varied);
    varied->arg = v;
    return ag_data_loader_new_(at, varied, ag_data_batch_size(loader), (data_loader_opts){
        .seed = ag_data_loader_seed(loader), .workers = ag_data_loader_workers(loader) });
}

void ag_data_set_stats(data_source *s, data_stats stats) { s->stats = stats; }
int64_t ag_data_bad_count(const data_source *s) { return s->bad_count; }

const char *ag_data_image_path(const data_set *set, int64_t row)
{
    const data_source *s = view_of(AG_HERE, set)->source;
    char path[4096];
    path_of(s, ag_data_source_row(set, row), path, sizeof path);
    return ag_intern(path);
}

bool ag_data_image_item(const data_set *set, int64_t row, data_image *image, char why[DATA_WHY])
{
    const data_source *s = view_of(AG_HERE, set)->source;
    return read_item(s, ag_data_source_row(set, row), s->items, 0, false, image, why);
}

double ag_data_image_label(const data_set *set, int64_t row, int target)
{
    const data_source *s = view_of(AG_HERE, set)->source;
    return s->label[ag_data_source_row(set, row) * s->columns + s->targets.target[target].column];
}

void ag_data_summary_(const char *at, const data_loaders *dls)
{
    const data_source *s = dls->source;
    char path[4096], why[DATA_WHY];
    data_image image;
    path_of(s, 0, path, sizeof path);
    printf("%" PRId64 " pictures below %s: %" PRId64 " to learn from, %" PRId64 " for validation\n", s->n, s->folder,
           data_size(data_loader_set(dls->train)), data_size(data_loader_set(dls->valid)));
    for (int k = 0; k < s->targets.n; k++)
        printf("  %-20s %" PRId64 " %s\n", s->targets.target[k].name, s->targets.target[k].classes,
               s->targets.target[k].kind == DATA_TARGET_REGRESSION ? "number" : "classes");
    printf("one of them, %s\n", path);
    for (int i = 0; i <= s->items; i++) {
        if (!read_item(s, 0, i, 0, true, &image, why)) ag_fail(at, "%s: %s", path, why);
        printf("  %-20s u8 [%" PRId64 ", %" PRId64 ", 3]\n", i ? s->item[i - 1].name : "read", image.height, image.width);
        data_image_free(&image);
    }
    printf("  %-20s f32 [%" PRId64 ", %" PRId64 ", 3]%s\n", "augment, normalise", s->height, s->width,
           s->cache ? ", from a picture kept in memory" : "");
    printf("a batch: f32 [%" PRId64 ", %" PRId64 ", %" PRId64 ", 3], labels [%" PRId64 ", %" PRId64 "]\n",
           data_batch_size(dls->train), s->height, s->width, data_batch_size(dls->train), s->columns);
}
