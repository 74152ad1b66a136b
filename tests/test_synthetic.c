/* Made-up ratings: sizes, no pair twice, spread, the known factors explain them, the same from a seed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "data/data.h"

static void test_synthetic(void **state)
{
    (void)state;
    AG_SCOPE;
    data_table *t = data_synthetic(.seed = 1), *again = data_synthetic(.seed = 1);
    const int64_t *u = data_ints(t, "user"), *i = data_ints(t, "item"), *r = data_ints(t, "rating");
    assert_int_equal(data_rows(t), 100000);
    static int per_user[944], per_item[1683];
    static bool pair[944][1683];
    double error = 0, mean = 0, variance = 0;
    for (int64_t k = 0; k < 100000; k++) {
        assert_in_range(r[k], 1, 5);
        assert_false(pair[u[k]][i[k]]);
        pair[u[k]][i[k]] = true;
        per_user[u[k]]++;
        per_item[i[k]]++;
        const double d = (double)r[k] - fmin(5, fmax(1, data_synthetic_score(u[k], i[k], 1)));
        error += d * d / 100000;
        mean += (double)r[k] / 100000;
        variance += (double)(r[k] * r[k]) / 100000;
    }
    variance -= mean * mean;
    assert_true(mean > 3.3 && mean < 3.7 && variance > 1.0 && variance < 1.4);
    assert_true(error > 0.6 && error < 0.85);           /* the factors explain what is not noise */
    int most = 0, rare = 0;
    for (int k = 1; k <= 943; k++) assert_true(per_user[k] >= 20);
    for (int k = 1; k <= 1682; k++) {
        assert_true(per_item[k] >= 1);
        most = per_item[k] > most ? per_item[k] : most;
        rare += per_item[k] < 20;
    }
    assert_true(most > 300 && rare > 300);              /* few films have many ratings, many have few */
    assert_memory_equal(r, data_ints(again, "rating"), 800000);
    assert_memory_equal(i, data_ints(again, "item"), 800000);
    assert_int_equal(data_categorify(t, "title"), 1683);        /* titles differ */
    data_table *many = data_synthetic_ratings(1000, 500, 100000, 3);
    mean = 0;
    for (int64_t k = 0; k < 100000; k++) {
        assert_in_range(data_ints(many, "user")[k], 1, 1000);
        assert_in_range(data_ints(many, "item")[k], 1, 500);
        mean += data_number(many, k, "rating") / 100000;
    }
    assert_true(mean > 3.3 && mean < 3.7);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_synthetic) };
    return cmocka_run_group_tests_name("synthetic", tests, NULL, NULL);
}
