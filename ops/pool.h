/* ops/pool.h - the windows of pooling, on both devices. */
#ifndef AG_POOL_H
#define AG_POOL_H
#include "core/op.h"
#include "ops/formulas.h"
AG_BEGIN_DECLS

enum { AG_POOL_H_AXIS, AG_POOL_W_AXIS, AG_POOL_AXES };
/* kernel 0: adaptive; padding reaches from -pad to limit */
typedef struct { int64_t in, out, kernel, stride, pad, limit; } ag_pool_axis;
typedef struct { ag_pool_axis axis[AG_POOL_AXES]; bool max, exclude_pad; } ag_pool;
typedef struct { int64_t begin, end, count; } ag_pool_window;       /* pixels begin .. end - 1; the mean divides by count */

AG_FORMULA ag_pool_window ag_pool_window_at(const ag_pool_axis *a, int64_t i, bool exclude_pad)
{
    ag_pool_window w = { i * a->in / a->out, ((i + 1) * a->in + a->out - 1) / a->out, 0 };
    if (a->kernel) {
        w.begin = i * a->stride - a->pad, w.end = w.begin + a->kernel;
        if (w.end > a->limit) w.end = a->limit;
        w.count = w.end - w.begin;
        if (w.begin < 0) w.begin = 0;
        if (w.end > a->in) w.end = a->in;
    }
    if (exclude_pad || !a->kernel) w.count = w.end - w.begin;
    return w;
}

/* Of a node of max_pool2d or avg_pool2d. */
ag_pool ag_pool_of(const ag_node *n);

AG_END_DECLS
#endif
