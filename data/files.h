/* data/files.h - inside data/: the pictures below a folder. */
#ifndef AG_DATA_FILES_H
#define AG_DATA_FILES_H
#include "core/base.h"

/* Names relative to dir, by their endings (.jpg .jpeg .png .bmp .gif, any case), sorted by bytes, so that a seed draws the
 * same everywhere. Links to folders are not followed; the folder `but` (may be NULL) is left out. Free each, and all, with
 * ag_free. */
char **ag_data_files(const char *dir, const char *but, int64_t *n);

#endif
