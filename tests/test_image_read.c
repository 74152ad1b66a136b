/* Photographs made smaller while they are decoded: the same bits as decoded whole and resized then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agrad.h"
#include "core/io.h"
#include "core/memory.h"
#include "data/image_inside.h"

static char file[] = "/tmp/agrad-image-read-XXXXXX";
static int by_rows, bad;

static void write_file(const void *bytes, int64_t n)
{
    AG_SCOPE;
    ag_file *f = ag_file_create(file);
    ag_file_write(f, bytes, n);
    ag_file_commit(f);
}

/* Noise on a ramp. */
static data_image painted(int64_t width, int64_t height)
{
    data_image image = { width, height, ag_alloc(width * height, 3) };
    for (int64_t i = 0; i < 3 * width * height; i++)
        image.pixels[i] = (uint8_t)(i / 3 % width * 200 / width + i * 7919 % 53);
    return image;
}

/* Decoded whole; then what the transform does. */
static bool in_two_steps(const char *path, const data_transform *t, data_random r, data_image *to, char why[DATA_WHY])
{
    data_image_info info;
    if (!data_image_probe(path, &info, why)) return false;
    int64_t w = info.width, h = info.height;
    t->needs(t, &w, &h);
    if (!data_image_try(path, to, why, .width = w, .height = h)) return false;
    t->apply(t, to, &r);
    return true;
}

static void compare(const char *path, const data_transform *t, uint64_t key, bool train)
{
    char why[2][DATA_WHY];
    data_image want, got;
    int done;
    const data_random r = ag_data_random_of(key, 0, train);
    const bool good = in_two_steps(path, t, r, &want, why[0]);
    assert_int_equal(ag_image_read(path, t, r, false, &got, &done, why[1]), good);
    by_rows += done, bad += !good;
    if (!good) {
        assert_string_equal(why[0], why[1]);
        assert_null(got.pixels);
        return;
    }
    data_random again = r;
    if (!done) t->apply(t, &got, &again);
    if (got.width != want.width || got.height != want.height) fail_msg("%s: another size", path);
    if (memcmp(got.pixels, want.pixels, (size_t)(3 * got.width * got.height))) fail_msg("%s, %s: other pixels", path, t->name);
    data_image_free(&got);
    data_image_free(&want);
}

static void compare_all(const char *path)
{
    const data_transform t[] = { data_resize(33, .method = DATA_SQUISH), data_resize(40, .width = 24),
                                 data_random_resized_crop(24),
                                 data_resize(224, .method = DATA_SQUISH), data_resize(32, .method = DATA_PAD) };
    for (size_t k = 0; k < sizeof t / sizeof *t; k++)
        for (uint64_t key = 0; key < 4; key++) compare(path, &t[k], key, key < 3);
}

static void test_painted(void **state)
{
    static const int64_t sides[][2] = { { 40, 24 }, { 97, 61 }, { 300, 200 }, { 33, 33 }, { 640, 480 }, { 3, 200 }, { 1, 1 } };
    (void)state;
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        data_image image = painted(sides[i][0], sides[i][1]);
        for (int format = DATA_PNG; format <= DATA_JPEG; format++) {
            AG_SCOPE;
            int64_t n;
            void *bytes = data_image_encode(&image, (data_image_format)format, &n);
            ag_defer(ag_free, bytes);
            write_file(bytes, n);
            compare_all(file);
            write_file(bytes, n - n / 3);           /* ends too early */
            compare_all(file);
        }
        data_image_free(&image);
    }
#ifdef AG_HAVE_JPEG
    assert_true(by_rows > 100);
#endif
    assert_true(bad > 100);
}

/* Behind the first marker EXIF's orientation is put in. */
static void test_lying_photographs(void **state)
{
    static const uint8_t exif[] = { 0xff, 0xe1, 0, 34, 'E', 'x', 'i', 'f', 0, 0, 'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0,
                                    1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0 };
    (void)state;
    AG_SCOPE;
    int64_t n;
    data_image image = painted(120, 70);
    ag_defer(ag_free, image.pixels);
    uint8_t *bytes = data_image_encode(&image, DATA_JPEG, &n), *lying = ag_alloc(n + (int64_t)sizeof exif, 1);
    ag_defer(ag_free, bytes);
    ag_defer(ag_free, lying);
    memcpy(lying, bytes, 2), memcpy(lying + 2, exif, sizeof exif);
    memcpy(lying + 2 + sizeof exif, bytes + 2, (size_t)n - 2);
    write_file(lying, n + (int64_t)sizeof exif);
    data_image_info info;
    char why[DATA_WHY];
    assert_true(data_image_probe(file, &info, why) && info.orientation == 6 && info.width == 70);
    compare_all(file);
}

static void test_photographs(void **state)
{
    (void)state;
    AG_SCOPE;
    const char *data = getenv("AGRAD_DATA");
    const char *folder = ag_sprintf("%s/paddy-small", data ? data : "../shared/data");
    ag_defer(ag_free, (void *)(uintptr_t)folder);
    if (access(folder, R_OK)) {
        printf("SKIP: no photographs in %s\n", folder);
        return;
    }
    const data_files files = data_image_files(folder);
    for (int64_t i = 0; i < files.n; i += files.n / 20 + 1) {
        char *path = ag_sprintf("%s/%s", folder, files.name[i]);
        compare_all(path);
        ag_free(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_painted), cmocka_unit_test(test_lying_photographs),
                                        cmocka_unit_test(test_photographs) };
#ifndef AG_HAVE_STB
    printf("SKIP: this build has no stb_image\n");
    return 0;
#endif
    ag_init(.seed = 1);
    const int fd = mkstemp(file);
    if (fd < 0) return 1;
    close(fd);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(file);
    return failed;
}
