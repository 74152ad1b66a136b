/* Pictures and their labels to batches: from folders and tables, with broken files, and what cannot be. */
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

static char folder[] = "/tmp/agrad-block-XXXXXX";
enum { PICTURES = 40 };

static char *in_folder(const char *name)
{
    static char path[4][300];
    static int k;
    snprintf(path[k = (k + 1) % 4], sizeof *path, "%s/%s", folder, name);
    return path[k];
}

static void write_text(const char *path, const char *text)
{
    AG_SCOPE;
    ag_file *f = ag_file_create(path);
    ag_file_write(f, text, (int64_t)strlen(text));
    ag_file_commit(f);
}

/* Picture i is of class i % 2; its red tells i. */
static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder)) return 1;
    char table[4096] = "image_id,label,variety,weight,tags\r\n";
    for (int i = 0; i < PICTURES; i++) {
        AG_SCOPE;
        char name[64];
        uint8_t pixels[3 * 24 * 20];
        const data_image image = { 20, 24, pixels };
        for (int k = 0; k < 20 * 24; k++) memcpy(pixels + 3 * k, (uint8_t[]){ (uint8_t)(6 * i), (uint8_t)k, 7 }, 3);
        snprintf(name, sizeof name, "leaves/%s", i % 2 ? "healthy" : "sick leaf");
        ag_make_folder(in_folder(name));
        snprintf(name, sizeof name, "leaves/%s/%02d.png", i % 2 ? "healthy" : "sick leaf", i);
        data_image_write(in_folder(name), &image);
        snprintf(table + strlen(table), sizeof table - strlen(table), "%02d.png,%s,v%d,%.1f,%s\r\n", i,
                 i % 2 ? "healthy" : "sick leaf", i % 3, i / 2.0, i % 4 == 0 ? "wet" : i % 4 == 1 ? "dry tall" : "tall");
    }
    write_text(in_folder("table.csv"), table);
    return 0;
}

static int remove_folder(void **state)
{
    char command[300];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

/* ---- what comes out ------------------------------------------------------------------------------------ */

static void test_class_folders(void **state)
{
    (void)state;
    AG_SCOPE;
    data_loaders d = data_image_folder(in_folder("leaves"), .valid_pct = 0.25, .split_seed = 3, .loaders = { .batch = 8 });
    assert_int_equal(data_size(data_loader_set(d.train)), 30);
    assert_int_equal(data_size(data_loader_set(d.valid)), 10);
    assert_true(d.targets.n == 1 && d.targets.target[0].classes == 2);
    assert_string_equal(data_vocab_text(d.targets.target[0].vocab, 0), "healthy");
    assert_string_equal(data_vocab_text(d.targets.target[0].vocab, 1), "sick leaf");
    int64_t seen = 0;
    DATA_EACH(b, d.valid) {
        assert_true(b.x->shape[1] == 24 && b.x->shape[2] == 20 && b.y->ndim == 1);
        for (int64_t i = 0; i < b.n; i++) {
            const real red = ((const real *)b.x->data)[i * 24 * 20 * 3] * 255 / 6;
            const int picture = (int)(red + 0.5f);
            char name[16];
            snprintf(name, sizeof name, "%02d.png", picture);
            assert_non_null(strstr(data_item_path(data_loader_set(d.valid), b.row[i]), name));
            assert_int_equal(((const int64_t *)b.y->data)[i], picture % 2 ? 0 : 1);
            seen++;
        }
    }
    assert_int_equal(seen, 10);
}

static void test_a_table_of_every_kind(void **state)
{
    (void)state;
    AG_SCOPE;
    data_table *table = data_csv(in_folder("table.csv"), .index = "image_id");
    data_block leaves = data_block_new(
        .blocks = { data_image_block(), data_category_block("disease"), data_category_block("variety"),
                    data_regression_block("weight"), data_multicategory_block("tags") },
        .get_y = { data_parent_label(), data_column_label(table, "variety"), data_column_label(table, "weight"),
                   data_column_label(table, "tags") },
        .splitter = data_random_splitter(0.2, 42));
    data_loaders d = data_block_loaders(&leaves, in_folder("leaves"), .batch = 4);
    data_summary(&d);
    assert_true(d.targets.n == 4 && d.targets.target[3].classes == 3 && d.targets.target[3].column == 3);
    DATA_EACH(b, d.train)
        for (int64_t i = 0; i < b.n; i++) {
            const real *y = (const real *)b.y->data + 6 * i;
            const int picture = (int)(((const real *)b.x->data)[i * 24 * 20 * 3] * 255 / 6 + 0.5f), k = picture % 4;
            assert_true(y[0] == (picture % 2 ? 0 : 1) && y[1] == (real)(picture % 3) && y[2] == (real)(picture / 2.0));
            assert_true(y[3] == (k == 1) && y[4] == (k != 0) && y[5] == (k == 0));      /* dry, tall, wet */
        }
}

static double sum_of(int workers, bool no_cache)
{
    AG_SCOPE;
    double sum = 0;
    data_loaders d = data_image_folder(in_folder("leaves"), .item_tfms = { data_resize(22, .method = DATA_SQUISH) },
                                       .batch_tfms = data_aug_transforms(.size = 16, .min_scale = 0.5),
                                       .loaders = { .batch = 7, .seed = 5, .workers = workers,
                                                    .cache = no_cache ? NULL : "ram" });
    for (int epoch = 0; epoch < 2; epoch++)
        DATA_EACH(b, d.train)
            for (int64_t i = 0; i < ag_numel(b.x); i++) sum += (double)((const real *)b.x->data)[i] * (double)(i % 97 + 1);
    data_loader *varied = data_loader_new(data_set_varied(data_loader_set(d.valid), true), 8);
    for (int epoch = 0; epoch < 2; epoch++)
        DATA_EACH(b, varied) sum += ag_item(ag_sum(b.x)) * (epoch + 1);
    return sum;
}

static void test_workers_and_memory_change_no_bit(void **state)
{
    (void)state;
    const double one = sum_of(0, false);
    assert_true(one == sum_of(1, false) && one == sum_of(2, false) && one == sum_of(4, true) && one == sum_of(0, true));
}

static void test_varied_is_drawn_anew(void **state)
{
    (void)state;
    AG_SCOPE;
    real first[2][8];
    data_loaders d = data_image_folder(in_folder("leaves"), .batch_tfms = data_aug_transforms(.size = 16));
    data_loader *varied = data_loader_new(data_set_varied(data_loader_set(d.valid), true), 8);
    for (int epoch = 0; epoch < 2; epoch++)
        DATA_EACH(b, varied) memcpy(first[epoch], b.x->data, sizeof *first);
    assert_true(memcmp(first[0], first[1], sizeof *first) != 0);
    for (int epoch = 0; epoch < 2; epoch++)
        DATA_EACH(b, d.valid) memcpy(first[epoch], b.x->data, sizeof *first);
    assert_memory_equal(first[0], first[1], sizeof *first);
}

static void test_loose_pictures(void **state)
{
    (void)state;
    AG_SCOPE;
    const char *paths[] = { in_folder("leaves/healthy/01.png"), in_folder("leaves/sick leaf/04.png") };
    data_loaders d = data_image_folder(in_folder("leaves"), .item_tfms = { data_resize(8) });
    data_loader *l = data_test_loader(&d, paths, 2);
    DATA_EACH(b, l) {
        assert_true(b.n == 2 && !b.y && b.x->shape[1] == 8);
        assert_true((int)(((const real *)b.x->data)[8 * 8 * 3] * 255 / 6 + 0.5f) == 4);
    }
}

/* A loader that was left by break still prepares pictures of the size before. */
static void test_other_sizes_from_the_next_epoch_on(void **state)
{
    (void)state;
    for (int workers = 0; workers < 3; workers += 2) {
        AG_SCOPE;
        data_loaders d = data_image_folder(in_folder("leaves"), .batch_tfms = data_aug_transforms(.size = 8),
                                           .loaders = { .batch = 4, .workers = workers });
        data_loader *varied = data_loader_new(data_set_varied(data_loader_set(d.train), true), 4, .workers = workers);
        DATA_EACH(b, varied) break;
        DATA_EACH(b, d.train) {
            assert_int_equal(b.x->shape[1], 8);
            if (b.index == 1) data_image_size(&d, 40, 24);
        }
        assert_int_equal(data_batch_shape(d.train).dim[1], 40);
        data_loader *loaders[] = { d.train, d.valid, varied };
        for (int k = 0; k < 3; k++) DATA_EACH(b, loaders[k]) assert_true(b.x->shape[1] == 40 && b.x->shape[2] == 24);
        const char *path = in_folder("leaves/healthy/01.png");
        DATA_EACH(b, data_test_loader(&d, &path, 1)) assert_true(b.x->shape[1] == 40 && b.x->shape[2] == 24);
    }
}

/* ---- which are held out -------------------------------------------------------------------------------- */

static const char *size_class(const char *path, void *unused)
{
    (void)unused;
    return strstr(path, "/0") ? "small" : "large";
}

static int64_t held_out(data_getter label, data_splitter splitter, const char **class)
{
    data_block b = data_block_new(.blocks = { data_image_block(), data_category_block("c") }, .get_y = { label },
                                  .splitter = splitter);
    data_loaders d = data_block_loaders(&b, in_folder("leaves"), .batch = 4);
    *class = data_vocab_text(d.targets.target[0].vocab, (int64_t)data_item_target(data_loader_set(d.valid), 0, 0));
    return data_size(data_loader_set(d.valid));
}

static void test_getters_and_splitters(void **state)
{
    (void)state;
    AG_SCOPE;
    const char *class;
    const int64_t rows[] = { 5, 3 };        /* healthy/07.png (07 is the fourth), healthy/11.png */
    assert_int_equal(held_out(data_regex_label("^[0-9]([0-9])\\.png$"), data_index_splitter(rows, 2), &class), 2);
    assert_string_equal(class, "7");
    write_text(in_folder("held.txt"), "healthy/09.png\n12.png\n14.png\n");
    assert_int_equal(held_out(data_function_label(size_class, NULL), data_file_splitter(in_folder("held.txt")), &class), 3);
    assert_string_equal(class, "small");
    const data_splitter by_folder = data_grandparent_splitter("healthy", "sick leaf");
    assert_int_equal(held_out(data_function_label(size_class, NULL), by_folder, &class), PICTURES / 2);
}

typedef struct { const char *folder, *table, *column; } job;

static void open_job(void *arg)
{
    const job *j = arg;
    if (j->table) data_from_csv(j->folder, j->table, .labels = j->column);
    else data_image_folder(j->folder);
}

static void refuses(const char *in, const char *table, const char *column, const char *says)
{
    AG_SCOPE;
    job j = { in, table, column };
    if (!ag_try(open_job, &j)) fail_msg("not refused: %s", says);
    if (!strstr(ag_error(), says)) fail_msg("'%s' does not say '%s'", ag_error(), says);
}

/* ---- tables -------------------------------------------------------------------------------------------- */

static bool has_item(const data_loaders *d, const char *end)
{
    const data_set *part[] = { data_loader_set(d->train), data_loader_set(d->valid) };
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; i < data_size(part[k]); i++) {
            const char *path = data_item_path(part[k], i);
            if (!strcmp(path + strlen(path) - strlen(end), end)) return true;
        }
    return false;
}

/* One name in several folders: the row's label tells which is meant, or train_images does. */
static void test_one_name_in_several_folders(void **state)
{
    static const char *const files[] = { "many/a/000.png", "many/b/000.png", "many/test_images/001.png",
                                         "many/train_images/001.png", "many/a/002.png", "many/b/003.png", "many/a/004.png" };
    (void)state;
    for (int i = 0; i < 7; i++) {
        uint8_t pixels[12];
        const data_image image = { 2, 2, pixels };
        memset(pixels, 10 * i, sizeof pixels);
        char *path = in_folder(files[i]), *slash = strrchr(path, '/');
        *slash = 0, ag_make_folder(path), *slash = '/';
        data_image_write(path, &image);
    }
    write_text(in_folder("many.csv"), "image_id,label\n000,b\n001,a\n002,a\n003,b\n004,a\n");
    AG_SCOPE;
    data_loaders d = data_from_csv(in_folder("many"), in_folder("many.csv"), .loaders = { .batch = 1 });
    assert_true(has_item(&d, "b/000.png") && !has_item(&d, "a/000.png"));
    assert_true(has_item(&d, "train_images/001.png") && !has_item(&d, "test_images/001.png"));
    write_text(in_folder("unclear.csv"), "image_id,label\n000,c\n002,c\n");
    refuses(in_folder("many"), in_folder("unclear.csv"), "label", "1 of the 2 rows");
    refuses(in_folder("many"), in_folder("unclear.csv"), "label", "name more than one file");
}

/* ---- broken files -------------------------------------------------------------------------------------- */

static int64_t count(data_loader *l)
{
    int64_t n = 0;
    DATA_EACH(b, l) n += b.n;
    return n;
}

static void two_broken(void *unused)
{
    (void)unused;
    data_loaders d = data_image_folder(in_folder("leaves"), .loaders = { .batch = 4 });
    count(d.train);
    count(d.valid);
}

static void test_broken_files_are_left_out(void **state)
{
    (void)state;
    char first[300], second[300];
    strcpy(first, in_folder("leaves/healthy/41.png")), strcpy(second, in_folder("leaves/healthy/43.png"));
    write_text(first, "no picture");
    for (int workers = 0; workers < 3; workers += 2) {
        AG_SCOPE;
        data_loaders d = data_image_folder(in_folder("leaves"), .loaders = { .batch = 1, .workers = workers });
        assert_int_equal(count(d.train) + count(d.valid), PICTURES);
        assert_int_equal(count(d.train) + count(d.valid), PICTURES);
        assert_int_equal(data_bad_files(data_loader_set(d.train)), 1);
    }
    write_text(second, "none either");
    assert_int_equal(ag_try(two_broken, NULL), 1);
    assert_non_null(strstr(ag_error(), "2 of 42 pictures are bad"));
    assert_non_null(strstr(ag_error(), "healthy/41.png"));
    unlink(first), unlink(second);
}

/* ---- what cannot be ------------------------------------------------------------------------------------ */

static void test_refusals(void **state)
{
    (void)state;
    char leaves[300];
    strcpy(leaves, in_folder("leaves"));
    refuses(in_folder("absent"), NULL, NULL, "no such folder");
    ag_make_folder(in_folder("empty"));
    refuses(in_folder("empty"), NULL, NULL, "no pictures below");
    write_text(in_folder("twice.csv"), "image_id,label\n01.png,healthy\n01.png,healthy\n");
    refuses(leaves, in_folder("twice.csv"), "label", "1 ids stand in more than one row: \"01.png\"");
    refuses(leaves, in_folder("table.csv"), "lable", "label");
    write_text(in_folder("holes.csv"), "image_id,label\n01.png,healthy\n02.png,\n03.png,healthy\n04.png,x\n05.png,x\n06.png,x\n");
    refuses(leaves, in_folder("holes.csv"), "label", "02.png");
    AG_SCOPE;
    const ag_bytes b = ag_read_file(in_folder("table.csv"));
    char *more = ag_sprintf("%.*s99.png,healthy,v0,1,wet\r\n", (int)b.size, b.data);
    write_text(in_folder("more.csv"), more);
    ag_free(more);
    refuses(leaves, in_folder("more.csv"), "label", "1 of the 41 rows");
}

static void single(void *unused)
{
    (void)unused;
    data_image_folder(in_folder("single"));
}

static void alone(void *unused)
{
    (void)unused;
    data_image_folder(in_folder("alone"), .valid_pct = 0.5, .split_seed = 1);
}

static void test_too_few(void **state)
{
    uint8_t pixels[12] = { 0 };
    const data_image image = { 2, 2, pixels };
    (void)state;
    ag_make_folder(in_folder("single/a"));
    data_image_write(in_folder("single/a/1.png"), &image);
    assert_int_equal(ag_try(single, NULL), 1);
    assert_non_null(strstr(ag_error(), "one"));
    ag_make_folder(in_folder("alone/a")), ag_make_folder(in_folder("alone/b"));
    data_image_write(in_folder("alone/a/1.png"), &image);
    data_image_write(in_folder("alone/b/2.png"), &image);
    assert_int_equal(ag_try(alone, NULL), 1);
    assert_non_null(strstr(ag_error(), "validation"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_class_folders),        cmocka_unit_test(test_a_table_of_every_kind),
        cmocka_unit_test(test_workers_and_memory_change_no_bit), cmocka_unit_test(test_varied_is_drawn_anew),
        cmocka_unit_test(test_loose_pictures), cmocka_unit_test(test_other_sizes_from_the_next_epoch_on),
        cmocka_unit_test(test_getters_and_splitters), cmocka_unit_test(test_one_name_in_several_folders),
              cmocka_unit_test(test_broken_files_are_left_out),
        cmocka_unit_test(test_refusals),             cmocka_unit_test(test_too_few),
    };
#ifndef AG_HAVE_STB
    printf("SKIP: this build has no stb_image\n");
    return 0;
#endif
    ag_init(.seed = 1);
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
