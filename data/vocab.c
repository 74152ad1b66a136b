/* data/vocab.c - categories: the sorted different values of a column, both ways, and as text for
 * checkpoints. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/memory.h"
#include "data/table.h"

struct data_vocab {
    int refs;
    data_type type;             /* DATA_INT, DATA_FLOAT or DATA_TEXT: what the values are */
    bool no_na;
    int64_t n;                  /* values, sorted, all different */
    int64_t *ints;
    double *floats;
    const char **texts;
    char *bytes;                /* of texts */
    data_index *index;          /* ints far apart, or texts */
    int32_t *direct;            /* ints close together: position + 1 of value direct_min + i, or 0 */
    int64_t direct_min, direct_n;
};

data_vocab *ag_data_vocab_retain(data_vocab *v)
{
    v->refs++;
    return v;
}

void ag_data_vocab_release(data_vocab *v)
{
    if (!v || --v->refs) return;
    ag_free(v->ints);
    ag_free(v->floats);
    ag_free(v->texts);
    ag_free(v->bytes);
    ag_free(v->direct);
    ag_data_index_free(v->index);
    ag_free(v);
}

static void drop_vocab(void *v) { ag_data_vocab_release(v); }

static data_vocab *new_vocab(data_type type, bool no_na)        /* in the innermost scope */
{
    data_vocab *v = ag_alloc(1, sizeof *v);
    v->refs = 1;
    v->type = type;
    v->no_na = no_na;
    ag_defer(drop_vocab, v);
    return v;
}

static bool close_together(int64_t min, int64_t max, int64_t n)
{
    return max / 4 - min / 4 < n + (1 << 14);
}

/* Prepares finding in a vocabulary whose sorted values are in place. */
static void finish(data_vocab *v)
{
    if (v->type == DATA_INT && v->n && close_together(v->ints[0], v->ints[v->n - 1], v->n)) {
        v->direct_min = v->ints[0];
        v->direct_n = v->ints[v->n - 1] - v->ints[0] + 1;
        v->direct = ag_alloc(v->direct_n, sizeof *v->direct);
        for (int64_t i = 0; i < v->n; i++) v->direct[v->ints[i] - v->direct_min] = (int32_t)(i + 1);
    } else if (v->type != DATA_FLOAT) {
        v->index = ag_data_index_new(v->n, v->ints, v->texts);
        for (int64_t i = 0; i < v->n; i++) ag_data_index_put(v->index, i);
    }
}

/* Positions, counted from 1; 0: unknown. */
static int32_t find_int(const data_vocab *v, int64_t key)
{
    if (v->index) return (int32_t)(ag_data_index_int(v->index, key) + 1);
    const uint64_t i = (uint64_t)key - (uint64_t)v->direct_min;
    return i < (uint64_t)v->direct_n ? v->direct[i] : 0;
}

static int32_t find_float(const data_vocab *v, double key)
{
    int64_t lo = 0, hi = v->n;
    while (lo < hi) {
        const int64_t mid = (lo + hi) / 2;
        if (v->floats[mid] < key) lo = mid + 1;
        else hi = mid;
    }
    return lo < v->n && v->floats[lo] == key ? (int32_t)(lo + 1) : 0;
}

static int32_t find_text(const data_vocab *v, const char *key)
{
    if (v->type == DATA_TEXT) return (int32_t)(ag_data_index_text(v->index, key) + 1);
    int64_t i = 0;
    double f = 0;
    const data_number_kind kind = ag_data_scan_number(key, (int64_t)strlen(key), &i, &f);
    if (v->type == DATA_INT) return kind == DATA_IS_INT ? find_int(v, i) : 0;
    return kind == DATA_IS_INT || kind == DATA_IS_FLOAT || kind == DATA_IS_HUGE ? find_float(v, f) : 0;
}

/* ---- making -------------------------------------------------------------------------------------------- */

static int by_int(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}
static int by_float(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static inline int64_t row_at(const data_categorify_opts *o, int64_t i) { return o->rows ? o->rows[i] : i; }

static void collect_ints(data_vocab *v, const int64_t *value, const data_categorify_opts *o)
{
    const int64_t n = o->n_rows;
    int64_t min = INT64_MAX, max = INT64_MIN, k = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t x = value[row_at(o, i)];
        min = x < min ? x : min;
        max = x > max ? x : max;
    }
    AG_SCOPE;
    if (close_together(min, max, n)) {
        unsigned char *seen = ag_alloc(max - min + 1, 1);
        ag_defer(ag_free, seen);
        for (int64_t i = 0; i < n; i++) seen[value[row_at(o, i)] - min] = 1;
        for (int64_t i = 0; i <= max - min; i++) v->n += seen[i];
        v->ints = ag_alloc(v->n, sizeof *v->ints);
        for (int64_t i = 0; i <= max - min; i++) if (seen[i]) v->ints[k++] = min + i;
        return;
    }
    int64_t *all = ag_alloc(n, sizeof *all);
    ag_defer(ag_free, all);
    for (int64_t i = 0; i < n; i++) all[i] = value[row_at(o, i)];
    qsort(all, (size_t)n, sizeof *all, by_int);
    for (int64_t i = 0; i < n; i++) if (i == 0 || all[i] != all[i - 1]) all[v->n++] = all[i];
    v->ints = ag_alloc(v->n, sizeof *v->ints);
    memcpy(v->ints, all, (size_t)v->n * sizeof *all);
}

static void collect_floats(data_vocab *v, const double *value, const data_categorify_opts *o)
{
    int64_t n = 0;
    v->floats = ag_alloc(o->n_rows, sizeof *v->floats);
    for (int64_t i = 0; i < o->n_rows; i++)
        if (!isnan(value[row_at(o, i)])) v->floats[n++] = value[row_at(o, i)];
    qsort(v->floats, (size_t)n, sizeof *v->floats, by_float);
    for (int64_t i = 0; i < n; i++)
        if (i == 0 || v->floats[i] != v->floats[i - 1]) v->floats[v->n++] = v->floats[i];
}

/* Copies n texts, sorted. */
static void own_texts(data_vocab *v, const char **texts, int64_t n)
{
    int64_t size = 0;
    for (int64_t i = 0; i < n; i++) size += (int64_t)strlen(texts[i]) + 1;
    v->texts = ag_alloc(n ? n : 1, sizeof *v->texts);
    char *out = v->bytes = ag_alloc(size ? size : 1, 1);
    for (int64_t i = 0; i < n; i++) {
        v->texts[i] = out;
        out = stpcpy(out, texts[i]) + 1;
    }
    v->n = n;
}

static void collect_texts(data_vocab *v, const char *const *value, const data_categorify_opts *o)
{
    AG_SCOPE;
    const char **found = ag_alloc(o->n_rows, sizeof *found);
    ag_defer(ag_free, found);
    data_index *x = ag_data_index_new(o->n_rows, NULL, found);
    int64_t n = 0;
    for (int64_t i = 0; i < o->n_rows; i++) {
        found[n] = value[row_at(o, i)];
        if (*found[n] && ag_data_index_put(x, n) < 0) n++;
    }
    ag_data_index_free(x);
    qsort(found, (size_t)n, sizeof *found, by_text);
    own_texts(v, found, n);
}

static data_vocab *make_vocab(const char *at, const data_table *t, const data_column *c,
                              data_categorify_opts o)
{
    if (!o.rows) o.n_rows = t->rows;
    if (o.n_rows < 1)
        ag_fail(at, "data_categorify: column \"%s\": no rows to make categories from (.rows and .n_rows)",
                c->name);
    for (int64_t i = 0; o.rows && i < o.n_rows; i++)
        if (o.rows[i] < 0 || o.rows[i] >= t->rows)
            ag_fail(at, "data_categorify: .rows[%" PRId64 "] = %" PRId64 ", the table has rows 0 .. %" PRId64,
                    i, o.rows[i], t->rows - 1);
    data_vocab *v = new_vocab(c->type, o.no_na);
    if (c->type == DATA_INT) collect_ints(v, c->v.i, &o);
    else if (c->type == DATA_FLOAT) collect_floats(v, c->v.f, &o);
    else collect_texts(v, c->v.s, &o);
    if (v->n >= INT32_MAX)
        ag_fail(at, "data_categorify: column \"%s\" has %" PRId64 " different values; at most 2^31 - 2",
                c->name, v->n);
    finish(v);
    return v;
}

static int32_t code_of(const char *at, const data_table *t, const data_column *c, const data_vocab *v,
                       int64_t row)
{
    if (c->type == v->type) {
        if (c->type == DATA_INT) return find_int(v, c->v.i[row]);
        return c->type == DATA_FLOAT ? find_float(v, c->v.f[row]) : find_text(v, c->v.s[row]);
    }
    AG_SCOPE;
    return find_text(v, ag_data_cell_(at, t, row, c->name));
}

int64_t ag_data_categorify_(const char *at, data_table *t, const char *column, data_categorify_opts opts)
{
    data_column *c = ag_data_column(at, t, column);
    if (c->type == DATA_CATEGORY) ag_fail(at, "data_categorify: column \"%s\" is categories already", column);
    if (c->type == DATA_INT)
        for (int64_t i = 0; i < t->rows; i++)
            if (c->v.i[i] < 0)
                ag_fail(at,
                        "%s: %" PRId64
                        " is negative, and no id; if it is a name, read it as text: .types = \"%s:text\"",
                        ag_data_place(t, i, c), c->v.i[i], column);
    AG_SCOPE;
    const data_vocab *v = opts.vocab ? opts.vocab : make_vocab(at, t, c, opts);
    data_buffer *codes = ag_data_buffer_new(t->rows, sizeof(int32_t));
    int32_t *out = codes->data;
    if (c->type == DATA_INT && v->type == DATA_INT)
        for (int64_t i = 0; i < t->rows; i++) out[i] = find_int(v, c->v.i[i]) - v->no_na;
    else for (int64_t i = 0; i < t->rows; i++) out[i] = code_of(at, t, c, v, i) - v->no_na;
    for (int64_t i = 0; v->no_na && i < t->rows; i++) {
        if (out[i] >= 0) continue;
        ag_data_buffer_release(codes);
        const char *cell = ag_data_cell_(at, t, i, column);
        ag_fail(at, "%s: %s is not among the %" PRId64 " categories; without .no_na it becomes \"#na#\"",
                ag_data_place(t, i, c), ag_data_show(cell, (int64_t)strlen(cell)), v->n);
    }
    ag_data_buffer_release(c->values);
    ag_data_buffer_release(c->text);
    c->text = NULL;
    c->values = codes;
    c->v.code = codes->data;
    c->type = DATA_CATEGORY;
    c->vocab = ag_data_vocab_retain((data_vocab *)(uintptr_t)v);
    return ag_data_vocab_size(v);
}

/* ---- using --------------------------------------------------------------------------------------------- */

data_vocab *ag_data_vocab_of_(const char *at, const data_table *t, const char *column)
{
    const data_column *c = ag_data_column(at, t, column);
    if (!c->vocab)
        ag_fail(at, "column \"%s\" is %s; data_categorify makes a vocabulary", column,
                ag_data_type_name(c->type));
    return c->vocab;
}

int64_t ag_data_vocab_size(const data_vocab *v) { return v->n + !v->no_na; }
int64_t ag_data_vocab_find(const data_vocab *v, const char *value)
{
    return find_text(v, value) - (int64_t)v->no_na;
}

const char *ag_data_vocab_text_(const char *at, const data_vocab *v, int64_t index)
{
    const int64_t i = index - !v->no_na;
    if (index < 0 || i >= v->n) ag_fail(at, "category %" PRId64 " of %" PRId64, index, ag_data_vocab_size(v));
    if (i < 0) return "#na#";
    if (v->type == DATA_TEXT) return v->texts[i];
    return v->type == DATA_INT ? ag_data_text_printf("%" PRId64, v->ints[i])
                               : ag_data_float_text(v->floats[i]);
}

/* First line: the type, and "no_na"; then a value a line, '\\' and line ends inside as \\ and \n. */
char *ag_data_vocab_save(const data_vocab *v)
{
    int64_t size = 32;
    for (int64_t i = 0; i < v->n; i++)
        size += v->type == DATA_TEXT ? 2 * (int64_t)strlen(v->texts[i]) + 1 : 32;
    char *text = ag_alloc(size, 1), *out = text;
    out += sprintf(out, "%s%s\n", ag_data_type_name(v->type), v->no_na ? " no_na" : "");
    for (int64_t i = 0; i < v->n; i++) {
        AG_SCOPE;
        for (const char *s = ag_data_vocab_text_(AG_HERE, v, i + !v->no_na); *s; s++) {
            if (*s == '\n' || *s == '\\') *out++ = '\\';
            *out++ = *s == '\n' ? 'n' : *s;
        }
        *out++ = '\n';
    }
    *out = 0;
    return text;
}

static void damaged(const char *at, int64_t line) AG_NORETURN;
static void damaged(const char *at, int64_t line)
{
    ag_fail(at,
            "data_vocab_load: line %" PRId64
            " of the vocabulary is damaged; it must be what data_vocab_save made",
            line);
}

data_vocab *ag_data_vocab_load_(const char *at, const char *text)
{
    const char *p = strchr(text, '\n');
    if (!p) damaged(at, 1);
    const size_t head = (size_t)(p - text);
    data_vocab *v = NULL;
    for (int k = 0; k < 6; k++) {
        const char *name =
            ag_data_text_printf("%s%s", ag_data_type_name((data_type)(k / 2)), k % 2 ? " no_na" : "");
        if (strlen(name) == head && !memcmp(name, text, head)) v = new_vocab((data_type)(k / 2), k % 2);
    }
    if (!v) damaged(at, 1);
    AG_SCOPE;
    char *bytes = ag_strdup(p + 1), *in = bytes, *out = bytes;
    ag_defer(ag_free, bytes);
    int64_t lines = 0, n = 0;
    for (p = bytes; (p = strchr(p, '\n')); p++) lines++;
    if (*in && in[strlen(in) - 1] != '\n') damaged(at, lines + 2);
    const char **texts = ag_alloc(lines + 1, sizeof *texts);
    ag_defer(ag_free, texts);
    for (; *in; in++) {
        texts[n++] = out;
        for (; *in != '\n'; in++) {
            const bool escaped = *in == '\\';
            in += escaped;
            if (escaped && *in != 'n' && *in != '\\') damaged(at, n + 1);
            *out++ = escaped && *in == 'n' ? '\n' : *in;
        }
        *out++ = 0;
    }
    v->ints = v->type == DATA_INT ? ag_alloc(n + 1, sizeof *v->ints) : NULL;
    v->floats = v->type == DATA_FLOAT ? ag_alloc(n + 1, sizeof *v->floats) : NULL;
    for (int64_t i = 0; i < n && v->type != DATA_TEXT; i++) {
        int64_t x = 0;
        double f = 0;
        const data_number_kind kind = ag_data_scan_number(texts[i], (int64_t)strlen(texts[i]), &x, &f);
        if (kind != DATA_IS_INT &&
            (kind == DATA_NOT_NUMBER || kind == DATA_IS_EMPTY || kind == DATA_IS_NAN || v->ints))
            damaged(at, i + 2);
        if (v->ints) v->ints[i] = x;
        else v->floats[i] = f;
        if (i && (v->ints ? x <= v->ints[i - 1] : f <= v->floats[i - 1])) damaged(at, i + 2);
    }
    for (int64_t i = 1; i < n && v->type == DATA_TEXT; i++)
        if (strcmp(texts[i - 1], texts[i]) >= 0) damaged(at, i + 2);
    if (v->type == DATA_TEXT) own_texts(v, texts, n);
    v->n = n;
    finish(v);
    return v;
}
