/* ops/concat.c - joining tensors along an axis, and constant borders. */
#include <string.h>
#include "ops/ops.h"
#include "ops/registry.h"

/* ---- concat, stack ------------------------------------------------------------------------------------- */

static void concat_infer(ag_node *n)
{
    int *axis = n->arg;
    const ag_tensor *first = n->in[0];
    ag_shape s = ag_shape_of(first);
    *axis = ag_node_axis(n, first, *axis);
    for (int k = 1; k < n->n_in; k++) {
        const ag_tensor *t = n->in[k];
        AG_REQUIRE(n, t->dtype == first->dtype, "input %d is %s, input 0 is %s", k, ag_dtype_name(t->dtype),
                   ag_dtype_name(first->dtype));
        AG_REQUIRE(n, t->ndim == first->ndim, "input %d has %d axes, input 0 has %d", k, t->ndim, first->ndim);
        for (int i = 0; i < t->ndim; i++)
            AG_REQUIRE(n, i == *axis || t->shape[i] == first->shape[i], "axis %d of input %d is %" PRId64 ", of input 0 %"
                       PRId64 "; only axis %d may differ", i, k, t->shape[i], first->shape[i], *axis);
        s.dim[*axis] = ag_add_size(n->at, s.dim[*axis], t->shape[*axis]);
    }
    ag_node_out(n, first->dtype, s);
}

static void concat_forward(ag_node *n)
{
    const int axis = *(const int *)n->arg;
    AG_NO_GRAD;
    for (int64_t k = 0, begin = 0; k < n->n_in; k++) {
        const int64_t size = n->in[k]->shape[axis];
        ag_copy(ag_slice(n->out, axis, begin, begin + size), n->in[k]);
        begin += size;
    }
}

static void concat_backward(ag_node *n)
{
    const int axis = *(const int *)n->arg;
    for (int64_t k = 0, begin = 0; k < n->n_in; k++) {
        const int64_t size = n->in[k]->shape[axis];
        ag_node_give(n, (int)k, ag_slice(n->out->grad, axis, begin, begin + size));
        begin += size;
    }
}

static ag_tensor *concat_check(ag_tensor **in) { return ag_concat(1, in[0], in[1], in[0]); }
static ag_tensor *concat_first_check(ag_tensor **in) { return ag_concat(0, in[0], in[1]); }
static ag_tensor *stack_check(ag_tensor **in) { return ag_stack(-1, in[0], in[1]); }

const ag_op ag_op_concat = {
    .name = "concat", .inputs = "x", .unread = ~0u, .unread_out = true, .infer = concat_infer, .strided = true,
    .forward = { concat_forward, concat_forward }, .backward = { concat_backward, concat_backward, concat_backward },
    .check = { { "a[3,2] b[3,4]", concat_check }, { "a[2,3] b[1,3]", concat_first_check }, { "a[2,3] b[2,3]", stack_check } },
};

ag_tensor *ag_concat_(const char *at, int axis, int n, ag_tensor **x)
{
    if (n < 1) ag_fail(at, "ag_concat: nothing to join");
    return ag_apply_(at, &ag_op_concat, n, x, &axis, sizeof axis);
}

ag_tensor *ag_stack_(const char *at, int axis, int n, ag_tensor **x)
{
    ag_tensor *wide[64];
    if (n < 1 || n > 64) ag_fail(at, "ag_stack: joins 1 to 64 tensors, got %d", n);
    for (int k = 0; k < n; k++) {
        const int ndim = x[k]->ndim + 1, to = axis < 0 ? axis + ndim : axis;
        if (to < 0 || to >= ndim || ndim > AG_MAX_DIMS)
            ag_fail(at, "ag_stack: a new axis %d for a tensor with %d axes", axis, x[k]->ndim);
        ag_shape s = { .ndim = ndim };
        for (int i = 0; i < ndim; i++) s.dim[i] = i < to ? x[k]->shape[i] : i == to ? 1 : x[k]->shape[i - 1];
        wide[k] = ag_reshape_(at, x[k], s);
    }
    return ag_concat_(at, axis, n, wide);
}

/* ---- pad ----------------------------------------------------------------------------------------------- */

typedef struct { int axis; int64_t before, after; double value; } pad_arg;

static void pad_infer(ag_node *n)
{
    pad_arg *a = n->arg;
    ag_shape s = ag_shape_of(n->in[0]);
    ag_node_require_real(n, n->in[0], NULL);
    a->axis = ag_node_axis(n, n->in[0], a->axis);
    AG_REQUIRE(n, a->before >= 0 && a->after >= 0, "borders of %" PRId64 " and %" PRId64 "; ag_slice cuts", a->before,
               a->after);
    s.dim[a->axis] = ag_add_size(n->at, s.dim[a->axis], ag_add_size(n->at, a->before, a->after));
    ag_node_out(n, AG_F32, s);
}

static void pad_forward(ag_node *n)
{
    const pad_arg *a = n->arg;
    AG_NO_GRAD;
    ag_fill(n->out, a->value);
    ag_copy(ag_slice(n->out, a->axis, a->before, a->before + n->in[0]->shape[a->axis]), n->in[0]);
}

static void pad_backward(ag_node *n)
{
    const pad_arg *a = n->arg;
    ag_node_give(n, 0, ag_slice(n->out->grad, a->axis, a->before, a->before + n->in[0]->shape[a->axis]));
}

static ag_tensor *pad_check(ag_tensor **in) { return ag_pad(in[0], 0, 1, 2, 0.5); }
static ag_tensor *pad_last_check(ag_tensor **in) { return ag_pad(in[0], -1, 2, 0, -1); }

const ag_op ag_op_pad = {
    .name = "pad", .inputs = "x", .unread = 1, .unread_out = true, .infer = pad_infer, .strided = true,
    .forward = { pad_forward, pad_forward }, .backward = { pad_backward, pad_backward, pad_backward },
    .check = { { "x[2,3]", pad_check }, { "x[2,3]", pad_last_check } },
};

ag_tensor *ag_pad_(const char *at, ag_tensor *x, int axis, int64_t before, int64_t after, double value)
{
    return ag_apply_(at, &ag_op_pad, 1, &x, &(pad_arg){ axis, before, after, value }, sizeof(pad_arg));
}
