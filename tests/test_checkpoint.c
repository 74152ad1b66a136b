/* tests/test_checkpoint.c - interrupted and resumed fits: trackers, logs, validation, and what does not fit. */
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
#include <sys/wait.h>
#include <unistd.h>
#include "agrad.h"
#include "core/io.h"

enum { N = 120, IN = 4, BATCH = 16, EPOCHS = 12 };
static char folder[] = "/tmp/agrad-checkpoint-XXXXXX", saved[64], log_a[64], log_b[64];

typedef struct { data_loader *train, *valid; nn_module *net; learner *l; } setup;

/* Noise: no rate learns it, so that the validation loss soon grows and the trackers have something to do. */
static setup make_seeded(const char *log, uint64_t seed)
{
    ag_manual_seed(3);
    data_set *all = data_from_tensors(ag_randn(N, IN), ag_randn(N, 1));
    const data_split parts = data_random_split(all, 0.3, 1);
    ag_manual_seed(11);
    nn_module *net = nn_sequential(nn_linear(IN, 16), nn_tanh(), nn_dropout(0.1), nn_linear(16, 1));
    setup s = { data_loader_new(parts.train, BATCH, .shuffle = true, .seed = seed), data_loader_new(parts.valid, 64), net, NULL };
    s.l = learner_new(s.train, s.valid, net, learner_mse, .metrics = { learner_mae }, .checkpoint = saved, .log = log,
                      .quiet = true);
    return s;
}

static setup make(const char *log) { return make_seeded(log, 5); }

static void add_trackers(learner *l)
{
    learner_add(l, learner_keep_best());
    learner_add(l, learner_reduce_on_plateau(.patience = 1, .factor = 0.5));
    learner_add(l, learner_early_stopping(.patience = 4, .monitor = "mae"));
}

static bool same_weights(const nn_module *a, const nn_module *b)
{
    for (int64_t i = 0; i < nn_param_count(a); i++) {
        const ag_tensor *p = nn_param_at(a, i), *q = nn_param_at(b, i);
        if (memcmp(p->data, q->data, (size_t)ag_numel(p) * sizeof(real))) return false;
    }
    return true;
}

/* Equal but for the last column, the seconds. */
static void same_logs(void)
{
    const data_table *a = data_csv(log_a), *b = data_csv(log_b);
    const char *names[] = { "epoch", "train_loss", "valid_loss", "mae" };
    assert_int_equal(data_rows(a), data_rows(b));
    for (int64_t i = 0; i < data_rows(a); i++)
        for (int k = 0; k < 4; k++) assert_true(data_number(a, i, names[k]) == data_number(b, i, names[k]));
}

typedef struct { learner_event at; int epoch; int64_t step; } moment;

static learner_flow interrupt(learner *l, learner_event e, void *state)
{
    const moment *m = state;
    if (e == m->at && l->epoch == m->epoch && (m->step < 0 || l->step == m->step)) raise(SIGINT);
    return LEARNER_GO;
}

/* What the trackers know, the rate they have reached, the best weights and the log go on, wherever it was cut. */
static void test_trackers_and_log_go_on(void **state)
{
    (void)state;
    moment moments[] = { { LEARNER_AFTER_STEP, 0, 2 }, { LEARNER_BEFORE_VALIDATE, 1, -1 }, { LEARNER_AFTER_STEP, 3, -1 },
                         { LEARNER_AFTER_EPOCH, 3, -1 }, { LEARNER_AFTER_STEP, 4, 27 } };
    AG_SCOPE;
    setup whole = make(log_a);
    add_trackers(whole.l);
    learner_fit(whole.l, EPOCHS, 2e-2);
    assert_true(whole.l->epoch == 5);
    assert_true(optim_lr(whole.l->opt, 0) < 1e-2);
    for (size_t i = 0; i < sizeof moments / sizeof *moments; i++) {
        AG_SCOPE;
        setup first = make(log_b), second;
        add_trackers(first.l);
        learner_add(first.l, (learner_callback){ .on = interrupt, .state = &moments[i] });
        learner_fit(first.l, EPOCHS, 2e-2);
        assert_true(first.l->interrupted);
        second = make(log_b);
        add_trackers(second.l);
        learner_resume(second.l, saved);
        learner_fit(second.l, EPOCHS, 2e-2);
        assert_false(second.l->interrupted);
        assert_int_equal(second.l->epoch, whole.l->epoch);
        assert_true(optim_lr(second.l->opt, 0) == optim_lr(whole.l->opt, 0));
        assert_true(same_weights(whole.net, second.net));
        same_logs();
    }
}

static learner_flow short_epochs(learner *l, learner_event e, void *state)
{
    (void)state;
    return e == LEARNER_AFTER_BATCH && l->batch == 2 ? LEARNER_CANCEL_TRAIN : LEARNER_GO;
}

/* Epochs cut short by a callback: the next begins with the loader's next order, resumed or not. */
static void test_short_epochs_go_on(void **state)
{
    (void)state;
    AG_SCOPE;
    moment m = { LEARNER_BEFORE_VALIDATE, 0, -1 };
    setup s[3];
    for (int i = 0; i < 3; i++) {
        s[i] = make(NULL);
        learner_add(s[i].l, (learner_callback){ .on = short_epochs });
        if (i == 1) learner_add(s[i].l, (learner_callback){ .on = interrupt, .state = &m });
        if (i == 2) learner_resume(s[i].l, saved);
        learner_fit_one_cycle(s[i].l, 3, 1e-2);
        assert_true(s[i].l->interrupted == (i == 1));
    }
    assert_int_equal(s[1].l->epoch, 1);
    assert_true(same_weights(s[0].net, s[2].net));
    assert_false(same_weights(s[0].net, s[1].net));
}

/* fine_tune's first part ends with a Ctrl-C in its validation: the second part does not begin, and is resumed alone. */
static void test_fine_tune_goes_on(void **state)
{
    (void)state;
    AG_SCOPE;
    moment m = { LEARNER_BEFORE_VALIDATE, 0, -1 };
    setup s[3];
    for (int i = 0; i < 3; i++) {
        s[i] = make(NULL);
        optim *opt = optim_adamw(s[i].net, 1e-3, .groups = OPTIM_GROUPS({ .params = "0.*" }));
        s[i].l = learner_new(s[i].train, s[i].valid, s[i].net, learner_mse, .opt = opt, .checkpoint = saved, .quiet = true);
        if (i == 1) learner_add(s[i].l, (learner_callback){ .on = interrupt, .state = &m });
        if (i == 2) learner_resume(s[i].l, saved);
        learner_fine_tune(s[i].l, 2, 1e-2);
        assert_int_equal(s[i].l->epochs, i == 1 ? 1 : 2);
    }
    assert_true(same_weights(s[0].net, s[2].net));
}

static ag_tensor *row_means(ag_tensor *pred, ag_tensor *y)
{
    return ag_mse_loss(ag_mean(pred, .axes = AG_AXES(1)), y);
}

/* A table with row gradients: 97 of 100 rows used, some rarely. */
static setup make_lazy(void)
{
    enum { ROWS = 600 };
    int64_t ids[ROWS];
    real y[ROWS];
    for (int i = 0; i < ROWS; i++) ids[i] = (i * i * 7 + i) % 97, y[i] = (real)(i % 13) / 13;
    setup s = { .train = data_loader_new(data_from_tensors(ag_from(AG_I64, ids, ROWS), ag_from(AG_F32, y, ROWS)), BATCH,
                                         .shuffle = true, .seed = 5) };
    ag_manual_seed(4);
    s.net = nn_sequential(nn_embedding(100, 8, .sparse = true));
    optim *opt = optim_lazy_adamw(s.net, 1e-2, .beta2 = 0.99, .weight_decay = 0.1);
    s.l = learner_new(s.train, NULL, s.net, row_means, .opt = opt, .checkpoint = saved, .quiet = true);
    return s;
}

/* Lazy rows, with lr_find between two fits and with a Ctrl-C at an epoch's end. */
static void test_lazy_rows_go_on(void **state)
{
    (void)state;
    AG_SCOPE;
    moment m = { LEARNER_AFTER_EPOCH, 1, -1 };
    setup plain = make_lazy(), finder = make_lazy();
    for (int part = 0; part < 2; part++) {
        learner_fit(plain.l, 2, 1e-2);
        learner_fit(finder.l, 2, 1e-2);
        if (part == 0) assert_true(learner_lr_find(finder.l).n > 10);
        assert_true(same_weights(plain.net, finder.net));
    }
    setup whole = make_lazy(), first = make_lazy(), second = make_lazy();
    learner_fit_one_cycle(whole.l, 4, 1e-2);
    learner_add(first.l, (learner_callback){ .on = interrupt, .state = &m });
    learner_fit_one_cycle(first.l, 4, 1e-2);
    assert_true(first.l->interrupted && !same_weights(whole.net, first.net));
    learner_resume(second.l, saved);
    learner_fit_one_cycle(second.l, 4, 1e-2);
    assert_true(same_weights(whole.net, second.net));
}

/* A failed start leaves the old log; a fit from the start replaces it. */
static void test_log_is_not_lost(void **state)
{
    (void)state;
    AG_SCOPE;
    learner_fit(make(log_a).l, 3, 1e-3);
    make(log_a);
    assert_int_equal(data_rows(data_csv(log_a)), 3);
    learner_fit(make(log_a).l, 1, 1e-3);
    assert_int_equal(data_rows(data_csv(log_a)), 1);
}

static learner_flow two_signals(learner *l, learner_event e, void *state)
{
    const int *signals = state;
    if (e == LEARNER_AFTER_PRED && l->step == 3) {
        raise(signals[0]);
        raise(signals[1]);
    }
    return LEARNER_GO;
}

/* The second Ctrl-C, or a SIGTERM after it, ends the process at once and leaves the checkpoint of the epoch before. */
static void test_two_signals_end_the_process(void **state)
{
    (void)state;
    int signals[][2] = { { SIGINT, SIGINT }, { SIGTERM, SIGINT }, { SIGINT, SIGTERM } };
    for (int i = 0; i < 3; i++) {
        const pid_t child = fork();
        if (child == 0) {
            AG_SCOPE;
            learner *l = make(NULL).l;
            learner_add(l, (learner_callback){ .on = two_signals, .state = signals[i] });
            learner_fit(l, 3, 1e-3);
            _exit(0);
        }
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == signals[i][1]);
    }
}

/* ---- what does not fit ---------------------------------------------------------------------------------------------------- */

static void other_seed(void *unused)
{
    (void)unused;
    learner_resume(make_seeded(NULL, 6).l, saved);
}

static void other_fit(void *unused)
{
    (void)unused;
    learner *l = make(NULL).l;
    learner_resume(l, saved);
    learner_fit_one_cycle(l, 2, 1e-3);
}

static void other_callbacks(void *unused)
{
    (void)unused;
    learner *l = make(NULL).l;
    add_trackers(l);
    learner_resume(l, saved);
}

static void no_checkpoint(void *unused)
{
    (void)unused;
    nn_module *net = make(NULL).net;
    nn_save(net, log_b);
    learner_resume(make(NULL).l, log_b);
}

static void nothing_to_watch(void *unused)
{
    (void)unused;
    const setup s = make(NULL);
    learner *l = learner_new(s.train, NULL, s.net, learner_mse, .quiet = true);
    learner_add(l, learner_early_stopping());
    learner_fit(l, 1, 1e-3);
}

static void compare_numbers(void *unused)
{
    double s[LEARNER_SUMS] = { 0 };
    (void)unused;
    learner_rmse.add(&learner_rmse, s, ag_zeros(5, 8), ag_zeros(5, 1));
}

static void compare_classes_with_numbers(void *unused)
{
    double s[LEARNER_SUMS] = { 0 };
    (void)unused;
    learner_accuracy.add(&learner_accuracy, s, ag_zeros(5, 8), ag_zeros(5));
}

static void compare_too_few_classes(void *unused)
{
    double s[LEARNER_SUMS] = { 0 };
    (void)unused;
    learner_accuracy.add(&learner_accuracy, s, ag_zeros(5, 8), ag_arange(4));
}

static void test_refusals(void **state)
{
    (void)state;
    const struct { void (*run)(void *); const char *says; } cases[] = {
        { other_seed, "in the order of seed 5, this loader has 6" },
        { other_fit, "is of the fit 'fit epochs 1 lr 0.001', this one is 'fit_one_cycle epochs 2" },
        { other_callbacks, "has the state of 0 callbacks, this learner has 3" },
        { no_checkpoint, "is not a checkpoint of a learner: its metadata lacks 'format'" },
        { nothing_to_watch, "watches 'valid_loss', the learner has no validation set" },
        { compare_numbers, "the metric rmse cannot compare predictions" },
        { compare_classes_with_numbers, "the metric accuracy cannot compare predictions" },
        { compare_too_few_classes, "the metric accuracy cannot compare predictions" },
    };
    AG_SCOPE;
    learner_fit(make(NULL).l, 1, 1e-3);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(ag_try(cases[i].run, NULL), 1);
        if (!strstr(ag_error(), cases[i].says)) fail_msg("case %zu says: %s", i, ag_error());
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trackers_and_log_go_on),
        cmocka_unit_test(test_short_epochs_go_on),
        cmocka_unit_test(test_fine_tune_goes_on),
        cmocka_unit_test(test_lazy_rows_go_on),
        cmocka_unit_test(test_log_is_not_lost),
        cmocka_unit_test(test_two_signals_end_the_process),
        cmocka_unit_test(test_refusals),
    };
    if (!mkdtemp(folder)) return 1;
    snprintf(saved, sizeof saved, "%s/fit.safetensors", folder);
    snprintf(log_a, sizeof log_a, "%s/a.csv", folder);
    snprintf(log_b, sizeof log_b, "%s/b.csv", folder);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(saved);
    unlink(log_a);
    unlink(log_b);
    rmdir(folder);
    return failed;
}
