/* data/image.h - photographs as pixels: recognising, reading, writing.
 *
 *     char why[DATA_WHY];
 *     data_image leaf;
 *     if (data_image_try("leaf.jpg", &leaf, why)) ... data_image_free(&leaf);
 *     else printf("leaf.jpg: %s\n", why);
 *
 * PNG, JPEG, BMP and GIF (its first frame), told apart by their first bytes, never by the name. A file that ends too early,
 * whose checksums are wrong or whose numbers cannot be is bad: no grey picture is taken for a photograph. At most 16,384
 * pixels a side, 64 million pixels, 100 scans of a JPEG, and no more pixels than the bytes can hold; all of that is looked
 * at before memory is taken. JPEGs are read by libjpeg-turbo where the build has it, everything else by stb_image. */
#ifndef AG_DATA_IMAGE_H
#define AG_DATA_IMAGE_H
#include "core/base.h"
AG_BEGIN_DECLS

/* RGB, rows from the top: [height, width, 3], from ag_alloc. */
typedef struct { int64_t width, height; uint8_t *pixels; } data_image;

typedef enum { DATA_NO_IMAGE, DATA_PNG, DATA_JPEG, DATA_BMP, DATA_GIF } data_image_format;
/* The size as it is seen, upright; orientation: EXIF's, 1 .. 8 (1: stored upright). */
typedef struct { data_image_format format; int64_t width, height; int orientation; } data_image_info;

enum { DATA_WHY = 256, DATA_MAX_SIDE = 16384, DATA_MAX_PIXELS = 64 << 20 };

/*   .width .height   more pixels than these are not needed: a JPEG may come at 1/2, 1/4 or 1/8 of its size, still at least as
 *                    large both ways. Default: all of them.
 * Pictures stand upright as EXIF says. Alpha is left away, 16 bits become 8, CMYK becomes RGB (as Pillow's convert("RGB")). */
typedef struct { AG_NAMED_OPTIONS; int64_t width, height; } data_image_opts;

/* A bad file is an outcome, not an error: false, and the reason in why. From any thread. Free with data_image_free. */
#define data_image_try(path, to, ...) ag_data_image_try(path, to, AG_HEAD(__VA_ARGS__), AG_OPTS(data_image_opts, __VA_ARGS__))
bool ag_data_image_try(const char *path, data_image *to, char why[DATA_WHY], data_image_opts opts);
bool ag_data_image_try_bytes(const void *bytes, int64_t size, data_image *to, char why[DATA_WHY], data_image_opts opts);
/* Format and size from the headers alone. */
#define data_image_probe ag_data_image_probe
bool ag_data_image_probe(const char *path, data_image_info *info, char why[DATA_WHY]);
/* Fails on a bad file, naming it and the reason; the pixels belong to the innermost scope. */
#define data_image_read(...) ag_data_image_read_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(data_image_opts, __VA_ARGS__))
data_image ag_data_image_read_(const char *at, const char *path, data_image_opts opts);
#define data_image_free ag_data_image_free
void ag_data_image_free(data_image *image);

/* Writes .png, .jpg or .jpeg, as the name says; replaced atomically.  .quality of a JPEG, 1 .. 100: 90 */
typedef struct { AG_NAMED_OPTIONS; int quality; } data_write_opts;
#define data_image_write(path, ...) \
    ag_data_image_write_(AG_HERE, path, AG_HEAD(__VA_ARGS__), AG_OPTS(data_write_opts, __VA_ARGS__))
void ag_data_image_write_(const char *at, const char *path, const data_image *image, data_write_opts opts);
/* The same into memory; free with ag_free. format: DATA_PNG or DATA_JPEG. */
#define data_image_encode(image, format, ...) \
    ag_data_image_encode_(AG_HERE, image, format, AG_HEAD(__VA_ARGS__), AG_OPTS(data_write_opts, __VA_ARGS__))
void *ag_data_image_encode_(const char *at, const data_image *image, data_image_format format, int64_t *size,
                            data_write_opts opts);

AG_END_DECLS
#endif
