/* core/heap.c - best fit over a range of addresses.
 *
 * H1  Blocks lie side by side from 0 to `end`; of two neighbours at most one is free.
 * H2  The smallest free block that fits is taken, of equals the lowest, and what is left over stays free. Where none fits
 *     the heap grows at its end, from the last block if that is free. Where a block lies depends on the calls alone.
 * H3  Nothing touches the addresses, so that the plan of a training step finds the places that the step will find. */
#include "core/heap.h"
#include "core/memory.h"

static int bin_of(int64_t size)                 /* four to an octave of pages */
{
    const int64_t pages = size / AG_HEAP_PAGE;
    const int shift = 63 - __builtin_clzll((unsigned long long)pages);
    const int quarter = shift >= 2 ? (int)(pages >> (shift - 2) & 3) : (int)(pages << (2 - shift) & 3);
    return 4 * shift + quarter < AG_HEAP_BINS ? 4 * shift + quarter : AG_HEAP_BINS - 1;
}

static void link_free(ag_heap *h, ag_heap_block *b)
{
    ag_heap_block **bin = &h->bin[bin_of(b->size)];
    b->free = true, b->user = NULL;
    b->prev = NULL, b->next = *bin;
    if (*bin) (*bin)->prev = b;
    *bin = b;
    if (b->absent) h->absent += b->size;
}

static void unlink_free(ag_heap *h, ag_heap_block *b)
{
    if (b->prev) b->prev->next = b->next;
    else h->bin[bin_of(b->size)] = b->next;
    if (b->next) b->next->prev = b->prev;
    b->free = false;
    if (b->absent) h->absent -= b->size;
}

static ag_heap_block *struct_new(ag_heap *h)
{
    ag_heap_block *b = h->spare;
    h->spare = b->next;
    *b = (ag_heap_block){ 0 };
    return b;
}

static void struct_free(ag_heap *h, ag_heap_block *b)
{
    b->next = h->spare;
    h->spare = b;
}

static void insert_above(ag_heap *h, ag_heap_block *below, ag_heap_block *b)
{
    b->below = below;
    b->above = below ? below->above : NULL;
    if (b->above) b->above->below = b;
    else h->last = b;
    if (below) below->above = b;
}

static void take_out(ag_heap *h, ag_heap_block *b)
{
    if (b->below) b->below->above = b->above;
    if (b->above) b->above->below = b->below;
    else h->last = b->below;
    struct_free(h, b);
}

static ag_heap_block *best_fit(const ag_heap *h, int64_t size)
{
    ag_heap_block *best = NULL;
    for (int k = bin_of(size); k < AG_HEAP_BINS && !best; k++)
        for (ag_heap_block *b = h->bin[k]; b; b = b->next) {
            if (b->size < size) continue;
            if (!best || b->size < best->size || (b->size == best->size && b->at < best->at)) best = b;
        }
    return best;
}

static ag_heap_block *grow(ag_heap *h, int64_t size)
{
    ag_heap_block *b = h->last;
    if (b && b->free) {
        unlink_free(h, b);
        b->absent = false;
        h->end += size - b->size;
        b->size = size;
        return b;
    }
    b = struct_new(h);
    b->at = h->end, b->size = size;
    h->end += size;
    insert_above(h, h->last, b);
    return b;
}

ag_heap_block *ag_heap_get(ag_heap *h, int64_t bytes)
{
    const int64_t size = (bytes + AG_HEAP_PAGE - 1) / AG_HEAP_PAGE * AG_HEAP_PAGE;
    ag_heap_block *b = best_fit(h, size);
    if (b) unlink_free(h, b);
    else b = grow(h, size);
    if (b->size > size) {
        ag_heap_block *rest = struct_new(h);
        rest->at = b->at + size, rest->size = b->size - size, rest->absent = b->absent;
        b->size = size;
        insert_above(h, b, rest);
        link_free(h, rest);
    }
    b->absent = false;
    h->in_use += size;
    return b;
}

void ag_heap_put(ag_heap *h, ag_heap_block *b)
{
    h->in_use -= b->size;
    ag_heap_block *above = b->above, *below = b->below;
    if (above && above->free) {
        unlink_free(h, above);
        b->size += above->size;
        take_out(h, above);
    }
    if (below && below->free) {
        unlink_free(h, below);
        b->at = below->at, b->size += below->size;
        take_out(h, below);
    }
    b->absent = false;
    link_free(h, b);
}

void ag_heap_trim(ag_heap *h, void (*give_back)(void *arg, int64_t at, int64_t size), void *arg)
{
    ag_heap_block *top = h->last;
    if (top && top->free) {
        give_back(arg, top->at, top->size);
        unlink_free(h, top);
        h->end = top->at;
        take_out(h, top);
    }
    for (ag_heap_block *b = h->last; b; b = b->below) {
        if (!b->free || b->absent) continue;
        give_back(arg, b->at, b->size);
        b->absent = true;
        h->absent += b->size;
    }
}

bool ag_heap_fed(const ag_heap *h)              /* a call of ag_heap_get takes two structs at most */
{
    return h->spare && h->spare->next;
}

void ag_heap_feed(ag_heap *h, ag_heap_block *chunk, int n)
{
    chunk->next = h->chunks;                    /* the first one is the link */
    h->chunks = chunk;
    for (int i = 1; i < n; i++) struct_free(h, &chunk[i]);
}

void ag_heap_drop(ag_heap *h)
{
    while (h->chunks) {
        ag_heap_block *chunk = h->chunks;
        h->chunks = chunk->next;
        ag_free(chunk);
    }
    *h = (ag_heap){ 0 };
}
