/* core/backward.c - gradients: one reverse walk over the tape.
 *
 * B1  A tensor's gradient is complete when the walk reaches the node that made it (A1).
 * B2  The first gradient to arrive overwrites, later ones add; no gradient is ever filled with zeros.
 * B3  Gradient memory may be shared between tensors (ag_node_give); before it is added to it is made unique.
 * B4  A leaf's gradient stays in the memory it once had: optimizers keep gradients in one flat buffer.
 * B5  Gradients of intermediate tensors live only between their first arrival and their node's turn. As long as they do,
 *     the walk holds the tensor (`awaited`): the node above it, often the last other holder, lets go of its inputs.
 * B6  A backward that replays (ag_node_replay) records above the whole tape and walks down to where it began. */
#include <string.h>
#include "core/engine.h"
#include "core/ranks.h"

typedef struct { ag_tensor **inputs; int n; } targets;      /* of ag_grad: these keep their gradient, leaves get none */

static _Thread_local const targets *walking_for;            /* of the walk that is on */
_Thread_local bool ag_in_backward;
_Thread_local void (*ag_leaf_arrived)(void *arg, ag_tensor *t);
_Thread_local void *ag_leaf_arg;

static bool is_target(const targets *w, const ag_tensor *t)
{
    for (int i = 0; i < w->n; i++)
        if (w->inputs[i] == t) return true;
    return false;
}

static ag_tensor *grad_memory(const ag_tensor *t)
{
    ag_tensor *g = ag_tensor_new(t->at, t->device, t->node ? AG_MEM_TENSOR : AG_MEM_GRAD, t->dtype, ag_shape_of(t));
    if (!t->node) g->storage->owner = t->storage->owner;
    return g;
}

static void make_unique(ag_tensor *t)
{
    if (t->grad->storage->refs == 1 || !t->node) return;       /* B3, B4: a leaf's memory is never given away */
    AG_SCOPE;
    ag_tensor *own = ag_scoped(grad_memory(t));
    ag_assign_any(own, t->grad);
    ag_release(t->grad);
    t->grad = ag_retain(own);
}

static bool wanted(const ag_tensor *t, const targets *only)
{
    if (!t || !t->requires_grad) return false;
    return !only || t->node || is_target(only, t);
}

bool ag_node_wants_rows(const ag_node *n, int k)
{
    const ag_tensor *t = n->in[k];
    if (ag_ranks() > 1) return false;               /* ranks exchange dense gradients */
    return n->op->rows && t && t->requires_grad && t->sparse_grad && !t->node && (t->device != AG_META || ag_ledger_now);
}

/* A second occurrence of a tensor among the inputs gets memory of its own, which is added afterwards. */
static int first_occurrence(const ag_node *n, int k)
{
    for (int i = 0; i < k; i++)
        if (n->in[i] == n->in[k]) return i;
    return k;
}

static void offer_gradients(ag_node *n, const targets *only)
{
    for (int k = 0; k < n->n_in; k++) {
        ag_tensor *t = n->in[k];
        n->din[k] = NULL, n->accumulate[k] = false;
        if (!wanted(t, only) || (!only && ag_node_wants_rows(n, k)) || (k > 0 && n->op->replays)) continue;
        if (first_occurrence(n, k) != k) {
            n->din[k] = grad_memory(t);
            continue;
        }
        const bool fresh = !t->grad || t->grad_fresh;
        if (!fresh) make_unique(t);
        n->accumulate[k] = !fresh;
        n->din[k] = t->grad ? ag_retain(t->grad) : grad_memory(t);
    }
}

static void accept_gradients(ag_node *n)
{
    for (int k = 0; k < n->n_in; k++) {
        ag_tensor *t = n->in[k], *d = n->din[k];
        if (!d) continue;
        if (first_occurrence(n, k) == k) {
            if (t->grad != d) {
                ag_release(t->grad);
                t->grad = ag_retain(d);
            }
            t->grad_fresh = false;
            if (t->node && !t->node->awaited) {
                t->node->awaited = true;
                ag_retain(t);
            }
        } else {
            make_unique(t);
            ag_add_any(t->grad, d);
        }
        n->din[k] = NULL;
        ag_release(d);
        if (ag_leaf_arrived && !t->node) ag_leaf_arrived(ag_leaf_arg, t);
    }
}

void ag_node_give(ag_node *n, int k, ag_tensor *g)
{
    ag_tensor *d = n->din[k], *t = n->in[k];
    if (!d) return;
    if (n->accumulate[k]) ag_add_any(d, g);
    else if (!t->node || first_occurrence(n, k) != k || !ag_is_contiguous(g) || g->dtype != d->dtype) ag_assign_any(d, g);
    else {
        ag_release(d);
        n->din[k] = ag_tensor_view(t->at, g, ag_shape_of(t), NULL, 0);
    }
}

ag_tensor *ag_node_rows_new(const ag_node *n, ag_dtype dtype, ag_shape shape)
{
    return ag_tensor_new(n->at, n->out->device, AG_MEM_GRAD, dtype, shape);
}

void ag_node_give_rows(ag_node *n, int k, ag_tensor *ids, ag_tensor *values)
{
    int64_t capacity;
    ag_rows *r = ag_block_get(sizeof *r, &capacity), **end = &n->in[k]->rows;
    *r = (ag_rows){ .ids = ids, .values = values };
    while (*end) end = &(*end)->next;       /* in order of arrival: the sum is deterministic */
    *end = r;
}

static void check_versions(const ag_node *n)
{
    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] && n->in[k]->storage && !(k < 32 && n->unread >> k & 1) && n->in[k]->storage->version != n->versions[k])
            ag_node_fail(n, "an input was overwritten (ag_copy, ag_fill) after this op used it, so its gradient cannot "
                         "be computed; copy it before, or run backward first");
}

static void compute(ag_node *n, ag_node_fn backward)
{
    if (ag_ledger_now) ag_ledger_kernel(ag_ledger_now, n, true);
    if (backward && ag_numel(n->out)) backward(n);
    else for (int k = 0; k < n->n_in; k++) if (n->din[k] && !n->accumulate[k]) ag_fill_any(n->din[k], 0);
}

static void run_backward(ag_node *n, const targets *only)
{
    const ag_device device = n->out->device;
    const ag_node_fn backward = n->op->backward[device];
    ag_running = n->module;
    check_versions(n);
    if (!backward && device != AG_META) ag_node_fail(n, "no %s kernel for the gradient", ag_device_name(device));
    offer_gradients(n, only);
    AG_SCOPE;                               /* of workspaces and of what gradients are composed from */
    AG_NO_GRAD;
    const double start = ag_profiling ? ag_profile_now() : 0;
    compute(n, backward);
    if (ag_profiling && !n->op->replays) ag_profile_add(n, true, ag_profile_now() - start);
    accept_gradients(n);
}

static void drop_grad(ag_tensor *t)
{
    ag_release(t->grad);
    t->grad = NULL;
}

/* After a node's turn: its output's gradient, and what it held, unless another backward is to come. */
static void finish(ag_node *n, const targets *only, bool retain)
{
    if (!only || !is_target(only, n->out)) drop_grad(n->out);
    if (retain) return;
    n->used = true;
    ag_node_forget(n);
}

static void seed(const char *at, ag_tensor *loss, ag_tensor *grad)
{
    char a[128], b[128];
    if (grad) {
        const bool same = ag_same_shape(grad, loss) && (grad->dtype == AG_F32 || grad->dtype == loss->dtype);
        if (!same) ag_fail(at, "ag_backward: .grad is %s, the tensor is %s", ag_describe(grad, a, sizeof a),
                           ag_describe(loss, b, sizeof b));
    } else if (ag_numel(loss) != 1) {
        ag_fail(at, "ag_backward: needs a loss of one element, got %s; reduce it (ag_mean, ag_sum) or give .grad",
                ag_describe(loss, a, sizeof a));
    }
    if (!loss->requires_grad)
        ag_fail(at, "ag_backward: %s, made at %s, depends on no parameter (detached, computed under AG_NO_GRAD, or no "
                "ag_param among its inputs)", ag_describe(loss, a, sizeof a), loss->at);
    if (loss->node && loss->node->used)
        ag_fail(at, "ag_backward: the graph of the tensor made at %s was used by an earlier backward and is gone; pass "
                ".retain_graph = true there, or compute the loss again", loss->at);
    AG_SCOPE;
    ag_tensor *g = ag_scoped(grad_memory(loss));
    if (grad) ag_assign_any(g, grad);
    else ag_fill_any(g, 1);
    ag_release(loss->grad);
    loss->grad = ag_retain(g);
}

/* What the walk holds: the output whose node has its turn, and the one below, so that letting go of inputs cannot free
 * the place to go on from. A failure lets go of both, and of all that is awaited. */
typedef struct {
    ag_tensor *here, *below;
    const ag_node *floor;
    const targets *outer;               /* what was true before this walk */
    const void *running;
    bool inner;
} walk_hold;

static void stop_awaiting(ag_node *n)
{
    if (!n->awaited) return;
    n->awaited = false;
    ag_release(n->out);
}

/* Of a node that failed between offer and accept. */
static void withdraw_gradients(ag_node *n)
{
    for (int k = 0; k < n->n_in; k++) {
        if (n->din[k]) ag_release(n->din[k]);
        n->din[k] = NULL;
    }
}

static void let_go(void *p)
{
    walk_hold *h = p;
    walking_for = h->outer, ag_running = h->running, ag_in_backward = h->inner;
    if (h->here && h->here->node != h->floor) withdraw_gradients(h->here->node);
    while (h->here && h->here->node != h->floor) {
        ag_node *prev = h->here->node->prev;
        if (!h->below && prev) h->below = ag_retain(prev->out);
        drop_grad(h->here);
        stop_awaiting(h->here->node);
        ag_release(h->here);
        h->here = h->below, h->below = NULL;
    }
    ag_release(h->here);
}

/* Down to `floor`, exclusive. */
static void walk(const char *at, ag_tensor *loss, const targets *only, bool retain, const ag_node *floor)
{
    AG_SCOPE;
    walk_hold hold = { .here = ag_retain(loss), .floor = floor, .outer = walking_for, .running = ag_running,
                       .inner = ag_in_backward };
    walking_for = only, ag_in_backward = true;
    ag_defer(let_go, &hold);
    while (hold.here && hold.here->node != floor) {
        ag_node *n = hold.here->node;
        hold.below = n->prev ? ag_retain(n->prev->out) : NULL;
        if (n->out->grad) {
            if (n->used)
                ag_fail(at, "ag_backward: part of the graph, made at %s, was used by an earlier backward and is gone; "
                        "pass .retain_graph = true there, or detach it", n->at);
            run_backward(n, only);
            finish(n, only, retain);
        }
        stop_awaiting(n);
        ag_tensor *done = hold.here;
        hold.here = hold.below, hold.below = NULL;
        ag_release(done);
    }
}

void ag_backward_(const char *at, ag_tensor *loss, ag_backward_opts opts)
{
    if (!loss->node && loss->requires_grad) {       /* a parameter itself */
        ag_tensor *g = loss->grad;
        loss->grad = NULL;
        seed(at, loss, opts.grad);
        if (g && !loss->grad_fresh) ag_add_any(loss->grad, g);
        if (g) {
            ag_assign_any(g, loss->grad);           /* B4 */
            ag_release(loss->grad);
            loss->grad = g;
        }
        loss->grad_fresh = false;
        return;
    }
    seed(at, loss, opts.grad);
    walk(at, loss, NULL, opts.retain_graph, ag_ledger_now ? ag_ledger_now->floor : NULL);
}

void ag_grad_(const char *at, ag_tensor *loss, int n, ag_tensor **inputs, ag_tensor **out)
{
    ag_tensor **before = ag_alloc(n, sizeof *before);
    bool *fresh = ag_alloc(n, sizeof *fresh);
    for (int i = 0; i < n; i++) {
        before[i] = inputs[i]->grad, fresh[i] = inputs[i]->grad_fresh;
        inputs[i]->grad = NULL, inputs[i]->grad_fresh = false;
    }
    seed(at, loss, NULL);
    walk(at, loss, &(targets){ inputs, n }, true, NULL);
    for (int i = 0; i < n; i++) {
        if (!inputs[i]->grad) {
            inputs[i]->grad = grad_memory(inputs[i]);
            ag_fill_any(inputs[i]->grad, 0);
        }
        out[i] = ag_scoped(inputs[i]->grad);
        inputs[i]->grad = before[i], inputs[i]->grad_fresh = fresh[i];
    }
    ag_free(before);
    ag_free(fresh);
}

/* ---- replaying ----------------------------------------------------------------------------------------- */

/* The targets of the walk that is on, and x. */
static targets also(const targets *only, ag_tensor *x)
{
    targets all = { ag_alloc(only->n + 1, sizeof *all.inputs), only->n + 1 };
    ag_defer(ag_free, all.inputs);
    memcpy(all.inputs, only->inputs, (size_t)only->n * sizeof *all.inputs);
    all.inputs[only->n] = x;
    return all;
}

/* The gradient of n's output, which n needs no more. */
static ag_tensor *take_grad(ag_node *n)
{
    ag_tensor *g = n->out->grad;
    if (walking_for && is_target(walking_for, n->out)) return ag_tensor_view(n->at, g, ag_shape_of(g), NULL, 0);
    n->out->grad = NULL;
    return g;
}

void ag_node_replay(ag_node *n, ag_tensor *(*fn)(ag_tensor *x, void *arg), void *arg)
{
    AG_SCOPE;
    const ag_node *floor = ag_tape_top();
    ag_tensor *x = ag_scoped(ag_tensor_view(n->at, n->in[0], ag_shape_of(n->in[0]), n->in[0]->stride, 0)), *y;
    x->requires_grad = n->din[0] != NULL;
    {
        AG_ENABLE_GRAD;
        y = ag_keep(fn(x, arg));
    }
    if (y == x) ag_node_give(n, 0, n->out->grad);
    if (!y->node) return;
    x->grad = n->din[0] ? ag_retain(n->din[0]) : NULL, x->grad_fresh = !n->accumulate[0];
    y->grad = take_grad(n);
    if (walking_for) {
        const targets all = also(walking_for, x);
        walk(n->at, y, &all, false, floor);
    } else walk(n->at, y, NULL, false, floor);
    if (n->din[0] && x->grad_fresh) ag_fill_any(n->din[0], 0);
}

void ag_zero_grad(ag_tensor *t)
{
    t->grad_fresh = t->grad != NULL;
    while (t->rows) {
        ag_rows *r = t->rows;
        t->rows = r->next;
        ag_release(r->ids);
        ag_release(r->values);
        ag_block_put(r, 64);
    }
}

void ag_rows_to_dense(ag_tensor *t)
{
    if (!t->rows) return;
    AG_ASSERT(t->ndim == 2 && ag_is_contiguous(t));
    if (!t->grad) t->grad = grad_memory(t), t->grad_fresh = true;
    if (t->grad_fresh) ag_fill_any(t->grad, 0);
    const int64_t width = t->shape[1];
    for (ag_rows *r = t->rows; r; r = r->next) {
        if (t->device == AG_CUDA) {
            ag_device_table(AG_CUDA)->add_rows(t->grad, r->ids, r->values);
            continue;
        }
        const int64_t *ids = r->ids->data;
        const real *v = ag_real(r->values);
        for (int64_t i = 0; i < ag_numel(r->ids); i++)
            for (int64_t k = 0; k < width; k++) ag_real(t->grad)[ids[i] * width + k] += v[i * width + k];
    }
    ag_zero_grad(t);
    t->grad_fresh = false;
}
