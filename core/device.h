/* core/device.h - the device table: what the engine needs from a place where tensors can live.
 *
 *     const ag_device_ops *d = ag_device_table(AG_CUDA);       fails, saying why, where there is no GPU
 *     d->copy_in(t->data, host, bytes);
 *
 * Work on a device is queued in order; only copy_out and sync wait. Kernels are in the op table (core/op.h), so
 * nothing but this header and that table leads into cuda/. A build without nvcc has cuda/stub.c in its place. */
#ifndef AG_DEVICE_H
#define AG_DEVICE_H
#include "core/memory.h"
#include "core/tensor.h"
AG_BEGIN_DECLS

typedef struct {
    int64_t total, free;            /* bytes of the device, all processes counted */
    int64_t in_use, peak, cached;   /* of this process: held by tensors, largest so far, kept for reuse */
    int64_t system_calls;           /* how often the driver was asked for memory */
} ag_device_memory;

/* Copies to device memory that is filled again and again, in a queue of their own beside the other work. */
typedef struct ag_upload ag_upload;
typedef struct { void *dst; const void *host; size_t bytes; } ag_upload_part;
typedef struct {
    void *(*host_alloc)(size_t bytes);      /* host memory that the device reads by itself (page-locked); NULL: no more */
    void (*host_free)(void *p);             /* does not fail */
    ag_upload *(*make)(void);
    void (*drop)(ag_upload *u);             /* waits for its copy, and does not fail; NULL is fine */
    /* Begins when the work queued before the last used(u) is done; host is of host_alloc, and read until wait(u) returns. */
    void (*copy)(ag_upload *u, const ag_upload_part *part, int n);
    void (*ready)(ag_upload *u);            /* work that is queued from now on begins when the copies are there */
    void (*used)(ag_upload *u);             /* what is queued until now reads the device memory, what comes later does not */
    void (*wait)(ag_upload *u);             /* for the last copies, not for other work */
} ag_upload_ops;

typedef struct {
    int64_t pid, bytes;             /* bytes: -1 where the driver does not say */
    char name[64];                  /* of its program; "" if unknown */
} ag_device_process;

/* Graphs: work kept to be done again, in one launch. What is queued between begin and end is not done; launch does it, each
 * time with new keys for its random ops. In between, what waits for the device or reads the host's memory fails. Memory that is
 * allocated in between stays the graph's until free, as it is when it works. */
typedef struct {
    void (*begin)(void);
    void *(*end)(void);                     /* NULL: some memory was missing, which drop gets: then it can be made again */
    /* After a failure or a NULL, when nothing is held that was made in between: gets the memory that was missing, and returns
     * how many bytes; -1: the device has no more. Where some was, a failure may be due to that. */
    int64_t (*drop)(void);
    void (*launch)(void *graph);
    void (*free)(void *graph);
    /* The state of a training step, on the device: its loss, the clipping of its gradients, and whether a loss was no number,
     * after which optimizers that look at it leave the weights alone until reset. */
    void (*reset)(void);
    void (*note_loss)(const ag_tensor *loss);           /* queued: f32, one element */
    int (*send)(void);                                  /* queued: the state goes to the host, and a ticket for it back */
    double (*receive)(int ticket);                      /* waits for it; the loss. At most 3 tickets are out. */
} ag_device_graphs;

typedef struct {
    const char *name;
    /* Called once, before anything else. False: the device cannot be used; `why` then names the missing part, what
     * it is for and what goes on without it. */
    bool (*init)(char *why, size_t size);
    /* Uninitialised memory, 256-byte aligned, from a cache of freed blocks; NULL when there is no more. A block freed
     * while queued work still reads it is only handed to later work. (NULL on the CPU: core/memory.c) */
    void *(*alloc)(size_t bytes);
    void (*free)(void *p);
    size_t (*size_of)(size_t bytes);        /* what alloc takes for so many; needs no device */
    void (*trim)(void);             /* gives cached blocks back to the driver */
    void (*memory)(ag_device_memory *m);
    void (*reset_peak)(void);       /* the largest so far is what is in use now */
    /* host -> device (the host buffer may be reused at once), device -> host (waits), device -> device */
    void (*copy_in)(void *dst, const void *host, size_t bytes);
    void (*copy_out)(void *host, const void *src, size_t bytes);
    void (*copy)(void *dst, const void *src, size_t bytes);
    /* dst[..] = src[..], dst[..] += src[..] (f32, bf16) and dst[..] = value: tensors of this device and of one shape,
     * any strides, any two dtypes (to integers rounds toward zero). NULL on the CPU: core/tensor.c does it. */
    void (*assign)(ag_tensor *dst, const ag_tensor *src);
    void (*add)(ag_tensor *dst, const ag_tensor *src);
    void (*fill)(ag_tensor *dst, double value);
    /* table[ids[i], :] += values[i, :], in the order of i; f32, ids i64[n]. NULL on the CPU: core/backward.c does it. */
    void (*add_rows)(ag_tensor *table, const ag_tensor *ids, const ag_tensor *values);
    void (*sync)(void);             /* waits for all queued work; fails with what went wrong in it */
    const ag_upload_ops *upload;    /* NULL: batches are made where they are used */
    /* Who holds its memory, largest first: at most n; returns how many, 0 where it cannot be told. NULL: never */
    int (*processes)(ag_device_process *p, int n);
    /* Several ranks (core/ranks.h), whose calls are the same in the same order: whether their devices can sum by
     * themselves (where not, rank 0 says why, once); v becomes its mean over them, beside the work that is queued from now
     * on; which waits for it from ranks_join on. NULL: they cannot. */
    bool (*ranks_ready)(void);
    void (*ranks_start_mean)(float *v, int64_t n);
    void (*ranks_join)(void);
    const ag_device_graphs *graphs; /* NULL: none */
} ag_device_ops;

/* The entry of a device, initialised. Fails, saying why, when the device cannot be used. */
const ag_device_ops *ag_device_table(ag_device device);
/* Whether AG_CUDA can be used; when not, `why` (may be NULL) says what is missing. */
bool ag_cuda_available(char *why, size_t size);

/* The table's .processes; 0 where it has none. */
int ag_device_processes(ag_device device, ag_device_process *p, int n);

/* A line for the message of a GPU that is lost in the midst of work: what it was doing, how to go on. { NULL }: none. It may
 * not touch the GPU. */
void ag_device_advise(ag_memory_advice advice);
void ag_device_advice(char *text, size_t size);     /* asks for it; "" if none */

/* Which of several GPUs: from .device = "cuda:1", or -1: the first, or for ranks of one machine (core/ranks.h) one each. Set
 * before the first use. */
extern int ag_cuda_wanted;
extern const ag_device_ops ag_cuda_device;      /* cuda/device.cu or cuda/stub.c */

AG_END_DECLS
#endif
