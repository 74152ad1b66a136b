/* core/safetensors.c - the format, read as if by an enemy's hand.
 *
 * The ten invariants (https://github.com/huggingface/safetensors, validate()): 1 eight bytes of length N; 2 N <= 100 MB;
 * 3 the header lies within the file; 4 it is UTF-8 and begins with '{', only spaces follow it; 5 no name twice; 6 the
 * metadata maps strings to strings; 7 tensors fill the data without holes or overlap; 8 end >= begin; 9 shape x size is
 * what the offsets say, computed without overflow; 10 every dtype is known. Fields of a tensor that are not known are
 * skipped. Stricter than the Python package (0.8.0) in this: repeated keys, space before '{', NUL in a name, a tensor
 * written as a JSON array, more than AG_MAX_DIMS axes or 63 bits. The parser never recurses, allocates in proportion to
 * the header's bytes and takes the time of a sort. */
#include "core/safetensors.h"
#include <stdlib.h>
#include <string.h>
#include "core/engine.h"
#include "core/format.h"
#include "core/io.h"
#include "core/json.h"
#include "core/nearest.h"

enum { HEADER_LIMIT = 100000000 };

typedef struct { const char *name; ag_format format; ag_shape shape; int64_t begin, end; } entry;

struct ag_safetensors {
    char *path;
    const char *data;
    char *text;                     /* decoded strings */
    entry *entries, **by_name;
    ag_meta *meta;
    int64_t n, n_meta, size;        /* size: of the data */
};

/* ---- reading ------------------------------------------------------------------------------------------- */

static void drop(void *p)
{
    ag_safetensors *f = p;
    ag_free(f->path);
    ag_free(f->text);
    ag_free(f->entries);
    ag_free(f->by_name);
    ag_free(f->meta);
    ag_free(f);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const ag_meta *)a)->key, ((const ag_meta *)b)->key);
}

static void read_meta(ag_json *j, ag_safetensors *f)
{
    int64_t capacity = 0;
    if (ag_json_null(j)) return;
    ag_json_expect(j, '{');
    for (bool more = !ag_json_accept(j, '}'); more; more = ag_json_more(j, '}')) {
        if (f->n_meta == capacity) {
            capacity = capacity ? 2 * capacity : 8;
            f->meta = ag_realloc(f->meta, capacity, sizeof *f->meta);
        }
        ag_meta *m = &f->meta[f->n_meta++];
        m->key = ag_json_string(j);
        ag_json_expect(j, ':');
        m->value = ag_json_string(j);
    }
    if (f->n_meta) qsort(f->meta, (size_t)f->n_meta, sizeof *f->meta, by_key);
    for (int64_t i = 1; i < f->n_meta; i++)
        if (!by_key(&f->meta[i - 1], &f->meta[i])) ag_json_fail(j, "the metadata has '%s' twice", f->meta[i].key);
}

static void read_shape(ag_json *j, entry *e)
{
    ag_json_expect(j, '[');
    for (bool more = !ag_json_accept(j, ']'); more; more = ag_json_more(j, ']')) {
        if (e->shape.ndim == AG_MAX_DIMS) ag_json_fail(j, "tensor '%s' has more than %d axes", e->name, AG_MAX_DIMS);
        e->shape.dim[e->shape.ndim++] = ag_json_integer(j);
    }
}

static void read_format(ag_json *j, entry *e)
{
    const char *name = ag_json_string(j);
    for (int k = 0; k < AG_FORMATS; k++)
        if (!strcmp(ag_formats[k].name, name)) {
            e->format = (ag_format)k;
            return;
        }
    ag_json_fail(j, "tensor '%s' has the unknown dtype '%s'", e->name, name);
}

static void read_entry(ag_json *j, entry *e)
{
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4, ALL = 7 };
    int seen = 0;
    ag_json_expect(j, '{');
    for (bool more = !ag_json_accept(j, '}'); more; more = ag_json_more(j, '}')) {
        const char *key = ag_json_string(j);
        const int field = !strcmp(key, "dtype") ? DTYPE : !strcmp(key, "shape") ? SHAPE
                        : !strcmp(key, "data_offsets") ? OFFSETS : 0;
        if (seen & field) ag_json_fail(j, "tensor '%s' has the field '%s' twice", e->name, key);
        seen |= field;
        ag_json_expect(j, ':');
        if (!field) ag_json_skip(j);            /* what a later version may add */
        else if (field == DTYPE) read_format(j, e);
        else if (field == SHAPE) read_shape(j, e);
        else {
            ag_json_expect(j, '[');
            e->begin = ag_json_integer(j);
            ag_json_expect(j, ',');
            e->end = ag_json_integer(j);
            ag_json_expect(j, ']');
        }
    }
    if (seen != ALL) ag_json_fail(j, "tensor '%s' lacks dtype, shape or data_offsets", e->name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(entry *const *)a)->name, (*(entry *const *)b)->name);
}

static int by_offset(const void *a, const void *b)
{
    const entry *p = a, *q = b;
    if (p->begin != q->begin) return p->begin < q->begin ? -1 : 1;
    return p->end < q->end ? -1 : p->end > q->end;
}

static void check_entry(const ag_json *j, const entry *e)
{
    int64_t bits = 1;
    bool fits = true;
    for (int i = 0; i < e->shape.ndim; i++) fits &= !__builtin_mul_overflow(bits, e->shape.dim[i], &bits);
    fits &= !__builtin_mul_overflow(bits, ag_formats[e->format].bits, &bits) && bits % 8 == 0;
    const int64_t bytes = bits / 8;
    if (e->end < e->begin || !fits || e->end - e->begin != bytes)
        ag_json_fail(j, "tensor '%s': its shape needs %" PRId64 " bytes, its offsets %" PRId64 " to %" PRId64 " do not fit that",
                     e->name, fits ? bytes : INT64_MAX, e->begin, e->end);
}

static void check_all(const ag_json *j, ag_safetensors *f)
{
    int64_t at = 0;
    if (f->n) qsort(f->entries, (size_t)f->n, sizeof *f->entries, by_offset);
    for (int64_t i = 0; i < f->n; i++) {
        const entry *e = &f->entries[i];
        check_entry(j, e);
        if (e->begin != at)
            ag_json_fail(j, "tensor '%s' begins at byte %" PRId64 " of the data, the one before ends at %" PRId64, e->name,
                         e->begin, at);
        at = e->end;
    }
    if (at != f->size)
        ag_json_fail(j, "the tensors end at byte %" PRId64 ", the data has %" PRId64 "; the file is truncated or was "
                     "appended to", at, f->size);
    f->by_name = ag_alloc(f->n, sizeof *f->by_name);
    for (int64_t i = 0; i < f->n; i++) f->by_name[i] = &f->entries[i];
    qsort(f->by_name, (size_t)f->n, sizeof *f->by_name, by_name);
    for (int64_t i = 1; i < f->n; i++)
        if (!by_name(&f->by_name[i - 1], &f->by_name[i])) ag_json_fail(j, "tensor '%s' is there twice", f->by_name[i]->name);
}

static void read_header(ag_json *j, ag_safetensors *f)
{
    int64_t capacity = 0;
    bool meta = false;
    ag_json_expect(j, '{');
    for (bool more = !ag_json_accept(j, '}'); more; more = ag_json_more(j, '}')) {
        const char *name = ag_json_string(j);
        ag_json_expect(j, ':');
        if (!strcmp(name, "__metadata__")) {
            if (meta) ag_json_fail(j, "'__metadata__' is there twice");
            meta = true;
            read_meta(j, f);
            continue;
        }
        if (f->n == capacity) {
            capacity = capacity ? 2 * capacity : 16;
            f->entries = ag_realloc(f->entries, capacity, sizeof *f->entries);
        }
        f->entries[f->n] = (entry){ .name = name };
        read_entry(j, &f->entries[f->n]);
        f->n++;
    }
    ag_json_end(j);
    check_all(j, f);
}

ag_safetensors *ag_safetensors_open_(const char *at, const char *path)
{
    const ag_bytes b = ag_read_file_(at, path);
    uint64_t length = 0;
    if (b.size < 8) ag_fail(at, "%s is not a safetensors file: it has %" PRId64 " bytes, the least is 8", path, b.size);
    memcpy(&length, b.data, 8);
    if (length > HEADER_LIMIT || (int64_t)length > b.size - 8)
        ag_fail(at, "%s is not a safetensors file, or is truncated: its header claims %" PRIu64 " bytes, the file has %" PRId64,
                path, length, b.size);
    ag_safetensors *f = ag_alloc(1, sizeof *f);
    ag_defer(drop, f);
    f->path = ag_strdup(path);
    f->size = b.size - 8 - (int64_t)length;
    f->data = b.data + 8 + length;
    f->text = ag_alloc((int64_t)length + 1, 1);
    ag_json j = ag_json_begin(at, path, b.data + 8, (int64_t)length, f->text);
    if (!length || b.data[8] != '{') ag_json_fail(&j, "the header does not begin with '{'");
    read_header(&j, f);
    return f;
}

const char *ag_safetensors_path(const ag_safetensors *f)
{
    return f->path;
}

int64_t ag_safetensors_count(const ag_safetensors *f)
{
    return f->n;
}

const char *ag_safetensors_name(const ag_safetensors *f, int64_t i)
{
    AG_ASSERT(i >= 0 && i < f->n);
    return f->entries[i].name;
}

const char *ag_safetensors_meta(const ag_safetensors *f, const char *key)
{
    const ag_meta wanted = { .key = key };
    const ag_meta *hit = f->n_meta ? bsearch(&wanted, f->meta, (size_t)f->n_meta, sizeof *f->meta, by_key) : NULL;
    return hit ? hit->value : NULL;
}

static const entry *find(const ag_safetensors *f, const char *name)
{
    const entry key = { .name = name }, *p = &key;
    entry **hit = f->n == 0 ? NULL : bsearch(&p, f->by_name, (size_t)f->n, sizeof *f->by_name, by_name);
    return hit ? *hit : NULL;
}

bool ag_safetensors_has(const ag_safetensors *f, const char *name)
{
    return find(f, name) != NULL;
}

static const entry *require(const char *at, const ag_safetensors *f, const char *name)
{
    const entry *e = find(f, name), *near = NULL;
    if (e) return e;
    double best = 1e9;
    for (int64_t i = 0; i < f->n; i++) {
        const double d = ag_edit_distance(name, f->entries[i].name);
        if (d < best) best = d, near = &f->entries[i];
    }
    if (!near) ag_fail(at, "%s has no tensor '%s'; it is empty", f->path, name);
    ag_fail(at, "%s has no tensor '%s'; the nearest of its %" PRId64 " is '%s'", f->path, name, f->n, near->name);
}

ag_shape ag_safetensors_shape(const ag_safetensors *f, const char *name)
{
    return require(NULL, f, name)->shape;
}

static const entry *readable(const char *at, const ag_safetensors *f, const char *name)
{
    const entry *e = require(at, f, name);
    if (ag_formats[e->format].dtype < 0)
        ag_fail(at, "%s: tensor '%s' is %s, which has no counterpart here", f->path, name, ag_formats[e->format].name);
    return e;
}

ag_dtype ag_safetensors_dtype(const ag_safetensors *f, const char *name)
{
    return (ag_dtype)ag_formats[readable(NULL, f, name)->format].dtype;
}

ag_tensor *ag_safetensors_get_(const char *at, const ag_safetensors *f, const char *name)
{
    const entry *e = readable(at, f, name);
    ag_tensor *t = ag_scoped(ag_tensor_new(at, AG_CPU, AG_MEM_TENSOR, (ag_dtype)ag_formats[e->format].dtype, e->shape));
    ag_format_read(e->format, f->data + e->begin, 1, ag_numel(t), t->data);
    return t;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static ag_format format_of(const ag_tensor *t)
{
    static const ag_format of[AG_DTYPES] = { sizeof(real) == 8 ? AG_FORMAT_F64 : AG_FORMAT_F32, AG_FORMAT_BF16, AG_FORMAT_I64,
                                             AG_FORMAT_I32, AG_FORMAT_U8 };
    return of[t->dtype];
}

static void write_data(const char *at, ag_file *file, const ag_tensor *t)
{
    const int64_t bytes = ag_numel(t) * (int64_t)ag_dtype_size(t->dtype);
    if (t->device == AG_CPU && ag_is_contiguous(t)) {
        ag_file_write(file, t->data, bytes);
        return;
    }
    AG_SCOPE;
    ag_tensor *dense = ag_scoped(ag_tensor_new(at, AG_CPU, AG_MEM_WORKSPACE, t->dtype, ag_shape_of(t)));
    ag_to_host_(at, t, t->dtype, dense->data);
    ag_file_write(file, dense->data, bytes);
}

static void check_names(const char *at, const char *path, int64_t n, const ag_named *tensors)
{
    for (int64_t i = 0; i < n; i++) {
        if (tensors[i].tensor->device == AG_META)
            ag_fail(at, "cannot write %s: tensor '%s' has a shape but no values", path, tensors[i].name);
        for (int64_t k = 0; k < i; k++)
            if (!strcmp(tensors[i].name, tensors[k].name))
                ag_fail(at, "cannot write %s: two tensors are named '%s'", path, tensors[i].name);
    }
}

void ag_safetensors_save_(const char *at, const char *path, int64_t n, const ag_named *tensors, int64_t n_meta,
                          const ag_meta *meta)
{
    AG_SCOPE;
    check_names(at, path, n, tensors);
    ag_json_writer *w = ag_json_writer_new();
    ag_json_put(w, "{");
    for (int64_t i = 0; i < n_meta; i++) {
        ag_json_put(w, i ? "," : "\"__metadata__\":{");
        ag_json_put_string(w, meta[i].key);
        ag_json_put(w, ":");
        ag_json_put_string(w, meta[i].value);
    }
    if (n_meta) ag_json_put(w, n ? "}," : "}");
    for (int64_t i = 0, at_byte = 0; i < n; i++) {
        const ag_tensor *t = tensors[i].tensor;
        const int64_t bytes = ag_numel(t) * (int64_t)ag_dtype_size(t->dtype);
        if (i) ag_json_put(w, ",");
        ag_json_put_string(w, tensors[i].name);
        ag_json_put(w, ":{\"dtype\":\"%s\",\"shape\":[", ag_formats[format_of(t)].name);
        for (int k = 0; k < t->ndim; k++) ag_json_put(w, k ? ",%" PRId64 : "%" PRId64, t->shape[k]);
        ag_json_put(w, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", at_byte, at_byte + bytes);
        at_byte += bytes;
    }
    ag_json_put(w, "}");
    while (ag_json_length(w) % 8) ag_json_put(w, " ");      /* tensors aligned in a mapped file */
    const uint64_t length = (uint64_t)ag_json_length(w);
    ag_file *file = ag_file_create_(at, path);
    ag_file_write(file, &length, 8);
    ag_file_write(file, ag_json_text(w), (int64_t)length);
    for (int64_t i = 0; i < n; i++) write_data(at, file, tensors[i].tensor);
    ag_file_commit(file);
}
