/* ops/attention_rows.c - attention's arithmetic on some rows, which lie in the first cache. Powers of 2 in the place of e: the
 * factor goes into the scale. Rows run to `wide`; behind the last key products are minus infinity, weights 0. */
#include "ops/attention.h"
#include <string.h>
#include "core/bf16.h"
#include "core/random.h"
#include "ops/formulas.h"

static const real log2_e = R(1.44269504088896340736);

static real scale_of(const ag_attention_job *j, int64_t h)
{
    return j->cosine ? j->logit_scale[h] : (real)j->scale;
}

static const real *terms_row(const ag_attention_job *j, const ag_terms *t, const ag_attention_rows *r, int64_t k)
{
    if (!t->batches) return NULL;
    return t->data + (((r->n % t->batches) * t->heads + r->h % t->heads) * j->l + r->i + k) * j->s;
}

/* For row k: y = log2(e) (scale x + bias + mask); y may be x. */
static void add_terms(const ag_attention_job *j, const ag_attention_rows *r, int64_t k, const real *x, real *y)
{
    const real scale = scale_of(j, r->h) * log2_e, *bias = terms_row(j, &j->bias, r, k), *mask = terms_row(j, &j->mask, r, k);
    if (!bias) bias = mask, mask = NULL;
    if (!bias)
#pragma omp simd
        for (int64_t c = 0; c < j->s; c++) y[c] = scale * x[c];
    else if (!mask)
#pragma omp simd
        for (int64_t c = 0; c < j->s; c++) y[c] = scale * x[c] + log2_e * bias[c];
    else
#pragma omp simd
        for (int64_t c = 0; c < j->s; c++) y[c] = scale * x[c] + log2_e * (bias[c] + mask[c]);
    for (int64_t c = j->s; c < r->wide; c++) y[c] = -INFINITY;
}

static int64_t line_of(const ag_attention_job *j, const ag_attention_rows *r, int64_t k)
{
    return (r->n * j->heads + r->h) * j->l + r->i + k;
}

/* What dropout multiplies the weights of a line with: 0 or 1 / (1 - p). */
static void keep_line(const ag_attention_job *j, int64_t line, real *keep)
{
    enum { DRAWS = 4, STREAM = 4 };
    const real kept = j->dropout < 1 ? (real)(1 / (1 - j->dropout)) : 0;
    const uint64_t threshold = (uint64_t)(j->dropout * 0x1p32);
    const int64_t first = line * ((j->s + DRAWS - 1) / DRAWS);
    for (int64_t c = 0; c < j->s; c += DRAWS) {
        const ag_philox4 p = ag_philox(j->key, STREAM, (uint64_t)(first + c / DRAWS));
        for (int64_t i = 0; i < DRAWS && c + i < j->s; i++) keep[c + i] = p.v[i] >= threshold ? kept : 0;
    }
}

static void multiply(int64_t n, real *restrict x, const real *restrict by)
{
    for (int64_t i = 0; i < n; i++) x[i] *= by[i];
}

static real largest(int64_t n, const real *x)
{
    real top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
    return top;
}

static real total(int64_t n, const real *x)
{
    real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return sum;
}

/* A query whose keys are all masked with minus infinity gets weights of 0. */
void ag_attention_weights(const ag_attention_job *j, const ag_attention_rows *r, real *x)
{
    const int64_t wide = r->wide / AG_ATTENTION_LANES * AG_ATTENTION_LANES;
    real *y = ag_narrow_to(x, j->type, 0, r->a), top[AG_ATTENTION_ROWS], inverse[AG_ATTENTION_ROWS];
    for (int64_t k = 0; k < r->count; k++) add_terms(j, r, k, x + k * wide, y + k * wide);
    for (int64_t k = 0; k < r->count; k++) {
        const real most = largest(wide, y + k * wide);
        top[k] = most == -INFINITY ? 0 : most;
    }
    for (int64_t k = 0; k < r->count; k++)
#pragma omp simd
        for (int64_t c = k * wide; c < (k + 1) * wide; c++) y[c] = EXP2(y[c] - top[k]);
    for (int64_t k = 0; k < r->count; k++) {
        const real sum = total(wide, y + k * wide);
        inverse[k] = sum > 0 ? 1 / sum : 0;
        if (j->lse) j->lse[line_of(j, r, k)] = sum > 0 ? top[k] + LOG(sum) * log2_e : INFINITY;
    }
    for (int64_t k = 0; k < r->count; k++)
#pragma omp simd
        for (int64_t c = k * wide; c < (k + 1) * wide; c++) y[c] *= inverse[k];
    for (int64_t k = 0; k < r->count && j->dropout > 0; k++) {
        keep_line(j, line_of(j, r, k), r->b);
        multiply(j->s, y + k * wide, r->b);
    }
    for (int64_t k = 0; k < r->count; k++) ag_narrow(x + k * wide, j->type, 0, j->s, y + k * wide);
}

/* w = 2^(w - lse), d = scale w (g - delta) */
static void gradients(int64_t n, real *w, real lse, const real *g, real delta, real scale, real *d)
{
#pragma omp simd
    for (int64_t c = 0; c < n; c++) {
        const real e = EXP2(w[c] - lse);
        w[c] = e, d[c] = scale * (e * (g[c] - delta));
    }
}

/* dbias += d, dlogit_scale += d . x; then d gets the scale. */
static void sum_up(const ag_attention_job *j, const ag_attention_rows *r, int64_t k, const real *x, real *d, real *dbias,
                   real *dlogit_scale)
{
    const real scale = scale_of(j, r->h);
    real dot = 0;
    if (dbias)
#pragma omp simd
        for (int64_t c = 0; c < j->s; c++) dbias[k * j->s + c] += d[c];
    if (dlogit_scale)
#pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < j->s; c++) dot += d[c] * x[c];
    if (dlogit_scale) *dlogit_scale += dot;
#pragma omp simd
    for (int64_t c = 0; c < j->s; c++) d[c] *= scale;
}

void ag_attention_weights_grad(const ag_attention_job *j, const ag_attention_rows *r, const real *delta, real *x, real *g,
                               real *dbias, real *dlogit_scale)
{
    const int64_t wide = r->wide / AG_ATTENTION_LANES * AG_ATTENTION_LANES;
    const ag_dtype type = j->type;
    const bool apart = type == AG_BF16 || j->cosine, sums = dbias || dlogit_scale;
    real *w = apart ? r->a : x, *d = ag_narrow_to(g, type, 0, r->b);
    for (int64_t k = 0; k < r->count; k++) {
        add_terms(j, r, k, x + k * wide, w + k * wide);
        for (int64_t c = j->s; c < wide; c++) g[k * wide + c] = 0;
        if (j->dropout > 0) {
            keep_line(j, line_of(j, r, k), r->c + k * wide);
            multiply(j->s, g + k * wide, r->c + k * wide);
        }
    }
    for (int64_t k = 0; k < r->count; k++)
        gradients(wide, w + k * wide, j->lse[line_of(j, r, k)], g + k * wide, delta[k], sums ? 1 : scale_of(j, r->h),
                  d + k * wide);
    for (int64_t k = 0; k < r->count; k++) {
        if (sums) sum_up(j, r, k, x + k * wide, d + k * wide, dbias, dlogit_scale);
        if (j->dropout > 0) multiply(j->s, w + k * wide, r->c + k * wide);
        ag_narrow(x + k * wide, type, 0, j->s, w + k * wide);
        ag_narrow(g + k * wide, type, 0, j->s, d + k * wide);
        if (apart && type != AG_BF16) memcpy(x + k * wide, w + k * wide, (size_t)j->s * sizeof *x);
    }
}

real ag_attention_unit(const ag_attention_job *j, const ag_attention_rows *r, ag_dtype type, const void *from, void *to)
{
    const real *x = ag_widen(from, type, 0, j->d, r->a);
    real *y = ag_narrow_to(to, type, 0, r->b), sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < j->d; c++) sum += x[c] * x[c];
    const real length = SQRT(sum), inverse = 1 / (length > R(1e-12) ? length : R(1e-12));
#pragma omp simd
    for (int64_t c = 0; c < j->d; c++) y[c] = x[c] * inverse;
    ag_narrow(to, type, 0, j->d, y);
    return inverse;
}

void ag_attention_unit_grad(const ag_attention_job *j, const ag_attention_rows *r, const ag_heads *d, int64_t at,
                            const real *g, const void *to, real inverse)
{
    const real *u = inverse != 0 ? ag_widen(to, d->type, 0, j->d, r->a) : g, factor = inverse != 0 ? inverse : 1;
    real *y = d->add ? ag_narrow_onto(d->data, d->type, at, j->d, r->b) : ag_narrow_to(d->data, d->type, at, r->b), dot = 0;
    if (inverse != 0)
#pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < j->d; c++) dot += u[c] * g[c];
#pragma omp simd
    for (int64_t c = 0; c < j->d; c++) y[c] = (d->add ? y[c] : 0) + factor * (g[c] - u[c] * dot);
    ag_narrow(d->data, d->type, at, j->d, y);
}
