/* data/csv_sniff.c - what kind of file this is: separator, header, names and types, from its first lines. */
#include <string.h>
#include "core/memory.h"
#include "data/csv.h"

enum { WINDOW = 1 << 18, SAMPLE = 1000 };

typedef struct { const char *at, *path; const data_csv_opts *opts; } sniffer;

/* ---- the separator ------------------------------------------------------------------------------------- */

static int64_t count_sep(const char *p, const char *end, const char *sep)
{
    const size_t k = strlen(sep);
    bool quoted = false;
    int64_t n = 0;
    for (; p < end; p++) {
        if (*p == '"') quoted = !quoted;
        else if (!quoted && (size_t)(end - p) >= k && !memcmp(p, sep, k)) n++, p += k - 1;
    }
    return n;
}

/* The first candidate that occurs equally often (as often as .names wants) in each of the first ten lines;
 * else the most frequent one of the first line; else a comma. */
static const char *detect_separator(const char *begin, const char *end, int n_names)
{
    static const char *const candidates[] = { "::", "\t", "|", ";", "," };
    const char *best = ",";
    int64_t most = 0;
    for (int c = 0; c < 5; c++) {
        int64_t first = -1;
        bool same = true;
        const char *p = begin;
        for (int line = 0; line < 10 && p < end; line++) {
            const char *e = memchr(p, '\n', (size_t)(end - p));
            const int64_t n = count_sep(p, e, candidates[c]);
            if (e - p > 1) {
                if (first < 0) first = n;
                same &= n == first;
            }
            p = e + 1;
        }
        if (same && first > 0 && (!n_names || first == n_names - 1)) return candidates[c];
        if (first > most) most = first, best = candidates[c];
    }
    return best;
}

static void set_separator(const sniffer *s, csv_plan *plan, const char *begin, const char *end)
{
    const char *sep = s->opts->sep;
    if (!sep) {
        const bool counted = s->opts->names && !strchr(s->opts->names, '*');
        sep = detect_separator(begin, end, counted ? ag_data_split_names(s->at, s->opts->names).n : 0);
    }
    if (strcmp(sep, "::") && (strlen(sep) != 1 || strchr("\n\r\"", *sep)))
        ag_fail(s->at, "data_csv: .sep = %s: one character or \"::\" separates columns",
                ag_data_show(sep, (int64_t)strlen(sep)));
    plan->sep = sep[0];
    plan->sep2 = sep[1];
    plan->quotes = !s->opts->no_quotes && !sep[1] && *sep != '|';
}

/* ---- header, names, types ------------------------------------------------------------------------------ */

static data_number_kind kind_of(const char *text)
{
    int64_t i;
    double f;
    return ag_data_scan_number(text, (int64_t)strlen(text), &i, &f);
}

static data_type infer(const csv_column *c, int64_t begin, int64_t end)
{
    int64_t ints = 0, floats = 0;
    for (int64_t r = begin; r < end; r++) {
        switch (kind_of(c->v.s[r])) {
        case DATA_NOT_NUMBER: return DATA_TEXT;
        case DATA_IS_INT: case DATA_IS_HUGE: ints++; break;
        case DATA_IS_FLOAT: floats++; break;
        case DATA_IS_EMPTY: case DATA_IS_NAN: break;
        }
    }
    if (ints + floats == 0) return DATA_TEXT;
    return ints == end - begin ? DATA_INT : DATA_FLOAT;
}

static bool has_number(const csv_plan *p, int64_t row)
{
    for (int c = 0; c < p->n_columns; c++) {
        const data_number_kind k = kind_of(p->column[c].v.s[row]);
        if (k == DATA_IS_INT || k == DATA_IS_FLOAT || k == DATA_IS_HUGE) return true;
    }
    return false;
}

static bool find_header(const sniffer *s, const csv_plan *p, int64_t rows)
{
    if (s->opts->header) return s->opts->header == DATA_HEADER_YES;
    if (has_number(p, 0)) return false;
    if (!s->opts->names || rows == 1) return true;
    for (int c = 0; c < p->n_columns; c++) if (infer(&p->column[c], 1, rows) != DATA_TEXT) return true;
    return false;
}

static void name_columns(const sniffer *s, const csv_plan *p, bool header, data_names *names)
{
    data_names given = { 0 };
    if (s->opts->names) given = ag_data_split_names(s->at, s->opts->names);
    const bool rest = given.n && !strcmp(given.name[given.n - 1], "*");
    if (given.n && (rest ? given.n - 1 > p->n_columns : given.n != p->n_columns))
        ag_fail(s->at,
                "data_csv: %s has %d columns separated by %s, .names = \"%s\" names %d; end .names with "
                "\",*\" to "
                "name only the first",
                s->path, p->n_columns, ag_data_show(&p->sep, 1), s->opts->names, given.n - rest);
    names->n = p->n_columns;
    for (int c = 0; c < p->n_columns; c++) {
        const char *name = c < given.n - rest ? given.name[c] : header && !given.n ? p->column[c].v.s[0] : "";
        names->name[c] = *name ? ag_strdup(name) : ag_sprintf("%d", c);
        for (int d = 0; d < c; d++)
            if (!strcmp(names->name[c], names->name[d]))
                ag_fail(s->at, "%s: columns %d and %d are both called \"%s\"; give .names", s->path, d + 1,
                        c + 1, names->name[c]);
    }
}

static void set_types(const sniffer *s, csv_plan *p, const data_names *names, int64_t begin, int64_t rows)
{
    for (int c = 0; c < p->n_columns; c++) p->column[c].type = infer(&p->column[c], begin, rows);
    if (!s->opts->types) return;
    const data_names given = ag_data_split_names(s->at, s->opts->types);
    for (int g = 0; g < given.n; g++) {
        char *colon = strrchr(given.name[g], ':');
        int c = 0;
        if (colon) *colon = 0;
        while (c < p->n_columns && strcmp(names->name[c], given.name[g])) c++;
        if (!colon || c == p->n_columns)
            ag_fail(
                s->at,
                "data_csv: .types = \"%s\": %s has no column \"%s\"; write name:int, name:float or name:text",
                s->opts->types, s->path, given.name[g]);
        if (!strcmp(colon + 1, "int")) p->column[c].type = DATA_INT;
        else if (!strcmp(colon + 1, "float")) p->column[c].type = DATA_FLOAT;
        else if (!strcmp(colon + 1, "text")) p->column[c].type = DATA_TEXT;
        else
            ag_fail(s->at, "data_csv: .types = \"%s\": \"%s\" is none of int, float, text", s->opts->types,
                    colon + 1);
        p->column[c].given = true;
    }
}

/* ---- all together -------------------------------------------------------------------------------------- */

/* Whole lines from the beginning, '\n' at their end; in the innermost scope. */
static const char *window(const sniffer *s, const char *begin, const char *end, int64_t *size)
{
    int64_t n = end - begin < WINDOW ? end - begin : WINDOW;
    const char *line = memrchr(begin, '\n', (size_t)n);
    if (!line) line = memchr(begin, '\n', (size_t)(end - begin));
    n = line ? line + 1 - begin : end - begin;
    if (!line && memchr(begin, '\r', (size_t)n))
        ag_fail(s->at, "%s: lines end in CR alone; convert it: tr '\\r' '\\n'", s->path);
    const char *nul = memchr(begin, 0, (size_t)n);
    if (nul)
        ag_fail(s->at,
                "%s:%" PRId64 ": a NUL byte: this is no text file (UTF-16 text: iconv -f UTF-16 -t UTF-8)",
                s->path, ag_csv_count_lines(begin, nul) + 1);
    char *copy = ag_alloc(n + 1, 1);
    ag_defer(ag_free, copy);
    memcpy(copy, begin, (size_t)n);
    if (!line) copy[n++] = '\n';
    *size = n;
    return copy;
}

const char *ag_csv_sniff(const char *at, const char *path, const char *begin, const char *end,
                         const data_csv_opts *opts, csv_plan *plan, data_names *names, int64_t *line)
{
    const sniffer s = { at, path, opts };
    int64_t size;
    AG_SCOPE;
    const char *w = window(&s, begin, end, &size), *p = w;
    for (*line = 1; p < w + size && (*p == '\n' || (*p == '\r' && p[1] == '\n')); ++*line)
        p += 1 + (*p == '\r');
    if (p == w + size) ag_fail(at, "%s: empty but for line ends; a table needs rows", path);
    set_separator(&s, plan, p, w + size);
    plan->n_columns = ag_csv_count_columns(plan, p, w + size);
    plan->column = ag_alloc(plan->n_columns, sizeof *plan->column);
    names->name = ag_alloc(plan->n_columns, sizeof *names->name);
    char *text = ag_alloc(size, 1);
    ag_defer(ag_free, text);
    const char **cells = ag_alloc(ag_mul_size(at, plan->n_columns, SAMPLE + 1), sizeof *cells);
    ag_defer(ag_free, cells);
    for (int c = 0; c < plan->n_columns; c++)
        plan->column[c] = (csv_column){ DATA_TEXT, false, { .s = cells + (int64_t)c * (SAMPLE + 1) } };
    const csv_outcome first = ag_csv_parse(plan, p, w + size, text, 0, 1);
    if (first.problem == CSV_OPEN_QUOTE)
        ag_fail(at,
                "%s:%" PRId64
                ":%d: the quote of %s is never closed; .no_quotes = true if it is part of the text",
                path, *line + first.line, first.column + 1, ag_data_show(first.cell, first.cell_len));
    if (first.problem)
        ag_fail(at,
                "%s:%" PRId64
                ":%d: %s: text after the closing quote; double a quote inside quotes, or .no_quotes = true",
                path, *line + first.line, first.column + 1, ag_data_show(first.cell, first.cell_len));
    const int64_t rows = ag_csv_parse(plan, p, w + size, text, 0, SAMPLE + 1).rows;
    const bool header = find_header(&s, plan, rows);
    name_columns(&s, plan, header, names);
    if (header && first.next == w + size && begin + size >= end)
        ag_fail(at, "%s:%" PRId64 ": a header and no rows; if this line is data, .header = DATA_HEADER_NO",
                path, *line);
    set_types(&s, plan, names, header, rows > header ? rows : header);
    if (header) *line += first.lines;
    return begin + ((header ? first.next : p) - w) < end ? begin + ((header ? first.next : p) - w) : end;
}
