/* tests/bench/bench_loader.c - photographs from their files: a folder's (the argument) through a loader of two workers, and one
 * decoded and resized on one core. Lines of key, value, unit; the best of several runs. */
#include <stdio.h>
#include <time.h>
#include "agrad.h"
#include "core/memory.h"
#include "data/image_inside.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Pictures a second in training's shape, nothing kept. */
static double loaded(const char *const *path, int64_t n)
{
    double best = 0;
    data_loader *l = data_pictures(path, n, true, .item_tfms = { data_resize(256, .method = DATA_SQUISH) },
                                   .batch_tfms = data_aug_transforms(.size = 224), .normalize = DATA_IMAGENET_STATS,
                                   .loaders = { .batch = 32, .workers = 2 });
    for (int epoch = 0; epoch < 3; epoch++) {
        const double begin = now();
        int64_t seen = 0;
        DATA_EACH(b, l) seen += b.n;
        const double rate = (double)seen / (now() - begin);
        best = rate > best ? rate : best;
    }
    return best;
}

static bool decoded(const char *path)
{
    char why[DATA_WHY];
    data_image small;
    int done;
    const data_transform t = data_resize(224, .method = DATA_SQUISH);
    const bool good = ag_image_read(path, &t, ag_data_random_of(0, 0, false), false, &small, &done, why);
    ag_data_image_free(&small);
    return good && done;
}

int main(int argc, char **argv)
{
    if (argc != 2) return fprintf(stderr, "bench_loader FOLDER\n"), 2;
    ag_init(.seed = 1);
    AG_SCOPE;
    const data_files files = data_image_files(argv[1]);
    const char **path = ag_alloc(files.n, sizeof *path);
    ag_defer(ag_free, path);
    for (int64_t i = 0; i < files.n; i++) {
        char *p = ag_sprintf("%s/%s", argv[1], files.name[i]);
        ag_defer(ag_free, p);
        path[i] = p;
    }
    double best = 1e30;
    for (int k = 0; k < 600; k++) {
        const double begin = now();
        if (!decoded(path[0])) return 1;
        const double took = now() - begin;
        best = took < best ? took : best;
    }
    printf("decode_resize\t%.4g\tus\n", 1e6 * best);
    printf("loader\t%.4g\timages/s\n", loaded(path, files.n));
    return 0;
}
