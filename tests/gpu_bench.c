/* tests/gpu_bench.c - what the GPU's kernels reach: one line per work, tab-separated "work, value, unit". Run by
 * tests/gpu_check.sh. With --small: sizes for the emulation. Ends with status 3, saying why, where there is no GPU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agrad.h"
#include "core/device.h"
#include "core/memory.h"
#include "data/packed.h"
#include "tests/gpu_rows.h"
#ifdef AG_HAVE_CUDA
#include "cuda/cudnn.h"
#else
static void ag_cudnn_forget(void) { }
#endif

/* Seconds of one call: the best of three runs of as many calls as take about 0.2 s. */
static double seconds(void (*work)(void *), void *arg)
{
    const ag_device_ops *d = ag_device_table(AG_CUDA);
    double best = 0;
    int64_t calls = 1;
    work(arg);
    for (int round = -1; round < 3; round++) {
        d->sync();
        const double start = now();
        for (int64_t i = 0; i < calls; i++) work(arg);
        d->sync();
        const double each = (now() - start) / (double)calls;
        if (round < 0) calls = small ? 2 : 1 + (int64_t)(0.2 / each);
        else if (!round || each < best) best = each;
    }
    return best;
}

static void copying(void *arg)
{
    ag_tensor **t = arg;
    ag_copy(t[0], t[1]);
}

static void adding(void *arg)
{
    AG_SCOPE;
    AG_NO_GRAD;
    ag_tensor **t = arg, *y = ag_add(t[0], t[1]);
    (void)y;
}

static void summing(void *arg)
{
    AG_SCOPE;
    AG_NO_GRAD;
    ag_tensor **t = arg, *y = ag_sum(t[0]);
    (void)y;
}

static void multiplying(void *arg)
{
    AG_SCOPE;
    AG_NO_GRAD;
    ag_tensor **t = arg, *y = ag_matmul(t[0], t[1]);
    (void)y;
}

static void memory_rows(void)
{
    AG_SCOPE;
    const int64_t n = small ? 1000 : 64 << 20;
    ag_tensor *t[2] = { ag_zeros(n), ag_zeros(n) };
    row("copy, 64 Mi f32", 8e-9 * (double)n / seconds(copying, t), "GB/s");
    row("add, 64 Mi f32", 12e-9 * (double)n / seconds(adding, t), "GB/s");
    row("sum, 64 Mi f32", 4e-9 * (double)n / seconds(summing, t), "GB/s");
    ag_tensor *one[2] = { ag_zeros(1), ag_zeros(1) };
    row("add of 1 element, queued", 1e9 * seconds(adding, one), "ns");
}

static void matmul_rows(void)
{
    AG_SCOPE;
    for (int64_t n = small ? 8 : 1024; n <= (small ? 8 : 8192); n *= 2) {
        AG_SCOPE;
        char name[64];
        ag_tensor *t[2] = { ag_full(0.5, n, n), ag_full(0.5, n, n) };
        snprintf(name, sizeof name, "matmul %d^3, f32", (int)n);
        row(name, 2e-12 * (double)n * (double)n * (double)n / seconds(multiplying, t), "TFLOP/s");
    }
}

static void adamw_row(void)
{
    AG_SCOPE;
    const int64_t n = small ? 40 : 8192;
    nn_module *net = nn_linear(n, n, .no_bias = true);
    optim *opt = optim_adamw(net, 1e-3);
    ag_tensor *w = nn_param_at(net, 0);
    double start = 0, best = 0;
    for (int i = 0; i < 6; i++) {
        AG_SCOPE;
        ag_backward(ag_mean(w));
        ag_device_table(AG_CUDA)->sync();
        start = now();
        optim_step(opt);
        ag_device_table(AG_CUDA)->sync();
        const double s = now() - start;
        if (i == 1 || s < best) best = s;
    }
    row("AdamW step, 64 Mi parameters", 28e-9 * (double)n * (double)n / best, "GB/s");
}

/* ---- image models ------------------------------------------------------------------------------------- */

typedef ag_tensor *(*layer)(ag_tensor **in);
typedef struct { layer fn; ag_tensor *in[6]; bool learns; } layer_run;

static ag_tensor *depthwise_7x7(ag_tensor **in)
{
    return ag_conv2d(in[0], in[1], .pad = 3, .groups = (int)in[0]->shape[3]);
}
static ag_tensor *conv_3x3(ag_tensor **in) { return ag_conv2d(in[0], in[1], .pad = 1); }
static ag_tensor *conv_apart(ag_tensor **in) { return ag_conv2d(in[0], in[1], .stride = 2); }
static ag_tensor *mlp(ag_tensor **in) { return ag_mlp(in[0], in[1], in[2], in[3], in[4], AG_LINEAR_GELU); }

static void run_layer(void *arg)
{
    AG_SCOPE;
    layer_run *r = arg;
    ag_tensor *y = r->fn(r->in);
    if (r->learns) ag_backward(y, .grad = y);
}

static void run_narrow_layer(void *arg)
{
    AG_AUTOCAST(bf16);
    run_layer(arg);
}

/* Forward, then forward and backward; `products`: multiply-adds of forward. */
static void layer_rows(const char *what, layer fn, const ag_shape *shapes, int n, double products)
{
    AG_SCOPE;
    layer_run r = { .fn = fn };
    char name[96];
    for (int narrow = 0; narrow < 2; narrow++) {
        AG_SCOPE;
        for (int i = 0; i < n; i++) r.in[i] = ag_param(ag_full_(AG_HERE, 0.01, shapes[i]));
        for (int learns = 0; learns < 2; learns++) {
            r.learns = learns;
            snprintf(name, sizeof name, "%s, %s, forward%s", what, narrow ? "autocast to bf16" : "f32",
                     learns ? " and backward" : "");
            row(name, 2e-12 * products * (learns ? 3 : 1) / seconds(narrow ? run_narrow_layer : run_layer, &r), "TFLOP/s");
        }
    }
}

static void image_rows(void)
{
    const int64_t n = small ? 1 : 64, side = small ? 9 : 56, c = small ? 8 : 96, pixels = n * side * side;
    const ag_shape depthwise[] = { AG_SHAPE(n, side, side, c), AG_SHAPE(c, 1, 7, 7) };
    const ag_shape conv[] = { AG_SHAPE(n, side, side, c), AG_SHAPE(c, c, 3, 3) };
    const ag_shape apart[] = { AG_SHAPE(n, side, side, c), AG_SHAPE(2 * c, c, 2, 2) };
    const ag_shape hidden[] = { AG_SHAPE(pixels, c), AG_SHAPE(4 * c, c), AG_SHAPE(4 * c), AG_SHAPE(c, 4 * c), AG_SHAPE(c) };
    layer_rows("depthwise 7x7, 64 x 56 x 56 x 96", depthwise_7x7, depthwise, 2, (double)(pixels * c * 49));
    for (int own = 0; own < 2; own++) {             /* by cuDNN, where it is there, then by our own kernels */
        if (own) setenv("AG_CUDNN", "0", 1);
        ag_cudnn_forget();
        layer_rows(own ? "conv 3x3, 64 x 56 x 56 x 96, without cuDNN" : "conv 3x3, 64 x 56 x 56 x 96", conv_3x3, conv, 2,
                   (double)(pixels * c * c * 9));
        layer_rows(own ? "conv 2x2, stride 2, the same, without cuDNN" : "conv 2x2, stride 2, the same", conv_apart, apart, 2,
                   (double)(pixels / 4 * 2 * c * c * 4));
    }
    unsetenv("AG_CUDNN");
    ag_cudnn_forget();
    layer_rows("MLP, 200,704 x 96", mlp, hidden, 5, (double)(pixels * c * c * 8));
}

/* ---- batches on their way in ----------------------------------------------------------------------------- */

typedef struct { ag_tensor *packed; ag_shape shape; ag_upload *upload; const void *host; } arriving;

static void becoming_numbers(void *arg)
{
    AG_SCOPE;
    const arriving *a = arg;
    ag_tensor *x = ag_data_packed_x(AG_HERE, a->packed, a->shape, AG_BF16, false);
    (void)x;
}

static void uploading(void *arg)
{
    const arriving *a = arg;
    const ag_upload_ops *up = ag_device_table(AG_CUDA)->upload;
    up->copy(a->upload, &(ag_upload_part){ a->packed->data, a->host, (size_t)ag_numel(a->packed) }, 1);
    up->wait(a->upload);
}

/* A batch of 256 pictures of 256 x 256, which become 224 x 224, all of them turned, tilted and lighted. */
static void input_rows(void)
{
    AG_SCOPE;
    const int64_t n = small ? 2 : 256, from = small ? 16 : 256, to = small ? 14 : 224;
    const ag_upload_ops *up = ag_device_table(AG_CUDA)->upload;
    const data_augment how = data_aug_transforms(.size = to, .p_affine = 1, .p_lighting = 1);
    data_pack p = { .room = ag_data_pack_bytes(n, from, from) };
    char *const host = p.to = up->host_alloc((size_t)p.room);
    data_image image = { from, from, ag_alloc(from * from, 3) };
    const data_stats stats = DATA_IMAGENET_STATS;
    ag_data_pack_begin(&p, n);
    for (int64_t i = 0; i < n; i++) {
        data_random r = ag_data_random_of((uint64_t)i, 0, true);
        const data_map map = ag_data_augment_drawn_map(&how, &image, &stats, &r);
        ag_data_pack_put(&p, &image, &map);
    }
    arriving a = { ag_empty(AG_U8, p.room), AG_SHAPE(n, to, to, 3), up->make(), host };
    up->used(a.upload);
    row("a batch of pictures to the GPU", 1e-9 * (double)p.room / seconds(uploading, &a), "GB/s");
    row("pictures augmented, 256 to 224, bf16", (double)n / seconds(becoming_numbers, &a), "images/s");
    up->drop(a.upload);
    up->host_free(host);
    ag_free(image.pixels);
}

int main(int argc, char **argv)
{
    const int status = begin_rows(argc, argv);
    if (status >= 0) return status;
    ag_init(.device = "cuda");
    if (small) puts("measured at small sizes, for the path only\t\t");
    memory_rows();
    matmul_rows();
    adamw_row();
    input_rows();
    image_rows();
    return 0;
}
