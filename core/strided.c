/* core/strided.c - copies between tensors of one shape, any strides, any two dtypes. */
#include <string.h>
#include "core/bf16.h"
#include "core/engine.h"
#include "core/thread.h"

/* Walks all rows (last axis) of dst and src: calls row(n, pointers, steps in bytes). */
typedef void (*row_fn)(int64_t n, char *dst, int64_t dst_step, const char *src, int64_t src_step);

static void each_row(ag_tensor *dst, const ag_tensor *src, row_fn row)
{
    const int64_t ds = (int64_t)ag_dtype_size(dst->dtype), ss = (int64_t)ag_dtype_size(src->dtype);
    const int64_t total = ag_numel(dst);
    if (!total) return;
    if (ag_is_contiguous(dst) && ag_is_contiguous(src)) {
        row(total, dst->data, ds, src->data, ss);
        return;
    }
    const int last = dst->ndim - 1;
    const int64_t n = dst->shape[last];
    int64_t index[AG_MAX_DIMS] = { 0 };
    char *d = dst->data;
    const char *s = src->data;
    for (int64_t r = total / n; r > 0; r--) {
        row(n, d, dst->stride[last] * ds, s, src->stride[last] * ss);
        for (int i = last - 1; i >= 0; i--) {
            d += dst->stride[i] * ds, s += src->stride[i] * ss;
            if (++index[i] < dst->shape[i]) break;
            d -= dst->stride[i] * ds * index[i], s -= src->stride[i] * ss * index[i];
            index[i] = 0;
        }
    }
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
        for (int64_t i = 0; i < n; i++, d += ds, s += ss) {                                            \
            const S v = *(const S *)(const void *)s;                                                   \
            *(D *)(void *)d = (D)(expr);                                                               \
        }                                                                                              \
    }
#define ROWS_FROM(name, S, value)                                                                      \
    ROW(f32_from_##name, real, S, value)                                                               \
    ROW(bf16_from_##name, uint16_t, S, ag_bf16_of((real)(value)))                                         \
    ROW(i64_from_##name, int64_t, S, value)                                                            \
    ROW(i32_from_##name, int32_t, S, (int64_t)(value))                                                 \
    ROW(u8_from_##name, uint8_t, S, (int64_t)(value))
ROWS_FROM(f32, real, v)
ROWS_FROM(bf16, uint16_t, ag_bf16_to_real(v))
ROWS_FROM(i64, int64_t, v)
ROWS_FROM(i32, int32_t, v)
ROWS_FROM(u8, uint8_t, v)
ROW(copy_bf16, uint16_t, uint16_t, v)

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
    for (int64_t i = 0; i < n; i++, d += ds, s += ss) {
        uint16_t *y = (uint16_t *)(void *)d;
        *y = ag_bf16_of(ag_bf16_to_real(*y) + ag_bf16_to_real(*(const uint16_t *)(const void *)s));
    }
}

void ag_cpu_assign(ag_tensor *dst, const ag_tensor *src)
{
#define ALL_FROM(name) { f32_from_##name, bf16_from_##name, i64_from_##name, i32_from_##name, u8_from_##name }
    static const row_fn rows[AG_DTYPES][AG_DTYPES] = { ALL_FROM(f32), ALL_FROM(bf16), ALL_FROM(i64), ALL_FROM(i32),
                                                       ALL_FROM(u8) };
    if (dst->dtype == src->dtype && ag_is_contiguous(dst) && ag_is_contiguous(src)) {
        memcpy(dst->data, src->data, (size_t)ag_numel(dst) * ag_dtype_size(dst->dtype));
        return;
    }
    each_row(dst, src, dst->dtype == AG_BF16 && src->dtype == AG_BF16 ? copy_bf16 : rows[src->dtype][dst->dtype]);
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
