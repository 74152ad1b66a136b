/* tests/test_cuda_rows.c - tables read by rows on the GPU, or in its emulation (tests/test_cuda.c), against the CPU: the
 * gradients of rows, and the optimizers that step them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/cuda_cases.h"

/* ---- gradients ----------------------------------------------------------------------------------------- */

static ag_tensor *table(ag_tensor **in) { return ag_embedding(in[0], in[1]); }
static ag_tensor *scores(ag_tensor **in) { return ag_dot_bias(in[0], in[1], in[2], in[3], in[4]); }

/* One tile or several, one merge or two, runs that are not full, and lists that are a power of two long. */
static void test_rows_are_summed_in_the_order_of_the_cpu(void **state)
{
    (void)state;
    static const cuda_case cases[] = {
        { "one position", "w[5,3] ids[1]:i64<5", table }, { "a tile", "w[40,3] ids[2048]:i64<40", table },
        { "two tiles", "w[7,2] ids[2049]:i64<7", table }, { "five tiles", "w[300,1] ids[9000]:i64<300", table },
        { "a row for all", "w[3,2] ids[5000]:i64<1", table },
    };
    compare_cases(cases, sizeof cases / sizeof *cases, 0);
    static const cuda_case sides[] = {
        { "five tiles, both sides", "u[30,3] i[9,3] bu[30,1] bi[9,1] ids[8200,2]:i64<9", scores },
    };
    compare_cases(sides, 1, 1e-5);
}

typedef struct { ag_tensor *w; int64_t bad; } bad_read;
static void read_a_bad_id(void *arg)
{
    AG_SCOPE;
    const bad_read *r = arg;
    const int64_t ids[3] = { 1, r->bad, 0 };
    ag_tensor *sum = ag_sum(ag_embedding(r->w, ag_to(ag_from(AG_I64, ids, 3), AG_CUDA)));
    ag_backward(sum);
    ag_item(sum);
}

/* Its gradient goes nowhere. */
static void test_an_id_out_of_range_writes_nothing(void **state)
{
    (void)state;
    static const int64_t bad[] = { -1, 5, INT64_MIN, INT64_MAX, (int64_t)1 << 32 };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        AG_SCOPE;
        bad_read r = { ag_param(ag_to(ag_ones(5, 2), AG_CUDA)), bad[i] };
        assert_int_equal(ag_try(read_a_bad_id, &r), 1);
        assert_non_null(strstr(ag_error(), "ag_embedding: ids[1] = "));
        const real *g = ag_real(ag_to(r.w->grad, AG_CPU));
        for (int k = 0; k < 10; k++) assert_true(g[k] == (k < 4));
    }
}

/* ---- optimizers ---------------------------------------------------------------------------------------- */

enum { ROWS = 300, WIDTH = 19, BATCH = 9 };

/* A run: `steps` steps of `parts` backward passes each on a table and its biases, mostly read by the same ids, and on a layer;
 * with rates and momentum that change; flushed, saved and loaded again on the way. */
typedef struct {
    const char *what;
    optim *(*make)(nn_module *net);
    int steps, parts;
    double lr, clip;
    bool interrupted;
} run_of;

static optim *lazy(nn_module *net) { return optim_lazy_adamw(net, 1e-2, .weight_decay = 0.1); }
static optim *lazy_fastai(nn_module *net) { return optim_lazy_adamw(net, 1e-2, .fastai = true, .weight_decay = 0.01); }
static optim *lazy_groups(nn_module *net)
{
    return optim_lazy_adamw(net, 1e-2, .weight_decay = 0.5, .groups = OPTIM_GROUPS({ .params = "1.*", .lr_mult = 0.3 }));
}
static optim *vanishing(nn_module *net) { return optim_lazy_adamw(net, 1e-2, .weight_decay = 10); }
static optim *sparse_adam(nn_module *net) { return optim_sparse_adam(net, 1e-2); }
static optim *sgd(nn_module *net) { return optim_sgd(net, 1e-2); }
static optim *momentum(nn_module *net) { return optim_sgd(net, 1e-2, .momentum = 0.9); }

/* Cubed: the first rows are in every batch, and twice, the last are not seen for many steps. */
static ag_tensor *draw(ag_rng *r, bool some)
{
    int64_t ids[BATCH];
    for (int i = 0; i < BATCH; i++) {
        const double u = (double)ag_rng_below(r, 100000) / 100000;
        ids[i] = some && i % 2 ? 3 : (int64_t)(ROWS * u * u * u);
    }
    return ag_from(AG_I64, ids, BATCH);
}

static void write_and_read(optim *opt)
{
    AG_SCOPE;
    const int64_t n = optim_state_count(opt);
    ag_tensor *kept[64];
    for (int64_t i = 0; i < n; i++) kept[i] = ag_contiguous(ag_scale(ag_cast(optim_state_at(opt, i).tensor, AG_F32), 1));
    optim_reset(opt);
    for (int64_t i = 0; i < n; i++) ag_copy(optim_state_at(opt, i).tensor, kept[i]);
    optim_refresh(opt);
}

/* Gradients that do not depend on the weights, so that what differs comes from the steps. */
static void train_rows(const run_of *c, ag_device device, values *out)
{
    AG_SCOPE;
    out->n = 0;
    ag_init(.device = ag_device_name(device), .seed = 3);
    nn_module *net = nn_sequential(nn_embedding(ROWS, WIDTH, .std = 0.1, .sparse = true),
                                   nn_embedding(ROWS, 1, .std = 0.1, .sparse = true), nn_linear(4, 3));
    optim *opt = c->make(net);
    ag_tensor *wide = nn_param_at(net, 0), *narrow = nn_param_at(net, 1), *dense = nn_param_at(net, 2);
    ag_rng r = { .seed = 5, .stream = 1 };
    for (int t = 0; t < c->steps; t++) {
        AG_SCOPE;
        optim_set_lr(opt, -1, c->lr * (1 + sin(0.05 * t)));
        if (c->make != sgd) optim_set_momentum(opt, 0.9 - 0.05 * cos(0.05 * t));
        for (int part = 0; part < c->parts; part++) {
            ag_tensor *ids = draw(&r, part), *x = ag_embedding(wide, ids);
            ag_tensor *target = ag_scale(ag_randn(BATCH, WIDTH), t % 7 ? 0.1 : 1e-4);
            ag_tensor *sum = ag_add(ag_sum(ag_mul(x, target)), ag_sum(ag_embedding(narrow, t % 3 ? ids : draw(&r, false))));
            ag_backward(t % 5 ? sum : ag_add(sum, ag_sum(dense)));
            if (t % 16 == 0) take(out, x);
        }
        if (t % 16 == 9) {                                      /* rows that are read and not stepped */
            AG_NO_GRAD;
            take(out, ag_embedding(wide, draw(&r, false)));
        }
        if (c->clip > 0) out->v[out->n++] = optim_clip_norm(opt, c->clip);
        optim_step(opt);
        if (c->interrupted && t % 40 == 39) optim_flush(opt);
        if (c->interrupted && t % 70 == 69) write_and_read(opt);
    }
    optim_flush(opt);
    for (int64_t i = 0; i < nn_param_count(net); i++) take(out, nn_param_at(net, i));
    for (int64_t i = 0; i < optim_state_count(opt); i++) take(out, ag_cast(optim_state_at(opt, i).tensor, AG_F32));
    ag_init(.device = "cpu");
}

static void compare_run(const run_of *c, int orders)
{
    static values want, first, got;
    train_rows(c, AG_CPU, &want);
    for (int order = 0; order < orders; order++) {
        ag_emulate_order(order);
        values *g = order ? &got : &first;
        train_rows(c, AG_CUDA, g);
        assert_int_equal(g->n, want.n);
        for (int64_t i = 0; i < g->n; i++)
            if (!(fabs(g->v[i] - want.v[i]) <= 1e-6 * fmax(1, fabs(want.v[i]))))
                fail_msg("%s, order %d, value %lld: %.9g, on the CPU %.9g", c->what, order, (long long)i, g->v[i], want.v[i]);
        assert_memory_equal(g->v, first.v, (size_t)g->n * sizeof *g->v);
    }
}

static void test_rows_are_stepped_as_on_the_cpu(void **state)
{
    (void)state;
    static const run_of runs[] = {
        { "lazy AdamW", lazy, 30, 1, 1e-2, 0, false }, { "lazy AdamW, clipped, in parts", lazy, 20, 3, 1e-2, 0.05, false },
        { "SparseAdam", sparse_adam, 30, 1, 1e-2, 0, false },
        { "SparseAdam, clipped, in parts", sparse_adam, 20, 3, 1e-2, 0.05, false },
        { "SGD", sgd, 30, 2, 1e-2, 0, false }, { "SGD with momentum", momentum, 30, 2, 1e-2, 0, false },
    };
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) compare_run(&runs[i], ROUNDS);
}

/* Hundreds of missed steps, clocks that are restarted (weights that vanish), state that comes back from a file. */
static void test_many_lazy_steps_equal_those_of_the_cpu(void **state)
{
    (void)state;
    static const run_of runs[] = {
        { "lazy AdamW", lazy, 800, 1, 1e-3, 0, false }, { "fastai's", lazy_fastai, 500, 1, 1e-3, 0, false },
        { "groups", lazy_groups, 300, 1, 2e-3, 0, true }, { "vanishing weights", vanishing, 300, 1, 1e-2, 0, false },
        { "interrupted", lazy, 300, 2, 2e-3, 1, true }, { "SparseAdam, interrupted", sparse_adam, 300, 1, 2e-3, 0, true },
    };
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) compare_run(&runs[i], 1);
}

/* The recommender's own op, whose gradients are plainly in the weights after steps of SGD. */
static void train_dot(ag_device device, values *out)
{
    AG_SCOPE;
    out->n = 0;
    ag_init(.device = ag_device_name(device), .seed = 3);
    nn_module *net = model_dot_bias(40, 30, 12, .lo = 0.5, .hi = 5.5, .sparse = true);
    optim *opt = optim_sgd(net, 1.0);
    ag_rng r = { .seed = 5, .stream = 1 };
    for (int t = 0; t < 6; t++) {
        AG_SCOPE;
        int64_t ids[33][2];
        for (int i = 0; i < 33; i++) ids[i][0] = ag_rng_below(&r, 40), ids[i][1] = ag_rng_below(&r, 30);
        ag_tensor *loss = ag_mse_loss(nn_call(net, ag_from(AG_I64, ids, 33, 2)), ag_ones(33));
        ag_backward(loss);
        optim_step(opt);
        take(out, loss);
    }
    for (int64_t i = 0; i < nn_param_count(net); i++) take(out, nn_param_at(net, i));
    ag_init(.device = "cpu");
}

static void test_the_recommender_steps_as_on_the_cpu(void **state)
{
    (void)state;
    static values want, first, got;
    train_dot(AG_CPU, &want);
    for (int order = 0; order < ROUNDS; order++) {
        ag_emulate_order(order);
        values *g = order ? &got : &first;
        train_dot(AG_CUDA, g);
        assert_int_equal(g->n, want.n);
        for (int64_t i = 0; i < g->n; i++) assert_true(fabs(g->v[i] - want.v[i]) <= 1e-5 * fmax(1, fabs(want.v[i])));
        assert_memory_equal(g->v, first.v, (size_t)g->n * sizeof *g->v);
    }
}

/* An untouched row keeps its bits until the flush, which decays it. */
static void test_rows_that_are_not_read_wait(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_init(.device = "cuda");
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
    ag_init(.device = "cpu");
}

int main(void)
{
    char why[512];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_summed_in_the_order_of_the_cpu),
        cmocka_unit_test(test_an_id_out_of_range_writes_nothing),
        cmocka_unit_test(test_rows_are_stepped_as_on_the_cpu),
        cmocka_unit_test(test_many_lazy_steps_equal_those_of_the_cpu),
        cmocka_unit_test(test_the_recommender_steps_as_on_the_cpu),
        cmocka_unit_test(test_rows_that_are_not_read_wait),
    };
    if (ag_cuda_available(why, sizeof why)) return cmocka_run_group_tests(tests, NULL, NULL);
    print_message("SKIP: no rows were stepped on a GPU here: %s\n", why);
    return 0;
}
