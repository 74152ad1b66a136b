/* tests/test_transformers.c - ViT, DeiT and Swin on fixed numbers: outputs and gradients are timm's
 * (tests/make_transformers_expected.py); files of other sizes; two classifiers; recomputed blocks. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "agrad.h"
#include "core/op.h"
#include "models/registry.h"
#include "tests/image_numbers.h"
#include "tests/transformers_expected.h"

enum { CLASSES = 5, BATCH = 2, FEATURES = 8 };

static double middle_of(const ag_tensor *t)
{
    return nn_match("*norm*weight", t->name) ? 1 : nn_match("*logit_scale", t->name) ? 2.3 : 0;
}

static double scale_of(const ag_tensor *t)
{
    if (nn_match("*logit_scale *table *gamma *cpb_mlp* *pos_embed", t->name)) return 0.5;
    if (nn_match("*norm*weight", t->name)) return 0.3;
    return t->ndim > 1 && !nn_match("*token", t->name) ? sqrt(3 * (double)t->shape[0] / (double)ag_numel(t)) : 0.2;
}

static void fill(nn_module *net)
{
    for (int64_t k = 0; k < nn_param_count(net); k++) {
        ag_tensor *t = nn_param_at(net, k);
        fill_values(t, middle_of(t), scale_of(t), k);
    }
}

static ag_tensor *squares(int64_t size)
{
    return images(BATCH, size, size, 9999);
}

static ag_tensor *loss_of(nn_module *net, ag_tensor *x)
{
    return ag_cross_entropy(nn_call(net, x), ag_arange(BATCH));
}

static void assert_near(const char *what, const char *name, double got, double want, double tol)
{
    if (!(fabs(got - want) <= tol)) fail_msg("%s: %s is %.7g, timm's %.7g", name, what, got, want);
}

static void assert_outputs(nn_module *net, ag_tensor *x, const char *name, const double *want)
{
    AG_NO_GRAD;
    ag_tensor *logits = nn_call(net, x), *features = model_features(net, x);
    ag_tensor *whole = model_pool(net, model_forward_features(net, x));         /* also of tokens that are not read */
    for (int64_t i = 0; i < BATCH * CLASSES; i++)
        assert_near("a logit", name, ag_at(logits, i / CLASSES, i % CLASSES), want[i], 3e-4);
    for (int64_t i = 0; i < FEATURES; i++)
        assert_near("a feature", name, ag_at(features, BATCH - 1, i), want[BATCH * CLASSES + i], 3e-4);
    assert_near("the difference of features", name, ag_item(ag_max(ag_abs(ag_sub(features, whole)))), 0, 1e-4);
}

static void assert_gradients(nn_module *net, const char *name, const double *want)
{
    for (int64_t k = 0; k < nn_param_count(net); k++) {
        const ag_tensor *t = nn_param_at(net, k);
        const double length = sqrt(ag_item(ag_sum(ag_square(t->grad))));
        assert_near(t->name, name, length, want[k], 2e-3 * want[k] + 1e-5);
    }
}

static void test_outputs_and_gradients_are_timms(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        for (int again = 0; again < 2; again++) {
            AG_SCOPE;
            nn_module *net = model_create(expected[i].name, .classes = CLASSES, .size = expected[i].size,
                                          .recompute = again);
            ag_tensor *x = squares(expected[i].size);
            fill(net);
            assert_outputs(net, x, expected[i].name, expected[i].outputs);
            ag_backward(loss_of(net, x));
            assert_gradients(net, expected[i].name, expected[i].gradients);
        }
}

static double length(ag_tensor *x)
{
    return sqrt(ag_item(ag_sum(ag_square(ag_cast(x, AG_F32)))));
}

/* Rounding to 8 bits on the way changes logits by a few of a hundred. */
static void test_bf16_is_near_f32(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        AG_SCOPE;
        AG_NO_GRAD;
        nn_module *net = model_create(expected[i].name, .classes = CLASSES, .size = expected[i].size);
        ag_tensor *x = squares(expected[i].size), *narrow;
        fill(net);
        {
            AG_AUTOCAST(bf16);
            narrow = ag_keep(nn_call(net, x));
        }
        ag_tensor *wide = nn_call(net, x);
        const double error = length(ag_sub(ag_cast(narrow, AG_F32), wide)) / length(wide);
        if (!(error < 0.05)) fail_msg("%s: bf16 is %.3f away", expected[i].name, error);
    }
}

/* ---- files --------------------------------------------------------------------------------------------- */

static const char *save(nn_module *net)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/agrad_transformers_%d.safetensors", (int)getpid());
    nn_save(net, path);
    return path;
}

static void test_positions_of_another_grid_are_resampled(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *small = model_create("deit_tiny_distilled_patch16_224", .classes = 3, .size = 48);
    nn_module *large = model_create("deit_tiny_distilled_patch16_224", .classes = CLASSES, .size = 80);
    const char *path = save(small);
    model_load(large, path, .skip = "head.* head_dist.*");
    remove(path);
    ag_tensor *want = ag_resample_positions(nn_param(small, "pos_embed"), 2, 5, 5), *got = nn_param(large, "pos_embed");
    assert_true(ag_item(ag_max(ag_abs(ag_sub(got, want)))) == 0);
    assert_true(ag_at(got, 0, 1, 7) == ag_at(nn_param(small, "pos_embed"), 0, 1, 7));       /* the distillation token's */
}

/* A table that counts rows away from the middle, of windows of 12 x 12: its points lie at 0, 1, 1 + q ..., q = 1.01. */
static void test_tables_of_another_window_are_resampled(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = model_create("swin_tiny_patch4_window7_224", .classes = -1);
    ag_tensor *from = ag_zeros(23 * 23, 6);
    for (int64_t i = 0; i < 23 * 23; i++) ag_real(from)[i * 6 + 3] = (real)(i / 23 - 11);
    const char *table = "layers.1.blocks.0.attn.relative_position_bias_table";
    const ag_tensor *to = NN_SELF(model_vision, net)->adapt(net, table, from);
    assert_int_equal(to->shape[0], 13 * 13);
    assert_true(fabs(ag_at(to, 6 * 13 + 5, 3)) < 1e-6);                     /* the same row */
    assert_true(fabs(ag_at(to, 5 * 13 + 11, 3) + 1) < 1e-5);                /* the one before */
    assert_true(fabs(ag_at(to, 8 * 13 + 11, 3) - (1 + 1 / 1.01)) < 1e-4);
    assert_true(fabs(ag_at(to, 8 * 13 + 11, 2)) < 1e-6);
}

/* ---- classifiers, sizes -------------------------------------------------------------------------------- */

static void test_two_classifiers_are_reset_together(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = model_create("deit_tiny_distilled_patch16_224", .classes = CLASSES, .size = 32);
    ag_tensor *x = squares(32);
    nn_reset_classifier(net, 9);
    assert_int_equal(nn_call(net, x)->shape[1], 9);
    assert_int_equal(nn_param(net, "head_dist.weight")->shape[0], 9);
    assert_string_equal(model_group(net, 1, 2), "head*");
    nn_reset_classifier(net, -1);
    assert_int_equal(nn_call(net, x)->shape[1], 192);
}

static void make_of_size(void *size)
{
    const nn_module *net = model_create("swin_tiny_patch4_window7_224", .size = *(const int64_t *)size);
    (void)net;
}

static void test_a_size_without_whole_windows_is_refused(void **state)
{
    (void)state;
    int64_t size = 256;
    assert_int_equal(ag_try(make_of_size, &size), 1);
    assert_non_null(strstr(ag_error(), "windows of 7"));
    assert_non_null(strstr(ag_error(), "224 and 448"));
    size = 448;
    assert_int_equal(ag_try(make_of_size, &size), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outputs_and_gradients_are_timms),
        cmocka_unit_test(test_bf16_is_near_f32),
        cmocka_unit_test(test_positions_of_another_grid_are_resampled),
        cmocka_unit_test(test_tables_of_another_window_are_resampled),
        cmocka_unit_test(test_two_classifiers_are_reset_together),
        cmocka_unit_test(test_a_size_without_whole_windows_is_refused),
    };
    ag_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
