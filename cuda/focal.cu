/* cuda/focal.cu - ops/focal.c: loss = -w_t (1 - p_t)^gamma log p_t. */
#include "cuda/class_loss.h"
#include "ops/args.h"
#include "ops/registry.h"

enum { X, TARGET, WEIGHT };

struct focal {
    const float *x, *weight, *g;
    const int64_t *target;
    float *d, *lse, *loss, gamma, scale;
    int64_t rows, classes;
    bool add, each;
    ag_cuda_trap *trap;
    const char *at;
    __device__ inline bool valid(int64_t row) const { return (uint64_t)target[row] < (uint64_t)classes; }
};

static focal job_of(const ag_node *n)
{
    const ag_focal_arg *arg = (const ag_focal_arg *)n->arg;
    focal j;
    memset(&j, 0, sizeof j);
    j.x = ag_real(n->in[X]), j.target = (const int64_t *)n->in[TARGET]->data, j.lse = ag_real(n->saved[0]);
    if (n->in[WEIGHT]) j.weight = ag_real(n->in[WEIGHT]);
    j.gamma = (float)arg->gamma, j.rows = n->in[X]->shape[0], j.classes = n->in[X]->shape[1];
    j.each = arg->reduction == AG_NONE, j.scale = arg->reduction == AG_MEAN ? 1 / (float)j.rows : 1;
    j.trap = ag_cuda_trap_device(), j.at = n->at;
    return j;
}

template <bool WIDE> static __global__ void focal_forward(focal j)
{
    AG_SHARED(float, shared, AG_BLOCK / AG_WARP);
    const ag_row_team<WIDE> team = { shared };
    const int64_t row = team.row();
    if (row >= j.rows) return;
    const float *x = j.x + row * j.classes, lse = team.log_sum_exp(x, j.classes);
    const int64_t t = j.target[row];
    if (team.first()) return;
    j.lse[row] = lse;
    j.loss[row] = 0;
    if (!j.valid(row)) return ag_trap(j.trap, j.at, "ag_focal_loss", row, t, j.classes);
    const float l = x[t] - lse, miss = 1 - EXP(l);
    if (miss > 0) j.loss[row] = -(j.weight ? j.weight[t] : 1) * POW(miss, j.gamma) * l;
}

/* w_t ((1 - p_t)^gamma - gamma p_t (1 - p_t)^(gamma - 1) l) (p_c - [c = t]) */
template <bool WIDE> static __global__ void focal_backward(focal j)
{
    AG_SHARED(float, shared, AG_BLOCK / AG_WARP);
    const ag_row_team<WIDE> team = { shared };
    const int64_t row = team.row();
    if (row >= j.rows || !j.valid(row)) return;
    const int64_t t = j.target[row];
    const float *x = j.x + row * j.classes, l = x[t] - j.lse[row], p = EXP(l), miss = 1 - p;
    const float slope = miss > 0 ? POW(miss, j.gamma) * (1 - j.gamma * p * l / miss) : 0;
    const float g = j.g[j.each ? row : 0] * j.scale * (j.weight ? j.weight[t] : 1) * slope;
    float *d = j.d + row * j.classes;
    for (int64_t c = team.first(); c < j.classes; c += team.step()) {
        const float v = g * (EXP(x[c] - j.lse[row]) - (c == t ? 1 : 0));
        d[c] = j.add ? d[c] + v : v;
    }
}

struct row_loss {
    const float *loss;
    __device__ inline float operator()(const int64_t *at, int64_t, int64_t) const { return loss[at[0]]; }
};

void ag_focal_loss_forward_cuda(ag_node *n)
{
    focal j = job_of(n);
    const bool wide = j.classes > AG_CLASSES_OF_A_WARP;
    const ag_tensor *lse = n->saved[0];
    if (!j.rows) return;
    j.loss = j.each ? ag_real(n->out) : (float *)ag_workspace(n, j.rows, sizeof *j.loss);
    if (wide) LAUNCH(focal_forward<true>, ag_team_blocks(j.rows, true), AG_BLOCK, 0, j);
    else LAUNCH(focal_forward<false>, ag_team_blocks(j.rows, false), AG_BLOCK, 0, j);
    if (!j.each)
        ag_reduce<ag_fold_sum>(n, ag_split_of<1>(lse, 1, &lse), row_loss{ j.loss },
                               ag_put_sum{ ag_real(n->out), j.scale, false });
}

void ag_focal_loss_backward_cuda(ag_node *n)
{
    focal j = job_of(n);
    if (!n->din[X] || !j.rows) return;
    j.g = ag_real(n->out->grad), j.d = ag_real(n->din[X]), j.add = n->accumulate[X];
    if (j.classes > AG_CLASSES_OF_A_WARP) LAUNCH(focal_backward<true>, ag_team_blocks(j.rows, true), AG_BLOCK, 0, j);
    else LAUNCH(focal_backward<false>, ag_team_blocks(j.rows, false), AG_BLOCK, 0, j);
}
