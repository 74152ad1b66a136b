/* What a classifier gets wrong: counts and scores (sklearn's numbers), rankings, pictures; cross-entropy by numbers. */
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
#include "core/op.h"
#include "data/plot.h"
#include "tests/folder.h"

/* 15 pictures: 5 blast, 6 normal, 4 tungro, the first of each for training. */
static const char *const disease[] = { "blast", "normal", "tungro" };
static const int pictures_of[] = { 5, 6, 4 };

static int make_folder(void **state)
{
    (void)state;
    if (!make_own_folder()) return 1;
    for (int c = 0, n = 0; c < 3; c++)
        for (int i = 0; i < pictures_of[c]; i++, n++) {
            AG_SCOPE;
            static uint8_t pixels[3 * 24 * 32];
            char name[64];
            for (size_t k = 0; k < sizeof pixels; k++) pixels[k] = (uint8_t)(k % 3 == (size_t)c ? 220 : 40 + 10 * i);
            snprintf(name, sizeof name, "leaves/%s", disease[c]);
            ag_make_folder(in_folder(name));
            snprintf(name, sizeof name, "leaves/%s/%02d.png", disease[c], n);
            const data_image image = { 24, 32, pixels };
            data_image_write(in_folder(name), &image);
        }
    return 0;
}

static const char *parity(const char *path, void *unused)
{
    (void)unused;
    return (path[strlen(path) - 5] - '0') % 2 ? "odd" : "even";
}

static data_loaders leaves(void)
{
    static const int64_t held_out[] = { 1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 14 };
    data_block b = data_block_new(
        .blocks = { data_image_block(), data_category_block("disease"), data_category_block("parity") },
        .get_y = { data_parent_label(), data_function_label(parity, NULL) }, .splitter = data_index_splitter(held_out, 12));
    return data_block_loaders(&b, in_folder("leaves"), .batch = 3);
}

/* They are        0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2 */
static const int64_t said[] = { 0, 0, 1, 1, 1, 1, 1, 0, 2, 1, 1, 0 };

/* The class that is said has 0.7, or less sure as the rows go on; the parity is always right, with 0.9. Row 5 is missing
 * where `gap`. */
static ag_tensor *probabilities(bool gap)
{
    ag_tensor *p = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(12, 5));
    for (int64_t r = 0; r < 12; r++) {
        real *row = ag_real(p) + 5 * r;
        const double sure = 0.7 - 0.01 * (double)r;
        for (int64_t c = 0; c < 3; c++) row[c] = (real)(c == said[r] ? sure : (1 - sure) / 2);
        static const int number[] = { 1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 14 };
        row[3] = (real)(number[r] % 2 ? 0.1 : 0.9), row[4] = 1 - row[3];
        for (int64_t c = 0; gap && r == 5 && c < 5; c++) row[c] = NAN;
    }
    return p;
}

static void test_counts_and_scores(void **state)
{
    (void)state;
    AG_SCOPE;
    data_loaders d = leaves();
    const learner_interpretation i = learner_interpret_probabilities(&d.targets, d.valid, probabilities(false));
    static const int64_t want[] = { 2, 2, 0, 1, 3, 1, 1, 2, 0 };
    const int64_t *count = learner_confusion(&i, 0);
    for (int k = 0; k < 9; k++) assert_int_equal(count[k], want[k]);
    assert_float_equal(learner_error(&i, 0), 7 / 12.0, 1e-12);
    assert_float_equal(learner_error(&i, 1), 0, 0);
    /* sklearn 1.7, classification_report(zero_division=0) */
    static const double score[][3] = { { .5, .5, .5 }, { .428571, .6, .5 }, { 0, 0, 0 }, { .309524, .366667, .333333 },
                                       { .345238, .416667, .375 } };
    const learner_class_score *s = learner_class_report(&i, 0);
    for (int k = 0; k < 5; k++) {
        assert_float_equal(s[k].precision, score[k][0], 1e-6);
        assert_float_equal(s[k].recall, score[k][1], 1e-6);
        assert_float_equal(s[k].f1, score[k][2], 1e-6);
    }
    assert_int_equal(s[1].support, 5);
    assert_int_equal(s[4].support, 12);
    const learner_confused *c = learner_most_confused(&i, 0, 2);
    assert_true(c[0].count == 2 && c[0].actual == 0 && c[0].predicted == 1);
    assert_true(c[1].count == 2 && c[1].actual == 2 && c[1].predicted == 1);
    assert_int_equal(c[2].count, 0);
}

static void test_losses_and_verdicts(void **state)
{
    (void)state;
    AG_SCOPE;
    data_loaders d = leaves();
    const learner_interpretation i = learner_interpret_probabilities(&d.targets, d.valid, probabilities(true));
    assert_float_equal(i.loss[0][0], -log(0.7), 1e-6);
    assert_float_equal(i.loss[0][2], -log((1 - 0.68) / 2), 1e-6);
    assert_true(isnan(i.loss[0][5]) && i.predicted[1][5] == -1);
    assert_float_equal(learner_error(&i, 0), 7 / 11.0, 1e-12);
    /* Wrong rows are less sure as they go on, so their losses fall. */
    const int64_t *top = learner_top_losses(&i, -1, 3);
    assert_true(top[0] == 2 && top[1] == 3 && top[2] == 7 && top[3] == -1);
    const int64_t *all = learner_top_losses(&i, 0, 100);
    int n = 0;
    while (all[n] >= 0) n++;
    assert_int_equal(n, 11);
    assert_string_equal(learner_verdict(&i, 0, 0), "blast 0.70");
    assert_string_equal(learner_verdict(&i, 0, 3), "normal 0.67, is blast");
    assert_string_equal(learner_verdict(&i, 0, 5), "not read");
}

static void test_a_learner_and_pictures(void **state)
{
    (void)state;
    AG_SCOPE;
    data_loaders d = leaves();
    learner *l = vision_learner(&d, "resnet10t", .learner = { .quiet = true });
    learner_validate(l, NULL);
    const learner_interpretation i = learner_interpret(l, NULL);
    assert_float_equal(learner_error(&i, 0), l->metric[0], 1e-6);
    assert_float_equal(learner_error(&i, 1), l->metric[1], 1e-6);
    if (!data_plot_available()) return;
    learner_plot_confusion(&i, 0, in_folder("confusion.png"));
    learner_plot_top_losses(&i, -1, 6, in_folder("top.png"));
    char why[DATA_WHY];
    data_image_info info;
    assert_true(data_image_probe(in_folder("confusion.png"), &info, why) && info.width > 200);
    assert_true(data_image_probe(in_folder("top.png"), &info, why) && info.height > 200);
}

/* What `print` writes to stdout. */
static const char *printed(void (*print)(void))
{
    static char text[8192];
    fflush(stdout);
    const int kept = dup(STDOUT_FILENO);
    FILE *f = tmpfile();
    dup2(fileno(f), STDOUT_FILENO);
    print();
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    rewind(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    return text;
}

/* Five outputs, the second is right; numbers by PyTorch. */
static void explain(void)
{
    AG_SCOPE;
    static const char *const names[] = { "cat", "dog", "plane", "fish", "building" };
    ag_tensor *x = ag_from(AG_F32, ((real[]){ -4.89f, 2.6f, 0.59f, -2.07f, -4.57f }), 5), *t = ag_cast(ag_full(1, 1), AG_I64);
    const double loss = ag_explain_cross_entropy(x, t, .names = names);
    assert_float_equal(loss, 0.135133, 1e-5);
}

static void test_cross_entropy_by_numbers(void **state)
{
    (void)state;
    const char *text = printed(explain);
    assert_non_null(strstr(text, "class                         output         exp   softmax   target    -t log(p)\n"));
    assert_non_null(strstr(text, "dog                           2.6000     13.4637    0.8736        1       0.1351\n"));
    assert_non_null(strstr(text, "fish                         -2.0700      0.1262    0.0082        0       0.0000\n"));
    AG_SCOPE;
    ag_tensor *x = ag_from(AG_F32, ((real[]){ 1, 2, 3, 300, 0, 1 }), 2, 3), *t = ag_cast(ag_full(2, 2), AG_I64);
    const double want = ag_item(ag_cross_entropy(x, t));
    assert_float_equal(ag_explain_cross_entropy(x, t), want, 1e-4 * want);
}

static void no_such_target(void *i) { learner_error((learner_interpretation *)i, 2); }
static void wrong_shape(void *d)
{
    data_loaders *dls = d;
    (void)learner_interpret_probabilities(&dls->targets, dls->valid, ag_full(0, 12, 4));
}
static void wrong_class(void *unused)
{
    (void)unused;
    ag_explain_cross_entropy(ag_full(0, 3), ag_cast(ag_full(7, 1), AG_I64));
}

static void test_refusals(void **state)
{
    (void)state;
    AG_SCOPE;
    data_loaders d = leaves();
    learner_interpretation i = learner_interpret_probabilities(&d.targets, d.valid, probabilities(false));
    assert_int_equal(ag_try(no_such_target, &i), 1);
    assert_non_null(strstr(ag_error(), "there is no target 2; there are 0 .. 1"));
    assert_int_equal(ag_try(wrong_shape, &d), 1);
    assert_non_null(strstr(ag_error(), "are [12, 5], got 12 rows of 4"));
    assert_int_equal(ag_try(wrong_class, NULL), 1);
    assert_non_null(strstr(ag_error(), "target[0] is class 7 of 3"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_and_scores), cmocka_unit_test(test_losses_and_verdicts),
        cmocka_unit_test(test_a_learner_and_pictures), cmocka_unit_test(test_cross_entropy_by_numbers),
        cmocka_unit_test(test_refusals),
    };
#ifndef AG_HAVE_STB
    printf("SKIP: this build has no stb_image\n");
    return 0;
#endif
    ag_init(.seed = 1);
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
