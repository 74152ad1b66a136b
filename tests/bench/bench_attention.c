/* tests/bench/bench_attention.c - attention and the MLP at the sizes of models beside the ceiling of matrix products: lines
 * of key, value, unit. Every figure is the best of many rounds. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "agrad.h"
#include "ops/gemm.h"

enum { ROUNDS = 25 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void report(const char *name, const char *what, ag_dtype type, double value, const char *unit)
{
    printf("%s%s_%s\t%.4g\t%s\n", name, what, ag_dtype_name(type), value, unit);
    fflush(stdout);
}

static ag_tensor *input(ag_dtype type, ag_shape shape)
{
    ag_tensor *x = ag_param(ag_randn_(AG_HERE, shape));
    return type == AG_BF16 ? ag_cast(x, type) : x;
}

/* ---- forward alone, and the two parts of a training step ----------------------------------------------- */

typedef ag_tensor *(*function)(ag_tensor **in);

static void measure(const char *name, ag_dtype type, double flops, function f, ag_tensor **in)
{
    double evaluation = 1e9, forward = 1e9, backward = 1e9;
    for (int r = 0; r < ROUNDS; r++) {
        AG_SCOPE;
        double start = now();
        {
            AG_NO_GRAD;
            const ag_tensor *y = f(in);
            (void)y;
        }
        double took = now() - start;
        evaluation = took < evaluation ? took : evaluation;
        start = now();
        ag_tensor *y = f(in);
        took = now() - start;
        forward = took < forward ? took : forward;
        ag_tensor *g = ag_full_(AG_HERE, 1e-3, ag_shape_of(y));
        if (type == AG_BF16) g = ag_cast(g, type);
        start = now();
        ag_backward(y, .grad = g, .retain_graph = true);
        took = now() - start;
        backward = took < backward ? took : backward;
        for (ag_tensor **t = in; *t; t++) ag_zero_grad(*t);
    }
    report(name, "", type, 1e-9 * flops / evaluation, "GFLOP/s");
    report(name, "_train", type, 1e-9 * flops / forward, "GFLOP/s");
    report(name, "_backward", type, 2e-9 * flops / backward, "GFLOP/s");
    report(name, "_all", type, 1e3 * (forward + backward), "ms");
}

static void ceiling(ag_dtype type)
{
    enum { N = 2048 };
    AG_SCOPE;
    AG_NO_GRAD;
    ag_tensor *a = ag_cast(ag_randn(N, N), type), *b = ag_cast(ag_randn(N, N), type), *c = ag_zeros(N, N);
    double best = 1e9;
    for (int r = 0; r < ROUNDS; r++) {
        const double start = now();
        ag_gemm_run(&(ag_gemm){ .batch = 1, .n = N, .m = N, .k = N, .a = a->data, .a_row = N, .a_col = 1, .a_type = type,
                                .b = b->data, .b_row = N, .b_col = 1, .b_type = type, .c = c->data, .c_row = N });
        const double took = now() - start;
        best = took < best ? took : best;
    }
    report("matmul_2048", "", type, 2e-9 * N * N * N / best, "GFLOP/s");
}

/* ---- attention ----------------------------------------------------------------------------------------- */

static ag_tensor *packed(ag_tensor **in) { return ag_attention_qkv(in[0]); }
static ag_tensor *windows(ag_tensor **in) { return ag_window_attention(in[0], 7, 3, .bias = in[1], .mask = in[2]); }
static ag_tensor *partitioned(ag_tensor **in)       /* the same with copies */
{
    const int64_t *s = in[0]->shape;
    ag_tensor *x = ag_window_partition(ag_reshape(in[0], s[0], s[1], s[2], -1), 7, 3);
    x = ag_attention_qkv(ag_reshape(x, -1, 49, 3, s[4], s[5]), .bias = in[1], .mask = in[2]);
    return ag_window_reverse(ag_reshape(x, -1, 49, s[4] * s[5]), 7, 3, s[1], s[2]);
}

static void attention(ag_dtype type)
{
    AG_SCOPE;
    ag_tensor *vit[] = { input(type, AG_SHAPE(4, 197, 3, 6, 64)), NULL };
    measure("attention_vit_s", type, 4. * 4 * 6 * 197 * 197 * 64, packed, vit);
    for (int stage = 0; stage < 4; stage += 2) {
        const int64_t side = 56 >> stage, heads = 3 << stage;
        char name[64];
        ag_tensor *swin[] = { input(type, AG_SHAPE(4, side, side, 3, heads, 32)), ag_param(ag_randn(heads, 49, 49)),
                              ag_zeros(side * side / 49, 1, 49, 49), NULL };
        const double flops = 4. * 4 * (double)(side * side * heads) * 49 * 32;
        snprintf(name, sizeof name, "attention_swin_t_%d", stage + 1);
        measure(name, type, flops, windows, swin);
        snprintf(name, sizeof name, "attention_swin_t_%d_copied", stage + 1);
        measure(name, type, flops, partitioned, swin);
    }
}

/* ---- mlp ----------------------------------------------------------------------------------------------- */

static ag_tensor *gelu_mlp(ag_tensor **in) { return ag_mlp(in[0], in[1], in[2], in[3], in[4], AG_LINEAR_GELU); }

static void mlp(const char *name, ag_dtype type, int64_t rows, int64_t width)
{
    AG_SCOPE;
    const double size = 1 / sqrt((double)width);
    ag_tensor *in[] = { input(type, AG_SHAPE(rows, width)), ag_param(ag_scale(ag_randn(4 * width, width), size)),
                        ag_param(ag_randn(4 * width)), ag_param(ag_scale(ag_randn(width, 4 * width), size)),
                        ag_param(ag_randn(width)), NULL };
    measure(name, type, 16. * (double)(rows * width * width), gelu_mlp, in);
}

int main(void)
{
    ag_init(.threads = 2, .seed = 1);
    for (int narrow = 0; narrow < 2; narrow++) {
        const ag_dtype type = narrow ? AG_BF16 : AG_F32;
        ceiling(type);
        attention(type);
        mlp("mlp_convnext_t_1", type, 4 * 56 * 56, 96);
        mlp("mlp_convnext_t_3", type, 4 * 14 * 14, 384);
        mlp("mlp_vit_s", type, 4 * 197, 384);
    }
    return 0;
}
