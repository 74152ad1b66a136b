/* cuda/optim.cu - the steps of optim/rules.def on the GPU: all parameters in one launch (up to SEGMENTS of them), read
 * and written once. */
#include "cuda/cuda.h"
#include "ops/formulas.h"
#include "optim/state.h"

enum { SEGMENTS = 32 };                                 /* the arguments of a launch hold 4 KiB */

struct optim_batch {
    int n;
    int64_t begin, end;
    optim_segment segment[SEGMENTS];
};

template <class Rule> static __global__ void optim_update(optim_batch b)
{
    AG_EACH (at, b.end - b.begin) {
        const int64_t e = b.begin + at;
        int lo = 0, hi = b.n - 1;
        while (lo < hi) {                               /* the last segment that begins at or before e */
            const int mid = (lo + hi + 1) / 2;
            if (b.segment[mid].begin <= e) lo = mid;
            else hi = mid - 1;
        }
        const optim_segment &s = b.segment[lo];
        if (e - s.begin < s.n) Rule::step(s.scalars, e - s.begin, s.w, s.g, s.s0, s.s1);
    }
}

template <class Rule> static void optim_run(const optim_segment *segment, int n)
{
    for (int first = 0; first < n; first += SEGMENTS) {
        optim_batch b;
        b.n = n - first < SEGMENTS ? n - first : SEGMENTS;
        for (int i = 0; i < b.n; i++) b.segment[i] = segment[first + i];
        b.begin = b.segment[0].begin;
        b.end = b.segment[b.n - 1].begin + b.segment[b.n - 1].n;
        if (b.end > b.begin)
            LAUNCH(optim_update<Rule>, ag_blocks(b.end - b.begin), AG_BLOCK, 0, b);
    }
}

#define OPTIM_RULE(name, attributes, ...) \
    struct name##_rule { \
        static __device__ inline void step(const optim_scalars &k, int64_t i, float *w, const float *g, float *s0, \
                                           float *s1) \
        { \
            (void)s0, (void)s1; \
            __VA_ARGS__ \
        } \
    }; \
    void ag_optim_##name##_cuda(const optim_segment *segment, int n) { optim_run<name##_rule>(segment, n); }
#include "optim/rules.def"
