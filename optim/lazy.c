/* optim/lazy.c - the table behind lazy AdamW; the formulas are in lazy.h. */
#include "optim/lazy.h"

void ag_optim_clock_start(optim_clock *k, int64_t now, double beta2)
{
    k->now = k->base = now;
    k->decay[0] = 1;
    if (!k->there) ag_optim_clock_begin(k, now, beta2);
}

bool ag_optim_clock_full(const optim_clock *k, double decay)
{
    const int64_t i = k->now - k->base;
    return i >= OPTIM_CLOCK_SPAN || !(k->decay[i] * decay > 1e-4);
}

void ag_optim_clock_step(optim_clock *k, const optim_tick *tick)
{
    const int64_t end = k->now - k->base;
    const double t = (double)k->now + 1, beta1 = tick->beta1, beta2 = tick->beta2, now = k->decay[end] * tick->decay;
    const double gain = tick->lr / (1 - pow(beta1, t)) / now, root = 1 / (1 - pow(beta2, t));
    k->now++;
    k->decay[end + 1] = now;
    if (k->there) return;
    k->log_beta2[end + 1] = k->log_beta2[end] + log(beta2);
#pragma omp simd
    for (int64_t i = k->live; i <= end; i++) ag_optim_clock_term(k, i, gain, root, beta1, beta2);
    while (k->live <= end && k->p1[k->live] < 1e-10) k->live++;
    for (int64_t i = k->live; i <= end; i++) ag_optim_clock_fill(k, i, now);
    ag_optim_clock_enter(k, beta2);
}
