/* tests/test_cuda_plans.c - what the libraries themselves say, without a GPU, about the training step of three image models at
 * 224 x 224, batch 256, bf16. Their kernels' launchers run in the emulation with the device's work left out; every convolution,
 * attention and product that they ask for is then planned by cuDNN for GPUs described to it, or described to cuBLASLt. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <dlfcn.h>
#include <glob.h>
#include "tests/cuda_cases.h"

#ifdef AG_EMULATE
#include "cuda/blas.h"
#include "cuda/cudnn.h"
void ag_emulate_dry(bool dry);

enum { BATCH = 256, CLASSES = 1000, MOST = 256 };
static const int64_t MOST_WORKSPACE = (int64_t)512 << 20;

typedef struct { const char *name; int64_t size; } model;
static const model models[] = { { "resnet50", 224 }, { "convnext_tiny", 224 }, { "vit_small_patch16_224", 224 } };

/* ---- what a step asks for -------------------------------------------------------------------------------- */

typedef struct { int convs, attentions; ag_dnn_conv conv[MOST]; ag_dnn_attention attention[MOST]; } asked;

static void note_conv(void *arg, const ag_dnn_conv *c)
{
    asked *to = arg;
    AG_ASSERT(to->convs < MOST);
    to->conv[to->convs++] = *c;
}

static void note_attention(void *arg, const ag_dnn_attention *a)
{
    asked *to = arg;
    AG_ASSERT(to->attentions < MOST);
    to->attention[to->attentions++] = *a;
}

static void train(const model *m)
{
    static int64_t targets[BATCH];
    AG_SCOPE;
    ag_init(.device = "cuda", .seed = 1);
    nn_module *net = model_create(m->name, .classes = CLASSES);
    {
        AG_SCOPE;
        AG_AUTOCAST(bf16);
        ag_tensor *x = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(BATCH, m->size, m->size, 3));
        ag_backward(ag_cross_entropy(nn_call(net, x), ag_from(AG_I64, targets, BATCH)));
    }
    ag_init(.device = "cpu");
}

/* What training asks cuDNN for; the products are collected by the emulated cuBLASLt. */
static void ask(const model *m, asked *to)
{
    to->convs = to->attentions = 0;
    ag_cudnn_forget();
    ag_emulate_dry(true);
    train(m);
    ag_device_table(AG_CUDA)->trim();
    ag_emulate_dry(false);
    ag_cudnn_each(note_conv, note_attention, to);
    ag_cudnn_forget();
}

/* ---- cuDNN ----------------------------------------------------------------------------------------------- */

typedef struct { const char *name; int version, processors, shared, threads; int64_t memory; int clock, bus, cache; } gpu;
static const gpu gpus[] = {
    { "NVIDIA H200", 900, 132, 232448, 2048, 150110994432, 3201000, 6144, 62914560 },
    { "NVIDIA A100-SXM4-80GB", 800, 108, 166912, 2048, 85899345920, 1593000, 5120, 41943040 },
    { "NVIDIA B200", 1000, 148, 232448, 2048, 193273528320, 3996000, 8192, 132644864 },
};

/* A GPU that need not be there, in the library's own words for one. */
static ag_dnn_desc described(const ag_dnn_functions *f, const gpu *g)
{
    char text[2000];
    ag_dnn_desc d;
    const int n = snprintf(text, sizeof text,
        "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,"
        "\"multiProcessorCount\":%d,\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,\"maxSharedMemoryPerBlockOptin\":%d,"
        "\"reservedSharedMemoryPerBlock\":1024,\"oversizedSharedMemoryPerBlock\":0,\"maxRegistersPerSM\":65536,"
        "\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":%d,\"pciDeviceId\":0,\"isTccDriver\":0,"
        "\"supportCoopLaunch\":1,\"totalGlobalMem\":%" PRId64 ",\"smClockRateKHz\":1980000,\"memClockRateKHz\":%d,"
        "\"memoryBusWidth\":%d,\"l2CacheSize\":%d,\"cudaDeviceId\":0,\"deviceVer\":%d,\"driverVer\":13000,\"deviceName\":\"%s\"}",
        g->processors, g->shared, g->threads, g->memory, g->clock, g->bus, g->cache, g->version, g->name);
    assert_int_equal(f->desc_create(AG_DNN_DEVICE, &d), 0);
    assert_int_equal(f->set(d, AG_DNN_DEVICE_JSON, AG_DNN_CHAR, n, text), 0);
    const int status = f->finalize(d);
    if (!status) return d;
    f->last_error(text, sizeof text);
    f->desc_destroy(d);
    print_message("SKIP: %s cannot be described to this cuDNN, %zu (status %d: %s)\n", g->name, f->version(), status, text);
    return NULL;
}

/* Engines of attention are compiled when a plan is made, and loaded by the driver. Without one the library lists none; the
 * toolkit has one with nothing behind its names, with which engines are compiled and then cannot be loaded. */
static bool driver_or_its_names(void)
{
    glob_t found;
    bool there = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL) != NULL;
    if (!there && glob("/usr/local/cuda*/lib64/stubs/libcuda.so", 0, NULL, &found) == 0) {
        there = dlopen(found.gl_pathv[0], RTLD_NOW | RTLD_GLOBAL) != NULL;
        globfree(&found);
    }
    return there;
}

static void plan_attentions(const ag_dnn_functions *f, ag_dnn_desc device, const gpu *g, const model *m, const asked *list)
{
    for (int i = 0; i < list->attentions; i++) {
        const ag_dnn_attention *a = &list->attention[i];
        ag_dnn_plan plan;
        const int status = ag_dnn_attention_plan(f, (ag_dnn_place){ NULL, device }, a, MOST_WORKSPACE, &plan);
        if (status && !ag_dnn_unsupported(status))
            fail_msg("%s on %s: the graph of attention: status %d", m->name, g->name, status);
        print_message("%s, %s: attention %s, %s engine %d\n", g->name, m->name, a->backward ? "backward" : "forward",
                      !plan.engine ? "SKIP: no driver that would compile an" : status ? "compiled, not loaded:" : "planned:",
                      (int)plan.engine);
        if (driver_or_its_names()) assert_true(plan.engine > 0);
        ag_dnn_plan_drop(f, &plan);
    }
}

/* False: this library cannot tell without a driver. */
static bool plan_all(const ag_dnn_functions *f, const gpu *g, const model *m, const asked *list)
{
    static const char *const ways[] = { "forward", "input gradient", "weight gradient" };
    ag_dnn_desc device = described(f, g);
    int64_t workspace = 0;
    uint64_t engines[2] = { 0 };
    int each[3] = { 0 }, different = 0;
    if (!device) return false;
    for (int i = 0; i < list->convs; i++) {
        const ag_dnn_conv *c = &list->conv[i];
        ag_dnn_plan plan;
        const int status = ag_dnn_plan_new(f, (ag_dnn_place){ NULL, device }, c, MOST_WORKSPACE, &plan);
        if (status)
            fail_msg("%s on %s: no %s plan (status %d) for [%d, %d, %d, %d] by [%d, %d, %d, %d]", m->name, g->name,
                     ways[c->way], status, (int)c->n, (int)c->h, (int)c->w, (int)c->in, (int)c->out, (int)c->in, (int)c->kh,
                     (int)c->kw);
        workspace = plan.workspace > workspace ? plan.workspace : workspace;
        engines[plan.engine / 64 & 1] |= 1ull << plan.engine % 64;
        each[c->way]++;
        ag_dnn_plan_drop(f, &plan);
    }
    for (int i = 0; i < 128; i++) different += engines[i / 64] >> i % 64 & 1;
    print_message("%s, %s: %d forward, %d input and %d weight plans, %d engines, at most %.1f MB of workspace\n", g->name,
                  m->name, each[0], each[1], each[2], different, 1e-6 * (double)workspace);
    plan_attentions(f, device, g, m, list);
    f->desc_destroy(device);
    return true;
}

static void test_cudnn_plans_what_is_asked(void **state)
{
    (void)state;
    static asked list;
    static ag_dnn_functions f;
    char why[512];
    bool there = ag_dnn_load(&f, 0, why, sizeof why);
    if (!there) print_message("SKIP: %s\n", why);
    driver_or_its_names();
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        ask(&models[i], &list);
        assert_true(list.convs > 0 || list.attentions > 0);
        for (size_t g = 0; g < sizeof gpus / sizeof *gpus && there; g++) there = plan_all(&f, &gpus[g], &models[i], &list);
    }
}

/* ---- cuBLASLt -------------------------------------------------------------------------------------------- */

static bool whole(const ag_blas_matrix *m, bool narrow)
{
    return m->ld * (narrow ? 2 : 4) % 16 == 0 && m->step * (narrow ? 2 : 4) % 16 == 0;
}

/* Behind the test above, which made the models' steps. */
static void test_cublaslt_takes_every_product(void **state)
{
    (void)state;
    ag_lt_functions f;
    char why[512];
    int64_t n = 0, narrow = 0;
    const bool there = ag_lt_load(&f, 0, why, sizeof why);
    if (!there) print_message("SKIP: %s\n", why);
    for (const ag_blas_plan *p; (p = ag_emulate_lt_asked(n)); n++) {
        ag_lt_desc desc;
        ag_lt_layout layout[3];
        narrow += p->narrow;
        if (!p->narrow || !whole(&p->a, true) || !whole(&p->b, true) || !whole(&p->d, p->narrow_d))
            fail_msg("a product of [%d, %d] x [%d, %d] that tensor cores cannot read 16 bytes at a time", (int)p->n, (int)p->k,
                     (int)p->k, (int)p->m);
        if (!there) continue;
        ag_lt_describe(&f, p, &desc, layout);
        for (int i = 0; i < 3; i++) assert_int_equal(f.layout_destroy(layout[i]), 0);
        assert_int_equal(f.desc_destroy(desc), 0);
    }
    print_message("%d products of the three models, %d in bf16\n", (int)n, (int)narrow);
    assert_true(n > 60);
}
#endif

int main(void)
{
#ifdef AG_EMULATE
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cudnn_plans_what_is_asked),
        cmocka_unit_test(test_cublaslt_takes_every_product),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
#else
    print_message("SKIP: work is left out in the emulation only (make BUILD=emu)\n");
    return 0;
#endif
}
