/* A learner of pictures: the model's normalisation, fine-tuning from a checkpoint, sizes that a model does not take. */
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

static char folder[] = "/tmp/agrad-vision-XXXXXX";

static const char *in_folder(const char *name)
{
    static char path[300];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* 16 pictures of 32 x 32 in two classes, grey 100 and 200. */
static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder)) return 1;
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

static int remove_folder(void **state)
{
    char command[300];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
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
    assert_int_equal(nn_param(l->net, "fc.weight")->shape[0], 3);
    learner_fine_tune(l, 1, 1e-3);
    assert_true(isfinite(l->valid_loss));
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
    assert_non_null(strstr(ag_error(), "takes images of 224 x 224, the loaders give 32 x 32"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pictures_are_normalised_for_the_model), cmocka_unit_test(test_fine_tuning_a_checkpoint),
        cmocka_unit_test(test_refusals),
    };
#ifndef AG_HAVE_STB
    printf("SKIP: this build has no stb_image\n");
    return 0;
#endif
    ag_init(.seed = 1);
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
