/* ops/ops.h - the functions a script is written with. Names, arguments and values are PyTorch's where it has them.
 *
 * Every function returns a new tensor in the innermost scope, never NULL; where a rule is broken the message names the
 * user's line, every operand with its shape, and the numbers. All are differentiable with respect to f32 inputs unless
 * said. Letters: B batch, N rows, C channels or classes, K inner, D width. */
#ifndef AG_OPS_H
#define AG_OPS_H
#include "core/tensor.h"
AG_BEGIN_DECLS

/* ---- elementwise, one input: one row each of elementwise.def ------------------------------------------- */
#define AG_UNARY(name, y, dx, domain) ag_tensor *ag_##name##_(const char *at, ag_tensor *x) AG_PURE;
#define AG_UNARY1(name, y, dx, domain) ag_tensor *ag_##name##_(const char *at, ag_tensor *x, double a) AG_PURE;
#define AG_UNARY2(name, y, dx, domain) ag_tensor *ag_##name##_(const char *at, ag_tensor *x, double a, double b) AG_PURE;
#define AG_BINARY(name, y, da, db, domain) ag_tensor *ag_##name##_(const char *at, ag_tensor *a, ag_tensor *b) AG_PURE;
#define AG_COMPARE(name, y) ag_tensor *ag_##name##_(const char *at, ag_tensor *a, ag_tensor *b) AG_PURE;
#include "ops/elementwise.def"
#define ag_neg(x) ag_neg_(AG_HERE, x)
#define ag_abs(x) ag_abs_(AG_HERE, x)                       /* gradient 0 at 0 */
#define ag_exp(x) ag_exp_(AG_HERE, x)
#define ag_log(x) ag_log_(AG_HERE, x)
#define ag_sqrt(x) ag_sqrt_(AG_HERE, x)
#define ag_rsqrt(x) ag_rsqrt_(AG_HERE, x)
#define ag_square(x) ag_square_(AG_HERE, x)
#define ag_sigmoid(x) ag_sigmoid_(AG_HERE, x)
#define ag_tanh(x) ag_tanh_(AG_HERE, x)
#define ag_relu(x) ag_relu_(AG_HERE, x)
#define ag_gelu(x) ag_gelu_(AG_HERE, x)                     /* exact: x Phi(x) */
#define ag_gelu_tanh(x) ag_gelu_tanh_(AG_HERE, x)           /* F.gelu(approximate="tanh") */
#define ag_silu(x) ag_silu_(AG_HERE, x)
#define ag_relu6(x) ag_relu6_(AG_HERE, x)                   /* clamp(x, 0, 6), gradient 0 on the bounds */
#define ag_hardsigmoid(x) ag_hardsigmoid_(AG_HERE, x)       /* relu6(x + 3) / 6 */
#define ag_hardswish(x) ag_hardswish_(AG_HERE, x)           /* x hardsigmoid(x) */
#define ag_add_scalar(x, a) ag_add_scalar_(AG_HERE, x, a)
#define ag_scale(x, a) ag_scale_(AG_HERE, x, a)             /* a x */
#define ag_pow(x, a) ag_pow_(AG_HERE, x, a)                 /* x^a, a constant */
#define ag_clamp(x, lo, hi) ag_clamp_(AG_HERE, x, lo, hi)   /* gradient 1 inside and on the bounds */
#define ag_sigmoid_range(x, lo, hi) ag_sigmoid_range_(AG_HERE, x, lo, hi)   /* sigmoid(x) (hi - lo) + lo (fastai) */

/* ---- elementwise, two inputs, broadcast as NumPy does -------------------------------------------------- */
#define ag_add(a, b) ag_add_(AG_HERE, a, b)
#define ag_sub(a, b) ag_sub_(AG_HERE, a, b)
#define ag_mul(a, b) ag_mul_(AG_HERE, a, b)
#define ag_div(a, b) ag_div_(AG_HERE, a, b)
#define ag_maximum(a, b) ag_maximum_(AG_HERE, a, b)         /* ties: half the gradient to each */
#define ag_minimum(a, b) ag_minimum_(AG_HERE, a, b)
/* Comparisons give u8 zeros and ones; f32 or integer operands of one dtype; no gradient. */
#define ag_eq(a, b) ag_eq_(AG_HERE, a, b)
#define ag_ne(a, b) ag_ne_(AG_HERE, a, b)
#define ag_lt(a, b) ag_lt_(AG_HERE, a, b)
#define ag_le(a, b) ag_le_(AG_HERE, a, b)
#define ag_gt(a, b) ag_gt_(AG_HERE, a, b)
#define ag_ge(a, b) ag_ge_(AG_HERE, a, b)
/* where(u8 mask, a, b), all three broadcast. */
ag_tensor *ag_where_(const char *at, ag_tensor *mask, ag_tensor *a, ag_tensor *b) AG_PURE;
#define ag_where(mask, a, b) ag_where_(AG_HERE, mask, a, b)

/* ---- reductions over .axes = AG_AXES(...) (default all), .keepdim -------------------------------------- */
typedef struct { AG_NAMED_OPTIONS; uint32_t axes; bool keepdim; int correction; } ag_reduce_opts;
#define AG_REDUCTION(name) ag_tensor *ag_##name##_(const char *at, ag_tensor *x, ag_reduce_opts opts) AG_PURE;
AG_REDUCTION(sum) AG_REDUCTION(mean) AG_REDUCTION(max) AG_REDUCTION(min)    /* max, min: first of equals gets the gradient */
AG_REDUCTION(var)                           /* .correction: 0 (default) divides by n, 1 by n-1 (torch's default) */
AG_REDUCTION(logsumexp)
#define ag_sum(...) ag_sum_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_reduce_opts, __VA_ARGS__))
#define ag_mean(...) ag_mean_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_reduce_opts, __VA_ARGS__))
#define ag_max(...) ag_max_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_reduce_opts, __VA_ARGS__))
#define ag_min(...) ag_min_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_reduce_opts, __VA_ARGS__))
#define ag_var(...) ag_var_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_reduce_opts, __VA_ARGS__))
#define ag_logsumexp(...) ag_logsumexp_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_reduce_opts, __VA_ARGS__))
ag_tensor *ag_argmax_(const char *at, ag_tensor *x, int axis) AG_PURE;      /* i64, first of equals; no gradient */
#define ag_argmax(x, axis) ag_argmax_(AG_HERE, x, axis)

/* ---- matrices ------------------------------------------------------------------------------------------ */
/* a [..., N, K] x b [..., K, M] -> [..., N, M]; leading axes broadcast; transposed views cost no copy. torch.matmul for
 * two or more axes. f32 or bf16 (f32 accumulation). */
ag_tensor *ag_matmul_(const char *at, ag_tensor *a, ag_tensor *b) AG_PURE;
#define ag_matmul(a, b) ag_matmul_(AG_HERE, a, b)
/* What an op can apply to its result in the same pass. */
typedef enum {
    AG_LINEAR_PLAIN, AG_LINEAR_GELU, AG_LINEAR_RELU, AG_LINEAR_RELU6, AG_LINEAR_HARDSWISH, AG_LINEAR_SILU, AG_ACTIVATIONS
} ag_activation;
typedef struct { AG_NAMED_OPTIONS; ag_tensor *bias; ag_activation activation; } ag_linear_opts;
/* x [..., K] weight [M, K] .bias [M] -> [..., M], with .activation fused. F.linear */
ag_tensor *ag_linear_(const char *at, ag_tensor *x, ag_tensor *weight, ag_linear_opts opts) AG_PURE;
#define ag_linear(x, ...) ag_linear_(AG_HERE, x, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_linear_opts, __VA_ARGS__))

/* ---- indexing ------------------------------------------------------------------------------------------ */
/* weight [N, D], ids i64 [...] -> [..., D]. An id outside 0..N-1 is an error naming position and value. With
 * weight->sparse_grad the gradient arrives in weight->rows. F.embedding */
ag_tensor *ag_embedding_(const char *at, ag_tensor *weight, ag_tensor *ids) AG_PURE;
#define ag_embedding(weight, ids) ag_embedding_(AG_HERE, weight, ids)
typedef struct { AG_NAMED_OPTIONS; double lo, hi; } ag_dot_opts;
/* s[b] = sum_k U[u,k] I[i,k] (+ bu[u] + bi[i] when given), ids i64 [B, 2] -> [B]: the recommender in one op; NULL, NULL for no
 * biases (bu [n_users, 1], bi [n_items, 1]). With .lo < .hi the result is ag_sigmoid_range(s, lo, hi). */
ag_tensor *ag_dot_bias_(const char *at, ag_tensor *users, ag_tensor *items, ag_tensor *user_bias, ag_tensor *item_bias,
                        ag_tensor *ids, ag_dot_opts opts) AG_PURE;
#define ag_dot_bias(users, items, user_bias, item_bias, ...) \
    ag_dot_bias_(AG_HERE, users, items, user_bias, item_bias, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_dot_opts, __VA_ARGS__))
/* out[..i..] = x[..index[..i..]..] along axis; index i64 with x's number of axes. torch.gather */
ag_tensor *ag_gather_(const char *at, ag_tensor *x, int axis, ag_tensor *index) AG_PURE;
#define ag_gather(x, axis, index) ag_gather_(AG_HERE, x, axis, index)
ag_tensor *ag_concat_(const char *at, int axis, int n, ag_tensor **x) AG_PURE;      /* torch.cat */
ag_tensor *ag_stack_(const char *at, int axis, int n, ag_tensor **x) AG_PURE;       /* torch.stack: a new axis */
#define ag_concat(axis, ...) ag_concat_(AG_HERE, axis, AG_INPUTS(__VA_ARGS__))
#define ag_stack(axis, ...) ag_stack_(AG_HERE, axis, AG_INPUTS(__VA_ARGS__))
#ifndef AG_INPUTS
#define AG_INPUTS(...) AG_NARGS(__VA_ARGS__), (ag_tensor *[]){__VA_ARGS__}
#endif
ag_tensor *ag_one_hot_(const char *at, ag_tensor *ids, int64_t classes) AG_PURE;    /* i64 [...] -> f32 [..., classes] */
#define ag_one_hot(ids, classes) ag_one_hot_(AG_HERE, ids, classes)
/* Positions of the k largest along the last axis, largest first, i64 (argsort: all, .ascending). Values: ag_gather. */
ag_tensor *ag_argtopk_(const char *at, ag_tensor *x, int64_t k) AG_PURE;
ag_tensor *ag_argsort_(const char *at, ag_tensor *x, bool descending) AG_PURE;      /* stable */
ag_tensor *ag_topk_(const char *at, ag_tensor *x, int64_t k, ag_tensor **indices) AG_PURE;      /* values; indices may be NULL */
ag_tensor *ag_sort_(const char *at, ag_tensor *x, bool descending, ag_tensor **indices) AG_PURE;
#define ag_argtopk(x, k) ag_argtopk_(AG_HERE, x, k)
#define ag_argsort(x, descending) ag_argsort_(AG_HERE, x, descending)
#define ag_topk(x, k, indices) ag_topk_(AG_HERE, x, k, indices)
#define ag_sort(x, descending, indices) ag_sort_(AG_HERE, x, descending, indices)

/* ---- shapes: views where possible, no copy ------------------------------------------------------------- */
ag_tensor *ag_reshape_(const char *at, ag_tensor *x, ag_shape shape) AG_PURE;       /* one size may be -1; copies if it must */
ag_tensor *ag_permute_(const char *at, ag_tensor *x, ag_shape axes) AG_PURE;
ag_tensor *ag_transpose_(const char *at, ag_tensor *x, int axis0, int axis1) AG_PURE;
ag_tensor *ag_expand_(const char *at, ag_tensor *x, ag_shape shape) AG_PURE;        /* size-1 axes repeated, stride 0 */
ag_tensor *ag_slice_(const char *at, ag_tensor *x, int axis, int64_t begin, int64_t end) AG_PURE;  /* negative from the end */
ag_tensor *ag_select_(const char *at, ag_tensor *x, int axis, int64_t index) AG_PURE;       /* the axis goes away */
#define ag_reshape(x, ...) ag_reshape_(AG_HERE, x, AG_SHAPE(__VA_ARGS__))
#define ag_permute(x, ...) ag_permute_(AG_HERE, x, AG_SHAPE(__VA_ARGS__))
#define ag_transpose(x, axis0, axis1) ag_transpose_(AG_HERE, x, axis0, axis1)
#define ag_expand(x, ...) ag_expand_(AG_HERE, x, AG_SHAPE(__VA_ARGS__))
#define ag_slice(x, axis, begin, end) ag_slice_(AG_HERE, x, axis, begin, end)
#define ag_select(x, axis, index) ag_select_(AG_HERE, x, axis, index)
#define ag_column(x, index) ag_select_(AG_HERE, x, 1, index)
/* Constant padding of one axis. F.pad */
ag_tensor *ag_pad_(const char *at, ag_tensor *x, int axis, int64_t before, int64_t after, double value) AG_PURE;
#define ag_pad(x, axis, before, after, value) ag_pad_(AG_HERE, x, axis, before, after, value)

/* ---- distributions and losses -------------------------------------------------------------------------- */
ag_tensor *ag_softmax_(const char *at, ag_tensor *x, int axis) AG_PURE;
ag_tensor *ag_log_softmax_(const char *at, ag_tensor *x, int axis) AG_PURE;
#define ag_softmax(x, axis) ag_softmax_(AG_HERE, x, axis)
#define ag_log_softmax(x, axis) ag_log_softmax_(AG_HERE, x, axis)

typedef enum { AG_MEAN, AG_SUM, AG_NONE } ag_reduction;     /* of a loss over its elements; mean is the default */
typedef struct { AG_NAMED_OPTIONS; ag_reduction reduction; ag_tensor *weight; double label_smoothing, delta,
                 gamma; } ag_loss_opts;
#define AG_LOSS(name) ag_tensor *ag_##name##_(const char *at, ag_tensor *x, ag_tensor *target, ag_loss_opts opts) AG_PURE;
/* cross_entropy: logits [N, C]; target i64 [N], or f32 [N, C] probabilities; .weight [C], .label_smoothing as in
 * F.cross_entropy (the mean is weighted). nll: the same on log-probabilities, i64 targets. mse, l1, huber (.delta, default 1),
 * bce_with_logits (.weight: pos_weight [C]): target of x's shape. focal: the mean over samples of
 * (1 - p_t)^.gamma (default 2) x cross-entropy x .weight[t], p by softmax (fastai's; torchvision's is of sigmoids). */
AG_LOSS(cross_entropy) AG_LOSS(nll_loss) AG_LOSS(mse_loss) AG_LOSS(l1_loss) AG_LOSS(huber_loss) AG_LOSS(bce_with_logits)
AG_LOSS(focal_loss)
/* Prints how the cross-entropy of logits [C] and a class, or [N, C] and classes [N], comes about: a line for each class with its
 * output, exp, softmax, 1 for the target, and -log of the softmax there; the sums; the mean over rows, which it returns.
 *   .names   of the C classes (their numbers) */
typedef struct { AG_NAMED_OPTIONS; const char *const *names; } ag_explain_opts;
double ag_explain_cross_entropy_(const char *at, ag_tensor *logits, ag_tensor *target, ag_explain_opts opts);
#define ag_explain_cross_entropy(logits, ...) \
    ag_explain_cross_entropy_(AG_HERE, logits, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_explain_opts, __VA_ARGS__))
#define ag_cross_entropy(x, ...) ag_cross_entropy_(AG_HERE, x, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_loss_opts, __VA_ARGS__))
#define ag_nll_loss(x, ...) ag_nll_loss_(AG_HERE, x, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_loss_opts, __VA_ARGS__))
#define ag_focal_loss(x, ...) ag_focal_loss_(AG_HERE, x, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_loss_opts, __VA_ARGS__))
#define ag_mse_loss(x, ...) ag_mse_loss_(AG_HERE, x, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_loss_opts, __VA_ARGS__))
#define ag_l1_loss(x, ...) ag_l1_loss_(AG_HERE, x, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_loss_opts, __VA_ARGS__))
#define ag_huber_loss(x, ...) ag_huber_loss_(AG_HERE, x, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_loss_opts, __VA_ARGS__))
#define ag_bce_with_logits(x, ...) ag_bce_with_logits_(AG_HERE, x, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_loss_opts, __VA_ARGS__))

/* Zeroes a share p of the elements and scales the rest by 1/(1-p); the mask is a function of (key, element), recomputed
 * in backward. key: ag_rng_draw(). Evaluation is the caller's choice (nn_dropout). F.dropout */
ag_tensor *ag_dropout_(const char *at, ag_tensor *x, double p, uint64_t key) AG_PURE;
#define ag_dropout(x, p, key) ag_dropout_(AG_HERE, x, p, key)
/* Cosine of the angle along an axis, eps 1e-8, a and b broadcast. F.cosine_similarity */
ag_tensor *ag_cosine_similarity_(const char *at, ag_tensor *a, ag_tensor *b, int axis) AG_PURE;
#define ag_cosine_similarity(a, b, axis) ag_cosine_similarity_(AG_HERE, a, b, axis)

/* ---- normalisation over the last axis or over all others ----------------------------------------------- */
typedef struct { AG_NAMED_OPTIONS; ag_tensor *weight, *bias; double eps; } ag_layer_norm_opts;
/* Over the last axis, .eps 1e-5, population variance; x f32 or bf16. F.layer_norm */
ag_tensor *ag_layer_norm_(const char *at, ag_tensor *x, ag_layer_norm_opts opts) AG_PURE;
#define ag_layer_norm(...) ag_layer_norm_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_layer_norm_opts, __VA_ARGS__))
/*   .training   normalise by the statistics of x and update running_mean, running_var in place (.momentum 0.1; unbiased
 *               variance); else by the running ones
 *   .residual   of x's shape, added to the result       .activation of that sum; both in the same pass
 *   .eps 1e-5 */
typedef struct {
    AG_NAMED_OPTIONS;
    ag_tensor *weight, *bias;
    bool training;
    double momentum, eps;
    ag_tensor *residual;
    ag_activation activation;
} ag_batch_norm_opts;
/* x [..., C], f32 or bf16, per channel over all other axes; running_mean, running_var [C]. F.batch_norm */
ag_tensor *ag_batch_norm_(const char *at, ag_tensor *x, ag_tensor *running_mean, ag_tensor *running_var,
                          ag_batch_norm_opts opts) AG_PURE;
#define ag_batch_norm(x, mean, ...) \
    ag_batch_norm_(AG_HERE, x, mean, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_batch_norm_opts, __VA_ARGS__))

AG_END_DECLS
#endif
