/* leaf.h - pictures of paddy leaves that nobody photographed: what a variety looks like, what a disease does to it. */
#ifndef PADDY_LEAF_H
#define PADDY_LEAF_H
#include "data/image.h"

enum { LEAF_DISEASES = 10, LEAF_VARIETIES = 10 };
extern const char *const leaf_disease[LEAF_DISEASES], *const leaf_variety[LEAF_VARIETIES];

/* Paints one picture into image->pixels, [height, width, 3]. Everything else about it (light, place, bend, background, the
 * lesions) is drawn from the key. */
void leaf_paint(data_image *image, int disease, int variety, uint64_t key);

#endif
