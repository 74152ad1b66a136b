#include "ops/conv_depthwise.h"

enum { WIDE = AG_DW_WIDE, NARROW = AG_DW_NARROW, TAPS = AG_DW_TAPS, LANES = AG_DW_LANES };
typedef ag_dw_vec vec;

/* The loops over tiles and taps are unrolled whole, so that their arrays are registers. */
#define UNROLL _Pragma("GCC unroll 64")
#define UNROLLED static inline __attribute__((always_inline))

UNROLLED void sum(const int taps, const int stride, const int tile, int64_t n, const ag_dw_line *line, int64_t x_at,
                  int64_t x_step, int64_t w_at, int64_t w_step, const vec *from, int64_t from_step, vec *to)
{
    vec s[WIDE], w[TAPS];
    UNROLL for (int t = 0; t < tile; t++, from += from_step) s[t] = *from;
    for (int64_t r = 0; r < n; r++) {
        const real *x = line[r].x + x_at, *tap = line[r].w + w_at;
        UNROLL for (int k = 0; k < taps; k++, tap += w_step) w[k] = *(const vec *)tap;
        UNROLL for (int i = 0; i < (tile - 1) * stride + taps; i++, x += taps > 1 ? LANES : x_step) {
            const vec v = *(const vec *)x;
            UNROLL for (int t = 0; t < tile; t++)
                if (i - stride * t >= 0 && i - stride * t < taps) s[t] += v * w[i - stride * t];
        }
    }
    UNROLL for (int t = 0; t < tile; t++) to[t] = s[t];
}

/* Two sums for each tap: chains of additions that are too short would wait for each other. */
UNROLLED void grad(const int taps, const int stride, const int tile, int64_t n, const ag_dw_line *line, int64_t x_at,
                   int64_t x_step, int64_t w_at, int64_t tiles, vec *to)
{
    vec s[2][TAPS], w[WIDE];
    UNROLL for (int k = 0; k < taps; k++) s[0][k] = s[1][k] = (vec){ 0 };
    for (int64_t r = 0; r < n; r++)
        for (int64_t b = 0; b < tiles; b++) {
            const real *x = line[r].x + x_at + b * tile * stride * (taps > 1 ? LANES : x_step);
            const real *g = line[r].w + w_at + b * tile * LANES;
            UNROLL for (int t = 0; t < tile; t++) w[t] = *(const vec *)(g + t * LANES);
            UNROLL for (int i = 0; i < (tile - 1) * stride + taps; i++, x += taps > 1 ? LANES : x_step) {
                const vec v = *(const vec *)x;
                UNROLL for (int t = 0; t < tile; t++)
                    if (i - stride * t >= 0 && i - stride * t < taps) s[t % 2][i - stride * t] += v * w[t];
            }
        }
    UNROLL for (int k = 0; k < taps; k++) to[k] += s[0][k] + s[1][k];
}

#define SUM(name, taps, stride, tile)                                                                          \
    static void name(int64_t n, const ag_dw_line *line, int64_t x_at, int64_t x_step, int64_t w_at,            \
                     int64_t w_step, const vec *from, int64_t from_step, vec *to)                              \
    {                                                                                                          \
        sum(taps, stride, tile, n, line, x_at, x_step, w_at, w_step, from, from_step, to);                     \
    }
#define GRAD(name, taps, stride, tile)                                                                         \
    static void name(int64_t n, const ag_dw_line *line, int64_t x_at, int64_t x_step, int64_t w_at,            \
                     int64_t tiles, vec *to)                                                                   \
    {                                                                                                          \
        grad(taps, stride, tile, n, line, x_at, x_step, w_at, tiles, to);                                      \
    }
#define KERNELS_OF(taps, stride)                                                                               \
    SUM(wide_sum_##taps##_##stride, taps, stride, WIDE)                                                        \
    SUM(narrow_sum_##taps##_##stride, taps, stride, NARROW)                                                    \
    GRAD(wide_grad_##taps##_##stride, taps, stride, WIDE)                                                      \
    GRAD(narrow_grad_##taps##_##stride, taps, stride, NARROW)

/* What 3, 5 and 7 taps need, their gradients with stride 2 included; others are put together from these. */
#define EACH(K) K(7, 1) K(5, 1) K(4, 1) K(3, 1) K(2, 1) K(7, 2) K(5, 2) K(3, 2) K(1, 1)
EACH(KERNELS_OF)

#define ROW(taps, stride)                                                                                      \
    { taps, stride, wide_sum_##taps##_##stride, narrow_sum_##taps##_##stride, wide_grad_##taps##_##stride,     \
      narrow_grad_##taps##_##stride },
static const ag_dw_kernel kernels[] = { EACH(ROW) };

const ag_dw_kernel *ag_dw_kernel_for(int64_t most, int64_t stride)
{
    const ag_dw_kernel *k = kernels;
    while (k->taps > 1 && (k->taps > most || k->stride != stride)) k++;
    return k;
}

void ag_dw_add_columns(int64_t columns, const real *x, vec *to)
{
    vec s[4] = { { 0 } };
    int64_t i = 0;
    for (; i + 4 <= columns; i += 4)
        UNROLL for (int t = 0; t < 4; t++) s[t] += *(const vec *)(x + (i + t) * LANES);
    for (; i < columns; i++) s[0] += *(const vec *)(x + i * LANES);
    *to += (s[0] + s[1]) + (s[2] + s[3]);
}
