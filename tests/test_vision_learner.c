/* A learner of pictures: the model's normalisation, fine-tuning from a checkpoint, fastai's head, mixed
 * batches, growing pictures, sizes that a model does not take. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agrad.h"
#include "core/io.h"
#include "core/op.h"
#include "tests/folder.h"

/* 16 pictures of 32 x 32 in two classes, grey 100 and 200. */
static int make_folder(void **state)
{
    (void)state;
    if (!make_own_folder()) return 1;
    for (int i = 0; i < 16; i++) {
        AG_SCOPE;
        static uint8_t pixels[3 * 32 * 32];
        const data_image image = { 32, 32, pixels };
        char name[64];
        memset(pixels, i % 2 ? 200 : 100, sizeof pixels);
        snprintf(name, sizeof name, "leaves/%c", i % 2 ? 'b' : 'a');
        ag_make_folder(in_folder(name));
        snprintf(name, sizeof name, "leaves/%c/%02d.png", i % 2 ? 'b' : 'a', i);
        data_image_write(in_folder(name), &image);
    }
    return 0;
}

static data_loaders leaves(data_stats stats)
{
    return data_image_folder(in_folder("leaves"), .normalize = stats, .loaders = { .batch = 4 });
}

static double first_value(data_loader *l)
{
    double value = NAN;
    DATA_EACH(b, l) {
        if (b.index == 0) value = (double)((const real *)b.x->data)[1] * (((const int64_t *)b.y->data)[0] ? 1 : 2);
    }
    return value;
}

/* Green of class b, (200 / 255 - mean) / std; twice that of class a is another number. */
static void test_pictures_are_normalised_for_the_model(void **state)
{
    (void)state;
    AG_SCOPE;
    data_loaders d = leaves((data_stats){ { 0 }, { 0 } }), own = leaves((data_stats){ { 0.5f, 0.5f, 0.5f }, { 2, 2, 2 } });
    assert_non_null(vision_learner(&d, "resnet10t", .learner = { .quiet = true }));
    assert_non_null(vision_learner(&own, "resnet10t", .learner = { .quiet = true }));
    const double b = (200 / 255.0 - 0.456) / 0.224, a = 2 * (100 / 255.0 - 0.456) / 0.224, got = first_value(d.valid);
    assert_true(fabs(got - b) < 1e-5 || fabs(got - a) < 1e-5);
    const double kept = first_value(own.valid);
    assert_true(fabs(kept - (200 / 255.0 - 0.5) / 2) < 1e-6 || fabs(kept - (100 / 255.0 - 0.5)) < 1e-6);
}

/* The file has the state of an optimizer and another classifier; body and head are groups. */
static void test_fine_tuning_a_checkpoint(void **state)
{
    char path[300];
    (void)state;
    AG_SCOPE;
    data_loaders d = leaves((data_stats){ { 0 }, { 0 } });
    snprintf(path, sizeof path, "%s", in_folder("net.safetensors"));
    learner *from = vision_learner(&d, "resnet10t", .learner = { .quiet = true });
    learner_add(from, learner_ema(.decay = 0.5));
    learner_fit(from, 1, 1e-3);
    learner_save(from, path, 0, NULL);
    data_targets three = d.targets;
    three.target[0].classes = 3;
    data_loaders e = d;
    e.targets = three;
    learner *l = vision_learner(&e, "resnet10t", .weights = path, .learner = { .quiet = true });
    assert_int_equal(optim_groups(l->opt), 2);
    const ag_tensor *a = nn_param(from->net, "conv1.0.weight"), *b = nn_param(l->net, "conv1.0.weight");
    assert_memory_equal(a->data, b->data, (size_t)ag_numel(a) * sizeof(real));
    assert_int_equal(nn_param(l->net, "fc.7.weight")->shape[0], 3);
    learner_fine_tune(l, 1, 1e-3);
    assert_true(isfinite(l->valid_loss));
}

/* ---- fastai's head ----------------------------------------------------------------------------------------- */

/* What batch norm makes of v in evaluation. */
static void normalise(nn_module *net, const char *name, double *v, int64_t n)
{
    const char *const part[] = { "weight", "bias", "running_mean", "running_var" };
    const real *p[4];
    for (int k = 0; k < 4; k++) {
        char path[64];
        snprintf(path, sizeof path, "fc.%s.%s", name, part[k]);
        p[k] = ag_real(nn_param(net, path));
    }
    for (int64_t i = 0; i < n; i++)
        v[i] = (v[i] - (double)p[2][i]) / sqrt((double)p[3][i] + 1e-5) * (double)p[0][i] + (double)p[1][i];
}

static void multiply(const ag_tensor *w, const double *v, double *out)
{
    for (int64_t o = 0; o < w->shape[0]; o++) {
        out[o] = 0;
        for (int64_t i = 0; i < w->shape[1]; i++) out[o] += (double)ag_real(w)[o * w->shape[1] + i] * v[i];
    }
}

/* The largest and the mean of each channel of a map [h, w, C], the largest first as in fastai's AdaptiveConcatPool2d. */
static void pool(const ag_tensor *map, double *v)
{
    const int64_t c = map->shape[3], places = map->shape[1] * map->shape[2];
    for (int64_t i = 0; i < c; i++) {
        v[i] = -INFINITY, v[c + i] = 0;
        for (int64_t p = 0; p < places; p++) {
            const double x = (double)ag_real(map)[p * c + i];
            v[i] = fmax(v[i], x), v[c + i] += x / (double)places;
        }
    }
}

/* Layer by layer from the body's map, with statistics that are not the first ones. */
static void test_fastais_head(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = model_create("resnet10t", .classes = 4, .size = 64);
    model_use_fastai_head(net, 5);
    assert_float_equal(ag_real(nn_param(net, "fc.1.bias"))[0], 1e-3, 1e-9);
    nn_init_uniform(nn_param(net, "fc.1.running_mean"), -0.1, 0.1);
    nn_init_uniform(nn_param(net, "fc.1.running_var"), 0.5, 2);
    nn_init_uniform(nn_param(net, "fc.5.weight"), 0.5, 2);
    ag_tensor *x = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(1, 64, 64, 3)), *map, *got;
    nn_init_normal(x, 0, 1);
    NN_EVAL(net);
    map = model_forward_features(net, x);
    got = nn_call(net, x);
    static double v[2][1024];
    pool(map, v[0]);
    normalise(net, "1", v[0], 1024);
    multiply(nn_param(net, "fc.3.weight"), v[0], v[1]);
    for (int i = 0; i < 512; i++) v[1][i] = fmax(v[1][i], 0);
    normalise(net, "5", v[1], 512);
    multiply(nn_param(net, "fc.7.weight"), v[1], v[0]);
    assert_int_equal(got->shape[1], 5);
    for (int i = 0; i < 5; i++) assert_float_equal(ag_real(got)[i], v[0][i], 1e-4);
}

/* Tokens have no map to pool; the head is the last group. */
static void test_fastais_head_on_tokens(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = model_create("vit_tiny_patch16_224", .classes = 4, .size = 32);
    model_use_fastai_head(net, 3);
    assert_int_equal(nn_param(net, "head.3.weight")->shape[1], 192);
    assert_true(nn_match(model_group(net, 1, 2), "head.7.weight") && !nn_match(model_group(net, 0, 2), "head.7.weight"));
    ag_tensor *y = nn_call(net, ag_full(0.1, 2, 32, 32, 3));
    assert_true(y->shape[0] == 2 && y->shape[1] == 3);
    nn_reset_classifier(net, 6);
    assert_int_equal(nn_param(net, "head.weight")->shape[0], 6);
    assert_int_equal(nn_call(net, ag_full(0.1, 2, 32, 32, 3))->shape[1], 6);
}

/* ---- mixing and sizes ------------------------------------------------------------------------------------- */

typedef struct { ag_tensor *x, *y; double loss, want; int64_t side; int mixed; bool cut; } seen;

/* Pictures of one grey: a mixed one is lambda g + (1 - lambda) g', so that its values tell lambda where g differs from g'; the
 * loss of constant logits is -log p of either class, shared in the same way. */
static learner_flow watch(learner *l, learner_event event, void *state)
{
    seen *s = state;
    const double low = (100 / 255.0 - 0.485) / 0.229, high = (200 / 255.0 - 0.485) / 0.229;
    if (event == LEARNER_AFTER_PRED) {
        const int64_t n = l->x->shape[0], size = ag_numel(l->x) / n;
        ag_tensor *logp = ag_log_softmax(ag_detach(l->pred), 1);
        s->want = 0, s->side = l->x->shape[1];
        for (int64_t i = 0; i < n; i++) {
            double mean = 0;
            for (int64_t k = 0; k < size; k += 3) mean += (double)ag_real(l->x)[i * size + k] / (double)(size / 3);
            const double b = (mean - low) / (high - low);       /* the share of class b */
            s->mixed += b > 1e-4 && b < 1 - 1e-4;
            s->want -= (b * (double)ag_real(logp)[2 * i + 1] + (1 - b) * (double)ag_real(logp)[2 * i]) / (double)n;
            const real *p = ag_real(l->x) + i * size;
            s->cut |= p[0] != p[size / 2] || p[0] != p[size - 3];
        }
    }
    if (event == LEARNER_AFTER_LOSS) s->loss = l->batch_loss, assert_float_equal(s->loss, s->want, 1e-4);
    return LEARNER_GO;
}

static void mixed_by(learner_callback mixer, bool cuts)
{
    AG_SCOPE;
    seen s = { 0 };
    data_loaders d = leaves((data_stats){ { 0 }, { 0 } });
    learner *l = vision_learner(&d, "resnet10t", .learner = { .quiet = true });
    learner_add(l, mixer);
    learner_add(l, (learner_callback){ .on = watch, .state = &s });
    learner_fit(l, 6, 1e-4);
    assert_true(s.mixed > 4);
    assert_int_equal(s.cut, cuts);
}

static void test_mixup_and_cutmix(void **state)
{
    (void)state;
    mixed_by(learner_mixup(), false);
    mixed_by(learner_cutmix(), true);
}

typedef struct { int64_t side[8]; } sides;
static learner_flow note_side(learner *l, learner_event event, void *state)
{
    if (event == LEARNER_BEFORE_BATCH) ((sides *)state)->side[l->epoch] = l->x->shape[1];
    return LEARNER_GO;
}

static void test_progressive_sizes(void **state)
{
    (void)state;
    AG_SCOPE;
    sides s = { { 0 } };
    data_loaders d = leaves((data_stats){ { 0 }, { 0 } });
    learner *l = vision_learner(&d, "resnet10t", .learner = { .quiet = true });
    learner_add(l, learner_sizes(&d, .first = 32, .last = 72, .multiple = 8));
    learner_add(l, (learner_callback){ .on = note_side, .state = &s });
    learner_fit(l, 5, 1e-4);
    static const int64_t want[] = { 32, 48, 56, 72, 72 };       /* 32 + 40 e / 3 to multiples of 8 */
    for (int e = 0; e < 5; e++) assert_int_equal(s.side[e], want[e]);
}

static void two_classifiers(void *unused)
{
    (void)unused;
    model_use_fastai_head(model_create("deit_tiny_distilled_patch16_224"), 3);
}

static void mixing_with_a_loss(void *unused)
{
    (void)unused;
    data_loaders d = leaves((data_stats){ { 0 }, { 0 } });
    learner *l = learner_new(d.train, NULL, model_create("resnet10t", .classes = 2), learner_cross_entropy, .quiet = true);
    learner_add(l, learner_mixup());
    learner_fit(l, 1, 1e-3);
}

static void fixed_size(void *unused)
{
    (void)unused;
    data_loaders d = leaves((data_stats){ { 0 }, { 0 } });
    assert_non_null(vision_learner(&d, "swin_tiny_patch4_window7_224", .learner = { .quiet = true }));
}

static void test_refusals(void **state)
{
    (void)state;
    assert_int_equal(ag_try(fixed_size, NULL), 1);
    assert_non_null(strstr(ag_error(), "cannot be cut into windows of 7 tokens"));
    assert_int_equal(ag_try(two_classifiers, NULL), 1);
    assert_non_null(strstr(ag_error(), "has two classifiers"));
    assert_int_equal(ag_try(mixing_with_a_loss, NULL), 1);
    assert_non_null(strstr(ag_error(), "mix the losses of .targets"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pictures_are_normalised_for_the_model), cmocka_unit_test(test_fine_tuning_a_checkpoint),
        cmocka_unit_test(test_fastais_head), cmocka_unit_test(test_fastais_head_on_tokens),
        cmocka_unit_test(test_mixup_and_cutmix), cmocka_unit_test(test_progressive_sizes), cmocka_unit_test(test_refusals),
    };
#ifndef AG_HAVE_STB
    printf("SKIP: this build has no stb_image\n");
    return 0;
#endif
    ag_init(.seed = 1);
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
