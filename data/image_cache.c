/* data/image_cache.c - decoded, resized pictures in a file, mapped: .cache = "disk".
 *
 *     a block of text   what made the pictures: format, decoder, transforms
 *     pixels            of one picture after the other
 *     entries           of each picture, in the order of the set
 *     the end           how many entries, where, their checksum
 *
 * The file appears whole or not at all (ag_file). What stands at its beginning and end, and the size and time of every picture's
 * file, are looked at when it is opened; the checksum of a picture's pixels whenever they are read. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/io.h"
#include "core/memory.h"
#include "core/tensor.h"
#include "data/block_inside.h"
#include "data/image_inside.h"
#include "data/resize.h"

enum { TEXT = 4096, MOST_MAKERS = 64 };
static const char format[] = "agrad pictures 1";

typedef struct { uint64_t path; int64_t size, seconds, nanoseconds, offset, width, height; uint64_t check; } entry;
typedef struct { int64_t n, entries; uint64_t check; char mark[8]; } ending;
static const char mark[8] = "AG-ENDS";

struct data_cache { ag_bytes bytes; const entry *entries; char *file; atomic_bool damaged; };

/* ---- checksums ------------------------------------------------------------------------------------------------- */

/* Four lanes, each a sum that any change of one of its words changes. */
static uint64_t sum_of(const void *data, int64_t n)
{
    const uint64_t prime = 0x9e3779b97f4a7c15u;
    const unsigned char *p = data;
    uint64_t lane[4] = { 1, 2, 3, (uint64_t)n }, word[4];
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        memcpy(word, p + i, sizeof word);
        for (int k = 0; k < 4; k++) lane[k] = (lane[k] ^ word[k]) * prime, lane[k] ^= lane[k] >> 29;
    }
    for (; i < n; i++) lane[0] = (lane[0] ^ p[i]) * prime;
    for (int k = 1; k < 4; k++) lane[0] = ((lane[0] << 23 | lane[0] >> 41) ^ lane[k]) * prime;
    return lane[0];
}

/* ---- what belongs in it ------------------------------------------------------------------------------------------ */

static char *absolute(const char *path)
{
    char here[PATH_MAX];
    return *path == '/' || !getcwd(here, sizeof here) ? ag_strdup(path) : ag_sprintf("%s/%s", here, path);
}

/* Of the picture's file as it is now, zero where there is none. */
static entry entry_of(const char *path)
{
    struct stat st;
    char *whole = absolute(path);
    entry e = { .path = sum_of(whole, (int64_t)strlen(whole)) };
    ag_free(whole);
    if (!stat(path, &st)) e.size = st.st_size, e.seconds = st.st_mtim.tv_sec, e.nanoseconds = st.st_mtim.tv_nsec;
    return e;
}

static bool same_file(const entry *a, const entry *b)
{
    return a->path == b->path && a->size == b->size && a->seconds == b->seconds && a->nanoseconds == b->nanoseconds;
}

/* The transforms that went before, and the first in any case: its needs decide at which size a photograph is decoded. */
static void describe(const data_images *m, char text[TEXT])
{
    memset(text, 0, TEXT);
    int used = snprintf(text, TEXT, "%s\n%s\n%s\n", format, ag_image_decoders(), ag_data_resizer_name());
    for (int t = 0; t < m->n_tfms && t < (m->cached ? m->cached : 1); t++) {
        const data_transform *f = &m->tfms[t];
        used += snprintf(text + used, (size_t)(TEXT - used), "%s %.40s %" PRId64 " %" PRId64 " %d %d",
                         t < m->cached ? "by" : "for", f->name, f->width, f->height, f->method, f->pad);
        for (int k = 0; k < 8; k++) used += snprintf(text + used, (size_t)(TEXT - used), " %a", f->number[k]);
        used += snprintf(text + used, (size_t)(TEXT - used), "\n");
    }
}

/* In `folder`, or where the system keeps such things; one for each source and way to make it. */
static char *name_of(const data_images *m, const char *source, const char *folder, const char *text)
{
    const char *own = getenv("AGRAD_CACHE"), *common = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char *dir = folder ? ag_strdup(folder) : own ? ag_strdup(own) : common ? ag_sprintf("%s/agrad", common)
              : home ? ag_sprintf("%s/.cache/agrad", home) : NULL;
    if (!dir) ag_fail(m->at, ".cache = \"disk\": no folder to keep it in; give .cache_folder, or AGRAD_CACHE in the environment");
    ag_defer(ag_free, dir);
    ag_make_folder_(m->at, dir);
    char *whole = absolute(source);
    const uint64_t of = sum_of(whole, (int64_t)strlen(whole)) ^ sum_of(text, TEXT) << 1;
    ag_free(whole);
    return ag_sprintf("%s/pictures-%016" PRIx64 ".agrad", dir, of);
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

/* NULL, or why the file is no good. */
static const char *look_through(const data_images *m, ag_bytes b, const char text[TEXT])
{
    const int64_t n = m->n * m->inputs;
    ending end;
    if (b.size < TEXT + (int64_t)sizeof end) return "it is damaged";
    memcpy(&end, b.data + b.size - (int64_t)sizeof end, sizeof end);
    if (memcmp(b.data, text, TEXT) || memcmp(end.mark, mark, sizeof mark)) return "it is damaged, or of another version";
    if (end.n < 0 || end.entries < TEXT || end.entries % 8 || end.n > b.size / (int64_t)sizeof(entry) ||
        end.entries + end.n * (int64_t)sizeof(entry) + (int64_t)sizeof end != b.size) return "it is damaged";
    const entry *e = (const entry *)(const void *)(b.data + end.entries);
    if (sum_of(e, end.n * (int64_t)sizeof *e) != end.check) return "it is damaged";
    if (end.n != n) return "there are other pictures";
    for (int64_t i = 0; i < n; i++) {
        const entry now = entry_of(m->path[i]);
        if (!same_file(&e[i], &now)) return "pictures have changed";
    }
    return NULL;
}

static void drop(void *arg)
{
    data_cache *c = arg;
    ag_free(c->file);
    ag_free(c);
}

/* Maps the file in the innermost scope, if it is good. */
static const char *open_file(data_images *m, const char *file, const char text[TEXT])
{
    if (!ag_file_exists(file)) return "there was none";
    const ag_bytes b = ag_read_file_(m->at, file);
    const char *why = look_through(m, b, text);
    if (why) return why;
    ending end;
    memcpy(&end, b.data + b.size - (int64_t)sizeof end, sizeof end);
    data_cache *c = ag_alloc(1, sizeof *c);
    c->bytes = b, c->entries = (const entry *)(const void *)(b.data + end.entries), c->file = ag_strdup(file);
    ag_defer(drop, c);
    m->cache = c;
    return NULL;
}

/* ---- making ------------------------------------------------------------------------------------------------------ */

typedef struct {
    data_images *m;
    ag_file *file;
    entry *entries;
    int64_t offset;
    atomic_llong next;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int64_t turn;                           /* whose pixels are written next */
    char *failed;
} making;

typedef struct { making *by; int64_t i; } one_picture;

static bool wait_for(making *k, int64_t i)
{
    pthread_mutex_lock(&k->lock);
    while (k->turn != i && !k->failed) pthread_cond_wait(&k->moved, &k->lock);
    const bool goes_on = !k->failed;
    pthread_mutex_unlock(&k->lock);
    return goes_on;
}

/* A bad file has no pixels here, and is read each time, which says what is wrong. */
static void make_one(void *arg)
{
    const one_picture *p = arg;
    making *k = p->by;
    char why[DATA_WHY];
    data_image image = { 0 };
    k->entries[p->i] = entry_of(k->m->path[p->i]);      /* before it is read: what changes meanwhile is noticed */
    AG_SCOPE;
    if (!ag_data_images_fixed(k->m, p->i, k->m->cached, &image, why)) image = (data_image){ 0 };
    ag_defer(ag_free, image.pixels);
    if (!wait_for(k, p->i)) return;
    entry *e = &k->entries[p->i];
    const int64_t bytes = 3 * image.width * image.height;
    e->width = image.width, e->height = image.height, e->offset = k->offset, e->check = sum_of(image.pixels, bytes);
    ag_file_write(k->file, image.pixels, bytes);
    k->offset += bytes;
    pthread_mutex_lock(&k->lock);
    k->turn++;
    pthread_cond_broadcast(&k->moved);
    pthread_mutex_unlock(&k->lock);
}

static void *make_some(void *arg)
{
    making *k = arg;
    const int64_t n = k->m->n * k->m->inputs;
    for (int64_t i; (i = atomic_fetch_add(&k->next, 1)) < n;) {
        one_picture p = { k, i };
        const bool failed = ag_try(make_one, &p);
        pthread_mutex_lock(&k->lock);
        if (failed && !k->failed) k->failed = ag_strdup(ag_error());
        if (k->failed) i = n;
        pthread_cond_broadcast(&k->moved);
        pthread_mutex_unlock(&k->lock);
        if (i == n) break;
    }
    return NULL;
}

static void end_making(void *arg)
{
    making *k = arg;
    pthread_mutex_destroy(&k->lock);
    pthread_cond_destroy(&k->moved);
    ag_free(k->entries);
    ag_free(k->failed);
    ag_free(k);
}

static void make_file(data_images *m, const char *path, const char text[TEXT])
{
    AG_SCOPE;
    const int64_t n = m->n * m->inputs;
    making *k = ag_alloc(1, sizeof *k);
    *k = (making){ .m = m, .offset = TEXT, .lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER };
    ag_defer(end_making, k);
    k->entries = ag_alloc(n, sizeof *k->entries);
    k->file = ag_file_create_(m->at, path);
    ag_file_write(k->file, text, TEXT);
    pthread_t thread[MOST_MAKERS];
    const int wanted = ag_threads() < MOST_MAKERS ? ag_threads() : MOST_MAKERS;
    int started = 0;
    while (started < wanted - 1 && !pthread_create(&thread[started], NULL, make_some, k)) started++;
    make_some(k);
    while (started) pthread_join(thread[--started], NULL);
    if (k->failed) ag_fail(NULL, "%s", k->failed);
    const char zeros[8] = { 0 };
    const int64_t gap = (8 - k->offset % 8) % 8, size = n * (int64_t)sizeof *k->entries;
    ending end = { n, k->offset + gap, sum_of(k->entries, size), { 0 } };
    memcpy(end.mark, mark, sizeof mark);
    ag_file_write(k->file, zeros, gap);
    ag_file_write(k->file, k->entries, size);
    ag_file_write(k->file, &end, sizeof end);
    ag_file_commit(k->file);
}

void ag_data_cache_open(data_images *m, const char *source, const char *folder)
{
    char text[TEXT];
    if (m->n_tfms && !ag_data_transform_is_own(m->tfms) && m->tfms[0].needs)
        ag_fail(m->at, ".cache = \"disk\": what the first transform, %s, needs is not known from its numbers; use \"ram\"",
                m->tfms[0].name);
    while (m->cached < m->fixed && ag_data_transform_is_own(&m->tfms[m->cached])) m->cached++;
    describe(m, text);
    char *file = name_of(m, source, folder, text);
    ag_defer(ag_free, file);
    const char *why = open_file(m, file, text);
    if (!why) return;
    fprintf(stderr, "%" PRId64 " pictures are prepared in %s: %s\n", m->n * m->inputs, file, why);
    make_file(m, file, text);
    why = open_file(m, file, text);
    if (why) ag_fail(m->at, "%s: %s while it was made; are the pictures still being written?", file, why);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

bool ag_data_cache_take(const data_images *m, int64_t i, data_image *to)
{
    data_cache *c = m->cache;
    if (!c || !c->entries[i].width) return false;
    const entry *e = &c->entries[i];
    const int64_t bytes = 3 * e->width * e->height;
    const bool inside = e->offset >= TEXT && bytes > 0 && bytes <= c->bytes.size - e->offset;
    if (inside) {
        *to = (data_image){ e->width, e->height, (uint8_t *)(uintptr_t)(c->bytes.data + e->offset) };
        if (sum_of(to->pixels, bytes) == e->check) return true;
    }
    if (!atomic_exchange(&c->damaged, true)) {
        fprintf(stderr, "%s is damaged: pictures are read from their files, and it is removed\n", c->file);
        unlink(c->file);
    }
    return false;
}
