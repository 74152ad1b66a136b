/* cuda/emulate.h - the CUDA language on the CPU, so that kernels run, and their races show, without a GPU.
 *
 * Compiled by g++ in the place of cuda_runtime.h (make BUILD=emu). Every CUDA thread is a fiber of one OS thread and
 * runs until it waits at a barrier; ag_emulate_order chooses who goes first. A kernel with all its barriers gives the
 * same bits in every order; one that misses a barrier differs in at least one of them, mostly in a greedy order, where
 * one warp runs as far ahead as its barriers let it. Also reported as a failed launch: threads of one block waiting
 * at different barriers, writes next to a device allocation. Shared memory and new device memory hold NaN; the host that
 * touches device memory dies of it, with a message. Streams may be lazy: their work then happens when somebody waits for it,
 * and no sooner, so that a missing wait shows. While a stream is captured, what CUDA forbids is refused.
 * Not shown: races between blocks (they run one after the other), memory ordering, anything about speed. */
#ifndef AG_CUDA_EMULATE_H
#define AG_CUDA_EMULATE_H
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <functional>
#include <memory>
#include <tuple>
#include <type_traits>

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

typedef enum { AG_FORWARD, AG_REVERSE, AG_RANDOM, AG_GREEDY, AG_GREEDY_REVERSE, AG_ORDERS } ag_thread_order;
extern "C" void ag_emulate_order(int order);
extern "C" const char *ag_emulate_error(void);      /* of the last failed launch; "" if none; forgets it */

void ag_emulate_launch(const char *kernel, dim3 grid, dim3 block, size_t shared, void (*body)(void *), void *arg);
void ag_emulate_wait(int barrier, int line);
/* The block's shared array of the declaration at file:line; the first thread to come by makes it. */
void *ag_emulate_shared(const char *file, int line, size_t bytes);
void *ag_emulate_dynamic_shared(void);
int ag_emulate_any(int value, int line);
uint64_t ag_emulate_exchange(uint64_t value, unsigned lane, int line);     /* what `lane` of this warp handed in */
unsigned ag_emulate_lane(void);
enum { AG_WAIT_NONE, AG_WAIT_BLOCK, AG_WAIT_WARP };

static inline void __syncthreads(int line = __builtin_LINE()) { ag_emulate_wait(AG_WAIT_BLOCK, line); }
static inline void __syncwarp(unsigned = ~0u, int line = __builtin_LINE()) { ag_emulate_wait(AG_WAIT_WARP, line); }
static inline int __syncthreads_or(int v, int line = __builtin_LINE()) { return ag_emulate_any(v, line); }

template <class T> static inline T ag_emulate_shuffle(T value, unsigned lane, int line)
{
    uint64_t bits = 0;
    static_assert(sizeof value <= sizeof bits, "shuffles carry at most 8 bytes");
    memcpy(&bits, &value, sizeof value);
    bits = ag_emulate_exchange(bits, lane, line);
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T> static inline T __shfl_xor_sync(unsigned, T v, int mask, int = 32, int line = __builtin_LINE())
{
    return ag_emulate_shuffle(v, ag_emulate_lane() ^ (unsigned)mask, line);
}

template <class T> static inline T __shfl_down_sync(unsigned, T v, unsigned n, int = 32, int line = __builtin_LINE())
{
    const unsigned lane = ag_emulate_lane();
    return ag_emulate_shuffle(v, lane + n < 32 ? lane + n : lane, line);
}

template <class T> static inline T __shfl_sync(unsigned, T v, int lane, int = 32, int line = __builtin_LINE())
{
    return ag_emulate_shuffle(v, (unsigned)lane, line);
}

template <class T> static inline T ag_emulate_fetch(T *p, T v)
{
    T old = *p;
    *p = v;
    return old;
}
template <class T> static inline T atomicAdd(T *p, T v) { return ag_emulate_fetch(p, (T)(*p + v)); }
template <class T> static inline T atomicMax(T *p, T v) { return ag_emulate_fetch(p, *p > v ? *p : v); }
template <class T> static inline T atomicMin(T *p, T v) { return ag_emulate_fetch(p, *p < v ? *p : v); }
template <class T> static inline T atomicCAS(T *p, T was, T v) { return ag_emulate_fetch(p, *p == was ? v : *p); }

template <class F> static inline void ag_emulate_call(void *f)
{
    (*(F *)f)();
}

typedef struct ag_emulate_stream *cudaStream_t;
/* Queues work in the stream, or adds it to the graph that is captured there. */
void ag_emulate_queue(cudaStream_t s, std::function<void()> work);
/* Whether the launch can be, and is not planned to fail. */
bool ag_emulate_launches(const char *kernel, dim3 grid, dim3 block);

/* The arguments are copied now, as a launch does; the kernel runs when the stream gets there, or the graph. */
template <class... P, class... A>
static inline void ag_emulate_run(const char *name, cudaStream_t s, dim3 grid, dim3 block, size_t shared, void (*kernel)(P...),
                                  A &&...a)
{
    if (!ag_emulate_launches(name, grid, block)) return;
    const auto kept = std::make_shared<std::tuple<std::decay_t<P>...>>((std::decay_t<P>)a...);
    ag_emulate_queue(s, [=] {
        auto body = [&] { std::apply(kernel, *kept); };
        ag_emulate_launch(name, grid, block, shared, ag_emulate_call<decltype(body)>, &body);
    });
}
#define AG_KERNEL_LAUNCH(kernel, grid, block, shared, ...) \
    ag_emulate_run(#kernel, ag_cuda_stream(), grid, block, shared, kernel, __VA_ARGS__)
#define AG_SHARED(type, name, count) \
    type *const name = (type *)ag_emulate_shared(__FILE__, __LINE__, (count) * sizeof(type))
#define AG_UNROLL(n)
#define AG_DYNAMIC_SHARED(type, name) type *const name = (type *)ag_emulate_dynamic_shared()

/* ---- the runtime: a device whose memory is the host's -------------------------------------------------- */
/* From now on the calls number `at` to at + count - 1 of the runtime, launches and products among them, fail; 0: none. */
extern "C" void ag_emulate_fail(int64_t at, int64_t count);
/* From call number `at` on all of them fail, as when a GPU is lost; 0: it is back. */
extern "C" void ag_emulate_lose(int64_t at);
extern "C" int64_t ag_emulate_calls(void);          /* since ag_emulate_fail */
bool ag_emulate_fails(void);                        /* a call's question whether it is one of them */

/* Whether streams are lazy; at first they are not. */
extern "C" void ag_emulate_lazy(bool lazy);
/* Whether the device's work is left out and its memory never touched: for sizes that no CPU would compute. What was allocated
 * meanwhile is freed, and given back to the driver, before this ends. */
extern "C" void ag_emulate_dry(bool dry);
/* How often so far: work was queued outside of captures, a graph launched, the device waited for, the driver asked for memory. */
enum { AG_EMULATE_QUEUED, AG_EMULATE_GRAPHS, AG_EMULATE_WAITS, AG_EMULATE_MALLOCS, AG_EMULATE_COUNTS };
extern "C" int64_t ag_emulate_count(int kind);

typedef int cudaError_t;
typedef struct ag_emulate_event *cudaEvent_t;
typedef struct ag_emulate_graph *cudaGraph_t, *cudaGraphExec_t;
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2, cudaErrorLaunchFailure = 719,
       cudaErrorInsufficientDriver = 35, cudaErrorDevicesUnavailable = 46, cudaErrorNoDevice = 100,
       cudaErrorNotReady = 600, cudaErrorIllegalAddress = 700,
       cudaErrorStreamCaptureUnsupported = 900, cudaErrorStreamCaptureInvalidated = 901, cudaErrorStreamCaptureUnjoined = 904,
       cudaErrorStreamCaptureIsolation = 905, cudaErrorUnknown = 999 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocDefault = 0 };
enum { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrComputeCapabilityMajor = 75 };

/* What the driver says from now on: so many GPUs of this major capability (1: AG_EMULATE_GPUS in the environment says how many),
 * or an error of the first use. */
extern "C" void ag_emulate_driver(int devices, int major, cudaError_t count, cudaError_t use);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int *value, int attribute, int device);
cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e);
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t s);
cudaError_t cudaMemsetAsync(void *dst, int byte, size_t bytes, cudaStream_t s);
cudaError_t cudaMemGetInfo(size_t *free, size_t *total);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t e);

#endif
