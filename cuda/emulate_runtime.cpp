/* cuda/emulate_runtime.cpp - the CUDA runtime of the emulation: a driver that says what a test wants, copies, streams,
 * events and graphs; see cuda/emulate.h. */
#include "cuda/emulate_inside.h"
#include <stdlib.h>
#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

namespace {

std::recursive_mutex lock;                      /* loaders and ranks have threads of their own */
typedef std::lock_guard<std::recursive_mutex> guarded;

struct { int64_t calls, from, to, lost_from; } planted;         /* failures */

bool lost() { return planted.lost_from && planted.calls >= planted.lost_from; }
cudaError_t good() { return !ag_emulate_fails() ? cudaSuccess : lost() ? cudaErrorIllegalAddress : cudaErrorUnknown; }

/* ---- streams ------------------------------------------------------------------------------------------- */

typedef std::function<void()> work;

} // namespace

struct ag_emulate_graph {
    std::vector<work> work_;
    bool broken = false;
};

struct ag_emulate_stream {
    std::deque<work> waiting;
    ag_emulate_graph *capture = nullptr;
    bool origin = false, joined = true;         /* of the capture; whether the origin waits for what this one did in it */
};

struct ag_emulate_event {
    ag_emulate_stream *of = nullptr;
    ag_emulate_graph *capture = nullptr;
    int64_t recorded = 0, done = 0;
};

namespace {

bool lazy, dry;
int64_t counts[AG_EMULATE_COUNTS];
std::vector<ag_emulate_stream *> streams;
std::map<char *, size_t> pinned;

void run_one(ag_emulate_stream *s)
{
    const work w = s->waiting.front();
    ag_emulate_at_work now;
    s->waiting.pop_front();
    w();
}

void drain(ag_emulate_stream *s)
{
    while (!s->waiting.empty()) run_one(s);
}

void drain_all()
{
    for (ag_emulate_stream *s : streams) drain(s);
}

void finish(ag_emulate_event *e, int64_t until)
{
    while (e->done < until && e->of && !e->of->waiting.empty()) run_one(e->of);
}

bool capturing()
{
    for (const ag_emulate_stream *s : streams)
        if (s->capture) return true;
    return false;
}

/* Waiting, allocating and reading are forbidden in a capture, and end it. */
bool forbidden()
{
    for (ag_emulate_stream *s : streams)
        if (s->capture) s->capture->broken = true;
    return capturing();
}

bool is_pinned(const void *p)
{
    const auto after = pinned.upper_bound((char *)p);
    if (after == pinned.begin()) return false;
    const auto at = std::prev(after);
    return (char *)p < at->first + at->second;
}

cudaError_t after_waiting()
{
    const cudaError_t e = good();
    return ag_emulate_failed() ? (cudaError_t)cudaErrorLaunchFailure : e;
}

} // namespace

void ag_emulate_queue(cudaStream_t s, work w)
{
    guarded g(lock);
    if (dry) return;
    if (s->capture) {
        s->joined = s->origin;
        s->capture->work_.push_back(w);
        return;
    }
    counts[AG_EMULATE_QUEUED]++;
    s->waiting.push_back(w);
    if (!lazy) drain(s);
}

int64_t ag_emulate_count(int kind)
{
    guarded g(lock);
    return counts[kind];
}

void ag_emulate_lazy(bool on)
{
    guarded g(lock);
    drain_all();
    lazy = on;
}

void ag_emulate_dry(bool on)
{
    guarded g(lock);
    drain_all();
    dry = on;
}

bool ag_emulate_is_dry(void)
{
    return dry;
}

void ag_emulate_fail(int64_t at, int64_t count)
{
    planted = { 0, at, at + count, 0 };
}

void ag_emulate_lose(int64_t at)
{
    planted = { 0, 0, 0, at };
}

int64_t ag_emulate_calls(void)
{
    return planted.calls;
}

bool ag_emulate_fails(void)
{
    guarded g(lock);
    planted.calls++;
    return lost() || (planted.calls >= planted.from && planted.calls < planted.to);
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    guarded g(lock);
    *p = nullptr;
    counts[AG_EMULATE_MALLOCS]++;
    if (ag_emulate_fails()) return lost() ? cudaErrorIllegalAddress : cudaErrorMemoryAllocation;
    if (forbidden()) return cudaErrorStreamCaptureUnsupported;
    *p = ag_emulate_take(bytes);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void *p)
{
    guarded g(lock);
    if (!p) return cudaSuccess;
    if (forbidden()) return cudaErrorStreamCaptureUnsupported;
    drain_all();
    return ag_emulate_give(p) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned)
{
    guarded g(lock);
    *p = nullptr;
    if (ag_emulate_fails()) return lost() ? cudaErrorIllegalAddress : cudaErrorMemoryAllocation;
    if (forbidden()) return cudaErrorStreamCaptureUnsupported;
    *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*p) return cudaErrorMemoryAllocation;
    memset(*p, AG_EMULATE_POISON, bytes);
    pinned[(char *)*p] = bytes;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    guarded g(lock);
    if (!p) return cudaSuccess;
    if (forbidden()) return cudaErrorStreamCaptureUnsupported;
    drain_all();
    if (!pinned.erase((char *)p)) return cudaErrorInvalidValue;
    free(p);
    return cudaSuccess;
}

/* Memory of the host that is not pinned is read before the call returns, and written to before it returns. */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t s)
{
    guarded g(lock);
    if (const cudaError_t bad = good()) return bad;
    const bool from_device = kind != cudaMemcpyHostToDevice, to_device = kind != cudaMemcpyDeviceToHost;
    if (ag_emulate_is_device(src) != from_device || ag_emulate_is_device(dst) != to_device) return cudaErrorInvalidValue;
    const bool pageable = kind != cudaMemcpyDeviceToDevice && !is_pinned(kind == cudaMemcpyHostToDevice ? src : dst);
    if (pageable && s->capture) return forbidden(), cudaErrorStreamCaptureUnsupported;
    if (pageable && kind == cudaMemcpyHostToDevice) {
        const auto staged = std::make_shared<std::string>((const char *)src, bytes);
        ag_emulate_queue(s, [=] { memcpy(dst, staged->data(), bytes); });
    } else ag_emulate_queue(s, [=] { memcpy(dst, src, bytes); });
    if (pageable && kind == cudaMemcpyDeviceToHost) counts[AG_EMULATE_WAITS]++, drain(s);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t s)
{
    if (const cudaError_t bad = good()) return bad;
    if (!ag_emulate_is_device(dst)) return cudaErrorInvalidValue;
    ag_emulate_queue(s, [=] { memset(dst, byte, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    *total = AG_EMULATE_TOTAL;
    *free = *total - ag_emulate_held();
    return good();
}

/* ---- streams and events -------------------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    guarded g(lock);
    *s = nullptr;
    if (const cudaError_t bad = good()) return bad;
    streams.push_back(*s = new ag_emulate_stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    guarded g(lock);
    drain(s);
    streams.erase(std::find(streams.begin(), streams.end(), s));
    delete s;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    guarded g(lock);
    if (s->capture) return forbidden(), cudaErrorStreamCaptureUnsupported;
    counts[AG_EMULATE_WAITS]++;
    drain(s);
    return after_waiting();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = nullptr;
    if (const cudaError_t bad = good()) return bad;
    *e = new ag_emulate_event;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    guarded g(lock);
    if (e) finish(e, e->recorded);
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    guarded g(lock);
    if (const cudaError_t bad = good()) return bad;
    e->of = s;
    e->capture = s->capture;
    if (s->capture) return cudaSuccess;
    const int64_t n = ++e->recorded;
    ag_emulate_queue(s, [=] { e->done = n; });
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    guarded g(lock);
    if (const cudaError_t bad = good()) return bad;
    if (e->capture) {                           /* a fork from the capture, or the way back to it */
        if (s->capture && s->capture != e->capture) return forbidden(), cudaErrorStreamCaptureIsolation;
        if (s->origin) e->of->joined = true;
        else s->capture = e->capture;
        return cudaSuccess;
    }
    if (s->capture) return forbidden(), cudaErrorStreamCaptureIsolation;
    const int64_t n = e->recorded;
    ag_emulate_queue(s, [=] { finish(e, n); });
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    guarded g(lock);
    if (e->capture) return forbidden(), cudaErrorStreamCaptureUnsupported;
    finish(e, e->recorded);
    return after_waiting();
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    guarded g(lock);
    if (e->capture) return forbidden(), cudaErrorStreamCaptureUnsupported;
    return e->done < e->recorded ? (cudaError_t)cudaErrorNotReady : good();
}

/* ---- graphs: what was queued, in that order ------------------------------------------------------------- */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    guarded g(lock);
    if (const cudaError_t bad = good()) return bad;
    if (s->capture) return cudaErrorInvalidValue;
    s->capture = new ag_emulate_graph;
    s->origin = true;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    guarded g(lock);
    ag_emulate_graph *const made = s->capture;
    bool joined = true;
    *graph = nullptr;
    if (!made || !s->origin) return cudaErrorInvalidValue;
    for (ag_emulate_stream *t : streams)
        if (t->capture == made) {
            joined = joined && t->joined;
            t->capture = nullptr, t->origin = false, t->joined = true;
        }
    cudaError_t e = made->broken ? cudaErrorStreamCaptureInvalidated : joined ? cudaSuccess : cudaErrorStreamCaptureUnjoined;
    if (e == cudaSuccess) e = good();
    if (e == cudaSuccess) *graph = made;
    else delete made;
    return e;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t graph, unsigned long long)
{
    *e = nullptr;
    if (const cudaError_t bad = good()) return bad;
    *e = new ag_emulate_graph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s)
{
    guarded g(lock);
    if (const cudaError_t bad = good()) return bad;
    counts[AG_EMULATE_GRAPHS]++;
    ag_emulate_queue(s, [=] { for (const work &w : e->work_) w(); });
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e)
{
    guarded g(lock);
    drain_all();
    delete e;
    return cudaSuccess;
}

/* ---- the driver ---------------------------------------------------------------------------------------- */

cudaError_t cudaGetLastError(void)
{
    return lost() ? cudaErrorIllegalAddress : ag_emulate_failed() ? cudaErrorLaunchFailure : cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t e)
{
    switch (e) {
    case cudaErrorLaunchFailure: return ag_emulate_failure();
    case cudaErrorUnknown: return "a planted failure";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureUnjoined: return "capturing stream has unjoined work";
    case cudaErrorStreamCaptureIsolation: return "dependency created on uncaptured work in another stream";
    default: return "invalid value";
    }
}

static struct { int devices, major; cudaError_t count, use; } driver = { 1, 9, cudaSuccess, cudaSuccess };
void ag_emulate_driver(int devices, int major, cudaError_t count, cudaError_t use) { driver = { devices, major, count, use }; }
cudaError_t cudaDriverGetVersion(int *version) { return *version = 12040, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *n)
{
    const char *several = getenv("AG_EMULATE_GPUS");
    *n = several && driver.devices == 1 ? atoi(several) : driver.devices;
    return driver.count ? driver.count : good();
}
cudaError_t cudaSetDevice(int) { return driver.use ? driver.use : good(); }
cudaError_t cudaDeviceGetAttribute(int *value, int attribute, int)
{
    return *value = attribute == cudaDevAttrComputeCapabilityMajor ? driver.major : 4, cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device)
{
    return snprintf(text, (size_t)size, "00000000:%02X:00.0", device + 1), cudaSuccess;
}
