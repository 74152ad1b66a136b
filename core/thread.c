#include "core/thread.h"
#include <omp.h>
#include "core/tensor.h"

/* ns of work below which one thread does it: fork and join cost little on an idle machine, but where another process
 * holds a core, every join waits for a time slice. */
enum { WORTH_WAKING = 60000 };

void ag_parallel(int64_t n, int64_t grain, double cost, void (*body)(int64_t, int64_t, void *), void *arg)
{
    if (n <= 0) return;
    const int64_t threads = ag_threads(), pieces = (n + grain - 1) / grain;
    if (threads < 2 || pieces < 2 || (double)n * cost < WORTH_WAKING || omp_in_parallel()) {
        body(0, n, arg);
        return;
    }
    const int64_t team = pieces < threads ? pieces : threads;
#pragma omp parallel num_threads((int)team)
    {
        const int64_t k = omp_get_thread_num(), of = omp_get_num_threads();
        const int64_t begin = pieces * k / of * grain, end = pieces * (k + 1) / of * grain;
        if (begin < n) body(begin, end < n ? end : n, arg);
    }
}
