#include "data/files.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include "core/memory.h"

typedef struct { const char *dir; struct stat but; bool has_but; char **name; int64_t n, room; } list;

static bool looks_like_image(const char *name)
{
    static const char *const endings[] = { ".jpg", ".jpeg", ".png", ".bmp", ".gif" };
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof endings / sizeof *endings; i++)
        if (!strcasecmp(dot, endings[i])) return true;
    return false;
}

static void find(list *l, const char *at);

static void look(list *l, char *name)
{
    char *path = ag_sprintf("%s/%s", l->dir, name);
    struct stat st;
    const bool there = !lstat(path, &st), folder = there && S_ISDIR(st.st_mode);
    ag_free(path);
    if (folder && !(l->has_but && st.st_dev == l->but.st_dev && st.st_ino == l->but.st_ino)) find(l, name);
    if (!there || folder || !looks_like_image(name)) {
        ag_free(name);
        return;
    }
    if (l->n == l->room) l->name = ag_realloc(l->name, l->room = 2 * l->room + 64, sizeof *l->name);
    l->name[l->n++] = name;
}

static void find(list *l, const char *at)
{
    char *here = ag_sprintf("%s/%s", l->dir, at);
    DIR *dir = opendir(here);
    ag_free(here);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) look(l, ag_sprintf("%s%s%s", at, *at ? "/" : "", e->d_name));
    if (dir) closedir(dir);
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

char **ag_data_files(const char *dir, const char *but, int64_t *n)
{
    list l = { .dir = dir };
    l.has_but = but && !stat(but, &l.but);
    find(&l, "");
    if (l.n) qsort(l.name, (size_t)l.n, sizeof *l.name, by_bytes);
    *n = l.n;
    return l.name;
}
