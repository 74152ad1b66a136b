/* core/apply.c - applying an op: one place that checks devices, infers, runs and records.
 *
 * A1  Nodes lie on the tape in the order they were made, which is a topological order.
 * A2  A node belongs to its output; it holds counts on its inputs, on what it saved, and none on its output.
 * A3  A node under construction is pending, so that a failure inside infer or forward can let go of it.
 * A4  An input that backward does not read is held for its gradient only: when all who hold a tensor do so, its memory ends. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "core/engine.h"

enum { MOST_INPUTS = 16 };               /* of an op whose inputs are made to fit */

static _Thread_local ag_node *tape, *pending;

__thread const void *ag_running;
const char *(*ag_path_hook)(const void *module);

/* Variable-sized: the node, then in, din, versions, accumulate and the argument, in one block. */
static ag_node *node_new(const char *at, const ag_op *op, int n_in, ag_tensor **in, const void *arg, size_t arg_size)
{
    const int64_t slot = 2 * (int64_t)sizeof(ag_tensor *) + (int64_t)sizeof(uint32_t) + (int64_t)sizeof(bool);
    const int64_t lists = (n_in * slot + 15) / 16 * 16;
    int64_t capacity;
    ag_node *n = ag_block_get((int64_t)sizeof *n + lists + (int64_t)arg_size, &capacity);
    *n = (ag_node){ .op = op, .at = at, .n_in = n_in, .module = ag_running, .arg_size = (int)arg_size,
                    .size_class = (int)(capacity >> 6), .unread = op->view && !op->replays ? 1 : op->unread,
                    .unread_out = (op->view && !op->replays) || op->unread_out };
    char *at_list = (char *)(n + 1);
    n->in = (ag_tensor **)(void *)at_list;
    n->din = n->in + n_in;
    n->versions = (uint32_t *)(void *)(n->din + n_in);
    n->accumulate = (bool *)(n->versions + n_in);
    n->arg = at_list + lists;
    if (arg_size) memcpy(n->arg, arg, arg_size);
    for (int i = 0; i < n_in; i++) {
        n->in[i] = in[i] ? ag_retain(in[i]) : NULL;
        n->din[i] = NULL;
        n->accumulate[i] = false;
    }
    n->next = pending;
    pending = n;
    ag_memory_count_objects(0, 1);
    return n;
}

static bool reads(const ag_node *n, int k)
{
    return k >= 32 || !(n->unread >> k & 1);
}

void ag_node_forget(ag_node *n)
{
    for (int i = 0; i < n->n_in; i++) {
        ag_tensor *t = n->in[i];
        n->in[i] = NULL;
        if (t && n->recorded && !reads(n, i)) t->unread--;
        if (t) ag_release(t);
    }
    for (int i = 0; i < AG_MAX_SAVED; i++) {
        ag_tensor *t = n->saved[i];
        n->saved[i] = NULL;
        if (t) ag_release(t);
    }
}

void ag_node_free(ag_node *n)
{
    if (n->recorded) {
        if (n->next) n->next->prev = n->prev;
        else tape = n->prev;
        if (n->prev) n->prev->next = n->next;
    }
    if (n->out) n->out->node = NULL;
    ag_node_forget(n);
    ag_memory_count_objects(0, -1);
    ag_block_put(n, (int64_t)n->size_class << 6);
}

ag_node *ag_node_pending(void)
{
    return pending;
}

void ag_node_discard_pending(ag_node *down_to)
{
    while (pending != down_to) {
        ag_node *n = pending;
        ag_tensor *out = n->out;
        pending = n->next;
        if (out) out->node = NULL;
        ag_node_free(n);
        if (out) ag_release(out);
    }
}

static void check_devices(ag_node *n)
{
    ag_device device = AG_DEVICES;
    if (ag_ledger_now) return;
    for (int i = 0; i < n->n_in; i++) {
        if (!n->in[i]) continue;
        if (device == AG_DEVICES) device = n->in[i]->device;
        if (n->in[i]->device != device)
            ag_node_fail(n, "operands lie on two devices, %s and %s; move one with ag_to", ag_device_name(device),
                         ag_device_name(n->in[i]->device));
    }
}

static void record(ag_node *n)
{
    for (int i = 0; i < n->n_in; i++) {
        ag_tensor *t = n->in[i];
        n->versions[i] = t ? t->storage->version : 0;
        if (t && !reads(n, i)) t->unread++;
    }
    n->recorded = true;
    n->prev = tape, n->next = NULL;
    if (tape) tape->next = n;
    tape = n;
}

bool ag_node_trains(const ag_node *n)
{
    if (n->op->no_grad || !ag_grad_enabled()) return false;
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] && n->in[i]->requires_grad) return true;
    return false;
}

static void run_forward(ag_node *n)
{
    const ag_device device = n->out->device;
    if (ag_ledger_now && !n->op->view) ag_ledger_kernel(ag_ledger_now, n, false);
    if (ag_flop_counter && n->op->flops) *ag_flop_counter += n->op->flops(n);
    if (n->op->view || device == AG_META || ag_numel(n->out) == 0) return;
    if (!n->op->forward[device])
        ag_node_fail(n, "no %s kernel; move the operands to the cpu with ag_to, or add one (core/op.h)",
                     ag_device_name(device));
    AG_SCOPE;                           /* of the workspaces */
    const double start = ag_profiling ? ag_profile_now() : 0;
    n->op->forward[device](n);
    if (ag_profiling) ag_profile_add(n, false, ag_profile_now() - start);
}

/* Of kernels in cuda/ more has to be asked; what the device table does (copies) is as on the CPU. */
bool ag_kernels_in_cuda(const ag_op *op, ag_device device)
{
    if (ag_ledger_now) device = ag_ledger_now->device;
    return device == AG_CUDA && op->forward[AG_CUDA] && op->forward[AG_CUDA] != op->forward[AG_CPU];
}

static bool takes_bf16(const ag_op *op, int k, ag_device device)
{
    return op->view || (k < 32 && (ag_kernels_in_cuda(op, device) ? op->bf16_cuda : op->bf16) >> k & 1);
}

/* Whether an input that may be bf16 is f32: then all are widened. */
static bool mixed(const ag_op *op, int n_in, ag_tensor **in)
{
    for (int i = 0; i < n_in; i++)
        if (in[i] && takes_bf16(op, i, in[i]->device) && in[i]->dtype == AG_F32) return true;
    return false;
}

/* Dense and of the dtypes that the op takes. Fills fit and returns it, or `in` itself where nothing has to change. */
static ag_tensor **fitting(const char *at, const ag_op *op, int n_in, ag_tensor **in, ag_tensor **fit)
{
    const bool strided = op->strided || op->view;
    bool all = true, narrow = false;
    for (int i = 0; i < n_in; i++) {
        if (!in[i]) continue;
        all &= strided || ag_is_contiguous(in[i]);
        narrow |= in[i]->dtype == AG_BF16;
    }
    if ((all && !narrow) || n_in > MOST_INPUTS) return in;
    const bool widen = narrow && mixed(op, n_in, in);
    for (int i = 0; i < n_in; i++) {
        fit[i] = in[i];
        if (!in[i]) continue;
        if (in[i]->dtype == AG_BF16 && (widen || !takes_bf16(op, i, in[i]->device))) fit[i] = ag_cast_(at, in[i], AG_F32);
        if (!strided) fit[i] = ag_contiguous_(at, fit[i]);
    }
    return fit;
}

ag_tensor *ag_apply_(const char *at, const ag_op *op, int n_in, ag_tensor **in, const void *arg, size_t arg_size)
{
    ag_tensor *fit[MOST_INPUTS];
    in = fitting(at, op, n_in, in, fit);
    ag_node *n = node_new(at, op, n_in, in, arg, arg_size);
    check_devices(n);
    op->infer(n);
    AG_ASSERT(n->out);
    if (ag_kernels_in_cuda(op, n->out->device) && !op->unread_cuda) n->unread = 0, n->unread_out = false;
    run_forward(n);
    ag_tensor *out = n->out;
    pending = n->next;
    if (ag_node_trains(n)) {
        out->requires_grad = true;
        out->node = n;
        record(n);
    } else {
        n->out = NULL;
        ag_node_free(n);
    }
    return ag_scoped(out);
}

/* ---- for infer ----------------------------------------------------------------------------------------- */

static ag_device device_of(const ag_node *n)
{
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i]) return n->in[i]->device;
    return ag_default_device();
}

void ag_node_out(ag_node *n, ag_dtype dtype, ag_shape shape)
{
    n->out = ag_tensor_new(n->at, device_of(n), AG_MEM_TENSOR, dtype, shape);
}

void ag_node_out_like(ag_node *n, const ag_tensor *t)
{
    ag_node_out(n, t->dtype, ag_shape_of(t));
}

void ag_node_out_view(ag_node *n, const ag_tensor *base, ag_shape shape, const int64_t *stride, int64_t offset)
{
    n->out = ag_tensor_view(n->at, base, shape, stride, offset);
}

void ag_node_save(ag_node *n, int slot, ag_dtype dtype, ag_shape shape)
{
    AG_ASSERT(slot >= 0 && slot < AG_MAX_SAVED && !n->saved[slot]);
    n->saved[slot] = ag_tensor_new(n->at, device_of(n), AG_MEM_TENSOR, dtype, shape);
}

void ag_infer_same(ag_node *n)
{
    ag_node_require_real(n, n->in[0], NULL);
    ag_node_out_like(n, n->in[0]);
}

/* The i-th word of the op's list of operand names. */
static int operand_name(const ag_node *n, int i, const char **name)
{
    const char *s = n->op->inputs ? n->op->inputs : "";
    for (; i > 0 && *s; i--) {
        s += strcspn(s, " ");
        s += strspn(s, " ");
    }
    *name = *s ? s : "x";
    return (int)strcspn(*name, " ");
}

/* main.c:7: ag_matmul: inner dimensions differ: got 7 and 4
 *     a  f32[64, 7]  created at main.c:14
 *     b  f32[4, 16]  parameter 'fc1.weight' */
void ag_node_fail(const ag_node *n, const char *fmt, ...)
{
    char text[4096], shape[128];
    const char *path = ag_path_hook && n->module ? ag_path_hook(n->module) : NULL;
    int used = 0, width = 0;
    if (path && *path) used = snprintf(text, sizeof text, "in module '%s': ", path);
    used += snprintf(text + used, sizeof text - (size_t)used, "ag_%s: ", n->op->name);
    va_list args;
    va_start(args, fmt);
    used += vsnprintf(text + used, sizeof text - (size_t)used, fmt, args);
    va_end(args);
    for (int i = 0; i < n->n_in; i++) {
        const char *name;
        const int len = operand_name(n, i, &name);
        if (n->in[i] && len > width) width = len;
    }
    for (int i = 0; i < n->n_in && used < (int)sizeof text - 1; i++) {
        const ag_tensor *t = n->in[i];
        const char *name;
        if (!t) continue;
        const int len = operand_name(n, i, &name);
        used += snprintf(text + used, sizeof text - (size_t)used, "\n    %.*s%*s  %s", len, name, width - len, "",
                         ag_describe(t, shape, sizeof shape));
        if (used >= (int)sizeof text) break;
        if (t->name) used += snprintf(text + used, sizeof text - (size_t)used, "  parameter '%s'", t->name);
        else if (t->at) used += snprintf(text + used, sizeof text - (size_t)used, "  created at %s", t->at);
    }
    ag_fail(n->at, "%s", text);
}

void ag_node_require_real(const ag_node *n, const ag_tensor *t, const char *name)
{
    if (t->dtype == AG_F32) return;
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] == t && t->dtype == AG_BF16 && takes_bf16(n->op, i, t->device)) return;
    ag_node_fail(n, "%s%sneeds %s, got %s; convert it with ag_cast", name ? name : "", name ? " " : "",
                 ag_dtype_name(AG_F32), ag_dtype_name(t->dtype));
}

int ag_node_axis(const ag_node *n, const ag_tensor *t, int axis)
{
    if (axis < -t->ndim || axis >= t->ndim)
        ag_node_fail(n, "axis %d is out of range for %d axes", axis, t->ndim);
    return axis < 0 ? axis + t->ndim : axis;
}

uint32_t ag_node_axes(const ag_node *n, const ag_tensor *t, uint32_t axes)
{
    uint32_t mask = 0;
    if (!axes) return (1u << t->ndim) - 1;
    for (int i = 0; i < 16; i++) {
        if (axes >> i & 1) mask |= 1u << ag_node_axis(n, t, i);
        if (axes >> (16 + i) & 1) mask |= 1u << ag_node_axis(n, t, -1 - i);
    }
    return mask;
}

ag_shape ag_node_broadcast(const ag_node *n, const ag_tensor *a, const ag_tensor *b)
{
    ag_shape s = { .ndim = a->ndim > b->ndim ? a->ndim : b->ndim };
    for (int i = 1; i <= s.ndim; i++) {
        const int64_t p = i <= a->ndim ? a->shape[a->ndim - i] : 1, q = i <= b->ndim ? b->shape[b->ndim - i] : 1;
        if (p != q && p != 1 && q != 1)
            ag_node_fail(n, "shapes do not broadcast: axis %d from the end is %" PRId64 " and %" PRId64, i, p, q);
        s.dim[s.ndim - i] = p == 1 ? q : p;
    }
    return s;
}

void *ag_workspace(const ag_node *n, int64_t count, size_t size)
{
    const int64_t bytes = ag_mul_size(n->at, count, (int64_t)size);
    void *data = ag_scoped(ag_tensor_new(n->at, device_of(n), AG_MEM_WORKSPACE, AG_U8, AG_SHAPE(bytes)))->data;
    return ag_ledger_now ? ag_planned_data : data;
}

ag_node *ag_tape_top(void)
{
    return tape;
}
