/* core/ledger.c - what tensors would hold.
 *
 * D1  Sizes are rounded as real ones are: large ones to pages in a heap, small ones with their header to size classes.
 * D2  A small block that was let go of waits for one of its class: a class holds the most that it ever had. */
#include "core/engine.h"

enum { CHUNK = 64 };

typedef struct ag_ledger_form { struct ag_ledger_form *next; const void *of; uint64_t key; bool passing; } form;

_Thread_local ag_ledger *ag_ledger_now;

static void end_planning(void *p)
{
    ag_ledger *l = p;
    ag_ledger_now = l->outer;
}

ag_scope ag_planning_begin(ag_ledger *l)
{
    const ag_scope scope = ag_scope_begin();
    ag_defer(end_planning, l);
    l->outer = ag_ledger_now, l->floor = ag_tape_top();
    l->peak_where = "";
    ag_ledger_now = l;
    return scope;
}

bool ag_planning(void)
{
    return ag_ledger_now != NULL;
}

/* ---- counting ------------------------------------------------------------------------------------------ */

static int64_t held_now(const ag_ledger *l)
{
    if (l->device == AG_CUDA) return l->in_use;         /* its driver fills gaps with other pages */
    int64_t sum = l->small_held;
    for (int i = 0; i < AG_REGIONS; i++) sum += ag_heap_held(&l->heap[i]);
    return sum;
}

static void count(ag_ledger *l, const char *owner, ag_mem_kind kind, int64_t bytes)
{
    l->in_use += bytes, l->by_kind[kind] += bytes;
    if (l->watch) l->watch(l->watch_arg, owner, kind, bytes);
    const int64_t held = held_now(l);
    if (held > l->held) l->held = held;
    if (l->in_use <= l->peak) return;
    const char *where = ag_owner_now();
    l->peak = l->in_use;
    l->peak_where = where ? where : "";
    l->peak_in_backward = ag_in_backward;
    for (int k = 0; k < AG_MEM_KINDS; k++) l->at_peak[k] = l->by_kind[k];
}

void ag_ledger_block(ag_ledger *l, int64_t capacity, int taken)
{
    if (l->device == AG_CUDA) return;                   /* of the host */
    const int k = ag_block_class(capacity, &capacity);
    AG_ASSERT(k < AG_SMALL_CLASSES);
    ag_small_class *c = &l->small[k];
    c->taken += taken;
    if (c->taken > c->most) c->most = c->taken, l->small_held += capacity;
}

static ag_heap_block *take(ag_ledger *l, ag_mem_kind kind, int64_t bytes, int64_t *counted)
{
    if (l->device == AG_CUDA) {
        *counted = ag_cuda_device.size_of ? (int64_t)ag_cuda_device.size_of((size_t)bytes) : bytes;
        return NULL;
    }
    if (bytes < AG_LARGE) {
        (void)ag_block_class(bytes + AG_HEADER, counted);
        ag_ledger_block(l, *counted, 1);
        return NULL;
    }
    ag_heap *h = &l->heap[ag_region_of(kind)];
    if (!ag_heap_fed(h)) ag_heap_feed(h, ag_alloc(CHUNK, sizeof(ag_heap_block)), CHUNK);
    ag_heap_block *b = ag_heap_get(h, bytes);
    *counted = b->size;
    return b;
}

static void give(ag_ledger *l, int region, ag_heap_block *b, int64_t counted)
{
    if (b) ag_heap_put(&l->heap[region], b);
    else ag_ledger_block(l, counted, -1);
}

void ag_ledger_get(ag_ledger *l, ag_storage *s, int64_t bytes)
{
    s->region = (uint8_t)ag_region_of(s->kind);
    s->block = take(l, s->kind, bytes, &s->bytes);
    count(l, s->owner, s->kind, s->bytes);
}

void ag_ledger_put(ag_ledger *l, ag_storage *s)
{
    give(l, s->region, s->block, s->bytes);
    count(l, s->owner, s->kind, -s->bytes);
}

void ag_ledger_add(ag_ledger *l, ag_mem_kind kind, int64_t bytes)
{
    int64_t counted;
    (void)take(l, kind, bytes, &counted);
    count(l, NULL, kind, counted);
}

/* ---- ops ----------------------------------------------------------------------------------------------- */

int64_t ag_planning_forms(void)
{
    ag_ledger *l = ag_ledger_now;
    const int64_t bytes = l ? l->passing : 0;
    if (l) l->passing = 0;
    return bytes;
}

/* What the op had repacked for itself alone. */
static int64_t forget_passing(ag_ledger *l)
{
    const int64_t bytes = l->passing;
    for (form **at = &l->forms; *at;) {
        form *f = *at;
        if (f->passing) *at = f->next, ag_free(f);
        else at = &f->next;
    }
    l->passing = 0;
    return bytes;
}

static void count_workspace(ag_ledger *l, const ag_node *n, bool backward)
{
    int64_t counted, bytes = n->op->workspace ? n->op->workspace(n, backward) : 0;
    bytes += forget_passing(l);
    if (bytes <= 0) return;
    ag_heap_block *b = take(l, AG_MEM_WORKSPACE, bytes, &counted);
    count(l, ag_owner_now(), AG_MEM_WORKSPACE, counted);
    give(l, ag_region_of(AG_MEM_WORKSPACE), b, counted);
    count(l, ag_owner_now(), AG_MEM_WORKSPACE, -counted);
}

_Alignas(256) char ag_planned_data[256];

typedef struct { ag_tensor *lent[64]; int n; } lending;

static void lend(lending *l, ag_tensor *t)
{
    if (!t || t->data || t->device != AG_META || l->n == (int)(sizeof l->lent / sizeof *l->lent)) return;
    t->data = ag_planned_data;
    l->lent[l->n++] = ag_retain(t);
}

static void end_lending(void *p)
{
    lending *l = p;
    for (int i = 0; i < l->n; i++) {
        l->lent[i]->data = NULL;
        ag_release(l->lent[i]);
    }
}

/* A function in cuda/ asks of many an operand only whether it has an address. */
static void run_unlaunched(ag_node *n, ag_node_fn kernel, bool backward)
{
    AG_SCOPE;
    lending l = { .n = 0 };
    ag_defer(end_lending, &l);
    lend(&l, n->out);
    if (backward) lend(&l, n->out->grad);
    for (int k = 0; k < AG_MAX_SAVED; k++) lend(&l, n->saved[k]);
    for (int k = 0; k < n->n_in; k++) {
        lend(&l, n->in[k]);
        if (backward) lend(&l, n->din[k]);
    }
    kernel(n);
}

void ag_ledger_kernel(ag_ledger *l, ag_node *n, bool backward)
{
    const ag_op *op = n->op;
    const ag_node_fn *by = backward ? op->backward : op->forward;
    if (l->device != AG_CUDA || !by[AG_CUDA] || by[AG_CUDA] == by[AG_CPU]) {
        count_workspace(l, n, backward);
        return;
    }
    if (ag_numel(n->out)) run_unlaunched(n, by[AG_CUDA], backward);
    (void)forget_passing(l);
}

static form *form_of(ag_ledger *l, const void *of, uint64_t key)
{
    form *f = l->forms;
    while (f && !(f->of == of && f->key == key)) f = f->next;
    return f;
}

void ag_planning_keeps(const void *key, int64_t bytes)
{
    ag_ledger *l = ag_ledger_now;
    if (!l || form_of(l, key, 0)) return;
    form *f = ag_alloc(1, sizeof *f);
    *f = (form){ l->forms, key, 0, false };
    l->forms = f;
    ag_ledger_add(l, AG_MEM_WORKSPACE, bytes);
}

void ag_ledger_packed(ag_ledger *l, const ag_storage *of, uint64_t key, int64_t bytes, bool passing)
{
    if (form_of(l, of, key)) return;
    form *f = ag_alloc(1, sizeof *f);
    *f = (form){ l->forms, of, key, passing };
    l->forms = f;
    if (passing && l->device == AG_CUDA) ag_scoped(ag_tensor_new(NULL, AG_CUDA, AG_MEM_WORKSPACE, AG_U8, AG_SHAPE(bytes)));
    else if (passing) l->passing += bytes;
    else ag_ledger_add(l, AG_MEM_PACKED, bytes);
}

void ag_ledger_drop(ag_ledger *l)
{
    for (int i = 0; i < AG_REGIONS; i++) ag_heap_drop(&l->heap[i]);
    while (l->forms) {
        form *f = l->forms;
        l->forms = f->next;
        ag_free(f);
    }
}
