/* ops/conv_depthwise.h - inside of the depthwise convolution: kernels on vectors of neighbouring channels, the plan of a
 * row of the result, and rows packed for them. A block is LANES channels; the lanes behind the last channel are zero. */
#ifndef AG_CONV_DEPTHWISE_H
#define AG_CONV_DEPTHWISE_H
#include "core/op.h"
#include "ops/ops.h"

/* A tile of sums, the taps of a row and one column fit the registers. */
#ifdef __AVX512F__
enum { AG_DW_BYTES = 64, AG_DW_TILE = 14 };
#else
enum { AG_DW_BYTES = 32, AG_DW_TILE = 7 };
#endif
enum { AG_DW_LANES = AG_DW_BYTES / (int)sizeof(real), AG_DW_TAPS = 7 };
typedef real ag_dw_vec __attribute__((vector_size(AG_DW_BYTES), may_alias));

/* ---- kernels (conv_depthwise_kernels.c) ------------------------------------------------------------------
 * They take `taps` neighbouring taps of a row and a tile of up to TILE output columns. Column i of the row is loaded once
 * and feeds every output that it lies under: output t meets tap k in column i = stride t + k. Bit i of a mask says that
 * the column exists; what lies outside of the image costs nothing. Positions and steps count reals. */

/* x: columns of a row, [W][LANES]; w: vectors of its taps, or of the gradient of the outputs. */
typedef struct { const real *x, *w; } ag_dw_line;

typedef struct {
    int64_t taps, stride;
    /* tile[t] += sum over lines and k of x[x_at + (stride t + k) x_step] w[w_at + k w_step] */
    void (*sum)(int64_t n, const ag_dw_line *line, int64_t x_at, int64_t x_step, int64_t w_at, int64_t w_step, uint64_t mask,
                ag_dw_vec *tile);
    /* sums[k] += sum over lines, tiles and t of x[x_at + (stride t + k) x_step] w[t]; each tile has its mask */
    void (*grad)(int64_t n, const ag_dw_line *line, int64_t x_at, int64_t x_step, int64_t tiles, const uint64_t *mask,
                 ag_dw_vec *sums);
} ag_dw_kernel;

/* The one of the most taps up to `most` for outputs that lie `stride` columns apart. One of a single tap has no stride:
 * x_step holds it. */
const ag_dw_kernel *ag_dw_kernel_for(int64_t most, int64_t stride);

/* ---- the plan of a row (conv_depthwise_plan.c) --------------------------------------------------------- */

/* One axis: tap k of output o meets input o stride + k dilation - pad; turned round, for the gradient, it meets input
 * (o + pad - k dilation) / stride where that is whole. */
typedef struct { int64_t in, out, taps, stride, pad, dilation; bool turned; } ag_dw_axis;
/* The input of `tap` for `out`, perhaps outside of the image; false where none is met. */
bool ag_dw_meets(const ag_dw_axis *a, int64_t out, int64_t tap, int64_t *in);

/* The columns first, first + step, ... of a row of the result, which all meet the same taps: turned round with stride s
 * there are s of such phases. Output j of them meets tap k of a part in column `column` + j stride + k. */
typedef struct {
    const ag_dw_kernel *kernel;
    int64_t column, tap, tap_step, spacing;     /* spacing: of the columns of neighbouring k */
    uint64_t *mask;                             /* [tiles] */
} ag_dw_part;
typedef struct { int64_t first, step, outputs, tiles, stride; ag_dw_part *part; int parts; } ag_dw_phase;
typedef struct { ag_dw_phase *phase; int64_t phases; } ag_dw_plan;

int64_t ag_dw_plan_bytes(const ag_dw_axis *a);
ag_dw_plan ag_dw_plan_of(const ag_dw_axis *a, void *memory);

/* ---- packed rows (conv_depthwise_plan.c) --------------------------------------------------------------- */

/* Images [N, rows, columns, channels] whose rows are packed as [blocks][padded columns][LANES] reals. With z they are
 * gradients of an activation's outputs and become those of its inputs; z as ag_activate_grad wants it. */
typedef struct {
    const void *data, *z;
    ag_dtype dtype;
    ag_activation activation;
    int64_t rows, columns, padded, channels;
} ag_dw_images;
/* Row `row` of all rows, blocks first .. first + blocks. buf: 2 blocks LANES reals, used with z. */
void ag_dw_pack(const ag_dw_images *im, int64_t row, int64_t first, int64_t blocks, real *to, real *buf);

#endif
