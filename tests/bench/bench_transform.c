/* tests/bench/bench_transform.c - one picture on its way into a batch, on one core. Lines of key, value, unit; the best of many
 * runs. */
#include <stdio.h>
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
        printf("%s\t%.4g\tus\n", name, best); \
    } while (0)

/* New numbers for each picture. */
static void sample(const data_augment *a, const data_image *image, float *to)
{
    const data_stats stats = DATA_IMAGENET_STATS;
    static uint64_t key;
    data_random r = ag_data_random_of(key++, 1, true);
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
    BEST("resize_photo", resized(&photo, 224, 224));
    BEST("resize_half", resized(&half, 224, 224));
    BEST("augment_all", sample(&all, &item, to));
    BEST("augment_flat", sample(&flat, &item, to));
    BEST("augment_dark", sample(&dark, &item, to));
    BEST("augment_small", sample(&small, &item, to));
    ag_free(to);
    ag_free(photo.pixels);
    ag_free(half.pixels);
    ag_free(item.pixels);
    return 0;
}
