/* cuda/conv_depthwise.cu - ops/conv_depthwise.c: convolution of each channel by itself.
 *
 * Square kernels of 3, 5, 7 with stride 1: a block has 8 x 8 outputs of as many channels as 32 lanes hold in 4 bytes each; the
 * pixels that they meet lie in shared memory. A warp has a row of outputs; a pixel is loaded once for the up to K outputs of the
 * row that it lies under: 8 K products for 8 + K - 1 loads. The gradient of the input is the same with the taps turned round.
 * For the gradient of the weight a warp has a row of taps, a block one tile after the other; its sums are parts that are
 * added up in their order. Other kernels and strides: a thread an output, from the cache. */
#include "cuda/fused.h"
#include "cuda/reduce.h"
#include "cuda/vector.h"
#include "ops/conv.h"
#include "ops/conv_axis.h"
#include "ops/fused.h"
#include "ops/registry.h"

enum { SIDE = 8, SOME_BLOCKS = 1024 };                  /* outputs of a tile's side; blocks that fill a GPU */

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* x [n, h.in, w.in, channels] -> y [n, h.out, w.out, channels] */
struct depthwise {
    ag_dw_axis h, w;
    int64_t n, channels;
};

static int64_t taps_of(const depthwise *d) { return d->h.taps * d->w.taps; }
static int64_t pixels_of(const depthwise *d) { return d->n * d->h.out * d->w.out; }

template <class T> struct lanes {
    enum { EACH = 4 / sizeof(T), WIDTH = AG_WARP * EACH };
    typedef ag_pack<T, EACH> vec;
};

/* A lane's channels of a pixel from p on, `left` of which are there; together where all begin at 4 bytes. */
template <class T> static __device__ inline typename lanes<T>::vec load_lane(const T *p, int64_t left, bool together)
{
    typename lanes<T>::vec v = {};
    if (together) return left > 0 ? ag_get<lanes<T>::EACH>(p, 0) : v;
    for (int k = 0; k < lanes<T>::EACH && k < left; k++) v.v[k] = p[k];
    return v;
}

template <class T>
static __device__ inline void store_lane(T *p, int64_t left, bool together, bool add, const float *sum)
{
    typename lanes<T>::vec v = {};
    if (left <= 0) return;
    if (add) v = load_lane(p, left, together);
    for (int k = 0; k < lanes<T>::EACH; k++) ag_store(&v.v[k], (add ? ag_load(v.v[k]) : 0) + sum[k]);
    if (together) ag_put(p, 0, v);
    else for (int k = 0; k < lanes<T>::EACH && k < left; k++) p[k] = v.v[k];
}

/* Which tile of outputs, and which channels, block b of a launch has. */
struct tiling {
    int64_t across, down, blocks;                       /* tiles of an image; blocks of channels */
};
struct tile { int64_t image, channel; int top, left; };

static __device__ inline tile tile_at(const tiling &t, int64_t i, int64_t channel)
{
    const int64_t line = i / t.across, image = line / t.down;
    return { image, channel, (int)(line - image * t.down) * SIDE, (int)(i - line * t.across) * SIDE };
}

static tiling tiling_of(const depthwise *d, int width)
{
    return { up(d->w.out, SIDE), up(d->h.out, SIDE), up(d->channels, width) };
}

/* Rows top .. and columns left .. of an image [h, w, channels], SIZE of each, zero outside, into shared memory: each warp a
 * pixel after the other. */
template <int SIZE, class T>
static __device__ inline void load_tile(const T *x, int64_t h, int64_t w, int64_t channels, const tile &t, int top, int left,
                                        bool together, typename lanes<T>::vec *to)
{
    const int64_t c = t.channel + threadIdx.x * lanes<T>::EACH;
    for (int i = (int)threadIdx.y; i < SIZE * SIZE; i += (int)blockDim.y) {
        const int r = top + i / SIZE, v = left + i % SIZE;
        const bool inside = r >= 0 && r < h && v >= 0 && v < w;
        typename lanes<T>::vec value = {};
        if (inside) value = load_lane(x + ((t.image * h + r) * w + v) * channels + c, channels - c, together);
        to[i * AG_WARP + threadIdx.x] = value;
    }
}

/* ---- sums over taps: forward, gradient of the input ---------------------------------------------------- */

/* w [K K, channels] */
template <int K, class T>
static __global__ void __launch_bounds__(AG_BLOCK) tiled(depthwise d, tiling t, const T *x, const float *w, const float *bias,
                                                         T *y, bool together, bool add)
{
    enum { EACH = lanes<T>::EACH, SIZE = SIDE + K - 1 };
    typedef typename lanes<T>::vec vec;
    AG_SHARED(vec, pixels, SIZE * SIZE * AG_WARP);
    AG_SHARED(float, taps, K * K * AG_WARP * EACH);
    const int64_t group = blockIdx.x / t.blocks;
    const tile at = tile_at(t, group, (blockIdx.x - group * t.blocks) * lanes<T>::WIDTH);
    const int lane = (int)threadIdx.x, row = (int)threadIdx.y;
    const int64_t c = at.channel + lane * EACH, left = d.channels - c;
    load_tile<SIZE>(x, d.h.in, d.w.in, d.channels, at, at.top - (int)d.h.pad, at.left - (int)d.w.pad, together, pixels);
    for (int k = row; k < K * K; k += SIDE)
        for (int i = 0; i < EACH; i++) taps[(k * EACH + i) * AG_WARP + lane] = i < left ? w[k * d.channels + c + i] : 0;
    __syncthreads();
    float sum[SIDE][EACH];
    AG_UNROLL(16)
    for (int o = 0; o < SIDE; o++)
        for (int i = 0; i < EACH; i++) sum[o][i] = bias && i < left ? bias[c + i] : 0;
    for (int ky = 0; ky < K; ky++) {
        float tap[K][EACH];
        AG_UNROLL(16)
        for (int k = 0; k < K; k++)
            for (int i = 0; i < EACH; i++) tap[k][i] = taps[((ky * K + k) * EACH + i) * AG_WARP + lane];
        AG_UNROLL(16)
        for (int v = 0; v < SIZE; v++) {
            const vec p = pixels[((row + ky) * SIZE + v) * AG_WARP + lane];
            AG_UNROLL(16)
            for (int k = 0; k < K; k++)
                if (v - k >= 0 && v - k < SIDE)
                    for (int i = 0; i < EACH; i++) sum[v - k][i] += ag_load(p.v[i]) * tap[k][i];
        }
    }
    const int64_t r = at.top + row, first = ((at.image * d.h.out + r) * d.w.out + at.left) * d.channels + c;
    if (r >= d.h.out) return;
    AG_UNROLL(16)
    for (int o = 0; o < SIDE; o++)
        if (at.left + o < d.w.out) store_lane(y + first + o * d.channels, left, together, add, sum[o]);
}

/* V neighbouring channels a thread; w [taps, channels] */
template <int V, class T>
static __global__ void from_cache(depthwise d, const T *x, const float *w, const float *bias, T *y, bool add)
{
    const int64_t units = d.channels / V;
    AG_EACH (i, d.n * d.h.out * d.w.out * units) {
        const int64_t pixel = i / units, line = pixel / d.w.out, image = line / d.h.out, c = (i - pixel * units) * V;
        float sum[V];
        for (int k = 0; k < V; k++) sum[k] = bias ? bias[c + k] : 0;
        for (int64_t ky = 0; ky < d.h.taps; ky++) {
            int64_t r, v;
            if (!ag_dw_meets(&d.h, line - image * d.h.out, ky, &r) || r < 0 || r >= d.h.in) continue;
            for (int64_t kx = 0; kx < d.w.taps; kx++) {
                if (!ag_dw_meets(&d.w, pixel - line * d.w.out, kx, &v) || v < 0 || v >= d.w.in) continue;
                const ag_pack<T, V> p = ag_get<V>(x + ((image * d.h.in + r) * d.w.in + v) * d.channels + c, 0);
                const ag_pack<float, V> tap = ag_get<V>(w + (ky * d.w.taps + kx) * d.channels + c, 0);
                for (int k = 0; k < V; k++) sum[k] += ag_load(p.v[k]) * tap.v[k];
            }
        }
        ag_pack<T, V> to = {};
        if (add) to = ag_get<V>(y, i);
        for (int k = 0; k < V; k++) ag_store(&to.v[k], (add ? ag_load(to.v[k]) : 0) + sum[k]);
        ag_put(y, i, to);
    }
}

static bool tiles(const depthwise *d)
{
    return d->h.taps == d->w.taps && (d->h.taps == 3 || d->h.taps == 5 || d->h.taps == 7) && d->h.stride == 1 &&
           d->w.stride == 1 && d->h.dilation == 1 && d->w.dilation == 1;
}

template <class T> static bool begins_together(const depthwise *d, const void *a, const void *b)
{
    return d->channels % lanes<T>::EACH == 0 && ((uintptr_t)a | (uintptr_t)b) % 4 == 0;
}

template <int K, class T>
static void run_tiled(const depthwise *d, const T *x, const float *w, const float *bias, T *y, bool add)
{
    const tiling t = tiling_of(d, lanes<T>::WIDTH);
    LAUNCH((tiled<K, T>), (unsigned)(d->n * t.across * t.down * t.blocks), dim3(AG_WARP, SIDE), 0, *d, t, x, w, bias, y,
           begins_together<T>(d, x, y), add);
}

template <class T>
static void run_sum(const depthwise *d, const T *x, const float *w, const float *bias, T *y, bool add)
{
    const int64_t count = pixels_of(d) * d->channels;
    if (!count) return;
    if (tiles(d) && d->h.taps == 7) run_tiled<7>(d, x, w, bias, y, add);
    else if (tiles(d) && d->h.taps == 5) run_tiled<5>(d, x, w, bias, y, add);
    else if (tiles(d)) run_tiled<3>(d, x, w, bias, y, add);
    else if (d->channels % 4 == 0 && ((uintptr_t)x | (uintptr_t)y | (uintptr_t)w) % 16 == 0)
        LAUNCH((from_cache<4, T>), ag_blocks(count / 4), AG_BLOCK, 0, *d, x, w, bias, y, add);
    else LAUNCH((from_cache<1, T>), ag_blocks(count), AG_BLOCK, 0, *d, x, w, bias, y, add);
}

/* ---- the gradient of the weight ------------------------------------------------------------------------- */

/* A block's tiles are blockIdx.y, + gridDim.y, ...; its warps share the rows of outputs where there are more than K.
 * parts: [gridDim.y PARTS][K K][channels] */
template <int K, class T>
static __global__ void __launch_bounds__(AG_BLOCK) tiled_gradient(depthwise d, tiling t, const T *x, const T *g, bool together,
                                                                  float *parts)
{
    enum { EACH = lanes<T>::EACH, SIZE = SIDE + K - 1, PARTS = SIDE / K };
    typedef typename lanes<T>::vec vec;
    AG_SHARED(vec, pixels, SIZE * SIZE * AG_WARP);
    AG_SHARED(vec, grads, SIDE * SIDE * AG_WARP);
    const int lane = (int)threadIdx.x, ky = (int)threadIdx.y % K, part = (int)threadIdx.y / K;
    const int64_t channel = (int64_t)blockIdx.x * lanes<T>::WIDTH, c = channel + lane * EACH;
    float sum[K][EACH];
    AG_UNROLL(16)
    for (int k = 0; k < K; k++)
        for (int i = 0; i < EACH; i++) sum[k][i] = 0;
    for (int64_t b = blockIdx.y; b < d.n * t.across * t.down; b += gridDim.y) {
        const tile at = tile_at(t, b, channel);
        load_tile<SIZE>(x, d.h.in, d.w.in, d.channels, at, at.top - (int)d.h.pad, at.left - (int)d.w.pad, together, pixels);
        load_tile<SIDE>(g, d.h.out, d.w.out, d.channels, at, at.top, at.left, together, grads);
        __syncthreads();
        for (int o = part; o < SIDE; o += PARTS) {
            vec gs[SIDE];
            AG_UNROLL(16)
            for (int v = 0; v < SIDE; v++) gs[v] = grads[(o * SIDE + v) * AG_WARP + lane];
            AG_UNROLL(16)
            for (int v = 0; v < SIZE; v++) {
                const vec p = pixels[((o + ky) * SIZE + v) * AG_WARP + lane];
                AG_UNROLL(16)
                for (int k = 0; k < K; k++)
                    if (v - k >= 0 && v - k < SIDE)
                        for (int i = 0; i < EACH; i++) sum[k][i] += ag_load(p.v[i]) * ag_load(gs[v - k].v[i]);
            }
        }
        __syncthreads();
    }
    float *to = parts + ((blockIdx.y * PARTS + part) * (int64_t)(K * K) + ky * K) * d.channels;
    AG_UNROLL(16)
    for (int k = 0; k < K; k++)
        for (int i = 0; i < EACH; i++)
            if (c + i < d.channels) to[k * d.channels + c + i] = sum[k][i];
}

/* Warp w of block (x, y, z): tap 8 z + w of 32 channels, over a part of the outputs. parts: [gridDim.y][taps][channels] */
template <class T>
static __global__ void gradient_from_cache(depthwise d, int64_t per_part, const T *x, const T *g, float *parts)
{
    const int64_t taps = d.h.taps * d.w.taps, tap = blockIdx.z * SIDE + threadIdx.y, c = blockIdx.x * AG_WARP + threadIdx.x;
    const int64_t pixels = d.n * d.h.out * d.w.out, begin = blockIdx.y * per_part;
    const int64_t end = begin + per_part < pixels ? begin + per_part : pixels, ky = tap / d.w.taps;
    if (tap >= taps || c >= d.channels) return;
    float sum = 0;
    for (int64_t p = begin; p < end; p++) {
        const int64_t line = p / d.w.out, image = line / d.h.out;
        int64_t r, v;
        if (!ag_dw_meets(&d.h, line - image * d.h.out, ky, &r) || r < 0 || r >= d.h.in) continue;
        if (!ag_dw_meets(&d.w, p - line * d.w.out, tap - ky * d.w.taps, &v) || v < 0 || v >= d.w.in) continue;
        sum += ag_load(x[((image * d.h.in + r) * d.w.in + v) * d.channels + c]) * ag_load(g[p * d.channels + c]);
    }
    parts[(blockIdx.y * taps + tap) * d.channels + c] = sum;
}

struct value_at {
    const float *x;
    __device__ inline float operator()(const int64_t *at, int64_t, int64_t) const { return x[at[0]]; }
};

/* o of [taps, channels] -> [channels, taps] */
struct put_turned {
    float *dw;
    int64_t taps, channels;
    bool add;
    __device__ inline void operator()(int64_t o, float sum) const
    {
        const int64_t tap = o / channels, at = (o - tap * channels) * taps + tap;
        dw[at] = add ? dw[at] + sum : sum;
    }
};

static void add_parts(const ag_node *n, const depthwise *d, int64_t count, const float *parts, float *dw, bool add)
{
    ag_tensor t = {};
    const ag_tensor *one[1] = { &t };
    t.ndim = 2, t.shape[0] = count, t.shape[1] = t.stride[0] = taps_of(d) * d->channels, t.stride[1] = 1;
    ag_reduce<ag_fold_sum>(n, ag_split_of<1>(&t, 1, one), value_at{ parts }, put_turned{ dw, taps_of(d), d->channels, add });
}

template <int K, class T>
static void run_tiled_gradient(const ag_node *n, const depthwise *d, const T *x, const T *g, float *dw, bool add)
{
    enum { PARTS = SIDE / K };
    const tiling t = tiling_of(d, lanes<T>::WIDTH);
    const int64_t blocks = least(d->n * t.across * t.down, most(1, SOME_BLOCKS / t.blocks));
    float *parts = (float *)ag_workspace(n, blocks * PARTS * K * K * d->channels, sizeof *parts);
    LAUNCH((tiled_gradient<K, T>), dim3((unsigned)t.blocks, (unsigned)blocks), dim3(AG_WARP, K * PARTS), 0, *d, t, x, g,
           begins_together<T>(d, x, g), parts);
    add_parts(n, d, blocks * PARTS, parts, dw, add);
}

template <class T>
static void run_gradient(const ag_node *n, const depthwise *d, const T *x, const T *g, float *dw, bool add)
{
    const int64_t taps = taps_of(d), pixels = pixels_of(d), across = up(d->channels, AG_WARP), deep = up(taps, SIDE);
    if (tiles(d) && pixels && d->h.taps == 7) return run_tiled_gradient<7>(n, d, x, g, dw, add);
    if (tiles(d) && pixels && d->h.taps == 5) return run_tiled_gradient<5>(n, d, x, g, dw, add);
    if (tiles(d) && pixels) return run_tiled_gradient<3>(n, d, x, g, dw, add);
    const int64_t wanted = least(most(1, 2 * SOME_BLOCKS / (across * deep)), most(1, pixels / 16));
    const int64_t per_part = most(1, up(pixels, wanted)), count = most(1, up(pixels, per_part));
    float *parts = (float *)ag_workspace(n, count * taps * d->channels, sizeof *parts);
    LAUNCH(gradient_from_cache<T>, dim3((unsigned)across, (unsigned)count, (unsigned)deep), dim3(AG_WARP, SIDE), 0, *d,
           per_part, x, g, parts);
    add_parts(n, d, count, parts, dw, add);
}

/* ---- the op -------------------------------------------------------------------------------------------- */

static const ag_conv_arg *arg_of(const ag_node *n)
{
    return (const ag_conv_arg *)n->arg;
}

static depthwise shape_of(const ag_node *n)
{
    const ag_tensor *x = n->in[AG_CONV_X], *w = n->in[AG_CONV_WEIGHT], *y = n->out;
    const ag_conv_arg *a = arg_of(n);
    return { { x->shape[1], y->shape[1], w->shape[2], a->stride_h, a->pad_top, a->dilation_h, false },
             { x->shape[2], y->shape[2], w->shape[3], a->stride_w, a->pad_left, a->dilation_w, false },
             x->shape[0], x->shape[3] };
}

/* The gradient of the input: outputs and inputs change roles. With stride and dilation 1 that is a convolution with the taps
 * in the other order and the rest of the padding. */
static depthwise turned(const depthwise *d)
{
    depthwise t = *d;
    ag_dw_axis *axis[] = { &t.h, &t.w };
    for (int k = 0; k < 2; k++) {
        const int64_t in = axis[k]->in;
        axis[k]->in = axis[k]->out, axis[k]->out = in;
        axis[k]->turned = !tiles(d);
        if (tiles(d)) axis[k]->pad = axis[k]->taps - 1 - axis[k]->pad;
    }
    return t;
}

/* [channels, taps] -> [taps, channels] */
static __global__ void turn_weight(int64_t taps, int64_t channels, bool backwards, const float *w, float *to)
{
    AG_EACH (i, taps * channels) {
        const int64_t tap = i / channels, c = i - tap * channels;
        to[i] = w[c * taps + (backwards ? taps - 1 - tap : tap)];
    }
}

static void pack_weight(const ag_tensor *w, void *to, const void *backwards)
{
    const int64_t taps = w->shape[2] * w->shape[3], channels = w->shape[0];
    if (taps * channels > 0)
        LAUNCH(turn_weight, ag_blocks(taps * channels), AG_BLOCK, 0, taps, channels, backwards != nullptr, ag_real(w),
               (float *)to);
}

static const float *packed_weight(const ag_node *n, bool backwards)
{
    enum { KEY = 0x64770000 };
    const ag_tensor *w = n->in[AG_CONV_WEIGHT];
    const uint64_t key = KEY + (uint64_t)(w->shape[2] * 4 + backwards);
    return (const float *)ag_packed(n, w, key, ag_numel(w) * (int64_t)sizeof(float), pack_weight, backwards ? w : nullptr);
}

void ag_conv_depthwise_forward_cuda(ag_node *n)
{
    const depthwise d = shape_of(n);
    const ag_tensor *x = n->in[AG_CONV_X], *b = n->in[AG_CONV_BIAS];
    const float *w = packed_weight(n, false), *bias = b ? ag_real(b) : nullptr;
    AG_TYPED(x->dtype, T, run_sum(&d, (const T *)x->data, w, bias, (T *)ag_fused_target(n), false));
    ag_cuda_fused_finish(n, arg_of(n)->activation);
}

void ag_conv_depthwise_backward_cuda(ag_node *n)
{
    const depthwise d = shape_of(n), back = turned(&d);
    const ag_tensor *x = n->in[AG_CONV_X], *dx = n->din[AG_CONV_X], *dw = n->din[AG_CONV_WEIGHT];
    const void *g = ag_cuda_fused_gradient(n, arg_of(n)->activation);
    ag_cuda_bias_gradient(n, AG_CONV_BIAS, g);
    if (dx) {
        const float *w = packed_weight(n, tiles(&d));
        AG_TYPED(x->dtype, T, run_sum(&back, (const T *)g, w, nullptr, (T *)dx->data, n->accumulate[AG_CONV_X]));
    }
    if (dw && ag_numel(dw))
        AG_TYPED(x->dtype, T, run_gradient(n, &d, (const T *)x->data, (const T *)g, ag_real(dw), n->accumulate[AG_CONV_WEIGHT]));
}
