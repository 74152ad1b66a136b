/* data/gather.c - drawing samples: the permutation, and copying records into a batch. */
#include <math.h>
#include <string.h>
#include "core/random.h"
#include "data/set.h"

/* ---- the permutation ----------------------------------------------------------------------------------- */

enum { BLOCK = 256 };

data_permutation ag_data_permutation(int64_t n, uint64_t seed, uint64_t stream)
{
    data_permutation p = { .n = (uint64_t)n, .left = (uint32_t)sqrt((double)n) + 1 };
    p.right = (uint32_t)((p.n + p.left - 1) / p.left);
    for (int k = 0; k < 2; k++) {
        const ag_philox4 r = ag_philox(seed, stream, (uint64_t)k);
        memcpy(p.key + 4 * k, r.v, sizeof r.v);
    }
    return p;
}

/* 0 .. below-1 from x: two rounds of C. Wellons' "lowbias32", of whose bits the high ones count. */
static inline uint32_t hash_below(uint32_t x, uint32_t below)
{
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return (uint32_t)((uint64_t)x * below >> 32);
}

static inline uint32_t add_modulo(uint32_t a, uint32_t b, uint32_t m)
{
    return a + b >= m ? a + b - m : a + b;
}

/* Each round adds a hash of one half to the other. */
static inline void feistel(const data_permutation *p, uint32_t *left, uint32_t *right)
{
    uint32_t l = *left, r = *right;
    for (int k = 0; k < 8; k += 2) {
        l = add_modulo(l, hash_below(r + p->key[k], p->left), p->left);
        r = add_modulo(r, hash_below(l + p->key[k + 1], p->right), p->right);
    }
    *left = l;
    *right = r;
}

/* The digits of v .. v + m-1. */
static void split_digits(const data_permutation *p, uint64_t v, int m, uint32_t *l, uint32_t *r)
{
    const uint32_t right = p->right, first_l = (uint32_t)(v / right), first_r = (uint32_t)(v % right);
    for (int i = 0; i < m; i++) {
        const uint32_t x = first_r + (uint32_t)i, carry = right < BLOCK ? x / right : x >= right;
        l[i] = first_l + carry;
        r[i] = x - carry * right;
    }
}

void ag_data_permute(const data_permutation *perm, int64_t begin, int64_t n, int64_t *out)
{
    const data_permutation p = *perm;
    uint32_t l[BLOCK], r[BLOCK];
    for (int64_t done = 0; done < n; done += BLOCK) {
        const int m = n - done < BLOCK ? (int)(n - done) : BLOCK;
        split_digits(&p, (uint64_t)(begin + done), m, l, r);
        for (int i = 0; i < m; i++) feistel(&p, &l[i], &r[i]);
        uint64_t outside = 0;
        for (int i = 0; i < m; i++) {
            out[done + i] = (int64_t)((uint64_t)l[i] * p.right + r[i]);
            outside |= p.n - 1 - (uint64_t)out[done + i];
        }
        if (!(outside >> 63)) continue; /* left right is hardly more than n: one in sqrt(n) walks on */
        for (int i = 0; i < m; i++)
            while ((uint64_t)out[done + i] >= p.n) {
                feistel(&p, &l[i], &r[i]);
                out[done + i] = (int64_t)((uint64_t)l[i] * p.right + r[i]);
            }
    }
}

/* ---- records ------------------------------------------------------------------------------------------- */

static void gather_field(const data_field *f, const int64_t *index, int64_t n, void *to)
{
    const char *base = f->base;
    const int64_t stride = f->stride, count = f->count;
    if (f->narrow && count == 2) {
        int64_t *out = to;
        for (int64_t i = 0; i < n; i++) {
            const int32_t *v = (const int32_t *)(const void *)(base + index[i] * stride);
            out[2 * i] = v[0];
            out[2 * i + 1] = v[1];
        }
    } else if (f->narrow) {
        int64_t *out = to;
        for (int64_t i = 0; i < n; i++) {
            const int32_t *v = (const int32_t *)(const void *)(base + index[i] * stride);
            for (int64_t k = 0; k < count; k++) *out++ = v[k];
        }
    } else if (count == 1 && f->dtype == AG_F32) {
        real *out = to;
        for (int64_t i = 0; i < n; i++) out[i] = *(const real *)(const void *)(base + index[i] * stride);
    } else {
        const size_t size = (size_t)ag_data_field_bytes(f);
        char *out = to;
        for (int64_t i = 0; i < n; i++) memcpy(out + (size_t)i * size, base + index[i] * stride, size);
    }
}

static int64_t call_function(const data_set *s, int64_t *index, int64_t n, uint64_t key, const atomic_bool *stop, data_into to)
{
    const int64_t size_x = to.pack ? 0 : ag_data_field_bytes(&s->x), size_y = to.y ? ag_data_field_bytes(&s->y) : 0;
    char *x = to.x, *y = to.y;
    memset(x, 0, (size_t)(n * size_x));
    if (y) memset(y, 0, (size_t)(n * size_y));
    int64_t good = 0;
    for (int64_t i = 0; i < n && !(stop && atomic_load_explicit(stop, memory_order_relaxed)); i++) {
        const int64_t row = s->indirect ? ((const int64_t *)s->rows->data)[index[i]] : index[i];
        const ag_philox4 r = ag_philox(key, 1, (uint64_t)row);
        data_sample sample = { s->arg, row, (uint64_t)r.v[0] << 32 | r.v[1], x + good * size_x,
                               y ? y + good * size_y : NULL, s->x.shape, false };
        if (to.pack) s->pack(&sample, to.pack);
        else s->get(&sample);
        if (!sample.bad) {
            index[good++] = index[i];
            continue;
        }
        memset(sample.x, 0, (size_t)size_x);
        if (y) memset(sample.y, 0, (size_t)size_y);
        if (to.pack) ag_data_pack_cut(to.pack, good * s->pictures);
    }
    return good;
}

int64_t ag_data_gather(const data_set *s, int64_t *index, int64_t n, uint64_t key, const atomic_bool *stop, data_into to)
{
    const int64_t size_x = ag_data_field_bytes(&s->x), size_y = to.y ? ag_data_field_bytes(&s->y) : 0;
    const int64_t *rows = s->indirect ? s->rows->data : NULL;
    int64_t block[BLOCK];
    if (s->get) return call_function(s, index, n, key, stop, to);
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t m = n - i < BLOCK ? n - i : BLOCK, *at = index + i;
        if (rows) {
            for (int64_t k = 0; k < m; k++) block[k] = rows[index[i + k]];
            at = block;
        }
        char *out_x = (char *)to.x + i * size_x, *out_y = to.y ? (char *)to.y + i * size_y : NULL;
        /* The misses of a whole block are under way before the first is waited for. */
        for (int64_t k = 0; k < m; k++) __builtin_prefetch(s->x.base + at[k] * s->x.stride);
        gather_field(&s->x, at, m, out_x);
        if (out_y) gather_field(&s->y, at, m, out_y);
    }
    return n;
}
