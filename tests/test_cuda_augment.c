/* tests/test_cuda_augment.c - pictures that become numbers on the GPU, or in its emulation (tests/test_cuda.c): every
 * transform beside fastai's and the CPU's, any sizes and maps. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include "core/memory.h"
#include "core/safetensors.h"
#include "data/packed.h"
#include "tests/cuda_cases.h"
#include "tests/painted.h"

/* A GPU rounds a product and a sum at once: places differ by 1e-5 of a pixel, and numbers from one pixel to the next by up
 * to 4.4. */
#ifdef AG_EMULATE
static const double exact = 1e-5;
#else
static const double exact = 2e-4;
#endif
static const double half = 1e-2;

static data_image picture(int64_t width, int64_t height, uint64_t seed)
{
    data_image image = { .width = width, .height = height, .pixels = ag_alloc(width * height, 3) };
    ag_rng r = { .seed = seed, .stream = 5 };
    for (int64_t i = 0; i < 3 * width * height; i++) image.pixels[i] = (uint8_t)ag_rng_below(&r, 256);
    return image;
}

/* fn(in) of a packed batch, for compare(). */
static ag_shape shape;
static ag_dtype dtype;
static bool averages;
static ag_tensor *augment(ag_tensor **in)
{
    return ag_data_packed_x(AG_HERE, in[0], shape, dtype, averages);
}

static ag_tensor *bytes_of(const data_pack *p)
{
    return ag_from(AG_U8, p->to, p->used + AG_PACKED_ALIGN);
}

static void compare_pack(const char *what, int k, const data_pack *p, double tol)
{
    AG_SCOPE;
    ag_tensor *in[1] = { bytes_of(p) };
    averages = p->averages;
    compare(what, k, augment, 1, in, false, tol);
}

/* ---- beside fastai --------------------------------------------------------------------------------------------- */

/* What make_transform_fixtures.py writes of a case, and its picture. */
typedef struct {
    float w, h, pad, size, width, dihedral, degrees, zoom, zoom_x, zoom_y, warp_x, warp_y, brightness, contrast, saturation, hue;
    float left, top, part_width, part_height;
} how;

static data_map map_of(const how *p)
{
    const data_augment a = data_aug_transforms(.size = (int64_t)p->size, .width = (int64_t)p->width,
                                               .pad = (data_pad_mode)p->pad);
    const data_drawn d = { (int)p->dihedral, p->degrees, p->zoom, p->zoom_x, p->zoom_y, p->warp_x, p->warp_y, p->brightness,
                           p->contrast, p->saturation, p->hue, (int64_t)p->left, (int64_t)p->top, (int64_t)p->part_width,
                           (int64_t)p->part_height };
    data_map map = ag_data_augment_map(&a, &d, (int64_t)p->w, (int64_t)p->h);
    map.stats = DATA_IMAGENET_STATS;
    return map;
}

static void test_every_transform(void **state)
{
    (void)state;
    AG_SCOPE;
    const ag_safetensors *f = ag_safetensors_open_(AG_HERE, "tests/fixtures/transforms.safetensors");
    const ag_tensor *cases = ag_safetensors_get_(AG_HERE, f, "augment.how");
    const float *want = ag_safetensors_get_(AG_HERE, f, "augment.out")->data;
    assert_int_equal(cases->shape[1], sizeof(how) / sizeof(float));
    for (int64_t k = 0; k < cases->shape[0]; k++) {
        AG_SCOPE;
        const how *h = (const how *)cases->data + k;
        data_image image = painted((int64_t)h->w, (int64_t)h->h);
        const data_map map = map_of(h);
        data_pack p = { 0 };
        ag_data_pack_begin(&p, 1);
        ag_data_pack_put(&p, &image, &map);
        shape = AG_SHAPE(1, map.height, map.width, 3), dtype = AG_F32;
        compare_pack("case", (int)k, &p, exact);
        const ag_tensor *x = ag_to(ag_data_packed_x(AG_HERE, ag_to(bytes_of(&p), AG_CUDA), shape, AG_F32, averages),
                                   AG_CPU);
        for (int64_t i = 0; i < ag_numel(x); i++, want++)
            if (!(fabsf((float)ag_real(x)[i] - *want) <= 1e-3f))
                fail_msg("case %d, number %d: %g, fastai %g", (int)k, (int)i, (double)ag_real(x)[i], (double)*want);
        ag_free(p.to);
        ag_free(image.pixels);
    }
}

/* ---- beside the CPU ---------------------------------------------------------------------------------------------- */

/* Sizes of pictures, one batch each, and of their numbers: less than a pack, not of whole packs, more than a block, a row longer
 * than a piece. */
static const int64_t sources[][4][2] = {
    { { 1, 1 }, { 2, 2 }, { 1, 7 }, { 7, 1 } }, { { 5, 3 }, { 40, 30 }, { 3, 64 }, { 64, 3 } }, { { 31, 67 }, { 120, 90 } },
};
static const int64_t results[][2] = { { 1, 1 }, { 3, 5 }, { 16, 16 }, { 33, 37 }, { 7, 301 } };

static void test_any_size(void **state)
{
    (void)state;
    const data_stats stats = DATA_IMAGENET_STATS;
    int k = 0;
    for (size_t s = 0; s < sizeof sources / sizeof *sources; s++)
        for (size_t t = 0; t < sizeof results / sizeof *results; t++, k++) {
            data_pack p = { 0 };
            ag_data_pack_begin(&p, 4);
            const data_augment a = data_aug_transforms(.size = results[t][0], .width = results[t][1],
                                                       .pad = (data_pad_mode)(k % 3), .flip_vert = true, .p_affine = 0.9,
                                                       .p_lighting = 0.7, .max_rotate = 40,
                                                       .saturation = k % 2 ? 0.3 : -1, .hue = k % 4 ? -1 : 0.2,
                                                       .min_scale = k % 5 ? 1 : 0.3);
            for (int i = 0; i < 4 && sources[s][i][0]; i++) {
                data_image image = picture(sources[s][i][0], sources[s][i][1], (uint64_t)(4 * k + i));
                data_random r = ag_data_random_of((uint64_t)k, i, i < 3);
                const data_drawn d = ag_data_augment_draw(&a, image.width, image.height, &r);
                data_map map = ag_data_augment_map(&a, &d, image.width, image.height);
                if (i % 2) map.stats = stats;
                ag_data_pack_put(&p, &image, &map);
                ag_free(image.pixels);
            }
            shape = AG_SHAPE(p.n, results[t][0], results[t][1], 3);
            dtype = AG_F32, compare_pack("size", k, &p, exact);
            dtype = AG_BF16, compare_pack("size in bf16", k, &p, half);
            ag_free(p.to);
        }
}

/* Several inputs a sample; a picture taken away again. */
static void test_several_inputs(void **state)
{
    (void)state;
    data_pack p = { 0 };
    ag_data_pack_begin(&p, 8);
    for (int i = 0; i < 7; i++) {
        data_image image = picture(6 + i, 9 - i, (uint64_t)i);
        data_random r = ag_data_random_of(4, i, true);
        const data_augment a = data_aug_transforms(.size = 5, .width = 4);
        const data_drawn d = ag_data_augment_draw(&a, image.width, image.height, &r);
        const data_map map = ag_data_augment_map(&a, &d, image.width, image.height);
        if (i == 4) {
            const int64_t used = p.used;
            ag_data_pack_put(&p, &image, &map);
            ag_data_pack_cut(&p, 4);
            assert_true(p.used == used && p.n == 4);
        } else ag_data_pack_put(&p, &image, &map);
        ag_free(image.pixels);
    }
    assert_true(p.n == 6 && p.own);
    shape = AG_SHAPE(3, 2, 5, 4, 3), dtype = AG_F32;
    compare_pack("several", 0, &p, exact);
    ag_free(p.to);
}

/* Maps far outside, degenerate ones and numbers that are none read no byte they must not, and give what the CPU gives. */
static void test_any_map(void **state)
{
    (void)state;
    static const double v[] = { 0, 1, -1, 1e-9, 1e9, 1e300, -INFINITY, NAN };
    for (uint64_t k = 0; k < 60; k++) {
        data_pack p = { 0 };
        ag_data_pack_begin(&p, 16);
        for (uint64_t i = 0; i < 16; i++) {
            data_image image = picture(1 + (int64_t)(i % 4), 1 + (int64_t)(i / 4), i);
            data_random r = ag_data_random_of(16 * k + i, 9, true);
            data_map map = { .width = 5, .height = 3, .pad = (data_pad_mode)(i % 3) };
            for (int m = 0; m < 9; m++) map.to_source[m] = v[data_below(&r, 8)];
            ag_data_pack_put(&p, &image, &map);
            ag_free(image.pixels);
        }
        shape = AG_SHAPE(16, 3, 5, 3), dtype = AG_F32;
        compare_pack("map", (int)k, &p, exact);
        ag_free(p.to);
    }
}

/* More than have a block of their own. */
static void test_many_pictures(void **state)
{
    (void)state;
    enum { MANY = 4100 };
    data_pack p = { 0 };
    ag_data_pack_begin(&p, MANY);
    for (int i = 0; i < MANY; i++) {
        data_image image = picture(1 + i % 3, 1, (uint64_t)i);
        data_random r = ag_data_random_of((uint64_t)i, 0, true);
        const data_augment a = data_aug_transforms(.size = 2);
        const data_drawn d = ag_data_augment_draw(&a, image.width, image.height, &r);
        const data_map map = ag_data_augment_map(&a, &d, image.width, image.height);
        ag_data_pack_put(&p, &image, &map);
        ag_free(image.pixels);
    }
    shape = AG_SHAPE(MANY, 2, 2, 3), dtype = AG_F32;
    compare_pack("many", 0, &p, exact);
    ag_free(p.to);
}

int main(void)
{
    char why[512];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_transform), cmocka_unit_test(test_any_size), cmocka_unit_test(test_several_inputs),
        cmocka_unit_test(test_any_map), cmocka_unit_test(test_many_pictures),
    };
    if (!ag_cuda_available(why, sizeof why)) {
        print_message("SKIP: no picture was augmented on a GPU here: %s\n", why);
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
