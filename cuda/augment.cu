/* cuda/augment.cu - data/packed.c: pictures in bytes to numbers, a data_map each, in one pass. A thread has every AG_BLOCK-th of
 * the block's pixels; their numbers are put together in shared memory and leave in packs of 16 bytes. */
#include "cuda/vector.h"
#include "data/packed.h"
#include "data/warp.h"

enum { EACH = 4, PIXELS = EACH * AG_BLOCK };

struct augmenting {
    const uint8_t *packed;
    int64_t pictures;
    int32_t height, width;
    bool wide;                      /* each picture's numbers begin at a pack */
};

/* Two pixels, bytes at .. at + 5, from the words they lie in, of which the third may be behind them. */
struct two_pixels {
    uint32_t word[2];
    __device__ inline two_pixels(const uint8_t *pixels, int32_t at)
    {
        const uint32_t *w = (const uint32_t *)pixels + (uint32_t)at / 4, shift = (uint32_t)at % 4 * 8;
        word[0] = (uint32_t)((w[0] | (uint64_t)w[1] << 32) >> shift);
        word[1] = (uint32_t)((w[1] | (uint64_t)w[2] << 32) >> shift);
    }
    __device__ inline float byte(int k) const { return (float)(word[k / 4] >> k % 4 * 8 & 255); }
};

/* A pixel of the averages, as data/warp.c's means_of makes it: the sums are whole numbers. */
static __device__ inline void mean_at(const data_packed &p, const uint8_t *pixels, int32_t column, int32_t row,
                                      float (&mean)[3])
{
    const ag_warp_span x = ag_warp_span_of(column, p.width, p.map.mean_width);
    const ag_warp_span y = ag_warp_span_of(row, p.height, p.map.mean_height);
    uint32_t sum[3] = { 0, 0, 0 };
    for (int64_t j = y.from; j < y.to; j++)
        for (int64_t i = x.from; i < x.to; i++)
            for (int c = 0; c < 3; c++) sum[c] += pixels[3 * (j * p.width + i) + c];
    const float share = 1 / (float)((x.to - x.from) * (y.to - y.from));
    for (int c = 0; c < 3; c++) mean[c] = (float)sum[c] * share;
}

/* 0 .. 255 at place (u, v) of the source, or of its averages, of this size. */
template <bool AVERAGES>
static __device__ inline void look_up(const data_packed &p, const uint8_t *pixels, int32_t width, int32_t height,
                                      float u, float v, float (&rgb)[3])
{
    const int32_t column = ag_warp_corner(u, width), row = ag_warp_corner(v, height), low = height > 1;
    u -= (float)column, v -= (float)row;
    if (AVERAGES && p.map.mean_width) {
        float m[4][3];
        for (int k = 0; k < 4; k++) mean_at(p, pixels, column + (width > 1 ? k % 2 : 0), row + (k > 1 ? low : 0), m[k]);
        for (int c = 0; c < 3; c++) rgb[c] = ag_warp_mix(m[0][c], m[1][c], m[2][c], m[3][c], u, v);
        return;
    }
    const int32_t at = 3 * (row * width + column);
    const two_pixels up(pixels, at), down(pixels, at + 3 * low * width);
    for (int c = 0; c < 3; c++) rgb[c] = ag_warp_mix(up.byte(c), up.byte(c + 3), down.byte(c), down.byte(c + 3), u, v);
}

/* Into 0 .. last; cover: what is left of the pixel with DATA_ZEROS */
static __device__ inline float fold(float u, float last, data_pad_mode pad, float *cover)
{
    if (pad == DATA_REFLECTION) u = ag_warp_mirror(u, 2 * last, last > 0 ? 1 / (2 * last) : 0);
    if (pad == DATA_ZEROS) *cover *= ag_warp_cover(u, last);
    return ag_warp_clamp(u, last);
}

template <bool AVERAGES>
static __device__ inline void pixel_of(const data_packed &p, const uint8_t *pixels, const ag_warp_norm &norm,
                                       int32_t x, int32_t y, float (&rgb)[3])
{
    const data_map &map = p.map;
    const int32_t origin = x & -(int32_t)AG_WARP_PIECE;
    const ag_warp_line l = ag_warp_line_of(map.to_source, origin, y);
    const float i = (float)(x - origin), turn = 1 / (l.a[2] * i + l.b[2]);
    const bool averaged = AVERAGES && map.mean_width;
    const int32_t width = (int32_t)(averaged ? map.mean_width : p.width);
    const int32_t height = (int32_t)(averaged ? map.mean_height : p.height);
    float cover = 1;
    const float u = fold(ag_warp_place(l.a[0], l.b[0], i, turn), (float)(width - 1), map.pad, &cover);
    const float v = fold(ag_warp_place(l.a[1], l.b[1], i, turn), (float)(height - 1), map.pad, &cover);
    look_up<AVERAGES>(p, pixels, width, height, u, v, rgb);
    for (int c = 0; c < 3; c++) rgb[c] = rgb[c] * (1.0f / 255) * cover;
    if (map.has_colour) ag_warp_light(map.colour, &rgb[0], &rgb[1], &rgb[2]);
    if (map.hue != 0) ag_warp_turn_hue(map.hue, &rgb[0], &rgb[1], &rgb[2]);
    for (int c = 0; c < 3; c++) rgb[c] = rgb[c] * norm.scale[c] + norm.shift[c];
}

/* Block (b, n): pixels b PIXELS ... of picture n, of n + gridDim.y ... Averages need registers, with which fewer blocks find
 * room. */
template <class T, bool AVERAGES>
static __global__ void __launch_bounds__(AG_BLOCK, AVERAGES ? 2 : 3) augment(augmenting a, T *out)
{
    constexpr int N = ag_packs<T>::N;
    typedef ag_pack<T, N> pack;
    AG_SHARED(pack, staged, 3 * PIXELS / N);
    T *const values = staged[0].v;
    const int32_t all = a.height * a.width, first = (int32_t)blockIdx.x * PIXELS;
    const int32_t count = all - first < PIXELS ? all - first : (int32_t)PIXELS;
    const int32_t down = AG_BLOCK / a.width, across = AG_BLOCK - down * a.width;       /* a thread's next pixel */
    for (int64_t n = blockIdx.y; n < a.pictures; n += gridDim.y) {
        const data_packed p = ((const data_packed *)a.packed)[n];
        const ag_warp_norm norm = ag_warp_norm_of(&p.map.stats);
        int32_t y = (first + (int32_t)threadIdx.x) / a.width, x = first + (int32_t)threadIdx.x - y * a.width;
        for (int32_t i = (int32_t)threadIdx.x; i < count; i += AG_BLOCK) {
            float rgb[3];
            pixel_of<AVERAGES>(p, a.packed + p.at, norm, x, y, rgb);
            for (int c = 0; c < 3; c++) ag_store(&values[3 * i + c], rgb[c]);
            x += across, y += down;
            if (x >= a.width) x -= a.width, y++;
        }
        __syncthreads();
        T *const to = out + 3 * (n * all + first);
        const int32_t packs = a.wide ? 3 * count / N : 0;
        for (int32_t k = (int32_t)threadIdx.x; k < packs; k += AG_BLOCK) ((pack *)to)[k] = staged[k];
        for (int32_t k = packs * N + (int32_t)threadIdx.x; k < 3 * count; k += AG_BLOCK) to[k] = values[k];
        __syncthreads();            /* before the next picture's numbers come there */
    }
}

void ag_data_augment_cuda(ag_node *n)
{
    const data_packed_arg *arg = (const data_packed_arg *)n->arg;
    const ag_shape &s = arg->shape;
    const int64_t height = s.dim[s.ndim - 3], width = s.dim[s.ndim - 2], count = ag_numel(n->out);
    if (!count) return;
    const int64_t pictures = count / (3 * height * width), blocks = (height * width + PIXELS - 1) / PIXELS;
    const int64_t most = 4096;      /* pictures at a time */
    AG_TYPED(n->out->dtype, T, {
        const augmenting a = { (const uint8_t *)n->in[0]->data, pictures, (int32_t)height, (int32_t)width,
                               3 * height * width % ag_packs<T>::N == 0 };
        const dim3 grid((unsigned)blocks, (unsigned)(pictures < most ? pictures : most));
        if (arg->averages) LAUNCH((augment<T, true>), grid, AG_BLOCK, 0, a, (T *)n->out->data);
        else LAUNCH((augment<T, false>), grid, AG_BLOCK, 0, a, (T *)n->out->data);
    });
}
