/* tests/test_ops.c - every op of the registry on every case of its check[] rows: central differences (in the f64 build
 * to 1e-6), PyTorch's values and gradients (tests/fixtures), strided inputs, gradients added to what is there.
 * `test_ops --list` prints the cases for tests/make_fixtures.py. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agrad.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "core/io.h"
#include "core/op.h"
#include "tests/op_cases.h"

static void each_check(void (*body)(const ag_op *, int k, const ag_check *))
{
    for (const ag_op *const *op = ag_ops; *op; op++)
        for (int k = 0; k < AG_MAX_CHECKS && (*op)->check[k].inputs; k++) {
            AG_SCOPE;
            body(*op, k, &(*op)->check[k]);
        }
}

static void is_complete(const ag_op *op, int k, const ag_check *c)
{
    (void)k, (void)c;
    if (!op->backward[AG_CPU] == !op->no_grad) fail_msg("%s: needs a backward or a reason, one of them", op->name);
}

static void test_every_op_has_a_check(void **state)
{
    (void)state;
    for (const ag_op *const *op = ag_ops; *op; op++)
        if (!(*op)->check[0].inputs) fail_msg("%s has no check row", (*op)->name);
    each_check(is_complete);
}

static void gradient(const ag_op *op, int k, const ag_check *c)
{
    input spec[MAX_INPUTS];
    ag_tensor *in[MAX_INPUTS];
    const int n = make_all(c, spec, in);
    bool trained = false;
    for (int i = 0; i < n; i++) trained |= differentiable(&spec[i]);
    (void)k;
    if (op->no_grad || !trained) return;
    ag_gradcheck(c->fn, n, in, .h = sizeof(real) == 8 ? 1e-6 : 3e-3);
}

static void test_gradients_are_those_of_central_differences(void **state)
{
    (void)state;
    each_check(gradient);
}

/* ---- the same values where inputs have strides --------------------------------------------------------- */

static void weighed_gradients(const ag_check *c, int n, const input *spec, ag_tensor **in, ag_tensor **out, ag_tensor **grad)
{
    *out = c->fn(in);
    if (!(*out)->requires_grad) return;
    ag_tensor *w = ag_empty_(AG_HERE, AG_F32, ag_shape_of(*out)), *wanted[MAX_INPUTS], *got[MAX_INPUTS];
    ag_fill_uniform(ag_real(w), ag_numel(w), 5);
    int m = 0;
    for (int i = 0; i < n; i++) if (differentiable(&spec[i])) wanted[m++] = in[i];
    ag_grad(ag_sum(ag_mul(*out, w)), m, wanted, got);
    m = 0;
    for (int i = 0; i < n; i++) grad[i] = differentiable(&spec[i]) ? got[m++] : NULL;
}

static void assert_close(const char *what, const ag_op *op, int k, const ag_tensor *got, const double *want, double tol)
{
    const int64_t n = ag_numel(got);
    double *v = calloc((size_t)n + 1, sizeof *v);
    ag_tensor *as_real = ag_contiguous(ag_cast((ag_tensor *)(uintptr_t)got, AG_F32));
    for (int64_t i = 0; i < n; i++) {
        v[i] = (double)ag_real(as_real)[i];
        if (!(fabs(v[i] - want[i]) <= tol * fmax(1, fabs(want[i]))))
            fail_msg("%s case %d, %s[%lld]: got %.9g, want %.9g", op->name, k, what, (long long)i, v[i], want[i]);
    }
    free(v);
}

static void strided(const ag_op *op, int k, const ag_check *c)
{
    input spec[MAX_INPUTS];
    ag_tensor *in[MAX_INPUTS], *views[MAX_INPUTS], *out, *out_views, *g[MAX_INPUTS] = { 0 }, *gv[MAX_INPUTS] = { 0 };
    const int n = make_all(c, spec, in);
    for (int i = 0; i < n; i++) views[i] = in[i]->ndim < AG_MAX_DIMS ? with_stride_two(in[i]) : in[i];
    weighed_gradients(c, n, spec, in, &out, g);
    weighed_gradients(c, n, spec, views, &out_views, gv);
    double *want = doubles(out);
    assert_close("output of strided inputs", op, k, out_views, want, 1e-5);
    free(want);
    for (int i = 0; i < n; i++) {
        if (!g[i]) continue;
        want = doubles(g[i]);
        assert_close(spec[i].name, op, k, gv[i], want, 1e-5);
        free(want);
    }
}

static void test_strided_inputs_give_the_same(void **state)
{
    (void)state;
    each_check(strided);
}

/* A second backward adds exactly the same once more. */
static void added(const ag_op *op, int k, const ag_check *c)
{
    input spec[MAX_INPUTS];
    ag_tensor *in[MAX_INPUTS];
    if (op->no_grad) return;
    const int n = make_all(c, spec, in);
    double *once[MAX_INPUTS] = { 0 };
    for (int round = 0; round < 2; round++) {
        AG_SCOPE;
        ag_tensor *y = c->fn(in), *w = ag_empty_(AG_HERE, AG_F32, ag_shape_of(y));
        if (!y->requires_grad) return;
        ag_fill_uniform(ag_real(w), ag_numel(w), 5);
        ag_backward(y, .grad = w);
        for (int i = 0; i < n; i++) {
            if (!in[i]->grad) continue;
            if (!round) once[i] = doubles(in[i]->grad);
            else for (int64_t e = 0; e < ag_numel(in[i]); e++) once[i][e] *= 2;
            if (round) assert_close(spec[i].name, op, k, in[i]->grad, once[i], 1e-5);
        }
    }
    for (int i = 0; i < n; i++) free(once[i]);
}

static void test_gradients_are_added(void **state)
{
    (void)state;
    each_check(added);
}

/* ---- values that backward does not read ---------------------------------------------------------------- */

/* The same gradients where nobody but backward holds the inputs and the output: what an op says it does not read is gone. */
static ag_tensor *alone(const ag_check *c, int n, const input *spec, ag_tensor **in)
{
    AG_SCOPE;
    ag_tensor *own[MAX_INPUTS];
    for (int i = 0; i < n; i++)
        own[i] = in[i]->dtype == AG_F32 && differentiable(&spec[i]) ? ag_add(in[i], ag_zeros(1)) : in[i];
    ag_tensor *y = c->fn(own);
    if (!y->requires_grad) return ag_keep(y);
    return ag_keep(ag_add(y, ag_zeros(1)));
}

static void unread(const ag_op *op, int k, const ag_check *c)
{
    input spec[MAX_INPUTS] = { 0 };
    ag_tensor *in[MAX_INPUTS], *out, *wanted[MAX_INPUTS], *g[MAX_INPUTS] = { 0 }, *got[MAX_INPUTS];
    const int n = make_all(c, spec, in);
    int m = 0;
    if (op->no_grad) return;
    weighed_gradients(c, n, spec, in, &out, g);
    if (!out->requires_grad) return;
    ag_tensor *y = alone(c, n, spec, in), *w = ag_empty_(AG_HERE, AG_F32, ag_shape_of(out));
    ag_fill_uniform(ag_real(w), ag_numel(w), 5);
    for (int i = 0; i < n; i++) if (differentiable(&spec[i])) wanted[m++] = in[i];
    ag_grad(ag_sum(ag_mul(y, w)), m, wanted, got);
    m = 0;
    for (int i = 0; i < n; i++) {
        if (!g[i]) continue;
        double *want = doubles(g[i]);
        assert_close(spec[i].name, op, k, got[m++], want, 1e-6);
        free(want);
    }
}

static void test_backward_reads_what_it_says(void **state)
{
    (void)state;
    each_check(unread);
}

/* x is not read by the sum and was made by one: its memory ends with its scope, not with backward. */
static void test_unread_memory_ends(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *w = ag_param(ag_ones(1000));
    const int64_t before = ag_memory(AG_CPU).in_use;
    ag_tensor *y;
    {
        AG_SCOPE;
        ag_tensor *x = ag_add(w, w);
        for (int i = 0; i < 9; i++) x = ag_add(x, w);
        y = ag_keep(x);
    }
    const int64_t held = ag_memory(AG_CPU).in_use - before;
    if (held > 2 * 1000 * (int64_t)sizeof(real)) fail_msg("%lld bytes are held", (long long)held);
    ag_backward(y, .grad = ag_ones(1000));
    assert_float_equal(ag_at(w->grad, 7), 11, 0);
}

/* ---- bf16 ---------------------------------------------------------------------------------------------- */

/* Every op that takes bf16, on such inputs: near the values and gradients in f32, relative to the largest. */
static void assert_near(const char *what, const ag_op *op, int k, const ag_tensor *got, const double *want)
{
    double *v = doubles(got), most = 1e-3;
    for (int64_t i = 0; i < ag_numel(got); i++) most = fmax(most, fabs(want[i]));
    for (int64_t i = 0; i < ag_numel(got); i++)
        if (!(fabs(v[i] - want[i]) <= 0.03 * most))
            fail_msg("%s case %d in bf16, %s[%lld]: got %.9g, want %.9g", op->name, k, what, (long long)i, v[i], want[i]);
    free(v);
}

static void bf16(const ag_op *op, int k, const ag_check *c)
{
    input spec[MAX_INPUTS] = { 0 };
    ag_tensor *in[MAX_INPUTS], *narrow[MAX_INPUTS] = { 0 }, *out, *out_narrow, *g[MAX_INPUTS] = { 0 }, *gn[MAX_INPUTS] = { 0 };
    if (!op->bf16) return;
    const int n = make_all(c, spec, in);
    for (int i = 0; i < n; i++) {
        if (in[i]->dtype != AG_F32) { narrow[i] = in[i]; continue; }
        AG_NO_GRAD;
        ag_copy(in[i], ag_cast(ag_cast(in[i], AG_BF16), AG_F32));       /* both start from the same values */
    }
    for (int i = 0; i < n; i++)
        if (in[i]->dtype == AG_F32) narrow[i] = op->bf16 >> i & 1 ? ag_cast(in[i], AG_BF16) : in[i];
    weighed_gradients(c, n, spec, in, &out, g);
    out_narrow = c->fn(narrow);
    if (out->requires_grad) {
        ag_tensor *wanted[MAX_INPUTS], *got[MAX_INPUTS], *w = ag_empty_(AG_HERE, AG_F32, ag_shape_of(out));
        int m = 0;
        ag_fill_uniform(ag_real(w), ag_numel(w), 5);
        for (int i = 0; i < n; i++) if (differentiable(&spec[i])) wanted[m++] = in[i];
        ag_grad(ag_sum(ag_mul(ag_cast(out_narrow, AG_F32), w)), m, wanted, got);
        m = 0;
        for (int i = 0; i < n; i++) gn[i] = differentiable(&spec[i]) ? got[m++] : NULL;
    }
    double *want = doubles(out);
    assert_near("output", op, k, out_narrow, want);
    free(want);
    for (int i = 0; i < n; i++) {
        if (!g[i]) continue;
        want = doubles(g[i]);
        assert_near(spec[i].name, op, k, gn[i], want);
        free(want);
    }
}

static void test_bf16_is_near_f32(void **state)
{
    (void)state;
    each_check(bf16);
}

/* ---- PyTorch ------------------------------------------------------------------------------------------- */

static int fixtures;

static double *values(const ag_safetensors *f, const char *name)
{
    return doubles(ag_safetensors_get(f, name));
}

static void pytorch(const ag_op *op, int k, const ag_check *c)
{
    char path[256], name[64];
    input spec[MAX_INPUTS];
    ag_tensor *in[MAX_INPUTS], *out;
    snprintf(path, sizeof path, "tests/fixtures/%s.safetensors", op->name);
    snprintf(name, sizeof name, "%d.out", k);
    if (!ag_file_exists(path)) fail_msg("%s is missing: add %s to tests/reference and run tests/make_fixtures.py", path,
                                        op->name);
    const ag_safetensors *f = ag_safetensors_open(path);
    if (!ag_safetensors_has(f, name)) fail_msg("%s holds no case %d; run tests/make_fixtures.py", path, k);
    const int n = parse(c->inputs, spec);
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%d.in.%d", k, i);
        in[i] = ag_safetensors_get(f, name);
        if (differentiable(&spec[i])) ag_param(in[i]);
    }
    out = c->fn(in);
    snprintf(name, sizeof name, "%d.out", k);
    double *want = values(f, name);
    const ag_shape shape = ag_safetensors_shape(f, name);
    assert_int_equal(shape.ndim, out->ndim);
    for (int i = 0; i < shape.ndim; i++) assert_int_equal(shape.dim[i], out->shape[i]);
    assert_close("output", op, k, out, want, 2e-5);
    free(want);
    fixtures++;
    if (op->no_grad || !out->requires_grad) return;
    snprintf(name, sizeof name, "%d.w", k);
    ag_backward(out, .grad = ag_safetensors_get(f, name));
    for (int i = 0; i < n; i++) {
        if (!differentiable(&spec[i])) continue;
        snprintf(name, sizeof name, "%d.grad.%d", k, i);
        want = values(f, name);
        ag_rows_to_dense(in[i]);
        assert_close(spec[i].name, op, k, in[i]->grad, want, 5e-5);
        free(want);
    }
}

static void test_values_are_pytorchs(void **state)
{
    (void)state;
    each_check(pytorch);
    print_message("%d cases compared with PyTorch\n", fixtures);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--list")) {
        for (const ag_op *const *op = ag_ops; *op; op++)
            for (int k = 0; k < AG_MAX_CHECKS && (*op)->check[k].inputs; k++)
                printf("%s\t%d\t%s\n", (*op)->name, k, (*op)->check[k].inputs);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_op_has_a_check),
        cmocka_unit_test(test_gradients_are_those_of_central_differences),
        cmocka_unit_test(test_strided_inputs_give_the_same),
        cmocka_unit_test(test_gradients_are_added),
        cmocka_unit_test(test_backward_reads_what_it_says),
        cmocka_unit_test(test_unread_memory_ends),
        cmocka_unit_test(test_bf16_is_near_f32),
        cmocka_unit_test(test_values_are_pytorchs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
