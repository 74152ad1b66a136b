/* ops/conv_axis.h - which pixels the taps of a depthwise convolution meet along one axis, on both devices. */
#ifndef AG_CONV_AXIS_H
#define AG_CONV_AXIS_H
#include "ops/formulas.h"

/* Tap k of output o meets input o stride + k dilation - pad; turned round, for the gradient, it meets input
 * (o + pad - k dilation) / stride where that is whole. */
typedef struct { int64_t in, out, taps, stride, pad, dilation; bool turned; } ag_dw_axis;

/* The input of `tap` for `out`, perhaps outside of the image; false where none is met. */
AG_FORMULA bool ag_dw_meets(const ag_dw_axis *a, int64_t out, int64_t tap, int64_t *in)
{
    const int64_t at = a->turned ? out + a->pad - tap * a->dilation : out * a->stride + tap * a->dilation - a->pad;
    *in = at;
    if (!a->turned || a->stride == 1) return true;
    *in = at / a->stride;
    return at % a->stride == 0;
}

#endif
