/* core/memory.c - the one allocator: zeroed memory for the program's own needs, cached blocks for tensors.
 *
 * M1  A block's capacity is a size class: a power of two, or 1.25, 1.5, 1.75 of one. Freed blocks wait in the freeing
 *     thread's list of their class, so a training step in steady state takes no lock and reaches malloc never.
 * M2  Counters are per thread and summed when asked for. */
#include "core/memory.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "core/engine.h"
#include "core/io.h"

enum { MIN_SHIFT = 6, CLASSES = 4 * (48 - MIN_SHIFT), HUGE_BLOCK = 4 << 20, HUGE_PAGE = 2 << 20 };

typedef struct free_block { struct free_block *next; } free_block;

typedef struct cache {
    free_block *free[CLASSES];
    ag_memory_stats stats;
    struct cache *next;                     /* all caches, for the report */
    ag_mem_kind kind;
} cache;

static pthread_mutex_t caches_lock = PTHREAD_MUTEX_INITIALIZER;
static cache *caches;
static _Thread_local cache *mine;
static atomic_llong fail_countdown;
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

static bool injected_failure(void)
{
    if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) <= 0) return false;
    return atomic_fetch_sub(&fail_countdown, 1) == 1;
}

static void no_memory(int64_t bytes)
{
    const ag_memory_stats s = ag_memory(AG_CPU);
    ag_fail(NULL, "out of memory: needed %.1f MB; tensors hold %.1f MB (peak %.1f MB), %.1f MB is cached. "
            "A smaller batch with gradient accumulation needs less", (double)bytes / 1e6, (double)s.in_use / 1e6,
            (double)s.peak / 1e6, (double)s.cached / 1e6);
}

/* ---- general memory ------------------------------------------------------------------------------------ */

void *ag_try_alloc(int64_t n, size_t size)
{
    return injected_failure() ? NULL : calloc(n ? (size_t)n : 1, size);
}

void *ag_alloc(int64_t n, size_t size)
{
    const int64_t bytes = ag_mul_size(NULL, n, (int64_t)size);
    void *p = ag_try_alloc(bytes, 1);
    if (!p) no_memory(bytes);
    return p;
}

void *ag_realloc(void *p, int64_t n, size_t size)
{
    const int64_t bytes = ag_mul_size(NULL, n, (int64_t)size);
    void *q = injected_failure() ? NULL : realloc(p, bytes ? (size_t)bytes : 1);
    if (!q) no_memory(bytes);
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

static int class_of(int64_t bytes, int64_t *capacity)      /* smallest class that holds `bytes` */
{
    if (bytes <= 1 << MIN_SHIFT) return *capacity = 1 << MIN_SHIFT, 0;
    bytes = (bytes + 63) & ~(int64_t)63;    /* before the class is chosen: a capacity must lie in its own class */
    const int shift = 63 - __builtin_clzll((unsigned long long)bytes - 1);      /* 2^shift < bytes <= 2^(shift+1) */
    const int64_t quarter = shift >= 2 ? (int64_t)1 << (shift - 2) : 1;
    const int64_t part = (bytes - ((int64_t)1 << shift) + quarter - 1) / quarter;       /* 1 .. 4 */
    *capacity = ((int64_t)1 << shift) + part * quarter;
    return 4 * (shift - MIN_SHIFT) + (int)part;
}

static void *from_system(int64_t capacity)
{
    void *p = NULL;
    const size_t align = capacity >= HUGE_BLOCK ? HUGE_PAGE : 64;
    if (injected_failure() || posix_memalign(&p, align, (size_t)capacity)) return NULL;
    if (capacity >= HUGE_BLOCK) madvise(p, (size_t)capacity, MADV_HUGEPAGE);    /* large tables: fewer TLB misses */
    return p;
}

void *ag_block_get(int64_t bytes, int64_t *capacity)
{
    cache *c = cache_now();
    if (bytes > (int64_t)1 << 46) no_memory(bytes);
    const int k = class_of(bytes, capacity);
    free_block *b = c->free[k];
    if (b) {
        c->free[k] = b->next;
        c->stats.cached -= *capacity;
        return b;
    }
    c->stats.system_calls++;
    void *p = from_system(*capacity);
    if (p) return p;
    trim(c);
    p = from_system(*capacity);
    if (!p) no_memory(bytes);
    return p;
}

void ag_block_put(void *block, int64_t capacity)
{
    cache *c = cache_now();
    int64_t same;
    const int k = class_of(capacity, &same);
    ((free_block *)block)->next = c->free[k];
    c->free[k] = block;
    c->stats.cached += capacity;
}

ag_mem_kind ag_memory_kind(ag_mem_kind kind)
{
    cache *c = cache_now();
    const ag_mem_kind before = c->kind;
    c->kind = kind;
    return before;
}

void ag_memory_count(ag_device device, ag_mem_kind kind, int64_t bytes)
{
    if (device != AG_CPU) return;           /* other devices count for themselves */
    ag_memory_stats *s = &cache_now()->stats;
    s->in_use += bytes;
    s->by_kind[kind] += bytes;
    if (s->in_use > s->peak) s->peak = s->in_use;
}

void ag_memory_count_objects(int tensors, int nodes)
{
    ag_memory_stats *s = &cache_now()->stats;
    s->tensors += tensors;
    s->nodes += nodes;
}

/* ---- report -------------------------------------------------------------------------------------------- */

ag_memory_stats ag_memory(ag_device device)
{
    ag_memory_stats sum = { 0 };
    pthread_mutex_lock(&caches_lock);
    for (cache *c = caches; c; c = c->next) {
        sum.in_use += c->stats.in_use, sum.peak += c->stats.peak, sum.cached += c->stats.cached;
        sum.system_calls += c->stats.system_calls;
        sum.tensors += c->stats.tensors, sum.nodes += c->stats.nodes;
        for (int k = 0; k < AG_MEM_KINDS; k++) sum.by_kind[k] += c->stats.by_kind[k];
    }
    pthread_mutex_unlock(&caches_lock);
    if (device == AG_CPU) return sum;
    ag_device_memory m = { 0 };
    ag_device_table(device)->memory(&m);
    return (ag_memory_stats){ .in_use = m.in_use, .peak = m.peak, .cached = m.cached, .system_calls = m.system_calls };
}

void ag_memory_report(FILE *to)
{
    static const char *const kinds[AG_MEM_KINDS] = { "activations and data", "parameters", "gradients",
                                                     "optimizer state", "workspace", "repacked parameters" };
    const ag_memory_stats s = ag_memory(AG_CPU);
    fprintf(to, "cpu: %.1f MB in use (peak %.1f MB), %.1f MB cached, %" PRId64 " tensors, %" PRId64 " nodes\n",
            (double)s.in_use / 1e6, (double)s.peak / 1e6, (double)s.cached / 1e6, s.tensors, s.nodes);
    for (int k = 0; k < AG_MEM_KINDS; k++)
        if (s.by_kind[k]) fprintf(to, "  %-22s %10.1f MB\n", kinds[k], (double)s.by_kind[k] / 1e6);
    fprintf(to, "process %d uses %.1f MB resident memory\n", (int)getpid(), (double)ag_resident_memory() / 1e6);
}

void ag_memory_reset_peak(void)
{
    pthread_mutex_lock(&caches_lock);
    for (cache *c = caches; c; c = c->next) c->stats.peak = c->stats.in_use;
    pthread_mutex_unlock(&caches_lock);
}

void ag_memory_trim(void)
{
    trim(cache_now());
}
