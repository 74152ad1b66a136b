/* tests/bench/bench_bandwidth.c - what is bound by memory, beside a copy of the same tensors in the same run: lines of
 * key, value, unit. The figures of an op, forward (_fwd) and backward (_bwd), count what it must read and write.
 *     bench_bandwidth [PART OF A KEY] [THREADS]       with one thread: processor time, for machines that are shared */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "agrad.h"
#include "core/op.h"
#include "core/thread.h"

enum { ROUNDS = 25 };

static clockid_t watch = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(watch, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void report(const char *key, double value, const char *unit)
{
    printf("%s\t%.4g\t%s\n", key, value, unit);
    fflush(stdout);
}

typedef struct { char *to; const char *from; } copy_job;

static void copy(int64_t begin, int64_t end, void *arg)
{
    const copy_job *j = arg;
    memcpy(j->to + begin, j->from + begin, (size_t)(end - begin));
}

static double copy_time(const ag_tensor *x)
{
    AG_SCOPE;
    const int64_t bytes = ag_numel(x) * (int64_t)ag_dtype_size(x->dtype);
    ag_tensor *to = ag_empty_(AG_HERE, x->dtype, ag_shape_of(x));
    const double start = now();
    ag_parallel(bytes, 4096, 1, copy, &(copy_job){ to->data, x->data });
    return now() - start;
}

/* Of an op on n_in tensors of one shape: how many tensors of that size forward and backward must move. */
typedef ag_tensor *(*function)(ag_tensor **in, ag_tensor **channels);
typedef struct { const char *key; function fn; int n_in; double fwd, bwd; } work;

/* The kernel alone: what the engine does around it (handing on, adding up) is left out. */
static double backward_time(ag_tensor *y, ag_tensor *g)
{
    AG_SCOPE;
    ag_node *n = y->node;
    if (!ag_same_shape(y, g)) g = ag_cast(ag_full_(AG_HERE, 1, ag_shape_of(y)), y->dtype);
    y->grad = ag_retain(g);
    for (int k = 0; k < n->n_in; k++)
        if (n->in[k] && n->in[k]->requires_grad)
            n->din[k] = ag_retain(ag_empty_(AG_HERE, n->in[k]->dtype, ag_shape_of(n->in[k])));
    const double start = now();
    n->op->backward[AG_CPU](n);
    const double took = now() - start;
    for (int k = 0; k < n->n_in; k++) {
        ag_release(n->din[k]);
        n->din[k] = NULL;
    }
    ag_release(y->grad);
    y->grad = NULL;
    return took;
}

static void measure(const work *w, ag_dtype dtype, ag_shape shape)
{
    AG_SCOPE;
    const int64_t c = shape.dim[shape.ndim - 1];
    ag_tensor *in[3] = { NULL }, *channels[4], *g = ag_cast(ag_randn_(AG_HERE, shape), dtype);
    for (int i = 0; i < w->n_in; i++) {     /* no leaves: gradients can be handed on without a copy */
        ag_tensor *leaf = ag_param(ag_randn_(AG_HERE, shape));
        in[i] = dtype == AG_BF16 ? ag_cast(leaf, dtype) : ag_reshape_(AG_HERE, leaf, shape);
    }
    for (int i = 0; i < 4; i++) channels[i] = i < 2 ? ag_param(ag_rand(c)) : ag_rand(c);
    double forward = 1e9, backward = 1e9, copied = 1e9;
    for (int r = 0; r < ROUNDS; r++) {
        AG_SCOPE;
        copied = fmin(copied, copy_time(in[0]));
        const double start = now();
        ag_tensor *y = w->fn(in, channels);
        forward = fmin(forward, now() - start);
        backward = fmin(backward, backward_time(y, g));
    }
    const double size = 1e-9 * (double)ag_numel(g) * (double)ag_dtype_size(dtype), bandwidth = 2 * size / copied;
    char key[96];
    for (int b = 0; b < 2; b++) {
        if (b && w->bwd == 0) continue;
        const double v = b ? size * w->bwd / backward : size * w->fwd / forward;
        snprintf(key, sizeof key, "%s_%lld%s_%s", w->key, (long long)c, dtype == AG_BF16 ? "_bf16" : "",
                 b ? "bwd" : "fwd");
        report(key, v, "GB/s");
        strcat(key, "_share");
        report(key, 100 * v / bandwidth, "% of copy");
    }
}

static ag_tensor *layer_norm(ag_tensor **x, ag_tensor **c) { return ag_layer_norm(x[0], .weight = c[0], .bias = c[1]); }
static ag_tensor *batch_norm(ag_tensor **x, ag_tensor **c)
{
    return ag_batch_norm(x[0], c[2], c[3], .weight = c[0], .bias = c[1], .training = true);
}
static ag_tensor *batch_norm_relu(ag_tensor **x, ag_tensor **c)
{
    return ag_batch_norm(x[0], c[2], c[3], .weight = c[0], .bias = c[1], .training = true, .activation = AG_LINEAR_RELU);
}
static ag_tensor *batch_norm_residual(ag_tensor **x, ag_tensor **c)
{
    return ag_batch_norm(x[0], c[2], c[3], .weight = c[0], .bias = c[1], .training = true, .activation = AG_LINEAR_RELU,
                         .residual = x[1]);
}
static ag_tensor *batch_norm_eval(ag_tensor **x, ag_tensor **c)
{
    return ag_batch_norm(x[0], c[2], c[3], .weight = c[0], .bias = c[1], .activation = AG_LINEAR_RELU);
}
static ag_tensor *residual(ag_tensor **x, ag_tensor **c)
{
    return ag_residual(x[0], x[1], .scale = c[0], .drop_path = 0.05, .key = 1);
}
static ag_tensor *grn(ag_tensor **x, ag_tensor **c) { return ag_grn(x[0], c[0], c[1]); }
static ag_tensor *group_norm(ag_tensor **x, ag_tensor **c) { return ag_group_norm(x[0], 8, .weight = c[0], .bias = c[1]); }
static ag_tensor *mean(ag_tensor **x, ag_tensor **c) { return (void)c, ag_mean(x[0], .axes = AG_AXES(1, 2)); }
static ag_tensor *dropout(ag_tensor **x, ag_tensor **c) { return (void)c, ag_dropout(x[0], 0.1, 7); }
static ag_tensor *gelu(ag_tensor **x, ag_tensor **c) { return (void)c, ag_gelu(x[0]); }
static ag_tensor *relu(ag_tensor **x, ag_tensor **c) { return (void)c, ag_relu(x[0]); }
static ag_tensor *add(ag_tensor **x, ag_tensor **c) { return (void)c, ag_add(x[0], x[1]); }
static ag_tensor *mul(ag_tensor **x, ag_tensor **c) { return (void)c, ag_mul(x[0], x[1]); }
static ag_tensor *add_bias(ag_tensor **x, ag_tensor **c) { return ag_add(x[0], c[0]); }

static const work works[] = {
    { "layer_norm", layer_norm, 1, 2, 3 },
    { "batch_norm", batch_norm, 1, 3, 5 },
    { "batch_norm_relu", batch_norm_relu, 1, 3, 5 },
    { "batch_norm_residual_relu", batch_norm_residual, 2, 4, 8 },
    { "batch_norm_eval", batch_norm_eval, 1, 2, 5 },
    { "residual", residual, 2, 3, 3 },
    { "grn", grn, 1, 3, 5 },
    { "group_norm", group_norm, 1, 3, 5 },
    { "mean", mean, 1, 1, 1 },
    { "dropout", dropout, 1, 2, 2 },
    { "gelu", gelu, 1, 2, 3 },
    { "relu", relu, 1, 2, 3 },
    { "add", add, 2, 3, 0 },
    { "mul", mul, 2, 3, 5 },
    { "add_bias", add_bias, 1, 2, 1 },
};

int main(int argc, char **argv)
{
    const int threads = argc > 2 ? atoi(argv[2]) : 2;
    if (threads == 1) watch = CLOCK_THREAD_CPUTIME_ID;
    ag_init(.threads = threads, .seed = 1);
    const ag_shape shapes[] = { AG_SHAPE(16, 56, 56, 96), AG_SHAPE(16, 14, 14, 384), AG_SHAPE(64, 32, 32, 40) };
    for (size_t i = 0; i < sizeof works / sizeof *works; i++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (int narrow = 0; narrow < 2; narrow++)
                if (argc < 2 || strstr(works[i].key, argv[1])) measure(&works[i], narrow ? AG_BF16 : AG_F32, shapes[s]);
    return 0;
}
