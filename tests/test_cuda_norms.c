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
        { "layer_norm of nothing", "x[0,5] w[5] b[5]", layer },
        { "layer_norm of nothing, wide", "x[0,2000] w[2000] b[2000]", layer },
    }, halves[] = {
        { "layer_norm of bf16", "x[13,64] w[64] b[64]", layer_half },
        { "layer_norm of bf16, 4 packs", "x[3,1024] w[1024] b[1024]", layer_half },
        { "layer_norm of bf16, single elements", "x[7,33] w[33] b[33]", layer_half },
        { "layer_norm of bf16, wide", "x[3,1100] w[1100] b[1100]", layer_half },
    };
    compare_cases(cases, COUNT(cases), F32);
    compare_cases(halves, COUNT(halves), BF16);
    compare_cases(&(cuda_case){ "layer_norm, rows for a second round", "x[34000,4]:const w[4] b[4]", layer_sum }, 1, F32);
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

/* ---- the norms by channel, residuals, dropout ---------------------------------------------------------- */

static ag_tensor *batch(ag_tensor *x, ag_tensor **in, ag_tensor *residual, ag_activation activation)
{
    ag_tensor *mean = ag_to(ag_zeros(in[1]->shape[0]), in[1]->device), *var = ag_to(ag_ones(in[1]->shape[0]), in[1]->device);
    return ag_batch_norm(x, mean, var, .weight = in[1], .bias = in[2], .training = true, .residual = residual,
                         .activation = activation);
}
static ag_tensor *batch_plain(ag_tensor **in) { return batch(in[0], in, NULL, AG_LINEAR_PLAIN); }
static ag_tensor *batch_silu(ag_tensor **in) { return batch(in[0], in, NULL, AG_LINEAR_SILU); }
static ag_tensor *batch_gelu(ag_tensor **in) { return batch(in[0], in, in[3], AG_LINEAR_GELU); }
static ag_tensor *batch_relu(ag_tensor **in) { return batch(in[0], in, in[3], AG_LINEAR_RELU); }
static ag_tensor *batch_offset(ag_tensor **in)
{
    return batch(ag_add_scalar(in[0], 100), in, NULL, AG_LINEAR_PLAIN);
}
static ag_tensor *batch_running(ag_tensor **in)
{
    AG_NO_GRAD;
    ag_tensor *mean = ag_to(ag_zeros(in[0]->shape[1]), in[0]->device), *var = ag_to(ag_ones(in[0]->shape[1]), in[0]->device);
    const ag_tensor *y = ag_batch_norm(in[0], mean, var, .training = true, .momentum = 0.3);
    (void)y;
    return ag_keep(ag_stack(0, mean, var));
}
static ag_tensor *batch_half(ag_tensor **in) { return batch(half(in[0]), in, half(in[3]), AG_LINEAR_RELU6); }
static ag_tensor *batch_eval_half(ag_tensor **in)
{
    return ag_batch_norm(half(in[0]), in[3], in[4], .weight = in[1], .activation = AG_LINEAR_HARDSWISH);
}

static ag_tensor *batch_eval(ag_tensor **in)
{
    return ag_batch_norm(in[0], in[3], in[4], .weight = in[1], .bias = in[2]);
}

static void test_batch_norm(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "batch_norm, packs", "x[40,24]:far w[24] b[24]", batch_plain },
        { "batch_norm, rows in parts", "x[3000,4] w[4] b[4]", batch_silu },
        { "batch_norm, more columns than a warp", "x[6,7,200] w[200] b[200] r[6,7,200]", batch_gelu },
        { "batch_norm, single elements", "x[50,67] w[67] b[67] r[50,67]", batch_relu },
        { "batch_norm, running", "x[3000,3]:const", batch_running },
        { "batch_norm of nothing", "x[0,5] w[5] b[5] m[5]:const v[5]:cpos", batch_eval },
    }, halves[] = {
        { "batch_norm of bf16", "x[30,64]:far w[64] b[64] r[30,64]", batch_half },
        { "batch_norm of bf16, single elements", "x[30,7]:far w[7] b[7] r[30,7]", batch_half },
        { "batch_norm of bf16, evaluated", "x[30,24] w[24] b[24] m[24]:const v[24]:cpos", batch_eval_half },
    };
    compare_cases(cases, COUNT(cases), F32);
    compare_cases(halves, COUNT(halves), BF16);
    compare_cases(&(cuda_case){ "batch_norm, far from 0", "x[700,8] w[8] b[8]", batch_offset }, 1, 1e-4);
}

static ag_tensor *groups(ag_tensor **in) { return ag_group_norm(in[0], 4, .weight = in[1], .bias = in[2]); }
static ag_tensor *groups_half(ag_tensor **in) { return ag_group_norm(half(in[0]), 2, .weight = in[1], .bias = in[2]); }
static ag_tensor *response(ag_tensor **in) { return ag_grn(in[0], in[1], in[2]); }
static ag_tensor *response_half(ag_tensor **in) { return ag_grn(half(in[0]), in[1], in[2]); }

static void test_norms_of_samples(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "group_norm, packs", "x[3,7,7,24] w[24] b[24]", groups },
        { "group_norm, groups wider than a warp", "x[2,5,160] w[160] b[160]", groups },
        { "group_norm of nothing", "x[2,0,4] w[4] b[4]", groups }, { "grn of nothing", "x[2,0,4] w[4] b[4]", response },
        { "grn, packs", "x[3,4,5,40] w[40] b[40]", response },
        { "grn, more channels than a block", "x[2,3,301] w[301] b[301]", response },
    }, halves[] = {
        { "group_norm of bf16", "x[3,30,16] w[16] b[16]", groups_half },
        { "group_norm of bf16, single elements", "x[3,30,6] w[6] b[6]", groups_half },
        { "grn of bf16", "x[3,30,16] w[16] b[16]", response_half },
        { "grn of bf16, single elements", "x[3,30,5] w[5] b[5]", response_half },
    }, sums[] = {
        { "group_norm, rows in parts", "x[2,1200,4] w[4] b[4]", groups },
        { "grn, rows in parts", "x[2,1200,3] w[3] b[3]", response },
    };
    compare_cases(sums, COUNT(sums), 1e-4);         /* of 2,400 terms of either sign */
    compare_cases(cases, COUNT(cases), F32);
    compare_cases(halves, COUNT(halves), BF16);
}

static ag_tensor *residual(ag_tensor **in) { return ag_residual(in[0], in[1], .scale = in[2]); }
static ag_tensor *residual_drop(ag_tensor **in)
{
    return ag_residual(in[0], in[1], .scale = in[2], .drop_path = 0.4, .key = 9);
}
static ag_tensor *residual_drop_plain(ag_tensor **in) { return ag_residual(in[0], in[1], .drop_path = 0.4, .key = 9); }
static ag_tensor *residual_half(ag_tensor **in)
{
    return ag_residual(half(in[0]), half(in[1]), .scale = in[2], .drop_path = 0.4, .key = 9);
}
static ag_tensor *dropout(ag_tensor **in) { return ag_dropout(in[0], 0.3, 5); }
static ag_tensor *dropout_unaligned(ag_tensor **in) { return ag_dropout(ag_slice(in[0], 0, 3, -1), 0.3, 5); }
static ag_tensor *dropout_half(ag_tensor **in) { return ag_dropout(half(in[0]), 0.3, 5); }

static void test_what_is_dropped(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "residual, packs", "x[6,5,24] branch[6,5,24] scale[24]", residual },
        { "residual, rows in parts", "x[2,900,4] branch[2,900,4] scale[4]", residual },
        { "residual, drop path", "x[9,5,24] branch[9,5,24] scale[24]", residual_drop },
        { "residual, drop path, single elements", "x[9,5,7] branch[9,5,7] scale[7]", residual_drop },
        { "residual, drop path without scale", "x[9,40,3] branch[9,40,3]", residual_drop_plain },
        { "residual of nothing", "x[0,5] branch[0,5] scale[5]", residual }, { "dropout of nothing", "x[0]", dropout },
        { "dropout", "x[9000]", dropout }, { "dropout, a rest", "x[4099]", dropout },
        { "dropout, unaligned", "x[70]", dropout_unaligned },
    }, halves[] = {
        { "residual of bf16", "x[9,5,24] branch[9,5,24] scale[24]", residual_half },
        { "residual of bf16, single elements", "x[9,5,7] branch[9,5,7] scale[7]", residual_half },
        { "dropout of bf16", "x[4099]", dropout_half },
    };
    compare_cases(cases, COUNT(cases), F32);
    compare_cases(halves, COUNT(halves), BF16);
}

/* ---- choosing, ordering, mixing ------------------------------------------------------------------------ */

static ag_tensor *where(ag_tensor **in) { return ag_where(in[0], in[1], in[2]); }
static ag_tensor *gather(ag_tensor **in) { return ag_gather(in[0], 1, in[1]); }
static ag_tensor *gather_last(ag_tensor **in) { return ag_gather(in[0], -1, in[1]); }
static ag_tensor *rising(ag_tensor **in) { return ag_argsort(in[0], false); }
static ag_tensor *rising_ties(ag_tensor **in) { return ag_argsort(ag_cast(in[0], AG_F32), false); }
static ag_tensor *falling_ties(ag_tensor **in) { return ag_argsort(ag_cast(in[0], AG_F32), true); }
static ag_tensor *largest(ag_tensor **in) { return ag_topk(in[0], 20, NULL); }
static ag_tensor *hot(ag_tensor **in) { return ag_one_hot(in[0], 70); }
static ag_tensor *mix(ag_tensor **in) { return ag_mixup(in[0], in[1], in[2]); }
static ag_tensor *mix_half(ag_tensor **in) { return ag_mixup(half(in[0]), in[1], in[2]); }
static ag_tensor *cut_of(ag_tensor *x, ag_tensor *order)
{
    static const int64_t boxes[] = { 0, 1, 3, 4, 2, 0, 4, 5, 1, 1, 1, 3, 0, 0, 4, 5 };
    return ag_cutmix(x, ag_to(ag_from(AG_I64, boxes, 4, 4), x->device), order);
}
static ag_tensor *cut(ag_tensor **in) { return cut_of(in[0], in[1]); }
static ag_tensor *cut_half(ag_tensor **in) { return cut_of(half(in[0]), in[1]); }

static void test_choosing_and_mixing(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "where, broadcast", "mask[30,1,9]:u8 a[7,1] b[30,7,9]", where }, { "where, many", "m[5000]:u8 a[5000] b[1]", where },
        { "gather, a middle axis", "x[5,9,7] index[4,30,6]:i64<9", gather },
        { "gather, many of few", "x[3,4] index[3,500]:i64<4", gather_last },
        { "argsort, tiles", "x[3,700]:const", rising }, { "argsort, ties", "x[4,300]:u8", rising_ties },
        { "argsort, ties, falling", "x[4,300]:u8", falling_ties }, { "topk", "x[5,300]", largest },
        { "one_hot, many", "ids[9,20]:i64<70", hot }, { "one_hot of nothing", "ids[0]:i64<70", hot },
        { "gather of nothing", "x[5,9] index[5,0]:i64<9", gather }, { "argsort of nothing", "x[0,4]:const", rising },
        { "mixup, many", "x[9,300] lambda[9]:u01 order[9]:i64<9", mix },
        { "cutmix", "x[4,4,5,40] order[4]:i64<4", cut },
    }, halves[] = {
        { "mixup of bf16", "x[9,30] lambda[9]:u01 order[9]:i64<9", mix_half },
        { "cutmix of bf16", "x[4,4,5,4] order[4]:i64<4", cut_half },
    };
    compare_cases(cases, COUNT(cases), F32);
    compare_cases(halves, COUNT(halves), BF16);
}

static void test_nan_is_ordered_as_on_the_cpu(void **state)
{
    (void)state;
    AG_SCOPE;
    const real v[] = { 1, NAN, -INFINITY, 1, INFINITY, NAN, 0, 1 };
    for (int descending = 0; descending < 2; descending++) {
        ag_tensor *x = ag_from(AG_F32, v, 8), *want = ag_argsort(x, descending);
        ag_tensor *got = ag_to(ag_argsort(ag_to(x, AG_CUDA), descending), AG_CPU);
        assert_memory_equal(got->data, want->data, 8 * sizeof(int64_t));
    }
}

static void bad_index(void *arg)
{
    AG_SCOPE;
    const int64_t v[3] = { 1, 3, 0 };
    ag_tensor *x = ag_to(ag_ones(3, 3), AG_CUDA), *index = ag_to(ag_from(AG_I64, v, 3), AG_CUDA);
    switch (*(int *)arg) {
    case 0: ag_item(ag_sum(ag_gather(x, 0, ag_reshape(index, 3, 1)))); break;
    case 1: ag_item(ag_sum(ag_one_hot(index, 3))); break;
    default: ag_item(ag_sum(ag_mixup(x, ag_to(ag_ones(3), AG_CUDA), index)));
    }
}

static void test_an_index_out_of_range_is_named(void **state)
{
    (void)state;
    static const char *const names[] = { "ag_gather", "ag_one_hot", "ag_mixup" };
    for (int which = 0; which < 3; which++) {
        assert_int_equal(ag_try(bad_index, &which), 1);
        assert_non_null(strstr(ag_error(), names[which]));
        assert_non_null(strstr(ag_error(), "ids[1] = 3"));
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
        cmocka_unit_test(test_batch_norm),
        cmocka_unit_test(test_norms_of_samples),
        cmocka_unit_test(test_what_is_dropped),
        cmocka_unit_test(test_choosing_and_mixing),
        cmocka_unit_test(test_nan_is_ordered_as_on_the_cpu),
        cmocka_unit_test(test_an_index_out_of_range_is_named),
    };
    if (ag_cuda_available(why, sizeof why)) return cmocka_run_group_tests(tests, NULL, NULL);
    print_message("SKIP: kernels were not run here: %s\n", why);
    return 0;
}
