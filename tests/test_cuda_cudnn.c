/* tests/test_cuda_cudnn.c - convolutions and attention through cuDNN: in the emulation, whose cuDNN (cuda/emulate_cudnn.cpp)
 * offers engines that must not be taken, against the CPU's ops, with the library, without it, and with calls that fail; on any
 * machine, what is said about libraries of the wrong version, which are made here. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <unistd.h>
#include "tests/cuda_cases.h"
#include "tests/folder.h"

#ifdef AG_HAVE_CUDA
#include "cuda/blas.h"
#include "cuda/cudnn.h"

/* ---- libraries that are found and not understood --------------------------------------------------------- */

static const char *self;

/* In a process of its own, where the loader looks into the folder first: what the loader of a library says. */
static int say(const char *library, int driver)
{
    static ag_dnn_functions dnn;
    static ag_lt_functions lt;
    char why[512] = "it works";
    if (!strcmp(library, "dnn")) ag_dnn_load(&dnn, driver, why, sizeof why);
    else ag_lt_load(&lt, driver, why, sizeof why);
    puts(why);
    return 0;
}

/* A library of these functions, the first two of which tell versions; what is said about it on a machine with this driver. */
static const char *said(const char *library, const char *soname, const char *prefix, const char *const *functions, int version,
                        int cudart, int driver)
{
    static char text[600];
    char command[800];
    FILE *f = fopen(in_folder("made.c"), "w");
    assert_non_null(f);
    fprintf(f, "unsigned long %sGetVersion(void) { return %d; }\n", prefix, version);
    fprintf(f, "unsigned long %sGetCudartVersion(void) { return %d; }\n", prefix, cudart);
    for (; *functions; functions++) fprintf(f, "int %s%s(void) { return 0; }\n", prefix, *functions);
    assert_int_equal(fclose(f), 0);
    snprintf(command, sizeof command, "cc -shared -fPIC -o %s %s && LD_LIBRARY_PATH=%s %s %s %d", in_folder(soname),
             in_folder("made.c"), folder, self, library, driver);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    assert_non_null(fgets(text, sizeof text, p));
    assert_int_equal(pclose(p), 0);
    return text;
}

typedef struct { int version, cudart, driver; const char *says; } version_case;

static void test_a_cudnn_of_another_version_is_named(void **state)
{
    (void)state;
    static const char *const functions[] = { "GetErrorString", "GetLastErrorString", "Create", "SetStream",
                                             "BackendCreateDescriptor", "BackendDestroyDescriptor", "BackendFinalize",
                                             "BackendSetAttribute", "BackendGetAttribute", "BackendExecute", NULL };
    static const char *const few[] = { "GetErrorString", "GetLastErrorString", "Create", "SetStream", NULL };
    static const version_case cases[] = {
        { 8907, 12010, 12040, "was found is of version 8.9.7, and versions 9.0 to 9.x are understood" },
        { 100203, 14000, 14000, "was found is of version 10.2.3, and versions 9.0 to 9.x are understood" },
        { 91900, 13000, 12040, "was found, 9.19.0, was made for CUDA 13.0, and the NVIDIA driver is for CUDA 12.4; install the "
                               "one for CUDA 12 (pip install nvidia-cudnn-cu12), or a newer driver" },
        { 91900, 12090, 12040, "it works" }, { 90000, 12000, 13000, "it works" }, { 92801, 13050, 13000, "it works" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const version_case *c = &cases[i];
        const char *text = said("dnn", "libcudnn.so.9", "cudnn", functions, c->version, c->cudart, c->driver);
        if (!strstr(text, c->says)) fail_msg("%s", text);
        if (!strstr(text, "it works"))
            assert_non_null(strstr(text, "; convolutions and attention go on with Agrad's own kernels\n"));
    }
    const char *text = said("dnn", "libcudnn.so.9", "cudnn", few, 91900, 12000, 12040);
    if (!strstr(text, "has no function cudnnBackendCreateDescriptor: a libcudnn other than 9.x")) fail_msg("%s", text);
}

static void test_a_cublas_of_another_version_is_named(void **state)
{
    (void)state;
    static const char *const functions[] = { "Create", "MatmulDescCreate", "MatmulDescSetAttribute", "MatmulDescDestroy",
                                             "MatrixLayoutCreate", "MatrixLayoutSetAttribute", "MatrixLayoutDestroy",
                                             "MatmulPreferenceCreate", "MatmulPreferenceSetAttribute",
                                             "MatmulPreferenceDestroy", "MatmulAlgoGetHeuristic", "Matmul", NULL };
    static const char *const few[] = { "Create", NULL };
    static const version_case cases[] = {
        { 110502, 11040, 12040, "was found is of version 11.5.2, and versions 12.x and 13.x are understood" },
        { 140000, 14000, 14000, "was found is of version 14.0.0, and versions 12.x and 13.x are understood" },
        { 130100, 13000, 12040, "was found, 13.1.0, was made for CUDA 13.0, and the NVIDIA driver is for CUDA 12.4" },
        { 130100, 13000, 13000, "it works" }, { 120805, 12080, 13000, "it works" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const version_case *c = &cases[i];
        const char *text = said("lt", "libcublasLt.so.13", "cublasLt", functions, c->version, c->cudart, c->driver);
        if (!strstr(text, c->says)) fail_msg("%s", text);
        if (!strstr(text, "it works")) assert_non_null(strstr(text, "; all other GPU ops, and everything on the CPU, go on"));
    }
    const char *text = said("lt", "libcublasLt.so.13", "cublasLt", few, 130100, 13000, 13000);
    if (!strstr(text, "has no function cublasLtMatmulDescCreate: a libcublasLt other than 12.x or 13.x")) fail_msg("%s", text);
}
#endif

#ifdef AG_EMULATE
void ag_emulate_fail(int64_t at, int64_t count);
int64_t ag_emulate_calls(void);

/* ---- the same function on both devices ------------------------------------------------------------------- */

static ag_tensor *narrow(ag_tensor *x) { return ag_cast(x, AG_BF16); }
static ag_tensor *wide(ag_tensor *x) { return ag_cast(x, AG_F32); }

#define CASE(name, ...) static ag_tensor *name(ag_tensor **in) { return __VA_ARGS__; }
CASE(same, ag_conv2d(in[0], in[1], .bias = in[2], .pad = 1))
CASE(half, ag_conv2d(in[0], in[1], .bias = in[2], .stride = 2, .pad = 1, .pad_w = 2, .activation = AG_LINEAR_GELU))
CASE(third, ag_conv2d(in[0], in[1], .stride = 3, .stride_w = 2, .pad = 2, .dilation = 2, .dilation_w = 1))
CASE(other_pixels, ag_conv2d(in[0], in[1], .stride = 2))
CASE(apart, ag_conv2d(in[0], in[1], .bias = in[2], .stride = 2))
CASE(uneven, ag_conv2d(in[0], in[1], .stride = 2, .same = true))
CASE(point, ag_conv2d(in[0], in[1]))
CASE(grouped, ag_conv2d(in[0], in[1], .groups = 2, .pad = 1))
CASE(turned, ag_conv_transpose2d(in[0], in[1], .bias = in[2], .stride = 2, .pad = 1, .out_pad = 1))
CASE(twice, ag_add(ag_conv2d(in[0], in[1], .pad = 1), ag_conv2d(in[0], in[2], .pad = 1)))
CASE(same_bf16, wide(ag_conv2d(narrow(in[0]), in[1], .bias = in[2], .pad = 1)))
CASE(half_bf16, wide(ag_conv2d(narrow(in[0]), in[1], .stride = 2, .pad = 1, .activation = AG_LINEAR_RELU)))
CASE(other_pixels_bf16, wide(ag_conv2d(narrow(in[0]), in[1], .stride = 2)))
CASE(turned_bf16, wide(ag_conv_transpose2d(narrow(in[0]), in[1], .bias = in[2], .stride = 2, .pad = 1)))

enum { OURS = 0, WIDE = 14, NARROW = 13 };                   /* the engines that may be taken */
typedef struct { cuda_case of; int engine; } engine_case;

static const engine_case cases[] = {
    { { "same", "x[2,5,6,8] w[4,8,3,3] b[4]", same }, WIDE }, { { "odd channels", "x[2,5,6,3] w[5,3,3,3] b[5]", same }, WIDE },
    { { "stride 2", "x[2,7,6,3] w[4,3,3,5] b[4]", half }, WIDE }, { { "second mode", "x[1,11,9,4] w[3,4,3,3]", third }, WIDE },
    { { "every other pixel", "x[2,5,5,8] w[6,8,1,1]", other_pixels }, WIDE },
    { { "apart", "x[2,6,4,8] w[3,8,2,2] b[3]", apart }, WIDE }, { { "both", "x[2,4,5,3] a[4,3,3,3] b[4,3,3,3]", twice }, WIDE },
    { { "transposed", "x[2,3,4,4] w[4,8,3,3] b[8]", turned }, WIDE },
    { { "few channels apart", "x[2,6,4,3] w[4,3,2,2] b[4]", apart }, OURS },
    { { "uneven paddings", "x[2,6,5,3] w[4,3,3,3]", uneven }, OURS }, { { "pointwise", "x[2,3,4,8] w[3,8,1,1]", point }, OURS },
    { { "groups", "x[1,4,5,8] w[6,4,3,3]", grouped }, OURS }, { { "no images", "x[0,5,6,3] w[4,3,3,3] b[4]", same }, OURS },
};
static const engine_case halves[] = {
    { { "same, bf16", "x[2,5,6,8] w[8,8,3,3] b[8]", same_bf16 }, NARROW },
    { { "odd channels, bf16", "x[2,5,6,3] w[5,3,3,3] b[5]", same_bf16 }, NARROW },
    { { "stride 2, bf16", "x[2,6,6,8] w[8,8,3,3]", half_bf16 }, NARROW },
    { { "every other pixel, bf16", "x[2,5,5,8] w[6,8,1,1]", other_pixels_bf16 }, NARROW },
    { { "transposed, bf16", "x[2,3,4,8] w[8,4,3,3] b[4]", turned_bf16 }, NARROW },
};

/* there: else every case is computed by our own kernels. */
static void compare_engines(const engine_case *list, size_t n, double tol, bool there)
{
    for (size_t i = 0; i < n; i++) {
        ag_emulate_cudnn(there, 0);
        ag_emulate_cudnn_engine();
        compare_cases(&list[i].of, 1, tol);
        const int64_t engine = ag_emulate_cudnn_engine();
        if (engine != (there ? list[i].engine : OURS)) fail_msg("%s: engine %d", list[i].of.what, (int)engine);
    }
}

static void test_with_cudnn_as_on_the_cpu(void **state)
{
    (void)state;
    compare_engines(cases, sizeof cases / sizeof *cases, 1e-5, true);
    compare_engines(halves, sizeof halves / sizeof *halves, 3e-2, true);
}

/* 1 + 2^-12 has two bits more than TF32 keeps. */
static double sum_of_eight(bool tf32)
{
    AG_SCOPE;
    AG_NO_GRAD;
    ag_init(.device = "cuda", .tf32 = tf32);
    ag_tensor *x = ag_full(1 + 0x1p-12, 4, 8), *w = ag_full(1 + 0x1p-12, 8, 4);
    const double y = ag_item(ag_mean(ag_matmul(x, w)));
    ag_init(.device = "cpu");
    return y;
}

static int64_t engine_of_a_convolution(bool tf32)
{
    AG_SCOPE;
    AG_NO_GRAD;
    ag_init(.device = "cuda", .tf32 = tf32);
    ag_emulate_cudnn(true, 0);
    ag_emulate_cudnn_engine();
    ag_tensor *y = ag_conv2d(ag_ones(2, 5, 6, 8), ag_ones(4, 8, 3, 3), .pad = 1);
    (void)ag_item(ag_mean(y));
    ag_init(.device = "cpu");
    return ag_emulate_cudnn_engine();
}

static void test_tf32_is_an_option(void **state)
{
    (void)state;
    assert_true(sum_of_eight(true) == 8);
    assert_true(fabs(sum_of_eight(false) - 8 * (1 + 0x1p-12) * (1 + 0x1p-12)) < 1e-6);
    assert_int_equal(engine_of_a_convolution(true), NARROW);
    assert_int_equal(engine_of_a_convolution(false), WIDE);
}

/* ---- attention ------------------------------------------------------------------------------------------- */

CASE(attend, wide(ag_attention(narrow(in[0]), narrow(in[1]), narrow(in[2]))))
CASE(attend_scaled, wide(ag_attention(narrow(in[0]), narrow(in[1]), narrow(in[2]), .scale = 0.2)))
CASE(attend_cut, wide(ag_attention(narrow(in[0]), ag_slice(narrow(in[1]), 3, 8, 16), narrow(in[2]))))
CASE(attend_packed, wide(ag_attention_qkv(narrow(in[0]))))
CASE(attend_biased, wide(ag_attention(narrow(in[0]), narrow(in[1]), narrow(in[2]), .bias = in[3])))
CASE(attend_wide, ag_attention(in[0], in[1], in[2]))

static const engine_case attentions[] = {
    { { "attention", "q[2,66,2,8] k[2,66,2,8] v[2,66,2,8]", attend }, NARROW },
    { { "attention over other tokens", "q[1,64,2,16] k[1,71,2,16] v[1,71,2,16]", attend_scaled }, NARROW },
    { { "keys cut out of wider ones", "q[1,64,2,8] k[1,65,2,24] v[1,65,2,8]", attend_cut }, NARROW },
    { { "packed attention", "qkv[2,65,3,2,8]", attend_packed }, NARROW },
    { { "few tokens", "q[2,9,2,8] k[2,9,2,8] v[2,9,2,8]", attend }, OURS },
    { { "odd columns", "q[1,64,1,12] k[1,64,1,12] v[1,64,1,12]", attend }, OURS },
    { { "terms", "q[1,64,1,8] k[1,64,1,8] v[1,64,1,8] bias[1,1,64,64]", attend_biased }, OURS },
    { { "f32", "q[1,64,1,8] k[1,64,1,8] v[1,64,1,8]", attend_wide }, OURS },
};

static void test_attention_with_cudnn_as_on_the_cpu(void **state)
{
    (void)state;
    compare_engines(attentions, sizeof attentions / sizeof *attentions, 3e-2, true);
    compare_engines(attentions, 3, 3e-2, false);
}

/* What is said goes to stderr, once. */
static void collect_stderr(bool begin, char *text, size_t size)
{
    static int before = -1;
    fflush(stderr);
    if (begin) {
        before = dup(2);
        assert_non_null(freopen(in_folder("stderr"), "w", stderr));
        return;
    }
    dup2(before, 2);
    close(before);
    FILE *f = fopen(in_folder("stderr"), "r");
    assert_non_null(f);
    text[fread(text, 1, size - 1, f)] = 0;
    fclose(f);
}

/* begins: the status of its beginning, or 0: it is not there. */
static void check_without(int begins, const char *says)
{
    static char text[20000];
    ag_emulate_cudnn(begins != 0, begins);
    ag_emulate_cudnn_engine();
    collect_stderr(true, NULL, 0);
    for (size_t i = 0; i < 3; i++) compare_cases(&cases[i].of, 1, 1e-5);
    collect_stderr(false, text, sizeof text);
    assert_int_equal(ag_emulate_cudnn_engine(), OURS);
    if (!strstr(text, says) || strchr(text, '\n') != text + strlen(text) - 1) fail_msg("not one line: %s", text);
}

static void test_without_cudnn_as_on_the_cpu(void **state)
{
    (void)state;
    check_without(0, "libcudnn.so.9 is not in this emulation; Agrad's own kernels go on");
    check_without(AG_DNN_LIBRARY_NOT_LOADED, "cuDNN does not work, a part of it is missing or of another version (");
    check_without(AG_DNN_LIBRARIES_DIFFER, "libcudnn_graph.so.9); convolutions and attention go on with Agrad's own kernels");
    setenv("AG_CUDNN", "0", 1);
    compare_engines(cases, 1, 1e-5, false);
    unsetenv("AG_CUDNN");
}

/* ---- plans ----------------------------------------------------------------------------------------------- */

static values result;

/* Forward and backward of two convolutions of one input, one of them in bf16, and of an attention. */
static void work(void *arg)
{
    AG_SCOPE;
    values *out = arg;
    out->n = 0;
    ag_init(.device = "cuda", .seed = 7);
    ag_tensor *x = ag_param(ag_randn(2, 5, 6, 8)), *w = ag_param(ag_randn(4, 8, 3, 3)), *v = ag_param(ag_randn(4, 8, 1, 1));
    ag_tensor *y = ag_add(ag_conv2d(x, w, .stride = 2, .pad = 1), wide(ag_conv2d(narrow(x), v, .stride = 2)));
    ag_tensor *qkv = ag_param(ag_randn(1, 64, 3, 1, 8));
    ag_backward(ag_add(ag_sum(ag_square(y)), ag_sum(ag_square(wide(ag_attention_qkv(narrow(qkv)))))));
    take(out, y), take(out, x->grad), take(out, w->grad), take(out, v->grad), take(out, qkv->grad);
    ag_init(.device = "cpu");
}

static void test_a_plan_is_made_once(void **state)
{
    (void)state;
    ag_emulate_cudnn(true, 0);
    assert_int_equal(ag_emulate_cudnn_alive(), 0);
    work(&result);
    const int64_t alive = ag_emulate_cudnn_alive();
    assert_true(alive > 0);
    work(&result);
    assert_int_equal(ag_emulate_cudnn_alive(), alive);
    ag_cudnn_forget();
    assert_int_equal(ag_emulate_cudnn_alive(), 0);
}

static void test_every_call_of_it_fails_once(void **state)
{
    (void)state;
    static values got;
    int64_t begun = 0, planned = 0, run = 0, attended = 0, k = 1;
    ag_emulate_cudnn(true, 0);
    work(&result);
    const int64_t alive = ag_emulate_cudnn_alive();
    for (bool done = false; !done; k++) {
        ag_cudnn_forget();
        ag_emulate_fail(k, 1);
        const bool failed = ag_try(work, &got);
        done = ag_emulate_calls() < k;
        ag_emulate_fail(0, 0);
        ag_emulate_error();
        ag_init(.device = "cpu");
        if (failed && strstr(ag_error(), "cuda: cuDNN could not be started: ")) begun++;
        if (failed && strstr(ag_error(), "cuda: cuDNN could not plan the convolution of [2, 5, 6, 8] by [4, 8, ")) planned++;
        if (failed && strstr(ag_error(), "cuda: cuDNN could not plan the attention of [1, 64, 1, 8] over 64 tokens")) planned++;
        if (failed && strstr(ag_error(), "cuda: cuDNN could not convolve: ")) run++;
        if (failed && strstr(ag_error(), "cuda: cuDNN could not attend: ")) attended++;
        work(&got);                                          /* once more, with the plans that were made before */
        assert_int_equal(ag_emulate_cudnn_alive(), alive);
        assert_int_equal(got.n, result.n);
        assert_memory_equal(got.v, result.v, (size_t)result.n * sizeof *result.v);
    }
    ag_emulate_cudnn(true, 0);
    assert_int_equal(ag_emulate_cudnn_alive(), 0);
    print_message("%d calls: beginning fails %d times, a plan %d, a convolution %d, an attention %d\n", (int)k - 2, (int)begun,
                  (int)planned, (int)run, (int)attended);
    assert_true(begun == 1 && planned > 150 && run >= 6 && attended >= 2);
}
#endif

int main(int argc, char **argv)
{
#ifdef AG_HAVE_CUDA
    if (argc == 3) return say(argv[1], atoi(argv[2]));
    self = argv[0];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_cudnn_of_another_version_is_named),
        cmocka_unit_test(test_a_cublas_of_another_version_is_named),
#ifdef AG_EMULATE
        cmocka_unit_test(test_with_cudnn_as_on_the_cpu), cmocka_unit_test(test_tf32_is_an_option),
        cmocka_unit_test(test_attention_with_cudnn_as_on_the_cpu),
        cmocka_unit_test(test_without_cudnn_as_on_the_cpu),
        cmocka_unit_test(test_a_plan_is_made_once),
        cmocka_unit_test(test_every_call_of_it_fails_once),
#endif
    };
    if (!make_own_folder()) return 1;
    return cmocka_run_group_tests(tests, NULL, remove_folder);
#else
    (void)argc, (void)argv;
    print_message("SKIP: this build has no GPU part (make BUILD=emu has one)\n");
    return 0;
#endif
}
