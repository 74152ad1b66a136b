/* data/gather.c - drawing samples: the permutation, and copying records into a batch. */
#include <string.h>
#include "core/random.h"
#include "data/set.h"

/* ---- the permutation --------------------------------------------------------------------------------------------------------- */

enum { ROUNDS = 8, BLOCK = 256 };

data_permutation ag_data_permutation(int64_t n, uint64_t seed, uint64_t stream)
{
    data_permutation p = { .n = (uint64_t)n };
    int bits = 2;
    while (bits < 63 && (UINT64_C(1) << bits) < p.n) bits++;
    p.left = bits / 2;
    p.right = bits - p.left;
    for (int k = 0; k < ROUNDS; k += 4) {
        const ag_philox4 r = ag_philox(seed, stream, (uint64_t)k);
        memcpy(p.key + k, r.v, sizeof r.v);
    }
    return p;
}

static inline uint32_t mix(uint32_t x)          /* "lowbias32" of C. Wellons' hash prospector */
{
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

/* Halves of `left` and `right` bits; each round replaces one half by its xor with a hash of the other. */
static inline void feistel(const data_permutation *p, uint32_t *left, uint32_t *right)
{
    const uint32_t ml = (uint32_t)((UINT64_C(1) << p->left) - 1), mr = (uint32_t)((UINT64_C(1) << p->right) - 1);
    uint32_t l = *left, r = *right;
    for (int k = 0; k < ROUNDS; k += 2) {
        l ^= mix(r ^ p->key[k]) & ml;
        r ^= mix(l ^ p->key[k + 1]) & mr;
    }
    *left = l;
    *right = r;
}

void ag_data_permute(const data_permutation *perm, int64_t begin, int64_t n, int64_t *out)
{
    const data_permutation p = *perm;
    const uint64_t mr = (UINT64_C(1) << p.right) - 1;
    for (int64_t done = 0; done < n; done += BLOCK) {
        const int m = n - done < BLOCK ? (int)(n - done) : BLOCK;
        uint32_t l[BLOCK], r[BLOCK];
        for (int i = 0; i < m; i++) {
            const uint64_t v = (uint64_t)(begin + done + i);
            l[i] = (uint32_t)(v >> p.right);
            r[i] = (uint32_t)(v & mr);
        }
        for (int i = 0; i < m; i++) feistel(&p, &l[i], &r[i]);
        for (int i = 0; i < m; i++) {
            uint64_t v = (uint64_t)l[i] << p.right | r[i];
            while (v >= p.n) {
                feistel(&p, &l[i], &r[i]);
                v = (uint64_t)l[i] << p.right | r[i];
            }
            out[done + i] = (int64_t)v;
        }
    }
}

/* ---- records ---------------------------------------------------------------------------------------------------------------------- */

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

static void call_function(const data_set *s, const int64_t *index, int64_t n, uint64_t key, char *x, char *y)
{
    const int64_t size_x = ag_data_field_bytes(&s->x), size_y = s->has_y ? ag_data_field_bytes(&s->y) : 0;
    memset(x, 0, (size_t)(n * size_x));
    if (y) memset(y, 0, (size_t)(n * size_y));
    for (int64_t i = 0; i < n; i++) {
        const ag_philox4 r = ag_philox(key, 1, (uint64_t)index[i]);
        data_sample sample = { s->arg, index[i], (uint64_t)r.v[0] << 32 | r.v[1], x + i * size_x, y ? y + i * size_y : NULL };
        s->get(&sample);
    }
}

void ag_data_gather(const data_set *s, const int64_t *index, int64_t n, uint64_t key, void *x, void *y)
{
    const int64_t size_x = ag_data_field_bytes(&s->x), size_y = s->has_y ? ag_data_field_bytes(&s->y) : 0;
    const int64_t *rows = s->indirect ? s->rows->data : NULL;
    int64_t block[BLOCK];
    for (int64_t i = 0; i < n; i += BLOCK) {
        const int64_t m = n - i < BLOCK ? n - i : BLOCK, *at = index + i;
        if (rows) {
            for (int64_t k = 0; k < m; k++) block[k] = rows[index[i + k]];
            at = block;
        }
        char *out_x = (char *)x + i * size_x, *out_y = y ? (char *)y + i * size_y : NULL;
        if (s->get) { call_function(s, at, m, key, out_x, out_y); continue; }
        /* The misses of a whole block are under way before the first is waited for. */
        for (int64_t k = 0; k < m; k++) __builtin_prefetch(s->x.base + at[k] * s->x.stride);
        gather_field(&s->x, at, m, out_x);
        if (y) gather_field(&s->y, at, m, out_y);
    }
}
