/* Categories: codes and vocabularies of every type, unknown values, saving and restoring. Values by hand. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/memory.h"
#include "data/data.h"

static char folder[] = "/tmp/agrad_vocab_XXXXXX";
static char path[64];

static const char *file_of(const char *bytes, size_t size)
{
    snprintf(path, sizeof path, "%s/t.csv", folder);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
    return path;
}
static const char *file(const char *text) { return file_of(text, strlen(text)); }

static void categorify_negative(void *t) { data_categorify((data_table *)t, "n"); }
static void categorify_unknown(void *arg)
{
    void **v = arg;
    data_categorify((data_table *)v[0], "t", .vocab = v[1]);
}

static void test_categories(void **state)
{
    (void)state;
    AG_SCOPE;
    const char *text = "n,t,f,w\n10,b,2.5,9000000000000000000\n9,,1.5,5\n10,a,,5\n100,B,2.5,7\n";
    data_table *t = data_csv(file(text));
    assert_int_equal(data_categorify(t, "n"), 4);           /* #na#, 9, 10, 100: by number, not by text */
    assert_int_equal(data_categorify(t, "t"), 4);           /* #na#, B, a, b: by bytes */
    assert_int_equal(data_categorify(t, "f"), 3);
    assert_int_equal(data_categorify(t, "w"), 4);           /* far apart: through the hash */
    assert_memory_equal(data_codes(t, "n"), ((int32_t[]){ 2, 1, 2, 3 }), 16);
    assert_memory_equal(data_codes(t, "t"), ((int32_t[]){ 3, 0, 2, 1 }), 16);
    assert_memory_equal(data_codes(t, "f"), ((int32_t[]){ 2, 1, 0, 2 }), 16);
    assert_memory_equal(data_codes(t, "w"), ((int32_t[]){ 3, 1, 1, 2 }), 16);
    assert_string_equal(data_vocab_text(data_vocab_of(t, "n"), 3), "100");
    assert_string_equal(data_vocab_text(data_vocab_of(t, "t"), 0), "#na#");
    assert_int_equal(data_vocab_find(data_vocab_of(t, "n"), "10"), 2);
    assert_int_equal(data_vocab_find(data_vocab_of(t, "n"), "11"), 0);
    assert_int_equal(data_vocab_find(data_vocab_of(t, "f"), "2.50"), 2);
    assert_string_equal(data_cell(t, 0, "n"), "10");
    data_table *part = data_csv(file(text));                /* from the training rows 1 and 2 only */
    assert_int_equal(data_categorify(part, "n", .rows = ((int64_t[]){ 1, 2 }), .n_rows = 2), 3);
    assert_memory_equal(data_codes(part, "n"), ((int32_t[]){ 2, 1, 2, 0 }), 16);
    data_table *labels = data_csv(file("t,v\nx,1\ny,2\nx,3\n"));
    assert_int_equal(data_categorify(labels, "t", .no_na = true), 2);
    assert_memory_equal(data_codes(labels, "t"), ((int32_t[]){ 0, 1, 0 }), 12);
    void *args[] = { data_csv(file("t,v\ny,1\nz,2\n")), data_vocab_of(labels, "t") };
    assert_int_equal(ag_try(categorify_unknown, args), 1);
    assert_non_null(strstr(ag_error(), "t.csv:3:1 (t): \"z\" is not among the 2 categories"));
    assert_int_equal(ag_try(categorify_negative, data_csv(file("n,v\n5,1\n-3,2\n"))), 1);
    assert_non_null(strstr(ag_error(), "t.csv:3:1 (n): -3 is negative"));
}

static void load_vocab(void *text)
{
    data_vocab *v = data_vocab_load((const char *)text);
    (void)v;
}

static void test_vocab_text(void **state)
{
    (void)state;
    AG_SCOPE;
    data_table *t = data_csv(file("n,t,f\n3,\"a\nb\",0.1\n1,c\\d,2\n"));
    const char *const columns[] = { "n", "t", "f" };
    const char *const want[] = { "int\n1\n3\n", "text\na\\nb\nc\\\\d\n", "float\n0.1\n2\n" };
    for (int k = 0; k < 3; k++) {
        data_categorify(t, columns[k]);
        char *saved = data_vocab_save(data_vocab_of(t, columns[k]));
        assert_string_equal(saved, want[k]);
        const data_vocab *v = data_vocab_load(saved);
        char *again = data_vocab_save(v);
        assert_string_equal(again, saved);
        assert_int_equal(data_vocab_size(v), 3);
        assert_int_equal(data_vocab_find(v, data_vocab_text(v, 2)), 2);
        ag_free(saved);
        ag_free(again);
    }
    data_table *fresh = data_csv(file("n,t\n1,x\n7,y\n3,z\n"));
    assert_int_equal(data_categorify(fresh, "n", .vocab = data_vocab_load("int\n1\n3\n")), 3);
    assert_memory_equal(data_codes(fresh, "n"), ((int32_t[]){ 1, 0, 2 }), 12);
    static const char *const bad[] = {
        "",         "int",          "words\na\n",   "int\n3\n1\n", "int\n1\n1\n",
        "int\nx\n", "text\nb\na\n", "text\na\\x\n", "int\n1"
    };
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        assert_int_equal(ag_try(load_vocab, (void *)(uintptr_t)bad[k]), 1);
        assert_non_null(strstr(ag_error(), "of the vocabulary is damaged"));
    }
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "%s/t.csv", folder);
    unlink(path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_categories),
        cmocka_unit_test(test_vocab_text),
    };
    return cmocka_run_group_tests_name("vocab", tests, make_folder, remove_folder);
}
