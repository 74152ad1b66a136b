/* tests/test_attention.c - attention and the MLP at sizes that take several blocks, chunks and runs: against the same from
 * single ops, in f32 and bf16; memory; dropout; what is masked altogether; numbers of threads. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "agrad.h"
#include "core/op.h"

enum { MOST = 6 };
typedef ag_tensor *(*function)(ag_tensor **in);

static ag_tensor *weighed_sum(ag_tensor *y)
{
    ag_tensor *w = ag_empty_(AG_HERE, AG_F32, ag_shape_of(y));
    ag_fill_uniform(ag_real(w), ag_numel(w), 5);
    return ag_sum(ag_mul(ag_cast(y, AG_F32), w));
}

static void assert_near(const char *what, ag_tensor *a, ag_tensor *b, double tol)
{
    AG_NO_GRAD;
    const double most = ag_item(ag_max(ag_abs(ag_cast(b, AG_F32))));
    const double error = ag_item(ag_max(ag_abs(ag_sub(ag_cast(a, AG_F32), ag_cast(b, AG_F32)))));
    if (!(error <= tol * fmax(most, 1e-3))) fail_msg("%s: differs by %g of %g", what, error, most);
}

/* Values and gradients of two functions of the same leaves; of the first also on inputs that were made bf16. */
static void compare(const char *what, function f, function plain, int n, ag_tensor **in)
{
    ag_tensor *want[MOST], *got[MOST], *narrow[MOST];
    ag_tensor *y = plain(in);
    ag_grad(weighed_sum(y), n, in, want);
    for (int round = 0; round < 2; round++) {
        const double tol = round ? 0.03 : 1e-4;
        for (int i = 0; i < n; i++) narrow[i] = round && i == 0 ? ag_cast(in[i], AG_BF16) : in[i];
        ag_tensor *z = f(narrow);
        assert_int_equal(z->dtype, round ? AG_BF16 : AG_F32);
        assert_near(what, z, y, tol);
        ag_grad(weighed_sum(z), n, in, got);
        for (int i = 0; i < n; i++) assert_near(what, got[i], want[i], tol);
    }
}

/* ---- attention ----------------------------------------------------------------------------------------- */

static ag_tensor *fused(ag_tensor **in) { return ag_attention_qkv(in[0], .bias = in[1]); }

static ag_tensor *from_single_ops(ag_tensor **in)
{
    ag_tensor *x = ag_permute(in[0], 2, 0, 3, 1, 4);        /* [3, N, heads, L, D] */
    ag_tensor *q = ag_select(x, 0, 0), *k = ag_select(x, 0, 1), *v = ag_select(x, 0, 2);
    const double scale = 1 / sqrt((double)ag_size(q, -1));
    ag_tensor *p = ag_add(ag_scale(ag_matmul(q, ag_transpose(k, -1, -2)), scale), in[1]);
    return ag_transpose(ag_matmul(ag_softmax(p, -1), v), 1, 2);
}

static void test_blocks_of_queries(void **state)
{
    (void)state;
    static const int64_t sizes[][4] = { { 2, 300, 2, 32 }, { 1, 530, 3, 8 }, { 20, 33, 2, 16 } };    /* N, L, heads, D */
    for (int i = 0; i < 3; i++) {
        AG_SCOPE;
        const int64_t *s = sizes[i];
        ag_tensor *in[] = { ag_param(ag_randn(s[0], s[1], 3, s[2], s[3])), ag_param(ag_randn(s[2], s[1], s[1])) };
        compare("attention", fused, from_single_ops, 2, in);
    }
}

static void test_no_square_of_tokens_is_kept(void **state)
{
    (void)state;
    enum { L = 4096 };
    AG_SCOPE;
    ag_tensor *qkv = ag_param(ag_randn(1, L, 3, 1, 16));
    const int64_t before = ag_memory(AG_CPU).in_use;
    ag_memory_reset_peak();
    ag_backward(ag_sum(ag_attention_qkv(qkv)));
    const int64_t most = ag_memory(AG_CPU).peak - before, square = (int64_t)L * L * (int64_t)sizeof(real);
    if (most > square / 8) fail_msg("%lld bytes, the square has %lld", (long long)most, (long long)square);
}

static ag_tensor *with_dropout(ag_tensor **in)
{
    return ag_attention(in[0], in[1], in[2], .dropout = 0.3, .key = 11);
}

static void test_dropout(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *q = ag_randn(4, 64, 2, 8), *k = ag_randn(4, 64, 2, 8), *ones = ag_add_scalar(ag_zeros(4, 64, 2, 8), 1);
    ag_tensor *in[] = { q, k, ones };
    ag_tensor *y = with_dropout(in), *again = with_dropout(in);
    assert_memory_equal(y->data, again->data, (size_t)ag_numel(y) * sizeof(real));
    assert_true(fabs(ag_item(ag_mean(y)) - 1) < 0.02);      /* sums of the weights that are kept, scaled */
    assert_true(ag_item(ag_var(y)) > 1e-3);
    ag_tensor *other = ag_attention(q, k, ones, .dropout = 0.3, .key = 12);
    assert_true(ag_item(ag_max(ag_abs(ag_sub(y, other)))) > 0.01);
    ag_tensor *leaves[] = { ag_param(ag_randn(1, 5, 1, 4)), ag_param(ag_randn(1, 6, 1, 4)), ag_param(ag_randn(1, 6, 1, 4)) };
    ag_gradcheck(with_dropout, 3, leaves);
}

/* A query without a key: nothing comes of it, and no NaN goes anywhere. */
static void test_all_masked(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *qkv = ag_param(ag_randn(1, 3, 3, 1, 16)), *mask = ag_zeros(1, 3, 3);
    ag_fill(ag_select(mask, 1, 1), -INFINITY);
    ag_tensor *y = ag_attention_qkv(qkv, .mask = mask);
    for (int64_t d = 0; d < 16; d++) assert_true(ag_at(y, 0, 1, 0, d) == 0 && isfinite(ag_at(y, 0, 0, 0, d)));
    ag_backward(ag_sum(ag_square(y)));
    for (int64_t i = 0; i < ag_numel(qkv); i++) assert_true(isfinite((double)ag_real(qkv->grad)[i]));
}

/* ---- mlp ----------------------------------------------------------------------------------------------- */

static ag_tensor *mlp(ag_tensor **in) { return ag_mlp(in[0], in[1], in[2], in[3], in[4], AG_LINEAR_GELU); }
static ag_tensor *two_layers(ag_tensor **in)
{
    return ag_linear(ag_gelu(ag_linear(in[0], in[1], .bias = in[2])), in[3], .bias = in[4]);
}

static void test_runs_of_rows(void **state)
{
    (void)state;
    static const int64_t sizes[][4] = { { 5000, 16, 128, 24 }, { 700, 40, 600, 40 },
                                        { 3, 20, 40, 30 } };    /* rows, in, hidden, out */
    for (int i = 0; i < 3; i++) {
        AG_SCOPE;
        const int64_t *s = sizes[i];
        ag_tensor *in[] = { ag_param(ag_randn(s[0], s[1])), ag_param(ag_scale(ag_randn(s[2], s[1]), 0.2)),
                            ag_param(ag_randn(s[2])),
                            ag_param(ag_scale(ag_randn(s[3], s[2]), 0.1)), ag_param(ag_randn(s[3])) };
        compare("mlp", mlp, two_layers, 5, in);
    }
}

static void test_evaluation_keeps_no_hidden_layer(void **state)
{
    (void)state;
    enum { ROWS = 20000, WIDTH = 32 };
    AG_SCOPE;
    AG_NO_GRAD;
    ag_tensor *in[] = { ag_randn(ROWS, WIDTH), ag_randn(4 * WIDTH, WIDTH), ag_randn(4 * WIDTH), ag_randn(WIDTH, 4 * WIDTH),
                        ag_randn(WIDTH) };
    const int64_t before = ag_memory(AG_CPU).in_use;
    ag_memory_reset_peak();
    const ag_tensor *y = mlp(in);
    const int64_t most = ag_memory(AG_CPU).peak - before, out = ag_numel(y) * (int64_t)sizeof(real);
    assert_true(most < 2 * out);
}

/* ---- the same bits from any number of threads ---------------------------------------------------------- */

static void gradients_with(int threads, function f, int n, ag_tensor **in, ag_tensor **out)
{
    ag_init(.threads = threads);
    ag_grad(weighed_sum(f(in)), n, in, out);
    ag_init();
}

static void assert_same_bits(function f, int n, ag_tensor **in)
{
    ag_tensor *one[MOST], *three[MOST];
    gradients_with(1, f, n, in, one);
    gradients_with(3, f, n, in, three);
    for (int i = 0; i < n; i++)
        assert_memory_equal(one[i]->data, three[i]->data, (size_t)ag_numel(one[i]) * sizeof(real));
}

static ag_tensor *windows(ag_tensor **in)
{
    return ag_window_attention(in[0], 7, 3, .bias = in[1], .logit_scale = in[2]);
}

static void test_threads(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *a[] = { ag_param(ag_randn(6, 28, 14, 3, 3, 16)), ag_param(ag_randn(3, 49, 49)), ag_param(ag_rand(3)) };
    assert_same_bits(windows, 3, a);
}

/* ---- messages ------------------------------------------------------------------------------------------ */

static void bias_of_other_heads(void *p)
{
    (void)p;
    const ag_tensor *y = ag_attention_qkv(ag_randn(2, 4, 3, 6, 8), .bias = ag_randn(5, 4, 4));
    (void)y;
}

static void uneven_windows(void *p)
{
    (void)p;
    const ag_tensor *y = ag_window_attention(ag_randn(1, 8, 9, 3, 2, 4), 4, 0);
    (void)y;
}

static void test_messages(void **state)
{
    (void)state;
    assert_int_equal(ag_try(bias_of_other_heads, NULL), 1);
    assert_non_null(strstr(ag_error(), "bias is for 5 heads, there are 6"));
    assert_int_equal(ag_try(uneven_windows, NULL), 1);
    assert_non_null(strstr(ag_error(), "do not cut 8 x 9 pixels evenly; enlarge the image with ag_pad"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_of_queries),
        cmocka_unit_test(test_no_square_of_tokens_is_kept),
        cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_all_masked),
        cmocka_unit_test(test_runs_of_rows),
        cmocka_unit_test(test_evaluation_keeps_no_hidden_layer),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
