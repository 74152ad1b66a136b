/* tests/test_models.c - whole models: their first 100 losses are PyTorch's, from the same weights on the same batches
 * (tests/make_training.py), with dense gradients and with rows. */
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

enum { USERS = 60, ITEMS = 80, FACTORS = 12, STEPS = 100 };

static nn_module *make(const char *name, bool rows)
{
    if (!strcmp(name, "dot")) return model_dot(USERS, ITEMS, FACTORS, .sparse = rows);
    if (!strcmp(name, "bias")) return model_dot_bias(USERS, ITEMS, FACTORS, .lo = 0, .hi = 5.5, .sparse = rows);
    return model_embedding_nn(USERS, ITEMS, .layers = MODEL_LAYERS(20, 10), .lo = 0, .hi = 5.5, .sparse = rows);
}

static void follow_pytorch(const char *name, bool rows)
{
    AG_SCOPE;
    char path[128];
    snprintf(path, sizeof path, "tests/fixtures/training_%s.safetensors", name);
    const ag_safetensors *f = ag_safetensors_open(path);
    nn_module *net = make(name, rows);
    nn_load_from(net, f, "model.", NULL);
    optim *opt = optim_adamw(net, 1, .beta2 = 0.99, .eps = 1e-5, .weight_decay = 0.1);
    const optim_schedule lr = optim_one_cycle(2e-2), momentum = optim_one_cycle_momentum(0.95, 0.85, 0.95);
    ag_tensor *ids = ag_safetensors_get(f, "ids"), *ratings = ag_safetensors_get(f, "ratings");
    const ag_tensor *want = ag_safetensors_get(f, "losses");
    for (int64_t k = 0; k < STEPS; k++) {
        AG_SCOPE;
        optim_set_lr(opt, -1, optim_schedule_at(&lr, (double)k / STEPS));
        optim_set_momentum(opt, optim_schedule_at(&momentum, (double)k / STEPS));
        ag_tensor *loss = ag_mse_loss(nn_call(net, ag_select(ids, 0, k)), ag_select(ratings, 0, k));
        const double got = ag_item(loss), expected = ag_at(want, k);
        if (!(fabs(got / expected - 1) < 1e-4))
            fail_msg("%s%s, step %d: loss %.7g, PyTorch %.7g", name, rows ? " with rows" : "", (int)k, got, expected);
        ag_backward(loss);
        optim_step(opt);
    }
}

static void test_the_first_100_losses_are_pytorchs(void **state)
{
    (void)state;
    const char *const names[] = { "dot", "bias", "nn" };
    for (int k = 0; k < 3; k++)
        for (int rows = 0; rows < 2; rows++) follow_pytorch(names[k], rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_first_100_losses_are_pytorchs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
