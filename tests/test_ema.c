/* tests/test_ema.c - averaged weights: the formula, the swap, and the callback in fits that end, stop and go on. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agrad.h"
#include "core/op.h"

enum { N = 90, IN = 4, BATCH = 16, EPOCHS = 4, MOST = 16, WIDTH = 32 };
static const double decay = 0.9;
static char saved[] = "/tmp/agrad-ema-XXXXXX";

static int64_t doubles(const ag_tensor *t, double *out)
{
    for (int64_t i = 0; i < ag_numel(t); i++)
        out[i] = t->dtype == AG_I64 ? (double)((const int64_t *)t->data)[i] : (double)ag_real(t)[i];
    return ag_numel(t);
}

static void assert_values(const ag_tensor *t, const double *want, double tol)
{
    double got[WIDTH];
    for (int64_t i = 0, n = doubles(t, got); i < n; i++)
        if (!(fabs(got[i] - want[i]) <= tol)) fail_msg("%s[%d]: got %.9g, want %.9g", t->name, (int)i, got[i], want[i]);
}

/* ---- the average itself -------------------------------------------------------------------------------- */

typedef struct { nn_module base; nn_module *fc, *norm; ag_tensor *count; } model;

static ag_tensor *model_forward(nn_module *m, ag_tensor *x)
{
    const model *s = NN_SELF(model, m);
    ((int64_t *)s->count->data)[0]++;
    return nn_call(s->norm, nn_call(s->fc, x));
}

static nn_module *model_new(void)
{
    model *s = NN_NEW(model, model_forward);
    NN_CHILD(s, fc, nn_linear(IN, 3));
    NN_CHILD(s, norm, nn_batch_norm1d(3));
    NN_BUFFER(s, count, ag_arange(1));
    return &s->base;
}

static void train_once(nn_module *net, optim *opt)
{
    AG_SCOPE;
    ag_tensor *y = nn_call(net, ag_randn(8, IN));
    ag_backward(ag_mean(ag_mul(y, ag_randn_(AG_HERE, ag_shape_of(y)))));
    optim_step(opt);
}

/* average = decay average + (1 - decay) value of every parameter and buffer; integers are copied. */
static void test_the_formula(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = model_new();
    optim *opt = optim_adamw(net, 0.1);
    optim_ema *ema = optim_ema_new(net, decay);
    ag_named live[MOST], average[MOST];
    double want[MOST][WIDTH], now[WIDTH];
    const int64_t n = nn_named_count(net);
    nn_to_named(net, live);
    for (int64_t i = 0; i < n; i++) doubles(live[i].tensor, want[i]);
    for (int step = 0; step < 3; step++) {
        train_once(net, opt);
        optim_ema_update(ema);
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; k < doubles(live[i].tensor, now); k++)
                want[i][k] = live[i].tensor->dtype == AG_F32 ? decay * want[i][k] + (1 - decay) * now[k] : now[k];
    }
    assert_int_equal(optim_ema_named(ema, average), n);
    for (int64_t i = 0; i < n; i++) {
        assert_string_equal(average[i].name, live[i].name);
        assert_values(average[i].tensor, want[i], 1e-6);
    }
    optim_ema_reset(ema);
    for (int64_t i = 0; i < n; i++) {
        doubles(live[i].tensor, now);
        assert_values(average[i].tensor, now, 0);
    }
}

/* After a swap the net computes with the averages (also kernels that keep repacked copies), after another as before. */
static void test_the_swap(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = nn_sequential(nn_linear(64, 48), nn_linear(48, 2));
    optim *opt = optim_adamw(net, 0.1);
    optim_ema *ema = optim_ema_new(net, decay);
    ag_tensor *x = ag_randn(16, 64);
    double first[WIDTH], trained[WIDTH];
    doubles(nn_call(net, x), first);
    ag_backward(ag_mean(ag_square(nn_call(net, x))));
    optim_step(opt);
    doubles(nn_call(net, x), trained);
    optim_ema_swap(ema);                            /* nothing was averaged yet: the first weights */
    assert_values(nn_call(net, x), first, 0);
    optim_ema_swap(ema);
    assert_values(nn_call(net, x), trained, 0);
}

static void bad_decay(void *net)
{
    const optim_ema *ema = optim_ema_new((nn_module *)net, 1);
    (void)ema;
}
static void update_swapped(void *ema) { optim_ema_update((optim_ema *)ema); }

static void test_errors(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = nn_linear(2, 2);
    assert_true(ag_try(bad_decay, net));
    assert_non_null(strstr(ag_error(), "[0, 1)"));
    optim_ema *ema = optim_ema_new(net, decay);
    optim_ema_swap(ema);
    assert_true(ag_try(update_swapped, ema));
    assert_non_null(strstr(ag_error(), "optim_ema_swap"));
}

/* ---- the callback -------------------------------------------------------------------------------------- */

typedef struct { nn_module *net; learner *l; } setup;

static setup make(void)
{
    ag_manual_seed(3);
    data_set *all = data_from_tensors(ag_randn(N, IN), ag_randn(N, 1));
    const data_split parts = data_random_split(all, 0.3, 1);
    ag_manual_seed(11);
    setup s = { nn_sequential(nn_linear(IN, 3), nn_tanh(), nn_linear(3, 1)), NULL };
    data_loader *train = data_loader_new(parts.train, BATCH, .shuffle = true, .seed = 5);
    s.l = learner_new(train, data_loader_new(parts.valid, 64), s.net, learner_mse, .checkpoint = saved, .quiet = true);
    return s;
}

/* The same average in double, and the losses of validations. */
typedef struct { double average[MOST][WIDTH], loss[EPOCHS]; int64_t n; } shadow;

static learner_flow follow(learner *l, learner_event e, void *p)
{
    shadow *s = p;
    double now[WIDTH];
    if (e == LEARNER_BEFORE_FIT) s->n = nn_param_count(l->net);
    for (int64_t i = 0; i < s->n; i++) {
        if (e == LEARNER_BEFORE_FIT) doubles(nn_param_at(l->net, i), s->average[i]);
        for (int64_t k = 0; e == LEARNER_AFTER_STEP && k < doubles(nn_param_at(l->net, i), now); k++)
            s->average[i][k] = decay * s->average[i][k] + (1 - decay) * now[k];
    }
    if (e == LEARNER_AFTER_EPOCH) s->loss[l->epoch] = l->valid_loss;
    return LEARNER_GO;
}

static void test_a_fit_ends_with_the_averages(void **state)
{
    (void)state;
    AG_SCOPE;
    setup s = make();
    shadow own = { .n = 0 };
    learner_add(s.l, (learner_callback){ .on = follow, .state = &own });
    learner_add(s.l, learner_ema(.decay = decay));
    learner_fit(s.l, EPOCHS, 2e-2);
    for (int64_t i = 0; i < own.n; i++) assert_values(nn_param_at(s.net, i), own.average[i], 1e-6);
    const double last = own.loss[EPOCHS - 1];       /* it was the averages that were validated */
    assert_true(learner_validate(s.l, NULL) == last);
}

/* keep_best has copies of averages, and has the last word. */
static void test_the_best_averages_come_back(void **state)
{
    (void)state;
    AG_SCOPE;
    setup s = make();
    shadow own = { .n = 0 };
    learner_add(s.l, (learner_callback){ .on = follow, .state = &own });
    learner_add(s.l, learner_keep_best());
    learner_add(s.l, learner_early_stopping());
    learner_add(s.l, learner_ema(.decay = decay));
    learner_fit(s.l, EPOCHS, 0.2);
    double best = INFINITY;
    for (int i = 0; i < EPOCHS; i++) if (own.loss[i] && own.loss[i] < best) best = own.loss[i];
    assert_true(learner_validate(s.l, NULL) == best);
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
    int64_t moment = 7;
    setup whole = make(), cut, rest;
    learner_add(whole.l, learner_ema(.decay = decay));
    learner_fit(whole.l, EPOCHS, 2e-2);
    cut = make();
    learner_add(cut.l, learner_ema(.decay = decay));
    learner_add(cut.l, (learner_callback){ .on = interrupt, .state = &moment });
    learner_fit(cut.l, EPOCHS, 2e-2);
    assert_true(cut.l->interrupted);
    rest = make();
    learner_add(rest.l, learner_ema(.decay = decay));
    learner_resume(rest.l, saved);
    learner_fit(rest.l, EPOCHS, 2e-2);
    for (int64_t i = 0; i < nn_param_count(whole.net); i++) {
        double want[WIDTH];
        doubles(nn_param_at(whole.net, i), want);
        assert_values(nn_param_at(rest.net, i), want, 0);
    }
}

int main(void)
{
    const int f = mkstemp(saved);
    if (f >= 0) close(f);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_formula),
        cmocka_unit_test(test_the_swap),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_a_fit_ends_with_the_averages),
        cmocka_unit_test(test_the_best_averages_come_back),
        cmocka_unit_test(test_it_goes_on_with_the_same_bits),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(saved);
    return failed;
}
