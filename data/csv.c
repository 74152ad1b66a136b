/* data/csv.c - reading a file of separated values into a table: whole, or chunk by chunk.
 *
 * A block of whole lines is cut into pieces at line ends, the lines of each piece are counted, and then every
 * piece is parsed into its own rows of the same columns, on as many threads as there are: the result depends
 * on the file alone. Where rows may not be lines (quotes, blank lines) the block is one piece. */
#include <string.h>
#include "core/io.h"
#include "core/memory.h"
#include "core/thread.h"
#include "data/csv.h"

enum { PIECE = 1 << 20 };

typedef enum { ENC_UNKNOWN, ENC_UTF8, ENC_LATIN1 } encoding;

typedef struct {
    const char *at;
    char *path;
    const char *next, *end;             /* what is not read yet */
    const char *tail, *tail_end;        /* a copy of the last line, if its end is missing, with one */
    int64_t line;                       /* of next, counted from 1 */
    csv_plan plan;
    data_names names;
    encoding encoding;
    bool encoding_given, fixed_types;   /* fixed: rows of these types have been handed out */
    data_table *table;                  /* in work; freed with the reader */
} csv_reader;

typedef struct {
    const char *begin, *end;
    int64_t text, lines, first_line, first_row;
    csv_outcome outcome;
} csv_piece;
typedef struct { const csv_plan *plan; csv_piece *piece; char *text; } csv_job;

/* ---- what went wrong ----------------------------------------------------------------------------------- */

static void fail_at(const csv_reader *r, const csv_outcome *o, int64_t line) AG_NORETURN;
static void fail_at(const csv_reader *r, const csv_outcome *o, int64_t line)
{
    const char *cell = ag_data_show(o->cell, o->cell_len), *name = "", *way;
    const bool ragged = o->problem == CSV_TOO_FEW || o->problem == CSV_TOO_MANY;
    line += o->line;
    if (ragged) {
        const bool cut = o->problem == CSV_TOO_FEW && r->tail && o->cell + o->cell_len + 1 == r->tail_end;
        ag_fail(r->at, "%s:%" PRId64 ":%d: %d column%s, the rows above have %d: %s; %s", r->path, line,
                o->column, o->column, o->column == 1 ? "" : "s", r->plan.n_columns, cell,
                cut ? "the file's last line is cut short: get it again, or remove this line"
                    : "mend the line, or give .sep");
    }
    name = r->names.name[o->column];
    const char *place = ag_data_text_printf("%s:%" PRId64 ":%d (%s)", r->path, line, o->column + 1, name);
    switch (o->problem) {
    case CSV_WIDEN: case CSV_NOT_NUMBER: case CSV_EMPTY:
        way = r->plan.column[o->column].type == DATA_INT ? "an integer" : "a number";
        if (o->problem == CSV_EMPTY) cell = "an empty cell";
        ag_fail(r->at,
                "%s: %s is not %s; correct the cell, or read the column as text: .types = \"%s:text\"%s",
                place, cell, way, name,
                o->problem == CSV_NOT_NUMBER ? "" : ag_data_text_printf(", or as \"%s:float\"", name));
    case CSV_NAN:
        ag_fail(
            r->at,
            "%s: %s is not finite; leave the cell empty if the number is missing, or .types = \"%s:text\"",
            place, cell, name);
    case CSV_HUGE:
        ag_fail(r->at,
                "%s: %s is outside the 64-bit integers; read ids like this as text: .types = \"%s:text\"",
                place, cell, name);
    case CSV_NUL:
        ag_fail(
            r->at,
            "%s: a NUL byte in %s: the file is damaged or no text (UTF-16 text: iconv -f UTF-16 -t UTF-8)",
            place, cell);
    case CSV_OPEN_QUOTE:
        ag_fail(r->at, "%s: the quote of %s is never closed; .no_quotes = true if it is part of the text",
                place, cell);
    default:
        ag_fail(r->at,
                "%s: %s: text after the closing quote; double a quote inside quotes, or .no_quotes = true",
                place, cell);
    }
}

/* ---- encodings ----------------------------------------------------------------------------------------- */

/* Bytes of a well-formed UTF-8 sequence at s (Unicode 15, table 3-7), or 0. */
static int utf8_length(const unsigned char *s)
{
    const unsigned char c = s[0];
    int n = c < 0x80 ? 1 : c >= 0xC2 && c < 0xE0 ? 2 : (c & 0xF0) == 0xE0 ? 3 : c >= 0xF0 && c < 0xF5 ? 4 : 0;
    for (int i = 1; i < n; i++) if ((s[i] & 0xC0) != 0x80) return 0;
    if ((c == 0xE0 && s[1] < 0xA0) || (c == 0xED && s[1] > 0x9F) || (c == 0xF0 && s[1] < 0x90) ||
        (c == 0xF4 && s[1] > 0x8F))
        n = 0;
    return n;
}

/* 0: ASCII, 1: UTF-8, -1: neither */
static int text_kind(const char *text)
{
    int kind = 0;
    for (const unsigned char *s = (const unsigned char *)text; *s;) {
        const int n = utf8_length(s);
        if (!n) return -1;
        if (n > 1) kind = 1;
        s += n;
    }
    return kind;
}

static char *latin1_to_utf8(char *out, const char *text)
{
    for (const unsigned char *s = (const unsigned char *)text; *s; s++) {
        if (*s < 0x80) { *out++ = (char)*s; continue; }
        *out++ = (char)(0xC0 | *s >> 6);
        *out++ = (char)(0x80 | (*s & 0x3F));
    }
    *out++ = 0;
    return out;
}

static void convert_text(data_table *t)
{
    int64_t size = 0;
    for (int c = 0; c < t->n_columns; c++)
        for (int64_t i = 0; t->column[c].type == DATA_TEXT && i < t->rows; i++)
            size += 2 * (int64_t)strlen(t->column[c].v.s[i]) + 1;
    data_buffer *text = ag_data_buffer_new(size, 1);
    char *out = text->data;
    for (int c = 0; c < t->n_columns; c++) {
        data_column *col = &t->column[c];
        if (col->type != DATA_TEXT) continue;
        for (int64_t i = 0; i < t->rows; i++) {
            const char *from = col->v.s[i];
            col->v.s[i] = out;
            out = latin1_to_utf8(out, from);
        }
        ag_data_buffer_release(col->text);
        col->text = ag_data_buffer_retain(text);
    }
    ag_data_buffer_release(text);
}

/* Makes the table's text UTF-8. Latin-1 is what has bytes beyond ASCII that are nowhere a UTF-8 sequence. */
static void settle_encoding(csv_reader *r, data_table *t)
{
    int64_t bad_row = -1;
    data_column *bad = NULL;
    bool utf8 = r->encoding == ENC_UTF8;
    for (int c = 0; r->encoding != ENC_LATIN1 && c < t->n_columns; c++)
        for (int64_t i = 0; t->column[c].type == DATA_TEXT && i < t->rows; i++) {
            const int kind = text_kind(t->column[c].v.s[i]);
            if (kind > 0) utf8 = true;
            if (kind < 0 && !bad) bad_row = i, bad = &t->column[c];
        }
    if (bad && utf8) {
        const char *s = bad->v.s[bad_row];
        ag_fail(r->at, "%s: %s is not UTF-8, %s; convert the file, or .encoding = \"latin-1\"",
                ag_data_place(t, bad_row, bad), ag_data_show(s, (int64_t)strlen(s)),
                r->encoding_given ? "which .encoding promised" : "and other cells are");
    }
    if (bad) r->encoding = ENC_LATIN1;
    else if (utf8) r->encoding = ENC_UTF8;
    if (r->encoding == ENC_LATIN1) convert_text(t);
}

static void settle_names(csv_reader *r)
{
    for (int c = 0; c < r->names.n; c++) {
        const char *old = r->names.name[c];
        const int kind = text_kind(old);
        if (r->encoding != ENC_LATIN1 && kind >= 0) continue;
        char *name = ag_alloc(2 * (int64_t)strlen(old) + 1, 1);
        latin1_to_utf8(name, old);
        ag_free(r->names.name[c]);
        r->names.name[c] = name;
    }
}

/* ---- a block ------------------------------------------------------------------------------------------- */

static void count_pieces(int64_t begin, int64_t end, void *arg)
{
    csv_job *j = arg;
    for (int64_t i = begin; i < end; i++)
        j->piece[i].lines = ag_csv_count_lines(j->piece[i].begin, j->piece[i].end);
}

static void parse_pieces(int64_t begin, int64_t end, void *arg)
{
    csv_job *j = arg;
    for (int64_t i = begin; i < end; i++) {
        csv_piece *p = &j->piece[i];
        p->outcome = ag_csv_parse(j->plan, p->begin, p->end, j->text + p->text, p->first_row, INT64_MAX);
    }
}

static int64_t cut_pieces(csv_piece *piece, const char *begin, const char *end, bool one)
{
    int64_t n = 0;
    while (begin < end) {
        const char *stop = end;
        if (!one && end - begin > PIECE)
            stop = (const char *)memchr(begin + PIECE - 1, '\n', (size_t)(end - begin - PIECE + 1)) + 1;
        piece[n] = (csv_piece){ .begin = begin,
                                .end = stop,
                                .text = n ? piece[n - 1].text + (begin - piece[n - 1].begin) : 0 };
        begin = stop;
        n++;
    }
    return n;
}

static data_table *empty_table(csv_reader *r, int64_t rows, int64_t bytes, char **text, bool lines)
{
    ag_data_table_free(r->table);
    data_table *t = r->table = ag_data_table_make(rows, r->path);
    data_buffer *buffer = NULL;
    for (int c = 0; c < r->plan.n_columns; c++) {
        csv_column *p = &r->plan.column[c];
        data_column *col =
            ag_data_add_column(t, r->names.name[c], p->type, p->type == DATA_TEXT ? sizeof(char *) : 8);
        if (p->type == DATA_TEXT) {
            if (!buffer) col->text = buffer = ag_data_buffer_new(bytes, 1);
            else col->text = ag_data_buffer_retain(buffer);
            p->v.s = col->v.s;
        } else if (p->type == DATA_INT) p->v.i = col->v.i;
        else p->v.f = col->v.f;
    }
    *text = buffer ? buffer->data : NULL;
    if (lines) t->lines = ag_data_buffer_new(rows, sizeof(int64_t));
    r->plan.lines = lines ? t->lines->data : NULL;
    return t;
}

/* Goes over what came of the pieces. False: parse again, a column is float after all. */
static bool settle_pieces(csv_reader *r, const csv_piece *piece, int64_t n, bool *lines, bool *high)
{
    for (int64_t i = 0; i < n; i++) {
        const csv_outcome *o = &piece[i].outcome;
        if ((o->problem == CSV_WIDEN || o->problem == CSV_EMPTY) && !r->fixed_types &&
            !r->plan.column[o->column].given) {
            r->plan.column[o->column].type = DATA_FLOAT;
            return false;
        }
        if (o->problem) fail_at(r, o, r->line + piece[i].first_line);
        if (o->rows != piece[i].lines && !*lines) {
            *lines = true;
            return false;
        }
        *high |= o->high;
    }
    return true;
}

/* Parses begin .. end and the tail into r->table. Starts again where a column must become float, or where
 * rows turn out not to be lines: then in order, noting every row's line. */
static void parse_block(csv_reader *r, const char *begin, const char *end, bool one)
{
    AG_SCOPE;
    const int64_t max = (end - begin) / PIECE + 2, tail = r->tail_end - r->tail;
    csv_piece *piece = ag_alloc(max, sizeof *piece);
    ag_defer(ag_free, piece);
    int64_t n = cut_pieces(piece, begin, end, one), rows = 0, parsed;
    if (tail) piece[n++] = (csv_piece){ .begin = r->tail, .end = r->tail_end, .text = end - begin };
    csv_job job = { &r->plan, piece, NULL };
    ag_parallel(n, 1, PIECE / 10.0, count_pieces, &job);
    for (int64_t i = 0; i < n; i++) piece[i].first_line = piece[i].first_row = rows, rows += piece[i].lines;
    bool lines = false, high = false;
    do {
        empty_table(r, rows, end - begin + tail, &job.text, lines);
        parsed = rows;
        if (!lines) ag_parallel(n, 1, PIECE, parse_pieces, &job);
        else for (int64_t i = parsed = 0; i < n; i++) {
            piece[i].first_row = parsed;
            parse_pieces(i, i + 1, &job);
            parsed += piece[i].outcome.rows;
        }
    } while (!settle_pieces(r, piece, n, &lines, &high));
    data_table *t = r->table;
    t->rows = parsed;
    t->first_line = r->line;
    for (int64_t i = 0; lines && i < n; i++)
        for (int64_t k = 0; k < piece[i].outcome.rows; k++)
            r->plan.lines[piece[i].first_row + k] += r->line + piece[i].first_line;
    if (high) settle_encoding(r, t);
    r->line += rows;
}

/* The line end that a file's last line lacks: in a copy of that line, or of everything where quotes may cross
 * lines. */
static const char *mend_tail(csv_reader *r, const char *begin, const char *end, bool one)
{
    const char *last = one ? NULL : memrchr(begin, '\n', (size_t)(end - begin));
    last = last ? last + 1 : begin;
    char *copy = ag_alloc(end - last + 1, 1);
    ag_defer(ag_free, copy);
    memcpy(copy, last, (size_t)(end - last));
    copy[end - last] = '\n';
    r->tail = copy;
    r->tail_end = copy + (end - last) + 1;
    return last;
}

/* The next block, up to `stop` (a line end or the end of the file), as a table that the caller owns. */
static data_table *read_block(csv_reader *r, const char *stop)
{
    AG_SCOPE;
    const char *begin = r->next, *end = stop;
    csv_plan *p = &r->plan;
    const bool quotes = p->quotes, one = quotes && memchr(begin, '"', (size_t)(end - begin));
    if (end[-1] != '\n') end = mend_tail(r, begin, end, one);
    p->quotes = one;
    parse_block(r, begin, end, one);
    p->quotes = quotes;
    r->next = stop;
    r->fixed_types = true;
    data_table *t = r->table;
    r->table = NULL;
    return t;
}

/* ---- files --------------------------------------------------------------------------------------------- */

static void free_reader(void *arg)
{
    csv_reader *r = arg;
    ag_data_table_free(r->table);
    for (int c = 0; r->names.name && c < r->names.n; c++) ag_free(r->names.name[c]);
    ag_free(r->names.name);
    ag_free(r->plan.column);
    ag_free(r->path);
    ag_free(r);
}

static encoding parse_encoding(const char *at, const char *name)
{
    if (!name) return ENC_UNKNOWN;
    if (!strcasecmp(name, "utf-8") || !strcasecmp(name, "utf8")) return ENC_UTF8;
    if (!strcasecmp(name, "latin-1") || !strcasecmp(name, "latin1") || !strcasecmp(name, "iso-8859-1"))
        return ENC_LATIN1;
    ag_fail(at, "data_csv: .encoding = %s is neither \"utf-8\" nor \"latin-1\"; convert others with iconv",
            ag_data_show(name, (int64_t)strlen(name)));
}

static csv_reader *open_reader(const char *at, const char *path, const data_csv_opts *opts)
{
    const ag_bytes file = ag_read_file_(at, path);
    const char *begin = file.data, *end = file.data + file.size;
    if (file.size >= 2 && (!memcmp(begin, "\xFF\xFE", 2) || !memcmp(begin, "\xFE\xFF", 2)))
        ag_fail(at, "%s: UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8", path);
    if (file.size >= 3 && !memcmp(begin, "\xEF\xBB\xBF", 3)) begin += 3;
    if (begin == end) ag_fail(at, "%s: an empty file; a table needs rows", path);
    while (end - begin > 2 && end[-1] == '\n' && (end[-2] == '\n' || (end[-2] == '\r' && end[-3] == '\n')))
        end -= 1 + (end[-2] == '\r');
    csv_reader *r = ag_alloc(1, sizeof *r);
    ag_defer(free_reader, r);
    r->at = at;
    r->path = ag_strdup(path);
    r->end = end;
    r->encoding = parse_encoding(at, opts->encoding);
    r->encoding_given = opts->encoding != NULL;
    r->next = ag_csv_sniff(at, path, begin, end, opts, &r->plan, &r->names, &r->line);
    settle_names(r);
    return r;
}

data_table *ag_data_csv_(const char *at, const char *path, data_csv_opts opts)
{
    data_table *t;
    {
        AG_SCOPE;
        csv_reader *r = open_reader(at, path, &opts);
        t = read_block(r, r->end);
    }
    ag_defer(ag_data_table_drop, t);
    if (opts.index) ag_data_index_by_(at, t, opts.index);
    return t;
}

struct data_chunks { csv_reader *reader; data_table *table; int64_t bytes; char *index; };

static void free_chunks(void *arg)
{
    data_chunks *c = arg;
    ag_data_table_free(c->table);
    ag_free(c->index);
    ag_free(c);
}

data_chunks *ag_data_csv_chunks_(const char *at, const char *path, data_csv_opts opts)
{
    if (opts.chunk < 0)
        ag_fail(at, "data_csv_chunks: .chunk = %" PRId64 " bytes; a positive number is wanted", opts.chunk);
    csv_reader *r = open_reader(at, path, &opts);
    data_chunks *c = ag_alloc(1, sizeof *c);
    ag_defer(free_chunks, c);
    c->reader = r;
    c->bytes = opts.chunk ? opts.chunk : 16 << 20;
    if (opts.index) c->index = ag_strdup(opts.index);
    return c;
}

/* The first line end at or behind p + bytes that is outside quotes. */
static const char *chunk_end(const csv_reader *r, int64_t bytes)
{
    const char *p = r->next, *end = r->end;
    if (end - p <= bytes) return end;
    if (!r->plan.quotes || !memchr(p, '"', (size_t)bytes)) {
        const char *e = memchr(p + bytes - 1, '\n', (size_t)(end - p - bytes + 1));
        if (!e || !r->plan.quotes || !memchr(p, '"', (size_t)(e - p))) return e ? e + 1 : end;
    }
    bool quoted = false;
    for (const char *line = p; line < end;) {
        const char *e = memchr(line, '\n', (size_t)(end - line));
        if (!e) return end;
        for (const char *q = line; (q = memchr(q, '"', (size_t)(e - q))); q++) quoted = !quoted;
        line = e + 1;
        if (!quoted && line - p >= bytes) return line;
    }
    return end;
}

data_table *ag_data_next_chunk_(const char *at, data_chunks *c)
{
    csv_reader *r = c->reader;
    ag_data_table_free(c->table);
    c->table = NULL;
    r->at = at;
    if (r->next == r->end) return NULL;
    c->table = read_block(r, chunk_end(r, c->bytes));
    if (c->table->rows == 0) return ag_data_next_chunk_(at, c);
    if (c->index) ag_data_index_by_(at, c->table, c->index);
    return c->table;
}
