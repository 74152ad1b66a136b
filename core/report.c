/* core/report.c - who holds memory: the report, and the largest holders for messages. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/device.h"
#include "core/engine.h"
#include "core/io.h"

enum { MOST_ROWS = 256, SHOWN = 12 };

typedef struct { ag_memory_row row[MOST_ROWS]; int n; int64_t large; bool by_kind; } table;

const char *ag_memory_kind_name(ag_mem_kind kind)
{
    static const char *const names[AG_MEM_KINDS] = { "activations and data", "parameters", "gradients", "optimizer state",
                                                     "workspace", "repacked parameters" };
    return names[kind];
}

static void add(void *arg, const ag_storage *s)
{
    table *t = arg;
    char layer[AG_LAYER];
    int i = 0;
    ag_layer_name(s->owner ? s->owner : "", layer);
    while (i < t->n && (strcmp(t->row[i].layer, layer) || (t->by_kind && t->row[i].kind != s->kind))) i++;
    if (i == MOST_ROWS) return;
    if (i == t->n) {
        t->row[t->n] = (ag_memory_row){ .kind = s->kind };
        memcpy(t->row[t->n++].layer, layer, sizeof layer);
    }
    t->row[i].bytes += s->bytes;
    t->large += s->bytes;
}

static int by_size(const void *a, const void *b)
{
    const int64_t x = ((const ag_memory_row *)a)->bytes, y = ((const ag_memory_row *)b)->bytes;
    return (x < y) - (x > y);
}

static void fill(table *t, ag_device device, bool by_kind)
{
    t->by_kind = by_kind;
    ag_storage_each(device, add, t);
    qsort(t->row, (size_t)t->n, sizeof *t->row, by_size);
}

int ag_memory_largest(ag_device device, ag_memory_row *row, int n)
{
    table t = { .n = 0 };
    fill(&t, device, true);
    if (t.n < n) n = t.n;
    memcpy(row, t.row, (size_t)n * sizeof *row);
    return n;
}

static double mb(int64_t bytes) { return (double)bytes / 1e6; }

static void report_holders(FILE *to, ag_device device, const ag_memory_stats *s)
{
    table t = { .n = 0 };
    for (int k = 0; k < AG_MEM_KINDS; k++)
        if (s->by_kind[k]) fprintf(to, "  %-40s %10.1f MB\n", ag_memory_kind_name((ag_mem_kind)k), mb(s->by_kind[k]));
    fill(&t, device, false);
    if (t.n) fprintf(to, "by module:\n");
    int64_t rest = s->in_use;
    for (int i = 0; i < t.n && i < SHOWN; i++) {
        fprintf(to, "  %-40s %10.1f MB\n", *t.row[i].layer ? t.row[i].layer : "(outside)", mb(t.row[i].bytes));
        rest -= t.row[i].bytes;
    }
    if (t.n && rest > 0) fprintf(to, "  %-40s %10.1f MB\n", "(others)", mb(rest));
}

static void report_gpu(FILE *to)
{
    const ag_memory_stats s = ag_memory(AG_CUDA);
    ag_device_memory m = { 0 };
    ag_device_table(AG_CUDA)->memory(&m);
    fprintf(to, "gpu: %.1f MB in use, %.1f MB kept for reuse, %.1f MB free of %.1f MB; other processes and the driver %.1f MB\n",
            mb(m.in_use), mb(m.cached), mb(m.free), mb(m.total), mb(m.total - m.free - m.in_use - m.cached));
    fprintf(to, "peak: %.1f MB\n", mb(m.peak));
    report_holders(to, AG_CUDA, &s);
    ag_device_process p[SHOWN];
    const int n = ag_device_processes(AG_CUDA, p, SHOWN);
    for (int i = 0; i < n; i++) {
        fprintf(to, "process %" PRId64 "%s%s%s uses ", p[i].pid, *p[i].name ? " (" : "", p[i].name, *p[i].name ? ")" : "");
        if (p[i].bytes < 0) fprintf(to, "GPU memory, how much the driver does not say\n");
        else fprintf(to, "%.1f MB GPU memory\n", mb(p[i].bytes));
    }
}

void ag_memory_report(FILE *to)
{
    const ag_memory_stats s = ag_memory(AG_CPU);
    const int64_t budget = ag_memory_budget(AG_CPU);
    if (ag_default_device() == AG_CUDA) report_gpu(to);
    fprintf(to, "cpu: %.1f MB in use, %.1f MB kept for reuse, %.1f MB free of %.1f MB; %" PRId64 " tensors, %" PRId64 " nodes\n",
            mb(s.in_use), mb(s.cached), mb(budget > s.held ? budget - s.held : 0), mb(budget), s.tensors, s.nodes);
    fprintf(to, "peak: %.1f MB%s%s%s\n", mb(s.peak), *s.peak_where ? " in " : "", s.peak_where,
            s.peak_in_backward ? ", backward" : "");
    report_holders(to, AG_CPU, &s);
    fprintf(to, "process %d uses %.1f MB resident memory\n", (int)getpid(), mb(ag_resident_memory()));
}
