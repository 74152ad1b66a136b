/* ops/shape.c - views: other shapes and strides on the same memory. Their gradients are views of the output's gradient
 * where that fits, so most cost nothing either way. */
#include "ops/ops.h"
#include "ops/registry.h"

typedef struct { ag_shape shape; int axis; int64_t begin, end; } view_arg;

static ag_tensor *view(const char *at, const ag_op *op, ag_tensor *x, view_arg a)
{
    return ag_apply_(at, op, 1, &x, &a, sizeof a);
}

/* ---- reshape ------------------------------------------------------------------------------------------- */

static void reshape_infer(ag_node *n)
{
    ag_shape s = ((const view_arg *)n->arg)->shape;
    int64_t known = 1, free_axis = -1;
    const int64_t have = ag_numel(n->in[0]);
    for (int i = 0; i < s.ndim; i++) {
        if (s.dim[i] != -1) {
            AG_REQUIRE(n, s.dim[i] >= 0, "axis %d has the negative size %" PRId64, i, s.dim[i]);
            known = ag_mul_size(n->at, known, s.dim[i]);
            continue;
        }
        AG_REQUIRE(n, free_axis < 0, "at most one size may be -1");
        free_axis = i;
    }
    if (free_axis >= 0) {
        AG_REQUIRE(n, known && have % known == 0, "%" PRId64 " elements cannot be cut into parts of %" PRId64, have, known);
        s.dim[free_axis] = have / known;
        known = have;
    }
    AG_REQUIRE(n, known == have, "the new shape has %" PRId64 " elements, the tensor %" PRId64, known, have);
    ag_node_out_view(n, n->in[0], s, NULL, 0);
}

static void reshape_backward(ag_node *n)
{
    ag_node_give(n, 0, ag_reshape_(n->at, n->out->grad, ag_shape_of(n->in[0])));
}

static ag_tensor *reshape_check(ag_tensor **in) { return ag_reshape(in[0], 2, -1); }

const ag_op ag_op_reshape = {
    .name = "reshape", .inputs = "x", .infer = reshape_infer, .view = true,
    .backward = { reshape_backward, reshape_backward, reshape_backward }, .check = { { "x[3,4]", reshape_check } },
};

ag_tensor *ag_reshape_(const char *at, ag_tensor *x, ag_shape shape)
{
    return view(at, &ag_op_reshape, ag_contiguous_(at, x), (view_arg){ .shape = shape });
}

/* ---- permute, transpose -------------------------------------------------------------------------------- */

static void permute_infer(ag_node *n)
{
    const ag_tensor *x = n->in[0];
    const ag_shape p = ((const view_arg *)n->arg)->shape;
    ag_shape s = { .ndim = x->ndim };
    int64_t stride[AG_MAX_DIMS];
    uint32_t seen = 0;
    AG_REQUIRE(n, p.ndim == x->ndim, "%d axes are named, the tensor has %d", p.ndim, x->ndim);
    for (int i = 0; i < p.ndim; i++) {
        const int axis = ag_node_axis(n, x, (int)p.dim[i]);
        AG_REQUIRE(n, !(seen >> axis & 1), "axis %d is named twice", axis);
        seen |= 1u << axis;
        s.dim[i] = x->shape[axis];
        stride[i] = x->stride[axis];
    }
    ag_node_out_view(n, x, s, stride, 0);
}

static void permute_backward(ag_node *n)
{
    const ag_shape p = ((const view_arg *)n->arg)->shape;
    ag_shape inverse = { .ndim = p.ndim };
    for (int i = 0; i < p.ndim; i++) inverse.dim[ag_node_axis(n, n->in[0], (int)p.dim[i])] = i;
    ag_node_give(n, 0, ag_permute_(n->at, n->out->grad, inverse));
}

static ag_tensor *permute_check(ag_tensor **in) { return ag_permute(in[0], 2, 0, -2); }
static ag_tensor *transpose_check(ag_tensor **in) { return ag_transpose(in[0], 0, -1); }

const ag_op ag_op_permute = {
    .name = "permute", .inputs = "x", .infer = permute_infer, .view = true,
    .backward = { permute_backward, permute_backward, permute_backward },
    .check = { { "x[2,3,4]", permute_check }, { "x[2,3,4]", transpose_check } },
};

ag_tensor *ag_permute_(const char *at, ag_tensor *x, ag_shape axes)
{
    return view(at, &ag_op_permute, x, (view_arg){ .shape = axes });
}

ag_tensor *ag_transpose_(const char *at, ag_tensor *x, int axis0, int axis1)
{
    ag_shape p = { .ndim = x->ndim };
    const int nd = x->ndim, a = axis0 < 0 ? axis0 + nd : axis0, b = axis1 < 0 ? axis1 + nd : axis1;
    for (int i = 0; i < nd; i++) p.dim[i] = i == a ? b : i == b ? a : i;
    if (a < 0 || a >= nd || b < 0 || b >= nd)
        ag_fail(at, "ag_transpose: axes %d and %d, the tensor has %d", axis0, axis1, nd);
    return ag_permute_(at, x, p);
}

/* ---- expand -------------------------------------------------------------------------------------------- */

static void expand_infer(ag_node *n)
{
    const ag_tensor *x = n->in[0];
    const ag_shape s = ((const view_arg *)n->arg)->shape;
    int64_t stride[AG_MAX_DIMS] = { 0 };
    AG_REQUIRE(n, s.ndim >= x->ndim && s.ndim <= AG_MAX_DIMS, "to %d axes, the tensor has %d", s.ndim, x->ndim);
    for (int i = 0; i < x->ndim; i++) {
        const int to = i + s.ndim - x->ndim;
        AG_REQUIRE(n, x->shape[i] == s.dim[to] || x->shape[i] == 1, "axis %d has size %" PRId64 ", not 1, and cannot become %"
                   PRId64, i, x->shape[i], s.dim[to]);
        stride[to] = x->shape[i] == s.dim[to] ? x->stride[i] : 0;
    }
    ag_node_out_view(n, x, s, stride, 0);
}

static void expand_backward(ag_node *n)
{
    const ag_tensor *x = n->in[0], *out = n->out;
    const int added = out->ndim - x->ndim;
    uint32_t axes = 0;
    for (int i = 0; i < out->ndim; i++)
        if (i < added || x->shape[i - added] != out->shape[i]) axes |= 1u << i;
    ag_tensor *g = axes ? ag_sum(out->grad, .axes = axes) : out->grad;
    ag_node_give(n, 0, ag_reshape_(n->at, g, ag_shape_of(x)));
}

static ag_tensor *expand_check(ag_tensor **in) { return ag_expand(in[0], 2, 3, 4); }

const ag_op ag_op_expand = {
    .name = "expand", .inputs = "x", .infer = expand_infer, .view = true,
    .backward = { expand_backward, expand_backward, expand_backward },
    .check = { { "x[3,1]", expand_check }, { "x[4]", expand_check } },
};

ag_tensor *ag_expand_(const char *at, ag_tensor *x, ag_shape shape)
{
    return view(at, &ag_op_expand, x, (view_arg){ .shape = shape });
}

/* ---- slice, select ------------------------------------------------------------------------------------- */

static void slice_infer(ag_node *n)
{
    view_arg *a = n->arg;
    const ag_tensor *x = n->in[0];
    a->axis = ag_node_axis(n, x, a->axis);
    const int64_t size = x->shape[a->axis];
    const int64_t begin = a->begin < 0 ? a->begin + size : a->begin, end = a->end < 0 ? a->end + size : a->end;
    AG_REQUIRE(n, begin >= 0 && begin <= end && end <= size, "%" PRId64 " to %" PRId64 " of axis %d, which has size %" PRId64,
               a->begin, a->end, a->axis, size);
    a->begin = begin, a->end = end;
    ag_shape s = ag_shape_of(x);
    s.dim[a->axis] = end - begin;
    ag_node_out_view(n, x, s, x->stride, begin * x->stride[a->axis]);
}

/* The part of din that the output was cut from. */
static void add_to_part(ag_node *n, ag_tensor *g)
{
    const view_arg *a = n->arg;
    ag_tensor *d = n->din[0];
    if (!d) return;
    ag_tensor *part = ag_slice_(n->at, d, a->axis, a->begin, a->end);
    if (n->accumulate[0]) {
        ag_copy(part, ag_add(part, g));
        return;
    }
    ag_fill(d, 0);
    ag_copy(part, g);
}

static void slice_backward(ag_node *n)
{
    add_to_part(n, n->out->grad);
}

static ag_tensor *slice_check(ag_tensor **in) { return ag_slice(in[0], 1, 1, -1); }
static ag_tensor *slice_twice_check(ag_tensor **in)
{
    return ag_mul(ag_slice(in[0], 0, 0, 2), ag_slice(in[0], 0, 1, 3));
}

const ag_op ag_op_slice = {
    .name = "slice", .inputs = "x", .infer = slice_infer, .view = true,
    .backward = { slice_backward, slice_backward, slice_backward },
    .check = { { "x[3,5]", slice_check }, { "x[3,2]", slice_twice_check } },
};

ag_tensor *ag_slice_(const char *at, ag_tensor *x, int axis, int64_t begin, int64_t end)
{
    return view(at, &ag_op_slice, x, (view_arg){ .axis = axis, .begin = begin, .end = end });
}

static void select_infer(ag_node *n)
{
    view_arg *a = n->arg;
    const ag_tensor *x = n->in[0];
    a->axis = ag_node_axis(n, x, a->axis);
    const int64_t size = x->shape[a->axis], index = a->begin < 0 ? a->begin + size : a->begin;
    AG_REQUIRE(n, index >= 0 && index < size, "index %" PRId64 " on axis %d, which has size %" PRId64, a->begin, a->axis, size);
    a->begin = index, a->end = index + 1;
    ag_shape s = { .ndim = x->ndim - 1 };
    int64_t stride[AG_MAX_DIMS];
    for (int i = 0, to = 0; i < x->ndim; i++)
        if (i != a->axis) s.dim[to] = x->shape[i], stride[to++] = x->stride[i];
    ag_node_out_view(n, x, s, stride, index * x->stride[a->axis]);
}

static void select_backward(ag_node *n)
{
    ag_shape s = ag_shape_of(n->in[0]);
    s.dim[((const view_arg *)n->arg)->axis] = 1;
    add_to_part(n, ag_reshape_(n->at, n->out->grad, s));
}

static ag_tensor *select_check(ag_tensor **in) { return ag_select(in[0], 1, -2); }

const ag_op ag_op_select = {
    .name = "select", .inputs = "x", .infer = select_infer, .view = true,
    .backward = { select_backward, select_backward, select_backward }, .check = { { "x[3,4,2]", select_check } },
};

ag_tensor *ag_select_(const char *at, ag_tensor *x, int axis, int64_t index)
{
    return view(at, &ag_op_select, x, (view_arg){ .axis = axis, .begin = index });
}
