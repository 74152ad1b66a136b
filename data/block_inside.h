/* data/block_inside.h - inside data/: the items of a block, and what is known of them. */
#ifndef AG_DATA_BLOCK_INSIDE_H
#define AG_DATA_BLOCK_INSIDE_H
#include <pthread.h>
#include <stdatomic.h>
#include "data/block.h"
#include "data/set.h"

enum { DATA_SHOWN = 5 };
typedef struct { data_images *of; bool train; } data_view;
typedef struct { _Atomic(uint8_t *) pixels; int32_t width, height; } data_kept;
typedef struct data_cache data_cache;

struct data_images {
    const char *at;
    int64_t n;                          /* items */
    int inputs;
    char **path;                        /* [n, inputs] */
    data_targets targets;
    int64_t columns;
    bool numbers;                       /* y is f32 */
    void *y;                            /* i64 or f32 [n, columns] */
    data_transform tfms[DATA_MAX_TRANSFORMS];
    int n_tfms, fixed;                  /* how many of the first ones draw nothing */
    data_augment augment;
    data_stats stats;
    int64_t item_width, item_height;    /* of the first item after its transforms; 0 where none was measured */
    int64_t width, height;              /* of the results, from the next epoch on */
    atomic_bool resized;                /* these are not what item transforms and augmentation make by themselves */
    data_view view[2];                  /* validation, training */
    data_kept *kept;                    /* [n, inputs], or NULL */
    int64_t most_kept;
    data_cache *cache;                  /* a mapped file, or NULL */
    int cached;                         /* transforms that its pictures went through */
    atomic_llong held;                  /* bytes kept */
    pthread_mutex_t lock;               /* of what follows */
    unsigned char *bad;                 /* [n, inputs]: named already */
    int64_t n_bad, most_bad;
    char *shown[DATA_SHOWN];
};

void ag_data_images_free(void *images);
/* The whole of the items as a set, in the innermost scope. */
data_set *ag_data_images_set(const char *at, data_images *m, bool train, bool with_targets);
data_images *ag_data_images_of(const data_set *set);        /* NULL: another kind of set */
/* One picture read and through the item transforms; false: bad, and why. lent: the pixels are the set's, to be read only. */
bool ag_data_images_item(data_images *m, int64_t i, uint64_t key, bool train, data_image *to, bool *lent, char why[DATA_WHY]);
/* Reads the first picture that can be read, to know the size. */
void ag_data_images_measure(data_images *m);
void ag_data_images_keep(data_images *m, const char *where, const char *source, const char *folder);
/* One picture read and through the first `end` transforms, which draw nothing. */
bool ag_data_images_fixed(const data_images *m, int64_t i, int end, data_image *to, char why[DATA_WHY]);

/* data/image_cache.c: opens, or makes, the file of these pictures, in the innermost scope. */
void ag_data_cache_open(data_images *m, const char *source, const char *folder);
/* A picture after m->cached transforms, lent; false: it has to be read. */
bool ag_data_cache_take(const data_images *m, int64_t i, data_image *to);

/* data/label.c */
const char *ag_data_label(const char *at, const data_getter *g, const char *path);      /* NULL: none */
/* 1 validation, 0 training, 2 left out, of each of n names; in the innermost scope. */
unsigned char *ag_data_divide(const char *at, const data_splitter *s, const char *const *name, int64_t n);
const char *ag_data_base_name(const char *path);
int ag_data_by_text(const void *a, const void *b);     /* of const char *, by bytes, for qsort and bsearch */
/* "a, b, c, d, e and 7 more" of those i with mark[i] == value; in the innermost scope. */
const char *ag_data_first_names(const char *const *name, const unsigned char *mark, int value, int64_t n);
#endif
