/* 411 broken, hostile or merely unusual files ($AGRAD_DATA/odd-images or ../shared/data/odd-images): each is a picture or has a
 * reason, within two seconds, and all of them within 256 MB. With an argument: lists verdicts, for tests/odd_images.py. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include "agrad.h"
#include "core/io.h"

static bool lists;
static int files, pictures;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void look(const char *path)
{
    char why[DATA_WHY] = "";
    data_image image;
    const double began = now();
    const bool good = data_image_try(path, &image, why);
    const double seconds = now() - began;
    files++, pictures += good;
    if (good != (image.pixels != NULL) || (!good && !why[0])) fail_msg("%s: neither a picture nor a reason", path);
    if (seconds > 2) fail_msg("%s: %.1f s", path, seconds);
    if (lists && good) {
        uint64_t sum = 0;
        for (int64_t i = 0; i < 3 * image.width * image.height; i++) sum += image.pixels[i];
        printf("%s\tok\t%d\t%d\t%.3f\n", path, (int)image.width, (int)image.height,
               (double)sum / (double)(3 * image.width * image.height));
    } else if (lists) printf("%s\tbad\t%s\n", path, why);
    data_image_free(&image);
}

static void walk(const char *folder)
{
    struct dirent **entry;
    const int n = scandir(folder, &entry, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", folder, entry[i]->d_name);
        if (entry[i]->d_name[0] != '.') {
            if (ag_is_folder(path)) walk(path);
            else look(path);
        }
        free(entry[i]);
    }
    if (n >= 0) free(entry);
}

static void test_each_is_a_picture_or_has_a_reason(void **state)
{
    const char *data = getenv("AGRAD_DATA");
    char folder[512];
    struct rusage used;
    (void)state;
    snprintf(folder, sizeof folder, "%s/odd-images", data ? data : "../shared/data");
    if (!ag_is_folder(folder)) {
        printf("SKIP: there is no %s\n", folder);
        return;
    }
    walk(folder);
    getrusage(RUSAGE_SELF, &used);
    printf("%d files, %d pictures, %ld MB at most\n", files, pictures, used.ru_maxrss / 1024);
    assert_true(files > 0 && pictures > 0 && pictures < files);
#ifndef AG_DEBUG                                /* the sanitizer keeps what was freed */
    assert_true(used.ru_maxrss < 256 * 1024);
#endif
}

int main(int argc, char **argv)
{
    (void)argv;
#ifndef AG_HAVE_STB
    printf("SKIP: this build has no stb_image\n");
    return 0;
#endif
    lists = argc > 1;
    ag_init(.seed = 1);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_each_is_a_picture_or_has_a_reason) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
