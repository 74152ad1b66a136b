/* data/block.h - from a folder of photographs and their labels to batches: fastai's DataBlock.
 *
 *     data_table *t = data_csv("paddy/train.csv", .index = "image_id");
 *     data_block leaves = data_block_new(
 *         .blocks = { data_image_block(), data_category_block("disease"), data_category_block("variety") },
 *         .get_y = { data_parent_label(), data_column_label(t, "variety") },
 *         .splitter = data_random_splitter(0.2, 42),
 *         .item_tfms = { data_resize(192, .method = DATA_SQUISH) },
 *         .batch_tfms = data_aug_transforms(.size = 128, .min_scale = 0.75));
 *     data_loaders dls = data_block_loaders(&leaves, "paddy/train_images", .batch = 64, .workers = 2, .cache = "ram");
 *     DATA_EACH(b, dls.train) { ... b.x f32[64, 128, 128, 3]   b.y i64[64, 2] ... }
 *
 * The items are the pictures below the folder, sorted by the bytes of their names, so that a seed gives the same split
 * anywhere. A file that is no picture is left out of its batch: b.n is smaller, and b.row says which samples are there. */
#ifndef AG_DATA_BLOCK_H
#define AG_DATA_BLOCK_H
#include "data/targets.h"
#include "data/transform.h"
AG_BEGIN_DECLS

enum { DATA_MAX_BLOCKS = DATA_MAX_TARGETS };

/* ---- blocks ------------------------------------------------------------------------------------------------- */

typedef enum {
    DATA_NO_BLOCK, DATA_IMAGE_BLOCK, DATA_CATEGORY_BLOCK, DATA_MULTICATEGORY_BLOCK, DATA_REGRESSION_BLOCK
} data_block_kind;
/*   .vocab    categories in this order (of a checkpoint, say); default: the sorted labels of the training part
 *   .sep      between the tags of a multicategory, the numbers of a regression: " "
 *   .n        numbers of a regression: 1 */
typedef struct { AG_NAMED_OPTIONS; data_vocab *vocab; const char *sep; int64_t n; } data_part_opts;
typedef struct { data_block_kind kind; const char *name; data_part_opts opts; } data_part;
#define data_image_block() AG_LIT(data_part, .kind = DATA_IMAGE_BLOCK, .name = "image")
#define data_part_(kind_, ...) \
    AG_LIT(data_part, .kind = kind_, .name = AG_HEAD(__VA_ARGS__), .opts = AG_OPTS(data_part_opts, __VA_ARGS__))
#define data_category_block(...) data_part_(DATA_CATEGORY_BLOCK, __VA_ARGS__)               /* one label */
#define data_multicategory_block(...) data_part_(DATA_MULTICATEGORY_BLOCK, __VA_ARGS__)     /* any number: 0/1 each */
#define data_regression_block(...) data_part_(DATA_REGRESSION_BLOCK, __VA_ARGS__)           /* numbers */

/* ---- getters: what belongs to an item ----------------------------------------------------------------------- */

/* path: the item's file, below the source folder; the text must live as long as the innermost scope, or longer. NULL: none. */
typedef const char *(*data_get_text)(const char *path, void *arg);
typedef struct { data_get_text get; void *arg; const data_table *table; const char *text; } data_getter;
#define data_function_label(get_, arg_) AG_LIT(data_getter, .get = get_, .arg = arg_)
#define data_parent_label() AG_LIT(data_getter, .get = ag_data_parent_label)           /* "blast/1.jpg": "blast" */
#define data_grandparent_label() AG_LIT(data_getter, .get = ag_data_grandparent_label)
/* The cell of the row whose key (data_index_by, .index) is the path, the file's name, or that without its ending. */
#define data_column_label(table_, column) AG_LIT(data_getter, .table = table_, .text = column)
/* The first group of an extended regular expression (POSIX) on the file's name: "^(.*)_[0-9]+\\.jpg$". */
#define data_regex_label(pattern) AG_LIT(data_getter, .text = pattern)
const char *ag_data_parent_label(const char *path, void *unused);
const char *ag_data_grandparent_label(const char *path, void *unused);

/* ---- splitters ---------------------------------------------------------------------------------------------- */

typedef enum {
    DATA_SPLIT_RANDOM, DATA_SPLIT_INDEX, DATA_SPLIT_COLUMN, DATA_SPLIT_GRANDPARENT, DATA_SPLIT_FILE, DATA_SPLIT_LIST
} data_splitter_kind;
typedef struct {
    data_splitter_kind kind;
    double fraction;
    uint64_t seed;
    const int64_t *rows;
    int64_t n;
    const data_table *table;
    const char *text, *train;
} data_splitter;
/* Validation is: floor(fraction n) items of a permutation; the items listed; those whose cell of `column` is "1" or "True"
 * in any case; those below a folder `valid` (and training those below `train`; the rest is left out); those whose name, or
 * path, stands on a line of a text file, or in a column of a table. Default: data_random_splitter(0.2, 0). */
#define data_random_splitter(share, seed_) \
    AG_LIT(data_splitter, .kind = DATA_SPLIT_RANDOM, .fraction = share, .seed = seed_)
#define data_index_splitter(rows_, n_) AG_LIT(data_splitter, .kind = DATA_SPLIT_INDEX, .rows = rows_, .n = n_)
#define data_column_splitter(table_, column) \
    AG_LIT(data_splitter, .kind = DATA_SPLIT_COLUMN, .table = table_, .text = column)
#define data_grandparent_splitter(train_, valid) \
    AG_LIT(data_splitter, .kind = DATA_SPLIT_GRANDPARENT, .text = valid, .train = train_)
#define data_file_splitter(path) AG_LIT(data_splitter, .kind = DATA_SPLIT_FILE, .text = path)
#define data_list_splitter(table_, column) AG_LIT(data_splitter, .kind = DATA_SPLIT_LIST, .table = table_, .text = column)

/* ---- the block, and its loaders ----------------------------------------------------------------------------- */

/*   .blocks      inputs (images) first, then targets
 *   .n_inputs    default 1; of several pictures an item gives x [N, inputs, H, W, 3]
 *   .items       names of the items below the source, in this order, n_items of them; default: all pictures there
 *   .get_x       for each input its file below the source; default: the item
 *   .get_y       for each target its label; default: the parent folder
 *   .item_tfms   one after the other; without a resize all pictures must have one size
 *   .batch_tfms  data_aug_transforms(...), in training
 *   .normalize   mean and standard deviation of each channel; default: numbers 0 .. 1 */
typedef struct {
    AG_NAMED_OPTIONS;
    data_part blocks[DATA_MAX_BLOCKS];
    int n_inputs;
    const char *const *items;
    int64_t n_items;
    data_getter get_x[DATA_MAX_BLOCKS], get_y[DATA_MAX_BLOCKS];
    data_splitter splitter;
    data_transform item_tfms[DATA_MAX_TRANSFORMS];
    data_augment batch_tfms;
    data_stats normalize;
} data_block;
#define data_block_new(...) AG_OPTS0(data_block, __VA_ARGS__)

typedef struct data_images data_images;
typedef struct data_loaders { data_loader *train, *valid; data_targets targets; data_images *images; } data_loaders;
/*   .batch .valid_batch   64; the same
 *   .workers .prefetch .seed   as data_loader_new's
 *   .cache       "ram": pictures are kept as they are after the item transforms that draw no random numbers, in at most half
 *                of the memory that is free; the others are read again.
 *                "disk": they are prepared once in one file, by the data_resize's at the beginning that draw no random numbers.
 *                It is made anew when the source's pictures (path, size, time), these transforms or the decoder are others, and
 *                when it is damaged: the same bits as without it. It is as large as the pixels, 3 x height x width each
 *   .cache_folder   of that file; default: $AGRAD_CACHE, $XDG_CACHE_HOME/agrad or ~/.cache/agrad
 *   .max_bad     share of files that may be bad, default 0.01 (at least one may; negative: none): more of them end the
 *                epoch with an error that names the first five. Each is named once on stderr. */
typedef struct {
    AG_NAMED_OPTIONS;
    int64_t batch, valid_batch;
    int workers, prefetch;
    uint64_t seed;
    const char *cache, *cache_folder;
    double max_bad;
} data_loaders_opts;
/* Lists the items, labels and splits them; reads one picture to know the size. Labels that are missing, that are outside the
 * vocabulary or in validation alone are an error here that names the first five files and says how many. */
#define data_block_loaders(block, ...) ag_data_block_loaders_(AG_HERE, block, AG_HEAD(__VA_ARGS__), \
                                                              AG_OPTS(data_loaders_opts, __VA_ARGS__))
data_loaders ag_data_block_loaders_(const char *at, const data_block *block, const char *source, data_loaders_opts opts);
/* Walks the first picture through every step, and prints what comes out of each. (DataBlock.summary) */
#define data_summary(dls) ag_data_summary_(AG_HERE, dls)
void ag_data_summary_(const char *at, const data_loaders *dls);

/* fastai's ImageDataLoaders.from_folder and from_csv on top. What is not given is as in data_block and data_loaders_opts.
 *   .item_tfms .batch_tfms .normalize, .loaders = { .batch = ... }
 *   .valid_pct .split_seed      share and seed of a random split: 0.2, 42
 *   .train .valid               names of folders: where both are below dir, they are the split ("train", "valid")
 *   .file .labels               columns of the table: "image_id", and the targets "label,variety"; default "label"
 *   .vocab                      of each target
 *   .split                      another splitter */
typedef struct {
    AG_NAMED_OPTIONS;
    data_transform item_tfms[DATA_MAX_TRANSFORMS];
    data_augment batch_tfms;
    data_stats normalize;
    data_loaders_opts loaders;
    double valid_pct;
    uint64_t split_seed;
    const char *train, *valid, *file, *labels;
    data_vocab *vocab[DATA_MAX_TARGETS];
    const data_splitter *split;
} data_folder_opts;
/* Class folders: dir/blast/1.jpg; or dir/train/blast/1.jpg and dir/valid/blast/2.jpg. */
#define data_image_folder(...) ag_data_image_folder_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(data_folder_opts, __VA_ARGS__))
data_loaders ag_data_image_folder_(const char *at, const char *dir, data_folder_opts opts);
/* The rows of a table. A file is named by its path below dir, by an absolute one, or by its name, with or without the ending,
 * anywhere below dir; of several of one name the one in the folder of the row's label, then the one in train_images. Rows
 * without a file, or with several, are an error; files without a row are left out and named on stderr. csv: a path. */
#define data_from_csv(dir, ...) \
    ag_data_from_csv_(AG_HERE, dir, AG_HEAD(__VA_ARGS__), AG_OPTS(data_folder_opts, __VA_ARGS__))
data_loaders ag_data_from_csv_(const char *at, const char *dir, const char *csv, data_folder_opts opts);

/* ---- afterwards --------------------------------------------------------------------------------------------- */

/* The targets of a set of a block; none for other sets. */
#define data_targets_of ag_data_targets_of
data_targets ag_data_targets_of(const data_set *set);
/* The file of a sample; NULL for a set that is not a block's. */
#define data_item_path ag_data_item_path
const char *ag_data_item_path(const data_set *set, int64_t row);
/* The same samples with (on) or without the random part of training's transforms. */
#define data_set_varied(set, on) ag_data_set_varied_(AG_HERE, set, on)
data_set *ag_data_set_varied_(const char *at, const data_set *set, bool on) AG_PURE;
/* Size of the results from the next epoch of each loader on, of all sets of these pictures. (progressive sizes) */
#define data_image_size(dls, height, width) ag_data_image_size_(AG_HERE, dls, height, width)
void ag_data_image_size_(const char *at, const data_loaders *dls, int64_t height, int64_t width);
/* Files as validation sees them, without targets, in the order given. (fastai's test_dl) */
#define data_test_loader(dls, paths, n) ag_data_test_loader_(AG_HERE, dls, paths, n)
data_loader *ag_data_test_loader_(const char *at, const data_loaders *dls, const char *const *paths, int64_t n) AG_PURE;
/* Normalises by these from now on, where .normalize was not given. Before the first epoch. */
#define data_normalize_default ag_data_normalize_default
void ag_data_normalize_default(const data_loaders *dls, data_stats stats);
/* The same without loaders to be like: of the options .item_tfms, .batch_tfms (its .size), .normalize and .loaders' .batch
 * and .workers count. varied: with training's transforms. */
#define data_pictures(paths, n, varied, ...) \
    ag_data_pictures_(AG_HERE, paths, n, varied, AG_OPTS0(data_folder_opts, __VA_ARGS__))
data_loader *ag_data_pictures_(const char *at, const char *const *paths, int64_t n, bool varied, data_folder_opts opts) AG_PURE;
/* What a sample is of target k: its class, or its (first) number. */
#define data_item_target ag_data_item_target
double ag_data_item_target(const data_set *set, int64_t row, int k);
/* How many files turned out bad so far. */
#define data_bad_files ag_data_bad_files
int64_t ag_data_bad_files(const data_set *set);

/* The pictures below a folder by their endings (.jpg .jpeg .png .bmp .gif in any case), sorted by bytes, with "/" between;
 * a folder that is reached twice through links counts once. In the innermost scope. Fails where the folder cannot be read. */
typedef struct { int64_t n; const char *const *name; } data_files;
#define data_image_files(dir) ag_data_image_files_(AG_HERE, dir)
data_files ag_data_image_files_(const char *at, const char *dir);

AG_END_DECLS
#endif
