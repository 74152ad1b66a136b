/* tests/test_safetensors.c - round trips, and files as an enemy would write them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "agrad.h"
#include "core/io.h"
#include "core/safetensors.h"

static char path[] = "/tmp/agrad-test-XXXXXX";

static void write_file(const char *header, int64_t claimed, int64_t data)
{
    AG_SCOPE;
    const uint64_t n = claimed < 0 ? strlen(header) : (uint64_t)claimed;
    ag_file *f = ag_file_create(path);
    ag_file_write(f, &n, 8);
    ag_file_write(f, header, (int64_t)strlen(header));
    for (int64_t i = 0; i < data; i++) ag_file_write(f, "\0", 1);
    ag_file_commit(f);
}

static void open_it(void *unused)
{
    (void)unused;
    AG_SCOPE;
    ag_safetensors_open(path);
}

static void rejects(const char *header, int64_t data, const char *why)
{
    write_file(header, -1, data);
    if (!ag_try(open_it, NULL)) fail_msg("accepted: %s", header);
    if (!strstr(ag_error(), why)) fail_msg("%s: says '%s', not '%s'", header, ag_error(), why);
    if (!strstr(ag_error(), path)) fail_msg("does not name the file: %s", ag_error());
}

static void accepts(const char *header, int64_t data)
{
    write_file(header, -1, data);
    if (ag_try(open_it, NULL)) fail_msg("rejected: %s: %s", header, ag_error());
}

#define T(name, dtype, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void test_the_invariants(void **state)
{
    (void)state;
    accepts("{}", 0);
    accepts("{}   ", 0);
    accepts("{" T("a", "F32", "[2]", "0", "8") "}", 8);
    accepts("{" T("b", "F32", "[1]", "4", "8") "," T("a", "U8", "[4]", "0", "4") "}", 8);
    accepts("{" T("none", "F32", "[0,7]", "0", "0") "," T("scalar", "F32", "[]", "0", "4") "}", 4);
    accepts("{\"__metadata__\":{\"k\":\"v\"}}", 0);
    accepts("{\"__metadata__\":null}", 0);
    accepts("{" T("a", "F8_E8M0", "[3]", "0", "3") "," T("b", "F4", "[2]", "3", "4") "}", 4);
    rejects("{}x", 0, "follows the closing brace");
    rejects("", 0, "does not begin");
    rejects(" {}", 0, "does not begin");
    rejects("[]", 0, "does not begin");
    rejects("{\"a\xff\":1}", 0, "not UTF-8");
    rejects("{\"a\xc0\x80\":1}", 0, "not UTF-8");
    rejects("{" T("a", "F32", "[1]", "0", "4") "," T("a", "F32", "[1]", "4", "8") "}", 8, "there twice");
    rejects("{" T("a", "F32", "[1]", "0", "4") "," T("\\u0061", "F32", "[1]", "4", "8") "}", 8, "there twice");
    rejects("{\"__metadata__\":{\"k\":1}}", 0, "expected '\"'");
    rejects("{\"__metadata__\":{\"k\":\"v\",\"k\":\"w\"}}", 0, "twice");
    rejects("{" T("a", "F32", "[1]", "0", "4") "," T("b", "F32", "[1]", "2", "6") "}", 6, "begins at byte 2");
    rejects("{" T("a", "F32", "[1]", "0", "4") "," T("b", "F32", "[1]", "5", "9") "}", 9, "begins at byte 5");
    rejects("{" T("a", "F32", "[1]", "4", "8") "}", 8, "begins at byte 4");
    rejects("{" T("a", "F32", "[1]", "0", "4") "}", 8, "truncated or was appended");
    rejects("{" T("a", "F32", "[2]", "0", "8") "}", 4, "truncated or was appended");
    rejects("{" T("a", "F32", "[1]", "4", "0") "}", 4, "do not fit");
    rejects("{" T("a", "F32", "[3]", "0", "8") "}", 8, "needs 12 bytes");
    rejects("{" T("a", "F32", "[4294967296,4294967296]", "0", "0") "}", 0, "do not fit");
    rejects("{" T("a", "F32", "[4294967296,4294967296,0]", "0", "0") "}", 0, "do not fit");
    rejects("{" T("a", "F4", "[3]", "0", "1") "}", 1, "do not fit");
    rejects("{" T("a", "F32", "[-1]", "0", "4") "}", 4, "whole number");
    rejects("{" T("a", "F32", "[1.0]", "0", "4") "}", 4, "whole number");
    rejects("{" T("a", "F32", "[01]", "0", "4") "}", 4, "whole number");
    rejects("{" T("a", "F32", "[99999999999999999999]", "0", "4") "}", 4, "63 bits");
    rejects("{" T("a", "F31", "[1]", "0", "4") "}", 4, "unknown dtype");
    rejects("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "lacks");
    rejects("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "twice");
    rejects("{\"a", 0, "does not end");
    rejects("{\"a\\u00", 0, "hexadecimal");
    rejects("{\"\\ud800\":1}", 0, "surrogate");
    rejects("{\"a\\u0000\":1}", 0, "NUL");
}

static void test_lengths(void **state)
{
    (void)state;
    const int64_t claims[] = { 3, 100000001, INT64_MAX, -9 };
    for (int i = 0; i < 4; i++) {
        write_file("{}", i == 3 ? (int64_t)0xf000000000000000u & INT64_MAX : claims[i], 0);
        assert_int_equal(ag_try(open_it, NULL), 1);
    }
    ag_scope s = ag_scope_begin();
    ag_file *f = ag_file_create(path);
    ag_file_write(f, "short", 5);
    ag_file_commit(f);
    ag_scope_end(&s);
    assert_int_equal(ag_try(open_it, NULL), 1);
    assert_non_null(strstr(ag_error(), "5 bytes"));
}

/* Fields that a later version may add are skipped, as the reference does, when they are JSON and not too deep. */
static void test_unknown_fields(void **state)
{
    (void)state;
    const char *good[] = { "null", "true", "-0", "1.5e-3", "\"\\u00e9\"", "[]", "{}", "[[],{},1]",
                           "{\"b\":[1,{\"c\":\"d\"}],\"e\":false}" };
    const char *bad[] = { "", "nul", "01", "1.", "1e", "-", "+1", "[1,]", "{\"b\"}", "{1:2}", "[}", "]", "\"\\ud800\"" };
    char header[1024], deep[300];
    const char *format = "{\"a\":{\"dtype\":\"F32\",\"x\":%s,\"shape\":[1],\"data_offsets\":[0,4]}}";
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        snprintf(header, sizeof header, format, good[i]);
        accepts(header, 4);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(header, sizeof header, format, bad[i]);
        rejects(header, 4, "header byte");
    }
    for (int depth = 125; depth <= 126; depth++) {
        memset(deep, '[', (size_t)depth);
        memset(deep + depth, ']', (size_t)depth);
        deep[2 * depth] = 0;
        snprintf(header, sizeof header, format, deep);
        if (depth == 125) accepts(header, 4);
        else rejects(header, 4, "brackets");
    }
}

/* 200,000 entries of metadata in the time of a sort, not of all pairs; the repeated one is found. */
static void test_much_metadata(void **state)
{
    (void)state;
    enum { N = 200000, ROOM = 24 };
    char *header = malloc(N * ROOM + 64), *p = header + sprintf(header, "{\"__metadata__\":{");
    for (int i = 0; i < N; i++) p += sprintf(p, "\"%d\":\"%d\",", i, -i);
    strcpy(p - 1, "}}");
    accepts(header, 0);
    AG_SCOPE;
    assert_string_equal(ag_safetensors_meta(ag_safetensors_open(path), "123456"), "-123456");
    strcpy(p - 1, ",\"77\":\"\"}}");
    rejects(header, 0, "has '77' twice");
    free(header);
}

/* A hundred thousand opening brackets need no stack. */
static void test_depth_needs_no_stack(void **state)
{
    (void)state;
    char *deep = calloc(1, 100002);
    deep[0] = '{';
    memset(deep + 1, '[', 100000);
    rejects(deep, 0, "expected '\"'");
    free(deep);
}

static void save_and_read(void *unused)
{
    (void)unused;
    AG_SCOPE;
    ag_tensor *a = ag_randn(3, 4), *ids = ag_arange(5), *half = ag_cast(a, AG_BF16), *turned = ag_transpose(a, 0, 1);
    const ag_named all[] = { { "layer.weight", a }, { "ids", ids }, { "h\"alf", half }, { "turned", turned } };
    const ag_meta meta[] = { { "epoch", "3" }, { "text", "quote \" newline \n end" } };
    ag_safetensors_save(path, 4, all, 2, meta);
    const ag_safetensors *f = ag_safetensors_open(path);
    assert_int_equal(ag_safetensors_count(f), 4);
    assert_string_equal(ag_safetensors_name(f, 0), "layer.weight");
    assert_string_equal(ag_safetensors_meta(f, "text"), "quote \" newline \n end");
    assert_null(ag_safetensors_meta(f, "nothing"));
    const ag_tensor *b = ag_safetensors_get(f, "layer.weight"), *t = ag_safetensors_get(f, "turned");
    assert_memory_equal(a->data, b->data, 12 * sizeof(real));
    assert_int_equal(t->shape[0], 4);
    assert_true(ag_at(t, 3, 1) == ag_at(a, 1, 3));
    assert_int_equal(ag_safetensors_get(f, "h\"alf")->dtype, AG_BF16);
    assert_true(ag_at(ag_safetensors_get(f, "ids"), 4) == 4);
    ag_print(ag_safetensors_get(f, "layer.wieght"));
}

static void test_round_trip_and_nearest_name(void **state)
{
    (void)state;
    assert_int_equal(ag_try(save_and_read, NULL), 1);
    assert_non_null(strstr(ag_error(), "no tensor 'layer.wieght'; the nearest of its 4 is 'layer.weight'"));
}

/* A half is read as PyTorch reads it: 1.5, -2, the smallest subnormal, infinity. */
static void test_half_precision(void **state)
{
    (void)state;
    AG_SCOPE;
    const char *header = "{" T("h", "F16", "[4]", "0", "8") "}";
    const uint64_t n = strlen(header);
    const uint16_t h[4] = { 0x3e00, 0xc000, 0x0001, 0x7c00 };
    ag_file *f = ag_file_create(path);
    ag_file_write(f, &n, 8);
    ag_file_write(f, header, (int64_t)n);
    ag_file_write(f, h, 8);
    ag_file_commit(f);
    const ag_tensor *t = ag_safetensors_get(ag_safetensors_open(path), "h");
    assert_true(ag_at(t, 0) == 1.5 && ag_at(t, 1) == -2 && ag_at(t, 2) == 0x1p-24 && ag_at(t, 3) > 1e30);
}

/* Without a commit, and where there is no room, the old file stays. */
static void write_too_much(void *unused)
{
    (void)unused;
    AG_SCOPE;
    ag_file *f = ag_file_create(path);
    ag_file_write(f, "half", 4);
    ag_fail("test.c:1", "stop");
}

static void test_old_file_survives(void **state)
{
    (void)state;
    write_file("{}", -1, 0);
    assert_int_equal(ag_try(write_too_much, NULL), 1);
    AG_SCOPE;
    assert_int_equal(ag_read_file(path).size, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_invariants),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_unknown_fields),
        cmocka_unit_test(test_much_metadata),
        cmocka_unit_test(test_depth_needs_no_stack),
        cmocka_unit_test(test_round_trip_and_nearest_name),
        cmocka_unit_test(test_half_precision),
        cmocka_unit_test(test_old_file_survives),
    };
    close(mkstemp(path));
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
