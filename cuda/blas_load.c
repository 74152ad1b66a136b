/* cuda/blas_load.c - cuBLASLt by dlopen. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include "cuda/blas.h"

static bool take(void *library, const char *name, void *pointer, char *why, size_t size)
{
    void *symbol = dlsym(library, name);
    memcpy(pointer, &symbol, sizeof symbol);            /* ISO C has no cast from object to function pointers */
    if (!symbol) snprintf(why, size, "libcublasLt has no function %s: a version other than 12 or 13?", name);
    return symbol;
}

bool ag_lt_load(ag_lt_functions *f, char *why, size_t size)
{
    static const char *const sonames[] = { "libcublasLt.so.13", "libcublasLt.so.12", NULL };
    void *library = ag_cuda_library(sonames);
    if (!library) {
        snprintf(why, size,
                 "libcublasLt.so.13 or .12, which multiplies matrices on the GPU (ag_matmul, ag_linear), was not "
                 "found; "
                 "install cuBLAS (part of the CUDA toolkit, or pip install nvidia-cublas) or set CUDA_HOME to where it "
                 "is. All other GPU ops, and everything on the CPU, go on without it");
        return false;
    }
    const struct { const char *name; void *pointer; } wanted[] = {
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
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!take(library, wanted[i].name, wanted[i].pointer, why, size)) return false;
    return true;
}
