/* data/transform.h - photographs of any size made equal, varied, and turned into numbers.
 *
 *     .item_tfms = { data_resize(192, .method = DATA_SQUISH) },
 *     .batch_tfms = data_aug_transforms(.size = 128, .min_scale = 0.75)
 *
 * Item transforms change pixels (u8). The augmentation of a sample is drawn anew in each epoch: its maps are composed into
 * one and interpolated once, its colour changes into one step, and the normalised numbers go straight into the batch. The
 * geometry, the ranges and the probabilities are fastai's (vision/augment.py). */
#ifndef AG_DATA_TRANSFORM_H
#define AG_DATA_TRANSFORM_H
#include "data/image.h"
AG_BEGIN_DECLS

/* ---- chance ---------------------------------------------------------------------------------------------- */

/* The random numbers of one transform of one sample: a function of (key, number of the transform) alone, so that a draw more
 * in one transform changes no other. train false, as in validation: no chance happens, and ranges give their middle. */
typedef struct { uint64_t key, next; bool train; } data_random;
#define data_random_of ag_data_random_of
#define data_uniform ag_data_uniform
#define data_chance ag_data_chance
#define data_below ag_data_below
data_random ag_data_random_of(uint64_t key, int transform, bool train);
double ag_data_uniform(data_random *r, double lo, double hi);       /* [lo, hi) */
bool ag_data_chance(data_random *r, double p);
int64_t ag_data_below(data_random *r, int64_t n);                   /* 0 .. n - 1; in validation (n - 1) / 2 */

/* ---- item transforms ----------------------------------------------------------------------------------------- */

/* What happens to one picture. A user's own is a function and a name:
 *
 *     static void red_only(const data_transform *t, data_image *image, data_random *r)
 *     {
 *         for (int64_t i = 0; i < image->width * image->height; i++) image->pixels[3 * i + 1] = image->pixels[3 * i + 2] = 0;
 *     }
 *     .item_tfms = { data_resize(192), { .name = "red_only", .apply = red_only } }
 *
 * apply may put other pixels in place (ag_alloc) of the old (ag_free). It runs in the loader's threads. */
typedef struct { double x0, y0, x1, y1; } data_box;         /* x0 <= x < x1, y0 <= y < y1, in a picture's pixels */
typedef struct data_transform data_transform;
struct data_transform {
    const char *name;
    void (*apply)(const data_transform *t, data_image *image, data_random *r);
    bool random;                /* draws numbers in training: what follows cannot be kept from epoch to epoch */
    /* The size to which an image of width x height may be reduced beforehand without loss, in place; NULL: none. */
    void (*needs)(const data_transform *t, int64_t *width, int64_t *height);
    /* The box of an image of width x height that becomes the result, as apply would draw it; false, and NULL: apply does more
     * than ag_data_resize_box. With it a photograph is made smaller while it is decoded. */
    bool (*box)(const data_transform *t, int64_t width, int64_t height, data_random *r, data_box *box);
    int64_t width, height;      /* these are the transform's own */
    int method, pad;
    double number[8];
    void *arg;
};
enum { DATA_MAX_TRANSFORMS = 8 };
bool ag_data_transform_is_own(const data_transform *t);      /* data_resize's, data_random_resized_crop's */

typedef enum { DATA_CROP, DATA_SQUISH, DATA_PAD } data_resize_method;
typedef enum { DATA_REFLECTION, DATA_ZEROS, DATA_BORDER } data_pad_mode;

/* To `size` x `size` pixels, or `size` high and .width wide (fastai's Resize). Antialiased as Pillow's BILINEAR.
 *   .method  DATA_CROP (default): the largest part of the target's shape; anywhere in training, the middle in validation
 *            DATA_SQUISH: all of it, whatever its shape
 *            DATA_PAD: all of it in its own shape, and around it
 *   .pad     what is around: DATA_REFLECTION (default), DATA_ZEROS, DATA_BORDER
 * Fails on a size below 1 or above 16,384. */
typedef struct { AG_NAMED_OPTIONS; data_resize_method method; data_pad_mode pad; int64_t width; } data_resize_opts;
#define data_resize(...) ag_data_resize_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(data_resize_opts, __VA_ARGS__))
data_transform ag_data_resize_(const char *at, int64_t size, data_resize_opts opts);

/* A random part of the picture, made `size` x `size` (or .width wide). In validation the middle of all of it.
 * (fastai's RandomResizedCrop; Szegedy et al. 2015)
 *   .min_scale, .max_scale    share of the area, default 0.08 and 1
 *   .ratio                    width / height of the part, default 3/4 to 4/3
 *   .val_xtra                 share of the size cut off in validation, default 0.14 */
typedef struct { AG_NAMED_OPTIONS; double min_scale, max_scale, ratio[2], val_xtra; int64_t width; } data_crop_opts;
#define data_random_resized_crop(...) \
    ag_data_random_resized_crop_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(data_crop_opts, __VA_ARGS__))
data_transform ag_data_random_resized_crop_(const char *at, int64_t size, data_crop_opts opts);

/* A box of a picture to width x height: a triangle as wide as the step between two results, at least 2 pixels (Pillow's
 * BILINEAR). Pixels that the box does not touch have no part. to: new pixels. */
void ag_data_resize_box(const data_image *from, data_box box, int64_t width, int64_t height, data_image *to);

/* Prepares a folder once: each picture below `dir` goes, with its longer side reduced to `size` pixels, to the same place
 * below `to`, so that an epoch reads less (fastai's resize_images). Smaller ones are copied; BMP and GIF become NAME.png. What
 * is no picture is left out and named on stderr. Files are written whole or not at all. Returns how many were written.
 *   .shorter   the shorter side becomes `size`: room for crops
 *   .resume    leaves alone what is there already
 *   .quality   of JPEGs, default 90;   .workers  threads, default ag_threads()
 * Fails where dir holds no pictures, is `to`, or to cannot be written. */
typedef struct { AG_NAMED_OPTIONS; bool shorter, resume; int quality, workers; } data_resize_images_opts;
#define data_resize_images(dir, to, ...) ag_data_resize_images_(AG_HERE, dir, to, AG_HEAD(__VA_ARGS__), \
                                                                AG_OPTS(data_resize_images_opts, __VA_ARGS__))
int64_t ag_data_resize_images_(const char *at, const char *dir, const char *to, int64_t size, data_resize_images_opts opts);

/* ---- augmentation -------------------------------------------------------------------------------------------- */

/* (x - mean) / std of each channel, x in 0 .. 1. std 0: as they are. */
typedef struct { float mean[3], std[3]; } data_stats;
#define DATA_IMAGENET_STATS AG_LIT(data_stats, { 0.485f, 0.456f, 0.406f }, { 0.229f, 0.224f, 0.225f })

/* fastai's aug_transforms, of each sample, in training. What is not given, or 0, has the default; a negative number is 0.
 *   .mult            multiplies max_rotate, max_lighting, max_warp; 1
 *   .no_flip         without it, a left-right flip of every second picture
 *   .flip_vert       any of the eight flips and quarter turns instead, of every second picture
 *   .max_rotate      degrees either way; 10
 *   .min_zoom .max_zoom   1 and 1.1, about a random centre
 *   .max_warp        perspective: corners move by up to this share of half the picture; 0.2
 *   .max_lighting    brightness and contrast; 0.2
 *   .p_affine .p_lighting   probability of each of these; 0.75
 *   .saturation      fastai's Saturation(max_lighting): off;   .hue  fastai's Hue(max_hue): off
 *   .size .width     of the result: size x size, or size high and .width wide; the item's
 *   .min_scale       with .size: random resized crops (fastai's RandomResizedCropGPU): squares of this share of the area up
 *                    to all of it, in validation the middle square; 1: none
 *   .pad             what lies outside of the picture: DATA_REFLECTION
 *   .own .own_arg    a function of the user's on the normalised numbers, [height, width, 3], last:
 *                        static void noise(float *x, int64_t height, int64_t width, data_random *r, void *arg) { ... } */
typedef void (*data_own_fn)(float *x, int64_t height, int64_t width, data_random *r, void *arg);
typedef struct {
    AG_NAMED_OPTIONS;
    double mult, max_rotate, min_zoom, max_zoom, max_warp, max_lighting, p_affine, p_lighting, saturation, hue;
    int64_t size, width;
    double min_scale;
    bool no_flip, flip_vert;
    data_pad_mode pad;
    data_own_fn own;
    void *own_arg;
    bool on;                    /* set by data_aug_transforms: defaults are filled in */
} data_augment;
#define data_aug_transforms(...) ag_data_aug_transforms_(AG_HERE, AG_OPTS0(data_augment, __VA_ARGS__))
data_augment ag_data_aug_transforms_(const char *at, data_augment opts);

/* The size of the results for items of this size, in place. a NULL or without .size: theirs. */
void ag_data_augment_size(const data_augment *a, int64_t *width, int64_t *height);

/* What is done to one picture on its way to numbers. */
typedef struct {
    int64_t width, height;      /* of the result */
    int64_t mean_width, mean_height;    /* the source is averaged to this size first: fastai's rule for large steps; 0: not */
    double to_source[9];        /* pixel (x, y, 1) of the result -> homogeneous pixel of the source, or of its averages */
    data_pad_mode pad;
    bool has_colour;
    float colour[12];           /* [3, 4]: logit(r, g, b, 1) -> logit(r, g, b); x in 0 .. 1 */
    float hue;                  /* turns, after that */
    data_stats stats;
} data_map;

/* What was drawn for one picture; in brackets what changes nothing. */
typedef struct {
    int dihedral;                       /* fastai's numbers of the flips and turns, 0 .. 7; 1: left and right [0] */
    double degrees, zoom, zoom_x, zoom_y;       /* [0], [1]; the centre of the zoom, 0 .. 1 */
    double warp_x, warp_y;              /* [0] */
    double brightness, contrast, saturation, hue;   /* [0.5], [1], [1], [0] */
    int64_t left, top, part_width, part_height;     /* the item's pixels that become the result [all] */
} data_drawn;
/* Draws for an item of width x height. In validation, or where a is NULL or not on: nothing, and the middle. */
data_drawn ag_data_augment_draw(const data_augment *a, int64_t width, int64_t height, data_random *r);
/* The map of what was drawn; stats are left 0. */
data_map ag_data_augment_map(const data_augment *a, const data_drawn *drawn, int64_t width, int64_t height);
/* to: [map->height, map->width, 3] */
void ag_data_map_apply(const data_image *from, const data_map *map, float *to);
/* Both for one picture of a batch; stats may be NULL. */
data_map ag_data_augment_drawn_map(const data_augment *a, const data_image *from, const data_stats *stats, data_random *r);
/* All three, and the user's own function: one sample of a batch. */
void ag_data_augment_sample(const data_augment *a, const data_image *from, const data_stats *stats, data_random *r, float *to);

AG_END_DECLS
#endif
