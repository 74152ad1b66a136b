/* core/strided.c - copies between tensors of one shape, any strides, any two dtypes. */
#include <string.h>
#include "core/bf16.h"
#include "core/engine.h"
#include "core/thread.h"

/* n elements of two tensors, steps in bytes */
typedef void (*row_fn)(int64_t n, char *dst, int64_t dst_step, const char *src, int64_t src_step);

enum { DST, SRC };
enum { LINE = 1 << 14, SQUARE = 32 };   /* elements of a row at a time; sides of the squares of a transposition */

/* Two tensors of one shape, strides in bytes, axes merged where they lie behind one another in both. The last axis is
 * that of rows; where src is dense along another one, `across`, the two are walked in squares, so that what was fetched
 * is used. */
typedef struct {
    int ndim, across;                   /* across: -1 where there is no such axis */
    int64_t shape[AG_MAX_DIMS], stride[2][AG_MAX_DIMS];
    int64_t along, blocks_along, blocks_across, outer;      /* along: elements of a row at a time */
    char *dst;
    const char *src;
    row_fn row;
} walk;

static walk walk_of(ag_tensor *dst, const ag_tensor *src, row_fn row)
{
    const int64_t size[2] = { (int64_t)ag_dtype_size(dst->dtype), (int64_t)ag_dtype_size(src->dtype) };
    walk w = { .across = -1, .dst = dst->data, .src = src->data, .row = row, .outer = 1 };
    for (int i = 0; i < dst->ndim; i++) {
        const int64_t n = dst->shape[i], d = dst->stride[i] * size[DST], s = src->stride[i] * size[SRC];
        if (n == 1) continue;
        const int last = w.ndim - 1;
        if (!w.ndim || w.stride[DST][last] != d * n || w.stride[SRC][last] != s * n) w.shape[w.ndim++] = 1;
        w.shape[w.ndim - 1] *= n, w.stride[DST][w.ndim - 1] = d, w.stride[SRC][w.ndim - 1] = s;
    }
    if (!w.ndim) w.shape[0] = 1, w.stride[DST][0] = size[DST], w.stride[SRC][0] = size[SRC], w.ndim = 1;
    const int last = w.ndim - 1;
    for (int i = 0; i < last; i++) if (w.stride[SRC][i] == size[SRC] && w.stride[SRC][last] > size[SRC]) w.across = i;
    for (int i = 0; i < last; i++) if (i != w.across) w.outer *= w.shape[i];
    w.along = w.across < 0 ? LINE : SQUARE;
    w.blocks_along = (w.shape[last] + w.along - 1) / w.along;
    w.blocks_across = w.across < 0 ? 1 : (w.shape[w.across] + SQUARE - 1) / SQUARE;
    return w;
}

/* Where the outer axes stand: all but the last and `across`. */
typedef struct { int64_t index[AG_MAX_DIMS], offset[2]; } place;

static place seek(const walk *w, int64_t k)
{
    place p = { { 0 }, { 0, 0 } };
    for (int i = w->ndim - 2; i >= 0; i--) {
        if (i == w->across) continue;
        p.index[i] = k % w->shape[i];
        for (int t = 0; t < 2; t++) p.offset[t] += p.index[i] * w->stride[t][i];
        k /= w->shape[i];
    }
    return p;
}

static void step(const walk *w, place *p)
{
    for (int i = w->ndim - 2; i >= 0; i--) {
        if (i == w->across) continue;
        for (int t = 0; t < 2; t++) p->offset[t] += w->stride[t][i];
        if (++p->index[i] < w->shape[i]) return;
        for (int t = 0; t < 2; t++) p->offset[t] -= w->stride[t][i] * p->index[i];
        p->index[i] = 0;
    }
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static void run_block(const walk *w, const int64_t offset[2], int64_t along, int64_t across)
{
    const int last = w->ndim - 1, a = w->across < 0 ? last : w->across;
    const int64_t d = w->stride[DST][last], s = w->stride[SRC][last], first = along * w->along, row = across * SQUARE;
    const int64_t n = smaller(w->along, w->shape[last] - first);
    const int64_t rows = w->across < 0 ? 1 : smaller(SQUARE, w->shape[a] - row);
    char *to = w->dst + offset[DST] + first * d + row * w->stride[DST][a];
    const char *from = w->src + offset[SRC] + first * s + row * w->stride[SRC][a];
    const int64_t d_row = w->stride[DST][a], s_row = w->stride[SRC][a];
    if (n < rows) for (int64_t i = 0; i < n; i++) w->row(rows, to + i * d, d_row, from + i * s, s_row);
    else for (int64_t r = 0; r < rows; r++) w->row(n, to + r * d_row, d, from + r * s_row, s);
}

static void run_blocks(int64_t begin, int64_t end, void *arg)
{
    const walk *w = arg;
    int64_t along = begin % w->blocks_along, across = begin / w->blocks_along % w->blocks_across;
    place p = seek(w, begin / w->blocks_along / w->blocks_across);
    for (int64_t i = begin; i < end; i++) {
        run_block(w, p.offset, along, across);
        if (++along < w->blocks_along) continue;
        along = 0;
        if (++across < w->blocks_across) continue;
        across = 0;
        step(w, &p);
    }
}

static void each_row(ag_tensor *dst, const ag_tensor *src, row_fn row)
{
    if (!ag_numel(dst)) return;
    walk w = walk_of(dst, src, row);
    const int64_t blocks = w.outer * w.blocks_along * w.blocks_across;
    ag_parallel(blocks, 1, 0.4 * (double)ag_numel(dst) / (double)blocks, run_blocks, &w);
}

#define FROM_F32(v) (v)
#define FROM_BF16(v) ag_bf16_to_real(v)
#define FROM_INT(v) (v)
#define ROW(name, D, S, expr)                                                                         \
    static void name(int64_t n, char *d, int64_t ds, const char *s, int64_t ss)                       \
    {                                                                                                  \
        if (ds == (int64_t)sizeof(D) && ss == (int64_t)sizeof(S)) {                                    \
            D *y = (D *)(void *)d;                                                                     \
            const S *x = (const S *)(const void *)s;                                                   \
            for (int64_t i = 0; i < n; i++) { const S v = x[i]; y[i] = (D)(expr); }                    \
            return;                                                                                    \
        }                                                                                              \
        if (ds == (int64_t)sizeof(D) && !ss) {                                                         \
            const S v = *(const S *)(const void *)s;                                                   \
            const D one = (D)(expr);                                                                   \
            for (int64_t i = 0; i < n; i++) ((D *)(void *)d)[i] = one;                                 \
            return;                                                                                    \
        }                                                                                              \
        for (int64_t i = 0; i < n; i++, d += ds, s += ss) {                                            \
            const S v = *(const S *)(const void *)s;                                                   \
            *(D *)(void *)d = (D)(expr);                                                               \
        }                                                                                              \
    }
#define ROWS_FROM(name, S, value)                                                                      \
    ROW(f32_from_##name, real, S, value)                                                               \
    ROW(bf16_from_##name, uint16_t, S, ag_bf16_of((real)(value)))                                      \
    ROW(i64_from_##name, int64_t, S, value)                                                            \
    ROW(i32_from_##name, int32_t, S, (int64_t)(value))                                                 \
    ROW(u8_from_##name, uint8_t, S, (int64_t)(value))
ROWS_FROM(f32, real, v)
ROWS_FROM(bf16, uint16_t, ag_bf16_to_real(v))
ROWS_FROM(i64, int64_t, v)
ROWS_FROM(i32, int32_t, v)
ROWS_FROM(u8, uint8_t, v)
ROW(copy_bf16, uint16_t, uint16_t, v)

static void copy_bytes(int64_t n, char *d, int64_t ds, const char *s, int64_t ss)
{
    (void)ss;
    memcpy(d, s, (size_t)(n * ds));
}

static void narrow_row(int64_t n, char *d, int64_t ds, const char *s, int64_t ss)
{
    if (ds == 2 && ss == (int64_t)sizeof(real)) ag_narrow(d, AG_BF16, 0, n, (const real *)(const void *)s);
    else bf16_from_f32(n, d, ds, s, ss);
}

static void add_row(int64_t n, char *d, int64_t ds, const char *s, int64_t ss)
{
    if (ds == (int64_t)sizeof(real) && ss == ds) {
        real *y = (real *)(void *)d;
        const real *x = (const real *)(const void *)s;
        for (int64_t i = 0; i < n; i++) y[i] += x[i];
        return;
    }
    for (int64_t i = 0; i < n; i++, d += ds, s += ss) *(real *)(void *)d += *(const real *)(const void *)s;
}

static void add_bf16_row(int64_t n, char *d, int64_t ds, const char *s, int64_t ss)
{
    enum { CHUNK = 1024 };
    real a[CHUNK], b[CHUNK];
    if (ds != 2 || ss != 2) {
        for (int64_t i = 0; i < n; i++, d += ds, s += ss)
            ag_put(d, AG_BF16, 0, true, ag_bf16_to_real(*(const uint16_t *)(const void *)s));
        return;
    }
    for (int64_t i = 0; i < n; i += CHUNK) {
        const int64_t count = smaller(CHUNK, n - i);
        ag_widen(d, AG_BF16, i, count, a), ag_widen(s, AG_BF16, i, count, b);
        for (int64_t k = 0; k < count; k++) a[k] += b[k];
        ag_narrow(d, AG_BF16, i, count, a);
    }
}

void ag_cpu_assign(ag_tensor *dst, const ag_tensor *src)
{
#define ALL_FROM(name) { f32_from_##name, bf16_from_##name, i64_from_##name, i32_from_##name, u8_from_##name }
    static const row_fn rows[AG_DTYPES][AG_DTYPES] = { ALL_FROM(f32), ALL_FROM(bf16), ALL_FROM(i64), ALL_FROM(i32),
                                                       ALL_FROM(u8) };
    row_fn row = rows[src->dtype][dst->dtype];
    if (dst->dtype == AG_BF16 && src->dtype == AG_BF16) row = copy_bf16;
    if (dst->dtype == AG_BF16 && src->dtype == AG_F32) row = narrow_row;
    if (dst->dtype == src->dtype && ag_is_contiguous(dst) && ag_is_contiguous(src)) row = copy_bytes;
    each_row(dst, src, row);
}

void ag_cpu_add(ag_tensor *dst, const ag_tensor *src)
{
    AG_ASSERT(src->dtype == dst->dtype && (dst->dtype == AG_F32 || dst->dtype == AG_BF16));
    each_row(dst, src, dst->dtype == AG_BF16 ? add_bf16_row : add_row);
}

void ag_cpu_fill(ag_tensor *dst, double value)
{
    real v = (real)value;
    ag_tensor one = { .dtype = AG_F32, .ndim = dst->ndim, .data = &v };
    memcpy(one.shape, dst->shape, sizeof one.shape);
    if (value == 0 && ag_is_contiguous(dst))
        memset(dst->data, 0, (size_t)ag_numel(dst) * ag_dtype_size(dst->dtype));
    else ag_cpu_assign(dst, &one);
}

void ag_assign_any(ag_tensor *dst, const ag_tensor *src)
{
    if (dst->device == AG_CPU) ag_cpu_assign(dst, src);
    else if (dst->device == AG_CUDA) ag_device_table(AG_CUDA)->assign(dst, src);
}

void ag_add_any(ag_tensor *dst, const ag_tensor *src)
{
    if (src->dtype != dst->dtype && dst->device != AG_META) {
        ag_tensor *converted = ag_tensor_new(dst->at, dst->device, AG_MEM_WORKSPACE, dst->dtype, ag_shape_of(dst));
        ag_assign_any(converted, src);
        ag_add_any(dst, converted);
        ag_release(converted);
        return;
    }
    if (dst->device == AG_CPU) ag_cpu_add(dst, src);
    else if (dst->device == AG_CUDA) ag_device_table(AG_CUDA)->add(dst, src);
}

void ag_fill_any(ag_tensor *dst, double value)
{
    if (dst->device == AG_CPU) ag_cpu_fill(dst, value);
    else if (dst->device == AG_CUDA) ag_device_table(AG_CUDA)->fill(dst, value);
}
