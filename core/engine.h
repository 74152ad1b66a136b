/* core/engine.h - what the files of core/ share with each other; nobody else includes it. */
#ifndef AG_ENGINE_H
#define AG_ENGINE_H
#include "core/device.h"
#include "core/ledger.h"
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
    uint8_t region;
    int64_t bytes;              /* as counted */
    void *data;
    union {
        ag_heap_block *block;   /* of a large one: then only the header is a small block */
        int64_t place;          /* on the GPU: among its storages */
    };
    const char *owner;          /* path of the module that was running, interned; NULL outside of one */
    struct ag_packed_form *packed;      /* repacked copies of a parameter (packed.c) */
};

/* Per-thread cached blocks of at least `bytes`, 64-byte aligned, uninitialised; *capacity is what was given. */
void *ag_block_get(int64_t bytes, int64_t *capacity);
void ag_block_put(void *block, int64_t capacity);
int ag_block_class(int64_t bytes, int64_t *capacity);

/* Memory of a large tensor: sets block, region, bytes, data; false where the budget or the system has no more. */
enum { AG_LARGE = 64 << 10, AG_HEADER = 64 };     /* the header keeps the data of small ones 64-byte aligned */
/* All storages of a device that are large, or on the GPU. */
void ag_storage_each(ag_device device, void (*visit)(void *arg, const ag_storage *s), void *arg);
int ag_region_of(ag_mem_kind kind);
bool ag_region_get(ag_storage *s, int64_t bytes);
void ag_region_put(ag_storage *s);
void ag_region_trim(void);
void ag_region_each(void (*visit)(void *arg, const ag_storage *s), void *arg);
/* The plan that is being made in this thread (ledger.c), or NULL. */
extern _Thread_local ag_ledger *ag_ledger_now;
void ag_ledger_get(ag_ledger *l, ag_storage *s, int64_t bytes);
void ag_ledger_put(ag_ledger *l, ag_storage *s);
void ag_ledger_block(ag_ledger *l, int64_t capacity, int taken);        /* a header, which planning itself takes as well */
void ag_ledger_kernel(ag_ledger *l, ag_node *n, bool backward);     /* what the op's kernel holds besides tensors */
bool ag_kernels_in_cuda(const ag_op *op, ag_device device);
extern _Alignas(256) char ag_planned_data[256];     /* where the tensors of a plan lie for the functions in cuda/ */
void ag_ledger_packed(ag_ledger *l, const ag_storage *of, uint64_t key, int64_t bytes, bool passing);
bool ag_recomputing(void);                  /* without gradients now, but with them once more in backward */

typedef struct { int64_t in_use, held; } ag_region_stats;
ag_region_stats ag_regions(void);

ag_storage *ag_storage_new(const char *at, ag_device device, ag_mem_kind kind, int64_t bytes);
void ag_storage_release(ag_storage *s);
void ag_memory_count(ag_device device, ag_mem_kind kind, int64_t bytes);    /* + held, - released */
void ag_memory_count_objects(int tensors, int nodes);
void ag_tensor_unborn_drop(void);           /* what a tensor holds that cannot be made for want of memory */
void ag_memory_count_system(void);          /* the system was asked for memory */
bool ag_memory_injected(void);              /* a failure that a test wants */
ag_mem_kind ag_memory_kind(void);           /* of tensors of which nothing else is said (ag_memory_kind_begin) */
const char *ag_owner_now(void);             /* path of the module that is running, or NULL */
extern _Thread_local bool ag_in_backward;
/* While set, backward tells it every leaf whose gradient got something. */
extern _Thread_local void (*ag_leaf_arrived)(void *arg, ag_tensor *t);
extern _Thread_local void *ag_leaf_arg;

/* A tensor with refs = 1 that no scope holds; contiguous, data NULL on AG_META. */
ag_tensor *ag_tensor_new(const char *at, ag_device device, ag_mem_kind kind, ag_dtype dtype, ag_shape shape);
ag_tensor *ag_tensor_view(const char *at, const ag_tensor *base, ag_shape shape, const int64_t *stride, int64_t offset);
int64_t ag_shape_numel(const char *at, ag_shape shape);     /* checked: ndim, negative sizes, overflow */

void ag_node_free(ag_node *n);
void ag_node_forget(ag_node *n);             /* lets go of its inputs and of what it saved */
void ag_node_discard_pending(ag_node *down_to);     /* nodes under construction when something failed */
ag_node *ag_node_pending(void);
ag_node *ag_tape_top(void);

void ag_packed_release(ag_storage *s);

/* "stages.2.blocks.7.mlp" -> "stages.2.blocks.*.mlp" (profile.c) */
void ag_layer_name(const char *path, char *layer);
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
