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

int main(void)
{
    char why[512];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layer_norm),
    };
    if (ag_cuda_available(why, sizeof why)) return cmocka_run_group_tests(tests, NULL, NULL);
    print_message("SKIP: kernels were not run here: %s\n", why);
    return 0;
}
