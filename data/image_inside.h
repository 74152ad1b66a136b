/* data/image_inside.h - between the recognition of images (image.c) and their decoders. */
#ifndef AG_DATA_IMAGE_INSIDE_H
#define AG_DATA_IMAGE_INSIDE_H
#include "data/transform.h"

typedef struct { const uint8_t *data; int64_t size; } image_bytes;

/* What the headers say, found without a decoder. width, height as stored; most: bytes of the largest single piece of memory
 * that decoding may take. */
typedef struct { data_image_format format; int64_t width, height, most; int orientation; } image_header;

/* Takes a picture row by row, where its decoder makes rows and it is stored upright.
 *   size   what is needed of an upright picture of this size
 *   begin  it comes as width x height; false: it is wanted whole after all
 *   row    room for row y; those before are complete. Called with y = height as well, behind the last one */
typedef struct {
    void *arg;
    void (*size)(void *arg, int64_t width, int64_t height, data_image_opts *o);
    bool (*begin)(void *arg, int64_t width, int64_t height);
    uint8_t *(*row)(void *arg, int64_t y);
} image_rows;
/* ag_data_image_try; true with to->pixels NULL: all rows were taken. */
bool ag_image_try_rows(const char *path, const image_rows *rows, data_image *to, char why[DATA_WHY]);

/* A file on its way through its first transform (NULL: none), with less memory where both can go row by row; whole: not that.
 * *done: how many transforms were applied, 0 or 1. */
bool ag_image_read(const char *path, const data_transform *first, data_random r, bool whole, data_image *to, int *done,
                   char why[DATA_WHY]);

/* Each looks through the whole file and returns false, with the reason, on one that is no good. */
bool ag_image_png_header(image_bytes b, image_header *h, char why[DATA_WHY]);
bool ag_image_jpeg_header(image_bytes b, image_header *h, char why[DATA_WHY]);
bool ag_image_bmp_header(image_bytes b, image_header *h, char why[DATA_WHY]);
bool ag_image_gif_header(image_bytes b, image_header *h, char why[DATA_WHY]);
/* EXIF's orientation in a TIFF block, 1 where there is none. */
int ag_image_orientation(image_bytes tiff);

bool ag_image_stb_decode(image_bytes b, const image_header *h, data_image *to, char why[DATA_WHY]);
/* At eighths / 8 of the size, eighths 1, 2, 4 or 8. Without libjpeg: stb's, always all of it. rows: may be NULL. */
bool ag_image_jpeg_decode(image_bytes b, const image_header *h, int eighths, const image_rows *rows, data_image *to,
                          char why[DATA_WHY]);

/* False where there is no libjpeg. *bytes: from ag_alloc. */
bool ag_image_jpeg_encode(const data_image *image, int quality, uint8_t **bytes, int64_t *size);

/* Which programs decode here: others may differ by a grey level. */
const char *ag_image_decoders(void);

bool ag_image_bad(char why[DATA_WHY], const char *fmt, ...) AG_PRINTF(2, 3);     /* false */

#endif
