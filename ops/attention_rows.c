/* ops/attention_rows.c - attention's arithmetic on single rows, which lie in the first cache. Powers of 2 in the place of e:
 * the factor goes into the scale. Rows run to `wide`; behind the last key products are minus infinity, weights 0. */
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

static const real *terms_row(const ag_attention_job *j, const ag_terms *t, const ag_attention_row *r)
{
    if (!t->batches) return NULL;
    return t->data + (((r->n % t->batches) * t->heads + r->h % t->heads) * j->l + r->i) * j->s;
}

/* y = log2(e) (scale x + bias + mask); y may be x */
static void add_terms(const ag_attention_job *j, const ag_attention_row *r, const real *x, real *y)
{
    const real scale = scale_of(j, r->h) * log2_e, *bias = terms_row(j, &j->bias, r), *mask = terms_row(j, &j->mask, r);
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

static int64_t line_of(const ag_attention_job *j, const ag_attention_row *r)
{
    return (r->n * j->heads + r->h) * j->l + r->i;
}

/* What dropout multiplies the weights with: 0 or 1 / (1 - p). */
static void keep_row(const ag_attention_job *j, const ag_attention_row *r, real *keep)
{
    enum { DRAWS = 4, STREAM = 4 };
    const real kept = j->dropout < 1 ? (real)(1 / (1 - j->dropout)) : 0;
    const uint64_t threshold = (uint64_t)(j->dropout * 0x1p32);
    const int64_t first = line_of(j, r) * ((j->s + DRAWS - 1) / DRAWS);
    for (int64_t c = 0; c < j->s; c += DRAWS) {
        const ag_philox4 p = ag_philox(j->key, STREAM, (uint64_t)(first + c / DRAWS));
        for (int64_t k = 0; k < DRAWS && c + k < j->s; k++) keep[c + k] = p.v[k] >= threshold ? kept : 0;
    }
}

/* A query whose keys are all masked with minus infinity gets weights of 0. */
void ag_attention_weights(const ag_attention_job *j, const ag_attention_row *r, real *x)
{
    const int64_t wide = r->wide / AG_ATTENTION_LANES * AG_ATTENTION_LANES;
    real *y = ag_narrow_to(x, j->at.q.type, 0, r->a), top = -INFINITY, sum = 0;
    add_terms(j, r, x, y);
#pragma omp simd reduction(max : top)
    for (int64_t c = 0; c < wide; c++) top = y[c] > top ? y[c] : top;
    if (top == -INFINITY) top = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < wide; c++) {
        const real e = EXP2(y[c] - top);
        y[c] = e, sum += e;
    }
    const real inverse = sum > 0 ? 1 / sum : 0;
    if (j->lse) j->lse[line_of(j, r)] = sum > 0 ? top + LOG(sum) * log2_e : INFINITY;
#pragma omp simd
    for (int64_t c = 0; c < wide; c++) y[c] *= inverse;
    if (j->dropout > 0) {
        keep_row(j, r, r->b);
        for (int64_t c = 0; c < j->s; c++) y[c] *= r->b[c];
    }
    ag_narrow(x, j->at.q.type, 0, j->s, y);
}

/* w = 2^(w - lse), d = scale w (g - delta) */
static void gradients(int64_t wide, real *w, real lse, const real *g, real delta, real scale, real *d)
{
#pragma omp simd
    for (int64_t c = 0; c < wide / AG_ATTENTION_LANES * AG_ATTENTION_LANES; c++) {
        const real e = EXP2(w[c] - lse);
        w[c] = e, d[c] = scale * (e * (g[c] - delta));
    }
}

void ag_attention_weights_grad(const ag_attention_job *j, const ag_attention_row *r, real delta, real *x, real *g,
                               real *dbias, real *dlogit_scale)
{
    const bool narrow = j->at.q.type == AG_BF16;
    const real scale = scale_of(j, r->h);
    real *w = narrow || j->cosine ? r->a : x, *d = ag_narrow_to(g, j->at.q.type, 0, r->b);
    add_terms(j, r, x, w);
    for (int64_t c = j->s; c < r->wide; c++) g[c] = 0;
    if (j->dropout > 0) {
        keep_row(j, r, r->c);
        for (int64_t c = 0; c < j->s; c++) g[c] *= r->c[c];
    }
    gradients(r->wide, w, j->lse[line_of(j, r)], g, delta, dbias || dlogit_scale ? 1 : scale, d);
    if (j->dropout > 0) for (int64_t c = 0; c < j->s; c++) w[c] *= r->c[c];
    if (dbias)
#pragma omp simd
        for (int64_t c = 0; c < j->s; c++) dbias[c] += d[c];
    if (dlogit_scale) {
        real dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < j->s; c++) dot += d[c] * x[c];
        *dlogit_scale += dot;
    }
    if (dbias || dlogit_scale)
#pragma omp simd
        for (int64_t c = 0; c < j->s; c++) d[c] *= scale;
    ag_narrow(x, j->at.q.type, 0, j->s, w);
    ag_narrow(g, j->at.q.type, 0, j->s, d);
    if (j->cosine && !narrow) memcpy(x, w, (size_t)j->s * sizeof *x);
}

real ag_attention_unit(const ag_attention_job *j, const ag_attention_row *r, ag_dtype type, const void *from, void *to)
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

void ag_attention_unit_grad(const ag_attention_job *j, const ag_attention_row *r, const ag_heads *d, int64_t at,
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
