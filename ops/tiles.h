/* ops/tiles.h - passes over x [groups, rows, width], and sums over the rows of each group.
 *
 * The rows are cut into pieces by their number alone; in a piece the sums of up to AG_TILE_ROWS rows are taken in
 * real, those in double, and the pieces are added in order: the same bits for any number of threads, as exact as double
 * for what a batch holds, at the speed of real. */
#ifndef AG_TILES_H
#define AG_TILES_H
#include "core/bf16.h"
#include "core/op.h"

enum { AG_TILE_ROWS = 64, AG_TILE_COLUMNS = 1024 };

/* Rows row .. end of the groups * rows, all of one group, columns column .. column + n. */
typedef struct { int64_t row, end, column, n; } ag_tile;

typedef struct {
    int64_t groups, rows, width;
    int sums;                   /* how many sums are taken for each column */
    bool whole_rows;            /* a tile's rows are whole; else n is at most AG_TILE_COLUMNS */
    double cost;                /* ns of a row */
    /* Adds to sums[k * n + i], zero before, the k-th sum of the tile's i-th column. */
    void (*tile)(ag_tile t, real *sums, const void *arg);
    const void *arg;
} ag_tiles;

/* Calls tile for every tile, on all threads; returns [groups, sums, width] in workspace of n, NULL without sums. */
double *ag_tiles_run(const ag_node *n, const ag_tiles *t);
int64_t ag_tiles_workspace(const ag_tiles *t);      /* its bytes */

/* How many narrow rows [rows, width] to take as one, so that loops over a row are long: a divisor of rows. */
int64_t ag_tiles_fold(int64_t rows, int64_t width);

/* Asks for what lies a little ahead of elements at .. at + n, for kernels that go over a row more than once: between
 * the passes the processor's own prefetching pauses. */
static inline void ag_fetch_ahead(const void *p, ag_dtype t, int64_t at, int64_t n)
{
    const int64_t size = t == AG_BF16 ? 2 : (int64_t)sizeof(real), ahead = 2048;
    for (int64_t i = at * size; i < (at + n) * size; i += 64) __builtin_prefetch((const char *)p + i + ahead, 0);
}

static inline void ag_fetch_ahead_to_write(const void *p, ag_dtype t, int64_t at, int64_t n)
{
    const int64_t size = t == AG_BF16 ? 2 : (int64_t)sizeof(real), ahead = 1024;
    for (int64_t i = at * size; i < (at + n) * size; i += 64) __builtin_prefetch((const char *)p + i + ahead, 1);
}

#endif
