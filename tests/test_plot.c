/* Pictures of numbers: that they can be read, and that ink is where it must be. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agrad.h"
#include "data/plot.h"

static char path[] = "/tmp/agrad-plot-XXXXXX.png";

/* Pixels of which every channel is within 12 of r, g, b. */
static int64_t pixels_like(const data_image *image, int r, int g, int b)
{
    int64_t n = 0;
    for (int64_t i = 0; i < image->width * image->height; i++) {
        const uint8_t *p = image->pixels + 3 * i;
        n += abs(p[0] - r) < 12 && abs(p[1] - g) < 12 && abs(p[2] - b) < 12;
    }
    return n;
}

static void test_grid_shows_every_picture(void **state)
{
    uint8_t red[3 * 20 * 10], blue[3 * 10 * 20];
    (void)state;
    for (int i = 0; i < 200; i++) {
        memcpy(red + 3 * i, (uint8_t[]){ 250, 10, 20 }, 3);
        memcpy(blue + 3 * i, (uint8_t[]){ 10, 20, 240 }, 3);
    }
    const data_image wide = { 20, 10, red }, high = { 10, 20, blue };
    const data_plot_picture shown[] = { { &wide, "wide", false }, { &high, "high\nand narrow", true } };
    AG_SCOPE;
    data_plot_grid(path, 2, shown, .title = "two", .cell = 100);
    const data_image image = data_image_read(path);
    const int64_t reds = pixels_like(&image, 250, 10, 20), blues = pixels_like(&image, 10, 20, 240);
    assert_true(reds > 3000 && blues > 3000);           /* each scaled to fit, in its own shape */
    assert_true(fabs((double)reds / (double)blues - 1) < 0.1);
}

/* The middle of the coloured pixels, as shares of the size. */
static void middle_of_colour(const int64_t *count, double *x, double *y)
{
    const char *const names[] = { "blast", "normal" };
    AG_SCOPE;
    int64_t n = 0;
    data_plot_confusion(path, 2, count, names);
    const data_image image = data_image_read(path);
    *x = *y = 0;
    for (int64_t i = 0; i < image.width * image.height; i++) {
        const uint8_t *p = image.pixels + 3 * i;
        if (abs(p[0] - p[2]) < 40) continue;
        *x += (double)(i % image.width) / (double)image.width, *y += (double)(i / image.width) / (double)image.height, n++;
    }
    assert_true(n > 1000);
    *x /= (double)n, *y /= (double)n;
}

/* Rows are what is, columns what was said. */
static void test_confusion_is_coloured_where_the_counts_are(void **state)
{
    const int64_t first[] = { 100, 0, 0, 0 }, right[] = { 0, 100, 0, 0 }, below[] = { 0, 0, 100, 0 };
    double x[3], y[3];
    (void)state;
    middle_of_colour(first, &x[0], &y[0]), middle_of_colour(right, &x[1], &y[1]), middle_of_colour(below, &x[2], &y[2]);
    assert_true(x[1] > x[0] + 0.1 && fabs(y[1] - y[0]) < 0.01);
    assert_true(y[2] > y[0] + 0.1 && fabs(x[2] - x[0]) < 0.01);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grid_shows_every_picture), cmocka_unit_test(test_confusion_is_coloured_where_the_counts_are),
    };
#ifndef AG_HAVE_STB
    printf("SKIP: this build has no stb_image\n");
    return 0;
#endif
    if (!data_plot_available()) {
        printf("SKIP: this build does not draw\n");
        return 0;
    }
    ag_init(.seed = 1);
    close(mkstemps(path, 4));
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
