/* nn/plan.c - a training step or an evaluation on tensors without memory, and what it would have held.
 *
 * P1  Two steps are planned: from the second on gradients and repacked parameters are there from the beginning, and lie where
 *     the first one put them.
 * P2  What planning touches besides tensors is put back: modes, gradients, the random stream, counters among the buffers. */
#include "nn/plan.h"
#include <stdlib.h>
#include "core/ledger.h"
#include "core/random.h"
#include "nn/module.h"
#include "ops/ops.h"

typedef struct { const char *path; nn_module *module; ag_plan_layer row; } layer_row;
typedef struct { ag_tensor *tensor, *grad; struct ag_rows *rows; bool fresh; int64_t count; } held_tensor;

typedef struct {
    const char *at;
    nn_module *net;
    ag_shape input;
    ag_plan_opts opts;
    ag_ledger ledger;
    ag_rng rng;
    held_tensor *held;          /* parameters and buffers as they were */
    int64_t n_held;
    layer_row *row;             /* by address of the path, for .layer */
    int n_rows;
    int64_t outside;
    void (*observer)(void *, const nn_module *, const ag_tensor *);
    void *observer_arg;
    int64_t input_bytes;
} job;

/* ---- parameters and buffers ---------------------------------------------------------------------------- */

static bool is_counter(const ag_tensor *t)
{
    return t->dtype == AG_I64 && t->device == AG_CPU && t->data && ag_numel(t) == 1;
}

static bool is_known(const job *j, const ag_tensor *t)         /* under another name */
{
    for (int64_t i = 0; i < j->n_held; i++)
        if (j->held[i].tensor == t) return true;
    return false;
}

static bool take_away(void *arg, const nn_module *owner, const struct nn_slot *slot)
{
    job *j = arg;
    ag_tensor *t = slot->tensor;
    const int64_t bytes = ag_numel(t) * (int64_t)ag_dtype_size(t->dtype);
    const int slots = j->opts.optimizer == AG_PLAN_ADAMW ? 2 : j->opts.optimizer == AG_PLAN_MOMENTUM;
    (void)owner;
    if (is_known(j, t) || ag_memory_kind_of(t) == AG_MEM_PACKED) return false;
    j->held[j->n_held++] = (held_tensor){ t, t->grad, t->rows, t->grad_fresh, is_counter(t) ? *(int64_t *)t->data : 0 };
    t->grad = NULL, t->rows = NULL, t->grad_fresh = false;
    if (j->ledger.device == AG_CUDA && is_counter(t)) return false;         /* counters stay on the host */
    ag_ledger_add(&j->ledger, AG_MEM_PARAM, bytes);
    if (!j->opts.train || slot->kind != NN_SLOT_PARAM) return false;
    for (int i = 0; i < slots; i++) ag_ledger_add(&j->ledger, AG_MEM_OPTIM, bytes);
    if (j->ledger.device == AG_CUDA && t->sparse_grad && slots == 2)        /* how far each row is, if they are stepped lazily */
        ag_ledger_add(&j->ledger, AG_MEM_OPTIM, t->shape[0] * (int64_t)sizeof(int64_t));
    if (j->ledger.device == AG_CPU) ag_ledger_add(&j->ledger, AG_MEM_OPTIM, (int64_t)sizeof(int64_t));  /* its count of steps */
    return false;
}

static void put_back(void *p)
{
    job *j = p;
    for (int64_t i = 0; i < j->n_held; i++) {
        const held_tensor *h = &j->held[i];
        ag_zero_grad(h->tensor);
        ag_release(h->tensor->grad);
        h->tensor->grad = h->grad, h->tensor->rows = h->rows, h->tensor->grad_fresh = h->fresh;
        if (is_counter(h->tensor)) *(int64_t *)h->tensor->data = h->count;
    }
    ag_rng_set(j->rng);
    ag_nn_observer = j->observer, ag_nn_observer_arg = j->observer_arg;
}

static void end(void *p)
{
    job *j = p;
    ag_ledger_drop(&j->ledger);
    ag_free(j->held);
    ag_free(j->row);
}

/* ---- layers -------------------------------------------------------------------------------------------- */

static int add_rows(job *j, nn_module *m, int n)
{
    if (j->row) {
        layer_row *r = &j->row[n];
        *r = (layer_row){ .path = ag_nn_label(m), .module = m, .row = { .type = m->type, .output.ndim = -1 } };
        r->row.path = r->path;
        for (int i = 0; i < m->n_slots; i++)
            if (m->slots[i].kind == NN_SLOT_PARAM) r->row.parameters += ag_numel(m->slots[i].tensor);
    }
    n++;
    for (int i = 0; i < m->n_slots; i++)
        if (m->slots[i].child) n = add_rows(j, m->slots[i].child, n);
    return n;
}

static layer_row *row_of(const job *j, const char *path)
{
    for (int i = 0; i < j->n_rows; i++)
        if (j->row[i].path == path) return &j->row[i];
    return NULL;
}

static void watch(void *arg, const char *path, ag_mem_kind kind, int64_t bytes)
{
    job *j = arg;
    layer_row *r = row_of(j, path);
    if (kind != AG_MEM_TENSOR) return;
    *(r ? &r->row.kept : &j->outside) += bytes;
}

static void observe(void *arg, const nn_module *m, const ag_tensor *y)
{
    const job *j = arg;
    for (int i = 0; i < j->n_rows; i++)
        if (j->row[i].module == m) j->row[i].row.output = ag_shape_of(y);
}

static void tell_layers(job *j)
{
    for (int i = 0; i < j->n_rows; i++) j->opts.layer(j->opts.layer_arg, &j->row[i].row);
    j->opts.layer(j->opts.layer_arg, &(ag_plan_layer){ .path = "", .type = "", .output.ndim = -1, .kept = j->outside });
    ag_nn_observer = j->observer, ag_nn_observer_arg = j->observer_arg;
    j->ledger.watch = NULL;
}

static void begin_layers(job *j)
{
    j->observer = ag_nn_observer, j->observer_arg = ag_nn_observer_arg;
    if (!j->opts.layer) return;
    j->n_rows = add_rows(j, j->net, 0);
    j->row = ag_alloc(j->n_rows, sizeof *j->row);
    add_rows(j, j->net, 0);
    ag_nn_observer = observe, ag_nn_observer_arg = j;
    j->ledger.watch = watch, j->ledger.watch_arg = j;
}

/* ---- a step -------------------------------------------------------------------------------------------- */

static ag_tensor *loss_of(const job *j, ag_tensor *y, ag_tensor *target)
{
    if (j->opts.loss_with) return j->opts.loss_with(j->opts.loss_arg, y, target);
    if (j->opts.loss) return j->opts.loss(y, target);
    return y->ndim == 2 ? ag_cross_entropy_(j->at, y, target, (ag_loss_opts){ 0 })
                        : ag_mse_loss_(j->at, y, target, (ag_loss_opts){ 0 });
}

/* Where nothing is said of the targets they are classes, or of the result's shape. */
static ag_tensor *target_of(const job *j, const ag_tensor *y)
{
    const ag_plan_opts *o = &j->opts;
    if (o->target.ndim) return ag_empty_(j->at, o->target_type, o->target);
    const bool classes = !o->loss && !o->loss_with && y->ndim == 2;
    return classes ? ag_empty_(j->at, AG_I64, AG_SHAPE(y->shape[0])) : ag_empty_(j->at, AG_F32, ag_shape_of(y));
}

static void step(job *j)
{
    AG_SCOPE;
    int64_t before = j->ledger.in_use;
    ag_tensor *x = ag_empty_(j->at, j->opts.input_type, j->input);
    j->input_bytes = j->ledger.in_use - before;
    ag_tensor *y = nn_call(j->net, x);
    if (j->ledger.watch) tell_layers(j);
    if (!j->opts.train) return;
    before = j->ledger.in_use;
    ag_tensor *target = target_of(j, y);
    j->input_bytes += j->ledger.in_use - before;
    ag_backward(loss_of(j, y, target));
    for (int64_t i = 0; i < j->n_held; i++) ag_zero_grad(j->held[i].tensor);
}

static void run(job *j)
{
    AG_PLANNING(&j->ledger);
    ag_defer(put_back, j);
    begin_layers(j);
    for (int kind = NN_SLOT_PARAM; kind <= NN_SLOT_HIDDEN; kind++) ag_nn_each(j->net, (nn_slot_kind)kind, take_away, j);
    ag_scope modes AG_CLEANUP(ag_scope_end) = ag_nn_mode_begin(j->net, j->opts.train);
    const char *name = j->opts.precision == AG_BF16 ? "bf16" : ag_autocast_name();
    ag_scope precision AG_CLEANUP(ag_scope_end) = ag_autocast_begin(j->at, name);
    ag_scope grad AG_CLEANUP(ag_scope_end) = j->opts.train ? ag_enable_grad_begin() : ag_no_grad_begin();
    for (int i = 0; i < 2; i++) step(j);
}

static bool add_one(void *arg, const nn_module *owner, const struct nn_slot *slot)
{
    (void)owner, (void)slot;
    ++*(int64_t *)arg;
    return false;
}

static int64_t tensor_count(const nn_module *net)
{
    int64_t n = 0;
    for (int kind = NN_SLOT_PARAM; kind <= NN_SLOT_HIDDEN; kind++) ag_nn_each(net, (nn_slot_kind)kind, add_one, &n);
    return n;
}

static void check(const char *at, ag_shape input, const ag_plan_opts *o)
{
    if (input.ndim < 1 || input.dim[0] < 1) ag_fail(at, "ag_memory_plan: the input needs a first axis of one sample or more");
    if (o->accumulate < 0 || o->accumulate > input.dim[0])
        ag_fail(at, "ag_memory_plan: .accumulate = %d of %" PRId64 " samples; it is 1 or more, and no more than they are",
                o->accumulate, input.dim[0]);
    if (o->precision != AG_F32 && o->precision != AG_BF16) ag_fail(at, "ag_memory_plan: .precision is AG_F32 or AG_BF16");
}

static ag_device device_of(const nn_module *net, ag_device wanted)
{
    const int64_t n = nn_param_count(net);
    return wanted == AG_CUDA || (n && nn_param_at((nn_module *)(uintptr_t)net, 0)->device == AG_CUDA) ? AG_CUDA : AG_CPU;
}

ag_plan ag_memory_plan_(const char *at, nn_module *net, ag_shape input, ag_plan_opts opts)
{
    check(at, input, &opts);
    const int parts = opts.accumulate ? opts.accumulate : 1;
    AG_SCOPE;
    job *j = ag_alloc(1, sizeof *j);
    ag_defer(ag_free, j);
    *j = (job){ .at = at, .net = net, .input = input, .opts = opts, .rng = ag_rng_get() };
    j->ledger.device = device_of(net, opts.device);
    j->input.dim[0] = (input.dim[0] + parts - 1) / parts;
    if (opts.target.ndim) j->opts.target.dim[0] = j->input.dim[0];
    ag_defer(end, j);
    j->held = ag_alloc(tensor_count(net), sizeof *j->held);
    run(j);
    const ag_ledger *l = &j->ledger;
    const int64_t *most = l->at_peak;
    return (ag_plan){ .parameters = most[AG_MEM_PARAM], .gradients = most[AG_MEM_GRAD], .optimizer = most[AG_MEM_OPTIM],
                      .activations = most[AG_MEM_TENSOR] - j->input_bytes, .workspace = most[AG_MEM_WORKSPACE],
                      .packed = most[AG_MEM_PACKED], .input = j->input_bytes, .peak = l->peak, .resident = l->held,
                      .where = l->peak_where, .in_backward = l->peak_in_backward, .batch = j->input.dim[0] };
}

typedef struct { const char *at; nn_module *net; ag_shape input; ag_plan_opts opts; ag_plan plan; } attempt;

static void plan_again(void *p)
{
    attempt *a = p;
    a->plan = ag_memory_plan_(a->at, a->net, a->input, a->opts);
}

/* A batch that is too small for the net (batch norm of one sample) counts as one that does not fit. */
int64_t ag_memory_fit_(const char *at, nn_module *net, ag_shape input, int64_t bytes, ag_plan_opts opts)
{
    attempt a = { .at = at, .net = net, .input = input, .opts = opts };
    a.opts.accumulate = 0;
    plan_again(&a);
    if (a.plan.resident <= bytes) return input.dim[0];
    int64_t fits = 0, too_many = input.dim[0];
    while (too_many - fits > 1) {
        a.input.dim[0] = (fits + too_many) / 2;
        if (!ag_try(plan_again, &a) && a.plan.resident <= bytes) fits = a.input.dim[0];
        else too_many = a.input.dim[0];
    }
    return fits;
}
