/* core/engine.h - what the files of core/ share with each other; nobody else includes it. */
#ifndef AG_ENGINE_H
#define AG_ENGINE_H
#include "core/device.h"
#include "core/memory.h"
#include "core/tensor.h"
#include "core/op.h"
#include "core/profile.h"

/* Blocks of tensor memory; the header lies before the data on the CPU. */
struct ag_storage {
    int refs;
    uint32_t version;           /* counts the writes that bypass the tape */
    ag_device device;
    ag_mem_kind kind;
    int64_t bytes;
    void *data;
    struct ag_packed_form *packed;      /* repacked copies of a parameter (packed.c) */
};

/* Per-thread cached blocks of at least `bytes`, 64-byte aligned, uninitialised; *capacity is what was given. */
void *ag_block_get(int64_t bytes, int64_t *capacity);
void ag_block_put(void *block, int64_t capacity);

ag_storage *ag_storage_new(const char *at, ag_device device, ag_mem_kind kind, int64_t bytes);
void ag_storage_release(ag_storage *s);
void ag_memory_count(ag_device device, ag_mem_kind kind, int64_t bytes);    /* + held, - released */
void ag_memory_count_objects(int tensors, int nodes);

/* The kind of what is allocated from here on (a gradient, optimizer state); returns the previous one. */
ag_mem_kind ag_memory_kind(ag_mem_kind kind);

/* A tensor with refs = 1 that no scope holds; contiguous, data NULL on AG_META. */
ag_tensor *ag_tensor_new(const char *at, ag_device device, ag_mem_kind kind, ag_dtype dtype, ag_shape shape);
ag_tensor *ag_tensor_view(const char *at, const ag_tensor *base, ag_shape shape, const int64_t *stride, int64_t offset);
int64_t ag_shape_numel(const char *at, ag_shape shape);     /* checked: ndim, negative sizes, overflow */

void ag_node_free(ag_node *n);
void ag_node_discard_pending(ag_node *down_to);     /* nodes under construction when something failed */
ag_node *ag_node_pending(void);
ag_node *ag_tape_top(void);

void ag_packed_release(ag_storage *s);

/* Times of ops for AG_PROFILE (profile.c). */
void ag_profile_add(const ag_node *n, bool backward, double seconds);

/* Strided element-wise work on the CPU: dst = src (converted), dst += src (real), dst = value. */
void ag_cpu_assign(ag_tensor *dst, const ag_tensor *src);
void ag_cpu_add(ag_tensor *dst, const ag_tensor *src);
void ag_cpu_fill(ag_tensor *dst, double value);
/* The same on the tensors' device. */
void ag_assign_any(ag_tensor *dst, const ag_tensor *src);
void ag_add_any(ag_tensor *dst, const ag_tensor *src);
void ag_fill_any(ag_tensor *dst, double value);

#endif
