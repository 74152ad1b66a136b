/* cuda/stub.c - in the place of cuda/ where there was no nvcc at build time. */
#include "core/device.h"
#include <stdio.h>

static bool init(char *why, size_t size)
{
    snprintf(why, size, "this build of Agrad has no GPU part, because nvcc (the CUDA compiler) was not found when it "
                        "was made; install the CUDA toolkit and run make again. Everything works on the CPU");
    return false;
}

const ag_device_ops ag_cuda_device = { .name = "cuda", .init = init };
