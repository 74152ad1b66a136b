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
#include "core/base.h"

enum { OPTIM_NODES = 5, OPTIM_CLOCK_SPAN = 4096 };

/* What a row that stands at step L must do to be at step now:
 *     w = decay (w - m poly(rho) / (s q + eps)),  m *= p1,  v *= p2,  poly(rho) = c[0] + c[1] rho + ... */
typedef struct { real decay, p1, p2, q, c[OPTIM_NODES]; } optim_gap;

/* How far a row is: its weights and its moments. Reading a row moves the weights only, since writes are what costs
 * there; the moments follow with the row's next gradient. moments <= weights. */
typedef struct { int32_t weights, moments; } optim_row;

typedef struct {
    int64_t now, base;              /* steps taken; entries are for L = base .. now, at index L - base */
    int64_t live;                   /* the first index whose P1 still matters */
    double decay[OPTIM_CLOCK_SPAN + 1];         /* C_L, 1 at the base */
    double log_beta2[OPTIM_CLOCK_SPAN + 1];     /* sum of log beta2 since the base */
    double p1[OPTIM_CLOCK_SPAN + 1], p2[OPTIM_CLOCK_SPAN + 1], q[OPTIM_CLOCK_SPAN + 1];
    double c[OPTIM_NODES][OPTIM_CLOCK_SPAN + 1];
    optim_gap gap[OPTIM_CLOCK_SPAN + 1];        /* the same for the rows from `live` on, ready for use */
    int group;                      /* of the parameters that share it */
    bool decays;
} optim_clock;

void ag_optim_clock_start(optim_clock *k, int64_t now, double beta2);   /* every row stands at now */
/* Whether a step with this decay factor fits in, or every row has to be brought to now and the clock restarted. */
bool ag_optim_clock_full(const optim_clock *k, double decay);
void ag_optim_clock_step(optim_clock *k, double lr, double decay, double beta1, double beta2);
optim_gap ag_optim_clock_old_gap(const optim_clock *k, int64_t last);
static inline optim_gap ag_optim_clock_gap(const optim_clock *k, int64_t last)
{
    return last - k->base >= k->live ? k->gap[last - k->base] : ag_optim_clock_old_gap(k, last);
}
/* The factors of m and v from step `from` to step `to`. */
void ag_optim_clock_moments(const optim_clock *k, int64_t from, int64_t to, real *p1, real *p2);

#endif
