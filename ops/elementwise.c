/* ops/elementwise.c - the rows of elementwise.def as ops for the CPU.
 *
 * From each row come a forward and a backward loop, the op and the public function. Unary loops run over dense memory;
 * binary ones row by row (ops/rows.h), with the four ways a row can lie spelled out so that each becomes vector code. */
#include "core/thread.h"
#include "ops/formulas.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/rows.h"

typedef struct { double a, b; } constants;

/* ---- one input ----------------------------------------------------------------------------------------- */

typedef struct { const real *x, *y, *g; real *out; real a, b; bool add; } unary_job;
typedef void (*piece_fn)(int64_t begin, int64_t end, void *arg);
enum { GRAIN = 4096 };
static const double cost_ns = 0.5;

static void unary_forward(ag_node *n, piece_fn piece)
{
    const constants *c = n->arg;
    unary_job j = { .x = ag_real(n->in[0]), .out = ag_real(n->out), .a = (real)c->a, .b = (real)c->b };
    ag_parallel(ag_numel(n->out), GRAIN, cost_ns, piece, &j);
}

static void unary_backward(ag_node *n, piece_fn piece)
{
    const constants *c = n->arg;
    if (!n->din[0]) return;
    unary_job j = { .x = ag_real(n->in[0]), .y = ag_real(n->out), .g = ag_real(n->out->grad), .out = ag_real(n->din[0]),
                    .a = (real)c->a, .b = (real)c->b, .add = n->accumulate[0] };
    ag_parallel(ag_numel(n->out), GRAIN, cost_ns, piece, &j);
}

#define UNARY_LOOPS(name, formula, gradient)                                                                    \
    static void name##_piece(int64_t begin, int64_t end, void *arg)                                              \
    {                                                                                                            \
        const unary_job j = *(unary_job *)arg;                                                                   \
        const real a = j.a, b = j.b, *restrict xs = j.x;                                                         \
        real *restrict out = j.out;                                                                              \
        (void)a, (void)b;                                                                                        \
        for (int64_t i = begin; i < end; i++) { const real x = xs[i]; out[i] = (formula); }                      \
    }                                                                                                            \
    static void name##_grad_piece(int64_t begin, int64_t end, void *arg)                                         \
    {                                                                                                            \
        const unary_job j = *(unary_job *)arg;                                                                   \
        const real a = j.a, b = j.b, *restrict xs = j.x, *restrict ys = j.y, *restrict gs = j.g;                 \
        real *restrict out = j.out;                                                                              \
        (void)a, (void)b;                                                                                        \
        if (j.add)                                                                                               \
            for (int64_t i = begin; i < end; i++) {                                                              \
                const real x = xs[i], y = ys[i], g = gs[i];                                                      \
                (void)x, (void)y, out[i] += (gradient);                                                          \
            }                                                                                                    \
        else                                                                                                     \
            for (int64_t i = begin; i < end; i++) {                                                              \
                const real x = xs[i], y = ys[i], g = gs[i];                                                      \
                (void)x, (void)y, out[i] = (gradient);                                                           \
            }                                                                                                    \
    }                                                                                                            \
    static void name##_forward(ag_node *n) { unary_forward(n, name##_piece); }                                   \
    static void name##_backward(ag_node *n) { unary_backward(n, name##_grad_piece); }

#define UNARY_OP(fn, domain, ...)                                                                                \
    static ag_tensor *fn##_check(ag_tensor **in) { return ag_##fn(__VA_ARGS__); }                                \
    const ag_op ag_op_##fn = {                                                                                   \
        .name = #fn, .inputs = "x", .infer = ag_infer_same,                                                      \
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

/* ---- two inputs ---------------------------------------------------------------------------------------- */

typedef void (*binary_row)(int64_t n, real *y, const real *a, int64_t sa, const real *b, int64_t sb);
typedef struct { const real *y, *g, *a, *b; int64_t sa, sb; real *d; int64_t sd; } grad_row;
typedef void (*binary_grad_row)(int64_t n, grad_row r);

static void binary_infer(ag_node *n)
{
    ag_node_require_real(n, n->in[0], "a");
    ag_node_require_real(n, n->in[1], "b");
    ag_node_out(n, AG_F32, ag_node_broadcast(n, n->in[0], n->in[1]));
}

typedef struct { binary_row row; real *y; const real *a, *b; int64_t sa, sb; } binary_job;

static void binary_piece(int64_t begin, int64_t end, void *arg)
{
    const binary_job *j = arg;
    j->row(end - begin, j->y + begin, j->a + begin * j->sa, j->sa, j->b + begin * j->sb, j->sb);
}

static bool dense_like(const ag_tensor *t, const ag_tensor *out)
{
    return ag_same_shape(t, out) && ag_is_contiguous(t);
}

static void binary_forward(ag_node *n, binary_row row)
{
    const ag_tensor *const operands[] = { n->out, n->in[0], n->in[1] };
    const real *a = ag_real(n->in[0]), *b = ag_real(n->in[1]);
    real *y = ag_real(n->out);
    if (dense_like(n->in[0], n->out) && dense_like(n->in[1], n->out)) {
        ag_parallel(ag_numel(n->out), GRAIN, cost_ns, binary_piece, &(binary_job){ row, y, a, b, 1, 1 });
        return;
    }
    ag_rows_walk w = ag_rows_begin(ag_shape_of(n->out), 3, operands);
    if (w.count == 1) {
        ag_parallel(w.n, GRAIN, cost_ns, binary_piece, &(binary_job){ row, y, a, b, w.step[1], w.step[2] });
        return;
    }
    for (int64_t r = 0; r < w.count; r++, ag_rows_next(&w))
        row(w.n, y + w.offset[0], a + w.offset[1], w.step[1], b + w.offset[2], w.step[2]);
}

/* d a and d b are sums over the axes along which a or b was repeated, so they are added to. */
static void binary_backward(ag_node *n, binary_grad_row write[2], binary_grad_row add[2])
{
    for (int k = 0; k < 2; k++) {
        ag_tensor *d = n->din[k];
        if (!d) continue;
        const bool repeated = !ag_same_shape(d, n->out);
        if (repeated && !n->accumulate[k]) ag_fill(d, 0);
        const ag_tensor *const operands[] = { n->out, n->in[0], n->in[1], d };
        ag_rows_walk w = ag_rows_begin(ag_shape_of(n->out), 4, operands);
        const binary_grad_row row = repeated || n->accumulate[k] ? add[k] : write[k];
        for (int64_t r = 0; r < w.count; r++, ag_rows_next(&w))
            row(w.n, (grad_row){ .y = ag_real(n->out) + w.offset[0], .g = ag_real(n->out->grad) + w.offset[0],
                                 .a = ag_real(n->in[0]) + w.offset[1], .sa = w.step[1],
                                 .b = ag_real(n->in[1]) + w.offset[2], .sb = w.step[2],
                                 .d = ag_real(d) + w.offset[3], .sd = w.step[3] });
    }
}

/* The row loop for strides 0 and 1 as constants, and for any. F: a function of the values. */
#define FOR_STRIDES(sa, sb, LOOP, F)                                                                             \
    if (sa == 1 && sb == 1) LOOP(1, 1, F)                                                                        \
    else if (sa == 1 && sb == 0) LOOP(1, 0, F)                                                                   \
    else if (sa == 0 && sb == 1) LOOP(0, 1, F)                                                                   \
    else LOOP(sa, sb, F)

#define FORWARD_LOOP(SA, SB, F) for (int64_t i = 0; i < n; i++) y[i] = F(a[i * (SA)], b[i * (SB)]);
#define GRAD_AT(SA, SB, F) F(r.a[i * (SA)], r.b[i * (SB)], r.y[i], r.g[i])
#define ADD_LOOP(SA, SB, F) for (int64_t i = 0; i < n; i++) r.d[i] += GRAD_AT(SA, SB, F);
#define WRITE_LOOP(SA, SB, F) for (int64_t i = 0; i < n; i++) r.d[i] = GRAD_AT(SA, SB, F);
#define SUM_LOOP(SA, SB, F) for (int64_t i = 0; i < n; i++) sum += GRAD_AT(SA, SB, F);

#define GRAD_ROWS(name, gradient)                                                                                \
    static inline real name(real a, real b, real y, real g) { return (void)a, (void)b, (void)y, (gradient); }    \
    static void name##_write(int64_t n, grad_row r) { FOR_STRIDES(r.sa, r.sb, WRITE_LOOP, name) }                \
    static void name##_add(int64_t n, grad_row r)                                                                \
    {                                                                                                            \
        real sum = 0;                                                                                            \
        if (r.sd) { FOR_STRIDES(r.sa, r.sb, ADD_LOOP, name) return; }                                            \
        FOR_STRIDES(r.sa, r.sb, SUM_LOOP, name)                                                                  \
        *r.d += sum;                                                                                             \
    }

#define AG_BINARY(id, formula, grad_a, grad_b, domain)                                                         \
    static inline real id##_value(real a, real b) { return (formula); }                                        \
    static void id##_row(int64_t n, real *restrict y, const real *a, int64_t sa, const real *b, int64_t sb)    \
    {                                                                                                            \
        FOR_STRIDES(sa, sb, FORWARD_LOOP, id##_value)                                                          \
    }                                                                                                            \
    GRAD_ROWS(id##_da, grad_a)                                                                                 \
    GRAD_ROWS(id##_db, grad_b)                                                                                 \
    static void id##_forward(ag_node *n) { binary_forward(n, id##_row); }                                    \
    static void id##_backward(ag_node *n)                                                                      \
    {                                                                                                            \
        binary_backward(n, (binary_grad_row[]){ id##_da_write, id##_db_write },                              \
                        (binary_grad_row[]){ id##_da_add, id##_db_add });                                    \
    }                                                                                                            \
    static ag_tensor *id##_check(ag_tensor **in) { return ag_##id(in[0], in[1]); }                           \
    const ag_op ag_op_##id = {                                                                                 \
        .name = #id, .inputs = "a b", .infer = binary_infer, .strided = true,                                  \
        .forward = { id##_forward, AG_CUDA_FN(ag_##id##_forward_cuda) },                                     \
        .backward = { id##_backward, AG_CUDA_FN(ag_##id##_backward_cuda) },                                  \
        .check = { { "a[3,5]" domain " b[3,5]" domain, id##_check },                                           \
                   { "a[2,3,5]" domain " b[5]" domain, id##_check },                                           \
                   { "a[3,1,5]" domain " b[4,1]" domain, id##_check },                                         \
                   { "a[3,4]" domain " b[3,1]" domain, id##_check },                                           \
                   { "a[1]" domain " b[2,7]" domain, id##_check } },                                           \
    };                                                                                                           \
    ag_tensor *ag_##id##_(const char *at, ag_tensor *a, ag_tensor *b)                                          \
    {                                                                                                            \
        return ag_apply_(at, &ag_op_##id, 2, (ag_tensor *[]){ a, b }, NULL, 0);                                \
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
