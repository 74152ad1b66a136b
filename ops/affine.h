/* ops/affine.h - out = x by_x + g by_g + by_1 with coefficients by sample and channel: the last pass of the norms whose
 * statistics are a sample's, and the sums before it. */
#ifndef AG_AFFINE_H
#define AG_AFFINE_H
#include "core/op.h"

typedef struct {
    int64_t samples, rows, channels;        /* x, g, out [samples, rows, channels] */
    ag_dtype dtype;
    const void *x, *g;                      /* g may be NULL */
    void *out;
    real *by_x, *by_g, *by_1;               /* [samples, channels]; by_g NULL without g */
    bool add;
} ag_affine;

/* Of the node's in[0] [N, ..., C]: sizes, x; the coefficients in workspace. */
ag_affine ag_affine_of(const ag_node *n, bool backward);
void ag_affine_run(const ag_node *n, const ag_affine *a);
/* For each sample and channel the sums of g x, then of g: [samples, 2, channels]; without g of x - x0 and of its square,
 * x0 the sample's first pixel. */
double *ag_affine_sums(const ag_node *n, const ag_affine *a);
/* The workspace of the three. */
int64_t ag_affine_workspace(const ag_node *n, bool backward);

#endif
