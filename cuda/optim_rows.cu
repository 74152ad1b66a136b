/* cuda/optim_rows.cu - steps on rows of tables, and the rows of lazy AdamW (optim/lazy.h) with their clocks.
 *
 * A few lanes take a row: those that meet the first of its positions among the sorted ones (embedding.h) sum its gradients
 * and step it, the others leave. All tables of a step are in one launch. */
#include "cuda/embedding.h"
#include "cuda/optim_rules.h"
#include "cuda/rows.h"
#include "cuda/step.h"

/* ---- sorting ------------------------------------------------------------------------------------------- */

static unsigned blocks_of(const optim_tables *b)
{
    unsigned most = 0;
    for (int i = 0; i < b->n; i++) {
        const unsigned blocks = ag_lane_blocks(b->table[i].n, b->table[i].lanes);
        most = blocks > most ? blocks : most;
    }
    return most;
}

void ag_optim_rows_sort_cuda(const char *at, optim_tables *b)
{
    static_assert((int)OPTIM_TABLES <= (int)AG_SORTS, "the lists of one launch are sorted in one call");
    ag_ids ids[OPTIM_TABLES];
    ag_sorted sorted[OPTIM_TABLES];
    for (int i = 0; i < b->lists; i++) ids[i] = { b->list[i].id, b->list[i].n, b->list[i].stride, b->list[i].rows };
    ag_sort_ids(b->lists, ids, (uint64_t *)ag_optim_scratch(at, ag_sort_size(b->lists, ids)), sorted);
    for (int i = 0; i < b->n; i++) {
        optim_table *t = &b->table[i];
        t->key = sorted[t->list].key, t->n = sorted[t->list].n;
        t->lanes = ag_row_lanes(t->width);
    }
}

/* What a thread works on: column `lane`, lane + lanes ... of the row that begins at k; mine: one does. */
struct row_place { int64_t k, id; int lane; bool mine; };

static __device__ inline row_place place_in(const optim_table &t, const ag_sorted &s)
{
    const int64_t i = blockIdx.x * (int64_t)AG_BLOCK + threadIdx.x, k = i / t.lanes;
    const bool mine = k < s.n && s.first(k);
    return { k, mine ? (int64_t)s.row(k) : 0, (int)(i % t.lanes), mine };
}

struct row_value {
    const float *values;
    int64_t width;
    __device__ inline float operator()(int64_t p, int64_t d) const { return values[p * width + d]; }
};

/* ---- a lazy row ---------------------------------------------------------------------------------------- */

/* What has to happen to a row before its step: the weights are `gap` behind, if they are; its moments by p1, p2 before. */
struct row_gap {
    bool behind;
    float p1, p2;
    optim_gap gap;
};

static __device__ inline row_gap gap_of(const optim_clock *k, optim_row r, int64_t weights)
{
    row_gap g;
    g.behind = weights < k->now;
    g.p1 = g.p2 = 1;
    if (r.moments != weights && g.behind) ag_optim_clock_moments(k, r.moments, weights, &g.p1, &g.p2);
    g.gap = ag_optim_clock_gap(k, g.behind ? weights : r.moments);
    return g;
}

static __device__ inline void catch_up(const row_gap &g, float eps, float *w, float *m, float *v)
{
    *m *= g.p1, *v *= g.p2;
    *w = ag_optim_clock_weight(&g.gap, *w, *m, OPTIM_ROOT(*v), eps);
}

/* ---- steps --------------------------------------------------------------------------------------------- */

template <class Rule> static __global__ void rows_step(__grid_constant__ const optim_tables b)
{
    const optim_table &t = b.table[blockIdx.y];
    const ag_sorted s = { t.key, t.n };
    const row_place at = place_in(t, s);
    optim_scalars c = b.number[blockIdx.y].scalars;
    if (b.state && b.state->bad) return;        /* a loss was no number: the weights stay */
    if (b.clips) c.scale *= b.state->clip;
    row_gap gap = { false, 1, 1, {} };
    if (at.mine && t.clock) {
        gap = gap_of(t.clock, t.row[at.id], t.row[at.id].weights);
        c.beta1 *= gap.gap.p1;
        c.beta2 *= gap.gap.p2;
    }
    __syncwarp();                               /* all lanes know where the row was */
    if (!at.mine) return;
    if (t.clock && !at.lane) {
        const int32_t next = (int32_t)t.clock->now + 1;
        t.row[at.id] = { next, next };
    }
    for (int64_t d = at.lane; d < t.width; d += t.lanes) {
        const int64_t i = at.id * t.width + d;
        const float g = ag_row_sum(s, at.k, d, row_value{ t.values, t.width }, 0);
        if (gap.behind) catch_up(gap, b.eps, t.w + i, t.s0 + i, t.s1 + i);
        Rule::step(c, 0, t.w + i, &g, t.s0 ? t.s0 + i : nullptr, t.s1 ? t.s1 + i : nullptr);
    }
}

template <class Rule> static void step(const optim_tables *b)
{
    const unsigned blocks = blocks_of(b);
    if (blocks) LAUNCH(rows_step<Rule>, dim3(blocks, (unsigned)b->n), AG_BLOCK, 0, *b);
}

void ag_optim_sgd_rows_cuda(const optim_tables *b) { step<sgd_rule>(b); }
void ag_optim_adam_rows_cuda(const optim_tables *b) { step<adam_rule>(b); }

/* ---- the norm of the summed rows ----------------------------------------------------------------------- */

static __global__ void rows_squares(__grid_constant__ const optim_tables b, double *partial)
{
    AG_SHARED(double, shared, AG_BLOCK / AG_WARP);
    const optim_table &t = b.table[blockIdx.y];
    const ag_sorted s = { t.key, t.n };
    const row_place at = place_in(t, s);
    double sum = 0;
    for (int64_t d = at.lane; at.mine && d < t.width; d += t.lanes) {
        const double g = ag_row_sum(s, at.k, d, row_value{ t.values, t.width }, 0);
        sum += g * g;
    }
    sum = ag_block_fold<false>(sum, shared);
    if (!threadIdx.x) partial[blockIdx.y * (int64_t)gridDim.x + blockIdx.x] = sum;
}

static __global__ void rows_total(int64_t n, const double *partial, double *to, bool add)
{
    AG_SHARED(double, shared, AG_BLOCK / AG_WARP);
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += AG_BLOCK) sum += partial[i];
    sum = ag_block_fold<false>(sum, shared);
    if (!threadIdx.x) *to = add ? *to + sum : sum;
}

void ag_optim_rows_norm2_cuda(const char *at, const optim_tables *b, double *to, bool add)
{
    const unsigned blocks = blocks_of(b);
    const int64_t parts = (int64_t)blocks * b->n;
    double *partial = ag_optim_scratch(at, parts ? parts : 1);
    if (blocks) LAUNCH(rows_squares, dim3(blocks, (unsigned)b->n), AG_BLOCK, 0, *b, partial);
    LAUNCH(rows_total, 1, AG_BLOCK, 0, parts, partial, to, add);
}

/* ---- rows that are read, or all ------------------------------------------------------------------------ */

/* Ids repeat; of the lanes that meet a row, those that put the clock's now in the place of its step bring it up to date. */
static __global__ void rows_touch(__grid_constant__ const optim_touches b)
{
    const optim_touch &t = b.touch[blockIdx.y];
    const int64_t i = blockIdx.x * (int64_t)AG_BLOCK + threadIdx.x, k = i / t.lanes;
    const int lane = (int)(i % t.lanes), now = (int)t.clock->now;
    const int64_t id = k >= t.list.n ? -1 : t.list.id ? t.list.id[k * t.list.stride] : k;
    const bool valid = (uint64_t)id < (uint64_t)t.list.rows, all = !t.list.id;
    int before = now;
    if (valid && !lane) before = atomicMax(&t.row[id].weights, now);
    before = __shfl_sync(0xffffffffu, before, (int)threadIdx.x % AG_WARP - lane);
    const int moments = valid ? t.row[id].moments : 0;
    __syncwarp();                               /* all lanes know where the moments were */
    if (!valid || (before == now && !(all && moments < now))) return;
    if (!lane) t.row[id].moments = all ? now : before;
    const row_gap gap = gap_of(t.clock, { before, moments }, before);
    float p1 = 1, p2 = 1;
    if (all) ag_optim_clock_moments(t.clock, gap.behind ? before : moments, now, &p1, &p2);
    for (int64_t d = lane; d < t.width; d += t.lanes) {
        const int64_t e = id * t.width + d;
        if (gap.behind) catch_up(gap, b.eps, t.w + e, t.m + e, t.v + e);
        if (all) t.m[e] *= p1, t.v[e] *= p2;
    }
}

void ag_optim_touch_cuda(optim_touches *b)
{
    unsigned most = 0;
    for (int i = 0; i < b->n; i++) {
        b->touch[i].lanes = ag_row_lanes(b->touch[i].width);
        const unsigned blocks = ag_lane_blocks(b->touch[i].list.n, b->touch[i].lanes);
        most = blocks > most ? blocks : most;
    }
    if (most) LAUNCH(rows_touch, dim3(most, (unsigned)b->n), AG_BLOCK, 0, *b);
}

static __global__ void row_start(optim_row *row, int64_t n, int32_t now)
{
    AG_EACH (i, n) row[i] = { now, now };
}

void ag_optim_row_start_cuda(optim_row *row, int64_t n, int64_t now)
{
    if (n) LAUNCH(row_start, ag_blocks(n), AG_BLOCK, 0, row, n, (int32_t)now);
}

/* ---- clocks -------------------------------------------------------------------------------------------- */

static __global__ void clock_start(optim_clock *k, int64_t now, double beta2)
{
    ag_optim_clock_begin(k, now, beta2);
}

void ag_optim_clock_start_cuda(optim_clock *k, int64_t now, double beta2)
{
    LAUNCH(clock_start, 1, 1, 0, k, now, beta2);
}

struct clocks { optim_clock *k[OPTIM_TABLES]; int at[OPTIM_TABLES]; };

/* ag_optim_clock_step, a block for each clock. */
static __global__ void clocks_step(clocks c, const optim_number *number, const ag_step_state *state)
{
    if (state && state->bad) return;
    AG_SHARED(int64_t, live, 1);
    optim_clock *k = c.k[blockIdx.x];
    const optim_tick tick = number[c.at[blockIdx.x]].tick;
    const int64_t end = k->now - k->base, from = k->live, me = threadIdx.x;
    const double t = (double)k->now + 1, now = k->decay[end] * tick.decay;
    const double gain = tick.lr / (1 - pow(tick.beta1, t)) / now, root = 1 / (1 - pow(tick.beta2, t));
    for (int64_t i = from + me; i <= end; i += AG_BLOCK) ag_optim_clock_term(k, i, gain, root, tick.beta1, tick.beta2);
    __syncthreads();
    if (!me) {
        int64_t first = from;
        while (first <= end && k->p1[first] < 1e-10) first++;
        *live = first;
    }
    __syncthreads();
    for (int64_t i = *live + me; i <= end; i += AG_BLOCK) ag_optim_clock_fill(k, i, now);
    if (me) return;
    k->live = *live;
    k->decay[end + 1] = now;
    k->log_beta2[end + 1] = k->log_beta2[end] + log(tick.beta2);
    k->now++;
    ag_optim_clock_enter(k, tick.beta2);
}

void ag_optim_clocks_step_cuda(int n, optim_clock *const *k, const int *at, const optim_number *number,
                               const ag_step_state *state)
{
    clocks c = {};
    for (int i = 0; i < n; i++) c.k[i] = k[i], c.at[i] = at[i];
    LAUNCH(clocks_step, (unsigned)n, AG_BLOCK, 0, c, number, state);
}
