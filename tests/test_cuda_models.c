/* tests/test_cuda_models.c - image models on the GPU, or in its emulation (tests/test_cuda.c), against the CPU: logits, the
 * gradient of every parameter, the loss after steps; in f32 and under autocast. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/cuda_cases.h"

enum { CLASSES = 5, BATCH = 2, STEPS = 2 };

/* The length of t, and its product with fixed numbers: what a sign or a place too many changes. */
static void take_marks(values *to, ag_tensor *t)
{
    double *v = doubles(ag_to(ag_detach(t), AG_CPU)), square = 0, dot = 0;
    const int64_t n = ag_numel(t);
    real *w = calloc((size_t)n, sizeof *w);
    ag_fill_normal(w, n, 7);
    for (int64_t i = 0; i < n; i++) square += v[i] * v[i], dot += v[i] * (double)w[i];
    to->v[to->n++] = sqrt(square), to->v[to->n++] = dot;
    free(v);
    free(w);
}

static double learn(nn_module *net, ag_tensor *x, ag_tensor *classes)
{
    AG_SCOPE;
    ag_tensor *loss = ag_cross_entropy(nn_call(net, x), classes);
    ag_backward(loss);
    return ag_item(loss);
}

static double learn_narrow(nn_module *net, ag_tensor *x, ag_tensor *classes)
{
    AG_AUTOCAST(bf16);
    return learn(net, x, classes);
}

static void run_model(const char *name, int64_t size, ag_device device, bool narrow, values *out)
{
    AG_SCOPE;
    const int64_t targets[BATCH] = { 1, 3 };
    out->n = 0;
    ag_init(.device = device == AG_CUDA ? "cuda" : "cpu", .seed = 5);
    nn_module *net = model_create(name, .classes = CLASSES, .drop_path = 0.2);
    optim *opt = optim_sgd(net, 1e-3, .momentum = 0.9);
    ag_tensor *x = ag_randn(BATCH, size, size, 3), *classes = ag_from(AG_I64, targets, BATCH);
    for (int i = 0; i < STEPS; i++) {
        out->v[out->n++] = (narrow ? learn_narrow : learn)(net, x, classes);
        for (int64_t k = 0; k < nn_param_count(net) && !i && !narrow; k++) take_marks(out, nn_param_at(net, k)->grad);
        optim_step(opt);
    }
    {
        AG_SCOPE;
        NN_EVAL(net);
        take(out, nn_call(net, x));
    }
    ag_init(.device = "cpu");
}

static void compare_model(const char *name, int64_t size, bool narrow, double tol)
{
    static values want, got;
    run_model(name, size, AG_CPU, narrow, &want);
    ag_emulate_order(2);
    run_model(name, size, AG_CUDA, narrow, &got);
    assert_int_equal(got.n, want.n);
    for (int64_t i = 0; i < got.n; i++)
        if (!(fabs(got.v[i] - want.v[i]) <= tol * fmax(1, fabs(want.v[i]))))
            fail_msg("%s%s, value %lld of %lld: got %.9g, the CPU has %.9g", name, narrow ? " in bf16" : "", (long long)i,
                     (long long)got.n, got.v[i], want.v[i]);
}

static void test_convnext(void **state)
{
    (void)state;
    compare_model("convnext_atto", 32, false, 1e-3);
    compare_model("convnext_atto", 32, true, 5e-2);
}

static void test_convnext_v2(void **state)
{
    (void)state;
    compare_model("convnextv2_atto", 32, false, 1e-3);
}

static void test_resnet(void **state)
{
    (void)state;
    compare_model("resnet10t", 40, false, 1e-3);
    compare_model("resnet10t", 40, true, 5e-2);
}

static void test_mobilenet(void **state)
{
    (void)state;
    compare_model("mobilenetv3_small_050", 32, false, 1e-3);
}

int main(void)
{
    char why[512];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_convnext),
        cmocka_unit_test(test_convnext_v2),
        cmocka_unit_test(test_resnet),
        cmocka_unit_test(test_mobilenet),
    };
    if (ag_cuda_available(why, sizeof why)) return cmocka_run_group_tests(tests, NULL, NULL);
    print_message("SKIP: kernels were not run here: %s\n", why);
    return 0;
}
