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

/* The files below dir by name: key is a path below dir, a name, or a name without its ending. */
typedef struct { const char *key; const char *file; } file_key;
typedef struct {
    const char *at, *dir;
    const data_table *table;
    const data_names *labels;
    data_files files;
    file_key *key;
} shelf;

static int by_key(const void *a, const void *b) { return strcmp(((const file_key *)a)->key, ((const file_key *)b)->key); }

static void sort_files(shelf *s)
{
    const int64_t n = s->files.n;
    s->key = ag_alloc(3 * n, sizeof *s->key);
    ag_defer(ag_free, s->key);
    for (int64_t i = 0; i < n; i++) {
        const char *file = s->files.name[i], *base = ag_data_base_name(file), *dot = strrchr(base, '.');
        s->key[3 * i] = (file_key){ file, file };
        s->key[3 * i + 1] = (file_key){ base, file };
        s->key[3 * i + 2] = (file_key){ ag_data_text_printf("%.*s", (int)(dot - base), base), file };
    }
    qsort(s->key, (size_t)(3 * n), sizeof *s->key, by_key);
}

/* How much speaks for a file as a row's: it lies in the folder of one of the row's labels; it lies in train_images. */
static int merit(const shelf *s, int64_t row, const char *file)
{
    const char *folder = ag_data_parent_label(file, NULL);
    int points = strncmp(file, "train_images/", 13) ? 0 : 1;
    for (int k = 0; folder && k < s->labels->n; k++)
        if (!strcmp(folder, ag_data_cell_(s->at, s->table, row, s->labels->name[k]))) return points + 2;
    return points;
}

/* The file of a row; NULL: none, and *rivals: how many there are of equal merit. */
static const char *file_of_row(const shelf *s, int64_t row, const char *id, int *rivals)
{
    *rivals = 0;
    if (*id == '/') return ag_file_exists(id) ? id : NULL;
    const file_key wanted = { id, NULL }, *end = s->key + 3 * s->files.n;
    const file_key *k = bsearch(&wanted, s->key, (size_t)(3 * s->files.n), sizeof *k, by_key);
    const char *best = NULL;
    int most = -1;
    if (!k) return NULL;
    while (k > s->key && !by_key(k - 1, &wanted)) k--;
    for (; k < end && !by_key(k, &wanted); k++) {
        if (best && !strcmp(best, k->file)) continue;       /* a path without folders is its name as well */
        const int points = merit(s, row, k->file);
        *rivals = points > most ? 0 : *rivals + (points == most);
        if (points > most) best = k->file, most = points;
    }
    return *rivals ? NULL : best;
}

/* Files that no row names are left out, not without a word: they may be the test pictures. */
static void tell_unused(const shelf *s, const char *const *found, int64_t rows)
{
    const data_files *f = &s->files;
    unsigned char *used = ag_alloc(f->n, 1);
    ag_defer(ag_free, used);
    int64_t unused = f->n;
    for (int64_t r = 0; r < rows; r++) {
        const char *const *k = bsearch(&found[r], f->name, (size_t)f->n, sizeof *k, ag_data_by_text);
        if (k && !used[k - f->name]) used[k - f->name] = 1, unused--;
    }
    if (unused)
        fprintf(stderr, "%" PRId64 " of %" PRId64 " pictures below %s have no row in %s and are left out: %s\n", unused, f->n,
                s->dir, s->table->path, ag_data_first_names(f->name, used, 0, f->n));
}

static const char **files_of_rows(const char *at, const data_table *t, const char *column, const data_names *labels,
                                  const char *dir)
{
    shelf s = { at, dir, t, labels, ag_data_image_files_(at, dir), NULL };
    const int64_t n = t->rows;
    const char **found = ag_alloc(n, sizeof *found);
    ag_defer(ag_free, found);
    if (!s.files.n) ag_fail(at, "no pictures below %s (.jpg, .jpeg, .png, .bmp, .gif)", dir);
    AG_SCOPE;
    sort_files(&s);
    unsigned char *lost = ag_alloc(n, 1);           /* 1: no file, 2: several */
    ag_defer(ag_free, lost);
    const char *const *id = ag_data_texts_(at, t, column);
    int64_t absent = 0, unclear = 0;
    for (int64_t r = 0; r < n; r++) {
        int rivals;
        found[r] = file_of_row(&s, r, id[r], &rivals);
        lost[r] = found[r] ? 0 : rivals ? 2 : 1;
        absent += lost[r] == 1, unclear += lost[r] == 2;
    }
    if (absent) ag_fail(at, "%" PRId64 " of the %" PRId64 " rows of %s have no file below %s: %s\nRemove these rows, or find "
                        "the files", absent, n, t->path, dir, ag_data_first_names(id, lost, 1, n));
    if (unclear) ag_fail(at, "%" PRId64 " of the %" PRId64 " rows of %s name more than one file below %s: %s\nWrite the path "
                         "below %s instead of the name, or name the folder of the training pictures", unclear, n, t->path,
                         dir, ag_data_first_names(id, lost, 2, n), dir);
    tell_unused(&s, found, n);
    return found;
}

/* A file that stands in two rows has two labels. */
static void check_twins(const char *at, const data_table *t, const char *column)
{
    AG_SCOPE;
    unsigned char *twice = ag_alloc(t->rows, 1);
    ag_defer(ag_free, twice);
    const char *const *id = ag_data_texts_(at, t, column);
    data_index *x = ag_data_index_new(t->rows, NULL, id);
    int64_t n = 0;
    for (int64_t r = 0; r < t->rows; r++) n += twice[r] = ag_data_index_put(x, r) >= 0;
    ag_data_index_free(x);
    if (n) ag_fail(at, "%s: %" PRId64 " ids stand in more than one row: %s\nKeep one row for each file", t->path, n,
                   ag_data_first_names(id, twice, 1, t->rows));
}

data_loaders ag_data_from_csv_(const char *at, const char *dir, const char *csv, data_folder_opts o)
{
    const char *file = o.file ? o.file : "image_id";
    data_block b = block_of(&o);
    char *types = ag_sprintf("%s:text", file);      /* an id of digits keeps its zeros */
    ag_defer(ag_free, types);
    data_table *t = ag_data_csv_(at, csv, (data_csv_opts){ .header = DATA_HEADER_YES, .types = types });
    check_twins(at, t, file);
    const data_names labels = ag_data_split_names(at, o.labels ? o.labels : "label");
    if (labels.n >= DATA_MAX_BLOCKS) ag_fail(at, "data_from_csv: .labels names %d columns; at most %d", labels.n,
                                             DATA_MAX_BLOCKS - 1);
    const char **found = files_of_rows(at, t, file, &labels, dir);
    ag_data_index_by_(at, t, file);
    for (int k = 0; k < labels.n; k++) {
        b.blocks[k + 1] = data_category_block(labels.name[k], .vocab = o.vocab[k]);
        b.get_y[k] = data_column_label(t, labels.name[k]);
    }
    qsort(found, (size_t)t->rows, sizeof *found, ag_data_by_text);      /* one order, however the rows stand */
    b.items = found, b.n_items = t->rows;
    return ag_data_block_loaders_(at, &b, dir, o.loaders);
}
