/* core/heap.h - best fit over a range of addresses that may be memory or only a plan of it. Inside of core/ and of plans. */
#ifndef AG_HEAP_H
#define AG_HEAP_H
#include "core/base.h"
AG_BEGIN_DECLS

typedef struct ag_heap_block {
    int64_t at, size;                           /* bytes from the heap's start */
    struct ag_heap_block *below, *above;        /* by address */
    struct ag_heap_block *prev, *next;          /* of the free ones of its size */
    bool free, absent;                          /* absent: free, and its pages were given back */
    void *user;                                 /* of one that is taken */
} ag_heap_block;

enum { AG_HEAP_PAGE = 4096, AG_HEAP_BINS = 4 * 36 };

typedef struct {
    ag_heap_block *bin[AG_HEAP_BINS], *last;
    ag_heap_block *spare, *chunks;              /* unused structs, and the arrays that they come from */
    int64_t end, in_use, absent;                /* blocks reach from 0 to end */
} ag_heap;

/* At least `bytes`, in whole pages. To be called only when ag_heap_fed(h); ag_heap_feed helps. */
ag_heap_block *ag_heap_get(ag_heap *h, int64_t bytes);
void ag_heap_put(ag_heap *h, ag_heap_block *b);
bool ag_heap_fed(const ag_heap *h);
void ag_heap_feed(ag_heap *h, ag_heap_block *chunk, int n);
static inline int64_t ag_heap_held(const ag_heap *h) { return h->end - h->absent; }
/* Takes a free last block off the heap and marks the other free ones absent, telling give_back of each of them. */
void ag_heap_trim(ag_heap *h, void (*give_back)(void *arg, int64_t at, int64_t size), void *arg);
void ag_heap_drop(ag_heap *h);                  /* frees the structs; the heap is empty */

AG_END_DECLS
#endif
