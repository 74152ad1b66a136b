/* ops/gemm.c - the portable matrix product: packed panels and a block of sums that stays in registers. */
#include "ops/gemm.h"
#include <string.h>
#include "core/memory.h"
#include "core/thread.h"
#include "ops/formulas.h"

enum { ROWS = 6, COLS = 32, DEPTH = 256 };      /* the register block; the depth of a packed panel */
enum { SMALL = 10 * 10 * 10 };                  /* below this many products a call into oneDNN costs more than it saves */

void ag_gemm_run(const ag_gemm *g)
{
    if (!g->batch || !g->n || !g->m) return;
    if (g->n * g->m * g->k <= SMALL && g->batch == 1) ag_gemm_portable(g);
    else if (!ag_gemm_onednn(g)) ag_gemm_portable(g);
}

/* rows of b, [depth, COLS], zeros behind the last column */
static void pack_b(const ag_gemm *g, const real *b, int64_t depth, int64_t width, real *restrict panel)
{
    for (int64_t k = 0; k < depth; k++)
        for (int64_t j = 0; j < COLS; j++) panel[k * COLS + j] = j < width ? b[k * g->b_row + j * g->b_col] : 0;
}

static void block(int64_t depth, const real *restrict a, int64_t row, int64_t col, const real *restrict panel,
                  real sums[ROWS][COLS])
{
    for (int64_t k = 0; k < depth; k++)
        for (int64_t i = 0; i < ROWS; i++) {
            const real v = a[i * row + k * col];
#pragma omp simd
            for (int64_t j = 0; j < COLS; j++) sums[i][j] += v * panel[k * COLS + j];
        }
}

static void edge(int64_t height, int64_t depth, const real *a, int64_t row, int64_t col, const real *restrict panel,
                 real sums[ROWS][COLS])
{
    for (int64_t k = 0; k < depth; k++)
        for (int64_t i = 0; i < height; i++)
            for (int64_t j = 0; j < COLS; j++) sums[i][j] += a[i * row + k * col] * panel[k * COLS + j];
}

static real activated(real v, ag_activation activation)
{
    if (activation == AG_LINEAR_RELU) return v > 0 ? v : 0;
    return activation == AG_LINEAR_GELU ? GELU(v) : v;
}

/* One column panel of c for one batch entry, depth by depth. */
static void column_panel(const ag_gemm *g, int64_t batch, int64_t first)
{
    real panel[DEPTH * COLS];
    const int64_t width = g->m - first < COLS ? g->m - first : COLS;
    const real *a = g->a + batch * g->a_batch, *b = g->b + batch * g->b_batch + first * g->b_col;
    real *c = g->c + batch * g->c_batch + first;
    for (int64_t k = 0; k == 0 || k < g->k; k += DEPTH) {
        const int64_t depth = g->k - k < DEPTH ? g->k - k : DEPTH;
        pack_b(g, b + k * g->b_row, depth, width, panel);
        for (int64_t i = 0; i < g->n; i += ROWS) {
            real sums[ROWS][COLS] = { { 0 } };
            const int64_t height = g->n - i < ROWS ? g->n - i : ROWS;
            const real *rows = a + i * g->a_row + k * g->a_col;
            if (height == ROWS) block(depth, rows, g->a_row, g->a_col, panel, sums);
            else edge(height, depth, rows, g->a_row, g->a_col, panel, sums);
            for (int64_t r = 0; r < height; r++)
                for (int64_t j = 0; j < width; j++) {
                    real *to = &c[(i + r) * g->c_row + j];
                    const real before = k ? *to : (g->add ? *to : 0) + (g->bias ? g->bias[first + j] : 0);
                    *to = activated(before + sums[r][j], k + DEPTH >= g->k ? g->activation : AG_LINEAR_PLAIN);
                }
        }
    }
}

static void panels(int64_t begin, int64_t end, void *arg)
{
    const ag_gemm *g = arg;
    const int64_t per_batch = (g->m + COLS - 1) / COLS;
    for (int64_t p = begin; p < end; p++) column_panel(g, p / per_batch, p % per_batch * COLS);
}

void ag_gemm_portable(const ag_gemm *g)
{
    ag_gemm copy = *g;
    ag_parallel(g->batch * ((g->m + COLS - 1) / COLS), 1, 0.05 * (double)g->n * (double)g->k * COLS, panels, &copy);
}
