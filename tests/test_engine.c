/* tests/test_engine.c - scopes, protected calls, messages, the tape, memory, random numbers. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agrad.h"
#include "core/op.h"

static const double tol = sizeof(real) == 8 ? 1e-12 : 1e-5;

static void assert_near(double got, double want)
{
    if (!(fabs(got - want) <= tol * fmax(1, fabs(want)))) fail_msg("got %.10g, want %.10g", got, want);
}

static ag_tensor *numbers(int64_t n, const double *v)
{
    ag_tensor *t = ag_empty(AG_F32, n);
    for (int64_t i = 0; i < n; i++) ag_real(t)[i] = (real)v[i];
    return t;
}
#define VALUES(...) numbers(sizeof((double[]){ __VA_ARGS__ }) / sizeof(double), (double[]){ __VA_ARGS__ })

/* What fails inside ag_try must say exactly this. */
static void assert_fails(void (*fn)(void *), void *arg, const char *message)
{
    if (!ag_try(fn, arg)) fail_msg("did not fail; expected: %s", message);
    if (!strstr(ag_error(), message)) fail_msg("said: %s\nexpected: %s", ag_error(), message);
}

/* ---- scopes -------------------------------------------------------------------------------------------- */

static void test_a_scope_ends_what_it_holds(void **state)
{
    (void)state;
    const int64_t before = ag_memory(AG_CPU).tensors;
    ag_tensor *kept = NULL, *outer = NULL;
    {
        AG_SCOPE;
        outer = ag_ones(2);
        {
            AG_SCOPE;
            for (int i = 0; i < 5; i++) kept = ag_ones(3);
            ag_keep(kept);
            ag_keep(outer);                 /* not of this scope: stays where it is */
            assert_int_equal(ag_memory(AG_CPU).tensors, before + 6);
        }
        assert_int_equal(ag_memory(AG_CPU).tensors, before + 2);
        assert_near(ag_at(kept, 2), 1);
    }
    assert_int_equal(ag_memory(AG_CPU).tensors, before);
}

static void fail_deep(void *unused)
{
    (void)unused;
    AG_SCOPE;
    AG_NO_GRAD;
    ag_tensor *a = ag_ones(2, 3), *b = ag_ones(4, 5);
    ag_print(ag_matmul(a, b));
}

static int dropped;
static void count_drop(void *unused) { (void)unused; dropped++; }

static void nested(void *unused)
{
    (void)unused;
    ag_defer(count_drop, NULL);
    assert_int_equal(ag_try(fail_deep, NULL), 1);
    ag_fail("outer.c:1", "second");
}

static void test_try_unwinds_scopes_and_modes(void **state)
{
    (void)state;
    const ag_memory_stats before = ag_memory(AG_CPU);
    assert_int_equal(ag_try(fail_deep, NULL), 1);
    assert_true(ag_grad_enabled());
    assert_int_equal(ag_memory(AG_CPU).tensors, before.tensors);
    assert_int_equal(ag_memory(AG_CPU).nodes, before.nodes);
    assert_fails(nested, NULL, "outer.c:1: second");
    assert_int_equal(dropped, 1);
}

static void test_owner_keeps_its_own(void **state)
{
    (void)state;
    const int64_t before = ag_memory(AG_CPU).tensors;
    ag_owner *o = ag_owner_new();
    ag_tensor *t;
    {
        AG_SCOPE;
        ag_owner_enter(o);
        t = ag_full(7, 2);
        ag_owner_leave(o);
    }
    assert_near(ag_at(t, 1), 7);
    ag_owner_free(o);
    assert_int_equal(ag_memory(AG_CPU).tensors, before);
}

/* ---- messages: whole, as a user reads them ------------------------------------------------------------- */

static void wrong_shapes(void *unused)
{
    (void)unused;
    AG_SCOPE;
    ag_tensor *x = ag_full_("main.c:14", 1, AG_SHAPE(64, 7)), *w = ag_full_("main.c:2", 1, AG_SHAPE(4, 16));
    w->name = "fc1.weight";
    ag_print(ag_matmul_("main.c:41", x, w));
}

static void test_shapes_that_do_not_fit(void **state)
{
    (void)state;
    assert_int_equal(ag_try(wrong_shapes, NULL), 1);
    char expected[512];
    const char *real_name = ag_dtype_name(AG_F32);
    snprintf(expected, sizeof expected, "main.c:41: ag_matmul: inner dimensions differ: got 7 and 4\n"
             "    a  %s[64, 7]  created at main.c:14\n    b  %s[4, 16]  parameter 'fc1.weight'", real_name, real_name);
    assert_string_equal(ag_error(), expected);
}

typedef struct { nn_module base; nn_module *fc1, *fc2; } mlp;

static ag_tensor *mlp_forward(nn_module *m, ag_tensor *x)
{
    mlp *s = NN_SELF(mlp, m);
    return nn_call(s->fc2, ag_relu(nn_call(s->fc1, x)));
}

static void wrong_module(void *unused)
{
    (void)unused;
    AG_SCOPE;
    mlp *net = NN_NEW(mlp, mlp_forward);
    NN_CHILD(net, fc1, nn_linear(7, 16));
    NN_CHILD(net, fc2, nn_linear(8, 1));
    ag_print(nn_call(&net->base, ag_ones(3, 7)));
}

static void test_messages_name_the_module(void **state)
{
    (void)state;
    assert_fails(wrong_module, NULL, "in module 'fc2': ag_linear: x has 16 features, weight [out, in] takes 8");
    assert_non_null(strstr(ag_error(), "parameter 'fc2.weight'"));
}

static void too_large(void *unused) { (void)unused; ag_print(ag_zeros(INT64_C(1) << 40, INT64_C(1) << 40)); }
static void negative(void *unused) { (void)unused; ag_print(ag_zeros(3, -1)); }
static void broadcast(void *unused) { (void)unused; ag_print(ag_add(ag_ones(3, 4), ag_ones(5))); }
static void dtype(void *unused) { (void)unused; ag_print(ag_exp(ag_arange(3))); }
static void no_row(void *unused) { (void)unused; ag_print(ag_embedding(ag_ones(3, 2), ag_arange(4))); }

static void test_other_rules(void **state)
{
    (void)state;
    assert_fails(too_large, NULL, "size overflows");
    assert_fails(negative, NULL, "axis 1 has the negative size -1");
    assert_fails(broadcast, NULL, "ag_add: shapes do not broadcast: axis 1 from the end is 4 and 5");
    assert_fails(dtype, NULL, "got i64; convert it with ag_cast");
    assert_fails(no_row, NULL, "id 3 at position 3 is not a row of weight, which has rows 0 to 2");
}

/* ---- the tape ------------------------------------------------------------------------------------------ */

/* y = sum (x x + x): dy/dx = 2 x + 1, x used three times by two ops. */
static void test_a_tensor_used_twice(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *x = ag_param(VALUES(1, -2, 3));
    ag_backward(ag_sum(ag_add(ag_mul(x, x), x)));
    for (int i = 0; i < 3; i++) assert_near(ag_at(x->grad, i), 2 * ag_at(x, i) + 1);
    ag_backward(ag_sum(x));                             /* adds */
    assert_near(ag_at(x->grad, 1), -2);
    ag_zero_grad(x);
    ag_backward(ag_sum(ag_scale(x, 5)));                /* overwrites */
    assert_near(ag_at(x->grad, 1), 5);
}

/* Two branches whose tensors only the op that joins them still holds. */
static ag_tensor *branches(ag_tensor *a, ag_tensor *b)
{
    AG_SCOPE;
    ag_tensor *left = ag_exp(ag_scale(a, 2)), *right = ag_square(ag_scale(b, 3));
    return ag_keep(ag_sum(ag_mul(ag_square(left), right)));
}

/* e^(4a) 9 b^2: d/da = 4 times it, d/db = 2/b times it */
static void test_branches_that_only_the_tape_holds(void **state)
{
    (void)state;
    const int64_t nodes = ag_memory(AG_CPU).nodes;
    AG_SCOPE;
    ag_tensor *a = ag_param(VALUES(0.3)), *b = ag_param(VALUES(-0.7));
    ag_tensor *y = branches(a, b);
    const double value = exp(1.2) * 9 * 0.49;
    assert_near(ag_item(y), value);
    ag_backward(y);
    assert_near(ag_item(a->grad), 4 * value);
    assert_near(ag_item(b->grad), 2 / -0.7 * value);
    assert_int_equal(ag_memory(AG_CPU).nodes, nodes + 1);       /* y's own, which y still holds */
}

static void test_views_share_and_differentiate(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *x = ag_param(ag_randn(4, 6));
    ag_tensor *part = ag_transpose(ag_slice(x, 1, 2, 5), 0, 1);
    assert_ptr_equal(part->storage, x->storage);
    ag_backward(ag_sum(ag_mul(part, ag_detach(part))));
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 6; k++) assert_near(ag_at(x->grad, i, k), k >= 2 && k < 5 ? ag_at(x, i, k) : 0);
}

static void test_grad_of_chosen_inputs(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *x = ag_param(VALUES(2)), *w = ag_param(VALUES(3)), *other = ag_param(VALUES(1)), *got[3];
    ag_tensor *h = ag_mul(x, w), *y = ag_square(h);
    ag_grad(y, 3, ((ag_tensor *[]){ h, x, other }), got);
    assert_near(ag_item(got[0]), 12);
    assert_near(ag_item(got[1]), 36);
    assert_near(ag_item(got[2]), 0);
    assert_null(x->grad);
    assert_null(w->grad);
}

static void twice(void *loss) { ag_backward(loss); ag_backward(loss); }
static void twice_retained(void *loss) { ag_backward(loss, .retain_graph = true); ag_backward(loss); }
static void once(void *loss) { ag_backward(loss); }

static void test_backward_explains_itself(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *x = ag_param(VALUES(1, 2));
    assert_fails(twice, ag_sum(ag_exp(x)), "was used by an earlier backward and is gone; pass .retain_graph = true there");
    ag_zero_grad(x);
    assert_int_equal(ag_try(twice_retained, ag_sum(ag_square(x))), 0);
    assert_near(ag_at(x->grad, 1), 8);
    assert_fails(once, ag_exp(x), "needs a loss of one element");
    assert_fails(once, ag_sum(ag_detach(x)), "depends on no parameter");
    ag_tensor *h = ag_exp(x), *loss = ag_sum(ag_square(h));
    ag_fill(h, 0);
    assert_fails(once, loss, "an input was overwritten");
}

/* Updating a parameter in place between backward and the next forward is how training goes; before backward it is
 * noticed. */
static void test_updates_in_place(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *w = ag_param(VALUES(1, 2));
    for (int i = 0; i < 3; i++) {
        AG_SCOPE;
        ag_zero_grad(w);
        ag_backward(ag_sum(ag_square(w)));
        ag_copy(w, ag_sub(ag_detach(w), ag_scale(w->grad, 0.25)));
    }
    assert_near(ag_at(w, 1), 0.25);
    ag_tensor *loss = ag_sum(ag_square(w));
    ag_fill(w, 0);
    assert_fails(once, loss, "an input was overwritten");
}

static void test_no_grad_records_nothing(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *x = ag_param(VALUES(1, 2));
    AG_NO_GRAD;
    const ag_tensor *y = ag_exp(x);
    assert_null(y->node);
    assert_false(y->requires_grad);
}

static ag_tensor *wrong_square(ag_tensor **in)          /* the gradient of 2 x instead of 2 x^2 */
{
    return ag_mul(ag_detach(in[0]), ag_scale(in[0], 2));
}

static void check_wrong(void *x)
{
    ag_tensor *in[] = { x };
    ag_gradcheck(wrong_square, 1, in);
}

static void test_gradcheck_notices(void **state)
{
    (void)state;
    AG_SCOPE;
    assert_fails(check_wrong, ag_param(VALUES(1, 2)), "ag_gradcheck: input 0");
}

/* ---- memory -------------------------------------------------------------------------------------------- */

static void step(nn_module *net, optim *opt, ag_tensor *x, ag_tensor *y)
{
    AG_SCOPE;
    ag_backward(ag_mse_loss(nn_call(net, x), y));
    optim_step(opt);
}

/* After the first steps no training step reaches malloc, nor the allocator of anything else. */
static void test_steady_state_allocates_nothing(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = nn_sequential(nn_linear(9, 33), nn_gelu(), nn_layer_norm(33), nn_batch_norm1d(33), nn_linear(33, 2));
    optim *opt = optim_adamw(net, 1e-3);
    ag_tensor *x = ag_randn(31, 9), *y = ag_randn(31, 2);
    for (int i = 0; i < 3; i++) step(net, opt, x, y);
    const ag_memory_stats before = ag_memory(AG_CPU);
    for (int i = 0; i < 100; i++) step(net, opt, x, y);
    const ag_memory_stats after = ag_memory(AG_CPU);
    assert_int_equal(after.system_calls, before.system_calls);
    assert_int_equal(after.tensors, before.tensors);
    assert_int_equal(after.nodes, before.nodes);
    assert_int_equal(after.in_use, before.in_use);
}

static void test_report_names_kinds(void **state)
{
    (void)state;
    AG_SCOPE;
    char *text = NULL;
    size_t size = 0;
    ag_tensor *w = ag_param(ag_zeros(1000, 1000));
    FILE *f = open_memstream(&text, &size);
    ag_memory_report(f);
    fclose(f);
    assert_non_null(strstr(text, "parameters"));
    assert_non_null(strstr(text, sizeof(real) == 4 ? "4.0 MB" : "8.0 MB"));
    assert_int_equal(w->shape[0], 1000);
    free(text);
}

static void need_memory(void *unused)
{
    (void)unused;
    AG_SCOPE;
    ag_print(ag_arange(3));
}

static void test_no_memory_is_an_error_like_others(void **state)
{
    (void)state;
    ag_memory_fail_at(1);
    assert_fails(need_memory, NULL, "out of memory");
    AG_SCOPE;
    ag_memory_trim();
    ag_memory_fail_at(1);               /* of a tensor's block: the cache is given back and it is tried again */
    assert_near(ag_item(ag_sum(ag_ones(3))), 3);
}

/* ---- random numbers ------------------------------------------------------------------------------------ */

/* Known answers of the authors' Random123 library, kat_vectors, philox4x32 10. */
static void test_philox_known_answers(void **state)
{
    (void)state;
    const ag_philox4 zero = ag_philox(0, 0, 0), ones = ag_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX);
    const uint32_t want_zero[4] = { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 };
    const uint32_t want_ones[4] = { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd };
    assert_memory_equal(zero.v, want_zero, sizeof want_zero);
    assert_memory_equal(ones.v, want_ones, sizeof want_ones);
}

static void test_normals_are_normal_and_the_same_on_any_threads(void **state)
{
    (void)state;
    enum { N = 200001 };
    AG_SCOPE;
    ag_init(.threads = 1, .seed = 5);
    ag_tensor *a = ag_randn(N);
    ag_init(.threads = 3, .seed = 5);
    ag_tensor *b = ag_randn(N);
    ag_init(.threads = 2, .seed = 5);
    assert_memory_equal(a->data, b->data, N * sizeof(real));
    const double mean = ag_item(ag_mean(a)), var = ag_item(ag_var(a));
    assert_true(fabs(mean) < 0.01 && fabs(var - 1) < 0.01);
}

static void test_dropout(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *x = ag_param(ag_ones(100000)), *y = ag_dropout(x, 0.3, 99);
    assert_true(fabs(ag_item(ag_mean(y)) - 1) < 0.02);
    int64_t zeros = 0;
    for (int64_t i = 0; i < 100000; i++) zeros += ag_real(y)[i] == 0;
    assert_true(llabs(zeros - 30000) < 1000);
    ag_backward(ag_sum(y));
    assert_memory_equal(x->grad->data, y->data, 100000 * sizeof(real));     /* the same mask: x is one */
}

static void test_formulas_against_libm(void **state)
{
    (void)state;
    AG_SCOPE;
    const int n = 4001;
    ag_tensor *x = ag_empty(AG_F32, n);
    for (int i = 0; i < n; i++) ag_real(x)[i] = (real)(-20 + 0.01 * i);
    const ag_tensor *e = ag_exp(x), *t = ag_tanh(x), *g = ag_gelu(x);
    for (int i = 0; i < n; i++) {
        const double v = (double)ag_real(x)[i];
        assert_true(fabs(ag_at(e, i) / exp(v) - 1) < 5e-7);
        assert_true(fabs(ag_at(t, i) - tanh(v)) < 5e-7);
        assert_true(fabs(ag_at(g, i) - v * 0.5 * erfc(-v * M_SQRT1_2)) < 2e-6);
    }
    const ag_tensor *edge = ag_exp(VALUES(-1000, 1000, -200, 0));
    assert_true(ag_at(edge, 0) == 0 && ag_at(edge, 1) > 1e38 && ag_at(edge, 3) == 1);
    assert_true(isnan(ag_item(ag_exp(ag_scalar(NAN)))));
}

/* ---- functions composed of ops ---------------------------------------------------------------------------------- */

static ag_tensor *best_two(ag_tensor **in) { return ag_topk(in[0], 2, NULL); }
static ag_tensor *sorted(ag_tensor **in) { return ag_sort(in[0], false, NULL); }
static ag_tensor *cosines(ag_tensor **in) { return ag_cosine_similarity(in[0], in[1], -1); }

static void test_topk_sort_and_cosine(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *x = ag_param(VALUES(3, -1, 7, 5)), *where, *in[] = { x, ag_param(VALUES(1, 2, -2, 0.5)) };
    const ag_tensor *top = ag_topk(x, 2, &where), *up = ag_sort(x, false, NULL);
    assert_true(ag_at(top, 0) == 7 && ag_at(top, 1) == 5 && ag_at(where, 0) == 2 && ag_at(where, 1) == 3);
    assert_true(ag_at(up, 0) == -1 && ag_at(up, 3) == 7);
    assert_near(ag_item(cosines(in)), (3 - 2 - 14 + 2.5) / sqrt(84 * 9.25));
    ag_gradcheck(best_two, 1, in);
    ag_gradcheck(sorted, 1, in);
    ag_gradcheck(cosines, 2, in);
    assert_near(ag_item(ag_cosine_similarity(ag_zeros(3), ag_ones(3), 0)), 0);
}

/* bf16 has 8 bits: products of small integers are exact, and sums are gathered in f32. */
static void test_bf16(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *a = ag_param(ag_ones(1, 300)), *b = ag_cast(ag_full(3, 300, 1), AG_BF16);
    ag_tensor *y = ag_matmul(ag_cast(a, AG_BF16), b);
    assert_int_equal(y->dtype, AG_BF16);
    assert_near(ag_at(y, 0, 0), 900);
    ag_backward(ag_sum(ag_cast(y, AG_F32)));
    assert_near(ag_at(a->grad, 0, 7), 3);
    assert_near(ag_item(ag_cast(ag_scalar(1.00390625), AG_BF16)), 1);              /* half way: to even */
    assert_near(ag_item(ag_cast(ag_scalar(1.01171875), AG_BF16)), 1.015625);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_scope_ends_what_it_holds),
        cmocka_unit_test(test_try_unwinds_scopes_and_modes),
        cmocka_unit_test(test_owner_keeps_its_own),
        cmocka_unit_test(test_shapes_that_do_not_fit),
        cmocka_unit_test(test_messages_name_the_module),
        cmocka_unit_test(test_other_rules),
        cmocka_unit_test(test_a_tensor_used_twice),
        cmocka_unit_test(test_branches_that_only_the_tape_holds),
        cmocka_unit_test(test_views_share_and_differentiate),
        cmocka_unit_test(test_grad_of_chosen_inputs),
        cmocka_unit_test(test_backward_explains_itself),
        cmocka_unit_test(test_updates_in_place),
        cmocka_unit_test(test_no_grad_records_nothing),
        cmocka_unit_test(test_gradcheck_notices),
        cmocka_unit_test(test_steady_state_allocates_nothing),
        cmocka_unit_test(test_report_names_kinds),
        cmocka_unit_test(test_no_memory_is_an_error_like_others),
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_normals_are_normal_and_the_same_on_any_threads),
        cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_formulas_against_libm),
        cmocka_unit_test(test_topk_sort_and_cosine),
        cmocka_unit_test(test_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
