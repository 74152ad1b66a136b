/* cuda/cuda.h - what the kernels share: launching, walking over strided tensors, sums over a block.
 *
 *     LAUNCH(scale, ag_blocks(n), AG_BLOCK, 0, n, x, y);      queued on the one stream; a bad launch fails
 *
 * Kernels are C with templates; every launcher is extern "C". Loops are grid-strided (AG_EACH), sums have a fixed
 * order (no float atomics): the same bits in every run. */
#ifndef AG_CUDA_H
#define AG_CUDA_H
#ifdef AG_EMULATE
#include "cuda/emulate.h"
#else
#include <cuda_runtime.h>
#define AG_KERNEL_LAUNCH(kernel, grid, block, shared, ...) \
    kernel<<<grid, block, shared, ag_cuda_stream()>>>(__VA_ARGS__)
#define AG_SHARED(type, name, count) __shared__ type name[count]
#define AG_DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#define AG_UNROLL(n) _Pragma(AG_QUOTE(unroll n))
#define AG_QUOTE(text) #text
#endif
#include "core/ledger.h"
#include "core/op.h"
#include "ops/ops.h"

extern "C" {
cudaStream_t ag_cuda_stream(void);
/* Fails with the driver's words for e, if it is an error; `what` was being done. Where the GPU is lost, it says so as well. */
void ag_cuda_check(cudaError_t e, const char *what);
/* For what failed in a library's own words: fails if it is because the GPU is lost. */
void ag_cuda_check_lost(const char *what);
}

/* A plan of memory runs everything but the kernels (core/ledger.h). */
#define LAUNCH(kernel, grid, block, shared, ...) \
    do { \
        if (ag_planning()) break; \
        AG_KERNEL_LAUNCH(kernel, grid, block, shared, __VA_ARGS__); \
        ag_cuda_check(cudaGetLastError(), #kernel); \
    } while (0)

/* p[0 .. bytes) = 0 */
static inline void ag_cuda_clear(void *p, int64_t bytes, const char *what)
{
    if (!ag_planning()) ag_cuda_check(cudaMemsetAsync(p, 0, (size_t)bytes, ag_cuda_stream()), what);
}

enum { AG_BLOCK = 256, AG_WARP = 32 };

static inline unsigned ag_blocks(int64_t n)         /* n > 0; the grid-strided loop does the rest */
{
    const int64_t b = (n + AG_BLOCK - 1) / AG_BLOCK;
    return (unsigned)(b < 4096 ? b : 4096);
}
#define AG_EACH(i, n) \
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < (n); i += gridDim.x * (int64_t)blockDim.x)

/* ---- bf16: the upper half of an f32, rounded to nearest even ------------------------------------------- */

struct ag_bf16 { uint16_t bits; };

static __host__ __device__ inline float ag_load(float v) { return v; }
static __host__ __device__ inline float ag_load(ag_bf16 v)
{
    const uint32_t u = (uint32_t)v.bits << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static __host__ __device__ inline void ag_store(float *p, float v) { *p = v; }
static __host__ __device__ inline void ag_store(ag_bf16 *p, float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    p->bits = (uint16_t)(v != v ? 0x7FC0 : (u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

/* ---- walking over K tensors of one shape at once ------------------------------------------------------- */

/* Neighbouring axes that lie behind one another in every tensor are merged, so contiguous tensors have one axis. */
template <int K> struct ag_walk {
    int ndim;
    int64_t n, size[AG_MAX_DIMS], stride[K][AG_MAX_DIMS];
};

template <int K> static inline void ag_walk_begin(ag_walk<K> *w)
{
    w->ndim = 1;
    w->n = 1;
    w->size[0] = 1;
    for (int k = 0; k < K; k++) w->stride[k][0] = 0;
}

/* Appends an axis on the inside. */
template <int K> static inline void ag_walk_axis(ag_walk<K> *w, int64_t size, const int64_t *stride)
{
    if (size == 1) return;
    int d = w->ndim - 1;
    bool merge = true;
    for (int k = 0; k < K; k++) merge = merge && w->stride[k][d] == stride[k] * size;
    if (w->size[d] != 1 && !merge) w->ndim = ++d + 1;
    w->size[d] = w->size[d] == 1 || !merge ? size : w->size[d] * size;
    for (int k = 0; k < K; k++) w->stride[k][d] = stride[k];
    w->n *= size;
}

/* Stride of t along axis d of an output with `ndim` axes that t is broadcast to. */
static inline int64_t ag_broadcast_stride(const ag_tensor *t, int ndim, int d)
{
    const int own = d - (ndim - t->ndim);
    return own < 0 || t->shape[own] == 1 ? 0 : t->stride[own];
}

/* All t[k] broadcast to `out`'s shape. */
template <int K> static inline ag_walk<K> ag_walk_of(const ag_tensor *out, const ag_tensor *const *t)
{
    ag_walk<K> w;
    ag_walk_begin(&w);
    for (int d = 0; d < out->ndim; d++) {
        int64_t stride[K];
        for (int k = 0; k < K; k++) stride[k] = ag_broadcast_stride(t[k], out->ndim, d);
        ag_walk_axis(&w, out->shape[d], stride);
    }
    return w;
}

/* Offsets of element i (row-major) in each tensor. 32-bit division is several times cheaper than 64-bit. */
template <int K> static __device__ inline void ag_walk_at(const ag_walk<K> &w, int64_t i, int64_t *offset)
{
    for (int k = 0; k < K; k++) offset[k] = 0;
    for (int d = w.ndim - 1; d > 0; d--) {
        const int64_t q = w.n <= 0xFFFFFFFFll ? (int64_t)((uint32_t)i / (uint32_t)w.size[d]) : i / w.size[d];
        const int64_t r = i - q * w.size[d];
        for (int k = 0; k < K; k++) offset[k] += r * w.stride[k][d];
        i = q;
    }
    for (int k = 0; k < K; k++) offset[k] += i * w.stride[k][0];
}

/* ---- what changes from launch to launch of a graph ----------------------------------------------------- */

/* A random op's key; of an op in a graph it is read when that runs. */
struct ag_cuda_key {
    uint64_t value;
    const uint64_t *slot;                               /* nullptr: the value */
    __device__ inline uint64_t get() const { return slot ? *slot : value; }
};
ag_cuda_key ag_cuda_key_of(uint64_t drawn);             /* drawn: by ag_rng_draw */

/* ---- errors found inside kernels ----------------------------------------------------------------------- */

/* An id out of range: the kernel notes it here and goes on without reading; the next wait for the device fails with
 * "at: op: ids[position] = value, but ..." A check per op would cost a wait per op. */
struct ag_cuda_trap {
    int set;
    const char *at, *op;
    int64_t position, value, rows;
};
extern "C" ag_cuda_trap *ag_cuda_trap_device(void);

static __device__ inline void ag_trap(ag_cuda_trap *t, const char *at, const char *op, int64_t position, int64_t value,
                                      int64_t rows)
{
    if (atomicCAS(&t->set, 0, 1)) return;
    t->at = at;
    t->op = op;
    t->position = position;
    t->value = value;
    t->rows = rows;
}

#endif
