/* core/op.h - for authors of ops, inside and outside the library. examples/custom_layer shows the whole path.
 *
 * An op is one struct in one file:
 *   infer     checks the inputs and shapes the output (ag_node_out) and what backward will need (ag_node_save);
 *             no arithmetic, so it runs alone for every device, also for AG_META.
 *   forward   fills n->out (and n->saved[]); backward fills n->din[k], the gradients of the inputs.
 *   check     the cases it is tested on: gradient check in double, PyTorch fixture, strided inputs, every device.
 *
 * The engine promises: all tensors on one device; inputs contiguous unless .strided; inputs f32 unless .bf16 allows more,
 * and then all of those of one dtype; gradients have the dtype of their tensors; in backward n->out->grad is contiguous,
 * n->din[k] is NULL where not wanted, else contiguous with in[k]'s shape, to be OVERWRITTEN when n->accumulate[k] is false
 * and ADDED TO when it is true; no two din alias each other. */
#ifndef AG_OP_H
#define AG_OP_H
#include "core/tensor.h"
AG_BEGIN_DECLS

typedef struct ag_op ag_op;
enum { AG_MAX_CHECKS = 8, AG_MAX_SAVED = 3 };

struct ag_node {
    const ag_op *op;
    const char *at;                     /* the user's line */
    ag_tensor *out, **in, **din;        /* in[n_in]; an optional input may be NULL */
    ag_tensor *saved[AG_MAX_SAVED];     /* written by forward, read by backward */
    bool *accumulate;
    int n_in;
    void *arg;                          /* a copy of what ag_apply_ was given */
    /* the engine's own: */
    const void *module;                 /* that was running: a nn_module, or NULL */
    int arg_size, size_class;
    bool used, recorded, awaited;
    bool unread_out;                    /* as in ag_op; infer may set them where it depends on the case */
    uint32_t unread;
    uint32_t *versions;                 /* of the inputs' storages when recorded: an overwritten input is reported */
    ag_node *prev, *next;
};

typedef void (*ag_node_fn)(ag_node *n);

/* One test case. `inputs` describes leaves: "x[4,8] w[8]:pos ids[5]:i64<7 y[4]:01". Kinds: (none) N(0,1) f32; :far N(0,9);
 * :pos U(0.5,1.5); :01 U(0,1); :i64<K integers below K; :u8 zeros and ones; without gradient :const N(0,1), :cpos as :pos,
 * :u01 as :01. fn calls the public function on them. */
typedef struct { const char *inputs; ag_tensor *(*fn)(ag_tensor **in); } ag_check;

struct ag_op {
    const char *name;                   /* "layer_norm": messages say ag_layer_norm */
    const char *inputs;                 /* names of the operands, "x weight bias" */
    ag_node_fn infer;
    ag_node_fn forward[AG_DEVICES], backward[AG_DEVICES];   /* by device; AG_META: a backward that only gives (views) */
    const char *no_grad;                /* why there is no backward: "integers"; exactly one of the two is set */
    bool strided;                       /* kernels read the inputs' strides themselves */
    bool view;                          /* out shares in[0]'s memory; no forward */
    /* What backward does not read, so that its memory may end before: bit k the values of in[k]; the values of out. A tensor
     * made by an op with unread_out and held by nothing but unread inputs lets go of its memory. */
    uint32_t unread;
    bool unread_out;
    bool unread_cuda;                   /* its kernels in cuda/ do not read it either; else they may read what they like */
    uint32_t bf16;                      /* bit k: in[k] may be bf16 as well as f32; others are widened before */
    uint32_t bf16_cuda;                 /* the same of its kernels in cuda/, where they differ from the CPU's */
    /* For plans of memory, where kernels do not run: the bytes of ag_workspace that forward (backward) holds at most at one
     * time; and it calls ag_packed, which only counts then, for the forms that the kernel will ask for. NULL: none. */
    int64_t (*workspace)(const ag_node *n, bool backward);
    double (*flops)(const ag_node *n);  /* of forward, for the profile; backward counts as twice that */
    bool replays;                       /* backward calls ag_node_replay; in[1], ... have their gradients from there */
    bool rows;                          /* backward calls ag_node_give_rows for leaves with sparse_grad (din is NULL there) */
    ag_check check[AG_MAX_CHECKS];
};

/* Kernels in cuda/<same base name>.cu; NULL in a build without nvcc: .forward = { forward, AG_CUDA_FN(ag_x_forward_cuda) } */
#ifdef AG_HAVE_CUDA
#define AG_CUDA_FN(f) f
#else
#define AG_CUDA_FN(f) NULL
#endif

/* Applies op: checks devices, infers, runs forward, records for backward if an input wants it. */
ag_tensor *ag_apply_(const char *at, const ag_op *op, int n_in, ag_tensor **in, const void *arg, size_t arg_size);
#define ag_apply(op, ...) ag_apply_(AG_HERE, op, __VA_ARGS__)      /* ag_apply(&op, AG_INPUTS(x, w), &arg, sizeof arg) */
#define AG_INPUTS(...) AG_NARGS(__VA_ARGS__), (ag_tensor *[]){__VA_ARGS__}

/* For infer. */
void ag_node_out(ag_node *n, ag_dtype dtype, ag_shape shape);
void ag_node_out_like(ag_node *n, const ag_tensor *t);                      /* t's shape and dtype, contiguous */
void ag_node_out_view(ag_node *n, const ag_tensor *base, ag_shape shape, const int64_t *stride, int64_t offset);
void ag_node_save(ag_node *n, int slot, ag_dtype dtype, ag_shape shape);    /* n->saved[slot], uninitialised */
void ag_node_fail(const ag_node *n, const char *fmt, ...) AG_PRINTF(2, 3) AG_NORETURN;
#define AG_REQUIRE(n, cond, ...) do { if (!(cond)) ag_node_fail(n, __VA_ARGS__); } while (0)
int ag_node_axis(const ag_node *n, const ag_tensor *t, int axis);           /* -1 -> ndim-1; fails out of range */
uint32_t ag_node_axes(const ag_node *n, const ag_tensor *t, uint32_t axes); /* bit i = axis i; 0 -> all */
ag_shape ag_node_broadcast(const ag_node *n, const ag_tensor *a, const ag_tensor *b);
void ag_node_require_real(const ag_node *n, const ag_tensor *t, const char *name);      /* f32, else fails */
void ag_infer_same(ag_node *n);                                             /* out like in[0] */
bool ag_node_trains(const ag_node *n);      /* gradients are enabled and some input wants one: backward will come */
/* For public functions of ops that autocast: x, or x as bf16 inside AG_AUTOCAST(bf16). Differentiable. */
ag_tensor *ag_autocast_input(const char *at, ag_tensor *x);

/* For backward: din[k] = g or += g, without a copy where the memory can be shared (views, add). g: din[k]'s shape. */
void ag_node_give(ag_node *n, int k, ag_tensor *g);

/* For backward of ops with .replays, which kept nothing but their inputs: fn(x, arg), recorded from x, a leaf that stands for
 * in[0], is what in[0] went through; its gradients go to din[0] and to the leaves it meets. */
/* For their first time through: nothing is recorded, and nothing made that would pay only if it lasted. */
ag_scope ag_recompute_begin(void);
void ag_node_replay(ag_node *n, ag_tensor *(*fn)(ag_tensor *x, void *arg), void *arg);

/* For backward of ops with .rows: the gradient of in[k] is `values` f32[n, width] for its rows ids i64[n]. Takes over the
 * caller's counts on both (tensors made by ag_node_rows_new). */
void ag_node_give_rows(ag_node *n, int k, ag_tensor *ids, ag_tensor *values);
/* A tensor that no scope holds, for ag_node_give_rows. */
ag_tensor *ag_node_rows_new(const ag_node *n, ag_dtype dtype, ag_shape shape);
/* Whether in[k] wants its gradient as rows. */
bool ag_node_wants_rows(const ag_node *n, int k);

static inline real *ag_real(const ag_tensor *t) { return (real *)t->data; }

/* Scratch memory of a kernel, from the cache; released with the innermost ag_scope of the engine (after this call
 * of forward or backward). */
void *ag_workspace(const ag_node *n, int64_t count, size_t size);

/* A form of parameter t that a kernel prefers (another layout, bf16): remembered with t's memory under `key`, a hash of
 * all that the form depends on, and made by pack(t, to, arg) when t is new or was written to; in training, which writes to
 * it after every step, only until the op has run. Not inside ag_parallel. */
typedef void (*ag_pack_fn)(const ag_tensor *t, void *to, const void *arg);
const void *ag_packed(const ag_node *n, const ag_tensor *t, uint64_t key, int64_t bytes, ag_pack_fn pack, const void *arg);

/* All built-in ops, for the tests: NULL-terminated. */
extern const ag_op *const ag_ops[];

AG_END_DECLS
#endif
