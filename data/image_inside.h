/* data/image_inside.h - between the recognition of images (image.c) and their decoders. */
#ifndef AG_DATA_IMAGE_INSIDE_H
#define AG_DATA_IMAGE_INSIDE_H
#include "data/image.h"

typedef struct { const uint8_t *data; int64_t size; } image_bytes;

/* What the headers say, found without a decoder. width, height as stored; most: bytes of the largest single piece of memory
 * that decoding may take. */
typedef struct { data_image_format format; int64_t width, height, most; int orientation; } image_header;

/* Each looks through the whole file and returns false, with the reason, on one that is no good. */
bool ag_image_png_header(image_bytes b, image_header *h, char why[DATA_WHY]);
bool ag_image_jpeg_header(image_bytes b, image_header *h, char why[DATA_WHY]);
bool ag_image_bmp_header(image_bytes b, image_header *h, char why[DATA_WHY]);
bool ag_image_gif_header(image_bytes b, image_header *h, char why[DATA_WHY]);
/* EXIF's orientation in a TIFF block, 1 where there is none. */
int ag_image_orientation(image_bytes tiff);

bool ag_image_stb_decode(image_bytes b, const image_header *h, data_image *to, char why[DATA_WHY]);
/* At eighths / 8 of the size, eighths 1, 2, 4 or 8. Without libjpeg: stb's, always all of it. */
bool ag_image_jpeg_decode(image_bytes b, const image_header *h, int eighths, data_image *to, char why[DATA_WHY]);

/* False where there is no libjpeg. *bytes: from ag_alloc. */
bool ag_image_jpeg_encode(const data_image *image, int quality, uint8_t **bytes, int64_t *size);

bool ag_image_bad(char why[DATA_WHY], const char *fmt, ...) AG_PRINTF(2, 3);     /* false */

#endif
