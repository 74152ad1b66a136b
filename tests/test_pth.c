/* tests/test_pth.c - PyTorch's checkpoints: as PyTorch writes them (tests/make_pth.py), and as an enemy would. */
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
#include "agrad.h"
#include "core/io.h"
#include "core/op.h"

static char path[] = "/tmp/agrad-test-XXXXXX";

/* ---- as PyTorch writes them ---------------------------------------------------------------------------- */

static void expect(const ag_pth *f, const char *name, ag_dtype dtype, int64_t n, const double *want)
{
    AG_SCOPE;
    ag_tensor *t = ag_pth_get(f, name);
    double *got = calloc((size_t)n + 1, sizeof *got);
    assert_int_equal(t->dtype, dtype);
    assert_int_equal(ag_pth_dtype(f, name), dtype);
    assert_int_equal(ag_numel(t), n);
    ag_tensor *flat = ag_reshape(t, n);
    for (int64_t i = 0; i < n; i++) {
        got[i] = ag_at(flat, i);
        if (got[i] != (sizeof(real) == 4 ? (double)(float)want[i] : want[i]))
            fail_msg("%s[%lld]: got %.9g, want %.9g", name, (long long)i, got[i], want[i]);
    }
    free(got);
}
#define EXPECT(f, name, dtype, ...) \
    expect(f, name, dtype, sizeof (double[]){ __VA_ARGS__ } / sizeof(double), (double[]){ __VA_ARGS__ })

static void test_every_dtype_and_layout(void **state)
{
    (void)state;
    AG_SCOPE;
    const ag_pth *f = ag_pth_open("tests/fixtures/dtypes.pth");
    const double t = 1099511627776.0;
    assert_int_equal(ag_pth_count(f), 16);
    assert_string_equal(ag_pth_choice(f), "");
    EXPECT(f, "f32", AG_F32, 0, 0.25, 0.5, 0.75, 1, 1.25);
    EXPECT(f, "f64", AG_F32, 0, 1 / 3.0, 2 / 3.0, 1, 4 / 3.0, 5 / 3.0);
    EXPECT(f, "f16", AG_F32, 1, -2.5, 65504, 0x1p-24, 0.333251953125, INFINITY);
    EXPECT(f, "bf16", AG_BF16, 0, 0.5, 1, 1.5, 2, 2.5);
    EXPECT(f, "i64", AG_I64, 0, t, 2 * t, 3 * t, 4 * t, 5 * t);
    EXPECT(f, "i32", AG_I32, 0, -1, -2, -3, -4, -5);
    EXPECT(f, "i16", AG_I32, -3, -2, -1, 0, 1, 2);
    EXPECT(f, "i8", AG_I32, -3, -2, -1, 0, 1, 2);
    EXPECT(f, "u8", AG_U8, 0, 50, 100, 150, 200, 250);
    EXPECT(f, "bool", AG_U8, 0, 0, 0, 1, 1, 1);
    EXPECT(f, "scalar", AG_F32, 2.5);
    EXPECT(f, "part", AG_F32, 13, 14, 17, 18, 21, 22);
    EXPECT(f, "permuted", AG_F32, 0, 4, 8, 12, 16, 20, 1, 5, 9, 13, 17, 21, 2, 6, 10, 14, 18, 22, 3, 7, 11, 15, 19, 23);
    EXPECT(f, "parameter", AG_F32, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11);
    EXPECT(f, "7", AG_F32, 1);
    const ag_shape permuted = ag_pth_shape(f, "permuted"), none = ag_pth_shape(f, "none");
    assert_int_equal(permuted.ndim, 3);
    assert_int_equal(permuted.dim[0], 4);
    assert_int_equal(none.dim[1], 7);
    assert_int_equal(ag_numel(ag_pth_get(f, "none")), 0);
    assert_false(ag_pth_has(f, "note"));
}

static void test_the_weights_of_a_checkpoint_are_chosen(void **state)
{
    (void)state;
    AG_SCOPE;
    const ag_pth *f = ag_pth_open("tests/fixtures/nested.pth");
    assert_string_equal(ag_pth_choice(f), "'model_ema' (beside it: model, optimizer, epoch, best)");
    assert_int_equal(ag_pth_count(f), 7);
    assert_string_equal(ag_pth_name(f, 0), "0.weight");
    assert_true(fabs(ag_at(ag_pth_get(f, "0.bias"), 0) - 4) < 0.1);
}

static void load_state(void *net)
{
    nn_load(net, "tests/fixtures/state.pth");
}

static void load_nested(void *net)
{
    nn_load(net, "tests/fixtures/nested.pth");
}

static void test_modules_load_them(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *linear = nn_sequential(nn_linear(2, 3)), *both = nn_sequential(nn_linear(2, 3), nn_batch_norm1d(3));
    nn_module *other = nn_sequential(nn_linear(2, 4));
    nn_load(linear, "tests/fixtures/state.pth");
    nn_load(both, "tests/fixtures/nested.pth", .check_finite = true);
    assert_int_equal(ag_item(nn_buffer_at(both, 2)), 2);
    assert_int_equal(ag_try(load_state, both), 1);
    assert_non_null(strstr(ag_error(), "5 missing"));
    assert_non_null(strstr(ag_error(), "1.running_var  is missing in the file"));
    assert_int_equal(ag_try(load_state, other), 1);
    assert_non_null(strstr(ag_error(), "2 of another shape"));
    assert_non_null(strstr(ag_error(), "0.weight  is [3, 2] in the file, "));
    assert_int_equal(ag_try(load_nested, linear), 1);
    assert_non_null(strstr(ag_error(), "nested.pth, 'model_ema' (beside it: model, optimizer, epoch, best) does not fit"));
    assert_non_null(strstr(ag_error(), "5 unexpected"));
    nn_load(linear, "tests/fixtures/nested.pth", .skip = "1.*");
}

/* ---- numbers of another kind, NaN ---------------------------------------------------------------------- */

static nn_load_opts how;

static void load_path(void *net)
{
    ag_nn_load_(AG_HERE, net, path, how);
}

static void test_other_numbers_and_nan(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = nn_sequential(nn_linear(2, 3));
    ag_tensor *w = ag_zeros(3, 2), *b = ag_zeros(3);
    ((real *)w->data)[3] = NAN, ((real *)w->data)[4] = INFINITY;
    const ag_named integers[] = { { "0.weight", ag_cast(b, AG_I64) }, { "0.bias", ag_cast(b, AG_I32) } };
    const ag_named nan[] = { { "0.bias", ag_cast(b, AG_BF16) }, { "0.weight", w } };
    ag_safetensors_save(path, 2, integers, 0, NULL);
    assert_int_equal(ag_try(load_path, net), 1);
    assert_non_null(strstr(ag_error(), "1 of another shape, 1 of another kind of number"));
    assert_non_null(strstr(ag_error(), "0.bias  is i32[3] in the file"));
    ag_safetensors_save(path, 2, nan, 0, NULL);
    how.check_finite = true;
    assert_int_equal(ag_try(load_path, net), 1);
    assert_non_null(strstr(ag_error(), ": 2 weights in 1 tensors are NaN or infinite; the first tensor is '0.weight'"));
    assert_true(isfinite(ag_at(nn_param(net, "0.weight"), 1, 1)));
    how.check_finite = false;
    assert_int_equal(ag_try(load_path, net), 0);
    assert_true(isnan(ag_at(nn_param(net, "0.weight"), 1, 1)));
}

/* ---- as an enemy would --------------------------------------------------------------------------------- */

static void put(FILE *f, uint64_t v, int size)
{
    for (int i = 0; i < size; i++) fputc(i < 8 ? (int)(v >> 8 * i & 255) : 0, f);
}

typedef struct { const char *name, *data; int64_t size; int method; } member;

/* An archive that stores its members, without the sums nobody checks. */
static void write_archive(int n, const member *m)
{
    long at[8];
    FILE *f = fopen(path, "wb");
    for (int i = 0; i < n; i++) {
        at[i] = ftell(f);
        put(f, 0x04034b50, 4), put(f, 0, 14), put(f, (uint64_t)m[i].size, 4), put(f, (uint64_t)m[i].size, 4);
        put(f, strlen(m[i].name), 2), put(f, 0, 2);
        fwrite(m[i].name, 1, strlen(m[i].name), f);
        fwrite(m[i].data, 1, (size_t)m[i].size, f);
    }
    const long directory = ftell(f);
    for (int i = 0; i < n; i++) {
        put(f, 0x02014b50, 4), put(f, 0, 6), put(f, (uint64_t)m[i].method, 2), put(f, 0, 8);
        put(f, (uint64_t)m[i].size, 4), put(f, (uint64_t)m[i].size, 4), put(f, strlen(m[i].name), 2), put(f, 0, 12);
        put(f, (uint64_t)at[i], 4);
        fwrite(m[i].name, 1, strlen(m[i].name), f);
    }
    const long end = ftell(f);
    put(f, 0x06054b50, 4), put(f, 0, 4), put(f, (uint64_t)n, 2), put(f, (uint64_t)n, 2);
    put(f, (uint64_t)(end - directory), 4), put(f, (uint64_t)directory, 4), put(f, 0, 2);
    fclose(f);
}

static const float six[6] = { 0, 1, 2, 3, 4, 5 };

/* Whatever it is: every tensor of it is read. */
static void read_all(void *file)
{
    AG_SCOPE;
    const ag_pth *f = ag_pth_open(file);
    for (int64_t i = 0; i < ag_pth_count(f); i++) {
        AG_SCOPE;
        ag_tensor *t = ag_pth_get(f, ag_pth_name(f, i));
        assert_true(ag_numel(t) >= 0);
    }
}

static void reads_archive(int n, const member *m, const char *why)
{
    write_archive(n, m);
    const int failed = ag_try(read_all, path);
    if (!why && failed) fail_msg("refused: %s", ag_error());
    if (why && !failed) fail_msg("accepted; should say '%s'", why);
    if (why && !strstr(ag_error(), why)) fail_msg("says '%s', not '%s'", ag_error(), why);
    if (why && !strstr(ag_error(), path)) fail_msg("does not name the file: %s", ag_error());
}

static void reads(const char *pickle, size_t size, const char *why)
{
    const member data = { "x/data.pkl", pickle, (int64_t)size, 0 }, zero = { "x/data/0", (const char *)six, sizeof six, 0 };
    reads_archive(2, (member[]){ data, zero }, why);
}
#define ACCEPTS(pickle) reads(pickle, sizeof(pickle) - 1, NULL)
#define REJECTS(pickle, why) reads(pickle, sizeof(pickle) - 1, why)

#define PICKLE(body) "\x80\x02" body "."
#define STORAGE(type, key, count) "(U\7storagectorch\n" type "\nU\1" key "U\3cpu" count "tQ"
#define REBUILD(storage, layout) "ctorch._utils\n_rebuild_tensor_v2\n(" storage layout "\x89}tR"
#define TENSOR(layout) REBUILD(STORAGE("FloatStorage", "0", "K\6"), layout)
#define DICT(tensor) PICKLE("}U\1a" tensor "s")
#define LARGE "\x8a\10\377\377\377\377\377\377\377\177"

static void test_pickles_of_tensors(void **state)
{
    (void)state;
    ACCEPTS(DICT(TENSOR("K\0K\6\x85K\1\x85")));
    ACCEPTS(DICT(TENSOR("K\1K\2K\2\x86K\2K\1\x86")));
    ACCEPTS(DICT(TENSOR("K\5))")));
    ACCEPTS(DICT(TENSOR("K\0K\0K\7\x86" LARGE "K\1\x86")));
    ACCEPTS(PICKLE(TENSOR("K\0K\6\x85K\1\x85")));
    ACCEPTS(PICKLE("]" TENSOR("K\0K\6\x85K\1\x85") "a"));
    REJECTS(DICT(TENSOR("K\1K\6\x85K\1\x85")), "reaches beyond its storage of 6");
    REJECTS(DICT(TENSOR("K\0K\2K\3\x86K\4K\1\x86")), "reaches beyond");
    REJECTS(DICT(TENSOR("K\0K\7\x85K\0\x85")), "more than once");
    REJECTS(DICT(TENSOR("K\0" LARGE LARGE "\x86" LARGE "K\1\x86")), "reaches beyond");
    REJECTS(DICT(TENSOR(LARGE "K\2\x85" LARGE "\x85")), "reaches beyond");
    REJECTS(DICT(TENSOR("K\0J\377\377\377\377\x85K\1\x85")), "reaches beyond");
    REJECTS(DICT(TENSOR("J\377\377\377\377K\1\x85K\1\x85")), "reaches beyond");
    REJECTS(DICT(TENSOR("K\0K\6\x85K\1K\1\x86")), "reaches beyond");
    REJECTS(DICT(TENSOR("K\0U\1a\x85K\1\x85")), "reaches beyond");
    REJECTS(DICT(TENSOR("K\0(K\1K\1K\1K\1K\1K\1K\1t(K\1K\1K\1K\1K\1K\1K\1t")), "7 axes");
    REJECTS(DICT(REBUILD(STORAGE("FloatStorage", "0", "K\7"), "K\0K\6\x85K\1\x85")), "needs 7 numbers of data/0");
    REJECTS(DICT(REBUILD(STORAGE("DoubleStorage", "0", "K\4"), "K\0K\4\x85K\1\x85")), "needs 4 numbers");
    REJECTS(DICT(REBUILD(STORAGE("FloatStorage", "1", "K\6"), "K\0K\6\x85K\1\x85")), "data/1, which the archive does not have");
    REJECTS(DICT(REBUILD("K\1", "K\0K\6\x85K\1\x85")), "no storage");
    REJECTS(DICT("ctorch._utils\n_rebuild_tensor_v2\n)R"), "'a' is no tensor");
    REJECTS(PICKLE("}(U\1a" TENSOR("K\0K\6\x85K\1\x85") "U\1a" TENSOR("K\0K\6\x85K\1\x85") "u"), "there twice");
    REJECTS(PICKLE("}U\2\377a" TENSOR("K\0K\6\x85K\1\x85") "s"), "not UTF-8");
    REJECTS(PICKLE("}"), "holds no tensors");
}

static void test_pickles_that_want_more(void **state)
{
    (void)state;
    REJECTS(PICKLE("cos\nsystem\nU\2ls\x85R"), "the pickle wants to call os.system; only tensors are read");
    REJECTS(PICKLE("cbuiltins\neval\nU\1" "1\x85R"), "builtins.eval");
    REJECTS(PICKLE("ctorch\nload\nU\1f\x85R"), "torch.load");
    REJECTS(PICKLE("ctorch\nFloatStorage\nK\1\x85R"), "wants to call torch.FloatStorage");
    REJECTS(PICKLE("cos\033[2J\nsystem\n"), "os?[2J.system");
    REJECTS(PICKLE("c!torch._utils\n_rebuild_tensor_v2\n"), "wants to call !torch");
    REJECTS(PICKLE("K\1K\2\x85R"), "calls what is not a function");
    REJECTS(PICKLE("K\1}b"), "wants to set attributes of a value");
    REJECTS(DICT(TENSOR("K\0K\6\x85K\1\x85") "}b"), "attributes of torch._utils._rebuild_tensor_v2");
    REJECTS(PICKLE("ccollections\nOrderedDict\n]\x85R"), "OrderedDict with arguments");
    REJECTS("\x80\4\x8c\2os\x8c\6system\x93.", "protocol 4");
    REJECTS(PICKLE("\x8c\2os"), "opcode 0x8c");
    REJECTS(PICKLE("I1\n"), "opcode 0x49");
    REJECTS(PICKLE("ios\nsystem\n"), "opcode 0x69");
}

static void test_broken_pickles(void **state)
{
    (void)state;
    REJECTS("", "middle of a value");
    REJECTS("\x80\2", "middle of a value");
    REJECTS("\x80\2N", "middle of a value");
    REJECTS("\x80\2cos", "a name does not end");
    REJECTS("\x80\2X\377\377\377\377ab", "middle of a value");
    REJECTS(PICKLE(""), "ends with 0 values");
    REJECTS(PICKLE("NN"), "ends with 2 values");
    REJECTS(PICKLE("(N"), "ends with 1 values");
    REJECTS(PICKLE("t"), "a group ends");
    REJECTS(PICKLE("N\x86"), "takes a value where none is");
    REJECTS(PICKLE("(\x85"), "takes a value where none is");
    REJECTS(PICKLE("NR"), "takes a value where none is");
    REJECTS(PICKLE("s"), "a dict's key without a value");
    REJECTS(PICKLE("}(NNs"), "fills a dict where none is");
    REJECTS(PICKLE("}(Nu"), "key without a value");
    REJECTS(PICKLE("NNNs"), "fills a dict where none is");
    REJECTS(PICKLE("NNa"), "fills a list where none is");
    REJECTS(PICKLE("Na"), "fills a list where none is");
    REJECTS(PICKLE("q\0"), "remembers a value where none is");
    REJECTS(PICKLE("h\0"), "was not there");
    REJECTS(PICKLE("Nr\377\377\377\177"), "a memo of");
    REJECTS(PICKLE("\x8a\11" "123456789"), "9 bytes");
    REJECTS(PICKLE("}q\0U\1ah\0s"), "one holds itself");
    REJECTS(PICKLE("]q\0(h\0h\0h\0h\0h\0e"), "one holds itself");
}

/* Lists of the list before, ten times over: 10^12 values in a few bytes. */
static void test_a_pickle_that_unfolds(void **state)
{
    (void)state;
    char pickle[1024], *p = pickle;
    p += sprintf(p, "\x80\2(]q%c", 1);
    for (int level = 2; level < 14; level++) {
        p += sprintf(p, "](");
        for (int i = 0; i < 10; i++) p += sprintf(p, "h%c", level - 1);
        p += sprintf(p, "eq%c", level);
    }
    p += sprintf(p, "t.");
    reads(pickle, (size_t)(p - pickle), "one holds itself");
}

static void test_archives(void **state)
{
    (void)state;
    const char pickle[] = DICT(TENSOR("K\0K\6\x85K\1\x85"));
    const member data = { "x/data.pkl", pickle, sizeof pickle - 1, 0 }, zero = { "x/data/0", (const char *)six, sizeof six, 0 };
    const member packed = { "x/data/0", (const char *)six, sizeof six, 8 }, big = { "x/byteorder", "big", 3, 0 };
    const member deep = { "x/y/data.pkl", pickle, sizeof pickle - 1, 0 };
    reads_archive(2, (member[]){ data, zero }, NULL);
    reads_archive(2, (member[]){ data, packed }, "is compressed");
    reads_archive(3, (member[]){ data, zero, big }, "another byte order");
    reads_archive(3, (member[]){ data, zero, zero }, "two entries have one name");
    reads_archive(2, (member[]){ deep, zero }, "no data.pkl");
    assert_int_equal(ag_try(read_all, "tests/fixtures/system.pth"), 1);
    assert_non_null(strstr(ag_error(), ".system; only tensors are read"));
    assert_int_equal(ag_try(read_all, "tests/fixtures/add.safetensors"), 1);
    assert_non_null(strstr(ag_error(), "is not a PyTorch checkpoint"));
}

static void write_bytes(const char *data, size_t n)
{
    unlink(path);               /* a new file: some systems wait for the disk when an old one is overwritten */
    FILE *f = fopen(path, "wb");
    fwrite(data, 1, n, f);
    fclose(f);
}

/* As torch.save wrote before 1.6; damaged and cut in every place. */
static void test_before_1_6(void **state)
{
    (void)state;
    AG_SCOPE;
    const ag_bytes whole = ag_read_file("tests/fixtures/legacy.pth");
    const ag_pth *f = ag_pth_open("tests/fixtures/legacy.pth");
    const ag_tensor *a = ag_pth_get(f, "a");
    assert_true(ag_pth_count(f) == 1 && a->ndim == 1 && a->shape[0] == 2);
    assert_true(ag_real(a)[0] == 1 && ag_real(a)[1] == 1);
    char *copy = ag_alloc(whole.size, 1);
    ag_defer(ag_free, copy);
    for (int64_t n = 0; n < whole.size; n++) {
        write_bytes(whole.data, (size_t)n);
        assert_int_equal(ag_try(read_all, path), 1);
        memcpy(copy, whole.data, (size_t)whole.size);
        copy[n] = (char)(copy[n] ^ 0x41);
        write_bytes(copy, (size_t)whole.size);
        ag_try(read_all, path);
    }
}

/* ---- every byte of a good file changed, and the file cut everywhere ------------------------------------- */

static void damage(const char *fixture)
{
    static const unsigned char flips[] = { 0xff, 1, 0x80, 0x10 };
    char bytes[8192];
    FILE *f = fopen(fixture, "rb");
    const size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_true(n < sizeof bytes);
    int refused = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < sizeof flips; k++) {
            bytes[i] ^= (char)flips[k];
            write_bytes(bytes, n);
            refused += ag_try(read_all, path);
            bytes[i] ^= (char)flips[k];
        }
        write_bytes(bytes, i);
        if (!ag_try(read_all, path)) fail_msg("%s cut to %zu bytes was accepted", fixture, i);
    }
    print_message("%s: %d of %zu changes refused\n", fixture, refused, n * sizeof flips);
    assert_true(refused > 0);
}

static void test_damaged_files_are_survived(void **state)
{
    (void)state;
    damage("tests/fixtures/state.pth");
    damage("tests/fixtures/dtypes.pth");
}

int main(void)
{
    close(mkstemp(path));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_dtype_and_layout),
        cmocka_unit_test(test_the_weights_of_a_checkpoint_are_chosen),
        cmocka_unit_test(test_modules_load_them),
        cmocka_unit_test(test_other_numbers_and_nan),
        cmocka_unit_test(test_pickles_of_tensors),
        cmocka_unit_test(test_pickles_that_want_more),
        cmocka_unit_test(test_broken_pickles),
        cmocka_unit_test(test_a_pickle_that_unfolds),
        cmocka_unit_test(test_archives), cmocka_unit_test(test_before_1_6),
        cmocka_unit_test(test_damaged_files_are_survived),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
