/* tests/test_depthwise.c - depthwise convolutions of shapes that take every path of the kernels (tiles of both widths,
 * parts of rows, blocks with a rest, groups, chunks) beside plain loops; the same bits for any number of threads. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "agrad.h"
#include "core/random.h"
#include "ops/conv.h"

typedef struct { int64_t n, h, w, c, kh, kw; ag_conv_arg a; } shape;
enum { OUT, DX, DW, DB, RESULTS };
typedef struct { ag_tensor *t[RESULTS]; } results;

/* ---- plain loops --------------------------------------------------------------------------------------- */

static int64_t rows_out(const shape *s)
{
    return ag_conv_out_size(s->h, s->kh, s->a.stride_h, s->a.pad_top + s->a.pad_bottom, s->a.dilation_h);
}

static int64_t columns_out(const shape *s)
{
    return ag_conv_out_size(s->w, s->kw, s->a.stride_w, s->a.pad_left + s->a.pad_right, s->a.dilation_w);
}

static void plain(const shape *s, const real *x, const real *w, const real *bias, const real *g, double *want[RESULTS])
{
    const int64_t h = rows_out(s), v = columns_out(s);
    for (int64_t i = 0; i < s->n * h * v * s->c; i++) {
        const int64_t c = i % s->c, col = i / s->c % v, row = i / s->c / v % h, n = i / s->c / v / h;
        want[OUT][i] = (double)bias[c];
        want[DB][c] += (double)g[i];
        for (int64_t k = 0; k < s->kh * s->kw; k++) {
            const int64_t y = row * s->a.stride_h + k / s->kw * s->a.dilation_h - s->a.pad_top;
            const int64_t z = col * s->a.stride_w + k % s->kw * s->a.dilation_w - s->a.pad_left;
            if (y < 0 || y >= s->h || z < 0 || z >= s->w) continue;
            const int64_t at = ((n * s->h + y) * s->w + z) * s->c + c, tap = c * s->kh * s->kw + k;
            want[OUT][i] += (double)x[at] * (double)w[tap];
            want[DX][at] += (double)g[i] * (double)w[tap];
            want[DW][tap] += (double)g[i] * (double)x[at];
        }
    }
}

/* ---- ours ---------------------------------------------------------------------------------------------- */

typedef struct { ag_tensor *x, *w, *bias, *g; } inputs;

static inputs make(const shape *s)
{
    ag_manual_seed(1);
    return (inputs){ ag_randn(s->n, s->h, s->w, s->c), ag_param(ag_randn(s->c, 1, s->kh, s->kw)),
                     ag_param(ag_randn(s->c)), ag_randn(s->n, rows_out(s), columns_out(s), s->c) };
}

static results compute(const shape *s, const inputs *in, ag_dtype dtype)
{
    results r;
    ag_tensor *x = ag_param(ag_scale(in->x, 1)), *wanted[] = { x, in->w, in->bias };
    ag_conv_arg a = s->a;
    a.groups = s->c;
    ag_tensor *y = ag_apply(&ag_op_conv_depthwise, AG_INPUTS(ag_cast(x, dtype), in->w, in->bias), &a, sizeof a);
    r.t[OUT] = ag_cast(y, AG_F32);
    ag_grad(ag_sum(ag_mul(r.t[OUT], in->g)), 3, wanted, r.t + DX);
    return r;
}

static void assert_near(const shape *s, const char *what, const ag_tensor *got, const double *want, double tol)
{
    double most = 1e-3;
    for (int64_t i = 0; i < ag_numel(got); i++) most = fmax(most, fabs(want[i]));
    for (int64_t i = 0; i < ag_numel(got); i++)
        if (!(fabs((double)ag_real(got)[i] - want[i]) <= tol * most))
            fail_msg("%s of [%d, %d, %d, %d], %d x %d, stride %d %d, dilation %d %d: element %d is %g, not %g", what,
                     (int)s->n, (int)s->h, (int)s->w, (int)s->c, (int)s->kh, (int)s->kw, (int)s->a.stride_h,
                     (int)s->a.stride_w, (int)s->a.dilation_h, (int)s->a.dilation_w, (int)i, (double)ag_real(got)[i],
                     want[i]);
}

static void round_to_bf16(ag_tensor *t)
{
    AG_NO_GRAD;
    ag_copy(t, ag_cast(ag_cast(t, AG_BF16), AG_F32));
}

static void check(const shape *s, ag_dtype dtype)
{
    AG_SCOPE;
    static const char *const names[RESULTS] = { "the result", "d x", "d weight", "d bias" };
    const inputs in = make(s);
    if (dtype == AG_BF16) round_to_bf16(in.x), round_to_bf16(in.g);
    const results r = compute(s, &in, dtype);
    double *want[RESULTS];
    for (int k = 0; k < RESULTS; k++) want[k] = calloc((size_t)ag_numel(r.t[k]) + 1, sizeof(double));
    plain(s, ag_real(in.x), ag_real(in.w), ag_real(in.bias), ag_real(in.g), want);
    for (int k = 0; k < RESULTS; k++) {
        assert_near(s, names[k], r.t[k], want[k], dtype == AG_BF16 && k < DW ? 5e-3 : 1e-5);
        free(want[k]);
    }
}

static ag_conv_arg same(int64_t stride, int64_t pad)
{
    return (ag_conv_arg){ stride, stride, pad, pad, pad, pad, 1, 1, 0, AG_LINEAR_PLAIN };
}

/* The sizes of ConvNeXt, EfficientNet and MobileNet, made small. */
static void test_the_usual_shapes(void **state)
{
    (void)state;
    const int64_t kernels[] = { 3, 5, 7 }, widths[] = { 1, 4, 7, 14, 16, 20, 31, 56 }, channels[] = { 1, 16, 24, 40 };
    for (int k = 0; k < 3; k++)
        for (int w = 0; w < 8; w++)
            for (int c = 0; c < 4; c++)
                for (int64_t stride = 1; stride < 3; stride++) {
                    const int64_t size = kernels[k];
                    const shape s = { 2, 9, widths[w], channels[c], size, size, same(stride, size / 2) };
                    check(&s, (w + c) % 4 ? AG_F32 : AG_BF16);
                }
}

static void test_odd_shapes(void **state)
{
    (void)state;
    ag_rng r = { .seed = 3 };
    for (int i = 0; i < 120; i++) {
        const int64_t most[] = { 3, 12, 40, 50, 9, 11, 4, 4, 9, 9, 9, 9, 3, 3 };
        int64_t v[14];
        for (int k = 0; k < 14; k++) v[k] = ag_rng_below(&r, most[k]) + (k < 8 || k > 11);
        const shape s = { v[0], v[1], v[2], v[3], v[4], v[5],
                          { v[6], v[7], v[8], v[9], v[10], v[11], v[12], v[13], 0, AG_LINEAR_PLAIN } };
        const int64_t high = s.a.dilation_h * (s.kh - 1) + 1, wide = s.a.dilation_w * (s.kw - 1) + 1;
        if (high > s.h + s.a.pad_top + s.a.pad_bottom || wide > s.w + s.a.pad_left + s.a.pad_right) continue;
        check(&s, i % 3 ? AG_F32 : AG_BF16);
    }
}

/* Rows that do not fit the second cache are taken in groups of channels; more chunks than threads. */
static void test_large_shapes(void **state)
{
    (void)state;
    const shape wide = { 1, 5, 300, 200, 5, 5, same(1, 2) }, many = { 3, 40, 28, 36, 3, 3, same(2, 1) };
    check(&wide, AG_F32);
    check(&many, AG_F32);
}

static void test_threads_change_no_bit(void **state)
{
    (void)state;
    AG_SCOPE;
    const shape s = { 3, 33, 30, 70, 7, 7, same(1, 3) };
    const inputs in = make(&s);
    const int before = ag_threads();
    results first = { { NULL } };
    for (int threads = 1; threads <= 5; threads++) {
        ag_init(.threads = threads);
        const results r = compute(&s, &in, AG_F32);
        for (int k = 0; k < RESULTS && threads > 1; k++)
            assert_memory_equal(r.t[k]->data, first.t[k]->data, (size_t)ag_numel(r.t[k]) * sizeof(real));
        if (threads == 1) first = r;
    }
    ag_init(.threads = before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_usual_shapes),
        cmocka_unit_test(test_odd_shapes),
        cmocka_unit_test(test_large_shapes),
        cmocka_unit_test(test_threads_change_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
