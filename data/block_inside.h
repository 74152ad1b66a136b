/* data/block_inside.h - between the reading of labels (labels.c) and the reading of pictures (image_set.c). */
#ifndef AG_DATA_BLOCK_INSIDE_H
#define AG_DATA_BLOCK_INSIDE_H
#include <pthread.h>
#include <stdatomic.h>
#include "data/block.h"

enum { DATA_NAMES_SHOWN = 5 };

/* Names for a message: the first five and how many. */
typedef struct { char text[640]; int64_t n; } data_offenders;
void ag_data_offend(data_offenders *o, const char *name);

struct data_source {
    const char *at;
    char *folder;                       /* NULL: names are whole paths */
    char **name;
    int64_t n;
    data_targets targets;
    int64_t columns;
    double *label;                      /* [n, columns] */
    data_transform item[DATA_MAX_TRANSFORMS];
    int items, kept;                    /* how many; how many of them are done once */
    data_augment augment;
    data_stats stats;
    int64_t height, width;              /* of the results; 0: of the first picture's items */
    _Atomic(data_image *) *cache;       /* [n], NULL without */
    atomic_llong room;                  /* bytes the cache may still take */
    pthread_mutex_t lock;               /* of what follows */
    uint8_t *bad;                       /* [n] */
    int64_t bad_count, most_bad;
    data_offenders offenders;
};

/* A source seen by a set: varied, as in training, or not. */
typedef struct { data_source *source; bool train; } data_view;

/* Labels of source->name from the table and the names, into targets, columns and label. */
void ag_data_read_labels(data_source *source, const data_images_opts *o);
/* Rows held out, from ag_alloc. */
int64_t *ag_data_held_out(const data_source *source, const data_images_opts *o, int64_t *n);
/* The set of all pictures. */
data_set *ag_data_image_set(data_source *source, bool train);

#endif
