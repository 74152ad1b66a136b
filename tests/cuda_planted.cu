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
