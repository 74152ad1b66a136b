/* core/memory.h - the one allocator, and who holds what. */
#ifndef AG_MEMORY_H
#define AG_MEMORY_H
#include <stdio.h>
#include "core/base.h"
AG_BEGIN_DECLS

/* Host memory for everything that is not tensor data: never NULL, fails with the size wanted. Zeroed. Sizes are
 * checked products. No other file calls malloc, calloc, realloc, strdup or free (make check). */
void *ag_alloc(int64_t n, size_t size);
void *ag_try_alloc(int64_t n, size_t size);         /* NULL instead: for what runs inside ag_parallel and can do without */
void *ag_realloc(void *p, int64_t n, size_t size);
void ag_free(void *p);                              /* NULL is fine */
char *ag_strdup(const char *s);
char *ag_sprintf(const char *fmt, ...) AG_PRINTF(1, 2);     /* a new string; free with ag_free */

/* Tensor data: 64-byte aligned, from per-thread free lists by size class, so that a steady training step reaches
 * malloc never. `kind` is for the report. */
typedef enum { AG_MEM_TENSOR, AG_MEM_PARAM, AG_MEM_GRAD, AG_MEM_OPTIM, AG_MEM_WORKSPACE, AG_MEM_PACKED, AG_MEM_KINDS } ag_mem_kind;

typedef struct {
    int64_t in_use, peak, cached;                   /* bytes of tensor data: held, largest so far, kept for reuse */
    int64_t by_kind[AG_MEM_KINDS];
    int64_t system_calls;                           /* how often malloc (or cudaMalloc) was reached */
    int64_t tensors, nodes;                         /* alive now */
} ag_memory_stats;
ag_memory_stats ag_memory(ag_device device);
/* What is in use now by kind, the peak, the cache, live tensors and nodes, and the process's resident memory. */
void ag_memory_report(FILE *to);
void ag_memory_reset_peak(void);
void ag_memory_trim(void);                          /* gives cached blocks back to the system */

/* Tests: the k-th allocation from now fails (0: none). */
void ag_memory_fail_at(int64_t k);

AG_END_DECLS
#endif
