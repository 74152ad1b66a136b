#include "core/pth.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/engine.h"
#include "core/format.h"
#include "core/io.h"
#include "core/nearest.h"
#include "core/pickle.h"
#include "core/utf8.h"
#include "core/zip.h"

enum { DEPTH = 16, VISITS = 1 << 20, NAME = 256 };      /* of nested dicts; values looked at; bytes of a name */

typedef struct { char *name; ag_format format; ag_shape shape; int64_t stride[AG_MAX_DIMS]; const char *data; } entry;

struct ag_pth {
    const char *at;
    char *path, *choice;
    entry *entries, **by_name;
    int64_t n, room;
};

/* What a pickle may name, '!': and call; storages with what lies in them. */
static const struct { const char *name; ag_format format; } storages[] = {
    { "torch.FloatStorage", AG_FORMAT_F32 }, { "torch.DoubleStorage", AG_FORMAT_F64 }, { "torch.HalfStorage", AG_FORMAT_F16 },
    { "torch.BFloat16Storage", AG_FORMAT_BF16 }, { "torch.LongStorage", AG_FORMAT_I64 }, { "torch.IntStorage", AG_FORMAT_I32 },
    { "torch.ShortStorage", AG_FORMAT_I16 }, { "torch.CharStorage", AG_FORMAT_I8 }, { "torch.ByteStorage", AG_FORMAT_U8 },
    { "torch.BoolStorage", AG_FORMAT_BOOL },
};
enum { STORAGES = sizeof storages / sizeof *storages };
static const char *const names[] = {
    "collections.OrderedDict", "!torch._utils._rebuild_tensor_v2", "!torch._utils._rebuild_parameter",
    storages[0].name, storages[1].name, storages[2].name, storages[3].name, storages[4].name,
    storages[5].name, storages[6].name, storages[7].name, storages[8].name, storages[9].name, NULL
};

static void drop(void *p)
{
    ag_pth *f = p;
    for (int64_t i = 0; i < f->n; i++) ag_free(f->entries[i].name);
    ag_free(f->entries);
    ag_free(f->by_name);
    ag_free(f->path);
    ag_free(f->choice);
    ag_free(f);
}

/* ---- one tensor ---------------------------------------------------------------------------------------- */

typedef struct { const ag_pickle *key; ag_format format; ag_bytes bytes; } storage;

typedef struct {
    ag_pth *f;
    const ag_zip *zip;              /* NULL: the format before 1.6, whose storages are listed */
    const char *folder;
    storage *listed;
    int64_t n_listed, room_listed, visits;
} walk;

static bool is_text(const ag_pickle *v, const char *text)
{
    return v->kind == AG_PICKLE_STRING && v->n == (int64_t)strlen(text) && !memcmp(v->text, text, (size_t)v->n);
}

static const ag_pickle *arguments(const ag_pickle *v, ag_pickle_kind kind, int64_t least)
{
    const ag_pickle *a = v->kind == kind ? v->items[0] : NULL;
    return a && a->kind == AG_PICKLE_TUPLE && a->n >= least ? a : NULL;
}

static bool same_text(const ag_pickle *a, const ag_pickle *b)
{
    return a->kind == AG_PICKLE_STRING && b->kind == AG_PICKLE_STRING && a->n == b->n && !memcmp(a->text, b->text, (size_t)a->n);
}

static storage *listed(const walk *w, const ag_pickle *key)
{
    for (int64_t i = 0; i < w->n_listed; i++)
        if (same_text(w->listed[i].key, key)) return &w->listed[i];
    return NULL;
}

/* A file of the archive, data/0; before 1.6 a part of the file. */
static ag_bytes bytes_of(const walk *w, const ag_pickle *key, const entry *e)
{
    char file[80];
    snprintf(file, sizeof file, "data/%.*s", (int)key->n, key->text);
    const storage *s = w->zip ? NULL : listed(w, key);
    const ag_bytes bytes = w->zip ? ag_zip_find(w->zip, w->folder, file) : s ? s->bytes : (ag_bytes){ 0 };
    if (!bytes.data)
        ag_fail(w->f->at, "%s: tensor '%s' lies in %s, which the archive does not have", w->f->path, e->name, file);
    return bytes;
}

/* ('storage', torch.FloatStorage, '0', 'cpu', count ...); -1: not one. */
static int storage_kind(const ag_pickle *a)
{
    int k = 0;
    if (!a || !is_text(a->items[0], "storage") || a->items[1]->kind != AG_PICKLE_NAME ||
        a->items[2]->kind != AG_PICKLE_STRING || a->items[2]->n > 64 || a->items[4]->kind != AG_PICKLE_INT ||
        a->items[4]->integer < 0) return -1;
    while (k < STORAGES && strcmp(storages[k].name, a->items[1]->text)) k++;
    return k;
}

static void read_storage(const walk *w, const ag_pickle *id, entry *e, int64_t *count)
{
    const ag_pickle *a = arguments(id, AG_PICKLE_PERSISTENT, 5);
    const int k = storage_kind(a);
    if (k < 0) ag_fail(w->f->at, "%s: tensor '%s' has no storage as torch.save writes it", w->f->path, e->name);
    if (k == STORAGES) ag_fail(w->f->at, "%s: tensor '%s' lies in a %s", w->f->path, e->name, a->items[1]->text);
    const ag_bytes bytes = bytes_of(w, a->items[2], e);
    *count = a->items[4]->integer;
    e->format = storages[k].format;
    e->data = bytes.data;
    if (*count > bytes.size / (ag_formats[e->format].bits / 8))
        ag_fail(w->f->at, "%s: tensor '%s' needs %" PRId64 " numbers of data/%.*s, which has %" PRId64 " bytes", w->f->path,
                e->name, *count, (int)a->items[2]->n, a->items[2]->text, bytes.size);
}

/* Sizes and strides as they are written; the last element must lie in the storage, and none be there more than once. */
static void read_layout(const walk *w, const ag_pickle *a, entry *e, int64_t count)
{
    const ag_pickle *size = a->items[2], *stride = a->items[3];
    int64_t last = a->items[1]->integer, numel = 1;
    bool fits = a->items[1]->kind == AG_PICKLE_INT && last >= 0 && size->kind == AG_PICKLE_TUPLE &&
                stride->kind == AG_PICKLE_TUPLE && size->n == stride->n;
    if (fits && size->n > AG_MAX_DIMS)
        ag_fail(w->f->at, "%s: tensor '%s' has %" PRId64 " axes, %d are the most", w->f->path, e->name, size->n, AG_MAX_DIMS);
    for (int64_t i = 0; fits && i < size->n; i++) {
        const ag_pickle *n = size->items[i], *s = stride->items[i];
        int64_t reach = 0;
        fits = n->kind == AG_PICKLE_INT && s->kind == AG_PICKLE_INT && n->integer >= 0 && s->integer >= 0 &&
               !__builtin_mul_overflow(numel, n->integer, &numel) &&
               (n->integer == 0 || !__builtin_mul_overflow(n->integer - 1, s->integer, &reach)) &&
               !__builtin_add_overflow(last, reach, &last);
        e->shape.dim[e->shape.ndim++] = n->integer;
        e->stride[i] = s->integer;
    }
    if (!fits || (numel && (last >= count || numel > count)))
        ag_fail(w->f->at, "%s: tensor '%s' reaches beyond its storage of %" PRId64 " numbers, or has parts of it more than "
                "once", w->f->path, e->name, count);
    if (numel) e->data += a->items[1]->integer * (ag_formats[e->format].bits / 8);
}

static void add_tensor(const walk *w, const ag_pickle *v, const char *name)
{
    const ag_pickle *a = arguments(v, AG_PICKLE_CALL, 1);
    ag_pth *f = w->f;
    if (a && !strcmp(v->text, "torch._utils._rebuild_parameter")) {
        v = a->items[0];
        a = arguments(v, AG_PICKLE_CALL, 1);
    }
    if (!a || a->n < 4 || strcmp(v->text, "torch._utils._rebuild_tensor_v2"))
        ag_fail(f->at, "%s: '%s' is no tensor as torch.save writes it", f->path, name);
    if (f->n == f->room) {
        f->room = f->room ? 2 * f->room : 64;
        f->entries = ag_realloc(f->entries, f->room, sizeof *f->entries);
    }
    entry *e = &f->entries[f->n++];
    int64_t count;
    *e = (entry){ .name = NULL };
    e->name = ag_strdup(name);
    read_storage(w, a->items[0], e, &count);
    read_layout(w, a, e, count);
}

/* ---- all of them --------------------------------------------------------------------------------------- */

static void collect(walk *w, const ag_pickle *v, const char *name, int depth);

static bool may_hold_tensors(const ag_pickle *v)
{
    return v->kind == AG_PICKLE_CALL || v->kind == AG_PICKLE_DICT || v->kind == AG_PICKLE_LIST || v->kind == AG_PICKLE_TUPLE;
}

static void collect_item(walk *w, const ag_pickle *key, const ag_pickle *v, int64_t i, const char *prefix, int depth)
{
    char name[NAME];
    const char *dot = *prefix ? "." : "";
    const bool text = key && key->kind == AG_PICKLE_STRING;
    const int64_t number = key ? key->integer : i;
    if (key && key->kind != AG_PICKLE_STRING && key->kind != AG_PICKLE_INT) return;
    if (!may_hold_tensors(v)) return;
    if (text && (!ag_utf8_is(key->text, key->n) || memchr(key->text, 0, (size_t)key->n)))
        ag_fail(w->f->at, "%s: a name is not UTF-8", w->f->path);
    const int length = text && key->n < NAME ? (int)key->n : NAME;
    const int n = text ? snprintf(name, sizeof name, "%s%s%.*s", prefix, dot, length, key->text)
                       : snprintf(name, sizeof name, "%s%s%" PRId64, prefix, dot, number);
    if (n >= NAME) ag_fail(w->f->at, "%s: a name of more than %d bytes", w->f->path, NAME - 1);
    collect(w, v, name, depth + 1);
}

static void collect(walk *w, const ag_pickle *v, const char *name, int depth)
{
    if (depth > DEPTH || ++w->visits > VISITS)
        ag_fail(w->f->at, "%s: its dicts are nested too deep, or one holds itself", w->f->path);
    if (v->kind == AG_PICKLE_CALL) add_tensor(w, v, *name ? name : "tensor");
    else if (v->kind == AG_PICKLE_DICT)
        for (int64_t i = 0; i < v->n; i += 2) collect_item(w, v->items[i], v->items[i + 1], i, name, depth);
    else if (may_hold_tensors(v))
        for (int64_t i = 0; i < v->n; i++) collect_item(w, NULL, v->items[i], i, name, depth);
}

static const ag_pickle *part(const ag_pickle *dict, const char *key)
{
    for (int64_t i = 0; i < dict->n; i += 2)
        if (is_text(dict->items[i], key) && dict->items[i + 1]->kind == AG_PICKLE_DICT) return dict->items[i + 1];
    return NULL;
}

/* "'model' (beside it: optimizer, epoch)" */
static char *describe_choice(const ag_pickle *root, const char *taken)
{
    char text[256];
    size_t used = 0;
    for (int64_t i = 0; i < root->n && used < sizeof text; i += 2) {
        const ag_pickle *key = root->items[i];
        if (key->kind != AG_PICKLE_STRING || is_text(key, taken) || !ag_utf8_is(key->text, key->n)) continue;
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%.*s", used ? ", " : "",
                                 (int)(key->n < 40 ? key->n : 40), key->text);
    }
    return used ? ag_sprintf("'%s' (beside it: %s)", taken, text) : ag_sprintf("'%s'", taken);
}

static const ag_pickle *choose(ag_pth *f, const ag_pickle *root)
{
    static const char *const parts[] = { "state_dict_ema", "model_ema", "state_dict", "model" };     /* timm's order */
    for (size_t i = 0; root->kind == AG_PICKLE_DICT && i < sizeof parts / sizeof *parts; i++) {
        const ag_pickle *p = part(root, parts[i]);
        if (!p) continue;
        f->choice = describe_choice(root, parts[i]);
        return p;
    }
    f->choice = ag_strdup("");
    return root;
}

static void without_prefix(ag_pth *f)
{
    static const char prefix[] = "module.";         /* of DataParallel */
    const size_t n = sizeof prefix - 1;
    for (int64_t i = 0; i < f->n; i++)
        if (strncmp(f->entries[i].name, prefix, n)) return;
    for (int64_t i = 0; i < f->n; i++) {
        char *name = f->entries[i].name;
        memmove(name, name + n, strlen(name + n) + 1);
    }
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(entry *const *)a)->name, (*(entry *const *)b)->name);
}

static void sort(ag_pth *f)
{
    f->by_name = ag_alloc(f->n, sizeof *f->by_name);
    for (int64_t i = 0; i < f->n; i++) f->by_name[i] = &f->entries[i];
    if (f->n) qsort(f->by_name, (size_t)f->n, sizeof *f->by_name, by_name);
    for (int64_t i = 1; i < f->n; i++)
        if (!by_name(&f->by_name[i - 1], &f->by_name[i]))
            ag_fail(f->at, "%s: tensor '%s' is there twice", f->path, f->by_name[i]->name);
}

/* ---- before 1.6: pickles one after another, then the storages ------------------------------------------ */

static const char legacy_magic[] = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/* Which storages the tree names, and what lies in them. */
static void list_storages(walk *w, const ag_pickle *v, int depth)
{
    if (depth > DEPTH || ++w->visits > VISITS)
        ag_fail(w->f->at, "%s: its dicts are nested too deep, or one holds itself", w->f->path);
    const ag_pickle *a = arguments(v, AG_PICKLE_PERSISTENT, 5);
    const int k = storage_kind(a);
    if (k >= 0 && k < STORAGES && !listed(w, a->items[2])) {
        if (w->n_listed == w->room_listed)
            w->listed = ag_realloc(w->listed, w->room_listed = 2 * w->room_listed + 64, sizeof *w->listed);
        w->listed[w->n_listed++] = (storage){ .key = a->items[2], .format = storages[k].format };
    }
    if (a || v->kind < AG_PICKLE_TUPLE || v->kind == AG_PICKLE_NAME) return;
    for (int64_t i = 0; i < v->n; i++) list_storages(w, v->items[i], depth + 1);
}

/* Each storage: how many numbers, as 8 bytes, and the numbers, in the order of the last pickle. */
static void find_storages(walk *w, const ag_pickle *keys, ag_bytes b)
{
    for (int64_t i = 0; keys->kind == AG_PICKLE_LIST && i < keys->n; i++) {
        storage *s = listed(w, keys->items[i]);
        int64_t n = 0;
        if (!s) ag_fail(w->f->at, "%s: storage %" PRId64 " belongs to no tensor", w->f->path, i);
        if (b.size >= 8) memcpy(&n, b.data, 8);
        const int64_t size = ag_formats[s->format].bits / 8;
        if (b.size < 8 || n < 0 || n > (b.size - 8) / size)
            ag_fail(w->f->at, "%s: truncated: storage %" PRId64 " of %" PRId64 " is not all there", w->f->path, i, keys->n);
        s->bytes = (ag_bytes){ b.data + 8, n * size };
        b.data += 8 + n * size, b.size -= 8 + n * size;
    }
}

static const ag_pickle *open_legacy(walk *w, ag_bytes b)
{
    const ag_pth *f = w->f;
    const int64_t magic = sizeof legacy_magic - 1;
    b.data += magic, b.size -= magic;
    const ag_pickle *version = ag_pickle_read_first(f->at, f->path, &b, names);
    const ag_pickle *system = ag_pickle_read_first(f->at, f->path, &b, names);
    if (version->kind != AG_PICKLE_INT || version->integer != 1001 || system->kind != AG_PICKLE_DICT)
        ag_fail(f->at, "%s: a checkpoint of another version than 1001", f->path);
    for (int64_t i = 0; i < system->n; i += 2)
        if (is_text(system->items[i], "little_endian") && !system->items[i + 1]->integer)
            ag_fail(f->at, "%s was written on a machine of another byte order; only little-endian files are read", f->path);
    const ag_pickle *root = ag_pickle_read_first(f->at, f->path, &b, names);
    list_storages(w, root, 0);
    ag_defer(ag_free, w->listed);
    find_storages(w, ag_pickle_read_first(f->at, f->path, &b, names), b);
    w->visits = 0;
    return root;
}

static bool is_legacy(ag_bytes b)
{
    const int64_t n = sizeof legacy_magic - 1;
    return b.size > n && !memcmp(b.data, legacy_magic, (size_t)n);
}

/* ---- opening ------------------------------------------------------------------------------------------- */

static void require_archive(const char *at, const char *path, ag_bytes b)
{
    if (b.size >= 4 && !memcmp(b.data, "PK\3\4", 4)) return;
    const bool tar = b.size > 262 && !memcmp(b.data + 257, "ustar", 5);
    const bool pickle = b.size > 1 && (unsigned char)b.data[0] == 0x80;
    if (tar || pickle)
        ag_fail(at, "%s was written by PyTorch before 0.4, or by pickle alone; convert it with "
                "`python -c \"import torch; torch.save(torch.load('%s', 'cpu'), 'converted.pth')\"`", path, path);
    ag_fail(at, "%s is not a PyTorch checkpoint: %s", path, b.size ? "it does not begin like one" : "it is empty");
}

static const ag_pickle *open_archive(walk *w, ag_bytes all, char *folder, size_t size)
{
    const char *at = w->f->at, *path = w->f->path;
    require_archive(at, path, all);
    w->zip = ag_zip_open(at, path, all);
    w->folder = folder;
    if (!ag_zip_folder_of(w->zip, "data.pkl", folder, size))
        ag_fail(at, "%s is an archive, but not a PyTorch checkpoint: it has no data.pkl", path);
    const ag_bytes order = ag_zip_find(w->zip, folder, "byteorder");
    if (order.data && (order.size != 6 || memcmp(order.data, "little", 6)))
        ag_fail(at, "%s was written on a machine of another byte order; only little-endian files are read", path);
    return ag_pickle_read(at, path, ag_zip_find(w->zip, folder, "data.pkl"), names);
}

ag_pth *ag_pth_open_(const char *at, const char *path)
{
    const ag_bytes all = ag_read_file_(at, path);
    char folder[256];
    ag_pth *f = ag_alloc(1, sizeof *f);
    ag_defer(drop, f);
    f->at = at;
    f->path = ag_strdup(path);
    AG_SCOPE;
    walk w = { .f = f };
    const ag_pickle *root = is_legacy(all) ? open_legacy(&w, all) : open_archive(&w, all, folder, sizeof folder);
    collect(&w, choose(f, root), "", 0);
    if (!f->n) ag_fail(at, "%s holds no tensors", path);
    without_prefix(f);
    sort(f);
    return f;
}

/* ---- looking ------------------------------------------------------------------------------------------- */

const char *ag_pth_path(const ag_pth *f)
{
    return f->path;
}

int64_t ag_pth_count(const ag_pth *f)
{
    return f->n;
}

const char *ag_pth_name(const ag_pth *f, int64_t i)
{
    AG_ASSERT(i >= 0 && i < f->n);
    return f->entries[i].name;
}

const char *ag_pth_choice(const ag_pth *f)
{
    return f->choice;
}

static const entry *find(const ag_pth *f, const char *name)
{
    const entry key = { .name = (char *)(uintptr_t)name }, *p = &key;
    entry **hit = bsearch(&p, f->by_name, (size_t)f->n, sizeof *f->by_name, by_name);
    return hit ? *hit : NULL;
}

bool ag_pth_has(const ag_pth *f, const char *name)
{
    return find(f, name) != NULL;
}

static const entry *require(const char *at, const ag_pth *f, const char *name)
{
    const entry *e = find(f, name), *near = f->entries;
    if (e) return e;
    for (int64_t i = 1; i < f->n; i++)
        if (ag_edit_distance(name, f->entries[i].name) < ag_edit_distance(name, near->name)) near = &f->entries[i];
    ag_fail(at, "%s has no tensor '%s'; the nearest of its %" PRId64 " is '%s'", f->path, name, f->n, near->name);
}

ag_shape ag_pth_shape(const ag_pth *f, const char *name)
{
    return require(NULL, f, name)->shape;
}

ag_dtype ag_pth_dtype(const ag_pth *f, const char *name)
{
    return (ag_dtype)ag_formats[require(NULL, f, name)->format].dtype;
}

/* Row by row; rows of a dense tensor are one. */
static void read_axis(const entry *e, int axis, const char *from, char **to)
{
    const ag_format_info info = ag_formats[e->format];
    const int64_t n = e->shape.dim[axis], step = e->stride[axis];
    if (axis == e->shape.ndim - 1) {
        ag_format_read(e->format, from, step, n, *to);
        *to += n * (int64_t)ag_dtype_size((ag_dtype)info.dtype);
        return;
    }
    for (int64_t i = 0; i < n; i++) read_axis(e, axis + 1, from + i * step * (info.bits / 8), to);
}

ag_tensor *ag_pth_get_(const char *at, const ag_pth *f, const char *name)
{
    const entry *e = require(at, f, name);
    const ag_dtype dtype = (ag_dtype)ag_formats[e->format].dtype;
    ag_tensor *t = ag_scoped(ag_tensor_new(at, AG_CPU, AG_MEM_TENSOR, dtype, e->shape));
    bool dense = true;
    for (int i = 0; i < t->ndim; i++) dense &= t->shape[i] == 1 || t->stride[i] == e->stride[i];
    char *to = t->data;
    if (dense || !ag_numel(t)) ag_format_read(e->format, e->data, 1, ag_numel(t), to);
    else read_axis(e, 0, e->data, &to);
    return t;
}
