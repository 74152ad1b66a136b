/* cuda/library.h - NVIDIA's libraries, found at run time: one program runs with and without them. */
#ifndef AG_CUDA_LIBRARY_H
#define AG_CUDA_LIBRARY_H
#include "core/base.h"
AG_BEGIN_DECLS

/* Looks for a library by its SONAMEs (NULL-terminated) in the loader's path, in CUDNN_HOME and CUDA_HOME, the toolkit's usual
 * places and Python environments. NULL: not found. */
void *ag_cuda_library(const char *const *sonames);

/* Fills the pointers of a list of functions, the last of them without a name. False where the library lacks one of them;
 * `why` then names it. */
typedef struct { const char *name; void *pointer; } ag_library_function;
bool ag_library_functions(void *library, const ag_library_function *list, char *why, size_t size);

/* Whether the library was made for a CUDA newer than the driver's (both as 12040 is 12.4; driver 0: any will do); `why` then
 * says so: "the libcudnn.so.9 that was found, 9.19.0, was made for CUDA 13.0, and the NVIDIA driver is for CUDA 12.4". version:
 * major x 10000 + minor x 100 + patch. */
bool ag_library_too_new(const char *name, unsigned version, int cudart, int driver, char *why, size_t size);

AG_END_DECLS
#endif
