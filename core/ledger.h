/* core/ledger.h - planning: rules run, nothing is computed, and what tensors would hold is written down.
 *
 *     ag_ledger l = { 0 };
 *     { AG_PLANNING(&l); ... nn_call(net, x); ag_backward(loss) ... }      every tensor made here has a shape and no memory
 *     l.peak
 *     ag_ledger_drop(&l);
 *
 * The places of large tensors come from the same heaps as those of real ones (core/heap.h), so that the ledger also knows what
 * the gaps between them cost. Leaves made before keep their memory, which is neither read nor written; the caller takes
 * their gradients away meanwhile.
 *
 * What ops hold besides tensors their .workspace tells. Kernels of the GPU tell it themselves: with .device = AG_CUDA the
 * functions in cuda/ run, ask for their workspace as ever, and launch nothing (ag_planning). */
#ifndef AG_LEDGER_H
#define AG_LEDGER_H
#include "core/heap.h"
#include "core/memory.h"
#include "core/op.h"
AG_BEGIN_DECLS

enum { AG_REGION_STEP, AG_REGION_LASTING, AG_REGIONS };
enum { AG_SMALL_CLASSES = 64 };

typedef struct { int64_t taken, most; } ag_small_class;

typedef struct ag_ledger {
    int64_t in_use, by_kind[AG_MEM_KINDS];
    int64_t peak, at_peak[AG_MEM_KINDS];        /* the largest in_use, and its parts */
    int64_t held;                               /* the most that the system would have given for it */
    const char *peak_where;                     /* path of the module that ran; "" outside of one */
    bool peak_in_backward;
    ag_device device;                           /* AG_CUDA: whose kernels it is about; then sizes are those of its allocator */
    /* Is told what the tensors of a kind made in a module hold, when they are made and (negative) when they end. */
    void (*watch)(void *arg, const char *module, ag_mem_kind kind, int64_t bytes);
    void *watch_arg;
    /* its own: */
    ag_heap heap[AG_REGIONS];
    ag_small_class small[AG_SMALL_CLASSES];
    int64_t small_held;
    struct ag_ledger_form *forms;               /* repacked parameters seen so far */
    int64_t passing;                            /* bytes of those that end with the op */
    struct ag_ledger *outer;
    const ag_node *floor;                       /* the tape's top when planning began: backward ends there */
} ag_ledger;

#define AG_PLANNING(ledger) ag_scope AG_CAT(ag_planning_at_, __LINE__) AG_CLEANUP(ag_scope_end) = ag_planning_begin(ledger)
ag_scope ag_planning_begin(ag_ledger *l);
bool ag_planning(void);
/* For ag_op.workspace: the bytes of repacked parameters that the op asked for until now and that end with it, where it lets go
 * of them earlier than of other workspace. They are not counted a second time. */
int64_t ag_planning_forms(void);
/* Memory that stays, such as parameters' and an optimizer's. */
void ag_ledger_add(ag_ledger *l, ag_mem_kind kind, int64_t bytes);
void ag_ledger_drop(ag_ledger *l);
/* For what takes memory once and keeps it, such as a library, and has not yet: `bytes` are counted when `key`, an address, is
 * first seen. */
void ag_planning_keeps(const void *key, int64_t bytes);

AG_END_DECLS
#endif
