#include "ops/affine.h"
#include "ops/tiles.h"

ag_affine ag_affine_of(const ag_node *n, bool backward)
{
    const ag_tensor *x = n->in[0];
    ag_affine a = { .samples = x->shape[0], .channels = x->shape[x->ndim - 1], .dtype = x->dtype, .x = x->data };
    const int64_t each = a.samples * a.channels;
    a.rows = ag_numel(x) / each;
    a.by_x = ag_workspace(n, (backward ? 3 : 2) * each, sizeof *a.by_x);
    a.by_1 = a.by_x + each;
    if (!backward) return a;
    a.by_g = a.by_1 + each;
    a.g = n->out->grad->data;
    a.out = n->din[0] ? n->din[0]->data : NULL, a.add = n->accumulate[0];
    return a;
}

static ag_tiles tiles_of(const ag_affine *a, void (*tile)(ag_tile, real *, const void *), int sums)
{
    return (ag_tiles){ .groups = a->samples, .rows = a->rows, .width = a->channels, .sums = sums, .tile = tile,
                       .arg = a, .cost = 0.5 * (double)a->channels };
}

static void affine_tile(ag_tile t, real *sums, const void *arg)
{
    const ag_affine *a = arg;
    const int64_t first = t.row / a->rows * a->channels + t.column;
    const real *by_x = a->by_x + first, *by_1 = a->by_1 + first, *by_g = a->by_g ? a->by_g + first : NULL;
    real x_buf[AG_TILE_COLUMNS], g_buf[AG_TILE_COLUMNS], out_buf[AG_TILE_COLUMNS];
    (void)sums;
    for (int64_t r = t.row; r < t.end; r++) {
        const int64_t at = r * a->channels + t.column;
        const real *x = ag_widen(a->x, a->dtype, at, t.n, x_buf);
        const real *g = a->g ? ag_widen(a->g, a->dtype, at, t.n, g_buf) : NULL;
        real *out = ag_narrow_grad(a->out, a->dtype, at, t.n, out_buf, a->add);
        if (!g) for (int64_t i = 0; i < t.n; i++) out[i] = x[i] * by_x[i] + by_1[i];
        else if (a->add) for (int64_t i = 0; i < t.n; i++) out[i] += g[i] * by_g[i] + (x[i] * by_x[i] + by_1[i]);
        else for (int64_t i = 0; i < t.n; i++) out[i] = g[i] * by_g[i] + (x[i] * by_x[i] + by_1[i]);
        ag_narrow(a->out, a->dtype, at, t.n, out);
    }
}

void ag_affine_run(const ag_node *n, const ag_affine *a)
{
    const ag_tiles t = tiles_of(a, affine_tile, 0);
    ag_tiles_run(n, &t);
}

static void dot_tile(ag_tile t, real *restrict sums, const void *arg)
{
    const ag_affine *a = arg;
    real x_buf[AG_TILE_COLUMNS], g_buf[AG_TILE_COLUMNS], *restrict total = sums + t.n;
    for (int64_t r = t.row; r < t.end; r++) {
        const int64_t at = r * a->channels + t.column;
        const real *x = ag_widen(a->x, a->dtype, at, t.n, x_buf), *g = ag_widen(a->g, a->dtype, at, t.n, g_buf);
        for (int64_t i = 0; i < t.n; i++) sums[i] += g[i] * x[i], total[i] += g[i];
    }
}

static void moments_tile(ag_tile t, real *restrict sums, const void *arg)
{
    const ag_affine *a = arg;
    real x_buf[AG_TILE_COLUMNS], first_buf[AG_TILE_COLUMNS], *restrict square = sums + t.n;
    const real *first = ag_widen(a->x, a->dtype, t.row / a->rows * a->rows * a->channels + t.column, t.n, first_buf);
    for (int64_t r = t.row; r < t.end; r++) {
        const real *x = ag_widen(a->x, a->dtype, r * a->channels + t.column, t.n, x_buf);
        for (int64_t i = 0; i < t.n; i++) {
            const real d = x[i] - first[i];
            sums[i] += d, square[i] += d * d;
        }
    }
}

double *ag_affine_sums(const ag_node *n, const ag_affine *a)
{
    const ag_tiles t = tiles_of(a, a->g ? dot_tile : moments_tile, 2);
    return ag_tiles_run(n, &t);
}

int64_t ag_affine_workspace(const ag_node *n, bool backward)
{
    const ag_tensor *x = n->in[0];
    ag_affine a = { .samples = x->shape[0], .channels = x->shape[x->ndim - 1] };
    if (!a.samples || !a.channels) return 0;
    a.rows = ag_numel(x) / (a.samples * a.channels);
    const ag_tiles t = tiles_of(&a, NULL, 2);
    return (backward ? 3 : 2) * a.samples * a.channels * (int64_t)sizeof(real) + ag_tiles_workspace(&t);
}
