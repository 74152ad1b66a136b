/* data/resize_images.c - a folder of photographs made smaller once, so that each epoch reads less. */
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include "core/io.h"
#include "core/memory.h"
#include "core/tensor.h"
#include "data/block.h"
#include "data/transform.h"

enum { SHOWN = 5, MOST_WORKERS = 64 };

typedef struct {
    const char *at, *dir, *to;
    int64_t size;
    data_resize_images_opts opts;
    char **name;                            /* below dir */
    int64_t n;
    atomic_llong next, written;
    atomic_bool stop;
    pthread_mutex_t lock;                   /* of what follows */
    int64_t bad;
    char *shown[SHOWN], *failed;
} folder;

static void folder_free(void *arg)
{
    folder *f = arg;
    for (int64_t i = 0; i < f->n; i++) ag_free(f->name[i]);
    for (int i = 0; i < SHOWN; i++) ag_free(f->shown[i]);
    ag_free(f->name);
    ag_free(f->failed);
    pthread_mutex_destroy(&f->lock);
    ag_free(f);
}

/* ---- finding ------------------------------------------------------------------------------------------------- */

/* All pictures below dir, without those that were written before, where `to` lies below it. */
static void find(folder *f)
{
    char dir[PATH_MAX], to[PATH_MAX];
    const data_files all = ag_data_image_files_(f->at, f->dir);
    const bool known = realpath(f->dir, dir) && realpath(f->to, to);
    const size_t n = known ? strlen(dir) : 0;
    const char *inside = known && !strncmp(to, dir, n) && to[n] == '/' ? to + n + 1 : NULL;
    const size_t length = inside ? strlen(inside) : 0;
    f->name = ag_alloc(all.n, sizeof *f->name);
    for (int64_t i = 0; i < all.n; i++)
        if (!inside || strncmp(all.name[i], inside, length) || all.name[i][length] != '/')
            f->name[f->n++] = ag_strdup(all.name[i]);
}

/* ---- one picture --------------------------------------------------------------------------------------------------- */

static void note_bad(folder *f, const char *name, const char *why)
{
    pthread_mutex_lock(&f->lock);
    if (f->bad < SHOWN) f->shown[f->bad] = ag_sprintf("%s (%s)", name, why);
    f->bad++;
    pthread_mutex_unlock(&f->lock);
}

/* Writers know .png and .jpg: other kinds of pictures become .png. */
static char *target_of(const folder *f, const char *name)
{
    const char *dot = strrchr(name, '.');
    const bool kept = !strcasecmp(dot, ".jpg") || !strcasecmp(dot, ".jpeg") || !strcasecmp(dot, ".png");
    return ag_sprintf("%s/%s%s", f->to, name, kept ? "" : ".png");
}

static void copy_file(const folder *f, const char *from, const char *to)
{
    const ag_bytes bytes = ag_read_file_(f->at, from);
    ag_file *file = ag_file_create_(f->at, to);
    ag_file_write(file, bytes.data, bytes.size);
    ag_file_commit(file);
}

/* The longer side (or the shorter one) becomes f->size, the other is cut to a whole number, as fastai's resize_to. */
static void prepare(folder *f, const char *name, const char *from, const char *to)
{
    char why[DATA_WHY];
    data_image_info info;
    data_image image;
    if (!ag_data_image_probe(from, &info, why)) {
        note_bad(f, name, why);
        return;
    }
    const int64_t longer = info.width > info.height ? info.width : info.height;
    const int64_t side = f->opts.shorter ? info.width + info.height - longer : longer;
    const double share = (double)f->size / (double)side;
    int64_t w = (int64_t)((double)info.width * share), h = (int64_t)((double)info.height * share);
    const bool smaller = side > f->size;
    if (!smaller) w = info.width, h = info.height;
    w = w > 0 ? w : 1, h = h > 0 ? h : 1;
    if (!ag_data_image_try(from, &image, why, AG_OPTS0(data_image_opts, .width = w, .height = h))) {
        note_bad(f, name, why);
        return;
    }
    if (smaller) {
        const data_transform t = data_resize(h, .width = w, .method = DATA_SQUISH);
        data_random r = ag_data_random_of(0, 0, false);
        t.apply(&t, &image, &r);
        ag_data_image_write_(f->at, to, &image, AG_OPTS0(data_write_opts, .quality = f->opts.quality));
    } else copy_file(f, from, to);
    ag_data_image_free(&image);
    atomic_fetch_add(&f->written, 1);
}

typedef struct { folder *f; const char *name; } one_picture;

static void one(void *arg)
{
    const one_picture *p = arg;
    AG_SCOPE;
    char *from = ag_sprintf("%s/%s", p->f->dir, p->name), *to = target_of(p->f, p->name);
    ag_defer(ag_free, from);
    ag_defer(ag_free, to);
    char *slash = strrchr(to, '/');
    *slash = 0;
    ag_make_folder_(p->f->at, to);
    *slash = '/';
    if (p->f->opts.resume && ag_file_exists(to)) return;
    prepare(p->f, p->name, from, to);
}

static void *work(void *arg)
{
    folder *f = arg;
    for (int64_t i; !atomic_load(&f->stop) && (i = atomic_fetch_add(&f->next, 1)) < f->n;) {
        one_picture p = { f, f->name[i] };
        if (!ag_try(one, &p)) continue;
        atomic_store(&f->stop, true);
        pthread_mutex_lock(&f->lock);
        if (!f->failed) f->failed = ag_strdup(ag_error());
        pthread_mutex_unlock(&f->lock);
    }
    return NULL;
}

/* ---- all ----------------------------------------------------------------------------------------------------------- */

static void tell_bad(const folder *f)
{
    fprintf(stderr, "%" PRId64 " of %" PRId64 " files below %s are no pictures and were left out:\n", f->bad, f->n, f->dir);
    for (int i = 0; i < SHOWN && f->shown[i]; i++) fprintf(stderr, "  %s\n", f->shown[i]);
    if (f->bad > SHOWN) fprintf(stderr, "  ... and %" PRId64 " more\n", f->bad - SHOWN);
}

int64_t ag_data_resize_images_(const char *at, const char *dir, const char *to, int64_t size, data_resize_images_opts opts)
{
    AG_SCOPE;
    struct stat from, there;
    if (size < 1 || size > 16384) ag_fail(at, "data_resize_images: size %" PRId64 ": 1 to 16384", size);
    if (stat(dir, &from) || !S_ISDIR(from.st_mode)) ag_fail(at, "data_resize_images: %s is no folder", dir);
    ag_make_folder_(at, to);
    if (stat(to, &there)) ag_fail(at, "data_resize_images: %s cannot be used", to);
    if (from.st_dev == there.st_dev && from.st_ino == there.st_ino)
        ag_fail(at, "data_resize_images: %s would be written over itself; name another folder", dir);
    folder *f = ag_alloc(1, sizeof *f);
    *f = (folder){ .at = at, .dir = dir, .to = to, .size = size, .opts = opts, .lock = PTHREAD_MUTEX_INITIALIZER };
    ag_defer(folder_free, f);
    find(f);
    if (!f->n) ag_fail(at, "data_resize_images: no .jpg, .jpeg, .png, .bmp or .gif below %s", dir);
    const int wanted = opts.workers ? opts.workers : ag_threads(), workers = wanted < MOST_WORKERS ? wanted : MOST_WORKERS;
    pthread_t thread[MOST_WORKERS];
    int started = 0;
    while (started < workers - 1 && !pthread_create(&thread[started], NULL, work, f)) started++;
    work(f);
    while (started) pthread_join(thread[--started], NULL);
    if (f->failed) ag_fail(NULL, "%s", f->failed);
    if (f->bad) tell_bad(f);
    return atomic_load(&f->written);
}
