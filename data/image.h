/* data/image.h - photographs as pixels. */
#ifndef AG_DATA_IMAGE_H
#define AG_DATA_IMAGE_H
#include "core/base.h"
AG_BEGIN_DECLS

/* RGB, rows from the top: [height, width, 3], from ag_alloc. */
typedef struct { int64_t width, height; uint8_t *pixels; } data_image;

AG_END_DECLS
#endif
