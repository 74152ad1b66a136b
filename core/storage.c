/* core/storage.c - the memory of tensors: small ones with their header in one block, large ones in regions, the GPU's. */
#include <pthread.h>
#include "core/budget.h"
#include "core/device.h"
#include "core/engine.h"
#include "core/ledger.h"

/* Those on the GPU, in no order. */
static struct {
    pthread_mutex_t lock;
    ag_storage **all;
    int64_t n, room;
} on_gpu = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void get_cuda(const char *at, ag_storage *s, int64_t bytes)
{
    ag_budget_read();
    s->data = ag_budget_allows_cuda(bytes) ? ag_device_table(AG_CUDA)->alloc((size_t)bytes) : NULL;
    if (!s->data) {
        ag_block_put(s, AG_HEADER);
        ag_out_of_memory(at, AG_CUDA, bytes);
    }
    s->bytes = bytes;
    pthread_mutex_lock(&on_gpu.lock);
    if (on_gpu.n == on_gpu.room) {
        on_gpu.room = on_gpu.room ? 2 * on_gpu.room : 256;
        on_gpu.all = ag_realloc(on_gpu.all, on_gpu.room, sizeof *on_gpu.all);
    }
    s->place = on_gpu.n, on_gpu.all[on_gpu.n++] = s;
    pthread_mutex_unlock(&on_gpu.lock);
}

static void put_cuda(ag_storage *s)
{
    pthread_mutex_lock(&on_gpu.lock);
    ag_storage *last = on_gpu.all[--on_gpu.n];
    on_gpu.all[last->place = s->place] = last;
    if (!on_gpu.n) ag_free(on_gpu.all), on_gpu.all = NULL, on_gpu.room = 0;
    pthread_mutex_unlock(&on_gpu.lock);
    ag_device_table(AG_CUDA)->free(s->data);
}

void ag_storage_each(ag_device device, void (*visit)(void *arg, const ag_storage *s), void *arg)
{
    if (device == AG_CPU) ag_region_each(visit, arg);
    if (device != AG_CUDA) return;
    pthread_mutex_lock(&on_gpu.lock);
    for (int64_t i = 0; i < on_gpu.n; i++) visit(arg, on_gpu.all[i]);
    pthread_mutex_unlock(&on_gpu.lock);
}

static void get_large(const char *at, ag_storage *s, int64_t bytes)
{
    ag_budget_read();
    if (ag_region_get(s, bytes)) return;
    ag_memory_trim();
    if (ag_region_get(s, bytes)) return;
    ag_block_put(s, AG_HEADER);
    ag_out_of_memory(at, AG_CPU, bytes);
}

ag_storage *ag_storage_new(const char *at, ag_device device, ag_mem_kind kind, int64_t bytes)
{
    const bool small = device == AG_CPU && bytes < AG_LARGE;
    int64_t capacity;
    ag_storage *s = ag_block_get(small ? bytes + AG_HEADER : AG_HEADER, &capacity);
    *s = (ag_storage){ .refs = 1, .device = device, .kind = kind ? kind : ag_memory_kind(), .bytes = small ? capacity : 0 };
    if (small) s->data = (char *)s + AG_HEADER;
    else s->owner = ag_owner_now();             /* of small ones nobody asks */
    if (device == AG_CPU && !small) get_large(at, s, bytes);
    if (device == AG_CUDA) get_cuda(at, s, bytes);
    if (device == AG_META && ag_ledger_now) ag_ledger_get(ag_ledger_now, s, bytes);
    ag_memory_count(device, s->kind, s->bytes);
    return s;
}

void ag_storage_release(ag_storage *s)
{
    if (--s->refs) return;
    ag_memory_count(s->device, s->kind, -s->bytes);
    if (s->packed) ag_packed_release(s);
    if (s->device == AG_CUDA) put_cuda(s);
    if (s->device == AG_META && ag_ledger_now && s->bytes) ag_ledger_put(ag_ledger_now, s);
    if (s->device == AG_CPU && s->block) ag_region_put(s);
    ag_block_put(s, s->device == AG_CPU && !s->block ? s->bytes : AG_HEADER);
}
