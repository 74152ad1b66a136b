/* ops/vision.h - the functions of image models. Names, arguments and values are PyTorch's, images are [N, H, W, C].
 *
 * Weights of convolutions keep PyTorch's shape [out, in / groups, kh, kw]; kernels keep repacked copies of them by
 * themselves (core/op.h, ag_packed). Activations are f32 or bf16 and the result has x's dtype; weights, biases and the
 * parameters of norms are f32. Under AG_AUTOCAST(bf16) the inputs of convolutions, products and attention become bf16.
 * Letters: N images, H W rows and columns, C channels, L tokens, D width of a head. */
#ifndef AG_VISION_H
#define AG_VISION_H
#include "ops/ops.h"
AG_BEGIN_DECLS

/* ---- convolutions -------------------------------------------------------------------------------------- */

/*   .bias [O]   .stride 1   .pad 0 (zeros on all four sides)   .dilation 1   .groups 1
 *   .stride_w .pad_w .dilation_w   where the horizontal one differs (0: as the vertical; .pad_w = -1: none)
 *   .same       TensorFlow's padding: ceil(H / stride) rows, the odd pixel of padding below and to the right
 *   .activation fused, as in ag_linear */
typedef struct {
    AG_NAMED_OPTIONS;
    ag_tensor *bias;
    int stride, stride_w, pad, pad_w, dilation, dilation_w, groups;
    bool same;
    ag_activation activation;
} ag_conv2d_opts;
/* x [N, H, W, I], w [O, I / groups, kh, kw] -> [N, H', W', O], H' = (H + 2 pad - dilation (kh - 1) - 1) / stride + 1.
 * Fails where groups do not divide I and O, where w does not fit x, where the kernel is larger than the padded image. F.conv2d */
ag_tensor *ag_conv2d_(const char *at, ag_tensor *x, ag_tensor *w, ag_conv2d_opts opts) AG_PURE;
#define ag_conv2d(x, ...) ag_conv2d_(AG_HERE, x, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_conv2d_opts, __VA_ARGS__))

typedef struct { AG_NAMED_OPTIONS; ag_tensor *bias; int stride, pad, out_pad, dilation, groups; } ag_conv_transpose2d_opts;
/* x [N, H, W, I], w [I, O / groups, kh, kw] -> [N, H', W', O], H' = (H - 1) stride - 2 pad + dilation (kh - 1) + out_pad + 1.
 * F.conv_transpose2d */
ag_tensor *ag_conv_transpose2d_(const char *at, ag_tensor *x, ag_tensor *w, ag_conv_transpose2d_opts opts) AG_PURE;
#define ag_conv_transpose2d(x, ...) \
    ag_conv_transpose2d_(AG_HERE, x, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_conv_transpose2d_opts, __VA_ARGS__))

/* ---- pooling ------------------------------------------------------------------------------------------- */

/*   .stride default the kernel   .pad 0   .ceil   sizes rounded up   .exclude_pad   average over real pixels only
 *   .same   TensorFlow's padding (max: of minus infinity) */
typedef struct { AG_NAMED_OPTIONS; int stride, pad; bool ceil, exclude_pad, same; } ag_pool2d_opts;
/* Of kernel x kernel windows; the first of equal maxima gets the gradient. F.max_pool2d, F.avg_pool2d */
ag_tensor *ag_max_pool2d_(const char *at, ag_tensor *x, int kernel, ag_pool2d_opts opts) AG_PURE;
ag_tensor *ag_avg_pool2d_(const char *at, ag_tensor *x, int kernel, ag_pool2d_opts opts) AG_PURE;
#define ag_max_pool2d(x, ...) ag_max_pool2d_(AG_HERE, x, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_pool2d_opts, __VA_ARGS__))
#define ag_avg_pool2d(x, ...) ag_avg_pool2d_(AG_HERE, x, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_pool2d_opts, __VA_ARGS__))
/* To h x w, windows from floor(i H / h) to ceil((i + 1) H / h). F.adaptive_avg_pool2d, F.adaptive_max_pool2d */
ag_tensor *ag_adaptive_avg_pool2d_(const char *at, ag_tensor *x, int64_t h, int64_t w) AG_PURE;
ag_tensor *ag_adaptive_max_pool2d_(const char *at, ag_tensor *x, int64_t h, int64_t w) AG_PURE;
#define ag_adaptive_avg_pool2d(x, h, w) ag_adaptive_avg_pool2d_(AG_HERE, x, h, w)
#define ag_adaptive_max_pool2d(x, h, w) ag_adaptive_max_pool2d_(AG_HERE, x, h, w)
/* [N, H, W, C] -> [N, 2 C]: maximum, then mean, over all pixels. (fastai's AdaptiveConcatPool2d) */
ag_tensor *ag_concat_pool2d_(const char *at, ag_tensor *x) AG_PURE;
#define ag_concat_pool2d(x) ag_concat_pool2d_(AG_HERE, x)

/* ---- norms (layer_norm and batch_norm take images as they are: ops.h) ---------------------------------- */

typedef struct { AG_NAMED_OPTIONS; ag_tensor *weight, *bias; double eps; } ag_group_norm_opts;
/* x [N, ..., C]; mean and variance of each sample over `groups` runs of channels and all pixels; .weight .bias [C],
 * .eps 1e-5. F.group_norm */
ag_tensor *ag_group_norm_(const char *at, ag_tensor *x, int64_t groups, ag_group_norm_opts opts) AG_PURE;
#define ag_group_norm(x, ...) ag_group_norm_(AG_HERE, x, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_group_norm_opts, __VA_ARGS__))
/* x [N, H, W, C], weight, bias [C]: x + bias + weight x n, n = g / (mean of g over channels + 1e-6), g the 2-norm of a
 * channel over the image. Global response normalisation (Woo et al. 2023, ConvNeXt V2; timm's GlobalResponseNorm). */
ag_tensor *ag_grn_(const char *at, ag_tensor *x, ag_tensor *weight, ag_tensor *bias) AG_PURE;
#define ag_grn(x, weight, bias) ag_grn_(AG_HERE, x, weight, bias)

/* ---- the branches of residual networks ----------------------------------------------------------------- */

/*   .scale      [C], layer scale: x + scale branch
 *   .drop_path  share of samples (first axis) whose branch is dropped, the others' scaled by 1 / (1 - p); needs .key
 *   .key        ag_rng_draw() (Huang et al. 2016, stochastic depth; timm's drop_path) */
typedef struct { AG_NAMED_OPTIONS; ag_tensor *scale; double drop_path; uint64_t key; } ag_residual_opts;
/* x + branch, both [N, ..., C], in one pass. */
ag_tensor *ag_residual_(const char *at, ag_tensor *x, ag_tensor *branch, ag_residual_opts opts) AG_PURE;
#define ag_residual(x, ...) ag_residual_(AG_HERE, x, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_residual_opts, __VA_ARGS__))

/* linear(activation(linear(x, w1, b1)), w2, b2) in one op: of the hidden layer only what the activation took is kept for
 * backward, and nothing of it in evaluation. x [..., I], w1 [K, I], b1 [K], w2 [O, K], b2 [O]. The MLP of ConvNeXt and
 * transformers; .activation: AG_LINEAR_GELU. */
ag_tensor *ag_mlp_(const char *at, ag_tensor *x, ag_tensor *w1, ag_tensor *b1, ag_tensor *w2, ag_tensor *b2,
                   ag_activation activation) AG_PURE;
#define ag_mlp(x, w1, b1, w2, b2, activation) ag_mlp_(AG_HERE, x, w1, b1, w2, b2, activation)
/* ag_residual(residual, ag_mlp(x, ...), ...) in one op: the branch is never in memory, not for the gradient of .scale either. */
ag_tensor *ag_mlp_residual_(const char *at, ag_tensor *residual, ag_tensor *x, ag_tensor *w1, ag_tensor *b1, ag_tensor *w2,
                            ag_tensor *b2, ag_activation activation, ag_residual_opts opts) AG_PURE;
#define ag_mlp_residual(residual, x, w1, b1, w2, b2, ...) \
    ag_mlp_residual_(AG_HERE, residual, x, w1, b1, w2, b2, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_residual_opts, __VA_ARGS__))

/* ---- attention ----------------------------------------------------------------------------------------- */

/*   .scale   of the products, default 1 / sqrt(D)
 *   .bias    added to them before softmax: [heads or 1, L, S] or [N or 1, heads or 1, L, S]; has a gradient
 *   .mask    the same shapes with constants, e.g. of shifted windows; N may be a divisor of q's N (windows of an image
 *            lie side by side: mask of window n is n mod N)
 *   .logit_scale [heads], instead of .scale: q and k are scaled to length 1, their products by this; has a gradient
 *            (Liu et al. 2022, the cosine attention of Swin V2)
 *   .dropout share of the weights that is dropped; needs .key */
typedef struct {
    AG_NAMED_OPTIONS;
    double scale;
    ag_tensor *bias, *mask, *logit_scale;
    double dropout;
    uint64_t key;
} ag_attention_opts;
/* q [N, L, heads, D], k, v [N, S, heads, D] (views of a packed qkv cost no copy) -> [N, L, heads, D]:
 * softmax(scale q k^T + bias + mask) v, in blocks, so that no L x S matrix is kept. F.scaled_dot_product_attention */
ag_tensor *ag_attention_(const char *at, ag_tensor *q, ag_tensor *k, ag_tensor *v, ag_attention_opts opts) AG_PURE;
#define ag_attention(q, k, ...) ag_attention_(AG_HERE, q, k, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_attention_opts, __VA_ARGS__))
/* qkv [N, L, 3, heads, D], a linear layer's output seen so -> [N, L, heads, D]. Same values; one gradient, written once. */
ag_tensor *ag_attention_qkv_(const char *at, ag_tensor *qkv, ag_attention_opts opts) AG_PURE;
#define ag_attention_qkv(...) ag_attention_qkv_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_attention_opts, __VA_ARGS__))
/* qkv [N, H, W, 3, heads, D] -> [N, H, W, heads, D]: attention inside windows of size x size pixels, the image shifted
 * cyclically by -shift before and back after. Same values as ag_window_partition, ag_attention_qkv and ag_window_reverse,
 * without the copies; a linear layer on pixels commutes with them. Bias and mask as for [N windows, ...]. */
ag_tensor *ag_window_attention_(const char *at, ag_tensor *qkv, int64_t size, int64_t shift, ag_attention_opts opts) AG_PURE;
#define ag_window_attention(qkv, size, ...) \
    ag_window_attention_(AG_HERE, qkv, size, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_attention_opts, __VA_ARGS__))

/* x [N, H, W, C] -> [N (H / size) (W / size), size size, C], after a cyclic shift of the rows and columns by -shift; and back.
 * (Swin's window_partition, window_reverse, with torch.roll) */
ag_tensor *ag_window_partition_(const char *at, ag_tensor *x, int64_t size, int64_t shift) AG_PURE;
ag_tensor *ag_window_reverse_(const char *at, ag_tensor *windows, int64_t size, int64_t shift, int64_t h, int64_t w) AG_PURE;
#define ag_window_partition(x, size, shift) ag_window_partition_(AG_HERE, x, size, shift)
#define ag_window_reverse(windows, size, shift, h, w) ag_window_reverse_(AG_HERE, windows, size, shift, h, w)
/* table [(2 window - 1)^2, heads] -> [heads, window^2, window^2], of tokens i and j the row for their difference in place: a
 * .bias for ag_attention. (Swin's relative_position_bias) */
ag_tensor *ag_relative_position_bias_(const char *at, ag_tensor *table, int64_t window) AG_PURE;
#define ag_relative_position_bias(table, window) ag_relative_position_bias_(AG_HERE, table, window)
/* out[..., i, ...] = x[..., i - shift, ...], cyclically. torch.roll */
ag_tensor *ag_roll_(const char *at, ag_tensor *x, int axis, int64_t shift) AG_PURE;
#define ag_roll(x, axis, shift) ag_roll_(AG_HERE, x, axis, shift)

/* ---- resampling ---------------------------------------------------------------------------------------- */

typedef enum { AG_BILINEAR, AG_NEAREST, AG_BICUBIC } ag_interpolation;
typedef struct { AG_NAMED_OPTIONS; ag_interpolation mode; bool antialias, align_corners; } ag_interpolate_opts;
/* x [N, H, W, C] -> [N, h, w, C]. .mode AG_BILINEAR; .antialias: a wider filter where the image shrinks (not for nearest).
 * F.interpolate; cubic: a = -0.75, with antialias -0.5 */
ag_tensor *ag_interpolate_(const char *at, ag_tensor *x, int64_t h, int64_t w, ag_interpolate_opts opts) AG_PURE;
#define ag_interpolate(x, h, ...) ag_interpolate_(AG_HERE, x, h, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_interpolate_opts, __VA_ARGS__))

typedef enum { AG_PAD_REFLECTION, AG_PAD_ZEROS, AG_PAD_BORDER } ag_grid_pad;
typedef struct { AG_NAMED_OPTIONS; ag_interpolation mode; ag_grid_pad pad; bool align_corners; } ag_grid_sample_opts;
/* x [N, H, W, C], grid [N, h, w, 2] of (x, y) in -1 .. 1 -> [N, h, w, C]. .mode bilinear or nearest; .pad reflection (PyTorch's
 * default is zeros). F.grid_sample */
ag_tensor *ag_grid_sample_(const char *at, ag_tensor *x, ag_tensor *grid, ag_grid_sample_opts opts) AG_PURE;
#define ag_grid_sample(x, ...) ag_grid_sample_(AG_HERE, x, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_grid_sample_opts, __VA_ARGS__))

/* Position embeddings [1, prefix + old old, C] -> [1, prefix + h w, C]: the first `prefix` tokens as they are, the rest
 * resized as an image (bicubic with antialias). (timm's resample_abs_pos_embed) */
ag_tensor *ag_resample_positions_(const char *at, ag_tensor *positions, int64_t prefix, int64_t h, int64_t w) AG_PURE;
#define ag_resample_positions(positions, prefix, h, w) ag_resample_positions_(AG_HERE, positions, prefix, h, w)

/* ---- mixing samples, for training ---------------------------------------------------------------------- */

/* lambda [N], order i64[N]: out[n] = lambda[n] x[n] + (1 - lambda[n]) x[order[n]]; for images and for targets as f32
 * [N, classes]. (Zhang et al. 2018, mixup) */
ag_tensor *ag_mixup_(const char *at, ag_tensor *x, ag_tensor *lambda, ag_tensor *order) AG_PURE;
#define ag_mixup(x, lambda, order) ag_mixup_(AG_HERE, x, lambda, order)
/* x [N, H, W, C], box i64[N, 4] (top, left, bottom, right; half open): inside of the box x[order[n]], outside x[n]. Mix the
 * targets with ag_mixup and lambda = 1 - area / (H W). (Yun et al. 2019, CutMix) */
ag_tensor *ag_cutmix_(const char *at, ag_tensor *x, ag_tensor *box, ag_tensor *order) AG_PURE;
#define ag_cutmix(x, box, order) ag_cutmix_(AG_HERE, x, box, order)

AG_END_DECLS
#endif
