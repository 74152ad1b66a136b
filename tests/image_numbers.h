/* tests/image_numbers.h - weights and images that PyTorch makes as well, from their positions alone
 * (tests/image_numbers.py). */
#ifndef IMAGE_NUMBERS_H
#define IMAGE_NUMBERS_H
#include "agrad.h"
#include "core/op.h"

/* Number i of the stream `seed`, from -1 to 1. */
static inline double value(int64_t i, int64_t seed)
{
    uint32_t x = (uint32_t)(i * 4099 + seed);
    x = (x ^ x >> 16) * 0x7FEB352Du;
    x = (x ^ x >> 15) * 0x846CA68Bu;
    return (double)(x ^ x >> 16) / 0x1p31 - 1;
}

/* t = middle + scale times numbers of the stream */
static inline void fill_values(ag_tensor *t, double middle, double scale, int64_t seed)
{
    for (int64_t i = 0; i < ag_numel(t); i++) ag_real(t)[i] = (real)(middle + scale * value(i, seed));
    ag_touched(t);
}

static inline ag_tensor *images(int64_t n, int64_t h, int64_t w, int64_t seed)
{
    ag_tensor *x = ag_empty(AG_F32, n, h, w, 3);
    fill_values(x, 0, 2, seed);
    return x;
}

#endif
