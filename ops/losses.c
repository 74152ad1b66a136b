/* ops/losses.c - losses between a prediction and a target of the same shape: mse, l1, huber, bce_with_logits.
 *
 * One pass each way. Means and sums are gathered in double per piece of CHUNK elements and then over the pieces, so the
 * result does not depend on the number of threads. */
#include "core/thread.h"
#include "ops/losses.h"
#include "ops/registry.h"

enum { X = AG_LOSS_X, TARGET = AG_LOSS_TARGET, WEIGHT = AG_LOSS_WEIGHT };
enum { CHUNK = 4096 };

typedef struct {
    const real *x, *t, *weight, *g;
    real *out, delta, scale;
    double *partial;
    int64_t n, classes;
    bool add, each;             /* each: no reduction, g has an element for every loss */
} loss_job;

static void loss_infer(ag_node *n)
{
    const ag_tensor *x = n->in[X], *t = n->in[TARGET], *w = n->in[WEIGHT];
    ag_node_require_real(n, x, "x");
    ag_node_require_real(n, t, "target");
    bool same = x->ndim == t->ndim;
    for (int i = 0; same && i < x->ndim; i++) same = x->shape[i] == t->shape[i];
    AG_REQUIRE(n, same, "x and target must have one shape");
    AG_REQUIRE(n, !w || (w->ndim == 1 && x->ndim && w->shape[0] == x->shape[x->ndim - 1]),
               "weight must be [C], C the last axis of x");
    const ag_loss_arg *a = n->arg;
    AG_REQUIRE(n, a->reduction == AG_NONE || ag_numel(x), "there are no elements to take the mean of");
    ag_node_out(n, AG_F32, a->reduction == AG_NONE ? ag_shape_of(x) : (ag_shape){ 0 });
}

static loss_job job_of(const ag_node *n)
{
    const ag_loss_arg *a = n->arg;
    const ag_tensor *w = n->in[WEIGHT];
    return (loss_job){ .x = ag_real(n->in[X]), .t = ag_real(n->in[TARGET]), .weight = w ? ag_real(w) : NULL,
                       .classes = w ? w->shape[0] : 1, .n = ag_numel(n->in[X]), .delta = (real)a->delta,
                       .each = a->reduction == AG_NONE };
}

static void loss_forward(ag_node *n, void (*piece)(int64_t, int64_t, void *))
{
    const ag_loss_arg *a = n->arg;
    loss_job j = job_of(n);
    const int64_t chunks = (j.n + CHUNK - 1) / CHUNK;
    double one, total = 0;
    j.out = ag_real(n->out);
    j.partial = chunks == 1 || j.each ? &one : ag_workspace(n, chunks, sizeof *j.partial);
    ag_parallel(chunks, 1, CHUNK, piece, &j);
    if (j.each) return;
    for (int64_t c = 0; c < chunks; c++) total += j.partial[c];
    *j.out = (real)(a->reduction == AG_MEAN ? total / (double)j.n : total);
}

/* d x; d target is its negative where the loss depends on the difference alone. */
static void loss_backward(ag_node *n, void (*piece)(int64_t, int64_t, void *), bool difference)
{
    const ag_loss_arg *a = n->arg;
    loss_job j = job_of(n);
    j.g = ag_real(n->out->grad);
    for (int k = X; k <= TARGET; k++) {
        if (!n->din[k]) continue;
        if (k == TARGET && !difference) ag_node_fail(n, "has no gradient with respect to the target; ag_detach it");
        j.out = ag_real(n->din[k]), j.add = n->accumulate[k];
        j.scale = (k == X ? 1 : -1) * (a->reduction == AG_MEAN ? 1 / (real)j.n : 1);
        ag_parallel((j.n + CHUNK - 1) / CHUNK, 1, CHUNK, piece, &j);
    }
}

#define LOSS(id, value, gradient, difference, target_kind)                                                       \
    static void id##_piece(int64_t begin, int64_t end, void *arg)                                                \
    {                                                                                                            \
        const loss_job j = *(loss_job *)arg;                                                                     \
        const real delta = j.delta;                                                                              \
        (void)delta;                                                                                             \
        for (int64_t c = begin; c < end; c++) {                                                                  \
            const int64_t last = (c + 1) * CHUNK < j.n ? (c + 1) * CHUNK : j.n;                                  \
            double sum = 0;                                                                                      \
            for (int64_t i = c * CHUNK; i < last; i++) {                                                         \
                const real x = j.x[i], t = j.t[i], d = x - t, w = j.weight ? j.weight[i % j.classes] : 1;        \
                (void)d, (void)w;                                                                                \
                const real v = (value);                                                                          \
                if (j.each) j.out[i] = v;                                                                        \
                sum += (double)v;                                                                                \
            }                                                                                                    \
            if (!j.each) j.partial[c] = sum;                                                                     \
        }                                                                                                        \
    }                                                                                                            \
    static void id##_grad_piece(int64_t begin, int64_t end, void *arg)                                           \
    {                                                                                                            \
        const loss_job j = *(loss_job *)arg;                                                                     \
        const real delta = j.delta;                                                                              \
        (void)delta;                                                                                             \
        const int64_t last = end * CHUNK < j.n ? end * CHUNK : j.n;                                              \
        for (int64_t i = begin * CHUNK; i < last; i++) {                                                         \
            const real x = j.x[i], t = j.t[i], d = x - t, w = j.weight ? j.weight[i % j.classes] : 1;            \
            (void)d, (void)w;                                                                                    \
            const real v = (gradient) * j.scale * j.g[j.each ? i : 0];                                           \
            j.out[i] = j.add ? j.out[i] + v : v;                                                                 \
        }                                                                                                        \
    }                                                                                                            \
    static void id##_forward(ag_node *n) { loss_forward(n, id##_piece); }                                        \
    static void id##_backward(ag_node *n) { loss_backward(n, id##_grad_piece, difference); }                     \
    static ag_tensor *id##_mean(ag_tensor **in) { return ag_##id(in[0], in[1]); }                                \
    static ag_tensor *id##_sum(ag_tensor **in) { return ag_##id(in[0], in[1], .reduction = AG_SUM, .delta = 0.6); } \
    static ag_tensor *id##_none(ag_tensor **in) { return ag_##id(in[0], in[1], .reduction = AG_NONE); }          \
    const ag_op ag_op_##id = {                                                                                   \
        .name = #id, .inputs = "x target weight", .infer = loss_infer, .unread_out = true, .unread_cuda = true,  \
        .forward = { id##_forward, AG_CUDA_FN(ag_##id##_forward_cuda) },                                         \
        .backward = { id##_backward, AG_CUDA_FN(ag_##id##_backward_cuda) },                                      \
        .check = { { "x[3,5] target[3,5]" target_kind, id##_mean }, { "x[7] target[7]" target_kind, id##_sum },  \
                   { "x[3,5] target[3,5]" target_kind, id##_none } LOSS_MORE_##id },                             \
    };                                                                                                           \
    ag_tensor *ag_##id##_(const char *at, ag_tensor *x, ag_tensor *target, ag_loss_opts opts)                    \
    {                                                                                                            \
        const ag_loss_arg a = { opts.reduction, opts.delta > 0 ? opts.delta : 1 };                               \
        ag_tensor *in[AG_LOSS_INPUTS] = { x, target, opts.weight };                                              \
        return ag_apply_(at, &ag_op_##id, AG_LOSS_INPUTS, in, &a, sizeof a);                                     \
    }

static ag_tensor *bce_weighted(ag_tensor **in) { return ag_bce_with_logits(in[0], in[1], .weight = in[2]); }

#define LOSS_MORE_mse_loss
#define LOSS_MORE_l1_loss
#define LOSS_MORE_huber_loss
#define LOSS_MORE_bce_with_logits , { "x[3,5] target[3,5]:u01 weight[5]:cpos", bce_weighted }

AG_LOSSES(LOSS)
