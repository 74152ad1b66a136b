/* tests/gpu_rows.h - what the programs that measure a GPU share: lines "work, value, unit" for tests/gpu_check.sh. */
#ifndef GPU_ROWS_H
#define GPU_ROWS_H
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "core/device.h"

static bool small;              /* --small: sizes for the emulation */

static inline double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void row_of(const char *work, const char *what, double value, const char *unit)
{
    printf("%s%s\t%.4g\t%s\n", work, what, value, unit);
    fflush(stdout);
}

static inline void row(const char *work, double value, const char *unit)
{
    row_of(work, "", value, unit);
}

/* The status to end with: 3, saying why, where there is no GPU; 0 after --probe; -1: there is one to measure. */
static inline int begin_rows(int argc, char **argv)
{
    char why[512];
    small = argc > 1 && !strcmp(argv[1], "--small");
    if (!ag_cuda_available(why, sizeof why)) {
        printf("%s\n", why);
        return 3;
    }
    return argc > 1 && !strcmp(argv[1], "--probe") ? 0 : -1;
}

#endif
