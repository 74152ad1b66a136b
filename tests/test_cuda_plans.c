/* tests/test_cuda_plans.c - what the libraries themselves say, without a GPU, about the training step of three image models at
 * 224 x 224, batch 256, bf16. Their kernels' launchers run in the emulation with the device's work left out; every convolution
 * and product that they ask for is then planned by cuDNN for GPUs that are described to it, and described to cuBLASLt. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
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

typedef struct { int count; ag_dnn_conv conv[MOST]; } convs;

static void note(void *arg, const ag_dnn_conv *c)
{
    convs *to = arg;
    AG_ASSERT(to->count < MOST);
    to->conv[to->count++] = *c;
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

/* The convolutions that training asks cuDNN for; the products are collected by the emulated cuBLASLt. */
static void ask(const model *m, convs *to)
{
    to->count = 0;
    ag_cudnn_forget();
    ag_emulate_dry(true);
    train(m);
    ag_device_table(AG_CUDA)->trim();
    ag_emulate_dry(false);
    ag_cudnn_each(note, to);
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

/* False: this library cannot tell without a driver. */
static bool plan_all(const ag_dnn_functions *f, const gpu *g, const model *m, const convs *list)
{
    static const char *const ways[] = { "forward", "input gradient", "weight gradient" };
    ag_dnn_desc device = described(f, g);
    int64_t workspace = 0;
    uint64_t engines[2] = { 0 };
    int each[3] = { 0 }, different = 0;
    if (!device) return false;
    for (int i = 0; i < list->count; i++) {
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
    f->desc_destroy(device);
    return true;
}

static void test_cudnn_plans_every_convolution(void **state)
{
    (void)state;
    static convs list;
    static ag_dnn_functions f;
    char why[512];
    bool there = ag_dnn_load(&f, 0, why, sizeof why);
    if (!there) print_message("SKIP: %s\n", why);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        ask(&models[i], &list);
        assert_true(list.count > 0 || i == 2);
        for (size_t g = 0; g < sizeof gpus / sizeof *gpus && there; g++) there = plan_all(&f, &gpus[g], &models[i], &list);
    }
}

/* ---- attention, which is our own kernels' so far: whether cuDNN could ------------------------------------- */

enum { ATTENTION = 41, QUERY = 2800, KEY, VALUE, OUT, LOGS, SCALE, BY_VALUE = 908, SINCE = 91300 };

static ag_dnn_desc part(const ag_dnn_functions *f, int64_t id, int type, const int64_t *sizes, const int64_t *strides,
                        bool by_value)
{
    const int64_t alignment = by_value ? 4 : 16;
    ag_dnn_desc d;
    assert_int_equal(f->desc_create(AG_DNN_TENSOR, &d), 0);
    assert_int_equal(f->set(d, AG_DNN_TENSOR_ID, AG_DNN_INT64, 1, &id), 0);
    assert_int_equal(f->set(d, AG_DNN_TENSOR_TYPE, AG_DNN_DATA_TYPE, 1, &type), 0);
    assert_int_equal(f->set(d, AG_DNN_TENSOR_ALIGNMENT, AG_DNN_INT64, 1, &alignment), 0);
    assert_int_equal(f->set(d, AG_DNN_TENSOR_SIZES, AG_DNN_INT64, 4, sizes), 0);
    assert_int_equal(f->set(d, AG_DNN_TENSOR_STRIDES, AG_DNN_INT64, 4, strides), 0);
    assert_int_equal(f->set(d, BY_VALUE, AG_DNN_BOOL, 1, &by_value), 0);
    assert_int_equal(f->finalize(d), 0);
    return d;
}

/* ViT-S: qkv [N, L, 3, heads, D] as it stands, no copy. */
static void test_cudnn_takes_the_attention_of_vit(void **state)
{
    (void)state;
    static ag_dnn_functions f;
    char why[512];
    const int64_t n = BATCH, l = 197, heads = 6, d = 64, one[4] = { 1, 1, 1, 1 }, wide = heads * d;
    const int64_t qkv[4] = { n, heads, l, d }, qkv_strides[4] = { l * 3 * wide, d, 3 * wide, 1 };
    const int64_t out_strides[4] = { l * wide, d, wide, 1 };
    const int64_t logs[4] = { n, heads, l, 1 }, log_strides[4] = { heads * l, l, 1, 1 };
    if (!ag_dnn_load(&f, 0, why, sizeof why) || f.version() < SINCE) {
        print_message("SKIP: %s\n", *why ? why : "an older cuDNN, whose attention is described otherwise");
        skip();
    }
    ag_dnn_desc parts[6], operation, graph, heuristics, device = described(&f, &gpus[0]);
    if (!device) skip();
    for (int i = 0; i < 3; i++) parts[i] = part(&f, i + 1, AG_DNN_BF16, qkv, qkv_strides, false);
    parts[3] = part(&f, 4, AG_DNN_BF16, qkv, out_strides, false);
    parts[4] = part(&f, 5, AG_DNN_F32, logs, log_strides, false);
    parts[5] = part(&f, 6, AG_DNN_F32, one, one, true);
    assert_int_equal(f.desc_create(ATTENTION, &operation), 0);
    for (int i = 0; i < 6; i++) assert_int_equal(f.set(operation, QUERY + i, AG_DNN_DESCRIPTOR, 1, &parts[i]), 0);
    assert_int_equal(f.finalize(operation), 0);
    assert_int_equal(f.desc_create(AG_DNN_GRAPH, &graph), 0);
    assert_int_equal(f.set(graph, AG_DNN_GRAPH_OPERATIONS, AG_DNN_DESCRIPTOR, 1, &operation), 0);
    assert_int_equal(f.finalize(graph), 0);
    const int mode = AG_DNN_MODE_A;
    int64_t engines = 0;
    assert_int_equal(f.desc_create(AG_DNN_HEURISTICS, &heuristics), 0);
    assert_int_equal(f.set(heuristics, AG_DNN_HEUR_GRAPH, AG_DNN_DESCRIPTOR, 1, &graph), 0);
    assert_int_equal(f.set(heuristics, AG_DNN_HEUR_MODE_OF, AG_DNN_HEUR_MODE, 1, &mode), 0);
    assert_int_equal(f.set(heuristics, AG_DNN_HEUR_DEVICE, AG_DNN_DESCRIPTOR, 1, &device), 0);
    assert_int_equal(f.finalize(heuristics), 0);
    assert_int_equal(f.get(heuristics, AG_DNN_HEUR_RESULTS, AG_DNN_DESCRIPTOR, 0, &engines, NULL), 0);
    print_message("attention of ViT-S: %d configurations on an H200\n", (int)engines);
    assert_true(engines > 0);
    ag_dnn_desc made[] = { heuristics, graph, operation, device };
    for (int i = 0; i < 4; i++) f.desc_destroy(made[i]);
    for (int i = 0; i < 6; i++) f.desc_destroy(parts[i]);
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
        cmocka_unit_test(test_cudnn_plans_every_convolution),
        cmocka_unit_test(test_cublaslt_takes_every_product),
        cmocka_unit_test(test_cudnn_takes_the_attention_of_vit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
#else
    print_message("SKIP: work is left out in the emulation only (make BUILD=emu)\n");
    return 0;
#endif
}
