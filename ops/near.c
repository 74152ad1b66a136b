/* ops/near.c - a block of sums in registers: 6 x 4, 12 x 2 or 12 x 1 vectors of 64 bytes, 24 of the 32 that AVX-512 has. Written
 * with the compiler's vectors: twice the speed of what it makes of loops, and on 49 x 32 x 49 of a call into oneDNN. */
#include "ops/near.h"

enum { LANES = AG_NEAR_LANES, TALL = 12, WIDE = 4 };
typedef real vec __attribute__((vector_size(64), aligned(sizeof(real)), may_alias));
#define INLINE static inline __attribute__((always_inline))

bool ag_near_fast(void)
{
#ifdef __AVX512F__
    return true;
#else
    return sizeof(real) == 8;       /* the build that tests */
#endif
}

/* rows and vectors are constants wherever it is inlined */
INLINE void block(const ag_near *g, int rows, int vectors, int64_t i, int64_t j)
{
    const real *a = g->a + i * g->a_row, *b = g->b + j;
    real *c = g->c + i * g->c_row + j;
    const int64_t a_row = g->a_row, c_row = g->c_row;
    vec sum[TALL][WIDE];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sum[r][v] = g->add ? *(const vec *)(c + r * c_row + v * LANES) : (vec){ 0 };
    for (int64_t k = g->k; k > 0; k--, a += g->a_col, b += g->b_row) {
        vec of_b[WIDE];
        for (int v = 0; v < vectors; v++) of_b[v] = *(const vec *)(b + v * LANES);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++) sum[r][v] += a[r * a_row] * of_b[v];
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) *(vec *)(c + r * c_row + v * LANES) = sum[r][v];
}

#define ROWS(rows) case rows: block(g, rows, vectors, i, j); break;
INLINE void some_rows(const ag_near *g, int rows, int vectors, int64_t i, int64_t j)
{
    switch (rows) { ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) }
    if (vectors <= 2) switch (rows) { ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12) }
}

INLINE void columns(const ag_near *g, int vectors, int64_t j)
{
    const int64_t most = vectors == WIDE ? TALL / 2 : TALL, parts = (g->n + most - 1) / most;
    for (int64_t p = 0; p < parts; p++) {
        const int64_t i = g->n * p / parts;
        some_rows(g, (int)(g->n * (p + 1) / parts - i), vectors, i, j);
    }
}

void ag_near_run(const ag_near *g)
{
    int64_t j = 0;
    for (; j + 4 * LANES <= g->m; j += 4 * LANES) columns(g, 4, j);
    for (; j + 2 * LANES <= g->m; j += 2 * LANES) columns(g, 2, j);
    for (; j < g->m; j += LANES) columns(g, 1, j);
}

/* ---- transpose ----------------------------------------------------------------------------------------- */

#ifdef AG_F64
typedef int64_t lanes __attribute__((vector_size(64)));
#else
typedef int32_t lanes __attribute__((vector_size(64)));
#endif

/* Of LANES x LANES: swaps the off-diagonal halves of blocks of 2, 4 ... rows. */
INLINE void exchange(vec r[LANES], const int w)
{
    lanes low = { 0 }, high = { 0 };
    for (int l = 0; l < LANES; l++) low[l] = l & w ? LANES + l - w : l, high[l] = l & w ? LANES + l : l + w;
    for (int i = 0; i < LANES; i++) {
        if (i & w) continue;
        const vec a = r[i], b = r[i + w];
#ifdef __clang__
        for (int l = 0; l < LANES; l++) r[i][l] = l & w ? b[l - w] : a[l], r[i + w][l] = l & w ? b[l] : a[l + w];
#else
        r[i] = __builtin_shuffle(a, b, low), r[i + w] = __builtin_shuffle(a, b, high);
#endif
    }
    (void)low, (void)high;
}

void ag_near_transpose(int64_t n, int64_t d, const real *x, int64_t x_row, real *y, int64_t wide)
{
    for (int64_t i = 0; i < wide; i += LANES)
        for (int64_t j = 0; j < d; j += LANES) {
            vec r[LANES];
            for (int k = 0; k < LANES; k++) r[k] = i + k < n ? *(const vec *)(x + (i + k) * x_row + j) : (vec){ 0 };
            exchange(r, 1);
            exchange(r, 2);
            exchange(r, 4);
            if (LANES == 16) exchange(r, 8 % LANES);
            for (int k = 0; k < LANES; k++) *(vec *)(y + (j + k) * wide + i) = r[k];
        }
}
