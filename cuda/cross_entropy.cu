/* cuda/cross_entropy.cu - ops/cross_entropy.c: with weights w, smoothing s, C classes, kept_c = w_c (1 - s) and
 * spread_c = w_c s / C,
 *     loss = sum_c (kept_c q_c + spread_c) (lse - x_c),   d x_c = p_c total - (kept_c q_c + spread_c),
 * total = sum_c of what is in the parentheses; nll_loss has lse = 0 and no p. */
#include "cuda/class_loss.h"
#include "ops/args.h"
#include "ops/registry.h"

enum { X, TARGET, WEIGHT };

template <class T> struct entropy {
    const T *x;
    const float *soft, *weight, *g;
    const int64_t *hard;
    T *d;
    float *lse, *loss, kept, spread, scale;
    const float *divisor;               /* sum w_t, where the mean is weighted */
    int64_t rows, classes;
    bool add, each, logits;
    ag_cuda_trap *trap;
    const char *at, *name;

    __device__ inline float weight_of(int64_t c) const { return weight ? weight[c] : 1; }
    __device__ inline bool valid(int64_t row) const { return !hard || (uint64_t)hard[row] < (uint64_t)classes; }
    /* kept_c q_c + spread_c without the integer target's part */
    __device__ inline float even(int64_t row, int64_t c) const
    {
        return weight_of(c) * (spread + (soft ? kept * soft[row * classes + c] : 0));
    }
};

template <class T> static entropy<T> job_of(const ag_node *n)
{
    const ag_entropy_arg *arg = (const ag_entropy_arg *)n->arg;
    const ag_tensor *x = n->in[X], *t = n->in[TARGET], *w = n->in[WEIGHT];
    entropy<T> j;
    memset(&j, 0, sizeof j);
    j.x = (const T *)x->data, j.rows = x->shape[0], j.classes = x->shape[1];
    if (t->dtype == AG_I64) j.hard = (const int64_t *)t->data;
    else j.soft = ag_real(t);
    if (w) j.weight = ag_real(w);
    j.lse = ag_real(n->saved[0]), j.logits = arg->logits, j.each = arg->reduction == AG_NONE;
    j.kept = (float)(1 - arg->smoothing), j.spread = (float)(arg->smoothing / (double)j.classes);
    j.scale = arg->reduction == AG_MEAN ? 1 / (float)j.rows : 1;
    j.trap = ag_cuda_trap_device(), j.at = n->at, j.name = arg->logits ? "ag_cross_entropy" : "ag_nll_loss";
    return j;
}

/* ---- forward ------------------------------------------------------------------------------------------- */

template <bool WIDE, class T> static __global__ void entropy_forward(entropy<T> j)
{
    AG_SHARED(float, shared, AG_BLOCK / AG_WARP);
    const ag_row_team<WIDE> team = { shared };
    const int64_t row = team.row();
    if (row >= j.rows) return;
    const T *x = j.x + row * j.classes;
    const float lse = j.logits ? team.log_sum_exp(x, j.classes) : 0;
    float loss = 0;
    if (j.soft || j.spread != 0)
        for (int64_t c = team.first(); c < j.classes; c += team.step()) loss += j.even(row, c) * (lse - ag_load(x[c]));
    loss = team.sum(loss);
    if (team.first()) return;
    if (j.hard && j.valid(row)) loss += j.kept * j.weight_of(j.hard[row]) * (lse - ag_load(x[j.hard[row]]));
    if (!j.valid(row)) ag_trap(j.trap, j.at, j.name, row, j.hard[row], j.classes);
    j.lse[row] = lse;
    j.loss[row] = loss;
}

template <class T> struct entropy_pair {
    entropy<T> j;
    __device__ inline ag_fold_pair::acc operator()(const int64_t *at, int64_t, int64_t) const
    {
        const int64_t row = at[0];
        return { j.loss ? j.loss[row] : 0, j.hard && j.valid(row) ? j.weight_of(j.hard[row]) : 1 };
    }
};

struct put_mean {
    float *y;
    bool mean;
    __device__ inline void operator()(int64_t, ag_fold_pair::acc a) const { *y = mean ? a.sum / a.weight : a.sum; }
};

struct put_weight {
    float *y;
    __device__ inline void operator()(int64_t, ag_fold_pair::acc a) const { *y = a.weight; }
};

template <class T, class Put> static void fold_rows(const ag_node *n, const entropy<T> &j, Put put)
{
    const ag_tensor *lse = n->saved[0];
    ag_reduce<ag_fold_pair>(n, ag_split_of<1>(lse, 1, &lse), entropy_pair<T>{ j }, put);
}

template <class T> static void forward(ag_node *n)
{
    entropy<T> j = job_of<T>(n);
    const bool wide = j.classes > AG_CLASSES_OF_A_WARP;
    if (!j.rows) return;
    j.loss = j.each ? ag_real(n->out) : (float *)ag_workspace(n, j.rows, sizeof *j.loss);
    if (wide) LAUNCH((entropy_forward<true, T>), ag_team_blocks(j.rows, true), AG_BLOCK, 0, j);
    else LAUNCH((entropy_forward<false, T>), ag_team_blocks(j.rows, false), AG_BLOCK, 0, j);
    if (!j.each) fold_rows(n, j, put_mean{ ag_real(n->out), ((const ag_entropy_arg *)n->arg)->reduction == AG_MEAN });
}

/* ---- backward ------------------------------------------------------------------------------------------ */

template <bool WIDE, class T> static __global__ void entropy_backward(entropy<T> j)
{
    AG_SHARED(float, shared, AG_BLOCK / AG_WARP);
    const ag_row_team<WIDE> team = { shared };
    const int64_t row = team.row();
    if (row >= j.rows || !j.valid(row)) return;
    const int64_t t = j.hard ? j.hard[row] : -1, base = row * j.classes;
    const bool even = j.soft || j.spread != 0;
    const float g = j.g[j.each ? row : 0] * (j.divisor ? 1 / *j.divisor : j.scale), lse = j.lse[row];
    const float own = j.hard ? j.kept * j.weight_of(t) : 0;
    float total = 0;
    if (even && j.logits)
        for (int64_t c = team.first(); c < j.classes; c += team.step()) total += j.even(row, c);
    total = team.sum(total) + own;
    for (int64_t c = team.first(); c < j.classes; c += team.step()) {
        float v = c == t ? -own : 0;
        if (even) v -= j.even(row, c);
        if (j.logits) v += EXP(ag_load(j.x[base + c]) - lse) * total;
        ag_store(j.d + base + c, j.add ? ag_load(j.d[base + c]) + g * v : g * v);
    }
}

template <class T> static void backward(ag_node *n)
{
    entropy<T> j = job_of<T>(n);
    if (!n->din[X] || !j.rows) return;
    j.g = ag_real(n->out->grad), j.d = (T *)n->din[X]->data, j.add = n->accumulate[X];
    if (((const ag_entropy_arg *)n->arg)->reduction == AG_MEAN && j.weight && j.hard) {
        float *divisor = (float *)ag_workspace(n, 1, sizeof *divisor);
        fold_rows(n, j, put_weight{ divisor });
        j.divisor = divisor;
    }
    if (j.classes > AG_CLASSES_OF_A_WARP)
        LAUNCH((entropy_backward<true, T>), ag_team_blocks(j.rows, true), AG_BLOCK, 0, j);
    else LAUNCH((entropy_backward<false, T>), ag_team_blocks(j.rows, false), AG_BLOCK, 0, j);
}

static bool is_half(const ag_node *n) { return n->in[X]->dtype == AG_BF16; }
void ag_cross_entropy_forward_cuda(ag_node *n) { is_half(n) ? forward<ag_bf16>(n) : forward<float>(n); }
void ag_cross_entropy_backward_cuda(ag_node *n) { is_half(n) ? backward<ag_bf16>(n) : backward<float>(n); }
void ag_nll_loss_forward_cuda(ag_node *n) { ag_cross_entropy_forward_cuda(n); }
void ag_nll_loss_backward_cuda(ag_node *n) { ag_cross_entropy_backward_cuda(n); }
