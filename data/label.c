/* data/label.c - what belongs to an item: labels from its path, from a table; training or validation. */
#include <ctype.h>
#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "core/memory.h"
#include "data/block_inside.h"

/* ---- getters ------------------------------------------------------------------------------------------------ */

const char *ag_data_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The folder `up` levels above the file. */
static const char *folder_of(const char *path, int up)
{
    const char *end = strrchr(path, '/');
    for (; up > 1 && end; up--) {
        do end--; while (end >= path && *end != '/');
        if (end < path) end = NULL;
    }
    if (!end) return NULL;
    const char *begin = end;
    while (begin > path && begin[-1] != '/') begin--;
    return ag_data_text_printf("%.*s", (int)(end - begin), begin);
}

const char *ag_data_parent_label(const char *path, void *unused)
{
    (void)unused;
    return folder_of(path, 1);
}

const char *ag_data_grandparent_label(const char *path, void *unused)
{
    (void)unused;
    return folder_of(path, 2);
}

/* The cell beside the path, the file's name, or that without its ending. */
static const char *cell_of(const char *at, const data_table *t, const char *path, const char *column)
{
    if (!t->index) ag_fail(at, "the table of column \"%s\" has no key; data_csv(..., .index = \"image_id\")", column);
    const char *base = ag_data_base_name(path), *dot = strrchr(base, '.');
    const char *key[] = { path, base, dot ? ag_data_text_printf("%.*s", (int)(dot - base), base) : base };
    ag_data_column(at, t, column);
    for (int k = 0; k < 3; k++) {
        const int64_t row = ag_data_find_(at, t, key[k]);
        if (row >= 0) return ag_data_cell_(at, t, row, column);
    }
    return NULL;
}

static void free_regex(void *r)
{
    regfree(r);
    ag_free(r);
}

static const char *match_of(const char *at, const char *pattern, const char *path)
{
    const char *name = ag_data_base_name(path);
    regmatch_t match[2];
    char why[128];
    const char *found = NULL;
    regex_t *r = ag_alloc(1, sizeof *r);
    const int error = regcomp(r, pattern, REG_EXTENDED);
    if (error) {
        regerror(error, r, why, sizeof why);
        ag_free(r);
        ag_fail(at, "data_regex_label(\"%s\"): %s", pattern, why);
    }
    if (r->re_nsub < 1) {
        free_regex(r);
        ag_fail(at, "data_regex_label(\"%s\"): the label is its first group, (...), and it has none", pattern);
    }
    if (!regexec(r, name, 2, match, 0) && match[1].rm_so >= 0)
        found = ag_data_text_printf("%.*s", (int)(match[1].rm_eo - match[1].rm_so), name + match[1].rm_so);
    free_regex(r);
    return found;
}

const char *ag_data_label(const char *at, const data_getter *g, const char *path)
{
    const char *label = g->get ? g->get(path, g->arg)
                      : g->table ? cell_of(at, g->table, path, g->text)
                      : g->text ? match_of(at, g->text, path)
                      : ag_data_parent_label(path, NULL);
    return label && *label ? label : NULL;
}

const char *ag_data_first_names(const char *const *name, const unsigned char *mark, int value, int64_t n)
{
    const char *text = "";
    int64_t found = 0;
    for (int64_t i = 0; i < n; i++) {
        if (mark[i] != value) continue;
        if (found < DATA_SHOWN)
            text = ag_data_text_printf("%s%s%s", text, found ? ", " : "", ag_data_show(name[i], (int64_t)strlen(name[i])));
        found++;
    }
    return found > DATA_SHOWN ? ag_data_text_printf("%s and %" PRId64 " more", text, found - DATA_SHOWN) : text;
}

/* ---- splitters ---------------------------------------------------------------------------------------------- */

static void by_index(const char *at, const data_splitter *s, unsigned char *mark, int64_t n)
{
    for (int64_t i = 0; i < s->n; i++) {
        if (s->rows[i] < 0 || s->rows[i] >= n)
            ag_fail(at, "data_index_splitter: rows[%" PRId64 "] = %" PRId64 ", there are items 0 .. %" PRId64, i, s->rows[i],
                    n - 1);
        mark[s->rows[i]] = 1;
    }
}

static void by_column(const char *at, const data_splitter *s, unsigned char *mark, const char *const *name, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        AG_SCOPE;
        const char *cell = cell_of(at, s->table, name[i], s->text);
        if (!cell) ag_fail(at, "data_column_splitter: the table has no row for %s", name[i]);
        mark[i] = !strcasecmp(cell, "true") || !strcmp(cell, "1");
    }
}

static bool has_folder(const char *path, const char *folder)
{
    const size_t len = strlen(folder);
    for (const char *p = path, *slash; (slash = strchr(p, '/')); p = slash + 1)
        if ((size_t)(slash - p) == len && !memcmp(p, folder, len)) return true;
    return false;
}

static void by_names(const char *at, const char *file, const char *const *listed, int64_t n_listed, unsigned char *mark,
                     const char *const *name, int64_t n)
{
    AG_SCOPE;
    data_index *x = ag_data_index_new(n_listed, NULL, listed);
    unsigned char *found = ag_alloc(n_listed, 1);
    ag_defer(ag_free, found);
    for (int64_t i = 0; i < n_listed; i++) found[i] = ag_data_index_put(x, i) >= 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t k = ag_data_index_text(x, name[i]);
        if (k < 0) k = ag_data_index_text(x, ag_data_base_name(name[i]));
        mark[i] = k >= 0;
        if (k >= 0) found[k] = 1;
    }
    ag_data_index_free(x);
    for (int64_t i = 0; i < n_listed; i++)
        if (!found[i]) ag_fail(at, "the list of the validation part (%s): row %" PRId64 " names no item; it has %s",
                               file, i + 1, ag_data_first_names(listed, found, 0, n_listed));
}

static void by_file(const char *at, const data_splitter *s, unsigned char *mark, const char *const *name, int64_t n)
{
    AG_SCOPE;
    const data_table *list = ag_data_csv_(at, s->text, (data_csv_opts){ .sep = "\t", .names = "value", .types = "value:text",
                                                                        .header = DATA_HEADER_NO, .no_quotes = true });
    by_names(at, s->text, ag_data_texts_(at, list, "value"), list->rows, mark, name, n);
}

static void by_chance(const char *at, double fraction, uint64_t seed, unsigned char *mark, int64_t n)
{
    if (!(fraction > 0 && fraction < 1))
        ag_fail(at, "data_random_splitter: fraction = %g; the share of the validation set lies between 0 and 1", fraction);
    const int64_t n_valid = (int64_t)floor(fraction * (double)n);
    const data_permutation p = ag_data_permutation(n, seed, UINT64_MAX);
    for (int64_t i = 0, to; i < n_valid; i++) {
        ag_data_permute(&p, i, 1, &to);
        mark[to] = 1;
    }
}

unsigned char *ag_data_divide(const char *at, const data_splitter *s, const char *const *name, int64_t n)
{
    unsigned char *mark = ag_alloc(n, 1);
    ag_defer(ag_free, mark);
    if (s->kind == DATA_SPLIT_INDEX) by_index(at, s, mark, n);
    else if (s->kind == DATA_SPLIT_COLUMN) by_column(at, s, mark, name, n);
    else if (s->kind == DATA_SPLIT_FILE) by_file(at, s, mark, name, n);
    else if (s->kind == DATA_SPLIT_LIST)
        by_names(at, s->text, ag_data_texts_(at, s->table, s->text), s->table->rows, mark, name, n);
    else if (s->kind == DATA_SPLIT_GRANDPARENT)
        for (int64_t i = 0; i < n; i++) mark[i] = has_folder(name[i], s->text) ? 1 : has_folder(name[i], s->train) ? 0 : 2;
    else by_chance(at, s->fraction ? s->fraction : 0.2, s->seed, mark, n);
    int64_t count[3] = { 0 };
    for (int64_t i = 0; i < n; i++) count[mark[i]]++;
    if (!count[0] || !count[1])
        ag_fail(at, "the split leaves the %s part empty (%" PRId64 " items in all); both parts need at least one",
                count[0] ? "validation" : "training", n);
    return mark;
}
