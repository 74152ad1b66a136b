/* cuda/attention.cu - attention forward: a block per tile of queries of one head goes over the keys, tile by tile, with the
 * largest logit and the sum so far. (Milakov & Gimelshein 2018, online softmax; Dao et al. 2022, FlashAttention) */
#include "cuda/attention.h"
#include "ops/registry.h"

/* Heads of more than 128 columns: a block for each 128 of them, all with the same weights. */
template <int C, class T>
static __global__ void __launch_bounds__(AG_BLOCK, sizeof(T) == sizeof(ag_bf16) && C < 8 ? 2 : 1)
attention_forward(ag_attention_job j, const float *q_inverse, const float *k_inverse, int64_t tiles,
                                         int64_t parts)
{
    TILE_MEMORY(T, memory);
    AG_SHARED(int64_t, q_pixel, TILE);
    AG_SHARED(int64_t, k_pixel, TILE);
    const int64_t part = blockIdx.x % parts, row = blockIdx.x / parts / tiles;
    ag_attention_tile at = { row / j.heads, row % j.heads, blockIdx.x / parts % tiles * TILE, 0, q_inverse, k_inverse };
    const head_rows<const T> q = rows_of<const T>(j, j.at.q, at.n, at.h), k = rows_of<const T>(j, j.at.k, at.n, at.h);
    const head_rows<const T> v = rows_of<const T>(j, j.at.v, at.n, at.h);
    float top[4], sum[4], out[4][C] = {};
    for (int r = 0; r < 4; r++) top[r] = -INFINITY, sum[r] = 0;
    find_pixels(j, at.n, at.i0, j.l, q_pixel);
    for (; at.c0 < j.s; at.c0 += TILE) {
        float x[4][4];
        find_pixels(j, at.n, at.c0, j.s, k_pixel);
        __syncthreads();
        products(j.d, q, q_pixel, k, k_pixel, memory, x);
        to_unit(j, at, x);
        logits(j, at, x, x);
        for (int r = 0; r < 4; r++) {
            const float most = row_max(fmaxf(fmaxf(x[r][0], x[r][1]), fmaxf(x[r][2], x[r][3])));
            const float now = most > top[r] ? most : top[r], base = now == -INFINITY ? 0 : now;
            const float old = EXP2(top[r] - base);
            for (int c = 0; c < 4; c++) x[r][c] = EXP2(x[r][c] - base);
            sum[r] = sum[r] * old + row_sum(x[r][0] + x[r][1] + x[r][2] + x[r][3]);
            for (int c = 0; c < C; c++) out[r][c] *= old;
            top[r] = now;
            float keep[4];
            if (j.dropout > 0) {
                keep_of(j, at, r, keep);
                for (int c = 0; c < 4; c++) x[r][c] *= keep[c];
            }
        }
        lay_down<T>(x, true, memory);
        add_product<C>(j.s - at.c0, j.d, part * C * SIDE, v, k_pixel, memory, out);
    }
    float inverse[4];
    for (int r = 0; r < 4; r++) {
        inverse[r] = sum[r] > 0 ? 1 / sum[r] : 0;
        if (j.lse && !part && !tile_column() && at.query(r) < j.l)
            j.lse[row * j.l + at.query(r)] = sum[r] > 0 ? top[r] + log2f(sum[r]) : INFINITY;
    }
    store_rows<C>(j.d, part * C * SIDE, rows_of<T>(j, j.at.out, at.n, at.h), false, q_pixel, out,
                  [&](int r, int64_t, int64_t, float s) { return s * inverse[r]; });
}

/* ---- sums over rows ------------------------------------------------------------------------------------ */

/* A warp per row. */
template <class T>
static __global__ void attention_dots(ag_attention_job j, ag_heads a, ag_heads b, int64_t count, bool inverse_root, float *to)
{
    const int64_t row = blockIdx.x * (int64_t)(AG_BLOCK / AG_WARP) + threadIdx.x / AG_WARP, i = row % count;
    if (row >= j.n * j.heads * count) return;
    const int64_t n = row / count / j.heads, h = row / count % j.heads;
    int64_t image = n, pixel = i;
    if (j.window) {
        const int64_t across = j.w / j.window, windows = across * (j.h / j.window), window = n % windows;
        const int64_t y = (window / across * j.window + i / j.window + j.shift) % j.h;
        const int64_t x = (window % across * j.window + i % j.window + j.shift) % j.w;
        image = n / windows, pixel = y * j.w + x;
    }
    const T *p = (const T *)a.data + (image * a.batch + h * a.head + pixel * a.token);
    const T *q = (const T *)b.data + (image * b.batch + h * b.head + pixel * b.token);
    float sum = 0;
    for (int64_t c = threadIdx.x % AG_WARP; c < j.d; c += AG_WARP) sum += ag_load(p[c]) * ag_load(q[c]);
    for (int mask = AG_WARP / 2; mask; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
    if (threadIdx.x % AG_WARP) return;
    to[row] = inverse_root ? 1 / fmaxf(sqrtf(sum), 1e-12f) : sum;
}

void ag_attention_dots(const ag_node *n, const ag_attention_job *j, const ag_heads *a, const ag_heads *b, int64_t count,
                       bool inverse_root, float *to)
{
    (void)n;
    const int64_t rows = j->n * j->heads * count, warps = AG_BLOCK / AG_WARP;
    const unsigned blocks = (unsigned)((rows + warps - 1) / warps);
    if (j->type == AG_BF16) LAUNCH(attention_dots<ag_bf16>, blocks, AG_BLOCK, 0, *j, *a, *b, count, inverse_root, to);
    else LAUNCH(attention_dots<float>, blocks, AG_BLOCK, 0, *j, *a, *b, count, inverse_root, to);
}

void ag_attention_lengths(const ag_node *n, const ag_attention_job *j, const float **q_inverse, const float **k_inverse)
{
    *q_inverse = *k_inverse = nullptr;
    if (!j->cosine) return;
    float *q = (float *)ag_workspace(n, j->n * j->heads * j->l, sizeof *q);
    float *k = (float *)ag_workspace(n, j->n * j->heads * j->s, sizeof *k);
    ag_attention_dots(n, j, &j->at.q, &j->at.q, j->l, true, q);
    ag_attention_dots(n, j, &j->at.k, &j->at.k, j->s, true, k);
    *q_inverse = q, *k_inverse = k;
}

static void forward(ag_node *n)
{
    const ag_attention_job job = ag_attention_job_of(n, false), *j = &job;
    const float *q_inverse, *k_inverse;
    const int64_t tiles = tiles_of(j->l), rows = j->n * j->heads * tiles;
    if (!rows || !j->d || ag_attention_by_cudnn(n, j, false)) return;
    ag_attention_lengths(n, j, &q_inverse, &k_inverse);
#define FORWARD(C, T) \
    do { \
        const int64_t parts = (j->d + C * SIDE - 1) / (C * SIDE); \
        LAUNCH((attention_forward<C, T>), (unsigned)(rows * parts), AG_BLOCK, 0, *j, q_inverse, k_inverse, tiles, parts); \
    } while (0)
    BY_TYPE(j, FORWARD);
}

void ag_attention_forward_cuda(ag_node *n) { forward(n); }
void ag_attention_qkv_forward_cuda(ag_node *n) { forward(n); }
