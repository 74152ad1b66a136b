/* ops/onednn.h - what the files that call oneDNN share; ops/onednn*.c include it and nobody else. ops/onednn.c alone knows
 * the differences between versions 2 and 3.
 *
 * O1  oneDNN runs on the calling thread: kernels share their work over our team and call from its threads.
 * O2  Primitives and their memory objects belong to a thread and are found again by their description; in steady state a
 *     call sets a few pointers and executes.
 * O3  Nothing here fails: without a fast implementation, or without memory, the answer is NULL or false. */
#ifndef AG_ONEDNN_H
#define AG_ONEDNN_H
#include "ops/ops.h"
#if defined(AG_HAVE_ONEDNN) && !defined(AG_F64)
#define AG_ONEDNN
#include <dnnl.h>

enum { AG_DNNL_OPERANDS = 4, AG_DNNL_WORDS = 32 };

/* What a primitive depends on: numbers only, compared as bytes; the first is the kind. */
typedef enum { AG_DNNL_GEMM = 1, AG_DNNL_PACK, AG_DNNL_FORWARD, AG_DNNL_INPUT, AG_DNNL_WEIGHT, AG_DNNL_CONV_PACK,
               AG_DNNL_CONV_UNPACK } ag_dnnl_kind;
typedef struct { int64_t word[AG_DNNL_WORDS]; } ag_dnnl_key;

typedef struct {
    dnnl_primitive_t run;                       /* NULL: there is no fast one */
    dnnl_exec_arg_t arg[AG_DNNL_OPERANDS + 1];  /* the last: scratch memory */
    int operands;
    int64_t bytes[AG_DNNL_OPERANDS], scratch;
    uint64_t form[AG_DNNL_OPERANDS];            /* a hash of the operand's layout */
} ag_dnnl;

typedef struct { dnnl_memory_desc_t of; } ag_layout;       /* in version 3 a pointer, which is owned */

/* This thread's primitive of the description, made by `make` where it is new. */
const ag_dnnl *ag_dnnl_find(const ag_dnnl_key *key, bool (*make)(ag_dnnl *p, const ag_dnnl_key *key));
/* data: one pointer per operand. */
bool ag_dnnl_run(const ag_dnnl *p, const void *const *data);

/* ---- for make ------------------------------------------------------------------------------------------ */

dnnl_data_type_t ag_dnnl_type(int64_t dtype);
bool ag_layout_strided(ag_layout *l, int axes, const int64_t *dims, const int64_t *strides, int64_t dtype);
bool ag_layout_any(ag_layout *l, int axes, const int64_t *dims, int64_t dtype);     /* as oneDNN likes it */
/* A part of the size dims, which begins at `first` of one axis; false where the layout cannot be cut there. */
bool ag_layout_part(ag_layout *l, const ag_layout *whole, int axes, const int64_t *dims, int axis, int64_t first);
bool ag_layout_copy(ag_layout *l, dnnl_primitive_desc_t plan, dnnl_query_t which);
void ag_layout_free(ag_layout *l);              /* also of one that is all zeros */

/* Scratch memory is ours; c (+)= activation(...) */
dnnl_primitive_attr_t ag_dnnl_attributes(bool add, int64_t activation);

typedef struct { dnnl_dims_t stride, dilation, before, after; } ag_dnnl_window;     /* dilation: 0 is dense; padding */
/* Plans; false where oneDNN has none. bias may be NULL. */
bool ag_plan_matmul(dnnl_primitive_desc_t *plan, const ag_layout *a, const ag_layout *b, const ag_layout *bias,
                    const ag_layout *c, dnnl_primitive_attr_t attr);
bool ag_plan_conv(dnnl_primitive_desc_t *plan, const ag_layout *a, const ag_layout *b, const ag_layout *bias,
                  const ag_layout *c, const ag_dnnl_window *w, dnnl_primitive_attr_t attr);
/* kind: which of a and b has its gradient taken; it wants to see the plan of the convolution itself. */
bool ag_plan_conv_gradient(dnnl_primitive_desc_t *plan, ag_dnnl_kind kind, const ag_layout *a, const ag_layout *b,
                           const ag_layout *c, const ag_dnnl_window *w, dnnl_primitive_desc_t forward,
                           dnnl_primitive_attr_t attr);
bool ag_plan_reorder(dnnl_primitive_desc_t *plan, const ag_layout *from, const ag_layout *to, dnnl_primitive_attr_t attr);

/* Makes the primitive of a plan, which it frees; operand i is arg[i] with layout l[i]. `raw`: bit i, the operand's memory is
 * passed as so many bytes, for oneDNN 2 writes zeros behind the edges of a blocked layout at every call. */
bool ag_dnnl_finish(ag_dnnl *p, dnnl_primitive_desc_t plan, int operands, const int *arg, const ag_layout *l, uint32_t raw);

#endif
#endif
