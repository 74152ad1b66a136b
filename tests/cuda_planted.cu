/* tests/cuda_planted.cu - kernels with planted defects: what the emulation (cuda/emulate.h) must not overlook. */
#include "cuda/cuda.h"
#include "tests/cuda_planted.h"

/* Neighbouring sums through shared memory. Without the barrier a thread reads what its neighbour has yet to write. */
static __global__ void neighbour_sums(int n, const float *x, float *y, bool barrier)
{
    AG_SHARED(float, s, AG_BLOCK);
    const int i = (int)threadIdx.x;
    s[i] = i < n ? x[i] : 0;
    if (barrier) __syncthreads();
    if (i < n) y[i] = s[i] + s[(i + 1) % n] + s[(i + n - 1) % n];
}

/* A tree over the block whose last steps rely on warps going in step, which they need not. */
static __global__ void block_sum(int n, const float *x, float *y, bool barrier)
{
    AG_SHARED(float, s, AG_BLOCK);
    const int i = (int)threadIdx.x;
    s[i] = i < n ? x[i] : 0;
    __syncthreads();
    for (int half = AG_BLOCK / 2; half; half /= 2) {
        if (i < half) s[i] += s[i + half];
        if (barrier || half > AG_WARP) __syncthreads();
    }
    if (!i) *y = s[0];
}

static __global__ void writes_behind(int n, float *y)
{
    y[threadIdx.x] = 1;
    if (!threadIdx.x) y[n] = 1;
}

static __global__ void writes_behind_shared(float *y)
{
    AG_SHARED(float, s, 32);
    s[threadIdx.x + 1] = 1;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}

static __global__ void waits_apart(float *y)
{
    if (threadIdx.x < 5) __syncthreads();
    else __syncwarp();
    y[threadIdx.x] = 1;
}

static __global__ void leaves_some(int n, float *y)
{
    if ((int)threadIdx.x < n) y[threadIdx.x] = 1;
}

void planted_neighbour_sums(int n, const float *x, float *y, bool barrier)
{
    LAUNCH(neighbour_sums, 1, AG_BLOCK, 0, n, x, y, barrier);
}

void planted_block_sum(int n, const float *x, float *y, bool barrier)
{
    LAUNCH(block_sum, 1, AG_BLOCK, 0, n, x, y, barrier);
}

void planted_writes_behind(int n, float *y) { LAUNCH(writes_behind, 1, n, 0, n, y); }
void planted_writes_behind_shared(float *y) { LAUNCH(writes_behind_shared, 1, 32, 0, y); }
void planted_waits_apart(float *y) { LAUNCH(waits_apart, 1, 32, 0, y); }
void planted_leaves_some(int n, float *y) { LAUNCH(leaves_some, 1, 32, 0, n, y); }

/* ---- the runtime --------------------------------------------------------------------------------------- */

static float *pinned_float(float value)
{
    float *p = nullptr;
    ag_cuda_check(cudaHostAlloc((void **)&p, sizeof *p, cudaHostAllocDefault), "pinned memory");
    *p = value;
    return p;
}

static float value_of(const float *x)
{
    float v;
    ag_cuda_check(cudaMemcpyAsync(&v, x, sizeof v, cudaMemcpyDeviceToHost, ag_cuda_stream()), "reading");
    return v;
}

float planted_two_streams(float *x, bool wait)
{
    cudaStream_t side;
    cudaEvent_t copied;
    float *five = pinned_float(5);
    cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&copied, cudaEventDisableTiming);
    cudaMemcpyAsync(x, five, sizeof *x, cudaMemcpyHostToDevice, side);
    cudaEventRecord(copied, side);
    if (wait) cudaStreamWaitEvent(ag_cuda_stream(), copied, 0);
    const float got = value_of(x);
    cudaEventDestroy(copied);
    cudaStreamDestroy(side);
    cudaFreeHost(five);
    return got;
}

float planted_late_read(float *x, bool wait)
{
    const float five = 5;
    float *to = pinned_float(0);
    cudaMemcpyAsync(x, &five, sizeof five, cudaMemcpyHostToDevice, ag_cuda_stream());
    cudaMemcpyAsync(to, x, sizeof five, cudaMemcpyDeviceToHost, ag_cuda_stream());
    if (wait) cudaStreamSynchronize(ag_cuda_stream());
    const float got = *to;
    cudaFreeHost(to);
    return got;
}

static __global__ void add_one(float *x)
{
    *x += 1;
}

static void fork_work(float *x, cudaStream_t side, cudaEvent_t event, bool join)
{
    cudaEventRecord(event, ag_cuda_stream());
    cudaStreamWaitEvent(side, event, 0);
    cudaMemsetAsync(x, 0, sizeof *x, side);
    cudaEventRecord(event, side);
    if (join) cudaStreamWaitEvent(ag_cuda_stream(), event, 0);
}

int planted_capture(float *x, planted_capture_kind kind)
{
    cudaStream_t side;
    cudaEvent_t event;
    cudaGraph_t graph;
    const float five = 5;
    void *p = nullptr, *before = nullptr;
    cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    cudaMalloc(&before, 4);
    if (kind == PLANTED_FOREIGN) cudaEventRecord(event, side);
    cudaStreamBeginCapture(ag_cuda_stream(), cudaStreamCaptureModeThreadLocal);
    LAUNCH(add_one, 1, 1, 0, x);
    switch (kind) {
    case PLANTED_SYNC: cudaStreamSynchronize(ag_cuda_stream()); break;
    case PLANTED_MALLOC: cudaMalloc(&p, 4); break;
    case PLANTED_FREE: cudaFree(before), before = nullptr; break;
    case PLANTED_PAGEABLE: cudaMemcpyAsync(x, &five, sizeof five, cudaMemcpyHostToDevice, ag_cuda_stream()); break;
    case PLANTED_FOREIGN: cudaStreamWaitEvent(ag_cuda_stream(), event, 0); break;
    case PLANTED_JOINED: fork_work(x, side, event, true); break;
    case PLANTED_UNJOINED: fork_work(x, side, event, false); break;
    default: break;
    }
    const cudaError_t e = cudaStreamEndCapture(ag_cuda_stream(), &graph);
    if (e == cudaSuccess) cudaGraphDestroy(graph);
    cudaEventDestroy(event);
    cudaStreamDestroy(side);
    cudaFree(p);
    cudaFree(before);
    return e;
}

float planted_replays(float *x, int n, float *captured)
{
    cudaGraph_t graph;
    cudaGraphExec_t run;
    cudaMemsetAsync(x, 0, sizeof *x, ag_cuda_stream());
    cudaStreamBeginCapture(ag_cuda_stream(), cudaStreamCaptureModeThreadLocal);
    LAUNCH(add_one, 1, 1, 0, x);
    cudaStreamEndCapture(ag_cuda_stream(), &graph);
    *captured = value_of(x);
    cudaGraphInstantiate(&run, graph, 0);
    cudaGraphDestroy(graph);
    for (int i = 0; i < n; i++) cudaGraphLaunch(run, ag_cuda_stream());
    const float got = value_of(x);
    cudaGraphExecDestroy(run);
    return got;
}
