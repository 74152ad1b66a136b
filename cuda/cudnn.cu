/* cuda/cudnn.cu - plans of convolutions and attentions: made once, looked up by shape, run from then on. */
#include "cuda/cudnn.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/memory.h"
#include "cuda/device.h"
#ifdef AG_EMULATE
#define LOAD ag_emulate_dnn_load
#else
#define LOAD ag_dnn_load
#endif

/* Engines for a batch of 256 images ask for up to 221 MB. A limit that does not depend on what is free: the same engine, and
 * so the same bits, in every run. */
static const int64_t MOST_WORKSPACE = (int64_t)512 << 20;

enum { BINS = 256 };

/* Of a convolution or of an attention, told apart by the size of the key. */
struct entry {
    entry *next;
    size_t size;
    union { ag_dnn_conv conv; ag_dnn_attention attention; } key;
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
    fprintf(stderr, "cuDNN does not work, a part of it is missing or of another version (%s); convolutions and attention go "
            "on with Agrad's own kernels\n", words(status));
    D.works = false;
    return true;
}

/* Whether it works. A plan of memory made without a device cannot ask: the library wants one. */
static bool begin(const char *at)
{
    char why[512];
    if (ag_planning() && !ag_cuda_available(nullptr, 0)) return false;
    int driver = 0;
    const char *wanted = D.tried ? nullptr : getenv("AG_CUDNN");
    if (!D.tried && !(wanted && !strcmp(wanted, "0"))) {
        ag_cuda_check(cudaDriverGetVersion(&driver), "asking for the driver's version");
        D.works = LOAD(&D.f, driver, why, sizeof why);
        if (!D.works) fprintf(stderr, "%s\n", why);
    }
    D.tried = true;
    if (D.works && !D.handle) {
        const int status = D.f.create(&D.handle);       /* a failure is tried again by the next convolution */
        if (status && !incomplete(status)) {
            ag_cuda_check_lost("starting cuDNN");
            ag_fail(at, "cuda: cuDNN could not be started: %s. With AG_CUDNN=0 Agrad's own kernels do its work",
                    words(status));
        }
    }
    return D.works;
}

static entry **bin_of(const void *key, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)key;
    uint64_t h = 14695981039346656037ull;               /* FNV-1a */
    for (size_t i = 0; i < size; i++) h = (h ^ bytes[i]) * 1099511628211ull;
    return &D.bins[(h >> 32) % BINS];
}

static entry *find(const void *key, size_t size)
{
    entry *e = *bin_of(key, size);
    while (e && (e->size != size || memcmp(&e->key, key, size))) e = e->next;
    return e;
}

/* status: of the plan. NULL: it is none, now and later; or cuDNN does not work at all. What failed otherwise is an error, and
 * tried again when the plan is asked for again. */
static const ag_dnn_plan *keep(const char *at, const char *what, const void *key, size_t size, int status,
                               const ag_dnn_plan *plan)
{
    if (status && incomplete(status)) return nullptr;
    if (status && !ag_dnn_unsupported(status)) {
        ag_cuda_check_lost("planning for cuDNN");
        ag_fail(at, "cuda: cuDNN could not plan the %s: %s", what, words(status));
    }
    entry *e = (entry *)ag_alloc(1, sizeof *e);
    e->next = *bin_of(key, size), e->size = size, e->plan = *plan;
    memcpy(&e->key, key, size);
    *bin_of(key, size) = e;
    return e->plan.plan ? &e->plan : nullptr;
}

const ag_dnn_plan *ag_cudnn_plan(const ag_node *n, const ag_conv *c, ag_conv_way way, bool add)
{
    if (!begin(n->at)) return nullptr;
    const ag_dnn_conv key = ag_dnn_conv_of(c, way, add);
    const entry *e = find(&key, sizeof key);
    if (e) return e->plan.plan ? &e->plan : nullptr;
    ag_dnn_plan plan;
    char what[200];
    const int status = ag_dnn_plan_new(&D.f, { D.handle, nullptr }, &key, MOST_WORKSPACE, &plan);
    snprintf(what, sizeof what, "convolution of [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "] by [%" PRId64 ", %" PRId64
             ", %" PRId64 ", %" PRId64 "]", c->n, c->h, c->w, c->in, c->out, c->in, c->kh, c->kw);
    return keep(n->at, what, &key, sizeof key, status, &plan);
}

const ag_dnn_plan *ag_cudnn_attention_plan(const ag_node *n, const ag_dnn_attention *key)
{
    if (!begin(n->at)) return nullptr;
    const entry *e = find(key, sizeof *key);
    if (e) return e->plan.plan ? &e->plan : nullptr;
    ag_dnn_plan plan;
    char what[200];
    const int status = ag_dnn_attention_plan(&D.f, { D.handle, nullptr }, key, MOST_WORKSPACE, &plan);
    snprintf(what, sizeof what, "attention of [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "] over %" PRId64 " tokens",
             key->n, key->l, key->heads, key->d, key->s);
    return keep(n->at, what, key, sizeof *key, status, &plan);
}

/* Whether the library works in our stream from now on; else a status. */
static int enter_stream(void)
{
    if (D.stream == ag_cuda_stream()) return 0;
    const int status = D.f.set_stream(D.handle, ag_cuda_stream());
    if (!status) D.stream = ag_cuda_stream();
    return status;
}

static void *workspace_of(const ag_node *n, const ag_dnn_plan *plan)
{
    return plan->workspace ? ag_workspace(n, plan->workspace, 1) : nullptr;
}

void ag_cudnn_run(const ag_node *n, const ag_dnn_plan *plan, const void *x, const void *w, const void *y)
{
    AG_SCOPE;                                           /* its workspace ends here */
    void *workspace = workspace_of(n, plan);
    if (ag_planning()) return;
    int status = enter_stream();
    if (!status) status = ag_dnn_plan_run(&D.f, D.handle, plan, x, w, y, workspace);
    if (!status) return;
    ag_cuda_check_lost("convolving");
    ag_fail(n->at, "cuda: cuDNN could not convolve: %s", words(status));
}

void ag_cudnn_attend(const ag_node *n, const ag_dnn_attention *a, const ag_dnn_plan *plan, const ag_dnn_operands *at)
{
    AG_SCOPE;
    void *workspace = workspace_of(n, plan);
    if (ag_planning()) return;
    int status = enter_stream();
    if (!status) status = ag_dnn_attention_run(&D.f, D.handle, a, plan, at, workspace);
    if (!status) return;
    ag_cuda_check_lost("attending");
    ag_fail(n->at, "cuda: cuDNN could not attend: %s", words(status));
}

void ag_cudnn_each(void (*conv)(void *arg, const ag_dnn_conv *c), void (*attention)(void *arg, const ag_dnn_attention *a),
                   void *arg)
{
    for (const entry *e : D.bins)
        for (; e; e = e->next)
            if (e->size == sizeof e->key.conv) conv(arg, &e->key.conv);
            else attention(arg, &e->key.attention);
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
