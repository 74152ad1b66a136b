/* ops/elementwise.c - the unary rows and the comparisons of elementwise.def as ops for the CPU; binary ones: binary.c.
 *
 * From each row come a forward and a backward loop, the op and the public function. */
#include "core/bf16.h"
#include "core/thread.h"
#include "ops/formulas.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/rows.h"

typedef struct { double a, b; } constants;

/* ---- one input ----------------------------------------------------------------------------------------- */

typedef void (*value_loop)(int64_t n, const real *xs, real *out, real a, real b);
typedef void (*grad_loop)(int64_t n, const real *xs, const real *ys, const real *gs, real *out, real a, real b,
                          bool add);
typedef struct {
    value_loop values;
    grad_loop gradients;
    bool by_x, by_y;                        /* what the gradient is made of */
    const void *x, *y, *g;
    void *out;
    ag_dtype dtype;
    real a, b;
    bool add;
} unary_job;
enum { GRAIN = 4096, CHUNK = 2048 };        /* CHUNK: elements that are converted at a time */
static const double cost_ns = 0.5;

static int64_t chunk(const unary_job *j, int64_t begin, int64_t end)
{
    return j->dtype == AG_BF16 && end - begin > CHUNK ? CHUNK : end - begin;
}

static void unary_values(int64_t begin, int64_t end, void *arg)
{
    const unary_job *j = arg;
    real x_buf[CHUNK], y_buf[CHUNK];
    for (int64_t i = begin, n; i < end; i += n) {
        n = chunk(j, i, end);
        real *y = ag_narrow_to(j->out, j->dtype, i, y_buf);
        j->values(n, ag_widen(j->x, j->dtype, i, n, x_buf), y, j->a, j->b);
        ag_narrow(j->out, j->dtype, i, n, y);
    }
}

static void unary_gradients(int64_t begin, int64_t end, void *arg)
{
    const unary_job *j = arg;
    real x_buf[CHUNK], y_buf[CHUNK], g_buf[CHUNK], d_buf[CHUNK];
    for (int64_t i = begin, n; i < end; i += n) {
        n = chunk(j, i, end);
        const real *g = ag_widen(j->g, j->dtype, i, n, g_buf);
        const real *x = j->by_x ? ag_widen(j->x, j->dtype, i, n, x_buf) : g;
        const real *y = j->by_y ? ag_widen(j->y, j->dtype, i, n, y_buf) : g;
        real *d = ag_narrow_grad(j->out, j->dtype, i, n, d_buf, j->add);
        j->gradients(n, x, y, g, d, j->a, j->b, j->add);
        ag_narrow(j->out, j->dtype, i, n, d);
    }
}

static void unary_infer(ag_node *n, bool by_x, bool by_y)
{
    ag_infer_same(n);
    n->unread = !by_x, n->unread_out = !by_y;
}

static void unary_forward(ag_node *n, value_loop values)
{
    const constants *c = n->arg;
    unary_job j = { .values = values, .x = n->in[0]->data, .out = n->out->data, .dtype = n->out->dtype, .a = (real)c->a,
                    .b = (real)c->b };
    ag_parallel(ag_numel(n->out), GRAIN, cost_ns, unary_values, &j);
}

static void unary_backward(ag_node *n, grad_loop gradients, bool by_x, bool by_y)
{
    const constants *c = n->arg;
    if (!n->din[0]) return;
    unary_job j = { .gradients = gradients, .by_x = by_x, .by_y = by_y, .x = n->in[0]->data, .y = n->out->data,
                    .g = n->out->grad->data, .out = n->din[0]->data, .dtype = n->out->dtype, .a = (real)c->a,
                    .b = (real)c->b, .add = n->accumulate[0] };
    ag_parallel(ag_numel(n->out), GRAIN, cost_ns, unary_gradients, &j);
}

/* The names in the text of a formula say what it needs: its functions are written in capitals. */
#define NAMES(formula, name) (strchr(#formula, name) != NULL)

#define UNARY_LOOPS(name, formula, gradient)                                                                     \
    static void name##_values(int64_t n, const real *restrict xs, real *restrict out, real a, real b)            \
    {                                                                                                            \
        (void)a, (void)b;                                                                                        \
        for (int64_t i = 0; i < n; i++) { const real x = xs[i]; out[i] = (formula); }                            \
    }                                                                                                            \
    static void name##_gradients(int64_t n, const real *xs, const real *ys, const real *gs, real *restrict out,  \
                                 real a, real b, bool add)                                                       \
    {                                                                                                            \
        (void)a, (void)b;                                                                                        \
        if (add)                                                                                                 \
            for (int64_t i = 0; i < n; i++) {                                                                    \
                const real x = xs[i], y = ys[i], g = gs[i];                                                      \
                (void)x, (void)y, out[i] += (gradient);                                                          \
            }                                                                                                    \
        else                                                                                                     \
            for (int64_t i = 0; i < n; i++) {                                                                    \
                const real x = xs[i], y = ys[i], g = gs[i];                                                      \
                (void)x, (void)y, out[i] = (gradient);                                                           \
            }                                                                                                    \
    }                                                                                                            \
    static void name##_infer(ag_node *n) { unary_infer(n, NAMES(gradient, 'x'), NAMES(gradient, 'y')); }         \
    static void name##_forward(ag_node *n) { unary_forward(n, name##_values); }                                  \
    static void name##_backward(ag_node *n)                                                                      \
    {                                                                                                            \
        unary_backward(n, name##_gradients, NAMES(gradient, 'x'), NAMES(gradient, 'y'));                         \
    }

#define UNARY_OP(fn, domain, ...)                                                                                \
    static ag_tensor *fn##_check(ag_tensor **in) { return ag_##fn(__VA_ARGS__); }                                \
    const ag_op ag_op_##fn = {                                                                                   \
        .name = #fn, .inputs = "x", .infer = fn##_infer, .bf16 = 1, .bf16_cuda = 1, .unread_cuda = true,         \
        .forward = { fn##_forward, AG_CUDA_FN(ag_##fn##_forward_cuda) },                                         \
        .backward = { fn##_backward, AG_CUDA_FN(ag_##fn##_backward_cuda) },                                      \
        .check = { { "x[3,4]" domain, fn##_check }, { "x[1]" domain, fn##_check }, { "x[5,13]" domain, fn##_check } }, \
    };

#define AG_UNARY(name, formula, gradient, domain)                                                                \
    UNARY_LOOPS(name, formula, gradient)                                                                         \
    UNARY_OP(name, domain, in[0])                                                                                \
    ag_tensor *ag_##name##_(const char *at, ag_tensor *x)                                                        \
    {                                                                                                            \
        return ag_apply_(at, &ag_op_##name, 1, &x, &(constants){ 0, 0 }, sizeof(constants));                     \
    }
#define AG_UNARY1(name, formula, gradient, domain)                                                               \
    UNARY_LOOPS(name, formula, gradient)                                                                         \
    UNARY_OP(name, domain, in[0], 1.7)                                                                           \
    ag_tensor *ag_##name##_(const char *at, ag_tensor *x, double a)                                              \
    {                                                                                                            \
        return ag_apply_(at, &ag_op_##name, 1, &x, &(constants){ a, 0 }, sizeof(constants));                     \
    }
#define AG_UNARY2(name, formula, gradient, domain)                                                               \
    UNARY_LOOPS(name, formula, gradient)                                                                         \
    UNARY_OP(name, domain, in[0], -0.4, 0.9)                                                                     \
    ag_tensor *ag_##name##_(const char *at, ag_tensor *x, double a, double b)                                    \
    {                                                                                                            \
        return ag_apply_(at, &ag_op_##name, 1, &x, &(constants){ a, b }, sizeof(constants));                     \
    }
#include "ops/elementwise.def"

/* ---- comparisons --------------------------------------------------------------------------------------- */

typedef void (*compare_row)(int64_t n, uint8_t *y, const void *a, int64_t sa, const void *b, int64_t sb);

static void compare_infer(ag_node *n)
{
    const ag_dtype a = n->in[0]->dtype, b = n->in[1]->dtype;
    AG_REQUIRE(n, a == b, "compares tensors of one dtype, got %s and %s; convert one with ag_cast", ag_dtype_name(a),
               ag_dtype_name(b));
    AG_REQUIRE(n, a != AG_BF16, "does not compare bf16; convert with ag_cast");
    ag_node_out(n, AG_U8, ag_node_broadcast(n, n->in[0], n->in[1]));
}

static void compare_forward(ag_node *n, const compare_row rows[AG_DTYPES])
{
    const ag_tensor *a = n->in[0], *b = n->in[1];
    const int64_t size = (int64_t)ag_dtype_size(a->dtype);
    ag_rows_walk w = ag_rows_begin(ag_shape_of(n->out), 3, (const ag_tensor *const[]){ n->out, a, b });
    for (int64_t r = 0; r < w.count; r++, ag_rows_next(&w))
        rows[a->dtype](w.n, (uint8_t *)n->out->data + w.offset[0], (const char *)a->data + w.offset[1] * size, w.step[1],
                       (const char *)b->data + w.offset[2] * size, w.step[2]);
}

#define COMPARE_ROW(id, T, condition)                                                                          \
    static void id(int64_t n, uint8_t *y, const void *pa, int64_t sa, const void *pb, int64_t sb)              \
    {                                                                                                            \
        const T *as = pa, *bs = pb;                                                                              \
        for (int64_t i = 0; i < n; i++) { const T a = as[i * sa], b = bs[i * sb]; y[i] = (condition); }          \
    }

#define AG_COMPARE(id, condition)                                                                              \
    COMPARE_ROW(id##_real, real, condition)                                                                    \
    COMPARE_ROW(id##_i64, int64_t, condition)                                                                  \
    COMPARE_ROW(id##_i32, int32_t, condition)                                                                  \
    COMPARE_ROW(id##_u8, uint8_t, condition)                                                                   \
    static void id##_forward(ag_node *n)                                                                       \
    {                                                                                                            \
        compare_forward(n, (const compare_row[AG_DTYPES]){ [AG_F32] = id##_real, [AG_I64] = id##_i64,        \
                                                           [AG_I32] = id##_i32, [AG_U8] = id##_u8 });        \
    }                                                                                                            \
    static ag_tensor *id##_check(ag_tensor **in) { return ag_##id(in[0], in[1]); }                           \
    const ag_op ag_op_##id = {                                                                                 \
        .name = #id, .inputs = "a b", .infer = compare_infer, .strided = true, .no_grad = "comparison",        \
        .forward = { id##_forward, AG_CUDA_FN(ag_##id##_forward_cuda) },                                     \
        .check = { { "a[3,4]:const b[3,4]:const", id##_check }, { "a[3,4]:i64<3 b[4]:i64<3", id##_check } }, \
    };                                                                                                           \
    ag_tensor *ag_##id##_(const char *at, ag_tensor *a, ag_tensor *b)                                          \
    {                                                                                                            \
        return ag_apply_(at, &ag_op_##id, 2, (ag_tensor *[]){ a, b }, NULL, 0);                                \
    }
#include "ops/elementwise.def"
