/* tests/test_models.c - whole models: their first 100 losses are PyTorch's, from the same weights on the same batches
 * (tests/make_training.py), with dense gradients and with rows; and the two matrix products agree. */
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
#include "ops/gemm.h"

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

/* Odd sizes, all four ways to transpose, with and without adding, bias and activation: both against sums in double. */
static void test_both_matrix_products_are_right(void **state)
{
    (void)state;
    const int64_t sizes[][3] = { { 1, 1, 1 }, { 7, 33, 65 }, { 64, 100, 177 }, { 31, 257, 300 } };
    for (int s = 0; s < 4; s++)
        for (int way = 0; way < 16; way++) {
            AG_SCOPE;
            const int64_t n = sizes[s][0], m = sizes[s][1], k = sizes[s][2];
            const ag_tensor *a = ag_randn(n, k), *b = ag_randn(k, m), *bias = ag_randn(m);
            ag_tensor *c = ag_randn(n, m), *before = ag_zeros(n, m);
            ag_copy(before, c);
            ag_gemm g = { .batch = 1, .n = n, .m = m, .k = k, .a = ag_real(a), .b = ag_real(b), .c = ag_real(c), .c_row = m,
                          .a_row = way & 1 ? 1 : k, .a_col = way & 1 ? n : 1, .b_row = way & 2 ? 1 : m,
                          .b_col = way & 2 ? k : 1, .add = way & 4, .bias = way & 8 ? ag_real(bias) : NULL,
                          .activation = way & 8 ? AG_LINEAR_RELU : AG_LINEAR_PLAIN };
            for (int portable = 0; portable < 2; portable++) {
                ag_copy(c, before);
                if (portable) ag_gemm_portable(&g);
                else if (!ag_gemm_onednn(&g)) continue;
                for (int64_t i = 0; i < n * m; i++) {
                    const int64_t r = i / m, q = i % m;
                    double sum = (g.add ? (double)ag_real(before)[i] : 0) + (g.bias ? (double)g.bias[q] : 0);
                    for (int64_t e = 0; e < k; e++)
                        sum += (double)g.a[r * g.a_row + e * g.a_col] * (double)g.b[e * g.b_row + q * g.b_col];
                    if (g.activation == AG_LINEAR_RELU) sum = fmax(sum, 0);
                    if (!(fabs((double)ag_real(c)[i] - sum) < 1e-4))
                        fail_msg("%s, size %d, way %d: got %g, want %g", portable ? "portable" : "oneDNN", s, way,
                                 (double)ag_real(c)[i], sum);
                }
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_first_100_losses_are_pytorchs),
        cmocka_unit_test(test_both_matrix_products_are_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
