/* tests/test_gemm.c - matrix products against sums in double: portable, oneDNN, packed and shared by the team, in f32 and
 * bf16, every way to transpose, with and without adding, bias and activation. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include "agrad.h"
#include "core/bf16.h"
#include "core/op.h"
#include "ops/gemm.h"

static double value(const void *p, ag_dtype type, int64_t i)
{
    return type == AG_BF16 ? (double)ag_bf16_to_real(((const uint16_t *)p)[i]) : (double)((const real *)p)[i];
}

/* c as it should be, and what rounding and the order of sums may change. */
static double expected(const ag_gemm *g, const ag_tensor *before, int64_t r, int64_t q, double *slack)
{
    double sum = g->add ? value(before->data, before->dtype, r * g->c_row + q) : 0, size = fabs(sum);
    if (g->bias) sum += (double)g->bias[q];
    for (int64_t e = 0; e < g->k; e++) {
        const double a = value(g->a, g->a_type, r * g->a_row + e * g->a_col);
        const double p = a * value(g->b, g->b_type, e * g->b_row + q * g->b_col);
        sum += p, size += fabs(p);
    }
    if (g->activation == AG_LINEAR_RELU) sum = fmax(sum, 0);
    *slack = 3e-6 * size + (g->c_type == AG_BF16 ? fabs(sum) / 200 + 1e-30 : 0);
    return sum;
}

static void compare(const ag_gemm *g, const ag_tensor *before, const char *how, int way)
{
    for (int64_t r = 0; r < g->n; r++)
        for (int64_t q = 0; q < g->m; q++) {
            double slack;
            const double want = expected(g, before, r, q, &slack), got = value(g->c, g->c_type, r * g->c_row + q);
            if (!(fabs(got - want) <= slack))
                fail_msg("%s, %dx%dx%d, way %d, (%d, %d): got %.9g, want %.9g", how, (int)g->n, (int)g->m, (int)g->k, way,
                         (int)r, (int)q, got, want);
        }
}

enum { PORTABLE, ONEDNN, TEAM, WAYS };
static const char *const names[] = { "portable", "oneDNN", "team" };

static int once(ag_gemm *g, ag_tensor *c, const ag_tensor *before, int way)
{
    int done = 0;
    for (int how = 0; how < WAYS; how++) {
        ag_copy(c, before);
        if (how == PORTABLE) ag_gemm_portable(g);
        else if (how == TEAM) ag_gemm_run(g);
        else if (!ag_gemm_onednn(g)) continue;
        compare(g, before, names[how], way);
        done++;
    }
    return done;
}

static int64_t sizes[][3] = { { 1, 1, 1 }, { 7, 33, 65 }, { 64, 100, 177 }, { 31, 257, 300 }, { 130, 515, 40 }, { 5, 333, 770 } };
enum { SIZES = sizeof sizes / sizeof *sizes };

static ag_gemm described(int way, const int64_t size[3], ag_dtype type, ag_dtype c_type, const ag_tensor *bias)
{
    const int64_t n = size[0], m = size[1], k = size[2];
    return (ag_gemm){ .batch = 1, .n = n, .m = m, .k = k, .a_type = type, .b_type = type, .c_type = c_type, .c_row = m,
                      .a_row = way & 1 ? 1 : k, .a_col = way & 1 ? n : 1, .b_row = way & 2 ? 1 : m, .b_col = way & 2 ? k : 1,
                      .add = way & 4, .bias = way & 8 ? ag_real(bias) : NULL,
                      .activation = way & 8 ? AG_LINEAR_RELU : AG_LINEAR_PLAIN };
}

static void test_products(void **state)
{
    (void)state;
    for (int s = 0; s < SIZES; s++)
        for (int way = 0; way < 48; way++) {
            AG_SCOPE;
            const int64_t n = sizes[s][0], m = sizes[s][1], k = sizes[s][2];
            const ag_dtype type = way < 16 ? AG_F32 : AG_BF16, c_type = way < 32 ? AG_F32 : AG_BF16;
            const ag_tensor *a = ag_cast(ag_randn(n, k), type), *b = ag_cast(ag_randn(k, m), type), *bias = ag_randn(m);
            ag_tensor *before = ag_cast(ag_randn(n, m), c_type), *c = ag_cast(ag_zeros(n, m), c_type);
            ag_gemm g = described(way, sizes[s], type, c_type, bias);
            g.a = a->data, g.b = b->data, g.c = c->data;
            once(&g, c, before, way);
        }
}

static void test_batches(void **state)
{
    (void)state;
    for (int64_t batch = 2; batch < 20; batch += 9) {
        AG_SCOPE;
        const int64_t n = 33, m = 47, k = 29;
        const ag_tensor *a = ag_randn(batch, n, k), *b = ag_randn(batch, k, m);
        ag_tensor *c = ag_zeros(batch, n, m), *before = ag_zeros(n, m);
        ag_gemm g = { .batch = batch, .n = n, .m = m, .k = k, .a = a->data, .b = b->data, .c = c->data, .a_batch = n * k,
                      .a_row = k, .a_col = 1, .b_batch = k * m, .b_row = m, .b_col = 1, .c_batch = n * m, .c_row = m };
        ag_gemm_run(&g);
        for (int64_t i = 0; i < batch; i++) {
            ag_gemm one = g;
            one.a = ag_real(a) + i * n * k, one.b = ag_real(b) + i * k * m, one.c = ag_real(c) + i * n * m;
            compare(&one, before, "batch", (int)i);
        }
    }
}

/* b as f32, read through its packed form: of its own dtype, and rounded to bf16. */
static void test_packed(void **state)
{
    (void)state;
    int done = 0;
    for (int s = 0; s < SIZES; s++)
        for (int way = 0; way < 32; way++) {
            AG_SCOPE;
            if (way & 1) continue;
            const int64_t n = sizes[s][0], m = sizes[s][1], k = sizes[s][2];
            const ag_dtype type = way < 16 ? AG_F32 : AG_BF16;
            const ag_tensor *a = ag_cast(ag_randn(n, k), type), *bias = ag_randn(m);
            const ag_tensor *b = ag_cast(ag_cast(ag_randn(k, m), type), AG_F32);
            ag_tensor *before = ag_randn(n, m), *c = ag_zeros(n, m);
            ag_gemm g = described(way, sizes[s], type, AG_F32, bias);
            g.a = a->data, g.b = b->data, g.c = c->data, g.b_type = AG_F32;
            const int64_t bytes = ag_gemm_packed_bytes(&g);
            if (!bytes) continue;
            const ag_tensor *packed = ag_cast(ag_zeros(bytes), AG_U8);
            g.packed = packed->data;
            for (int64_t p = 0; p * AG_GEMM_PANEL < m; p++) assert_true(ag_gemm_pack(&g, p));
            done += once(&g, c, before, way);
        }
    print_message("%d packed products\n", done);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_packed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
