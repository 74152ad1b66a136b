/* Optimizers against PyTorch and fastai; lazy AdamW against dense AdamW; groups, clipping, freezing, state. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "core/memory.h"
#include "nn/nn.h"
#include "ops/ops.h"
#include "optim/optim.h"
#include "optim/schedule.h"
#include "tests/optim_expected.h"

static real *values(const ag_tensor *t)
{
    return t->data;
}

/* The problem of make_optim_expected.py: a 5 x 7 weight and a bias. */
static nn_module *problem(void)
{
    nn_module *net = nn_linear(7, 5);
    for (int i = 0; i < 5; i++) values(nn_param_at(net, 1))[i] = (real)sin(0.5 + i);
    for (int i = 0; i < 35; i++) values(nn_param_at(net, 0))[i] = (real)sin(1 + i / 7 * 7 + i % 7);
    return net;
}

/* d loss / d p = cos(0.7 t + 0.3 i) + 0.1 p */
static void give_gradient(ag_tensor *p, int t)
{
    ag_tensor *g = ag_full_(AG_HERE, 0, ag_shape_of(p));
    for (int64_t i = 0; i < ag_numel(p); i++) values(g)[i] = (real)cos(0.7 * t + 0.3 * (double)i);
    ag_backward(ag_add(ag_sum(ag_mul(p, g)), ag_scale(ag_sum(ag_square(p)), 0.05)));
}

static void steps(nn_module *net, optim *opt, int from, int to, bool warm)
{
    for (int t = from; t < to; t++) {
        AG_SCOPE;
        for (int k = 0; k < 2; k++) give_gradient(nn_param_at(net, k), t);
        if (warm) {
            optim_set_lr(opt, -1, 0.01 * (t + 1) / 20);
            optim_set_momentum(opt, 0.95 - 0.005 * t);
        }
        optim_step(opt);
    }
}

static void compare(const nn_module *net, const double *expected, double tol)
{
    nn_module *m = (nn_module *)net;
    for (int i = 0; i < 40; i++) {
        const double got = i < 35 ? values(nn_param_at(m, 0))[i] : values(nn_param_at(m, 1))[i - 35];
        if (!(fabs(got - expected[i]) < tol)) fail_msg("element %d: %.9g, expected %.9g", i, got, expected[i]);
    }
}

#define EQUALS(name, warm, make)                                                                                  \
    static void name(void **state)                                                                                \
    {                                                                                                             \
        (void)state;                                                                                              \
        AG_SCOPE;                                                                                                 \
        nn_module *net = problem();                                                                               \
        optim *opt = make;                                                                                        \
        steps(net, opt, 0, 20, warm);                                                                             \
        compare(net, name##_expected, 3e-6);                                                                      \
    }
EQUALS(sgd, false, optim_sgd(net, 0.05))
EQUALS(sgd_l2, false, optim_sgd(net, 0.05, .momentum = 0.9, .weight_decay = 0.1, .l2 = true, .wd_bn_bias = true))
EQUALS(nesterov, false, optim_sgd(net, 0.05, .momentum = 0.9, .nesterov = true))
EQUALS(sgd_decoupled, false, optim_sgd(net, 0.05, .momentum = 0.9, .weight_decay = 0.1, .wd_bn_bias = true))
EQUALS(adam, false, optim_adam(net, 0.01, .weight_decay = 0.1, .wd_bn_bias = true))
EQUALS(adamw, false, optim_adamw(net, 0.01, .weight_decay = 0.1, .wd_bn_bias = true))
EQUALS(adam_fastai, true, optim_adamw(net, 0.01, .fastai = true, .wd_bn_bias = true))
EQUALS(rmsprop, false, optim_rmsprop(net, 0.01))
EQUALS(rmsprop_momentum, false,
       optim_rmsprop(net, 0.01, .momentum = 0.9, .weight_decay = 0.1, .l2 = true, .wd_bn_bias = true))
EQUALS(rmsprop_fastai, false,
       optim_rmsprop(net, 0.01, .momentum = 0.9, .weight_decay = 0.1, .fastai = true, .wd_bn_bias = true))
EQUALS(radam, false, optim_radam(net, 0.01, .weight_decay = 0.1, .l2 = true, .wd_bn_bias = true))
EQUALS(radam_fastai, false, optim_radam(net, 0.01, .weight_decay = 0.1, .fastai = true, .wd_bn_bias = true))
EQUALS(lamb, false, optim_lamb(net, 0.01, .weight_decay = 0.1, .wd_bn_bias = true))

static void clipped(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = problem();
    optim *opt = optim_sgd(net, 0.05, .momentum = 0.9);
    for (int t = 0; t < 20; t++) {
        AG_SCOPE;
        for (int k = 0; k < 2; k++) give_gradient(nn_param_at(net, k), t);
        assert_true(optim_clip_norm(opt, 0.5) > 0.5);
        optim_step(opt);
    }
    compare(net, clipped_expected, 3e-6);
}

/* A gradient that stops coming: moments decay through the denormal numbers to zero. */
static void moments_may_vanish(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = nn_embedding(8, 16);
    ag_tensor *w = nn_param_at(net, 0);
    optim *opt = optim_adamw(net, 1e-2, .beta2 = 0.9, .eps = 1e-3);
    for (int t = 0; t < 2000; t++) {
        AG_SCOPE;
        ag_backward(ag_sum(ag_scale(ag_mul(w, ag_reshape(ag_cast(ag_arange(8 * 16), AG_F32), 8, 16)), t ? 0 : 1e-3)));
        optim_step(opt);
    }
    for (int64_t i = 0; i < ag_numel(w); i++) assert_true(isfinite((double)values(w)[i]));
}

/* ---- lazy rows ----------------------------------------------------------------------------------------- */

enum { ROWS = 400, WIDTH = 19, BATCH = 6 };

static int64_t lcg(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)(*s >> 33);
}

/* Cubed: the first rows are in every batch, the last are not seen for hundreds of steps. */
static void draw(uint64_t *s, int64_t *ids)
{
    for (int i = 0; i < BATCH; i++) {
        const double u = (double)(lcg(s) % 100000) / 100000;
        ids[i] = (int64_t)(ROWS * u * u * u);
    }
}

typedef struct { double beta2, eps, wd, scale; } lazy_case;

/* 1,000 steps of one cycle on a table with row gradients and on the same table with dense ones. The largest
 * difference among all rows read and, in the end, all rows. */
static double lazy_difference(const lazy_case *c)
{
    AG_SCOPE;
    nn_module *lazy = nn_embedding(ROWS, WIDTH, .std = 0.1, .sparse = true), *dense = nn_embedding(ROWS, WIDTH);
    ag_tensor *a = nn_param_at(lazy, 0), *b = nn_param_at(dense, 0);
    ag_copy(b, a);
    optim *x = optim_lazy_adamw(lazy, 1e-2, .weight_decay = c->wd, .beta2 = c->beta2, .eps = c->eps);
    b->sparse_grad = false;
    optim *y = optim_adamw(dense, 1e-2, .weight_decay = c->wd, .beta2 = c->beta2, .eps = c->eps);
    const optim_schedule lr = optim_one_cycle(1e-2), mom = optim_one_cycle_momentum(.95, .85, .95);
    uint64_t seed = 7;
    double worst = 0;
    for (int t = 0; t < 1000; t++) {
        AG_SCOPE;
        int64_t batch[BATCH];
        draw(&seed, batch);
        ag_tensor *ids = ag_from(AG_I64, batch, BATCH), *target = ag_scale(ag_randn(BATCH, WIDTH), c->scale);
        optim *opt[2] = { x, y };
        for (int k = 0; k < 2; k++) {
            optim_set_lr(opt[k], -1, optim_schedule_at(&lr, t / 1000.));
            optim_set_momentum(opt[k], optim_schedule_at(&mom, t / 1000.));
            ag_backward(ag_sum(ag_mul(ag_embedding(k ? b : a, ids), target)));
        }
        for (int i = 0; i < BATCH * WIDTH; i++) {
            const int64_t at = batch[i / WIDTH] * WIDTH + i % WIDTH;
            worst = fmax(worst, fabs((double)values(a)[at] - (double)values(b)[at]));
        }
        optim_step(x);
        optim_step(y);
    }
    optim_flush(x);
    for (int i = 0; i < ROWS * WIDTH; i++) worst = fmax(worst, fabs((double)values(a)[i] - (double)values(b)[i]));
    for (int64_t i = 0; i < optim_state_count(x); i++) {
        const ag_tensor *s = optim_state_at(x, i).tensor, *d = optim_state_at(y, i).tensor;
        if (s->dtype == AG_I64) assert_int_equal(*(int64_t *)s->data, 1000);
        else
            for (int k = 0; k < ROWS * WIDTH; k++)
                assert_true(fabs((double)(values(s)[k] - values(d)[k])) < 1e-5 * (1e-3 + c->scale));
    }
    return worst;
}

static void lazy_equals_dense(void **state)
{
    (void)state;
    const lazy_case cases[] = { { 0.999, 1e-8, 0.1, 0.1 },  { 0.99, 1e-5, 0.1, 1e-3 }, { 0.99, 1e-5, 0.01, 1e-5 },
                                { 0.999, 1e-8, 0.01, 1e-8 }, { 0.98, 1e-3, 0, 1e-3 },
                                { 0.9, 1e-3, 0.1, 1e-3 } };         /* the last: too fast to be lazy */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const double worst = lazy_difference(&cases[i]);
        print_message("case %zu: difference %g\n", i, worst);
        if (!(worst < 1e-5)) fail_msg("case %zu: difference %g", i, worst);
    }
}

/* The table of a lazy optimizer is really lazy: an untouched row keeps its bits until the flush, which decays it. */
static void lazy_waits(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = nn_embedding(100, 16, .sparse = true);
    ag_tensor *w = nn_param_at(net, 0);
    optim *opt = optim_lazy_adamw(net, 0.1, .weight_decay = 0.5);
    const double before = ag_at(w, 99, 3);
    for (int t = 0; t < 4; t++) {
        AG_SCOPE;
        const int64_t id[1] = { 5 };
        ag_backward(ag_sum(ag_embedding(w, ag_from(AG_I64, id, 1))));
        optim_step(opt);
    }
    assert_true(ag_at(w, 99, 3) == before);
    optim_flush(opt);
    assert_true(fabs(ag_at(w, 99, 3) - before * pow(0.95, 4)) < 1e-6);
}

/* Several backward passes before one step, rows repeated within and between them. */
static void rows_accumulate(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *a = nn_embedding(50, 24, .sparse = true), *b = nn_embedding(50, 24);
    ag_tensor *w = nn_param_at(a, 0), *v = nn_param_at(b, 0);
    v->sparse_grad = false;
    ag_copy(v, w);
    optim *x = optim_sgd(a, 0.5), *y = optim_sgd(b, 0.5);
    const int64_t id[2][4] = { { 3, 3, 7, 49 }, { 7, 0, 3, 7 } };
    for (int t = 0; t < 2; t++)
        for (int k = 0; k < 2; k++)
            ag_backward(ag_sum(ag_square(ag_embedding(k ? v : w, ag_from(AG_I64, id[t], 4)))));
    const double norm = optim_clip_norm(x, 1), dense = optim_clip_norm(y, 1);
    assert_true(fabs(norm - dense) < 1e-4 * dense);
    optim_step(x);
    optim_step(y);
    for (int i = 0; i < 50 * 24; i++) assert_true(fabs((double)(values(w)[i] - values(v)[i])) < 1e-6);
}

/* torch.optim.SparseAdam, row 1 with gradient 1 at steps 1 and 3: by hand. A row without a gradient stays. */
static void sparse_adam(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = nn_embedding(3, 1, .sparse = true);
    ag_tensor *w = nn_param_at(net, 0);
    ag_fill(w, 1);
    optim *opt = optim_sparse_adam(net, 0.1);
    for (int t = 0; t < 3; t++) {
        AG_SCOPE;
        const int64_t id[1] = { t == 1 ? 2 : 1 };
        ag_backward(ag_sum(ag_embedding(w, ag_from(AG_I64, id, 1))));
        optim_step(opt);
    }
    const double m = 0.9 * 0.1 + 0.1, v = 0.999 * 0.001 + 0.001;
    const double last = 0.1 / (1 - pow(0.9, 3)) * sqrt(1 - pow(0.999, 3)) * m / (sqrt(v) + 1e-8);
    assert_true(fabs(ag_at(w, 1, 0) - (1 - 0.1 - last)) < 1e-5);
    assert_true(ag_at(w, 0, 0) == 1);
}

/* ---- groups, decay, freezing --------------------------------------------------------------------------- */

static void biases_do_not_decay(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = problem();
    optim *opt = optim_sgd(net, 0.1, .weight_decay = 0.5);
    for (int k = 0; k < 2; k++) ag_backward(ag_scale(ag_sum(nn_param_at(net, k)), 0));
    optim_step(opt);
    assert_true(fabs(ag_at(nn_param_at(net, 0), 0, 0) - sin(1) * 0.95) < 1e-6);
    assert_true(fabs(ag_at(nn_param_at(net, 1), 0) - sin(0.5)) < 1e-6);
}

static void groups_have_rates(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = problem();
    optim *opt = optim_sgd(net, 0.1, .groups = OPTIM_GROUPS({ "*bias", .lr_mult = 10 }));
    assert_int_equal(optim_groups(opt), 2);
    for (int k = 0; k < 2; k++) ag_backward(ag_sum(nn_param_at(net, k)));
    optim_step(opt);
    assert_true(fabs(ag_at(nn_param_at(net, 0), 0, 0) - (sin(1) - 0.1)) < 1e-6);
    assert_true(fabs(ag_at(nn_param_at(net, 1), 0) - (sin(0.5) - 1)) < 1e-6);
    optim_set_lrs(opt, 1e-4, 1e-2);
    assert_true(optim_lr(opt, 0) == 1e-4 && optim_lr(opt, 1) == 1e-2);
    optim_set_lrs(opt, 0, 1e-2);
    assert_true(optim_lr(opt, 0) == 1e-3 && optim_lr(opt, 1) == 1e-2);
}

static void frozen_stays(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = problem();
    optim *opt = optim_adamw(net, 0.1, .weight_decay = 0.5);
    nn_param_at(net, 0)->requires_grad = false;
    ag_backward(ag_sum(nn_param_at(net, 1)));
    optim_step(opt);
    assert_true(fabs(ag_at(nn_param_at(net, 0), 0, 0) - sin(1)) < 1e-6);
    assert_true(fabs(ag_at(nn_param_at(net, 1), 0) - (sin(0.5) - 0.1)) < 1e-6);
    assert_int_equal(optim_steps(opt), 1);
}

static void wrong_group(void *net)
{
    const optim *o = optim_sgd(net, 0.1, .groups = OPTIM_GROUPS({ .params = "head.*" }));
    (void)o;
}

static void wrong_rate(void *net)
{
    const optim *o = optim_adamw(net, -1);
    (void)o;
}

static void errors_say_why(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = problem();
    assert_int_equal(ag_try(wrong_group, net), 1);
    assert_non_null(strstr(ag_error(), "group 0, \"head.*\", has no parameter"));
    assert_int_equal(ag_try(wrong_rate, net), 1);
    assert_non_null(strstr(ag_error(), "lr = -1"));
}

/* ---- state --------------------------------------------------------------------------------------------- */

/* Ten steps, state and weights copied into another optimizer, ten more on both: the same bits. */
static void state_continues(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *a = problem(), *b = problem();
    optim *x = optim_adamw(a, 0.01, .weight_decay = 0.1), *y = optim_adamw(b, 0.01, .weight_decay = 0.1);
    steps(a, x, 0, 10, false);
    for (int k = 0; k < 2; k++) ag_copy(nn_param_at(b, k), nn_param_at(a, k));
    assert_int_equal(optim_state_count(x), 6);
    assert_string_equal(optim_state_at(x, 0).name, "weight.exp_avg");
    assert_string_equal(optim_state_at(x, 5).name, "bias.step");
    for (int64_t i = 0; i < 6; i++) ag_copy(optim_state_at(y, i).tensor, optim_state_at(x, i).tensor);
    optim_refresh(y);
    assert_int_equal(optim_steps(y), 10);
    steps(a, x, 10, 20, false);
    steps(b, y, 10, 20, false);
    assert_memory_equal(values(nn_param_at(a, 0)), values(nn_param_at(b, 0)), 35 * sizeof(real));
    assert_memory_equal(values(nn_param_at(a, 1)), values(nn_param_at(b, 1)), 5 * sizeof(real));
}

/* A step over parameters larger than a piece of ag_parallel: the border between two is not where pieces are cut. */
static void large_parameters(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = nn_linear(301, 407);
    ag_tensor *w = nn_param_at(net, 0), *b = nn_param_at(net, 1);
    ag_fill(w, 1);
    ag_fill(b, 1);
    optim *opt = optim_adamw(net, 0.25);
    ag_backward(ag_add(ag_sum(w), ag_sum(b)));
    optim_step(opt);
    for (int64_t i = 0; i < ag_numel(w); i++) assert_true(fabs((double)values(w)[i] - 0.75) < 1e-6);
    for (int64_t i = 0; i < ag_numel(b); i++) assert_true(fabs((double)values(b)[i] - 0.75) < 1e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sgd), cmocka_unit_test(sgd_l2), cmocka_unit_test(nesterov), cmocka_unit_test(sgd_decoupled),
        cmocka_unit_test(adam), cmocka_unit_test(adamw), cmocka_unit_test(adam_fastai), cmocka_unit_test(rmsprop),
        cmocka_unit_test(rmsprop_momentum), cmocka_unit_test(rmsprop_fastai), cmocka_unit_test(radam),
        cmocka_unit_test(radam_fastai), cmocka_unit_test(lamb), cmocka_unit_test(clipped),
        cmocka_unit_test(moments_may_vanish), cmocka_unit_test(lazy_equals_dense), cmocka_unit_test(lazy_waits),
            cmocka_unit_test(rows_accumulate),
        cmocka_unit_test(sparse_adam), cmocka_unit_test(biases_do_not_decay), cmocka_unit_test(groups_have_rates),
        cmocka_unit_test(frozen_stays), cmocka_unit_test(errors_say_why), cmocka_unit_test(state_continues),
        cmocka_unit_test(large_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
