/* tests/test_cuda_conv.c - the GPU's kernels of convolutions, pooling, resampling and the MLP against the CPU's ops at sizes
 * and dtypes at which they take other paths; their check[] rows are run by tests/test_cuda.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/cuda_cases.h"
#ifdef AG_HAVE_CUDA
#include "cuda/cudnn.h"
#include "cuda/fused.h"
#else
static int64_t ag_cuda_chunk;
static void ag_cudnn_forget(void) { }
#endif

/* In bf16 on both devices, which round at other places: what is compared is as near as its few bits let it be. */
static ag_tensor *narrow(ag_tensor *x) { return ag_cast(x, AG_BF16); }
static ag_tensor *wide(ag_tensor *x) { return ag_cast(x, AG_F32); }

#define CASE(name, ...) static ag_tensor *name(ag_tensor **in) { return __VA_ARGS__; }

/* With so many bytes of passing values at once. */
static void compare_cases_in(int64_t chunk, const cuda_case *cases, size_t n)
{
    const int64_t before = ag_cuda_chunk;
    ag_cuda_chunk = chunk;
    compare_cases(cases, n, 5e-5);
    ag_cuda_chunk = before;
}

/* ---- products ------------------------------------------------------------------------------------------ */

CASE(linear_relu6, ag_linear(in[0], in[1], .bias = in[2], .activation = AG_LINEAR_RELU6))
CASE(linear_silu, ag_linear(in[0], in[1], .bias = in[2], .activation = AG_LINEAR_SILU))
CASE(linear_hardswish, ag_linear(in[0], in[1], .activation = AG_LINEAR_HARDSWISH))
CASE(linear_bf16, wide(ag_linear(narrow(in[0]), in[1], .bias = in[2], .activation = AG_LINEAR_GELU)))
CASE(matmul_bf16, wide(ag_matmul(narrow(in[0]), narrow(in[1]))))

static void test_products(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "linear, ReLU6", "x[9,5]:far w[8,5] b[8]", linear_relu6 }, { "linear, SiLU", "x[3,5] w[7,5] b[7]", linear_silu },
        { "linear, hard swish", "x[3,5]:far w[7,5]", linear_hardswish },
        { "linear, no rows", "x[0,5] w[7,5] b[7]", linear_silu },
    };
    static const cuda_case halves[] = {
        { "linear, bf16", "x[6,16] w[8,16] b[8]", linear_bf16 }, { "linear, bf16, odd", "x[5,7] w[3,7] b[3]", linear_bf16 },
        { "matmul, bf16", "a[2,5,8] b[2,8,3]", matmul_bf16 }, { "matmul, bf16, folded", "a[2,5,8] b[8,3]", matmul_bf16 },
    };
    compare_cases(cases, sizeof cases / sizeof *cases, 5e-6);
    compare_cases(halves, sizeof halves / sizeof *halves, 2e-2);
}

/* ---- convolutions -------------------------------------------------------------------------------------- */

CASE(conv_same, ag_conv2d(in[0], in[1], .bias = in[2], .pad = 1))
CASE(conv_half, ag_conv2d(in[0], in[1], .bias = in[2], .stride = 2, .pad = 1, .activation = AG_LINEAR_GELU))
CASE(conv_point, ag_conv2d(in[0], in[1], .bias = in[2], .activation = AG_LINEAR_SILU))
CASE(conv_point_half, ag_conv2d(in[0], in[1], .bias = in[2], .stride = 2))
CASE(conv_grouped, ag_conv2d(in[0], in[1], .bias = in[2], .pad = 1, .groups = 2, .activation = AG_LINEAR_RELU))
CASE(conv_grouped_point, ag_conv2d(in[0], in[1], .bias = in[2], .groups = 2))
CASE(conv_patches, ag_conv2d(in[0], in[1], .bias = in[2], .stride = 4))
CASE(conv_holes, ag_conv2d(in[0], in[1], .bias = in[2], .stride = 3, .stride_w = 2, .pad = 2, .dilation = 2))
CASE(conv_bf16, wide(ag_conv2d(narrow(in[0]), in[1], .bias = in[2], .pad = 1)))
CASE(conv_half_bf16, wide(ag_conv2d(narrow(in[0]), in[1], .bias = in[2], .stride = 2, .pad = 1, .activation = AG_LINEAR_RELU)))
CASE(conv_grouped_bf16, wide(ag_conv2d(narrow(in[0]), in[1], .bias = in[2], .pad = 1, .groups = 2)))
CASE(turned_double, ag_conv_transpose2d(in[0], in[1], .bias = in[2], .stride = 2))
CASE(turned_overlapping, ag_conv_transpose2d(in[0], in[1], .bias = in[2], .stride = 2, .pad = 1, .out_pad = 1))
CASE(turned_point, ag_conv_transpose2d(in[0], in[1], .bias = in[2]))
CASE(turned_bf16, wide(ag_conv_transpose2d(narrow(in[0]), in[1], .bias = in[2], .stride = 2)))

static void test_convolutions(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "packs of channels", "x[2,5,6,8] w[4,8,3,3] b[4]", conv_same },
        { "packs of channels, stride 2", "x[2,7,6,8] w[12,8,3,3] b[12]", conv_half },
        { "every pixel", "x[2,3,5,8] w[6,8,1,1] b[6]", conv_point },
        { "every other pixel", "x[2,5,5,8] w[6,8,1,1] b[6]", conv_point_half },
        { "groups", "x[2,4,5,8] w[6,4,3,3] b[6]", conv_grouped },
        { "groups of every pixel", "x[2,4,5,6] w[4,3,1,1] b[4]", conv_grouped_point },
        { "patches side by side", "x[2,8,12,3] w[8,3,4,4] b[8]", conv_patches },
        { "stride and dilation", "x[1,11,9,4] w[3,4,3,3] b[3]", conv_holes },
        { "no images", "x[0,5,6,3] w[4,3,3,3] b[4]", conv_same },
        { "transposed", "x[2,3,4,8] w[8,4,2,2] b[4]", turned_double },
        { "transposed, overlapping", "x[2,3,4,4] w[4,8,3,3] b[8]", turned_overlapping },
        { "transposed, every pixel", "x[2,3,4,4] w[4,8,1,1] b[8]", turned_point },
    };
    static const cuda_case in_chunks[] = {
        { "same", "x[2,12,13,4] w[3,4,3,3] b[3]", conv_same }, { "stride 2", "x[2,25,24,3] w[2,3,3,3] b[2]", conv_half },
        { "stride and dilation", "x[1,41,32,2] w[2,2,3,3] b[2]", conv_holes },
        { "side by side", "x[1,48,52,2] w[2,2,4,4] b[2]", conv_patches },
        { "other pixels", "x[1,24,25,3] w[2,3,1,1] b[2]", conv_point_half },
        { "bands of rows", "x[1,20,15,1] w[1,1,5,3] b[1]", conv_same },
        { "transposed", "x[2,12,13,4] w[4,8,3,3] b[8]", turned_overlapping },
    };
    static const cuda_case halves[] = {
        { "bf16", "x[2,5,6,8] w[8,8,3,3] b[8]", conv_bf16 }, { "bf16, odd channels", "x[2,5,6,3] w[5,3,3,3] b[5]", conv_bf16 },
        { "bf16, stride 2", "x[2,6,6,8] w[8,8,3,3] b[8]", conv_half_bf16 },
        { "bf16, every pixel", "x[2,3,5,8] w[8,8,1,1] b[8]", conv_half_bf16 },
        { "bf16, groups", "x[2,4,5,16] w[4,8,3,3] b[4]", conv_grouped_bf16 },
        { "bf16, transposed", "x[2,3,4,8] w[8,4,2,2] b[4]", turned_bf16 },
    };
    for (int own = 0; own < 2; own++) {                     /* by cuDNN, where it is there, and by our own kernels */
        ag_cudnn_forget();
        if (own) setenv("AG_CUDNN", "0", 1);
        compare_cases(cases, sizeof cases / sizeof *cases, 1e-5);
        compare_cases(halves, sizeof halves / sizeof *halves, 3e-2);
    }
    compare_cases_in(1, in_chunks, sizeof in_chunks / sizeof *in_chunks);
    compare_cases_in(40000, in_chunks, sizeof in_chunks / sizeof *in_chunks);
    unsetenv("AG_CUDNN");
    ag_cudnn_forget();
}

/* ---- depthwise convolutions ---------------------------------------------------------------------------- */

static ag_tensor *depthwise(ag_tensor *x, ag_tensor **in, ag_tensor *bias, int stride, int pad, int dilation, ag_activation a)
{
    return ag_conv2d(x, in[1], .bias = bias, .groups = (int)x->shape[3], .stride = stride, .pad = pad, .dilation = dilation,
                     .activation = a);
}
CASE(depthwise_7x7, depthwise(in[0], in, in[2], 1, 3, 1, AG_LINEAR_PLAIN))
CASE(depthwise_5x5, depthwise(in[0], in, in[2], 1, 2, 1, AG_LINEAR_HARDSWISH))
CASE(depthwise_3x3, depthwise(in[0], in, in[2], 1, 1, 1, AG_LINEAR_RELU6))
CASE(depthwise_far, depthwise(in[0], in, NULL, 1, 4, 1, AG_LINEAR_PLAIN))
CASE(depthwise_inside, depthwise(in[0], in, NULL, 1, 0, 1, AG_LINEAR_PLAIN))
CASE(depthwise_half, depthwise(in[0], in, in[2], 2, 1, 1, AG_LINEAR_PLAIN))
CASE(depthwise_holes, depthwise(in[0], in, in[2], 1, 2, 2, AG_LINEAR_SILU))
CASE(depthwise_7x7_bf16, wide(depthwise(narrow(in[0]), in, in[2], 1, 3, 1, AG_LINEAR_PLAIN)))
CASE(depthwise_3x3_bf16, wide(depthwise(narrow(in[0]), in, in[2], 1, 1, 1, AG_LINEAR_RELU)))
CASE(depthwise_5x5_bf16, wide(depthwise(narrow(in[0]), in, in[2], 1, 2, 1, AG_LINEAR_PLAIN)))
CASE(depthwise_half_bf16, wide(depthwise(narrow(in[0]), in, in[2], 2, 1, 1, AG_LINEAR_PLAIN)))

static void test_depthwise_convolutions(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "7x7, some tiles", "x[2,9,17,33] w[33,1,7,7] b[33]", depthwise_7x7 },
        { "7x7, small image", "x[3,3,2,5] w[5,1,7,7] b[5]", depthwise_7x7 },
        { "7x7, more tiles than blocks", "x[1030,1,1,2] w[2,1,7,7] b[2]", depthwise_7x7 },
        { "5x5", "x[1,12,9,34] w[34,1,5,5] b[34]:far", depthwise_5x5 },
        { "3x3", "x[1,10,9,40] w[40,1,3,3] b[40]:far", depthwise_3x3 },
        { "3x3, far outside", "x[1,6,9,4] w[4,1,3,3]", depthwise_far },
        { "7x7, inside", "x[1,11,9,4] w[4,1,7,7]", depthwise_inside },
        { "stride 2, packs of channels", "x[1,9,10,36] w[36,1,3,3] b[36]", depthwise_half },
        { "stride 2, many taps", "x[2,19,11,3] w[3,1,5,4] b[3]", depthwise_half },
        { "dilation", "x[1,9,10,4] w[4,1,3,3] b[4]", depthwise_holes },
        { "no images", "x[0,9,10,4] w[4,1,3,3] b[4]", depthwise_3x3 },
    };
    static const cuda_case halves[] = {
        { "7x7, bf16", "x[1,9,11,66] w[66,1,7,7] b[66]", depthwise_7x7_bf16 },
        { "7x7, bf16, odd channels", "x[2,5,9,5] w[5,1,7,7] b[5]", depthwise_7x7_bf16 },
        { "5x5, bf16", "x[1,10,6,8] w[8,1,5,5] b[8]", depthwise_5x5_bf16 },
        { "3x3, bf16", "x[1,10,6,8] w[8,1,3,3] b[8]", depthwise_3x3_bf16 },
        { "stride 2, bf16", "x[1,9,10,8] w[8,1,3,3] b[8]", depthwise_half_bf16 },
        { "stride 2, bf16, odd channels", "x[1,9,10,3] w[3,1,3,3] b[3]", depthwise_half_bf16 },
    };
    compare_cases(cases, sizeof cases / sizeof *cases, 1e-5);
    compare_cases(halves, sizeof halves / sizeof *halves, 3e-2);
}

/* ---- pooling ------------------------------------------------------------------------------------------- */

CASE(max_overlapping, ag_max_pool2d(in[0], 3, .stride = 2, .pad = 1))
CASE(max_far_apart, ag_max_pool2d(in[0], 2, .stride = 3))
CASE(max_adaptive, ag_adaptive_max_pool2d(in[0], 5, 2))
CASE(max_ties, ag_max_pool2d(ag_relu(in[0]), 3, .stride = 1, .same = true))
CASE(average_overlapping, ag_avg_pool2d(in[0], 3, .stride = 2, .pad = 1, .exclude_pad = true))
CASE(average_all, ag_adaptive_avg_pool2d(in[0], 1, 1))
CASE(average_larger, ag_adaptive_avg_pool2d(in[0], 9, 4))
CASE(concat, ag_concat_pool2d(in[0]))
CASE(max_bf16, wide(ag_max_pool2d(narrow(in[0]), 3, .stride = 2, .pad = 1)))
CASE(average_bf16, wide(ag_avg_pool2d(narrow(in[0]), 3, .stride = 2, .pad = 1)))

static void test_pooling(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "max, packs of channels", "x[2,9,7,8]", max_overlapping }, { "max, gaps", "x[2,9,8,3]", max_far_apart },
        { "max, ties", "x[2,6,5,4]", max_ties }, { "max, adaptive", "x[2,7,5,3]", max_adaptive },
        { "average, packs of channels", "x[2,9,7,8]", average_overlapping }, { "average of all", "x[3,7,7,20]", average_all },
        { "average, more outputs than pixels", "x[2,4,3,3]", average_larger }, { "both", "x[2,7,5,12]", concat },
    };
    static const cuda_case halves[] = {
        { "max, bf16", "x[2,9,7,8]", max_bf16 }, { "max, bf16, odd channels", "x[2,6,7,3]", max_bf16 },
        { "average, bf16", "x[2,9,7,8]", average_bf16 }, { "average, bf16, odd channels", "x[2,6,7,3]", average_bf16 },
    };
    compare_cases(cases, sizeof cases / sizeof *cases, 5e-6);
    compare_cases(halves, sizeof halves / sizeof *halves, 2e-2);
}

/* ---- the MLP ------------------------------------------------------------------------------------------- */

CASE(mlp, ag_mlp(in[0], in[1], in[2], in[3], in[4], AG_LINEAR_GELU))
CASE(mlp_hardswish, ag_mlp(in[0], in[1], NULL, in[2], NULL, AG_LINEAR_HARDSWISH))
CASE(mlp_tail, ag_mlp_residual(in[5], in[0], in[1], in[2], in[3], in[4], AG_LINEAR_GELU, .scale = in[6]))
CASE(mlp_scaled, ag_mlp_residual(in[4], in[0], in[1], in[2], in[3], NULL, AG_LINEAR_RELU, .scale = in[5]))
CASE(mlp_dropped, ag_mlp_residual(in[5], in[0], in[1], in[2], in[3], in[4], AG_LINEAR_GELU, .drop_path = 0.4, .key = 4))
CASE(mlp_scaled_and_dropped, ag_mlp_residual(in[5], in[0], in[1], in[2], in[3], in[4], AG_LINEAR_GELU, .scale = in[6],
                                             .drop_path = 0.4, .key = 4))
CASE(mlp_all_dropped, ag_mlp_residual(in[5], in[0], in[1], in[2], in[3], in[4], AG_LINEAR_GELU, .drop_path = 1, .key = 4))
CASE(mlp_bf16, wide(ag_mlp(narrow(in[0]), in[1], in[2], in[3], in[4], AG_LINEAR_GELU)))
CASE(mlp_tail_bf16, wide(ag_mlp_residual(narrow(in[5]), narrow(in[0]), in[1], in[2], in[3], in[4], AG_LINEAR_GELU,
                                         .scale = in[6], .drop_path = 0.4, .key = 4)))

static void test_mlp(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "packs", "x[9,4] w1[8,4] b1[8] w2[4,8] b2[4]", mlp },
        { "no rows", "x[0,4] w1[8,4] b1[8] w2[4,8] b2[4]", mlp },
        { "hard swish", "x[9,5]:far w1[7,5] w2[3,7]", mlp_hardswish },
        { "scale, packs", "x[9,4] w1[8,4] b1[8] w2[4,8] b2[4] residual[9,4] scale[4]", mlp_tail },
        { "scale alone is trained", "x[9,4]:const w1[8,4]:const b1[8]:const w2[5,8]:const residual[9,5] scale[5]", mlp_scaled },
        { "drop path", "x[7,3,4] w1[8,4] b1[8] w2[4,8] b2[4] residual[7,3,4]", mlp_dropped },
        { "all dropped", "x[3,4] w1[8,4] b1[8] w2[4,8] b2[4] residual[3,4]", mlp_all_dropped },
    };
    static const cuda_case in_chunks[] = {
        { "chunks", "x[600,4] w1[8,4] b1[8] w2[4,8] b2[4]", mlp },
        { "chunks, scale and drop path",
          "x[9,60,4] w1[8,4] b1[8] w2[4,8] b2[4] residual[9,60,4] scale[4]", mlp_scaled_and_dropped },
    };
    static const cuda_case halves[] = {
        { "bf16", "x[9,8] w1[16,8] b1[16] w2[8,16] b2[8]", mlp_bf16 },
        { "bf16, odd", "x[5,3] w1[7,3] b1[7] w2[5,7] b2[5]", mlp_bf16 },
        { "bf16, scale and drop path",
          "x[7,3,8] w1[16,8]:01 b1[16] w2[8,16]:01 b2[8] residual[7,3,8] scale[8]:01", mlp_tail_bf16 },
    };
    compare_cases(cases, sizeof cases / sizeof *cases, 2e-5);
    compare_cases_in(1, in_chunks, sizeof in_chunks / sizeof *in_chunks);
    compare_cases(halves, sizeof halves / sizeof *halves, 4e-2);
}

/* ---- resampling ---------------------------------------------------------------------------------------- */

CASE(larger, ag_interpolate(in[0], 11, 9))
CASE(smaller, ag_interpolate(in[0], 3, 4, .antialias = true))
CASE(cubic, ag_interpolate(in[0], 9, 4, .mode = AG_BICUBIC))
CASE(nearest, ag_interpolate(in[0], 3, 13, .mode = AG_NEAREST))
CASE(larger_bf16, wide(ag_interpolate(narrow(in[0]), 9, 7)))
CASE(looked_up, ag_grid_sample(in[0], in[1]))
CASE(looked_up_border, ag_grid_sample(in[0], in[1], .pad = AG_PAD_BORDER))
CASE(looked_up_zeros, ag_grid_sample(in[0], in[1], .pad = AG_PAD_ZEROS, .align_corners = true))
CASE(looked_up_nearest, ag_grid_sample(in[0], in[1], .mode = AG_NEAREST))
CASE(looked_up_bf16, wide(ag_grid_sample(narrow(in[0]), in[1])))

static void test_resampling(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "larger, packs of channels", "x[2,5,4,8]", larger }, { "smaller, antialiased", "x[2,31,23,4]", smaller },
        { "cubic", "x[1,5,7,4]", cubic }, { "nearest", "x[2,7,5,3]", nearest }, { "one pixel", "x[2,1,1,3]", larger },
        { "places", "x[2,9,7,5] grid[2,6,8,2]", looked_up }, { "many channels", "x[1,4,4,70] grid[1,3,5,2]", looked_up },
        { "many places beside one pixel", "x[2,3,3,2] grid[2,20,21,2]:far", looked_up_border },
        { "places outside", "x[1,4,6,3] grid[1,9,9,2]:far", looked_up_zeros },
        { "nearest places", "x[2,4,6,3] grid[2,9,9,2]:const", looked_up_nearest },
        { "no places", "x[2,4,6,3] grid[2,0,9,2]", looked_up },
    };
    static const cuda_case halves[] = {
        { "larger, bf16", "x[2,5,4,8]", larger_bf16 }, { "larger, bf16, odd channels", "x[2,5,4,3]", larger_bf16 },
        { "places, bf16", "x[2,5,4,3]:01 grid[2,6,3,2]", looked_up_bf16 },
    };
    compare_cases(cases, sizeof cases / sizeof *cases, 1e-5);
    compare_cases(halves, sizeof halves / sizeof *halves, 3e-2);
}

int main(void)
{
    char why[512];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_convolutions),
        cmocka_unit_test(test_depthwise_convolutions),
        cmocka_unit_test(test_pooling),
        cmocka_unit_test(test_mlp),
        cmocka_unit_test(test_resampling),
    };
    if (ag_cuda_available(why, sizeof why)) return cmocka_run_group_tests(tests, NULL, NULL);
    print_message("SKIP: kernels were not run here: %s\n", why);
    return 0;
}
