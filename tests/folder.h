/* tests/folder.h - a folder of a test program's own, gone when its tests are over (cmocka's teardown of a group). */
#ifndef TESTS_FOLDER_H
#define TESTS_FOLDER_H
#include <stdio.h>
#include <stdlib.h>

static char folder[] = "/tmp/agrad-test-XXXXXX";

static inline bool make_own_folder(void) { return mkdtemp(folder) != NULL; }

/* A path in it; four at a time. */
static inline const char *in_folder(const char *name)
{
    static char path[4][300];
    static int k;
    snprintf(path[k = (k + 1) % 4], sizeof *path, "%s/%s", folder, name);
    return path[k];
}

static inline int remove_folder(void **state)
{
    char command[300];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

#endif
