/* core/memory.c - the one allocator: zeroed memory for the program's own needs, cached small blocks for tensors.
 *
 * M1  A small block's capacity is a size class: a power of two, or 1.25, 1.5, 1.75 of one. Freed blocks wait in the freeing
 *     thread's list of their class, so a training step in steady state takes no lock for them and reaches malloc never.
 * M2  Counters are per thread and summed when asked for. The peak is of all threads together, seen in steps of 64 KB. */
#include "core/memory.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "core/budget.h"
#include "core/engine.h"

enum { MIN_SHIFT = 6, CLASSES = 4 * (48 - MIN_SHIFT), PEAK_STEP = 64 << 10 };

typedef struct free_block { struct free_block *next; } free_block;

typedef struct cache {
    free_block *free[CLASSES];
    ag_memory_stats stats;
    int64_t unseen;                         /* in_use that `in_use_seen` has not heard of */
    struct cache *next;                     /* all caches, for the report */
} cache;

static pthread_mutex_t caches_lock = PTHREAD_MUTEX_INITIALIZER;
static cache *caches;
static _Thread_local cache *mine;
static atomic_llong fail_countdown, in_use_seen, peak, small_held;
static _Atomic(const char *) peak_where;
static atomic_bool peak_in_backward;
static pthread_key_t at_thread_end;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;

static void trim(cache *c)
{
    for (int k = 0; k < CLASSES; k++)
        while (c->free[k]) {
            free_block *b = c->free[k];
            c->free[k] = b->next;
            free(b);
        }
    atomic_fetch_sub(&small_held, c->stats.cached);
    c->stats.cached = 0;
}

static void retire(void *p)                 /* the counters stay: blocks may be released by other threads */
{
    trim(p);
}

static void make_key(void)
{
    pthread_key_create(&at_thread_end, retire);
}

static cache *cache_now(void)
{
    if (mine) return mine;
    pthread_once(&key_once, make_key);
    cache *c = calloc(1, sizeof *c);
    if (!c) abort();                        /* 2 KiB at the start of a thread: nothing can be reported either */
    pthread_mutex_lock(&caches_lock);
    c->next = caches;
    caches = c;
    pthread_mutex_unlock(&caches_lock);
    pthread_setspecific(at_thread_end, c);
    return mine = c;
}

void ag_memory_fail_at(int64_t k)
{
    atomic_store(&fail_countdown, k);
}

bool ag_memory_injected(void)
{
    if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) <= 0) return false;
    return atomic_fetch_sub(&fail_countdown, 1) == 1;
}

/* ---- general memory ------------------------------------------------------------------------------------ */

void *ag_try_alloc(int64_t n, size_t size)
{
    return ag_memory_injected() ? NULL : calloc(n ? (size_t)n : 1, size);
}

void *ag_alloc(int64_t n, size_t size)
{
    const int64_t bytes = ag_mul_size(NULL, n, (int64_t)size);
    void *p = ag_try_alloc(bytes, 1);
    if (!p) ag_out_of_memory(NULL, AG_CPU, bytes);
    return p;
}

void *ag_realloc(void *p, int64_t n, size_t size)
{
    const int64_t bytes = ag_mul_size(NULL, n, (int64_t)size);
    void *q = ag_memory_injected() ? NULL : realloc(p, bytes ? (size_t)bytes : 1);
    if (!q) ag_out_of_memory(NULL, AG_CPU, bytes);
    return q;
}

void ag_free(void *p)
{
    free(p);
}

char *ag_strdup(const char *s)
{
    const size_t n = strlen(s) + 1;
    return memcpy(ag_alloc((int64_t)n, 1), s, n);
}

char *ag_sprintf(const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *s = ag_alloc(n + 1, 1);
    vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    return s;
}

/* ---- blocks -------------------------------------------------------------------------------------------- */

int ag_block_class(int64_t bytes, int64_t *capacity)       /* smallest class that holds `bytes` */
{
    if (bytes <= 1 << MIN_SHIFT) return *capacity = 1 << MIN_SHIFT, 0;
    bytes = (bytes + 63) & ~(int64_t)63;    /* before the class is chosen: a capacity must lie in its own class */
    const int shift = 63 - __builtin_clzll((unsigned long long)bytes - 1);      /* 2^shift < bytes <= 2^(shift+1) */
    const int64_t quarter = shift >= 2 ? (int64_t)1 << (shift - 2) : 1;
    const int64_t part = (bytes - ((int64_t)1 << shift) + quarter - 1) / quarter;       /* 1 .. 4 */
    *capacity = ((int64_t)1 << shift) + part * quarter;
    return 4 * (shift - MIN_SHIFT) + (int)part;
}

static void *from_system(cache *c, int64_t capacity)
{
    void *p = NULL;
    const int64_t held = atomic_load(&small_held) + ag_regions().held;
    if (ag_memory_injected() || !ag_budget_allows(held, capacity) || posix_memalign(&p, 64, (size_t)capacity)) return NULL;
    c->stats.system_calls++;
    atomic_fetch_add(&small_held, capacity);
    return p;
}

void *ag_block_get(int64_t bytes, int64_t *capacity)
{
    cache *c = cache_now();
    if (bytes > (int64_t)1 << 46) ag_out_of_memory(NULL, AG_CPU, bytes);
    const int k = ag_block_class(bytes, capacity);
    if (ag_ledger_now) ag_ledger_block(ag_ledger_now, *capacity, 1);
    free_block *b = c->free[k];
    if (b) {
        c->free[k] = b->next;
        c->stats.cached -= *capacity;
        return b;
    }
    ag_budget_read();
    void *p = from_system(c, *capacity);
    if (p) return p;
    ag_memory_trim();
    p = from_system(c, *capacity);
    if (!p) ag_out_of_memory(NULL, AG_CPU, bytes);
    return p;
}

void ag_block_put(void *block, int64_t capacity)
{
    cache *c = cache_now();
    int64_t same;
    const int k = ag_block_class(capacity, &same);
    if (ag_ledger_now) ag_ledger_block(ag_ledger_now, capacity, -1);
    ((free_block *)block)->next = c->free[k];
    c->free[k] = block;
    c->stats.cached += capacity;
}

const char *ag_owner_now(void)
{
    return ag_running && ag_path_hook ? ag_path_hook(ag_running) : NULL;
}

static void tell_peak(cache *c)
{
    const int64_t now = atomic_fetch_add(&in_use_seen, c->unseen) + c->unseen;
    long long most = atomic_load(&peak);
    c->unseen = 0;
    while (now > most)
        if (atomic_compare_exchange_weak(&peak, &most, now)) {
            atomic_store(&peak_where, ag_owner_now());
            atomic_store(&peak_in_backward, ag_in_backward);
            return;
        }
}

void ag_memory_count(ag_device device, ag_mem_kind kind, int64_t bytes)
{
    if (device != AG_CPU) return;           /* other devices count for themselves */
    cache *c = cache_now();
    c->stats.in_use += bytes;
    c->stats.by_kind[kind] += bytes;
    c->unseen += bytes;
    if (c->unseen > PEAK_STEP || c->unseen < -PEAK_STEP) tell_peak(c);
}

void ag_memory_count_system(void)
{
    cache_now()->stats.system_calls++;
}

void ag_memory_count_objects(int tensors, int nodes)
{
    ag_memory_stats *s = &cache_now()->stats;
    s->tensors += tensors;
    s->nodes += nodes;
}

/* ---- figures ------------------------------------------------------------------------------------------- */

static void add_kind(void *by_kind, const ag_storage *s)
{
    ((int64_t *)by_kind)[s->kind] += s->bytes;
}

ag_memory_stats ag_memory(ag_device device)
{
    ag_memory_stats sum = { 0 };
    if (device == AG_CUDA) {
        ag_device_memory m = { 0 };
        ag_device_table(device)->memory(&m);
        sum = (ag_memory_stats){ .in_use = m.in_use, .peak = m.peak, .cached = m.cached, .held = m.in_use + m.cached,
                                 .system_calls = m.system_calls, .peak_where = "" };
        ag_storage_each(device, add_kind, sum.by_kind);
        return sum;
    }
    pthread_mutex_lock(&caches_lock);
    for (cache *c = caches; c; c = c->next) {
        sum.in_use += c->stats.in_use, sum.cached += c->stats.cached, sum.system_calls += c->stats.system_calls;
        sum.tensors += c->stats.tensors, sum.nodes += c->stats.nodes;
        for (int k = 0; k < AG_MEM_KINDS; k++) sum.by_kind[k] += c->stats.by_kind[k];
    }
    pthread_mutex_unlock(&caches_lock);
    const ag_region_stats large = ag_regions();
    const char *where = atomic_load(&peak_where);
    sum.peak = atomic_load(&peak) > sum.in_use ? atomic_load(&peak) : sum.in_use;
    sum.peak_where = where ? where : "";
    sum.peak_in_backward = atomic_load(&peak_in_backward);
    sum.cached += large.held - large.in_use;
    sum.held = large.held + atomic_load(&small_held);
    return sum;
}

void ag_memory_reset_peak(void)
{
    const int64_t now = ag_memory(AG_CPU).in_use;
    atomic_store(&peak, now);
    atomic_store(&peak_where, ag_owner_now());
    atomic_store(&peak_in_backward, ag_in_backward);
    if (ag_default_device() == AG_CUDA) ag_device_table(AG_CUDA)->reset_peak();
}

void ag_memory_trim(void)
{
    trim(cache_now());
    ag_region_trim();
}
