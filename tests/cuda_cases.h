/* tests/cuda_cases.h - what the tests of the GPU's kernels share. */
#ifndef CUDA_CASES_H
#define CUDA_CASES_H
#include "core/device.h"
#include "tests/op_cases.h"

/* Rounds under other orders of the threads; on a GPU, which chooses itself, two. Their bits must agree. */
#ifdef AG_EMULATE
enum { ROUNDS = 5 };
void ag_emulate_order(int order);
const char *ag_emulate_error(void);
#else
enum { ROUNDS = 2 };
static inline void ag_emulate_order(int order) { (void)order; }
#endif

enum { MAX_VALUES = 40000 };
typedef struct { int64_t n; double v[MAX_VALUES]; } values;

static inline void take(values *to, ag_tensor *t)
{
    double *v = doubles(ag_to(ag_detach(t), AG_CPU));
    for (int64_t i = 0; i < ag_numel(t); i++) {
        AG_ASSERT(to->n < MAX_VALUES);
        to->v[to->n++] = v[i];
    }
    free(v);
}

#endif
