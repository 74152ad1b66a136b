/* tests/test_cuda_plan.c - plans of the GPU's memory beside what its allocator measures, on a GPU or in its emulation
 * (tests/test_cuda.c). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "tests/cuda_cases.h"

typedef struct { const char *what; double before; nn_module *net; ag_tensor *x, *y; bool train, narrow, rows; } work;

static ag_tensor *loss_of(ag_tensor *pred, ag_tensor *y)
{
    return y->dtype == AG_I64 ? ag_cross_entropy(pred, y) : ag_mse_loss(pred, y);
}

/* The peak of a second step, above what was held before there was a net. */
static double measured_peak(const work *w)
{
    ag_scope mode AG_CLEANUP(ag_scope_end) = ag_autocast_begin(AG_HERE, w->narrow ? "bf16" : "f32");
    optim *opt = !w->train ? NULL : w->rows ? optim_lazy_adamw(w->net, 1e-3) : optim_adamw(w->net, 1e-3);
    for (int i = 0; i < 2; i++) {
        AG_SCOPE;
        ag_memory_reset_peak();
        if (w->train) {
            ag_backward(loss_of(nn_call(w->net, w->x), w->y));
            optim_step(opt);
        } else {
            NN_EVAL(w->net);
            ag_item(ag_sum(nn_call(w->net, w->x)));
        }
    }
    return (double)ag_memory(AG_CUDA).peak - w->before;
}

/* Nothing of the net or the process changes; the parts make the peak; it is what is measured. */
static void assert_planned(const work *w)
{
    const ag_memory_stats before = ag_memory(AG_CUDA);
    const ag_plan p = ag_memory_plan(w->net, ag_shape_of(w->x), .train = w->train, .input_type = w->x->dtype, .loss = loss_of,
                                     .target = ag_shape_of(w->y), .target_type = w->y->dtype,
                                     .precision = w->narrow ? AG_BF16 : AG_F32);
    assert_true(ag_memory(AG_CUDA).in_use == before.in_use);
    for (int64_t i = 0; i < nn_param_count(w->net); i++)
        assert_true(!nn_param_at(w->net, i)->grad && !nn_param_at(w->net, i)->rows);
    assert_int_equal(p.peak, p.parameters + p.gradients + p.optimizer + p.activations + p.workspace + p.packed + p.input);
    const double peak = measured_peak(w), off = (double)p.peak / peak - 1;
    print_message("%-24s %-10s %s  planned %8.3f MB, measured %8.3f MB  %+.1f %%  (%s)\n", w->what,
                  w->train ? "training" : "evaluation", w->narrow ? "bf16" : "f32", (double)p.peak / 1e6, peak / 1e6, 100 * off,
                  p.where);
    /* Of what changes from step to step; the clocks of lazy tables, half a megabyte, are in no plan. */
    const double varies = w->rows ? peak : (double)(p.activations + p.workspace + p.packed + p.input);
    if (!(fabs((double)p.peak - peak) < 0.05 * varies + 8192))
        fail_msg("%s: planned %lld, measured %.0f", w->what, (long long)p.peak, peak);
}

static void test_plans_of_image_models(void **state)
{
    (void)state;
    static const struct { const char *name; int64_t size; } models[] = {
        { "convnext_atto", 32 }, { "resnet10t", 40 }, { "vit_tiny_patch16_224", 32 }, { "mobilenetv3_small_050", 32 },
    };
    ag_init(.device = "cuda");
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        for (int k = 0; k < 4; k++) {
            AG_SCOPE;
            if (k == 2) continue;
            const double before = (double)ag_memory(AG_CUDA).in_use;
            nn_module *net = model_create(models[i].name, .size = models[i].size, .drop_path = 0.1, .classes = 10);
            ag_tensor *x = ag_randn(2, models[i].size, models[i].size, 3), *y = ag_cast(ag_zeros(2), AG_I64);
            assert_planned(&(work){ models[i].name, before, net, x, y, k & 1, k & 2, false });
        }
    ag_init(.device = "cpu");
}

static void test_plans_of_recommenders(void **state)
{
    (void)state;
    enum { USERS = 30000, FILMS = 20000, B = 512 };
    ag_init(.device = "cuda");
    for (int k = 0; k < 6; k++) {
        AG_SCOPE;
        const bool rows = k & 1;
        const double before = (double)ag_memory(AG_CUDA).in_use;
        const model_dot_opts o = { .lo = 0, .hi = 5.5, .sparse = rows };
        nn_module *net = k < 2   ? ag_model_dot_(AG_HERE, USERS, FILMS, 20, o)
                         : k < 4 ? ag_model_dot_bias_(AG_HERE, USERS, FILMS, 20, o)
                                 : model_embedding_nn(USERS, FILMS, .user_width = 20, .item_width = 20, .sparse = rows);
        ag_tensor *ids = ag_cast(ag_full(7, B, 2), AG_I64), *y = ag_ones(B);
        assert_planned(&(work){ rows ? "rows" : "dense", before, net, ids, y, true, false, rows });
    }
    ag_init(.device = "cpu");
}

/* A plan for a GPU that is not there: of a net on the host, and the same as of one on the GPU. */
static void test_a_plan_needs_no_gpu(void **state)
{
    (void)state;
    AG_SCOPE;
    const ag_shape x = AG_SHAPE(2, 64, 64, 3);
    const ag_plan host = ag_memory_plan(model_create("convnext_atto", .classes = 10), x, .train = true, .device = AG_CUDA);
    ag_init(.device = "cuda");
    const ag_plan gpu = ag_memory_plan(model_create("convnext_atto", .classes = 10), x, .train = true);
    ag_init(.device = "cpu");
    const ag_plan cpu = ag_memory_plan(model_create("convnext_atto", .classes = 10), x, .train = true);
    assert_int_equal(host.peak, gpu.peak);
    assert_true(host.workspace == gpu.workspace && cpu.peak != gpu.peak);
}

int main(void)
{
    char why[512];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plans_of_recommenders),
        cmocka_unit_test(test_plans_of_image_models),
        cmocka_unit_test(test_a_plan_needs_no_gpu),
    };
    if (ag_cuda_available(why, sizeof why)) return cmocka_run_group_tests(tests, NULL, NULL);
    print_message("SKIP: no memory of a GPU was measured here: %s\n", why);
    return 0;
}
