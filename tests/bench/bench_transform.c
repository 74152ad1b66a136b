/* One picture on its way into a batch, on one core: best of many runs, in microseconds. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "core/memory.h"
#include "data/transform.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static data_image painted(int64_t width, int64_t height)
{
    data_image image = { .width = width, .height = height, .pixels = ag_alloc(width * height, 3) };
    for (int64_t i = 0; i < 3 * width * height; i++) image.pixels[i] = (uint8_t)(i * 7 % 251 + i / 1999 % 5);
    return image;
}

#define BEST(name, ...) do { \
        double best = 1e30; \
        for (int k = 0; k < 300; k++) { \
            const double begin = now(); \
            __VA_ARGS__; \
            const double took = now() - begin; \
            best = took < best ? took : best; \
        } \
        printf("%-52s %8.1f\n", name, best); \
    } while (0)

static void sample(const data_augment *a, const data_image *image, uint64_t key, float *to)
{
    const data_stats stats = DATA_IMAGENET_STATS;
    data_random r = ag_data_random_of(key, 1, true);
    ag_data_augment_sample(a, image, &stats, &r, to);
}

static void resized(const data_image *image, int64_t width, int64_t height)
{
    data_image to;
    ag_data_resize_box(image, (data_box){ 0, 0, (double)image->width, (double)image->height }, width, height, &to);
    ag_free(to.pixels);
}

int main(void)
{
    data_image photo = painted(480, 640), half = painted(240, 320), item = painted(256, 256);
    float *to = ag_alloc(224 * 224, 3 * sizeof *to);
    const data_augment all = data_aug_transforms(.size = 224, .p_affine = 1, .p_lighting = 1);
    const data_augment flat = data_aug_transforms(.size = 224, .p_affine = 1, .p_lighting = 1, .max_warp = -1);
    const data_augment dark = data_aug_transforms(.size = 224, .p_affine = 1, .max_lighting = -1, .max_warp = -1);
    const data_augment small = data_aug_transforms(.size = 96, .p_affine = 1, .p_lighting = 1);
    BEST("resize 480 x 640 -> 224 x 224", resized(&photo, 224, 224));
    BEST("resize 240 x 320 -> 224 x 224", resized(&half, 224, 224));
    BEST("resize 480 x 640 -> 480 x 480", resized(&photo, 480, 480));
    BEST("256 -> 224: flip, rotation, zoom, warp, lighting", sample(&all, &item, 3, to));
    BEST("256 -> 224: flip, rotation, zoom, lighting", sample(&flat, &item, 3, to));
    BEST("256 -> 224: flip, rotation, zoom", sample(&dark, &item, 3, to));
    BEST("256 -> 96, averaged first", sample(&small, &item, 3, to));
    ag_free(to);
    ag_free(photo.pixels);
    ag_free(half.pixels);
    ag_free(item.pixels);
    return 0;
}
