/* tests/test_cuda_rows.c - tables read by rows on the GPU, or in its emulation (tests/test_cuda.c), against the CPU: the
 * gradients of rows, and the optimizers that step them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/cuda_cases.h"

/* ---- gradients ----------------------------------------------------------------------------------------- */

static ag_tensor *table(ag_tensor **in) { return ag_embedding(in[0], in[1]); }
static ag_tensor *scores(ag_tensor **in) { return ag_dot_bias(in[0], in[1], in[2], in[3], in[4]); }

/* One tile or several, one merge or two, runs that are not full, and lists that are a power of two long. */
static void test_rows_are_summed_in_the_order_of_the_cpu(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "one position", "w[5,3] ids[1]:i64<5", table }, { "a tile", "w[40,3] ids[2048]:i64<40", table },
        { "two tiles", "w[7,2] ids[2049]:i64<7", table }, { "five tiles", "w[300,1] ids[9000]:i64<300", table },
        { "a row for all", "w[3,2] ids[5000]:i64<1", table },
    };
    compare_cases(cases, sizeof cases / sizeof *cases, 0);
    static const cuda_case sides[] = {
        { "five tiles, both sides", "u[30,3] i[9,3] bu[30,1] bi[9,1] ids[8200,2]:i64<9", scores },
    };
    compare_cases(sides, 1, 1e-5);
}

typedef struct { ag_tensor *w; int64_t bad; } bad_read;
static void read_a_bad_id(void *arg)
{
    AG_SCOPE;
    const bad_read *r = arg;
    const int64_t ids[3] = { 1, r->bad, 0 };
    ag_tensor *sum = ag_sum(ag_embedding(r->w, ag_to(ag_from(AG_I64, ids, 3), AG_CUDA)));
    ag_backward(sum);
    ag_item(sum);
}

/* Its gradient goes nowhere. */
static void test_an_id_out_of_range_writes_nothing(void **state)
{
    (void)state;
    static const int64_t bad[] = { -1, 5, INT64_MIN, INT64_MAX, (int64_t)1 << 32 };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        AG_SCOPE;
        bad_read r = { ag_param(ag_to(ag_ones(5, 2), AG_CUDA)), bad[i] };
        assert_int_equal(ag_try(read_a_bad_id, &r), 1);
        assert_non_null(strstr(ag_error(), "ag_embedding: ids[1] = "));
        const real *g = ag_real(ag_to(r.w->grad, AG_CPU));
        for (int k = 0; k < 10; k++) assert_true(g[k] == (k < 4));
    }
}

int main(void)
{
    char why[512];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_summed_in_the_order_of_the_cpu),
        cmocka_unit_test(test_an_id_out_of_range_writes_nothing),
    };
    if (ag_cuda_available(why, sizeof why)) return cmocka_run_group_tests(tests, NULL, NULL);
    print_message("SKIP: no rows were stepped on a GPU here: %s\n", why);
    return 0;
}
