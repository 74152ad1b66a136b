/* Tables: reading files of every shape, the errors, dictionaries, joins. Expected values by hand
 * or from Python's csv module and float(). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/memory.h"
#include "data/data.h"

static char folder[] = "/tmp/agrad_csv_XXXXXX";
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

/* A table as one line: "name:type=cell,cell;name:..." */
static const char *shown(const data_table *t)
{
    static char out[4096];
    static const char types[] = "iftc";
    char *o = out, *end = out + sizeof out;
    for (int c = 0; c < data_columns(t); c++) {
        const char *name = data_column_name(t, c);
        o += snprintf(o, (size_t)(end - o), "%s%s:%c=", c ? ";" : "", name, types[data_column_type(t, name)]);
        for (int64_t r = 0; r < data_rows(t); r++)
            o += snprintf(o, (size_t)(end - o), "%s%s", r ? "," : "", data_cell(t, r, name));
    }
    return out;
}

/* ---- what is read -------------------------------------------------------------------------------------- */

static void test_shapes(void **state)
{
    (void)state;
    static const struct { const char *text, *names, *want;
    } cases[] = {
        { "a,b\n1,2\n3,4\n", NULL, "a:i=1,3;b:i=2,4" },
        { "a,b\r\n1,2\r\n3,4\r\n", NULL, "a:i=1,3;b:i=2,4" },
        { "\xEF\xBB\xBF"
          "a,b\n1,2\n",
          NULL, "a:i=1;b:i=2" },
        { "1\t2\t3.5\n4\t5\t6\n", "u,i,r", "u:i=1,4;i:i=2,5;r:f=3.5,6" },
        { "1\t2\n3\t4", NULL, "0:i=1,3;1:i=2,4" }, /* no header, no last line end */
        { "1::Toy Story: A Tale (1995)::Kids|Fun\n2::b::c\n", "id,title,genre",
          "id:i=1,2;title:t=Toy Story: A Tale (1995),b;genre:t=Kids|Fun,c" },
        { "1|\"Great\" Cats|\n2|x|\n", NULL, "0:i=1,2;1:t=\"Great\" Cats,x;2:t=," },
        { "a;b\n1,5;x\n", NULL, "a:t=1,5;b:t=x" },
        { "id,title\n1,\"Shawshank, The\"\n2,\"say \"\"hi\"\"\"\n3,\"two\nlines\"\n4,\"\"\n", NULL,
          "id:i=1,2,3,4;title:t=Shawshank, The,say \"hi\",two\nlines," },
        { "id,v\n1,\"2\"\n\"3\",4\n", NULL, "id:i=1,3;v:i=2,4" },
        { "a,b\n\n1,2\n\n\n3,4\n\n", NULL, "a:i=1,3;b:i=2,4" }, /* blank lines */
        { "a,b\n1,\n,2\n", NULL, "a:f=1,;b:f=,2" },             /* missing cells */
        { "a,b\n 1, 2 \n3,4\n", NULL, "a:i=1,3;b:i=2,4" },
        { "a,b\nx,1\ny,2\n", "p,q", "p:t=x,y;q:i=1,2" }, /* a header, renamed */
        { "x\ny\nz\n", NULL, "x:t=y,z" },
        { "v\n5\n", NULL, "v:i=5" },
        { "1,2,3\n", "a,*", "a:i=1;1:i=2;2:i=3" },
        { "-5,+7,-0\n", NULL, "0:i=-5;1:i=7;2:i=0" },
        { "a,b\n1,x\n2.5,y\n", NULL, "a:f=1,2.5;b:t=x,y" },
        { "9223372036854775807,-9223372036854775808\n", NULL,
          "0:i=9223372036854775807;1:i=-9223372036854775808" },
        { "a,b\n0x10,1\n", NULL, "a:t=0x10;b:i=1" },
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        AG_SCOPE;
        data_table *t = data_csv(file(cases[k].text), .names = cases[k].names);
        assert_string_equal(shown(t), cases[k].want);
    }
}

static void test_encodings(void **state)
{
    (void)state;
    AG_SCOPE;
    assert_string_equal(shown(data_csv(file("t,n\nMis\xE9rables,1\nNi\xF1o,2\n"))),
                        "t:t=Mis\xC3\xA9rables,Ni\xC3\xB1o;n:i=1,2");
    assert_string_equal(shown(data_csv(file("t,n\nMis\xC3\xA9rables,1\n\xE2\x82\xAC,2\n"))),
                        "t:t=Mis\xC3\xA9rables,\xE2\x82\xAC;n:i=1,2");
    assert_string_equal(shown(data_csv(file("t,n\n\xC3\xA9,1\n"), .encoding = "latin-1")),
                        "t:t=\xC3\x83\xC2\xA9;n:i=1");
    assert_string_equal(shown(data_csv(file("n,titr\xE9\n1,\xFF\n"))), "n:i=1;titr\xC3\xA9:t=\xC3\xBF");
}

static void test_decimals(void **state)         /* correctly rounded: Python's float() */
{
    (void)state;
    AG_SCOPE;
    static const struct { const char *text; double want;
    } cases[] = {
        { "0.1", 0x1.999999999999ap-4 },
        { "3.5", 3.5 },
        { "-2.25", -2.25 },
        { "1e3", 1000 },
        { "1E-2", 0x1.47ae147ae147bp-7 },
        { "123456789012345678", 0x1.b69b4ba630f35p+56 },
        { "0.30000000000000004", 0x1.3333333333334p-2 },
        { "9007199254740993.0", 0x1p+53 },
        { "2.2250738585072011e-308", 0x0.fffffffffffffp-1022 },
        { "1.7976931348623157e308", 0x1.fffffffffffffp+1023 },
        { "1e-400", 0 },
        { ".5", 0.5 },
        { "5.", 5 },
        { "-0.0", -0.0 },
        { "0.000000000000000000000000000001", 0x1.4484bfeebc2a0p-100 },
        { "100000000000000000000000", 0x1.52d02c7e14af6p+76 },
    };
    char text[2048] = "v\n0.5\n";
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) strcat(strcat(text, cases[k].text), "\n");
    const char *const locales[] = { "C", "de_DE.UTF-8" };
    for (int l = 0; l < 2; l++) {
        setlocale(LC_ALL, locales[l]);
        const double *v = data_floats(data_csv(file(text)), "v");
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
            if (memcmp(&v[k + 1], &cases[k].want, 8))
                fail_msg("%s: %a, not %a", cases[k].text, v[k + 1], cases[k].want);
    }
    setlocale(LC_ALL, "C");
    /* 1 + 2^-53 + a digit beyond the 700th: more than half-way, so up */
    char longest[1000] = "v\n0.5\n1.00000000000000011102230246251565404236316680908203125";
    memset(longest + strlen(longest), '0', 700);
    strcat(longest, "1\n");
    assert_true(data_floats(data_csv(file(longest)), "v")[1] == 0x1.0000000000001p0);
}

static void test_types_and_header(void **state)
{
    (void)state;
    AG_SCOPE;
    assert_string_equal(shown(data_csv(file("a,b\n1,2\n"), .types = "a:text,b:float")), "a:t=1;b:f=2");
    assert_string_equal(shown(data_csv(file("a,b\nc,d\n"), .header = DATA_HEADER_NO)), "0:t=a,c;1:t=b,d");
    assert_string_equal(shown(data_csv(file("1,2\n3,4\n"), .header = DATA_HEADER_YES)), "1:i=3;2:i=4");
    assert_string_equal(shown(data_csv(file("a,\"b\n1,2\n"), .no_quotes = true)), "a:i=1;\"b:i=2");
    assert_string_equal(shown(data_csv(file("a b\n1 2\n"), .sep = " ")), "a:i=1;b:i=2");
    data_table *t = data_csv(file("a,b\n1,2\n"));
    assert_int_equal(data_ints(t, "b")[0], 2);
    assert_true(data_number(t, 0, "a") == 1);
    assert_true(data_has_column(t, "a") && !data_has_column(t, "c"));
}

/* A column that turns float after 1,000 rows, and files of several pieces, with and without the rare
 * forms. */
static void test_large(void **state)
{
    (void)state;
    enum { N = 300000 };
    char *text = malloc(N * 24 + 100);
    for (int form = 0; form < 4; form++) {
        AG_SCOPE;
        char *o = text;
        for (int i = 0; i < N; i++) {
            if (form == 2 && i == 200000) o += sprintf(o, "\n");
            o += sprintf(o, form == 3 && i == 5000 ? "%d,\"%d\",%g\n" : "%d,%d,%g\n", i, 7 * i % 1001,
                         form == 1 && i == N - 1 ? 2.5 : i % 5);
        }
        data_table *t = data_csv(file_of(text, (size_t)(o - text) - (form == 1)));
        assert_int_equal(data_rows(t), N);
        assert_int_equal(data_column_type(t, "2"), form == 1 ? DATA_FLOAT : DATA_INT);
        for (int64_t i = 0; i < N; i++) {
            assert_int_equal(data_ints(t, "0")[i], i);
            assert_int_equal(data_ints(t, "1")[i], 7 * i % 1001);
        }
        assert_true(data_number(t, N - 1, "2") == (form == 1 ? 2.5 : (N - 1) % 5));
    }
    free(text);
}

static void test_chunks(void **state)
{
    (void)state;
    enum { N = 20000 };
    char *text = malloc(N * 40);
    for (int quotes = 0; quotes < 2; quotes++)
        for (int64_t chunk = 1; chunk < 1000000; chunk = chunk * 7 + 13) {
            AG_SCOPE;
            char *o = text + sprintf(text, "id,t\n");
            const int n = chunk < 20 ? 200 : N;
            for (int i = 0; i < n; i++)
                o += sprintf(o, quotes && i % 3 == 0 ? "%d,\"a\n\"\"%d\"\n" : "%d,a%d\n", i, i);
            o[-1] = 0;
            data_chunks *c = data_csv_chunks(file(text), .chunk = chunk);
            int64_t rows = 0;
            for (data_table *t; (t = data_next_chunk(c));)
                for (int64_t i = 0; i < data_rows(t); i++, rows++) {
                    char want[32];
                    sprintf(want, quotes && rows % 3 == 0 ? "a\n\"%d" : "a%d", (int)rows);
                    assert_int_equal(data_ints(t, "id")[i], rows);
                    assert_string_equal(data_texts(t, "t")[i], want);
                }
            assert_int_equal(rows, n);
            assert_null(data_next_chunk(c));
        }
    free(text);
}

/* ---- errors -------------------------------------------------------------------------------------------- */

typedef struct { const char *text, *names, *types, *encoding; } reading;

static void read_it(void *arg)
{
    const reading *r = arg;
    data_table *t = data_csv(r->text ? file(r->text) : path, .names = r->names, .types = r->types,
                             .encoding = r->encoding);
    (void)t;
}

static void expect_error(reading r, const char *want)
{
    assert_int_equal(ag_try(read_it, &r), 1);
    if (!strstr(ag_error(), want)) fail_msg("\"%s\" lacks \"%s\"", ag_error(), want);
}

static void test_errors(void **state)
{
    (void)state;
    static const struct { reading r; const char *want;
    } cases[] = {
        { { .text = "" }, "t.csv: an empty file" },
        { { .text = "\n\n" }, "t.csv: empty but for line ends" },
        { { .text = "user,item,rating\n" }, "t.csv:1: a header and no rows" },
        { { .text = "user,item,rating" }, "t.csv:1: a header and no rows" },
        { { .text = "a,b\n1,2\n3\n4,5\n" }, "t.csv:3:1: 1 column, the rows above have 2: \"3\"" },
        { { .text = "a,b\n1,2\n3,4,5\n" }, "t.csv:3:3: 3 columns, the rows above have 2" },
        { { .text = "a,b\n1,2\n3,4\n5" },
          "t.csv:4:1: 1 column, the rows above have 2: \"5\"; the file's last line is cut short" },
        { { .text = "a,b\n1,x\n2,\"y" }, "t.csv:3:2 (b): the quote of \"\"y" },
        { { .text = "a,b\n1,\"x\"y\n" }, "t.csv:2:2" },
        { { .text = "a,b\nfour,2\n", .types = "a:int" },
          "t.csv:2:1 (a): \"four\" is not an integer; correct the cell, or" },
        { { .text = "a,b\n1,2\n\n3.5,2\n", .types = "a:int" }, "t.csv:4:1 (a): \"3.5\" is not an integer" },
        { { .text = "a,b\n,2\n", .types = "a:int" }, "t.csv:2:1 (a): an empty cell is not an integer" },
        { { .text = "a,b\n1,2\n2,nan\n" }, "t.csv:3:2 (b): \"nan\" is not finite" },
        { { .text = "a,b\n1,2\n2,-Inf\n" }, "t.csv:3:2 (b): \"-Inf\" is not finite" },
        { { .text = "a,b\n1,2.5\n2,1e999\n" }, "t.csv:3:2 (b): \"1e999\" is not finite" },
        { { .text = "a,b\n9223372036854775808,2\n" },
          "t.csv:2:1 (a): \"9223372036854775808\" is outside the 64-bit integers" },
        { { .text = "a,a\n1,2\n" }, "columns 1 and 2 are both called \"a\"" },
        { { .text = "1,2\n", .names = "a,b,c" },
          "has 2 columns separated by \",\", .names = \"a,b,c\" names 3" },
        { { .text = "a,b\n1,2\n", .types = "c:int" }, "has no column \"c\"" },
        { { .text = "a,b\n1,2\n", .types = "a:real" }, "\"real\" is none of int, float, text" },
        { { .text = "a,b\n1,\xC3\xA9\n2,\xE9\n" },
          "t.csv:3:2 (b): \"\xE9\" is not UTF-8, and other cells are" },
        { { .text = "a,b\n1,\xE9\n", .encoding = "utf-8" },
          "t.csv:2:2 (b): \"\xE9\" is not UTF-8, which .encoding promised" },
        { { .text = "a,b\n1,2\n", .encoding = "ebcdic" }, "neither \"utf-8\" nor \"latin-1\"" },
        { { .text = "a,b\r1,2\r" }, "lines end in CR alone" },
        { { .text = "\xFF\xFEx" }, "UTF-16" },
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) expect_error(cases[k].r, cases[k].want);
    snprintf(path, sizeof path, "%s/absent.csv", folder);
    expect_error((reading){ 0 }, "absent.csv");
    snprintf(path, sizeof path, "%s", folder);
    expect_error((reading){ 0 }, "folder");
    file_of("a,b\n1,2\n3,x\0y\n", 14);
    expect_error((reading){ 0 }, "t.csv:3: a NUL byte");
}

static void test_far_errors(void **state) /* beyond the lines that are looked at first, in the second piece */
{
    (void)state;
    enum { N = 200000 };
    char *text = malloc(N * 10);
    static const struct { const char *row, *want;
    } cases[] = {
        { "x,1\n", "t.csv:150001:1 (0): \"x\" is not an integer" },
        { "1\n", "t.csv:150001:1: 1 column" },
        { "1,2,3\n", "t.csv:150001:3: 3 columns" },
        { "1,inf\n", "t.csv:150001:2 (1): \"inf\" is not finite" },
    };
    for (int k = 0; k < 4; k++) {
        char *o = text;
        for (int i = 0; i < N; i++) o += sprintf(o, "%s", i == 150000 ? cases[k].row : "1234,5\n");
        expect_error((reading){ .text = text }, cases[k].want);
    }
    char *o = text;
    for (int i = 0; i < N; i++) {
        memcpy(o, i == 150000 ? "12,x\0y\n" : "1234,ab\n", i == 150000 ? 7 : 8);
        o += i == 150000 ? 7 : 8;
    }
    file_of(text, (size_t)(o - text));
    expect_error((reading){ 0 }, "t.csv:150001:2 (1): a NUL byte");
    free(text);
}

static void test_long_line(void **state)
{
    (void)state;
    enum { N = 10 << 20 };
    AG_SCOPE;
    char *text = malloc(N + 100);
    strcpy(text, "a,b\n1,2\n3,");
    memset(text + 10, '7', N);
    strcpy(text + 10 + N, "\n");
    expect_error((reading){ .text = text },
                 "t.csv:3:2 (b): \"7777777777777777777777777777777777777777...\" (10485760 bytes) is");
    text[10] = 'x';
    expect_error((reading){ .text = text, .types = "b:float" }, "(10485760 bytes) is not a number");
    assert_int_equal(strlen(data_cell(data_csv(file(text), .types = "b:text"), 1, "b")), N);
    free(text);
}

/* The last lines cut at every byte give the rows that are whole, or one error that names the file. */
static void test_truncated(void **state)
{
    (void)state;
    static const char text[] =
        "id,title,r\r\n1,plain,2.5\r\n2,\"a, \"\"b\"\"\r\nc\xC3\xA9\",3.5\r\n3,x,1e1\r\n";
    int whole = 0, failed = 0;
    for (size_t n = 0; n < sizeof text; n++) {
        AG_SCOPE;
        file_of(text, n);
        if (ag_try(read_it, &(reading){ 0 })) {
            assert_non_null(strstr(ag_error(), "t.csv"));
            failed++;
            continue;
        }
        data_table *t = data_csv(path);
        assert_string_equal(data_cell(t, 0, "title"), "plain");
        if (data_rows(t) > 1) assert_string_equal(data_cell(t, 1, "title"), "a, \"b\"\r\nc\xC3\xA9");
        whole++;
    }
    assert_true(whole > 10 && failed > 30);
}

/* ---- dictionaries and joins ---------------------------------------------------------------------------- */

static void index_twice(void *t) { data_index_by((data_table *)t, "k"); }
static void join_missing(void *arg)
{
    data_table **two = arg;
    two[0] = data_join(two[0], two[1], "item");
}
static void wrong_column(void *t) { data_ints((data_table *)t, "titel"); }

static void test_dictionary(void **state)
{
    (void)state;
    AG_SCOPE;
    data_table *films =
        data_csv(file("item|title\n181|Return of the Jedi (1983)\n50|Star Wars (1977)\n"), .index = "item");
    assert_string_equal(data_lookup(films, "181", "title"), "Return of the Jedi (1983)");
    assert_null(data_lookup(films, "182", "title"));
    assert_int_equal(data_find(films, "50"), 1);
    assert_int_equal(data_find(films, "fifty"), -1);
    data_index_by(films, "title");
    assert_string_equal(data_lookup(films, "Star Wars (1977)", "item"), "50");
    assert_int_equal(ag_try(wrong_column, films), 1);
    assert_non_null(strstr(ag_error(), "no column \"titel\"; its columns: item, title"));
    assert_int_equal(ag_try(index_twice, data_csv(file("k,v\n1,2\n3,4\n1,5\n"))), 1);
    assert_non_null(strstr(ag_error(), "t.csv:4:1 (k): \"1\" stands in row 0 already"));
    data_table *ratings = data_csv(file("user,item,rating\n7,50,5\n8,181,4\n9,50,3\n"));
    assert_string_equal(shown(data_join(ratings, films, "item")),
                        "user:i=7,8,9;item:i=50,181,50;rating:i=5,4,3;title:t=Star Wars (1977),Return of the "
                        "Jedi (1983),Star Wars (1977)");
    data_table *two[] = { data_csv(file("user,item\n7,50\n8,51\n9,181\n")), films };
    assert_int_equal(ag_try(join_missing, two), 1);
    assert_non_null(strstr(ag_error(), "t.csv:3:2 (item): \"51\" is not in"));
    assert_string_equal(shown(data_join(two[0], films, "item", .inner = true)),
                        "user:i=7,9;item:i=50,181;title:t=Star Wars (1977),Return of the Jedi (1983)");
}

static void test_in_memory(void **state)
{
    (void)state;
    AG_SCOPE;
    data_table *t = data_table_new(2);
    data_add_ints(t, "i", ((int64_t[]){ 4, 5 }));
    data_add_floats(t, "f", ((double[]){ 0.1, NAN }));
    data_add_text(t, "s", ((const char *[]){ "x", "yz" }));
    assert_string_equal(shown(t), "i:i=4,5;f:f=0.1,;s:t=x,yz");
}

static void test_movielens(void **state)
{
    (void)state;
    AG_SCOPE;
    const char *root = getenv("AGRAD_DATA");
    char ratings[512], films[512];
    snprintf(ratings, sizeof ratings, "%s/ml-100k/u.data", root ? root : "../shared/data");
    snprintf(films, sizeof films, "%s/ml-100k/u.item", root ? root : "../shared/data");
    if (access(ratings, R_OK)) {
        print_message("SKIP: %s is not there\n", ratings);
        return;
    }
    data_table *t = data_csv(ratings, .names = "user,item,rating,time");
    assert_int_equal(data_rows(t), 100000);
    double sum = 0;
    for (int64_t i = 0; i < 100000; i++) sum += data_number(t, i, "rating");
    assert_true(sum == 352986);                             /* the published mean, 3.52986 */
    data_table *f = data_csv(films, .names = "item,title,*", .index = "item");
    assert_int_equal(data_rows(f), 1682);
    assert_string_equal(data_lookup(f, "181", "title"), "Return of the Jedi (1983)");
    data_table *joined = data_join(t, f, "item");
    assert_string_equal(data_cell(joined, 0, "title"), "Kolya (1996)");
    assert_int_equal(data_categorify(joined, "user"), 944);
    assert_int_equal(data_categorify(joined, "title"), 1665);
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
        cmocka_unit_test(test_shapes),     cmocka_unit_test(test_encodings),
        cmocka_unit_test(test_decimals),   cmocka_unit_test(test_types_and_header),
        cmocka_unit_test(test_large),      cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_errors),     cmocka_unit_test(test_far_errors),
        cmocka_unit_test(test_long_line),  cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_dictionary), cmocka_unit_test(test_in_memory),
        cmocka_unit_test(test_movielens),
    };
    return cmocka_run_group_tests_name("csv", tests, make_folder, remove_folder);
}
