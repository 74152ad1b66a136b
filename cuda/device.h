/* cuda/device.h - inside of the device: who provides the entries of the device table. */
#ifndef AG_CUDA_DEVICE_H
#define AG_CUDA_DEVICE_H
#include "core/device.h"
#include "cuda/cuda.h"
AG_BEGIN_DECLS

/* device.cu: where on the bus the GPU is, "00000000:01:00.0"; false: not known */
bool ag_cuda_bus(char *bus, size_t size);

/* allocator.cu */
void *ag_cuda_alloc(size_t bytes);
void ag_cuda_free(void *p);
size_t ag_cuda_size_of(size_t bytes);
void ag_cuda_trim(void);
void ag_cuda_memory(ag_device_memory *m);
void ag_cuda_reset_peak(void);

/* Memory that is allocated now becomes the graph's, from idle blocks alone; nullptr: nobody's. */
void ag_cuda_alloc_for(const void *graph);
void ag_cuda_disown(const void *graph);     /* what is the graph's becomes everybody's */
bool ag_cuda_missing(void);                 /* the graph's memory is not all there */
int64_t ag_cuda_find_missing(void);         /* asks the driver for it; bytes, or -1: it has no more */

/* graph.cu */
extern const ag_device_graphs ag_cuda_graphs;
/* In the middle of a graph: fails, saying what it is that cannot be. */
void ag_cuda_not_in_graph(const char *what);

/* device.cu */
void ag_cuda_trap_report(ag_cuda_trap found);   /* fails, if it is one */

/* copy.cu */
void ag_cuda_assign(ag_tensor *dst, const ag_tensor *src);
void ag_cuda_add(ag_tensor *dst, const ag_tensor *src);
void ag_cuda_fill(ag_tensor *dst, double value);

/* embedding.cu */
void ag_cuda_add_rows(ag_tensor *table, const ag_tensor *ids, const ag_tensor *values);

extern const ag_upload_ops ag_cuda_upload;      /* upload.cu */

AG_END_DECLS
#endif
