/* ops/rows.h - walking several tensors of one broadcast shape row by row. */
#ifndef AG_ROWS_H
#define AG_ROWS_H
#include "core/op.h"

enum { AG_ROWS_OPERANDS = 5 };

/* `count` rows of `n` elements; axes that lie behind one another in every operand are merged, so dense operands make one
 * row. step[k]: operand k's stride along the row (0: broadcast). */
typedef struct {
    int operands, ndim;
    int64_t count, n, step[AG_ROWS_OPERANDS];
    int64_t shape[AG_MAX_DIMS], stride[AG_ROWS_OPERANDS][AG_MAX_DIMS], index[AG_MAX_DIMS];
    int64_t offset[AG_ROWS_OPERANDS];           /* of the current row, in elements */
} ag_rows_walk;

/* operands: their shapes broadcast to `shape`; strides are taken from the tensors. */
ag_rows_walk ag_rows_begin(ag_shape shape, int n, const ag_tensor *const *operands);
/* To a row, 0 .. count - 1. */
void ag_rows_seek(ag_rows_walk *w, int64_t row);
/* To the next row. Rows come in order; call it count - 1 times. */
static inline void ag_rows_next(ag_rows_walk *w)
{
    for (int i = w->ndim - 2; i >= 0; i--) {
        for (int k = 0; k < w->operands; k++) w->offset[k] += w->stride[k][i];
        if (++w->index[i] < w->shape[i]) return;
        for (int k = 0; k < w->operands; k++) w->offset[k] -= w->stride[k][i] * w->index[i];
        w->index[i] = 0;
    }
}

#endif
