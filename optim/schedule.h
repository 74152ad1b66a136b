/* optim/schedule.h - a hyper-parameter as a function of the position in training, 0 (first step) to 1 (behind the
 * last). The position of step i of n is i / n, read before the step; formulas and defaults are fastai's
 * (fastai/callback/schedule.py).
 *
 *     optim_schedule lr = optim_one_cycle(5e-3), mom = optim_one_cycle_momentum(.95, .85, .95);
 *     for (int64_t i = 0; i < n; i++) {
 *         optim_set_lr(opt, -1, optim_schedule_at(&lr, (double)i / n)); ... */
#ifndef AG_SCHEDULE_H
#define AG_SCHEDULE_H
#include "core/base.h"
AG_BEGIN_DECLS

/* From start to end as p goes from 0 to 1. poly: start + (end - start) p^power. */
double ag_optim_sched_lin(double start, double end, double p);
double ag_optim_sched_cos(double start, double end, double p);
double ag_optim_sched_exp(double start, double end, double p);
double ag_optim_sched_poly(double start, double end, double power, double p);
#define optim_sched_lin ag_optim_sched_lin
#define optim_sched_cos ag_optim_sched_cos
#define optim_sched_exp ag_optim_sched_exp
#define optim_sched_poly ag_optim_sched_poly

typedef enum { OPTIM_LIN, OPTIM_COS, OPTIM_EXP, OPTIM_POLY } optim_curve;
typedef struct { double share, start, end; optim_curve curve; double power; } optim_phase;   /* share of training */
enum { OPTIM_MAX_PHASES = 16 };
typedef struct { int n; optim_phase phase[OPTIM_MAX_PHASES]; } optim_schedule;

/* The value at a position; before 0 the first value, from 1 on the last. */
double ag_optim_schedule_at(const optim_schedule *s, double position);
#define optim_schedule_at ag_optim_schedule_at

typedef struct { AG_NAMED_OPTIONS; double div, div_final, pct_start; } optim_one_cycle_opts;
/* Cosine from lr/.div up to lr over the first .pct_start of training, then down to lr/.div_final.
 *   .div 25   .div_final 1e5   .pct_start 0.25                            (fit_one_cycle) */
optim_schedule ag_optim_one_cycle(double lr, optim_one_cycle_opts opts);
#define optim_one_cycle(...) ag_optim_one_cycle(AG_HEAD(__VA_ARGS__), AG_OPTS(optim_one_cycle_opts, __VA_ARGS__))
/* Cosine start -> middle -> end with the same turning point; fastai's momenta are .95, .85, .95. */
optim_schedule ag_optim_combined_cos(double pct_start, double start, double middle, double end);
#define optim_combined_cos ag_optim_combined_cos
#define optim_one_cycle_momentum(start, middle, end) ag_optim_combined_cos(0.25, start, middle, end)
/* lr for the first .pct_start (0.75) of training, then cosine to lr/.div_final (1e5). (fit_flat_cos) */
optim_schedule ag_optim_flat_cos(double lr, optim_one_cycle_opts opts);
#define optim_flat_cos(...) ag_optim_flat_cos(AG_HEAD(__VA_ARGS__), AG_OPTS(optim_one_cycle_opts, __VA_ARGS__))
optim_schedule ag_optim_cosine(double start, double end);
optim_schedule ag_optim_linear(double start, double end);
#define optim_cosine ag_optim_cosine
#define optim_linear ag_optim_linear
/* Warm restarts (fit_sgdr): n cycles of cosine from lr to 0, each `mult` times as long as the one before. */
optim_schedule ag_optim_sgdr_(const char *at, double lr, int cycles, double mult);
#define optim_sgdr(lr, cycles, mult) ag_optim_sgdr_(AG_HERE, lr, cycles, mult)
/* Linear from `from` to the value s starts with over the first `share` of training; s itself is squeezed into the
 * rest. 0 <= share < 1. */
optim_schedule ag_optim_warmup_(const char *at, double from, double share, const optim_schedule *s);
#define optim_warmup(from, share, s) ag_optim_warmup_(AG_HERE, from, share, s)
/* Any phases one after another; their shares must add up to 1 (1e-6). (combine_scheds) */
optim_schedule ag_optim_combine_(const char *at, int n, const optim_phase *phases);
#define optim_combine(n, phases) ag_optim_combine_(AG_HERE, n, phases)

AG_END_DECLS
#endif
