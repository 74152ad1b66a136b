/* ops/embedding.c - rows of a table by id, and one-hot rows. */
#include <string.h>
#include "core/thread.h"
#include "ops/indexing.h"
#include "ops/ops.h"
#include "ops/registry.h"

void ag_require_ids(const ag_node *n, const ag_tensor *ids, const char *name)
{
    AG_REQUIRE(n, ids->dtype == AG_I64, "%s must be i64, got %s; convert with ag_cast", name, ag_dtype_name(ids->dtype));
}

void ag_check_ids(const ag_node *n, const ag_tensor *ids, int64_t first, int64_t step, int64_t count, int64_t rows,
                  const char *table)
{
    const int64_t *v = (const int64_t *)ids->data + first;
    uint64_t bad = 0;
    for (int64_t i = 0; i < count; i++) bad |= (uint64_t)((uint64_t)v[i * step] >= (uint64_t)rows);
    for (int64_t i = 0; bad && i < count; i++)
        if ((uint64_t)v[i * step] >= (uint64_t)rows)
            ag_node_fail(n, "id %" PRId64 " at position %" PRId64 " is not a row of %s, which has rows 0 to %" PRId64,
                         v[i * step], i, table, rows - 1);
}

static void embedding_infer(ag_node *n)
{
    const ag_tensor *w = n->in[0], *ids = n->in[1];
    ag_node_require_real(n, w, "weight");
    ag_require_ids(n, ids, "ids");
    AG_REQUIRE(n, w->ndim == 2, "weight must be [rows, width], got %d axes", w->ndim);
    AG_REQUIRE(n, ids->ndim < AG_MAX_DIMS, "ids may have at most %d axes", AG_MAX_DIMS - 1);
    ag_shape s = ag_shape_of(ids);
    s.dim[s.ndim++] = w->shape[1];
    ag_node_out(n, AG_F32, s);
}

typedef struct { const real *table; const int64_t *ids; real *out; int64_t width; } lookup;

static void copy_rows(int64_t begin, int64_t end, void *arg)
{
    const lookup *l = arg;
    for (int64_t i = begin; i < end; i++)
        memcpy(l->out + i * l->width, l->table + l->ids[i] * l->width, (size_t)l->width * sizeof(real));
}

static void embedding_forward(ag_node *n)
{
    ag_tensor *w = n->in[0], *ids = n->in[1];
    const int64_t count = ag_numel(ids), width = w->shape[1];
    ag_check_ids(n, ids, 0, 1, count, w->shape[0], "weight");
    ag_before_read(1, &w, (int[]){ -1 }, ids);
    ag_parallel(count, 64, 0.2 * (double)width + 20, copy_rows,
                &(lookup){ ag_real(w), ids->data, ag_real(n->out), width });
}

static void embedding_backward(ag_node *n)
{
    ag_tensor *ids = n->in[1], *g = n->out->grad;
    const int64_t count = ag_numel(ids), width = n->in[0]->shape[1], *id = ids->data;
    if (ag_node_wants_rows(n, 0)) {
        ag_tensor *flat = ag_reshape(ids, count), *rows = ag_reshape(g, count, width);
        ag_node_give_rows(n, 0, ag_retain(flat), ag_retain(rows));
        return;
    }
    if (!n->din[0]) return;
    if (!n->accumulate[0]) ag_fill(n->din[0], 0);
    for (int64_t i = 0; i < count; i++) {
        real *restrict d = ag_real(n->din[0]) + id[i] * width;
        const real *restrict v = ag_real(g) + i * width;
        for (int64_t k = 0; k < width; k++) d[k] += v[k];
    }
}

static ag_tensor *embedding_check(ag_tensor **in) { return ag_embedding(in[0], in[1]); }

const ag_op ag_op_embedding = {
    .name = "embedding", .inputs = "weight ids", .infer = embedding_infer, .rows = true,
    .unread = 1, .unread_out = true, .unread_cuda = true,
    .forward = { embedding_forward, AG_CUDA_FN(ag_embedding_forward_cuda) },
    .backward = { embedding_backward, AG_CUDA_FN(ag_embedding_backward_cuda) },
    .check = { { "weight[5,3] ids[7]:i64<5", embedding_check }, { "weight[4,17] ids[2,3]:i64<4", embedding_check } },
};

ag_tensor *ag_embedding_(const char *at, ag_tensor *weight, ag_tensor *ids)
{
    return ag_apply_(at, &ag_op_embedding, 2, (ag_tensor *[]){ weight, ids }, NULL, 0);
}

/* ---- one_hot ------------------------------------------------------------------------------------------- */

static void one_hot_infer(ag_node *n)
{
    const int64_t classes = *(const int64_t *)n->arg;
    ag_require_ids(n, n->in[0], "ids");
    AG_REQUIRE(n, classes > 0, "the number of classes must be positive, got %" PRId64, classes);
    AG_REQUIRE(n, n->in[0]->ndim < AG_MAX_DIMS, "ids may have at most %d axes", AG_MAX_DIMS - 1);
    ag_shape s = ag_shape_of(n->in[0]);
    s.dim[s.ndim++] = classes;
    ag_node_out(n, AG_F32, s);
}

static void one_hot_forward(ag_node *n)
{
    const int64_t classes = *(const int64_t *)n->arg, count = ag_numel(n->in[0]), *id = n->in[0]->data;
    ag_check_ids(n, n->in[0], 0, 1, count, classes, "the classes");
    ag_fill(n->out, 0);
    for (int64_t i = 0; i < count; i++) ag_real(n->out)[i * classes + id[i]] = 1;
}

static ag_tensor *one_hot_check(ag_tensor **in) { return ag_one_hot(in[0], 5); }

const ag_op ag_op_one_hot = {
    .name = "one_hot", .inputs = "ids", .infer = one_hot_infer, .no_grad = "integers",
    .forward = { one_hot_forward, AG_CUDA_FN(ag_one_hot_forward_cuda) },
    .check = { { "ids[7]:i64<5", one_hot_check }, { "ids[2,3]:i64<5", one_hot_check } },
};

ag_tensor *ag_one_hot_(const char *at, ag_tensor *ids, int64_t classes)
{
    return ag_apply_(at, &ag_op_one_hot, 1, &ids, &classes, sizeof classes);
}
