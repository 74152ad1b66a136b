/* ops/gemm_split.c - f32 products at the speed of bf16: x = hi + lo, both bf16, holds 16 bits of x's 24, and
 *
 *     a b = hi(a) hi(b) + lo(a) hi(b) + hi(a) lo(b) + O(2^-16 a b)
 *
 * is one bf16 product with three times the depth, rows [hi | lo | hi] of a times [hi; hi; lo] of b, summed in f32. (Henry,
 * Tang & Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations") */
#include <pthread.h>
#include "core/bf16.h"
#include "core/memory.h"
#include "core/thread.h"
#include "ops/gemm.h"

enum { TERMS = 3, LEAST_DEPTH = 32, LEAST_WORK = 1 << 21 };
enum { CHUNK = 384 << 10, SLAB = 6 << 20 };         /* bytes of split rows, near one thread; of both operands, near the team */
typedef enum { HI, LO } part_kind;
static const part_kind of_a[TERMS] = { HI, LO, HI }, of_b[TERMS] = { HI, HI, LO };

/* n elements into their parts; the places of the two his or los may be one. */
static void split(const real *restrict x, int64_t n, uint16_t *restrict to[TERMS], const part_kind kind[TERMS])
{
    uint16_t *restrict p = to[0], *restrict q = to[1], *restrict r = to[2];
    const bool q_lo = kind[1] == LO, r_lo = kind[2] == LO;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        const uint16_t hi = ag_bf16_of(x[i]), lo = ag_bf16_of(x[i] - ag_bf16_to_real(hi));
        p[i] = hi, q[i] = q_lo ? lo : hi, r[i] = r_lo ? lo : hi;
    }
}

/* ---- memory: one piece per thread, as large as it was ever needed ---------------------------------------- */

static _Thread_local uint16_t *held;
static _Thread_local int64_t held_count;
static pthread_key_t at_thread_end;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_key(void)
{
    pthread_key_create(&at_thread_end, ag_free);
}

static uint16_t *scratch(int64_t count)
{
    if (count <= held_count) return held;
    pthread_once(&once, make_key);
    ag_free(held);
    held = ag_try_alloc(count, sizeof *held);
    held_count = held ? count : 0;
    pthread_setspecific(at_thread_end, held);
    return held;
}

/* ---- with a packed parameter: rows of a in chunks, on the calling thread --------------------------------- */

bool ag_gemm_split_rows(const ag_gemm *g)
{
    const int64_t width = TERMS * g->k, chunk = CHUNK / 2 / width > 16 ? CHUNK / 2 / width / 16 * 16 : 16;
    uint16_t *rows = scratch(chunk * width);
    ag_gemm part = *g;
    if (!rows) return false;
    part.split = false, part.a = rows, part.a_type = AG_BF16, part.k = part.a_row = width;
    for (int64_t first = 0; first < g->n; first += chunk) {
        part.n = g->n - first < chunk ? g->n - first : chunk;
        part.c = (real *)g->c + first * g->c_row;
        for (int64_t i = 0; i < part.n; i++) {
            uint16_t *row = rows + i * width, *to[TERMS] = { row, row + g->k, row + 2 * g->k };
            split((const real *)g->a + (first + i) * g->a_row, g->k, to, of_a);
        }
        if (!ag_gemm_onednn(&part)) return false;
    }
    return true;
}

typedef struct { const ag_gemm *g; uint16_t *to; } weight_job;

/* Rows of b, [k, m] with any strides, into the three blocks of [3 k, m]. */
static void split_weight(int64_t begin, int64_t end, void *arg)
{
    enum { COLS = 1024 };
    const weight_job *j = arg;
    const ag_gemm *g = j->g;
    real buf[COLS];
    for (int64_t k = begin; k < end; k++)
        for (int64_t c = 0; c < g->m; c += COLS) {
            const int64_t n = g->m - c < COLS ? g->m - c : COLS;
            const real *row = (const real *)g->b + k * g->b_row + c * g->b_col;
            if (g->b_col != 1) {
                for (int64_t i = 0; i < n; i++) buf[i] = row[i * g->b_col];
                row = buf;
            }
            uint16_t *at = j->to + k * g->m + c, *to[TERMS] = { at, at + g->k * g->m, at + 2 * g->k * g->m };
            split(row, n, to, of_b);
        }
}

/* The product that is left when b is [3 k, m] in bf16. */
static ag_gemm tripled(const ag_gemm *g, const uint16_t *b)
{
    ag_gemm t = *g;
    t.split = false, t.a_type = t.b_type = AG_BF16, t.k = t.a_row = TERMS * g->k;
    t.b = b, t.b_row = g->m, t.b_col = 1;
    return t;
}

int64_t ag_gemm_split_bytes(const ag_gemm *g)
{
    if (!ag_bf16_fast() || g->k < LEAST_DEPTH || (double)g->n * (double)g->m * (double)g->k < LEAST_WORK) return 0;
    const ag_gemm t = tripled(g, NULL);
    return ag_gemm_packed_bytes(&t);
}

bool ag_gemm_split_pack(const ag_gemm *g, void *to, bool (*pack)(const ag_gemm *g, void *to))
{
    uint16_t *b = scratch(TERMS * g->k * g->m);
    if (!b) return false;
    ag_parallel(g->k, 1, 0.5 * (double)g->m, split_weight, &(weight_job){ g, b });
    const ag_gemm t = tripled(g, b);
    return pack(&t, to);
}

/* ---- two operands without a parameter, a [n, k] turned and b [k, m], as in the gradient of a weight ------ */

typedef struct { const ag_gemm *g; int64_t first, depth; uint16_t *a, *b; } slab;

static void split_slab(int64_t begin, int64_t end, void *arg)
{
    const slab *s = arg;
    const ag_gemm *g = s->g;
    for (int64_t k = begin; k < end; k++) {
        uint16_t *a = s->a + k * g->n, *b = s->b + k * g->m;
        uint16_t *to_a[TERMS] = { a, a + s->depth * g->n, a + 2 * s->depth * g->n };
        uint16_t *to_b[TERMS] = { b, b + s->depth * g->m, b + 2 * s->depth * g->m };
        split((const real *)g->a + (s->first + k) * g->a_col, g->n, to_a, of_a);
        split((const real *)g->b + (s->first + k) * g->b_row, g->m, to_b, of_b);
    }
}

bool ag_gemm_split_sum(const ag_gemm *g)
{
    const bool fits = g->batch == 1 && g->a_row == 1 && g->b_col == 1 && g->a_type == AG_F32 && g->b_type == AG_F32 &&
                      g->c_type == AG_F32 && !g->bias && !g->activation;
    if (!fits || !ag_bf16_fast() || g->k < LEAST_DEPTH || (double)g->n * (double)g->m * (double)g->k < LEAST_WORK) return false;
    const int64_t row = TERMS * (g->n + g->m), most = SLAB / 2 / row / 32 * 32, depth = most > 32 ? most : 32;
    uint16_t *memory = scratch((depth < g->k ? depth : g->k) * row);
    if (!memory) return false;
    ag_gemm part = *g;
    part.split = false, part.a_type = part.b_type = AG_BF16, part.a_col = g->n, part.b_row = g->m;
    for (int64_t first = 0; first < g->k; first += depth) {
        slab s = { g, first, g->k - first < depth ? g->k - first : depth, memory, memory + TERMS * depth * g->n };
        if (g->k < depth) s.b = memory + TERMS * g->k * g->n;
        ag_parallel(s.depth, 1, 0.5 * (double)(g->n + g->m), split_slab, &s);
        part.a = s.a, part.b = s.b, part.k = TERMS * s.depth;
        ag_gemm_run(&part);
        part.add = true;
    }
    return true;
}
