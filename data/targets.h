/* data/targets.h - what is to be learned of each sample: one target or several side by side.
 *
 *     data_targets t = { .n = 2, .target = {
 *         { .name = "disease", .kind = DATA_TARGET_CATEGORY, .classes = 10, .column = 0, .columns = 1 },
 *         { .name = "variety", .kind = DATA_TARGET_CATEGORY, .classes = 10, .column = 1, .columns = 1 } } };
 *
 * They stand in y [N, columns] (y [N] for a single column): i64 where all are categories, else f32 with a category's index as
 * a number. A model has one output for all of them, [N, sum of classes], in the same order. */
#ifndef AG_DATA_TARGETS_H
#define AG_DATA_TARGETS_H
#include "data/data.h"
AG_BEGIN_DECLS

typedef enum { DATA_TARGET_CATEGORY, DATA_TARGET_MULTICATEGORY, DATA_TARGET_REGRESSION } data_target_kind;

enum { DATA_MAX_TARGETS = 8 };
typedef struct {
    const char *name;
    data_target_kind kind;
    data_vocab *vocab;          /* of its categories, counted from 0; NULL for numbers, or where they have no names */
    int64_t classes;            /* outputs of the model it wants */
    int64_t column, columns;    /* of y: where it begins, and how many: 1 for a category, else as many as classes */
} data_target;
typedef struct { int n; data_target target[DATA_MAX_TARGETS]; } data_targets;

AG_END_DECLS
#endif
