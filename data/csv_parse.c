/* data/csv_parse.c - from bytes to columns: the inner loops of reading a table. No allocation, no error
 * channel: it runs on several threads. */
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "data/csv.h"

static const double pow10_exact[] = { 1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                      1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22 };

static inline bool digit(char c) { return (unsigned char)(c - '0') < 10; }

/* ---- numbers ------------------------------------------------------------------------------------------- */

static locale_t c_locale;
static void make_locale(void) { c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); }

/* A checked decimal number of any length; correctly rounded. */
static double decimal_slow(const char *s, int64_t len)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    char buf[512];
    pthread_once(&once, make_locale);
    if (len < (int64_t)sizeof buf) {
        memcpy(buf, s, (size_t)len);
        buf[len] = 0;
        return strtod_l(buf, NULL, c_locale);
    }
    /* Digits beyond the first 400 change a double only as "not exactly half-way": one sticky digit stands for
     * them. */
    int64_t n = 0, i = 0, exponent = 0;
    bool point = false, started = false;
    for (; i < len && s[i] != 'e' && s[i] != 'E'; i++) {
        if (s[i] == '.') point = true;
        else if (!digit(s[i])) buf[n++] = s[i];
        else if (!started && s[i] == '0') exponent -= point;
        else {
            started = true;
            if (n < 400) { buf[n++] = s[i]; exponent -= point; }
            else {
                if (s[i] != '0') buf[399] = '1';
                exponent += !point;
            }
        }
    }
    if (!started) return s[0] == '-' ? -0.0 : 0.0;
    if (i < len) {
        bool minus = s[++i] == '-';
        int64_t e = 0;
        for (i += s[i] == '-' || s[i] == '+'; i < len; i++) if (e < 100000000) e = 10 * e + (s[i] - '0');
        exponent += minus ? -e : e;
    }
    buf[n++] = 'e';
    if (exponent < 0) buf[n++] = '-';
    char rev[24];
    int r = 0;
    for (uint64_t e = (uint64_t)(exponent < 0 ? -exponent : exponent); e || !r; e /= 10)
        rev[r++] = (char)('0' + e % 10);
    while (r) buf[n++] = rev[--r];
    buf[n] = 0;
    return strtod_l(buf, NULL, c_locale);
}

static bool same_word(const char *s, int64_t len, const char *word)
{
    for (int64_t i = 0; i < len; i++) if (!word[i] || (s[i] | 32) != word[i]) return false;
    return !word[len];
}

static bool integer(const char *s, int64_t len, bool minus, int64_t *i)    /* len > 0 digits */
{
    const uint64_t limit = (uint64_t)INT64_MAX + minus;
    uint64_t v = 0;
    for (int64_t k = 0; k < len; k++) {
        const uint64_t d = (uint64_t)(s[k] - '0');
        if (v > (limit - d) / 10) return false;
        v = 10 * v + d;
    }
    *i = (int64_t)(minus ? 0 - v : v);
    return true;
}

data_number_kind ag_data_scan_number(const char *s, int64_t len, int64_t *i, double *f)
{
    while (len && (*s == ' ' || *s == '\t')) s++, len--;
    while (len && (s[len - 1] == ' ' || s[len - 1] == '\t' || s[len - 1] == '\r')) len--;
    if (!len) return DATA_IS_EMPTY;
    const char *p = s, *end = s + len;
    const bool minus = *p == '-';
    p += *p == '-' || *p == '+';
    if (same_word(p, end - p, "nan") || same_word(p, end - p, "inf") || same_word(p, end - p, "infinity"))
        return DATA_IS_NAN;
    const char *whole = p;
    while (p < end && digit(*p)) p++;
    int64_t digits = p - whole;
    if (digits && p == end) {
        if (!integer(whole, digits, minus, i)) { *f = decimal_slow(s, len); return DATA_IS_HUGE; }
        *f = (double)*i;
        return DATA_IS_INT;
    }
    if (p < end && *p == '.') for (p++; p < end && digit(*p); p++) digits++;
    if (!digits) return DATA_NOT_NUMBER;
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        p += p < end && (*p == '-' || *p == '+');
        if (p == end || !digit(*p)) return DATA_NOT_NUMBER;
        while (p < end && digit(*p)) p++;
    }
    if (p != end) return DATA_NOT_NUMBER;
    *f = decimal_slow(s, len);
    return *f - *f == 0 ? DATA_IS_FLOAT : DATA_IS_NAN;
}

/* ---- cells ------------------------------------------------------------------------------------------------
 * Every piece ends in '\n', so scanning for a separator or a line end needs no bound, except inside
 * quotes. */

typedef struct {
    const char *s;
    int64_t len;
    const char *next;
    csv_problem problem;
} cell; /* next: the separator */

static inline bool at_sep(const csv_plan *t, const char *p)
{
    return *p == t->sep && (!t->sep2 || p[1] == t->sep2);
}
static inline bool at_line_end(const char *p) { return *p == '\n' || (*p == '\r' && p[1] == '\n'); }

/* A quoted cell whose '"' is at p; unescaped into out if it is not NULL, else s, len are between the
 * quotes. */
static cell quoted_cell(const csv_plan *t, const char *p, const char *end, char *out)
{
    const char *open = p++, *begin = p;
    char *o = out;
    for (;;) {
        const char *q = memchr(p, '"', (size_t)(end - p));
        if (!q) return (cell){ open, end - open, end, CSV_OPEN_QUOTE };
        if (o) { memmove(o, p, (size_t)(q - p)); o += q - p; }
        p = q + 1;
        if (p == end || *p != '"') break;
        if (o) *o++ = '"';
        p++;
    }
    cell c = { out ? out : begin, out ? o - out : p - 1 - begin, p, CSV_OK };
    if (p == end || (!at_sep(t, p) && !at_line_end(p))) {
        while (p < end && !at_sep(t, p) && *p != '\n') p++;
        return (cell){ open, p - open, p, CSV_AFTER_QUOTE };
    }
    return c;
}

static inline const char *cell_end(const csv_plan *t, const char *p)
{
    while (*p != t->sep && *p != '\n') p++;
    while (t->sep2 && *p != '\n' && !at_sep(t, p)) for (p++; *p != t->sep && *p != '\n';) p++;
    return *p == '\n' && p[-1] == '\r' ? p - 1 : p;
}

static cell plain_cell(const csv_plan *t, const char *p, const char *end)
{
    if (t->quotes && *p == '"') return quoted_cell(t, p, end, NULL);
    const char *e = *p == '\n' ? p : cell_end(t, p);
    return (cell){ p, e - p, e, CSV_OK };
}

/* The rare forms of a number: quotes, spaces, exponents, many digits, none. Returns the separator, or
 * NULL. */
static const char *slow_number(const csv_plan *t, const csv_column *col, int64_t row, const char *p,
                               const char *end, csv_outcome *r)
{
    const cell c = plain_cell(t, p, end);
    int64_t i = 0;
    double f = 0;
    r->cell = c.s;
    r->cell_len = c.len;
    r->problem = c.problem;
    if (c.problem) return NULL;
    const data_number_kind kind = ag_data_scan_number(c.s, c.len, &i, &f);
    if (kind == DATA_NOT_NUMBER) r->problem = CSV_NOT_NUMBER;
    else if (kind == DATA_IS_NAN) r->problem = CSV_NAN;
    else if (col->type == DATA_FLOAT) col->v.f[row] = kind == DATA_IS_EMPTY ? (double)NAN : f;
    else if (kind == DATA_IS_HUGE) r->problem = CSV_HUGE;
    else if (kind == DATA_IS_INT) col->v.i[row] = i;
    else r->problem = kind == DATA_IS_EMPTY ? CSV_EMPTY : CSV_WIDEN;
    return r->problem ? NULL : c.next;
}

static inline const char *digits(const char *p, uint64_t *v)
{
    uint64_t x = *v;
    while (digit(*p)) x = 10 * x + (uint64_t)(*p++ - '0');
    *v = x;
    return p;
}

static inline const char *fast_int(const char *p, int64_t *out)
{
    const bool minus = *p == '-';
    uint64_t v = 0;
    const char *b = p + minus, *e = digits(b, &v);
    if (e == b || e - b > 18) return NULL;
    *out = minus ? -(int64_t)v : (int64_t)v;
    return e;
}

/* m 10^-k is one correctly rounded division when m < 2^53 and k <= 22 (Clinger 1990). */
static inline const char *fast_float(const char *p, double *out)
{
    const bool minus = *p == '-';
    uint64_t m = 0;
    const char *b = p + minus, *e = digits(b, &m);
    int64_t n = e - b, k = 0;
    if (*e == '.') {
        const char *q = e + 1;
        e = digits(q, &m);
        k = e - q;
        n += k;
    }
    if (n == 0 || n > 18 || m >> 53) return NULL;
    const double v = (double)m / pow10_exact[k];
    *out = minus ? -v : v;
    return e;
}

static const char *text_cell(const csv_plan *t, const csv_column *col, int64_t row, const char *p,
                             const char *end, char *out, csv_outcome *r)
{
    cell c;
    if (t->quotes && *p == '"') {
        c = quoted_cell(t, p, end, out);
        r->cell = c.s;
        r->cell_len = c.len;
        if ((r->problem = c.problem)) return NULL;
    } else {
        c = plain_cell(t, p, end);
        memcpy(out, c.s, (size_t)c.len);
    }
    unsigned char any = 0, nul = 0;
    for (int64_t i = 0; i < c.len; i++) any |= (unsigned char)out[i], nul |= out[i] == 0;
    if (nul) {
        r->cell = out;
        r->cell_len = c.len;
        r->problem = CSV_NUL;
        return NULL;
    }
    out[c.len] = 0;
    r->high |= any >= 128;
    col->v.s[row] = out;
    return c.next;
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

static int64_t lines_between(const char *a, const char *b)
{
    int64_t n = 0;
    for (; (a = memchr(a, '\n', (size_t)(b - a))); a++) n++;
    return n;
}

static csv_outcome ragged(const csv_plan *t, const char *p, const char *end, csv_outcome r)
{
    r.column = ag_csv_count_columns(t, p, end);
    r.problem = r.column < t->n_columns ? CSV_TOO_FEW : CSV_TOO_MANY;
    r.cell = p;
    const char *e = memchr(p, '\n', (size_t)(end - p));
    r.cell_len = e ? e - p : end - p;
    return r;
}

/* One row at p into row `row`. Returns the beginning of the next, or NULL with r->problem. */
static inline const char *parse_row(const csv_plan *t, const char *p, const char *begin, const char *end,
                                    char *text, int64_t row, csv_outcome *r)
{
    const int last = t->n_columns - 1;
    const char *start = p;
    for (int c = 0; c <= last; c++) {
        const csv_column *col = &t->column[c];
        const char *e = NULL;
        if (col->type == DATA_INT) e = fast_int(p, &col->v.i[row]);
        else if (col->type == DATA_FLOAT) e = fast_float(p, &col->v.f[row]);
        else e = text_cell(t, col, row, p, end, text + (p - begin), r);
        if (col->type != DATA_TEXT && (!e || !(at_sep(t, e) || at_line_end(e))))
            e = slow_number(t, col, row, p, end, r);
        if (!e) {
            r->column = c;
            /* A short row shows as an empty or odd cell first: what is wrong with it is its length. */
            if (r->problem == CSV_NUL || r->problem == CSV_OPEN_QUOTE || r->problem == CSV_AFTER_QUOTE)
                return NULL;
            if (ag_csv_count_columns(t, start, end) != t->n_columns) *r = ragged(t, start, end, *r);
            return NULL;
        }
        if (c < last ? !at_sep(t, e) : !at_line_end(e)) { *r = ragged(t, start, end, *r); return NULL; }
        p = e + (c < last ? 1 + (t->sep2 != 0) : 1 + (*e == '\r'));
    }
    return p;
}

csv_outcome ag_csv_parse(const csv_plan *plan, const char *begin, const char *end, char *text,
                         int64_t first_row, int64_t max_rows)
{
    const csv_plan t = *plan;
    csv_outcome r = { 0 };
    const char *p = begin;
    for (int64_t row = first_row; p < end && r.rows < max_rows;) {
        if (at_line_end(p)) {
            p += 1 + (*p == '\r');
            r.lines++;
            continue;
        }
        const char *e = parse_row(&t, p, begin, end, text, row, &r);
        if (!e) { r.line = r.lines; return r; }
        if (t.lines) t.lines[row] = r.lines;
        r.lines += t.quotes ? lines_between(p, e) : 1;
        p = e;
        row++;
        r.rows++;
    }
    r.next = p;
    return r;
}

int ag_csv_count_columns(const csv_plan *t, const char *p, const char *end)
{
    for (int n = 1;; n++) {
        const cell c = plain_cell(t, p, end);
        if (c.problem == CSV_OPEN_QUOTE || c.next >= end || !at_sep(t, c.next)) return n;
        p = c.next + 1 + (t->sep2 != 0);
    }
}

int64_t ag_csv_count_lines(const char *p, const char *end)
{
    int64_t n = 0;
    while (p < end) {
        const char *stop = end - p > 4096 ? p + 4096 : end;
        int32_t k = 0;
        for (; p < stop; p++) k += *p == '\n';
        n += k;
    }
    return n;
}
