/* optim/schedule.c - learning-rate and momentum curves: pieces of a few elementary curves. */
#include <math.h>
#include "optim/schedule.h"

double ag_optim_sched_lin(double start, double end, double p)
{
    return start + p * (end - start);
}

double ag_optim_sched_cos(double start, double end, double p)
{
    return start + (1 + cos(3.14159265358979323846 * (1 - p))) * (end - start) / 2;
}

double ag_optim_sched_exp(double start, double end, double p)
{
    return start * pow(end / start, p);
}

double ag_optim_sched_poly(double start, double end, double power, double p)
{
    return start + (end - start) * pow(p, power);
}

static double phase_at(const optim_phase *f, double p)
{
    switch (f->curve) {
    case OPTIM_COS: return ag_optim_sched_cos(f->start, f->end, p);
    case OPTIM_EXP: return ag_optim_sched_exp(f->start, f->end, p);
    case OPTIM_POLY: return ag_optim_sched_poly(f->start, f->end, f->power, p);
    case OPTIM_LIN: break;
    }
    return ag_optim_sched_lin(f->start, f->end, p);
}

double ag_optim_schedule_at(const optim_schedule *s, double position)
{
    double begin = 0;
    int i = 0;
    for (; i + 1 < s->n && position >= begin + s->phase[i].share; i++) begin += s->phase[i].share;
    const double share = s->phase[i].share, p = share > 0 ? (position - begin) / share : 1;
    return phase_at(&s->phase[i], p < 0 ? 0 : p > 1 ? 1 : p);
}

optim_schedule ag_optim_combined_cos(double pct_start, double start, double middle, double end)
{
    return (optim_schedule){ 2, { { pct_start, start, middle, OPTIM_COS, 0 },
                                  { 1 - pct_start, middle, end, OPTIM_COS, 0 } } };
}

optim_schedule ag_optim_one_cycle(double lr, optim_one_cycle_opts o)
{
    const double div = o.div ? o.div : 25, div_final = o.div_final ? o.div_final : 1e5;
    return ag_optim_combined_cos(o.pct_start ? o.pct_start : 0.25, lr / div, lr, lr / div_final);
}

optim_schedule ag_optim_flat_cos(double lr, optim_one_cycle_opts o)
{
    const double div_final = o.div_final ? o.div_final : 1e5;
    return ag_optim_combined_cos(o.pct_start ? o.pct_start : 0.75, lr, lr, lr / div_final);
}

optim_schedule ag_optim_cosine(double start, double end)
{
    return (optim_schedule){ 1, { { 1, start, end, OPTIM_COS, 0 } } };
}

optim_schedule ag_optim_linear(double start, double end)
{
    return (optim_schedule){ 1, { { 1, start, end, OPTIM_LIN, 0 } } };
}

optim_schedule ag_optim_sgdr_(const char *at, double lr, int cycles, double mult)
{
    if (cycles < 1 || cycles > OPTIM_MAX_PHASES || !(mult > 0))
        ag_fail(at, "optim_sgdr: needs 1 to %d cycles (got %d), each a positive multiple of the one before (got %g)",
                OPTIM_MAX_PHASES, cycles, mult);
    optim_schedule s = { .n = cycles };
    double total = 0, length = 1;
    for (int i = 0; i < cycles; i++, length *= mult) total += length;
    length = 1;
    for (int i = 0; i < cycles; i++, length *= mult) s.phase[i] = (optim_phase){ length / total, lr, 0, OPTIM_COS, 0 };
    return s;
}

optim_schedule ag_optim_combine_(const char *at, int n, const optim_phase *phases)
{
    if (n < 1 || n > OPTIM_MAX_PHASES)
        ag_fail(at, "optim_combine: needs 1 to %d phases (got %d)", OPTIM_MAX_PHASES, n);
    optim_schedule s = { .n = n };
    double total = 0;
    for (int i = 0; i < n; i++) {
        if (!(phases[i].share >= 0))
            ag_fail(at, "optim_combine: phase %d has share %g; shares are parts of training, 0 to 1", i, phases[i].share);
        total += phases[i].share;
        s.phase[i] = phases[i];
    }
    if (!(fabs(total - 1) < 1e-6)) ag_fail(at, "optim_combine: the shares of %d phases add up to %g, not 1", n, total);
    return s;
}

optim_schedule ag_optim_warmup_(const char *at, double from, double share, const optim_schedule *s)
{
    if (!(share >= 0 && share < 1) || s->n >= OPTIM_MAX_PHASES)
        ag_fail(at, "optim_warmup: share %g is not in [0, 1), or the schedule has %d phases already", share, s->n);
    optim_schedule w = { .n = s->n + 1, .phase = { { share, from, ag_optim_schedule_at(s, 0), OPTIM_LIN, 0 } } };
    for (int i = 0; i < s->n; i++) {
        w.phase[i + 1] = s->phase[i];
        w.phase[i + 1].share *= 1 - share;
    }
    return w;
}
