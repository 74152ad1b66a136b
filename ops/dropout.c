/* ops/dropout.c - zeroes elements at random; the mask is never stored: it is a function of (key, element). */
#include "core/bf16.h"
#include "core/thread.h"
#include "ops/args.h"
#include "ops/dropout.h"
#include "ops/ops.h"
#include "ops/registry.h"

typedef struct { const void *x; void *y; ag_dtype dtype; int64_t n; uint64_t key; double p; bool add; } dropout_job;
enum { GROUP = 4, CHUNK = 1024 };       /* elements per Philox block, at a time */

static void drop_chunk(const dropout_job *j, int64_t at, int64_t n)
{
    const uint32_t threshold = ag_dropout_threshold(j->p);
    const real scale = ag_dropout_scale(j->p);
    uint32_t words[CHUNK];
    real x_buf[CHUNK], y_buf[CHUNK];
    ag_philox_words(j->key, 3, (uint64_t)(at / GROUP), (n + GROUP - 1) / GROUP, words);
    const real *x = ag_widen(j->x, j->dtype, at, n, x_buf);
    real *y = ag_narrow_grad(j->y, j->dtype, at, n, y_buf, j->add);
    if (j->add) for (int64_t i = 0; i < n; i++) y[i] += words[i] >= threshold ? x[i] * scale : 0;
    else for (int64_t i = 0; i < n; i++) y[i] = words[i] >= threshold ? x[i] * scale : 0;
    ag_narrow(j->y, j->dtype, at, n, y);
}

static void drop(int64_t begin, int64_t end, void *arg)         /* chunks */
{
    const dropout_job *j = arg;
    for (int64_t c = begin; c < end; c++) drop_chunk(j, c * CHUNK, j->n - c * CHUNK < CHUNK ? j->n - c * CHUNK : CHUNK);
}

static void run(const ag_node *n, const ag_tensor *from, ag_tensor *to, bool add)
{
    const ag_drop_arg *a = n->arg;
    const int64_t count = ag_numel(from);
    ag_parallel((count + CHUNK - 1) / CHUNK, 1, CHUNK, drop,
                &(dropout_job){ from->data, to->data, to->dtype, count, a->key, a->p, add });
}

static void dropout_infer(ag_node *n)
{
    const ag_drop_arg *a = n->arg;
    AG_REQUIRE(n, a->p >= 0 && a->p <= 1, "p = %g; a share lies between 0 and 1", a->p);
    ag_infer_same(n);
}

static void dropout_forward(ag_node *n)
{
    run(n, n->in[0], n->out, false);
}

static void dropout_backward(ag_node *n)
{
    if (n->din[0]) run(n, n->out->grad, n->din[0], n->accumulate[0]);
}

/* p = 0 and 1 have values that PyTorch can confirm; the rest is tested in tests/test_engine.c. */
static ag_tensor *dropout_check(ag_tensor **in) { return ag_dropout(in[0], 0, 1); }
static ag_tensor *dropout_all_check(ag_tensor **in) { return ag_dropout(in[0], 1, 1); }

const ag_op ag_op_dropout = {
    .name = "dropout", .inputs = "x", .unread = 1, .unread_out = true, .unread_cuda = true, .infer = dropout_infer,
    .bf16 = 1, .bf16_cuda = 1,
    .forward = { dropout_forward, AG_CUDA_FN(ag_dropout_forward_cuda) },
    .backward = { dropout_backward, AG_CUDA_FN(ag_dropout_backward_cuda) },
    .check = { { "x[3,5]", dropout_check }, { "x[3,5]", dropout_all_check } },
};

ag_tensor *ag_dropout_(const char *at, ag_tensor *x, double p, uint64_t key)
{
    return ag_apply_(at, &ag_op_dropout, 1, &x, &(ag_drop_arg){ p, key }, sizeof(ag_drop_arg));
}
