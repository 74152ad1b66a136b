/* cuda/optim.cu - the steps of optim/rules.def, LAMB, the norm of all gradients and the exchange of averages: all parameters
 * in one launch (up to SEGMENTS of them), read and written once.
 *
 * A block takes one piece of one segment, so that it looks up its parameter once. Sums are of pieces, whose order depends on
 * the sizes of the parameters alone. */
#include "cuda/optim_rules.h"
#include "cuda/step.h"
#include "optim/lamb.h"

enum { SEGMENTS = 256 };                                /* the arguments of a launch hold 32,764 bytes */

struct optim_batch {
    int n;
    optim_live live;                                    /* of this launch; all NULL: there is none */
    int64_t piece[SEGMENTS + 1];                        /* the first piece of each, among those of the launch; their number */
    optim_segment segment[SEGMENTS];
};

/* What a thread block works on: elements begin ... end of segment[index], its piece `piece` of the launch. */
struct optim_piece { int index; int64_t piece, begin, end; };

static __device__ inline optim_piece piece_of(const optim_batch &b)
{
    const int64_t p = blockIdx.x;
    int lo = 0, hi = b.n - 1;
    while (lo < hi) {                                   /* the last segment that begins at or before p */
        const int mid = (lo + hi + 1) / 2;
        if (b.piece[mid] <= p) lo = mid;
        else hi = mid - 1;
    }
    const int64_t begin = (p - b.piece[lo]) * OPTIM_PIECE, end = begin + OPTIM_PIECE, n = b.segment[lo].n;
    return { lo, p, begin, end < n ? end : n };
}

static __device__ inline optim_scalars scalars_of(const optim_batch &b, int index)
{
    optim_scalars k = b.live.scalars ? b.live.scalars[index] : b.segment[index].scalars;
    if (b.live.clips) k.scale *= b.live.state->clip;
    return k;
}

/* A loss was no number: the weights stay. */
static __device__ inline bool halted(const optim_batch &b)
{
    return b.live.state && b.live.state->bad;
}

template <class Rule> static __global__ void optim_update(__grid_constant__ const optim_batch b)
{
    const optim_piece p = piece_of(b);
    const optim_segment &s = b.segment[p.index];
    const optim_scalars k = scalars_of(b, p.index);
    if (halted(b)) return;
    for (int64_t i = p.begin + threadIdx.x; i < p.end; i += AG_BLOCK) Rule::step(k, i, s.w, s.g, s.s0, s.s1);
}

/* call(batch, its first segment, its first piece) for up to SEGMENTS segments at a time; returns the number of pieces. */
template <class Call>
static int64_t each_batch(const optim_segment *segment, int n, const optim_live *live, Call call)
{
    int64_t pieces = 0;
    for (int first = 0; first < n; first += SEGMENTS) {
        optim_batch b;
        b.n = n - first < SEGMENTS ? n - first : SEGMENTS;
        b.piece[0] = 0;
        b.live = live ? *live : optim_live{};
        if (live) b.live.scalars += first;
        for (int i = 0; i < b.n; i++) {
            b.segment[i] = segment[first + i];
            b.piece[i + 1] = b.piece[i] + ag_optim_pieces(1, &b.segment[i]);
        }
        if (b.piece[b.n]) call(b, first, pieces);
        pieces += b.piece[b.n];
    }
    return pieces;
}

template <class Rule> static void optim_run(const optim_segment *segment, int n, const optim_live *live)
{
    each_batch(segment, n, live, [](const optim_batch &b, int, int64_t) {
        LAUNCH(optim_update<Rule>, (unsigned)b.piece[b.n], AG_BLOCK, 0, b);
    });
}

#define OPTIM_RULE(name, attributes, ...) \
    void ag_optim_##name##_cuda(const optim_segment *segment, int n, double *, const optim_live *live) \
    { \
        optim_run<name##_rule>(segment, n, live); \
    }
#include "optim/rules.def"

/* ---- averages and weights change places ---------------------------------------------------------------- */

struct exchange_rule {
    static __device__ inline void step(const optim_scalars &, int64_t i, float *w, const float *, float *s0, float *)
    {
        const float kept = w[i];
        w[i] = s0[i];
        s0[i] = kept;
    }
};

void ag_optim_exchange_cuda(const optim_segment *segment, int n)
{
    optim_run<exchange_rule>(segment, n, nullptr);
}

/* ---- gradients into the buckets of several ranks, and back --------------------------------------------- */

struct copy_rule {
    static __device__ inline void step(const optim_scalars &, int64_t i, float *w, const float *g, float *, float *)
    {
        w[i] = g ? g[i] : 0;
    }
};

void ag_optim_copy_cuda(const optim_segment *segment, int n)
{
    optim_run<copy_rule>(segment, n, nullptr);
}

/* ---- sums ---------------------------------------------------------------------------------------------- */

/* Of K numbers of every thread, to thread 0. */
template <int K> static __device__ inline void block_sum(double *sum)
{
    AG_SHARED(double, shared, K * AG_BLOCK);
    for (int k = 0; k < K; k++) shared[k * AG_BLOCK + threadIdx.x] = sum[k];
    for (int half = AG_BLOCK / 2; half; half /= 2) {
        __syncthreads();
        if ((int)threadIdx.x < half)
            for (int k = 0; k < K; k++) shared[k * AG_BLOCK + threadIdx.x] += shared[k * AG_BLOCK + threadIdx.x + half];
    }
    for (int k = 0; k < K && !threadIdx.x; k++) sum[k] = shared[k * AG_BLOCK];
}

static __global__ void optim_squares(__grid_constant__ const optim_batch b, double *partial)
{
    const optim_piece p = piece_of(b);
    const float *g = b.segment[p.index].g;
    double sum[1] = { 0 };
    for (int64_t i = p.begin + threadIdx.x; i < p.end; i += AG_BLOCK) sum[0] += (double)g[i] * g[i];
    block_sum<1>(sum);
    if (!threadIdx.x) partial[p.piece] = sum[0];
}

/* One block: to[0] = sum of partial[0 .. n) */
static __global__ void optim_total(int64_t n, const double *partial, double *to)
{
    double sum[1] = { 0 };
    for (int64_t i = threadIdx.x; i < n; i += AG_BLOCK) sum[0] += partial[i];
    block_sum<1>(sum);
    if (!threadIdx.x) to[0] = sum[0];
}

/* scratch[0]: the sum of all g g; the sums of the pieces lie behind it. */
void ag_optim_norm2_cuda(const optim_segment *segment, int n, double *scratch)
{
    const int64_t pieces = each_batch(segment, n, nullptr, [&](const optim_batch &b, int, int64_t first) {
        LAUNCH(optim_squares, (unsigned)b.piece[b.n], AG_BLOCK, 0, b, scratch + 1 + first);
    });
    LAUNCH(optim_total, 1, AG_BLOCK, 0, pieces, scratch + 1, scratch);
}

static __global__ void optim_clip(const double *sum, double max, ag_step_state *state)
{
    state->clip = (float)ag_optim_clip_factor(*sum, max);
}

void ag_optim_clip_cuda(const double *sum, double max, ag_step_state *state)
{
    LAUNCH(optim_clip, 1, 1, 0, sum, max, state);
}

/* ---- LAMB: moments and sums of squares of w and u; a trust ratio for each parameter; the step ---------- */

static __global__ void lamb_moments(__grid_constant__ const optim_batch b, double *partial)
{
    const optim_piece p = piece_of(b);
    const optim_segment &s = b.segment[p.index];
    const optim_scalars k = scalars_of(b, p.index);
    double sum[2] = { 0, 0 };
    for (int64_t i = p.begin + threadIdx.x; i < p.end && k.lr != 0 && !halted(b); i += AG_BLOCK) {
        const float u = ag_optim_lamb_moments(&k, &s.w[i], s.g[i], &s.s0[i], &s.s1[i]), w = s.w[i];
        sum[0] += (double)w * w;
        sum[1] += (double)u * u;
    }
    block_sum<2>(sum);
    if (!threadIdx.x) partial[2 * p.piece] = sum[0], partial[2 * p.piece + 1] = sum[1];
}

/* A block for each segment: the first of its sums becomes the ratio. */
static __global__ void lamb_trust(__grid_constant__ const optim_batch b, double *partial)
{
    const int64_t begin = b.piece[blockIdx.x], end = b.piece[blockIdx.x + 1];
    double sum[2] = { 0, 0 };
    for (int64_t i = begin + threadIdx.x; i < end; i += AG_BLOCK) sum[0] += partial[2 * i], sum[1] += partial[2 * i + 1];
    block_sum<2>(sum);
    if (!threadIdx.x && begin < end) partial[2 * begin] = ag_optim_lamb_trust(sum[0], sum[1]);
}

static __global__ void lamb_step(__grid_constant__ const optim_batch b, const double *partial)
{
    const optim_piece p = piece_of(b);
    const optim_segment &s = b.segment[p.index];
    const optim_scalars k = scalars_of(b, p.index);
    const float rate = k.lr * (float)partial[2 * b.piece[p.index]];
    for (int64_t i = p.begin + threadIdx.x; i < p.end && k.lr != 0 && !halted(b); i += AG_BLOCK)
        s.w[i] -= rate * ag_optim_lamb_direction(&k, s.s0[i], s.s1[i]);
}

/* scratch: two sums of each piece. */
void ag_optim_lamb_cuda(const optim_segment *segment, int n, double *scratch, const optim_live *live)
{
    each_batch(segment, n, live, [&](const optim_batch &b, int, int64_t first) {
        double *partial = scratch + 2 * first;
        LAUNCH(lamb_moments, (unsigned)b.piece[b.n], AG_BLOCK, 0, b, partial);
        LAUNCH(lamb_trust, (unsigned)b.n, AG_BLOCK, 0, b, partial);
        LAUNCH(lamb_step, (unsigned)b.piece[b.n], AG_BLOCK, 0, b, partial);
    });
}
