/* tests/test_cuda_attention.c - attention, windows and roll on the GPU, or in its emulation (tests/test_cuda.c), at sizes of
 * several tiles, of every width of head, and in bf16. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/cuda_cases.h"
#ifdef AG_HAVE_CUDA
#include "cuda/cudnn.h"
#else
static void ag_cudnn_forget(void) { }
#endif

static ag_tensor *plain(ag_tensor **in) { return ag_attention(in[0], in[1], in[2]); }
static ag_tensor *biased(ag_tensor **in) { return ag_attention(in[0], in[1], in[2], .scale = 0.4, .bias = in[3]); }
static ag_tensor *masked(ag_tensor **in) { return ag_attention(in[0], in[1], in[2], .bias = in[3], .mask = in[4]); }
static ag_tensor *dropped(ag_tensor **in) { return ag_attention(in[0], in[1], in[2], .dropout = 0.3, .key = 99); }
static ag_tensor *cosine(ag_tensor **in)
{
    return ag_attention(in[0], in[1], in[2], .bias = in[3], .logit_scale = in[4], .dropout = 0.2, .key = 7);
}

/* Queries 0, 2, ... see nothing, the others the keys up to their own number. */
static ag_tensor *hidden(ag_tensor **in)
{
    const int64_t l = in[0]->shape[1], s = in[1]->shape[1];
    ag_tensor *mask = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(1, l, s));
    for (int64_t i = 0; i < l; i++)
        for (int64_t c = 0; c < s; c++) ag_real(mask)[i * s + c] = i % 2 && c <= i ? 0 : -INFINITY;
    return ag_attention(in[0], in[1], in[2], .mask = ag_to(mask, in[0]->device));
}

static ag_tensor *packed(ag_tensor **in) { return ag_attention_qkv(in[0], .bias = in[1]); }
static ag_tensor *windows(ag_tensor **in) { return ag_window_attention(in[0], 9, 4, .bias = in[1], .mask = in[2]); }
static ag_tensor *many(ag_tensor **in) { return ag_window_attention(in[0], 2, 1, .bias = in[1], .logit_scale = in[2]); }
static ag_tensor *own_bias(ag_tensor **in) { return ag_window_attention(in[0], 3, 1, .bias = in[1], .dropout = 0.5, .key = 1); }
static ag_tensor *queries_only(ag_tensor **in) { return ag_attention(in[0], ag_detach(in[1]), in[2]); }

static void test_attention_of_many_tiles(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "two tiles of queries, three of keys", "q[1,70,2,5] k[1,130,2,5] v[1,130,2,5]", plain },
        { "heads of 40", "q[2,5,1,40] k[2,66,1,40] v[2,66,1,40]", plain },
        { "heads of 64, of whole tiles", "q[1,64,1,64] k[1,64,1,64] v[1,64,1,64]", plain },
        { "heads of 100, one query", "q[1,1,2,100] k[1,9,2,100] v[1,9,2,100]", plain },
        { "heads of 70, two tiles", "q[1,65,1,70] k[1,3,1,70] v[1,3,1,70]", plain },
        { "heads of 140, two tiles in two parts", "q[1,3,1,140] k[1,65,1,140] v[1,65,1,140]", plain },
        { "heads of 140, in two parts", "q[1,6,1,140] k[1,7,1,140] v[1,7,1,140]", plain },
        { "a bias for all heads", "q[2,66,3,4] k[2,5,3,4] v[2,5,3,4] bias[1,66,5]", biased },
        { "a bias for every sample", "q[2,5,2,4] k[2,65,2,4] v[2,65,2,4] bias[2,1,5,65]", biased },
        { "bias and mask of two kinds", "q[4,5,2,4] k[4,6,2,4] v[4,6,2,4] bias[4,2,5,6] mask[2,1,5,6]:const", masked },
        { "dropout", "q[2,66,2,4] k[2,67,2,4] v[2,67,2,4]", dropped },
        { "queries that see nothing", "q[1,67,1,4] k[1,70,1,4] v[1,70,1,4]", hidden },
        { "cosines", "q[2,66,2,5] k[2,67,2,5] v[2,67,2,5] bias[2,66,67] logit_scale[2]:pos", cosine },
        { "cosines, heads of 130", "q[1,3,1,130] k[1,4,1,130] v[1,4,1,130] bias[1,3,4] logit_scale[1]:pos", cosine },
        { "packed", "qkv[2,66,3,2,7] bias[2,66,66]", packed },
        { "windows of 81 pixels", "qkv[1,9,18,3,2,5] bias[2,81,81] mask[2,1,81,81]:const", windows },
        { "runs of windows, sums of a bias", "qkv[1,4,20,3,32,2] bias[32,4,4] logit_scale[32]:pos", many },
        { "windows with a bias each", "qkv[1,6,6,3,2,3] bias[4,1,9,9]", own_bias },
        { "no gradient of keys", "q[1,3,1,4] k[1,5,1,4] v[1,5,1,4]", queries_only },
    };
    compare_cases(cases, sizeof cases / sizeof *cases, 1e-5);
}

#define HALF(i) ag_cast(in[i], AG_BF16)
#define WHOLE(x) ag_cast(x, AG_F32)
static ag_tensor *half(ag_tensor **in) { return WHOLE(ag_attention(HALF(0), HALF(1), HALF(2))); }
static ag_tensor *half_cut(ag_tensor **in)
{
    ag_tensor *q = ag_slice(HALF(0), 3, 0, 8), *k = ag_slice(HALF(1), 3, 0, 8), *v = ag_slice(HALF(2), 3, 4, 12);
    return WHOLE(ag_attention(q, k, v));
}
static ag_tensor *half_packed(ag_tensor **in) { return WHOLE(ag_attention_qkv(HALF(0), .bias = in[1])); }
static ag_tensor *half_cosine(ag_tensor **in)
{
    return WHOLE(ag_attention(HALF(0), HALF(1), HALF(2), .bias = in[3], .logit_scale = in[4]));
}
static ag_tensor *half_windows(ag_tensor **in)
{
    return WHOLE(ag_window_attention(HALF(0), 3, 1, .bias = in[1], .dropout = 0.3, .key = 3));
}
/* Weights are rounded to bf16 before they are multiplied, the CPU's divided by their sum, the kernels' not yet. */
static void test_attention_in_bf16(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "bf16, heads of 5", "q[2,66,2,5] k[2,67,2,5] v[2,67,2,5]", half },
        { "bf16, heads of 40", "q[1,5,1,40] k[1,7,1,40] v[1,7,1,40]", half },
        { "bf16, heads of 64, two tiles", "q[1,65,1,64] k[1,66,1,64] v[1,66,1,64]", half },
        { "bf16, heads of 8 cut out of 12", "q[1,5,2,12] k[1,7,2,12] v[1,7,2,12]", half_cut },
        { "bf16, one head of 8 cut out of 12", "q[1,5,1,12] k[1,7,1,12] v[1,7,1,12]", half_cut },
        { "bf16, packed heads of 8", "qkv[2,66,3,2,8] bias[2,66,66]", half_packed },
        { "bf16, heads of 132", "q[1,5,1,132] k[1,7,1,132] v[1,7,1,132]", half },
        { "bf16, cosines of two tiles", "q[1,66,1,6] k[1,7,1,6] v[1,7,1,6] bias[1,66,7] logit_scale[1]:pos", half_cosine },
        { "bf16, cosines", "q[2,6,2,5] k[2,7,2,5] v[2,7,2,5] bias[2,6,7] logit_scale[2]:pos", half_cosine },
        { "bf16, windows", "qkv[1,6,6,3,2,4] bias[2,9,9]", half_windows },
    };
    compare_cases(cases, sizeof cases / sizeof *cases, 2e-2);
    setenv("AG_CUDNN", "0", 1);                             /* those that cuDNN did, where it is there, by our own kernels */
    ag_cudnn_forget();
    compare_cases(cases, sizeof cases / sizeof *cases, 2e-2);
    unsetenv("AG_CUDNN");
    ag_cudnn_forget();
}

static ag_tensor *cut(ag_tensor **in) { return ag_window_partition(in[0], 2, -1); }
static ag_tensor *join(ag_tensor **in) { return ag_window_reverse(in[0], 2, 3, 4, 6); }
static ag_tensor *cut_half(ag_tensor **in) { return WHOLE(ag_window_partition(HALF(0), 2, 1)); }
static ag_tensor *join_half(ag_tensor **in) { return WHOLE(ag_window_reverse(HALF(0), 2, 1, 4, 2)); }
static ag_tensor *roll_half(ag_tensor **in) { return WHOLE(ag_roll(HALF(0), 1, -2)); }
static ag_tensor *roll(ag_tensor **in) { return ag_roll(in[0], 1, 12); }
static ag_tensor *roll_first(ag_tensor **in) { return ag_roll(in[0], 0, 1); }
static ag_tensor *positions(ag_tensor **in) { return ag_relative_position_bias(in[0], 6); }

static void test_windows_and_roll(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "windows, shifted backwards", "x[2,4,6,8]", cut }, { "windows, 3 channels", "x[2,4,6,3]", cut },
        { "windows joined", "x[12,4,4]", join }, { "windows of bf16", "x[2,4,6,3]", cut_half },
        { "windows of bf16, 8 channels", "x[1,4,6,8]", cut_half }, { "windows of bf16 joined", "x[4,4,5]", join_half },
        { "roll, by more than the axis", "x[3,5,4]", roll }, { "roll of integers", "x[5,3]:i64<9", roll_first },
        { "roll of bytes", "x[5,3]:u8", roll_first }, { "roll of bf16", "x[3,5,2]", roll_half },
        { "relative positions of 6 x 6", "table[121,2]", positions },
    };
    compare_cases(cases, sizeof cases / sizeof *cases, 5e-6);
}

int main(void)
{
    char why[512];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention_of_many_tiles),
        cmocka_unit_test(test_attention_in_bf16),
        cmocka_unit_test(test_windows_and_roll),
    };
    if (ag_cuda_available(why, sizeof why)) return cmocka_run_group_tests(tests, NULL, NULL);
    print_message("SKIP: kernels were not run here: %s\n", why);
    return 0;
}
