/* tests/test_nn.c - the module tree, layers, initialisers and files; the models' names. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agrad.h"
#include "core/op.h"

static char path[] = "/tmp/agrad-nn-XXXXXX";

static void assert_names(const nn_module *m, const char *const *want)
{
    int64_t n = 0;
    for (; want[n]; n++) {
        assert_true(n < nn_param_count(m));
        assert_string_equal(nn_param_at(m, n)->name, want[n]);
    }
    assert_int_equal(nn_param_count(m), n);
}

/* As torch.nn's state_dict() lists them. */
static void test_names_are_pytorchs(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *end = nn_sequential(nn_batch_norm1d(4), nn_linear(4, 1, .no_bias = true));
    nn_module *net = nn_sequential(nn_linear(3, 4), nn_relu(), end);
    assert_names(net, (const char *const[]){ "0.weight", "0.bias", "2.0.weight", "2.0.bias", "2.1.weight", NULL });
    assert_int_equal(nn_buffer_count(net), 3);
    assert_string_equal(nn_buffer_at(net, 0)->name, "2.0.running_mean");
    assert_string_equal(nn_buffer_at(net, 2)->name, "2.0.num_batches_tracked");
    assert_int_equal(nn_numel(net), 12 + 4 + 4 + 4 + 4);
}

/* As fastai's EmbeddingDotBias and EmbeddingNN list them; emb_sz_rule(944) is 74, (1635) is 101. */
static void test_models_have_fastais_names(void **state)
{
    (void)state;
    AG_SCOPE;
    assert_names(model_dot_bias(5, 6, 3), (const char *const[]){ "u_weight.weight", "i_weight.weight", "u_bias.weight",
                                                                 "i_bias.weight", NULL });
    nn_module *net = model_embedding_nn(944, 1635, .layers = MODEL_LAYERS(10));
    assert_names(net, (const char *const[]){ "embeds.0.weight", "embeds.1.weight", "layers.0.0.weight", "layers.0.2.weight",
                                             "layers.0.2.bias", "layers.1.0.weight", "layers.1.0.bias", NULL });
    assert_int_equal(nn_param_at(net, 0)->shape[1], 74);
    assert_int_equal(nn_param_at(net, 1)->shape[1], 101);
}

/* sigmoid(u . i + bu + bi) 5.5 by hand. */
static void test_dot_bias_by_hand(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = model_dot_bias(2, 2, 2, .lo = 0, .hi = 5.5);
    const double values[4][4] = { { 0, 0, 0.5, -1 }, { 0, 0, 2, 0.25 }, { 0, 0.1 }, { 0, -0.3 } };
    for (int p = 0; p < 4; p++)
        for (int k = 0; k < (p < 2 ? 4 : 2); k++) ag_real(nn_param_at(net, p))[k] = (real)values[p][k];
    const int64_t ids[2] = { 1, 1 };
    const double score = 0.5 * 2 - 0.25 + 0.1 - 0.3;
    assert_true(fabs(ag_item(nn_call(net, ag_from(AG_I64, ids, 1, 2))) - 5.5 / (1 + exp(-score))) < 1e-5);
}

static void test_modes_and_dropout(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = nn_sequential(nn_dropout(0.5), nn_batch_norm1d(3));
    ag_tensor *x = ag_randn(8, 3);
    {
        NN_EVAL(net);
        const ag_tensor *y = nn_call(net, x);
        assert_false(y->requires_grad);
        for (int i = 0; i < 8; i++) assert_true(fabs(ag_at(y, i, 0) - ag_at(x, i, 0) / sqrt(1 + 1e-5)) < 1e-5);
        assert_true(ag_item(nn_buffer_at(net, 2)) == 0);
    }
    assert_true(net->training);
    assert_true(nn_call(net, x)->requires_grad);
    assert_true(ag_item(nn_buffer_at(net, 2)) == 1);
}

static void freeze_nothing(void *net) { nn_freeze(net, "head.*"); }

static void test_freezing_by_pattern(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = nn_sequential(nn_linear(2, 2), nn_linear(2, 2));
    nn_freeze(net, "0.* *.bias");
    const bool want[4] = { false, false, true, false };
    for (int i = 0; i < 4; i++) assert_int_equal(nn_param_at(net, i)->requires_grad, want[i]);
    ag_backward(ag_sum(nn_call(net, ag_ones(1, 2))));
    assert_null(nn_param_at(net, 0)->grad);
    assert_non_null(nn_param_at(net, 2)->grad);
    nn_unfreeze(net, "*");
    assert_true(nn_param_at(net, 0)->requires_grad);
    assert_int_equal(ag_try(freeze_nothing, net), 1);
    assert_non_null(strstr(ag_error(), "no parameter matches 'head.*'; the first is called '0.weight'"));
}

static void twice(void *child)
{
    nn_module *a = nn_sequential((nn_module *)child), *b = nn_sequential((nn_module *)child);
    (void)a, (void)b;
}

static void test_a_module_has_one_parent(void **state)
{
    (void)state;
    AG_SCOPE;
    assert_int_equal(ag_try(twice, nn_linear(1, 1)), 1);
    assert_non_null(strstr(ag_error(), "already belongs to a sequential"));
}

/* ---- initialisers: moments against their closed forms ---------------------------------------------------------------- */

static void moments(const ag_tensor *t, double *mean, double *std, double *most)
{
    *most = 0;
    *mean = ag_item(ag_mean((ag_tensor *)(uintptr_t)t));
    *std = sqrt(ag_item(ag_var((ag_tensor *)(uintptr_t)t)));
    for (int64_t i = 0; i < ag_numel(t); i++) *most = fmax(*most, fabs((double)ag_real(t)[i]));
}

static void assert_moments(const ag_tensor *t, double std, double bound)
{
    double m, s, most;
    moments(t, &m, &s, &most);
    if (!(fabs(m) < 0.02 * std && fabs(s / std - 1) < 0.02 && most <= bound * (1 + 1e-6)))
        fail_msg("mean %g, std %g (want %g), largest %g (want <= %g)", m, s, std, most, bound);
}

static void test_initialisers(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_manual_seed(1);
    ag_tensor *t = ag_zeros(400, 300);
    nn_init_kaiming_uniform(t, sqrt(5));        /* U(+-1/sqrt(300)) */
    assert_moments(t, 1 / sqrt(900.), 1 / sqrt(300.));
    nn_init_kaiming_normal(t, 0);               /* sqrt(2/300) */
    assert_moments(t, sqrt(2 / 300.), 1);
    nn_init_xavier_uniform(t);                  /* U(+-sqrt(6/700)) */
    assert_moments(t, sqrt(2 / 700.), sqrt(6 / 700.));
    nn_init_xavier_normal(t);
    assert_moments(t, sqrt(2 / 700.), 1);
    nn_init_trunc_normal(t, 0, 0.02, -0.02, 0.02);      /* of N(0,1) within one sigma: sqrt(1 - 2 phi(1) / (2 Phi(1) - 1)) */
    assert_moments(t, 0.02 * 0.53956, 0.02);
    /* N(0,1) fmod 2: standard deviation 0.86589 by quadrature */
    nn_init_fastai(t, 0.01);
    assert_moments(t, 0.01 * 0.86589, 0.02);
    nn_module *fc = nn_linear(100, 200);
    assert_moments(nn_param(fc, "weight"), 1 / sqrt(300.), 0.1);
}

/* ---- files -------------------------------------------------------------------------------------------------------------- */

static void load(void *net) { nn_load(net, path); }
static void load_head(void *net) { nn_load(net, path, .skip = "1.*"); }
static void wrong_name(void *net) { ag_print(nn_param(net, "0.wieght")); }

static void test_files(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *a = nn_sequential(nn_linear(3, 4), nn_linear(4, 2)), *b = nn_sequential(nn_linear(3, 4), nn_linear(4, 2));
    nn_module *other = nn_sequential(nn_linear(3, 4), nn_linear(4, 5)), *deeper = nn_sequential(nn_linear(3, 4));
    nn_save(a, path);
    nn_load(b, path);
    for (int i = 0; i < 4; i++)
        assert_memory_equal(nn_param_at(a, i)->data, nn_param_at(b, i)->data, (size_t)ag_numel(nn_param_at(a, i)) * sizeof(real));
    const double before = ag_at(nn_param_at(other, 0), 0, 0);
    assert_int_equal(ag_try(load, other), 1);
    assert_non_null(strstr(ag_error(), "1.weight  is [2, 4] in the file, "));
    assert_true(ag_at(nn_param_at(other, 0), 0, 0) == before);
    assert_int_equal(ag_try(load, deeper), 1);
    assert_non_null(strstr(ag_error(), "1.weight  is in the file, not in the module"));
    assert_int_equal(ag_try(load_head, other), 0);
    assert_true(ag_at(nn_param_at(other, 0), 0, 0) == ag_at(nn_param_at(a, 0), 0, 0));
    assert_int_equal(ag_try(wrong_name, a), 1);
    assert_non_null(strstr(ag_error(), "no parameter '0.wieght'; the nearest is '0.weight'"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_are_pytorchs),
        cmocka_unit_test(test_models_have_fastais_names),
        cmocka_unit_test(test_dot_bias_by_hand),
        cmocka_unit_test(test_modes_and_dropout),
        cmocka_unit_test(test_freezing_by_pattern),
        cmocka_unit_test(test_a_module_has_one_parent),
        cmocka_unit_test(test_initialisers),
        cmocka_unit_test(test_files),
    };
    close(mkstemp(path));
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
