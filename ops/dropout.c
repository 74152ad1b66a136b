/* ops/dropout.c - zeroes elements at random; the mask is never stored: it is a function of (key, element). */
#include "core/random.h"
#include "core/thread.h"
#include "ops/ops.h"
#include "ops/registry.h"

typedef struct { double p; uint64_t key; } dropout_arg;
typedef struct { const real *x; real *y; int64_t n; uint64_t key; double p; bool add; } dropout_job;
enum { GROUP = 4 };             /* elements per Philox block */

static void drop(int64_t begin, int64_t end, void *arg)         /* groups */
{
    const dropout_job j = *(dropout_job *)arg;
    const real scale = j.p < 1 ? (real)(1 / (1 - j.p)) : 0;
    const uint64_t threshold = (uint64_t)(j.p * 0x1p32);
    for (int64_t g = begin; g < end; g++) {
        const ag_philox4 r = ag_philox(j.key, 3, (uint64_t)g);
        for (int64_t i = GROUP * g; i < GROUP * (g + 1) && i < j.n; i++) {
            const real kept = r.v[i & (GROUP - 1)] >= threshold ? j.x[i] * scale : 0;
            j.y[i] = j.add ? j.y[i] + kept : kept;
        }
    }
}

static void run(const ag_node *n, const ag_tensor *from, ag_tensor *to, bool add)
{
    const dropout_arg *a = n->arg;
    const int64_t count = ag_numel(from);
    ag_parallel((count + GROUP - 1) / GROUP, 1024, 12, drop,
                &(dropout_job){ ag_real(from), ag_real(to), count, a->key, a->p, add });
}

static void dropout_infer(ag_node *n)
{
    const dropout_arg *a = n->arg;
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

/* p = 0 and 1 have values that PyTorch can confirm; the rest is tested in tests/test_dropout.c. */
static ag_tensor *dropout_check(ag_tensor **in) { return ag_dropout(in[0], 0, 1); }
static ag_tensor *dropout_all_check(ag_tensor **in) { return ag_dropout(in[0], 1, 1); }

const ag_op ag_op_dropout = {
    .name = "dropout", .inputs = "x", .infer = dropout_infer, .forward = { dropout_forward }, .backward = { dropout_backward },
    .check = { { "x[3,5]", dropout_check }, { "x[3,5]", dropout_all_check } },
};

ag_tensor *ag_dropout_(const char *at, ag_tensor *x, double p, uint64_t key)
{
    return ag_apply_(at, &ag_op_dropout, 1, &x, &(dropout_arg){ p, key }, sizeof(dropout_arg));
}
