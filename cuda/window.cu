/* cuda/window.cu - window_partition, window_reverse, roll: to[i] = or += from[where(i)], one pass over memory each way. An
 * element of a copy is as many bytes as the runs that stay together allow, up to 16. */
#include "cuda/cuda.h"
#include "ops/registry.h"
#include "ops/window.h"

static __host__ __device__ inline int64_t cyclic(int64_t i, int64_t size)
{
    return (i % size + size) % size;
}

/* Images [N, h, w, run] and their windows [N h/size w/size, size size, run], the images shifted by -shift. */
struct windows {
    int64_t size, h, w, shift_y, shift_x, run;      /* shifts: 0 .. h, 0 .. w */
};

/* Of an element of the windows its place in the images; and the other way round. */
struct image_place {
    windows of;
    __device__ inline int64_t operator()(int64_t i) const
    {
        const int64_t c = i % of.run, token = i / of.run % (of.size * of.size), window = i / of.run / (of.size * of.size);
        const int64_t across = of.w / of.size, down = of.h / of.size;
        int64_t y = window / across % down * of.size + token / of.size + of.shift_y;
        int64_t x = window % across * of.size + token % of.size + of.shift_x;
        y -= y < of.h ? 0 : of.h, x -= x < of.w ? 0 : of.w;
        return ((window / across / down * of.h + y) * of.w + x) * of.run + c;
    }
};

struct window_place {
    windows of;
    __device__ inline int64_t operator()(int64_t i) const
    {
        const int64_t c = i % of.run, pixel = i / of.run, image = pixel / of.w / of.h;
        int64_t y = pixel / of.w % of.h - of.shift_y, x = pixel % of.w - of.shift_x;
        y += y < 0 ? of.h : 0, x += x < 0 ? of.w : 0;
        const int64_t window = (image * (of.h / of.size) + y / of.size) * (of.w / of.size) + x / of.size;
        return ((window * of.size + y % of.size) * of.size + x % of.size) * of.run + c;
    }
};

/* [outer, size, run], rolled by shift, 0 .. size */
struct roll_place {
    int64_t size, shift, run;
    __device__ inline int64_t operator()(int64_t i) const
    {
        const int64_t line = i / run % size, from = line - shift;
        return i + ((from < 0 ? from + size : from) - line) * run;
    }
};

struct alignas(16) sixteen { uint64_t a, b; };

template <class T, class F> static __global__ void move_copy(int64_t n, F where, const T *from, T *to)
{
    AG_EACH (i, n) to[i] = from[where(i)];
}

template <class T, class F> static __global__ void move_add(int64_t n, F where, const T *from, T *to)
{
    AG_EACH (i, n) ag_store(&to[i], ag_load(to[i]) + ag_load(from[where(i)]));
}

template <class T, class Make> static void copy_as(int64_t bytes, int64_t run_bytes, Make make, const void *from, void *to)
{
    const auto where = make(run_bytes / (int64_t)sizeof(T));
    const int64_t n = bytes / (int64_t)sizeof(T);
    LAUNCH((move_copy<T, decltype(make(0))>), ag_blocks(n), AG_BLOCK, 0, n, where, (const T *)from, (T *)to);
}

/* make(run): the place of elements of which `run` stay together; `run` of them, of t's dtype, do. */
template <class Make> static void move(const ag_tensor *from, ag_tensor *to, int64_t run, bool add, Make make)
{
    const int64_t n = ag_numel(to), size = (int64_t)ag_dtype_size(to->dtype), bytes = run * size;
    const auto fits = [&](int64_t width) {
        return !(bytes % width || (uintptr_t)from->data % (uintptr_t)width || (uintptr_t)to->data % (uintptr_t)width);
    };
    if (!n) return;
    if (add && to->dtype == AG_BF16)
        LAUNCH((move_add<ag_bf16, decltype(make(0))>), ag_blocks(n), AG_BLOCK, 0, n, make(run), (const ag_bf16 *)from->data,
               (ag_bf16 *)to->data);
    else if (add)
        LAUNCH((move_add<float, decltype(make(0))>), ag_blocks(n), AG_BLOCK, 0, n, make(run), ag_real(from), ag_real(to));
    else if (fits(16)) copy_as<sixteen>(n * size, bytes, make, from->data, to->data);
    else if (fits(4)) copy_as<uint32_t>(n * size, bytes, make, from->data, to->data);
    else if (fits(2)) copy_as<uint16_t>(n * size, bytes, make, from->data, to->data);
    else copy_as<uint8_t>(n * size, bytes, make, from->data, to->data);
}

static void move_windows(const ag_node *n, const ag_tensor *image, const ag_tensor *from, ag_tensor *to, bool cut, bool add)
{
    const ag_window_arg *a = (const ag_window_arg *)n->arg;
    const int64_t size = a->size, h = image->shape[1], w = image->shape[2];
    const int64_t y = cyclic(a->shift, h), x = cyclic(a->shift, w);
    if (cut) move(from, to, image->shape[3], add, [=](int64_t run) { return image_place{ { size, h, w, y, x, run } }; });
    else move(from, to, image->shape[3], add, [=](int64_t run) { return window_place{ { size, h, w, y, x, run } }; });
}

void ag_window_partition_forward_cuda(ag_node *n) { move_windows(n, n->in[0], n->in[0], n->out, true, false); }
void ag_window_partition_backward_cuda(ag_node *n)
{
    if (n->din[0]) move_windows(n, n->din[0], n->out->grad, n->din[0], false, n->accumulate[0]);
}

void ag_window_reverse_forward_cuda(ag_node *n) { move_windows(n, n->out, n->in[0], n->out, false, false); }
void ag_window_reverse_backward_cuda(ag_node *n)
{
    if (n->din[0]) move_windows(n, n->out, n->out->grad, n->din[0], true, n->accumulate[0]);
}

static void roll(const ag_node *n, const ag_tensor *from, ag_tensor *to, bool back, bool add)
{
    const ag_roll_arg *a = (const ag_roll_arg *)n->arg;
    const int64_t size = from->shape[a->axis];
    int64_t run = 1;
    for (int i = a->axis + 1; i < from->ndim; i++) run *= from->shape[i];
    if (!size) return;
    const int64_t shift = cyclic(back ? -a->shift : a->shift, size);
    move(from, to, run, add, [=](int64_t together) { return roll_place{ size, shift, together }; });
}

void ag_roll_forward_cuda(ag_node *n) { roll(n, n->in[0], n->out, false, false); }
void ag_roll_backward_cuda(ag_node *n)
{
    if (n->din[0]) roll(n, n->out->grad, n->din[0], true, n->accumulate[0]);
}
