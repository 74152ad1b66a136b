/* cuda/emulate_runtime.cpp - the CUDA runtime of the emulation: a driver that says what a test wants, memory that only the
 * device can touch, streams, events and graphs; see cuda/emulate.h. */
#include "cuda/emulate_inside.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

namespace {

const size_t GUARD = AG_EMULATE_GUARD, TOTAL = (size_t)1 << 30;
/* Addresses: closed ones for small blocks, and open ones, since to open and close many pages takes too long. */
const size_t SMALL = 16 << 10, CLOSED = (size_t)1 << 32, ROOM = (size_t)1 << 36;
const int POISON = AG_EMULATE_POISON;

std::recursive_mutex lock;                      /* loaders and ranks have threads of their own */
typedef std::lock_guard<std::recursive_mutex> guarded;

struct { int64_t calls, from, to; } planted;    /* failures */

cudaError_t good() { return ag_emulate_fails() ? cudaErrorUnknown : cudaSuccess; }

/* ---- memory: small blocks are open while the device works, and closed to the host ---------------------- */

struct range {
    char *top = nullptr;                        /* never used so far */
    std::multimap<size_t, char *> idle;         /* by room */
};

struct {
    char *base = nullptr;
    int key = -1, depth = 0;                    /* key: of the processor's protection keys, where it has them */
    size_t held = 0;
    std::map<char *, size_t> used;
    range closed, open;
} M;

void say_who(int, siginfo_t *info, void *)
{
    static const char text[] = "emulation: the host touched memory of the device, which on a GPU is a crash\n";
    const char *p = (const char *)info->si_addr;
    if (p >= M.base && p < M.base + ROOM && write(2, text, sizeof text - 1) < 0) _exit(3);
    signal(SIGSEGV, SIG_DFL);
}

void begin_memory()
{
    if (M.base) return;
    M.base = (char *)mmap(nullptr, ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (M.base == MAP_FAILED) abort();
    M.closed.top = M.base;
    M.open.top = M.base + CLOSED;
    mprotect(M.open.top, ROOM - CLOSED, PROT_READ | PROT_WRITE);
    M.key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
    if (M.key >= 0) pkey_mprotect(M.base, CLOSED, PROT_READ | PROT_WRITE, M.key);
}

/* Now and then: test frameworks have handlers of their own. */
void listen_for_touches()
{
    struct sigaction action = {};
    action.sa_sigaction = say_who;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
}

void let(bool access)
{
    if (M.key >= 0) pkey_set(M.key, access ? 0 : PKEY_DISABLE_ACCESS);
    else if (M.closed.top > M.base)
        mprotect(M.base, (size_t)(M.closed.top - M.base + 4095) / 4096 * 4096, access ? PROT_READ | PROT_WRITE : PROT_NONE);
}

struct device_at_work {
    device_at_work()
    {
        begin_memory();
        if (!M.depth++) let(true);
    }
    ~device_at_work()
    {
        if (!--M.depth) let(false);
    }
};

/* With the guards, in steps of their size. */
size_t room_for(size_t bytes)
{
    return (bytes + 3 * GUARD - 1) / GUARD * GUARD;
}

range &range_of(size_t bytes)
{
    return bytes <= SMALL ? M.closed : M.open;
}

/* Kept compact: the fewer pages, the faster they are opened and closed. */
char *find_room(range *r, size_t room)
{
    const auto fitting = r->idle.lower_bound(room);
    if (fitting == r->idle.end()) {
        r->top += room;
        return r->top - room;
    }
    char *const p = fitting->second;
    const size_t left = fitting->first - room;
    r->idle.erase(fitting);
    if (left) r->idle.insert({ left, p + room });
    return p;
}

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

bool lazy;
std::vector<ag_emulate_stream *> streams;
std::map<char *, size_t> pinned;

void run_one(ag_emulate_stream *s)
{
    const work w = s->waiting.front();
    device_at_work now;
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

bool is_device(const void *p)
{
    return M.base && (char *)p >= M.base && (char *)p < M.base + ROOM;
}

cudaError_t after_waiting()
{
    const cudaError_t e = good();
    return ag_emulate_failed() ? (cudaError_t)cudaErrorLaunchFailure : e;
}

} // namespace

bool ag_emulate_queue(cudaStream_t s, work w)
{
    guarded g(lock);
    if (s->capture) {
        s->joined = s->origin;
        s->capture->work_.push_back(w);
        return true;
    }
    s->waiting.push_back(w);
    if (!lazy) drain(s);
    return true;
}

void ag_emulate_lazy(bool on)
{
    guarded g(lock);
    drain_all();
    lazy = on;
}

void ag_emulate_fail(int64_t at, int64_t count)
{
    planted = { 0, at, at + count };
}

int64_t ag_emulate_calls(void)
{
    return planted.calls;
}

bool ag_emulate_fails(void)
{
    guarded g(lock);
    return ++planted.calls >= planted.from && planted.calls < planted.to;
}

std::string ag_emulate_check_guards(void)
{
    std::string found;
    for (auto &b : M.used) {
        const bool before = !ag_emulate_intact(b.first - GUARD, GUARD), behind = !ag_emulate_intact(b.first + b.second, GUARD);
        if (!before && !behind) continue;
        found = std::string(before ? "before" : "behind") + " an allocation of " + std::to_string(b.second) + " bytes";
        memset(b.first - GUARD, POISON, GUARD);
        memset(b.first + b.second, POISON, GUARD);
    }
    return found;
}

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    guarded g(lock);
    *p = nullptr;
    if (ag_emulate_fails() || bytes > TOTAL - M.held) return cudaErrorMemoryAllocation;
    if (forbidden()) return cudaErrorStreamCaptureUnsupported;
    begin_memory();
    listen_for_touches();
    char *const raw = find_room(&range_of(bytes), room_for(bytes));
    device_at_work now;                         /* opens what is new as well */
    memset(raw, POISON, bytes + 2 * GUARD);
    M.used[raw + GUARD] = bytes;
    M.held += bytes;
    *p = raw + GUARD;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    guarded g(lock);
    if (!p) return cudaSuccess;
    if (forbidden()) return cudaErrorStreamCaptureUnsupported;
    drain_all();
    const auto b = M.used.find((char *)p);
    if (b == M.used.end()) return cudaErrorInvalidValue;
    M.held -= b->second;
    range_of(b->second).idle.insert({ room_for(b->second), b->first - GUARD });
    M.used.erase(b);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned)
{
    guarded g(lock);
    *p = nullptr;
    if (ag_emulate_fails()) return cudaErrorMemoryAllocation;
    if (forbidden()) return cudaErrorStreamCaptureUnsupported;
    *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*p) return cudaErrorMemoryAllocation;
    memset(*p, POISON, bytes);
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
    if (good()) return cudaErrorUnknown;
    if (kind == cudaMemcpyHostToDevice ? is_device(src) || !is_device(dst)
        : kind == cudaMemcpyDeviceToHost ? is_device(dst) || !is_device(src) : !is_device(src) || !is_device(dst))
        return cudaErrorInvalidValue;
    const bool pageable = kind != cudaMemcpyDeviceToDevice && !is_pinned(kind == cudaMemcpyHostToDevice ? src : dst);
    if (pageable && s->capture) return forbidden(), cudaErrorStreamCaptureUnsupported;
    if (pageable && kind == cudaMemcpyHostToDevice) {
        const auto staged = std::make_shared<std::string>((const char *)src, bytes);
        ag_emulate_queue(s, [=] { memcpy(dst, staged->data(), bytes); });
    } else ag_emulate_queue(s, [=] { memcpy(dst, src, bytes); });
    if (pageable && kind == cudaMemcpyDeviceToHost) drain(s);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t s)
{
    if (good()) return cudaErrorUnknown;
    if (!is_device(dst)) return cudaErrorInvalidValue;
    ag_emulate_queue(s, [=] { memset(dst, byte, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    *free = TOTAL - M.held;
    *total = TOTAL;
    return good();
}

/* ---- streams and events -------------------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned)
{
    guarded g(lock);
    *s = nullptr;
    if (good()) return cudaErrorUnknown;
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
    drain(s);
    return after_waiting();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = nullptr;
    if (good()) return cudaErrorUnknown;
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
    if (good()) return cudaErrorUnknown;
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
    if (good()) return cudaErrorUnknown;
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
    if (good()) return cudaErrorUnknown;
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
    if (good()) return cudaErrorUnknown;
    *e = new ag_emulate_graph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s)
{
    guarded g(lock);
    if (good()) return cudaErrorUnknown;
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
    return ag_emulate_failed() ? cudaErrorLaunchFailure : cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t e)
{
    switch (e) {
    case cudaErrorLaunchFailure: return ag_emulate_failure();
    case cudaErrorUnknown: return "a planted failure";
    case cudaErrorMemoryAllocation: return "out of memory";
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
cudaError_t cudaGetDeviceCount(int *n) { return *n = driver.devices, driver.count ? driver.count : good(); }
cudaError_t cudaSetDevice(int) { return driver.use ? driver.use : good(); }
cudaError_t cudaDeviceGetAttribute(int *value, int attribute, int)
{
    return *value = attribute == cudaDevAttrComputeCapabilityMajor ? driver.major : 4, cudaSuccess;
}
