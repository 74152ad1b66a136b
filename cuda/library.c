/* cuda/library.c - finds NVIDIA's libraries at run time, so that one program runs with and without them. */
#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cuda/library.h"

/* Patterns behind an environment variable's value, or absolute ones. */
static const struct { const char *variable, *pattern; } places[] = {
    { NULL, "" },                                           /* the loader's own: LD_LIBRARY_PATH, ld.so.conf, rpath */
    { "CUDNN_HOME", "/lib*/" },
    { "CUDA_HOME", "/lib64/" },
    { "CUDA_PATH", "/lib64/" },
    { NULL, "/usr/local/cuda/lib64/" },
    { NULL, "/usr/local/cuda-1[23]*/lib64/" },
    { NULL, "/opt/cuda/lib64/" },
    { "CONDA_PREFIX", "/lib/" },
    { "VIRTUAL_ENV", "/lib/python3*/site-packages/nvidia/*/lib/" },
    { "HOME", "/.local/lib/python3*/site-packages/nvidia/*/lib/" },
    { NULL, "/usr/local/lib/python3*/*-packages/nvidia/*/lib/" },
    { NULL, "/usr/lib/python3/dist-packages/nvidia/*/lib/" },
};

static void *open_matches(const char *pattern)
{
    glob_t found;
    void *library = NULL;
    if (glob(pattern, 0, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc && !library; i++) library = dlopen(found.gl_pathv[i], RTLD_NOW);
    globfree(&found);
    return library;
}

static void *open_at(const char *root, const char *pattern, const char *soname)
{
    char path[1024];
    const int length = snprintf(path, sizeof path, "%s%s%s", root, pattern, soname);
    if (length < 0 || (size_t)length >= sizeof path) return NULL;
    return *path == '/' ? open_matches(path) : dlopen(path, RTLD_NOW);
}

void *ag_cuda_library(const char *const *sonames)
{
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const char *root = places[i].variable ? getenv(places[i].variable) : "";
        for (const char *const *s = sonames; *s && root; s++) {
            void *library = open_at(root, places[i].pattern, *s);
            if (library) return library;
        }
    }
    return NULL;
}

bool ag_library_functions(void *library, const ag_library_function *list, char *why, size_t size)
{
    for (; list->name; list++) {
        void *const symbol = dlsym(library, list->name);
        memcpy(list->pointer, &symbol, sizeof symbol);  /* ISO C has no cast from object to function pointers */
        if (!symbol) snprintf(why, size, "the library that was found has no function %s", list->name);
        if (!symbol) return false;
    }
    return true;
}

bool ag_library_too_new(const char *name, unsigned version, int cudart, int driver, char *why, size_t size)
{
    if (!driver || cudart / 1000 <= driver / 1000) return false;
    snprintf(why, size, "the %s that was found, %u.%u.%u, was made for CUDA %d.%d, and the NVIDIA driver is for CUDA %d.%d", name,
             version / 10000, version / 100 % 100, version % 100, cudart / 1000, cudart / 10 % 100, driver / 1000,
             driver / 10 % 100);
    return true;
}
