/* cuda/activation.h - the activations of ag_activation, for kernels that fuse them. */
#ifndef AG_CUDA_ACTIVATION_H
#define AG_CUDA_ACTIVATION_H
#include "cuda/cuda.h"
#include "ops/activation.h"

#define AG_ACTIVATION_VALUE(id, value, derivative) case AG_LINEAR_##id: return value;
#define AG_ACTIVATION_SLOPE(id, value, derivative) case AG_LINEAR_##id: return derivative;

static __device__ inline float ag_activation_value(ag_activation a, float z)
{
    switch (a) {
    AG_ACTIVATION_FORMULAS(AG_ACTIVATION_VALUE)
    default: return z;
    }
}

/* For those told from their output (ag_activation_by_output) z may be it. */
static __device__ inline float ag_activation_slope(ag_activation a, float z)
{
    switch (a) {
    AG_ACTIVATION_FORMULAS(AG_ACTIVATION_SLOPE)
    default: return 1;
    }
}

#endif
