/* optim/rules.c - the optimizers: the passes of rules.def over w, g and up to two state arrays, and their scalars. */
#include <math.h>
#include "core/memory.h"
#include "core/op.h"
#include "ops/formulas.h"
#include "optim/lamb.h"
#include "optim/state.h"

#define OPTIM_RULE(name, attributes, ...)                                                                        \
    attributes                                                                                                   \
    static void name(const optim_scalars *s, int64_t n, real *restrict w, const real *restrict g,                \
                     real *restrict s0, real *restrict s1)                                                       \
    {                                                                                                            \
        (void)s0, (void)s1;                                                                                      \
        const optim_scalars k = *s;                                                                              \
        _Pragma("omp simd")                                                                                      \
        for (int64_t i = 0; i < n; i++) __VA_ARGS__                                                              \
    }
#include "optim/rules.def"
#define KERNELS(name) .kernel = name, .cuda = AG_CUDA_FN(ag_optim_##name##_cuda)

/* ---- SGD ----------------------------------------------------------------------------------------------- */

static void no_scalars(const optim_hyper *h, optim_scalars *s)
{
    (void)h;
    (void)s;
}

const optim_rule ag_optim_rule_sgd = { .name = "optim_sgd", KERNELS(sgd), .scalars = no_scalars, .by_rows = true,
                                       .rows = AG_CUDA_FN(ag_optim_sgd_rows_cuda) };
const optim_rule ag_optim_rule_sgd_momentum = { .name = "optim_sgd", .slot = { "momentum_buffer" },
                                                KERNELS(sgd_momentum), .scalars = no_scalars };
const optim_rule ag_optim_rule_nesterov = { .name = "optim_sgd", .slot = { "momentum_buffer" }, KERNELS(nesterov),
                                            .scalars = no_scalars };

/* ---- Adam and what differs from it in the scalars only ------------------------------------------------- */

static double debias(double beta, int64_t t)
{
    return 1 - pow(beta, (double)t);
}

static void adam_scalars(const optim_hyper *h, optim_scalars *s)
{
    s->step = (real)(h->lr / debias(h->beta1, h->t));
    s->root = (real)(1 / sqrt(debias(h->beta2, h->t)));
    s->eps = (real)h->eps;
}

/* torch.optim.SparseAdam divides by sqrt(v) + eps before the correction of v. */
static void sparse_adam_scalars(const optim_hyper *h, optim_scalars *s)
{
    adam_scalars(h, s);
    s->eps *= s->root;
}

/* Liu et al. 2020, algorithm 2. Until the variance is tractable the step is m alone: root = 0, eps = 1. */
static void radam_scalars(const optim_hyper *h, optim_scalars *s)
{
    const double limit = 2 / (1 - h->beta2) - 1;
    const double r = limit - 2 * (double)h->t * pow(h->beta2, (double)h->t) / debias(h->beta2, h->t);
    adam_scalars(h, s);
    if (r > 5) {
        s->step *= (real)sqrt((r - 4) * (r - 2) * limit / ((limit - 4) * (limit - 2) * r));
        if (!h->fastai) s->eps *= s->root;
    } else {
        s->root = 0;
        s->eps = 1;
    }
}

const optim_rule ag_optim_rule_adam = { .name = "optim_adam", .slot = { "exp_avg", "exp_avg_sq" }, KERNELS(adam),
                                        .rows = AG_CUDA_FN(ag_optim_adam_rows_cuda), .scalars = adam_scalars,
                                        .by_rows = true, .lazy = true };
const optim_rule ag_optim_rule_sparse_adam = { .name = "optim_sparse_adam", .slot = { "exp_avg", "exp_avg_sq" },
                                               KERNELS(adam), .rows = AG_CUDA_FN(ag_optim_adam_rows_cuda),
                                               .scalars = sparse_adam_scalars, .by_rows = true };
const optim_rule ag_optim_rule_radam = { .name = "optim_radam", .slot = { "exp_avg", "exp_avg_sq" }, KERNELS(adam),
                                         .scalars = radam_scalars };

/* ---- RMSProp ------------------------------------------------------------------------------------------- */

static void eps_scalar(const optim_hyper *h, optim_scalars *s)
{
    s->eps = (real)h->eps;
}

const optim_rule ag_optim_rule_rmsprop = { .name = "optim_rmsprop", .slot = { "square_avg" }, KERNELS(rmsprop),
                                           .scalars = eps_scalar };
const optim_rule ag_optim_rule_rmsprop_momentum = { .name = "optim_rmsprop",
                                                    .slot = { "square_avg", "momentum_buffer" },
                                                    KERNELS(rmsprop_momentum), .scalars = eps_scalar };
const optim_rule ag_optim_rule_rmsprop_fastai = { .name = "optim_rmsprop",
                                                  .slot = { "square_avg", "momentum_buffer" },
                                                  KERNELS(rmsprop_fastai), .scalars = eps_scalar };

/* ---- LAMB ---------------------------------------------------------------------------------------------- */

const optim_rule ag_optim_rule_lamb = { .name = "optim_lamb", .slot = { "exp_avg", "exp_avg_sq" }, .kernel = adam,
                                        .cuda = AG_CUDA_FN(ag_optim_lamb_cuda), .scalars = adam_scalars, .trust = true };

/* w -= lr q u, u = Adam's step without lr, q = min(10, rms(w) / rms(u)), w decayed first. */
void ag_optim_trust_step(const optim_scalars *s, int64_t n, real *w, const real *g, real *m, real *v)
{
    const optim_scalars k = *s;
    double w2 = 0, u2 = 0;
    if (k.lr == 0) return;
    for (int64_t i = 0; i < n; i++) {
        const real u = ag_optim_lamb_moments(&k, w + i, g[i], m + i, v + i);
        w2 += (double)w[i] * w[i];
        u2 += (double)u * u;
    }
    const real q = ag_optim_lamb_trust(w2, u2);
    for (int64_t i = 0; i < n; i++) w[i] -= k.lr * q * ag_optim_lamb_direction(&k, m[i], v[i]);
}
