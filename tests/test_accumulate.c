/* Image models on batches that are computed in pieces, by .accumulate and by .fit_memory, beside whole ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "agrad.h"
#include "core/op.h"

enum { SAMPLES = 192, BATCH = 64, SIDE = 32, CLASSES = 5, EPOCHS = 2, STEPS = EPOCHS * SAMPLES / BATCH, LIMIT = 28000000 };

/* Noise, brighter with the class. */
static data_set *images(void)
{
    ag_manual_seed(2);
    ag_tensor *x = ag_randn(SAMPLES, SIDE, SIDE, 3);
    int64_t class[SAMPLES];
    for (int64_t i = 0; i < SAMPLES; i++) {
        class[i] = i % CLASSES;
        for (int64_t k = 0; k < SIDE * SIDE * 3; k++) ag_real(x)[i * SIDE * SIDE * 3 + k] += (real)(0.3 * (double)class[i]);
    }
    return data_from_tensors(x, ag_from(AG_I64, class, SAMPLES));
}

typedef struct { learner *l; double loss[STEPS], first; ag_tensor *before[512]; int64_t cut; } course;

/* The loss of a step is the mean over its batches, which are of one size. */
static learner_flow note(learner *l, learner_event e, void *state)
{
    course *c = state;
    if (e == LEARNER_AFTER_LOSS && l->x->shape[0] < data_batch_size(l->train)) c->cut++;
    if (e == LEARNER_AFTER_BACKWARD) c->loss[l->step] += l->batch_loss * (double)data_batch_size(l->train) / BATCH;
    return LEARNER_GO;
}

static void train(course *c, const char *name, int64_t batch, learner_opts o, int64_t limit)
{
    data_loader *loader = data_loader_new(images(), batch, .shuffle = true, .seed = 4);
    ag_manual_seed(7);
    nn_module *net = model_create(name, .classes = CLASSES, .size = SIDE);
    const int64_t n = nn_param_count(net);
    assert_true(n < 512);
    for (int64_t i = 0; i < n; i++) {
        const ag_tensor *p = nn_param_at(net, i);
        c->before[i] = ag_empty_(AG_HERE, p->dtype, ag_shape_of(p));
        ag_copy(c->before[i], p);
    }
    o.quiet = true;
    o.opt = optim_adamw(net, 1e-3, .weight_decay = 0.05, .eps = 1e-5);
    c->l = ag_learner_new_(AG_HERE, loader, NULL, net, learner_cross_entropy, o);
    learner_add(c->l, (learner_callback){ .on = note, .state = c });
    ag_memory_trim();
    if (limit) ag_memory_limit(ag_memory(AG_CPU).held + limit);
    learner_fit_one_cycle(c->l, EPOCHS, 1e-3);
    ag_memory_limit(0);
    assert_int_equal(c->l->step, STEPS);
}

static void assert_close(const course *a, const course *b, double loss, double weight)
{
    double far = 0, moved = 0;
    for (int i = 0; i < STEPS; i++)
        if (!(fabs(a->loss[i] - b->loss[i]) <= loss)) fail_msg("step %d: losses %.9g and %.9g", i, a->loss[i], b->loss[i]);
    assert_true(a->loss[STEPS - 1] < a->loss[0] - 0.05);
    for (int64_t i = 0; i < nn_param_count(a->l->net); i++) {
        const ag_tensor *p = nn_param_at(a->l->net, i), *q = nn_param_at(b->l->net, i);
        for (int64_t k = 0; k < ag_numel(p); k++) {
            far = fmax(far, fabs((double)ag_real(p)[k] - (double)ag_real(q)[k]));
            moved = fmax(moved, fabs((double)ag_real(p)[k] - (double)ag_real(a->before[i])[k]));
        }
    }
    printf("weights moved by %.3g and are %.3g apart\n", moved, far);
    assert_true(far <= weight && moved > 100 * weight);
}

static void test_four_batches_of_16_are_one_of_64(void **state)
{
    const char *const names[] = { "convnext_atto", "vit_tiny_patch16_224" };
    (void)state;
    for (int k = 0; k < 2; k++) {
        AG_SCOPE;
        course whole = { 0 }, parts = { 0 };
        train(&whole, names[k], BATCH, (learner_opts){ 0 }, 0);
        train(&parts, names[k], BATCH / 4, (learner_opts){ .accumulate = 4 }, 0);
        assert_close(&whole, &parts, 1e-5, 1e-6);
    }
}

static void too_large(void *unused)
{
    course c = { 0 };
    (void)unused;
    AG_SCOPE;
    train(&c, "convnext_atto", BATCH, (learner_opts){ 0 }, LIMIT);
}

static void test_batches_are_cut_to_fit(void **state)
{
    (void)state;
    AG_SCOPE;
    course whole = { 0 }, parts = { 0 };
    train(&whole, "convnext_atto", BATCH, (learner_opts){ 0 }, 0);
    assert_int_equal(ag_try(too_large, NULL), 1);
    ag_memory_limit(0);
    assert_non_null(strstr(ag_error(), "out of memory"));
    train(&parts, "convnext_atto", BATCH, (learner_opts){ .fit_memory = true }, LIMIT);
    assert_true(whole.cut == 0 && parts.cut >= 2 * STEPS);
    assert_close(&whole, &parts, 1e-4, 1e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_four_batches_of_16_are_one_of_64),
        cmocka_unit_test(test_batches_are_cut_to_fit),
    };
    ag_init(.seed = 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
