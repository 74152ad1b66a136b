/* models/models.h - whole networks, with the parameter names of fastai, timm and PyTorch. */
#ifndef AG_MODELS_H
#define AG_MODELS_H
#include "nn/nn.h"
AG_BEGIN_DECLS

/* ---- collaborative filtering: ids i64[B, 2] (user, item), both from 1 with 0 for unknown -> f32[B] ----- */

typedef struct { AG_NAMED_OPTIONS; double lo, hi; bool sparse; } model_dot_opts;
/* U[u] . I[i]; tables [users, factors] and [items, factors], N(0, 1) fmod 2 times 0.01 (fastai's DotProduct).
 *   .lo .hi   the result as sigmoid(.) (hi - lo) + lo, where hi > lo
 *   .sparse   gradients of the tables as rows, for large ones (optim/optim.h) */
#define model_dot(users, items, ...) \
    ag_model_dot_(AG_HERE, users, items, AG_HEAD(__VA_ARGS__), AG_OPTS(model_dot_opts, __VA_ARGS__))
nn_module *ag_model_dot_(const char *at, int64_t users, int64_t items, int64_t factors, model_dot_opts opts) AG_PURE;
/* The same plus a bias for each user and each item. (fastai's EmbeddingDotBias: u_weight, i_weight, u_bias, i_bias) */
#define model_dot_bias(users, items, ...) \
    ag_model_dot_bias_(AG_HERE, users, items, AG_HEAD(__VA_ARGS__), AG_OPTS(model_dot_opts, __VA_ARGS__))
nn_module *ag_model_dot_bias_(const char *at, int64_t users, int64_t items, int64_t factors, model_dot_opts opts) AG_PURE;

enum { MODEL_MAX_LAYERS = 8 };
typedef struct { int64_t size[MODEL_MAX_LAYERS]; } model_layers;
#define MODEL_LAYERS(...) AG_LIT(model_layers, { __VA_ARGS__ })
typedef struct { AG_NAMED_OPTIONS; int64_t user_width, item_width; model_layers layers; double dropout, lo, hi;
                 bool sparse; } model_nn_opts;
/* Both embeddings side by side, then for each layer linear (no bias), ReLU, batch norm [, dropout], then a linear to one
 * number. (fastai's EmbeddingNN; names embeds.0.weight, layers.0.0.weight ...)
 *   .user_width .item_width   default min(600, round(1.6 n^0.56)) (emb_sz_rule)
 *   .layers                   default MODEL_LAYERS(100, 50)        .dropout 0       .lo .hi, .sparse as above */
#define model_embedding_nn(users, ...) \
    ag_model_embedding_nn_(AG_HERE, users, AG_HEAD(__VA_ARGS__), AG_OPTS(model_nn_opts, __VA_ARGS__))
nn_module *ag_model_embedding_nn_(const char *at, int64_t users, int64_t items, model_nn_opts opts) AG_PURE;
/* fastai's width of an embedding of n categories. */
#define model_embedding_width ag_model_embedding_width
int64_t ag_model_embedding_width(int64_t n);

AG_END_DECLS
#endif
