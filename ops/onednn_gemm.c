/* ops/onednn_gemm.c - matrix products and packed matrices by oneDNN, on the calling thread. */
#include "ops/gemm.h"
#include "ops/onednn.h"
#ifndef AG_ONEDNN

bool ag_gemm_onednn(const ag_gemm *g)
{
    (void)g;
    return false;
}

int64_t ag_gemm_packed_bytes(const ag_gemm *g)
{
    (void)g;
    return 0;
}

bool ag_gemm_pack(const ag_gemm *g, int64_t panel)
{
    (void)g, (void)panel;
    return false;
}

#else

enum { KIND, BATCH, N, M, K, A_TYPE, B_TYPE, C_TYPE, A_BATCH, A_ROW, A_COL, B_BATCH, B_ROW, B_COL, C_BATCH, C_ROW, BIAS, ADD,
       ACTIVATION, PACKED };

static bool describe(ag_layout *l, const ag_dnnl_key *k, int64_t rows, int64_t cols, int64_t s_batch, int64_t s_row,
                     int64_t s_col, int64_t type)
{
    const int64_t dims[] = { k->word[BATCH], rows, cols }, strides[] = { s_batch, s_row, s_col };
    const int skip = k->word[BATCH] == 1;
    return ag_layout_strided(l, 3 - skip, dims + skip, strides + skip, type);
}

/* The layout oneDNN likes for b where there are many rows; batch sizes share it. */
static bool packed_layout(ag_layout *l, int64_t k, int64_t m, int64_t type)
{
    enum { ROWS = 512 };
    const int64_t a_dims[] = { ROWS, k }, a_strides[] = { k, 1 }, b_dims[] = { k, m }, c_dims[] = { ROWS, m },
                  c_strides[] = { m, 1 };
    ag_layout a = { 0 }, b = { 0 }, c = { 0 };
    dnnl_primitive_desc_t plan;
    bool ok = ag_layout_strided(&a, 2, a_dims, a_strides, type) && ag_layout_any(&b, 2, b_dims, type) &&
              ag_layout_strided(&c, 2, c_dims, c_strides, type) && ag_plan_matmul(&plan, &a, &b, NULL, &c, NULL);
    if (ok) {
        ok = ag_layout_copy(l, plan, dnnl_query_weights_md);
        dnnl_primitive_desc_destroy(plan);
    }
    ag_layout_free(&a), ag_layout_free(&b), ag_layout_free(&c);
    return ok;
}

static bool make_product(ag_dnnl *p, const ag_dnnl_key *key)
{
    const int64_t *w = key->word;
    const int arg[] = { DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS };
    const int64_t bias_dims[] = { 1, w[M] }, bias_strides[] = { w[M], 1 };
    ag_layout l[AG_DNNL_OPERANDS] = { 0 };
    dnnl_primitive_attr_t attr = ag_dnnl_attributes(w[ADD], w[ACTIVATION]);
    dnnl_primitive_desc_t plan;
    bool ok = attr && describe(&l[0], key, w[N], w[K], w[A_BATCH], w[A_ROW], w[A_COL], w[A_TYPE]) &&
              (w[PACKED] ? packed_layout(&l[1], w[K], w[M], w[A_TYPE])
                         : describe(&l[1], key, w[K], w[M], w[B_BATCH], w[B_ROW], w[B_COL], w[B_TYPE])) &&
              describe(&l[2], key, w[N], w[M], w[C_BATCH], w[C_ROW], 1, w[C_TYPE]) &&
              (!w[BIAS] || ag_layout_strided(&l[3], 2, bias_dims, bias_strides, AG_F32)) &&
              ag_plan_matmul(&plan, &l[0], &l[1], w[BIAS] ? &l[3] : NULL, &l[2], attr);
    ok = ok && ag_dnnl_finish(p, plan, w[BIAS] ? 4 : 3, arg, l, w[PACKED] ? 1u << 1 : 0);
    for (int i = 0; i < AG_DNNL_OPERANDS; i++) ag_layout_free(&l[i]);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return ok;
}

/* oneDNN's fast kernels take matrices that are dense along one of their two axes. */
static bool dense_along_one(int64_t rows, int64_t cols, int64_t row, int64_t col)
{
    return (col == 1 && row >= cols) || (row == 1 && col >= rows);
}

/* What a product with a packed matrix wants of the others. */
static bool dense_rows(const ag_gemm *g)
{
    return g->a_row == g->k && g->a_col == 1 && g->c_row == g->m;
}

static bool fits(const ag_gemm *g)
{
    if (!g->k || !dense_along_one(g->n, g->k, g->a_row, g->a_col)) return false;
    if (g->packed) return g->batch == 1 && dense_rows(g);
    if (g->a_type != g->b_type || !dense_along_one(g->k, g->m, g->b_row, g->b_col)) return false;
    if (g->a_type == AG_F32 && g->c_type != AG_F32) return false;
    return g->batch == 1 || (g->a_batch && g->b_batch && !g->bias);
}

static bool product(const ag_gemm *g)
{
    const ag_dnnl_key key = { { [KIND] = AG_DNNL_GEMM, [BATCH] = g->batch, [N] = g->n, [M] = g->m, [K] = g->k,
        [A_TYPE] = g->a_type, [B_TYPE] = g->b_type, [C_TYPE] = g->c_type, [A_BATCH] = g->batch > 1 ? g->a_batch : 0,
        [A_ROW] = g->a_row, [A_COL] = g->a_col, [B_BATCH] = g->batch > 1 ? g->b_batch : 0,
        [B_ROW] = g->packed ? 0 : g->b_row, [B_COL] = g->packed ? 0 : g->b_col, [C_BATCH] = g->batch > 1 ? g->c_batch : 0,
        [C_ROW] = g->c_row, [BIAS] = g->bias != NULL, [ADD] = g->add, [ACTIVATION] = (int64_t)g->activation,
        [PACKED] = g->packed != NULL } };
    const ag_dnnl *p = ag_dnnl_find(&key, make_product);
    return p && ag_dnnl_run(p, (const void *[]){ g->a, g->packed ? g->packed : g->b, g->c, g->bias });
}

/* Where b is deep, oneDNN's kernel for a dense result reads its rows far apart; the one for a part of a wider result copies
 * them first and is 1.2 to 2.3 times as fast (measured with version 2.6, k from 768 on). */
static bool better_in_halves(const ag_gemm *g)
{
    return g->a_type == AG_F32 && !g->packed && g->batch == 1 && g->a_col == 1 && g->b_col == 1 && g->b_row == g->m &&
           g->c_row == g->m && g->k >= 768 && g->m >= 256;
}

bool ag_gemm_onednn(const ag_gemm *g)
{
    if (!fits(g)) return false;
    if (!better_in_halves(g)) return product(g);
    ag_gemm left = *g, right = *g;
    left.m = g->m / 2 / 16 * 16, right.m = g->m - left.m;
    right.b = (const real *)g->b + left.m, right.c = (real *)g->c + left.m;
    if (g->bias) right.bias += left.m;
    return product(&left) && product(&right);
}

/* ---- packing: by panels of columns, which threads share -------------------------------------------------- */

enum { FIRST = BATCH, WIDTH = N };

static bool make_pack(ag_dnnl *p, const ag_dnnl_key *key)
{
    const int64_t *w = key->word;
    const int arg[] = { DNNL_ARG_FROM, DNNL_ARG_TO };
    const int64_t dims[] = { w[K], w[WIDTH] }, strides[] = { w[B_ROW], w[B_COL] };
    ag_layout whole = { 0 }, l[2] = { 0 };
    dnnl_primitive_attr_t attr = ag_dnnl_attributes(false, 0);
    dnnl_primitive_desc_t plan;
    bool ok = attr && ag_layout_strided(&l[0], 2, dims, strides, w[B_TYPE]) && packed_layout(&whole, w[K], w[M], w[A_TYPE]) &&
              ag_layout_part(&l[1], &whole, 2, dims, 1, w[FIRST]) && ag_plan_reorder(&plan, &l[0], &l[1], attr);
    ok = ok && ag_dnnl_finish(p, plan, 2, arg, l, 0);
    ag_layout_free(&whole);
    for (int i = 0; i < 2; i++) ag_layout_free(&l[i]);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return ok;
}

static const ag_dnnl *packer(const ag_gemm *g, int64_t first, int64_t width)
{
    const ag_dnnl_key key = { { [KIND] = AG_DNNL_PACK, [FIRST] = first, [WIDTH] = width, [M] = g->m, [K] = g->k,
                                [A_TYPE] = g->a_type, [B_TYPE] = g->b_type, [B_ROW] = g->b_row, [B_COL] = g->b_col } };
    return ag_dnnl_find(&key, make_pack);
}

int64_t ag_gemm_packed_bytes(const ag_gemm *g)
{
    if (!g->k || !dense_rows(g) || !dense_along_one(g->k, g->m, g->b_row, g->b_col)) return 0;
    for (int64_t first = 0; first < g->m; first += AG_GEMM_PANEL)
        if (!packer(g, first, g->m - first < AG_GEMM_PANEL ? g->m - first : AG_GEMM_PANEL)) return 0;
    const ag_dnnl *all = packer(g, 0, g->m);
    return all ? all->bytes[1] : 0;
}

bool ag_gemm_pack(const ag_gemm *g, int64_t panel)
{
    const int64_t first = panel * AG_GEMM_PANEL;
    const ag_dnnl *p = packer(g, first, g->m - first < AG_GEMM_PANEL ? g->m - first : AG_GEMM_PANEL);
    return p && ag_dnnl_run(p, (const void *[]){ ag_element(g->b, g->b_type, first * g->b_col), g->packed });
}
#endif
