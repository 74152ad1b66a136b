/* data/index.c - the hash of keys, tables as dictionaries, joins. */
#include <math.h>
#include <string.h>
#include "core/memory.h"
#include "data/table.h"

/* ---- open addressing, linear probing, at most half full ------------------------------------------------ */

struct data_index {
    int64_t mask;
    const int64_t *ints;
    const char *const *texts;
    int32_t *slot;
    data_buffer *kept[2];
};

static uint64_t hash_int(int64_t key)       /* the finalizer of SplitMix64 (Steele et al. 2014) */
{
    uint64_t z = (uint64_t)key + 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t hash_text(const char *s)    /* FNV-1a, mixed */
{
    uint64_t h = 0xCBF29CE484222325u;
    for (; *s; s++) h = (h ^ (unsigned char)*s) * 0x100000001B3u;
    return hash_int((int64_t)h);
}

data_index *ag_data_index_new(int64_t n, const int64_t *ints, const char *const *texts)
{
    data_index *x = ag_alloc(1, sizeof *x);
    int64_t size = 16;
    while (size < 2 * n) size *= 2;
    x->mask = size - 1;
    x->ints = ints;
    x->texts = texts;
    x->slot = ag_alloc(size, sizeof *x->slot);
    return x;
}

void ag_data_index_free(data_index *x)
{
    if (!x) return;
    for (int k = 0; k < 2; k++) ag_data_buffer_release(x->kept[k]);
    ag_free(x->slot);
    ag_free(x);
}

/* The slot that holds the key, or the empty one where it would go. Slots hold position + 1. */
static int64_t slot_of_int(const data_index *x, int64_t key)
{
    int64_t s = (int64_t)hash_int(key) & x->mask;
    while (x->slot[s] && x->ints[x->slot[s] - 1] != key) s = (s + 1) & x->mask;
    return s;
}

static int64_t slot_of_text(const data_index *x, const char *key)
{
    int64_t s = (int64_t)hash_text(key) & x->mask;
    while (x->slot[s] && strcmp(x->texts[x->slot[s] - 1], key)) s = (s + 1) & x->mask;
    return s;
}

int64_t ag_data_index_put(data_index *x, int64_t i)
{
    const int64_t s = x->ints ? slot_of_int(x, x->ints[i]) : slot_of_text(x, x->texts[i]);
    if (x->slot[s]) return x->slot[s] - 1;
    x->slot[s] = (int32_t)(i + 1);
    return -1;
}

int64_t ag_data_index_int(const data_index *x, int64_t key)
{
    return (int64_t)x->slot[slot_of_int(x, key)] - 1;
}
int64_t ag_data_index_text(const data_index *x, const char *key)
{
    return (int64_t)x->slot[slot_of_text(x, key)] - 1;
}

/* ---- dictionaries -------------------------------------------------------------------------------------- */

static data_index *index_column(const char *at, const data_table *t, const data_column *c)
{
    if (c->type != DATA_INT && c->type != DATA_TEXT)
        ag_fail(at, "column \"%s\" is %s; an index needs a column of integers or text", c->name,
                ag_data_type_name(c->type));
    if (t->rows >= INT32_MAX)
        ag_fail(at, "%" PRId64 " rows are too many for an index; at most 2^31 - 2", t->rows);
    data_index *x =
        ag_data_index_new(t->rows, c->type == DATA_INT ? c->v.i : NULL, c->type == DATA_TEXT ? c->v.s : NULL);
    for (int64_t i = 0; i < t->rows; i++) {
        const int64_t twin = ag_data_index_put(x, i);
        if (twin < 0) continue;
        ag_data_index_free(x);
        ag_fail(at, "%s: \"%s\" stands in row %" PRId64 " already; an index needs different values",
                ag_data_place(t, i, c), ag_data_cell_(at, t, i, c->name), twin);
    }
    return x;
}

void ag_data_index_by_(const char *at, data_table *t, const char *column)
{
    const data_column *c = ag_data_column(at, t, column);
    data_index *x = index_column(at, t, c);
    ag_data_index_free(t->index);
    x->kept[0] = ag_data_buffer_retain(c->values);      /* the keys stay when the column becomes categories */
    if (c->text) x->kept[1] = ag_data_buffer_retain(c->text);
    t->index = x;
    t->key = (int)(c - t->column);
}

int64_t ag_data_find_(const char *at, const data_table *t, const char *key)
{
    if (!t->index)
        ag_fail(
            at,
            "the table has no index; data_index_by(table, column) or data_csv(..., .index = column) first");
    if (!t->index->ints) return ag_data_index_text(t->index, key);
    int64_t i = 0;
    double f;
    if (ag_data_scan_number(key, (int64_t)strlen(key), &i, &f) != DATA_IS_INT) return -1;
    return ag_data_index_int(t->index, i);
}

const char *ag_data_lookup_(const char *at, const data_table *t, const char *key, const char *column)
{
    ag_data_column(at, t, column);
    const int64_t row = ag_data_find_(at, t, key);
    return row < 0 ? NULL : ag_data_cell_(at, t, row, column);
}

static void drop_index(void *x) { ag_data_index_free(x); }

/* ---- joins --------------------------------------------------------------------------------------------- */

static size_t value_size(const data_column *c)
{
    return c->type == DATA_TEXT ? sizeof(char *) : c->type == DATA_CATEGORY ? 4 : 8;
}

/* dst gets rows[i] of src; rows NULL: all, shared. */
static void take_column(data_table *t, const data_column *src, const int64_t *rows)
{
    data_column *dst = ag_data_add_column(t, src->name, src->type, rows ? value_size(src) : 0);
    if (!rows) {
        dst->values = ag_data_buffer_retain(src->values);
        dst->v.p = dst->values->data;
    } else if (value_size(src) == 4) {
        for (int64_t i = 0; i < t->rows; i++) dst->v.code[i] = src->v.code[rows[i]];
    } else {
        for (int64_t i = 0; i < t->rows; i++) dst->v.i[i] = src->v.i[rows[i]];
    }
    if (src->text) dst->text = ag_data_buffer_retain(src->text);
    if (src->vocab) dst->vocab = ag_data_vocab_retain(src->vocab);
}

data_table *ag_data_join_(const char *at, const data_table *left, data_table *right, const char *column,
                          data_join_opts opts)
{
    const data_column *a = ag_data_column(at, left, column), *b = ag_data_column(at, right, column);
    if (a->type != b->type)
        ag_fail(at,
                "data_join: column \"%s\" is %s at the left and %s at the right; read both with .types = "
                "\"%s:text\"",
                column, ag_data_type_name(a->type), ag_data_type_name(b->type), column);
    for (int c = 0; c < right->n_columns; c++)
        if (&right->column[c] != b && ag_data_has_column(left, right->column[c].name))
            ag_fail(at, "data_join: both tables have a column \"%s\"; give other .names",
                    right->column[c].name);
    data_table *t;
    {
        AG_SCOPE;
        data_index *x = index_column(at, right, b);
        ag_defer(drop_index, x);
        int64_t *from_left = ag_alloc(left->rows, sizeof *from_left),
                *from_right = ag_alloc(left->rows, sizeof *from_right), n = 0;
        ag_defer(ag_free, from_left);
        ag_defer(ag_free, from_right);
        for (int64_t i = 0; i < left->rows; i++) {
            const int64_t k = x->ints ? ag_data_index_int(x, a->v.i[i]) : ag_data_index_text(x, a->v.s[i]);
            if (k < 0 && !opts.inner)
                ag_fail(at, "data_join: %s: \"%s\" is not in %s; .inner = true leaves such rows out",
                        ag_data_place(left, i, a), ag_data_cell_(at, left, i, column),
                        right->path ? right->path : "the other table");
            from_left[n] = i;
            from_right[n] = k;
            n += k >= 0;
        }
        if (!n) ag_fail(at, "data_join: no value of \"%s\" is in both tables", column);
        t = ag_data_table_make(n, left->path);
        for (int c = 0; c < left->n_columns; c++)
            take_column(t, &left->column[c], n < left->rows ? from_left : NULL);
        for (int c = 0; c < right->n_columns; c++)
            if (&right->column[c] != b) take_column(t, &right->column[c], from_right);
        t->first_line = left->first_line;
        if (left->lines || n < left->rows) {
            t->lines = ag_data_buffer_new(n, sizeof(int64_t));
            const int64_t *lines = left->lines ? left->lines->data : NULL;
            for (int64_t i = 0; i < n; i++)
                ((int64_t *)t->lines->data)[i] =
                    lines ? lines[from_left[i]] : left->first_line + from_left[i];
        }
    }
    ag_defer(ag_data_table_drop, t);
    return t;
}
