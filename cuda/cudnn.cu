/* cuda/cudnn.cu - plans of convolutions: made once, looked up by shape, run from then on. */
#include "cuda/cudnn.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/memory.h"
#include "cuda/device.h"
#if !defined(AG_EMULATE) && __has_include(<cudnn.h>)
#include <cudnn.h>
#define SAME(ours, theirs) static_assert((int)ours == (int)theirs, #theirs)
SAME(AG_DNN_CONVOLUTION, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
SAME(AG_DNN_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
SAME(AG_DNN_CONFIG, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
SAME(AG_DNN_HEURISTICS, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
SAME(AG_DNN_PLAN, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
SAME(AG_DNN_FORWARD, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
SAME(AG_DNN_WEIGHT_GRADIENT, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR);
SAME(AG_DNN_INPUT_GRADIENT, CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR);
SAME(AG_DNN_GRAPH, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
SAME(AG_DNN_PACK, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
SAME(AG_DNN_TENSOR, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
SAME(AG_DNN_HANDLE, CUDNN_TYPE_HANDLE);
SAME(AG_DNN_DATA_TYPE, CUDNN_TYPE_DATA_TYPE);
SAME(AG_DNN_BOOL, CUDNN_TYPE_BOOLEAN);
SAME(AG_DNN_INT64, CUDNN_TYPE_INT64);
SAME(AG_DNN_FLOAT, CUDNN_TYPE_FLOAT);
SAME(AG_DNN_POINTER, CUDNN_TYPE_VOID_PTR);
SAME(AG_DNN_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE);
SAME(AG_DNN_HEUR_MODE, CUDNN_TYPE_HEUR_MODE);
SAME(AG_DNN_NOTE, CUDNN_TYPE_NUMERICAL_NOTE);
SAME(AG_DNN_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR);
SAME(AG_DNN_CONV_TYPE, CUDNN_ATTR_CONVOLUTION_COMP_TYPE);
SAME(AG_DNN_CONV_MODE_OF, CUDNN_ATTR_CONVOLUTION_CONV_MODE);
SAME(AG_DNN_CONV_DILATIONS, CUDNN_ATTR_CONVOLUTION_DILATIONS);
SAME(AG_DNN_CONV_STRIDES, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES);
SAME(AG_DNN_CONV_POST_PADDINGS, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS);
SAME(AG_DNN_CONV_PRE_PADDINGS, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS);
SAME(AG_DNN_CONV_AXES, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS);
SAME(AG_DNN_HEUR_MODE_OF, CUDNN_ATTR_ENGINEHEUR_MODE);
SAME(AG_DNN_HEUR_GRAPH, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
SAME(AG_DNN_HEUR_RESULTS, CUDNN_ATTR_ENGINEHEUR_RESULTS);
SAME(AG_DNN_CONFIG_ENGINE, CUDNN_ATTR_ENGINECFG_ENGINE);
SAME(AG_DNN_PLAN_HANDLE, CUDNN_ATTR_EXECUTION_PLAN_HANDLE);
SAME(AG_DNN_PLAN_CONFIG, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
SAME(AG_DNN_PLAN_WORKSPACE, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
SAME(AG_DNN_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA);
SAME(AG_DNN_FORWARD_BETA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA);
SAME(AG_DNN_FORWARD_CONV, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC);
SAME(AG_DNN_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W);
SAME(AG_DNN_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X);
SAME(AG_DNN_FORWARD_Y, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y);
SAME(AG_DNN_INPUT_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA);
SAME(AG_DNN_INPUT_BETA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA);
SAME(AG_DNN_INPUT_CONV, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC);
SAME(AG_DNN_INPUT_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W);
SAME(AG_DNN_INPUT_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX);
SAME(AG_DNN_INPUT_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY);
SAME(AG_DNN_WEIGHT_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA);
SAME(AG_DNN_WEIGHT_BETA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA);
SAME(AG_DNN_WEIGHT_CONV, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC);
SAME(AG_DNN_WEIGHT_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW);
SAME(AG_DNN_WEIGHT_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X);
SAME(AG_DNN_WEIGHT_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY);
SAME(AG_DNN_GRAPH_HANDLE, CUDNN_ATTR_OPERATIONGRAPH_HANDLE);
SAME(AG_DNN_GRAPH_OPERATIONS, CUDNN_ATTR_OPERATIONGRAPH_OPS);
SAME(AG_DNN_TENSOR_ALIGNMENT, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
SAME(AG_DNN_TENSOR_TYPE, CUDNN_ATTR_TENSOR_DATA_TYPE);
SAME(AG_DNN_TENSOR_SIZES, CUDNN_ATTR_TENSOR_DIMENSIONS);
SAME(AG_DNN_TENSOR_STRIDES, CUDNN_ATTR_TENSOR_STRIDES);
SAME(AG_DNN_TENSOR_ID, CUDNN_ATTR_TENSOR_UNIQUE_ID);
SAME(AG_DNN_TENSOR_VIRTUAL, CUDNN_ATTR_TENSOR_IS_VIRTUAL);
SAME(AG_DNN_PACK_IDS, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
SAME(AG_DNN_PACK_POINTERS, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
SAME(AG_DNN_PACK_WORKSPACE, CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
SAME(AG_DNN_ENGINE_INDEX, CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
SAME(AG_DNN_ENGINE_NOTES, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE);
SAME(AG_DNN_F32, CUDNN_DATA_FLOAT);
SAME(AG_DNN_BF16, CUDNN_DATA_BFLOAT16);
SAME(AG_DNN_CORRELATION, CUDNN_CROSS_CORRELATION);
SAME(AG_DNN_MODE_FALLBACK, CUDNN_HEUR_MODE_FALLBACK);
SAME(AG_DNN_MODE_A, CUDNN_HEUR_MODE_A);
SAME(AG_DNN_TENSOR_CORE, CUDNN_NUMERICAL_NOTE_TENSOR_CORE);
SAME(AG_DNN_DOWN_CONVERTS, CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS);
SAME(AG_DNN_REDUCED_SUMS, CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION);
SAME(AG_DNN_FFT, CUDNN_NUMERICAL_NOTE_FFT);
SAME(AG_DNN_NONDETERMINISTIC, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC);
SAME(AG_DNN_WINOGRAD, CUDNN_NUMERICAL_NOTE_WINOGRAD);
SAME(AG_DNN_WINOGRAD_13, CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13);
SAME(AG_DNN_LIBRARIES_DIFFER, CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH);
SAME(AG_DNN_UNSUPPORTED, CUDNN_STATUS_NOT_SUPPORTED);
SAME(AG_DNN_NOT_COMPILED, CUDNN_STATUS_INTERNAL_ERROR_COMPILATION_FAILED);
#endif
#ifdef AG_EMULATE
#define LOAD ag_emulate_dnn_load
#else
#define LOAD ag_dnn_load
#endif

/* Engines for a batch of 256 images ask for up to 221 MB. A limit that does not depend on what is free: the same engine, and
 * so the same bits, in every run. */
static const int64_t MOST_WORKSPACE = (int64_t)512 << 20;

enum { BINS = 256 };

struct entry {
    entry *next;
    ag_dnn_conv key;
    ag_dnn_plan plan;                                   /* .plan NULL: there is none */
};

static struct {
    bool tried, works;
    ag_dnn_functions f;
    ag_dnn_handle handle;
    cudaStream_t stream;
    entry *bins[BINS];
} D;

/* What the library says about a failure, on one line. */
static const char *words(int status)
{
    static char text[256];
    const int used = snprintf(text, sizeof text, "%s: ", D.f.error_string(status));
    if (used > 0 && (size_t)used < sizeof text) D.f.last_error(text + used, sizeof text - (size_t)used);
    text[strcspn(text, "\n")] = 0;
    return text;
}

/* Parts of the library are missing, or of another version. */
static bool incomplete(int status)
{
    if (status != AG_DNN_LIBRARIES_DIFFER && status != AG_DNN_LIBRARY_NOT_LOADED) return false;
    fprintf(stderr, "cuDNN does not work, a part of it is missing or of another version (%s); convolutions go on with Agrad's "
            "own kernels\n", words(status));
    D.works = false;
    return true;
}

static void begin(const char *at)
{
    char why[512];
    int driver = 0;
    const char *wanted = getenv("AG_CUDNN");
    if (!D.tried && !(wanted && !strcmp(wanted, "0"))) {
        ag_cuda_check(cudaDriverGetVersion(&driver), "asking for the driver's version");
        D.works = LOAD(&D.f, driver, why, sizeof why);
        if (!D.works) fprintf(stderr, "%s\n", why);
    }
    D.tried = true;
    if (D.works && !D.handle) {
        const int status = D.f.create(&D.handle);       /* a failure is tried again by the next convolution */
        if (status && !incomplete(status))
            ag_fail(at, "cuda: cuDNN could not be started: %s. With AG_CUDNN=0 convolutions go on with Agrad's own kernels",
                    words(status));
    }
}

static entry **bin_of(const ag_dnn_conv *key)
{
    const unsigned char *bytes = (const unsigned char *)key;
    uint64_t h = 14695981039346656037ull;               /* FNV-1a */
    for (size_t i = 0; i < sizeof *key; i++) h = (h ^ bytes[i]) * 1099511628211ull;
    return &D.bins[(h >> 32) % BINS];
}

static entry *find(const ag_dnn_conv *key)
{
    entry *e = *bin_of(key);
    while (e && memcmp(&e->key, key, sizeof *key)) e = e->next;
    return e;
}

const ag_dnn_plan *ag_cudnn_plan(const ag_node *n, const ag_conv *c, ag_conv_way way, bool add)
{
    if (ag_planning() && !ag_cuda_available(nullptr, 0)) return nullptr;        /* the library wants a device */
    begin(n->at);
    if (!D.works) return nullptr;
    const ag_dnn_conv key = ag_dnn_conv_of(c, way, add);
    entry *e = find(&key);
    if (!e) {
        ag_dnn_plan plan;
        const int status = ag_dnn_plan_new(&D.f, { D.handle, nullptr }, &key, MOST_WORKSPACE, &plan);
        if (status && incomplete(status)) return nullptr;
        if (status && !ag_dnn_unsupported(status))
            ag_fail(n->at, "cuda: cuDNN could not plan the convolution of [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                    "] by [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "]: %s", c->n, c->h, c->w, c->in, c->out, c->in,
                    c->kh, c->kw, words(status));
        e = (entry *)ag_alloc(1, sizeof *e);
        *e = { *bin_of(&key), key, plan };
        *bin_of(&key) = e;
    }
    return e->plan.plan ? &e->plan : nullptr;
}

void ag_cudnn_run(const ag_node *n, const ag_dnn_plan *plan, const void *x, const void *w, const void *y)
{
    AG_SCOPE;                                           /* its workspace ends here */
    void *workspace = plan->workspace ? ag_workspace(n, plan->workspace, 1) : nullptr;
    int status = 0;
    if (ag_planning()) return;
    if (D.stream != ag_cuda_stream()) status = D.f.set_stream(D.handle, ag_cuda_stream());
    if (!status) {
        D.stream = ag_cuda_stream();
        status = ag_dnn_plan_run(&D.f, D.handle, plan, x, w, y, workspace);
    }
    if (status) ag_fail(n->at, "cuda: cuDNN could not convolve: %s", words(status));
}

void ag_cudnn_each(void (*f)(void *arg, const ag_dnn_conv *c), void *arg)
{
    for (const entry *e : D.bins)
        for (; e; e = e->next) f(arg, &e->key);
}

void ag_cudnn_forget(void)
{
    for (entry *&bin : D.bins)
        while (bin) {
            entry *e = bin;
            bin = e->next;
            ag_dnn_plan_drop(&D.f, &e->plan);
            ag_free(e);
        }
    D = {};
}
