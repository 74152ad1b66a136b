/* core/packed.c - other forms of a parameter's values (a layout a library likes, bf16), kept with its memory.
 *
 * P1  A form is valid for one version of the storage; who writes to a parameter raises the version (ag_touched).
 * P2  Forms end with the storage. They are counted as AG_MEM_PACKED.
 * P3  A parameter in training is written to after every step: then a form ends with the op that asked for it, and its
 *     memory is workspace. */
#include "core/engine.h"

typedef struct ag_packed_form {
    struct ag_packed_form *next;
    uint64_t key;
    uint32_t version;
    ag_storage *memory, *of;
} form;

/* A view of a parameter is another matrix in the same memory. */
static uint64_t key_of(const ag_tensor *t, uint64_t key)
{
    const uint64_t offset = (uint64_t)((const char *)t->data - (const char *)t->storage->data);
    return (key ^ offset) * 0x9E3779B97F4A7C15u + t->dtype;
}

static void drop(form *f)
{
    if (f->memory) ag_storage_release(f->memory);
    ag_block_put(f, 64);
}

static void drop_passing(void *p)
{
    form *f = p, **at = &f->of->packed;
    while (*at != f) at = &(*at)->next;
    *at = f->next;
    drop(f);
}

static bool passing(const ag_node *n, const ag_tensor *t)
{
    return t->requires_grad && (n->recorded || ag_node_trains(n) || ag_recomputing());
}

static form *find(const ag_node *n, const ag_tensor *t, uint64_t key, int64_t bytes)
{
    ag_storage *s = t->storage;
    for (form *f = s->packed; f; f = f->next)
        if (f->key == key) return f;
    int64_t capacity;
    form *f = ag_block_get(sizeof *f, &capacity);
    *f = (form){ .next = s->packed, .key = key, .version = s->version - 1, .of = s };
    s->packed = f;
    if (passing(n, t)) ag_defer(drop_passing, f);
    f->memory = ag_storage_new(n->at, t->device, passing(n, t) ? AG_MEM_WORKSPACE : AG_MEM_PACKED, bytes);
    return f;
}

const void *ag_packed(const ag_node *n, const ag_tensor *t, uint64_t key, int64_t bytes, ag_pack_fn pack, const void *arg)
{
    if (ag_ledger_now) ag_ledger_packed(ag_ledger_now, t->storage, key_of(t, key), bytes, n && passing(n, t));
    if (ag_ledger_now || t->device == AG_META) return NULL;
    form *f = find(n, t, key_of(t, key), bytes);
    if (f->version != t->storage->version) {
        pack(t, f->memory->data, arg);
        f->version = t->storage->version;
    }
    return f->memory->data;
}

int64_t ag_memory_of(const ag_tensor *t)
{
    int64_t sum = t->storage->bytes + (t->grad ? t->grad->storage->bytes : 0);
    for (const form *f = t->storage->packed; f; f = f->next) sum += f->memory->bytes;
    return sum;
}

void ag_packed_release(ag_storage *s)
{
    while (s->packed) {
        form *f = s->packed;
        s->packed = f->next;
        drop(f);
    }
}
