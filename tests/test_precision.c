/* tests/test_precision.c - AG_AUTOCAST: dtypes, how near bf16 comes to f32, and a curve. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "agrad.h"

static double *values(const ag_tensor *t)
{
    double *v = test_calloc((size_t)ag_numel(t), sizeof *v);
    float *f = test_calloc((size_t)ag_numel(t), sizeof *f);
    ag_to_host(t, AG_F32, f);
    for (int64_t i = 0; i < ag_numel(t); i++) v[i] = (double)f[i];
    test_free(f);
    return v;
}

/* The largest difference, relative to the largest value. */
static double distance(const ag_tensor *a, const ag_tensor *b)
{
    double *x = values(a), *y = values(b), worst = 0, most = 0;
    for (int64_t i = 0; i < ag_numel(a); i++) worst = fmax(worst, fabs(x[i] - y[i])), most = fmax(most, fabs(y[i]));
    test_free(x), test_free(y);
    return worst / most;
}

enum { PARAMS = 6, ROWS = 1030, IN = 96, HIDDEN = 200 };

static ag_tensor *network(ag_tensor **p, ag_tensor *x)
{
    return ag_linear(ag_mlp(x, p[0], p[1], p[2], p[3], AG_LINEAR_GELU), p[4], .bias = p[5]);
}

/* Result and gradients in one precision; each is kept by the innermost scope. */
static void run(const char *precision, ag_tensor **p, ag_tensor *x, ag_tensor *g, ag_tensor **result)
{
    ag_scope mode AG_CLEANUP(ag_scope_end) = ag_autocast_begin(AG_HERE, precision);
    for (int i = 0; i < PARAMS; i++) ag_zero_grad(p[i]);
    ag_tensor *y = ag_cast(network(p, x), AG_F32);
    ag_backward(y, .grad = g);
    result[0] = ag_retain(y);
    for (int i = 0; i < PARAMS; i++) {
        result[1 + i] = ag_retain(ag_detach(ag_add_scalar(p[i]->grad, 0)));
        assert_int_equal(p[i]->grad->dtype, AG_F32);
    }
}

static void bf16_comes_near_f32(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *x = ag_randn(ROWS, IN), *g = ag_randn(ROWS, IN), *f32[PARAMS + 1], *other[PARAMS + 1];
    ag_tensor *p[PARAMS] = { ag_randn(HIDDEN, IN), ag_randn(HIDDEN), ag_randn(IN, HIDDEN), ag_randn(IN), ag_randn(IN, IN),
                             ag_randn(IN) };
    for (int i = 0; i < PARAMS; i++) ag_param(p[i]);
    run("f32", p, x, g, f32);
    run("bf16", p, x, g, other);
    for (int i = 0; i <= PARAMS; i++) {
        const double d = distance(other[i], f32[i]);
        if (!(d <= 3e-2)) fail_msg("tensor %d: %g away from f32", i, d);
        if (i == 0 && ag_bf16_fast() && d == 0) fail_msg("bf16 is f32");
        ag_release(other[i]);
        ag_release(f32[i]);
    }
}

static void modes_nest(void **state)
{
    (void)state;
    assert_string_equal(ag_autocast_name(), "f32");
    if (!ag_bf16_fast()) skip();
    AG_AUTOCAST(bf16);
    assert_string_equal(ag_autocast_name(), "bf16");
    {
        AG_AUTOCAST(f32);
        assert_string_equal(ag_autocast_name(), "f32");
        assert_int_equal(ag_autocast(), AG_F32);
    }
    assert_int_equal(ag_autocast(), AG_BF16);
}

static void unknown(void *arg)
{
    (void)arg;
    AG_AUTOCAST(fp8);
}

static void an_unknown_precision_is_named(void **state)
{
    (void)state;
    assert_int_equal(ag_try(unknown, NULL), 1);
    assert_non_null(strstr(ag_error(), "precision \"fp8\" is unknown; it is \"f32\" or \"bf16\""));
}

/* A small ConvNeXt learns eight images by heart: the losses of 12 steps. */
static void curve(const char *precision, double *loss)
{
    enum { N = 8, SIZE = 32, STEPS = 12 };
    AG_SCOPE;
    ag_manual_seed(3);
    nn_module *net = model_create("convnext_atto", .classes = 4);
    optim *opt = optim_adamw(net, 1e-3);
    ag_tensor *x = ag_randn(N, SIZE, SIZE, 3);
    int64_t class[N];
    for (int i = 0; i < N; i++) class[i] = i % 4;
    ag_tensor *y = ag_from(AG_I64, class, N);
    ag_scope mode AG_CLEANUP(ag_scope_end) = ag_autocast_begin(AG_HERE, precision);
    for (int t = 0; t < STEPS; t++) {
        AG_SCOPE;
        ag_tensor *l = ag_cross_entropy(ag_cast(nn_call(net, x), AG_F32), y);
        loss[t] = ag_item(l);
        ag_backward(l);
        optim_step(opt);
    }
}

static void curves_agree(void **state)
{
    (void)state;
    double f32[12], other[12];
    curve("f32", f32);
    curve("bf16", other);
    for (int t = 0; t < 12; t++)
        if (!(fabs(other[t] - f32[t]) <= 0.1 * (1 + f32[t])))
            fail_msg("step %d: loss %g, in f32 %g", t, other[t], f32[t]);
    assert_true(f32[11] < f32[0] / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_comes_near_f32),
        cmocka_unit_test(modes_nest),
        cmocka_unit_test(an_unknown_precision_is_named),
        cmocka_unit_test(curves_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
