/* core/random.h - counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011). A number depends on
 * (key, counter) alone, so any number of threads gives the same bits and a state is three integers. */
#ifndef AG_RANDOM_H
#define AG_RANDOM_H
#include "core/base.h"
AG_BEGIN_DECLS

typedef struct { uint32_t v[4]; } ag_philox4;
ag_philox4 ag_philox(uint64_t key, uint64_t counter_hi, uint64_t counter_lo);
/* The words of the blocks counter_lo .. counter_lo + n, 4 n of them, in order: many at a time. */
void ag_philox_words(uint64_t key, uint64_t counter_hi, uint64_t counter_lo, int64_t n, uint32_t *words);
static inline double ag_uniform01(uint32_t hi, uint32_t lo)     /* [0, 1), 53 bits */
{
    return (double)((((uint64_t)hi << 32 | lo) >> 11)) * 0x1p-53;
}

/* A stream of numbers for sequential use (shuffles, initialisers). */
typedef struct { uint64_t seed, stream, next; } ag_rng;
uint64_t ag_rng_u64(ag_rng *r);
double ag_rng_uniform(ag_rng *r);                   /* [0, 1) */
double ag_rng_normal(ag_rng *r);                    /* N(0, 1), Box-Muller */
int64_t ag_rng_below(ag_rng *r, int64_t n);         /* 0 .. n-1, unbiased */
void ag_rng_shuffle(ag_rng *r, int64_t *v, int64_t n);   /* Fisher-Yates */

void ag_manual_seed(uint64_t seed);                 /* the default stream: weights, dropout (torch.manual_seed) */
ag_rng ag_rng_get(void);                            /* its state, for checkpoints and for lr_find */
void ag_rng_set(ag_rng state);
/* Mixed into what ag_rng_draw returns, 0 at first: ranks that train differ in it, so that they drop different things. Returns the
 * one before. */
uint64_t ag_rng_set_salt(uint64_t key);
uint64_t ag_rng_draw(void);                         /* a key for one random op: advances the default stream by one */

/* n normals or uniforms keyed by `key`: element i depends on (key, i) only. */
void ag_fill_normal(real *x, int64_t n, uint64_t key);
void ag_fill_uniform(real *x, int64_t n, uint64_t key);

AG_END_DECLS
#endif
