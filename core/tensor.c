/* core/tensor.c - tensors: making them and looking into them. */
#include "core/tensor.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/budget.h"
#include "core/engine.h"
#include "core/random.h"

size_t ag_dtype_size(ag_dtype dtype)
{
    static const size_t size[AG_DTYPES] = { sizeof(real), 2, 8, 4, 1 };
    return size[dtype];
}

const char *ag_dtype_name(ag_dtype dtype)
{
    static const char *const name[AG_DTYPES] = { sizeof(real) == 8 ? "f64" : "f32", "bf16", "i64", "i32", "u8" };
    return name[dtype];
}

const char *ag_device_name(ag_device device)
{
    static const char *const name[AG_DEVICES] = { "cpu", "cuda", "meta" };
    return name[device];
}

/* ---- making -------------------------------------------------------------------------------------------- */

int64_t ag_shape_numel(const char *at, ag_shape shape)
{
    if (shape.ndim < 0 || shape.ndim > AG_MAX_DIMS)
        ag_fail(at, "a tensor has 0 to %d axes, not %d", AG_MAX_DIMS, shape.ndim);
    int64_t n = 1;
    for (int i = 0; i < shape.ndim; i++) {
        if (shape.dim[i] < 0) ag_fail(at, "axis %d has the negative size %" PRId64, i, shape.dim[i]);
        n = ag_mul_size(at, n, shape.dim[i]);
    }
    return n;
}

static ag_tensor *tensor_struct(void)
{
    int64_t capacity;
    ag_tensor *t = ag_block_get(sizeof *t, &capacity);
    ag_memory_count_objects(1, 0);
    return t;
}

static void contiguous_strides(ag_tensor *t)
{
    int64_t step = 1;
    for (int i = t->ndim - 1; i >= 0; i--) {
        t->stride[i] = step;
        step *= t->shape[i];
    }
}

static _Thread_local ag_storage *unborn;        /* of the tensor that is being made */

void ag_tensor_unborn_drop(void)
{
    ag_storage *s = unborn;
    unborn = NULL;
    if (s) ag_storage_release(s);
}

ag_tensor *ag_tensor_new(const char *at, ag_device device, ag_mem_kind kind, ag_dtype dtype, ag_shape shape)
{
    const int64_t bytes = ag_mul_size(at, ag_shape_numel(at, shape), (int64_t)ag_dtype_size(dtype));
    if (ag_ledger_now) device = AG_META;
    ag_storage *s = unborn = ag_storage_new(at, device, kind, bytes);
    ag_tensor *t = tensor_struct();
    unborn = NULL;
    *t = (ag_tensor){ .ndim = shape.ndim, .dtype = dtype, .device = device, .data = s->data, .storage = s,
                      .at = at, .refs = 1 };
    for (int i = 0; i < shape.ndim; i++) t->shape[i] = shape.dim[i];
    contiguous_strides(t);
    return t;
}

ag_tensor *ag_tensor_view(const char *at, const ag_tensor *base, ag_shape shape, const int64_t *stride, int64_t offset)
{
    ag_tensor *t = tensor_struct();
    *t = (ag_tensor){ .ndim = shape.ndim, .dtype = base->dtype, .device = base->device, .storage = base->storage,
                      .at = at, .refs = 1 };
    base->storage->refs++;
    if (ag_ledger_now) t->device = AG_META;
    else if (base->data) t->data = (char *)base->data + offset * (int64_t)ag_dtype_size(base->dtype);
    for (int i = 0; i < shape.ndim; i++) t->shape[i] = shape.dim[i];
    if (stride) memcpy(t->stride, stride, (size_t)shape.ndim * sizeof *stride);
    else contiguous_strides(t);
    return t;
}

ag_tensor *ag_retain(ag_tensor *t)
{
    t->refs++;
    return t;
}

/* A4: whoever is left hands gradients through t; t->node, which made it, does not read it either. */
static void drop_values(ag_tensor *t)
{
    if (!t->storage || !t->node || !t->node->unread_out) return;
    ag_storage_release(t->storage);
    t->storage = NULL, t->data = NULL;
}

void ag_release(ag_tensor *t)
{
    if (!t) return;
    if (--t->refs) {
        if (t->refs == t->unread) drop_values(t);
        return;
    }
    if (t->node) ag_node_free(t->node);
    ag_release(t->grad);
    ag_zero_grad(t);                    /* lets go of row gradients */
    if (t->storage) ag_storage_release(t->storage);
    ag_memory_count_objects(-1, 0);
    int64_t capacity = (sizeof *t + 63) / 64 * 64;
    ag_block_put(t, capacity);
}

ag_tensor *ag_empty_(const char *at, ag_dtype dtype, ag_shape shape)
{
    return ag_scoped(ag_tensor_new(at, ag_default_device(), AG_MEM_TENSOR, dtype, shape));
}

ag_tensor *ag_full_(const char *at, double value, ag_shape shape)
{
    ag_tensor *t = ag_empty_(at, AG_F32, shape);
    ag_fill_any(t, value);
    return t;
}

ag_tensor *ag_from_(const char *at, ag_dtype dtype, const void *host, ag_shape shape)
{
    ag_tensor *t = ag_empty_(at, dtype, shape);
    const size_t bytes = (size_t)ag_numel(t) * ag_dtype_size(dtype);
    if (bytes && t->data) ag_device_table(t->device)->copy_in(t->data, host, bytes);
    return t;
}

/* Random values are made on the CPU: the same bits on every device. */
static ag_tensor *random_tensor(const char *at, ag_shape shape, void (*fill)(real *, int64_t, uint64_t))
{
    const uint64_t key = ag_rng_draw();
    const ag_device device = ag_default_device();
    ag_tensor *t = ag_scoped(ag_tensor_new(at, device == AG_META ? AG_META : AG_CPU, AG_MEM_TENSOR, AG_F32, shape));
    if (t->data) fill(t->data, ag_numel(t), key);
    return device == AG_CUDA ? ag_from_(at, AG_F32, t->data, shape) : t;
}

ag_tensor *ag_randn_(const char *at, ag_shape shape)
{
    return random_tensor(at, shape, ag_fill_normal);
}

ag_tensor *ag_rand_(const char *at, ag_shape shape)
{
    return random_tensor(at, shape, ag_fill_uniform);
}

ag_tensor *ag_arange_(const char *at, int64_t n)
{
    int64_t *v = ag_alloc(n, sizeof *v);
    for (int64_t i = 0; i < n; i++) v[i] = i;
    ag_tensor *t = ag_from_(at, AG_I64, v, AG_SHAPE(n));
    ag_free(v);
    return t;
}

static void is_parameter(ag_tensor *t)
{
    if (t->storage->kind != AG_MEM_TENSOR) return;
    ag_memory_count(t->device, AG_MEM_TENSOR, -t->storage->bytes);
    ag_memory_count(t->device, AG_MEM_PARAM, t->storage->bytes);
    t->storage->kind = AG_MEM_PARAM;
}

ag_tensor *ag_param_(const char *at, ag_tensor *t)
{
    if (t->dtype != AG_F32) ag_fail(at, "ag_param: only f32 tensors are trained, this one is %s", ag_dtype_name(t->dtype));
    if (t->node) ag_fail(at, "ag_param: the tensor was computed at %s; detach it first (ag_detach)", t->node->at);
    t->requires_grad = true;
    is_parameter(t);
    return t;
}

ag_mem_kind ag_memory_kind_of(const ag_tensor *t)
{
    return t->storage->kind;
}

const char *ag_memory_owner_of(const ag_tensor *t)
{
    return t->storage->owner;
}

void ag_memory_owner(ag_tensor *t, const char *path)
{
    is_parameter(t);
    t->storage->owner = path;
}

ag_tensor *ag_detach_(const char *at, ag_tensor *t)
{
    return ag_scoped(ag_tensor_view(at, t, ag_shape_of(t), t->stride, 0));
}

/* ---- looking ------------------------------------------------------------------------------------------- */

ag_shape ag_shape_of(const ag_tensor *t)
{
    ag_shape s = { .ndim = t->ndim };
    for (int i = 0; i < t->ndim; i++) s.dim[i] = t->shape[i];
    return s;
}

int64_t ag_numel(const ag_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++) n *= t->shape[i];
    return n;
}

int64_t ag_size_(const char *at, const ag_tensor *t, int axis)
{
    char d[128];
    if (axis < -t->ndim || axis >= t->ndim)
        ag_fail(at, "ag_size: axis %d of a tensor with %d axes, %s", axis, t->ndim, ag_describe(t, d, sizeof d));
    return t->shape[axis < 0 ? axis + t->ndim : axis];
}

bool ag_is_contiguous(const ag_tensor *t)
{
    int64_t step = 1;
    for (int i = t->ndim - 1; i >= 0; i--) {
        if (t->shape[i] != 1 && t->stride[i] != step) return false;
        step *= t->shape[i];
    }
    return true;
}

bool ag_is_shared(const ag_tensor *t)
{
    return t->refs > 1 || (t->storage && t->storage->refs > 1);
}

bool ag_same_shape(const ag_tensor *a, const ag_tensor *b)
{
    bool same = a->ndim == b->ndim;
    for (int i = 0; same && i < a->ndim; i++) same = a->shape[i] == b->shape[i];
    return same;
}

char *ag_describe(const ag_tensor *t, char *buf, size_t size)
{
    int used = snprintf(buf, size, "%s[", ag_dtype_name(t->dtype));
    for (int i = 0; i < t->ndim && used < (int)size; i++)
        used += snprintf(buf + used, size - (size_t)used, i ? ", %" PRId64 : "%" PRId64, t->shape[i]);
    if (used < (int)size) snprintf(buf + used, size - (size_t)used, t->device == AG_CPU ? "]" : "] on %s",
                                   ag_device_name(t->device));
    return buf;
}

/* Element at `offset` elements from the first. */
static double element(const ag_tensor *t, int64_t offset)
{
    const size_t size = ag_dtype_size(t->dtype);
    char raw[8];
    ag_device_table(t->device)->copy_out(raw, (const char *)t->data + offset * (int64_t)size, size);
    switch (t->dtype) {
    case AG_F32: { real v; memcpy(&v, raw, sizeof v); return v; }
    case AG_BF16: { uint16_t h; memcpy(&h, raw, 2); const uint32_t w = (uint32_t)h << 16; float f; memcpy(&f, &w, 4); return f; }
    case AG_I64: { int64_t v; memcpy(&v, raw, 8); return (double)v; }
    case AG_I32: { int32_t v; memcpy(&v, raw, 4); return v; }
    default: return (unsigned char)raw[0];
    }
}

double ag_item_(const char *at, const ag_tensor *t)
{
    char d[128];
    if (ag_numel(t) != 1)
        ag_fail(at, "ag_item: needs a tensor of one element, got %s; reduce it first, or use ag_at",
                ag_describe(t, d, sizeof d));
    if (t->device == AG_META) ag_fail(at, "ag_item: a meta tensor has a shape but no values");
    if (t->device == AG_CPU && t->dtype == AG_F32) return *(const real *)t->data;
    return element(t, 0);
}

double ag_at_(const char *at, const ag_tensor *t, ag_shape index)
{
    char d[128];
    int64_t offset = 0;
    if (index.ndim != t->ndim)
        ag_fail(at, "ag_at: %d indices for %s", index.ndim, ag_describe(t, d, sizeof d));
    for (int i = 0; i < t->ndim; i++) {
        const int64_t k = index.dim[i] < 0 ? index.dim[i] + t->shape[i] : index.dim[i];
        if (k < 0 || k >= t->shape[i])
            ag_fail(at, "ag_at: index %" PRId64 " on axis %d of %s", index.dim[i], i, ag_describe(t, d, sizeof d));
        offset += k * t->stride[i];
    }
    return element(t, offset);
}

void ag_to_host_(const char *at, const ag_tensor *t, ag_dtype dtype, void *host)
{
    if (t->device == AG_META) ag_fail(at, "ag_to_host: a meta tensor has a shape but no values");
    const size_t bytes = (size_t)ag_numel(t) * ag_dtype_size(dtype);
    if (!bytes) return;
    if (t->dtype == dtype && ag_is_contiguous(t)) {
        ag_device_table(t->device)->copy_out(host, t->data, bytes);
        return;
    }
    ag_tensor *same = ag_tensor_new(at, t->device, AG_MEM_TENSOR, dtype, ag_shape_of(t));
    ag_assign_any(same, t);
    ag_device_table(t->device)->copy_out(host, same->data, bytes);
    ag_release(same);
}

static void print_axis(const double *v, const ag_tensor *t, int axis, int64_t *at)
{
    enum { CORNER = 3 };
    int64_t below = 1;
    for (int i = axis + 1; i < t->ndim; i++) below *= t->shape[i];
    if (axis == t->ndim) {
        printf("%.6g", v[(*at)++]);
        return;
    }
    putchar('[');
    for (int64_t i = 0; i < t->shape[axis]; i++) {
        if (i) fputs(axis == t->ndim - 1 ? ", " : ",\n ", stdout);
        if (t->shape[axis] > 2 * CORNER + 2 && i == CORNER) {
            const int64_t skipped = t->shape[axis] - 2 * CORNER;
            fputs(axis == t->ndim - 1 ? "..., " : "...,\n ", stdout);
            *at += skipped * below, i += skipped;
        }
        print_axis(v, t, axis + 1, at);
    }
    putchar(']');
}

void ag_print(const ag_tensor *t)
{
    char d[128];
    printf("%s", ag_describe(t, d, sizeof d));
    if (t->device != AG_META) {
        ag_tensor *values = ag_tensor_new(t->at, AG_CPU, AG_MEM_TENSOR, AG_F32, ag_shape_of(t));
        ag_to_host_(t->at, t, AG_F32, values->data);
        const int64_t n = ag_numel(t);
        double *v = ag_alloc(n, sizeof *v);
        for (int64_t i = 0; i < n; i++) v[i] = ag_real(values)[i];
        int64_t at = 0;
        putchar('\n');
        print_axis(v, t, 0, &at);
        ag_free(v);
        ag_release(values);
    }
    putchar('\n');
}

static void require_same_shape(const char *at, const char *what, const ag_tensor *dst, const ag_tensor *src)
{
    char a[128], b[128];
    if (!ag_same_shape(dst, src)) ag_fail(at, "%s: shapes differ: into %s from %s", what, ag_describe(dst, a, sizeof a),
                       ag_describe(src, b, sizeof b));
}

void ag_copy_(const char *at, ag_tensor *dst, const ag_tensor *src)
{
    require_same_shape(at, "ag_copy", dst, src);
    if (ag_ledger_now) return;
    dst->storage->version++;
    if (dst->device == src->device) {
        ag_assign_any(dst, src);
        return;
    }
    AG_SCOPE;
    ag_tensor *moved = ag_to_(at, (ag_tensor *)(uintptr_t)src, dst->device);
    ag_assign_any(dst, moved);
}

void ag_touched(ag_tensor *t)
{
    t->storage->version++;
}

uint32_t ag_version(const ag_tensor *t)
{
    return t->storage->version;
}

void ag_fill_(const char *at, ag_tensor *dst, double value)
{
    (void)at;
    if (ag_ledger_now) return;
    dst->storage->version++;
    ag_fill_any(dst, value);
}
