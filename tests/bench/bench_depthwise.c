/* tests/bench/bench_depthwise.c - depthwise convolutions: ours and oneDNN's in one process, both with two threads.
 * Lines of key, value, unit; the best of many short rounds. All taps count, also those that meet padding. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "agrad.h"
#include "ops/conv.h"
#ifdef AG_HAVE_ONEDNN
#include <dnnl.h>
#include <omp.h>
#endif

typedef struct { const char *name; int64_t images, height, width, channels, kernel, stride; } shape;
enum { FORWARD, INPUT, WEIGHT, KINDS };
static const char *const kinds[KINDS] = { "forward", "dgrad", "wgrad" };
static const double enough = 0.4;       /* seconds for each figure */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double best_of(void (*run)(void *), void *arg)
{
    double best = 1e9;
    run(arg);
    for (const double end = now() + enough; now() < end;) {
        const double start = now();
        run(arg);
        const double took = now() - start;
        best = took < best ? took : best;
    }
    return best;
}

/* ---- ours: the kernels of a recorded node -------------------------------------------------------------- */

static void run_forward(void *node)
{
    ag_node *n = node;
    AG_SCOPE;
    n->op->forward[AG_CPU](n);
}

static void run_backward(void *node)
{
    ag_node *n = node;
    AG_SCOPE;
    n->op->backward[AG_CPU](n);
}

static double ours(const shape *s, int kind, ag_dtype dtype)
{
    AG_SCOPE;
    const int64_t pad = s->kernel / 2;
    const ag_conv_arg a = { s->stride, s->stride, pad, pad, pad, pad, 1, 1, s->channels, AG_LINEAR_PLAIN };
    ag_tensor *x = ag_cast(ag_param(ag_randn(s->images, s->height, s->width, s->channels)), dtype);
    ag_tensor *w = ag_param(ag_randn(s->channels, 1, s->kernel, s->kernel)), *bias = ag_param(ag_randn(s->channels));
    ag_tensor *y = ag_apply(&ag_op_conv_depthwise, AG_INPUTS(x, w, bias), &a, sizeof a);
    ag_node *n = y->node;
    if (kind == FORWARD) return best_of(run_forward, n);
    y->grad = ag_retain(ag_cast(ag_randn_(AG_HERE, ag_shape_of(y)), dtype));
    for (int k = 0; k < n->n_in; k++)
        if ((k == 0) == (kind == INPUT)) n->din[k] = ag_empty_(AG_HERE, n->in[k]->dtype, ag_shape_of(n->in[k]));
    return best_of(run_backward, n);
}

/* ---- oneDNN's ------------------------------------------------------------------------------------------ */

#if defined(AG_HAVE_ONEDNN) && DNNL_VERSION_MAJOR == 2
typedef struct { dnnl_primitive_t primitive; dnnl_stream_t stream; dnnl_exec_arg_t args[4]; int n; } direct;

static void run_direct(void *p)
{
    const direct *d = p;
    dnnl_primitive_execute(d->primitive, d->stream, d->n, d->args);
    dnnl_stream_wait(d->stream);
}

static void add_arg(direct *d, int name, const_dnnl_primitive_desc_t pd, dnnl_query_t what, dnnl_engine_t engine)
{
    dnnl_memory_t m;
    dnnl_memory_create(&m, dnnl_primitive_desc_query_md(pd, what, 0), engine, DNNL_MEMORY_ALLOCATE);
    void *data;
    dnnl_memory_get_data_handle(m, &data);
    memset(data, 0, dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(pd, what, 0)));
    d->args[d->n++] = (dnnl_exec_arg_t){ name, m };
}

static double onednn(const shape *s, int kind, ag_dtype dtype)
{
    const int64_t pad = s->kernel / 2, h = ag_conv_out_size(s->height, s->kernel, s->stride, 2 * pad, 1);
    const int64_t w = ag_conv_out_size(s->width, s->kernel, s->stride, 2 * pad, 1);
    const dnnl_data_type_t type = dtype == AG_BF16 ? dnnl_bf16 : dnnl_f32;
    const dnnl_dims_t src = { s->images, s->channels, s->height, s->width }, dst = { s->images, s->channels, h, w };
    const dnnl_dims_t taps = { s->channels, 1, 1, s->kernel, s->kernel }, strides = { s->stride, s->stride };
    const dnnl_dims_t dilates = { 0, 0 }, pads = { pad, pad };
    dnnl_engine_t engine;
    dnnl_memory_desc_t x, k, y;
    dnnl_convolution_desc_t f, b;
    dnnl_primitive_desc_t forward, pd;
    direct d = { .n = 0 };
    dnnl_engine_create(&engine, dnnl_cpu, 0);
    dnnl_stream_create(&d.stream, engine, dnnl_stream_default_flags);
    dnnl_memory_desc_init_by_tag(&x, 4, src, type, dnnl_nhwc);
    dnnl_memory_desc_init_by_tag(&k, 5, taps, type, dnnl_format_tag_any);
    dnnl_memory_desc_init_by_tag(&y, 4, dst, type, dnnl_nhwc);
    const dnnl_alg_kind_t how = dnnl_convolution_direct;
    dnnl_dilated_convolution_forward_desc_init(&f, dnnl_forward_training, how, &x, &k, NULL, &y, strides, dilates, pads,
                                               pads);
    if (dnnl_primitive_desc_create(&forward, &f, NULL, engine, NULL)) return 0;
    pd = forward;
    if (kind == INPUT)
        dnnl_dilated_convolution_backward_data_desc_init(&b, how, &x, &k, &y, strides, dilates, pads, pads);
    if (kind == WEIGHT)
        dnnl_dilated_convolution_backward_weights_desc_init(&b, how, &x, &k, NULL, &y, strides, dilates, pads, pads);
    if (kind != FORWARD && dnnl_primitive_desc_create(&pd, &b, NULL, engine, forward)) return 0;
    dnnl_primitive_create(&d.primitive, pd);
    add_arg(&d, kind == INPUT ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, pd,
            kind == INPUT ? dnnl_query_diff_src_md : dnnl_query_src_md, engine);
    add_arg(&d, kind == WEIGHT ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, pd,
            kind == WEIGHT ? dnnl_query_diff_weights_md : dnnl_query_weights_md, engine);
    add_arg(&d, kind == FORWARD ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, pd,
            kind == FORWARD ? dnnl_query_dst_md : dnnl_query_diff_dst_md, engine);
    omp_set_num_threads(2);
    const double t = best_of(run_direct, &d);
    for (int i = 0; i < d.n; i++) dnnl_memory_destroy(d.args[i].memory);
    dnnl_primitive_destroy(d.primitive);
    return t;
}
#else
static double onednn(const shape *s, int kind, ag_dtype dtype)
{
    (void)s, (void)kind, (void)dtype;
    return 0;
}
#endif

static void report(const shape *s, int kind, ag_dtype dtype, const char *who, double seconds)
{
    const int64_t pad = s->kernel / 2, h = ag_conv_out_size(s->height, s->kernel, s->stride, 2 * pad, 1);
    const int64_t w = ag_conv_out_size(s->width, s->kernel, s->stride, 2 * pad, 1);
    const double flops = 2 * (double)(s->images * h * w * s->channels * s->kernel * s->kernel);
    if (seconds > 0)
        printf("depthwise_%s_%s_%s%s\t%.4g\tGFLOP/s\n", s->name, kinds[kind], ag_dtype_name(dtype), who,
               1e-9 * flops / seconds);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const shape shapes[] = {
        { "7x7_96x56", 4, 56, 56, 96, 7, 1 }, { "7x7_384x14", 4, 14, 14, 384, 7, 1 },
        { "7x7_768x7", 4, 7, 7, 768, 7, 1 }, { "7x7_40x32", 16, 32, 32, 40, 7, 1 },
        { "3x3_32x112", 4, 112, 112, 32, 3, 1 }, { "3x3s2_96x112", 4, 112, 112, 96, 3, 2 },
        { "5x5_240x28", 4, 28, 28, 240, 5, 1 }, { "5x5s2_144x56", 4, 56, 56, 144, 5, 2 },
    };
    ag_init(.threads = 2, .seed = 1);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            for (int kind = 0; kind < KINDS; kind++) {
                if (argc > 1 && !strstr(shapes[i].name, argv[1])) continue;
                const ag_dtype dtype = bf16 ? AG_BF16 : AG_F32;
                report(&shapes[i], kind, dtype, "", ours(&shapes[i], kind, dtype));
                report(&shapes[i], kind, dtype, "_onednn", onednn(&shapes[i], kind, dtype));
            }
    return 0;
}
