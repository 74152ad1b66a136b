/* tests/test_cuda_learner.c - whole fits on the GPU, or in its emulation (tests/test_cuda.c), against the CPU: averages,
 * clipping, bf16, the search for a rate, interruption; and what the optimizers do there besides steps. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <unistd.h>
#include "tests/cuda_cases.h"

enum { N = 60, IN = 6, BATCH = 16, EPOCHS = 3, TOKENS = 4, HEADS = 2, WIDTH = 3 };
static char saved[] = "/tmp/agrad-cuda-XXXXXX";

typedef struct { nn_module base; nn_module *in, *norm, *out; } model;

static ag_tensor *model_forward(nn_module *m, ag_tensor *x)
{
    const model *s = NN_SELF(model, m);
    ag_tensor *qkv = ag_reshape(nn_call(s->in, x), -1, TOKENS, 3, HEADS, WIDTH);
    ag_tensor *y = ag_reshape(ag_attention_qkv(qkv), -1, TOKENS * HEADS * WIDTH);
    return nn_call(s->out, ag_gelu(nn_call(s->norm, y)));
}

static nn_module *model_new(void)
{
    model *s = NN_NEW(model, model_forward);
    NN_CHILD(s, in, nn_linear(IN, 3 * TOKENS * HEADS * WIDTH));
    NN_CHILD(s, norm, nn_layer_norm(TOKENS * HEADS * WIDTH));
    NN_CHILD(s, out, nn_linear(TOKENS * HEADS * WIDTH, 1));
    return &s->base;
}

/* Smooth enough to be learned: y = x0 x1 + x2. */
static data_set *samples(void)
{
    ag_tensor *x = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(N, IN)), *y = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(N, 1));
    ag_fill_normal(ag_real(x), ag_numel(x), 3);
    for (int i = 0; i < N; i++) ag_real(y)[i] = ag_real(x)[i * IN] * ag_real(x)[i * IN + 1] + ag_real(x)[i * IN + 2];
    return data_from_tensors(x, y);
}

typedef struct { nn_module *net; learner *l; } setup;

static setup make_learner(ag_device device, const char *precision, const char *checkpoint)
{
    ag_init(.device = "cpu");
    data_split parts = data_random_split(samples(), 0.3, 1);
    ag_init(.device = device == AG_CUDA ? "cuda" : "cpu", .seed = 11);
    setup s = { model_new(), NULL };
    data_loader *train = data_loader_new(parts.train, BATCH, .shuffle = true, .seed = 5);
    s.l = learner_new(train, data_loader_new(parts.valid, 64), s.net, learner_mse, .checkpoint = checkpoint, .quiet = true,
                      .clip = 0.5, .precision = precision, .weight_decay = 0.1, .metrics = { learner_rmse });
    learner_add(s.l, learner_keep_best());
    learner_add(s.l, learner_ema(.decay = 0.8));
    return s;
}

static void take_net(const setup *s, values *out)
{
    out->n = 0;
    out->v[out->n++] = learner_validate(s->l, NULL);
    out->v[out->n++] = s->l->metric[0];
    out->v[out->n++] = s->l->train_loss;
    for (int64_t i = 0; i < nn_param_count(s->net); i++) take(out, nn_param_at(s->net, i));
    ag_init(.device = "cpu");
}

static void fit(ag_device device, const char *precision, values *out)
{
    AG_SCOPE;
    const setup s = make_learner(device, precision, NULL);
    learner_fit_one_cycle(s.l, EPOCHS, 2e-2);
    take_net(&s, out);
}

static void near(const values *got, const values *want, double tol)
{
    assert_int_equal(got->n, want->n);
    for (int64_t i = 0; i < got->n; i++)
        if (!(fabs(got->v[i] - want->v[i]) <= tol * fmax(1, fabs(want->v[i]))))
            fail_msg("value %lld: %.9g, on the CPU %.9g", (long long)i, got->v[i], want->v[i]);
}

static values want, first, got;

static void test_a_fit_with_averages_and_clipping(void **state)
{
    (void)state;
    fit(AG_CPU, NULL, &want);
    for (int order = 0; order < ROUNDS; order++) {
        ag_emulate_order(order);
        fit(AG_CUDA, NULL, order ? &got : &first);
        if (order) assert_memory_equal(got.v, first.v, (size_t)first.n * sizeof *first.v);
    }
    near(&first, &want, 1e-3);
}

/* bf16 has 8 bits: losses come as near as that, weights after a few steps of Adam less so. */
static void test_a_fit_in_bf16(void **state)
{
    (void)state;
    fit(AG_CPU, NULL, &want);
    fit(AG_CUDA, NULL, &first);
    fit(AG_CUDA, "bf16", &got);
    assert_memory_not_equal(got.v, first.v, (size_t)first.n * sizeof *first.v);
    got.n = want.n = 3;
    near(&got, &want, 5e-2);
}

static learner_flow interrupt(learner *l, learner_event e, void *state)
{
    if (e == LEARNER_AFTER_STEP && l->step == *(const int64_t *)state) raise(SIGINT);
    return LEARNER_GO;
}

static void test_it_goes_on_with_the_same_bits(void **state)
{
    (void)state;
    AG_SCOPE;
    int64_t moment = 5;
    setup s = make_learner(AG_CUDA, NULL, saved);
    learner_fit(s.l, EPOCHS, 2e-2);
    take_net(&s, &want);
    s = make_learner(AG_CUDA, NULL, saved);
    learner_add(s.l, (learner_callback){ .on = interrupt, .state = &moment });
    learner_fit(s.l, EPOCHS, 2e-2);
    assert_true(s.l->interrupted);
    s = make_learner(AG_CUDA, NULL, saved);
    learner_resume(s.l, saved);
    learner_fit(s.l, EPOCHS, 2e-2);
    take_net(&s, &got);
    assert_int_equal(got.n, want.n);
    assert_memory_equal(got.v, want.v, (size_t)want.n * sizeof *want.v);
}

static void test_the_search_for_a_rate_puts_all_back(void **state)
{
    (void)state;
    AG_SCOPE;
    setup s = make_learner(AG_CPU, NULL, NULL);
    const learner_rates cpu = learner_lr_find(s.l, .steps = 20);
    const double loss = cpu.loss[cpu.n - 1];
    s = make_learner(AG_CUDA, NULL, NULL);
    values *const before = &want, *const after = &got;
    before->n = after->n = 0;
    for (int64_t i = 0; i < nn_param_count(s.net); i++) take(before, nn_param_at(s.net, i));
    const learner_rates r = learner_lr_find(s.l, .steps = 20);
    assert_int_equal(r.n, cpu.n);
    assert_true(fabs(r.loss[r.n - 1] - loss) < 1e-2 * fabs(loss));
    for (int64_t i = 0; i < nn_param_count(s.net); i++) take(after, nn_param_at(s.net, i));
    ag_init(.device = "cpu");
    assert_memory_equal(after->v, before->v, (size_t)before->n * sizeof *before->v);
}

/* ---- optimizers ---------------------------------------------------------------------------------------- */

/* The norm, the weights after a step and after averages and weights have changed places; of more pieces than one. */
static void norm_and_exchange(ag_device device, values *out)
{
    AG_SCOPE;
    out->n = 0;
    ag_init(.device = device == AG_CUDA ? "cuda" : "cpu", .seed = 2);
    nn_module *net = nn_sequential(nn_linear(70, 61), nn_linear(61, 1), nn_linear(1, 1));
    optim *opt = optim_lamb(net, 1e-2, .weight_decay = 0.1);
    optim_ema *ema = optim_ema_new(net, 0.5);
    for (int step = 0; step < 3; step++) {
        AG_SCOPE;
        ag_tensor *x = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(3, 70));
        ag_init(.device = "cpu");
        ag_tensor *host = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(3, 70));
        ag_init(.device = device == AG_CUDA ? "cuda" : "cpu");
        ag_fill_normal(ag_real(host), ag_numel(host), 9);
        ag_copy(x, ag_to(host, device));
        ag_backward(ag_sum(ag_square(nn_call(net, x))));
        out->v[out->n++] = optim_clip_norm(opt, 0.5);
        optim_step(opt);
        optim_ema_update(ema);
    }
    for (int round = 0; round < 2; round++, optim_ema_swap(ema))
        for (int64_t i = 0; i < nn_param_count(net); i++) take(out, nn_param_at(net, i));
    ag_init(.device = "cpu");
}

static void test_norms_lamb_and_exchanges(void **state)
{
    (void)state;
    norm_and_exchange(AG_CPU, &want);
    for (int order = 0; order < ROUNDS; order++) {
        ag_emulate_order(order);
        norm_and_exchange(AG_CUDA, order ? &got : &first);
        if (order) assert_memory_equal(got.v, first.v, (size_t)first.n * sizeof *first.v);
    }
    near(&first, &want, 1e-4);
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

static void too_much(void *unused)
{
    (void)unused;
    AG_SCOPE;
    ag_fill(ag_full(0, 3000, 1000), 1);
}

static void test_the_gpu_has_a_limit_and_a_report(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_init(.device = "cuda");
    nn_module *net = nn_sequential(nn_linear(300, 500));
    ag_device_table(AG_CUDA)->trim();
    const int64_t before = ag_memory(AG_CUDA).in_use;
    ag_memory_limit(before + 10000000);
    assert_int_equal(ag_try(too_much, NULL), 1);
    ag_memory_limit(0);
    const char *text = ag_error();
    if (!strstr(text, "GPU out of memory: needed 12.0 MB") || !strstr(text, "(the limit that was set)") ||
        !strstr(text, "MB  parameters of 0") || !strstr(text, "gradient accumulation"))
        fail_msg("%s", text);
    assert_int_equal(ag_memory(AG_CUDA).in_use, before);
    assert_true(ag_memory(AG_CUDA).by_kind[AG_MEM_PARAM] >= 4 * nn_numel(net));
    char report[4096] = "";
    FILE *f = fmemopen(report, sizeof report, "w");
    ag_memory_report(f);
    fclose(f);
    if (!strstr(report, "gpu: ") || !strstr(report, "other processes and the driver") || !strstr(report, "parameters"))
        fail_msg("%s", report);
    ag_init(.device = "cpu");
}

/* A batch that does not fit beside the parameters is computed in parts: the same losses. */
static void losses_within(int64_t limit, values *out)
{
    AG_SCOPE;
    ag_init(.device = "cpu");
    ag_tensor *x = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(64, 200)), *y = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(64, 4));
    ag_fill_normal(ag_real(x), ag_numel(x), 1), ag_fill_normal(ag_real(y), ag_numel(y), 2);
    data_set *set = data_from_tensors(x, y);
    ag_init(.device = "cuda", .seed = 4);
    nn_module *net = nn_sequential(nn_linear(200, 2000), nn_relu(), nn_linear(2000, 4));
    learner *l = learner_new(data_loader_new(set, 64, .shuffle = true), NULL, net, learner_mse, .quiet = true,
                             .fit_memory = limit > 0, .opt = optim_sgd(net, 1e-2));
    ag_device_table(AG_CUDA)->trim();
    ag_memory_limit(limit ? ag_memory(AG_CUDA).in_use + limit : 0);
    out->n = 0;
    for (int epoch = 0; epoch < 3; epoch++) learner_fit(l, 1, 1e-2), out->v[out->n++] = l->train_loss;
    ag_memory_limit(0);
    ag_init(.device = "cpu");
}

/* Who asks for predictions reads them. */
static void test_predictions_are_on_the_host(void **state)
{
    (void)state;
    AG_SCOPE;
    const setup s = make_learner(AG_CUDA, NULL, NULL);
    const ag_tensor *p = learner_predict(s.l, NULL);
    assert_int_equal(p->device, AG_CPU);
    assert_int_equal(p->shape[0], data_samples(s.l->valid));
    ag_init(.device = "cpu");
}

static void test_a_batch_is_cut_to_what_fits_the_gpu(void **state)
{
    (void)state;
    static values whole, cut;
    losses_within(0, &whole);
    losses_within(3200000, &cut);
    for (int i = 0; i < 3; i++) assert_float_equal(cut.v[i], whole.v[i], 1e-4);
}

int main(void)
{
    char why[512];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_fit_with_averages_and_clipping),
        cmocka_unit_test(test_a_fit_in_bf16),
        cmocka_unit_test(test_it_goes_on_with_the_same_bits),
        cmocka_unit_test(test_the_search_for_a_rate_puts_all_back),
        cmocka_unit_test(test_norms_lamb_and_exchanges), cmocka_unit_test(test_the_gpu_has_a_limit_and_a_report),
        cmocka_unit_test(test_predictions_are_on_the_host), cmocka_unit_test(test_a_batch_is_cut_to_what_fits_the_gpu),
    };
    if (!ag_cuda_available(why, sizeof why)) {
        print_message("SKIP: nothing was trained on a GPU here: %s\n", why);
        return 0;
    }
    const int f = mkstemp(saved);
    if (f >= 0) close(f);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(saved);
    return failed;
}
