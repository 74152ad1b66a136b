/* data/table.c - columns by name, cells, the hash of keys, dictionaries and joins. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "core/memory.h"
#include "data/table.h"

/* ---- memory -------------------------------------------------------------------------------------------- */

data_buffer *ag_data_buffer_new(int64_t n, size_t size)
{
    data_buffer *b = ag_alloc(1, sizeof *b);
    b->refs = 1;
    b->data = ag_alloc(n ? n : 1, size);
    const uintptr_t page = 1 << 21, begin = ((uintptr_t)b->data + page - 1) & ~(page - 1);
    const uintptr_t end = ((uintptr_t)b->data + (uintptr_t)n * size) & ~(page - 1);
    /* Columns are read at random places: with 2 MiB pages the address is known from the TLB. */
    if (begin < end) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
    return b;
}

data_buffer *ag_data_buffer_retain(data_buffer *b)
{
    b->refs++;
    return b;
}

void ag_data_buffer_release(data_buffer *b)
{
    if (!b || --b->refs) return;
    ag_free(b->data);
    ag_free(b);
}

const char *ag_data_text_printf(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char probe[1];
    const int n = vsnprintf(probe, sizeof probe, fmt, args);
    va_end(args);
    char *s = ag_alloc(n + 1, 1);
    ag_defer(ag_free, s);
    va_start(args, fmt);
    vsnprintf(s, (size_t)n + 1, fmt, args);
    va_end(args);
    return s;
}

data_names ag_data_split_names(const char *at, const char *list)
{
    data_names names = { 1, NULL };
    for (const char *p = list; *p; p++) names.n += *p == ',';
    char *copy = ag_strdup(list);
    ag_defer(ag_free, copy);
    names.name = ag_alloc(names.n, sizeof *names.name);
    ag_defer(ag_free, names.name);
    for (int i = 0; i < names.n; i++) {
        char *end = copy + strcspn(copy, ","), *next = *end ? end + 1 : end;
        while (*copy == ' ') copy++;
        while (end > copy && end[-1] == ' ') end--;
        *end = 0;
        if (!*copy) ag_fail(at, "\"%s\": an empty name; write \"user,item\"", list);
        names.name[i] = copy;
        copy = next;
    }
    return names;
}

/* ---- columns ------------------------------------------------------------------------------------------- */

data_table *ag_data_table_make(int64_t rows, const char *path)
{
    data_table *t = ag_alloc(1, sizeof *t);
    t->rows = rows;
    t->first_line = 1;
    if (path) t->path = ag_strdup(path);
    return t;
}

void ag_data_table_free(data_table *t)
{
    if (!t) return;
    for (int c = 0; c < t->n_columns; c++) {
        ag_free(t->column[c].name);
        ag_data_buffer_release(t->column[c].values);
        ag_data_buffer_release(t->column[c].text);
        ag_data_vocab_release(t->column[c].vocab);
    }
    ag_free(t->column);
    ag_free(t->path);
    ag_data_buffer_release(t->lines);
    ag_data_index_free(t->index);
    ag_free(t);
}

void ag_data_table_drop(void *t) { ag_data_table_free(t); }

data_column *ag_data_add_column(data_table *t, const char *name, data_type type, size_t size)
{
    t->column = ag_realloc(t->column, t->n_columns + 1, sizeof *t->column);
    data_column *c = &t->column[t->n_columns];
    *c = (data_column){ .type = type };
    t->n_columns++;
    c->name = ag_strdup(name);
    if (size) {
        c->values = ag_data_buffer_new(t->rows, size);
        c->v.p = c->values->data;
    }
    return c;
}

data_table *ag_data_table_new_(const char *at, int64_t rows)
{
    if (rows < 1) ag_fail(at, "data_table_new: %" PRId64 " rows; at least one is wanted", rows);
    data_table *t = ag_data_table_make(rows, NULL);
    ag_defer(ag_data_table_drop, t);
    return t;
}

static data_column *new_column(const char *at, data_table *t, const char *name, data_type type)
{
    if (ag_data_has_column(t, name)) ag_fail(at, "the table has a column \"%s\" already", name);
    return ag_data_add_column(t, name, type, type == DATA_TEXT ? sizeof(char *) : 8);
}

void ag_data_add_ints_(const char *at, data_table *t, const char *name, const int64_t *values)
{
    memcpy(new_column(at, t, name, DATA_INT)->v.i, values, (size_t)t->rows * sizeof *values);
}

void ag_data_add_floats_(const char *at, data_table *t, const char *name, const double *values)
{
    memcpy(new_column(at, t, name, DATA_FLOAT)->v.f, values, (size_t)t->rows * sizeof *values);
}

void ag_data_add_text_(const char *at, data_table *t, const char *name, const char *const *values)
{
    int64_t size = 0;
    for (int64_t i = 0; i < t->rows; i++) size += (int64_t)strlen(values[i]) + 1;
    data_column *c = new_column(at, t, name, DATA_TEXT);
    c->text = ag_data_buffer_new(size, 1);
    char *out = c->text->data;
    for (int64_t i = 0; i < t->rows; i++) {
        c->v.s[i] = out;
        out = stpcpy(out, values[i]) + 1;
    }
}

int64_t ag_data_rows(const data_table *t) { return t->rows; }
int ag_data_columns(const data_table *t) { return t->n_columns; }
const char *ag_data_column_name(const data_table *t, int column)
{
    return column >= 0 && column < t->n_columns ? t->column[column].name : NULL;
}

static int find_column(const data_table *t, const char *name)
{
    for (int c = 0; c < t->n_columns; c++) if (!strcmp(t->column[c].name, name)) return c;
    return -1;
}

bool ag_data_has_column(const data_table *t, const char *name) { return find_column(t, name) >= 0; }

data_column *ag_data_column(const char *at, const data_table *t, const char *name)
{
    const int c = find_column(t, name);
    if (c >= 0) return &t->column[c];
    const char *list = "";
    for (int i = 0; i < t->n_columns; i++)
        list = ag_data_text_printf("%s%s%s", list, i ? ", " : "", t->column[i].name);
    ag_fail(at, "%s has no column \"%s\"; its columns: %.300s", t->path ? t->path : "the table", name, list);
}

const char *ag_data_type_name(data_type type)
{
    static const char *const names[] = { "int", "float", "text", "category" };
    return names[type];
}

const char *ag_data_place(const data_table *t, int64_t row, const data_column *c)
{
    if (!t->path) return ag_data_text_printf("row %" PRId64 ", column \"%s\"", row, c->name);
    const int64_t line = t->lines ? ((const int64_t *)t->lines->data)[row] : t->first_line + row;
    return ag_data_text_printf("%s:%" PRId64 ":%d (%s)", t->path, line, (int)(c - t->column) + 1, c->name);
}

const char *ag_data_show(const char *cell, int64_t len)
{
    char s[44];
    int64_t n = 0;
    for (; n < len && n < 40; n++) {
        const unsigned char c = (unsigned char)cell[n];
        s[n] = (char)(c < 32 || c == 127 ? '?' : c);
    }
    while (len > 40 && n && (s[n - 1] & 0xC0) == 0x80) n--;     /* no half of a character */
    if (len > 40 && n && (s[n - 1] & 0xC0) == 0xC0) n--;
    s[n] = 0;
    if (len <= 40) return ag_data_text_printf("\"%s\"", s);
    return ag_data_text_printf("\"%s...\" (%" PRId64 " bytes)", s, len);
}

static const data_column *typed(const char *at, const data_table *t, const char *name, data_type type,
                                const char *way)
{
    const data_column *c = ag_data_column(at, t, name);
    if (c->type != type)
        ag_fail(at, "column \"%s\" is %s, not %s; %s", name, ag_data_type_name(c->type),
                ag_data_type_name(type), way);
    return c;
}

data_type ag_data_column_type_(const char *at, const data_table *t, const char *name)
{
    return ag_data_column(at, t, name)->type;
}
const int64_t *ag_data_ints_(const char *at, const data_table *t, const char *name)
{
    return typed(at, t, name, DATA_INT, "data_number reads any number")->v.i;
}
const double *ag_data_floats_(const char *at, const data_table *t, const char *name)
{
    return typed(at, t, name, DATA_FLOAT, "data_csv(..., .types = \"name:float\") reads numbers as float")
        ->v.f;
}
const char *const *ag_data_texts_(const char *at, const data_table *t, const char *name)
{
    return typed(at, t, name, DATA_TEXT, "data_cell shows any cell as text")->v.s;
}
const int32_t *ag_data_codes_(const char *at, const data_table *t, const char *name)
{
    return typed(at, t, name, DATA_CATEGORY, "data_categorify makes categories")->v.code;
}

/* ---- cells --------------------------------------------------------------------------------------------- */

static void check_row(const char *at, const data_table *t, int64_t row)
{
    if (row < 0 || row >= t->rows)
        ag_fail(at, "row %" PRId64 " of a table of %" PRId64 " rows, 0 .. %" PRId64, row, t->rows,
                t->rows - 1);
}

const char *ag_data_cell_(const char *at, const data_table *t, int64_t row, const char *name)
{
    const data_column *c = ag_data_column(at, t, name);
    check_row(at, t, row);
    switch (c->type) {
    case DATA_TEXT: return c->v.s[row];
    case DATA_CATEGORY: return ag_data_vocab_text_(at, c->vocab, c->v.code[row]);
    case DATA_INT: return ag_data_text_printf("%" PRId64, c->v.i[row]);
    default: return ag_data_float_text(c->v.f[row]);
    }
}

const char *ag_data_float_text(double f)
{
    if (isnan(f)) return "";
    for (int digits = 15;; digits++) {
        char s[32];
        int64_t i;
        double back;
        snprintf(s, sizeof s, "%.*g", digits, f);
        char *point = strpbrk(s, ",");          /* some locales write it so */
        if (point) *point = '.';
        if (digits == 17 || (ag_data_scan_number(s, (int64_t)strlen(s), &i, &back), back == f))
            return ag_data_text_printf("%s", s);
    }
}

double ag_data_number_(const char *at, const data_table *t, int64_t row, const char *name)
{
    const data_column *c = ag_data_column(at, t, name);
    check_row(at, t, row);
    if (c->type == DATA_INT) return (double)c->v.i[row];
    if (c->type == DATA_FLOAT) return c->v.f[row];
    if (c->type == DATA_CATEGORY) return c->v.code[row];
    const char *s = c->v.s[row];
    ag_fail(at, "%s: %s is text, not a number", ag_data_place(t, row, c),
            ag_data_show(s, (int64_t)strlen(s)));
}
