/* optim/lazy.h - the mathematics of lazy AdamW: what steps without a gradient do to a row, in closed form.
 *
 * A row that was last at step L and has no gradient in the steps j = L+1 .. T goes through
 *     m_j = m P1_j,  P1_j = prod beta1         v_j = v P2_j,  P2_j = prod beta2       (products over L+1 .. j)
 *     w_j = w_(j-1) (1 - lr_j wd_j) - lr_j / (1 - beta1_j^j) m_j / (sqrt(v_j / (1 - beta2_j^j)) + eps)
 * With C_j = prod (1 - lr wd) since the start, s = sqrt(v), q_j = sqrt(P2_j / (1 - beta2_j^j)):
 *     w_T = C_T / C_L (w - m f(s)),    f(s) = sum_j a_j / (s q_j + eps),   a_j = lr_j P1_j / (1 - beta1_j^j) C_L / C_j
 * f is a function of s alone. With any constant q and q_j = q (1 + d_j), rho = s q / (s q + eps) in [0, 1):
 *     f(s) = 1 / (s q + eps)  sum_j a_j / (1 + rho d_j)
 * The sum is smooth in rho: its values at OPTIM_NODES points (Chebyshev-Lobatto on [0, 1]) give it everywhere by
 * interpolation. These node values need L and the history only, no element: one row of the table below for every
 * possible L, each advanced by one term per step, until P1 is negligible. So a step costs about a microsecond however
 * many rows there are, and a row makes up for any number of missed steps at the cost of one step. */
#ifndef AG_OPTIM_LAZY_H
#define AG_OPTIM_LAZY_H
#include "ops/formulas.h"

enum { OPTIM_NODES = 5, OPTIM_CLOCK_SPAN = 4096 };

/* What a row that stands at step L must do to be at step now:
 *     w = decay (w - m poly(rho) / (s q + eps)),  m *= p1,  v *= p2,  poly(rho) = c[0] + c[1] rho + ... */
typedef struct { real decay, p1, p2, q, c[OPTIM_NODES]; } optim_gap;

/* How far a row is: its weights and its moments. Reading a row moves the weights only, since writes are what costs
 * there; the moments follow with the row's next gradient. moments <= weights. */
typedef struct { int32_t weights, moments; } optim_row;

typedef struct optim_clock {
    int64_t now, base;              /* steps taken; entries are for L = base .. now, at index L - base */
    int64_t live;                   /* the first index whose P1 still matters */
    double decay[OPTIM_CLOCK_SPAN + 1];         /* C_L, 1 at the base */
    double log_beta2[OPTIM_CLOCK_SPAN + 1];     /* sum of log beta2 since the base */
    double p1[OPTIM_CLOCK_SPAN + 1], p2[OPTIM_CLOCK_SPAN + 1], q[OPTIM_CLOCK_SPAN + 1];
    double c[OPTIM_NODES][OPTIM_CLOCK_SPAN + 1];
    optim_gap gap[OPTIM_CLOCK_SPAN + 1];        /* the same for the rows from `live` on, ready for use */
    int group;                      /* of the parameters that share it */
    bool decays;
    /* Of tables on the GPU: the same struct in its memory, which is what counts; here are only now, base and decay. */
    struct optim_clock *there;
    struct ag_tensor *memory;
} optim_clock;

/* The numbers of a step that a clock takes: decay = 1 - lr wd. */
typedef struct { double lr, decay, beta1, beta2; } optim_tick;

void ag_optim_clock_start(optim_clock *k, int64_t now, double beta2);   /* every row stands at now */
/* Whether a step with this decay factor fits in, or every row has to be brought to now and the clock restarted. */
bool ag_optim_clock_full(const optim_clock *k, double decay);
void ag_optim_clock_step(optim_clock *k, const optim_tick *tick);

/* ---- one definition for the CPU and for cuda/optim_rows.cu ------------------------------------------------- */

/* The entry for L = now: nothing missed yet. q: where q_j will be after about ten steps, in the middle of the terms that
 * count. */
AG_FORMULA void ag_optim_clock_enter(optim_clock *k, double beta2)
{
    const int64_t i = k->now - k->base, ahead = k->now + 8;
    const double q = sqrt(pow(beta2, 8) / (1 - pow(beta2, (double)ahead)));
    k->p1[i] = k->p2[i] = 1;
    k->q[i] = q;
    for (int r = 0; r < OPTIM_NODES; r++) k->c[r][i] = 0;
    k->gap[i].decay = k->gap[i].p1 = k->gap[i].p2 = 1;
    k->gap[i].q = (real)q;
    for (int r = 0; r < OPTIM_NODES; r++) k->gap[i].c[r] = 0;
}

AG_FORMULA void ag_optim_clock_begin(optim_clock *k, int64_t now, double beta2)
{
    k->now = k->base = now;
    k->live = 0;
    k->decay[0] = 1;
    k->log_beta2[0] = 0;
    ag_optim_clock_enter(k, beta2);
}

/* Adds a step's term to entry i. gain: lr / (1 - beta1^t) / C_t; root: 1 / (1 - beta2^t). y_k = a / (1 + node_k d) at the nodes
 * (1 - cos(k pi / 4)) / 2; the factors are Lagrange's polynomials through them, multiplied out, R = sqrt 2. */
AG_FORMULA void ag_optim_clock_term(optim_clock *k, int64_t i, double gain, double root, double beta1, double beta2)
{
    const double R2 = 1.4142135623730951, near = 0.14644660940672624, far = 0.85355339059327376;
    const double p1 = k->p1[i] * beta1, p2 = k->p2[i] * beta2;
    const double y0 = gain * p1 * k->decay[i], d = sqrt(p2 * root) / k->q[i] - 1;
    const double y1 = y0 / (1 + near * d), y2 = y0 / (1 + 0.5 * d), y3 = y0 / (1 + far * d), y4 = y0 / (1 + d);
    k->p1[i] = p1, k->p2[i] = p2;
    k->c[0][i] += y0;
    k->c[1][i] += -11 * y0 + (8 + 4 * R2) * y1 - 4 * y2 + (8 - 4 * R2) * y3 - y4;
    k->c[2][i] += 34 * y0 - (40 + 12 * R2) * y1 + 36 * y2 - (40 - 12 * R2) * y3 + 10 * y4;
    k->c[3][i] += -40 * y0 + (64 + 8 * R2) * y1 - 64 * y2 + (64 - 8 * R2) * y3 - 24 * y4;
    k->c[4][i] += 16 * (y0 + y4) - 32 * (y1 - y2 + y3);
}

/* decay: C_now */
AG_FORMULA void ag_optim_clock_fill(optim_clock *k, int64_t i, double decay)
{
    optim_gap *g = &k->gap[i];
    g->decay = (real)(decay / k->decay[i]);
    g->p1 = (real)k->p1[i];
    g->p2 = (real)k->p2[i];
    for (int r = 0; r < OPTIM_NODES; r++) g->c[r] = (real)k->c[r][i];
}

AG_FORMULA optim_gap ag_optim_clock_gap(const optim_clock *k, int64_t last)
{
    const int64_t i = last - k->base, now = k->now - k->base;
    if (i >= k->live) return k->gap[i];
    optim_gap g;
    g.decay = (real)(k->decay[now] / k->decay[i]);
    g.p1 = 0;
    g.p2 = (real)exp(k->log_beta2[now] - k->log_beta2[i]);
    g.q = (real)k->q[i];
    for (int r = 0; r < OPTIM_NODES; r++) g.c[r] = (real)k->c[r][i];
    return g;
}

/* The factors of m and v from step `from` to step `to`. */
AG_FORMULA void ag_optim_clock_moments(const optim_clock *k, int64_t from, int64_t to, real *p1, real *p2)
{
    const int64_t i = from - k->base, j = to - k->base;
    *p1 = i >= k->live ? (real)(k->p1[i] / k->p1[j]) : 0;
    *p2 = (real)exp(k->log_beta2[j] - k->log_beta2[i]);
}

/* w after the gap; s = sqrt(v). */
AG_FORMULA real ag_optim_clock_weight(const optim_gap *k, real w, real m, real s, real eps)
{
    const real x = s * k->q, over = 1 / (x + eps), rho = x * over;
    const real sum = k->c[0] + rho * (k->c[1] + rho * (k->c[2] + rho * (k->c[3] + rho * k->c[4])));
    return k->decay * (w - m * (sum * over));
}

#endif
