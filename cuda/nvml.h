/* cuda/nvml.h - the driver's word on who holds a GPU's memory: NVML, which comes with the driver and is looked for at run
 * time. Without it there are no names; nothing else depends on it. */
#ifndef AG_CUDA_NVML_H
#define AG_CUDA_NVML_H
#include "core/device.h"
AG_BEGIN_DECLS

/* Those with memory of the GPU at this place of the bus, largest first: at most n; returns how many, 0 if unknown. */
int ag_nvml_processes(const char *bus, ag_device_process *p, int n);

AG_END_DECLS
#endif
