/* data/block_folder.c - blocks of the usual layouts: class folders, a table beside a folder. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/io.h"
#include "core/memory.h"
#include "data/block_inside.h"

static data_block block_of(const data_folder_opts *o)
{
    data_block b = { .blocks = { data_image_block() }, .batch_tfms = o->batch_tfms, .normalize = o->normalize };
    memcpy(b.item_tfms, o->item_tfms, sizeof b.item_tfms);
    b.splitter = data_random_splitter(o->valid_pct ? o->valid_pct : 0.2, o->split_seed ? o->split_seed : 42);
    if (o->split) b.splitter = *o->split;
    return b;
}

/* A class without pictures is no reason to stop. */
static void warn_empty(const char *dir, const char *const *name, int64_t n)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (*e->d_name == '.') continue;
        const size_t len = strlen(e->d_name);
        bool used = false;
        for (int64_t i = 0; i < n && !used; i++) used = !strncmp(name[i], e->d_name, len) && name[i][len] == '/';
        char *path = ag_sprintf("%s/%s", dir, e->d_name);
        if (!used && ag_is_folder(path)) fprintf(stderr, "no pictures in %s: this class is left out\n", path);
        ag_free(path);
    }
    if (d) closedir(d);
}

static bool folder_in(const char *dir, const char *name)
{
    char *path = ag_sprintf("%s/%s", dir, name);
    const bool there = ag_is_folder(path);
    ag_free(path);
    return there;
}

data_loaders ag_data_image_folder_(const char *at, const char *dir, data_folder_opts o)
{
    data_block b = block_of(&o);
    const char *train = o.train ? o.train : "train", *valid = o.valid ? o.valid : "valid";
    b.blocks[1] = data_category_block(o.labels ? o.labels : "label", .vocab = o.vocab[0]);
    b.get_y[0] = data_parent_label();
    const data_files f = ag_data_image_files_(at, dir);
    const bool divided = folder_in(dir, train) && folder_in(dir, valid);
    if (!o.split && divided) b.splitter = data_grandparent_splitter(train, valid);
    else warn_empty(dir, f.name, f.n);
    int64_t loose = 0;
    for (int64_t i = 0; i < f.n; i++) loose += !strchr(f.name[i], '/');
    if (loose)
        ag_fail(at, "%" PRId64 " of %" PRId64 " pictures lie in %s itself; the folder of a picture is its class: %s/CLASS/%s",
                loose, f.n, dir, dir, ag_data_base_name(f.name[0]));
    b.items = f.name, b.n_items = f.n;
    return ag_data_block_loaders_(at, &b, dir, o.loaders);
}

/* The file of each row: by its path below dir, or by its name anywhere there, with or without the ending. */
static const char **files_of_rows(const char *at, const data_table *t, const char *column, const char *dir)
{
    const data_files f = ag_data_image_files_(at, dir);
    const int64_t n = t->rows;
    const char **keys = ag_alloc(3 * f.n + 1, sizeof *keys), **found = ag_alloc(n, sizeof *found);
    ag_defer(ag_free, keys);
    ag_defer(ag_free, found);
    if (!f.n) ag_fail(at, "no pictures below %s (.jpg, .jpeg, .png, .bmp, .gif)", dir);
    for (int64_t i = 0; i < f.n; i++) {
        const char *base = ag_data_base_name(f.name[i]);
        const char *dot = strrchr(base, '.');
        keys[i] = f.name[i], keys[f.n + i] = base;
        keys[2 * f.n + i] = ag_data_text_printf("%.*s", (int)(dot - base), base);
    }
    AG_SCOPE;
    data_index *x = ag_data_index_new(3 * f.n, NULL, keys);
    for (int64_t i = 0; i < 3 * f.n; i++) ag_data_index_put(x, i);
    const char **id = ag_alloc(n, sizeof *id);
    ag_defer(ag_free, id);
    unsigned char *missing = ag_alloc(n, 1);
    ag_defer(ag_free, missing);
    int64_t absent = 0;
    for (int64_t r = 0; r < n; r++) {
        id[r] = ag_data_cell_(at, t, r, column);
        const int64_t k = ag_data_index_text(x, id[r]);
        if (k >= 0) found[r] = f.name[k % f.n];
        absent += missing[r] = k < 0;
    }
    ag_data_index_free(x);
    if (absent) ag_fail(at, "%" PRId64 " of the %" PRId64 " rows of %s have no file below %s: %s\nRemove these rows, or find "
                        "the files", absent, n, t->path, dir, ag_data_first_names(id, missing, 1, n));
    return found;
}

/* A file that stands in two rows has two labels. */
static void check_twins(const char *at, const data_table *t, const char *column)
{
    AG_SCOPE;
    const char **id = ag_alloc(t->rows, sizeof *id);
    ag_defer(ag_free, id);
    unsigned char *twice = ag_alloc(t->rows, 1);
    ag_defer(ag_free, twice);
    for (int64_t r = 0; r < t->rows; r++) id[r] = ag_data_cell_(at, t, r, column);
    data_index *x = ag_data_index_new(t->rows, NULL, id);
    int64_t n = 0;
    for (int64_t r = 0; r < t->rows; r++) n += twice[r] = ag_data_index_put(x, r) >= 0;
    ag_data_index_free(x);
    if (n) ag_fail(at, "%s: %" PRId64 " ids stand in more than one row: %s\nKeep one row for each file", t->path, n,
                   ag_data_first_names(id, twice, 1, t->rows));
}

static int by_file(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

data_loaders ag_data_from_csv_(const char *at, const char *dir, const char *csv, data_folder_opts o)
{
    const char *file = o.file ? o.file : "image_id";
    data_block b = block_of(&o);
    data_table *t = ag_data_csv_(at, csv, (data_csv_opts){ .header = DATA_HEADER_YES });
    ag_data_column(at, t, file);
    check_twins(at, t, file);
    const data_names labels = ag_data_split_names(at, o.labels ? o.labels : "label");
    if (labels.n >= DATA_MAX_BLOCKS) ag_fail(at, "data_from_csv: .labels names %d columns; at most %d", labels.n,
                                             DATA_MAX_BLOCKS - 1);
    const char **found = files_of_rows(at, t, file, dir);
    ag_data_index_by_(at, t, file);
    for (int k = 0; k < labels.n; k++) {
        b.blocks[k + 1] = data_category_block(labels.name[k], .vocab = o.vocab[k]);
        b.get_y[k] = data_column_label(t, labels.name[k]);
    }
    qsort(found, (size_t)t->rows, sizeof *found, by_file);      /* one order, however the rows stand */
    b.items = found, b.n_items = t->rows;
    return ag_data_block_loaders_(at, &b, dir, o.loaders);
}
