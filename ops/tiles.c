#include "ops/tiles.h"
#include <string.h>
#include "core/thread.h"

enum { PIECES = 32, LONG_ROW = 256 };

typedef struct {
    const ag_tiles *t;
    int64_t pieces, blocks, tile_width;
    double *partial, *total;
    real *sums;
} tiles_job;

static tiles_job job_of(const ag_tiles *t)
{
    tiles_job j = { .t = t, .pieces = 1, .tile_width = t->width };
    while (j.pieces < PIECES && t->rows > j.pieces * AG_TILE_ROWS) j.pieces *= 2;
    if (!t->whole_rows && t->width > AG_TILE_COLUMNS) j.tile_width = AG_TILE_COLUMNS;
    j.blocks = j.tile_width ? (t->width + j.tile_width - 1) / j.tile_width : 0;
    return j;
}

static void run_tile(const tiles_job *j, ag_tile tile, real *sums, double *total)
{
    const ag_tiles *t = j->t;
    if (t->sums) memset(sums, 0, (size_t)(t->sums * tile.n) * sizeof *sums);
    t->tile(tile, sums, t->arg);
    for (int k = 0; k < t->sums; k++)
        for (int64_t i = 0; i < tile.n; i++) total[k * t->width + tile.column + i] += (double)sums[k * tile.n + i];
}

/* One piece of the rows in one block of columns. */
static void run_piece(const tiles_job *j, int64_t piece, int64_t column)
{
    const ag_tiles *t = j->t;
    const int64_t k = piece % j->pieces, group = piece / j->pieces * t->rows, last = t->rows * (k + 1) / j->pieces;
    const int64_t left = t->width - column, n = left < j->tile_width ? left : j->tile_width;
    real *sums = t->sums ? j->sums + ag_thread_id() * t->sums * j->tile_width : NULL;
    double *total = t->sums ? j->partial + piece * t->sums * t->width : NULL;
    for (int s = 0; s < t->sums; s++) memset(total + s * t->width + column, 0, (size_t)n * sizeof *total);
    for (int64_t r = t->rows * k / j->pieces; r < last; r += AG_TILE_ROWS) {
        const int64_t stop = r + AG_TILE_ROWS < last ? r + AG_TILE_ROWS : last;
        run_tile(j, (ag_tile){ group + r, group + stop, column, n }, sums, total);
    }
}

static void run_pieces(int64_t begin, int64_t end, void *arg)
{
    const tiles_job *j = arg;
    for (int64_t i = begin; i < end; i++) run_piece(j, i / j->blocks, i % j->blocks * j->tile_width);
}

static void add_pieces(int64_t begin, int64_t end, void *arg)      /* columns of [groups, sums * width] */
{
    const tiles_job *j = arg;
    const int64_t width = j->t->sums * j->t->width;
    for (int64_t g = 0; g < j->t->groups; g++)
        for (int64_t p = 0; p < j->pieces; p++) {
            const double *from = j->partial + (g * j->pieces + p) * width;
            double *to = j->total + g * width;
            if (p) for (int64_t i = begin; i < end; i++) to[i] += from[i];
            else memcpy(to + begin, from + begin, (size_t)(end - begin) * sizeof *to);
        }
}

double *ag_tiles_run(const ag_node *n, const ag_tiles *t)
{
    tiles_job j = job_of(t);
    const int64_t width = t->sums * t->width, pieces = t->groups * j.pieces;
    if (t->sums) {
        j.partial = ag_workspace(n, (pieces + (j.pieces > 1 ? t->groups : 0)) * width, sizeof *j.partial);
        j.sums = ag_workspace(n, ag_threads() * t->sums * j.tile_width, sizeof *j.sums);
        j.total = j.partial + (j.pieces > 1 ? pieces * width : 0);
    }
    ag_parallel(pieces * j.blocks, 1, t->cost * (double)t->rows / (double)(j.pieces * j.blocks), run_pieces, &j);
    if (j.pieces > 1 && t->sums) ag_parallel(width, 256, 0.3 * (double)pieces, add_pieces, &j);
    return j.total;
}

int64_t ag_tiles_workspace(const ag_tiles *t)
{
    const tiles_job j = job_of(t);
    const int64_t doubles = (t->groups * j.pieces + (j.pieces > 1 ? t->groups : 0)) * t->sums * t->width;
    return doubles * (int64_t)sizeof(double) + ag_threads() * t->sums * j.tile_width * (int64_t)sizeof(real);
}

int64_t ag_tiles_fold(int64_t rows, int64_t width)
{
    int64_t fold = 1;
    while (width * fold < LONG_ROW && rows % (2 * fold) == 0) fold *= 2;
    return fold;
}
