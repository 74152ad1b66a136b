/* core/profile.c - AG_PROFILE=1: where the time of a run went, by op and layer, as one table at the end.
 *
 * Layers that differ in a number behind the first one (blocks.0, blocks.1, ...) are one row. Operations are those of
 * ag_op.flops; bytes are those of the tensors that the op reads and writes, each once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "core/engine.h"

enum { MOST_ROWS = 1024, LAYER = AG_LAYER, OPS_SHOWN = 60 };

typedef struct { const char *op; bool backward; char layer[LAYER]; int64_t calls; double seconds, flops, bytes; } row;

bool ag_profiling;
_Thread_local double *ag_flop_counter;
static row *rows;
static int n_rows;
static double started;

double ag_profile_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_time(const void *a, const void *b)
{
    const double x = ((const row *)a)->seconds, y = ((const row *)b)->seconds;
    return (x < y) - (x > y);
}

static void print_table(void)
{
    double total = ag_profile_now() - started, inside = 0;
    qsort(rows, (size_t)n_rows, sizeof *rows, by_time);
    fprintf(stderr, "%-18s %-4s %-36s %8s %10s %6s %8s %7s\n", "op", "pass", "layer", "calls", "ms", "%", "GFLOP/s", "GB/s");
    for (int i = 0; i < n_rows; i++) {
        const row *r = &rows[i];
        inside += r->seconds;
        if (i >= OPS_SHOWN) continue;
        fprintf(stderr, "%-18s %-4s %-36s %8" PRId64 " %10.2f %6.1f ", r->op, r->backward ? "bwd" : "fwd",
                *r->layer ? r->layer : "-", r->calls, 1e3 * r->seconds, 100 * r->seconds / total);
        if (r->flops > 0) fprintf(stderr, "%8.1f ", 1e-9 * r->flops / r->seconds);
        else fprintf(stderr, "%8s ", "");
        fprintf(stderr, "%7.1f\n", 1e-9 * r->bytes / r->seconds);
    }
    if (n_rows > OPS_SHOWN) fprintf(stderr, "and %d rows more\n", n_rows - OPS_SHOWN);
    fprintf(stderr, "%-18s %-4s %-36s %8s %10.2f %6.1f\n", "outside of ops", "", "", "", 1e3 * (total - inside),
            100 * (total - inside) / total);
    ag_free(rows);
}

void ag_layer_name(const char *path, char *layer)
{
    int used = 0, numbers = 0;
    while (*path && used < LAYER - 1) {
        const size_t part = strcspn(path, ".");
        const bool number = part && strspn(path, "0123456789") >= part;
        if (number && numbers++) layer[used++] = '*';
        else for (size_t i = 0; i < part && used < LAYER - 1; i++) layer[used++] = path[i];
        path += part;
        if (*path == '.' && used < LAYER - 1) layer[used++] = '.', path++;
    }
    layer[used] = 0;
}

static row *row_of(const char *op, bool backward, const char *layer)
{
    for (int i = 0; i < n_rows; i++)
        if (rows[i].op == op && rows[i].backward == backward && !strcmp(rows[i].layer, layer)) return &rows[i];
    if (n_rows == MOST_ROWS - 1) return &rows[MOST_ROWS - 1];
    row *r = &rows[n_rows++];
    *r = (row){ .op = op, .backward = backward };
    snprintf(r->layer, sizeof r->layer, "%s", layer);
    return r;
}

static double bytes_of(const ag_tensor *t)
{
    return t ? (double)ag_numel(t) * (double)ag_dtype_size(t->dtype) : 0;
}

void ag_profile_add(const ag_node *n, bool backward, double seconds)
{
    char layer[LAYER];
    ag_layer_name(n->module && ag_path_hook ? ag_path_hook(n->module) : "", layer);
    row *r = row_of(n->op->name, backward, layer);
    r->calls++;
    r->seconds += seconds;
    if (n->op->flops) r->flops += (backward ? 2 : 1) * n->op->flops(n);
    r->bytes += bytes_of(n->out);
    for (int i = 0; i < n->n_in; i++) r->bytes += bytes_of(n->in[i]) + (backward ? bytes_of(n->din[i]) : 0);
}

void ag_profile_other(const char *what, double start, double bytes)
{
    row *r = row_of(what, false, "");
    r->calls++;
    r->seconds += ag_profile_now() - start;
    r->bytes += bytes;
}

__attribute__((constructor)) static void begin(void)
{
    const char *wanted = getenv("AG_PROFILE");
    if (!wanted || !*wanted || !strcmp(wanted, "0")) return;
    rows = ag_alloc(MOST_ROWS, sizeof *rows);
    started = ag_profile_now();
    ag_profiling = true;
    atexit(print_table);
}
