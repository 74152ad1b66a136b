/* tests/test_cuda.c - the kernels of cuda/ against the CPU's ops: every check[] row of every op that has them, sizes at
 * which they take other paths, copies, errors. Runs
 *   - in the emu build on any machine (cuda/emulate.h), under five orders of the threads, whose bits must agree;
 *   - where there is a GPU, on it, twice, whose bits must agree;
 *   - elsewhere: what can be proven of cuBLASLt without a GPU, and that a missing GPU is explained. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/cuda_cases.h"
#ifdef AG_HAVE_CUDA
#include "cuda/blas.h"
#endif
#if defined AG_EMULATE && !defined __SANITIZE_ADDRESS__
#include "tests/cuda_planted.h"
#endif

/* Strided inputs have an axis more. */
static bool can_be_strided(int n, ag_tensor **in)
{
    for (int i = 0; i < n; i++)
        if (in[i]->ndim == AG_MAX_DIMS) return false;
    return true;
}

static int for_each_case(bool strided)
{
    int count = 0;
    for (const ag_op *const *at = ag_ops; *at; at++) {
        const ag_op *op = *at;
        if (!op->view && !op->forward[AG_CUDA]) continue;
        for (int k = 0; k < AG_MAX_CHECKS && op->check[k].inputs; k++, count++) {
            AG_SCOPE;
            input spec[MAX_INPUTS];
            ag_tensor *in[MAX_INPUTS];
            const int n = make_all(&op->check[k], spec, in);
            if (strided && !can_be_strided(n, in)) continue;
            compare(op->name, k, op->check[k].fn, n, in, strided, 5e-6);
        }
    }
    return count;
}

static void test_ops_agree_with_the_cpu(void **state)
{
    (void)state;
    print_message("%d cases compared, %d rounds each\n", for_each_case(false), ROUNDS);
}

static void test_strided_inputs_agree(void **state)
{
    (void)state;
    for_each_case(true);
}

/* Ops without kernels, and why: none at present; all others have theirs, and one that got its own has no place here. */
static const struct { const char *name, *why; } without_kernels[] = {
    { NULL, NULL }
};

static bool has_kernels(const ag_op *op)
{
    return (op->view || op->forward[AG_CUDA]) && (op->no_grad || op->backward[AG_CUDA]);
}

static void test_every_op_has_kernels_or_a_reason(void **state)
{
    (void)state;
    size_t n = 0;
    while (without_kernels[n].name) n++;
    bool known[sizeof without_kernels / sizeof *without_kernels] = { false }, bad = false;
    for (const ag_op *const *op = ag_ops; *op; op++) {
        size_t k = 0;
        while (k < n && strcmp(without_kernels[k].name, (*op)->name)) k++;
        if (k < n) known[k] = true;
        if ((k == n) == has_kernels(*op)) continue;
        print_error("%s %s\n", (*op)->name, k == n ? "lacks kernels, without a reason in without_kernels"
                                                  : "has its kernels; take it out of without_kernels");
        bad = true;
    }
    for (size_t k = 0; k < n; k++) {
        if (!known[k]) print_error("%s in without_kernels is no op\n", without_kernels[k].name);
        bad |= !known[k] || !without_kernels[k].why[0];
    }
    assert_false(bad);
}

/* ---- sizes at which kernels take other paths ----------------------------------------------------------- */

static ag_tensor *last_sum(ag_tensor **in) { return ag_sum(in[0], .axes = AG_AXES(-1)); }
static ag_tensor *first_sum(ag_tensor **in) { return ag_sum(in[0], .axes = AG_AXES(0)); }
static ag_tensor *middle_max(ag_tensor **in) { return ag_max(in[0], .axes = AG_AXES(1)); }
static ag_tensor *all_mean(ag_tensor **in) { return ag_mean(in[0]); }
static ag_tensor *outer_var(ag_tensor **in) { return ag_var(in[0], .axes = AG_AXES(0, 2), .correction = 1); }
static ag_tensor *product(ag_tensor **in) { return ag_mul(in[0], in[1]); }
static ag_tensor *table(ag_tensor **in) { return ag_embedding(in[0], in[1]); }
static ag_tensor *scores(ag_tensor **in) { return ag_dot_bias(in[0], in[1], in[2], in[3], in[4]); }
static ag_tensor *square(ag_tensor **in) { return ag_mul(in[0], in[0]); }
static ag_tensor *matrices(ag_tensor **in) { return ag_matmul(in[0], in[1]); }
static ag_tensor *layer(ag_tensor **in) { return ag_linear(in[0], in[1], .bias = in[2]); }
static ag_tensor *parts(ag_tensor **in)
{
    return ag_matmul(ag_slice(in[0], 1, 1, 4), ag_transpose(ag_slice(in[1], 1, 2, 5), 0, 1));
}
static ag_tensor *half(ag_tensor **in) { return ag_cast(ag_cast(in[0], AG_BF16), AG_F32); }
static ag_tensor *quotient(ag_tensor **in) { return ag_div(in[0], in[1]); }
static ag_tensor *product_twice(ag_tensor **in) { return ag_mul(in[0], ag_mul(in[0], in[1])); }
static ag_tensor *difference(ag_tensor **in) { return ag_sub(in[0], in[1]); }
static ag_tensor *shifted(ag_tensor **in)
{
    return ag_mul(ag_sigmoid(ag_slice(in[0], 0, 1, 41)), ag_slice(in[0], 0, 2, 42));
}
static ag_tensor *columns(ag_tensor **in)
{
    return ag_mul(ag_slice(in[0], 1, 0, 40), ag_slice(in[0], 1, 0, 40));
}
static ag_tensor *loss(ag_tensor **in) { return ag_mse_loss(in[0], in[1]); }

static void test_other_sizes_agree(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "sum of long rows, in parts", "x[3,6000]", last_sum },
        { "sum of long columns, in parts", "x[4500,3]", first_sum },
        { "sum of columns", "x[70,67]", first_sum }, { "max of a middle axis", "x[3,33,40]", middle_max },
        { "mean of all", "x[9001]", all_mean }, { "var of outer axes", "x[20,3,30]", outer_var },
        { "product, broadcast", "a[40,1,9] b[7,1]", product }, { "product, more than a grid", "a[9000]", square },
        { "product by columns, packs", "a[7,40] b[40]", product }, { "product by rows, packs", "a[7,40] b[7,1]", product },
        { "quotient by rows, packs", "a[7,40]:pos b[7,1]:pos", quotient }, { "unaligned values", "a[43]", shifted },
        { "rows that do not begin on packs", "a[5,43]", columns },
        { "product, one gradient added", "a[9,8] b[9,8]", product_twice },
        { "quotient, broadcast, packs", "a[5,1,40]:pos b[6,1]:pos", quotient },
        { "difference, packs", "a[9000] b[9000]", difference }, { "difference by one", "a[3,8] b[1]", difference },
        { "embedding, many positions of few rows", "w[5,3] ids[600]:i64<5", table },
        { "embedding, wide", "w[9,300] ids[4]:i64<9", table },
        { "dot_bias, many", "u[11,50] i[11,50] bu[11,1] bi[11,1] ids[600,2]:i64<11", scores },
        { "dot_bias, narrow", "u[3,1] i[3,1] bu[3,1] bi[3,1] ids[5,2]:i64<3", scores },
        { "matmul of unaligned parts", "a[3,5] b[4,6]", parts }, { "matmul by a vector", "a[5,7] b[7,1]", matrices },
        { "matmul, one row", "a[1,7] b[7,5]", matrices }, { "matmul, no inner", "a[3,0] b[0,2]", matrices },
        { "matmul, repeated", "a[3,2,4] b[5,1,4,2]", matrices },
        { "linear, no features", "x[3,0] w[2,0] b[2]", layer },
        { "bf16 and back", "x[4,70]", half }, { "mse of many", "x[5000] t[5000]", loss },
    };
    compare_cases(cases, sizeof cases / sizeof *cases, 5e-6);
}

static ag_tensor *narrow(ag_tensor *x) { return ag_cast(x, AG_BF16); }
static ag_tensor *narrow_gelu(ag_tensor **in) { return ag_gelu(narrow(in[0])); }
static ag_tensor *narrow_sigmoid(ag_tensor **in) { return ag_sigmoid(narrow(in[0])); }
static ag_tensor *narrow_product(ag_tensor **in) { return ag_mul(narrow(in[0]), narrow(in[1])); }
static ag_tensor *narrow_difference(ag_tensor **in) { return ag_sub(narrow(in[0]), narrow(in[1])); }
static ag_tensor *narrow_mean(ag_tensor **in) { return ag_mean(narrow(in[0]), .axes = AG_AXES(1)); }
static ag_tensor *narrow_sum(ag_tensor **in) { return ag_sum(narrow(in[0]), .axes = AG_AXES(-1), .keepdim = true); }

static void test_bf16_agrees(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "gelu of bf16, packs", "x[7,16]", narrow_gelu }, { "gelu of bf16", "x[7,9]", narrow_gelu },
        { "sigmoid of bf16", "x[7,16]", narrow_sigmoid }, { "product of bf16", "a[7,16] b[7,16]", narrow_product },
        { "product of bf16 by columns", "a[7,16] b[16]", narrow_product },
        { "product of bf16 by rows", "a[7,9] b[7,1]", narrow_product },
        { "difference of bf16", "a[7,16] b[7,16]", narrow_difference }, { "mean of bf16", "x[3,20,8]", narrow_mean },
        { "sum of bf16", "x[3,70]", narrow_sum },
    };
    compare_cases(cases, sizeof cases / sizeof *cases, 1e-2);
}

static void test_nan_and_ties_as_on_the_cpu(void **state)
{
    (void)state;
    AG_SCOPE;
    const real v[] = { 1, 3, NAN, 3, 2, 2, -INFINITY, -INFINITY, -INFINITY, 5, INFINITY, 5 };
    ag_tensor *x = ag_from(AG_F32, v, 4, 3), *d = ag_to(x, AG_CUDA);
    ag_tensor *got = ag_to(ag_argmax(d, 1), AG_CPU), *want = ag_argmax(x, 1);
    for (int i = 0; i < 4; i++) assert_int_equal(((int64_t *)got->data)[i], ((int64_t *)want->data)[i]);
    ag_tensor *sums = ag_to(ag_logsumexp(d, .axes = AG_AXES(1)), AG_CPU), *cpu = ag_logsumexp(x, .axes = AG_AXES(1));
    for (int i = 1; i < 4; i++) assert_true(ag_real(sums)[i] == ag_real(cpu)[i] || i == 1);
    assert_true(isnan((double)ag_real(sums)[0]));
}

/* ---- copies -------------------------------------------------------------------------------------------- */

static void test_copies_between_all_dtypes(void **state)
{
    (void)state;
    for (int from = 0; from < AG_DTYPES; from++)
        for (int to = 0; to < AG_DTYPES; to++) {
            AG_SCOPE;
            ag_tensor *x = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(5, 7));
            for (int i = 0; i < 35; i++) ag_real(x)[i] = (real)(i * 1.37);
            ag_tensor *src = ag_transpose(ag_cast(x, (ag_dtype)from), 0, 1);
            ag_tensor *cpu = ag_empty_(AG_HERE, (ag_dtype)to, AG_SHAPE(7, 5));
            ag_tensor *gpu = ag_to(cpu, AG_CUDA);
            ag_copy(cpu, src);
            ag_copy(gpu, ag_transpose(ag_to(ag_cast(x, (ag_dtype)from), AG_CUDA), 0, 1));
            assert_memory_equal(ag_to(gpu, AG_CPU)->data, cpu->data, 35 * ag_dtype_size((ag_dtype)to));
            ag_fill(ag_select(cpu, 1, 2), 9);
            ag_fill(ag_select(gpu, 1, 2), 9);
            assert_memory_equal(ag_to(gpu, AG_CPU)->data, cpu->data, 35 * ag_dtype_size((ag_dtype)to));
        }
}

/* ---- errors and memory --------------------------------------------------------------------------------- */

static void read_a_bad_id(void *arg)
{
    AG_SCOPE;
    const int64_t ids[3] = { 1, *(int64_t *)arg, 0 };
    ag_tensor *w = ag_to(ag_ones(5, 2), AG_CUDA);
    ag_item(ag_sum(ag_embedding(w, ag_to(ag_from(AG_I64, ids, 3), AG_CUDA))));
}

static void test_an_id_out_of_range_is_named(void **state)
{
    (void)state;
    int64_t id = 5;
    assert_int_equal(ag_try(read_a_bad_id, &id), 1);
    assert_non_null(strstr(ag_error(), "ag_embedding: ids[1] = 5, but the table has rows 0 to 4"));
    assert_non_null(strstr(ag_error(), "test_cuda.c:"));
    id = -1;
    assert_int_equal(ag_try(read_a_bad_id, &id), 1);
    assert_non_null(strstr(ag_error(), "ids[1] = -1"));
    id = 4;
    assert_int_equal(ag_try(read_a_bad_id, &id), 0);
}

static void ask_for_too_much(void *arg)
{
    (void)arg;
    ag_init(.device = "cuda");
    ag_fill(ag_empty(AG_F32, 1 << 20, 1 << 20), 0);
}

static void test_memory_is_reused_and_its_end_is_an_error(void **state)
{
    (void)state;
    const int64_t before = ag_memory(AG_CUDA).in_use;
    int64_t calls = 0;
    for (int i = 0; i < 20; i++) {
        AG_SCOPE;
        ag_tensor *x = ag_to(ag_ones(100, 30), AG_CUDA);
        ag_item(ag_sum(ag_mul(x, x)));
        if (i == 2) calls = ag_memory(AG_CUDA).system_calls;
    }
    assert_int_equal(ag_memory(AG_CUDA).system_calls, calls);
    assert_int_equal(ag_memory(AG_CUDA).in_use, before);
    assert_int_equal(ag_try(ask_for_too_much, NULL), 1);
    ag_init(.device = "cpu");
    assert_non_null(strstr(ag_error(), "memory"));
    assert_int_equal(ag_memory(AG_CUDA).in_use, before);
    ag_device_table(AG_CUDA)->trim();
    assert_int_equal(ag_memory(AG_CUDA).cached, 0);
}

/* Of six tensors one is held, and the parameter. */
static void test_what_backward_does_not_read_is_let_go(void **state)
{
    (void)state;
    AG_SCOPE;
    enum { N = 50000 };
    ag_tensor *x = ag_param(ag_to(ag_ones(N), AG_CUDA)), *y = x;
    const int64_t before = ag_memory(AG_CUDA).in_use;
    {
        AG_SCOPE;
        for (int i = 0; i < 6; i++) y = ag_scale(y, 2);
        ag_keep(y);
    }
    assert_true(ag_memory(AG_CUDA).in_use - before < 2 * N * (int64_t)sizeof(float));
    ag_backward(ag_sum(y));
    assert_true(ag_at(ag_to(x->grad, AG_CPU), 7) == 64);
}

static void mix_devices(void *arg)
{
    (void)arg;
    ag_item(ag_sum(ag_add(ag_ones(2), ag_to(ag_ones(2), AG_CUDA))));
}

static void test_operands_on_two_devices_are_an_error(void **state)
{
    (void)state;
    AG_SCOPE;
    assert_int_equal(ag_try(mix_devices, NULL), 1);
    assert_non_null(strstr(ag_error(), "operands lie on two devices, cpu and cuda"));
}

/* ---- defects that the emulation must show -------------------------------------------------------------- */

#if defined AG_EMULATE && !defined __SANITIZE_ADDRESS__
static bool bits_agree(void (*launch)(int, const float *, float *, bool), bool barrier, int n_out)
{
    AG_SCOPE;
    enum { N = 200 };
    float first[N] = { 0 }, got[N] = { 0 };
    bool same = true;
    ag_tensor *x = ag_to(ag_randn(N), AG_CUDA), *y = ag_to(ag_zeros(N), AG_CUDA);
    for (int order = 0; order < ROUNDS; order++) {
        ag_emulate_order(order);
        launch(N, x->data, y->data, barrier);
        ag_device_table(AG_CUDA)->copy_out(order ? got : first, y->data, (size_t)n_out * sizeof *got);
        if (order) same &= !memcmp(got, first, sizeof got);
    }
    return same;
}

static void test_a_missing_barrier_shows(void **state)
{
    (void)state;
    assert_true(bits_agree(planted_neighbour_sums, true, 200));
    assert_false(bits_agree(planted_neighbour_sums, false, 200));
    assert_true(bits_agree(planted_block_sum, true, 1));
    assert_false(bits_agree(planted_block_sum, false, 1));
}

static void plant(void *which)
{
    AG_SCOPE;
    float *y = ag_to(ag_zeros(32), AG_CUDA)->data;
    switch (*(int *)which) {
    case 0: planted_writes_behind(32, y); break;
    case 1: planted_writes_behind_shared(y); break;
    default: planted_waits_apart(y);
    }
}

static void test_wrong_writes_and_parted_waits_show(void **state)
{
    (void)state;
    static const char *const words[] = { "writes_behind wrote behind an allocation",
        "wrote next to a shared array of 128 bytes",
                                         "threads wait at different barriers" };
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ag_try(plant, &i), 1);
        if (!strstr(ag_error(), words[i])) fail_msg("%s", ag_error());
        ag_emulate_error();
    }
}

static void test_what_was_not_written_is_nan(void **state)
{
    (void)state;
    AG_SCOPE;
    float got[32];
    ag_device_table(AG_CUDA)->trim();
    float *y = ag_device_table(AG_CUDA)->alloc(sizeof got);
    planted_leaves_some(30, y);
    ag_device_table(AG_CUDA)->copy_out(got, y, sizeof got);
    ag_device_table(AG_CUDA)->free(y);
    assert_true(got[29] == 1 && isnan(got[30]) && isnan(got[31]));
}
#endif

/* ---- without a GPU ------------------------------------------------------------------------------------- */

/* Descriptors and layouts are the library's own memory: cuBLASLt makes and checks them on any machine. */
static void test_cublaslt_takes_our_descriptors(void **state)
{
    (void)state;
#ifdef AG_HAVE_CUDA
    char why[512];
    ag_lt_functions f;
    if (!ag_lt_load(&f, 0, why, sizeof why)) {
        print_message("SKIP: %s\n", why);
        skip();
    }
    for (int k = 0; k < 32; k++) {
        const bool ta = k & 1, tb = k & 2, narrow = k & 8;
        const ag_blas_plan p = { .trans_a = ta, .trans_b = tb, .narrow = narrow, .narrow_d = narrow && k & 16, .bias = k & 4,
                                 .align = 4, .batch = 1 + k, .m = 5, .n = 3, .k = 7, .a = { ta ? 7 : 5, ta ? 5 : 7, 7, 49 },
                                 .b = { tb ? 3 : 7, tb ? 7 : 3, 7, 49 }, .d = { 5, 3, 5, 15 } };
        ag_lt_desc desc;
        ag_lt_layout layout[3];
        const float *bias = NULL;
        ag_lt_describe(&f, &p, &desc, layout);
        assert_int_equal(f.desc_set(desc, AG_LT_DESC_BIAS_POINTER, &bias, sizeof bias), 0);
        for (int i = 0; i < 3; i++) assert_int_equal(f.layout_destroy(layout[i]), 0);
        assert_int_equal(f.desc_destroy(desc), 0);
    }
#else
    skip();
#endif
}

static void ask_for_the_gpu(void *arg)
{
    (void)arg;
    ag_init(.device = "cuda");
}

static void test_a_missing_gpu_is_explained(void **state)
{
    (void)state;
    char why[512];
    if (ag_cuda_available(why, sizeof why)) skip();
    assert_int_equal(ag_try(ask_for_the_gpu, NULL), 1);
    assert_non_null(strstr(ag_error(), "ag_init: .device = \"cuda\" cannot be used: "));
    assert_non_null(strstr(ag_error(), why));
    assert_non_null(strstr(why, "Everything works on the CPU"));
    ag_init(.device = "auto");
    assert_int_equal(ag_default_device(), AG_CPU);
}

int main(void)
{
    char why[512];
    const struct CMUnitTest anywhere[] = {
        cmocka_unit_test(test_cublaslt_takes_our_descriptors),
        cmocka_unit_test(test_a_missing_gpu_is_explained),
    };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_op_has_kernels_or_a_reason),
        cmocka_unit_test(test_ops_agree_with_the_cpu),
        cmocka_unit_test(test_strided_inputs_agree),
        cmocka_unit_test(test_other_sizes_agree),
        cmocka_unit_test(test_bf16_agrees),
        cmocka_unit_test(test_nan_and_ties_as_on_the_cpu),
        cmocka_unit_test(test_copies_between_all_dtypes),
        cmocka_unit_test(test_an_id_out_of_range_is_named),
        cmocka_unit_test(test_memory_is_reused_and_its_end_is_an_error),
        cmocka_unit_test(test_what_backward_does_not_read_is_let_go),
        cmocka_unit_test(test_operands_on_two_devices_are_an_error),
#if defined AG_EMULATE && !defined __SANITIZE_ADDRESS__
        cmocka_unit_test(test_a_missing_barrier_shows),
        cmocka_unit_test(test_wrong_writes_and_parted_waits_show),
        cmocka_unit_test(test_what_was_not_written_is_nan),
#endif
    };
    int failed = cmocka_run_group_tests(anywhere, NULL, NULL);
    if (ag_cuda_available(why, sizeof why)) failed += cmocka_run_group_tests(tests, NULL, NULL);
    else print_message("SKIP: kernels were not run here: %s\n", why);
    return failed;
}
