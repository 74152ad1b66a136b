/* optim/lazy.c - the table behind lazy AdamW; the formulas are in lazy.h. */
#include <math.h>
#include <string.h>
#include "optim/lazy.h"

/* Chebyshev-Lobatto points of [0, 1], (1 - cos(k pi / 4)) / 2, and the inverse of their Vandermonde matrix:
 * monomial coefficient r of the interpolating polynomial = sum_k inverse[r][k] value[k]. */
static const double node[OPTIM_NODES] = { 0, 0.14644660940672624, 0.5, 0.85355339059327376, 1 };
static double inverse[OPTIM_NODES][OPTIM_NODES];

/* Lagrange's basis polynomials, multiplied out. */
static void interpolation_init(void)
{
    double table[OPTIM_NODES][OPTIM_NODES];
    for (int k = 0; k < OPTIM_NODES; k++) {
        double poly[OPTIM_NODES + 1] = { 1 }, scale = 1;
        int degree = 0;
        for (int j = 0; j < OPTIM_NODES; j++) {
            if (j == k) continue;
            scale *= node[k] - node[j];
            poly[++degree] = 0;
            for (int r = degree; r > 0; r--) poly[r] = poly[r - 1] - node[j] * poly[r];
            poly[0] *= -node[j];
        }
        for (int r = 0; r < OPTIM_NODES; r++) table[r][k] = poly[r] / scale;
    }
    memcpy(inverse, table, sizeof inverse);
}

/* The row of the table for L = now: nothing missed yet. q: where q_j will be after about ten steps, in the middle of
 * the terms that count. */
static void entry_init(optim_clock *k, double beta2)
{
    const int64_t i = k->now - k->base, ahead = k->now + 8;
    k->p1[i] = k->p2[i] = 1;
    k->q[i] = sqrt(pow(beta2, 8) / (1 - pow(beta2, (double)ahead)));
    for (int r = 0; r < OPTIM_NODES; r++) k->c[r][i] = 0;
    k->gap[i] = (optim_gap){ 1, 1, 1, (real)k->q[i], { 0 } };
}

void ag_optim_clock_start(optim_clock *k, int64_t now, double beta2)
{
    if (inverse[0][0] == 0) interpolation_init();
    k->now = k->base = now;
    k->live = 0;
    k->decay[0] = 1;
    k->log_beta2[0] = 0;
    entry_init(k, beta2);
}

bool ag_optim_clock_full(const optim_clock *k, double decay)
{
    const int64_t i = k->now - k->base;
    return i >= OPTIM_CLOCK_SPAN || !(k->decay[i] * decay > 1e-4);
}

/* Adds the term of this step to the rows live .. end of the table. gain: lr / (1 - beta1^t) / C_t; root: 1 / (1 - beta2^t) */
static void add_term(optim_clock *k, int64_t end, double gain, double root, double beta1, double beta2)
{
    double *restrict p1 = k->p1, *restrict p2 = k->p2, *restrict c0 = k->c[0], *restrict c1 = k->c[1];
    double *restrict c2 = k->c[2], *restrict c3 = k->c[3], *restrict c4 = k->c[4];
    const double *restrict q = k->q, *restrict decay = k->decay;
#pragma omp simd
    for (int64_t i = k->live; i <= end; i++) {
        p1[i] *= beta1;
        p2[i] *= beta2;
        const double a = gain * p1[i] * decay[i], d = sqrt(p2[i] * root) / q[i] - 1;
        const double y1 = a / (1 + node[1] * d), y2 = a / (1 + node[2] * d), y3 = a / (1 + node[3] * d),
                     y4 = a / (1 + d);
        c0[i] += a;
        c1[i] += inverse[1][0] * a + inverse[1][1] * y1 + inverse[1][2] * y2 + inverse[1][3] * y3 + inverse[1][4] * y4;
        c2[i] += inverse[2][0] * a + inverse[2][1] * y1 + inverse[2][2] * y2 + inverse[2][3] * y3 + inverse[2][4] * y4;
        c3[i] += inverse[3][0] * a + inverse[3][1] * y1 + inverse[3][2] * y2 + inverse[3][3] * y3 + inverse[3][4] * y4;
        c4[i] += inverse[4][0] * a + inverse[4][1] * y1 + inverse[4][2] * y2 + inverse[4][3] * y3 + inverse[4][4] * y4;
    }
}

static void fill_gaps(optim_clock *k, int64_t end)
{
    const double now = k->decay[end + 1];
    for (int64_t i = k->live; i <= end; i++) {
        optim_gap *g = &k->gap[i];
        g->decay = (real)(now / k->decay[i]);
        g->p1 = (real)k->p1[i];
        g->p2 = (real)k->p2[i];
        for (int r = 0; r < OPTIM_NODES; r++) g->c[r] = (real)k->c[r][i];
    }
}

void ag_optim_clock_step(optim_clock *k, double lr, double decay, double beta1, double beta2)
{
    const int64_t i = k->now - k->base;
    const double t = (double)++k->now;
    k->decay[i + 1] = k->decay[i] * decay;
    k->log_beta2[i + 1] = k->log_beta2[i] + log(beta2);
    add_term(k, i, lr / (1 - pow(beta1, t)) / k->decay[i + 1], 1 / (1 - pow(beta2, t)), beta1, beta2);
    while (k->live <= i && k->p1[k->live] < 1e-10) k->live++;
    fill_gaps(k, i);
    entry_init(k, beta2);
}

optim_gap ag_optim_clock_old_gap(const optim_clock *k, int64_t last)
{
    const int64_t i = last - k->base, now = k->now - k->base;
    optim_gap g = { (real)(k->decay[now] / k->decay[i]), 0, (real)exp(k->log_beta2[now] - k->log_beta2[i]),
                    (real)k->q[i], { 0 } };
    for (int r = 0; r < OPTIM_NODES; r++) g.c[r] = (real)k->c[r][i];
    return g;
}

void ag_optim_clock_moments(const optim_clock *k, int64_t from, int64_t to, real *p1, real *p2)
{
    const int64_t i = from - k->base, j = to - k->base;
    *p1 = i >= k->live ? (real)(k->p1[i] / k->p1[j]) : 0;
    *p2 = (real)exp(k->log_beta2[j] - k->log_beta2[i]);
}
