/* tests/cuda_cases.h - what the tests of the GPU's kernels share. */
#ifndef CUDA_CASES_H
#define CUDA_CASES_H
#include <math.h>
#include "core/device.h"
#include "tests/op_cases.h"

/* Rounds under other orders of the threads; on a GPU, which chooses itself, two. Their bits must agree. */
#ifdef AG_EMULATE
#ifdef __SANITIZE_ADDRESS__
enum { ROUNDS = 1 };            /* one is enough to see what is read and written */
#else
enum { ROUNDS = 5 };
#endif
void ag_emulate_order(int order);
const char *ag_emulate_error(void);
#else
enum { ROUNDS = 2 };
static inline void ag_emulate_order(int order) { (void)order; }
#endif

enum { MAX_VALUES = 60000 };
typedef struct { int64_t n; double v[MAX_VALUES]; } values;

static inline void take(values *to, ag_tensor *t)
{
    double *v = doubles(ag_to(ag_detach(t), AG_CPU));
    for (int64_t i = 0; i < ag_numel(t); i++) {
        AG_ASSERT(to->n < MAX_VALUES);
        to->v[to->n++] = v[i];
    }
    free(v);
}

/* ---- the same function on both devices ----------------------------------------------------------------- */

typedef ag_tensor *(*function)(ag_tensor **in);
/* On the device; strided: as the odd elements of a wider tensor. */
static inline ag_tensor *moved(ag_tensor *t, ag_device device, bool strided)
{
    ag_tensor *c = ag_to(ag_detach(t), device);
    if (strided) {
        ag_shape s = ag_shape_of(t);
        s.dim[s.ndim++] = 2;
        ag_tensor *wide = ag_to(ag_empty_(AG_HERE, t->dtype, s), device);
        ag_fill(wide, -7);
        ag_copy(ag_select(wide, -1, 1), c);
        c = wide;
    }
    return t->requires_grad ? ag_param(c) : c;
}

/* The output, then the gradients of a weighted sum of it, then those of a second backward added to the first. */
static inline void run(function fn, int n, ag_tensor **cpu, ag_device device, bool strided, values *out)
{
    AG_SCOPE;
    ag_tensor *leaf[MAX_INPUTS], *in[MAX_INPUTS], *y = NULL;
    out->n = 0;
    for (int i = 0; i < n; i++) leaf[i] = moved(cpu[i], device, strided);
    for (int round = 0; round < 2; round++) {
        ag_init(.device = ag_device_name(device));              /* for what fn makes */
        {
            AG_SCOPE;           /* what backward does not read is let go, before (in the first round) and behind fn */
            for (int i = 0; i < n; i++) {
                in[i] = strided ? ag_select(leaf[i], -1, 1) : leaf[i];
                if (leaf[i]->requires_grad && !strided && !round) in[i] = ag_scale(in[i], 1);
            }
            y = fn(in);
            y = ag_keep(y->requires_grad ? ag_scale(y, 1) : y);
        }
        ag_init(.device = "cpu");
        ag_tensor *w = ag_empty_(AG_HERE, AG_F32, ag_shape_of(y));
        if (!round) out->v[out->n++] = (double)y->dtype, take(out, y);
        if (!y->requires_grad) return;
        ag_fill_uniform(ag_real(w), ag_numel(w), 5);
        ag_backward(y, .grad = ag_to(w, device));
        for (int i = 0; i < n; i++)
            if (leaf[i]->grad) take(out, strided ? ag_select(leaf[i]->grad, -1, 1) : leaf[i]->grad);
    }
}

static inline void compare(const char *what, int k, function fn, int n, ag_tensor **in, bool strided, double tol)
{
    static values want, first, got;
    run(fn, n, in, AG_CPU, false, &want);
    for (int order = 0; order < ROUNDS; order++) {
        ag_emulate_order(order);
        run(fn, n, in, AG_CUDA, strided, order ? &got : &first);
        const values *g = order ? &got : &first;
        assert_int_equal(g->n, want.n);
        for (int64_t i = 0; i < g->n; i++)
            if (!(fabs(g->v[i] - want.v[i]) <= tol * fmax(1, fabs(want.v[i]))))
                fail_msg("%s %d, order %d, value %lld: got %.9g, the CPU has %.9g", what, k, order, (long long)i,
                         g->v[i], want.v[i]);
        for (int64_t i = 0; i < g->n; i++)
            if (memcmp(&g->v[i], &first.v[i], sizeof(double)))
                fail_msg("%s %d, value %lld: %.9g in thread order %d, %.9g in the first", what, k, (long long)i,
                         g->v[i], order, first.v[i]);
    }
}

/* Rows of a table of cases. */
typedef struct { const char *what, *inputs; function fn; } cuda_case;
static inline void compare_cases(const cuda_case *cases, size_t n, double tol)
{
    for (size_t k = 0; k < n; k++) {
        AG_SCOPE;
        input spec[MAX_INPUTS];
        ag_tensor *in[MAX_INPUTS];
        const ag_check c = { cases[k].inputs, cases[k].fn };
        const int count = make_all(&c, spec, in);
        compare(cases[k].what, (int)k, cases[k].fn, count, in, false, tol);
    }
}

#endif
