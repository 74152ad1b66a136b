/* core/memory.h - the one allocator, and who holds what. */
#ifndef AG_MEMORY_H
#define AG_MEMORY_H
#include <stdio.h>
#include "core/base.h"
AG_BEGIN_DECLS

struct ag_tensor;

/* Host memory for everything that is not tensor data: never NULL, fails with the size wanted. Zeroed. Sizes are
 * checked products. No other file calls malloc, calloc, realloc, strdup or free (make check). */
void *ag_alloc(int64_t n, size_t size);
void *ag_try_alloc(int64_t n, size_t size);         /* NULL instead: for what runs inside ag_parallel and can do without */
void *ag_realloc(void *p, int64_t n, size_t size);
void ag_free(void *p);                              /* NULL is fine */
char *ag_strdup(const char *s);
const char *ag_intern(const char *s);               /* a string that stays: equal ones are one pointer */
char *ag_sprintf(const char *fmt, ...) AG_PRINTF(1, 2);     /* a new string; free with ag_free */

/* Tensor data: 64-byte aligned; small blocks from per-thread free lists by size class, large ones (64 KB) best fit from
 * ranges of addresses (core/region.c), so that a steady training step reaches the system never. */
typedef enum {
    AG_MEM_TENSOR, AG_MEM_PARAM, AG_MEM_GRAD, AG_MEM_OPTIM, AG_MEM_WORKSPACE, AG_MEM_PACKED, AG_MEM_KINDS
} ag_mem_kind;

typedef struct {
    int64_t in_use, peak, cached;                   /* bytes of tensor data: now, largest so far, kept for reuse */
    int64_t held;                                   /* what the system gave for them: in_use + cached + headers */
    int64_t by_kind[AG_MEM_KINDS];
    int64_t system_calls;                           /* how often malloc (or cudaMalloc) was reached */
    int64_t tensors, nodes;                         /* alive now */
    const char *peak_where;                         /* path of the module that ran at the peak; "" outside of one */
    bool peak_in_backward;
} ag_memory_stats;
ag_memory_stats ag_memory(ag_device device);
/* What is in use now, by kind and by module; the peak and where it was; what is free; live tensors and nodes; the process's
 * resident memory. */
void ag_memory_report(FILE *to);
void ag_memory_reset_peak(void);
void ag_memory_trim(void);                          /* gives cached blocks back to the system */

/* The most that tensors may hold on each device, in bytes (0: no limit of one's own; AG_MEMORY_LIMIT=8G in the environment does
 * the same). Where the cgroup's limit, the machine's memory or the GPU's leaves less, that counts. What exceeds it fails. */
void ag_memory_limit(int64_t bytes);
int64_t ag_memory_budget(ag_device device);         /* what they may hold now, in all */
int64_t ag_parse_bytes(const char *text);           /* "8G", "512M", "100000" (powers of 1024); -1 for anything else */

/* A line for the message of this thread's next failure for want of memory, such as which batch would fit. */
typedef struct { void (*fn)(void *arg, char *text, size_t size); void *arg; } ag_memory_advice;
void ag_memory_advise(ag_memory_advice advice);

/* The largest holders among large tensors by layer and kind, largest first; returns how many there are, at most n. */
enum { AG_LAYER = 56 };
typedef struct { char layer[AG_LAYER]; ag_mem_kind kind; int64_t bytes; } ag_memory_row;
int ag_memory_largest(ag_device device, ag_memory_row *row, int n);
const char *ag_memory_kind_name(ag_mem_kind kind);
/* Until this scope ends, tensors of which nothing else is said are of this kind. */
ag_scope ag_memory_kind_begin(ag_mem_kind kind);
ag_mem_kind ag_memory_kind_of(const struct ag_tensor *t);
/* Bytes that t's memory, its repacked forms and its gradient hold. */
int64_t ag_memory_of(const struct ag_tensor *t);
/* t belongs to the module of this path (interned): it counts as a parameter, in reports as the module's. */
void ag_memory_owner(struct ag_tensor *t, const char *path);
const char *ag_memory_owner_of(const struct ag_tensor *t);      /* or NULL */

/* Tests: the k-th allocation from now fails (0: none). */
void ag_memory_fail_at(int64_t k);

AG_END_DECLS
#endif
