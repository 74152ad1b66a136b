/* data/split.c - training and validation parts with nothing in common. */
#include <math.h>
#include <string.h>
#include "core/io.h"
#include "core/memory.h"
#include "data/set.h"

/* valid[i] says where row i goes. Both lists ascend, in the innermost scope. */
static data_split_rows divide(const char *at, const unsigned char *valid, int64_t n, const char *why)
{
    int64_t n_valid = 0;
    for (int64_t i = 0; i < n; i++) n_valid += valid[i];
    if (n_valid == 0 || n_valid == n)
        ag_fail(at, "%s leaves the %s set empty (%" PRId64 " samples in all); both parts need at least one",
                why, n_valid ? "training" : "validation", n);
    data_split_rows r = { .n_train = n - n_valid, .n_valid = n_valid };
    r.train = ag_alloc(r.n_train, sizeof *r.train);
    ag_defer(ag_free, r.train);
    r.valid = ag_alloc(r.n_valid, sizeof *r.valid);
    ag_defer(ag_free, r.valid);
    int64_t k[2] = { 0, 0 };
    for (int64_t i = 0; i < n; i++) (valid[i] ? r.valid : r.train)[k[valid[i]]++] = i;
    return r;
}

/* The sets are made inside a scope that takes the lists and marks with it, and then handed to the
 * caller's. */
static data_split take(const char *at, const data_set *set, const data_split_rows *r)
{
    return (data_split){ ag_data_subset_make(at, set, r->train, r->n_train),
                         ag_data_subset_make(at, set, r->valid, r->n_valid) };
}

static data_split hand_out(data_split d)
{
    ag_defer(ag_data_set_drop, d.train);
    ag_defer(ag_data_set_drop, d.valid);
    return d;
}

/* The marks of a split over n samples; in the innermost scope. */
static unsigned char *new_marks(int64_t n)
{
    unsigned char *valid = ag_alloc(n, 1);
    ag_defer(ag_free, valid);
    return valid;
}


static void check_fraction(const char *at, const char *name, double fraction)
{
    if (!(fraction > 0 && fraction < 1))
        ag_fail(at, "%s: fraction = %g; the share of the validation set lies between 0 and 1", name,
                fraction);
}

data_split_rows ag_data_random_rows_(const char *at, int64_t n, double fraction, uint64_t seed)
{
    check_fraction(at, "data_random_split", fraction);
    if (n < 1) ag_fail(at, "data_random_split: %" PRId64 " samples; both parts need at least one", n);
    const int64_t n_valid = (int64_t)floor(fraction * (double)n);
    unsigned char *valid = new_marks(n);
    const data_permutation p = ag_data_permutation(n, seed, UINT64_MAX);
    int64_t block[256];
    for (int64_t i = 0; i < n_valid; i += 256) {
        const int64_t m = n_valid - i < 256 ? n_valid - i : 256;
        ag_data_permute(&p, i, m, block);
        for (int64_t k = 0; k < m; k++) valid[block[k]] = 1;
    }
    return divide(at, valid, n, ag_data_text_printf("data_random_split: a fraction of %g", fraction));
}

data_split ag_data_random_split_(const char *at, data_set *set, double fraction, uint64_t seed)
{
    data_split d;
    {
        AG_SCOPE;
        const data_split_rows r = ag_data_random_rows_(at, set->n, fraction, seed);
        d = take(at, set, &r);
    }
    return hand_out(d);
}

data_split ag_data_tail_split_(const char *at, data_set *set, double fraction)
{
    data_split d;
    {
        AG_SCOPE;
        check_fraction(at, "data_tail_split", fraction);
        const int64_t n_valid = (int64_t)floor(fraction * (double)set->n);
        unsigned char *valid = new_marks(set->n);
        memset(valid + (set->n - n_valid), 1, (size_t)n_valid);
        const data_split_rows r =
            divide(at, valid, set->n, ag_data_text_printf("data_tail_split: a fraction of %g", fraction));
        d = take(at, set, &r);
    }
    return hand_out(d);
}

data_split ag_data_index_split_(const char *at, data_set *set, const int64_t *rows, int64_t n)
{
    data_split d;
    {
        AG_SCOPE;
        unsigned char *valid = new_marks(set->n);
        for (int64_t i = 0; i < n; i++) {
            if (rows[i] < 0 || rows[i] >= set->n)
                ag_fail(at,
                        "data_index_split: rows[%" PRId64 "] = %" PRId64
                        ", the set has samples 0 .. %" PRId64,
                        i, rows[i], set->n - 1);
            if (valid[rows[i]]++)
                ag_fail(at, "data_index_split: rows[%" PRId64 "] = %" PRId64 " is listed twice", i, rows[i]);
        }
        const data_split_rows r = divide(at, valid, set->n, "data_index_split: this list");
        d = take(at, set, &r);
    }
    return hand_out(d);
}

static void check_rows(const char *at, const char *name, const data_set *set, const data_table *t)
{
    if (t->rows != set->n)
        ag_fail(at,
                "%s: the table has %" PRId64 " rows, the set %" PRId64 " samples; they must be the same rows",
                name, t->rows, set->n);
}

data_split ag_data_column_split_(const char *at, data_set *set, const data_table *t, const char *column,
                                 const char *value)
{
    data_split d;
    {
        AG_SCOPE;
        check_rows(at, "data_column_split", set, t);
        unsigned char *valid = new_marks(set->n);
        for (int64_t i = 0; i < set->n; i++) {
            AG_SCOPE;
            valid[i] = !strcmp(ag_data_cell_(at, t, i, column), value);
        }
        const data_split_rows r = divide(
            at, valid, set->n, ag_data_text_printf("data_column_split: \"%s\" = \"%s\"", column, value));
        d = take(at, set, &r);
    }
    return hand_out(d);
}

data_split ag_data_file_split_(const char *at, data_set *set, const data_table *t, const char *column,
                               const char *path)
{
    data_split d;
    {
        AG_SCOPE;
        check_rows(at, "data_file_split", set, t);
        unsigned char *valid = new_marks(set->n);
        {
            AG_SCOPE;
            const data_table *list = ag_data_csv_(at, path,
                                                  (data_csv_opts){ .sep = "\t",
                                                                   .names = "value",
                                                                   .types = "value:text",
                                                                   .header = DATA_HEADER_NO,
                                                                   .no_quotes = true });
            data_index *x = ag_data_index_new(list->rows, NULL, list->column[0].v.s);
            unsigned char *found = new_marks(list->rows);
            for (int64_t i = 0; i < list->rows; i++) found[i] = ag_data_index_put(x, i) >= 0;
            for (int64_t i = 0; i < set->n; i++) {
                AG_SCOPE;
                const int64_t k = ag_data_index_text(x, ag_data_cell_(at, t, i, column));
                valid[i] = k >= 0;
                if (k >= 0) found[k] = 1;
            }
            ag_data_index_free(x);
            for (int64_t i = 0; i < list->rows; i++)
                if (!found[i])
                    ag_fail(at, "%s: \"%s\" stands in no row of column \"%s\"",
                            ag_data_place(list, i, &list->column[0]), list->column[0].v.s[i], column);
        }
        const data_split_rows r = divide(at, valid, set->n, ag_data_text_printf("data_file_split: %s", path));
        d = take(at, set, &r);
    }
    return hand_out(d);
}
