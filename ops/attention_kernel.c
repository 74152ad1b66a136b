/* ops/attention_kernel.c - attention by blocks of queries of one head, so that no L x S matrix is ever whole.
 *
 * K1  A block's products lie in a thread's scratch, small enough for the second cache. Only the log of the sums of exp is
 *     kept; backward makes the weights from it again. (Dao et al. 2022, FlashAttention)
 * K2  bf16: products of bf16 with f32 sums, softmax in f32; a row of weights is narrowed in place, to the start of the f32
 *     row that it came from.
 * K3  A head's rows go into products where they lie. They are copied to scratch where they lie in no order (windows of an
 *     image) or are scaled to length 1 (cosine attention).
 * K4  Gradients of a bias that many images share are summed over runs of images that depend on N alone, then together. */
#include "ops/attention.h"
#include <string.h>
#include "core/bf16.h"
#include "core/random.h"
#include "core/thread.h"
#include "ops/formulas.h"
#include "ops/gemm.h"

enum { BLOCK = 256 << 10, LEAST_ROWS = 16, MOST_ROWS = 256 };       /* bytes and rows of a block of products */
enum { PARTIALS = 16, PARTIAL_BYTES = 8 << 20 };                    /* K4 */

typedef struct { void *p; int64_t row; ag_dtype type; } matrix;     /* rows `row` elements apart */

typedef struct {
    real *products, *dproducts;             /* [block, wide] */
    real *a, *b, *c;                        /* a row each */
    real *delta, *q_inverse, *k_inverse;    /* [block], 1 / length: [block], [S] */
    real *q, *k, *v, *out, *dq, *dk, *dv;
    int64_t *pixel;                         /* of a window's tokens */
} scratch;

typedef struct {
    ag_attention_job j;
    int64_t block, blocks, wide;            /* queries in a block; elements from one row of products to the next */
    int64_t units, chunks, group;           /* backward: runs of images x groups of heads; forward: heads x runs of blocks */
    real *dbias, *dlogit_scale;             /* sums of the chunks: [chunks, heads of the bias, L, S], [chunks, heads] */
    char *memory;
    int64_t bytes;                          /* of a thread's scratch */
    bool backward;
} plan;

/* ---- sizes --------------------------------------------------------------------------------------------- */

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t parts_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

/* Whether sums over the blocks are kept in scratch until they are complete. */
static bool sums_apart(const plan *p, const ag_heads *d, bool cosine)
{
    return p->j.window || cosine || (d->type == AG_BF16 && p->blocks > 1);
}

/* A thread's scratch from `base` on (NULL: only measures); returns its bytes. */
static int64_t lay_out(const plan *p, char *base, scratch *s)
{
    const ag_attention_job *j = &p->j;
    const bool back = p->backward, copies = j->window || j->cosine;
    const int64_t row = larger(p->wide, j->d), queries = p->block * j->d, keys = j->s * j->d;
    const struct { real **at; int64_t count; } parts[] = {
        { &s->products, p->block * p->wide }, { &s->dproducts, back ? p->block * p->wide : 0 },
        { &s->a, row }, { &s->b, row }, { &s->c, row },
        { &s->delta, p->block }, { &s->q_inverse, p->block }, { &s->k_inverse, j->s },
        { &s->q, copies ? queries : 0 }, { &s->k, copies ? keys : 0 }, { &s->v, j->window ? keys : 0 },
        { &s->out, j->window ? queries : 0 }, { &s->dq, back && copies ? queries : 0 },
        { &s->dk, back && sums_apart(p, &j->dk, j->cosine) ? keys : 0 },
        { &s->dv, back && sums_apart(p, &j->dv, false) ? keys : 0 },
    };
    int64_t at = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].at = base ? (real *)(void *)(base + at) : NULL;
        at += parts_of(parts[i].count * (int64_t)sizeof(real), 64) * 64 + 64;
    }
    s->pixel = base ? (int64_t *)(void *)(base + at) : NULL;
    return at + parts_of(j->window ? j->l * 8 : 0, 64) * 64;
}

static plan plan_of(const ag_attention_job *j, bool backward)
{
    plan p = { .j = *j, .backward = backward, .wide = parts_of(j->s, 16) * 16 };
    if (p.wide % 256 == 0) p.wide += 16;            /* rows whole pages apart meet in few places of a cache */
    const int64_t fit = smaller(larger(BLOCK / (p.wide * (int64_t)sizeof(real)), LEAST_ROWS), MOST_ROWS);
    scratch s;
    p.blocks = parts_of(j->l, fit);
    p.block = parts_of(j->l, larger(p.blocks, 1));
    p.bytes = lay_out(&p, NULL, &s);
    if (backward) {
        const int64_t one = larger(j->dbias.heads * j->l * j->s * (int64_t)sizeof(real), 1);
        p.chunks = j->dbias.batches == 1 ? smaller(smaller(j->n, PARTIALS), larger(PARTIAL_BYTES / one, 1)) : j->n;
        p.group = j->dbias.batches ? j->heads / j->dbias.heads : 1;
        p.units = p.chunks * (j->heads / p.group);
    } else {
        p.group = j->window || j->cosine ? larger(p.blocks, 1) : 1;
        p.units = j->n * j->heads * parts_of(p.blocks, p.group);
    }
    return p;
}

static bool sums_partially(const plan *p)
{
    return p->j.dbias.batches == 1 && p->chunks > 1;
}

static int64_t bias_size(const ag_attention_job *j)
{
    return j->dbias.heads * j->l * j->s;
}

int64_t ag_attention_workspace(const ag_attention_job *j, bool backward)
{
    const plan p = plan_of(j, backward);
    int64_t bytes = ag_threads() * p.bytes;
    if (backward && sums_partially(&p)) bytes += p.chunks * bias_size(j) * (int64_t)sizeof(real);
    if (backward && j->cosine) bytes += p.chunks * j->heads * (int64_t)sizeof(real);
    return bytes;
}

/* ---- rows of a head ------------------------------------------------------------------------------------ */

/* The window's pixels in the image, after a cyclic shift. */
static void find_pixels(const ag_attention_job *j, const scratch *s, int64_t n)
{
    if (!j->window) return;
    const int64_t across = j->w / j->window, window = n % (across * (j->h / j->window));
    for (int64_t i = 0, y = window / across * j->window + j->shift; i < j->l; y++) {
        const int64_t row = (y < j->h ? y : y - j->h) * j->w;
        for (int64_t k = 0, x = window % across * j->window + j->shift; k < j->window; k++, x++)
            s->pixel[i++] = row + (x < j->w ? x : x - j->w);
    }
}

static int64_t image_of(const ag_attention_job *j, int64_t n)
{
    return j->window ? n / (j->w / j->window * (j->h / j->window)) : n;
}

/* Where the head h of token i begins, in elements. */
static int64_t place(const ag_attention_job *j, const scratch *s, const ag_heads *t, int64_t n, int64_t h, int64_t i)
{
    return image_of(j, n) * t->batch + (j->window ? s->pixel[i] : i) * t->token + h * t->head;
}

static matrix in_place(const plan *p, const scratch *s, const ag_heads *t, int64_t n, int64_t h, int64_t first)
{
    return (matrix){ (char *)t->data + place(&p->j, s, t, n, h, first) * (int64_t)ag_dtype_size(t->type), t->token, t->type };
}

/* to = x / |x|; returns 1 / |x|. (F.normalize) */
static real unit_row(const ag_attention_job *j, const scratch *s, const ag_heads *t, int64_t from, void *to, int64_t at)
{
    const real *x = ag_widen(t->data, t->type, from, j->d, s->a);
    real *y = ag_narrow_to(to, t->type, at, s->b), sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < j->d; i++) sum += x[i] * x[i];
    const real length = SQRT(sum), inverse = 1 / (length > R(1e-12) ? length : R(1e-12));
#pragma omp simd
    for (int64_t i = 0; i < j->d; i++) y[i] = x[i] * inverse;
    ag_narrow(to, t->type, at, j->d, y);
    return inverse;
}

/* The head's tokens first .. first + count: in place, or copied to `to` (K3); inverse: scaled to length 1. */
static matrix load(const plan *p, const scratch *s, const ag_heads *t, int64_t n, int64_t h, int64_t first, int64_t count,
                   real *to, real *inverse)
{
    const ag_attention_job *j = &p->j;
    const int64_t size = (int64_t)ag_dtype_size(t->type), width = j->d * size;
    if (!j->window && !inverse) return in_place(p, s, t, n, h, first);
    for (int64_t i = 0; i < count; i++) {
        const int64_t from = place(j, s, t, n, h, first + i);
        if (inverse) inverse[i] = unit_row(j, s, t, from, to, i * j->d);
        else memcpy((char *)to + i * width, (const char *)t->data + from * size, (size_t)width);
    }
    return (matrix){ to, j->d, t->type };
}

/* The way back for results, with inverse through the scaling to length 1: d x = inverse (g - u (u . g)). */
static void store(const plan *p, const scratch *s, const ag_heads *t, int64_t n, int64_t h, int64_t first, int64_t count,
                  const real *from, const matrix *unit, const real *inverse)
{
    const ag_attention_job *j = &p->j;
    for (int64_t i = 0; i < count; i++, from += j->d) {
        const int64_t to = place(j, s, t, n, h, first + i);
        const real *u = inverse ? ag_widen(unit->p, unit->type, i * unit->row, j->d, s->a) : from;
        real *y = t->add ? ag_narrow_onto(t->data, t->type, to, j->d, s->b) : ag_narrow_to(t->data, t->type, to, s->b);
        real dot = 0;
        if (inverse)
#pragma omp simd reduction(+ : dot)
            for (int64_t c = 0; c < j->d; c++) dot += u[c] * from[c];
        const real factor = inverse ? inverse[i] : 1;
#pragma omp simd
        for (int64_t c = 0; c < j->d; c++) y[c] = (t->add ? y[c] : 0) + factor * (from[c] - u[c] * dot);
        ag_narrow(t->data, t->type, to, j->d, y);
    }
}

/* c [n, m] (+)= a [n, k] b [k, m]; turned: a [k, n], b [m, k] */
static void product(int64_t n, int64_t m, int64_t k, matrix a, bool turn_a, matrix b, bool turn_b, matrix c, bool add)
{
    ag_gemm_run(&(ag_gemm){ .batch = 1, .n = n, .m = m, .k = k, .a = a.p, .a_row = turn_a ? 1 : a.row,
                            .a_col = turn_a ? a.row : 1, .b = b.p, .b_row = turn_b ? 1 : b.row, .b_col = turn_b ? b.row : 1,
                            .c = c.p, .c_row = c.row, .a_type = a.type, .b_type = b.type, .c_type = c.type, .add = add });
}

/* ---- rows of products ---------------------------------------------------------------------------------- */

static real *terms_row(const ag_attention_job *j, const ag_terms *t, int64_t n, int64_t h, int64_t i)
{
    return t->data + (((n % t->batches) * t->heads + h % t->heads) * j->l + i) * j->s;
}

static real scale_of(const ag_attention_job *j, int64_t h)
{
    return j->cosine ? j->logit_scale[h] : (real)j->scale;
}

/* y = scale x + bias + mask; y may be x */
static void add_terms(const ag_attention_job *j, int64_t n, int64_t h, int64_t i, const real *x, real *y)
{
    const real scale = scale_of(j, h);
    const real *bias = j->bias.batches ? terms_row(j, &j->bias, n, h, i) : NULL;
    const real *mask = j->mask.batches ? terms_row(j, &j->mask, n, h, i) : NULL;
    if (!bias) bias = mask, mask = NULL;
    if (!bias)
#pragma omp simd
        for (int64_t c = 0; c < j->s; c++) y[c] = scale * x[c];
    else
#pragma omp simd
        for (int64_t c = 0; c < j->s; c++) y[c] = scale * x[c] + bias[c];
    if (mask)
#pragma omp simd
        for (int64_t c = 0; c < j->s; c++) y[c] += mask[c];
}

/* What dropout multiplies the weights of query `line` of all with: 0 or 1 / (1 - p). */
static void keep_row(const ag_attention_job *j, int64_t line, real *keep)
{
    enum { DRAWS = 4, STREAM = 4 };
    const real kept = j->dropout < 1 ? (real)(1 / (1 - j->dropout)) : 0;
    const uint64_t threshold = (uint64_t)(j->dropout * 0x1p32), first = (uint64_t)(line * parts_of(j->s, DRAWS));
    for (int64_t c = 0; c < j->s; c += DRAWS) {
        const ag_philox4 r = ag_philox(j->key, STREAM, first + (uint64_t)(c / DRAWS));
        for (int64_t i = 0; i < DRAWS && c + i < j->s; i++) keep[c + i] = r.v[i] >= threshold ? kept : 0;
    }
}

static int64_t line_of(const ag_attention_job *j, int64_t n, int64_t h, int64_t i)
{
    return (n * j->heads + h) * j->l + i;
}

/* Weights in the place of products. A query whose keys are all masked with -inf gets weights of 0. */
static void softmax_row(const ag_attention_job *j, const scratch *s, int64_t n, int64_t h, int64_t i, real *x)
{
    real *y = ag_narrow_to(x, j->q.type, 0, s->a), top = -INFINITY, sum = 0;
    add_terms(j, n, h, i, x, y);
#pragma omp simd reduction(max : top)
    for (int64_t c = 0; c < j->s; c++) top = y[c] > top ? y[c] : top;
    if (top == -INFINITY) top = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < j->s; c++) sum += y[c] = EXP(y[c] - top);
    const real inverse = sum > 0 ? 1 / sum : 0;
    if (j->lse) j->lse[line_of(j, n, h, i)] = sum > 0 ? top + LOG(sum) : INFINITY;
#pragma omp simd
    for (int64_t c = 0; c < j->s; c++) y[c] *= inverse;
    if (j->dropout > 0) {
        keep_row(j, line_of(j, n, h, i), s->b);
        for (int64_t c = 0; c < j->s; c++) y[c] *= s->b[c];
    }
    ag_narrow(x, j->q.type, 0, j->s, y);
}

/* From products x and gradients g of the weights w as dropped: x becomes w keep, g becomes scale dx, dx = w (keep g - delta). */
static void gradient_row(const ag_attention_job *j, const scratch *s, int64_t n, int64_t h, int64_t i, real delta, real *x,
                         real *g, real *dbias, real *dlogit_scale)
{
    const bool narrow = j->q.type == AG_BF16;
    const real lse = j->lse[line_of(j, n, h, i)], scale = scale_of(j, h);
    real *w = narrow || j->cosine ? s->a : x, *d = ag_narrow_to(g, j->q.type, 0, s->b), *keep = s->c;
    add_terms(j, n, h, i, x, w);
    if (j->dropout > 0) {
        keep_row(j, line_of(j, n, h, i), keep);
        for (int64_t c = 0; c < j->s; c++) g[c] *= keep[c];
    }
#pragma omp simd
    for (int64_t c = 0; c < j->s; c++) w[c] = EXP(w[c] - lse), d[c] = w[c] * (g[c] - delta);
    if (j->dropout > 0) for (int64_t c = 0; c < j->s; c++) w[c] *= keep[c];
    if (dbias)
#pragma omp simd
        for (int64_t c = 0; c < j->s; c++) dbias[c] += d[c];
    if (dlogit_scale) {
        real dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < j->s; c++) dot += d[c] * x[c];
        *dlogit_scale += dot;
    }
#pragma omp simd
    for (int64_t c = 0; c < j->s; c++) d[c] *= scale;
    ag_narrow(x, j->q.type, 0, j->s, w);
    ag_narrow(g, j->q.type, 0, j->s, d);
    if (j->cosine && !narrow) memcpy(x, w, (size_t)j->s * sizeof *x);
}

static matrix weights_in(const plan *p, real *products)         /* K2 */
{
    const int64_t row = p->wide * (int64_t)(sizeof(real) / ag_dtype_size(p->j.q.type));
    return (matrix){ products, row, p->j.q.type };
}

/* ---- forward ------------------------------------------------------------------------------------------- */

static void attend(const plan *p, const scratch *s, int64_t n, int64_t h, int64_t begin, int64_t end)
{
    const ag_attention_job *j = &p->j;
    find_pixels(j, s, n);
    const matrix k = load(p, s, &j->k, n, h, 0, j->s, s->k, j->cosine ? s->k_inverse : NULL);
    const matrix v = load(p, s, &j->v, n, h, 0, j->s, s->v, NULL), products = { s->products, p->wide, AG_F32 };
    for (int64_t b = begin; b < end; b++) {
        const int64_t first = b * p->block, count = smaller(p->block, j->l - first);
        const matrix q = load(p, s, &j->q, n, h, first, count, s->q, j->cosine ? s->q_inverse : NULL);
        product(count, j->s, j->d, q, false, k, true, products, false);
        for (int64_t i = 0; i < count; i++) softmax_row(j, s, n, h, first + i, s->products + i * p->wide);
        const matrix out = j->window ? (matrix){ s->out, j->d, AG_F32 } : in_place(p, s, &j->out, n, h, first);
        product(count, j->d, j->s, weights_in(p, s->products), false, v, false, out, false);
        if (j->window) store(p, s, &j->out, n, h, first, count, s->out, NULL, NULL);
    }
}

static void forward_units(int64_t begin, int64_t end, void *arg)
{
    const plan *p = arg;
    const int64_t runs = parts_of(p->blocks, p->group);
    scratch s;
    lay_out(p, p->memory + ag_thread_id() * p->bytes, &s);
    for (int64_t u = begin; u < end; u++) {
        const int64_t head = u / runs, first = u % runs * p->group;
        attend(p, &s, head / p->j.heads, head % p->j.heads, first, smaller(first + p->group, p->blocks));
    }
}

static double cost(const ag_attention_job *j)       /* of a head, in ns */
{
    return (double)j->l * (double)j->s * (0.03 * (double)j->d + 0.5);
}

void ag_attention_run(const ag_node *n, const ag_attention_job *j)
{
    plan p = plan_of(j, false);
    p.memory = ag_workspace(n, ag_threads(), (size_t)p.bytes);
    ag_parallel(p.units, 1, cost(j) * (double)(j->n * j->heads) / (double)p.units, forward_units, &p);
}

/* ---- backward ------------------------------------------------------------------------------------------ */

/* delta = sum of dout out = sum of w keep g over the keys */
static void find_delta(const plan *p, const scratch *s, int64_t n, int64_t h, int64_t first, int64_t count)
{
    const ag_attention_job *j = &p->j;
    for (int64_t i = 0; i < count; i++) {
        const real *o = ag_widen(j->out.data, j->out.type, place(j, s, &j->out, n, h, first + i), j->d, s->a);
        const real *g = ag_widen(j->dout.data, j->dout.type, place(j, s, &j->dout, n, h, first + i), j->d, s->b);
        real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < j->d; c++) sum += o[c] * g[c];
        s->delta[i] = sum;
    }
}

/* Where sums over the blocks go, and whether the first block adds. */
static matrix sums(const plan *p, const scratch *s, const ag_heads *d, int64_t n, int64_t h, bool apart, real *own, bool *add)
{
    *add = d->add && !apart;
    if (!d->data) return (matrix){ 0 };
    return apart ? (matrix){ own, p->j.d, AG_F32 } : in_place(p, s, d, n, h, 0);
}

static void attend_back(const plan *p, const scratch *s, int64_t n, int64_t h, real *dbias, real *dlogit_scale)
{
    const ag_attention_job *j = &p->j;
    find_pixels(j, s, n);
    const bool k_apart = sums_apart(p, &j->dk, j->cosine), v_apart = sums_apart(p, &j->dv, false);
    bool add_k, add_v;
    const matrix k = load(p, s, &j->k, n, h, 0, j->s, s->k, j->cosine ? s->k_inverse : NULL);
    const matrix v = load(p, s, &j->v, n, h, 0, j->s, s->v, NULL);
    const matrix dk = sums(p, s, &j->dk, n, h, k_apart, s->dk, &add_k), dv = sums(p, s, &j->dv, n, h, v_apart, s->dv, &add_v);
    const matrix products = { s->products, p->wide, AG_F32 }, dproducts = { s->dproducts, p->wide, AG_F32 };
    const matrix w = weights_in(p, s->products), dx = weights_in(p, s->dproducts);
    for (int64_t first = 0; first < j->l; first += p->block) {
        const int64_t count = smaller(p->block, j->l - first);
        const matrix q = load(p, s, &j->q, n, h, first, count, s->q, j->cosine ? s->q_inverse : NULL);
        const matrix dout = load(p, s, &j->dout, n, h, first, count, s->out, NULL);
        product(count, j->s, j->d, q, false, k, true, products, false);
        product(count, j->s, j->d, dout, false, v, true, dproducts, false);
        find_delta(p, s, n, h, first, count);
        for (int64_t i = 0; i < count; i++)
            gradient_row(j, s, n, h, first + i, s->delta[i], s->products + i * p->wide, s->dproducts + i * p->wide,
                         dbias ? dbias + (first + i) * j->s : NULL, dlogit_scale);
        if (dv.p) product(j->s, j->d, count, w, true, dout, false, dv, first > 0 || add_v);
        if (dk.p) product(j->s, j->d, count, dx, true, q, false, dk, first > 0 || add_k);
        if (!j->dq.data) continue;
        const bool apart = j->window || j->cosine;
        const matrix dq = apart ? (matrix){ s->dq, j->d, AG_F32 } : in_place(p, s, &j->dq, n, h, first);
        product(count, j->d, j->s, dx, false, k, false, dq, !apart && j->dq.add);
        if (apart) store(p, s, &j->dq, n, h, first, count, s->dq, &q, j->cosine ? s->q_inverse : NULL);
    }
    if (dk.p && k_apart) store(p, s, &j->dk, n, h, 0, j->s, s->dk, &k, j->cosine ? s->k_inverse : NULL);
    if (dv.p && v_apart) store(p, s, &j->dv, n, h, 0, j->s, s->dv, NULL, NULL);
}

static void backward_units(int64_t begin, int64_t end, void *arg)
{
    const plan *p = arg;
    const ag_attention_job *j = &p->j;
    const int64_t groups = j->heads / p->group, square = j->l * j->s;
    scratch s;
    lay_out(p, p->memory + ag_thread_id() * p->bytes, &s);
    for (int64_t u = begin; u < end; u++) {
        const int64_t chunk = u / groups, g = u % groups, first = j->n * chunk / p->chunks;
        real *dbias = p->dbias ? p->dbias + (chunk * groups + g) * square : NULL;
        if (dbias && (sums_partially(p) || !j->dbias.add)) memset(dbias, 0, (size_t)square * sizeof *dbias);
        for (int64_t h = g * p->group; h < (g + 1) * p->group; h++) {
            real *dlogit_scale = p->dlogit_scale ? p->dlogit_scale + chunk * j->heads + h : NULL;
            if (dlogit_scale) *dlogit_scale = 0;
            for (int64_t n = first; n < j->n * (chunk + 1) / p->chunks; n++)
                attend_back(p, &s, n, h, dbias, dlogit_scale);
        }
    }
}

static void sum_partials(int64_t begin, int64_t end, void *arg)
{
    const plan *p = arg;
    real *d = p->j.dbias.data;
    if (!p->j.dbias.add) memset(d + begin, 0, (size_t)(end - begin) * sizeof *d);
    for (int64_t c = 0; c < p->chunks; c++)
        for (int64_t i = begin; i < end; i++) d[i] += p->dbias[c * bias_size(&p->j) + i];
}

void ag_attention_run_backward(const ag_node *n, const ag_attention_job *j)
{
    plan p = plan_of(j, true);
    p.memory = ag_workspace(n, ag_threads(), (size_t)p.bytes);
    p.dbias = j->dbias.data;
    if (sums_partially(&p)) p.dbias = ag_workspace(n, p.chunks * bias_size(j), sizeof(real));
    if (j->dlogit_scale) p.dlogit_scale = ag_workspace(n, p.chunks * j->heads, sizeof(real));
    ag_parallel(p.units, 1, 2.5 * cost(j) * (double)(j->n * j->heads) / (double)p.units, backward_units, &p);
    if (sums_partially(&p)) ag_parallel(bias_size(j), 256, (double)p.chunks, sum_partials, &p);
    for (int64_t h = 0; h < j->heads && j->dlogit_scale; h++) {
        real sum = j->add_logit_scale ? j->dlogit_scale[h] : 0;
        for (int64_t c = 0; c < p.chunks; c++) sum += p.dlogit_scale[c * j->heads + h];
        j->dlogit_scale[h] = sum;
    }
}
