/* data/set.h - inside data/: samples in memory, and drawing them in any order. */
#ifndef AG_DATA_SET_H
#define AG_DATA_SET_H
#include <stdatomic.h>
#include "data/packed.h"
#include "data/table.h"

/* One side of the samples: `count` elements each, sample i at base + i stride; int32 in memory is i64
 * outside. */
typedef struct {
    ag_dtype dtype;
    ag_shape shape;             /* of one sample */
    int64_t count;
    bool narrow;                /* stored as int32 */
    const char *base;
    int64_t stride;             /* bytes */
} data_field;

struct data_set {
    int64_t n;
    data_field x, y;
    bool has_y;
    data_buffer *rows;          /* int64: the source's row of each sample; NULL: i */
    bool indirect;              /* samples lie at base + rows[i] stride, not at base + i stride */
    data_buffer *store;
    ag_tensor *tensor[2];
    data_get_fn get;
    void *arg;
    /* Pictures may leave as bytes for a device (data/packed.h), `pictures` of each sample, about as large as is said here; pack
     * puts them behind those that are there. NULL: x comes as numbers. */
    void (*pack)(data_sample *s, data_pack *p);
    int64_t pictures, picture_width, picture_height;
    void (*refresh)(data_set *s);       /* a loader's copy before an epoch: x may have another size now; NULL: never */
};

void ag_data_set_drop(void *set);                /* for ag_defer */
data_set *ag_data_subset_make(const char *at, const data_set *set, const int64_t *rows,
                              int64_t n);               /* the caller's */
int64_t ag_data_field_bytes(const data_field *f);       /* of one sample outside */
/* Writes the samples index[0 .. n-1] to x (pack: there instead) and y (NULL: not); bad ones are left out, of index as well.
 * Returns how many there are. Stops, with what there is, when *stop becomes true (NULL: never). */
typedef struct { void *x, *y; data_pack *pack; } data_into;
int64_t ag_data_gather(const data_set *s, int64_t *index, int64_t n, uint64_t key, const atomic_bool *stop, data_into into);

/* A bijection of 0 .. n-1 computed element by element: a Feistel network of 8 rounds on the two digits of i
 * in a mixed radix left x right >= n, walked until it lands inside (Black and Rogaway 2002). A function of
 * (n, seed, stream) alone. */
typedef struct { uint64_t n; uint32_t left, right, key[8]; } data_permutation;
data_permutation ag_data_permutation(int64_t n, uint64_t seed, uint64_t stream);
void ag_data_permute(const data_permutation *p, int64_t begin, int64_t n,
                     int64_t *out); /* of begin .. begin+n-1 */
#endif
