/* tests/test_passes.c - ops that pass over large tensors, at sizes where they are cut into pieces, blocks and squares:
 * the same bits for any number of threads, and the values of plain loops in double. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agrad.h"
#include "core/random.h"
#include "core/op.h"
#include "core/thread.h"

/* ---- one thread and three ------------------------------------------------------------------------------ */

typedef ag_tensor *(*function)(ag_tensor **x, ag_tensor **c);       /* x: images, c: channels */

static ag_tensor *layer_norm(ag_tensor **x, ag_tensor **c) { return ag_layer_norm(x[0], .weight = c[0], .bias = c[1]); }
static ag_tensor *batch_norm(ag_tensor **x, ag_tensor **c)
{
    const int64_t n = c[0]->shape[0];
    return ag_batch_norm(x[0], ag_zeros(n), ag_ones(n), .weight = c[0], .bias = c[1], .training = true, .residual = x[1],
                         .activation = AG_LINEAR_RELU);
}
static ag_tensor *group_norm(ag_tensor **x, ag_tensor **c) { return ag_group_norm(x[0], 2, .weight = c[0], .bias = c[1]); }
static ag_tensor *grn(ag_tensor **x, ag_tensor **c) { return ag_grn(x[0], c[0], c[1]); }
static ag_tensor *residual(ag_tensor **x, ag_tensor **c)
{
    return ag_residual(x[0], x[1], .scale = c[0], .drop_path = 0.3, .key = 5);
}
static ag_tensor *add_channels(ag_tensor **x, ag_tensor **c) { return ag_add(x[0], c[0]); }
static ag_tensor *mul_channels(ag_tensor **x, ag_tensor **c) { return ag_mul(x[0], c[0]); }
static ag_tensor *div_images(ag_tensor **x, ag_tensor **c)
{
    return (void)c, ag_div(x[0], ag_add_scalar(ag_square(x[1]), 1));
}
static ag_tensor *gates(ag_tensor **x, ag_tensor **c)
{
    return (void)c, ag_mul(x[0], ag_sigmoid(ag_mean(x[1], .axes = AG_AXES(1, 2), .keepdim = true)));
}
static ag_tensor *scalar(ag_tensor **x, ag_tensor **c) { return ag_mul(x[0], ag_mean(c[0])); }
static ag_tensor *pixels(ag_tensor **x, ag_tensor **c)
{
    return (void)c, ag_mul(x[0], ag_sum(x[1], .axes = AG_AXES(3), .keepdim = true));
}
static ag_tensor *all_sum(ag_tensor **x, ag_tensor **c) { return (void)c, ag_sum(ag_gelu(x[0])); }
static ag_tensor *first_axes(ag_tensor **x, ag_tensor **c) { return (void)c, ag_mean(x[0], .axes = AG_AXES(0, 1, 2)); }
static ag_tensor *outer_axes(ag_tensor **x, ag_tensor **c) { return (void)c, ag_sum(x[0], .axes = AG_AXES(0, -1)); }
static ag_tensor *softmax(ag_tensor **x, ag_tensor **c) { return (void)c, ag_log_softmax(ag_softmax(x[0], 3), 1); }
static ag_tensor *dropout(ag_tensor **x, ag_tensor **c) { return (void)c, ag_dropout(x[0], 0.4, 11); }
static ag_tensor *turned(ag_tensor **x, ag_tensor **c)
{
    return (void)c, ag_contiguous(ag_permute(ag_contiguous(ag_permute(x[0], 0, 3, 1, 2)), 2, 0, 3, 1));
}

static const function works[] = { layer_norm, batch_norm, group_norm, grn, residual, add_channels, mul_channels,
                                  div_images, gates, scalar, pixels, all_sum, first_axes, outer_axes, softmax, dropout,
                                  turned };

enum { TENSORS = 8 };
typedef struct { char *bytes[TENSORS]; size_t size[TENSORS]; int n; } record;

static void keep(record *to, const ag_tensor *t)
{
    if (!t) return;
    to->size[to->n] = (size_t)ag_numel(t) * ag_dtype_size(t->dtype);
    to->bytes[to->n] = malloc(to->size[to->n] + 1);
    memcpy(to->bytes[to->n], t->data, to->size[to->n]);
    to->n++;
}

static record run(function f, ag_dtype dtype, ag_shape shape, int threads)
{
    AG_SCOPE;
    record r = { .n = 0 };
    ag_tensor *leaf[4], *x[2], *c[2];
    ag_init(.threads = threads, .seed = 3);
    for (int i = 0; i < 2; i++) {
        leaf[i] = ag_param(ag_randn_(AG_HERE, shape)), leaf[2 + i] = ag_param(ag_rand(shape.dim[shape.ndim - 1]));
        x[i] = ag_cast(leaf[i], dtype), c[i] = ag_cast(leaf[2 + i], dtype);
    }
    ag_tensor *y = f(x, c);
    keep(&r, y);
    ag_backward(y, .grad = ag_rand_(AG_HERE, ag_shape_of(y)));
    for (int i = 0; i < 4; i++) keep(&r, leaf[i]->grad);
    return r;
}

static void assert_same_bits(const record *a, const record *b, size_t work)
{
    assert_int_equal(a->n, b->n);
    for (int i = 0; i < a->n; i++)
        if (a->size[i] != b->size[i] || memcmp(a->bytes[i], b->bytes[i], a->size[i]))
            fail_msg("work %zu, tensor %d: three threads give other bits than one", work, i);
}

static void forget(record *r)
{
    for (int i = 0; i < r->n; i++) free(r->bytes[i]);
}

static void test_any_number_of_threads_gives_the_same_bits(void **state)
{
    (void)state;
    const ag_shape shapes[] = { AG_SHAPE(3, 67, 35, 26), AG_SHAPE(5, 11, 7, 1030), AG_SHAPE(1, 120, 129, 16) };
    for (size_t w = 0; w < sizeof works / sizeof *works; w++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int narrow = 0; narrow < 2; narrow++) {
                record one = run(works[w], narrow ? AG_BF16 : AG_F32, shapes[s], 1);
                record many = run(works[w], narrow ? AG_BF16 : AG_F32, shapes[s], 3);
                assert_same_bits(&one, &many, w);
                forget(&one), forget(&many);
            }
    ag_init(.threads = 2);
}

typedef struct { int64_t end[64]; } cuts;

static void take_down(int64_t begin, int64_t end, void *arg)
{
    ((cuts *)arg)->end[begin] = end;
}

/* Work that is worth sharing with a team awake and not worth waking it for is cut alike: results may depend on the cut. */
static void test_a_job_is_cut_alike_whatever_the_team_does(void **state)
{
    (void)state;
    ag_init(.threads = 2, .seed = 5);
    for (int i = 0; i < 20; i++) {
        cuts first = { { 0 } }, asleep = { { 0 } }, awake = { { 0 } };
        ag_parallel(64, 1, 1e6, take_down, &first);
        ag_parallel(64, 1, 1e3, take_down, &awake);
        usleep(2000);
        ag_parallel(64, 1, 1e3, take_down, &asleep);
        assert_memory_equal(&first, &awake, sizeof first);
        assert_memory_equal(&first, &asleep, sizeof first);
    }
}

/* ---- against loops in double --------------------------------------------------------------------------- */

static void assert_near(double got, double want, double tol)
{
    if (!(fabs(got - want) <= tol * fmax(1, fabs(want)))) fail_msg("got %.9g, want %.9g", got, want);
}

/* A mean a thousand times the deviation, 100,000 values to a channel. */
static void test_batch_statistics_are_exact(void **state)
{
    (void)state;
    enum { ROWS = 100000, C = 3 };
    AG_SCOPE;
    AG_NO_GRAD;
    ag_tensor *x = ag_add_scalar(ag_randn(ROWS, C), 1000), *mean = ag_zeros(C), *var = ag_ones(C);
    const ag_tensor *y = ag_batch_norm(x, mean, var, .training = true, .momentum = 1);
    for (int c = 0; c < C; c++) {
        double m = 0, v = 0;
        for (int64_t r = 0; r < ROWS; r++) m += (double)ag_real(x)[r * C + c] / ROWS;
        for (int64_t r = 0; r < ROWS; r++) v += pow((double)ag_real(x)[r * C + c] - m, 2) / (ROWS - 1);
        assert_near(ag_at(mean, c), m, 1e-6);
        assert_near(ag_at(var, c), v, 1e-5);
        assert_near((double)ag_real(y)[c], ((double)ag_real(x)[c] - m) / sqrt(v), 1e-3);
    }
}

/* y = x b, b broadcast in every way a row walk knows: d b by loops. */
static void test_gradients_of_broadcast_operands(void **state)
{
    (void)state;
    static const ag_shape shapes[] = { { 3, { 5, 300, 9 } }, { 3, { 1, 1, 9 } }, { 3, { 1, 300, 9 } }, { 3, { 5, 1, 9 } },
                                       { 3, { 5, 300, 1 } }, { 3, { 1, 300, 1 } }, { 3, { 5, 1, 1 } }, { 3, { 1, 1, 1 } } };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        AG_SCOPE;
        const ag_shape full = shapes[0], shape = shapes[s];
        ag_tensor *x = ag_randn_(AG_HERE, full), *b = ag_param(ag_randn_(AG_HERE, shape)), *g = ag_rand_(AG_HERE, full);
        double want[5 * 300 * 9] = { 0 };
        ag_backward(ag_mul(x, b), .grad = g);
        for (int64_t i = 0; i < ag_numel(x); i++) {
            const int64_t at[3] = { i / 2700, i / 9 % 300, i % 9 };
            int64_t to = 0;
            for (int k = 0; k < 3; k++) to = to * shape.dim[k] + (shape.dim[k] > 1 ? at[k] : 0);
            want[to] += (double)ag_real(g)[i] * (double)ag_real(x)[i];
        }
        for (int64_t i = 0; i < ag_numel(b); i++) assert_near((double)ag_real(b->grad)[i], want[i], 2e-5);
    }
}

static void test_copies_of_any_order_of_axes(void **state)
{
    (void)state;
    static const ag_shape orders[] = { { 4, { 0, 1, 2, 3 } }, { 4, { 3, 2, 1, 0 } }, { 4, { 0, 3, 1, 2 } },
                                       { 4, { 2, 0, 3, 1 } }, { 4, { 1, 0, 2, 3 } }, { 4, { 0, 2, 1, 3 } } };
    AG_SCOPE;
    ag_tensor *x = ag_randn(3, 50, 2, 70);
    for (size_t o = 0; o < sizeof orders / sizeof *orders; o++)
        for (int narrow = 0; narrow < 2; narrow++) {
            ag_tensor *y = ag_cast(ag_permute_(AG_HERE, x, orders[o]), narrow ? AG_BF16 : AG_F32);
            const ag_tensor *dense = ag_contiguous(ag_cast(ag_contiguous(y), AG_F32));
            for (int64_t i = 0; i < ag_numel(x); i++) {
                int64_t rest = i, at = 0;
                for (int k = 3; k >= 0; rest /= dense->shape[k--])
                    at += rest % dense->shape[k] * x->stride[orders[o].dim[k]];
                assert_near((double)ag_real(dense)[i], (double)ag_real(x)[at], narrow ? 4e-3 : 0);
            }
        }
}

static void test_random_words_in_bulk_are_those_one_by_one(void **state)
{
    (void)state;
    uint32_t words[4 * 201];
    ag_philox_words(77, 3, UINT32_MAX - 100u, 201, words);
    for (uint64_t i = 0; i < 201; i++)
        for (int k = 0; k < 4; k++)
            assert_int_equal(words[4 * i + (uint64_t)k], ag_philox(77, 3, UINT32_MAX - 100u + i).v[k]);
}

/* One tensor read by every kind of pass: the gradients add up, in bf16 near what they are in f32. */
static ag_tensor *read_by_all(ag_tensor **x, ag_tensor **c)
{
    ag_tensor *y = ag_add(layer_norm(x, c), ag_gelu(x[0]));
    y = ag_add(y, batch_norm((ag_tensor *[]){ x[0], x[0] }, c));
    y = ag_add(ag_residual(y, x[0], .scale = c[0]), ag_mul(x[0], x[0]));
    y = ag_add(ag_add(y, grn(x, c)), group_norm(x, c));
    y = ag_mul(ag_add(y, ag_softmax(x[0], -1)), ag_mean(x[0], .axes = AG_AXES(1, 2), .keepdim = true));
    return ag_add(ag_dropout(y, 0.25, 4), ag_relu(x[0]));
}

static void test_gradients_add_up_in_bf16(void **state)
{
    (void)state;
    const ag_shape shape = AG_SHAPE(2, 9, 9, 40);
    record wide = run(read_by_all, AG_F32, shape, 2), narrow = run(read_by_all, AG_BF16, shape, 2);
    assert_int_equal(wide.n, narrow.n);
    for (int i = 1; i < wide.n; i++) {
        const real *a = (const real *)(void *)wide.bytes[i], *b = (const real *)(void *)narrow.bytes[i];
        double error = 0, size = 0;
        for (size_t k = 0; k < wide.size[i] / sizeof *a; k++)
            error += pow((double)(a[k] - b[k]), 2), size += pow((double)a[k], 2);
        if (!(error < 1e-3 * size)) fail_msg("tensor %d: relative error %g", i, sqrt(error / size));
    }
    forget(&wide), forget(&narrow);
}

/* Whole samples go, in the share asked for, and the mean stays. */
static void test_drop_path_drops_samples(void **state)
{
    (void)state;
    enum { N = 4000 };
    AG_SCOPE;
    const ag_tensor *y = ag_residual(ag_zeros(N, 3), ag_ones(N, 3), .drop_path = 0.25, .key = 9);
    int dropped = 0;
    for (int i = 0; i < N; i++) {
        const real *row = ag_real(y) + 3 * i;
        assert_true(row[0] == row[1] && row[1] == row[2]);
        assert_true(row[0] == 0 || fabs((double)row[0] - 1 / 0.75) < 1e-6);
        dropped += row[0] == 0;
    }
    assert_in_range(dropped, 900, 1100);
}

int main(void)
{
    ag_init(.threads = 2, .seed = 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_number_of_threads_gives_the_same_bits),
        cmocka_unit_test(test_a_job_is_cut_alike_whatever_the_team_does),
        cmocka_unit_test(test_batch_statistics_are_exact),
        cmocka_unit_test(test_gradients_of_broadcast_operands),
        cmocka_unit_test(test_copies_of_any_order_of_axes),
        cmocka_unit_test(test_random_words_in_bulk_are_those_one_by_one),
        cmocka_unit_test(test_gradients_add_up_in_bf16),
        cmocka_unit_test(test_drop_path_drops_samples),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
