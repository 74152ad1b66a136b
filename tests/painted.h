/* tests/painted.h - the picture that make_transform_fixtures.py paints. The caller frees .pixels. */
#ifndef PAINTED_H
#define PAINTED_H
#include "core/memory.h"
#include "data/image.h"

static inline data_image painted(int64_t width, int64_t height)
{
    data_image image = { .width = width, .height = height, .pixels = ag_alloc(width * height, 3) };
    uint8_t *p = image.pixels;
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++)
            for (int64_t c = 0; c < 3; c++)
                *p++ = (uint8_t)(x * (5 + c) + y * (9 - 2 * c) + x * y * (c + 1) / 8 + (x / 5 + y / 7) % 2 * 60);
    return image;
}

#endif
