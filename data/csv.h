/* data/csv.h - inside data/: between the parser of rows (csv_parse.c), the look at the first lines
 * (csv_sniff.c) and the reader of files (csv.c). */
#ifndef AG_DATA_CSV_H
#define AG_DATA_CSV_H
#include "data/table.h"

typedef struct { data_type type; bool given; union { int64_t *i; double *f; const char **s; } v; } csv_column;

/* How a file is read, and where to. */
typedef struct {
    char sep, sep2;             /* sep2: ':' of "::", else 0 */
    bool quotes;
    int n_columns;
    csv_column *column;         /* v: from row 0 of the block */
    int64_t *lines;             /* of each row, or NULL while rows are lines */
} csv_plan;

typedef enum {
    CSV_OK,
    CSV_WIDEN,
    CSV_NOT_NUMBER,
    CSV_NAN,
    CSV_HUGE,
    CSV_EMPTY,
    CSV_TOO_FEW,
    CSV_TOO_MANY,
    CSV_NUL,
    CSV_OPEN_QUOTE,
    CSV_AFTER_QUOTE
} csv_problem;

/* What came of a piece: rows and lines done; at a problem, where (line is counted from the piece's first as
 * 0). */
typedef struct {
    int64_t rows, lines;
    bool high;                  /* text cells hold bytes beyond ASCII */
    const char *next;           /* what was not parsed */
    csv_problem problem;
    int column;                 /* for CSV_TOO_MANY and CSV_TOO_FEW: the number of columns found */
    const char *cell;
    int64_t cell_len, line;
} csv_outcome;

/* Parses begin .. end, which ends in '\n', into rows first_row ... (at most max_rows). Text goes to `text`,
 * at the cell's own offset from begin (a cell and its separator always leave room for the NUL). */
csv_outcome ag_csv_parse(const csv_plan *plan, const char *begin, const char *end, char *text,
                         int64_t first_row, int64_t max_rows);
int64_t ag_csv_count_lines(const char *begin, const char *end);     /* of '\n' */
int ag_csv_count_columns(const csv_plan *plan, const char *begin, const char *end); /* of the first record */

/* Fills plan (columns with their types) and names, both from ag_alloc, from the first lines and the options.
 * Returns the first byte of the first row of data; *line: its line, counted from 1. */
const char *ag_csv_sniff(const char *at, const char *path, const char *begin, const char *end,
                         const data_csv_opts *opts, csv_plan *plan, data_names *names, int64_t *line);

#endif
