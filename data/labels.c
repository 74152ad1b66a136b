/* data/labels.c - what each picture is: from the folder it lies in, a function, or a table; and which are held out. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/io.h"
#include "core/memory.h"
#include "data/block_inside.h"

void ag_data_offend(data_offenders *o, const char *name)
{
    const size_t used = strlen(o->text);
    if (o->n++ < DATA_NAMES_SHOWN) snprintf(o->text + used, sizeof o->text - used, "%s%.100s", used ? ", " : "", name);
}

static const char *more(const data_offenders *o)
{
    return o->n > DATA_NAMES_SHOWN ? ", ..." : "";
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The folder a picture lies in; in the scope. */
static const char *parent_label(const char *path)
{
    const char *end = strrchr(path, '/'), *begin = end;
    if (!end) return NULL;
    while (begin > path && begin[-1] != '/') begin--;
    char *name = ag_sprintf("%.*s", (int)(end - begin), begin);
    ag_defer(ag_free, name);
    return name;
}

/* ---- the table ----------------------------------------------------------------------------------------- */

static int by_base(const void *a, const void *b)
{
    return strcmp(base_name(*(char *const *)a), base_name(*(char *const *)b));
}

/* Every row has one picture, every picture one row. */
static void match(const data_source *s, data_table *t, const data_images_opts *o)
{
    const char *const *key = data_texts(t, o->key);
    data_offenders twice = { 0 }, rowless = { 0 }, pictureless = { 0 };
    char **sorted = ag_alloc(s->n, sizeof *sorted);
    ag_defer(ag_free, sorted);
    memcpy(sorted, s->name, (size_t)s->n * sizeof *sorted);
    qsort(sorted, (size_t)s->n, sizeof *sorted, by_base);
    for (int64_t i = 1; i < s->n; i++)
        if (!by_base(&sorted[i - 1], &sorted[i])) ag_data_offend(&twice, sorted[i]);
    if (twice.n)
        ag_fail(s->at, "%s: %" PRId64 " pictures have the name of another: %s%s; %s tells pictures apart by name", s->folder,
                twice.n, twice.text, more(&twice), o->table);
    for (int64_t i = 0; i < s->n; i++)
        if (data_find(t, base_name(s->name[i])) < 0) ag_data_offend(&rowless, s->name[i]);
    if (rowless.n)
        ag_fail(s->at, "%s: %" PRId64 " of %" PRId64 " pictures have no row in %s: %s%s; add the rows, or move the pictures away",
                s->folder, rowless.n, s->n, o->table, rowless.text, more(&rowless));
    for (int64_t i = 0; i < data_rows(t); i++) {
        const char *wanted = key[i];
        if (!bsearch(&wanted, sorted, (size_t)s->n, sizeof *sorted, by_base)) ag_data_offend(&pictureless, key[i]);
    }
    if (pictureless.n)
        ag_fail(s->at, "%s: %" PRId64 " of %" PRId64 " rows name no picture below %s: %s%s; a table of the pictures that are "
                "there is needed", o->table, pictureless.n, data_rows(t), s->folder, pictureless.text, more(&pictureless));
}

static data_table *read_table(const data_source *s, const char *path, const char *key)
{
    char types[128];
    snprintf(types, sizeof types, "%s:text", key);
    data_table *t = ag_data_csv_(s->at, path, (data_csv_opts){ .types = types, .header = DATA_HEADER_YES });
    ag_data_index_by_(s->at, t, key);
    return t;
}

/* ---- labels -------------------------------------------------------------------------------------------- */

static const char *text_of(const data_source *s, data_table *t, const data_label *l, int64_t i)
{
    if (l->get) return l->get(s->name[i], l->arg);
    if (!l->column) return parent_label(s->name[i]);
    const char *cell = data_cell(t, data_find(t, base_name(s->name[i])), l->column);
    return *cell ? cell : NULL;
}

/* The values of a label as text, one for each picture, in the scope. */
static const char **texts_of(const data_source *s, data_table *t, const data_label *l)
{
    data_offenders none = { 0 };
    const char **text = ag_alloc(s->n, sizeof *text);
    ag_defer(ag_free, (void *)(uintptr_t)text);
    for (int64_t i = 0; i < s->n; i++)
        if (!(text[i] = text_of(s, t, l, i))) ag_data_offend(&none, s->name[i]);
    if (none.n)
        ag_fail(s->at, "%s: %" PRId64 " of %" PRId64 " pictures have no %s: %s%s; %s", s->folder, none.n, s->n, l->name,
                none.text, more(&none), l->column ? "fill in the table's cells" : "it is the folder that a picture lies in");
    return text;
}

static void read_numbers(const data_source *s, const data_label *l, const char **text, double *to, int64_t stride)
{
    data_offenders bad = { 0 };
    for (int64_t i = 0; i < s->n; i++) {
        char *end;
        to[i * stride] = strtod(text[i], &end);
        if (end == text[i] || *end) ag_data_offend(&bad, s->name[i]);
    }
    if (bad.n)
        ag_fail(s->at, "%s: the %s of %" PRId64 " pictures is no number: %s%s", s->folder, l->name, bad.n, bad.text, more(&bad));
}

static data_vocab *categories(const char *const *text, int64_t n, const int32_t **code)
{
    data_table *t = data_table_new(n);
    data_add_text(t, "value", text);
    data_categorify(t, "value", .no_na = true);
    *code = data_codes(t, "value");
    return data_vocab_of(t, "value");
}

/* The vocabulary of all words, and for each picture whether it has each. */
static data_vocab *read_words(const data_source *s, const char **text, int64_t *classes, double **flags)
{
    int64_t n = 0, room = 0;
    char **word = NULL;
    const int32_t *code;
    for (int64_t i = 0; i < s->n; i++)
        for (const char *w = text[i] + strspn(text[i], " "); *w; w += strcspn(w, " "), w += strspn(w, " ")) {
            if (n == room) word = ag_realloc(word, room = 2 * room + 64, sizeof *word);
            word[n++] = ag_sprintf("%.*s", (int)strcspn(w, " "), w);
            ag_defer(ag_free, word[n - 1]);
        }
    ag_defer(ag_free, word);
    if (!n) ag_fail(s->at, "%s: no picture has a word", s->folder);
    data_vocab *v = categories((const char *const *)word, n, &code);
    *classes = data_vocab_size(v);
    *flags = ag_alloc(s->n * *classes, sizeof **flags);
    for (int64_t i = 0, k = 0; i < s->n; i++)
        for (const char *w = text[i] + strspn(text[i], " "); *w; w += strcspn(w, " "), w += strspn(w, " "))
            (*flags)[i * *classes + code[k++]] = 1;
    return v;
}

static void read_label(data_source *s, data_table *table, const data_label *l)
{
    const char **text = texts_of(s, table, l);
    data_target *t = &s->targets.target[s->targets.n++];
    double *values = NULL;
    *t = (data_target){ .name = ag_intern(l->name), .kind = l->kind, .classes = 1, .column = s->columns, .columns = 1 };
    if (l->kind == DATA_TARGET_MULTICATEGORY) t->vocab = read_words(s, text, &t->classes, &values);
    else values = ag_alloc(s->n, sizeof *values);
    if (l->kind == DATA_TARGET_REGRESSION) read_numbers(s, l, text, values, 1);
    if (l->kind == DATA_TARGET_CATEGORY) {
        const int32_t *code;
        t->vocab = categories((const char *const *)text, s->n, &code);
        t->classes = data_vocab_size(t->vocab);
        for (int64_t i = 0; i < s->n; i++) values[i] = code[i];
    } else if (l->kind == DATA_TARGET_MULTICATEGORY) t->columns = t->classes;
    double *all = ag_alloc(s->n * (s->columns + t->columns), sizeof *all);
    for (int64_t i = 0; i < s->n; i++) {
        double *row = all + i * (s->columns + t->columns);
        if (s->columns) memcpy(row, s->label + i * s->columns, (size_t)s->columns * sizeof *row);
        memcpy(row + s->columns, values + i * t->columns, (size_t)t->columns * sizeof *row);
    }
    s->columns += t->columns;
    ag_free(values);
    ag_free(s->label);
    s->label = all;
}

void ag_data_read_labels(data_source *s, const data_images_opts *o)
{
    data_images_opts with = *o;
    if (!with.key) with.key = "image_id";
    data_table *table = with.table ? read_table(s, with.table, with.key) : NULL;
    if (table) match(s, table, &with);
    if (!with.labels[0].name) with.labels[0].name = "label";
    for (int i = 0; i < DATA_MAX_TARGETS && with.labels[i].name; i++) {
        if (with.labels[i].column && !table)
            ag_fail(s->at, "data_images: label %s is a column, \"%s\", but there is no .table", with.labels[i].name,
                    with.labels[i].column);
        read_label(s, table, &with.labels[i]);
    }
}

/* ---- held out ------------------------------------------------------------------------------------------ */

static bool begins_with(const char *name, const char *folder)
{
    const size_t n = strlen(folder);
    return !strncmp(name, folder, n) && name[n] == '/';
}

static bool has_parts(const data_source *s)
{
    bool train = false, valid = false;
    for (int64_t i = 0; i < s->n; i++) train |= begins_with(s->name[i], "train"), valid |= begins_with(s->name[i], "valid");
    return train && valid;
}

/* A class that only occurs among the rows held out cannot be learned. */
static void require_classes(const data_source *s, const int64_t *rows, int64_t n)
{
    for (int k = 0; k < s->targets.n; k++) {
        const data_target *t = &s->targets.target[k];
        if (t->kind != DATA_TARGET_CATEGORY) continue;
        int64_t *left = ag_alloc(t->classes, sizeof *left);
        ag_defer(ag_free, left);
        for (int64_t i = 0; i < s->n; i++) left[(int64_t)s->label[i * s->columns + t->column]]++;
        for (int64_t i = 0; i < n; i++) left[(int64_t)s->label[rows[i] * s->columns + t->column]]--;
        for (int64_t c = 0; c < t->classes; c++) {
            data_offenders only = { 0 };
            for (int64_t i = 0; !left[c] && i < n; i++)
                if ((int64_t)s->label[rows[i] * s->columns + t->column] == c) ag_data_offend(&only, s->name[rows[i]]);
            if (!left[c])
                ag_fail(s->at, "%s: the %s '%s' occurs in the validation part only, %" PRId64 " pictures: %s%s; another .seed "
                        "or split, or more pictures", s->folder, t->name, data_vocab_text(t->vocab, c), only.n, only.text,
                        more(&only));
        }
    }
}

int64_t *ag_data_held_out(const data_source *s, const data_images_opts *o, int64_t *n)
{
    int64_t *rows = ag_alloc(s->n, sizeof *rows);
    const double share = o->valid > 0 ? o->valid : 0.2;
    *n = 0;
    if (s->n < 2) ag_fail(s->at, "%s holds one picture; one to learn from and one to validate with are needed", s->folder);
    if (o->valid_table) {
        data_table *t = read_table(s, o->valid_table, o->key ? o->key : "image_id");
        for (int64_t i = 0; i < s->n; i++)
            if (data_find(t, base_name(s->name[i])) >= 0) rows[(*n)++] = i;
        if (!*n || *n == s->n) ag_fail(s->at, "%s names %" PRId64 " of %" PRId64 " pictures below %s; some are needed for "
                                       "validation, and others to learn from", o->valid_table, *n, s->n, s->folder);
    } else if (has_parts(s)) {
        for (int64_t i = 0; i < s->n; i++)
            if (begins_with(s->name[i], "valid")) rows[(*n)++] = i;
    } else {
        const data_split_rows r = ag_data_random_rows_(s->at, s->n, share, o->seed);
        memcpy(rows, r.valid, (size_t)r.n_valid * sizeof *rows);
        *n = r.n_valid;
    }
    require_classes(s, rows, *n);
    return rows;
}
