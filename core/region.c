/* core/region.c - memory of large tensors.
 *
 * R1  Two heaps: for what lasts (parameters' gradients, optimizer state, repacked parameters) and for what comes and goes
 *     with a step. A lasting block among those of a step would be in the way of all later steps.
 * R2  Addresses are reserved once. Memory comes to them from the bottom, in huge pages, when the heap grows, and stays until
 *     it is asked back, so a training step in steady state makes no system call. */
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#include "core/budget.h"
#include "core/engine.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, size) ((void)(p), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(p, size) ((void)(p), (void)(size))
#endif

enum { HUGE_PAGE = 2 << 20, CHUNK = 64 };

typedef struct { ag_heap heap; char *base; int64_t reserved, committed; } region;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static region regions[AG_REGIONS];

static int64_t up_to_pages(int64_t bytes)
{
    return (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
}

/* Four times the machine's memory, or the largest part of it that the process may address. */
static bool reserve(region *r)
{
    const int64_t least = 64 << 20, all = 4 * ag_physical_memory(), usual = (int64_t)1 << 36;
    for (int64_t size = up_to_pages(all > usual ? all : usual); size >= least; size = up_to_pages(size / 2)) {
        char *p = mmap(NULL, (size_t)(size + HUGE_PAGE), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) continue;
        r->base = p + (-(uintptr_t)p & (HUGE_PAGE - 1));
        r->reserved = size;
        return true;
    }
    return false;
}

static bool commit(region *r, int64_t end)
{
    if (end <= r->committed) return true;
    if (!r->base && !reserve(r)) return false;
    const int64_t to = up_to_pages(end);
    const size_t more = (size_t)(to - r->committed);
    if (to > r->reserved || ag_memory_injected() || mprotect(r->base + r->committed, more, PROT_READ | PROT_WRITE)) return false;
    madvise(r->base + r->committed, more, MADV_HUGEPAGE);
    ag_memory_count_system();
    r->committed = to;
    return true;
}

static void give_back(void *arg, int64_t at, int64_t size)
{
    const region *r = arg;
    if (at < r->committed) madvise(r->base + at, (size_t)size, MADV_DONTNEED);
}

static void trim(void)
{
    for (int i = 0; i < AG_REGIONS; i++) ag_heap_trim(&regions[i].heap, give_back, &regions[i]);
}

static int64_t held(void)
{
    int64_t sum = 0;
    for (int i = 0; i < AG_REGIONS; i++) sum += ag_heap_held(&regions[i].heap);
    return sum;
}

/* A block within the budget and with memory behind it, or NULL. */
static ag_heap_block *block_new(region *r, int64_t bytes)
{
    while (!ag_heap_fed(&r->heap)) {
        pthread_mutex_unlock(&lock);
        ag_heap_block *chunk = ag_alloc(CHUNK, sizeof *chunk);     /* may fail, and then the lock is not held */
        pthread_mutex_lock(&lock);
        ag_heap_feed(&r->heap, chunk, CHUNK);
    }
    const int64_t before = held();
    ag_heap_block *b = ag_heap_get(&r->heap, bytes);
    const int64_t more = held() - before;
    if ((more <= 0 || ag_budget_allows(before, more)) && commit(r, b->at + b->size)) return b;
    ag_heap_put(&r->heap, b);
    trim();
    return NULL;
}

int ag_region_of(ag_mem_kind kind)
{
    return kind == AG_MEM_TENSOR || kind == AG_MEM_WORKSPACE ? AG_REGION_STEP : AG_REGION_LASTING;
}

bool ag_region_get(ag_storage *s, int64_t bytes)
{
    region *r = &regions[ag_region_of(s->kind)];
    pthread_mutex_lock(&lock);
    ag_heap_block *b = block_new(r, bytes);
    if (b) {
        b->user = s;
        s->block = b, s->region = (uint8_t)(r - regions), s->bytes = b->size, s->data = r->base + b->at;
        ASAN_UNPOISON_MEMORY_REGION(s->data, bytes);
    }
    pthread_mutex_unlock(&lock);
    return b != NULL;
}

void ag_region_put(ag_storage *s)
{
    pthread_mutex_lock(&lock);
    ASAN_POISON_MEMORY_REGION(s->data, s->bytes);
    ag_heap_put(&regions[s->region].heap, s->block);
    pthread_mutex_unlock(&lock);
}

void ag_region_trim(void)
{
    pthread_mutex_lock(&lock);
    trim();
    pthread_mutex_unlock(&lock);
}

ag_region_stats ag_regions(void)
{
    ag_region_stats s = { 0 };
    pthread_mutex_lock(&lock);
    for (int i = 0; i < AG_REGIONS; i++) s.in_use += regions[i].heap.in_use;
    s.held = held();
    pthread_mutex_unlock(&lock);
    return s;
}

void ag_region_each(void (*visit)(void *arg, const ag_storage *s), void *arg)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < AG_REGIONS; i++)
        for (const ag_heap_block *b = regions[i].heap.last; b; b = b->below)
            if (!b->free) visit(arg, b->user);
    pthread_mutex_unlock(&lock);
}
