/* optim/optim.h - optimizers: from gradients to better parameters.
 *
 *     optim *opt = optim_adamw(net, 5e-3, .weight_decay = 0.1);
 *     ag_backward(loss);
 *     optim_clip_norm(opt, 1.0);          optional
 *     optim_step(opt);                    applies the gradients and empties them
 *
 * Names and defaults are PyTorch's unless said; `.fastai = true` selects fastai's. An optimizer belongs to the
 * innermost scope and must not outlive its module. A parameter is left as it is while it is frozen (requires_grad
 * false) or when no gradient reached it since the last step; its bias correction counts its own steps.
 *
 * Weight decay: `weight_decay` is 0 by default everywhere (PyTorch's AdamW: 0.01). As in fastai, biases (parameters
 * whose last name is "bias") and the parameters of normalisation layers are decayed only with .wd_bn_bias = true.
 * Decoupled: w *= 1 - lr wd before the step. L2: g += wd w.
 *
 * Row gradients (nn_embedding with .sparse = true): SGD without momentum touches only the rows of the batch; Adam and
 * AdamW without L2 decay are computed lazily, with the same results as dense ones: a row that was not read keeps
 * its old values until it is read again and then makes up for all missed steps in closed form (optim/lazy.h). An
 * embedding lookup does that by itself; whoever reads a table whole (saving, similarity of all films) calls
 * optim_flush first. All other optimizers turn row gradients into dense ones. */
#ifndef AG_OPTIM_H
#define AG_OPTIM_H
#include "core/safetensors.h"
#include "core/tensor.h"
AG_BEGIN_DECLS

typedef struct nn_module nn_module;
typedef struct optim optim;

enum { OPTIM_MAX_GROUPS = 15 };

/* A parameter group: the parameters whose names match one of the space-separated patterns ("body.* stem.*").
 *   .lr_mult       its rate is this times the rate set for the group; 0: 1
 *   .weight_decay  instead of the optimizer's; 0: the optimizer's
 *   .no_decay      no decay at all */
typedef struct { const char *params; double lr_mult, weight_decay; bool no_decay; } optim_group;
typedef struct { optim_group group[OPTIM_MAX_GROUPS]; } optim_group_list;
/* .groups = OPTIM_GROUPS({ .params = "body.*" }, { .params = "head.*", .weight_decay = 0.1 }): the first group that matches takes
 * the parameter; those that match none form one more, last group. Default: one group of everything. */
#define OPTIM_GROUPS(...) AG_LIT(optim_group_list, { __VA_ARGS__ })

/* What every optimizer takes besides its own. */
#define OPTIM_COMMON double weight_decay; bool wd_bn_bias, fastai; optim_group_list groups

/* ---- making -----------------------------------------------------------------------------------------------
 * All fail on a negative or NaN option, on a group that matches no parameter, on a module without parameters. */

typedef struct { AG_NAMED_OPTIONS; double momentum; bool nesterov, l2; OPTIM_COMMON; } optim_sgd_opts;
/* .momentum  a = mom a + g (the first a = g); w -= lr a           .nesterov  w -= lr (g + mom a)
 * .l2        weight decay is added to the gradient (torch.optim.SGD); default: decoupled (fastai) */
#define optim_sgd(net, ...) ag_optim_sgd_(AG_HERE, net, AG_HEAD(__VA_ARGS__), AG_OPTS(optim_sgd_opts, __VA_ARGS__))
optim *ag_optim_sgd_(const char *at, nn_module *net, double lr, optim_sgd_opts opts) AG_PURE;

typedef struct { AG_NAMED_OPTIONS; double beta1, beta2, eps; bool l2; OPTIM_COMMON; } optim_adam_opts;
/* m = b1 m + (1-b1) g; v = b2 v + (1-b2) g g; w -= lr/(1-b1^t) m / (sqrt(v/(1-b2^t)) + eps)
 *   .beta1 0.9  .beta2 0.999  .eps 1e-8        .fastai: 0.9, 0.99, 1e-5 and weight decay 0.01
 * adam: weight decay is L2; adamw: decoupled. (torch.optim.Adam, AdamW; fastai.Adam is adamw with .fastai) */
#define optim_adam(net, ...) ag_optim_adam_(AG_HERE, net, AG_HEAD(__VA_ARGS__), AG_OPTS(optim_adam_opts, __VA_ARGS__))
optim *ag_optim_adam_(const char *at, nn_module *net, double lr, optim_adam_opts opts) AG_PURE;
#define optim_adamw(net, ...) ag_optim_adamw_(AG_HERE, net, AG_HEAD(__VA_ARGS__), AG_OPTS(optim_adam_opts, __VA_ARGS__))
optim *ag_optim_adamw_(const char *at, nn_module *net, double lr, optim_adam_opts opts) AG_PURE;
/* adamw that insists on being lazy: every 2-axis parameter whose module is an embedding gets row gradients. */
#define optim_lazy_adamw(net, ...) \
    ag_optim_lazy_adamw_(AG_HERE, net, AG_HEAD(__VA_ARGS__), AG_OPTS(optim_adam_opts, __VA_ARGS__))
optim *ag_optim_lazy_adamw_(const char *at, nn_module *net, double lr, optim_adam_opts opts) AG_PURE;
/* Adam whose moments move only where a row has a gradient (torch.optim.SparseAdam): cheap and not equal to Adam.
 * Parameters with dense gradients take plain Adam steps. Takes no weight decay. */
#define optim_sparse_adam(net, ...) \
    ag_optim_sparse_adam_(AG_HERE, net, AG_HEAD(__VA_ARGS__), AG_OPTS(optim_adam_opts, __VA_ARGS__))
optim *ag_optim_sparse_adam_(const char *at, nn_module *net, double lr, optim_adam_opts opts) AG_PURE;
/* Rectified Adam (Liu et al. 2020), torch.optim.RAdam; decoupled decay unless .l2; .fastai: 0.9, 0.99, 1e-5, decay 0. */
#define optim_radam(net, ...) ag_optim_radam_(AG_HERE, net, AG_HEAD(__VA_ARGS__), AG_OPTS(optim_adam_opts, __VA_ARGS__))
optim *ag_optim_radam_(const char *at, nn_module *net, double lr, optim_adam_opts opts) AG_PURE;
/* LAMB as fastai's: the Adam step of a parameter scaled by min(10, rms(w)/rms(step)); .beta2 0.99, .eps 1e-5;
 * decoupled decay unless .l2. */
#define optim_lamb(net, ...) ag_optim_lamb_(AG_HERE, net, AG_HEAD(__VA_ARGS__), AG_OPTS(optim_adam_opts, __VA_ARGS__))
optim *ag_optim_lamb_(const char *at, nn_module *net, double lr, optim_adam_opts opts) AG_PURE;

typedef struct { AG_NAMED_OPTIONS; double alpha, eps, momentum; bool l2; OPTIM_COMMON; } optim_rmsprop_opts;
/* v = alpha v + (1-alpha) g g; w -= lr g / (sqrt(v) + eps); .alpha 0.99, .eps 1e-8. (torch.optim.RMSprop)
 *   .momentum  a = mom a + g / (sqrt(v) + eps); w -= lr a        .fastai  a = mom a + g; w -= lr a / (sqrt(v) + eps)
 * Decoupled decay unless .l2. */
#define optim_rmsprop(net, ...) \
    ag_optim_rmsprop_(AG_HERE, net, AG_HEAD(__VA_ARGS__), AG_OPTS(optim_rmsprop_opts, __VA_ARGS__))
optim *ag_optim_rmsprop_(const char *at, nn_module *net, double lr, optim_rmsprop_opts opts) AG_PURE;

/* ---- using --------------------------------------------------------------------------------------------- */

/* One step with the gradients gathered since the last one, which are emptied. */
#define optim_step(opt) ag_optim_step_(AG_HERE, opt)
void ag_optim_step_(const char *at, optim *opt);
#define optim_zero_grad ag_optim_zero_grad
void ag_optim_zero_grad(optim *opt);
/* Scales all gradients so that their common 2-norm is at most `max`; returns the norm before. Rows that repeat within
 * the batch are merged first, so row gradients give the dense gradient's norm. (torch's clip_grad_norm_) */
#define optim_clip_norm(opt, max) ag_optim_clip_norm_(AG_HERE, opt, max)
double ag_optim_clip_norm_(const char *at, optim *opt, double max);
/* Lazy rows make up for their missed steps, in all tables: to be called before a table is saved, read whole or
 * overwritten. Cheap when nothing is behind. */
#define optim_flush ag_optim_flush
void optim_flush(optim *opt);

/* ---- rates and momentum -------------------------------------------------------------------------------- */

#define optim_groups ag_optim_groups
int optim_groups(const optim *opt);
/* The rate of a group (-1: of every group), before its lr_mult; takes effect at the next step. */
#define optim_set_lr(opt, group, lr) ag_optim_set_lr_(AG_HERE, opt, group, lr)
void ag_optim_set_lr_(const char *at, optim *opt, int group, double lr);
/* fastai's slices: geometric from lo (group 0) to hi (last group); lo == 0: hi for the last group, hi/10 for the others. */
#define optim_set_lrs(opt, lo, hi) ag_optim_set_lrs_(AG_HERE, opt, lo, hi)
void ag_optim_set_lrs_(const char *at, optim *opt, double lo, double hi);
#define optim_lr(opt, group) ag_optim_lr_(AG_HERE, opt, group)
double ag_optim_lr_(const char *at, const optim *opt, int group);
/* beta1 of the Adam family, momentum of SGD and RMSProp; ignored by an optimizer made without momentum. */
#define optim_set_momentum(opt, m) ag_optim_set_momentum_(AG_HERE, opt, m)
void ag_optim_set_momentum_(const char *at, optim *opt, double m);
#define optim_momentum ag_optim_momentum
double optim_momentum(const optim *opt);
#define optim_set_weight_decay(opt, wd) ag_optim_set_weight_decay_(AG_HERE, opt, wd)
/* Of the optimizer; groups with an own weight decay keep it. */
void ag_optim_set_weight_decay_(const char *at, optim *opt, double wd);
#define optim_steps ag_optim_steps
int64_t optim_steps(const optim *opt);              /* how often optim_step was called */

/* Trains the groups from `group` on only; 0: all. Parameters of normalisation layers are trained in any case. (fastai's
 * freeze_to) */
#define optim_freeze_to(opt, group) ag_optim_freeze_to_(AG_HERE, opt, group)
void ag_optim_freeze_to_(const char *at, optim *opt, int group);

/* ---- state, for checkpoints ---------------------------------------------------------------------------- */

/* Tensors under PyTorch's names behind the parameter's: "user.weight.exp_avg", ".exp_avg_sq", ".momentum_buffer",
 * ".square_avg", ".step" (i64). They are the optimizer's own memory. Flushes. */
#define optim_state_count ag_optim_state_count
int64_t optim_state_count(const optim *opt);
#define optim_state_at(opt, i) ag_optim_state_at_(AG_HERE, opt, i)
ag_named ag_optim_state_at_(const char *at, optim *opt, int64_t i);
/* Reads every tensor of optim_state_at under prefix + its name. Fails, changing nothing, on a missing name or another
 * shape. optim_steps is the largest of the parameters' steps afterwards. */
#define optim_load_state(opt, f, prefix) ag_optim_load_state_(AG_HERE, opt, f, prefix)
void ag_optim_load_state_(const char *at, optim *opt, const ag_safetensors *f, const char *prefix);
/* To be called after the state tensors were written by other means (ag_copy): optim_steps and the lazy rows follow. */
#define optim_refresh ag_optim_refresh
void optim_refresh(optim *opt);
/* As if nothing had been trained: moments and steps zero. */
#define optim_reset ag_optim_reset
void optim_reset(optim *opt);

/* ---- averaged weights (ema.c) ---------------------------------------------------------------------------- */

/* An exponential moving average of net's parameters and f32 buffers, average = decay average + (1 - decay) value, that
 * begins with what they are now; integer buffers are copied. It belongs to the innermost scope and averages the tensors
 * that net has now: after nn_reset_classifier make another one. (timm's ModelEmaV2) */
typedef struct optim_ema optim_ema;
#define optim_ema_new(net, decay) ag_optim_ema_new_(AG_HERE, net, decay)
optim_ema *ag_optim_ema_new_(const char *at, nn_module *net, double decay) AG_PURE;
/* After optim_step. Row gradients: call optim_flush before. */
#define optim_ema_update(ema) ag_optim_ema_update_(AG_HERE, ema)
void ag_optim_ema_update_(const char *at, optim_ema *ema);
/* Exchanges the averages and net's values: once to validate or save with them, once more to train on. */
#define optim_ema_swap ag_optim_ema_swap
void optim_ema_swap(optim_ema *ema);
/* Begins anew with net's values, which are in net (not swapped) afterwards. */
#define optim_ema_reset ag_optim_ema_reset
void optim_ema_reset(optim_ema *ema);
/* The averages under net's names, their number as result; out may be NULL. Of a swapped one: net's own values. */
#define optim_ema_named ag_optim_ema_named
int64_t optim_ema_named(const optim_ema *ema, ag_named *out);

AG_END_DECLS
#endif
