/* tests/test_cuda_norms.c - norms, softmax, losses, dropout, residuals and indexing on the GPU, or in its emulation
 * (tests/test_cuda.c), against the CPU at the sizes at which their kernels take other paths, in f32 and bf16. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/cuda_cases.h"

/* Sums in another order round to another bf16 now and then. */
#define F32 5e-6
#define BF16 1e-2
#define COUNT(a) (sizeof(a) / sizeof *(a))

static ag_tensor *half(ag_tensor *x) { return ag_cast(x, AG_BF16); }

static ag_tensor *layer(ag_tensor **in) { return ag_layer_norm(in[0], .weight = in[1], .bias = in[2]); }
static ag_tensor *layer_plain(ag_tensor **in) { return ag_layer_norm(in[0]); }
static ag_tensor *layer_no_x(ag_tensor **in) { return ag_layer_norm(ag_detach(in[0]), .weight = in[1]); }
static ag_tensor *layer_half(ag_tensor **in) { return ag_layer_norm(half(in[0]), .weight = in[1], .bias = in[2]); }
static ag_tensor *layer_unaligned(ag_tensor **in)
{
    return ag_layer_norm(ag_reshape(ag_slice(ag_reshape(in[0], -1), 0, 3, -1), 2, 8), .weight = in[1]);
}

static ag_tensor *layer_sum(ag_tensor **in) { return ag_mean(layer(in), .axes = AG_AXES(0)); }

static void test_layer_norm(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "layer_norm, 4 lanes", "x[70,8] w[8] b[8]", layer },
        { "layer_norm, a warp and 3 packs", "x[9,384] w[384] b[384]", layer },
        { "layer_norm, 8 packs", "x[5,1000] w[1000] b[1000]", layer },
        { "layer_norm, single elements", "x[5,501] w[501] b[501]", layer },
        { "layer_norm, a block for a row", "x[9,1031] w[1031] b[1031]", layer },
        { "layer_norm, wide", "x[3,2048]", layer_plain },
        { "layer_norm, parameters only", "x[6,48] w[48]", layer_no_x },
        { "layer_norm, wide, parameters only", "x[6,1040] w[1040]", layer_no_x },
        { "layer_norm, unaligned", "x[20] w[8]", layer_unaligned },
    }, halves[] = {
        { "layer_norm of bf16", "x[13,64] w[64] b[64]", layer_half },
        { "layer_norm of bf16, 4 packs", "x[3,1024] w[1024] b[1024]", layer_half },
        { "layer_norm of bf16, single elements", "x[7,33] w[33] b[33]", layer_half },
        { "layer_norm of bf16, wide", "x[3,1100] w[1100] b[1100]", layer_half },
    };
    compare_cases(cases, COUNT(cases), F32);
    compare_cases(halves, COUNT(halves), BF16);
    compare_cases(&(cuda_case){ "layer_norm, rows for a second round", "x[17000,4]:const w[4] b[4]", layer_sum }, 1, F32);
}

/* ---- softmax and the losses over classes --------------------------------------------------------------- */

static ag_tensor *softmax(ag_tensor **in) { return ag_softmax(in[0], -1); }
static ag_tensor *log_softmax(ag_tensor **in) { return ag_log_softmax(in[0], -1); }
static ag_tensor *softmax_middle(ag_tensor **in) { return ag_softmax(in[0], 1); }
static ag_tensor *softmax_half(ag_tensor **in) { return ag_softmax(half(in[0]), -1); }
static ag_tensor *log_softmax_half(ag_tensor **in) { return ag_log_softmax(half(in[0]), -1); }
static ag_tensor *log_softmax_first_half(ag_tensor **in) { return ag_log_softmax(half(in[0]), 0); }

static void test_softmax(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "softmax, 4 lanes", "x[70,10]:far", softmax }, { "softmax, packs", "x[9,196]:far", softmax },
        { "log_softmax, 8 packs", "x[3,1000]:far", log_softmax }, { "softmax, single elements", "x[5,501]", softmax },
        { "softmax, a block for a row", "x[5,1030]:far", softmax }, { "log_softmax, wide", "x[3,1500]", log_softmax },
        { "softmax, lines beside one another", "x[3,50,40]", softmax_middle },
        { "softmax, a line of one", "x[3,1]", softmax }, { "softmax of nothing", "x[0,3]", softmax },
    }, halves[] = {
        { "softmax of bf16", "x[9,200]:far", softmax_half }, { "log_softmax of bf16", "x[9,33]", log_softmax_half },
        { "softmax of bf16, wide", "x[3,1030]", softmax_half },
        { "log_softmax of bf16, lines", "x[20,33]", log_softmax_first_half },
    };
    compare_cases(cases, COUNT(cases), F32);
    compare_cases(halves, COUNT(halves), BF16);
}

static ag_tensor *entropy(ag_tensor **in) { return ag_cross_entropy(in[0], in[1]); }
static ag_tensor *entropy_smooth(ag_tensor **in)
{
    return ag_cross_entropy(in[0], in[1], .weight = in[2], .label_smoothing = 0.1);
}
static ag_tensor *entropy_each(ag_tensor **in)
{
    return ag_cross_entropy(in[0], in[1], .weight = in[2], .reduction = AG_NONE, .label_smoothing = 0.3);
}
static ag_tensor *entropy_soft(ag_tensor **in)
{
    return ag_cross_entropy(in[0], ag_softmax(in[1], 1), .weight = in[2], .label_smoothing = 0.2);
}
static ag_tensor *nll(ag_tensor **in) { return ag_nll_loss(in[0], in[1], .weight = in[2], .label_smoothing = 0.1); }
static ag_tensor *focal(ag_tensor **in) { return ag_focal_loss(in[0], in[1], .weight = in[2]); }
static ag_tensor *focal_sum(ag_tensor **in) { return ag_focal_loss(in[0], in[1], .gamma = 1, .reduction = AG_SUM); }
static ag_tensor *entropy_half(ag_tensor **in)
{
    return ag_cross_entropy(half(in[0]), in[1], .weight = in[2], .label_smoothing = 0.1);
}
static ag_tensor *entropy_soft_half(ag_tensor **in) { return ag_cross_entropy(half(in[0]), ag_softmax(in[1], 1)); }

static void test_losses_over_classes(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "cross_entropy, many rows", "x[600,10]:far t[600]:i64<10", entropy },
        { "cross_entropy, rows in parts", "x[4200,2]:far t[4200]:i64<2", entropy },
        { "cross_entropy, many classes", "x[5,1000] t[5]:i64<1000 w[1000]:cpos", entropy_smooth },
        { "cross_entropy, a block for a row", "x[3,2100] t[3]:i64<2100 w[2100]:cpos", entropy_smooth },
        { "cross_entropy of each", "x[20,37] t[20]:i64<37 w[37]:cpos", entropy_each },
        { "cross_entropy, probabilities", "x[20,37] t[20,37]:const w[37]:cpos", entropy_soft },
        { "cross_entropy, wide probabilities", "x[3,2100] t[3,2100]:const w[2100]:cpos", entropy_soft },
        { "nll_loss", "x[40,37] t[40]:i64<37 w[37]:cpos", nll },
        { "nll_loss, wide", "x[3,2100] t[3]:i64<2100 w[2100]:cpos", nll },
        { "focal_loss, many", "x[300,9]:far t[300]:i64<9 w[9]:cpos", focal },
        { "focal_loss, wide", "x[3,2100] t[3]:i64<2100", focal_sum },
    }, halves[] = {
        { "cross_entropy of bf16", "x[20,37] t[20]:i64<37 w[37]:cpos", entropy_half },
        { "cross_entropy of bf16, wide", "x[3,2100] t[3]:i64<2100 w[2100]:cpos", entropy_half },
        { "cross_entropy of bf16, probabilities", "x[20,37] t[20,37]:const", entropy_soft_half },
    };
    compare_cases(cases, COUNT(cases), F32);
    compare_cases(halves, COUNT(halves), BF16);
}

static void bad_class(void *arg)
{
    AG_SCOPE;
    const int64_t t[3] = { 1, 4, 0 };
    ag_tensor *x = ag_to(ag_ones(3, 4), AG_CUDA), *target = ag_to(ag_from(AG_I64, t, 3), AG_CUDA);
    if (*(int *)arg) ag_item(ag_focal_loss(x, target));
    else ag_item(ag_cross_entropy(x, target));
}

static void test_a_class_out_of_range_is_named(void **state)
{
    (void)state;
    static const char *const names[] = { "ag_cross_entropy", "ag_focal_loss" };
    for (int which = 0; which < 2; which++) {
        assert_int_equal(ag_try(bad_class, &which), 1);
        assert_non_null(strstr(ag_error(), names[which]));
        assert_non_null(strstr(ag_error(), "ids[1] = 4"));
    }
}

int main(void)
{
    char why[512];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layer_norm),
        cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_losses_over_classes),
        cmocka_unit_test(test_a_class_out_of_range_is_named),
    };
    if (ag_cuda_available(why, sizeof why)) return cmocka_run_group_tests(tests, NULL, NULL);
    print_message("SKIP: kernels were not run here: %s\n", why);
    return 0;
}
