/* core/thread.h - how kernels use several cores. */
#ifndef AG_THREAD_H
#define AG_THREAD_H
#include "core/base.h"
AG_BEGIN_DECLS

/* Runs body(begin, end, arg) over [0, n) on up to ag_threads() threads when n * cost (rough ns per item) is worth
 * waking them; pieces are cut at multiples of `grain`, the same in every run with as many threads. A body whose result
 * depends on the cut (products, gradients of convolutions' weights: in the last digit) depends on their number as well.
 * Inside a body no ag_fail and no tensors. */
void ag_parallel(int64_t n, int64_t grain, double cost, void (*body)(int64_t begin, int64_t end, void *arg), void *arg);

/* Which of the threads of ag_parallel runs: 0 (the caller) .. ag_threads() - 1. For scratch memory taken beforehand. */
int ag_thread_id(void);

AG_END_DECLS
#endif
