/* cuda/nccl.h - sums over the GPUs of several ranks by NCCL, which is looked for at run time. Its few functions are declared
 * here, so that neither its header nor the library is needed to build; cuda/ranks.cu compares with the header where it is. */
#ifndef AG_CUDA_NCCL_H
#define AG_CUDA_NCCL_H
#include "core/base.h"
AG_BEGIN_DECLS

enum {
    AG_NCCL_LEAST = 21800,                              /* 2.18.0; 22809 is 2.28.9 */
    AG_NCCL_SUCCESS = 0, AG_NCCL_IN_PROGRESS = 7,
    AG_NCCL_F32 = 7, AG_NCCL_F64 = 8, AG_NCCL_SUM = 0, AG_NCCL_MEAN = 4,
};
typedef struct { char bytes[128]; } ag_nccl_id;
typedef struct ag_nccl_comm_ *ag_nccl_comm;

typedef struct {
    int (*version)(int *version);
    int (*id)(ag_nccl_id *id);
    int (*init)(ag_nccl_comm *c, int ranks, ag_nccl_id id, int rank);
    int (*all_reduce)(const void *from, void *to, size_t n, int type, int op, ag_nccl_comm c, void *stream);
    int (*async_error)(ag_nccl_comm c, int *status);
    int (*abort)(ag_nccl_comm c);
    const char *(*words)(int status);
    const char *(*last_error)(ag_nccl_comm c);          /* more words about the last one */
} ag_nccl_functions;

/* Fills f from the library and returns its version; 0, with a message for the user, where it is missing or too old. */
int ag_nccl_load(ag_nccl_functions *f, char *why, size_t size);
/* In its place in the emulation. */
int ag_emulate_nccl_load(ag_nccl_functions *f, char *why, size_t size);

AG_END_DECLS
#endif
