/* ops/near.h - products of small f32 matrices that already lie in the first caches: nothing is packed, looked up or shared.
 * For ops whose many small products would wait for a library's calls. */
#ifndef AG_NEAR_H
#define AG_NEAR_H
#include "core/base.h"

enum { AG_NEAR_LANES = 64 / sizeof(real) };

/* c [n, m] (+)= a [n, k] b [k, m]: m a multiple of AG_NEAR_LANES, rows of b and c dense. */
typedef struct {
    int64_t n, m, k;
    const real *a, *b;
    real *c;
    int64_t a_row, a_col, b_row, c_row;
    bool add;
} ag_near;

/* Whether this machine has the registers for it. */
bool ag_near_fast(void);
void ag_near_run(const ag_near *g);
/* y [d, wide] = the transpose of x [n, d], zeros from column n on; d and wide multiples of AG_NEAR_LANES, wide >= n. */
void ag_near_transpose(int64_t n, int64_t d, const real *x, int64_t x_row, real *y, int64_t wide);

#endif
