/* cuda/device.cu - the GPU's entry in the device table: driver, stream, copies. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/ranks.h"
#include "cuda/device.h"
#include "cuda/nvml.h"
#include "cuda/ranks.h"

static cudaStream_t stream;
static int device_index;

cudaStream_t ag_cuda_stream(void)
{
    return stream;
}

/* ---- errors found inside kernels ----------------------------------------------------------------------- */

static ag_cuda_trap *trap;

ag_cuda_trap *ag_cuda_trap_device(void)
{
    return trap;
}

void ag_cuda_trap_report(ag_cuda_trap t)
{
    if (!t.set) return;
    ag_cuda_check(cudaMemsetAsync(trap, 0, sizeof *trap, stream), "clearing errors");
    ag_fail(t.at, "%s: ids[%" PRId64 "] = %" PRId64 ", but the table has rows 0 to %" PRId64
            " (found on the GPU while it worked; reported when its results were waited for)", t.op, t.position, t.value,
            t.rows - 1);
}

/* ---- the entry ----------------------------------------------------------------------------------------- */

/* The runtime is linked in and opens the driver by itself; that it is missing is the likeliest reason to fail. */
static bool driver_found(char *why, size_t size)
{
#ifndef AG_EMULATE
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY);
    if (!driver) {
        snprintf(why, size, "libcuda.so.1, the NVIDIA driver through which all work reaches the GPU, was not found; "
                            "install the driver (in a container: run it with the GPU passed through). Everything "
                            "works on the CPU");
        return false;
    }
    dlclose(driver);
#endif
    (void)why, (void)size;
    return true;
}

enum { LEAST_MAJOR = 8 };                   /* compute capability: bf16 in hardware */

/* Why not, and what to do about it. */
static void explain(cudaError_t e, int n, int index, char *why, size_t size)
{
    int driver = 0, runtime = 0;
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (e == cudaErrorInsufficientDriver && cudaDriverGetVersion(&driver) == cudaSuccess &&
        cudaRuntimeGetVersion(&runtime) == cudaSuccess)
        snprintf(why, size, "the NVIDIA driver is for CUDA %d.%d, and this build was made with CUDA %d.%d; update the driver, "
                 "or build with an older toolkit", driver / 1000, driver / 10 % 100, runtime / 1000, runtime / 10 % 100);
    else if (e == cudaErrorDevicesUnavailable)
        snprintf(why, size, "GPU %d is busy: another process has it for itself (nvidia-smi shows which)", index);
    else if (e == cudaErrorMemoryAllocation)
        snprintf(why, size, "GPU %d is out of memory: not even its first bytes are free (nvidia-smi shows who has them)",
                 index);
    else if (e == cudaSuccess && n && index >= n)
        snprintf(why, size, "there is no GPU %d: the driver counts %d, from 0%s%s", index, n,
                 visible ? ", of CUDA_VISIBLE_DEVICES=" : "", visible ? visible : "");
    else if (visible && (e == cudaErrorNoDevice || e == cudaSuccess))
        snprintf(why, size, "CUDA_VISIBLE_DEVICES=\"%s\" hides all GPUs from this process; unset it, or name one", visible);
    else
        snprintf(why, size, "the NVIDIA driver found no GPU to use: %s", e == cudaSuccess ? "it counts 0 devices"
                                                                                        : cudaGetErrorString(e));
    const size_t used = strlen(why);
    snprintf(why + used, size - used, ". Everything works on the CPU");
}

static bool init(char *why, size_t size)
{
    int n = 0, major = 0;
    if (!driver_found(why, size)) return false;
    cudaError_t e = cudaGetDeviceCount(&n);
    const int index = ag_cuda_wanted >= 0 ? ag_cuda_wanted : n ? ag_ranks_local() % n : 0;
    if (e != cudaSuccess || index >= n) return explain(e, n, index, why, size), false;
    e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
    if (e == cudaSuccess && major < LEAST_MAJOR) {
        snprintf(why, size, "GPU %d has compute capability %d.x; %d.0 (Ampere) is the least. Everything works on the CPU", index,
                 major, LEAST_MAJOR);
        return false;
    }
    if (e == cudaSuccess) e = cudaSetDevice(index);
    if (e == cudaSuccess && n) e = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (e == cudaSuccess && n) e = cudaMalloc((void **)&trap, sizeof *trap);
    if (e == cudaSuccess && n) e = cudaMemsetAsync(trap, 0, sizeof *trap, stream);
    if (e == cudaSuccess && n) return device_index = index, true;
    cudaFree(trap);
    cudaGetLastError();
    explain(e, n, index, why, size);
    return false;
}

static void copy_in(void *dst, const void *host, size_t bytes)
{
    ag_cuda_not_in_graph("memory of the host is read");
    ag_cuda_check(cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, stream), "copying to the device");
}

static void sync(void)
{
    ag_cuda_trap found;
    ag_cuda_not_in_graph("the device is waited for");
    ag_cuda_check(cudaMemcpyAsync(&found, trap, sizeof found, cudaMemcpyDeviceToHost, stream), "reading errors");
    ag_cuda_check(cudaStreamSynchronize(stream), "the queued work");
    ag_cuda_ranks_check();
    ag_cuda_trap_report(found);
}

static void copy_out(void *host, const void *src, size_t bytes)
{
    ag_cuda_not_in_graph("results are read on the host");
    ag_cuda_check(cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, stream), "copying from the device");
    sync();
}

static void copy(void *dst, const void *src, size_t bytes)
{
    ag_cuda_check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, stream), "copying on the device");
}

bool ag_cuda_bus(char *bus, size_t size)
{
    if (cudaDeviceGetPCIBusId(bus, (int)size, device_index) == cudaSuccess) return true;
    *bus = 0;
    return false;
}

static int processes(ag_device_process *p, int n)
{
    char bus[32];
    return ag_cuda_bus(bus, sizeof bus) ? ag_nvml_processes(bus, p, n) : 0;
}

extern "C" {
extern const ag_device_ops ag_cuda_device = {
    "cuda", init, ag_cuda_alloc, ag_cuda_free, ag_cuda_size_of, ag_cuda_trim, ag_cuda_memory, ag_cuda_reset_peak,
    copy_in, copy_out, copy, ag_cuda_assign, ag_cuda_add, ag_cuda_fill, ag_cuda_add_rows, sync, &ag_cuda_upload,
    processes, ag_cuda_ranks_ready, ag_cuda_ranks_start_mean, ag_cuda_ranks_join,
    &ag_cuda_graphs,
};
}
