/* Pictures prepared in a file: the same bits as read from theirs, however the file is damaged, whatever became of the
 * pictures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "agrad.h"
#include "core/io.h"
#include "core/memory.h"
#include "tests/folder.h"

enum { PICTURES = 24 };

static const char *picture(int i)
{
    char name[32];
    snprintf(name, sizeof name, "leaves/%c/%02d.%s", "ab"[i % 2], i, i % 3 ? "jpg" : "png");
#ifndef AG_HAVE_JPEG
    strcpy(strrchr(name, '.'), ".png");
#endif
    return in_folder(name);
}

static void paint(int i, int light)
{
    static uint8_t pixels[3 * 80 * 60];
    const data_image image = { 80 - i, 60 - i, pixels };
    for (size_t k = 0; k < sizeof pixels; k++) pixels[k] = (uint8_t)((k % 91 + k / 700 * (size_t)(i % 5) + (size_t)light) % 256);
    data_image_write(picture(i), &image);
}

static int make_folder(void **state)
{
    (void)state;
    if (!make_own_folder()) return 1;
    ag_make_folder(in_folder("leaves/a")), ag_make_folder(in_folder("leaves/b"));
    for (int i = 0; i < PICTURES; i++) paint(i, i);
    return 0;
}

/* ---- what comes out, and what file there is -------------------------------------------------------------- */

typedef struct { data_transform first, second; bool cached; int workers; } how;

static uint64_t bits_of(how h)
{
    AG_SCOPE;
    uint64_t bits = 1;
    const data_loaders d = data_image_folder(in_folder("leaves"), .item_tfms = { h.first, h.second },
                                             .batch_tfms = data_aug_transforms(.size = 24, .min_scale = 0.5),
                                             .loaders = { .batch = 4, .seed = 5, .workers = h.workers, .max_bad = 0.2,
                                                          .cache = h.cached ? "disk" : NULL,
                                                          .cache_folder = in_folder("kept") });
    data_loader *part[] = { d.train, d.valid };
    for (int epoch = 0; epoch < 2; epoch++)
        for (int k = 0; k < 2; k++)
            DATA_EACH(b, part[k]) {
                const unsigned char *bytes = b.x->data;
                for (int64_t i = 0; i < ag_numel(b.x) * (int64_t)ag_dtype_size(b.x->dtype); i++)
                    bits = (bits ^ bytes[i]) * 1099511628211u;
            }
    return bits;
}

static how squish(bool cached)
{
    return (how){ .first = data_resize(32, .method = DATA_SQUISH), .cached = cached };
}

/* How many files there are; the last one's path, and the number that the system gives a new file. */
static char kept_path[400];
static ino_t kept_number;
static int kept_files(void)
{
    char command[400], line[400];
    int n = 0;
    snprintf(command, sizeof command, "ls %s 2>/dev/null", in_folder("kept"));
    FILE *f = popen(command, "r");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        snprintf(kept_path, sizeof kept_path, "%s/kept/%.200s", folder, line);
        n++;
    }
    if (f) pclose(f);
    struct stat st;
    if (n && !stat(kept_path, &st)) kept_number = st.st_ino;
    return n;
}

static void remove_kept(void)
{
    while (kept_files()) unlink(kept_path);
}

/* A link keeps the number from being given again to a new file. */
static ino_t hold(void)
{
    assert_int_equal(kept_files(), 1);
    unlink(in_folder("held"));
    assert_int_equal(link(kept_path, in_folder("held")), 0);
    return kept_number;
}

static void assert_made_again(const char *why)
{
    const ino_t before = hold();
    if (bits_of(squish(true)) != bits_of(squish(false))) fail_msg("%s: other bits", why);
    assert_int_equal(kept_files(), 1);
    if (kept_number == before) fail_msg("%s: the file was not made again", why);
    const ino_t again = kept_number;
    bits_of(squish(true));
    kept_files();
    if (kept_number != again) fail_msg("%s: the new file is not used", why);
}

/* ---- tests --------------------------------------------------------------------------------------------- */

static void brighter(const data_transform *t, data_image *image, data_random *r)
{
    (void)t, (void)r;
    for (int64_t i = 0; i < 3 * image->width * image->height; i++)
        image->pixels[i] = (uint8_t)(255 - (255 - image->pixels[i]) / 2);
}

static void test_the_same_bits(void **state)
{
    const data_transform own = { .name = "brighter", .apply = brighter };
    const how ways[] = { { .first = data_resize(32, .method = DATA_SQUISH) }, { .first = data_resize(32) },
                         { .first = data_random_resized_crop(28) }, { .first = own, .second = data_resize(26) },
                         { .first = data_resize(32, .method = DATA_SQUISH), .second = own } };
    (void)state;
    for (size_t k = 0; k < sizeof ways / sizeof *ways; k++) {
        remove_kept();
        how h = ways[k];
        const uint64_t want = bits_of(h);
        h.cached = true;
        for (h.workers = 0; h.workers < 3; h.workers++)             /* made, and used twice */
            if (bits_of(h) != want) fail_msg("way %d, %d workers", (int)k, h.workers);
    }
}

static void test_it_is_used_again(void **state)
{
    (void)state;
    remove_kept();
    bits_of(squish(true));
    const ino_t before = hold();
    bits_of(squish(true));
    assert_int_equal(kept_files(), 1);
    assert_int_equal(kept_number, before);
    bits_of((how){ .first = data_resize(30, .method = DATA_SQUISH), .cached = true });
    assert_int_equal(kept_files(), 2);
    remove_kept();
}

static void test_pictures_that_changed(void **state)
{
    (void)state;
    remove_kept();
    bits_of(squish(true));
    const struct timespec later[2] = { { 0, UTIME_OMIT }, { 1234567890, 5 } };
    assert_int_equal(utimensat(AT_FDCWD, picture(4), later, 0), 0);
    assert_made_again("another time");
    paint(3, 100);
    assert_made_again("another picture");
    unlink(picture(22));
    assert_made_again("one less");
    paint(22, 7);
    assert_made_again("one more");
}

/* A byte at this place from the beginning (from the end, where negative) becomes another. */
static void damage(int64_t at)
{
    unsigned char byte;
    const int fd = open(kept_path, O_RDWR);
    assert_true(fd >= 0);
    if (at < 0) at += lseek(fd, 0, SEEK_END);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static void test_damaged_at_its_ends(void **state)
{
    static const int64_t places[] = { 0, 17, 100, -1, -9, -20, -30, -60, -30 - 64 * PICTURES };
    (void)state;
    remove_kept();
    bits_of(squish(true));
    for (size_t k = 0; k < sizeof places / sizeof *places; k++) {
        kept_files();
        damage(places[k]);
        assert_made_again("damaged");
    }
    static const int64_t sizes[] = { 0, 1, 4096, 9000, -1, -8, -4000 };
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        struct stat st;
        kept_files();
        assert_int_equal(stat(kept_path, &st), 0);
        assert_int_equal(truncate(kept_path, sizes[k] < 0 ? st.st_size + sizes[k] : sizes[k]), 0);
        assert_made_again("cut");
    }
}

/* Noticed when they are read: that picture is read from its file, and the next run makes another. */
static void test_damaged_pixels(void **state)
{
    (void)state;
    for (int k = 0; k < 4; k++) {
        remove_kept();
        const uint64_t want = bits_of(squish(true));
        kept_files();
        damage(4096 + 3 * 32 * 32 * 5 * k + 77);
        assert_true(bits_of(squish(true)) == want);
        assert_int_equal(kept_files(), 0);
        assert_true(bits_of(squish(true)) == want);
        assert_int_equal(kept_files(), 1);
    }
}

static void test_bad_pictures(void **state)
{
    (void)state;
    char path[300];
    strcpy(path, in_folder("leaves/a/bad.jpg"));
    {
        AG_SCOPE;
        ag_file *f = ag_file_create(path);
        ag_file_printf(f, "no picture");
        ag_file_commit(f);
    }
    remove_kept();
    const uint64_t want = bits_of(squish(false));
    for (int k = 0; k < 2; k++) assert_true(bits_of(squish(true)) == want);
    unlink(path);
}

static void all_of_it(const data_transform *t, int64_t *width, int64_t *height)
{
    (void)t, (void)width, (void)height;
}

static void unknown_needs(void *unused)
{
    (void)unused;
    const data_transform own = { .name = "brighter", .apply = brighter, .needs = all_of_it };
    bits_of((how){ .first = own, .second = data_resize(9), .cached = true });
}

static void test_refusals(void **state)
{
    (void)state;
    assert_int_equal(ag_try(unknown_needs, NULL), 1);
    assert_non_null(strstr(ag_error(), "brighter, needs is not known"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_same_bits),       cmocka_unit_test(test_it_is_used_again),
        cmocka_unit_test(test_pictures_that_changed), cmocka_unit_test(test_damaged_at_its_ends),
        cmocka_unit_test(test_damaged_pixels),      cmocka_unit_test(test_bad_pictures),
        cmocka_unit_test(test_refusals),
    };
#ifndef AG_HAVE_STB
    printf("SKIP: this build has no stb_image\n");
    return 0;
#endif
    ag_init(.seed = 1);
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
