/* Pictures to numbers: geometry and colours beside Pillow's and fastai's (tests/make_transform_fixtures.py), what is drawn and
 * how often, the same for a key whatever came before, odd sizes, bad options. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/io.h"
#include "core/memory.h"
#include "core/safetensors.h"
#include "data/transform.h"
#include "tests/painted.h"

/* The cases of a kind: of each a row of numbers, and its result behind those before. */
typedef struct { int64_t n, columns; const float *how; const void *out; } fixture;

static fixture fixture_of(const char *kind)
{
    const ag_safetensors *f = ag_safetensors_open_(AG_HERE, "tests/fixtures/transforms.safetensors");
    char name[64];
    snprintf(name, sizeof name, "%s.how", kind);
    const ag_tensor *how = ag_safetensors_get_(AG_HERE, f, name);
    snprintf(name, sizeof name, "%s.out", kind);
    return (fixture){ how->shape[0], how->shape[1], how->data, ag_safetensors_get_(AG_HERE, f, name)->data };
}

/* ---- beside Pillow and fastai -------------------------------------------------------------------------------- */

/* Returns the numbers compared. */
static int64_t apply_and_compare(const data_transform *t, int64_t width, int64_t height, const uint8_t *want)
{
    data_image image = painted(width, height);
    data_random r = ag_data_random_of(1, 0, false);
    t->apply(t, &image, &r);
    assert_true(image.height == t->height && image.width == t->width);
    const int64_t n = 3 * image.width * image.height;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const int far = abs((int)image.pixels[i] - (int)want[i]);
        if (far > 2) fail_msg("%s of %d x %d: %d grey levels from Pillow's", t->name, (int)width, (int)height, far);
        sum += far;
    }
    assert_true(sum / (double)n < 0.3);
    ag_free(image.pixels);
    return n;
}

static void test_items(void **state)
{
    (void)state;
    AG_SCOPE;
    const fixture c = fixture_of("item");
    const uint8_t *want = c.out;
    assert_int_equal(c.n, 24);
    for (const float *how = c.how; how < c.how + c.n * c.columns; how += c.columns) {
        const data_transform t = data_resize((int64_t)how[4], .method = (data_resize_method)how[2],
                                             .pad = (data_pad_mode)how[3], .width = (int64_t)how[5]);
        want += apply_and_compare(&t, (int64_t)how[0], (int64_t)how[1], want);
    }
}

static void test_random_resized_crop_in_validation(void **state)
{
    (void)state;
    AG_SCOPE;
    const fixture c = fixture_of("crop");
    const uint8_t *want = c.out;
    for (const float *how = c.how; how < c.how + c.n * c.columns; how += c.columns) {
        const data_transform t = data_random_resized_crop((int64_t)how[2]);
        want += apply_and_compare(&t, (int64_t)how[0], (int64_t)how[1], want);
    }
}

/* What make_transform_fixtures.py writes of a case. */
typedef struct {
    float w, h, pad, size, width, dihedral, degrees, zoom, zoom_x, zoom_y, warp_x, warp_y, brightness, contrast, saturation, hue;
    float left, top, part_width, part_height;
} how;

static data_drawn drawn_of(const how *p)
{
    return (data_drawn){ (int)p->dihedral, p->degrees, p->zoom, p->zoom_x, p->zoom_y, p->warp_x, p->warp_y, p->brightness,
                         p->contrast, p->saturation, p->hue, (int64_t)p->left, (int64_t)p->top, (int64_t)p->part_width,
                         (int64_t)p->part_height };
}

static void test_augmentation(void **state)
{
    (void)state;
    AG_SCOPE;
    const fixture c = fixture_of("augment");
    const float *want = c.out;
    assert_int_equal(c.columns, sizeof(how) / sizeof(float));
    for (const how *p = (const how *)c.how; p < (const how *)c.how + c.n; p++) {
        const data_augment a = data_aug_transforms(.size = (int64_t)p->size, .width = (int64_t)p->width,
                                                   .pad = (data_pad_mode)p->pad);
        const data_drawn d = drawn_of(p);
        data_map map = ag_data_augment_map(&a, &d, (int64_t)p->w, (int64_t)p->h);
        map.stats = DATA_IMAGENET_STATS;
        data_image image = painted((int64_t)p->w, (int64_t)p->h);
        float *got = ag_alloc(3 * map.width * map.height, sizeof *got);
        ag_data_map_apply(&image, &map, got);
        for (int64_t i = 0; i < 3 * map.width * map.height; i++, want++)
            if (!(fabsf(got[i] - *want) <= 1e-3f))
                fail_msg("case %d, number %d: %g, fastai %g", (int)(p - (const how *)c.how), (int)i, (double)got[i],
                         (double)*want);
        ag_free(got);
        ag_free(image.pixels);
    }
}

/* ---- draws ------------------------------------------------------------------------------------------------------ */

enum { DRAWS = 40000 };

typedef struct { double low, high, sum, neutral; int others; } spread;

static void note(spread *s, double v)
{
    if (v == s->neutral) return;
    s->low = s->others ? fmin(s->low, v) : v, s->high = s->others ? fmax(s->high, v) : v;
    s->sum += v, s->others++;
}

/* Uniform between low and high with probability p: ends within 1 %, mean and share within 4 standard deviations. */
static void check_spread(const spread *s, double p, double low, double high)
{
    const double range = high - low, n = s->others;
    assert_true(s->low >= low && s->low < low + 0.01 * range && s->high < high && s->high > high - 0.01 * range);
    assert_true(fabs(s->sum / n - (low + high) / 2) < 4 * range / sqrt(12 * n));
    assert_true(fabs(n / DRAWS - p) < 4 * sqrt(p * (1 - p) / DRAWS) + 1e-9);
}

static void test_what_is_drawn(void **state)
{
    (void)state;
    const data_augment a = data_aug_transforms(.hue = 0.1);
    spread turn = { 0 }, zoom = { .neutral = 1 }, x = { 0 }, warp = { 0 }, light = { .neutral = 0.5 }, contrast = { 0 };
    spread hue = { .neutral = -INFINITY };
    int flips = 0;
    for (uint64_t key = 0; key < DRAWS; key++) {
        data_random r = ag_data_random_of(key, 3, true);
        const data_drawn d = ag_data_augment_draw(&a, 40, 30, &r);
        flips += d.dihedral;
        note(&turn, d.degrees), note(&zoom, d.zoom), note(&x, d.zoom_x), note(&warp, d.warp_y);
        note(&light, d.brightness), note(&contrast, log(d.contrast)), note(&hue, log(d.hue));
        assert_true(d.saturation == 1 && d.part_width == 40 && d.part_height == 30 && d.left == 0 && d.top == 0);
    }
    assert_true(abs(flips - DRAWS / 2) < 4 * sqrt(DRAWS / 4.0));
    check_spread(&turn, 0.75, -10, 10);
    check_spread(&zoom, 0.75, 1, 1.1);
    check_spread(&x, 1, 0, 1);
    check_spread(&warp, 0.75, -0.2, 0.2);
    check_spread(&light, 0.75, 0.4, 0.6);
    check_spread(&contrast, 0.75, log(0.8), -log(0.8));
    check_spread(&hue, 0.75, log(0.9), -log(0.9));
}

static void test_options_of_draws(void **state)
{
    (void)state;
    const data_augment a = data_aug_transforms(.mult = 2, .flip_vert = true, .min_scale = 0.5, .p_affine = 0.3,
                                               .p_lighting = 1, .max_zoom = 1, .max_lighting = -1);
    spread turn = { 0 };
    int eight[8] = { 0 }, smallest = 100;
    for (uint64_t key = 0; key < DRAWS; key++) {
        data_random r = ag_data_random_of(key, 0, true);
        const data_drawn d = ag_data_augment_draw(&a, 50, 40, &r);
        eight[d.dihedral]++;
        note(&turn, d.degrees);
        assert_true(d.zoom == 1 && d.brightness == 0.5 && d.contrast == 1 && d.hue == 0 && d.saturation == 1);
        assert_true(d.part_width == d.part_height && d.left >= 0 && d.top >= 0);
        assert_true(d.left + d.part_width <= 50 && d.top + d.part_height <= 40);
        smallest = d.part_width < smallest ? (int)d.part_width : smallest;
    }
    check_spread(&turn, 0.3, -20, 20);
    assert_int_equal(smallest, 32);                     /* round(sqrt(50 40 0.5)) */
    for (int i = 0; i < 8; i++) {
        const double p = i ? 1.0 / 16 : 9.0 / 16;
        assert_true(fabs(eight[i] - p * DRAWS) < 4 * sqrt(p * (1 - p) * DRAWS));
    }
}

static void test_nothing_is_drawn_in_validation(void **state)
{
    (void)state;
    const data_augment a = data_aug_transforms(.min_scale = 0.35, .size = 20);
    data_random r = ag_data_random_of(7, 0, false);
    const data_drawn d = ag_data_augment_draw(&a, 50, 40, &r), none = ag_data_augment_draw(NULL, 50, 40, &r);
    assert_true(d.dihedral == 0 && d.degrees == 0 && d.zoom == 1 && d.warp_x == 0 && d.warp_y == 0);
    assert_true(d.left == 5 && d.top == 0 && d.part_width == 40 && d.part_height == 40);
    assert_true(none.left == 0 && none.part_width == 50 && none.part_height == 40);
    data_image image = painted(24, 18);
    float *to = ag_alloc(24 * 18, 3 * sizeof *to);
    ag_data_augment_sample(NULL, &image, NULL, &r, to);
    for (int i = 0; i < 3 * 24 * 18; i++) assert_true(fabsf(to[i] - (float)image.pixels[i] / 255) < 1e-6f);
    ag_free(to);
    ag_free(image.pixels);
}

/* A sample's numbers come from its key and the transform's number; another key gives others. */
static void test_by_key_alone(void **state)
{
    (void)state;
    const data_transform t = data_random_resized_crop(12);
    data_image a = painted(40, 28), b = painted(40, 28), c = painted(40, 28);
    data_random r = ag_data_random_of(5, 2, true), other = ag_data_random_of(6, 2, true), again = ag_data_random_of(5, 2, true);
    t.apply(&t, &a, &r);
    t.apply(&t, &c, &other);
    t.apply(&t, &b, &again);
    assert_memory_equal(a.pixels, b.pixels, 3 * 12 * 12);
    assert_memory_not_equal(a.pixels, c.pixels, 3 * 12 * 12);
    data_random first = ag_data_random_of(5, 0, true), second = ag_data_random_of(5, 1, true);
    assert_true(data_uniform(&first, 0, 1) != data_uniform(&second, 0, 1));
    ag_free(a.pixels);
    ag_free(b.pixels);
    ag_free(c.pixels);
}

/* ---- crops anywhere, a user's own, sizes -------------------------------------------------------------------------- */

/* A picture whose columns are their numbers: crops of full height without change of size tell where they lie. */
static void test_crops_lie_anywhere_in_training(void **state)
{
    (void)state;
    const data_transform t = data_resize(8);
    int seen[13] = { 0 };
    for (uint64_t key = 0; key < 2000; key++) {
        data_image image = { .width = 20, .height = 8, .pixels = ag_alloc(20 * 8, 3) };
        for (int i = 0; i < 3 * 20 * 8; i++) image.pixels[i] = (uint8_t)(i / 3 % 20);
        data_random r = ag_data_random_of(key, 0, key > 0);
        t.apply(&t, &image, &r);
        assert_int_equal(image.pixels[3], image.pixels[0] + 1);
        if (key == 0) assert_int_equal(image.pixels[0], 6);     /* the middle in validation */
        seen[image.pixels[0]]++;
        ag_free(image.pixels);
    }
    for (int i = 0; i < 12; i++) assert_true(seen[i] > 100 && seen[i] < 240);
}

static void negative(float *x, int64_t height, int64_t width, data_random *r, void *arg)
{
    for (int64_t i = 0; i < 3 * height * width; i++) x[i] = *(float *)arg - x[i];
    assert_true(data_uniform(r, 0, 1) < 1);
}

static void test_own(void **state)
{
    (void)state;
    float one = 1, plain[3 * 6 * 4], own[3 * 6 * 4];
    const data_augment a = data_aug_transforms(.own = negative, .own_arg = &one), b = data_aug_transforms();
    data_image image = painted(6, 4);
    data_random r = ag_data_random_of(3, 0, true), s = r;
    ag_data_augment_sample(&a, &image, NULL, &r, own);
    ag_data_augment_sample(&b, &image, NULL, &s, plain);
    for (int i = 0; i < 3 * 6 * 4; i++) assert_true(own[i] == 1 - plain[i]);
    ag_free(image.pixels);
}

/* Maps far outside, degenerate ones and numbers that are none read no byte they must not (address sanitizer). */
static void test_any_map_is_safe(void **state)
{
    (void)state;
    static const double v[] = { 0, 1, -1, 1e-9, 1e9, 1e300, -INFINITY, NAN };
    float to[3 * 5 * 3];
    for (int64_t w = 1; w < 4; w++)
        for (uint64_t k = 0; k < 3000; k++) {
            data_image image = painted(w, w == 2 ? 1 : 2);
            data_random r = ag_data_random_of(k, 9, true);
            data_map map = { .width = 5, .height = 3, .pad = (data_pad_mode)(k % 3) };
            for (int i = 0; i < 9; i++) map.to_source[i] = v[data_below(&r, 8)];
            ag_data_map_apply(&image, &map, to);
            for (int i = 0; i < 45; i++) assert_true(to[i] >= -1e-6f && to[i] <= 1.000001f);
            ag_free(image.pixels);
        }
}

static void test_what_a_transform_needs(void **state)
{
    (void)state;
    const struct { data_transform t; int64_t w, h, need_w, need_h; } cases[] = {
        { data_resize(224), 480, 640, 224, 299 },
        { data_resize(224, .method = DATA_SQUISH), 480, 640, 224, 224 },
        { data_resize(224, .method = DATA_PAD), 480, 640, 168, 224 },
        { data_resize(224, .method = DATA_SQUISH), 100, 300, 100, 224 },
        { data_random_resized_crop(224, .min_scale = 0.25), 4800, 6400, 448, 598 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t w = cases[i].w, h = cases[i].h;
        cases[i].t.needs(&cases[i].t, &w, &h);
        assert_int_equal(w, cases[i].need_w);
        assert_int_equal(h, cases[i].need_h);
    }
}

/* ---- folders ---------------------------------------------------------------------------------------------------------- */

static void write_picture(const char *path, int64_t width, int64_t height)
{
    data_image image = painted(width, height);
    data_image_write(path, &image);
    ag_free(image.pixels);
}

static void write_text(const char *path, const char *text)
{
    ag_file *f = ag_file_create(path);
    ag_file_write(f, text, (int64_t)strlen(text));
    ag_file_commit(f);
}

static void check_size(const char *path, int64_t width, int64_t height)
{
    data_image_info info;
    char why[DATA_WHY];
    if (!ag_data_image_probe(path, &info, why)) fail_msg("%s: %s", path, why);
    assert_true(info.width == width && info.height == height);
}

static void over_itself(void *arg) { data_resize_images(arg, arg, 40); }
static void no_pictures(void *arg) { data_resize_images(arg, "to", 40); }
static void into_a_file(void *arg) { data_resize_images(arg, "notes.txt", 40); }

static void test_a_folder_made_small(void **state)
{
    (void)state;
    AG_SCOPE;
    char folder[] = "/tmp/agrad-resize-XXXXXX", home[4096];
    assert_non_null(getcwd(home, sizeof home));
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chdir(folder), 0);
    ag_make_folder("a/deep er");
    ag_make_folder("empty");
    write_picture("a/wide.jpg", 120, 50);
    write_picture("a/deep er/tall.PNG.png", 33, 100);
    write_picture("a/deep er/small.png", 20, 30);
    write_text("a/broken.jpg", "no picture");
    write_text("notes.txt", "no picture either");
    for (int workers = 1; workers < 4; workers += 2) {
        assert_int_equal(data_resize_images("a", "a/to", 40, .workers = workers), 3);      /* not what it wrote before */
        check_size("a/to/wide.jpg", 40, 16);
        check_size("a/to/deep er/tall.PNG.png", 13, 40);
        check_size("a/to/deep er/small.png", 20, 30);
        assert_false(ag_file_exists("a/to/broken.jpg"));
    }
    assert_int_equal(data_resize_images("a", "short", 25, .shorter = true), 6);       /* and a/to */
    check_size("short/wide.jpg", 60, 25);
    check_size("short/deep er/tall.PNG.png", 25, 75);
    assert_int_equal(data_resize_images("a", "short", 25, .shorter = true, .resume = true), 0);
    const struct { void (*fn)(void *); char *arg; const char *says; } wrong[] = {
        { over_itself, "a", "a would be written over itself" },
        { no_pictures, "empty", "no .jpg, .jpeg, .png, .bmp or .gif below" },
        { no_pictures, "nowhere", "nowhere is no folder" }, { into_a_file, "a", "cannot make folder notes.txt" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(ag_try(wrong[i].fn, wrong[i].arg), 1);
        if (!strstr(ag_error(), wrong[i].says)) fail_msg("%s\ndoes not say\n%s", ag_error(), wrong[i].says);
    }
    assert_int_equal(chdir(home), 0);
    char clean[64];
    snprintf(clean, sizeof clean, "rm -r %s", folder);
    assert_int_equal(system(clean), 0);
}

/* ---- bad options ---------------------------------------------------------------------------------------------------- */

static void bad_size(void *arg) { (void)arg; data_resize(0); }
static void bad_width(void *arg) { (void)arg; data_resize(20, .width = 20000); }
static void bad_scale(void *arg) { (void)arg; data_random_resized_crop(20, .min_scale = 0.9, .max_scale = 0.5); }
static void bad_ratio(void *arg) { (void)arg; data_random_resized_crop(20, .ratio = { 2, 1 }); }
static void bad_lighting(void *arg) { (void)arg; data_aug_transforms(.max_lighting = 0.6, .mult = 2); }
static void bad_p(void *arg) { (void)arg; data_aug_transforms(.p_affine = 1.5); }
static void bad_zoom(void *arg) { (void)arg; data_aug_transforms(.min_zoom = 2, .max_zoom = 1.5); }
static void bad_augment_width(void *arg) { (void)arg; data_aug_transforms(.width = 20); }

static void test_bad_options(void **state)
{
    (void)state;
    const struct { void (*fn)(void *); const char *says; } cases[] = {
        { bad_size, "0 x 0 (height x width): sizes are 1 to 16384" }, { bad_width, "20 x 20000" },
        { bad_scale, ".min_scale 0.9, .max_scale 0.5" }, { bad_ratio, ".ratio 2 to 1" },
        { bad_lighting, ".max_lighting times .mult = 1.2: 0 to 0.99" }, { bad_p, ".p_affine = 1.5: 0 to 1" },
        { bad_zoom, ".max_zoom = 1.5: 2 to 100" }, { bad_augment_width, ".width beside .size" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(ag_try(cases[i].fn, NULL), 1);
        if (!strstr(ag_error(), cases[i].says)) fail_msg("%s\ndoes not say\n%s", ag_error(), cases[i].says);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_items), cmocka_unit_test(test_random_resized_crop_in_validation),
        cmocka_unit_test(test_augmentation),
        cmocka_unit_test(test_what_is_drawn), cmocka_unit_test(test_options_of_draws),
        cmocka_unit_test(test_nothing_is_drawn_in_validation), cmocka_unit_test(test_by_key_alone),
        cmocka_unit_test(test_crops_lie_anywhere_in_training), cmocka_unit_test(test_own),
        cmocka_unit_test(test_any_map_is_safe), cmocka_unit_test(test_what_a_transform_needs),
        cmocka_unit_test(test_a_folder_made_small), cmocka_unit_test(test_bad_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
