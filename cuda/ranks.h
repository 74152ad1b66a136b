/* cuda/ranks.h - numbers of several ranks (core/ranks.h) that lie on their GPUs, and become sums or means in place. All ranks
 * make the same calls in the same order. */
#ifndef AG_CUDA_RANKS_H
#define AG_CUDA_RANKS_H
#include "core/base.h"
AG_BEGIN_DECLS

/* In order with the queued work; through the host where there is no NCCL. */
void ag_cuda_ranks_sum(double *v, int64_t n);

/* Whether there is NCCL between the ranks; where not, rank 0 says once why not. */
bool ag_cuda_ranks_ready(void);
/* Of what the work queued so far leaves in v; goes on beside the work queued from now on. */
void ag_cuda_ranks_start_mean(float *v, int64_t n);
/* The work queued from now on waits for the means started so far. */
void ag_cuda_ranks_join(void);
/* Fails where NCCL has given up meanwhile: after each wait. */
void ag_cuda_ranks_check(void);

AG_END_DECLS
#endif
