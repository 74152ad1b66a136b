/* cuda/allocator.cu - device memory. cudaMalloc takes up to a millisecond and waits for the GPU; freed blocks are
 * therefore kept by size and handed out again. One stream does all work in order, so a block may be reused at once. A graph
 * (graph.cu) works at the addresses it was made with: what it took is nobody else's until it ends. While one is made the driver
 * cannot be asked; what is missing then has an address without memory, and the graph is made again when the memory is there. */
#include <pthread.h>
#include "core/memory.h"
#include "cuda/device.h"

#ifdef AG_EMULATE
static const size_t GRANULE = 1;            /* the guards then begin right behind the last byte */
#else
static const size_t GRANULE = 512;
#endif

enum { BINS = 1024 };

struct block {
    void *p;
    size_t size;
    const void *graph;                      /* whose it is: only while that is made it can be taken; nullptr: anybody's */
    block *next;
};

static struct {
    pthread_mutex_t lock;
    block *live[BINS], *idle[BINS], *spare; /* by pointer; by size; nodes without memory */
    int64_t in_use, peak, cached, calls;
    const void *graph;                      /* that is made now */
    size_t missing;                         /* bytes of addresses without memory */
} A = { PTHREAD_MUTEX_INITIALIZER, {}, {}, nullptr, 0, 0, 0, 0, nullptr, 0 };

static char *const NOWHERE = (char *)((uintptr_t)1 << 56);      /* beyond all that can be mapped */

static unsigned bin_of(uint64_t key)
{
    return (unsigned)(key * 0x9E3779B97F4A7C15ull >> 54);
}

/* Steps of an eighth of the next power of two: at most 12.5 % is wasted and sizes near each other share blocks. */
size_t ag_cuda_size_of(size_t bytes)
{
    size_t step = GRANULE;
    while (GRANULE > 1 && step * 16 < bytes) step *= 2;
    const size_t size = (bytes + step - 1) / step * step;
    return size ? size : step;
}

static void *take_idle(size_t size, const void *of)
{
    for (block **at = &A.idle[bin_of(size)]; *at; at = &(*at)->next)
        if ((*at)->size == size && (*at)->graph == of) {
            block *b = *at;
            *at = b->next;
            b->graph = A.graph;
            b->next = A.live[bin_of((uint64_t)(uintptr_t)b->p)];
            A.live[bin_of((uint64_t)(uintptr_t)b->p)] = b;
            A.cached -= (int64_t)size;
            return b->p;
        }
    return nullptr;
}

/* The caller holds the lock, so that it is the caller who fails. */
static cudaError_t trim_locked(void)
{
    const cudaError_t e = cudaStreamSynchronize(ag_cuda_stream());
    if (e != cudaSuccess) return e;
    for (int i = 0; i < BINS; i++)
        for (block **at = &A.idle[i]; *at;) {
            block *b = *at;
            if (b->graph) {
                at = &b->next;
                continue;
            }
            *at = b->next;
            A.cached -= (int64_t)b->size;
            cudaFree(b->p);
            b->next = A.spare;
            A.spare = b;
        }
    return cudaSuccess;
}

static void make_live(void *p, size_t size)
{
    block *b = A.spare;
    if (b) A.spare = b->next;
    else b = (block *)ag_alloc(1, sizeof *b);
    *b = { p, size, A.graph, A.live[bin_of((uint64_t)(uintptr_t)p)] };
    A.live[bin_of((uint64_t)(uintptr_t)p)] = b;
}

static void *take_missing(size_t size)
{
    char *const p = NOWHERE + A.missing;
    A.missing += (size + 511) / 512 * 512;
    make_live(p, size);
    return p;
}

static void *take_new(size_t size)
{
    void *p = nullptr;
    A.calls++;
    if (cudaMalloc(&p, size) != cudaSuccess) {
        cudaGetLastError();                 /* the runtime remembers an error until it is asked */
        if (trim_locked() != cudaSuccess || cudaMalloc(&p, size) != cudaSuccess) return cudaGetLastError(), nullptr;
    }
    make_live(p, size);
    return p;
}

void *ag_cuda_alloc(size_t bytes)
{
    const size_t size = ag_cuda_size_of(bytes);
    pthread_mutex_lock(&A.lock);
    void *p = take_idle(size, A.graph);
    if (!p && A.graph) p = take_idle(size, nullptr);
    if (!p) p = A.graph ? take_missing(size) : take_new(size);
    if (p) A.in_use += (int64_t)size;
    if (A.in_use > A.peak) A.peak = A.in_use;
    pthread_mutex_unlock(&A.lock);
    return p;
}

void ag_cuda_free(void *p)
{
    if (!p) return;
    pthread_mutex_lock(&A.lock);
    block **at = &A.live[bin_of((uint64_t)(uintptr_t)p)];
    while (*at && (*at)->p != p) at = &(*at)->next;
    block *b = *at;
    if (b) {
        *at = b->next;
        b->next = A.idle[bin_of(b->size)];
        A.idle[bin_of(b->size)] = b;
        A.in_use -= (int64_t)b->size;
        A.cached += (int64_t)b->size;
    }
    pthread_mutex_unlock(&A.lock);
    if (!b) ag_fail(nullptr, "cuda: %p is no memory of this allocator, or was freed twice", p);
}

void ag_cuda_alloc_for(const void *graph)
{
    pthread_mutex_lock(&A.lock);
    A.graph = graph;
    pthread_mutex_unlock(&A.lock);
}

bool ag_cuda_missing(void)
{
    return A.missing;
}

/* Idle, all of them: who made the graph holds none of its memory. */
int64_t ag_cuda_find_missing(void)
{
    bool found = true;
    pthread_mutex_lock(&A.lock);
    const int64_t missing = (int64_t)A.missing;
    for (int i = 0; i < BINS; i++)
        for (block **at = &A.idle[i]; *at;) {
            block *b = *at;
            if ((char *)b->p < NOWHERE) {
                at = &b->next;
                continue;
            }
            if (!found || cudaMalloc(&b->p, b->size) != cudaSuccess) {
                cudaGetLastError();
                found = false;
                *at = b->next;
                b->next = A.spare;
                A.spare = b;
                A.cached -= (int64_t)b->size;
            }
            A.calls++;
        }
    A.missing = 0;
    pthread_mutex_unlock(&A.lock);
    return found ? missing : -1;
}

void ag_cuda_disown(const void *graph)
{
    pthread_mutex_lock(&A.lock);
    for (int i = 0; i < BINS; i++) {
        for (block *b = A.live[i]; b; b = b->next)
            if (b->graph == graph) b->graph = nullptr;
        for (block *b = A.idle[i]; b; b = b->next)
            if (b->graph == graph) b->graph = nullptr;
    }
    pthread_mutex_unlock(&A.lock);
}

void ag_cuda_trim(void)
{
    ag_cuda_not_in_graph("memory is given back to the driver");
    pthread_mutex_lock(&A.lock);
    const cudaError_t e = trim_locked();
    pthread_mutex_unlock(&A.lock);
    ag_cuda_check(e, "giving back memory");
}

void ag_cuda_memory(ag_device_memory *m)
{
    size_t idle = 0, total = 0;
    ag_cuda_not_in_graph("the driver is asked for its memory");
    ag_cuda_check(cudaMemGetInfo(&idle, &total), "asking for the device's memory");
    pthread_mutex_lock(&A.lock);
    *m = { (int64_t)total, (int64_t)idle, A.in_use, A.peak, A.cached, A.calls };
    pthread_mutex_unlock(&A.lock);
}

void ag_cuda_reset_peak(void)
{
    pthread_mutex_lock(&A.lock);
    A.peak = A.in_use;
    pthread_mutex_unlock(&A.lock);
}
