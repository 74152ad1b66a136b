/* cuda/upload.cu - batches on their way in: page-locked memory, a stream beside the one of all other work, and events between. */
#include "core/memory.h"
#include "cuda/device.h"

struct ag_upload {
    cudaEvent_t copied, used;
    bool under_way, was_used;
};

static cudaStream_t beside;

static void *host_alloc(size_t bytes)
{
    void *p = nullptr;
    if (cudaHostAlloc(&p, bytes, cudaHostAllocDefault) == cudaSuccess) return p;
    cudaGetLastError();                     /* the runtime remembers an error until it is asked */
    return nullptr;
}

static void host_free(void *p)
{
    if (cudaFreeHost(p) != cudaSuccess) cudaGetLastError();
}

static void drop(ag_upload *u)
{
    if (!u) return;
    if (u->under_way) cudaEventSynchronize(u->copied);
    if (u->copied) cudaEventDestroy(u->copied);
    if (u->used) cudaEventDestroy(u->used);
    cudaGetLastError();                     /* of a device that is lost, others tell */
    ag_free(u);
}

static ag_upload *make(void)
{
    ag_upload *u = (ag_upload *)ag_alloc(1, sizeof *u);
    cudaError_t e = beside ? cudaSuccess : cudaStreamCreateWithFlags(&beside, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&u->copied, cudaEventDisableTiming);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&u->used, cudaEventDisableTiming);
    if (e != cudaSuccess) drop(u);          /* forgets the error, which is told here */
    ag_cuda_check(e, "making a stream for batches and its events");
    return u;
}

static void copy(ag_upload *u, const ag_upload_part *part, int n)
{
    if (u->was_used) ag_cuda_check(cudaStreamWaitEvent(beside, u->used, 0), "a batch waiting for its place");
    u->under_way = true;
    for (int i = 0; i < n; i++)
        ag_cuda_check(cudaMemcpyAsync(part[i].dst, part[i].host, part[i].bytes, cudaMemcpyHostToDevice, beside),
                      "copying a batch");
    ag_cuda_check(cudaEventRecord(u->copied, beside), "noting that a batch is there");
}

static void ready(ag_upload *u)
{
    ag_cuda_check(cudaStreamWaitEvent(ag_cuda_stream(), u->copied, 0), "waiting for a batch");
}

static void used(ag_upload *u)
{
    ag_cuda_check(cudaEventRecord(u->used, ag_cuda_stream()), "noting that a batch was read");
    u->was_used = true;
}

static void wait(ag_upload *u)
{
    if (!u->under_way) return;
    u->under_way = false;
    ag_cuda_check(cudaEventSynchronize(u->copied), "the copy of a batch");
}

extern "C" {
extern const ag_upload_ops ag_cuda_upload = { host_alloc, host_free, make, drop, copy, ready, used, wait };
}
