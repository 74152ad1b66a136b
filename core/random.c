#include "core/philox.h"
#include <math.h>
#include "core/thread.h"

ag_philox4 ag_philox(uint64_t key, uint64_t counter_hi, uint64_t counter_lo)
{
    return ag_philox_block(key, counter_hi, counter_lo);
}

enum { LANES = 64 };

static void philox_lanes(uint64_t key, uint64_t counter_hi, uint64_t counter_lo, uint32_t *words)
{
    uint32_t c0[LANES], c1[LANES], c2[LANES], c3[LANES], k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int i = 0; i < LANES; i++) {
        c0[i] = (uint32_t)(counter_lo + (uint64_t)i), c1[i] = (uint32_t)((counter_lo + (uint64_t)i) >> 32);
        c2[i] = (uint32_t)counter_hi, c3[i] = (uint32_t)(counter_hi >> 32);
    }
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
        for (int i = 0; i < LANES; i++) {
            const uint64_t p0 = (uint64_t)0xD2511F53u * c0[i], p1 = (uint64_t)0xCD9E8D57u * c2[i];
            const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
            c1[i] = (uint32_t)p1, c3[i] = (uint32_t)p0, c0[i] = n0, c2[i] = n2;
        }
    for (int i = 0; i < LANES; i++)
        words[4 * i] = c0[i], words[4 * i + 1] = c1[i], words[4 * i + 2] = c2[i], words[4 * i + 3] = c3[i];
}

void ag_philox_words(uint64_t key, uint64_t counter_hi, uint64_t counter_lo, int64_t n, uint32_t *words)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) philox_lanes(key, counter_hi, counter_lo + (uint64_t)i, words + 4 * i);
    for (; i < n; i++) {
        const ag_philox4 p = ag_philox(key, counter_hi, counter_lo + (uint64_t)i);
        for (int k = 0; k < 4; k++) words[4 * i + k] = p.v[k];
    }
}

uint64_t ag_rng_u64(ag_rng *r)
{
    const ag_philox4 p = ag_philox(r->seed, r->stream, r->next++);
    return (uint64_t)p.v[0] << 32 | p.v[1];
}

double ag_rng_uniform(ag_rng *r)
{
    const uint64_t u = ag_rng_u64(r);
    return ag_uniform01((uint32_t)(u >> 32), (uint32_t)u);
}

/* Box-Muller on (0, 1] x [0, 1). */
static void normal_pair(double u, double v, double *a, double *b)
{
    const double radius = sqrt(-2 * log(1 - u)), angle = 6.283185307179586476925 * v;
    *a = radius * cos(angle), *b = radius * sin(angle);
}

double ag_rng_normal(ag_rng *r)
{
    const ag_philox4 p = ag_philox(r->seed, r->stream, r->next++);
    double a, b;
    normal_pair(ag_uniform01(p.v[0], p.v[1]), ag_uniform01(p.v[2], p.v[3]), &a, &b);
    return a;
}

int64_t ag_rng_below(ag_rng *r, int64_t n)
{
    const uint64_t range = (uint64_t)n, rest = -range % range;      /* 2^64 mod n */
    uint64_t u;
    do u = ag_rng_u64(r);
    while (u < rest);
    return (int64_t)(u % range);
}

void ag_rng_shuffle(ag_rng *r, int64_t *v, int64_t n)
{
    for (int64_t i = n - 1; i > 0; i--) {
        const int64_t j = ag_rng_below(r, i + 1), t = v[i];
        v[i] = v[j], v[j] = t;
    }
}

static _Thread_local ag_rng ambient;
static _Thread_local uint64_t salt;

void ag_manual_seed(uint64_t seed)
{
    ambient = (ag_rng){ .seed = seed };
}

ag_rng ag_rng_get(void)
{
    return ambient;
}

void ag_rng_set(ag_rng state)
{
    ambient = state;
}

uint64_t ag_rng_draw(void)
{
    return ag_rng_u64(&ambient) ^ salt;
}

uint64_t ag_rng_set_salt(uint64_t key)
{
    const uint64_t before = salt;
    salt = key;
    return before;
}

typedef struct { real *x; int64_t n; uint64_t key; } fill_job;

static void fill_normal(int64_t begin, int64_t end, void *arg)      /* pairs */
{
    fill_job *j = arg;
    for (int64_t i = begin; i < end; i++) {
        const ag_philox4 p = ag_philox(j->key, 1, (uint64_t)i);
        double a, b;
        normal_pair(ag_uniform01(p.v[0], p.v[1]), ag_uniform01(p.v[2], p.v[3]), &a, &b);
        j->x[2 * i] = (real)a;
        if (2 * i + 1 < j->n) j->x[2 * i + 1] = (real)b;
    }
}

static void fill_uniform(int64_t begin, int64_t end, void *arg)
{
    fill_job *j = arg;
    for (int64_t i = begin; i < end; i++) {
        const ag_philox4 p = ag_philox(j->key, 2, (uint64_t)i);
        const int64_t left = j->n - 4 * i;
        for (int64_t k = 0; k < 4 && k < left; k++)     /* 24 bits: below 1 also as a float */
            j->x[4 * i + k] = (real)((double)(p.v[k] >> 8) * 0x1p-24);
    }
}

void ag_fill_normal(real *x, int64_t n, uint64_t key)
{
    ag_parallel((n + 1) / 2, 256, 40, fill_normal, &(fill_job){ x, n, key });
}

void ag_fill_uniform(real *x, int64_t n, uint64_t key)
{
    ag_parallel((n + 3) / 4, 256, 20, fill_uniform, &(fill_job){ x, n, key });
}
