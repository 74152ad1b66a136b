/* Gradients, batch norm, batches and predictions of several ranks beside those of one. Alone it tests one rank; tests/ranks.sh
 * starts it by mpirun. */
#include <math.h>
#include <setjmp.h>
#include <string.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "agrad.h"
#include "core/op.h"
#include "core/ranks.h"
#include "optim/learner_inside.h"
#include "optim/state.h"

/* Rank r's rows of a whole batch of 4 rows for each rank. */
static ag_tensor *rows(ag_tensor *whole)
{
    return ag_contiguous(ag_slice(whole, 0, 4 * ag_rank(), 4 * ag_rank() + 4));
}

static ag_tensor *numbers(uint64_t key, int64_t n, int64_t width)
{
    ag_tensor *t = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(n, width));
    ag_fill_normal(ag_real(t), n * width, key);
    return t;
}

static nn_module *net_new(void)
{
    ag_manual_seed(3);
    return nn_sequential(nn_linear(6, 300), nn_batch_norm1d(300), nn_relu(), nn_linear(300, 5000), nn_linear(5000, 2));
}

/* In some steps a weight is used once more, before all others: the last of its gradient arrives when the rest of its bucket has
 * been sent already. */
static ag_tensor *loss_of(nn_module *net, ag_tensor *x, ag_tensor *y, bool twice)
{
    ag_tensor *before = twice ? ag_sum(ag_mul(nn_param(net, "3.weight"), nn_param(net, "3.weight"))) : NULL;
    ag_tensor *loss = ag_mse_loss(nn_call(net, x), y);
    return before ? ag_add(loss, ag_scale(before, 0.1)) : loss;
}

static void test_steps_are_those_of_the_whole_batch(void **state)
{
    (void)state;
    AG_SCOPE;
    const int64_t n = 4 * ag_ranks();
    nn_module *alone = net_new(), *shared = net_new();
    optim *a = optim_sgd(alone, 0.01), *b = optim_sgd(shared, 0.01);
    for (int step = 0; step < 6; step++) {
        AG_SCOPE;
        ag_tensor *x = numbers(10 + (uint64_t)step, n, 6), *y = numbers(20 + (uint64_t)step, n, 2);
        const bool twice = step == 2 || step == 3;
        const int ranks = ag_ranks(), rank = ag_rank();
        ag_ranks_ = 1, ag_rank_ = 0;                        /* what one would do */
        ag_backward(loss_of(alone, x, y, twice));
        optim_step(a);
        ag_ranks_ = ranks, ag_rank_ = rank;
        ag_optim_ranks_arm(AG_HERE, b);
        ag_backward(loss_of(shared, rows(x), rows(y), twice));
        optim_step(b);
        for (int64_t p = 0; p < nn_param_count(alone); p++) {
            const ag_tensor *u = nn_param_at(alone, p), *v = nn_param_at(shared, p);
            for (int64_t i = 0; i < ag_numel(u); i++) assert_float_equal(ag_real(v)[i], ag_real(u)[i], 2e-5);
        }
    }
    const ag_tensor *u = nn_buffer_at(alone, 1), *v = nn_buffer_at(shared, 1);
    for (int64_t i = 0; i < ag_numel(u); i++) assert_float_equal(ag_real(v)[i], ag_real(u)[i], 1e-5);
}

/* 11 samples in batches of 4: every sample once, with shares that sum to 1 in each batch. */
static void test_shared_batches(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *x = numbers(1, 11, 1);
    data_loader *l = data_loader_new(data_from_tensors(x, NULL), 4, .shuffle = true, .seed = 5);
    data_loader_share(l);
    double seen[11] = { 0 }, share[3] = { 0 };
    int turns = 0;
    DATA_EACH(b, l) {
        for (int64_t i = 0; i < b.n; i++) {
            assert_float_equal(ag_real(b.x)[i], ag_real(x)[b.row[i]], 0);
            seen[b.row[i]] += b.everywhere ? 1.0 / ag_ranks() : 1;
        }
        share[b.index] += b.share, turns++;
    }
    assert_int_equal(turns, 3);
    ag_ranks_sum(seen, 11), ag_ranks_sum(share, 3);
    for (int i = 0; i < 11; i++) assert_float_equal(seen[i], 1, 1e-12);
    for (int i = 0; i < 3; i++) assert_float_equal(share[i], 1, 1e-12);
}

/* Each rank has all predictions, in their order. */
static void test_predictions(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *x = numbers(7, 11, 6);
    nn_module *net = net_new();
    data_loader *l = data_loader_new(data_from_tensors(x, x), 4), *train = data_loader_new(data_from_tensors(x, x), 11);
    learner *learns = learner_new(train, l, net, learner_mse, .quiet = true);
    ag_tensor *got = learner_predict(learns, l);
    NN_EVAL(net);
    const ag_tensor *want = nn_call(net, x);
    assert_int_equal(got->shape[0], 11);
    for (int64_t i = 0; i < ag_numel(got); i++) assert_float_equal(ag_real(got)[i], ag_real(want)[i], 1e-5);
}

/* For want of memory one sample after the other, also where another rank has more of them: the steps of whole batches. */
static void fit_in_parts(bool parts, real *out)
{
    AG_SCOPE;
    ag_manual_seed(5);
    ag_tensor *x = numbers(8, 11, 6);
    nn_module *net = nn_sequential(nn_linear(6, 5), nn_relu(), nn_linear(5, 6));
    data_loader *train = data_loader_new(data_from_tensors(x, x), 4, .shuffle = true, .seed = 2);
    learner *l = learner_new(train, NULL, net, learner_mse, .opt = optim_sgd(net, 0.1), .fit_memory = parts, .quiet = true);
    l->in->part = 1;
    learner_fit(l, 2, 0.1);
    memcpy(out, ag_real(nn_param_at(net, 0)), 30 * sizeof *out);
}

static void test_batches_in_parts(void **state)
{
    (void)state;
    real want[30], got[30];
    const int ranks = ag_ranks(), rank = ag_rank();
    ag_ranks_ = 1, ag_rank_ = 0;
    fit_in_parts(false, want);
    ag_ranks_ = ranks, ag_rank_ = rank;
    fit_in_parts(true, got);
    for (int i = 0; i < 30; i++) assert_float_equal(got[i], want[i], 1e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps_are_those_of_the_whole_batch), cmocka_unit_test(test_shared_batches),
        cmocka_unit_test(test_predictions), cmocka_unit_test(test_batches_in_parts),
    };
    ag_init(.seed = 1, .threads = 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
