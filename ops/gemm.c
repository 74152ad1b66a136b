/* ops/gemm.c - how a matrix product is shared by the team, and the portable one. */
#include "ops/gemm.h"
#include <stdatomic.h>
#include <string.h>
#include "core/bf16.h"
#include "core/thread.h"
#include "ops/activation.h"

enum { SMALL = 10 * 10 * 10 };                  /* below this many products a call into oneDNN costs more than it saves */

/* ---- sharing: the team gets runs of rows, of columns or of batch entries; the sums over k stay whole ----- */

typedef enum { BY_ROWS, BY_COLUMNS, BY_BATCH } direction;
typedef struct { const ag_gemm *g; direction by; } job;

static void alone(const ag_gemm *g)
{
    if (!ag_gemm_onednn(g)) ag_gemm_portable(g);
}

static void part(int64_t begin, int64_t end, void *arg)
{
    const job *j = arg;
    ag_gemm g = *j->g;
    if (j->by == BY_COLUMNS) {
        g.m = end - begin;
        g.b = ag_element(g.b, g.b_type, begin * g.b_col), g.c = ag_element(g.c, g.c_type, begin);
        if (g.bias) g.bias += begin;
    } else {
        const bool rows = j->by == BY_ROWS;
        *(rows ? &g.n : &g.batch) = end - begin;
        g.a = ag_element(g.a, g.a_type, begin * (rows ? g.a_row : g.a_batch));
        g.c = ag_element(g.c, g.c_type, begin * (rows ? g.c_row : g.c_batch));
        if (!rows) g.b = ag_element(g.b, g.b_type, begin * g.b_batch);
    }
    alone(&g);
}

/* Along the longer side, so that little is read twice; a packed b is read as a whole, and columns of bf16 are slow. */
static direction choose(const ag_gemm *g)
{
    const int64_t threads = ag_threads();
    if (g->batch >= 4 * threads || (g->batch > 1 && g->n < 16 * threads)) return BY_BATCH;
    return g->packed || g->c_type == AG_BF16 || g->n >= g->m ? BY_ROWS : BY_COLUMNS;
}

void ag_gemm_run(const ag_gemm *g)
{
    if (!g->batch || !g->n || !g->m) return;
    if (g->n * g->m * g->k <= SMALL && g->batch == 1) {
        ag_gemm_portable(g);
        return;
    }
    const double ns = (double)g->batch * (double)g->n * (double)g->m * (double)g->k / (g->a_type == AG_BF16 ? 300 : 60);
    job j = { g, choose(g) };
    const int64_t items = j.by == BY_ROWS ? g->n : j.by == BY_COLUMNS ? g->m : g->batch;
    const int64_t grain = j.by == BY_ROWS ? 16 : j.by == BY_BATCH ? 1 : 64;
    ag_parallel(items, grain, ns / (double)items, part, &j);
}

/* ---- a parameter as bf16: packed, or as it lies. As f32 it is read in place, which costs 2 to 7 %, but no memory. --- */

typedef struct { ag_gemm g; atomic_bool failed; } pack_job;

static void pack_panels(int64_t begin, int64_t end, void *arg)
{
    pack_job *j = arg;
    for (int64_t p = begin; p < end; p++)
        if (!ag_gemm_pack(&j->g, p)) atomic_store(&j->failed, true);
}

static bool pack_shared(const ag_gemm *g, void *to)
{
    pack_job j = { .g = *g };
    j.g.packed = to;
    ag_parallel((g->m + AG_GEMM_PANEL - 1) / AG_GEMM_PANEL, 1, 0.2 * AG_GEMM_PANEL * (double)g->k, pack_panels, &j);
    return !atomic_load(&j.failed);
}

static void pack(const ag_tensor *param, void *to, const void *arg)
{
    const ag_gemm *g = arg;
    if (!pack_shared(g, to))
        ag_fail(param->at, "no memory to rearrange a parameter");
}

typedef struct { const real *from; uint16_t *to; int64_t columns, stride; } narrow_job;

static void narrow_lines(int64_t begin, int64_t end, void *arg)
{
    const narrow_job *j = arg;
    for (int64_t i = begin; i < end; i++) ag_narrow(j->to, AG_BF16, i * j->columns, j->columns, j->from + i * j->stride);
}

static void narrow(const ag_tensor *param, void *to, const void *arg)
{
    const ag_gemm *g = arg;
    const bool by_rows = g->b_col == 1;
    (void)param;
    ag_parallel(by_rows ? g->k : g->m, 16, 0.2 * (double)(by_rows ? g->m : g->k), narrow_lines,
                &(narrow_job){ g->b, to, by_rows ? g->m : g->k, by_rows ? g->b_row : g->b_col });
}

static uint64_t form_of(const ag_gemm *g, bool packed)
{
    const int64_t offset = g->b_form ? 0 : (const real *)g->b - ag_real(g->b_param);
    const int64_t word[] = { g->m, g->k, g->b_row, g->b_col, offset, packed };
    uint64_t key = g->b_form + 1;
    for (size_t i = 0; i < sizeof word / sizeof *word; i++)
        key = (key ^ (uint64_t)word[i]) * 0x9E3779B97F4A7C15u, key ^= key >> 29;
    return key;
}

void ag_gemm_prepare(const ag_node *n, ag_gemm *g)
{
    if (!g->b_param || g->b_type != AG_F32 || g->batch != 1 || (g->b_row != 1 && g->b_col != 1)) return;
    if (g->a_type != AG_BF16) return;
    const int64_t bytes = ag_gemm_packed_bytes(g);
    if (bytes) {
        g->packed = ag_packed(n, g->b_param, form_of(g, true), bytes, pack, g);
        return;
    }
    g->b = ag_packed(n, g->b_param, form_of(g, false), g->k * g->m * (int64_t)sizeof(uint16_t), narrow, g);
    g->b_type = AG_BF16;
    *(g->b_col == 1 ? &g->b_row : &g->b_col) = g->b_col == 1 ? g->m : g->k;
}

/* ---- the portable product: packed panels and a block of sums that stays in registers --------------------- */

enum { ROWS = 6, COLS = 32, DEPTH = 256, STRIP = 16 * ROWS };   /* the register block; a panel's depth; rows at a time */

/* rows of b, [depth, COLS], zeros behind the last column */
static void fill_panel(const ag_gemm *g, const void *b, int64_t depth, int64_t width, real *restrict panel)
{
    for (int64_t k = 0; k < depth; k++)
        for (int64_t j = 0; j < COLS; j++) {
            const int64_t i = k * g->b_row + j * g->b_col;
            panel[k * COLS + j] = j >= width ? 0 : g->b_type == AG_BF16 ? ag_bf16_to_real(((const uint16_t *)b)[i])
                                                                        : ((const real *)b)[i];
        }
}

/* height rows of a, [height, depth], from where they lie (f32) or widened */
static const real *rows_of_a(const ag_gemm *g, const void *a, int64_t height, int64_t depth, int64_t *row, int64_t *col,
                             real *restrict wide)
{
    *row = g->a_row, *col = g->a_col;
    if (g->a_type != AG_BF16) return a;
    for (int64_t i = 0; i < height; i++)
        for (int64_t k = 0; k < depth; k++)
            wide[i * DEPTH + k] = ag_bf16_to_real(((const uint16_t *)a)[i * g->a_row + k * g->a_col]);
    *row = DEPTH, *col = 1;
    return wide;
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

static void finish_row(const ag_gemm *g, int64_t offset, const real *bias, int64_t width, real *sums)
{
    real buf[COLS];
    real *c = ag_narrow_to(g->c, g->c_type, offset, buf);
    const real *before = g->add ? ag_widen(g->c, g->c_type, offset, width, buf) : NULL;
    for (int64_t j = 0; j < width; j++) sums[j] += (before ? before[j] : 0) + (bias ? bias[j] : 0);
    ag_activate(g->activation, width, sums);
    for (int64_t j = 0; j < width; j++) c[j] = sums[j];
    ag_narrow(g->c, g->c_type, offset, width, c);
}

/* Up to STRIP rows of COLS columns of one batch entry. */
static void strip(const ag_gemm *g, int64_t batch, int64_t first_row, int64_t first)
{
    real panel[DEPTH * COLS], wide[ROWS * DEPTH], sums[STRIP][COLS];
    const int64_t width = g->m - first < COLS ? g->m - first : COLS, rows = g->n - first_row < STRIP ? g->n - first_row : STRIP;
    const void *b = ag_element(g->b, g->b_type, batch * g->b_batch + first * g->b_col);
    const void *a = ag_element(g->a, g->a_type, batch * g->a_batch + first_row * g->a_row);
    memset(sums, 0, (size_t)rows * sizeof *sums);
    for (int64_t k = 0; k < g->k; k += DEPTH) {
        const int64_t depth = g->k - k < DEPTH ? g->k - k : DEPTH;
        fill_panel(g, ag_element(b, g->b_type, k * g->b_row), depth, width, panel);
        for (int64_t i = 0; i < rows; i += ROWS) {
            int64_t row, col;
            const int64_t height = rows - i < ROWS ? rows - i : ROWS;
            const real *from = rows_of_a(g, ag_element(a, g->a_type, i * g->a_row + k * g->a_col), height, depth, &row, &col,
                                         wide);
            if (height == ROWS) block(depth, from, row, col, panel, sums + i);
            else edge(height, depth, from, row, col, panel, sums + i);
        }
    }
    for (int64_t i = 0; i < rows; i++)
        finish_row(g, batch * g->c_batch + (first_row + i) * g->c_row + first, g->bias ? g->bias + first : NULL, width, sums[i]);
}

static void strips(int64_t begin, int64_t end, void *arg)
{
    const ag_gemm *g = arg;
    const int64_t per_batch = (g->m + COLS - 1) / COLS;
    for (int64_t p = begin; p < end; p++)
        for (int64_t row = 0; row < g->n; row += STRIP) strip(g, p / per_batch, row, p % per_batch * COLS);
}

void ag_gemm_portable(const ag_gemm *g)
{
    ag_gemm copy = *g;
    ag_parallel(g->batch * ((g->m + COLS - 1) / COLS), 1, 0.05 * (double)g->n * (double)g->k * COLS, strips, &copy);
}
