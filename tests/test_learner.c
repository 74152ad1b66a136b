/* tests/test_learner.c - the loop: accumulation, events, metrics, checkpoints, lr_find, trackers. */
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
#include "core/io.h"
#include "core/op.h"

enum { N = 200, IN = 6 };
static char folder[] = "/tmp/agrad-learner-XXXXXX";

static const char *file(const char *name)
{
    static char path[2][256];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

/* y = x . (1, -2, 3, 0, 0.5, -1) + noise */
static data_set *problem(int64_t n)
{
    const double w[IN] = { 1, -2, 3, 0, 0.5, -1 };
    ag_manual_seed(3);
    ag_tensor *x = ag_randn(n, IN), *y = ag_scale(ag_randn(n, 1), 0.1);
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < IN; k++) ag_real(y)[i] += (real)(w[k] * (double)ag_real(x)[i * IN + k]);
    return data_from_tensors(x, y);
}

static nn_module *model(void)
{
    ag_manual_seed(11);
    return nn_sequential(nn_linear(IN, 8), nn_tanh(), nn_linear(8, 1));
}

typedef struct { data_loader *train, *valid; nn_module *net; } setup;

static setup make(int64_t n, int64_t batch)
{
    data_set *all = problem(n);
    const data_split s = data_random_split(all, 0.2, 1);
    return (setup){ data_loader_new(s.train, batch, .shuffle = true, .seed = 5), data_loader_new(s.valid, 64), model() };
}

static bool same_weights(const nn_module *a, const nn_module *b)
{
    for (int64_t i = 0; i < nn_param_count(a); i++) {
        const ag_tensor *p = nn_param_at(a, i), *q = nn_param_at(b, i);
        if (memcmp(p->data, q->data, (size_t)ag_numel(p) * sizeof(real))) return false;
    }
    return true;
}

/* ---- fitting ------------------------------------------------------------------------------------------- */

static void test_it_learns(void **state)
{
    (void)state;
    AG_SCOPE;
    setup s = make(1000, 32);
    learner *l = learner_new(s.train, s.valid, s.net, learner_mse, .metrics = { learner_rmse, learner_mae }, .quiet = true);
    const double before = learner_validate(l, NULL);
    learner_fit_one_cycle(l, 8, 2e-2);
    assert_true(before > 5 && l->valid_loss < 0.6);
    assert_true(fabs(l->metric[0] * l->metric[0] - l->valid_loss) < 1e-4);
    assert_true(l->metric[1] < l->metric[0]);
    assert_int_equal(l->steps, 8 * 25);
    assert_int_equal(l->step, 8 * 25);
}

/* The loss of the whole set is a mean over samples, also when the last batch is smaller: against one big batch. */
static void test_validation_weighs_by_samples(void **state)
{
    (void)state;
    AG_SCOPE;
    setup s = make(N, 32);
    learner *l = learner_new(s.train, data_loader_new(data_loader_set(s.train), 64), s.net, learner_mse,
                             .metrics = { learner_rmse }, .quiet = true);
    const double small = learner_validate(l, NULL), rmse = l->metric[0];
    const double whole = learner_validate(l, data_loader_new(data_loader_set(s.train), 160));
    assert_true(fabs(small - whole) < 1e-5 * whole);
    assert_true(fabs(rmse - sqrt(whole)) < 1e-5);
}

static void test_predictions_in_order(void **state)
{
    (void)state;
    AG_SCOPE;
    setup s = make(N, 32);
    learner *l = learner_new(s.train, s.valid, s.net, learner_mse, .quiet = true);
    ag_tensor *parts = learner_predict(l, data_loader_new(data_loader_set(s.train), 7));
    ag_tensor *whole = learner_predict(l, data_loader_new(data_loader_set(s.train), 160));
    assert_int_equal(parts->shape[0], 160);
    for (int i = 0; i < 160; i++) assert_true(fabs(ag_at(parts, i, 0) - ag_at(whole, i, 0)) < 1e-5);
}

/* ---- accumulation -------------------------------------------------------------------------------------- */

/* Ten steps of plain SGD with 4 x 16 and 1 x 64; 150 samples leave a group of 22 at the end of each epoch. */
static void test_accumulated_steps_equal_large_batches(void **state)
{
    (void)state;
    AG_SCOPE;
    data_set *set = problem(150);
    nn_module *net[3];
    for (int k = 0; k < 3; k++) {
        net[k] = model();
        data_loader *loader = data_loader_new(set, k ? 16 : 64, .shuffle = true, .seed = 9);
        optim *opt = optim_sgd(net[k], 0.05);
        learner *l = learner_new(loader, NULL, net[k], learner_mse, .opt = opt, .accumulate = k == 1 ? 4 : 0,
                                 .batch_effective = k == 2 ? 64 : 0, .quiet = true);
        learner_fit(l, 4, 0.05);
        assert_int_equal(l->step, 12);
        assert_int_equal(optim_steps(opt), 12);
    }
    for (int k = 1; k < 3; k++)
        for (int64_t i = 0; i < nn_param_count(net[0]); i++) {
            const ag_tensor *a = nn_param_at(net[0], i), *b = nn_param_at(net[k], i);
            for (int64_t e = 0; e < ag_numel(a); e++) {
                const double p = (double)ag_real(a)[e], q = (double)ag_real(b)[e];
                assert_true(fabs(p - q) <= 1e-6 * fmax(1, fabs(p)));
            }
        }
}

static void both_ways(void *p)
{
    setup *s = p;
    learner *l = learner_new(s->train, NULL, s->net, learner_mse, .accumulate = 2, .batch_effective = 64);
    (void)l;
}

static void test_options_are_checked(void **state)
{
    (void)state;
    AG_SCOPE;
    setup s = make(N, 32);
    assert_int_equal(ag_try(both_ways, &s), 1);
    assert_non_null(strstr(ag_error(), ".accumulate counts batches, .batch_effective samples"));
}

/* ---- events -------------------------------------------------------------------------------------------- */

typedef struct { char text[512]; learner_event cancel_at; learner_flow flow; int after; } recorder;

static learner_flow record(learner *l, learner_event e, void *state)
{
    static const char letters[] = "FETBplbsSatvVef";
    recorder *r = state;
    const size_t n = strlen(r->text);
    (void)l;
    if (n + 1 < sizeof r->text) r->text[n] = letters[e], r->text[n + 1] = 0;
    return e == r->cancel_at && r->after-- == 0 ? r->flow : LEARNER_GO;
}

static void run_events(recorder *r)
{
    AG_SCOPE;
    setup s = make(100, 40);            /* two batches of training, one of validation */
    learner *l = learner_new(s.train, s.valid, s.net, learner_mse, .quiet = true);
    learner_add(l, (learner_callback){ .on = record, .state = r });
    learner_fit(l, 1, 1e-3);
}

static void test_events_and_cancelling(void **state)
{
    (void)state;
    recorder r[] = {
        { .after = -1 },
        { .cancel_at = LEARNER_AFTER_PRED, .flow = LEARNER_CANCEL_BATCH },
        { .cancel_at = LEARNER_BEFORE_STEP, .flow = LEARNER_CANCEL_BATCH },
        { .cancel_at = LEARNER_AFTER_BATCH, .flow = LEARNER_CANCEL_TRAIN },
        { .cancel_at = LEARNER_BEFORE_EPOCH, .flow = LEARNER_CANCEL_EPOCH },
        { .cancel_at = LEARNER_AFTER_LOSS, .flow = LEARNER_CANCEL_FIT },
    };
    const char *want[] = { "FETBplbsSaBplbsSatvVef", "FETBpaBplbsSatvVef", "FETBplbsaBplbsSatvVef", "FETBplbsSatvVef", "FEef",
                           "FETBplatef" };
    for (size_t i = 0; i < sizeof r / sizeof *r; i++) {
        run_events(&r[i]);
        assert_string_equal(r[i].text, want[i]);
    }
}

static learner_flow skip_first(learner *l, learner_event e, void *state)
{
    return e == *(learner_event *)state && l->batch == 0 ? LEARNER_CANCEL_BATCH : LEARNER_GO;
}

/* Of a batch cancelled behind its backward nothing is left to the next step. */
static void test_cancelled_gradients_are_dropped(void **state)
{
    (void)state;
    AG_SCOPE;
    learner_event at[2] = { LEARNER_BEFORE_BATCH, LEARNER_AFTER_BACKWARD };
    setup s[2] = { make(100, 40), make(100, 40) };
    for (int i = 0; i < 2; i++) {
        learner *l = learner_new(s[i].train, NULL, s[i].net, learner_mse, .opt = optim_sgd(s[i].net, 0.1), .quiet = true);
        learner_add(l, (learner_callback){ .on = skip_first, .state = &at[i] });
        learner_fit(l, 2, 0.1);
    }
    assert_true(same_weights(s[0].net, s[1].net));
}

static learner_flow count_calls(learner *l, learner_event e, void *state)
{
    int64_t *calls = state;
    if (e == LEARNER_AFTER_STEP && l->step == 20) calls[0] = ag_memory(AG_CPU).system_calls;
    if (e == LEARNER_AFTER_STEP && l->step == 120) calls[1] = ag_memory(AG_CPU).system_calls;
    return LEARNER_GO;
}

static void test_steps_do_not_allocate(void **state)
{
    (void)state;
    AG_SCOPE;
    int64_t calls[2] = { -1, -2 };
    setup s = make(2400, 16);
    learner *l = learner_new(s.train, NULL, s.net, learner_mse, .accumulate = 1, .clip = 1, .quiet = true);
    learner_add(l, (learner_callback){ .on = count_calls, .state = calls });
    learner_fit_one_cycle(l, 1, 1e-3);
    assert_true(calls[0] > 0);
    assert_int_equal(calls[0], calls[1]);
}

/* ---- numbers ------------------------------------------------------------------------------------------- */

static ag_tensor *bad_loss(ag_tensor *pred, ag_tensor *y)
{
    static int calls;
    ag_tensor *loss = ag_mse_loss(pred, y);
    return ++calls == 4 ? ag_scale(loss, NAN) : loss;
}

static void fit_bad(void *l) { learner_fit(l, 2, 1e-3); }

static void test_nan_is_named_and_kept_out(void **state)
{
    (void)state;
    AG_SCOPE;
    setup s = make(100, 40);
    learner *l = learner_new(s.train, NULL, s.net, bad_loss, .quiet = true);
    assert_int_equal(ag_try(fit_bad, l), 1);
    assert_non_null(strstr(ag_error(), "the loss became NaN in epoch 1, step 3, batch 1"));
    for (int64_t i = 0; i < nn_param_count(s.net); i++) assert_true(isfinite(ag_item(ag_sum(nn_param_at(s.net, i)))));
}

/* Accuracy by hand: 3 of 4 rows; error rate the rest. */
static void test_metrics_by_hand(void **state)
{
    (void)state;
    AG_SCOPE;
    const real logits[] = { 1, 2, 3, 1, -1, -2, 5, 6 };
    const int64_t classes[] = { 1, 0, 1, 1 };
    ag_tensor *p = ag_from(AG_F32, logits, 4, 2), *y = ag_from(AG_I64, classes, 4);
    double s[LEARNER_SUMS] = { 0 };
    learner_accuracy.add(&learner_accuracy, s, p, y);
    assert_true(learner_accuracy.value(&learner_accuracy, s) == 0.75);
    assert_true(learner_error_rate.value(&learner_error_rate, s) == 0.25);
    double e[LEARNER_SUMS] = { 0 };
    const real a[] = { 1, 2, 3 }, b[] = { 2, 2, 5 };
    learner_rmse.add(&learner_rmse, e, ag_from(AG_F32, a, 3), ag_from(AG_F32, b, 3));
    assert_true(fabs(learner_rmse.value(&learner_rmse, e) - sqrt(5.0 / 3)) < 1e-12);
}

/* ---- checkpoints --------------------------------------------------------------------------------------- */

static learner *with_checkpoint(setup *s, const char *path, int accumulate)
{
    optim *opt = optim_adamw(s->net, 1e-3, .fastai = true);
    return learner_new(s->train, s->valid, s->net, learner_mse, .opt = opt, .checkpoint = path, .accumulate = accumulate,
                       .quiet = true);
}

static learner_flow interrupt(learner *l, learner_event e, void *state)
{
    if (e == LEARNER_AFTER_STEP && l->step == *(int *)state) raise(SIGINT);
    return LEARNER_GO;
}

/* Interrupted at any step and resumed by another learner: the same bits as without. */
static void test_resume_gives_the_same_bits(void **state)
{
    (void)state;
    for (int accumulate = 1; accumulate <= 2; accumulate++)
        for (int stop = 1; stop < (accumulate == 1 ? 12 : 9); stop += 3) {
            AG_SCOPE;
            setup a = make(N, 32), b = make(N, 32), c = make(N, 32);
            const char *path = file("resume.safetensors");
            learner *whole = with_checkpoint(&a, file("whole.safetensors"), accumulate);
            learner_fit_one_cycle(whole, 3, 1e-2);
            learner *first = with_checkpoint(&b, path, accumulate);
            learner_add(first, (learner_callback){ .on = interrupt, .state = &stop });
            (void)!freopen("/dev/null", "w", stdout);
            learner_fit_one_cycle(first, 3, 1e-2);
            assert_true(first->interrupted);
            learner *second = with_checkpoint(&c, path, accumulate);
            learner_resume(second, path);
            learner_fit_one_cycle(second, 3, 1e-2);
            assert_false(second->interrupted);
            assert_int_equal(second->step, whole->step);
            assert_true(same_weights(a.net, c.net));
            assert_true(whole->train_loss == second->train_loss && whole->valid_loss == second->valid_loss);
        }
}

static void resume_other(void *p)
{
    setup *s = p;
    learner *l = with_checkpoint(s, file("a.safetensors"), 1);
    learner_resume(l, file("resume.safetensors"));
    learner_fit_one_cycle(l, 4, 1e-2);
}

static void resume_wrong_model(void *p)
{
    setup *s = p;
    nn_module *net = nn_sequential(nn_linear(IN, 9), nn_tanh(), nn_linear(9, 1));
    learner *l = learner_new(s->train, NULL, net, learner_mse, .accumulate = 2);
    learner_resume(l, file("resume.safetensors"));
}

static void test_wrong_checkpoints(void **state)
{
    (void)state;
    AG_SCOPE;
    setup s = make(N, 32);
    assert_int_equal(ag_try(resume_other, &s), 1);
    assert_non_null(strstr(ag_error(), "2 batches a step, this learner takes 1"));
    assert_int_equal(ag_try(resume_wrong_model, &s), 1);
    assert_non_null(strstr(ag_error(), "0.weight  is [8, 6] in the file, "));
    assert_non_null(strstr(ag_error(), "nothing was loaded"));
}

static void test_log_has_the_columns(void **state)
{
    (void)state;
    AG_SCOPE;
    setup s = make(N, 32);
    learner *l = learner_new(s.train, s.valid, s.net, learner_mse, .metrics = { learner_rmse }, .log = file("log.csv"),
                             .quiet = true);
    learner_fit(l, 2, 1e-3);
    data_table *t = data_csv(file("log.csv"));
    assert_int_equal(data_rows(t), 2);
    assert_int_equal(data_columns(t), 5);
    const char *names[] = { "epoch", "train_loss", "valid_loss", "rmse", "seconds" };
    for (int i = 0; i < 5; i++) assert_string_equal(data_column_name(t, i), names[i]);
    assert_true(fabs(data_number(t, 1, "valid_loss") - l->valid_loss) < 1e-6);
}

/* ---- lr_find ------------------------------------------------------------------------------------------- */

static void test_lr_find_leaves_no_trace(void **state)
{
    (void)state;
    AG_SCOPE;
    setup a = make(N, 16), b = make(N, 16);
    learner *plain = with_checkpoint(&a, NULL, 1), *finder = with_checkpoint(&b, NULL, 1);
    learner_fit(plain, 1, 1e-3);
    learner_fit(finder, 1, 1e-3);
    const ag_rng before = ag_rng_get();
    const learner_rates r = learner_lr_find(finder, .steps = 60);
    const ag_rng after = ag_rng_get();
    assert_memory_equal(&before, &after, sizeof before);
    assert_true(r.n > 30 && r.lr[0] < 2e-7);
    assert_true(same_weights(a.net, b.net));
    assert_true(plain->train_loss == finder->train_loss);
    learner_fit(plain, 2, 1e-3);
    learner_fit(finder, 2, 1e-3);
    assert_true(same_weights(a.net, b.net));
}

/* fastai's own functions on two curves over x = log10 lr, lr = 1e-7 10^(8 i / 100); the second stopped after 45 points. */
static void test_suggestions_are_fastais(void **state)
{
    (void)state;
    const double want[2][4] = { { 3.01995172e-05, 6.309573445e-07, 6.309573445e-07, 0.000301995172 },
                                { 8.317637711e-06, 6.309573445e-07, 9.120108394e-05, 1.318256739e-05 } };
    for (int c = 0; c < 2; c++) {
        double lr[100], loss[100];
        for (int i = 0; i < 100; i++) {
            const double x = -7 + 0.08 * i, d = x + 2.5;
            lr[i] = pow(10, x);
            loss[i] = c ? 1 - 0.2 * tanh(x + 4) + 0.001 * sin(7 * x) : d * d + 0.1 * sin(3 * x);
        }
        learner_rates r = { .n = c ? 45 : 100, .steps = 100, .lr = lr, .loss = loss };
        ag_learner_suggest(&r);
        const double got[4] = { r.valley, r.slide, r.steep, r.minimum };
        for (int i = 0; i < 4; i++)
            if (!(fabs(got[i] / want[c][i] - 1) < 1e-6))
                fail_msg("curve %d, suggestion %d: got %.8g, fastai %.8g", c, i, got[i], want[c][i]);
    }
}

/* ---- trackers ------------------------------------------------------------------------------------------ */

static learner_flow script(learner *l, learner_event e, void *state)       /* valid_loss as written */
{
    const double *values = state;
    if (e == LEARNER_AFTER_VALIDATE) l->valid_loss = values[l->epoch];
    if (e == LEARNER_BEFORE_EPOCH) ag_fill(nn_param_at(l->net, 0), l->epoch);
    return LEARNER_GO;
}

static void test_trackers(void **state)
{
    (void)state;
    AG_SCOPE;
    double values[8] = { 5, 4, 3, 3.5, 3.6, 3.7, 3.8, 3.9 };
    setup s = make(N, 160);
    optim *opt = optim_sgd(s.net, 1);
    learner *l = learner_new(s.train, s.valid, s.net, learner_mse, .opt = opt, .quiet = true);
    learner_add(l, (learner_callback){ .on = script, .state = values });
    learner_add(l, learner_keep_best());
    learner_add(l, learner_reduce_on_plateau(.patience = 2, .factor = 0.5));
    learner_add(l, learner_early_stopping(.patience = 4));
    learner_fit(l, 8, 1e-12);
    assert_int_equal(l->epoch, 7);                                  /* epochs 3, 4, 5, 6 without a gain */
    assert_true(fabs(ag_at(nn_param_at(s.net, 0), 0, 0) - 2) < 1e-6);       /* the weights of epoch 2 */
    assert_true(fabs(optim_lr(opt, 0) / 0.5e-12 - 1) < 1e-6);
}

/* ---- fine_tune ----------------------------------------------------------------------------------------- */

static learner_flow note_rates(learner *l, learner_event e, void *state)
{
    double (*seen)[2] = state;
    const int phase = l->epochs == 1 ? 0 : 1;
    if (e == LEARNER_AFTER_STEP)
        for (int g = 0; g < 2; g++) seen[phase][g] = fmax(seen[phase][g], optim_lr(l->opt, g));
    if (e == LEARNER_BEFORE_BATCH && phase == 0 && nn_param_at(l->net, 0)->requires_grad) fail_msg("the body is not frozen");
    return LEARNER_GO;
}

static void test_fine_tune(void **state)
{
    (void)state;
    AG_SCOPE;
    double seen[2][2] = { { 0 } };
    setup s = make(N, 8);
    optim *opt = optim_adamw(s.net, 1e-3, .groups = OPTIM_GROUPS({ .params = "0.*" }));
    learner *l = learner_new(s.train, s.valid, s.net, learner_mse, .opt = opt, .quiet = true);
    learner_add(l, (learner_callback){ .on = note_rates, .state = seen });
    learner_fine_tune(l, 3, 1e-2);
    assert_true(fabs(seen[0][1] / 1e-2 - 1) < 1e-2 && fabs(seen[0][0] / 1e-3 - 1) < 1e-2);
    assert_true(fabs(seen[1][1] / 5e-3 - 1) < 1e-2 && fabs(seen[1][0] / 5e-5 - 1) < 1e-2);
    assert_true(nn_param_at(s.net, 0)->requires_grad);
    assert_int_equal(optim_steps(opt), 3 * 20);     /* the state of the frozen part was emptied */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_learns),
        cmocka_unit_test(test_validation_weighs_by_samples),
        cmocka_unit_test(test_predictions_in_order),
        cmocka_unit_test(test_accumulated_steps_equal_large_batches),
        cmocka_unit_test(test_options_are_checked),
        cmocka_unit_test(test_events_and_cancelling),
        cmocka_unit_test(test_cancelled_gradients_are_dropped),
        cmocka_unit_test(test_steps_do_not_allocate),
        cmocka_unit_test(test_nan_is_named_and_kept_out),
        cmocka_unit_test(test_metrics_by_hand),
        cmocka_unit_test(test_log_has_the_columns),
        cmocka_unit_test(test_lr_find_leaves_no_trace),
        cmocka_unit_test(test_suggestions_are_fastais),
        cmocka_unit_test(test_trackers),
        cmocka_unit_test(test_fine_tune),
        cmocka_unit_test(test_resume_gives_the_same_bits),
        cmocka_unit_test(test_wrong_checkpoints),
    };
    if (!mkdtemp(folder)) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
