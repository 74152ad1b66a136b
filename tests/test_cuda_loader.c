/* tests/test_cuda_loader.c - batches on their way to the GPU, or to its emulation (tests/test_cuda.c), beside the CPU's:
 * pictures as bytes, records as they are, by any number of threads, read at once and late. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "core/io.h"
#include "core/memory.h"
#include "tests/cuda_cases.h"
#include "tests/folder.h"

#ifdef AG_EMULATE
void ag_emulate_lazy(bool lazy);
static const double exact = 1e-5;
#else
static inline void ag_emulate_lazy(bool lazy) { (void)lazy; }
static const double exact = 2e-4;       /* tests/test_cuda_augment.c */
#endif

enum { PICTURES = 23, BATCH = 4, EPOCHS = 3 };

/* Pictures of two classes, no two of one size, a broken file among them. */
static int make_folder(void **state)
{
    (void)state;
    if (!make_own_folder()) return 1;
    for (int i = 0; i < PICTURES; i++) {
        char name[64];
        ag_rng r = { .seed = (uint64_t)i, .stream = 8 };
        data_image image = { .width = 14 + i % 9, .height = 30 - i, .pixels = ag_alloc(30 * 30, 3) };
        for (int k = 0; k < 3 * 30 * 30; k++) image.pixels[k] = (uint8_t)ag_rng_below(&r, 256);
        snprintf(name, sizeof name, "leaves/%s", i % 2 ? "healthy" : "sick");
        ag_make_folder(in_folder(name));
        snprintf(name, sizeof name, "leaves/%s/%02d.png", i % 2 ? "healthy" : "sick", i);
        data_image_write(in_folder(name), &image);
        ag_free(image.pixels);
    }
    ag_file *f = ag_file_create(in_folder("leaves/sick/09.png"));
    ag_file_write(f, "no picture", 10);
    ag_file_commit(f);
    return 0;
}

/* ---- what is loaded ---------------------------------------------------------------------------------------------- */

typedef struct { data_loader *loader; data_loaders dls; } source;
typedef source (*source_fn)(int workers, int prefetch);

static data_loaders_opts how(int workers, int prefetch)
{
    return (data_loaders_opts){ .batch = BATCH, .workers = workers, .prefetch = prefetch, .seed = 6, .max_bad = 0.2 };
}

static source resized(int workers, int prefetch)
{
    data_loaders d = data_image_folder(in_folder("leaves"), .item_tfms = { data_resize(20) },
                                       .batch_tfms = data_aug_transforms(.size = 16), .normalize = DATA_IMAGENET_STATS,
                                       .loaders = how(workers, prefetch));
    return (source){ d.train, d };
}

static source of_any_size(int workers, int prefetch)
{
    data_loaders d = data_image_folder(in_folder("leaves"), .loaders = how(workers, prefetch),
                                       .batch_tfms = data_aug_transforms(.size = 11, .width = 13, .min_scale = 0.3));
    return (source){ d.train, d };
}

static source in_validation(int workers, int prefetch)
{
    data_loaders d = data_image_folder(in_folder("leaves"), .item_tfms = { data_resize(20) }, .loaders = how(workers, prefetch),
                                       .valid_pct = 0.6);
    return (source){ d.valid, d };
}

static source files(int workers, int prefetch)
{
    static char path[5][300];
    const char *paths[5];
    for (int i = 0; i < 5; i++) paths[i] = strcpy(path[i], in_folder(i == 3 ? "leaves/sick/09.png" : "leaves/sick/02.png"));
    source s = of_any_size(0, 0);
    return (source){ data_test_loader(&s.dls, paths, 5), s.dls };
    (void)workers, (void)prefetch;
}

static void negative(float *x, int64_t height, int64_t width, data_random *r, void *arg)
{
    for (int64_t i = 0; i < 3 * height * width; i++) x[i] = (float)data_uniform(r, 0, 1) - x[i];
    (void)arg;
}

static source with_a_users_function(int workers, int prefetch)
{
    data_loaders d = data_image_folder(in_folder("leaves"), .item_tfms = { data_resize(9) },
                                       .batch_tfms = data_aug_transforms(.own = negative), .loaders = how(workers, prefetch));
    return (source){ d.train, d };
}

static const char *other(const char *path, void *arg)
{
    (void)arg;
    return strchr(path, '4') ? "sick/04.png" : path;
}

static source of_two_inputs(int workers, int prefetch)
{
    const data_block b = data_block_new(.blocks = { data_image_block(), data_image_block(), data_category_block("class") },
                                        .n_inputs = 2, .get_x = { data_function_label(other, NULL) },
                                        .get_y = { data_parent_label() }, .batch_tfms = data_aug_transforms(.size = 7));
    const data_loaders_opts o = how(workers, prefetch);
    data_loaders d = ag_data_block_loaders_(AG_HERE, &b, in_folder("leaves"), o);
    return (source){ d.train, d };
}

static source a_table(int workers, int prefetch)
{
    data_table *t = data_table_new(50);
    int64_t user[50], film[50];
    double rating[50];
    for (int i = 0; i < 50; i++) user[i] = i, film[i] = i * 3 % 50, rating[i] = i % 5;
    data_add_ints(t, "user", user);
    data_add_ints(t, "film", film);
    data_add_floats(t, "rating", rating);
    return (source){ .loader = data_loader_new(data_from_table(t, .x = "user,film", .y = "rating"), 7, .shuffle = true,
                                               .workers = workers, .prefetch = prefetch) };
}

static source tensors(int workers, int prefetch)
{
    float x[17 * 6];
    for (int i = 0; i < 17 * 6; i++) x[i] = (float)i / 7;
    ag_init(.device = "cpu");
    data_set *set = data_from_tensors(ag_from(AG_F32, x, 17, 2, 3), NULL);
    return (source){ .loader = data_loader_new(set, 5, .workers = workers, .prefetch = prefetch) };
}

/* ---- epochs ------------------------------------------------------------------------------------------------------- */

/* When a batch's numbers are read: at once; after the last one, of batches that are kept, or of what was computed from them. */
typedef enum { AT_ONCE, KEPT, COMPUTED } reading;

static ag_tensor *to_be_read(ag_tensor *t, reading when)
{
    return ag_keep(when == KEPT ? t : t->dtype == AG_F32 ? ag_scale(t, 1) : ag_cast(t, AG_F32));
}

/* All batches of some epochs. The second is broken off, the size is another one in the third. */
static void load(source_fn fn, ag_device device, int workers, int prefetch, reading when, values *out)
{
    AG_SCOPE;
    ag_tensor *kept[64];
    int n = 0;
    static values late;
    out->n = late.n = 0;
    ag_init(.device = ag_device_name(device));
    source s = fn(workers, prefetch);
    ag_init(.device = ag_device_name(device));
    for (int epoch = 0; epoch < EPOCHS; epoch++) {
        if (epoch == 2 && s.dls.images) data_image_size(&s.dls, 12, 19);
        DATA_EACH(b, s.loader) {
            assert_int_equal(b.x->device, device);
            out->v[out->n++] = (double)b.index, out->v[out->n++] = (double)b.n;
            for (int64_t i = 0; i < b.n; i++) out->v[out->n++] = (double)b.row[i];
            ag_tensor *both[2] = { b.x, b.y };
            for (int i = 0; i < 2 && both[i]; i++)
                if (when == AT_ONCE) take(&late, both[i]);
                else kept[n++] = to_be_read(both[i], when);
            if (epoch == 1 && b.index == 2) break;
        }
    }
    for (int i = 0; i < n; i++) take(&late, kept[i]);
    memcpy(out->v + out->n, late.v, (size_t)late.n * sizeof *late.v);
    out->n += late.n;
    ag_init(.device = "cpu");
}

static void same(const char *what, source_fn fn, double tol)
{
    static const struct { int workers, prefetch; } ways[] = { { 0, 0 }, { 1, 1 }, { 1, 2 }, { 3, 0 }, { 2, 7 } };
    static const struct { bool lazy; reading when; const char *name; } streams[] = {
        { false, AT_ONCE, "" }, { true, AT_ONCE, ", lazy streams" }, { true, KEPT, ", lazy streams, kept" },
        { true, COMPUTED, ", lazy streams, computed with" },
    };
    static values want, got;
    load(fn, AG_CPU, 0, 0, AT_ONCE, &want);
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++)
        for (size_t k = 0; k < sizeof streams / sizeof *streams; k++) {
            ag_emulate_lazy(streams[k].lazy);
            load(fn, AG_CUDA, ways[w].workers, ways[w].prefetch, streams[k].when, &got);
            ag_emulate_lazy(false);
            assert_int_equal(got.n, want.n);
            for (int64_t i = 0; i < got.n; i++)
                if (!(fabs(got.v[i] - want.v[i]) <= tol))
                    fail_msg("%s, %d workers, prefetch %d%s, value %d: %.9g, on the CPU %.9g", what, ways[w].workers,
                             ways[w].prefetch, streams[k].name, (int)i, got.v[i], want.v[i]);
        }
}

static void test_pictures(void **state)
{
    (void)state;
    same("resized", resized, exact);
    same("of any size", of_any_size, exact);
    same("in validation", in_validation, exact);
    same("files", files, exact);
    same("of two inputs", of_two_inputs, exact);
}

static void test_a_users_function_works_on_the_host(void **state)
{
    (void)state;
    same("with a user's function", with_a_users_function, 0);
}

static void test_records(void **state)
{
    (void)state;
    same("a table", a_table, 0);
    same("tensors", tensors, 0);
}

static void test_pictures_in_bf16(void **state)
{
    (void)state;
    AG_SCOPE;
    static values want, got;
    want.n = got.n = 0;
    for (int k = 0; k < 2; k++) {
        ag_init(.device = k ? "cuda" : "cpu");
        source s = resized(0, 0);
        data_loader_dtype(s.loader, AG_BF16);
        DATA_EACH(b, s.loader) {
            assert_int_equal(b.x->dtype, k ? AG_BF16 : AG_F32);
            take(k ? &got : &want, b.x);
        }
    }
    ag_init(.device = "cpu");
    assert_true(got.n == want.n && got.n > 1000);
    for (int64_t i = 0; i < got.n; i++) assert_true(fabs(got.v[i] - want.v[i]) <= 1e-2);
}

/* ---- memory, devices ------------------------------------------------------------------------------------------------ */

/* From the second epoch on the driver is not asked for memory; at the end all is given back. */
static void test_nothing_is_allocated_in_the_steady_state(void **state)
{
    (void)state;
    const int64_t before = ag_memory(AG_CUDA).in_use;
    {
        AG_SCOPE;
        ag_init(.device = "cuda");
        source s = resized(2, 0);
        int64_t calls = 0;
        for (int epoch = 0; epoch < 3; epoch++) {
            DATA_EACH(b, s.loader) assert_int_equal(b.x->device, AG_CUDA);
            if (epoch) assert_int_equal(ag_memory(AG_CUDA).system_calls, calls);
            calls = ag_memory(AG_CUDA).system_calls;
        }
        ag_init(.device = "cpu");
        DATA_EACH(b, s.loader) assert_int_equal(b.x->device, AG_CPU);       /* and back again */
        ag_init(.device = "cuda");
        DATA_EACH(b, s.loader) assert_int_equal(b.x->device, AG_CUDA);
        ag_init(.device = "cpu");
    }
    assert_int_equal(ag_memory(AG_CUDA).in_use, before);
}

/* Memory that was let go while queued work still reads it is a landing only after that work. */
static void test_a_landing_waits_for_what_was_there(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_emulate_lazy(true);
    source s = tensors(0, 0);                           /* batches of 120 bytes, as much as `before` */
    ag_init(.device = "cuda");
    ag_tensor *twice, *first = NULL;
    {
        AG_SCOPE;
        ag_tensor *before = ag_full(3, 30);
        twice = ag_keep(ag_scale(before, 2));
    }
    DATA_EACH(b, s.loader) {
        if (!first) first = ag_keep(b.x);
        if (b.index == 2) break;
    }
    static values v;
    v.n = 0;
    take(&v, twice);
    take(&v, first);
    ag_emulate_lazy(false);
    ag_init(.device = "cpu");
    for (int i = 0; i < 30; i++) assert_true(v.v[i] == 6 && v.v[30 + i] == (double)((float)i / 7));
}

int main(void)
{
    char why[512];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pictures), cmocka_unit_test(test_a_users_function_works_on_the_host),
        cmocka_unit_test(test_records), cmocka_unit_test(test_pictures_in_bf16),
        cmocka_unit_test(test_nothing_is_allocated_in_the_steady_state),
        cmocka_unit_test(test_a_landing_waits_for_what_was_there),
    };
    if (!ag_cuda_available(why, sizeof why)) {
        print_message("SKIP: no batch went to a GPU here: %s\n", why);
        return 0;
    }
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
