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

/* The runtime; x: device memory of one float. */
float planted_two_streams(float *x, bool wait);     /* 5, copied to x by one stream and read by another */
float planted_late_read(float *x, bool wait);       /* the same, through pinned memory */
typedef enum { PLANTED_FINE, PLANTED_JOINED, PLANTED_SYNC, PLANTED_MALLOC, PLANTED_FREE, PLANTED_PAGEABLE, PLANTED_UNJOINED,
               PLANTED_FOREIGN, PLANTED_CAPTURES } planted_capture_kind;
int planted_capture(float *x, planted_capture_kind kind);   /* what the end of a capture that held it says: 0 is success */
float planted_replays(float *x, int n, float *captured);    /* x + 1 captured, launched n times; captured: x before */

AG_END_DECLS
#endif
