#include "core/io.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/memory.h"
#include "core/ranks.h"

/* ---- reading ------------------------------------------------------------------------------------------- */

typedef struct { void *data; size_t size; } mapping;

static void unmap(void *p)
{
    mapping *m = p;
    munmap(m->data, m->size);
    ag_free(m);
}

static const char *reason(int error)
{
    return error == ENOENT ? "no such file" : error == EACCES ? "permission denied" : strerror(error);
}

ag_bytes ag_read_file_(const char *at, const char *path)
{
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) ag_fail(at, "cannot read %s: %s", path, reason(errno));
    if (fstat(fd, &st) || S_ISDIR(st.st_mode)) {
        close(fd);
        ag_fail(at, "cannot read %s: it is a folder, a file is needed", path);
    }
    if (!st.st_size) {
        close(fd);
        return (ag_bytes){ "", 0 };
    }
    void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    const int error = errno;
    close(fd);
    if (data == MAP_FAILED) ag_fail(at, "cannot read %s: %s", path, strerror(error));
    mapping *m = ag_alloc(1, sizeof *m);
    *m = (mapping){ data, (size_t)st.st_size };
    ag_defer(unmap, m);
    return (ag_bytes){ data, st.st_size };
}

static bool refuse(int fd, char *why, size_t size, const char *what)
{
    if (fd >= 0) close(fd);
    snprintf(why, size, "%s", what);
    return false;
}

/* A thread that reads photographs reads many: memory that is given back each time is paid for, page by page. Sanitizers see
 * reads beyond the end only where the memory ends with the file. */
#ifdef AG_DEBUG
enum { KEPT_MOST = 0 };
#else
enum { KEPT_MOST = 4 << 20 };
#endif
static _Thread_local struct { char *data; int64_t size; } kept;
static pthread_key_t kept_key;
static pthread_once_t kept_once = PTHREAD_ONCE_INIT;

static void make_kept_key(void) { pthread_key_create(&kept_key, ag_free); }

static char *room_for(int64_t n)
{
    if (n <= kept.size && kept.size <= KEPT_MOST) return kept.data;
    pthread_once(&kept_once, make_kept_key);
    pthread_setspecific(kept_key, NULL);
    ag_free(kept.data);
    kept.data = NULL, kept.size = 0;
    kept.data = ag_alloc(n ? n : 1, 1), kept.size = n;
    pthread_setspecific(kept_key, kept.data);
    return kept.data;
}

bool ag_try_read(const char *path, ag_bytes *bytes, char *why, size_t size)
{
    struct stat st;
    *bytes = (ag_bytes){ 0 };
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);       /* a pipe without a writer is no reason to wait */
    if (fd < 0) return refuse(fd, why, size, reason(errno));
    if (fstat(fd, &st)) return refuse(fd, why, size, reason(errno));
    if (S_ISDIR(st.st_mode)) return refuse(fd, why, size, "a folder");
    if (!S_ISREG(st.st_mode)) return refuse(fd, why, size, "no regular file");
    if (st.st_size > (off_t)1 << 30) return refuse(fd, why, size, "larger than 1 GB");
    char *data = room_for(st.st_size);
    int64_t n = 0;
    while (n < st.st_size) {
        const ssize_t got = read(fd, data + n, (size_t)(st.st_size - n));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return refuse(fd, why, size, strerror(errno));
        if (!got) break;
        n += got;
    }
    close(fd);
    *bytes = (ag_bytes){ data, n };
    return true;
}

bool ag_file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
}

bool ag_is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

void ag_make_folder_(const char *at, const char *path)
{
    char part[PATH_MAX];
    const size_t n = strlen(path);
    if (!n || n >= sizeof part) ag_fail(at, "cannot make folder '%s': the name is %s", path, n ? "too long" : "empty");
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (part[i] != '/' && part[i]) continue;
        const char c = part[i];
        part[i] = 0;
        if (mkdir(part, 0777) && !ag_is_folder(part))
            ag_fail(at, "cannot make folder %s: %s", part, reason(errno));
        part[i] = c;
    }
}

bool ag_read_small(const char *path, char *text, size_t size)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
    if (fd >= 0) close(fd);
    text[n > 0 ? n : 0] = 0;
    return n > 0;
}

int64_t ag_resident_memory(void)
{
    char text[128];
    long pages = 0;
    if (!ag_read_small("/proc/self/statm", text, sizeof text) || sscanf(text, "%*s %ld", &pages) != 1) return 0;
    return (int64_t)pages * sysconf(_SC_PAGESIZE);
}

/* ---- replacing a file ---------------------------------------------------------------------------------- */

struct ag_file {
    const char *at;
    char *path, *temporary;     /* NULL once committed */
    int fd;
    int64_t written;
    size_t held;
    char buffer[1 << 16];
};

static void file_drop(void *p)
{
    ag_file *f = p;
    if (f->fd >= 0) close(f->fd);
    if (f->temporary) unlink(f->temporary);
    ag_free(f->temporary);
    ag_free(f->path);
    ag_free(f);
}

ag_file *ag_file_create_(const char *at, const char *path)
{
    char target[PATH_MAX];
    if (ag_is_folder(path)) ag_fail(at, "cannot write %s: it is a folder", path);
    if (!realpath(path, target)) snprintf(target, sizeof target, "%s", path);   /* a link: its target is replaced */
    ag_file *f = ag_alloc(1, sizeof *f);
    f->at = at, f->fd = -1;
    ag_defer(file_drop, f);
    f->path = ag_strdup(target);
    if (ag_rank() == 0) f->temporary = ag_sprintf("%s.tmp-%d", target, (int)getpid());
    f->fd = open(f->temporary ? f->temporary : "/dev/null", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (f->fd < 0) {
        const int error = errno;
        ag_fail(at, "cannot write %s: %s", path, error == ENOENT ? "its folder does not exist" : reason(error));
    }
    return f;
}

static void write_fail(const ag_file *f, int error)
{
    ag_fail(f->at, "cannot write %s: %s after %" PRId64 " bytes; the old file, if there was one, is untouched", f->path,
            strerror(error), f->written);
}

static void put(ag_file *f, const char *data, size_t size)
{
    while (size) {
        const ssize_t n = write(f->fd, data, size);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) write_fail(f, n ? errno : ENOSPC);
        data += n, size -= (size_t)n, f->written += n;
    }
}

static void flush(ag_file *f)
{
    const size_t held = f->held;
    f->held = 0;
    put(f, f->buffer, held);
}

void ag_file_write(ag_file *f, const void *data, int64_t size)
{
    const size_t n = (size_t)size;
    if (f->held + n > sizeof f->buffer) flush(f);
    if (n > sizeof f->buffer) {
        put(f, data, n);
        return;
    }
    if (n) memcpy(f->buffer + f->held, data, n);
    f->held += n;
}

void ag_file_printf(ag_file *f, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    ag_file_vprintf(f, fmt, args);
    va_end(args);
}

void ag_file_vprintf(ag_file *f, const char *fmt, va_list args)
{
    va_list again;
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, fmt, args);
    char *s = ag_alloc(n + 1, 1);
    vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    ag_file_write(f, s, n);
    ag_free(s);
}

/* The rename is durable only when the folder is. */
static void sync_folder(const char *path)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (!slash) strcpy(folder, ".");
    else snprintf(folder, sizeof folder, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    const int fd = open(folder, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    (void)!fsync(fd);
    close(fd);
}

void ag_file_commit(ag_file *f)
{
    struct stat st;
    flush(f);
    if (!f->temporary) return;              /* another rank writes it */
    if (stat(f->path, &st) == 0) (void)!fchmod(f->fd, st.st_mode & 07777);
    if (fsync(f->fd)) write_fail(f, errno);
    const int fd = f->fd;
    f->fd = -1;
    if (close(fd)) write_fail(f, errno);
    if (rename(f->temporary, f->path)) write_fail(f, errno);
    ag_free(f->temporary);
    f->temporary = NULL;
    sync_folder(f->path);
}

/* ---- logs ---------------------------------------------------------------------------------------------- */

struct ag_log {
    const char *at;
    char *path;
    FILE *file;
};

ag_log *ag_log_open_(const char *at, const char *path, bool append)
{
    FILE *file = fopen(ag_rank() ? "/dev/null" : path, append ? "ae" : "we");
    if (!file) ag_fail(at, "cannot write %s: %s", path, errno == ENOENT ? "its folder does not exist" : reason(errno));
    ag_log *l = ag_alloc(1, sizeof *l);
    *l = (ag_log){ .at = at, .path = ag_strdup(path), .file = file };
    return l;
}

void ag_log_printf(ag_log *l, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const int n = vfprintf(l->file, fmt, args);
    va_end(args);
    if (n < 0 || fflush(l->file)) ag_fail(l->at, "cannot write %s: %s", l->path, strerror(errno));
}

void ag_log_close(ag_log *l)
{
    if (!l) return;
    fclose(l->file);
    ag_free(l->path);
    ag_free(l);
}
