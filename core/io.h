/* core/io.h - the one place that opens files. Reads are whole or mapped; writes replace atomically. */
#ifndef AG_IO_H
#define AG_IO_H
#include <stdarg.h>
#include "core/base.h"
AG_BEGIN_DECLS

/* A file mapped for reading, in the innermost scope. data[size] is readable only if size > 0; an empty file has
 * data "" . Fails, naming path and reason: missing, folder, not readable. */
typedef struct { const char *data; int64_t size; } ag_bytes;
ag_bytes ag_read_file_(const char *at, const char *path);
#define ag_read_file(path) ag_read_file_(AG_HERE, path)

/* A whole file that may not be there, may be no file (a pipe, a folder) or may change while it is read: false, and the reason
 * in why. data: the thread's own, until its next ag_try_read. */
bool ag_try_read(const char *path, ag_bytes *bytes, char *why, size_t size);

/* A file being replaced: written beside the target as PATH.tmp-<pid>, fsynced, renamed over it by ag_file_commit, the
 * folder fsynced. Until then the old file is whole; a failure or the end of the scope without commit removes the
 * temporary. Every failed write names path, bytes needed and the reason. */
typedef struct ag_file ag_file;
ag_file *ag_file_create_(const char *at, const char *path);
void ag_file_write(ag_file *f, const void *data, int64_t size);
void ag_file_printf(ag_file *f, const char *fmt, ...) AG_PRINTF(2, 3);
void ag_file_vprintf(ag_file *f, const char *fmt, va_list args) AG_PRINTF(2, 0);
void ag_file_commit(ag_file *f);
#define ag_file_create(path) ag_file_create_(AG_HERE, path)

bool ag_file_exists(const char *path);
bool ag_is_folder(const char *path);
void ag_make_folder_(const char *at, const char *path);     /* with its parents; fine if it is there */
#define ag_make_folder(path) ag_make_folder_(AG_HERE, path)
/* The beginning of a small file of the system's (/proc, /sys) into text, ended by a zero byte; false where it cannot be read. */
bool ag_read_small(const char *path, char *text, size_t size);
int64_t ag_resident_memory(void);   /* bytes of this process in RAM; 0 where the system does not say */

/* An append-only text file (logs): opened for appending or truncated, flushed after each line. */
typedef struct ag_log ag_log;
ag_log *ag_log_open_(const char *at, const char *path, bool append);
void ag_log_printf(ag_log *l, const char *fmt, ...) AG_PRINTF(2, 3);
void ag_log_close(ag_log *l);
#define ag_log_open(path, append) ag_log_open_(AG_HERE, path, append)

AG_END_DECLS
#endif
