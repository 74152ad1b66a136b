/* data/data.h - tables from files, data sets from tables, batches from data sets.
 *
 *     data_table *t = data_csv("u.data", .names = "user,item,rating,time");
 *     int64_t users = data_categorify(t, "user"), items = data_categorify(t, "item");
 *     data_split d = data_random_split(data_from_table(t, .x = "user,item", .y = "rating"), 0.2, 42);
 *     data_loader *train = data_loader_new(d.train, 64, .shuffle = true);
 *     DATA_EACH(b, train) { ... b.x i64[64, 2]   b.y f32[64] ... }
 *
 * Tables, sets and loaders belong to the scope they were made in. A message about a file begins with
 * FILE:LINE:COLUMN (name), lines and columns counted from 1, and shows the cell. */
#ifndef AG_DATA_H
#define AG_DATA_H
#include "core/tensor.h"
AG_BEGIN_DECLS

/* ---- tables -------------------------------------------------------------------------------------------- */

typedef struct data_table data_table;
typedef struct data_vocab data_vocab;
typedef enum { DATA_INT, DATA_FLOAT, DATA_TEXT, DATA_CATEGORY } data_type;
typedef enum { DATA_HEADER_DETECT, DATA_HEADER_YES, DATA_HEADER_NO } data_header;

typedef struct {
    AG_NAMED_OPTIONS;
    const char *sep;        /* "," "\t" "|" ";" "::"; detected from the first lines */
    const char *names;      /* "user,item,rating,time"; "item,title,*": the rest are called "2", "3" ... */
    data_header header;     /* detected: a first line without numbers (with .names: above numbers) */
    const char *types;      /* "user:text,rating:float,time:int"; inferred from the first 1,000 rows */
    const char *encoding;   /* "utf-8" or "latin-1"; detected; the table's text is UTF-8 */
    const char *index;      /* this column makes the table a dictionary, as data_index_by */
    bool no_quotes;         /* a quotation mark is an ordinary character (always so with "|" and "::") */
    int64_t chunk;          /* data_csv_chunks: bytes of the file per chunk, default 16 MiB */
} data_csv_opts;

/* Reads a whole file of comma-, tab-, |-, ;- or ::-separated values (RFC 4180: quoted cells may hold
 * separators, line ends and doubled quotes). LF or CRLF, a byte order mark, blank lines are taken as they
 * come. Whole numbers become int64, other numbers float64 (correctly rounded, whatever the locale),
 * everything else text; an empty cell in a number column is NaN, and the column float. Fails, with the place
 * and the way out, on: a missing or empty file, a folder, a header alone, rows of different length, a cell
 * that does not fit its column, "nan" and "inf", integers beyond int64, NUL bytes, an open quote, bytes that
 * are neither UTF-8 nor Latin-1. Large files are read by several threads. */
#define data_csv(...) ag_data_csv_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(data_csv_opts, __VA_ARGS__))
data_table *ag_data_csv_(const char *at, const char *path, data_csv_opts opts) AG_PURE;

/* The same file piece by piece, in memory of two chunks: for files larger than memory.
 *     data_chunks *c = data_csv_chunks("ratings.csv");
 *     for (data_table *t; (t = data_next_chunk(c));) ...          t is valid until the next call
 * The types are those of the first 1,000 rows; a column that changes later is an error (give .types). */
typedef struct data_chunks data_chunks;
#define data_csv_chunks(...) \
    ag_data_csv_chunks_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(data_csv_opts, __VA_ARGS__))
data_chunks *ag_data_csv_chunks_(const char *at, const char *path, data_csv_opts opts) AG_PURE;
#define data_next_chunk(chunks) ag_data_next_chunk_(AG_HERE, chunks)
data_table *ag_data_next_chunk_(const char *at, data_chunks *chunks);

/* An empty table of `rows` rows, and columns for it: values are copied; text as NUL-terminated UTF-8. */
#define data_table_new(rows) ag_data_table_new_(AG_HERE, rows)
#define data_add_ints(t, name, values) ag_data_add_ints_(AG_HERE, t, name, values)
#define data_add_floats(t, name, values) ag_data_add_floats_(AG_HERE, t, name, values)
#define data_add_text(t, name, values) ag_data_add_text_(AG_HERE, t, name, values)
data_table *ag_data_table_new_(const char *at, int64_t rows) AG_PURE;
void ag_data_add_ints_(const char *at, data_table *t, const char *name, const int64_t *values);
void ag_data_add_floats_(const char *at, data_table *t, const char *name, const double *values);
void ag_data_add_text_(const char *at, data_table *t, const char *name, const char *const *values);

#define data_rows ag_data_rows
#define data_columns ag_data_columns
#define data_column_name ag_data_column_name
#define data_has_column ag_data_has_column
int64_t ag_data_rows(const data_table *t);
int ag_data_columns(const data_table *t);
const char *ag_data_column_name(const data_table *t, int column);
bool ag_data_has_column(const data_table *t, const char *name);

/* Whole columns, data_rows values each; of another type: fails, naming the type. An unknown name: fails,
 * naming the nearest. data_codes: the category indices of a categorified column. */
#define data_column_type(t, name) ag_data_column_type_(AG_HERE, t, name)
#define data_ints(t, name) ag_data_ints_(AG_HERE, t, name)
#define data_floats(t, name) ag_data_floats_(AG_HERE, t, name)
#define data_texts(t, name) ag_data_texts_(AG_HERE, t, name)
#define data_codes(t, name) ag_data_codes_(AG_HERE, t, name)
data_type ag_data_column_type_(const char *at, const data_table *t, const char *name);
const int64_t *ag_data_ints_(const char *at, const data_table *t, const char *name);
const double *ag_data_floats_(const char *at, const data_table *t, const char *name);
const char *const *ag_data_texts_(const char *at, const data_table *t, const char *name);
const int32_t *ag_data_codes_(const char *at, const data_table *t, const char *name);

/* One cell as text (numbers in shortest form that reads back; a missing float is "") or as a number. Text
 * that was made for the answer lives in the innermost scope. */
#define data_cell(t, row, name) ag_data_cell_(AG_HERE, t, row, name)
#define data_number(t, row, name) ag_data_number_(AG_HERE, t, row, name)
const char *ag_data_cell_(const char *at, const data_table *t, int64_t row, const char *name);
double ag_data_number_(const char *at, const data_table *t, int64_t row, const char *name);

/* ---- dictionaries and joins ---------------------------------------------------------------------------- */

/* Makes an int or text column of different values the key of the table; a value that comes twice is an
 * error. */
#define data_index_by(t, column) ag_data_index_by_(AG_HERE, t, column)
void ag_data_index_by_(const char *at, data_table *t, const char *column);
/* The row of a key ("181" for ints too), or -1. The cell beside it, or NULL. */
#define data_find(t, key) ag_data_find_(AG_HERE, t, key)
#define data_lookup(t, key, column) ag_data_lookup_(AG_HERE, t, key, column)
int64_t ag_data_find_(const char *at, const data_table *t, const char *key);
const char *ag_data_lookup_(const char *at, const data_table *t, const char *key, const char *column);

/* The left table with the columns of `right` beside each row, matched on a column of both; right needs
 * different values there. Unmatched rows are an error, or left out with .inner. (pandas.merge) */
typedef struct { AG_NAMED_OPTIONS; bool inner; } data_join_opts;
#define data_join(left, right, ...) \
    ag_data_join_(AG_HERE, left, right, AG_HEAD(__VA_ARGS__), AG_OPTS(data_join_opts, __VA_ARGS__))
data_table *ag_data_join_(const char *at, const data_table *left, data_table *right, const char *column,
                          data_join_opts opts) AG_PURE;

/* ---- categories ---------------------------------------------------------------------------------------- */

typedef struct {
    AG_NAMED_OPTIONS;
    data_vocab *vocab;      /* use these categories (of a checkpoint, of another table) */
    const int64_t *rows;    /* categories from these rows only (the training part), n_rows of them */
    int64_t n_rows;
    bool no_na;             /* count from 0 without "#na#" (labels); an unknown value is an error */
} data_categorify_opts;
/* Replaces a column by indices into its sorted different values (ints by number, text by bytes), 1, 2, ...;
 * index 0 is "#na#": empty cells and values outside the vocabulary. Returns the number of categories, "#na#"
 * included. Negative integers are refused as ids. (fastai's Categorify) */
#define data_categorify(t, ...) \
    ag_data_categorify_(AG_HERE, t, AG_HEAD(__VA_ARGS__), AG_OPTS(data_categorify_opts, __VA_ARGS__))
int64_t ag_data_categorify_(const char *at, data_table *t, const char *column, data_categorify_opts opts);

/* The vocabulary of a categorified column; lives as long as the table. */
#define data_vocab_of(t, column) ag_data_vocab_of_(AG_HERE, t, column)
data_vocab *ag_data_vocab_of_(const char *at, const data_table *t, const char *column) AG_PURE;
#define data_vocab_size ag_data_vocab_size
#define data_vocab_find ag_data_vocab_find
#define data_vocab_text(v, index) ag_data_vocab_text_(AG_HERE, v, index)
int64_t ag_data_vocab_size(const data_vocab *v);                        /* "#na#" included */
int64_t ag_data_vocab_find(const data_vocab *v, const char *value);     /* 0 (-1 with no_na) if unknown */
const char *ag_data_vocab_text_(const char *at, const data_vocab *v, int64_t index);    /* "#na#" for 0 */
/* For checkpoints: the whole vocabulary as one text (free with ag_free), and back, in the innermost scope. */
#define data_vocab_save ag_data_vocab_save
#define data_vocab_load(text) ag_data_vocab_load_(AG_HERE, text)
char *ag_data_vocab_save(const data_vocab *v);
data_vocab *ag_data_vocab_load_(const char *at, const char *text) AG_PURE;

/* ---- data sets ----------------------------------------------------------------------------------------- */

typedef struct data_set data_set;
typedef struct { AG_NAMED_OPTIONS; const char *x, *y; } data_from_table_opts;
/* Samples from columns; values are copied.
 *   .x   int and category columns give i64[n, k], float columns f32[n, k]; default: all that .y does not name
 *   .y   a number column gives f32[n], a category i64[n], k number columns f32[n, k]; none: b.y is NULL
 * Fails on text columns (naming the first cell that is no number), missing values, negative ids. */
#define data_from_table(...) \
    ag_data_from_table_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(data_from_table_opts, __VA_ARGS__))
data_set *ag_data_from_table_(const char *at, const data_table *t, data_from_table_opts opts) AG_PURE;

/* Samples from memory: the first axis counts them; y may be NULL. A copy is made only if it must be
 * (TensorDataset). */
#define data_from_tensors(x, y) ag_data_from_tensors_(AG_HERE, x, y)
data_set *ag_data_from_tensors_(const char *at, ag_tensor *x, ag_tensor *y) AG_PURE;

/* Samples from a function, which fills s->x and s->y (host memory, zeroed, of the sizes given; y may be
 * NULL). It is called from worker threads, several samples at once; it may use tensors and ag_fail. */
typedef struct {
    void *arg;
    int64_t row;            /* 0 .. n-1 */
    uint64_t key;           /* of this sample in this epoch, for ag_rng: the same for any number of workers */
    void *x, *y;
    ag_shape x_shape;       /* of x */
    bool bad;               /* set it where the sample cannot be had: it is left out of its batch */
} data_sample;
typedef void (*data_get_fn)(data_sample *s);
typedef struct {
    AG_NAMED_OPTIONS;
    void *arg;
    ag_dtype x_dtype, y_dtype;
    ag_shape x, y;
    bool has_y;
} data_function_opts;
/*   .x, .x_dtype          of one sample, default AG_SHAPE(1), f32
 *   .has_y, .y, .y_dtype  the same, default none; .y default a scalar */
#define data_from_function(n, ...) \
    ag_data_from_function_(AG_HERE, n, AG_HEAD(__VA_ARGS__), AG_OPTS(data_function_opts, __VA_ARGS__))
data_set *ag_data_from_function_(const char *at, int64_t n, data_get_fn get, data_function_opts opts) AG_PURE;

#define data_size ag_data_size
#define data_source_row ag_data_source_row
int64_t ag_data_size(const data_set *set);
int64_t ag_data_source_row(const data_set *set, int64_t i);     /* the row of the source */

/* ---- splits: nothing in common, each part in the order of the source ----------------------------------- */

typedef struct { data_set *train, *valid; } data_split;
typedef struct { int64_t *train, *valid, n_train, n_valid; } data_split_rows;
/* valid gets floor(fraction n) samples of a permutation by `seed`; 0 < fraction < 1; neither part may be
 * empty. */
#define data_random_split(set, fraction, seed) ag_data_random_split_(AG_HERE, set, fraction, seed)
data_split ag_data_random_split_(const char *at, data_set *set, double fraction, uint64_t seed);
/* The same rows as numbers, for vocabularies from the training part: data_categorify(t, c, .rows = r.train,
 * ...). */
#define data_random_rows(n, fraction, seed) ag_data_random_rows_(AG_HERE, n, fraction, seed)
data_split_rows ag_data_random_rows_(const char *at, int64_t n, double fraction, uint64_t seed);
/* valid is the last floor(fraction n) samples: what came last, by time. */
#define data_tail_split(set, fraction) ag_data_tail_split_(AG_HERE, set, fraction)
data_split ag_data_tail_split_(const char *at, data_set *set, double fraction);
/* valid is the samples listed, n of them, none twice. */
#define data_index_split(set, rows, n) ag_data_index_split_(AG_HERE, set, rows, n)
data_split ag_data_index_split_(const char *at, data_set *set, const int64_t *rows, int64_t n);
/* valid is the rows of t (of as many rows as the set) whose cell in `column` is `value`. */
#define data_column_split(set, t, column, value) ag_data_column_split_(AG_HERE, set, t, column, value)
data_split ag_data_column_split_(const char *at, data_set *set, const data_table *t, const char *column,
                                const char *value);
/* valid is the rows whose cell in `column` (an image name, an id) stands on a line of a text file. */
#define data_file_split(set, t, column, path) ag_data_file_split_(AG_HERE, set, t, column, path)
data_split ag_data_file_split_(const char *at, data_set *set, const data_table *t, const char *column,
                              const char *path);
/* Some samples of a set, in the order given; the others stay out. */
#define data_subset(set, rows, n) ag_data_subset_(AG_HERE, set, rows, n)
data_set *ag_data_subset_(const char *at, data_set *set, const int64_t *rows, int64_t n) AG_PURE;

/* ---- loaders ------------------------------------------------------------------------------------------- */

typedef struct data_loader data_loader;
typedef struct {
    AG_NAMED_OPTIONS;
    bool shuffle, drop_last;
    int workers, prefetch;
    uint64_t seed;
} data_loader_opts;
/* Batches of `batch` samples, the last one shorter unless .drop_last.
 *   .shuffle    a new order each epoch, a function of (.seed, epoch) alone
 *   .workers    threads that prepare batches ahead, default 0: in the caller's thread; the bits are the same
 *   .prefetch   batches ready or in work, default 2 per worker
 * A training loader (.shuffle or .drop_last) with a batch longer than the data is an error. (DataLoader)
 * On a GPU batches come beside its work, those of .workers one ahead, and pictures become numbers there. */
#define data_loader_new(set, ...) \
    ag_data_loader_new_(AG_HERE, set, AG_HEAD(__VA_ARGS__), AG_OPTS(data_loader_opts, __VA_ARGS__))
data_loader *ag_data_loader_new_(const char *at, data_set *set, int64_t batch, data_loader_opts opts) AG_PURE;

typedef struct {
    ag_tensor *x, *y;               /* [n, ...] on the default device; y NULL if the set has none */
    int64_t n, index;               /* samples in this batch, without bad ones; its number in the epoch */
    const int64_t *row;             /* [n]: which sample of the set each one is */
    double share;                   /* of the whole batch's samples; 1 unless the loader is shared (data_loader_share) */
    bool everywhere;                /* of a shared loader: each rank has the whole batch */
    data_loader *of;
    ag_scope scope;
    uint64_t round;
    const char *at;
} data_batch;
/* One epoch: the body runs for each batch, in a scope of its own, which ends when the next batch is drawn, on
 * break, continue and return. Without a seek each DATA_EACH is a new epoch, also after a break. */
#define DATA_EACH(b, loader) \
    for (data_batch b AG_CLEANUP(ag_data_batch_end) = ag_data_batch_begin_(AG_HERE, loader); b.x; \
         ag_data_batch_next(&b))
data_batch ag_data_batch_begin_(const char *at, data_loader *loader);
void ag_data_batch_next(data_batch *b);
void ag_data_batch_end(data_batch *b);

/* From the next epoch on each of several ranks (core/ranks.h) gets its part of each batch, in order of ranks, with its b.share;
 * a batch of fewer samples than ranks goes to all, with a share of 1 / ranks. Every rank gets a batch in every turn: where all
 * samples of its part are bad, one of zeros with share 0. Batches, samples and positions are still those of all ranks. */
#define data_loader_share ag_data_loader_share
void ag_data_loader_share(data_loader *loader);

/* From the next batch on pictures that become numbers on a GPU do so as AG_F32 or AG_BF16: for nets that compute in bf16, which
 * round them before anything else. Elsewhere they are f32. */
#define data_loader_dtype ag_data_loader_dtype
void ag_data_loader_dtype(data_loader *loader, ag_dtype dtype);

#define data_batches ag_data_batches
#define data_samples ag_data_samples
#define data_batch_size ag_data_batch_size
#define data_loader_set ag_data_loader_set
int64_t ag_data_batches(const data_loader *loader);         /* per epoch */
int64_t ag_data_samples(const data_loader *loader);         /* seen per epoch */
int64_t ag_data_batch_size(const data_loader *loader);
#define data_batch_shape ag_data_batch_shape
ag_shape ag_data_batch_shape(const data_loader *loader);     /* of b.x in the next epoch, when no sample is missing */
#define data_loader_seed ag_data_loader_seed
uint64_t ag_data_loader_seed(const data_loader *loader);
#define data_loader_workers ag_data_loader_workers
int ag_data_loader_workers(const data_loader *loader);
data_set *ag_data_loader_set(const data_loader *loader);

/* Where the loader stands: the batch that comes next. Saved with a checkpoint; seek makes the next DATA_EACH
 * begin there (with batch = data_batches: an epoch of no batches, then the next). */
typedef struct { int64_t epoch, batch; } data_position;
#define data_loader_tell ag_data_loader_tell
#define data_loader_seek(loader, position) ag_data_loader_seek_(AG_HERE, loader, position)
#define data_loader_epoch ag_data_loader_epoch
#define data_loader_set_epoch(loader, epoch) \
    ag_data_loader_seek_(AG_HERE, loader, AG_LIT(data_position, epoch, 0))
data_position ag_data_loader_tell(const data_loader *loader);
void ag_data_loader_seek_(const char *at, data_loader *loader, data_position position);
int64_t ag_data_loader_epoch(const data_loader *loader);

/* ---- made-up ratings ----------------------------------------------------------------------------------- */

typedef struct { AG_NAMED_OPTIONS; int64_t users, items, ratings; uint64_t seed; } data_synthetic_opts;
/* Ratings of the size of MovieLens 100K (943 users, 1,682 films, 100,000 ratings 1 .. 5, no pair twice, at
 * least 20 per user, popularity by a power law) from known factors, as a table
 * user,item,rating,time,title. */
#define data_synthetic(...) ag_data_synthetic_(AG_HERE, AG_OPTS0(data_synthetic_opts, __VA_ARGS__))
data_table *ag_data_synthetic_(const char *at, data_synthetic_opts opts) AG_PURE;
/* What the generator rounds, after N(0, 0.85) noise, to a rating: 3.53 + user bias + item bias + <5 factors,
 * 5 factors>; a perfect model's mean squared error is near 0.85^2 + 1/12, less what the ends 1 and 5 cut.
 * user, item from 1. */
#define data_synthetic_score ag_data_synthetic_score
double ag_data_synthetic_score(int64_t user, int64_t item, uint64_t seed);
/* Any number of ratings quickly, pairs may come twice: for benchmarks. A table user,item,rating. */
#define data_synthetic_ratings(users, items, ratings, seed) \
    ag_data_synthetic_ratings_(AG_HERE, users, items, ratings, seed)
data_table *ag_data_synthetic_ratings_(const char *at, int64_t users, int64_t items, int64_t ratings,
                                       uint64_t seed) AG_PURE;

AG_END_DECLS
#endif
