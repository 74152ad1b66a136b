/* tests/test_conv.c - the two ways to convolve agree: oneDNN on pieces of the images, shared by the team, and products of
 * patches; in f32 and bf16, written and added, and both refuse what cannot be. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "agrad.h"
#include "core/op.h"
#include "ops/conv_ways.h"
#include "ops/fused.h"

typedef struct { int64_t n, h, w, in, out, kh, kw; ag_conv_arg a; } problem;

static const problem problems[] = {
    { 3, 31, 29, 16, 32, 3, 3, { 1, 1, 1, 1, 1, 1, 1, 1, 1, AG_LINEAR_PLAIN } },
    { 3, 17, 19, 24, 40, 3, 3, { 1, 1, 1, 1, 1, 1, 1, 1, 1, AG_LINEAR_RELU } },
    { 5, 14, 14, 32, 64, 3, 3, { 2, 2, 1, 1, 1, 1, 1, 1, 1, AG_LINEAR_PLAIN } },
    { 2, 33, 31, 3, 16, 7, 7, { 2, 2, 3, 3, 3, 3, 1, 1, 1, AG_LINEAR_PLAIN } },
    { 3, 21, 23, 16, 16, 5, 3, { 2, 1, 1, 0, 2, 2, 1, 1, 1, AG_LINEAR_SILU } },     /* uneven padding, as .same has */
    { 2, 30, 30, 16, 16, 3, 3, { 1, 1, 2, 2, 2, 2, 2, 2, 1, AG_LINEAR_PLAIN } },
    { 3, 28, 28, 32, 32, 3, 3, { 1, 1, 1, 1, 1, 1, 1, 1, 4, AG_LINEAR_PLAIN } },
    { 9, 20, 20, 8, 24, 3, 3, { 2, 2, 1, 1, 1, 1, 1, 1, 1, AG_LINEAR_PLAIN } },
    { 3, 7, 7, 96, 160, 3, 3, { 1, 1, 1, 1, 1, 1, 1, 1, 1, AG_LINEAR_HARDSWISH } },     /* a large weight */
    { 2, 9, 9, 64, 72, 1, 3, { 1, 1, 0, 1, 0, 1, 1, 1, 1, AG_LINEAR_RELU6 } },
    { 2, 40, 40, 16, 32, 4, 4, { 4, 4, 0, 0, 0, 0, 1, 1, 1, AG_LINEAR_GELU } },
    { 3, 15, 15, 32, 48, 3, 3, { 3, 3, 1, 1, 1, 1, 1, 1, 2, AG_LINEAR_PLAIN } },
};
enum { PROBLEMS = sizeof problems / sizeof *problems };

static int current, direct;
static bool add;

static void *filled(const ag_node *n, int64_t count, ag_dtype type, uint64_t seed)
{
    ag_tensor *t = ag_empty_(n->at, AG_F32, AG_SHAPE(count));
    ag_rng r = { .seed = seed, .stream = 5 };
    for (int64_t i = 0; i < count; i++) ag_real(t)[i] = (real)ag_rng_normal(&r);
    return ag_cast(t, type)->data;
}

/* Sums of many products: errors are measured against their size. */
static void compare(const ag_node *n, const char *what, int64_t count, ag_dtype type, void *got, void *want)
{
    ag_tensor g = { .ndim = 1, .dtype = type, .shape = { count }, .stride = { 1 }, .data = got }, w = g;
    double *a = NULL, size = 0, worst = 0;
    w.data = want;
    a = ag_workspace(n, 2 * count, sizeof *a);
    ag_to_host(&g, AG_F32, a);
    double *b = a + count;
    ag_to_host(&w, AG_F32, b);
    const real *x = (const real *)(const void *)a, *y = (const real *)(const void *)b;
    for (int64_t i = 0; i < count; i++) size += fabs((double)y[i]), worst = fmax(worst, fabs((double)(x[i] - y[i])));
    const double tol = type == AG_BF16 ? 0.1 : 1e-4;
    if (!(worst <= tol * (size / (double)count + 0.1)))
        fail_msg("%s, problem %d, %s%s: difference %g, mean size %g", what, current, ag_dtype_name(type), add ? ", added" : "",
                 worst, size / (double)count);
}

static void each_way(ag_node *n)
{
    const ag_conv c = ag_conv_sizes(n->arg, n->in[0], n->in[1], n->out);
    const int64_t xs = ag_numel(n->in[0]), ys = ag_numel(n->out), ws = ag_numel(n->in[1]);
    const void *x = n->in[0]->data, *g = filled(n, ys, c.type, 3);
    const ag_tensor *w = n->in[1];
    void *one = filled(n, ys, c.type, 8), *two = filled(n, ys, c.type, 8);
    if (!ag_direct_fits(&c)) ag_conv_forward(n, &c, x, w, n->in[2], c.at.activation, one, add);
    else direct += ag_direct_forward(n, &c, x, w, n->in[2], c.at.activation, one, add);
    ag_patches_forward(n, &c, x, w, n->in[2], c.at.activation, two, add);
    compare(n, "forward", ys, c.type, one, two);
    one = filled(n, xs, c.type, 4), two = filled(n, xs, c.type, 4);
    ag_conv_input_gradient(n, &c, g, w, one, add);
    ag_patches_input_gradient(n, &c, g, w, two, add);
    compare(n, "gradient of x", xs, c.type, one, two);
    one = filled(n, ws, AG_F32, 6), two = filled(n, ws, AG_F32, 6);
    ag_conv_weight_gradient(n, &c, x, g, one, add);
    ag_patches_weight_gradient(n, &c, x, g, two, add);
    compare(n, "gradient of the weight", ws, AG_F32, one, two);
}

static const ag_op op_compare = { .name = "compare", .inputs = "x weight bias", .infer = ag_conv_infer, .bf16 = 1,
                                  .forward = { each_way }, .no_grad = "test" };

static void test_both_ways_agree(void **state)
{
    (void)state;
    for (int i = 0; i < 4 * PROBLEMS; i++) {
        AG_SCOPE;
        const problem *p = &problems[i / 4];
        ag_conv_arg a = p->a;
        current = i / 4, add = i & 1;
        ag_tensor *x = ag_cast(ag_randn(p->n, p->h, p->w, p->in), i & 2 ? AG_BF16 : AG_F32);
        ag_tensor *w = ag_randn(p->out, p->in / a.groups, p->kh, p->kw);
        const ag_tensor *y = ag_apply(&op_compare, AG_INPUTS(x, w, ag_randn(p->out)), &a, sizeof a);
        (void)y;
    }
    print_message("%d times by oneDNN\n", direct);
}

/* ---- bad input ----------------------------------------------------------------------------------------- */

static void refused(void (*fn)(void *), const char *text)
{
    assert_int_equal(ag_try(fn, NULL), 1);
    if (!strstr(ag_error(), text)) fail_msg("no '%s' in: %s", text, ag_error());
}

#define TRY(name, expression) static void name(void *p) { AG_SCOPE; const ag_tensor *y = (expression); (void)y, (void)p; }
TRY(axes, ag_conv2d(ag_zeros(3, 8, 8), ag_zeros(4, 3, 3, 3)))
TRY(channels, ag_conv2d(ag_zeros(1, 8, 8, 5), ag_zeros(4, 3, 3, 3)))
TRY(groups, ag_conv2d(ag_zeros(1, 8, 8, 6), ag_zeros(4, 1, 3, 3), .groups = 4))
TRY(kernel, ag_conv2d(ag_zeros(1, 4, 8, 3), ag_zeros(4, 3, 7, 7), .pad = 1))
TRY(dilated, ag_conv2d(ag_zeros(1, 8, 8, 3), ag_zeros(4, 3, 3, 3), .dilation = 4))
TRY(bias, ag_conv2d(ag_zeros(1, 8, 8, 3), ag_zeros(4, 3, 3, 3), .bias = ag_zeros(3)))
TRY(dtype, ag_conv2d(ag_cast(ag_zeros(1, 8, 8, 3), AG_I64), ag_zeros(4, 3, 3, 3)))
TRY(stride, ag_conv2d(ag_zeros(1, 8, 8, 3), ag_zeros(4, 3, 3, 3), .stride = -1))
TRY(padding, ag_conv2d(ag_zeros(1, 8, 8, 3), ag_zeros(4, 3, 3, 3), .pad = -2))
TRY(twice, ag_conv2d(ag_zeros(1, 8, 8, 3), ag_zeros(4, 3, 3, 3), .pad = 1, .same = true))

TRY(turned_channels, ag_conv_transpose2d(ag_zeros(1, 8, 8, 3), ag_zeros(4, 3, 3, 3)))
TRY(turned_pad, ag_conv_transpose2d(ag_zeros(1, 1, 8, 3), ag_zeros(3, 3, 3, 3), .pad = 2))
TRY(out_pad, ag_conv_transpose2d(ag_zeros(1, 8, 8, 3), ag_zeros(3, 3, 3, 3), .stride = 2, .out_pad = 2))

static void test_what_cannot_be_is_refused(void **state)
{
    (void)state;
    refused(axes, "x must be images [N, H, W, C]");
    refused(channels, "x [N, H, W, C] has 5 channels, weight [out, in / groups, kh, kw] takes 3 x 1 groups");
    refused(channels, "[1, 8, 8, 5]");
    refused(groups, "groups = 4 must divide the channels of x, 6");
    refused(kernel, "height: the kernel reaches over 7 pixels, the padded image has 6");
    refused(dilated, "the kernel reaches over 9 pixels, the padded image has 8");
    refused(bias, "bias must be [4]");
    refused(dtype, "got i64");
    refused(stride, "stride -1");
    refused(padding, "padding -4 not negative");
    refused(twice, ".same computes the padding");
    refused(turned_channels, "x [N, H, W, C] has 3 channels, weight [in, out / groups, kh, kw] takes 4");
    refused(turned_pad, "height: padding 2 takes all 3 pixels of the result");
    refused(out_pad, ".out_pad = 2 must be below the stride, 2");
}

static void test_no_images(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *w = ag_param(ag_randn(4, 3, 3, 3)), *x = ag_param(ag_zeros(0, 8, 8, 3));
    ag_tensor *y = ag_conv2d(x, w, .pad = 1);
    assert_int_equal(y->shape[0], 0);
    ag_backward(ag_sum(y));
    for (int64_t i = 0; i < ag_numel(w); i++) assert_true(ag_real(w->grad)[i] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways_agree),
        cmocka_unit_test(test_what_cannot_be_is_refused),
        cmocka_unit_test(test_no_images),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
