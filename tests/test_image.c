/* Images: what is read, what is refused, and what is written. Expected pixels are Pillow's (tests/make_image_fixtures.py). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agrad.h"
#include "core/io.h"
#include "image_fixtures.h"

static char folder[] = "/tmp/agrad-image-XXXXXX";

static const char *in_folder(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void put(const char *path, const void *data, size_t n)
{
    AG_SCOPE;
    ag_file *f = ag_file_create(path);
    ag_file_write(f, data, (int64_t)n);
    ag_file_commit(f);
}

static void test_pixels_are_pillows(void **state)
{
    (void)state;
    for (const image_fixture *f = image_fixtures; f->name; f++) {
        char why[DATA_WHY];
        data_image image;
        if (!ag_data_image_try_bytes(f->file, f->size, &image, why, (data_image_opts){ 0 }))
            fail_msg("%s: %s", f->name, why);
        if (image.width != f->width || image.height != f->height)
            fail_msg("%s: %d x %d", f->name, (int)image.width, (int)image.height);
        double sum = 0;
        for (int64_t i = 0; i < 3 * f->width * f->height; i++) sum += abs(image.pixels[i] - f->pixels[i]);
        if (sum / (double)(3 * f->width * f->height) > f->tolerance)
            fail_msg("%s: mean difference %g", f->name, sum / (double)(3 * f->width * f->height));
        data_image_free(&image);
    }
}

/* Every prefix of a file, and every file with one byte changed, is read or refused; a prefix is never read. */
static void test_prefixes_are_refused(void **state)
{
    (void)state;
    for (const image_fixture *f = image_fixtures; f->name; f++)
        for (int64_t n = 0; n < f->size - 1; n++) {
            char why[DATA_WHY];
            data_image image;
            uint8_t *part = malloc((size_t)n + 1);
            memcpy(part, f->file, (size_t)n);
            const bool read = ag_data_image_try_bytes(part, n, &image, why, (data_image_opts){ 0 });
            if (read && n < f->size - f->padded)
                fail_msg("%s: %d of %d bytes taken for a picture", f->name, (int)n, (int)f->size);
            if (!read) assert_true(why[0] && !image.pixels);
            data_image_free(&image);
            free(part);
        }
}

static void test_damages_do_no_harm(void **state)
{
    uint64_t r = 88172645463325252u;
    int64_t read = 0, tried = 0;
    (void)state;
    for (const image_fixture *f = image_fixtures; f->name; f++)
        for (int i = 0; i < 2000; i++) {
            char why[DATA_WHY];
            data_image image;
            uint8_t *copy = malloc((size_t)f->size);
            memcpy(copy, f->file, (size_t)f->size);
            for (int k = 0; k <= i % 3; k++) {
                r ^= r << 13, r ^= r >> 7, r ^= r << 17;
                copy[r % (uint64_t)f->size] = (uint8_t)(r >> 32);
            }
            read += ag_data_image_try_bytes(copy, f->size, &image, why, (data_image_opts){ 0 });
            tried++;
            data_image_free(&image);
            free(copy);
        }
    assert_true(read > 0 && read < tried);
}

static void refused(const char *path, const char *reason)
{
    char why[DATA_WHY];
    data_image image;
    assert_false(data_image_try(path, &image, why));
    if (!strstr(why, reason)) fail_msg("%s: '%s', not '%s'", path, why, reason);
    data_image_info info;
    assert_false(data_image_probe(path, &info, why));
}

static void test_files_that_are_none(void **state)
{
    static const uint8_t wide[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\0\0\0\0\0\0\0";
    (void)state;
    refused(in_folder("absent.jpg"), "no such file");
    refused(folder, "a folder");
    mkfifo(in_folder("pipe.png"), 0600);
    refused(in_folder("pipe.png"), "no regular file");
    put(in_folder("empty.jpg"), "", 0);
    refused(in_folder("empty.jpg"), "an empty file");
    put(in_folder("text.jpg"), "leaf leaf leaf", 14);
    refused(in_folder("text.jpg"), "no image");
    put(in_folder("psd.jpg"), "8BPS\0\1", 6);
    refused(in_folder("psd.jpg"), "a PSD file");
    put(in_folder("wide.png"), wide, sizeof wide - 1);
    refused(in_folder("wide.png"), "checksum");
}

static data_image gradient(int64_t w, int64_t h)
{
    data_image image = { w, h, malloc((size_t)(3 * w * h)) };
    for (int64_t i = 0; i < w * h; i++) {
        image.pixels[3 * i] = (uint8_t)(255 * (i % w) / w);
        image.pixels[3 * i + 1] = (uint8_t)(255 * (i / w) / h);
        image.pixels[3 * i + 2] = 90;
    }
    return image;
}

static void test_written_and_read(void **state)
{
    (void)state;
    AG_SCOPE;
    const data_image image = gradient(61, 47);
    for (int k = 0; k < 2; k++) {
        const char *path = in_folder(k ? "a.jpg" : "a.png");
        data_image_write(path, &image, .quality = 95);
        const data_image back = data_image_read(path);
        double sum = 0;
        assert_true(back.width == 61 && back.height == 47);
        for (int i = 0; i < 3 * 61 * 47; i++) sum += abs(back.pixels[i] - image.pixels[i]);
        assert_true(sum / (3 * 61 * 47) <= (k ? 2 : 0));
        data_image_info info;
        char why[DATA_WHY];
        assert_true(data_image_probe(path, &info, why) && info.width == 61 && info.format == (k ? DATA_JPEG : DATA_PNG));
    }
    free(image.pixels);
}

static void test_reduced_while_decoding(void **state)
{
#ifdef AG_HAVE_JPEG
    (void)state;
    AG_SCOPE;
    const data_image image = gradient(640, 480);
    data_image_write(in_folder("large.jpg"), &image);
    const int64_t wanted[] = { 0, 640, 321, 320, 160, 100, 50 }, gives[] = { 640, 640, 640, 320, 160, 160, 80 };
    for (int i = 0; i < 7; i++) {
        const data_image small = data_image_read(in_folder("large.jpg"), .width = wanted[i]);
        assert_int_equal(small.width, gives[i]);
        assert_true(abs(small.pixels[3 * (small.width / 2)] - 127) < 6);
    }
    assert_int_equal(data_image_read(in_folder("large.jpg"), .width = 10, .height = 480).width, 640);
    free(image.pixels);
#else
    (void)state;
    printf("SKIP: this build has no libjpeg\n");
#endif
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state)
{
    char command[300];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pixels_are_pillows),   cmocka_unit_test(test_prefixes_are_refused),
        cmocka_unit_test(test_damages_do_no_harm),   cmocka_unit_test(test_files_that_are_none),
        cmocka_unit_test(test_written_and_read),     cmocka_unit_test(test_reduced_while_decoding),
    };
#ifndef AG_HAVE_STB
    printf("SKIP: this build has no stb_image\n");
    return 0;
#endif
    ag_init(.seed = 1);
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
