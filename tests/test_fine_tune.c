/* learner_fine_tune beside fastai's, step by step (tests/make_fine_tune_fixtures.py). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "agrad.h"
#include "core/op.h"
#include "core/safetensors.h"

enum { IN = 5, WIDTH = 7, OUT = 2, BATCH = 8, GROUPS = 3, PARAMETERS = 10, STEPS = 16 };

typedef struct {
    int64_t n, n_first, first[STEPS];
    double lr[STEPS][GROUPS], momentum[STEPS];
    bool trained[STEPS][PARAMETERS];
} record;

static bool state_is_empty(optim *opt)
{
    for (int64_t i = 0; i < optim_state_count(opt); i++) {
        const ag_tensor *t = optim_state_at(opt, i).tensor;
        for (int64_t k = 0; k < ag_numel(t); k++)
            if (t->dtype == AG_I64 ? ((const int64_t *)t->data)[k] != 0 : ag_real(t)[k] != 0) return false;
    }
    return true;
}

static learner_flow note(learner *l, learner_event e, void *state)
{
    record *r = state;
    if (e != LEARNER_BEFORE_STEP) return LEARNER_GO;
    assert_true(r->n < STEPS && nn_param_count(l->net) == PARAMETERS && optim_groups(l->opt) == GROUPS);
    for (int g = 0; g < GROUPS; g++) r->lr[r->n][g] = optim_lr(l->opt, g);
    for (int64_t i = 0; i < PARAMETERS; i++) {
        const ag_tensor *p = nn_param_at(l->net, i);
        r->trained[r->n][i] = p->requires_grad && p->grad;
    }
    if (state_is_empty(l->opt)) r->first[r->n_first++] = r->n;
    r->momentum[r->n++] = optim_momentum(l->opt);
    return LEARNER_GO;
}

static const ag_tensor *get(const ag_safetensors *f, const char *name)
{
    return ag_safetensors_get_(AG_HERE, f, name);
}

static void assert_steps(const record *r, const ag_safetensors *f)
{
    const float *lr = get(f, "lr")->data, *momentum = get(f, "mom")->data, *trained = get(f, "trained")->data;
    const ag_tensor *first = get(f, "first");
    assert_true(get(f, "lr")->shape[0] == STEPS && get(f, "trained")->shape[1] == PARAMETERS);
    assert_int_equal(r->n, STEPS);
    for (int i = 0; i < STEPS; i++) {
        for (int g = 0; g < GROUPS; g++) {
            const double want = (double)*lr++;
            if (!(fabs(r->lr[i][g] - want) <= 1e-6 * want))
                fail_msg("step %d, group %d: a rate of %.9g, fastai %.9g", i, g, r->lr[i][g], want);
            assert_true(fabs(r->momentum[i] - (double)*momentum++) <= 1e-6);
        }
        for (int k = 0; k < PARAMETERS; k++)
            if (r->trained[i][k] != (*trained++ != 0)) fail_msg("step %d: parameter %d", i, k);
    }
    assert_int_equal(r->n_first, first->shape[0]);
    assert_memory_equal(r->first, first->data, (size_t)r->n_first * sizeof(int64_t));
}

static void assert_weights(const nn_module *net, const ag_safetensors *f)
{
    ag_named named[32];
    const int64_t n = nn_named_count(net);
    nn_to_named(net, named);
    for (int64_t i = 0; i < n; i++) {
        char name[64];
        snprintf(name, sizeof name, "end.%s", named[i].name);
        const ag_tensor *got = named[i].tensor, *want = get(f, name);
        if (got->dtype == AG_I64) {
            assert_memory_equal(got->data, want->data, (size_t)ag_numel(got) * sizeof(int64_t));
            continue;
        }
        for (int64_t k = 0; k < ag_numel(want); k++) {
            const double a = (double)ag_real(got)[k], b = (double)ag_real(want)[k];
            if (!(fabs(a - b) <= 1e-6)) fail_msg("%s[%d]: %.9g, fastai %.9g", name, (int)k, a, b);
        }
    }
}

static void test_every_step_is_fastais(void **state)
{
    (void)state;
    AG_SCOPE;
    const ag_safetensors *f = ag_safetensors_open_(AG_HERE, "tests/fixtures/fine_tune.safetensors");
    nn_module *first = nn_sequential(nn_linear(IN, WIDTH), nn_batch_norm1d(WIDTH), nn_relu());
    nn_module *second = nn_sequential(nn_linear(WIDTH, WIDTH), nn_layer_norm(WIDTH), nn_relu());
    nn_module *net = nn_sequential(first, second, nn_linear(WIDTH, OUT));
    nn_load_from(net, f, "start.", "");
    ag_tensor *x = ag_safetensors_get_(AG_HERE, f, "x"), *y = ag_safetensors_get_(AG_HERE, f, "y");
    data_loader *train = data_loader_new(data_from_tensors(x, y), BATCH);
    optim *opt = optim_adamw(net, 1e-3, .fastai = true, .groups = OPTIM_GROUPS({ .params = "0.*" }, { .params = "1.*" }));
    record r = { 0 };
    learner *l = learner_new(train, train, net, learner_mse, .opt = opt, .quiet = true);
    learner_add(l, (learner_callback){ .on = note, .state = &r });
    learner_fine_tune(l, 3, 2e-3);
    assert_steps(&r, f);
    assert_weights(net, f);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_every_step_is_fastais) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
