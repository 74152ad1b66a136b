/* tests/cuda_planted.h - launchers of tests/cuda_planted.cu; x and y: device memory. */
#ifndef CUDA_PLANTED_H
#define CUDA_PLANTED_H
#include "core/base.h"
AG_BEGIN_DECLS

void planted_neighbour_sums(int n, const float *x, float *y, bool barrier);
void planted_block_sum(int n, const float *x, float *y, bool barrier);
void planted_writes_behind(int n, float *y);
void planted_writes_behind_shared(float *y);
void planted_waits_apart(float *y);
void planted_leaves_some(int n, float *y);

AG_END_DECLS
#endif
