/* Sets, splits and loaders: values, order, the same bits for any number of workers, stopping and resuming
 * anywhere. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "core/memory.h"
#include "core/random.h"
#include "data/data.h"

/* Samples x = { i, 2 i }, y = i / 2. */
static data_set *counting_set(int64_t n)
{
    data_table *t = data_table_new(n);
    int64_t *a = ag_alloc(n, 8), *b = ag_alloc(n, 8);
    double *y = ag_alloc(n, 8);
    for (int64_t i = 0; i < n; i++) a[i] = i, b[i] = 2 * i, y[i] = (double)i / 2;
    data_add_ints(t, "a", a);
    data_add_ints(t, "b", b);
    data_add_floats(t, "y", y);
    ag_free(a);
    ag_free(b);
    ag_free(y);
    return data_from_table(t, .x = "a,b", .y = "y");
}

static int64_t first_id(const data_batch *b, int64_t i)
{
    const int64_t *x = b->x->data;
    assert_int_equal(x[2 * i + 1], 2 * x[2 * i]);
    assert_true(((real *)b->y->data)[i] == (real)x[2 * i] / 2);
    return x[2 * i];
}

/* The ids of the next `epochs` epochs into out; returns how many. */
static int64_t draw(data_loader *l, int epochs, int64_t *out)
{
    int64_t n = 0;
    for (int e = 0; e < epochs; e++)
        DATA_EACH(b, l)
            for (int64_t i = 0; i < b.n; i++) out[n++] = first_id(&b, i);
    return n;
}

static void test_in_order(void **state)
{
    (void)state;
    AG_SCOPE;
    data_loader *l = data_loader_new(counting_set(10), 4);
    assert_int_equal(data_batches(l), 3);
    assert_int_equal(data_samples(l), 10);
    int64_t n = 0, batches = 0;
    DATA_EACH(b, l) {
        assert_int_equal(b.index, batches++);
        assert_int_equal(b.n, b.index < 2 ? 4 : 2);
        assert_int_equal(b.x->dtype, AG_I64);
        assert_int_equal(b.x->ndim, 2);
        assert_int_equal(b.x->shape[0], b.n);
        assert_int_equal(b.x->shape[1], 2);
        assert_int_equal(b.y->ndim, 1);
        assert_int_equal(b.y->dtype, AG_F32);
        for (int64_t i = 0; i < b.n; i++) assert_int_equal(first_id(&b, i), n++);
    }
    assert_int_equal(n, 10);
    data_loader *whole = data_loader_new(counting_set(10), 4, .drop_last = true);
    assert_int_equal(data_batches(whole), 2);
    assert_int_equal(data_samples(whole), 8);
    int64_t ids[8];
    assert_int_equal(draw(whole, 1, ids), 8);
    assert_int_equal(data_batches(data_loader_new(counting_set(3), 64)), 1); /* validation: one short batch */
}

static int by_value(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void test_shuffle(void **state)
{
    (void)state;
    for (int64_t n = 1; n < 3000; n = n * 3 / 2 + 1) {
        AG_SCOPE;
        int64_t *a = ag_alloc(2 * n, 8), *b = ag_alloc(2 * n, 8);
        ag_defer(ag_free, a);
        ag_defer(ag_free, b);
        const int64_t batch = n < 7 ? n : 7;
        assert_int_equal(draw(data_loader_new(counting_set(n), batch, .shuffle = true, .seed = 1), 2, a),
                         2 * n);
        draw(data_loader_new(counting_set(n), batch, .shuffle = true, .seed = 1), 2, b);
        assert_memory_equal(a, b, (size_t)(16 * n));                            /* the seed says all */
        if (n > 20) {
            assert_memory_not_equal(a, a + n, (size_t)(8 * n));                 /* each epoch another order */
            draw(data_loader_new(counting_set(n), batch, .shuffle = true, .seed = 2), 1, b);
            assert_memory_not_equal(a, b, (size_t)(8 * n));
        }
        for (int e = 0; e < 2; e++) {
            qsort(a + e * n, (size_t)n, 8, by_value);
            for (int64_t i = 0; i < n; i++) assert_int_equal(a[e * n + i], i);  /* everything once */
        }
    }
}

/* Each of 11 samples comes at each place in 1/11 of 11,000 epochs: chi-squared with 100 degrees of freedom
 * stays below 160 with probability 0.9999. */
static void test_shuffle_is_fair(void **state)
{
    (void)state;
    enum { N = 11, EPOCHS = 11000 };
    AG_SCOPE;
    static double count[N][N];
    int64_t ids[N];
    data_loader *l = data_loader_new(counting_set(N), N, .shuffle = true);
    for (int e = 0; e < EPOCHS; e++) {
        draw(l, 1, ids);
        for (int i = 0; i < N; i++) count[i][ids[i]]++;
    }
    double chi = 0;
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++)
            chi += (count[i][k] - EPOCHS / N) * (count[i][k] - EPOCHS / N) / (EPOCHS / N);
    assert_true(chi < 160);
    assert_int_equal(data_loader_epoch(l), EPOCHS);
}

static void test_workers(void **state)
{
    (void)state;
    enum { N = 5003 };
    AG_SCOPE;
    static int64_t want[3 * N], got[3 * N];
    data_set *set = counting_set(N);
    draw(data_loader_new(set, 64, .shuffle = true, .seed = 7), 3, want);
    for (int workers = 1; workers <= 5; workers += 2)
        for (int prefetch = 0; prefetch < 9; prefetch += 4) {
            AG_SCOPE;
            memset(got, 0, sizeof got);
            data_loader *l = data_loader_new(set, 64, .shuffle = true, .seed = 7, .workers = workers,
                                             .prefetch = prefetch);
            assert_int_equal(draw(l, 3, got), 3 * N);
            assert_memory_equal(got, want, sizeof want);
        }
}

typedef struct { data_loader *l; int64_t stop; } stopping;

static void fail_inside(void *arg)
{
    stopping *s = arg;
    DATA_EACH(b, s->l) if (b.index == s->stop) ag_fail(AG_HERE, "stopped at %d", (int)s->stop);
}

static int return_inside(data_loader *l, int64_t stop)
{
    DATA_EACH(b, l) if (b.index == stop) return (int)b.n;
    return 0;
}

static void test_stop_anywhere(void **state)
{
    (void)state;
    enum { N = 1000 };
    AG_SCOPE;
    data_set *set = counting_set(N);
    static int64_t want[N], got[N];
    for (int workers = 0; workers < 4; workers++)
        for (int64_t stop = 0; stop < 16; stop += 3) {
            AG_SCOPE;
            data_loader *l = data_loader_new(set, 64, .shuffle = true, .workers = workers);
            DATA_EACH(b, l) if (b.index == stop) break;
            assert_int_equal(data_loader_epoch(l), 0);
            assert_int_equal(data_loader_tell(l).batch, stop + 1);
            assert_int_equal(return_inside(l, stop), stop == 15 ? 40 : 64);
            assert_int_equal(data_loader_epoch(l), 1);
            stopping s = { l, stop };
            assert_int_equal(ag_try(fail_inside, &s), 1);
            assert_int_equal(data_loader_epoch(l), 2);
            assert_int_equal(draw(l, 1, got), N);               /* a whole epoch, the fourth */
            data_loader *fresh = data_loader_new(set, 64, .shuffle = true);
            data_loader_set_epoch(fresh, 3);
            draw(fresh, 1, want);
            assert_memory_equal(got, want, sizeof want);
        }
    for (int k = 0; k < 300; k++) { /* loaders that are dropped at once or at work */
        AG_SCOPE;
        data_loader *l = data_loader_new(set, 10, .workers = 3);
        if (k % 3) DATA_EACH(b, l) if (b.index == k % 7) break;
    }
}

static void test_resume(void **state)
{
    (void)state;
    enum { N = 500 };
    AG_SCOPE;
    data_set *set = counting_set(N);
    for (int workers = 0; workers < 3; workers += 2)
        for (int64_t stop = 0; stop < 2 * 16; stop += 5) {
            AG_SCOPE;
            static int64_t want[4 * N], got[4 * N];
            draw(data_loader_new(set, 32, .shuffle = true, .seed = 3), 3, want);
            data_loader *a = data_loader_new(set, 32, .shuffle = true, .seed = 3, .workers = workers);
            int64_t n = 0, seen = 0;
            data_position p = { 0, 0 };
            for (int e = 0; e < 2; e++)
                DATA_EACH(b, a) {
                    if (seen > stop) break;
                    for (int64_t i = 0; i < b.n; i++) got[n++] = first_id(&b, i);
                    p = data_loader_tell(a);
                    if (seen++ == stop) { e = 2; break; }
                }
            data_loader *c = data_loader_new(set, 32, .shuffle = true, .seed = 3, .workers = 2 - workers);
            data_loader_seek(c, p);
            n += draw(c, 3 - (int)p.epoch, got + n);
            assert_int_equal(n, 3 * N);
            assert_memory_equal(got, want, sizeof(int64_t) * 3 * N);
        }
}

static void nested(void *arg)
{
    data_loader *l = arg;
    DATA_EACH(a, l) DATA_EACH(b, l) if (b.index == 1) break;
}

static void test_nested(void **state)
{
    (void)state;
    AG_SCOPE;
    data_loader *l = data_loader_new(counting_set(100), 10, .workers = 1);
    assert_int_equal(ag_try(nested, l), 1);
    assert_non_null(strstr(ag_error(), "the loader was moved inside its own loop"));
}

/* ---- sets ---------------------------------------------------------------------------------------------- */

static void test_tensors(void **state)
{
    (void)state;
    AG_SCOPE;
    real x[24], y[4] = { 4, 3, 2, 1 };
    for (int i = 0; i < 24; i++) x[i] = (real)i;
    data_set *set = data_from_tensors(ag_from(AG_F32, x, 4, 2, 3), ag_from(AG_F32, y, 4));
    data_set *part = data_subset(set, ((int64_t[]){ 3, 0, 3 }), 3);
    assert_int_equal(data_source_row(part, 1), 0);
    DATA_EACH(b, data_loader_new(part, 3)) {
        assert_int_equal(b.x->ndim, 3);
        assert_true(ag_at(b.x, 0, 0, 0) == 18 && ag_at(b.x, 1, 1, 2) == 5 && ag_at(b.x, 2, 1, 0) == 21);
        assert_true(ag_at(b.y, 0) == 1 && ag_at(b.y, 1) == 4);
    }
    DATA_EACH(b, data_loader_new(data_from_tensors(ag_from(AG_F32, y, 4), NULL), 4)) {
        assert_null(b.y);
        assert_true(ag_at(b.x, 3) == 1);
    }
}

static void noisy(data_sample *s)
{
    ag_rng r = { s->key, 0, 0 };
    real *x = s->x;
    for (int i = 0; i < 3; i++) x[i] = (real)ag_rng_uniform(&r);
    *(int64_t *)s->y = s->row * *(int *)s->arg;
}

static void failing(data_sample *s)
{
    if (s->row == 57) ag_fail("get.c:9", "sample 57 cannot be read");
}

static void drain(void *l) { DATA_EACH(b, (data_loader *)l) { } }

static void test_function(void **state)
{
    (void)state;
    enum { N = 200 };
    AG_SCOPE;
    int ten = 10;
    static real want[2 * N * 3], got[2 * N * 3];
    data_set *set =
        data_from_function(N, noisy, .arg = &ten, .x = AG_SHAPE(3), .has_y = true, .y_dtype = AG_I64);
    for (int workers = 0; workers < 4; workers++) {
        AG_SCOPE;
        real *o = workers ? got : want;
        data_loader *l = data_loader_new(set, 16, .shuffle = true, .workers = workers);
        for (int e = 0; e < 2; e++)
            DATA_EACH(b, l) {
                assert_int_equal(((int64_t *)b.y->data)[0] % 10, 0);
                memcpy(o, b.x->data, sizeof(real) * 3 * (size_t)b.n);
                o += 3 * b.n;
            }
        if (workers) assert_memory_equal(got, want, sizeof want);
    }
    data_set *bad = data_from_function(N, failing);
    for (int workers = 0; workers < 3; workers++) {
        AG_SCOPE;
        data_loader *l = data_loader_new(bad, 16, .workers = workers);
        for (int k = 0; k < 3; k++) {
            assert_int_equal(ag_try(drain, l), 1);
            assert_non_null(strstr(ag_error(), "get.c:9: sample 57 cannot be read"));
        }
    }
}

static void test_columns(void **state)
{
    (void)state;
    AG_SCOPE;
    data_table *t = data_table_new(3);
    data_add_ints(t, "id", ((int64_t[]){ 1, 5000000000, 2 }));
    data_add_ints(t, "rating", ((int64_t[]){ 5, 3, 1 }));
    data_add_floats(t, "age", ((double[]){ 20, 30, 40.5 }));
    data_add_text(t, "label", ((const char *[]){ "b", "a", "b" }));
    data_categorify(t, "label");
    DATA_EACH(b, data_loader_new(data_from_table(t, .x = "id", .y = "rating"), 3)) {
        assert_true(ag_at(b.x, 1, 0) == 5000000000.0);
        assert_int_equal(b.y->dtype, AG_F32);
        assert_true(ag_at(b.y, 0) == 5 && ag_at(b.y, 2) == 1);
    }
    DATA_EACH(b, data_loader_new(data_from_table(t, .x = "age", .y = "label"), 3)) {
        assert_int_equal(b.x->dtype, AG_F32);
        assert_true(ag_at(b.x, 2, 0) == 40.5);
        assert_int_equal(b.y->dtype, AG_I64);
        assert_true(ag_at(b.y, 0) == 2 && ag_at(b.y, 1) == 1);
    }
    DATA_EACH(b, data_loader_new(data_from_table(t, .x = "label", .y = "rating,age"), 3)) {
        assert_int_equal(b.y->ndim, 2);
        assert_true(ag_at(b.y, 1, 0) == 3 && ag_at(b.y, 1, 1) == 30);
    }
}

/* ---- splits -------------------------------------------------------------------------------------------- */

static void mark(data_set *set, int *seen, int value)
{
    for (int64_t i = 0; i < data_size(set); i++) seen[data_source_row(set, i)] += value;
}

static void test_splits(void **state)
{
    (void)state;
    enum { N = 1001 };
    AG_SCOPE;
    data_set *set = counting_set(N);
    static int seen[N], again[N];
    data_split d = data_random_split(set, 0.2, 42), e = data_random_split(set, 0.2, 42),
               f = data_random_split(set, 0.2, 43);
    assert_int_equal(data_size(d.valid), 200);
    assert_int_equal(data_size(d.train), 801);
    mark(d.train, seen, 1);
    mark(d.valid, seen, 10);
    int valid_in_f = 0;
    for (int i = 0; i < N; i++) assert_true(seen[i] == 1 || seen[i] == 10);     /* all, nothing in common */
    mark(e.train, again, 1);
    mark(e.valid, again, 10);
    assert_memory_equal(seen, again, sizeof seen);
    for (int64_t i = 0; i < 200; i++) valid_in_f += seen[data_source_row(f.valid, i)] == 10;
    assert_in_range(valid_in_f, 20, 60); /* 40 expected of independent ones */
    data_split_rows r = data_random_rows(N, 0.2, 42);
    assert_int_equal(r.n_valid, 200);
    for (int64_t i = 0; i < 200; i++) assert_int_equal(r.valid[i], data_source_row(d.valid, i));
    int64_t ids[N];
    assert_int_equal(draw(data_loader_new(d.valid, 64), 1, ids), 200);
    assert_memory_equal(ids, r.valid, 1600); /* the samples, not only their rows */
    data_split twice = data_random_split(d.train, 0.5, 1);
    for (int64_t i = 0; i < data_size(twice.valid); i++)
        assert_int_equal(seen[data_source_row(twice.valid, i)], 1);
    data_split tail = data_tail_split(set, 0.1);
    assert_int_equal(data_source_row(tail.valid, 0), 901);
    assert_int_equal(data_size(tail.train), 901);
    data_split listed = data_index_split(set, ((int64_t[]){ 5, 3 }), 2);
    assert_int_equal(data_source_row(listed.valid, 0), 3);
    assert_int_equal(data_source_row(listed.train, 3), 4);
    assert_int_equal(data_size(listed.train), 999);
}

static void test_splits_by_value(void **state)
{
    (void)state;
    AG_SCOPE;
    data_table *t = data_table_new(4);
    data_add_text(t, "part", ((const char *[]){ "train", "test", "train", "test" }));
    data_add_ints(t, "id", ((int64_t[]){ 7, 8, 9, 10 }));
    data_add_floats(t, "y", ((double[]){ 1, 2, 3, 4 }));
    data_set *set = data_from_table(t, .x = "id", .y = "y");
    data_split d = data_column_split(set, t, "part", "test");
    assert_int_equal(data_size(d.valid), 2);
    assert_int_equal(data_source_row(d.valid, 1), 3);
    char path[] = "/tmp/agrad_split_XXXXXX";
    const int fd = mkstemp(path);
    assert_int_equal(write(fd, "9\n7\n", 4), 4);
    close(fd);
    data_split g = data_file_split(set, t, "id", path);
    unlink(path);
    assert_int_equal(data_source_row(g.valid, 0), 0);
    assert_int_equal(data_source_row(g.valid, 1), 2);
}

/* ---- errors -------------------------------------------------------------------------------------------- */

static data_set *three;
static data_table *bad_table;
static void empty_split(void *a) { (void)a; data_random_split(three, 0.2, 1); }
static void wrong_share(void *a) { (void)a; data_random_split(three, 1.5, 1); }
static void twice_listed(void *a) { (void)a; data_index_split(three, ((int64_t[]){ 1, 1 }), 2); }
static void use(void *p) { (void)p; }
static void long_batch(void *a) { (void)a; use(data_loader_new(three, 4, .shuffle = true)); }
static void no_batch(void *a) { (void)a; use(data_loader_new(three, 0)); }
static void bad_seek(void *a)
{
    (void)a;
    data_loader_seek(data_loader_new(three, 2), ((data_position){ 0, 3 }));
}
static void text_column(void *a) { (void)a; use(data_from_table(bad_table, .x = "n", .y = "s")); }
static void missing_cell(void *a) { (void)a; use(data_from_table(bad_table, .x = "n", .y = "f")); }
static void negative_id(void *a) { (void)a; use(data_from_table(bad_table, .x = "m", .y = "n")); }
static void mixed_x(void *a) { (void)a; use(data_from_table(bad_table, .x = "n,g", .y = "n")); }
static void no_column(void *a) { (void)a; use(data_from_table(bad_table, .x = "z")); }
static void unequal(void *a) { (void)a; use(data_from_tensors(ag_ones(3, 2), ag_ones(4))); }

static void test_errors(void **state)
{
    (void)state;
    AG_SCOPE;
    three = counting_set(3);
    bad_table = data_table_new(2);
    data_add_text(bad_table, "s", ((const char *[]){ "1.5", "four" }));
    data_add_ints(bad_table, "n", ((int64_t[]){ 1, 2 }));
    data_add_ints(bad_table, "m", ((int64_t[]){ 1, -2 }));
    data_add_floats(bad_table, "f", ((double[]){ 1, NAN }));
    data_add_floats(bad_table, "g", ((double[]){ 1, 2 }));
    const struct { void (*fn)(void *); const char *want;
    } cases[] = {
        { empty_split, "a fraction of 0.2 leaves the validation set empty (3 samples in all)" },
        { wrong_share, "fraction = 1.5" },
        { twice_listed, "rows[1] = 1 is listed twice" },
        { long_batch, "a batch of 4 is longer than the data, 3 samples" },
        { no_batch, "batch = 0" },
        { bad_seek, "batch 3" },
        { text_column, "row 1, column \"s\": \"four\" is not a number" },
        { missing_cell, "row 1, column \"f\": the cell is empty" },
        { negative_id, "row 1, column \"m\": -2 is negative" },
        { mixed_x, ".x = \"n,g\" mixes integers with floats" },
        { no_column, "no column \"z\"" },
        { unequal, "their first axes count the same samples" },
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        assert_int_equal(ag_try(cases[k].fn, NULL), 1);
        if (!strstr(ag_error(), cases[k].want)) fail_msg("\"%s\" lacks \"%s\"", ag_error(), cases[k].want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order),        cmocka_unit_test(test_shuffle),
        cmocka_unit_test(test_shuffle_is_fair), cmocka_unit_test(test_workers),
        cmocka_unit_test(test_stop_anywhere),   cmocka_unit_test(test_resume),
        cmocka_unit_test(test_nested),          cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_function),        cmocka_unit_test(test_columns),
        cmocka_unit_test(test_splits),          cmocka_unit_test(test_splits_by_value),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests_name("loader", tests, NULL, NULL);
}
