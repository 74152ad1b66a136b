#include "ops/conv_depthwise.h"

/* A product and its sum as one instruction, which ISO C mode would not form: twice as fast. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast")
#endif

enum { TILE = AG_DW_TILE, TAPS = AG_DW_TAPS, LANES = AG_DW_LANES };
typedef ag_dw_vec vec;

/* The loops over tiles and taps are unrolled whole, so that their arrays are registers. */
#define UNROLL _Pragma("GCC unroll 64")
#define UNROLLED static inline __attribute__((always_inline))

UNROLLED void sum(const int taps, const int stride, int64_t n, const ag_dw_line *line, int64_t x_at, int64_t x_step,
                  int64_t w_at, int64_t w_step, uint64_t mask, vec *tile)
{
    vec s[TILE], w[TAPS];
    UNROLL for (int t = 0; t < TILE; t++) s[t] = tile[t];
    for (int64_t r = 0; r < n; r++) {
        const real *x = line[r].x + x_at, *tap = line[r].w + w_at;
        UNROLL for (int k = 0; k < taps; k++, tap += w_step) w[k] = *(const vec *)tap;
        UNROLL for (int i = 0; i < (TILE - 1) * stride + taps; i++, x += x_step) {
            if (!(mask >> i & 1)) continue;
            const vec v = *(const vec *)x;
            UNROLL for (int t = 0; t < TILE; t++)
                if (i - stride * t >= 0 && i - stride * t < taps) s[t] += v * w[i - stride * t];
        }
    }
    UNROLL for (int t = 0; t < TILE; t++) tile[t] = s[t];
}

/* Two sums for each tap: chains of additions that are too short would wait for each other. */
UNROLLED void grad(const int taps, const int stride, int64_t n, const ag_dw_line *line, int64_t x_at, int64_t x_step,
                   int64_t tiles, const uint64_t *mask, vec *sums)
{
    vec s[2][TAPS], w[TILE];
    UNROLL for (int k = 0; k < taps; k++) s[0][k] = s[1][k] = (vec){ 0 };
    for (int64_t r = 0; r < n; r++)
        for (int64_t b = 0; b < tiles; b++) {
            const real *x = line[r].x + x_at + b * TILE * stride * x_step, *g = line[r].w + b * TILE * LANES;
            const uint64_t m = mask[b];
            UNROLL for (int t = 0; t < TILE; t++) w[t] = *(const vec *)(g + t * LANES);
            UNROLL for (int i = 0; i < (TILE - 1) * stride + taps; i++, x += x_step) {
                if (!(m >> i & 1)) continue;
                const vec v = *(const vec *)x;
                UNROLL for (int t = 0; t < TILE; t++)
                    if (i - stride * t >= 0 && i - stride * t < taps) s[t % 2][i - stride * t] += v * w[t];
            }
        }
    UNROLL for (int k = 0; k < taps; k++) sums[k] += s[0][k] + s[1][k];
}

#define KERNEL(taps, stride)                                                                                     \
    static void sum_##taps##_##stride(int64_t n, const ag_dw_line *line, int64_t x_at, int64_t x_step, int64_t w_at, \
                                      int64_t w_step, uint64_t mask, vec *tile)                                  \
    {                                                                                                            \
        sum(taps, stride, n, line, x_at, x_step, w_at, w_step, mask, tile);                                      \
    }                                                                                                            \
    static void grad_##taps##_##stride(int64_t n, const ag_dw_line *line, int64_t x_at, int64_t x_step, int64_t tiles, \
                                       const uint64_t *mask, vec *sums)                                          \
    {                                                                                                            \
        grad(taps, stride, n, line, x_at, x_step, tiles, mask, sums);                                            \
    }
/* What kernels of 3, 5 and 7 taps need, their gradients with stride 2 included; others are put together from these. */
#define KERNELS(K) K(7, 1) K(5, 1) K(4, 1) K(3, 1) K(2, 1) K(7, 2) K(5, 2) K(3, 2) K(1, 1)
KERNELS(KERNEL)

#define ROW(taps, stride) { taps, stride, sum_##taps##_##stride, grad_##taps##_##stride },
static const ag_dw_kernel kernels[] = { KERNELS(ROW) };

const ag_dw_kernel *ag_dw_kernel_for(int64_t most, int64_t stride)
{
    const ag_dw_kernel *k = kernels;
    while (k->taps > 1 && (k->taps > most || k->stride != stride)) k++;
    return k;
}
