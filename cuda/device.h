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

/* copy.cu */
void ag_cuda_assign(ag_tensor *dst, const ag_tensor *src);
void ag_cuda_add(ag_tensor *dst, const ag_tensor *src);
void ag_cuda_fill(ag_tensor *dst, double value);

/* embedding.cu */
void ag_cuda_add_rows(ag_tensor *table, const ag_tensor *ids, const ag_tensor *values);

extern const ag_upload_ops ag_cuda_upload;      /* upload.cu */

AG_END_DECLS
#endif
