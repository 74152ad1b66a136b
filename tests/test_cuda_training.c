/* tests/test_cuda_training.c - training on the GPU, or in its emulation (tests/test_cuda.c), against the CPU: losses,
 * weights, every optimizer's step. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include "tests/cuda_cases.h"

enum { USERS = 30, ITEMS = 20, FACTORS = 5, BATCH = 40, STEPS = 8 };
typedef optim *(*maker)(nn_module *net);
typedef nn_module *(*builder)(void);
static nn_module *dot_bias(void) { return model_dot_bias(USERS, ITEMS, FACTORS, .lo = 0, .hi = 5.5); }
static nn_module *neural(void)
{
    return model_embedding_nn(USERS, ITEMS, .user_width = 9, .item_width = 7, .layers = MODEL_LAYERS(40, 12), .dropout = 0.1,
                              .lo = 0, .hi = 5.5);
}
static optim *make_adamw(nn_module *net) { return optim_adamw(net, 5e-2, .weight_decay = 0.1); }
static optim *make_lazy(nn_module *net) { return optim_lazy_adamw(net, 5e-2, .weight_decay = 0.1); }
static optim *make_adam(nn_module *net) { return optim_adam(net, 5e-2, .weight_decay = 0.1); }
static optim *make_sgd(nn_module *net) { return optim_sgd(net, 0.5); }
static optim *make_momentum(nn_module *net) { return optim_sgd(net, 0.5, .momentum = 0.9, .weight_decay = 0.01); }
static optim *make_nesterov(nn_module *net) { return optim_sgd(net, 0.5, .momentum = 0.9, .nesterov = true); }
static optim *make_rmsprop(nn_module *net) { return optim_rmsprop(net, 1e-2); }
static optim *make_rms_momentum(nn_module *net) { return optim_rmsprop(net, 1e-2, .momentum = 0.5); }
static optim *make_rms_fastai(nn_module *net) { return optim_rmsprop(net, 1e-2, .momentum = 0.5, .fastai = true); }
static optim *make_lamb(nn_module *net) { return optim_lamb(net, 1e-2, .weight_decay = 0.1); }
static optim *make_radam(nn_module *net) { return optim_radam(net, 1e-2); }

/* Losses and final weights and buffers. */
static void train(ag_device device, builder build, maker make_optimizer, bool clip, values *out)
{
    AG_SCOPE;
    out->n = 0;
    ag_init(.device = device == AG_CUDA ? "cuda" : "cpu", .seed = 3);
    nn_module *net = build();
    optim *opt = make_optimizer(net);
    for (int step = 0; step < STEPS; step++) {
        AG_SCOPE;
        int64_t ids[BATCH][2];
        real y[BATCH];
        ag_rng r = { .seed = (uint64_t)(step % 2), .stream = 1 };
        for (int b = 0; b < BATCH; b++) {
            ids[b][0] = ag_rng_below(&r, USERS), ids[b][1] = ag_rng_below(&r, ITEMS);
            y[b] = (real)(1 + (ids[b][0] * 7 + ids[b][1] * 3) % 5);
        }
        ag_tensor *error = ag_mse_loss(nn_call(net, ag_from(AG_I64, ids, BATCH, 2)), ag_from(AG_F32, y, BATCH));
        ag_backward(error);
        if (clip) out->v[out->n++] = optim_clip_norm(opt, 0.05);
        optim_step(opt);
        out->v[out->n++] = ag_item(error);
    }
    optim_flush(opt);
    for (int64_t i = 0; i < nn_param_count(net); i++) take(out, nn_param_at(net, i));
    for (int64_t i = 0; i < nn_buffer_count(net); i++) take(out, nn_buffer_at(net, i));
    ag_init(.device = "cpu");
}

static void compare_training(const char *what, builder build, maker make_optimizer, bool clip)
{
    static values want, first, got;
    train(AG_CPU, build, make_optimizer, clip, &want);
    assert_true(want.v[clip ? 2 * STEPS - 1 : STEPS - 1] < want.v[clip ? 3 : 1]);      /* it learns */
    for (int order = 0; order < ROUNDS; order++) {
        ag_emulate_order(order);
        values *g = order ? &got : &first;
        train(AG_CUDA, build, make_optimizer, clip, g);
        assert_int_equal(g->n, want.n);
        for (int64_t i = 0; i < g->n; i++)
            if (!(fabs(g->v[i] - want.v[i]) <= 2e-4 * fmax(1, fabs(want.v[i]))))
                fail_msg("%s, value %lld: %.9g, on the CPU %.9g", what, (long long)i, g->v[i], want.v[i]);
        assert_memory_equal(g->v, first.v, (size_t)g->n * sizeof *g->v);
    }
}

static void test_the_dot_model_trains_as_on_the_cpu(void **state)
{
    (void)state;
    compare_training("adamw", dot_bias, make_adamw, false);
    compare_training("adamw, clipped", dot_bias, make_adamw, true);
    compare_training("lazy adamw", dot_bias, make_lazy, false);
}

/* Embeddings side by side, linear layers with ReLU and batch norm, dropout with the same masks. */
static void test_the_neural_model_trains_as_on_the_cpu(void **state)
{
    (void)state;
    compare_training("neural, adamw", neural, make_adamw, false);
    compare_training("neural, momentum", neural, make_momentum, true);
}

static void test_every_rule_steps_as_on_the_cpu(void **state)
{
    (void)state;
    static const maker all[] = { make_adam, make_sgd, make_momentum, make_nesterov, make_rmsprop, make_rms_momentum,
                                 make_rms_fastai, make_radam, make_lamb };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) compare_training("rule", dot_bias, all[i], false);
}

static void test_more_parameters_than_one_launch_takes(void **state)
{
    (void)state;
    static values want, got;
    for (int device = AG_CPU; device <= AG_CUDA; device++) {
        AG_SCOPE;
        ag_init(.device = device == AG_CUDA ? "cuda" : "cpu", .seed = 4);
        nn_module *net = nn_sequential(NULL);
        for (int i = 0; i < 130; i++) nn_append(net, nn_linear(2, 2));
        optim *opt = optim_adamw(net, 1e-2);
        for (int step = 0; step < 3; step++) {
            AG_SCOPE;
            ag_backward(ag_sum(ag_square(nn_call(net, ag_ones(2, 2)))));
            optim_step(opt);
        }
        values *to = device == AG_CUDA ? &got : &want;
        to->n = 0;
        for (int64_t i = 0; i < nn_param_count(net); i++) take(to, nn_param_at(net, i));
        ag_init(.device = "cpu");
    }
    assert_int_equal(got.n, 130 * 6);
    for (int64_t i = 0; i < got.n; i++) assert_true(fabs(got.v[i] - want.v[i]) < 1e-5);
}

static void nothing(ag_node *n) { ag_fill(n->out, 0); }
static void apply_elsewhere(void *arg)
{
    (void)arg;
    static const ag_op here_only = { .name = "here_only", .inputs = "x", .infer = ag_infer_same, .no_grad = "a test",
                                     .forward = { nothing } };
    ag_tensor *x = ag_ones(2, 3);
    ag_item(ag_sum(ag_apply(&here_only, 1, &x, NULL, 0)));
}

static void test_an_op_without_a_kernel_says_so(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_init(.device = "cuda");
    const int failed = ag_try(apply_elsewhere, NULL);
    ag_init(.device = "cpu");
    assert_int_equal(failed, 1);
    assert_non_null(strstr(ag_error(), "ag_here_only: no cuda kernel; move the operands to the cpu with ag_to"));
}

/* The count of batches is the host's: it is counted without asking the device. */
static void test_a_norm_counts_its_batches_on_the_host(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_init(.device = "cuda");
    nn_module *norm = nn_batch_norm1d(3);
    ag_item(ag_sum(nn_call(norm, ag_ones(2, 3))));
    ag_init(.device = "cpu");
    for (int64_t i = 0; i < nn_buffer_count(norm); i++)
        assert_int_equal(nn_buffer_at(norm, i)->device, nn_buffer_at(norm, i)->dtype == AG_I64 ? AG_CPU : AG_CUDA);
}

int main(void)
{
    char why[512];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_dot_model_trains_as_on_the_cpu),
        cmocka_unit_test(test_the_neural_model_trains_as_on_the_cpu),
        cmocka_unit_test(test_every_rule_steps_as_on_the_cpu),
        cmocka_unit_test(test_more_parameters_than_one_launch_takes),
        cmocka_unit_test(test_an_op_without_a_kernel_says_so),
        cmocka_unit_test(test_a_norm_counts_its_batches_on_the_host),
    };
    if (ag_cuda_available(why, sizeof why)) return cmocka_run_group_tests(tests, NULL, NULL);
    print_message("SKIP: nothing was trained on a GPU here: %s\n", why);
    return 0;
}
