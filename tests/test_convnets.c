/* tests/test_convnets.c - ConvNeXt, ResNet, EfficientNet-Lite and MobileNetV3 on fixed numbers: outputs, and ConvNeXt's
 * gradients, are timm's (tests/make_convnets_expected.py). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "agrad.h"
#include "tests/convnets_expected.h"
#include "tests/image_numbers.h"

enum { CLASSES = 5, BATCH = 3, FEATURES = 8, SEED = 1 };

/* In a residual network norms shift their results away from the kink of ReLU. */
static void fill_bias(ag_tensor *t, const ag_tensor *weight, int64_t k)
{
    for (int64_t i = 0; i < ag_numel(t); i++) ag_real(t)[i] = (real)((value(i, k) < 0 ? -2.5 : 2.5) * (double)ag_real(weight)[i]);
    ag_touched(t);
}

static void fill(nn_module *net, bool residual)
{
    const int64_t params = nn_param_count(net), all = params + nn_buffer_count(net);
    const ag_tensor *weight = NULL;
    for (int64_t k = 0; k < all; k++) {
        ag_tensor *t = k < params ? nn_param_at(net, k) : nn_buffer_at(net, k - params);
        if (t->dtype != AG_F32) continue;
        if (nn_match("*running_var", t->name) || (t->ndim == 1 && nn_match("*weight", t->name))) {
            fill_values(t, 1, 0.3, k);
            weight = t;
        } else if (nn_match("*gamma", t->name)) fill_values(t, 0.3, 0.2, k);
        else if (residual && nn_match("*bias", t->name) && strcmp(t->name, "fc.bias")) fill_bias(t, weight, k);
        else fill_values(t, 0, t->ndim > 1 ? sqrt(3 * (double)t->shape[0] / (double)ag_numel(t)) : 0.3, k);
    }
}

static void assert_near(const char *what, const char *name, double got, double want, double tol)
{
    if (!(fabs(got - want) <= tol)) fail_msg("%s: %s is %.7g, timm's %.7g", name, what, got, want);
}

static void assert_outputs(nn_module *net, ag_tensor *x, const char *name, const double *want)
{
    NN_EVAL(net);
    double most = 0;
    ag_tensor *logits = nn_call(net, x), *features = model_features(net, x);
    for (int64_t i = 0; i < BATCH * CLASSES; i++) most = fmax(most, fabs(want[i]));
    for (int64_t i = 0; i < BATCH * CLASSES; i++)
        assert_near("a logit", name, ag_at(logits, i / CLASSES, i % CLASSES), want[i], 1e-4 * most);
    for (int64_t i = 0; i < FEATURES; i++)
        assert_near("a feature", name, ag_at(features, BATCH - 1, i), want[BATCH * CLASSES + i], 1e-4 * fmax(1, most));
}

static void test_outputs_and_gradients_are_timms(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        AG_SCOPE;
        nn_module *net = model_create(expected[i].name, .classes = CLASSES);
        ag_tensor *x = images(BATCH, expected[i].h, expected[i].w, SEED);
        fill(net, strstr(expected[i].name, "resne") != NULL);
        assert_outputs(net, x, expected[i].name, expected[i].outputs);
        if (!expected[i].gradients) continue;
        ag_backward(ag_cross_entropy(nn_call(net, x), ag_arange(BATCH)));
        for (int64_t k = 0; k < nn_param_count(net); k++) {
            const ag_tensor *t = nn_param_at(net, k);
            const double want = expected[i].gradients[k];
            assert_near(t->name, expected[i].name, sqrt(ag_item(ag_sum(ag_square(t->grad)))), want, 2e-3 * want + 1e-5);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_outputs_and_gradients_are_timms) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
