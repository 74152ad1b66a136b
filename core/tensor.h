/* core/tensor.h - tensors: making them, looking into them, differentiating.
 *
 *     ag_tensor *w = ag_param(ag_randn(4, 3));            leaf with a gradient
 *     ag_tensor *loss = ag_mean(ag_square(ag_matmul(x, w)));
 *     ag_backward(loss);                                  w->grad now holds d loss / d w, float[4, 3]
 *
 * Row-major with strides (in elements); up to AG_MAX_DIMS axes; negative axes count from the end. */
#ifndef AG_TENSOR_H
#define AG_TENSOR_H
#include "core/base.h"
AG_BEGIN_DECLS

typedef struct ag_tensor ag_tensor;
typedef struct ag_storage ag_storage;
typedef struct ag_node ag_node;

struct ag_tensor {              /* read freely; write through functions */
    int ndim;
    ag_dtype dtype;
    ag_device device;
    bool requires_grad;         /* a leaf whose grad backward fills, or made from one */
    bool grad_fresh;            /* grad holds nothing yet: the next backward overwrites it instead of adding */
    bool sparse_grad;           /* embedding gradients arrive as rows (ag_rows) instead of a dense tensor */
    int64_t shape[AG_MAX_DIMS], stride[AG_MAX_DIMS];
    void *data;                 /* first element: host memory on AG_CPU, device memory on AG_CUDA, NULL on AG_META and where
                                 * only backward holds the tensor and needs no values */
    ag_tensor *grad;            /* same shape and dtype; NULL before the first backward */
    struct ag_rows *rows;       /* row gradients gathered since the last reset (sparse_grad only) */
    /* An op that reads single rows of sparse_grad parameters (embedding, dot_bias) calls this first when it is not NULL, for all
     * n that have it: a lazy optimizer brings these rows up to date. ids: i64; column[k]: param[k] is read at ids[:, column] of
     * i64[B, C], or at all of them: -1. */
    void (*before_read)(int n, struct ag_tensor *const *param, const int *column, const ag_tensor *ids);
    void *before_read_ctx;
    ag_node *node;              /* how it was made; NULL for a leaf */
    ag_storage *storage;
    const char *name;           /* parameter's path, or NULL */
    const char *at;             /* where it was made */
    int refs;
    int unread;                 /* how many of them only hand gradients on and do not read data (core/op.h) */
};

typedef struct { int ndim; int64_t dim[AG_MAX_DIMS]; } ag_shape;
#define AG_NARGS(...) AG_NARGS_(__VA_ARGS__, 8, 7, 6, 5, 4, 3, 2, 1, 0)
#define AG_NARGS_(a, b, c, d, e, f, g, h, n, ...) n
#define AG_SHAPE(...) AG_LIT(ag_shape, AG_NARGS(__VA_ARGS__), {__VA_ARGS__})
ag_shape ag_shape_of(const ag_tensor *t);

/* Axes as a bit set, AG_AXES(0, -1); 0 means all. */
typedef struct { int n, axis[8]; } ag_axis_list;
static inline uint32_t ag_axes_(ag_axis_list l)     /* negative axes in the upper half */
{
    uint32_t mask = 0;
    for (int i = 0; i < l.n; i++) mask |= 1u << (l.axis[i] < 0 ? 15 - l.axis[i] : l.axis[i]);
    return mask;
}
#define AG_AXES(...) ag_axes_(AG_LIT(ag_axis_list, AG_NARGS(__VA_ARGS__), {__VA_ARGS__}))

/* ---- making -----------------------------------------------------------------------------------------------
 * New tensors live on the default device (ag_init, ag_set_device), in the innermost scope. */

ag_tensor *ag_empty_(const char *at, ag_dtype dtype, ag_shape shape) AG_PURE;          /* uninitialised */
ag_tensor *ag_full_(const char *at, double value, ag_shape shape) AG_PURE;             /* f32 */
ag_tensor *ag_randn_(const char *at, ag_shape shape) AG_PURE;                          /* f32, N(0, 1) */
ag_tensor *ag_rand_(const char *at, ag_shape shape) AG_PURE;                           /* f32, U[0, 1) */
ag_tensor *ag_arange_(const char *at, int64_t n) AG_PURE;                              /* i64: 0 .. n-1 */
/* A copy of n host elements of `dtype` (AG_F32: of real), n = product of shape. */
ag_tensor *ag_from_(const char *at, ag_dtype dtype, const void *host, ag_shape shape) AG_PURE;
#define ag_empty(dtype, ...) ag_empty_(AG_HERE, dtype, AG_SHAPE(__VA_ARGS__))
#define ag_zeros(...) ag_full_(AG_HERE, 0, AG_SHAPE(__VA_ARGS__))
#define ag_ones(...) ag_full_(AG_HERE, 1, AG_SHAPE(__VA_ARGS__))
#define ag_full(value, ...) ag_full_(AG_HERE, value, AG_SHAPE(__VA_ARGS__))
#define ag_randn(...) ag_randn_(AG_HERE, AG_SHAPE(__VA_ARGS__))
#define ag_rand(...) ag_rand_(AG_HERE, AG_SHAPE(__VA_ARGS__))
#define ag_arange(n) ag_arange_(AG_HERE, n)
#define ag_from(dtype, host, ...) ag_from_(AG_HERE, dtype, host, AG_SHAPE(__VA_ARGS__))
#define ag_scalar(value) ag_full_(AG_HERE, value, AG_LIT(ag_shape, 0, {0}))

/* Marks a leaf as trained: backward leaves its gradient in t->grad. Returns t. f32 only. */
ag_tensor *ag_param_(const char *at, ag_tensor *t);
#define ag_param(t) ag_param_(AG_HERE, t)

/* The same values without history; shares memory. (Tensor.detach) */
ag_tensor *ag_detach_(const char *at, ag_tensor *t) AG_PURE;
#define ag_detach(t) ag_detach_(AG_HERE, t)

/* Hands t, if the innermost scope holds it, to the enclosing scope, so that it outlives the innermost one. Returns t. */
ag_tensor *ag_keep(ag_tensor *t);

/* x itself where its elements lie densely in row-major order, else a copy that is. Differentiable. (ops/cast.c) */
ag_tensor *ag_contiguous_(const char *at, ag_tensor *x) AG_PURE;
#define ag_contiguous(x) ag_contiguous_(AG_HERE, x)

/* To another dtype (x itself where it has it); f32 <-> bf16 differentiable; to integers rounds toward zero. (ops/cast.c) */
ag_tensor *ag_cast_(const char *at, ag_tensor *x, ag_dtype dtype) AG_PURE;
#define ag_cast(x, dtype) ag_cast_(AG_HERE, x, dtype)

/* Counts for holders outside any scope (the library itself; scripts never need them). */
ag_tensor *ag_retain(ag_tensor *t);
void ag_release(ag_tensor *t);
ag_tensor *ag_scoped(ag_tensor *t);         /* gives the caller's count to the innermost scope */

/* ---- looking ------------------------------------------------------------------------------------------- */

int64_t ag_numel(const ag_tensor *t);
int64_t ag_size_(const char *at, const ag_tensor *t, int axis);   /* shape[axis], negative from the end */
#define ag_size(t, axis) ag_size_(AG_HERE, t, axis)
size_t ag_dtype_size(ag_dtype dtype);
const char *ag_dtype_name(ag_dtype dtype);          /* "f32" ("f64" in that build), "bf16", "i64", "i32", "u8" */
const char *ag_device_name(ag_device device);       /* "cpu", "cuda", "meta" */
bool ag_is_contiguous(const ag_tensor *t);
bool ag_same_shape(const ag_tensor *a, const ag_tensor *b);
bool ag_is_shared(const ag_tensor *t);              /* others hold t, or have views of its memory */
/* "f32[64, 7]" into buf; returns buf. */
char *ag_describe(const ag_tensor *t, char *buf, size_t size);

double ag_item_(const char *at, const ag_tensor *t);                     /* the one element, any dtype */
double ag_at_(const char *at, const ag_tensor *t, ag_shape index);       /* ag_at(t, 3, 0) */
#define ag_item(t) ag_item_(AG_HERE, t)
#define ag_at(t, ...) ag_at_(AG_HERE, t, AG_SHAPE(__VA_ARGS__))
/* Copies all elements, row-major, converted to `dtype`, to host memory. */
void ag_to_host_(const char *at, const ag_tensor *t, ag_dtype dtype, void *host);
#define ag_to_host(t, dtype, host) ag_to_host_(AG_HERE, t, dtype, host)
/* Prints shape, dtype and values (the corners of large tensors) to stdout. */
void ag_print(const ag_tensor *t);

/* Overwrites the values of dst (any strides) with those of src (same shape); not recorded. dst must not be needed
 * by a pending backward: that is reported when the backward runs. (Tensor.copy_ under no_grad) */
void ag_copy_(const char *at, ag_tensor *dst, const ag_tensor *src);
#define ag_copy(dst, src) ag_copy_(AG_HERE, dst, src)
void ag_fill_(const char *at, ag_tensor *dst, double value);
#define ag_fill(dst, value) ag_fill_(AG_HERE, dst, value)

/* To be called after t's memory was written to by other means: what was derived from it is made anew. */
void ag_touched(ag_tensor *t);
uint32_t ag_version(const ag_tensor *t);    /* how often that was so; ag_copy and ag_fill count as well */

/* ---- differentiating ----------------------------------------------------------------------------------- */

typedef struct { AG_NAMED_OPTIONS; ag_tensor *grad; bool retain_graph; } ag_backward_opts;
/* Fills the gradients of every parameter that `loss` was made from; a gradient that was not reset is added to.
 *   loss           one element, unless .grad (same shape, d something / d loss) is given
 *   .retain_graph  keep what a second backward needs
 * Fails on a non-scalar without .grad, on a tensor without history, on a graph already used. (Tensor.backward) */
void ag_backward_(const char *at, ag_tensor *loss, ag_backward_opts opts);
#define ag_backward(...) ag_backward_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_backward_opts, __VA_ARGS__))

/* d loss / d inputs[i] into out[i] (new tensors in the innermost scope; zeros where loss does not depend on the
 * input); parameters' .grad stay untouched. inputs may be intermediate tensors. (torch.autograd.grad) */
void ag_grad_(const char *at, ag_tensor *loss, int n, ag_tensor **inputs, ag_tensor **out);
#define ag_grad(loss, n, inputs, out) ag_grad_(AG_HERE, loss, n, inputs, out)

/* Empties t's gradient without touching its memory: the next backward overwrites. (Optimizer.zero_grad) */
void ag_zero_grad(ag_tensor *t);

/* Row gradients of a sparse_grad parameter: n rows, each for table row ids[i] (ids may repeat: they add up). */
typedef struct ag_rows { ag_tensor *ids, *values; struct ag_rows *next; } ag_rows;   /* i64[n], f32[n, width] */
/* Turns t->rows into the dense t->grad. */
void ag_rows_to_dense(ag_tensor *t);

typedef struct { AG_NAMED_OPTIONS; double h, tol; } ag_gradcheck_opts;
/* Compares backward with central differences for fn(in), every element of every f32 input with requires_grad.
 *   .h    step, default 1e-6 (f64 build) or 1e-2     .tol  default 1e-6 or 2e-2, on |error| / max(1, |value|)
 * Returns the worst such error; fails, naming input and element, where it exceeds .tol. (torch.autograd.gradcheck) */
double ag_gradcheck_(const char *at, ag_tensor *(*fn)(ag_tensor **in), int n, ag_tensor **in, ag_gradcheck_opts opts);
#define ag_gradcheck(fn, n, ...) ag_gradcheck_(AG_HERE, fn, n, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_gradcheck_opts, __VA_ARGS__))

/* ---- the process --------------------------------------------------------------------------------------- */

typedef struct { AG_NAMED_OPTIONS; const char *device; uint64_t seed; int threads; bool tf32; } ag_init_opts;
/* Optional. .device "cpu" (default), "cuda", "cuda:1" (the second GPU), "auto" (cuda when it works, else cpu and one line that
 * says why), "meta" (shapes without memory: models to plan with);
 * .seed of the default random stream (default 0); .threads for kernels (default: the cores of this process); .tf32: on a GPU the
 * factors of f32 products and convolutions are rounded to 10 bits, for its tensor cores; sums stay f32
 * (torch.backends.cuda.matmul.allow_tf32; default: exact f32). */
void ag_init_(const char *at, ag_init_opts opts);
bool ag_tf32(void);
#define ag_init(...) ag_init_(AG_HERE, AG_OPTS0(ag_init_opts, __VA_ARGS__))
ag_device ag_default_device(void);
int ag_threads(void);
/* A copy of t on a device (t itself when it is there already). Differentiable: the gradient travels back. */
ag_tensor *ag_to_(const char *at, ag_tensor *t, ag_device device) AG_PURE;
#define ag_to(t, device) ag_to_(AG_HERE, t, device)

AG_END_DECLS
#endif
