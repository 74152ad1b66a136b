/* cuda/optim_rules.h - the steps of optim/rules.def, each as a struct's function: adam_rule::step(k, i, w, g, s0, s1). */
#ifndef AG_CUDA_OPTIM_RULES_H
#define AG_CUDA_OPTIM_RULES_H
#include "cuda/cuda.h"
#include "ops/formulas.h"
#include "optim/state.h"

#define OPTIM_RULE(name, attributes, ...) \
    struct name##_rule { \
        static __device__ inline void step(const optim_scalars &k, int64_t i, float *w, const float *g, float *s0, \
                                           float *s1) \
        { \
            (void)s0, (void)s1; \
            __VA_ARGS__ \
        } \
    };
#include "optim/rules.def"
#undef OPTIM_RULE

#endif
