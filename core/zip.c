/* core/zip.c - the directory at the end of an archive (PKWARE's APPNOTE 6.3), every number of it doubted. */
#include "core/zip.h"
#include <stdlib.h>
#include <string.h>
#include "core/memory.h"

enum {
    END = 0x06054b50, END64 = 0x06064b50, LOCATOR64 = 0x07064b50, DIRECTORY = 0x02014b50, LOCAL = 0x04034b50,
    END_SIZE = 22, END64_SIZE = 56, LOCATOR64_SIZE = 20, DIRECTORY_SIZE = 46, LOCAL_SIZE = 30, COMMENT = 65535
};

typedef struct { const char *name; int64_t length; ag_bytes bytes; } entry;

struct ag_zip {
    const char *at, *path;
    ag_bytes all;
    entry *entries;             /* by name */
    int64_t n;
};

static void zip_fail(const ag_zip *z, const char *what) AG_NORETURN;
static void zip_fail(const ag_zip *z, const char *what)
{
    ag_fail(z->at, "%s: the archive is damaged or truncated: %s", z->path, what);
}

/* The little-endian number of `size` bytes at `offset`, which must lie in the file. */
static uint64_t number(const ag_zip *z, int64_t offset, int size)
{
    uint64_t v = 0;
    if (offset < 0 || offset > z->all.size - size) zip_fail(z, "a record lies beyond the end of the file");
    for (int i = size - 1; i >= 0; i--) v = v << 8 | (unsigned char)z->all.data[offset + i];
    return v;
}

static bool signed_by(const ag_zip *z, int64_t offset, uint32_t signature)
{
    return offset >= 0 && offset <= z->all.size - 4 && number(z, offset, 4) == signature;
}

static int64_t offset_of(const ag_zip *z, uint64_t v)
{
    if (v > (uint64_t)z->all.size) zip_fail(z, "an offset lies beyond the end of the file");
    return (int64_t)v;
}

typedef struct { int64_t begin, size; uint64_t count; } directory;

static directory find_directory(const ag_zip *z)
{
    int64_t end = z->all.size - END_SIZE;
    const int64_t least = end > COMMENT ? end - COMMENT : 0;
    while (end >= least && !signed_by(z, end, END)) end--;
    if (end < least || end < 0) zip_fail(z, "it has no directory at its end");
    directory d = { offset_of(z, number(z, end + 16, 4) == UINT32_MAX ? 0 : number(z, end + 16, 4)),
                    (int64_t)number(z, end + 12, 4), number(z, end + 10, 2) };
    if (signed_by(z, end - LOCATOR64_SIZE, LOCATOR64)) {
        const int64_t end64 = offset_of(z, number(z, end - LOCATOR64_SIZE + 8, 8));
        if (!signed_by(z, end64, END64)) zip_fail(z, "the record of the 64-bit directory is missing");
        d = (directory){ offset_of(z, number(z, end64 + 48, 8)), offset_of(z, number(z, end64 + 40, 8)),
                         number(z, end64 + 32, 8) };
    }
    if (d.size > z->all.size - d.begin) zip_fail(z, "its directory lies beyond the end of the file");
    if (d.count > (uint64_t)d.size / DIRECTORY_SIZE) zip_fail(z, "its directory is too small for its entries");
    return d;
}

/* Sizes and offset that need 64 bits lie in extra field 1, in this order, those alone that are all ones before. */
static void read_zip64(const ag_zip *z, int64_t at, int64_t end, uint64_t *fields[3])
{
    while (at + 4 <= end) {
        const uint64_t id = number(z, at, 2), size = number(z, at + 2, 2);
        const int64_t next = at + 4 + (int64_t)size;
        if (next > end) zip_fail(z, "an extra field is longer than its record");
        at += 4;
        for (int i = 0; id == 1 && i < 3 && at + 8 <= next; i++)
            if (*fields[i] == UINT32_MAX) *fields[i] = number(z, at, 8), at += 8;
        at = next;
    }
}

/* Returns where the next record begins. */
static int64_t read_entry(const ag_zip *z, int64_t at, int64_t end, entry *e)
{
    if (at > end - DIRECTORY_SIZE || !signed_by(z, at, DIRECTORY)) zip_fail(z, "an entry of its directory is missing");
    const int64_t name = (int64_t)number(z, at + 28, 2), extra = (int64_t)number(z, at + 30, 2);
    const int64_t next = at + DIRECTORY_SIZE + name + extra + (int64_t)number(z, at + 32, 2);
    uint64_t packed = number(z, at + 20, 4), size = number(z, at + 24, 4), local = number(z, at + 42, 4);
    if (next > end) zip_fail(z, "an entry of its directory is cut off");
    *e = (entry){ .name = z->all.data + at + DIRECTORY_SIZE, .length = name };
    const int64_t extras = at + DIRECTORY_SIZE + name;
    read_zip64(z, extras, extras + extra, (uint64_t *[]){ &size, &packed, &local });
    if (number(z, at + 8, 2) & 1) ag_fail(z->at, "%s: the archive is encrypted", z->path);
    if (number(z, at + 10, 2) != 0 || packed != size)
        ag_fail(z->at, "%s: the archive is compressed, torch.save stores tensors as they are; unpack it and pack it again "
                "with `zip -0 -r`, or save it again", z->path);
    const int64_t header = offset_of(z, local);
    if (!signed_by(z, header, LOCAL)) zip_fail(z, "an entry is not where its directory says");
    const int64_t data = header + LOCAL_SIZE + (int64_t)number(z, header + 26, 2) + (int64_t)number(z, header + 28, 2);
    if (data > z->all.size || size > (uint64_t)(z->all.size - data)) zip_fail(z, "an entry ends beyond the file");
    e->bytes = (ag_bytes){ z->all.data + data, (int64_t)size };
    return next;
}

static int by_name(const void *pa, const void *pb)
{
    const entry *a = pa, *b = pb;
    const int order = memcmp(a->name, b->name, (size_t)(a->length < b->length ? a->length : b->length));
    return order ? order : (a->length > b->length) - (a->length < b->length);
}

static void drop(void *p)
{
    ag_zip *z = p;
    ag_free(z->entries);
    ag_free(z);
}

ag_zip *ag_zip_open(const char *at, const char *path, ag_bytes bytes)
{
    ag_zip *z = ag_alloc(1, sizeof *z);
    ag_defer(drop, z);
    *z = (ag_zip){ .at = at, .path = path, .all = bytes };
    const directory d = find_directory(z);
    z->entries = ag_alloc((int64_t)d.count, sizeof *z->entries);
    int64_t record = d.begin;
    for (; z->n < (int64_t)d.count; z->n++) record = read_entry(z, record, d.begin + d.size, &z->entries[z->n]);
    if (z->n) qsort(z->entries, (size_t)z->n, sizeof *z->entries, by_name);
    for (int64_t i = 1; i < z->n; i++)
        if (!by_name(&z->entries[i - 1], &z->entries[i])) zip_fail(z, "two entries have one name");
    return z;
}

ag_bytes ag_zip_find(const ag_zip *z, const char *folder, const char *name)
{
    char full[512];
    const int n = snprintf(full, sizeof full, "%s/%s", folder, name);
    if (n < 0 || n >= (int)sizeof full || !z->n) return (ag_bytes){ NULL, 0 };
    const entry key = { .name = full, .length = n };
    const entry *hit = bsearch(&key, z->entries, (size_t)z->n, sizeof key, by_name);
    return hit ? hit->bytes : (ag_bytes){ NULL, 0 };
}

bool ag_zip_folder_of(const ag_zip *z, const char *name, char *buf, size_t size)
{
    const int64_t n = (int64_t)strlen(name);
    for (int64_t i = 0; i < z->n; i++) {
        const entry *e = &z->entries[i];
        const int64_t folder = e->length - n - 1;
        if (folder < 0 || folder >= (int64_t)size || e->name[folder] != '/') continue;
        if (memcmp(e->name + folder + 1, name, (size_t)n) || memchr(e->name, '/', (size_t)folder)) continue;
        snprintf(buf, size, "%.*s", (int)folder, e->name);
        return true;
    }
    return false;
}
