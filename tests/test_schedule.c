/* Learning-rate curves against fastai's fit_one_cycle, fit_flat_cos, fine_tune and fit_sgdr. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "core/base.h"
#include "optim/schedule.h"

/* fastai 2.8.12: combined_cos(.25, 5e-3/25, 5e-3, 5e-3/1e5), combined_cos(.25, .95, .85, .95),
 * combined_cos(.75, 2e-3, 2e-3, 2e-3/1e5), combined_cos(.3, 1e-2/5, 1e-2, 1e-2/1e5),
 * combine_scheds([1/7, 2/7, 4/7], [SchedCos(1, 0)] * 3) */
static const double expected[][6] = {
    { 0, 0.0002, 0.95, 0.002, 0.002, 1 },
    { 0.1, 0.00185835926, 0.915450849, 0.002, 0.00399999978, 0.206107389 },
    { 0.2, 0.00454164084, 0.859549149, 0.002, 0.00799999957, 0.904508536 },
    { 0.25, 0.005, 0.85, 0.002, 0.00946410149, 0.691341846 },
    { 0.3, 0.00494536952, 0.851092621, 0.002, 0.01, 0.421782841 },
    { 0.5, 0.00375001243, 0.875000001, 0.002, 0.00811746804, 0.961939798 },
    { 0.75, 0.00125003736, 0.925000003, 0.002, 0.00283065312, 0.402454839 },
    { 0.9, 0.00021618436, 0.94567727, 0.000690996381, 0.000495251057, 0.0736799765 },
    { 0.9992, 6.40370924e-08, 0.949999719, 7.05331544e-08, 1.32227053e-07, 4.83646799e-06 },
};

static void curves_equal_fastai(void **state)
{
    (void)state;
    const optim_schedule s[5] = { optim_one_cycle(5e-3), optim_one_cycle_momentum(.95, .85, .95), optim_flat_cos(2e-3),
                                  optim_one_cycle(1e-2, .div = 5, .pct_start = .3), optim_sgdr(1, 3, 2) };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        for (int k = 0; k < 5; k++)
            assert_true(fabs(optim_schedule_at(&s[k], expected[i][0]) - expected[i][k + 1]) < 1e-6);
    assert_true(fabs(optim_schedule_at(&s[0], 0.1) - 0.00185835926) < 1e-10);
}

static void elementary_curves(void **state)
{
    (void)state;
    assert_true(fabs(optim_sched_exp(1e-7, 10, 0.37) - 9.120108393559096e-05) < 1e-15);
    assert_true(fabs(optim_sched_poly(1, 3, 2, 0.3) - 1.18) < 1e-12);
    assert_true(fabs(optim_sched_lin(2, 5, 0.25) - 2.75) < 1e-12);
    assert_true(fabs(optim_sched_cos(2, 5, 0.25) - 2.439339828220179) < 1e-12);
}

static void ends_stay(void **state)
{
    (void)state;
    const optim_schedule s = optim_one_cycle(1), c = optim_cosine(1, 0), l = optim_linear(4, 2);
    assert_true(optim_schedule_at(&s, 0) == 1. / 25 && fabs(optim_schedule_at(&s, 1) - 1e-5) < 1e-12);
    assert_true(fabs(optim_schedule_at(&s, 1.5) - 1e-5) < 1e-12 && optim_schedule_at(&s, -1) == 1. / 25);
    assert_true(fabs(optim_schedule_at(&c, 0.5) - 0.5) < 1e-12 && optim_schedule_at(&l, 0.5) == 3);
}

/* Warm-up over a fifth: 0, half way, then cosine(2 -> 0) over the remaining four fifths. */
static void warmup_precedes(void **state)
{
    (void)state;
    const optim_schedule c = optim_cosine(2, 0), w = optim_warmup(0, 0.2, &c);
    assert_true(optim_schedule_at(&w, 0) == 0);
    assert_true(fabs(optim_schedule_at(&w, 0.1) - 1) < 1e-12);
    assert_true(fabs(optim_schedule_at(&w, 0.2) - 2) < 1e-12);
    assert_true(fabs(optim_schedule_at(&w, 0.6) - 1) < 1e-12);
}

static void combine_two(void *arg)
{
    const optim_phase p[2] = { { 0.5, 1, 2, OPTIM_LIN, 0 }, { *(double *)arg, 2, 8, OPTIM_EXP, 0 } };
    const optim_schedule s = optim_combine(2, p);
    assert_true(fabs(optim_schedule_at(&s, 0.25) - 1.5) < 1e-12);
    assert_true(fabs(optim_schedule_at(&s, 0.75) - 4) < 1e-12);
}

static void shares_add_up(void **state)
{
    (void)state;
    double half = 0.5, less = 0.4;
    assert_int_equal(ag_try(combine_two, &half), 0);
    assert_int_equal(ag_try(combine_two, &less), 1);
    assert_non_null(strstr(ag_error(), "add up to 0.9, not 1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(curves_equal_fastai), cmocka_unit_test(elementary_curves), cmocka_unit_test(ends_stay),
        cmocka_unit_test(warmup_precedes),     cmocka_unit_test(shares_add_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
