/* look.c - what the data look like, whether it can be read, and what learning from it will need. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/io.h"
#include "data/plot.h"
#include "paddy.h"

/* ---- show ---------------------------------------------------------------------------------------------- */

static data_image picture_of(const real *x, int64_t side)
{
    data_image image = { side, side, ag_alloc(side * side, 3) };
    ag_defer(ag_free, image.pixels);
    for (int64_t i = 0; i < 3 * side * side; i++) image.pixels[i] = (uint8_t)(255 * (double)x[i] + 0.5);
    return image;
}

int show(const options *o)
{
    enum { SHOWN = 16 };
    options_require_writable(&o->line, o->out);
    const leaves where = leaves_find(o, o->line.argument[0]);
    data_loaders dls = leaves_loaders(o, &where, NULL);
    data_loader *from = o->augmented ? dls.train : data_loader_new(data_set_varied(data_loader_set(dls.train), false), SHOWN,
                                                                   .shuffle = true, .seed = (uint64_t)o->seed);
    data_plot_picture shown[SHOWN];
    data_image image[SHOWN];
    DATA_EACH(b, from) {
        const int n = (int)(b.n < SHOWN ? b.n : SHOWN);
        for (int i = 0; i < n; i++) {
            const int64_t side = b.x->shape[1];
            char text[160] = "";
            for (int k = 0; k < dls.targets.n; k++) {
                const int64_t c = (int64_t)data_item_target(data_loader_set(from), b.row[i], k);
                snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", k ? "\n" : "",
                         data_vocab_text(dls.targets.target[k].vocab, c));
            }
            char *caption = ag_strdup(text);
            ag_defer(ag_free, caption);
            image[i] = picture_of((const real *)b.x->data + i * side * side * 3, side);
            shown[i] = (data_plot_picture){ &image[i], caption, false };
        }
        data_plot_grid(o->out, n, shown, .title = o->augmented ? "as they are learned from" : "photographs");
        break;
    }
    printf("drawn in %s\n", o->out);
    return 0;
}

/* ---- check --------------------------------------------------------------------------------------------- */

int check(const options *o)
{
    const char *dir = o->line.argument[0];
    const data_files f = data_image_files(dir);
    int64_t bad = 0;
    for (int64_t i = 0; i < f.n; i++) {
        char why[DATA_WHY];
        data_image image;
        char *path = ag_sprintf("%s/%s", dir, f.name[i]);
        if (data_image_try(path, &image, why))
            printf("ok   %s  %" PRId64 " x %" PRId64 "\n", f.name[i], image.width, image.height);
        else printf("bad  %s  %s\n", f.name[i], why), bad++;
        data_image_free(&image);
        ag_free(path);
    }
    printf("%" PRId64 " files: %" PRId64 " ok, %" PRId64 " bad\n", f.n, f.n - bad, bad);
    return bad ? 1 : 0;
}

/* ---- sizes --------------------------------------------------------------------------------------------- */

/* The most that tensors held in the second of two training steps on zeros; AdamW's moments are there then. */
static int64_t measured(const char *arch, int64_t n, int64_t side)
{
    AG_SCOPE;
    nn_module *net = model_create(arch, .classes = 20, .size = side);
    optim *opt = optim_adamw(net, 1e-3);
    ag_tensor *x = ag_full(0, n, side, side, 3), *y = ag_cast(ag_full(0, n), AG_I64);
    for (int step = 0; step < 2; step++) {
        AG_SCOPE;
        if (step) ag_memory_reset_peak();
        ag_backward(ag_cross_entropy(nn_call(net, x), y));
        optim_step(opt);
    }
    return ag_memory(AG_CPU).peak;
}

static void size_line(const options *o, const char *arch)
{
    AG_SCOPE;
    const model_info *info = model_find(arch);
    const int64_t side = info->fixed_size ? info->size : o->size;
    ag_plan plan[4];
    int n = 0;
    {
        AG_SCOPE;
        nn_module *net = model_create(arch, .classes = 20, .size = side);
        for (; n < 4 && o->accumulate[n]; n++)
            plan[n] = ag_memory_plan(net, AG_SHAPE((o->batch + o->accumulate[n] - 1) / o->accumulate[n], side, side, 3),
                                     .train = true);
    }
    printf("%-30s%5" PRId64, arch, side);
    for (int i = 0; i < n; i++) {
        printf("%10.0f", (double)(o->measure ? plan[i].peak : plan[i].resident) / 1e6);
        fflush(stdout);
        if (o->measure) printf(" /%6.0f", (double)measured(arch, plan[i].batch, side) / 1e6);
    }
    putchar('\n');
}

int sizes(const options *o)
{
    static const char *const usual[] = { "resnet10t", "resnet26d", "convnext_tiny", "convnext_small", "convnext_large",
                                         "vit_large_patch16_224", "swin_large_patch4_window7_224", NULL };
    const char *const *arch = o->line.arguments ? o->line.argument : usual;
    printf("MB that a training step takes, f32, AdamW, of %" PRId64 " pictures in --accumulate parts: %s\n%-35s", o->batch,
           o->measure ? "tensors at the peak, by plan / measured" : "memory of the process, by plan", "");
    for (int i = 0; i < 4 && o->accumulate[i]; i++) printf(o->measure ? "%18" PRId64 : "%10" PRId64, o->accumulate[i]);
    putchar('\n');
    for (; *arch; arch++) size_line(o, *arch);
    return 0;
}
