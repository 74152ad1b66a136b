/* optim/lamb.h - LAMB's formulas, one definition for the CPU and for cuda/optim.cu. (You et al. 2020) */
#ifndef AG_OPTIM_LAMB_H
#define AG_OPTIM_LAMB_H
#include "ops/formulas.h"
#include "optim/state.h"

/* Adam's step without the rate. */
AG_FORMULA real ag_optim_lamb_direction(const optim_scalars *k, real m, real v)
{
    return k->step / k->lr * m / (k->root * SQRT(v) + k->eps);
}

/* w decayed, the moments with gradient g; returns the direction. */
AG_FORMULA real ag_optim_lamb_moments(const optim_scalars *k, real *w, real g, real *m, real *v)
{
    const real d = k->scale * g + k->l2 * *w;
    *w *= k->decay;
    *m = k->beta1 * *m + k->new1 * d;
    *v = k->beta2 * *v + k->new2 * d * d;
    return ag_optim_lamb_direction(k, *m, *v);
}

/* min(10, rms(w) / rms(u)) from their sums of squares */
AG_FORMULA real ag_optim_lamb_trust(double w2, double u2)
{
    const double q = w2 == 0 || u2 == 0 ? 1 : sqrt(w2 / u2);
    return (real)(q < 10 ? q : 10);
}

#endif
