/* nn/nn.h - modules: parameters with names, and a function from tensor to tensor.
 *
 *     typedef struct { nn_module base; nn_module *fc1, *fc2; } mlp;
 *
 *     static ag_tensor *mlp_forward(nn_module *m, ag_tensor *x)
 *     {
 *         mlp *s = NN_SELF(mlp, m);
 *         return nn_call(s->fc2, ag_relu(nn_call(s->fc1, x)));
 *     }
 *
 *     nn_module *mlp_new(int64_t in, int64_t hidden, int64_t out)
 *     {
 *         mlp *s = NN_NEW(mlp, mlp_forward);
 *         NN_CHILD(s, fc1, nn_linear(in, hidden));        "fc1.weight", "fc1.bias" in a checkpoint
 *         NN_CHILD(s, fc2, nn_linear(hidden, out));
 *         return &s->base;
 *     }
 *
 * A module belongs to the scope it was made in; a child also to its parent. Names are PyTorch's state_dict names. */
#ifndef AG_NN_H
#define AG_NN_H
#include "core/safetensors.h"
#include "core/tensor.h"
AG_BEGIN_DECLS

typedef struct nn_module nn_module;
typedef ag_tensor *(*nn_forward_fn)(nn_module *m, ag_tensor *x);

struct nn_module {              /* the first member of every module's struct */
    const char *type;           /* "linear"; a user's struct name */
    const char *at;             /* where it was made */
    nn_forward_fn forward;
    nn_module *parent;
    char *name;                 /* in its parent, "fc1" or "blocks.0"; NULL for a root */
    const char *label;          /* its path from the root, as a string that stays; NULL: not asked for yet */
    bool training;              /* nn_train; read by dropout and batch norm */
    struct nn_slot *slots;      /* children, parameters and buffers in the order they were registered */
    int n_slots, slots_cap, refs;
};

/* ---- writing a module ---------------------------------------------------------------------------------- */

/* A zeroed T, whose first member is `nn_module base`. */
#define NN_NEW(T, fn) ((T *)(void *)ag_nn_new_(AG_HERE, sizeof(T), #T, fn))
#define NN_SELF(T, m) ((T *)(void *)(m))
/* s->field = the child, parameter or buffer, known as "field". A parameter is marked as trained (ag_param); a buffer is
 * saved and loaded with the module but not trained. */
#define NN_CHILD(s, field, module) ((s)->field = ag_nn_child_(AG_HERE, &(s)->base, #field, -1, module))
#define NN_PARAM(s, field, tensor) ((s)->field = ag_nn_param_(AG_HERE, &(s)->base, #field, tensor))
#define NN_BUFFER(s, field, tensor) ((s)->field = ag_nn_buffer_(AG_HERE, &(s)->base, #field, tensor))
/* A child in a list: "blocks.3". Returns it. */
#define NN_CHILD_AT(s, list, i, module) ag_nn_child_(AG_HERE, &(s)->base, list, i, module)

nn_module *ag_nn_new_(const char *at, size_t size, const char *type, nn_forward_fn forward) AG_PURE;
nn_module *ag_nn_child_(const char *at, nn_module *parent, const char *name, int64_t index, nn_module *child);
ag_tensor *ag_nn_param_(const char *at, nn_module *m, const char *name, ag_tensor *t);
ag_tensor *ag_nn_buffer_(const char *at, nn_module *m, const char *name, ag_tensor *t);

/* The child `name` of parent becomes another module (NULL: none), in its place. Pointers in parent's struct are the caller's. */
#define nn_replace(parent, name, child) ag_nn_replace_(AG_HERE, parent, name, child)
void ag_nn_replace_(const char *at, nn_module *parent, const char *name, nn_module *child);
/* The module below m at "stages.0.blocks.1"; m itself for ""; NULL if there is none. */
#define nn_at ag_nn_at
nn_module *ag_nn_at(nn_module *m, const char *path);

/* ---- using one ----------------------------------------------------------------------------------------- */

/* m's function of x, in a scope of its own that hands out the result. Messages of ops inside name the module's path. */
#define nn_call ag_nn_call
ag_tensor *ag_nn_call(nn_module *m, ag_tensor *x) AG_PURE;

/* The same, keeping for backward nothing but x: backward calls m once more, with the same random numbers, and buffers do not
 * notice. For a third more time a chain of blocks needs the memory of one. (torch.utils.checkpoint) */
#define nn_call_recompute ag_nn_call_recompute
ag_tensor *ag_nn_call_recompute(nn_module *m, ag_tensor *x) AG_PURE;

/* Training mode (the state of a new module) or evaluation, for m and everything below. (Module.train) */
#define nn_train ag_nn_train
void ag_nn_train(nn_module *m, bool training);
/* NN_EVAL(net); until the closing brace: evaluation mode and no gradients; then every module is as it was. */
#define NN_EVAL(net) ag_scope AG_CAT(ag_nn_eval_at_, __LINE__) AG_CLEANUP(ag_scope_end) = ag_nn_eval_begin(net)
ag_scope ag_nn_eval_begin(nn_module *net);

/* Parameters and buffers of m and everything below, in order of registration; t->name is the path from the root. */
#define nn_param_count ag_nn_param_count
#define nn_param_at ag_nn_param_at
#define nn_param_owner ag_nn_param_owner
#define nn_buffer_count ag_nn_buffer_count
#define nn_buffer_at ag_nn_buffer_at
#define nn_numel ag_nn_numel
int64_t ag_nn_param_count(const nn_module *m);
ag_tensor *ag_nn_param_at(const nn_module *m, int64_t i);
const nn_module *ag_nn_param_owner(const nn_module *m, int64_t i);     /* the module that registered it */
int64_t ag_nn_buffer_count(const nn_module *m);
ag_tensor *ag_nn_buffer_at(const nn_module *m, int64_t i);
int64_t ag_nn_numel(const nn_module *m);                                /* elements of all parameters */
/* One by its path: "layers.0.weight"; fails, naming the nearest. */
#define nn_param(m, path) ag_nn_find_(AG_HERE, m, path)
ag_tensor *ag_nn_find_(const char *at, const nn_module *m, const char *path) AG_PURE;

/* Whether a name matches one of several patterns, separated by spaces: "head.* *.bias" (fnmatch(3)). */
#define nn_match ag_nn_match
bool ag_nn_match(const char *patterns, const char *name);
/* Parameters whose path matches are (not) trained. Fails if none matches. (requires_grad_) */
#define nn_freeze(m, patterns) ag_nn_set_trained_(AG_HERE, m, patterns, false)
#define nn_unfreeze(m, patterns) ag_nn_set_trained_(AG_HERE, m, patterns, true)
void ag_nn_set_trained_(const char *at, nn_module *m, const char *patterns, bool trained);

/* Prints every module with its output's shape and its parameters, from one evaluation of x; then the totals. */
#define nn_summary(m, x) ag_nn_summary_(AG_HERE, m, x)
void ag_nn_summary_(const char *at, nn_module *m, ag_tensor *x);

/* ---- files --------------------------------------------------------------------------------------------- */

/* Parameters and buffers under their names, in safetensors. */
#define nn_save(m, path) ag_nn_save_(AG_HERE, m, path)
void ag_nn_save_(const char *at, const nn_module *m, const char *path);
typedef struct { AG_NAMED_OPTIONS; const char *skip; bool check_finite; } nn_load_opts;
/* From safetensors or a PyTorch checkpoint (core/pth.h), told apart by content. Fails, changing nothing, unless file and
 * module have the same names and shapes; lists what is missing, unexpected, of another shape. f64, f16 and bf16 become
 * f32; integers do not.
 *   .skip          names that match are left out on both sides ("head.*" of a pretrained file)
 *   .check_finite  fails on NaN and infinity, naming the first tensor and how many */
#define nn_load(m, ...) ag_nn_load_(AG_HERE, m, AG_HEAD(__VA_ARGS__), AG_OPTS(nn_load_opts, __VA_ARGS__))
void ag_nn_load_(const char *at, nn_module *m, const char *path, nn_load_opts opts);
/* The same from an open file, whose names begin with `prefix`; skip may be NULL. For checkpoints. */
void ag_nn_load_from(const char *at, nn_module *m, const ag_safetensors *f, const char *prefix, const char *skip);
#define nn_load_from(m, f, prefix, skip) ag_nn_load_from(AG_HERE, m, f, prefix, skip)
/* Parameters, then buffers: fills named[nn_named_count(m)]. */
#define nn_named_count ag_nn_named_count
#define nn_to_named ag_nn_to_named
int64_t ag_nn_named_count(const nn_module *m);
void ag_nn_to_named(const nn_module *m, ag_named *named);

/* ---- layers; x f32[..., features] unless said ---------------------------------------------------------- */

typedef struct { AG_NAMED_OPTIONS; bool no_bias; } nn_linear_opts;
/* y = x w^T + b; weight [out, in], bias [out], both U(-1/sqrt(in), 1/sqrt(in)). (nn.Linear) */
#define nn_linear(in, ...) ag_nn_linear_(AG_HERE, in, AG_HEAD(__VA_ARGS__), AG_OPTS(nn_linear_opts, __VA_ARGS__))
nn_module *ag_nn_linear_(const char *at, int64_t in, int64_t out, nn_linear_opts opts) AG_PURE;

typedef struct { AG_NAMED_OPTIONS; double std; bool sparse; } nn_embedding_opts;
/* i64[...] -> f32[..., width], rows of weight [n, width].
 *   .std     fastai's initialisation: N(0, 1) fmod 2, times .std (fastai uses 0.01); default N(0, 1) (nn.Embedding)
 *   .sparse  gradients arrive as rows; see optim/optim.h */
#define nn_embedding(n, ...) ag_nn_embedding_(AG_HERE, n, AG_HEAD(__VA_ARGS__), AG_OPTS(nn_embedding_opts, __VA_ARGS__))
nn_module *ag_nn_embedding_(const char *at, int64_t n, int64_t width, nn_embedding_opts opts) AG_PURE;

typedef struct { AG_NAMED_OPTIONS; double eps, momentum; } nn_norm_opts;
/* x f32[..., C], statistics over all other axes; running_mean, running_var, num_batches_tracked are buffers.
 *   .eps 1e-5   .momentum 0.1                                     (nn.BatchNorm1d) */
#define nn_batch_norm1d(...) ag_nn_batch_norm1d_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(nn_norm_opts, __VA_ARGS__))
nn_module *ag_nn_batch_norm1d_(const char *at, int64_t channels, nn_norm_opts opts) AG_PURE;
/* Over the last axis, .eps 1e-5. (nn.LayerNorm) */
#define nn_layer_norm(...) ag_nn_layer_norm_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(nn_norm_opts, __VA_ARGS__))
nn_module *ag_nn_layer_norm_(const char *at, int64_t channels, nn_norm_opts opts) AG_PURE;
/* In training zeroes a share p, 0 <= p < 1, and scales the rest by 1/(1-p). (nn.Dropout) */
#define nn_dropout(p) ag_nn_dropout_(AG_HERE, p)
nn_module *ag_nn_dropout_(const char *at, double p) AG_PURE;

/* One after another; "0", "1", ...; each result is let go of when the next one is there. (nn.Sequential) */
#define nn_sequential(...) ag_nn_sequential_(AG_HERE, (nn_module *[]){ __VA_ARGS__, NULL })
nn_module *ag_nn_sequential_(const char *at, nn_module **modules) AG_PURE;
/* Adds one to the end of a sequential; returns it. */
#define nn_append(sequential, module) ag_nn_append_(AG_HERE, sequential, module)
nn_module *ag_nn_append_(const char *at, nn_module *sequential, nn_module *module);
/* Whether each of its modules is called with nn_call_recompute. */
#define nn_recompute(sequential, again) ag_nn_recompute_(AG_HERE, sequential, again)
void ag_nn_recompute_(const char *at, nn_module *sequential, bool again);

#define nn_relu() ag_nn_activation_(AG_HERE, "relu")
#define nn_gelu() ag_nn_activation_(AG_HERE, "gelu")
#define nn_silu() ag_nn_activation_(AG_HERE, "silu")
#define nn_tanh() ag_nn_activation_(AG_HERE, "tanh")
#define nn_sigmoid() ag_nn_activation_(AG_HERE, "sigmoid")
nn_module *ag_nn_activation_(const char *at, const char *name) AG_PURE;
/* sigmoid(x) (hi - lo) + lo (fastai's SigmoidRange) */
#define nn_sigmoid_range(lo, hi) ag_nn_sigmoid_range_(AG_HERE, lo, hi)
nn_module *ag_nn_sigmoid_range_(const char *at, double lo, double hi) AG_PURE;

/* ---- initialisers: new values for t from the default random stream ------------------------------------- */

#define nn_init_uniform ag_nn_init_uniform                  /* U[lo, hi) */
#define nn_init_normal ag_nn_init_normal
#define nn_init_trunc_normal ag_nn_init_trunc_normal        /* N(mean, std) within [lo, hi] (nn.init.trunc_normal_) */
#define nn_init_fastai ag_nn_init_fastai                    /* N(0, 1) fmod 2, times std (fastai's Embedding) */
void ag_nn_init_uniform(ag_tensor *t, double lo, double hi);
void ag_nn_init_normal(ag_tensor *t, double mean, double std);
void ag_nn_init_trunc_normal(ag_tensor *t, double mean, double std, double lo, double hi);
void ag_nn_init_fastai(ag_tensor *t, double std);
/* t [out, in, ...]: fan_in = in x the rest, fan_out = out x the rest. gain of a leaky ReLU of slope a: sqrt(2/(1+a^2)).
 * kaiming: bound gain sqrt(3/fan_in), std gain/sqrt(fan_in); a = sqrt(5) is nn.Linear's. (He et al. 2015)
 * xavier: bound sqrt(6/(fan_in+fan_out)), std sqrt(2/(fan_in+fan_out)). (Glorot & Bengio 2010) */
#define nn_init_kaiming_uniform ag_nn_init_kaiming_uniform
#define nn_init_kaiming_normal ag_nn_init_kaiming_normal
#define nn_init_xavier_uniform ag_nn_init_xavier_uniform
#define nn_init_xavier_normal ag_nn_init_xavier_normal
void ag_nn_init_kaiming_uniform(ag_tensor *t, double a);
void ag_nn_init_kaiming_normal(ag_tensor *t, double a);
void ag_nn_init_xavier_uniform(ag_tensor *t);
void ag_nn_init_xavier_normal(ag_tensor *t);

AG_END_DECLS
#endif
