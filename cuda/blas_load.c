/* cuda/blas_load.c - cuBLASLt by dlopen. */
#include <stdio.h>
#include <string.h>
#include "cuda/blas.h"
#include "cuda/library.h"

#define GOES_ON "all other GPU ops, and everything on the CPU, go on without it"

static bool fits(const ag_lt_functions *f, int driver, char *why, size_t size)
{
    const unsigned version = (unsigned)f->version(), major = version / 10000;
    if (major != 12 && major != 13)
        snprintf(why, size, "the libcublasLt that was found is of version %u.%u.%u, and versions 12.x and 13.x are understood; "
                 "put one of them first in LD_LIBRARY_PATH; " GOES_ON, major, version / 100 % 100,
                 version % 100);
    else if (ag_library_too_new("libcublasLt", version, (int)f->cudart(), driver, why, size))
        snprintf(why + strlen(why), size - strlen(why), "; put the one for CUDA %d first in LD_LIBRARY_PATH, or install a newer "
                 "driver; " GOES_ON, driver / 1000);
    else return true;
    return false;
}

bool ag_lt_load(ag_lt_functions *f, int driver, char *why, size_t size)
{
    static const char *const sonames[] = { "libcublasLt.so.13", "libcublasLt.so.12", NULL };
    const ag_library_function wanted[] = {
        { "cublasLtGetVersion", &f->version },
        { "cublasLtGetCudartVersion", &f->cudart },
        { "cublasLtCreate", &f->create },
        { "cublasLtMatmulDescCreate", &f->desc_create },
        { "cublasLtMatmulDescSetAttribute", &f->desc_set },
        { "cublasLtMatmulDescDestroy", &f->desc_destroy },
        { "cublasLtMatrixLayoutCreate", &f->layout_create },
        { "cublasLtMatrixLayoutSetAttribute", &f->layout_set },
        { "cublasLtMatrixLayoutDestroy", &f->layout_destroy },
        { "cublasLtMatmulPreferenceCreate", &f->pref_create },
        { "cublasLtMatmulPreferenceSetAttribute", &f->pref_set },
        { "cublasLtMatmulPreferenceDestroy", &f->pref_destroy },
        { "cublasLtMatmulAlgoGetHeuristic", &f->heuristic },
        { "cublasLtMatmul", &f->matmul },
        { NULL, NULL },
    };
    void *library = ag_cuda_library(sonames);
    if (!library)
        snprintf(why, size, "libcublasLt.so.13 or .12, which multiplies matrices on the GPU (ag_matmul, ag_linear), was not "
                 "found; install cuBLAS (part of the CUDA toolkit, or pip install nvidia-cublas) or set CUDA_HOME to where it "
                 "is; " GOES_ON);
    else if (!ag_library_functions(library, wanted, why, size))
        snprintf(why + strlen(why), size - strlen(why), ": a libcublasLt other than 12.x or 13.x; " GOES_ON);
    else return fits(f, driver, why, size);
    return false;
}
