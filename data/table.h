/* data/table.h - inside data/: how a table lies in memory, and what csv.c, table.c, vocab.c and set.c
 * share. */
#ifndef AG_DATA_TABLE_H
#define AG_DATA_TABLE_H
#include "data/data.h"

/* Counted memory: columns are shared by joins, text by columns. */
typedef struct { int refs; void *data; } data_buffer;
data_buffer *ag_data_buffer_new(int64_t n, size_t size);
data_buffer *ag_data_buffer_retain(data_buffer *b);
void ag_data_buffer_release(data_buffer *b);        /* NULL is fine */

typedef struct {
    char *name;
    data_type type;
    union {
        void *p;
        int64_t *i;
        double *f;
        const char **s;
        int32_t *code;
    } v;                                /* rows values, in `values` */
    data_buffer *values, *text;         /* text: the bytes that s points into */
    data_vocab *vocab;                  /* DATA_CATEGORY */
} data_column;

struct data_table {
    int64_t rows;
    int n_columns;
    data_column *column;
    char *path;                         /* for messages; NULL: made in memory */
    int64_t first_line;                 /* of row 0 in the file ... */
    data_buffer *lines;                 /* ... and of every row, where rows are not lines */
    struct data_index *index;           /* by the key column, or NULL */
    int key;
};

data_table *ag_data_table_make(int64_t rows,
                               const char *path);       /* without columns; the caller's, or ag_defer it */
void ag_data_table_free(data_table *t);                 /* NULL is fine */
void ag_data_table_drop(void *t);                       /* the same, for ag_defer */
/* The new column's values are zero; size: of one. The pointer is good until the next column is added. */
data_column *ag_data_add_column(data_table *t, const char *name, data_type type, size_t size);
data_column *ag_data_column(const char *at, const data_table *t,
                            const char *name); /* fails, naming the nearest */
const char *ag_data_type_name(data_type type);
/* "u.data:17:3 (rating)", or "row 16, column \"rating\"" without a file; in the innermost scope. */
const char *ag_data_place(const data_table *t, int64_t row, const data_column *c);
/* At most 40 bytes of a cell in quotes, control characters as "?", then its length; in the innermost
 * scope. */
const char *ag_data_show(const char *cell, int64_t len);
const char *ag_data_text_printf(const char *fmt, ...) AG_PRINTF(1, 2)
    __attribute__((nonnull(1))); /* a string in the innermost scope */

const char *ag_data_float_text(double f); /* shortest of 15 .. 17 digits that reads back; NaN is "" */

/* A list of names "a,b,c" taken apart; in the innermost scope. */
typedef struct { int n; char **name; } data_names;
data_names ag_data_split_names(const char *at, const char *list);

/* ---- numbers in text ----------------------------------------------------------------------------------- */

typedef enum {
    DATA_NOT_NUMBER,
    DATA_IS_INT,
    DATA_IS_FLOAT,
    DATA_IS_EMPTY,
    DATA_IS_NAN,
    DATA_IS_HUGE
} data_number_kind;
/* What the len bytes at s say: an int64 (*i, and *f), a finite double (*f, correctly rounded), nothing, "nan"
 * or "inf" in any case or a float beyond double (DATA_IS_NAN), an integer beyond int64 (DATA_IS_HUGE, *f near
 * it). Spaces around are fine, hexadecimal is not. */
data_number_kind ag_data_scan_number(const char *s, int64_t len, int64_t *i, double *f);

/* ---- hash of keys to int64, open addressing ------------------------------------------------------------ */

typedef struct data_index data_index;
/* keys: ints or texts, one of the two; the memory must outlive the index. -1 or the first pair of equal
 * keys. */
data_index *ag_data_index_new(int64_t n, const int64_t *ints, const char *const *texts);
void ag_data_index_free(data_index *x);             /* NULL is fine */
int64_t ag_data_index_put(data_index *x,
                          int64_t i); /* enters key i; the position of an equal one already there, else -1 */
int64_t ag_data_index_int(const data_index *x, int64_t key);        /* position of the key, or -1 */
int64_t ag_data_index_text(const data_index *x, const char *key);

data_vocab *ag_data_vocab_retain(data_vocab *v);
void ag_data_vocab_release(data_vocab *v);          /* NULL is fine */
#endif
