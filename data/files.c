/* data/files.c - the pictures below a folder. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include "core/memory.h"
#include "data/block_inside.h"

typedef struct { dev_t device; ino_t inode; } place;
typedef struct {
    const char *root;
    char **name;
    place *seen;                /* folders already read: links may form loops */
    int64_t n, room, n_seen, room_seen;
} listing;

static void free_listing(void *arg)
{
    listing *l = arg;
    for (int64_t i = 0; i < l->n; i++) ag_free(l->name[i]);
    ag_free(l->name);
    ag_free(l->seen);
    ag_free(l);
}

static bool looks_like_image(const char *name)
{
    static const char *const endings[] = { ".jpg", ".jpeg", ".png", ".bmp", ".gif" };
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof endings / sizeof *endings; i++)
        if (!strcasecmp(dot, endings[i])) return true;
    return false;
}

static bool first_visit(listing *l, const struct stat *st)
{
    for (int64_t i = 0; i < l->n_seen; i++)
        if (l->seen[i].device == st->st_dev && l->seen[i].inode == st->st_ino) return false;
    if (l->n_seen == l->room_seen) l->seen = ag_realloc(l->seen, l->room_seen = 2 * l->room_seen + 16, sizeof *l->seen);
    l->seen[l->n_seen++] = (place){ st->st_dev, st->st_ino };
    return true;
}

static void add(listing *l, char *name)
{
    if (l->n == l->room) l->name = ag_realloc(l->name, l->room = 2 * l->room + 64, sizeof *l->name);
    l->name[l->n++] = name;
}

int ag_data_by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* Folders are read in the order of their names, so that it does not depend on the file system which of two ways into one
 * folder comes first. */
static bool find(listing *l, const char *below)
{
    char *here = *below ? ag_sprintf("%s/%s", l->root, below) : ag_strdup(l->root);
    listing folders = { 0 };
    DIR *dir = opendir(here);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char *name = ag_sprintf("%s%s%s", below, *below ? "/" : "", e->d_name), *path = ag_sprintf("%s/%s", l->root, name);
        struct stat st;
        const bool folder = !stat(path, &st) && S_ISDIR(st.st_mode);
        ag_free(path);
        if (folder) add(&folders, name);
        else if (looks_like_image(name)) add(l, name);
        else ag_free(name);
    }
    if (dir) closedir(dir);
    ag_free(here);
    if (folders.n) qsort(folders.name, (size_t)folders.n, sizeof *folders.name, ag_data_by_text);
    for (int64_t i = 0; i < folders.n; i++) {
        struct stat st;
        char *path = ag_sprintf("%s/%s", l->root, folders.name[i]);
        if (!stat(path, &st) && first_visit(l, &st)) find(l, folders.name[i]);
        ag_free(path);
        ag_free(folders.name[i]);
    }
    ag_free(folders.name);
    return dir != NULL;
}

data_files ag_data_image_files_(const char *at, const char *dir)
{
    struct stat st;
    listing *l = ag_alloc(1, sizeof *l);
    l->root = dir;
    ag_defer(free_listing, l);
    if (stat(dir, &st)) ag_fail(at, "cannot read %s: %s", dir, errno == ENOENT ? "no such folder" : strerror(errno));
    first_visit(l, &st);
    if (!find(l, "")) ag_fail(at, "cannot read %s: %s", dir, S_ISDIR(st.st_mode) ? strerror(errno) : "it is no folder");
    if (l->n) qsort(l->name, (size_t)l->n, sizeof *l->name, ag_data_by_text);
    return (data_files){ l->n, (const char *const *)l->name };
}
