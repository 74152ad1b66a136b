/* ops/gather.c - picking along an axis, and the orders that say what to pick: sort, top k. */
#include <stdlib.h>
#include "core/memory.h"
#include "ops/args.h"
#include "ops/indexing.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/rows.h"

/* x as it is seen from the index: its strides under the index's shape, standing still along the axis. */
static ag_tensor seen_from(const ag_tensor *x, const ag_tensor *index, int axis)
{
    ag_tensor seen = *x;
    for (int i = 0; i < x->ndim; i++) seen.shape[i] = index->shape[i];
    seen.stride[axis] = 0;
    return seen;
}

static void gather_infer(ag_node *n)
{
    int *axis = n->arg;
    const ag_tensor *x = n->in[0], *index = n->in[1];
    ag_node_require_real(n, x, "x");
    ag_require_ids(n, index, "index");
    *axis = ag_node_axis(n, x, *axis);
    AG_REQUIRE(n, index->ndim == x->ndim, "index has %d axes, x has %d", index->ndim, x->ndim);
    for (int i = 0; i < x->ndim; i++)
        AG_REQUIRE(n, i == *axis || index->shape[i] <= x->shape[i], "index is larger than x along axis %d", i);
    ag_node_out(n, AG_F32, ag_shape_of(index));
}

static void gather_forward(ag_node *n)
{
    const int axis = *(const int *)n->arg;
    const ag_tensor *x = n->in[0], *index = n->in[1], seen = seen_from(x, index, axis);
    ag_check_ids(n, index, 0, 1, ag_numel(index), x->shape[axis], "the axis");
    ag_rows_walk w = ag_rows_begin(ag_shape_of(index), 2, (const ag_tensor *const[]){ index, &seen });
    for (int64_t r = 0; r < w.count; r++, ag_rows_next(&w)) {
        const int64_t *id = (const int64_t *)index->data + w.offset[0];
        real *y = ag_real(n->out) + w.offset[0];
        for (int64_t i = 0; i < w.n; i++) y[i] = ag_real(x)[w.offset[1] + i * w.step[1] + id[i] * x->stride[axis]];
    }
}

static void gather_backward(ag_node *n)
{
    const int axis = *(const int *)n->arg;
    ag_tensor *d = n->din[0];
    if (!d) return;
    if (!n->accumulate[0]) ag_fill(d, 0);
    const ag_tensor *index = n->in[1], seen = seen_from(d, index, axis);
    ag_rows_walk w = ag_rows_begin(ag_shape_of(index), 2, (const ag_tensor *const[]){ index, &seen });
    for (int64_t r = 0; r < w.count; r++, ag_rows_next(&w)) {
        const int64_t *id = (const int64_t *)index->data + w.offset[0];
        const real *g = ag_real(n->out->grad) + w.offset[0];
        for (int64_t i = 0; i < w.n; i++) ag_real(d)[w.offset[1] + i * w.step[1] + id[i] * d->stride[axis]] += g[i];
    }
}

static ag_tensor *gather_check(ag_tensor **in) { return ag_gather(in[0], 1, in[1]); }
static ag_tensor *gather_first_check(ag_tensor **in) { return ag_gather(in[0], 0, in[1]); }

const ag_op ag_op_gather = {
    .name = "gather", .inputs = "x index", .infer = gather_infer, .unread = 1, .unread_out = true, .unread_cuda = true,
    .forward = { gather_forward, AG_CUDA_FN(ag_gather_forward_cuda) },
    .backward = { gather_backward, AG_CUDA_FN(ag_gather_backward_cuda) },
    .check = { { "x[3,5] index[3,4]:i64<5", gather_check }, { "x[4,5] index[6,3]:i64<4", gather_first_check } },
};

ag_tensor *ag_gather_(const char *at, ag_tensor *x, int axis, ag_tensor *index)
{
    return ag_apply_(at, &ag_op_gather, 2, (ag_tensor *[]){ x, index }, &axis, sizeof axis);
}

/* ---- argsort, argtopk ---------------------------------------------------------------------------------- */

typedef struct { real value; int64_t index; } ranked;

/* NaN counts as the largest; equals keep their order. (torch.sort) */
static int rising(const void *pa, const void *pb)
{
    const ranked *a = pa, *b = pb;
    if (a->value < b->value) return -1;
    if (a->value > b->value) return 1;
    if ((a->value != a->value) != (b->value != b->value)) return a->value != a->value ? 1 : -1;
    return a->index < b->index ? -1 : 1;
}

static int falling(const void *pa, const void *pb)
{
    const ranked *a = pa, *b = pb;
    if (a->value > b->value) return -1;
    if (a->value < b->value) return 1;
    if ((a->value != a->value) != (b->value != b->value)) return a->value != a->value ? -1 : 1;
    return a->index < b->index ? -1 : 1;
}

static void order_infer(ag_node *n)
{
    const ag_order_arg *a = n->arg;
    const ag_tensor *x = n->in[0];
    ag_node_require_real(n, x, NULL);
    AG_REQUIRE(n, x->ndim > 0, "a scalar has no order");
    ag_shape s = ag_shape_of(x);
    int64_t *last = &s.dim[s.ndim - 1];
    AG_REQUIRE(n, a->keep <= *last, "k is %" PRId64 ", the last axis has %" PRId64 " elements", a->keep, *last);
    if (a->keep >= 0) *last = a->keep;
    ag_node_out(n, AG_I64, s);
}

static void order_forward(ag_node *n)
{
    const ag_order_arg *a = n->arg;
    const ag_tensor *x = n->in[0];
    const int64_t width = x->shape[x->ndim - 1], keep = n->out->shape[x->ndim - 1], rows = ag_numel(x) / width;
    ranked *order = ag_workspace(n, width, sizeof *order);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < width; i++) order[i] = (ranked){ ag_real(x)[r * width + i], i };
        qsort(order, (size_t)width, sizeof *order, a->descending ? falling : rising);
        for (int64_t i = 0; i < keep; i++) ((int64_t *)n->out->data)[r * keep + i] = order[i].index;
    }
}

static ag_tensor *argsort_check(ag_tensor **in) { return ag_argsort(in[0], false); }
static ag_tensor *argtopk_check(ag_tensor **in) { return ag_argtopk(in[0], 3); }

const ag_op ag_op_argsort = {
    .name = "argsort", .inputs = "x", .infer = order_infer, .no_grad = "integers",
    .forward = { order_forward, AG_CUDA_FN(ag_argsort_forward_cuda) },
    .check = { { "x[3,9]:const", argsort_check }, { "x[2,9]:const", argtopk_check } },
};

ag_tensor *ag_argsort_(const char *at, ag_tensor *x, bool descending)
{
    return ag_apply_(at, &ag_op_argsort, 1, &x, &(ag_order_arg){ -1, descending }, sizeof(ag_order_arg));
}

ag_tensor *ag_argtopk_(const char *at, ag_tensor *x, int64_t k)
{
    if (k < 0) ag_fail(at, "ag_topk: k is %" PRId64, k);
    return ag_apply_(at, &ag_op_argsort, 1, &x, &(ag_order_arg){ k, true }, sizeof(ag_order_arg));
}

ag_tensor *ag_topk_(const char *at, ag_tensor *x, int64_t k, ag_tensor **indices)
{
    ag_tensor *order = ag_argtopk_(at, x, k);
    if (indices) *indices = order;
    return ag_gather_(at, x, -1, order);
}

ag_tensor *ag_sort_(const char *at, ag_tensor *x, bool descending, ag_tensor **indices)
{
    ag_tensor *order = ag_argsort_(at, x, descending);
    if (indices) *indices = order;
    return ag_gather_(at, x, -1, order);
}
