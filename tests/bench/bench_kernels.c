/* tests/bench/bench_kernels.c - matrix products and convolutions: ours, and oneDNN called directly with two OpenMP threads
 * on the same layouts, turn by turn in one process. Lines of key, value, unit, and last the ratios; the best of many runs.
 * _train: the weight was written to before, as in a step of training. Arguments: only shapes whose name contains the first
 * ("" for all); the number of threads, 2: with 1, the time of the thread is taken, which others on the machine change little. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "agrad.h"
#include "ops/conv.h"
#ifdef AG_HAVE_ONEDNN
#include <dnnl.h>
#include <omp.h>
#endif

typedef struct { const char *name; int64_t n, size, in, out, kernel, stride; } shape;   /* kernel 0: a product of n rows */
enum { FORWARD, INPUT, WEIGHT, KINDS };
static const char *const kinds[KINDS] = { "forward", "dgrad", "wgrad" };
enum { TURNS = 12, RUNS = 6 };

static int threads = 2;

static double now(void)
{
    struct timespec t;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double best_of(void (*run)(void *), void *arg, double best)
{
    for (int i = 0; i < RUNS && arg; i++) {
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

static void run_touched(void *node)
{
    ag_node *n = node;
    ag_touched(n->in[1]);
    (n->din[0] ? run_backward : run_forward)(node);
}

static ag_node *ours(const shape *s, int kind, ag_dtype dtype)
{
    const bool conv = s->kernel > 0;
    ag_tensor *x = conv ? ag_randn(s->n, s->size, s->size, s->in) : ag_randn(s->n, s->in), *y;
    ag_tensor *w = ag_param(conv ? ag_randn(s->out, s->in, s->kernel, s->kernel) : ag_randn(s->out, s->in));
    x = ag_cast(ag_param(x), dtype);
    if (conv) y = ag_conv2d(x, w, .stride = (int)s->stride, .pad = (int)s->kernel / 2);
    else y = ag_linear(x, w);
    ag_node *n = y->node;
    if (kind == FORWARD) return n;
    const int k = kind == WEIGHT;
    y->grad = ag_retain(ag_cast(ag_randn_(AG_HERE, ag_shape_of(y)), dtype));
    n->din[k] = ag_empty_(AG_HERE, n->in[k]->dtype, ag_shape_of(n->in[k]));
    return n;
}

/* ---- oneDNN's ------------------------------------------------------------------------------------------ */

#if defined(AG_HAVE_ONEDNN) && DNNL_VERSION_MAJOR == 2
typedef struct { dnnl_engine_t engine; dnnl_stream_t stream; dnnl_primitive_t primitive; dnnl_exec_arg_t args[3]; int n; } direct;

static void run_direct(void *p)
{
    const direct *d = p;
    dnnl_primitive_execute(d->primitive, d->stream, d->n, d->args);
    dnnl_stream_wait(d->stream);
}

static void add_arg(direct *d, int name, const_dnnl_primitive_desc_t pd, dnnl_query_t what)
{
    dnnl_memory_t m;
    uint16_t *data;
    ag_rng r = { .seed = 1 };
    dnnl_memory_create(&m, dnnl_primitive_desc_query_md(pd, what, 0), d->engine, DNNL_MEMORY_ALLOCATE);
    dnnl_memory_get_data_handle(m, (void **)&data);
    for (size_t i = 0; i < dnnl_memory_desc_get_size(dnnl_primitive_desc_query_md(pd, what, 0)) / 2; i++)
        data[i] = (uint16_t)(0x3f00 + ag_rng_below(&r, 256));       /* about 1 in bf16 and in f32 */
    d->args[d->n++] = (dnnl_exec_arg_t){ name, m };
}

/* x [n, in] w [out, in]; the weight lies in the layout oneDNN prefers where it is only read */
static bool plan_product(direct *d, const shape *s, int kind, dnnl_data_type_t type)
{
    const int64_t n = kind == WEIGHT ? s->out : s->n, m = kind == FORWARD ? s->out : s->in;
    const int64_t k = kind == FORWARD ? s->in : kind == INPUT ? s->out : s->n;
    const dnnl_dims_t a_dims = { n, k }, b_dims = { k, m }, c_dims = { n, m }, c_strides = { m, 1 };
    const dnnl_dims_t a_strides = { kind == WEIGHT ? 1 : k, kind == WEIGHT ? n : 1 }, b_strides = { m, 1 };
    dnnl_memory_desc_t a, b, c;
    dnnl_matmul_desc_t op;
    dnnl_primitive_desc_t pd;
    dnnl_memory_desc_init_by_strides(&a, 2, a_dims, type, a_strides);
    if (kind == WEIGHT) dnnl_memory_desc_init_by_strides(&b, 2, b_dims, type, b_strides);
    else dnnl_memory_desc_init_by_tag(&b, 2, b_dims, type, dnnl_format_tag_any);
    dnnl_memory_desc_init_by_strides(&c, 2, c_dims, kind == WEIGHT ? dnnl_f32 : type, c_strides);
    dnnl_matmul_desc_init(&op, &a, &b, NULL, &c);
    if (dnnl_primitive_desc_create(&pd, &op, NULL, d->engine, NULL)) return false;
    dnnl_primitive_create(&d->primitive, pd);
    add_arg(d, DNNL_ARG_SRC, pd, dnnl_query_src_md);
    add_arg(d, DNNL_ARG_WEIGHTS, pd, dnnl_query_weights_md);
    add_arg(d, DNNL_ARG_DST, pd, dnnl_query_dst_md);
    return true;
}

static bool plan_conv(direct *d, const shape *s, int kind, dnnl_data_type_t type)
{
    const int64_t pad = s->kernel / 2, size = ag_conv_out_size(s->size, s->kernel, s->stride, 2 * pad, 1);
    const dnnl_dims_t src = { s->n, s->in, s->size, s->size }, dst = { s->n, s->out, size, size };
    const dnnl_dims_t strides = { s->stride, s->stride }, taps = { s->out, s->in, s->kernel, s->kernel }, pads = { pad, pad };
    dnnl_memory_desc_t x, k, dk, y;
    dnnl_convolution_desc_t f, b;
    dnnl_primitive_desc_t forward, pd;
    dnnl_memory_desc_init_by_tag(&x, 4, src, type, dnnl_nhwc);
    dnnl_memory_desc_init_by_tag(&k, 4, taps, type, dnnl_format_tag_any);
    dnnl_memory_desc_init_by_tag(&dk, 4, taps, dnnl_f32, dnnl_format_tag_any);
    dnnl_memory_desc_init_by_tag(&y, 4, dst, type, dnnl_nhwc);
    dnnl_convolution_forward_desc_init(&f, dnnl_forward_training, dnnl_convolution_direct, &x, &k, NULL, &y, strides, pads, pads);
    if (dnnl_primitive_desc_create(&forward, &f, NULL, d->engine, NULL)) return false;
    pd = forward;
    if (kind == INPUT)
        dnnl_convolution_backward_data_desc_init(&b, dnnl_convolution_direct, &x, &k, &y, strides, pads, pads);
    if (kind == WEIGHT)
        dnnl_convolution_backward_weights_desc_init(&b, dnnl_convolution_direct, &x, &dk, NULL, &y, strides, pads, pads);
    if (kind != FORWARD && dnnl_primitive_desc_create(&pd, &b, NULL, d->engine, forward)) return false;
    dnnl_primitive_create(&d->primitive, pd);
    add_arg(d, kind == INPUT ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, pd, kind == INPUT ? dnnl_query_diff_src_md : dnnl_query_src_md);
    add_arg(d, kind == WEIGHT ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, pd,
            kind == WEIGHT ? dnnl_query_diff_weights_md : dnnl_query_weights_md);
    add_arg(d, kind == FORWARD ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, pd,
            kind == FORWARD ? dnnl_query_dst_md : dnnl_query_diff_dst_md);
    return true;
}

static bool onednn(direct *d, const shape *s, int kind, ag_dtype dtype)
{
    const dnnl_data_type_t type = dtype == AG_BF16 ? dnnl_bf16 : dnnl_f32;
    *d = (direct){ .n = 0 };
    omp_set_num_threads(threads);
    dnnl_engine_create(&d->engine, dnnl_cpu, 0);
    dnnl_stream_create(&d->stream, d->engine, dnnl_stream_default_flags);
    return s->kernel ? plan_conv(d, s, kind, type) : plan_product(d, s, kind, type);
}

static void finish(direct *d)
{
    for (int i = 0; i < d->n; i++) dnnl_memory_destroy(d->args[i].memory);
    if (d->primitive) dnnl_primitive_destroy(d->primitive);
}
#else
typedef struct { int n; } direct;
static void run_direct(void *d) { (void)d; }
static void finish(direct *d) { (void)d; }
static bool onednn(direct *d, const shape *s, int kind, ag_dtype dtype)
{
    (void)d, (void)s, (void)kind, (void)dtype;
    return false;
}
#endif

/* ---- both ---------------------------------------------------------------------------------------------- */

static void report(const char *key, const char *who, double flops, double seconds)
{
    if (seconds < 1e8) printf("%s%s\t%.4g\tGFLOP/s\n", key, who, 1e-9 * flops / seconds);
}

static void measure(const shape *s, int kind, ag_dtype dtype)
{
    char key[64];
    snprintf(key, sizeof key, "%s_%s_%s", s->name, kinds[kind], ag_dtype_name(dtype));
    AG_SCOPE;
    direct d;
    ag_node *n = ours(s, kind, dtype);
    const bool there = onednn(&d, s, kind, dtype);
    const int64_t out = s->kernel ? (s->size - 1) / s->stride + 1 : 1, taps = s->kernel ? s->kernel * s->kernel : 1;
    const double flops = 2 * (double)(s->n * out * out * s->in * s->out * taps);
    double own = 1e9, touched = 1e9, theirs = 1e9;
    for (int i = 0; i < TURNS; i++) {
        own = best_of(kind == FORWARD ? run_forward : run_backward, n, own);
        if (kind != WEIGHT) touched = best_of(run_touched, n, touched);
        theirs = best_of(run_direct, there ? &d : NULL, theirs);
    }
    report(key, "", flops, own);
    report(key, "_train", flops, touched);
    report(key, "_onednn", flops, theirs);
    if (there) printf("%s_ratio\t%.3f\tof oneDNN\n", key, theirs / own);
    fflush(stdout);
    finish(&d);
}

int main(int argc, char **argv)
{
    const shape shapes[] = {
        { "linear_96_384x12544", 12544, 0, 96, 384, 0, 0 }, { "linear_384_96x12544", 12544, 0, 384, 96, 0, 0 },
        { "linear_192_768x3136", 3136, 0, 192, 768, 0, 0 }, { "linear_384_1536x784", 784, 0, 384, 1536, 0, 0 },
        { "linear_1536_384x784", 784, 0, 1536, 384, 0, 0 }, { "linear_768_3072x196", 196, 0, 768, 3072, 0, 0 },
        { "linear_384_1152x788", 788, 0, 384, 1152, 0, 0 }, { "linear_384_384x788", 788, 0, 384, 384, 0, 0 },
        { "conv7s2_3_64x224", 4, 224, 3, 64, 7, 2 }, { "conv3_64_64x56", 4, 56, 64, 64, 3, 1 },
        { "conv3_128_128x28", 4, 28, 128, 128, 3, 1 }, { "conv3_256_256x14", 4, 14, 256, 256, 3, 1 },
        { "conv3_512_512x7", 4, 7, 512, 512, 3, 1 }, { "conv3s2_128_128x56", 4, 56, 128, 128, 3, 2 },
        { "conv3s2_256_256x28", 4, 28, 256, 256, 3, 2 }, { "conv3s2_512_512x14", 4, 14, 512, 512, 3, 2 },
        { "conv1_64_256x56", 4, 56, 64, 256, 1, 1 }, { "conv1_256_64x56", 4, 56, 256, 64, 1, 1 },
        { "conv1_1024_256x14", 4, 14, 1024, 256, 1, 1 }, { "conv1_512_2048x7", 4, 7, 512, 2048, 1, 1 },
        { "conv1s2_256_512x56", 4, 56, 256, 512, 1, 2 },
    };
    if (argc > 2) threads = atoi(argv[2]);
    ag_init(.threads = threads, .seed = 1);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            for (int kind = 0; kind < KINDS; kind++)
                if (argc < 2 || strstr(shapes[i].name, argv[1])) measure(&shapes[i], kind, bf16 ? AG_BF16 : AG_F32);
    return 0;
}
