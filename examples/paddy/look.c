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
    const leaves where = leaves_find(o);
    data_loaders dls = leaves_loaders(o, &where);
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

static void size_line(const options *o, const char *arch)
{
    AG_SCOPE;
    const model_info *info = model_find(arch);
    const int64_t side = info->fixed_size ? info->size : o->size;
    nn_module *net = model_create(arch, .classes = 20, .size = info->fixed_size ? 0 : side);
    printf("%-32s %4" PRId64, arch, side);
    for (int64_t parts = 1; parts <= 4; parts *= 2) {
        const ag_plan p = ag_memory_plan(net, AG_SHAPE((o->batch + parts - 1) / parts, side, side, 3), .train = true);
        printf("  %9.0f", (double)p.resident / 1e6);
    }
    putchar('\n');
}

int sizes(const options *o)
{
    static const char *const usual[] = { "resnet10t", "resnet26d", "convnext_tiny", "convnext_small", "convnext_large",
                                         "vit_large_patch16_224", "swin_large_patch4_window7_224", NULL };
    const char *const *arch = o->line.arguments ? o->line.argument : usual;
    printf("memory of a step, MB by plan, f32, %" PRId64 " pictures; --accumulate    1          2          4\n", o->batch);
    for (; *arch; arch++) size_line(o, *arch);
    return 0;
}
