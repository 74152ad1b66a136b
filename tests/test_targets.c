/* Several targets of one learner: losses, metrics and the log, against numbers worked out here from the logits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agrad.h"
#include "core/io.h"

enum { N = 6, CLASSES = 5 };        /* 2 diseases, 3 varieties */
static const real logits[N * CLASSES] = { 2, -1, 0, 1, 0.5f, 0, 3, 1, 1, -2, -1, 0, 2, 0, 0,
                                          1, 0.5f, 0, 0, 4, 0, 1, -1, 2, 0, 5, 0, 0, 0.25f, 3 };
static const int64_t classes[N * 2] = { 0, 1, 0, 0, 1, 0, 0, 2, 1, 2, 0, 2 };
static const data_targets two = { .n = 2, .target = {
    { .name = "disease", .kind = DATA_TARGET_CATEGORY, .classes = 2, .column = 0, .columns = 1 },
    { .name = "variety", .kind = DATA_TARGET_CATEGORY, .classes = 3, .column = 1, .columns = 1 } } };

/* The net gives its input back, times 1. */
static learner *make(double smoothing, const char *log)
{
    ag_tensor *x = ag_from(AG_F32, logits, N, CLASSES), *y = ag_from(AG_I64, classes, N, 2);
    data_set *s = data_from_tensors(x, y);
    nn_module *net = nn_linear(CLASSES, CLASSES);
    ag_tensor *w = nn_param(net, "weight"), *b = nn_param(net, "bias");
    ag_fill(b, 0), ag_fill(w, 0);
    for (int i = 0; i < CLASSES; i++) ((real *)w->data)[i * CLASSES + i] = 1;
    return learner_new(data_loader_new(s, N), data_loader_new(s, 4), net, NULL, .targets = two, .target_weights = { 1, 0.5 },
                       .metrics = { learner_error_rate, learner_f1 }, .label_smoothing = smoothing, .log = log, .quiet = true);
}

static double cross_entropy(int row, int first, int n, int64_t target, double smoothing)
{
    double sum = 0, mean = 0;
    const real *x = logits + row * CLASSES + first;
    for (int i = 0; i < n; i++) sum += exp((double)x[i]);
    for (int i = 0; i < n; i++) mean += (log(sum) - (double)x[i]) / n;
    return (1 - smoothing) * (log(sum) - (double)x[target]) + smoothing * mean;
}

static void test_losses_and_metrics(void **state)
{
    (void)state;
    for (double smoothing = 0; smoothing < 0.3; smoothing += 0.2) {
        AG_SCOPE;
        double loss[2] = { 0 };
        learner *l = make(smoothing, NULL);
        for (int i = 0; i < N; i++) {
            loss[0] += cross_entropy(i, 0, 2, classes[2 * i], smoothing) / N;
            loss[1] += cross_entropy(i, 2, 3, classes[2 * i + 1], smoothing) / N;
        }
        assert_true(fabs(learner_validate(l, NULL) - (loss[0] + 0.5 * loss[1])) < 1e-6);
        const char *const names[] = { "disease_error", "variety_error", "disease_f1", "variety_f1", "disease_loss",
                                      "variety_loss" };
        assert_int_equal(l->n_metrics, 6);
        for (int i = 0; i < 6; i++) assert_string_equal(l->metrics[i].name, names[i]);
        /* diseases said: 0 1 1 0 1 0, true: 0 0 1 0 1 0. varieties said: 1 0 0 2 1 2, true: 1 0 0 2 2 2 */
        assert_true(fabs(l->metric[0] - 1.0 / 6) < 1e-12 && fabs(l->metric[1] - 1.0 / 6) < 1e-12);
        assert_true(fabs(l->metric[2] - (6.0 / 7 + 4.0 / 5) / 2) < 1e-12);
        assert_true(fabs(l->metric[3] - (1 + 2.0 / 3 + 4.0 / 5) / 3) < 1e-12);
        assert_true(fabs(l->metric[4] - loss[0]) < 1e-6 && fabs(l->metric[5] - loss[1]) < 1e-6);
    }
}

static void test_columns_of_the_log(void **state)
{
    char path[] = "/tmp/agrad-targets-XXXXXX";
    (void)state;
    close(mkstemp(path));
    {
        AG_SCOPE;
        learner *l = make(0, path);
        learner_fit(l, 2, 1e-3);
        assert_true(l->train_loss > 0 && isfinite(l->train_loss));
    }
    AG_SCOPE;
    const ag_bytes b = ag_read_file(path);
    const char head[] = "epoch,train_loss,valid_loss,disease_error,variety_error,disease_f1,variety_f1,disease_loss,"
                        "variety_loss,seconds\n";
    assert_true(b.size > (int64_t)sizeof head && !memcmp(b.data, head, sizeof head - 1));
    unlink(path);
}

static double softmax(const real *x, int n, int c)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)x[i]);
    return exp((double)x[c]) / sum;
}

/* The samples once as they are and once doubled stand for the plain and the varied ones. */
static void test_test_time_augmentation(void **state)
{
    (void)state;
    AG_SCOPE;
    real twice[N * CLASSES];
    for (int i = 0; i < N * CLASSES; i++) twice[i] = 2 * logits[i];
    learner *l = make(0, NULL);
    ag_tensor *y = ag_from(AG_I64, classes, N, 2);
    data_loader *varied = data_loader_new(data_from_tensors(ag_from(AG_F32, twice, N, CLASSES), y), 4);
    const ag_tensor *mean = learner_tta(l, l->valid, varied, .n = 3), *most = learner_tta(l, l->valid, varied, .use_max = true);
    const ag_tensor *own = learner_tta(l, l->valid, varied, .beta = 0.5);
    for (int i = 0; i < N; i++)
        for (int c = 0; c < CLASSES; c++) {
            const int first = c < 2 ? 0 : 2, n = c < 2 ? 2 : 3;
            const double plain = softmax(logits + i * CLASSES + first, n, c - first);
            const double other = softmax(twice + i * CLASSES + first, n, c - first);
            const int64_t k = i * CLASSES + c;
            assert_true(fabs((double)((const real *)mean->data)[k] - (0.75 * other + 0.25 * plain)) < 1e-6);
            assert_true(fabs((double)((const real *)own->data)[k] - (0.5 * other + 0.5 * plain)) < 1e-6);
            assert_true(fabs((double)((const real *)most->data)[k] - fmax(other, plain)) < 1e-6);
        }
}

/* 0 is the default, 1; a negative weight measures without learning. */
static void test_weights_of_targets(void **state)
{
    (void)state;
    AG_SCOPE;
    const double weights[3][2] = { { 1, 0 }, { 1, -1 }, { 3, 0.5 } }, counts[3][2] = { { 1, 1 }, { 1, 0 }, { 3, 0.5 } };
    learner *same = make(0, NULL);
    for (int k = 0; k < 3; k++) {
        learner *l = learner_new(same->train, same->valid, same->net, NULL, .targets = two,
                                 .target_weights = { weights[k][0], weights[k][1] }, .quiet = true);
        const double loss = learner_validate(l, NULL);
        assert_true(fabs(loss - counts[k][0] * l->metric[2] - counts[k][1] * l->metric[3]) < 1e-5);
        assert_true(l->metric[3] > 0.1);
    }
}

static void nothing_to_learn(void *unused)
{
    (void)unused;
    learner *same = make(0, NULL);
    assert_non_null(learner_new(same->train, NULL, same->net, NULL, .targets = two, .target_weights = { -1, -1 }));
}

static void get_none(data_sample *s) { s->bad = true; }

static void validate_none(void *unused)
{
    (void)unused;
    learner *same = make(0, NULL);
    data_set *none = data_from_function(8, get_none, .x = AG_SHAPE(CLASSES), .has_y = true, .y_dtype = AG_I64, .y = AG_SHAPE(2));
    learner_validate(same, data_loader_new(none, 4));
}

/* Sample 2 of each batch of 4 cannot be had, nor can the whole second batch. */
static void get_some(data_sample *s)
{
    s->bad = s->row == 2 || s->row / 4 == 1;
    for (int i = 0; i < CLASSES; i++) ((real *)s->x)[i] = (real)(s->row + i);
}

static void test_samples_that_cannot_be_had(void **state)
{
    (void)state;
    assert_int_equal(ag_try(validate_none, NULL), 1);
    assert_non_null(strstr(ag_error(), "none of the loader's 8 samples can be had"));
    for (int workers = 0; workers < 3; workers++) {
        AG_SCOPE;
        learner *l = make(0, NULL);
        data_set *some = data_from_function(10, get_some, .x = AG_SHAPE(CLASSES));
        const ag_tensor *p = learner_predict(l, data_loader_new(some, 4, .workers = workers));
        for (int i = 0; i < 10; i++) {
            const real v = ((const real *)p->data)[i * CLASSES + 1];
            if (i == 2 || i / 4 == 1) assert_true(isnan(v));
            else assert_true(v == (real)(i + 1));
        }
    }
}

static void test_ensemble(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *p[] = { ag_full(0.25, 3, 2), ag_full(0.75, 3, 2) };
    assert_true(fabs((double)((const real *)learner_ensemble(2, p, NULL)->data)[0] - 0.5) < 1e-6);
    assert_true(fabs((double)((const real *)learner_ensemble(2, p, ((double[]){ 3, 1 }))->data)[5] - 0.375) < 1e-6);
}

static void three_outputs(void *unused)
{
    (void)unused;
    ag_tensor *x = ag_from(AG_F32, logits, N, CLASSES), *y = ag_from(AG_I64, classes, N, 2);
    data_set *s = data_from_tensors(x, y);
    learner *l = learner_new(data_loader_new(s, N), NULL, nn_linear(CLASSES, 3), NULL, .targets = two, .quiet = true);
    learner_fit(l, 1, 1e-3);
}

static void test_refusals(void **state)
{
    (void)state;
    assert_int_equal(ag_try(three_outputs, NULL), 1);
    assert_non_null(strstr(ag_error(), "the targets take an output [N, 5], the net's is f32[6, 3]"));
    assert_int_equal(ag_try(nothing_to_learn, NULL), 1);
    assert_non_null(strstr(ag_error(), "no target is learned"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_losses_and_metrics), cmocka_unit_test(test_columns_of_the_log),
        cmocka_unit_test(test_test_time_augmentation), cmocka_unit_test(test_weights_of_targets),
        cmocka_unit_test(test_samples_that_cannot_be_had), cmocka_unit_test(test_ensemble), cmocka_unit_test(test_refusals),
    };
    ag_init(.seed = 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
