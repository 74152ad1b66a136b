/* ops/dropout.h - who is dropped, a function of a key and a number, once for every device. */
#ifndef AG_DROPOUT_H
#define AG_DROPOUT_H
#include "core/philox.h"
#include "ops/formulas.h"

/* An element is kept where its word of Philox is at least the first, and multiplied with the second. */
static inline uint32_t ag_dropout_threshold(double p) { return p < 1 ? (uint32_t)(p * 0x1p32) : UINT32_MAX; }
static inline real ag_dropout_scale(double p) { return p < 1 ? (real)(1 / (1 - p)) : 0; }

/* What the branch of a sample is multiplied with where a share p of the branches is dropped: 0 or 1 / (1 - p). */
AG_FORMULA real ag_drop_path_keep(double p, uint64_t key, int64_t sample)
{
    if (p == 0 || p == 1) return p == 0;
    return ag_philox_block(key, 4, (uint64_t)sample).v[0] >= (uint32_t)(p * 0x1p32) ? (real)(1 / (1 - p)) : 0;
}

#endif
