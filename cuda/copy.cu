/* cuda/copy.cu - assign, add, fill: tensors of any strides and any two dtypes. */
#include "cuda/device.h"

static bool is_float(ag_dtype d)
{
    return d == AG_F32 || d == AG_BF16;
}

static __device__ inline float get_float(const void *p, ag_dtype d, int64_t i)
{
    switch (d) {
    case AG_F32: return ((const float *)p)[i];
    case AG_BF16: return ag_load(((const ag_bf16 *)p)[i]);
    case AG_I64: return (float)((const int64_t *)p)[i];
    case AG_I32: return (float)((const int32_t *)p)[i];
    default: return (float)((const uint8_t *)p)[i];
    }
}

static __device__ inline int64_t get_integer(const void *p, ag_dtype d, int64_t i)
{
    switch (d) {
    case AG_F32: return (int64_t)((const float *)p)[i];
    case AG_BF16: return (int64_t)ag_load(((const ag_bf16 *)p)[i]);
    case AG_I64: return ((const int64_t *)p)[i];
    case AG_I32: return ((const int32_t *)p)[i];
    default: return ((const uint8_t *)p)[i];
    }
}

static __device__ inline void put_float(void *p, ag_dtype d, int64_t i, float v)
{
    if (d == AG_F32) ((float *)p)[i] = v;
    else ag_store((ag_bf16 *)p + i, v);
}

static __device__ inline void put_integer(void *p, ag_dtype d, int64_t i, int64_t v)
{
    if (d == AG_I64) ((int64_t *)p)[i] = v;
    else if (d == AG_I32) ((int32_t *)p)[i] = (int32_t)v;
    else ((uint8_t *)p)[i] = (uint8_t)v;
}

/* offset[0] of dst, offset[1] of src */
static __global__ void convert_float(ag_walk<2> w, void *dst, ag_dtype dd, const void *src, ag_dtype sd)
{
    AG_EACH (i, w.n) {
        int64_t offset[2];
        ag_walk_at(w, i, offset);
        put_float(dst, dd, offset[0], get_float(src, sd, offset[1]));
    }
}

static __global__ void convert_integer(ag_walk<2> w, void *dst, ag_dtype dd, const void *src, ag_dtype sd)
{
    AG_EACH (i, w.n) {
        int64_t offset[2];
        ag_walk_at(w, i, offset);
        put_integer(dst, dd, offset[0], get_integer(src, sd, offset[1]));
    }
}

static __global__ void add(ag_walk<2> w, void *dst, const void *src, ag_dtype d)
{
    AG_EACH (i, w.n) {
        int64_t offset[2];
        ag_walk_at(w, i, offset);
        put_float(dst, d, offset[0], get_float(dst, d, offset[0]) + get_float(src, d, offset[1]));
    }
}

static __global__ void fill_float(ag_walk<1> w, void *dst, ag_dtype d, float value)
{
    AG_EACH (i, w.n) {
        int64_t offset[1];
        ag_walk_at(w, i, offset);
        put_float(dst, d, offset[0], value);
    }
}

static __global__ void fill_integer(ag_walk<1> w, void *dst, ag_dtype d, int64_t value)
{
    AG_EACH (i, w.n) {
        int64_t offset[1];
        ag_walk_at(w, i, offset);
        put_integer(dst, d, offset[0], value);
    }
}

void ag_cuda_assign(ag_tensor *dst, const ag_tensor *src)
{
    const ag_tensor *both[2] = { dst, src };
    const ag_walk<2> w = ag_walk_of<2>(dst, both);
    if (!w.n || ag_planning()) return;
    if (w.ndim == 1 && w.stride[0][0] == 1 && w.stride[1][0] == 1 && dst->dtype == src->dtype)
        ag_cuda_check(cudaMemcpyAsync(dst->data, src->data, (size_t)w.n * ag_dtype_size(dst->dtype),
                                      cudaMemcpyDeviceToDevice, ag_cuda_stream()), "copying a tensor");
    else if (is_float(dst->dtype))
        LAUNCH(convert_float, ag_blocks(w.n), AG_BLOCK, 0, w, dst->data, dst->dtype, src->data, src->dtype);
    else
        LAUNCH(convert_integer, ag_blocks(w.n), AG_BLOCK, 0, w, dst->data, dst->dtype, src->data, src->dtype);
}

void ag_cuda_add(ag_tensor *dst, const ag_tensor *src)
{
    const ag_tensor *both[2] = { dst, src };
    const ag_walk<2> w = ag_walk_of<2>(dst, both);
    AG_ASSERT(is_float(dst->dtype) && dst->dtype == src->dtype);
    if (w.n) LAUNCH(add, ag_blocks(w.n), AG_BLOCK, 0, w, dst->data, src->data, dst->dtype);
}

void ag_cuda_fill(ag_tensor *dst, double value)
{
    const ag_tensor *one[1] = { dst };
    const ag_walk<1> w = ag_walk_of<1>(dst, one);
    if (!w.n) return;
    if (is_float(dst->dtype))
        LAUNCH(fill_float, ag_blocks(w.n), AG_BLOCK, 0, w, dst->data, dst->dtype, (float)value);
    else
        LAUNCH(fill_integer, ag_blocks(w.n), AG_BLOCK, 0, w, dst->data, dst->dtype, (int64_t)value);
}
