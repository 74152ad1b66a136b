/* tests/test_plan.c - plans of memory beside what is measured, and what the learner does with them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "agrad.h"
#include "core/op.h"

/* ---- a net -------------------------------------------------------------------------------------------- */

/* A transformer's block of the ops that models are made of. */
typedef struct {
    nn_module base;
    nn_module *norm1, *qkv, *proj, *norm2, *drop;
    ag_tensor *w1, *b1, *w2, *b2;
    int64_t heads;
} former;

static ag_tensor *former_forward(nn_module *m, ag_tensor *x)
{
    const former *s = NN_SELF(former, m);
    const int64_t n = x->shape[0], l = x->shape[1], c = x->shape[2];
    ag_tensor *qkv = ag_reshape(nn_call(s->qkv, nn_call(s->norm1, x)), n, l, 3, s->heads, c / s->heads);
    ag_tensor *y = ag_attention(ag_select(qkv, 2, 0), ag_select(qkv, 2, 1), ag_select(qkv, 2, 2));
    x = ag_add(x, nn_call(s->drop, nn_call(s->proj, ag_reshape(y, n, l, c))));
    return ag_add(x, ag_mlp(nn_call(s->norm2, x), s->w1, s->b1, s->w2, s->b2, AG_LINEAR_GELU));
}

static nn_module *former_new(int64_t width, int64_t heads)
{
    former *s = NN_NEW(former, former_forward);
    NN_CHILD(s, norm1, nn_layer_norm(width));
    NN_CHILD(s, qkv, nn_linear(width, 3 * width));
    NN_CHILD(s, proj, nn_linear(width, width));
    NN_CHILD(s, norm2, nn_layer_norm(width));
    NN_CHILD(s, drop, nn_dropout(0.1));
    NN_PARAM(s, w1, ag_randn(4 * width, width));
    NN_PARAM(s, b1, ag_zeros(4 * width));
    NN_PARAM(s, w2, ag_randn(width, 4 * width));
    NN_PARAM(s, b2, ag_zeros(width));
    s->heads = heads;
    return &s->base;
}

typedef struct { nn_module base; nn_module *body; } mean_of;

static ag_tensor *mean_forward(nn_module *m, ag_tensor *x)
{
    return ag_mean(nn_call(NN_SELF(mean_of, m)->body, x), .axes = AG_AXES(1));
}

static nn_module *transformer(int blocks, bool recompute)
{
    mean_of *s = NN_NEW(mean_of, mean_forward);
    nn_module *list = nn_sequential(nn_linear(48, 192));
    for (int i = 0; i < blocks; i++) nn_append(list, former_new(192, 3));
    nn_recompute(list, recompute);
    NN_CHILD(s, body, list);
    return nn_sequential(&s->base, nn_batch_norm1d(192), nn_linear(192, 100));
}

/* The peak of a second step. */
static double measured_peak(nn_module *net, ag_tensor *x, ag_tensor *y, bool train, const char *precision)
{
    ag_scope mode AG_CLEANUP(ag_scope_end) = ag_autocast_begin(AG_HERE, precision);
    optim *opt = train ? optim_adamw(net, 1e-3) : NULL;
    for (int i = 0; i < 2; i++) {
        AG_SCOPE;
        ag_memory_reset_peak();
        if (train) {
            ag_backward(ag_cross_entropy(nn_call(net, x), y));
            optim_step(opt);
        } else {
            NN_EVAL(net);
            assert_int_equal(nn_call(net, x)->ndim, 2);
        }
    }
    return (double)ag_memory(AG_CPU).peak;
}

/* Nothing of the net or the process changes; the parts make the peak; it is what is measured, to `share`. */
static void assert_planned(const char *what, nn_module *net, ag_tensor *x, bool train, const char *precision, double share)
{
    const ag_memory_stats before = ag_memory(AG_CPU);
    const ag_rng rng = ag_rng_get();
    const ag_plan p = ag_memory_plan(net, ag_shape_of(x), .train = train, .precision = *precision == 'b' ? AG_BF16 : AG_F32);
    assert_true(ag_memory(AG_CPU).in_use == before.in_use && ag_memory(AG_CPU).tensors == before.tensors);
    assert_true(ag_rng_get().next == rng.next);
    assert_null(nn_param_at(net, 0)->grad);
    assert_int_equal(p.peak, p.parameters + p.gradients + p.optimizer + p.activations + p.workspace + p.packed + p.input);
    ag_tensor *y = ag_cast(ag_zeros(x->shape[0]), AG_I64);
    const double peak = measured_peak(net, x, y, train, precision), off = (double)p.peak / peak - 1;
    if (!(fabs(off) < share))
        fail_msg("%s, %s, %s: planned %.2f MB, measured %.2f MB (%s)", what, train ? "training" : "evaluation", precision,
                 (double)p.peak / 1e6, peak / 1e6, p.where);
}

static void test_a_plan_is_what_is_measured(void **state)
{
    (void)state;
    for (int k = 0; k < 8; k++) {
        AG_SCOPE;
        nn_module *net = transformer(4, k & 2);
        assert_true(ag_item(nn_param(net, "1.num_batches_tracked")) == 0);
        assert_planned("transformer", net, ag_randn(9, 64, 48), k & 1, k & 4 ? "bf16" : "f32", 0.02);
    }
}

static void test_plans_of_image_models(void **state)
{
    (void)state;
    static const struct { const char *name; int64_t size; } models[] = {
        { "convnext_atto", 96 }, { "convnextv2_atto", 64 }, { "resnet10t", 96 }, { "resnet26d", 64 },
        { "efficientnet_lite0", 64 }, { "mobilenetv3_small_050", 64 }, { "vit_tiny_patch16_224", 64 },
        { "swin_tiny_patch4_window7_224", 224 },
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        for (int k = 0; k < 4; k++) {
            AG_SCOPE;
            const int64_t size = models[i].size, n = size > 100 ? 1 : 3;
            if (size > 100 && k >= 2) continue;                     /* the large one: f32 only */
            nn_module *net = model_create(models[i].name, .size = size, .drop_path = 0.1);
            assert_planned(models[i].name, net, ag_randn(n, size, size, 3), k & 1, k & 2 ? "bf16" : "f32", 0.05);
        }
}

/* ---- layers, other devices ----------------------------------------------------------------------------- */

typedef struct { int n; int64_t kept, parameters; ag_shape first; char type[32]; } seen;

static void see(void *arg, const ag_plan_layer *l)
{
    seen *s = arg;
    s->n++, s->kept += l->kept, s->parameters += l->parameters;
    if (strcmp(l->path, "0.body.1.qkv")) return;
    s->first = l->output;
    strcpy(s->type, l->type);
}

static void test_layers_are_listed(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = transformer(2, false);
    seen s = { 0 };
    const ag_plan p = ag_memory_plan(net, AG_SHAPE(9, 64, 48), .train = true, .layer = see, .layer_arg = &s);
    assert_int_equal(s.n, 6 + 2 * 6 + 1);
    assert_int_equal(s.parameters, nn_numel(net));
    assert_true(s.kept > 0 && s.kept <= p.activations + p.input);
    assert_string_equal(s.type, "linear");
    assert_true(s.first.ndim == 3 && s.first.dim[0] == 9 && s.first.dim[1] == 64 && s.first.dim[2] == 576);
}

/* A net without memory has the same plan, and needs none. */
static void test_nets_on_meta(void **state)
{
    (void)state;
    AG_SCOPE;
    const ag_plan want = ag_memory_plan(transformer(3, false), AG_SHAPE(8, 64, 48), .train = true);
    const int64_t before = ag_memory(AG_CPU).in_use;
    ag_init(.device = "meta");
    const ag_plan p = ag_memory_plan(transformer(3, false), AG_SHAPE(8, 64, 48), .train = true);
    ag_init(.device = "cpu");
    assert_true(p.peak == want.peak && p.resident == want.resident && p.parameters == want.parameters);
    assert_int_equal(ag_memory(AG_CPU).in_use, before);
}

static void test_parts_need_less(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = transformer(3, false);
    const ag_shape x = AG_SHAPE(32, 64, 48);
    const ag_plan whole = ag_memory_plan(net, x, .train = true), parts = ag_memory_plan(net, x, .train = true, .accumulate = 4);
    assert_true(parts.batch == 8 && parts.peak < whole.peak);
    assert_int_equal(ag_memory_fit(net, x, parts.resident, .train = true), 8);
    assert_int_equal(ag_memory_fit(net, x, whole.resident, .train = true), 32);
    assert_int_equal(ag_memory_fit(net, x, whole.parameters, .train = true), 0);
}

/* ---- the learner --------------------------------------------------------------------------------------- */

enum { N = 96 };

static data_set *images(void)
{
    ag_manual_seed(2);
    int64_t label[N];
    for (int i = 0; i < N; i++) label[i] = i % 100;
    return data_from_tensors(ag_randn(N, 64, 48), ag_from(AG_I64, label, N));
}

/* The same net without dropout and batch norm, whose gradients do not depend on how a batch is cut. */
static nn_module *plain(void)
{
    ag_manual_seed(7);
    mean_of *s = NN_NEW(mean_of, mean_forward);
    NN_CHILD(s, body, nn_sequential(nn_linear(48, 256), nn_gelu(), nn_linear(256, 256), nn_gelu(), nn_linear(256, 256)));
    return nn_sequential(&s->base, nn_linear(256, 100));
}

static learner *fit(bool fit_memory, int64_t limit)
{
    data_loader *loader = data_loader_new(images(), 48, .shuffle = true);
    learner *l = learner_new(loader, NULL, plain(), learner_cross_entropy, .fit_memory = fit_memory, .quiet = true);
    ag_memory_trim();
    if (limit) ag_memory_limit(ag_memory(AG_CPU).held + limit);
    learner_fit(l, 2, 1e-3);
    ag_memory_limit(0);
    return l;
}

static void test_batches_are_cut_to_fit(void **state)
{
    (void)state;
    AG_SCOPE;
    learner *whole = fit(false, 0), *parts = fit(true, 9000000);
    assert_int_equal(whole->step, parts->step);
    assert_true(fabs(whole->train_loss - parts->train_loss) < 1e-5);
    for (int64_t i = 0; i < nn_param_count(whole->net); i++) {
        const ag_tensor *p = nn_param_at(whole->net, i), *q = nn_param_at(parts->net, i);
        for (int64_t k = 0; k < ag_numel(p); k++) assert_true(fabs(ag_real(p)[k] - ag_real(q)[k]) < 1e-5);
    }
}

static void too_large(void *unused)
{
    (void)unused;
    AG_SCOPE;
    (void)fit(false, 9000000);
}

static void none_fits(void *unused)
{
    (void)unused;
    AG_SCOPE;
    (void)fit(true, 1000000);
}

static void test_what_fits_is_said(void **state)
{
    (void)state;
    assert_true(ag_try(too_large, NULL));
    ag_memory_limit(0);
    assert_non_null(strstr(ag_error(), "out of memory"));
    assert_non_null(strstr(ag_error(), "By plan a batch of"));
    assert_non_null(strstr(ag_error(), ".accumulate ="));
    assert_true(ag_try(none_fits, NULL));
    ag_memory_limit(0);
    assert_non_null(strstr(ag_error(), "not even one sample fits"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_plan_is_what_is_measured),
        cmocka_unit_test(test_plans_of_image_models),
        cmocka_unit_test(test_layers_are_listed),
        cmocka_unit_test(test_nets_on_meta),
        cmocka_unit_test(test_parts_need_less),
        cmocka_unit_test(test_batches_are_cut_to_fit),
        cmocka_unit_test(test_what_fits_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
