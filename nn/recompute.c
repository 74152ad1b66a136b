/* nn/recompute.c - activation checkpointing: a module that runs again in backward instead of keeping what it computed
 * (Chen et al. 2016, "Training deep nets with sublinear memory cost").
 *
 * Parameters are inputs of the op, so that it is recorded also where x wants no gradient, and a weight that is written to
 * before backward is noticed. */
#include "core/device.h"
#include "core/memory.h"
#include "core/op.h"
#include "core/random.h"
#include "nn/module.h"

typedef struct { nn_module *m; ag_rng rng; const char *precision; } recompute_arg;

static void recompute_infer(ag_node *n)
{
    const recompute_arg *a = n->arg;
    ag_scope scope AG_CLEANUP(ag_scope_end) = ag_recompute_begin();
    ag_tensor *y = nn_call(a->m, n->in[0]);
    ag_node_out_view(n, y, ag_shape_of(y), y->stride, 0);
}

/* ---- buffers (running statistics) as they were before the second call ---------------------------------- */

typedef struct { nn_module *m; char *saved, *at; ag_rng rng; bool back; } before;

static int64_t bytes_of(const ag_tensor *t)
{
    return t->data ? ag_numel(t) * (int64_t)ag_dtype_size(t->dtype) : 0;
}

static bool add_bytes(void *arg, const nn_module *owner, const struct nn_slot *slot)
{
    (void)owner;
    *(int64_t *)arg += bytes_of(slot->tensor);
    return false;
}

static bool move_buffer(void *arg, const nn_module *owner, const struct nn_slot *slot)
{
    before *b = arg;
    ag_tensor *t = slot->tensor;
    const int64_t bytes = bytes_of(t);
    (void)owner;
    if (bytes && b->back) ag_device_table(t->device)->copy_in(t->data, b->at, (size_t)bytes);
    else if (bytes) ag_device_table(t->device)->copy_out(b->at, t->data, (size_t)bytes);
    b->at += bytes;
    return false;
}

static void put_back(void *p)
{
    before *b = p;
    ag_rng_set(b->rng);
    b->at = b->saved, b->back = true;
    ag_nn_each(b->m, NN_SLOT_BUFFER, move_buffer, b);
    ag_free(b->saved);
}

/* ---- backward ------------------------------------------------------------------------------------------ */

static ag_tensor *call_again(ag_tensor *x, void *arg)
{
    const recompute_arg *a = arg;
    ag_scope precision AG_CLEANUP(ag_scope_end) = ag_autocast_begin(a->m->at, a->precision);
    return ag_keep(nn_call(a->m, x));
}

static void recompute_backward(ag_node *n)
{
    recompute_arg *a = n->arg;
    int64_t bytes = 0;
    ag_nn_each(a->m, NN_SLOT_BUFFER, add_bytes, &bytes);
    before b = { .m = a->m, .saved = ag_alloc(bytes, 1), .rng = ag_rng_get() };
    b.at = b.saved;
    AG_SCOPE;
    ag_defer(put_back, &b);
    ag_nn_each(a->m, NN_SLOT_BUFFER, move_buffer, &b);
    ag_rng_set(a->rng);
    ag_node_replay(n, call_again, a);
}

static const ag_op op_recompute = {
    .name = "recompute", .inputs = "x", .infer = recompute_infer, .view = true, .replays = true,
    .backward = { recompute_backward, recompute_backward, recompute_backward },
};

/* ---- forward ------------------------------------------------------------------------------------------- */

static bool add_trained(void *arg, const nn_module *owner, const struct nn_slot *slot)
{
    ag_tensor ***next = arg;
    (void)owner;
    if (slot->tensor->requires_grad) *(*next)++ = slot->tensor;
    return false;
}

ag_tensor *ag_nn_call_recompute(nn_module *m, ag_tensor *x)
{
    if (!ag_grad_enabled()) return nn_call(m, x);
    ag_tensor **in = ag_alloc(1 + nn_param_count(m), sizeof *in), **next = in;
    AG_SCOPE;
    ag_defer(ag_free, in);
    *next++ = x;
    ag_nn_each(m, NN_SLOT_PARAM, add_trained, &next);
    const recompute_arg arg = { m, ag_rng_get(), ag_autocast_name() };
    return ag_keep(ag_apply_(m->at, &op_recompute, (int)(next - in), in, &arg, sizeof arg));
}
