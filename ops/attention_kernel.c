/* ops/attention_kernel.c - attention by blocks of queries of one head, so that no L x S matrix is ever whole.
 *
 * K1  A block's products lie in a thread's scratch, small enough for the second cache. Only the log of the sums of exp is
 *     kept; backward makes the weights from it again. (Dao et al. 2022, FlashAttention)
 * K2  bf16: products of bf16 with f32 sums, softmax in f32; a row of weights is narrowed in place, to the start of the f32
 *     row that it came from.
 * K3  A head's rows go into products where they lie. A window's pixels lie apart: some heads of them at a time are copied
 *     to scratch, and results back from it. So are rows scaled to length 1 (cosine attention).
 *     Small windows of bf16 are f32 in scratch: narrow products of this size are no faster.
 * K4  In f32 small products, and those with the transposes of k and v, are made by ops/near.h, all others by ops/gemm.h.
 * K5  Gradients of a bias that many samples share are summed over runs of samples that depend on N alone, then together. */
#include "ops/attention.h"
#include <string.h>
#include "core/bf16.h"
#include "core/thread.h"
#include "ops/gemm.h"
#include "ops/near.h"
#include "ops/window.h"

enum { BLOCK = 256 << 10, LEAST_ROWS = 16, MOST_ROWS = 256 };       /* bytes and rows of a block of products */
enum { NEAR = 4096 };                                               /* elements of the rows worked on at once */
enum { PARTIALS = 16, PARTIAL_BYTES = 8 << 20 };                    /* K5 */
enum { TILE = 64 << 10, LEAST_UNITS = 32 };                         /* K3: bytes of a window's q; pieces of work */

typedef struct { void *p; int64_t row; ag_dtype type; } matrix;     /* rows `row` elements apart */

typedef struct {
    real *products, *dproducts;                 /* [block, wide] */
    real *a, *b, *c;                            /* some rows each */
    real *delta, *q_inverse, *k_inverse;        /* [block], 1 / length: [block], [S] */
    real *q, *k, *dq, *dk, *dv;                 /* of one head: scaled to length 1; sums that are kept apart; */
    real *k_turned, *v_turned;                  /* [D, wide] */
    real *tile[8];                              /* of a window: q k v out dout dq dk dv, [L, heads of a group, D] */
    int64_t *pixel;                             /* of a window's tokens */
    ag_attention_operands at;                           /* where a unit's operands are, */
    int64_t head;                               /* from this head on */
} scratch;

typedef struct {
    ag_attention_job j;
    int64_t block, blocks, wide,
        rows;          /* queries in a block; elements from one row of products to the next; rows at once */
    int64_t group, chunks, runs, units;         /* a unit of work: heads x runs of samples (backward), runs of blocks */
    real *dbias, *dlogit_scale;                 /* sums of the chunks: [chunks, heads of the bias, L, S], [chunks, heads] */
    char *memory;
    int64_t bytes;                              /* of a thread's scratch */
    bool backward, near;                        /* near: ops/near.h takes the products */
} plan;

/* ---- sizes --------------------------------------------------------------------------------------------- */

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t parts_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

/* Whether sums over the blocks are kept in scratch until they are complete. */
static bool sums_apart(const plan *p, const ag_heads *d, bool cosine)
{
    return cosine || (d->type == AG_BF16 && p->blocks > 1);
}

/* A thread's scratch from `base` on (NULL: only measures); returns its bytes. */
static int64_t lay_out(const plan *p, char *base, scratch *s)
{
    const ag_attention_job *j = &p->j;
    const int64_t row = larger(p->rows * p->wide, j->d), queries = p->block * j->d, keys = j->s * j->d;
    const int64_t cosine = j->cosine, back = p->backward;
    const struct { real **at; int64_t count; } parts[] = {
        { &s->products, p->block * p->wide }, { &s->dproducts, back * p->block * p->wide },
        { &s->a, row }, { &s->b, row }, { &s->c, row },
        { &s->delta, p->block }, { &s->q_inverse, p->block }, { &s->k_inverse, j->s },
        { &s->q, cosine * queries }, { &s->k, cosine * keys }, { &s->dq, back * cosine * queries },
        { &s->dk, back && sums_apart(p, &j->at.dk, j->cosine) ? keys : 0 },
        { &s->dv, back && sums_apart(p, &j->at.dv, false) ? keys : 0 },
        { &s->k_turned, p->near * j->d * p->wide }, { &s->v_turned, back * p->near * j->d * p->wide },
    };
    int64_t at = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].at = base ? (real *)(void *)(base + at) : NULL;
        at += parts_of(parts[i].count * (int64_t)sizeof(real), 64) * 64 + 64;
    }
    for (int i = 0; i < (j->window ? back ? 8 : 4 : 0); i++) {
        s->tile[i] = base ? (real *)(void *)(base + at) : NULL;
        at += parts_of(j->l * p->group * j->d * (int64_t)sizeof(real), 64) * 64 + 64;
    }
    s->pixel = base ? (int64_t *)(void *)(base + at) : NULL;
    return at + (j->window ? parts_of(j->l * 8, 64) * 64 : 0);
}

/* Of a window's heads as many at a time as have room and leave enough pieces of work. */
static int64_t heads_at_once(const ag_attention_job *j, int64_t samples)
{
    const int64_t one = j->l * j->d * (int64_t)ag_dtype_size(j->type);
    for (int64_t parts = 1; j->window && parts < j->heads; parts++)
        if (j->heads % parts == 0 && samples * parts >= LEAST_UNITS && one * (j->heads / parts) <= TILE) return j->heads / parts;
    return 1;
}

static plan plan_of(const ag_attention_job *j, bool backward)
{
    plan p = { .j = *j, .backward = backward, .chunks = j->n, .runs = 1 };
    p.wide = parts_of(j->s, AG_ATTENTION_LANES) * AG_ATTENTION_LANES;
    if (p.wide % 256 == 0) p.wide += AG_ATTENTION_LANES;    /* rows whole pages apart meet in few places of a cache */
    p.near = ag_near_fast() && j->d % AG_NEAR_LANES == 0 && (j->type == AG_F32 || (j->window && j->s * j->d <= NEAR));
    if (p.near) p.j.type = AG_F32;
    p.rows = smaller(larger(NEAR / p.wide, 1), AG_ATTENTION_ROWS);
    const int64_t fit = smaller(larger(BLOCK / (p.wide * (int64_t)sizeof(real)), LEAST_ROWS), MOST_ROWS);
    p.blocks = parts_of(j->l, fit);
    p.block = parts_of(j->l, larger(p.blocks, 1));
    if (backward && j->dbias.batches == 1) {
        const int64_t one = larger(j->dbias.heads * j->l * j->s * (int64_t)sizeof(real), 1);
        p.chunks = smaller(smaller(j->n, PARTIALS), larger(PARTIAL_BYTES / one, 1));
    }
    p.group = heads_at_once(j, p.chunks);
    if (backward && j->dbias.batches && j->dbias.heads == 1) p.group = j->heads;
    if (!backward && !j->window && !j->cosine) p.runs = larger(p.blocks, 1);
    p.units = p.chunks * (j->heads / p.group) * p.runs;
    scratch s;
    p.bytes = lay_out(&p, NULL, &s);
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

/* ---- a unit's operands: where they are, or copies of a window's pixels ----------------------------------- */

static void find_pixels(const ag_attention_job *j, const scratch *s, int64_t window)
{
    const int64_t across = j->w / j->window;
    for (int64_t i = 0, y = window / across * j->window + j->shift; i < j->l; y++) {
        const int64_t row = (y < j->h ? y : y - j->h) * j->w;
        for (int64_t k = 0, x = window % across * j->window + j->shift; k < j->window; k++, x++)
            s->pixel[i++] = row + (x < j->w ? x : x - j->w);
    }
}

static char *pixels_of(const ag_heads *t, int64_t image, int64_t head)
{
    return (char *)t->data + (image * t->batch + head * t->head) * (int64_t)ag_dtype_size(t->type);
}

static ag_heads tile_of(const plan *p, const ag_heads *t, real *tile)
{
    return (ag_heads){ t->data ? tile : NULL, p->j.type, 0, p->group * p->j.d, p->j.d, false };
}

static ag_heads gather(const plan *p, const scratch *s, const ag_heads *t, int64_t image, int64_t head, real *tile)
{
    const int64_t size = (int64_t)ag_dtype_size(t->type), width = p->group * p->j.d;
    const char *from = pixels_of(t, image, head);
    for (int64_t i = 0; i < p->j.l; i++)
        ag_move_run(false, width, p->j.type, ag_element(tile, p->j.type, i * width), t->type,
                    from + s->pixel[i] * t->token * size);
    return tile_of(p, t, tile);
}

static void scatter(const plan *p, const scratch *s, const ag_heads *t, int64_t image, int64_t head, const real *tile)
{
    const int64_t size = (int64_t)ag_dtype_size(t->type), width = p->group * p->j.d;
    char *to = pixels_of(t, image, head);
    for (int64_t i = 0; i < p->j.l && t->data; i++)
        ag_move_run(t->add, width, t->type, to + s->pixel[i] * t->token * size, p->j.type,
                    ag_element(tile, p->j.type, i * width));
}

/* Sets where the heads from `head` on of sample n are. */
static void enter(const plan *p, scratch *s, int64_t n, int64_t head)
{
    const ag_attention_job *j = &p->j;
    s->at = j->at, s->head = 0;
    if (!j->window) return;
    const int64_t windows = j->w / j->window * (j->h / j->window), image = n / windows;
    find_pixels(j, s, n % windows);
    s->head = head;
    s->at.q = gather(p, s, &j->at.q, image, head, s->tile[0]), s->at.k = gather(p, s, &j->at.k, image, head, s->tile[1]);
    s->at.v = gather(p, s, &j->at.v, image, head, s->tile[2]), s->at.out = tile_of(p, &j->at.out, s->tile[3]);
    if (!p->backward) return;
    gather(p, s, &j->at.out, image, head, s->tile[3]);
    s->at.dout = gather(p, s, &j->at.dout, image, head, s->tile[4]);
    s->at.dq = tile_of(p, &j->at.dq, s->tile[5]), s->at.dk = tile_of(p, &j->at.dk, s->tile[6]);
    s->at.dv = tile_of(p, &j->at.dv, s->tile[7]);
}

/* Takes results back to where they belong. */
static void leave(const plan *p, const scratch *s, int64_t n)
{
    const ag_attention_job *j = &p->j;
    if (!j->window) return;
    const int64_t image = n / (j->w / j->window * (j->h / j->window));
    if (!p->backward) scatter(p, s, &j->at.out, image, s->head, s->tile[3]);
    else {
        scatter(p, s, &j->at.dq, image, s->head, s->tile[5]);
        scatter(p, s, &j->at.dk, image, s->head, s->tile[6]);
        scatter(p, s, &j->at.dv, image, s->head, s->tile[7]);
    }
}

/* ---- rows of a head ------------------------------------------------------------------------------------ */

static int64_t place(const scratch *s, const ag_heads *t, int64_t n, int64_t h, int64_t i)      /* in elements */
{
    return n * t->batch + i * t->token + (h - s->head) * t->head;
}

static matrix rows_from(const scratch *s, const ag_heads *t, int64_t n, int64_t h, int64_t first)
{
    if (!t->data) return (matrix){ 0 };
    return (matrix){ ag_element(t->data, t->type, place(s, t, n, h, first)), t->token, t->type };
}

static ag_attention_rows rows_of(const plan *p, const scratch *s, int64_t n, int64_t h, int64_t i, int64_t count)
{
    return (ag_attention_rows){ n, h, i, smaller(count, p->rows), p->wide, s->a, s->b, s->c };
}

/* The tokens first .. first + count of a head: in place, or scaled to length 1 in `to`. */
static matrix load(const plan *p, const scratch *s, const ag_heads *t, int64_t n, int64_t h, int64_t first, int64_t count,
                   real *to, real *inverse)
{
    const matrix m = rows_from(s, t, n, h, first);
    if (!p->j.cosine) return m;
    const ag_attention_rows r = rows_of(p, s, n, h, 0, 1);
    for (int64_t i = 0; i < count; i++)
        inverse[i] = ag_attention_unit(&p->j, &r, m.type, ag_element(m.p, m.type, i * m.row), ag_element(to, m.type, i * p->j.d));
    return (matrix){ to, p->j.d, m.type };
}

/* The way back of a gradient that was summed apart; unit and inverse not NULL: through the scaling to length 1. */
static void store(const plan *p, const scratch *s, const ag_heads *d, int64_t n, int64_t h, int64_t first, int64_t count,
                  const real *from, const matrix *unit, const real *inverse)
{
    const ag_attention_rows r = rows_of(p, s, n, h, 0, 1);
    for (int64_t i = 0; i < count; i++)
        ag_attention_unit_grad(&p->j, &r, d, place(s, d, n, h, first + i), from + i * p->j.d,
                               unit ? ag_element(unit->p, unit->type, i * unit->row) : NULL, unit ? inverse[i] : 0);
}

/* c [n, m] (+)= a [n, k] b [k, m]; turned: a [k, n], b [m, k] */
static void product(const plan *p, int64_t n, int64_t m, int64_t k, matrix a, bool turn_a, matrix b, bool turn_b, matrix c,
                    bool add)
{
    const int64_t a_row = turn_a ? 1 : a.row, a_col = turn_a ? a.row : 1;
    if (p->near && !turn_b && k * m <= NEAR)        /* m: the width of a head */
        ag_near_run(&(ag_near){ n, m, k, a.p, b.p, c.p, a_row, a_col, b.row, c.row, add });
    else
        ag_gemm_run(&(ag_gemm){ .batch = 1, .n = n, .m = m, .k = k, .a = a.p, .a_row = a_row, .a_col = a_col, .b = b.p,
                                .b_row = turn_b ? 1 : b.row, .b_col = turn_b ? b.row : 1, .c = c.p, .c_row = c.row,
                                .a_type = a.type, .b_type = b.type, .c_type = c.type, .add = add });
}

/* to [count, S] = x y^T; turned: y^T, as turn left it */
static void products_with(const plan *p, int64_t count, matrix x, matrix y, const real *turned, real *to)
{
    const ag_attention_job *j = &p->j;
    if (p->near) ag_near_run(&(ag_near){ count, parts_of(j->s, AG_NEAR_LANES) * AG_NEAR_LANES, j->d, x.p, turned, to, x.row, 1,
                                         p->wide, p->wide, false });
    else product(p, count, j->s, j->d, x, false, y, true, (matrix){ to, p->wide, AG_F32 }, false);
}

static void turn(const plan *p, matrix y, real *turned)
{
    if (p->near) ag_near_transpose(p->j.s, p->j.d, y.p, y.row, turned, p->wide);
}

static matrix weights_in(const plan *p, real *products)         /* K2 */
{
    const int64_t row = p->wide * (int64_t)(sizeof(real) / ag_dtype_size(p->j.type));
    return (matrix){ products, row, p->j.type };
}

/* ---- forward ------------------------------------------------------------------------------------------- */

static void attend(const plan *p, const scratch *s, int64_t n, int64_t h, int64_t begin, int64_t end)
{
    const ag_attention_job *j = &p->j;
    const matrix k = load(p, s, &s->at.k, n, h, 0, j->s, s->k, s->k_inverse), v = rows_from(s, &s->at.v, n, h, 0);
    turn(p, k, s->k_turned);
    for (int64_t b = begin; b < end; b++) {
        const int64_t first = b * p->block, count = smaller(p->block, j->l - first);
        const matrix q = load(p, s, &s->at.q, n, h, first, count, s->q, s->q_inverse);
        products_with(p, count, q, k, s->k_turned, s->products);
        for (int64_t i = 0; i < count; i += p->rows) {
            const ag_attention_rows r = rows_of(p, s, n, h, first + i, count - i);
            ag_attention_weights(j, &r, s->products + i * p->wide);
        }
        product(p, count, j->d, j->s, weights_in(p, s->products), false, v, false, rows_from(s, &s->at.out, n, h, first), false);
    }
}

static void forward_units(int64_t begin, int64_t end, void *arg)
{
    const plan *p = arg;
    const int64_t groups = p->j.heads / p->group, blocks = parts_of(p->blocks, p->runs);
    scratch s;
    lay_out(p, p->memory + ag_thread_id() * p->bytes, &s);
    for (int64_t u = begin; u < end; u++) {
        const int64_t item = u / p->runs, n = item / groups, head = item % groups * p->group, first = u % p->runs * blocks;
        enter(p, &s, n, head);
        for (int64_t h = head; h < head + p->group; h++) attend(p, &s, n, h, first, smaller(first + blocks, p->blocks));
        leave(p, &s, n);
    }
}

static double cost(const plan *p)       /* of a unit's forward, in ns */
{
    const ag_attention_job *j = &p->j;
    return (double)(j->n * j->heads) / (double)p->units * (double)j->l * (double)j->s * (0.03 * (double)j->d + 0.5);
}

void ag_attention_run(const ag_node *n, const ag_attention_job *j)
{
    plan p = plan_of(j, false);
    p.memory = ag_workspace(n, ag_threads(), (size_t)p.bytes);
    ag_parallel(p.units, 1, cost(&p), forward_units, &p);
}

/* ---- backward ------------------------------------------------------------------------------------------ */

/* delta = sum of dout out = sum of w keep g over the keys */
static void find_delta(const plan *p, const scratch *s, int64_t n, int64_t h, int64_t first, int64_t count)
{
    const ag_heads *out = &s->at.out, *dout = &s->at.dout;
    const int64_t d = p->j.d;
    for (int64_t i = 0; i < count; i++) {
        const real *o = ag_widen(out->data, out->type, place(s, out, n, h, first + i), d, s->a);
        const real *g = ag_widen(dout->data, dout->type, place(s, dout, n, h, first + i), d, s->b);
        real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < d; c++) sum += o[c] * g[c];
        s->delta[i] = sum;
    }
}

/* One block of queries: what it adds to dk and dv, and its dq. */
static void block_back(const plan *p, const scratch *s, int64_t n, int64_t h, int64_t first, int64_t count, matrix k, matrix v,
                       matrix dk, bool add_k, matrix dv, bool add_v, real *dbias, real *dlogit_scale)
{
    const ag_attention_job *j = &p->j;
    const matrix q = load(p, s, &s->at.q, n, h, first, count, s->q, s->q_inverse), dout = rows_from(s, &s->at.dout, n, h, first);
    const matrix w = weights_in(p, s->products), dx = weights_in(p, s->dproducts);
    products_with(p, count, q, k, s->k_turned, s->products);
    products_with(p, count, dout, v, s->v_turned, s->dproducts);
    find_delta(p, s, n, h, first, count);
    for (int64_t i = 0; i < count; i += p->rows) {
        const ag_attention_rows r = rows_of(p, s, n, h, first + i, count - i);
        ag_attention_weights_grad(j, &r, s->delta + i, s->products + i * p->wide, s->dproducts + i * p->wide,
                                  dbias ? dbias + (first + i) * j->s : NULL, dlogit_scale);
    }
    if (dv.p) product(p, j->s, j->d, count, w, true, dout, false, dv, add_v);
    if (dk.p) product(p, j->s, j->d, count, dx, true, q, false, dk, add_k);
    if (!s->at.dq.data) return;
    const matrix dq = j->cosine ? (matrix){ s->dq, j->d, AG_F32 } : rows_from(s, &s->at.dq, n, h, first);
    product(p, count, j->d, j->s, dx, false, k, false, dq, !j->cosine && s->at.dq.add);
    if (j->cosine) store(p, s, &s->at.dq, n, h, first, count, s->dq, &q, s->q_inverse);
}

static void attend_back(const plan *p, const scratch *s, int64_t n, int64_t h, real *dbias, real *dlogit_scale)
{
    const ag_attention_job *j = &p->j;
    const ag_heads *to_k = &s->at.dk, *to_v = &s->at.dv;
    const bool k_apart = to_k->data && sums_apart(p, to_k, j->cosine), v_apart = to_v->data && sums_apart(p, to_v, false);
    const matrix k = load(p, s, &s->at.k, n, h, 0, j->s, s->k, s->k_inverse), v = rows_from(s, &s->at.v, n, h, 0);
    const matrix dk = k_apart ? (matrix){ s->dk, j->d, AG_F32 } : rows_from(s, to_k, n, h, 0);
    const matrix dv = v_apart ? (matrix){ s->dv, j->d, AG_F32 } : rows_from(s, to_v, n, h, 0);
    turn(p, k, s->k_turned);
    turn(p, v, s->v_turned);
    for (int64_t first = 0; first < j->l; first += p->block)
        block_back(p, s, n, h, first, smaller(p->block, j->l - first), k, v, dk, first || (to_k->add && !k_apart), dv,
                   first || (to_v->add && !v_apart), dbias, dlogit_scale);
    if (k_apart) store(p, s, to_k, n, h, 0, j->s, s->dk, j->cosine ? &k : NULL, s->k_inverse);
    if (v_apart) store(p, s, to_v, n, h, 0, j->s, s->dv, NULL, NULL);
}

/* Sums of a unit's heads start at zero, or with what is there. */
static void clear_sums(const plan *p, int64_t chunk, int64_t head)
{
    const ag_attention_job *j = &p->j;
    const int64_t square = j->l * j->s, count = j->dbias.heads == 1 ? 1 : p->group, first = j->dbias.heads == 1 ? 0 : head;
    if (p->dbias && (sums_partially(p) || !j->dbias.add))
        memset(p->dbias + (chunk * j->dbias.heads + first) * square, 0, (size_t)(count * square) * sizeof(real));
    for (int64_t h = head; h < head + p->group && p->dlogit_scale; h++) p->dlogit_scale[chunk * j->heads + h] = 0;
}

static void backward_units(int64_t begin, int64_t end, void *arg)
{
    const plan *p = arg;
    const ag_attention_job *j = &p->j;
    const int64_t groups = j->heads / p->group;
    scratch s;
    lay_out(p, p->memory + ag_thread_id() * p->bytes, &s);
    for (int64_t u = begin; u < end; u++) {
        const int64_t chunk = u / groups, head = u % groups * p->group;
        clear_sums(p, chunk, head);
        for (int64_t n = j->n * chunk / p->chunks; n < j->n * (chunk + 1) / p->chunks; n++) {
            enter(p, &s, n, head);
            for (int64_t h = head; h < head + p->group; h++)
                attend_back(p, &s, n, h, p->dbias ? p->dbias + (chunk * j->dbias.heads + h % j->dbias.heads) * j->l * j->s : NULL,
                            p->dlogit_scale ? p->dlogit_scale + chunk * j->heads + h : NULL);
            leave(p, &s, n);
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
    ag_parallel(p.units, 1, 2.5 * cost(&p), backward_units, &p);
    if (sums_partially(&p)) ag_parallel(bias_size(j), 256, (double)p.chunks, sum_partials, &p);
    for (int64_t h = 0; h < j->heads && j->dlogit_scale; h++) {
        real sum = j->add_logit_scale ? j->dlogit_scale[h] : 0;
        for (int64_t c = 0; c < p.chunks; c++) sum += p.dlogit_scale[c * j->heads + h];
        j->dlogit_scale[h] = sum;
    }
}
