/* core/zip.h - the files inside of a zip archive that stores them as they are. Not part of the public interface. */
#ifndef AG_ZIP_H
#define AG_ZIP_H
#include "core/io.h"

typedef struct ag_zip ag_zip;
/* In the innermost scope; bytes: the archive, which must outlive it. Fails, naming path, on what is no such archive:
 * truncated, compressed or encrypted entries, offsets beyond the file. */
ag_zip *ag_zip_open(const char *at, const char *path, ag_bytes bytes);
/* The bytes of the entry FOLDER/NAME; data NULL where there is none. */
ag_bytes ag_zip_find(const ag_zip *z, const char *folder, const char *name);
/* The folder of the first entry that is called FOLDER/name, into buf; false where there is none. */
bool ag_zip_folder_of(const ag_zip *z, const char *name, char *buf, size_t size);

#endif
