/* cuda/conv.cu - the products of a convolution.
 *
 * A 1 x 1 convolution of every pixel is one product of matrices. Else cuDNN computes it, where it is and can (cuda/cudnn.h);
 * without it, and with groups, the pixels that an output meets are copied side by side, a patch, in chunks that stay in the
 * second cache, and
 *     y = patches w'      dw = g' patches, chunk after chunk      patches' gradient = g w, each pixel gathers its own
 * with weights as [O, kh, kw, I / groups]; a row of that and a patch of a group have depth values, the last of them zero
 * where kh kw I / groups is no multiple of 8: rows begin where 16 bytes can be read at once. Nothing is scattered: the same
 * bits in every run. */
#include "cuda/conv.h"
#include "cuda/cudnn.h"
#include "cuda/device.h"
#include "cuda/fused.h"
#include "cuda/vector.h"

enum { FEWEST = 128 };                          /* patches at once */

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static bool one_tap(const ag_conv *c) { return c->kh * c->kw == 1; }

/* Outputs meet the pixels themselves. */
static bool pointwise(const ag_conv *c)
{
    const ag_conv_arg *a = &c->at;
    return one_tap(c) && a->stride_h == 1 && a->stride_w == 1 && !(a->pad_top | a->pad_left | a->pad_bottom | a->pad_right);
}

/* Whether cuDNN is asked. Patches that do not overlap, of few channels, are products at once: each pixel is copied once, where
 * cuDNN widens all pixels to 8 channels before. */
static bool for_cudnn(const ag_conv *c, const void *x, const void *weight, const void *y)
{
    const ag_conv_arg *a = &c->at;
    const bool apart = a->stride_h >= c->kh && a->stride_w >= c->kw && !(a->pad_top | a->pad_left | a->pad_bottom | a->pad_right);
    const bool elements = c->n * c->h * c->w * c->in > 0 && ag_conv_pixels(c) * c->out > 0;
    return a->groups == 1 && elements && !pointwise(c) && !(apart && c->in % 8) && ag_aligned(x) && ag_aligned(weight) &&
           ag_aligned(y);
}

/* Of a group. */
static int64_t depth_of(const ag_conv *c)
{
    const int64_t depth = ag_conv_depth(c);
    return one_tap(c) ? depth : (depth + 7) / 8 * 8;
}

/* ---- the weight as [O, depth] -------------------------------------------------------------------------- */

struct weight_shape { int64_t out, depth, channels, taps; };

static weight_shape weight_shape_of(const ag_conv *c, int64_t depth)
{
    return { c->out, depth, c->in / c->at.groups, c->kh * c->kw };
}

/* Where value k of a row is in [O, channels, taps]; -1: behind the last. */
static __device__ inline int64_t weight_at(const weight_shape &s, int64_t o, int64_t k)
{
    const int64_t tap = k / s.channels;
    return tap < s.taps ? (o * s.channels + k - tap * s.channels) * s.taps + tap : -1;
}

template <class T> static __global__ void pack(weight_shape s, const float *w, T *to)
{
    AG_EACH (i, s.out * s.depth) {
        const int64_t o = i / s.depth, at = weight_at(s, o, i - o * s.depth);
        ag_store(&to[i], at < 0 ? 0 : w[at]);
    }
}

template <class T> static __global__ void unpack_gradient(weight_shape s, const T *from, float *dw, bool add)
{
    AG_EACH (i, s.out * s.depth) {
        const int64_t o = i / s.depth, at = weight_at(s, o, i - o * s.depth);
        const float v = ag_load(from[i]);
        if (at >= 0) dw[at] = add ? dw[at] + v : v;
    }
}

struct packing { weight_shape shape; ag_dtype type; };

static void pack_weight(const ag_tensor *w, void *to, const void *arg)
{
    const packing *p = (const packing *)arg;
    const int64_t n = p->shape.out * p->shape.depth;
    AG_TYPED(p->type, T, LAUNCH(pack<T>, ag_blocks(n), AG_BLOCK, 0, p->shape, ag_real(w), (T *)to));
}

static const void *packed_weight(const ag_node *n, const ag_conv *c, const ag_tensor *w, int64_t depth)
{
    const int64_t count = c->out * depth;
    if (one_tap(c) || !count) return ag_cuda_param(n, w, c->type);
    const packing p = { weight_shape_of(c, depth), c->type };
    const uint64_t sizes = ((uint64_t)(c->out * 31 + c->in) * 31 + (uint64_t)(c->kh * 31 + c->kw)) * 31 + (uint64_t)depth;
    return ag_packed(n, w, 0x636F6E76 + sizes * 64 + (uint64_t)c->type, count * (int64_t)ag_dtype_size(c->type), pack_weight,
                     &p);
}

/* ---- patches ------------------------------------------------------------------------------------------- */

/* Sizes in units that are copied at once: 16 bytes or an element. */
struct patch_shape {
    int h, w, oh, ow, stride_h, stride_w, top, left, dilation_h, dilation_w, kw, taps;
    int groups, channels, depth;                                        /* channels, depth: of a group */
};

static patch_shape patch_shape_of(const ag_conv *c, int unit)
{
    const ag_conv_arg *a = &c->at;
    return { (int)c->h, (int)c->w, (int)c->oh, (int)c->ow, (int)a->stride_h, (int)a->stride_w, (int)a->pad_top,
             (int)a->pad_left, (int)a->dilation_h, (int)a->dilation_w, (int)c->kw, (int)(c->kh * c->kw), (int)a->groups,
             (int)(c->in / a->groups / unit), (int)(depth_of(c) / unit) };
}

/* Of the outputs first .. first + count - 1. */
template <class U> static __global__ void patches(patch_shape s, int64_t first, int64_t count, const U *x, U *to)
{
    const int row = s.groups * s.depth, pixel = s.groups * s.channels;
    for (int64_t p = blockIdx.x * (int64_t)blockDim.y + threadIdx.y; p < count; p += gridDim.x * (int64_t)blockDim.y) {
        const int64_t line = (first + p) / s.ow, image = line / s.oh;
        const int y = (int)(line - image * s.oh) * s.stride_h - s.top;
        const int left = (int)(first + p - line * s.ow) * s.stride_w - s.left;
        for (int u = (int)threadIdx.x; u < row; u += (int)blockDim.x) {
            const int group = u / s.depth, k = u - group * s.depth, tap = k / s.channels, i = tap / s.kw;
            const int r = y + i * s.dilation_h, v = left + (tap - i * s.kw) * s.dilation_w;
            const bool inside = tap < s.taps && r >= 0 && r < s.h && v >= 0 && v < s.w;
            const int64_t at = ((image * s.h + r) * s.w + v) * pixel + group * s.channels + k - tap * s.channels;
            to[p * row + u] = inside ? x[at] : U();
        }
    }
}

template <class U>
static void run_patches(const ag_conv *c, int unit, int64_t first, int64_t count, const void *x, void *to)
{
    const patch_shape s = patch_shape_of(c, unit);
    unsigned width = 1;
    while (width < AG_BLOCK && (int)width < s.groups * s.depth) width *= 2;
    const unsigned rows = AG_BLOCK / width;
    const int64_t blocks = least((count + rows - 1) / rows, 65535);
    LAUNCH(patches<U>, (unsigned)blocks, dim3(width, rows), 0, s, first, count, (const U *)x, (U *)to);
}

static void copy_patches(const ag_conv *c, int64_t first, int64_t count, const void *x, void *to)
{
    const int size = (int)ag_dtype_size(c->type), unit = 16 / size;
    typedef ag_pack<float, 4> wide;
    if (c->in / c->at.groups % unit == 0 && (uintptr_t)x % 16 == 0) run_patches<wide>(c, unit, first, count, x, to);
    else if (size == 4) run_patches<uint32_t>(c, 1, first, count, x, to);
    else run_patches<uint16_t>(c, 1, first, count, x, to);
}

static int64_t pixels_at_once(const ag_conv *c, int64_t size)
{
    const int64_t row = most(c->at.groups * depth_of(c) * size, 1);
    return least(most(ag_conv_pixels(c), 1), most(ag_cuda_chunk / row / FEWEST * FEWEST, FEWEST));
}

/* ---- forward ------------------------------------------------------------------------------------------- */

/* Products with the pixels as rows, one of each group. */
static ag_blas_product by_weight(const ag_conv *c, const void *w)
{
    const int64_t depth = depth_of(c), out = c->out / c->at.groups;
    ag_blas_product p = {};
    p.type = c->type, p.w = w, p.batch = c->at.groups, p.w_step = out * depth;
    return p;
}

void ag_cuda_conv_forward(const ag_node *n, const ag_conv *c, const void *x, const ag_tensor *weight, const ag_tensor *bias,
                          void *y, bool add)
{
    const int64_t depth = depth_of(c), out = c->out / c->at.groups, pixels = ag_conv_pixels(c);
    const int64_t size = (int64_t)ag_dtype_size(c->type);
    const bool plain = pointwise(c), grouped = c->at.groups > 1;
    if (!pixels || !c->out) return;
    const ag_dnn_plan *plan = for_cudnn(c, x, weight->data, y) ? ag_cudnn_plan(n, c, AG_CONV_FORWARD, add) : nullptr;
    if (plan) {
        ag_cudnn_run(n, plan, x, packed_weight(n, c, weight, ag_conv_depth(c)), y);
        if (bias) ag_cuda_add_bias(y, c->type, pixels, c->out, ag_real(bias));
        return;
    }
    ag_blas_product p = by_weight(c, packed_weight(n, c, weight, depth));
    p.wt = true, p.k = depth, p.m = out, p.to = c->type, p.add = add;
    p.x_ld = c->at.groups * depth, p.x_step = depth, p.y_ld = c->out, p.y_step = out;
    p.bias = grouped ? nullptr : ag_cuda_param(n, bias, c->type);
    const int64_t chunk = plain ? pixels : pixels_at_once(c, size);
    void *rows = plain ? nullptr : ag_workspace(n, chunk * p.x_ld, (size_t)size);
    for (int64_t first = 0; first < pixels; first += chunk) {
        p.n = least(pixels - first, chunk);
        if (!plain && depth) copy_patches(c, first, p.n, x, rows);
        p.x = plain ? x : rows, p.y = (char *)y + first * c->out * size;
        ag_blas_run(n->at, &p);
    }
    if (grouped && bias) ag_cuda_add_bias(y, c->type, pixels, c->out, ag_real(bias));
}

/* ---- the gradient of the input -------------------------------------------------------------------------- */

/* Rows top .. bottom - 1 of images first .. first + images - 1, from the patches of the output's rows from .. to - 1. */
struct band { int64_t first, images, top, bottom, from, to; };

/* V neighbouring channels a thread. */
template <int V, class T>
static __global__ void gather(patch_shape s, band b, const float *patch, T *dx, bool add)
{
    const int64_t units = s.channels / V * s.groups, row = (int64_t)s.groups * s.depth;
    AG_EACH (i, b.images * (b.bottom - b.top) * s.w * units) {
        const int64_t pixel = i / units, line = pixel / s.w, image = line / (b.bottom - b.top);
        const int v = (int)(pixel - line * s.w), r = (int)(b.top + line - image * (b.bottom - b.top));
        const int unit = (int)(i - pixel * units), group = unit / (s.channels / V);
        const int channel = (unit - group * (s.channels / V)) * V;
        const int64_t at = (((b.first + image) * s.h + r) * s.w + v) * s.groups * s.channels + group * s.channels + channel;
        ag_pack<T, V> to = {};
        float sum[V];
        if (add) to = ag_get<V>(dx + at, 0);
        for (int k = 0; k < V; k++) sum[k] = ag_load(to.v[k]);
        for (int tap = 0; tap < s.taps; tap++) {
            const int y = r + s.top - tap / s.kw * s.dilation_h, x = v + s.left - tap % s.kw * s.dilation_w;
            if (y < 0 || x < 0 || y % s.stride_h || x % s.stride_w) continue;
            const int o = y / s.stride_h, u = x / s.stride_w;
            if (o < b.from || o >= b.to || u >= s.ow) continue;
            const int64_t p = (image * (b.to - b.from) + o - b.from) * s.ow + u;
            const ag_pack<float, V> d = ag_get<V>(patch + p * row + group * s.depth + tap * s.channels + channel, 0);
            for (int k = 0; k < V; k++) sum[k] += d.v[k];
        }
        for (int k = 0; k < V; k++) ag_store(&to.v[k], sum[k]);
        ag_put(dx + at, 0, to);
    }
}

static void run_gather(const ag_conv *c, const band *b, const float *patch, void *dx, bool add)
{
    const patch_shape s = patch_shape_of(c, 1);
    const int64_t n = b->images * (b->bottom - b->top) * c->w * c->in;
    const bool wide = s.channels % 4 == 0 && s.depth % 4 == 0 && (uintptr_t)dx % 16 == 0;
    if (!n) return;
    AG_TYPED(c->type, T,
        if (wide) LAUNCH((gather<4, T>), ag_blocks(n / 4), AG_BLOCK, 0, s, *b, patch, (T *)dx, add);
        else LAUNCH((gather<1, T>), ag_blocks(n), AG_BLOCK, 0, s, *b, patch, (T *)dx, add));
}

/* The band that begins at row `top` of image `first`: whole images, or of one as many rows as the patches that they meet
 * leave room for. */
static band band_at(const ag_conv *c, int64_t first, int64_t top)
{
    const ag_conv_arg *a = &c->at;
    const int64_t rows = most(ag_cuda_chunk / most(c->ow * a->groups * depth_of(c) * (int64_t)sizeof(float), 1), 1);
    if (rows >= c->oh) return { first, least(rows / most(c->oh, 1), c->n - first), 0, c->h, 0, c->oh };
    const int64_t reach = (c->kh - 1) * a->dilation_h, met = reach / a->stride_h + 1;
    const int64_t bottom = least(c->h, top + most(1, (rows - met) * a->stride_h)), back = top + a->pad_top - reach;
    const int64_t from = least(c->oh, back > 0 ? (back + a->stride_h - 1) / a->stride_h : 0);
    const int64_t to = most(from, least(c->oh, (bottom - 1 + a->pad_top) / a->stride_h + 1));
    return { first, 1, top, bottom, from, to };
}

void ag_cuda_conv_input_gradient(const ag_node *n, const ag_conv *c, const void *g, const ag_tensor *weight, void *dx,
                                 bool add)
{
    const int64_t depth = depth_of(c), size = (int64_t)ag_dtype_size(c->type);
    if (c->n * c->h * c->w * c->in == 0) return;
    const ag_dnn_plan *plan = for_cudnn(c, dx, weight->data, g) ? ag_cudnn_plan(n, c, AG_CONV_INPUT, add) : nullptr;
    if (plan) {
        ag_cudnn_run(n, plan, dx, packed_weight(n, c, weight, ag_conv_depth(c)), g);
        return;
    }
    ag_blas_product p = by_weight(c, packed_weight(n, c, weight, depth));
    p.k = c->out / c->at.groups, p.m = depth, p.w_ld = depth;
    p.x_ld = c->out, p.x_step = p.k, p.y_ld = c->at.groups * depth, p.y_step = depth;
    if (pointwise(c)) {
        p.n = ag_conv_pixels(c), p.x = g, p.y = dx, p.to = c->type, p.add = add;
        ag_blas_run(n->at, &p);
        return;
    }
    int64_t rows = 0;
    band b;
    for (int64_t first = 0, top = 0; first < c->n; top = b.bottom < c->h ? b.bottom : 0, first += top ? 0 : b.images) {
        b = band_at(c, first, top);
        rows = most(rows, b.images * (b.to - b.from) * c->ow);
    }
    float *patch = (float *)ag_workspace(n, rows * p.y_ld, sizeof *patch);
    p.to = AG_F32, p.y = patch;
    for (int64_t first = 0, top = 0; first < c->n; top = b.bottom < c->h ? b.bottom : 0, first += top ? 0 : b.images) {
        b = band_at(c, first, top);
        p.n = b.images * (b.to - b.from) * c->ow;
        p.x = (const char *)g + (first * c->oh + b.from) * c->ow * c->out * size;
        ag_blas_run(n->at, &p);
        run_gather(c, &b, patch, dx, add);
    }
}

/* ---- the gradient of the weight ------------------------------------------------------------------------- */

/* dw (+)= the values of [out, depth] */
static void unpack(const ag_conv *c, ag_dtype type, int64_t depth, const void *from, float *dw, bool add)
{
    const weight_shape s = weight_shape_of(c, depth);
    AG_TYPED(type, T, LAUNCH(unpack_gradient<T>, ag_blocks(c->out * depth), AG_BLOCK, 0, s, (const T *)from, dw, add));
}

/* The gradient is rounded to c's type once, as a whole. */
static void weight_gradient_by_cudnn(const ag_node *n, const ag_conv *c, const ag_dnn_plan *plan, const void *x, const void *g,
                                     float *dw, bool add)
{
    void *sum = ag_workspace(n, c->out * ag_conv_depth(c), ag_dtype_size(c->type));
    ag_cudnn_run(n, plan, x, sum, g);
    unpack(c, c->type, ag_conv_depth(c), sum, dw, add);
}

void ag_cuda_conv_weight_gradient(const ag_node *n, const ag_conv *c, const void *x, const void *g, float *dw, bool add)
{
    const int64_t depth = depth_of(c), out = c->out / c->at.groups, pixels = ag_conv_pixels(c), count = c->out * depth;
    const int64_t size = (int64_t)ag_dtype_size(c->type), chunk = pointwise(c) ? most(pixels, 1) : pixels_at_once(c, size);
    if (!count) return;
    const ag_dnn_plan *plan = for_cudnn(c, x, nullptr, g) ? ag_cudnn_plan(n, c, AG_CONV_WEIGHTS, false) : nullptr;
    if (plan) return weight_gradient_by_cudnn(n, c, plan, x, g, dw, add);
    ag_blas_product p = {};
    p.type = c->type, p.to = AG_F32, p.batch = c->at.groups, p.xt = true, p.n = out, p.m = depth;
    p.x_ld = c->out, p.x_step = out, p.w_ld = c->at.groups * depth, p.w_step = depth, p.y_step = out * depth;
    float *sum = one_tap(c) ? dw : (float *)ag_workspace(n, count, sizeof *sum);
    void *rows = pointwise(c) ? nullptr : ag_workspace(n, chunk * p.w_ld, (size_t)size);
    p.y = sum, p.add = one_tap(c) && add;
    for (int64_t first = 0; first < pixels || !first; first += chunk, p.add = true) {
        p.k = least(pixels - first, chunk);
        if (rows && p.k) copy_patches(c, first, p.k, x, rows);
        p.w = rows ? rows : x, p.x = (const char *)g + first * c->out * size;
        ag_blas_run(n->at, &p);
    }
    if (sum != dw) unpack(c, AG_F32, depth, sum, dw, add);
}
