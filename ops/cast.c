/* ops/cast.c - other dtypes, dense copies, and choosing by a mask. */
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/rows.h"

/* ---- cast, contiguous: a strided copy of the device ---------------------------------------------------- */

static void cast_infer(ag_node *n)
{
    ag_node_out(n, *(const ag_dtype *)n->arg, ag_shape_of(n->in[0]));
}

static void copy_forward(ag_node *n)
{
    ag_copy(n->out, n->in[0]);
}

static void copy_backward(ag_node *n)
{
    ag_node_give(n, 0, n->out->grad);
}

static ag_tensor *cast_check(ag_tensor **in) { return ag_cast(ag_scale(in[0], 3), AG_F32); }
static ag_tensor *cast_bf16_check(ag_tensor **in) { return ag_cast(ag_cast(in[0], AG_BF16), AG_F32); }
static ag_tensor *cast_int_check(ag_tensor **in) { return ag_cast(ag_scale(in[0], 3), AG_I64); }
static ag_tensor *contiguous_check(ag_tensor **in) { return ag_contiguous(ag_transpose(in[0], 0, 1)); }

const ag_op ag_op_cast = {
    .name = "cast", .inputs = "x", .infer = cast_infer, .strided = true, .bf16 = 1, .unread = 1, .unread_out = true,
    .forward = { copy_forward, copy_forward }, .backward = { copy_backward, copy_backward, copy_backward },
    .check = { { "x[3,5]", cast_check } },
};

/* Rounding has no gradient worth the name of one; f32 to bf16 is the exception: passed on as it is. */
const ag_op ag_op_cast_int = {
    .name = "cast_int", .inputs = "x", .infer = cast_infer, .strided = true, .bf16 = 1, .unread = 1,
    .unread_out = true, .no_grad = "integers",
    .forward = { copy_forward, copy_forward },
    .check = { { "x[3,5]:const", cast_int_check }, { "x[3,5]:const", cast_bf16_check } },
};

ag_tensor *ag_cast_(const char *at, ag_tensor *x, ag_dtype dtype)
{
    if (x->dtype == dtype) return x;
    const bool smooth = (x->dtype == AG_F32 || x->dtype == AG_BF16) && (dtype == AG_F32 || dtype == AG_BF16);
    return ag_apply_(at, smooth ? &ag_op_cast : &ag_op_cast_int, 1, &x, &dtype, sizeof dtype);
}

ag_tensor *ag_autocast_input(const char *at, ag_tensor *x)
{
    return x->dtype == AG_F32 && ag_autocast() == AG_BF16 ? ag_cast_(at, x, AG_BF16) : x;
}

static void contiguous_infer(ag_node *n)
{
    ag_node_out_like(n, n->in[0]);
}

const ag_op ag_op_contiguous = {
    .name = "contiguous", .inputs = "x", .infer = contiguous_infer, .strided = true, .bf16 = 1, .unread = 1, .unread_out = true,
    .forward = { copy_forward, copy_forward }, .backward = { copy_backward, copy_backward, copy_backward },
    .check = { { "x[3,5]", contiguous_check } },
};

ag_tensor *ag_contiguous_(const char *at, ag_tensor *x)
{
    return ag_is_contiguous(x) ? x : ag_apply_(at, &ag_op_contiguous, 1, &x, NULL, 0);
}

/* ---- where --------------------------------------------------------------------------------------------- */

static void where_infer(ag_node *n)
{
    AG_REQUIRE(n, n->in[0]->dtype == AG_U8, "mask must be u8 (a comparison gives one), got %s",
               ag_dtype_name(n->in[0]->dtype));
    ag_node_require_real(n, n->in[1], "a");
    ag_node_require_real(n, n->in[2], "b");
    const ag_shape both = ag_node_broadcast(n, n->in[1], n->in[2]);
    ag_tensor shaped = { .ndim = both.ndim };
    for (int i = 0; i < both.ndim; i++) shaped.shape[i] = both.dim[i];
    ag_node_out(n, AG_F32, ag_node_broadcast(n, n->in[0], &shaped));
}

static void where_forward(ag_node *n)
{
    const ag_tensor *const operands[] = { n->out, n->in[0], n->in[1], n->in[2] };
    ag_rows_walk w = ag_rows_begin(ag_shape_of(n->out), 4, operands);
    for (int64_t r = 0; r < w.count; r++, ag_rows_next(&w)) {
        real *y = ag_real(n->out) + w.offset[0];
        const uint8_t *mask = (const uint8_t *)n->in[0]->data + w.offset[1];
        const real *a = ag_real(n->in[1]) + w.offset[2], *b = ag_real(n->in[2]) + w.offset[3];
        for (int64_t i = 0; i < w.n; i++) y[i] = mask[i * w.step[1]] ? a[i * w.step[2]] : b[i * w.step[3]];
    }
}

static void where_backward(ag_node *n)
{
    for (int k = 1; k <= 2; k++) {
        ag_tensor *d = n->din[k];
        if (!d) continue;
        if (!n->accumulate[k]) ag_fill(d, 0);
        const ag_tensor *const operands[] = { n->out, n->in[0], d };
        ag_rows_walk w = ag_rows_begin(ag_shape_of(n->out), 3, operands);
        for (int64_t r = 0; r < w.count; r++, ag_rows_next(&w)) {
            const real *g = ag_real(n->out->grad) + w.offset[0];
            const uint8_t *mask = (const uint8_t *)n->in[0]->data + w.offset[1];
            real *out = ag_real(d) + w.offset[2];
            for (int64_t i = 0; i < w.n; i++)
                if ((mask[i * w.step[1]] != 0) == (k == 1)) out[i * w.step[2]] += g[i];
        }
    }
}

static ag_tensor *where_check(ag_tensor **in) { return ag_where(in[0], in[1], in[2]); }

const ag_op ag_op_where = {
    .name = "where", .inputs = "mask a b", .infer = where_infer, .strided = true,
    .unread = 1 << 1 | 1 << 2, .unread_out = true, .unread_cuda = true,
    .forward = { where_forward, AG_CUDA_FN(ag_where_forward_cuda) },
    .backward = { where_backward, AG_CUDA_FN(ag_where_backward_cuda) },
    .check = { { "mask[3,4]:u8 a[3,4] b[3,4]", where_check }, { "mask[2,3,4]:u8 a[3,1] b[4]", where_check } },
};

ag_tensor *ag_where_(const char *at, ag_tensor *mask, ag_tensor *a, ag_tensor *b)
{
    return ag_apply_(at, &ag_op_where, 3, (ag_tensor *[]){ mask, a, b }, NULL, 0);
}
