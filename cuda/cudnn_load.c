/* cuda/cudnn_load.c - cuDNN by dlopen. */
#include <stdio.h>
#include <string.h>
#include "cuda/cudnn.h"
#include "cuda/library.h"

#define GOES_ON "convolutions and attention go on with Agrad's own kernels"

static bool fits(const ag_dnn_functions *f, int driver, char *why, size_t size)
{
    const unsigned version = (unsigned)f->version(), major = version / 10000;
    if (major != 9)
        snprintf(why, size, "the libcudnn.so.9 that was found is of version %u.%u.%u, and versions 9.0 to 9.x are understood; "
                 "put one of them first in LD_LIBRARY_PATH (pip install nvidia-cudnn-cu13, or -cu12); " GOES_ON,
                 major ? major : version / 1000, major ? version / 100 % 100 : version / 100 % 10, version % 100);
    else if (ag_library_too_new("libcudnn.so.9", version, (int)f->cudart(), driver, why, size))
        snprintf(why + strlen(why), size - strlen(why), "; install the one for CUDA %d (pip install nvidia-cudnn-cu%d), or a "
                 "newer driver; " GOES_ON, driver / 1000, driver / 1000);
    else return true;
    return false;
}

bool ag_dnn_load(ag_dnn_functions *f, int driver, char *why, size_t size)
{
    static const char *const sonames[] = { "libcudnn.so.9", NULL };
    const ag_library_function wanted[] = {
        { "cudnnGetVersion", &f->version },
        { "cudnnGetCudartVersion", &f->cudart },
        { "cudnnGetErrorString", &f->error_string },
        { "cudnnGetLastErrorString", &f->last_error },
        { "cudnnCreate", &f->create },
        { "cudnnSetStream", &f->set_stream },
        { "cudnnBackendCreateDescriptor", &f->desc_create },
        { "cudnnBackendDestroyDescriptor", &f->desc_destroy },
        { "cudnnBackendFinalize", &f->finalize },
        { "cudnnBackendSetAttribute", &f->set },
        { "cudnnBackendGetAttribute", &f->get },
        { "cudnnBackendExecute", &f->execute },
        { NULL, NULL },
    };
    void *library = ag_cuda_library(sonames);
    if (!library)
        snprintf(why, size, "libcudnn.so.9, which computes convolutions and attention on the GPU, was not found; install "
                 "cuDNN 9 (pip install nvidia-cudnn-cu13, or -cu12) or set CUDNN_HOME to where it is; " GOES_ON);
    else if (!ag_library_functions(library, wanted, why, size))
        snprintf(why + strlen(why), size - strlen(why), ": a libcudnn other than 9.x; " GOES_ON);
    else return fits(f, driver, why, size);
    return false;
}
