/* cuda/nccl_load.c - NCCL by dlopen. */
#include <stdio.h>
#include <string.h>
#include "cuda/library.h"
#include "cuda/nccl.h"

#define INSTALL "install NCCL 2 (pip install nvidia-nccl-cu13, or libnccl2 from NVIDIA's repository)"

int ag_nccl_load(ag_nccl_functions *f, char *why, size_t size)
{
    static const char *const sonames[] = { "libnccl.so.2", NULL };
    const ag_library_function wanted[] = {
        { "ncclGetVersion", &f->version }, { "ncclGetUniqueId", &f->id }, { "ncclCommInitRank", &f->init },
        { "ncclAllReduce", &f->all_reduce }, { "ncclCommGetAsyncError", &f->async_error }, { "ncclCommAbort", &f->abort },
        { "ncclGetErrorString", &f->words }, { "ncclGetLastError", &f->last_error }, { NULL, NULL },
    };
    void *library = ag_cuda_library(sonames);
    int version = 0;
    if (!library) snprintf(why, size, "libnccl.so.2 was not found; " INSTALL);
    else if (!ag_library_functions(library, wanted, why, size)) snprintf(why + strlen(why), size - strlen(why), "; " INSTALL);
    else if (f->version(&version) || version < AG_NCCL_LEAST) {
        const int unit = version < 10000 ? 1000 : 10000;            /* up to 2.8: 2804 */
        snprintf(why, size, "the libnccl.so.2 that was found is NCCL %d.%d, and %d.%d is the least; " INSTALL, version / unit,
                 version % unit / 100, AG_NCCL_LEAST / 10000, AG_NCCL_LEAST / 100 % 100);
        version = 0;
    }
    return version;
}
