/* tests/test_spatial.c - pooling, resizing, sampling and mixing beyond their check rows: ties, NaN, far places, and bad
 * input, each one error that says what is wrong. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "agrad.h"
#include "core/op.h"

static void test_the_first_of_equal_maxima_gets_the_gradient(void **state)
{
    (void)state;
    const double want[12] = { 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0 };
    AG_SCOPE;
    for (int k = 0; k < 2; k++) {
        ag_tensor *x = ag_param(ag_ones(1, 3, 4, 1)), *in = k ? ag_cast(x, AG_BF16) : x;
        ag_backward(ag_sum(ag_cast(ag_max_pool2d(in, 2, .ceil = true), AG_F32)));
        for (int i = 0; i < 12; i++) assert_float_equal(ag_at(x->grad, 0, i / 4, i % 4, 0), want[i], 0);
    }
}

static void test_nan_is_a_maximum(void **state)
{
    (void)state;
    AG_SCOPE;
    for (int i = 0; i < 4; i++) {
        ag_tensor *x = ag_ones(1, 2, 2, 1);
        ag_real(x)[i] = NAN;
        ag_param(x);
        ag_tensor *y = ag_max_pool2d(x, 2);
        assert_true(isnan(ag_item(y)));
        ag_backward(ag_sum(y));
        assert_float_equal(ag_real(x->grad)[i], 1, 0);
    }
}

/* Enough rows that they are split among threads and bands: the same as on one image after the other. */
static void test_large_batches_are_as_single_images(void **state)
{
    (void)state;
    AG_SCOPE;
    for (int k = 0; k < 2; k++) {
        ag_tensor *x = ag_param(ag_randn(5, 61, 47, 19)), *in = k ? ag_cast(x, AG_BF16) : x;
        ag_backward(ag_sum(ag_square(ag_cast(ag_max_pool2d(in, 3, .stride = 2, .pad = 1), AG_F32))));
        for (int n = 0; n < 5; n++) {
            AG_SCOPE;
            ag_tensor *one = ag_param(ag_contiguous(ag_detach(ag_slice(x, 0, n, n + 1))));
            ag_tensor *part = k ? ag_cast(one, AG_BF16) : one;
            ag_backward(ag_sum(ag_square(ag_cast(ag_max_pool2d(part, 3, .stride = 2, .pad = 1), AG_F32))));
            ag_tensor *same = ag_slice(x->grad, 0, n, n + 1);
            assert_float_equal(ag_item(ag_sum(ag_abs(ag_sub(same, one->grad)))), 0, 0);
        }
    }
}

static void test_places_far_away(void **state)
{
    (void)state;
    const real far[] = { (real)INFINITY, -(real)INFINITY, (real)NAN, (real)1e30, (real)-1e30, 3, 0, 0 };
    AG_SCOPE;
    ag_tensor *x = ag_param(ag_randn(1, 3, 4, 2)), *grid = ag_param(ag_from(AG_F32, far, 1, 2, 2, 2));
    for (int pad = AG_PAD_REFLECTION; pad <= AG_PAD_BORDER; pad++)
        for (int mode = AG_BILINEAR; mode <= AG_NEAREST; mode++) {
            ag_tensor *y = ag_grid_sample(x, grid, .mode = (ag_interpolation)mode, .pad = (ag_grid_pad)pad);
            ag_backward(ag_sum(y));
            for (int i = 0; i < 2; i++) assert_true(isfinite(ag_at(y, 0, 1, 1, i)));
            assert_true(pad != AG_PAD_ZEROS || ag_at(y, 0, 0, 0, 0) == 0);
        }
}

/* ---- bad input ----------------------------------------------------------------------------------------- */

static ag_tensor *x;

static void large_kernel(void *p) { (void)p; AG_SCOPE; p = ag_max_pool2d(x, 6); }
static void much_padding(void *p) { (void)p; AG_SCOPE; p = ag_avg_pool2d(x, 2, .pad = 2); }
static void no_kernel(void *p) { (void)p; AG_SCOPE; p = ag_avg_pool2d(x, 0); }
static void no_image(void *p) { (void)p; AG_SCOPE; p = ag_avg_pool2d(ag_ones(3, 4), 2); }
static void no_pixels(void *p) { (void)p; AG_SCOPE; p = ag_avg_pool2d(ag_ones(1, 0, 4, 2), 2); }
static void to_nothing(void *p) { (void)p; AG_SCOPE; p = ag_adaptive_avg_pool2d(x, 0, 1); }
static void to_much(void *p) { (void)p; AG_SCOPE; p = ag_adaptive_avg_pool2d(x, INT64_MAX / 2, 1); }
static void whole_numbers(void *p) { (void)p; AG_SCOPE; p = ag_max_pool2d(ag_cast(x, AG_U8), 2); }
static void nearest_filter(void *p) { (void)p; AG_SCOPE; p = ag_interpolate(x, 3, 3, .mode = AG_NEAREST, .antialias = true); }
static void resize_to_nothing(void *p) { (void)p; AG_SCOPE; p = ag_interpolate(x, 3, -1); }
static void not_square(void *p) { (void)p; AG_SCOPE; p = ag_resample_positions(ag_ones(1, 7, 2), 1, 3, 3); }
static void no_places(void *p) { (void)p; AG_SCOPE; p = ag_grid_sample(x, ag_ones(1, 2, 2, 3)); }
static void cubic_places(void *p) { (void)p; AG_SCOPE; p = ag_grid_sample(x, ag_ones(2, 1, 1, 2), .mode = AG_BICUBIC); }
static void few_shares(void *p) { (void)p; AG_SCOPE; p = ag_mixup(x, ag_ones(1), ag_arange(2)); }
static void far_partner(void *p) { (void)p; AG_SCOPE; p = ag_mixup(x, ag_ones(2), ag_cast(ag_full(2, 2), AG_I64)); }
static void large_box(void *p)
{
    static const int64_t box[] = { 0, 0, 1, 1, 0, 0, 5, 4 };
    (void)p;
    AG_SCOPE;
    p = ag_cutmix(x, ag_from(AG_I64, box, 2, 4), ag_arange(2));
}

static void test_bad_input(void **state)
{
    (void)state;
    static const struct { void (*fn)(void *); const char *says; } cases[] = {
        { large_kernel, "a kernel of 6 is larger than the padded image of 4" }, { much_padding, "more than half of the kernel" },
        { no_kernel, "a kernel of 0" }, { no_image, "images [N, H, W, C], got 2 axes" }, { no_pixels, "none may be 0" },
        { to_nothing, "to 0 x 1 pixels" }, { to_much, "overflow" }, { whole_numbers, "got u8" },
        { nearest_filter, "for bilinear and bicubic" }, { resize_to_nothing, "to 3 x -1" }, { not_square, "1 + side x side" },
        { no_places, "grid must be [2, h, w, 2]" }, { cubic_places, "bilinear or nearest" },
        { few_shares, "lambda must be [2]" }, { far_partner, "the batch" }, { large_box, "the box of sample 1, rows 0 to 5" },
    };
    AG_SCOPE;
    x = ag_randn(2, 4, 5, 3);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!ag_try(cases[i].fn, NULL)) fail_msg("accepted: %s", cases[i].says);
        if (!strstr(ag_error(), cases[i].says)) fail_msg("says '%s', not '%s'", ag_error(), cases[i].says);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_first_of_equal_maxima_gets_the_gradient),
        cmocka_unit_test(test_nan_is_a_maximum),
        cmocka_unit_test(test_large_batches_are_as_single_images),
        cmocka_unit_test(test_places_far_away),
        cmocka_unit_test(test_bad_input),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
