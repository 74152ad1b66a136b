/* data/image_set.c - samples from pictures: read, item transforms, [kept here], augmentation, numbers. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/io.h"
#include "core/memory.h"
#include "data/block_inside.h"
#include "data/image_inside.h"

void ag_data_images_free(void *arg)
{
    data_images *m = arg;
    const int64_t files = m->n * m->inputs;
    for (int64_t i = 0; i < files && m->path; i++) ag_free(m->path[i]);
    for (int64_t i = 0; i < files && m->kept; i++) ag_free(m->kept[i].pixels);
    for (int t = 0; t < m->targets.n; t++) ag_data_vocab_release(m->targets.target[t].vocab);
    for (int i = 0; i < DATA_SHOWN; i++) ag_free(m->shown[i]);
    for (int t = 0; t < m->targets.n; t++) ag_free((char *)(uintptr_t)m->targets.target[t].name);
    ag_free(m->path);
    ag_free(m->kept);
    ag_free(m->y);
    ag_free(m->bad);
    pthread_mutex_destroy(&m->lock);
    ag_free(m);
}

/* ---- one picture -------------------------------------------------------------------------------------------- */

/* Random numbers of transform t of input k. */
static data_random chance_of(uint64_t key, int k, int t, bool train)
{
    return ag_data_random_of(key, k * (DATA_MAX_TRANSFORMS + 1) + t, train);
}

static bool take_kept(const data_images *m, int64_t i, data_image *to)
{
    if (!m->kept) return false;
    const uint8_t *pixels = atomic_load_explicit(&m->kept[i].pixels, memory_order_acquire);
    if (!pixels) return false;
    *to = (data_image){ m->kept[i].width, m->kept[i].height, (uint8_t *)(uintptr_t)pixels };
    return true;
}

static void copy_pixels(data_image *image)
{
    const uint8_t *lent = image->pixels;
    image->pixels = ag_alloc(image->width * image->height, 3);
    memcpy(image->pixels, lent, (size_t)(3 * image->width * image->height));
}

/* Two threads may come here with the same picture (two loaders of one set): the first one's is kept. */
static void keep(data_images *m, int64_t i, const data_image *image)
{
    const int64_t bytes = 3 * image->width * image->height;
    if (!m->kept) return;
    if (atomic_fetch_add(&m->held, bytes) + bytes > m->most_kept) {
        atomic_fetch_sub(&m->held, bytes);
        return;
    }
    uint8_t *copy = ag_alloc(bytes, 1);
    memcpy(copy, image->pixels, (size_t)bytes);
    pthread_mutex_lock(&m->lock);
    const bool first = !atomic_load_explicit(&m->kept[i].pixels, memory_order_relaxed);
    if (first) {
        m->kept[i].width = (int32_t)image->width, m->kept[i].height = (int32_t)image->height;
        atomic_store_explicit(&m->kept[i].pixels, copy, memory_order_release);
    }
    pthread_mutex_unlock(&m->lock);
    if (first) return;
    ag_free(copy);
    atomic_fetch_sub(&m->held, bytes);
}

bool ag_data_images_item(data_images *m, int64_t i, uint64_t key, bool train, data_image *to, bool *lent, char why[DATA_WHY])
{
    const bool was_kept = take_kept(m, i, to), was_cached = !was_kept && ag_data_cache_take(m, i, to);
    const bool untouched = m->kept && !m->fixed;            /* is kept */
    const int k = (int)(i % m->inputs);
    int done = was_kept ? m->fixed : m->cached;
    *lent = was_kept || was_cached;
    if (!was_kept && !was_cached && !ag_image_read(m->path[i], m->n_tfms ? m->tfms : NULL, chance_of(key, k, 0, train), untouched,
                                                   to, &done, why)) return false;
    for (int t = done; t < m->n_tfms; t++) {
        if (t == m->fixed && !was_kept) keep(m, i, to);
        if (*lent) copy_pixels(to);
        *lent = false;
        data_random r = chance_of(key, k, t, train);
        m->tfms[t].apply(&m->tfms[t], to, &r);
    }
    if (m->fixed == m->n_tfms && !was_kept) keep(m, i, to);
    return true;
}

bool ag_data_images_fixed(const data_images *m, int64_t i, int end, data_image *to, char why[DATA_WHY])
{
    int done;
    const data_random none = chance_of(0, (int)(i % m->inputs), 0, false);
    if (!ag_image_read(m->path[i], m->n_tfms ? m->tfms : NULL, none, end == 0, to, &done, why)) return false;
    for (int t = done; t < end; t++) {
        data_random r = none;
        m->tfms[t].apply(&m->tfms[t], to, &r);
    }
    return true;
}

/* ---- bad files ---------------------------------------------------------------------------------------------- */

static void note_bad(data_images *m, int64_t i, const char *why)
{
    pthread_mutex_lock(&m->lock);
    const bool first = !m->bad[i];
    m->bad[i] = 1;
    if (first) {
        if (m->n_bad < DATA_SHOWN) m->shown[m->n_bad] = ag_sprintf("%s (%s)", m->path[i], why);
        m->n_bad++;
        fprintf(stderr, "left out: %s: %s\n", m->path[i], why);
    }
    const int64_t n = m->n_bad;
    char list[3000] = "";
    for (int k = 0, used = 0; n > m->most_bad && k < DATA_SHOWN && m->shown[k] && used < (int)sizeof list; k++)
        used += snprintf(list + used, sizeof list - (size_t)used, "\n    %s", m->shown[k]);
    pthread_mutex_unlock(&m->lock);
    if (n <= m->most_bad) return;
    ag_fail(m->at, "%" PRId64 " of %" PRId64 " pictures are bad, at most %" PRId64 " may be (.max_bad):%s%s\n"
            "Remove them, or allow more", n, m->n * m->inputs, m->most_bad, list, n > DATA_SHOWN ? "\n    ..." : "");
}

/* ---- one sample --------------------------------------------------------------------------------------------- */

static void check_size(const data_images *m, int64_t i, const data_augment *a, const data_image *item, int64_t height,
                       int64_t width)
{
    int64_t w = item->width, h = item->height;
    ag_data_augment_size(a, &w, &h);
    if (w == width && h == height) return;
    ag_fail(m->at, "%s is %" PRId64 " x %" PRId64 " after the item transforms, others are %" PRId64 " x %" PRId64
            "; pictures of one batch have one size: begin .item_tfms with data_resize(...)", m->path[i], w, h, width, height);
}

static void put_targets(const data_images *m, int64_t row, void *y)
{
    const size_t size = m->numbers ? sizeof(real) : sizeof(int64_t);
    memcpy(y, (const char *)m->y + (size_t)(row * m->columns) * size, (size_t)m->columns * size);
}

/* The pictures of a sample: their bytes and what was drawn for them to p, or (NULL) their numbers to x. */
static void get_pictures(data_sample *s, data_pack *p, float *x)
{
    const data_view *v = s->arg;
    data_images *m = v->of;
    char why[DATA_WHY];
    const int64_t *side = s->x_shape.dim + s->x_shape.ndim - 3, numbers = 3 * side[0] * side[1];
    data_augment a = m->augment;
    if (m->resized) a.size = side[0], a.width = side[1];
    for (int k = 0; k < m->inputs && !s->bad; k++) {
        const int64_t i = s->row * m->inputs + k;
        data_image item;
        bool lent;
        if (!ag_data_images_item(m, i, s->key, v->train, &item, &lent, why)) {
            note_bad(m, i, why);
            s->bad = true;
            break;
        }
        AG_SCOPE;
        if (!lent) ag_defer(ag_free, item.pixels);
        check_size(m, i, &a, &item, side[0], side[1]);
        data_random r = chance_of(s->key, k, DATA_MAX_TRANSFORMS, v->train);
        if (!p) {
            ag_data_augment_sample(&a, &item, &m->stats, &r, x + k * numbers);
            continue;
        }
        const data_map map = ag_data_augment_drawn_map(&a, &item, &m->stats, &r);
        ag_data_pack_put(p, &item, &map);
    }
}

static void get(data_sample *s)
{
    const data_images *m = ((const data_view *)s->arg)->of;
#ifdef AG_F64
    const int64_t *side = s->x_shape.dim + s->x_shape.ndim - 3, numbers = 3 * side[0] * side[1] * m->inputs;
    float *x = ag_alloc(numbers, sizeof *x);
    get_pictures(s, NULL, x);
    for (int64_t i = 0; i < numbers; i++) ((real *)s->x)[i] = x[i];
    ag_free(x);
#else
    get_pictures(s, NULL, s->x);
#endif
    if (s->y) put_targets(m, s->row, s->y);
}

static void pack(data_sample *s, data_pack *p)
{
    get_pictures(s, p, NULL);
    if (s->y) put_targets(((const data_view *)s->arg)->of, s->row, s->y);
}

/* ---- sets --------------------------------------------------------------------------------------------------- */

static ag_shape sample_shape(const data_images *m)
{
    return m->inputs == 1 ? AG_SHAPE(m->height, m->width, 3) : AG_SHAPE(m->inputs, m->height, m->width, 3);
}

static void refresh(data_set *s)
{
    const data_images *m = ag_data_images_of(s);
    s->x.shape = sample_shape(m);
    s->x.count = 3 * m->height * m->width * m->inputs;
}

data_set *ag_data_images_set(const char *at, data_images *m, bool train, bool with_targets)
{
    const bool has_y = with_targets && m->targets.n;
    const ag_shape y = m->columns == 1 ? (ag_shape){ 0 } : AG_SHAPE(m->columns);
    data_set *s = ag_data_from_function_(at, m->n, get, (data_function_opts){
        .arg = &m->view[train], .x = sample_shape(m), .has_y = has_y, .y = y,
        .y_dtype = m->numbers ? AG_F32 : AG_I64 });
    s->refresh = refresh;
    s->pack = m->augment.own ? NULL : pack;         /* the user's function takes numbers */
    s->pictures = m->inputs, s->picture_width = m->item_width, s->picture_height = m->item_height;
    return s;
}

data_images *ag_data_images_of(const data_set *s)
{
    return s->get == get ? ((const data_view *)s->arg)->of : NULL;
}

data_targets ag_data_targets_of(const data_set *set)
{
    const data_images *m = ag_data_images_of(set);
    return m && set->has_y ? m->targets : (data_targets){ 0 };
}

const char *ag_data_item_path(const data_set *set, int64_t row)
{
    const data_images *m = ag_data_images_of(set);
    return m && row >= 0 && row < set->n ? m->path[ag_data_source_row(set, row) * m->inputs] : NULL;
}

double ag_data_item_target(const data_set *set, int64_t row, int k)
{
    const data_images *m = ag_data_images_of(set);
    if (!m || k < 0 || k >= m->targets.n || row < 0 || row >= set->n) return NAN;
    const int64_t at = ag_data_source_row(set, row) * m->columns + m->targets.target[k].column;
    return m->numbers ? (double)((const real *)m->y)[at] : (double)((const int64_t *)m->y)[at];
}

int64_t ag_data_bad_files(const data_set *set)
{
    data_images *m = ag_data_images_of(set);
    if (!m) return 0;
    pthread_mutex_lock(&m->lock);
    const int64_t n = m->n_bad;
    pthread_mutex_unlock(&m->lock);
    return n;
}

data_set *ag_data_set_varied_(const char *at, const data_set *set, bool on)
{
    data_images *m = ag_data_images_of(set);
    if (!m) ag_fail(at, "data_set_varied: the set has no transforms; it takes one of data_block_loaders");
    data_set *s;
    {
        AG_SCOPE;
        int64_t *all = ag_alloc(set->n, sizeof *all);
        ag_defer(ag_free, all);
        for (int64_t i = 0; i < set->n; i++) all[i] = i;
        s = ag_data_subset_make(at, set, all, set->n);
    }
    ag_defer(ag_data_set_drop, s);
    s->arg = &m->view[on];
    return s;
}

void ag_data_normalize_default(const data_loaders *dls, data_stats stats)
{
    if (dls->images->stats.std[0] == 0) dls->images->stats = stats;
}

void ag_data_image_size_(const char *at, const data_loaders *dls, int64_t height, int64_t width)
{
    data_images *m = dls->images;
    if (height < 1 || width < 1 || height > DATA_MAX_SIDE || width > DATA_MAX_SIDE)
        ag_fail(at, "data_image_size: %" PRId64 " x %" PRId64 "; sides of 1 to %d are possible", height, width, DATA_MAX_SIDE);
    m->height = height, m->width = width, m->resized = true;
}

/* ---- before the first epoch --------------------------------------------------------------------------------- */

void ag_data_images_measure(data_images *m)
{
    char why[DATA_WHY];
    data_image item;
    bool lent;
    for (int64_t i = 0; i < m->n * m->inputs; i++) {
        if (!ag_data_images_item(m, i, 0, false, &item, &lent, why)) {
            note_bad(m, i, why);
            continue;
        }
        m->width = m->item_width = item.width, m->height = m->item_height = item.height;
        if (!lent) ag_data_image_free(&item);
        ag_data_augment_size(&m->augment, &m->width, &m->height);
        return;
    }
    ag_fail(m->at, "none of the %" PRId64 " pictures can be read; the first is %s", m->n * m->inputs, m->shown[0]);
}

/* What the system says is free without swapping, in bytes. */
static int64_t available(void)
{
    char text[512];
    long long kb = 0;
    const char *line = ag_read_small("/proc/meminfo", text, sizeof text) ? strstr(text, "MemAvailable:") : NULL;
    return line && sscanf(line, "MemAvailable: %lld", &kb) == 1 ? (int64_t)kb * 1024 : INT64_MAX;
}

void ag_data_images_keep(data_images *m, const char *where, const char *source, const char *folder)
{
    if (!where) return;
    if (!strcmp(where, "disk")) {
        ag_data_cache_open(m, source, folder);
        return;
    }
    if (strcmp(where, "ram")) ag_fail(m->at, ".cache = \"%s\" is unknown; it is \"ram\", \"disk\", or nothing", where);
    const int64_t budget = ag_memory_budget(AG_CPU) - ag_memory(AG_CPU).held, free_now = available();
    m->most_kept = (budget < free_now ? budget : free_now) / 2;
    m->kept = ag_alloc(m->n * m->inputs, sizeof *m->kept);
}

/* ---- a walk through the steps ------------------------------------------------------------------------------- */

static void print_labels(const data_images *m, int64_t i)
{
    for (int k = 0; k < m->targets.n; k++) {
        const data_target *t = &m->targets.target[k];
        printf("  %-20s", t->name);
        for (int64_t c = 0; c < t->columns; c++) {
            const int64_t at = i * m->columns + t->column + c;
            const double v = m->numbers ? (double)((const real *)m->y)[at] : (double)((const int64_t *)m->y)[at];
            if (t->kind == DATA_TARGET_CATEGORY) printf(" %s (%g of %" PRId64 ")", data_vocab_text(t->vocab, (int64_t)v), v,
                                                        t->classes);
            else printf(" %g", v);
        }
        putchar('\n');
    }
}

static void print_image(const char *step, const data_image *image)
{
    printf("  %-20s u8 [%" PRId64 ", %" PRId64 ", 3]\n", step, image->height, image->width);
}

/* The first picture that can be read, step by step. */
static bool walk(data_images *m, int64_t i)
{
    char why[DATA_WHY];
    data_image image;
    if (!ag_data_image_try(m->path[i * m->inputs], &image, why, (data_image_opts){ 0 })) {
        printf("%s: %s\n", m->path[i * m->inputs], why);
        return false;
    }
    printf("%s\n", m->path[i * m->inputs]);
    print_image("read", &image);
    for (int k = 0; k < m->n_tfms; k++) {
        data_random r = chance_of(0, 0, k, true);
        m->tfms[k].apply(&m->tfms[k], &image, &r);
        print_image(m->tfms[k].name, &image);
    }
    data_image_free(&image);
    return true;
}

void ag_data_summary_(const char *at, const data_loaders *dls)
{
    data_images *m = dls->images;
    int64_t i = 0;
    printf("%" PRId64 " items: %" PRId64 " to learn from, %" PRId64 " for validation\n", m->n,
           data_size(data_loader_set(dls->train)), data_size(data_loader_set(dls->valid)));
    while (i < m->n && !walk(m, i)) i++;
    if (i == m->n) ag_fail(at, "none of the %" PRId64 " pictures can be read", m->n);
    AG_SCOPE;
    data_set *s = ag_data_images_set(at, m, true, false);
    real *x = ag_alloc(s->x.count, sizeof *x), low = INFINITY, high = -INFINITY;
    ag_defer(ag_free, x);
    data_sample sample = { s->arg, i, 0, x, NULL, s->x.shape, false };
    get(&sample);
    for (int64_t k = 0; k < s->x.count; k++) low = fmin(low, x[k]), high = fmax(high, x[k]);
    printf("  %-20s f32 [%" PRId64 ", %" PRId64 ", 3], %.3f to %.3f\n", "augment, normalise", m->height, m->width, (double)low,
           (double)high);
    print_labels(m, i);
    const ag_shape b = data_batch_shape(dls->train);
    printf("a batch: f32 [%" PRId64 ", %" PRId64 ", %" PRId64 ", 3], labels [%" PRId64 ", %" PRId64 "]\n", b.dim[0], m->height,
           m->width, b.dim[0], m->columns);
}
