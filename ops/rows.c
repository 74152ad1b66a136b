#include "ops/rows.h"
#include <string.h>

static int64_t stride_along(const ag_tensor *t, int ndim, int axis)
{
    const int own = axis - (ndim - t->ndim);
    return own < 0 || t->shape[own] == 1 ? 0 : t->stride[own];
}

ag_rows_walk ag_rows_begin(ag_shape shape, int n, const ag_tensor *const *operands)
{
    ag_rows_walk w = { .operands = n, .count = 1 };
    for (int i = 0; i < shape.ndim; i++) {
        if (shape.dim[i] == 1) continue;
        bool merge = w.ndim > 0;
        for (int k = 0; merge && k < n; k++)
            merge = w.stride[k][w.ndim - 1] == stride_along(operands[k], shape.ndim, i) * shape.dim[i];
        if (!merge) w.shape[w.ndim++] = 1;
        w.shape[w.ndim - 1] *= shape.dim[i];
        for (int k = 0; k < n; k++) w.stride[k][w.ndim - 1] = stride_along(operands[k], shape.ndim, i);
    }
    if (!w.ndim) w.shape[w.ndim++] = 1;
    for (int i = 0; i < w.ndim - 1; i++) w.count *= w.shape[i];
    w.n = w.shape[w.ndim - 1];
    for (int k = 0; k < n; k++) w.step[k] = w.stride[k][w.ndim - 1];
    return w;
}

void ag_rows_seek(ag_rows_walk *w, int64_t row)
{
    memset(w->offset, 0, sizeof w->offset);
    for (int i = w->ndim - 2; i >= 0; i--) {
        w->index[i] = row % w->shape[i];
        row /= w->shape[i];
        for (int k = 0; k < w->operands; k++) w->offset[k] += w->stride[k][i] * w->index[i];
    }
}
