/* data/block.h - from a folder of photographs, and a table, to batches. (fastai's DataBlock and ImageDataLoaders)
 *
 *     data_loaders dls = data_images("paddy",
 *         .table = "paddy/train.csv", .key = "image_id",
 *         .labels = { { "disease", .column = "label" }, { "variety", .column = "variety" } },
 *         .item_tfms = { data_resize(192, .method = DATA_SQUISH) },
 *         .batch_tfms = data_aug_transforms(.size = 128, .min_scale = 0.75));
 *     DATA_EACH(b, dls.train) { ... b.x f32 [64, 128, 128, 3]   b.y i64 [64, 2] ... }
 *
 * A sample is read (a JPEG no larger than the first transform needs), goes through the item transforms, is kept in memory as
 * long as nothing random has happened to it and there is room, is augmented anew in each epoch, normalised, and written into
 * the batch: the same bits for any number of workers, and after a resume. */
#ifndef AG_DATA_BLOCK_H
#define AG_DATA_BLOCK_H
#include "data/targets.h"
#include "data/transform.h"
AG_BEGIN_DECLS

/* Where a label comes from: a column of the table, found by the picture's name; or a function of the picture's path below the
 * folder (NULL: it has none); neither: the name of the folder it lies in (parent_label).
 *   .kind  DATA_TARGET_CATEGORY: one of the different values that occur, sorted; DATA_TARGET_REGRESSION: a number;
 *          DATA_TARGET_MULTICATEGORY: any of some words, separated by blanks */
typedef const char *(*data_label_fn)(const char *path, void *arg);
typedef struct { const char *name, *column; data_label_fn get; void *arg; data_target_kind kind; } data_label;

/*   .table .key       CSV with a row for each picture, and its column with their file names (default "image_id")
 *   .labels           default: the folder it lies in, called "label"
 *   .valid .seed      share held out (0.2), drawn by the seed. A folder with "train" and "valid" in it is split by these;
 *   .valid_table      or: the pictures that a CSV names in its .key column
 *   .item_tfms        the first ones, up to a random one, are done once where memory is enough
 *   .batch_tfms       augmentation of the training pictures, and its .size
 *   .stats            default: 0 to 1 as they are
 *   .batch 64, or all where there are fewer   .valid_batch  default: twice .batch    .workers 0    .prefetch 2 per worker
 *   .no_cache         reads every picture in every epoch
 *   .max_bad          share of pictures that may be broken (0.01, and at least one): these are left out of their batches and
 *                     named once on stderr; more end the program with the first five names and the count
 * Fails, with the first five names and the count, on: no pictures, pictures without a row or a label, rows without a picture, two
 * rows or two pictures of one name, labels that are no numbers, classes that occur in validation only. */
typedef struct {
    AG_NAMED_OPTIONS;
    const char *table, *key, *valid_table;
    data_label labels[DATA_MAX_TARGETS];
    double valid, max_bad;
    uint64_t seed;
    data_transform item_tfms[DATA_MAX_TRANSFORMS];
    data_augment batch_tfms;
    data_stats stats;
    int64_t batch, valid_batch;
    int workers, prefetch;
    bool no_cache;
} data_images_opts;

typedef struct data_source data_source;
typedef struct { data_loader *train, *valid; data_source *source; data_targets targets; } data_loaders;
#define data_images(...) ag_data_images_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(data_images_opts, __VA_ARGS__))
data_loaders ag_data_images_(const char *at, const char *folder, data_images_opts opts);

/* A loader of pictures without labels, as in validation: their paths as they are given. (fastai's test_dl) Of the options
 * .item_tfms, .batch_tfms (its .size), .stats, .batch, .workers and .max_bad count. */
#define data_images_of(paths, n, ...) \
    ag_data_images_of_(AG_HERE, paths, AG_HEAD(n, __VA_ARGS__), AG_OPTS0(data_images_opts, __VA_ARGS__))
data_loader *ag_data_images_of_(const char *at, const char *const *paths, int64_t n, data_images_opts opts) AG_PURE;

/* The same samples as another loader of pictures has, in order, varied as in training, in each epoch anew: for test-time
 * augmentation. */
#define data_varied(loader) ag_data_varied_(AG_HERE, loader)
data_loader *ag_data_varied_(const char *at, data_loader *loader) AG_PURE;

/* By which pictures are normalised from now on. */
#define data_set_stats(dls, stats) ag_data_set_stats((dls)->source, stats)
void ag_data_set_stats(data_source *source, data_stats stats);

/* The file of a sample: a row of the set, as data_batch.row counts. And its picture before the augmentation (item transforms
 * as in validation): free with data_image_free; false with a reason. */
#define data_image_path ag_data_image_path
const char *ag_data_image_path(const data_set *set, int64_t row);
#define data_image_item ag_data_image_item
bool ag_data_image_item(const data_set *set, int64_t row, data_image *image, char why[DATA_WHY]);
/* What it is of target t: the class, or the number. */
#define data_image_label ag_data_image_label
double ag_data_image_label(const data_set *set, int64_t row, int target);
/* How many broken pictures were met so far. */
#define data_bad_count(dls) ag_data_bad_count((dls)->source)
int64_t ag_data_bad_count(const data_source *source);

/* Walks one picture through every step, and prints what comes out of each. (fastai's DataBlock.summary) */
#define data_summary(dls) ag_data_summary_(AG_HERE, dls)
void ag_data_summary_(const char *at, const data_loaders *dls);

AG_END_DECLS
#endif
