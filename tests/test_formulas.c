/* tests/test_formulas.c - the polynomials of ops/formulas.h against the mathematical library in double. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "ops/formulas.h"

typedef struct { const char *name; real (*got)(real x); double (*want)(double x); double from, to, absolute, relative; } formula;

static real exp_of(real x) { return EXP(x); }
static real exp2_of(real x) { return EXP2(x); }
static real tanh_of(real x) { return TANH(x); }
static real gelu_of(real x) { return GELU(x); }
static real gelu_slope_of(real x) { return GELU_GRAD(x); }
static double phi(double x) { return 0.5 * erfc(-x / sqrt(2)); }
static double gelu(double x) { return x * phi(x); }
static double gelu_slope(double x) { return phi(x) + x * exp(-x * x / 2) / sqrt(2 * 3.14159265358979323846); }

static const formula formulas[] = {
    { "EXP", exp_of, exp, -87, 88, 0, 3e-7 },
    { "EXP2", exp2_of, exp2, -126, 127, 0, 3e-7 },
    { "TANH", tanh_of, tanh, -20, 20, 4e-7, 0 },
    { "GELU", gelu_of, gelu, -15, 15, 4e-7, 2e-7 },
    { "GELU_GRAD", gelu_slope_of, gelu_slope, -15, 15, 4e-7, 0 },
};

static void test_formulas(void **state)
{
    enum { POINTS = 200001 };
    (void)state;
    for (size_t f = 0; f < sizeof formulas / sizeof *formulas; f++)
        for (int i = 0; i < POINTS; i++) {
            const formula *m = &formulas[f];
            const real x = (real)(m->from + (m->to - m->from) * i / (POINTS - 1));
            const double got = (double)m->got(x), want = m->want((double)x);
            if (!(fabs(got - want) <= m->absolute + m->relative * fabs(want)))
                fail_msg("%s(%.9g): got %.9g, want %.9g", m->name, (double)x, got, want);
        }
}

static void test_ends(void **state)
{
    (void)state;
    assert_true(EXP(R(-200)) == 0 && isinf(EXP(R(2000))) && EXP(0) == 1);
    assert_true(EXP2(-INFINITY) == 0 && EXP2(R(-2000)) == 0 && EXP2(0) == 1);
    assert_true(GELU(0) == 0 && GELU(R(40)) == 40 && fabs((double)GELU(R(-40))) < 1e-30 && GELU_GRAD(R(40)) == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_formulas), cmocka_unit_test(test_ends) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
