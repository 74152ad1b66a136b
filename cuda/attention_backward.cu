/* cuda/attention_backward.cu - gradients of attention, each sum in one place and order: dq by tiles of queries, dk and dv by
 * tiles of keys, those of bias and logit_scale by tiles of both over runs of samples; all in one where there is one tile.
 *
 *     x = q k', w = softmax(scale x + terms), out = (w keep) v
 *     dv = (w keep)' dout, dx = w (keep (dout v') - delta), delta = sum of out dout, dq = scale dx k, dk = scale dx' q
 *
 * Of cosines, u = q / |q|: dq = (g - u (u g)) / |q| with g = scale dx k / |k|, where u g is the sum of scale dx x. */
#include "cuda/attention.h"
#include "cuda/reduce.h"
#include "ops/registry.h"

struct attention_rows { const float *q_inverse, *k_inverse, *delta; };

struct attention_shared { tile_memory memory; int64_t *q_pixel, *k_pixel; };

/* Of a tile: products x; w = weights as they entered the product with v; d = dx. All threads of a block together. */
template <class T>
static __device__ inline void tile_gradients(const ag_attention_job &j, const ag_attention_tile &at, const float *delta,
                                             const attention_shared &s, float x[4][4], float w[4][4], float d[4][4])
{
    products(j.d, rows_of<const T>(j, j.at.q, at.n, at.h), s.q_pixel, rows_of<const T>(j, j.at.k, at.n, at.h), s.k_pixel,
                s.memory, x);
    products(j.d, rows_of<const T>(j, j.at.dout, at.n, at.h), s.q_pixel, rows_of<const T>(j, j.at.v, at.n, at.h), s.k_pixel,
                s.memory, d);
    to_unit(j, at, x);
    logits(j, at, x, w);
    for (int r = 0; r < 4; r++) {
        const int64_t i = at.query(r), line = (at.n * j.heads + at.h) * j.l + i;
        const float lse = i < j.l ? j.lse[line] : INFINITY, mean = i < j.l ? delta[line] : 0;
        float keep[4] = { 1, 1, 1, 1 };
        if (j.dropout > 0) keep_of(j, at, r, keep);
        for (int c = 0; c < 4; c++) {
            const float e = EXP2(w[r][c] - lse);
            d[r][c] = e * (keep[c] * d[r][c] - mean);
            w[r][c] = e * keep[c];
        }
    }
}

/* ---- dq ------------------------------------------------------------------------------------------------ */

template <int C, class T>
static __global__ void __launch_bounds__(AG_BLOCK, C < 8 ? 2 : 1)
attention_dq(ag_attention_job j, attention_rows rows, int64_t tiles, int64_t parts)
{
    TILE_MEMORY(T, memory);
    AG_SHARED(int64_t, q_pixel, TILE);
    AG_SHARED(int64_t, k_pixel, TILE);
    const attention_shared shared = { memory, q_pixel, k_pixel };
    const int64_t first = blockIdx.x % parts * C * SIDE, row = blockIdx.x / parts / tiles;
    ag_attention_tile at = { row / j.heads, row % j.heads, blockIdx.x / parts % tiles * TILE, 0, rows.q_inverse, rows.k_inverse };
    const float scale = scale_of(j, at.h);
    float dq[4][C] = {}, along[4] = {};
    find_pixels(j, at.n, at.i0, j.l, q_pixel);
    for (; at.c0 < j.s; at.c0 += TILE) {
        float x[4][4], w[4][4], d[4][4];
        find_pixels(j, at.n, at.c0, j.s, k_pixel);
        __syncthreads();
        tile_gradients<T>(j, at, rows.delta, shared, x, w, d);
        for (int r = 0; r < 4; r++)
            for (int c = 0; c < 4; c++) {
                d[r][c] *= scale;
                along[r] += d[r][c] * x[r][c];
                if (j.cosine && at.key(c) < j.s) d[r][c] *= rows.k_inverse[row * j.s + at.key(c)];
            }
        lay_down<T>(d, true, memory);
        add_product<C>(j.s - at.c0, j.d, first, rows_of<const T>(j, j.at.k, at.n, at.h), k_pixel,
                          memory, dq);
    }
    for (int r = 0; r < 4; r++) along[r] = row_sum(along[r]);
    const head_rows<const T> q = rows_of<const T>(j, j.at.q, at.n, at.h);
    store_rows<C>(j.d, first, rows_of<T>(j, j.at.dq, at.n, at.h), j.at.dq.add, q_pixel, dq,
                  [&](int r, int64_t column, int64_t pixel, float g) {
                      if (!j.cosine) return g;
                      const float inverse = rows.q_inverse[row * j.l + at.query(r)];
                      return inverse * (g - along[r] * inverse * ag_load(q.p[pixel * q.token + column]));
                  });
}

/* ---- dk, dv -------------------------------------------------------------------------------------------- */

/* Keys lie along the columns of a tile of products and along the rows of dk and dv. */
template <int C, class T>
static __global__ void attention_dkv(ag_attention_job j, attention_rows rows, int64_t tiles, int64_t parts)
{
    TILE_MEMORY(T, memory);
    AG_SHARED(int64_t, q_pixel, TILE);
    AG_SHARED(int64_t, k_pixel, TILE);
    const attention_shared shared = { memory, q_pixel, k_pixel };
    const int64_t first = blockIdx.x % parts * C * SIDE, row = blockIdx.x / parts / tiles;
    ag_attention_tile at = { row / j.heads, row % j.heads, 0, blockIdx.x / parts % tiles * TILE, rows.q_inverse, rows.k_inverse };
    const float scale = scale_of(j, at.h);
    float dk[4][C] = {}, dv[4][C] = {}, along[4] = {};
    find_pixels(j, at.n, at.c0, j.s, k_pixel);
    for (; at.i0 < j.l; at.i0 += TILE) {
        float x[4][4], w[4][4], d[4][4];
        find_pixels(j, at.n, at.i0, j.l, q_pixel);
        __syncthreads();
        tile_gradients<T>(j, at, rows.delta, shared, x, w, d);
        for (int r = 0; r < 4; r++)
            for (int c = 0; c < 4; c++) {
                d[r][c] *= scale;
                along[c] += d[r][c] * x[r][c];
                if (j.cosine && at.query(r) < j.l) d[r][c] *= rows.q_inverse[row * j.l + at.query(r)];
            }
        if (j.at.dv.data) {
            lay_down<T>(w, false, memory);
            add_product<C>(j.l - at.i0, j.d, first, rows_of<const T>(j, j.at.dout, at.n, at.h),
                              q_pixel, memory, dv);
        }
        if (j.at.dk.data) {
            lay_down<T>(d, false, memory);
            add_product<C>(j.l - at.i0, j.d, first, rows_of<const T>(j, j.at.q, at.n, at.h),
                              q_pixel, memory, dk);
        }
    }
    if (j.at.dv.data)
        store_rows<C>(j.d, first, rows_of<T>(j, j.at.dv, at.n, at.h), j.at.dv.add, k_pixel, dv,
                      [](int, int64_t, int64_t, float g) { return g; });
    if (!j.at.dk.data) return;
    float *const along_key = memory.a;          /* [64, 16] */
    for (int c = 0; c < 4; c++) along_key[(4 * tile_column() + c) * SIDE + tile_row()] = along[c];
    __syncthreads();
    const head_rows<const T> k = rows_of<const T>(j, j.at.k, at.n, at.h);
    store_rows<C>(j.d, first, rows_of<T>(j, j.at.dk, at.n, at.h), j.at.dk.add, k_pixel, dk,
                  [&](int r, int64_t column, int64_t pixel, float g) {
                      if (!j.cosine) return g;
                      const int key = 4 * tile_row() + r;
                      float dot = 0;
                      for (int i = 0; i < SIDE; i++) dot += along_key[key * SIDE + i];
                      const float inverse = rows.k_inverse[row * j.s + at.c0 + key];
                      return inverse * (g - dot * inverse * ag_load(k.p[pixel * k.token + column]));
                  });
}

/* ---- bias, logit_scale --------------------------------------------------------------------------------- */

/* A block per tile, run of samples (of `runs`) and head of the bias, which is one head's or all heads'. It writes dbias of
 * its run, [runs, heads of the bias, L, S], and of every head the sum of dx x, [runs, tiles, heads]. */
struct attention_sums { int64_t runs, heads, tiles; float *dbias, *dlogit; bool add; };

struct attention_run {
    int64_t tile, head, part, first_head, end_head, begin, end;
    __device__ inline attention_run(const ag_attention_job &j, const attention_sums &s)
    {
        tile = blockIdx.x % s.tiles, head = blockIdx.x / s.tiles % s.heads, part = blockIdx.x / s.tiles / s.heads;
        first_head = head * (j.heads / s.heads), end_head = first_head + j.heads / s.heads;
        begin = j.n * part / s.runs, end = j.n * (part + 1) / s.runs;
    }
};

/* dots: [16] shared, not read before the block's next barrier but one. */
static __device__ inline void put_dot(const ag_attention_job &j, const attention_sums &out, const attention_run &run, int64_t h,
                                      float dot, float *dots)
{
    if (!out.dlogit) return;
    dot = row_sum(dot);
    if (!tile_column()) dots[tile_row()] = dot;
    __syncthreads();
    if (threadIdx.x) return;
    float all = 0;
    for (int i = 0; i < SIDE; i++) all += dots[i];
    out.dlogit[(run.part * out.tiles + run.tile) * j.heads + h] = all;
}

static __device__ inline void put_dbias(const ag_attention_job &j, const attention_sums &out, const attention_run &run,
                                        const ag_attention_tile &at, const float sum[4][4])
{
    for (int r = 0; r < 4 && out.dbias; r++)
        for (int c = 0; c < 4; c++)
            if (at.query(r) < j.l && at.key(c) < j.s) {
                float *p = out.dbias + ((run.part * out.heads + run.head) * j.l + at.query(r)) * j.s + at.key(c);
                *p = out.add ? *p + sum[r][c] : sum[r][c];
            }
}

template <class T>
static __global__ void attention_terms(ag_attention_job j, attention_rows rows, attention_sums out)
{
    TILE_MEMORY(T, memory);
    AG_SHARED(int64_t, q_pixel, TILE);
    AG_SHARED(int64_t, k_pixel, TILE);
    AG_SHARED(float, dots, SIDE);
    const attention_shared shared = { memory, q_pixel, k_pixel };
    const attention_run run(j, out);
    const int64_t across = (j.s + TILE - 1) / TILE;
    ag_attention_tile at = { 0, 0, run.tile / across * TILE, run.tile % across * TILE, rows.q_inverse, rows.k_inverse };
    float sum[4][4] = {};
    for (at.h = run.first_head; at.h < run.end_head; at.h++) {
        float dot = 0;
        for (at.n = run.begin; at.n < run.end; at.n++) {
            float x[4][4], w[4][4], d[4][4];
            find_pixels(j, at.n, at.i0, j.l, q_pixel);
            find_pixels(j, at.n, at.c0, j.s, k_pixel);
            __syncthreads();
            tile_gradients<T>(j, at, rows.delta, shared, x, w, d);
            for (int r = 0; r < 4; r++)
                for (int c = 0; c < 4; c++) sum[r][c] += d[r][c], dot += d[r][c] * x[r][c];
        }
        put_dot(j, out, run, at.h, dot, dots);
    }
    put_dbias(j, out, run, at, sum);
}

/* ---- all at once, where queries and keys fit in one tile, such as a window's ---------------------------- */

/* Weights' b, of which `count` rows, into the rows of `to`, 16 C columns at a time; scaled back to lengths as in dq. */
template <int C, class T>
static __device__ inline void put_product(const ag_attention_job &j, const tile_memory &m, int64_t count, head_rows<const T> b,
                                          const int64_t *b_pixel, head_rows<T> to, bool add, const int64_t *pixel,
                                          head_rows<const T> unit, const float *inverse, const float *along)
{
    for (int64_t first = 0; first < j.d; first += C * SIDE) {
        float sum[4][C] = {};
        add_product<C>(count, j.d, first, b, b_pixel, m, sum);
        store_rows<C>(j.d, first, to, add, pixel, sum, [&](int r, int64_t column, int64_t at, float g) {
            if (!inverse) return g;
            const float scale = inverse[4 * tile_row() + r];
            return scale * (g - along[4 * tile_row() + r] * scale * ag_load(unit.p[at * unit.token + column]));
        });
    }
}

/* along_q [64], along_k [64]: sums of d x over keys and over queries; scratch [64, 16] */
static __device__ inline void sums_along(const float x[4][4], const float d[4][4], float *along_q, float *along_k, float *scratch)
{
    for (int r = 0; r < 4; r++) {
        const float sum = row_sum(d[r][0] * x[r][0] + d[r][1] * x[r][1] + d[r][2] * x[r][2] + d[r][3] * x[r][3]);
        if (!tile_column()) along_q[4 * tile_row() + r] = sum;
        float *to = scratch + (4 * tile_column() + r) * SIDE + tile_row();
        *to = d[0][r] * x[0][r] + d[1][r] * x[1][r] + d[2][r] * x[2][r] + d[3][r] * x[3][r];
    }
    __syncthreads();
    if (threadIdx.x < TILE) {
        float sum = 0;
        for (int i = 0; i < SIDE; i++) sum += scratch[threadIdx.x * SIDE + i];
        along_k[threadIdx.x] = sum;
    }
    __syncthreads();
}

template <int C, class T>
static __global__ void attention_small(ag_attention_job j, attention_rows rows, attention_sums out)
{
    TILE_MEMORY(T, memory);
    AG_SHARED(int64_t, q_pixel, TILE);
    AG_SHARED(int64_t, k_pixel, TILE);
    AG_SHARED(float, along_q, TILE);
    AG_SHARED(float, along_k, TILE);
    AG_SHARED(float, dots, SIDE);
    const attention_shared shared = { memory, q_pixel, k_pixel };
    const attention_run run(j, out);
    ag_attention_tile at = { 0, 0, 0, 0, rows.q_inverse, rows.k_inverse };
    float sum[4][4] = {};
    for (at.h = run.first_head; at.h < run.end_head; at.h++) {
        const float scale = scale_of(j, at.h);
        float dot = 0;
        for (at.n = run.begin; at.n < run.end; at.n++) {
            const int64_t row = at.n * j.heads + at.h;
            const float *q_inverse = j.cosine ? rows.q_inverse + row * j.l : nullptr;
            const float *k_inverse = j.cosine ? rows.k_inverse + row * j.s : nullptr;
            const head_rows<const T> q = rows_of<const T>(j, j.at.q, at.n, at.h), k = rows_of<const T>(j, j.at.k, at.n, at.h);
            float x[4][4], w[4][4], d[4][4];
            __syncthreads();
            find_pixels(j, at.n, 0, j.l, q_pixel);
            find_pixels(j, at.n, 0, j.s, k_pixel);
            __syncthreads();
            tile_gradients<T>(j, at, rows.delta, shared, x, w, d);
            if (j.at.dv.data) {
                lay_down<T>(w, false, memory);
                put_product<C, T>(j, memory, j.l, rows_of<const T>(j, j.at.dout, at.n, at.h), q_pixel,
                                  rows_of<T>(j, j.at.dv, at.n, at.h), j.at.dv.add, k_pixel, k, nullptr, nullptr);
            }
            for (int r = 0; r < 4; r++)
                for (int c = 0; c < 4; c++) {
                    sum[r][c] += d[r][c], dot += d[r][c] * x[r][c];
                    d[r][c] *= scale;
                }
            if (j.cosine) sums_along(x, d, along_q, along_k, memory.a);
            AG_UNROLL(1)
            for (int way = 0; way < 2; way++) {         /* dk, dq */
                const ag_heads &to = way ? j.at.dq : j.at.dk;
                if (!to.data) continue;
                for (int r = 0; r < 4; r++)
                    for (int c = 0; c < 4; c++) {
                        x[r][c] = d[r][c];
                        if (j.cosine && at.query(r) < j.l && at.key(c) < j.s)
                            x[r][c] *= way ? k_inverse[at.key(c)] : q_inverse[at.query(r)];
                    }
                lay_down<T>(x, way, memory);
                put_product<C, T>(j, memory, way ? j.s : j.l, way ? k : q, way ? k_pixel : q_pixel, rows_of<T>(j, to, at.n, at.h),
                                  to.add, way ? q_pixel : k_pixel, way ? q : k, way ? q_inverse : k_inverse,
                                  way ? along_q : along_k);
            }
        }
        put_dot(j, out, run, at.h, dot, dots);
    }
    put_dbias(j, out, run, at, sum);
}

/* ---- launching ----------------------------------------------------------------------------------------- */

enum { BLOCKS = 512, MOST_BYTES = 64 << 20 };       /* enough to fill a GPU; of partial sums */

/* Where sums go: to the gradients themselves, or to memory for every run of samples, from which end_sums adds them up. */
static attention_sums begin_sums(ag_node *n, const ag_attention_job *j)
{
    attention_sums s = { j->n, j->dbias.data ? j->dbias.heads : j->heads, tiles_of(j->l) * tiles_of(j->s), j->dbias.data, nullptr,
                         j->dbias.add };
    const int64_t square = s.heads * j->l * j->s, wanted = (BLOCKS + s.heads * s.tiles - 1) / (s.heads * s.tiles);
    const int64_t room = MOST_BYTES / (square * (int64_t)sizeof(float)) + 1;
    const bool runs = j->dbias.data ? j->dbias.batches == 1 : j->dlogit_scale != nullptr;
    if (runs && wanted < s.runs) s.runs = wanted;
    if (runs && room < s.runs) s.runs = room;
    if (j->dbias.data && j->dbias.batches == 1 && s.runs > 1)
        s.dbias = (float *)ag_workspace(n, s.runs * square, sizeof *s.dbias), s.add = false;
    if (j->dlogit_scale) s.dlogit = (float *)ag_workspace(n, s.runs * s.tiles * j->heads, sizeof *s.dlogit);
    return s;
}

static void end_sums(const ag_attention_job *j, const attention_sums *s)
{
    const int64_t square = s->heads * j->l * j->s;
    if (s->dbias != j->dbias.data)
        LAUNCH((reduce_parts<ag_fold_sum, ag_put_sum>), ag_blocks(square), AG_BLOCK, 0, square, (unsigned)s->runs,
               ag_put_sum{ j->dbias.data, 1, j->dbias.add }, s->dbias);
    if (s->dlogit)
        LAUNCH((reduce_parts<ag_fold_sum, ag_put_sum>), ag_blocks(j->heads), AG_BLOCK, 0, j->heads,
               (unsigned)(s->runs * s->tiles), ag_put_sum{ j->dlogit_scale, 1, j->add_logit_scale }, s->dlogit);
}

static void backward(ag_node *n)
{
    const ag_attention_job job = ag_attention_job_of(n, true), *j = &job;
    const int64_t heads = j->n * j->heads, q_tiles = tiles_of(j->l), k_tiles = tiles_of(j->s);
    attention_rows rows;
    if (ag_attention_by_cudnn(n, j, true)) return;
    ag_attention_lengths(n, j, &rows.q_inverse, &rows.k_inverse);
    float *delta = (float *)ag_workspace(n, heads * j->l, sizeof *delta);
    ag_attention_dots(n, j, &j->at.out, &j->at.dout, j->l, false, delta);
    rows.delta = delta;
    const attention_sums s = begin_sums(n, j);
    const unsigned blocks = (unsigned)(s.runs * s.heads * s.tiles);
#define RUN(kernel, C, T, tiles) \
    do { \
        const int64_t parts = (j->d + C * SIDE - 1) / (C * SIDE); \
        LAUNCH((kernel<C, T>), (unsigned)(heads * tiles * parts), AG_BLOCK, 0, *j, rows, tiles, parts); \
    } while (0)
#define DQ(C, T) RUN(attention_dq, C, T, q_tiles)
#define DKV(C, T) RUN(attention_dkv, C, T, k_tiles)
#define SMALL(C, T) LAUNCH((attention_small<C, T>), blocks, AG_BLOCK, 0, *j, rows, s)
    if (s.tiles == 1) {
        BY_TYPE(j, SMALL);
        return end_sums(j, &s);
    }
    if (j->at.dq.data) BY_TYPE(j, DQ);
    if (j->at.dk.data || j->at.dv.data) BY_TYPE(j, DKV);
    if (!j->dbias.data && !j->dlogit_scale) return;
    if (j->type == AG_BF16) LAUNCH(attention_terms<ag_bf16>, blocks, AG_BLOCK, 0, *j, rows, s);
    else LAUNCH(attention_terms<float>, blocks, AG_BLOCK, 0, *j, rows, s);
    end_sums(j, &s);
}

void ag_attention_backward_cuda(ag_node *n) { backward(n); }
void ag_attention_qkv_backward_cuda(ag_node *n) { backward(n); }
