/* ops/conv_depthwise.h - inside of the depthwise convolution: kernels on vectors of neighbouring channels, the plan
 * of a row of the result, and rows packed for them. A block is LANES channels; lanes behind the last channel are
 * zero. */
#ifndef AG_CONV_DEPTHWISE_H
#define AG_CONV_DEPTHWISE_H
#include "core/op.h"
#include "ops/conv_axis.h"
#include "ops/ops.h"

/* The sums of a tile of columns, the taps of a row and one column fit the registers. */
#ifdef __AVX512F__
enum { AG_DW_BYTES = 64, AG_DW_WIDE = 14, AG_DW_NARROW = 8 };
#elif defined(__AVX__)
enum { AG_DW_BYTES = 32, AG_DW_WIDE = 7, AG_DW_NARROW = 4 };
#else
enum { AG_DW_BYTES = 16, AG_DW_WIDE = 7, AG_DW_NARROW = 4 };
#endif
enum { AG_DW_LANES = AG_DW_BYTES / (int)sizeof(real), AG_DW_TAPS = 7 };
typedef real ag_dw_vec __attribute__((vector_size(AG_DW_BYTES), may_alias));

/* ---- kernels (conv_depthwise_kernels.c) ------------------------------------------------------------------
 * They take `taps` neighbouring taps of a row and a tile of WIDE or NARROW output columns. A column of the row is
 * loaded once and feeds every output that it lies under: output t meets tap k in column stride t + k. There are no
 * edges: rows are padded with zeros. Positions and steps count reals. */

/* x: columns of a row, [columns][LANES]; w: vectors of its taps, or of the gradient of the outputs. */
typedef struct { const real *x, *w; } ag_dw_line;

/* to[t] = from[t from_step] + sum over lines and k of x[x_at + (stride t + k) LANES] w[w_at + k w_step] */
typedef void (*ag_dw_sum)(int64_t n, const ag_dw_line *line, int64_t x_at, int64_t x_step, int64_t w_at,
                          int64_t w_step, const ag_dw_vec *from, int64_t from_step, ag_dw_vec *to);
/* to[k] += sum over lines, tiles and t of x[x_at + (stride t + k) LANES] w[w_at + t LANES] */
typedef void (*ag_dw_grad)(int64_t n, const ag_dw_line *line, int64_t x_at, int64_t x_step, int64_t w_at,
                           int64_t tiles, ag_dw_vec *to);
typedef struct {
    int64_t taps, stride;
    ag_dw_sum wide_sum, narrow_sum;
    ag_dw_grad wide_grad, narrow_grad;
} ag_dw_kernel;

/* The one of the most taps up to `most` for outputs that lie `stride` columns apart. For one of a single tap x_step is
 * the way from the column of an output to that of the next. */
const ag_dw_kernel *ag_dw_kernel_for(int64_t most, int64_t stride);
/* *to += the sum of `columns` columns */
void ag_dw_add_columns(int64_t columns, const real *x, ag_dw_vec *to);

/* ---- the plan of a row (conv_depthwise_plan.c) --------------------------------------------------------- */

/* The columns first, first + step, ... of a row of the result, which all meet the same taps: turned round with stride
 * s there are s such phases. Output j of them meets tap k of a part in column `column` + j stride + k. */
typedef struct { const ag_dw_kernel *kernel; int64_t column, tap, tap_step; } ag_dw_part;
typedef struct {
    int64_t first, step, outputs, stride;
    int64_t wide, tiles;                        /* tiles: the wide ones come first */
    ag_dw_part *part;
    int parts;
} ag_dw_phase;
typedef struct {
    ag_dw_phase *phase;
    int64_t phases, before, columns;            /* zeros before a packed row, columns with them and those behind it */
} ag_dw_plan;

int64_t ag_dw_plan_bytes(const ag_dw_axis *a);
ag_dw_plan ag_dw_plan_of(const ag_dw_axis *a, void *memory);
static inline int64_t ag_dw_tile_at(const ag_dw_phase *p, int64_t tile)
{
    return tile < p->wide ? tile * AG_DW_WIDE : p->wide * AG_DW_WIDE + (tile - p->wide) * AG_DW_NARROW;
}

/* ---- packed rows (conv_depthwise_rows.c) --------------------------------------------------------------- */

/* n images [rows, columns, channels] whose rows are packed as [blocks][padded][LANES] reals, after `before` columns
 * of zeros. With an activation they are gradients of its outputs and become those of its inputs; z as
 * ag_activate_grad wants it. */
typedef struct {
    const void *data, *z;
    ag_dtype dtype;
    ag_activation activation;
    int64_t n, rows, columns, channels, before, padded;
} ag_dw_images;

/* A thread's latest packed rows, of `blocks` blocks from `first` on. */
typedef struct { int64_t blocks, slots; } ag_dw_ring_size;
typedef struct {
    const ag_dw_images *images;
    ag_dw_ring_size size;
    real *rows, *z;
    int64_t *holds;                     /* [slots]: which row; -1: none */
    int64_t first, blocks, newest;
} ag_dw_ring;
int64_t ag_dw_ring_bytes(const ag_dw_images *im, ag_dw_ring_size size);
ag_dw_ring ag_dw_ring_in(const ag_dw_images *im, ag_dw_ring_size size, void *memory);
void ag_dw_ring_begin(ag_dw_ring *r, int64_t first);
/* The row's first column; zeros lie before it and behind the last. It stays until `slots` others were asked for. */
const real *ag_dw_ring_get(ag_dw_ring *r, int64_t image, int64_t row);

/* Memory that will be wanted soon, asked for in small portions between computations: of the rows behind the newest,
 * pixel by pixel; `each` lines at a time. */
typedef struct { const char *at, *end; int64_t piece, left, skip, each; } ag_dw_ahead;
ag_dw_ahead ag_dw_ring_ahead(const ag_dw_ring *r, int64_t rows, int64_t portions);
static inline void ag_dw_fetch(ag_dw_ahead *a)
{
    for (int64_t lines = a->each, run; lines > 0 && a->at < a->end; lines -= run) {
        run = lines < a->left ? lines : a->left;
        for (int64_t i = 0; i < run; i++) __builtin_prefetch(a->at + i * 64, 0, 2);
        a->at += run * 64;
        a->left -= run;
        if (!a->left) a->at += a->skip, a->left = a->piece;
    }
}

/* Pixels at, at + gap, ... of a block of `lanes` channels, f32 or bf16. */
typedef struct { int64_t at, gap, pixels, lanes; } ag_dw_place;
void ag_dw_put(void *to, ag_dtype dtype, const ag_dw_place *p, const ag_dw_vec *tile);
void ag_dw_add(const void *from, ag_dtype dtype, const ag_dw_place *p, ag_dw_vec *tile);

#endif
