#include <math.h>
#include "core/engine.h"
#include "core/random.h"
#include "ops/ops.h"

typedef ag_tensor *(*check_fn)(ag_tensor **in);

/* The outputs are weighed with fixed numbers between 0.5 and 1.5, so that a mistake in one cannot cancel in their sum. */
static real weight(int64_t i)
{
    const ag_philox4 p = ag_philox(1, 0, (uint64_t)i);
    return (real)(0.5 + ag_uniform01(p.v[0], p.v[1]));
}

static double weighed(check_fn fn, ag_tensor **in)
{
    AG_SCOPE;
    AG_NO_GRAD;
    ag_tensor *out = ag_contiguous(fn(in));
    double sum = 0;
    for (int64_t i = 0; i < ag_numel(out); i++) sum += (double)ag_real(out)[i] * (double)weight(i);
    return sum;
}

static void analytic(const char *at, check_fn fn, int n, ag_tensor **in, ag_tensor **grad)
{
    AG_SCOPE;
    ag_tensor *out = fn(in);
    ag_tensor *w = ag_scoped(ag_tensor_new(at, AG_CPU, AG_MEM_TENSOR, AG_F32, ag_shape_of(out)));
    for (int64_t i = 0; i < ag_numel(w); i++) ag_real(w)[i] = weight(i);
    ag_tensor *loss = ag_sum(ag_mul(out, w));
    ag_tensor *wanted[16], *got[16];
    int k = 0;
    for (int i = 0; i < n; i++) if (in[i]->requires_grad) wanted[k++] = in[i];
    ag_grad_(at, loss, k, wanted, got);
    for (int i = 0, j = 0; i < n; i++) if (in[i]->requires_grad) grad[i] = ag_keep(got[j++]);
}

static double moved(check_fn fn, ag_tensor **in, ag_tensor *t, int64_t k, real to)
{
    ag_real(t)[k] = to;
    ag_touched(t);
    return weighed(fn, in);
}

static double numeric(check_fn fn, ag_tensor **in, ag_tensor *t, int64_t k, double h)
{
    const real before = ag_real(t)[k], up = before + (real)h, down = before - (real)h;
    const double plus = moved(fn, in, t, k, up), minus = moved(fn, in, t, k, down);
    ag_real(t)[k] = before;
    ag_touched(t);
    return (plus - minus) / (double)(up - down);
}

double ag_gradcheck_(const char *at, check_fn fn, int n, ag_tensor **in, ag_gradcheck_opts opts)
{
    const bool exact = sizeof(real) == 8;
    const double h = opts.h > 0 ? opts.h : exact ? 1e-6 : 1e-2, tol = opts.tol > 0 ? opts.tol : exact ? 1e-6 : 2e-2;
    char d[128];
    ag_tensor *grad[16] = { 0 };
    double worst = 0;
    int checked = 0;
    if (n > 16) ag_fail(at, "ag_gradcheck: at most 16 inputs, got %d", n);
    AG_SCOPE;
    for (int i = 0; i < n; i++) {
        if (!in[i]->requires_grad) continue;
        checked++;
        if (in[i]->device != AG_CPU || !ag_is_contiguous(in[i]))
            ag_fail(at, "ag_gradcheck: input %d must be a contiguous tensor on the cpu", i);
    }
    if (!checked) ag_fail(at, "ag_gradcheck: no input requires a gradient; mark one with ag_param");
    analytic(at, fn, n, in, grad);
    for (int i = 0; i < n; i++) {
        if (!in[i]->requires_grad) continue;
        for (int64_t k = 0; k < ag_numel(in[i]); k++) {
            const double want = numeric(fn, in, in[i], k, h), got = (double)ag_real(grad[i])[k];
            const double error = fabs(got - want) / fmax(1, fabs(want));
            if (!(error <= tol))
                ag_fail(at, "ag_gradcheck: input %d %s, element %" PRId64 ": backward gives %.10g, central differences "
                        "%.10g (h %g, error %.3g above %g)", i, ag_describe(in[i], d, sizeof d), k, got, want, h, error,
                        tol);
            worst = fmax(worst, error);
        }
    }
    return worst;
}
