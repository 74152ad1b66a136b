/* bench.c - what a model costs: steps of training or inference on random images, timed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/io.h"
#include "core/profile.h"
#include "core/random.h"
#include "model.h"

enum { WARM_UP = 2, LEAST_STEPS = 5, MOST_STEPS = 1000 };
static const double TIME = 3;           /* seconds, unless --steps says how many */

typedef struct { nn_module *net; optim *opt; ag_tensor *x, *target; } job;

static void step(const options *o, const job *j)
{
    AG_SCOPE;
    if (!o->train) {
        NN_EVAL(j->net);
        PRECISION(o->precision);
        const ag_tensor *y = nn_call(j->net, j->x);
        (void)y;
        return;
    }
    ag_backward(loss_of(o, j->net, j->x, j->target));
    optim_step(j->opt);
}

static job make_job(const options *o)
{
    job j = { .net = make_model(o) };
    const int64_t classes = o->classes ? o->classes : 1000;
    if (o->train) j.opt = optim_adamw(j.net, 1e-4);
    j.x = ag_randn_(AG_HERE, batch_shape(o));
    int64_t *t = ag_alloc(o->batch, sizeof *t);
    for (int64_t i = 0; i < o->batch; i++) t[i] = i * 7919 % classes;
    j.target = ag_from(AG_I64, t, o->batch);
    ag_free(t);
    return j;
}

/* Of forward; backward counts as twice that. */
static double operations(const options *o, const job *j)
{
    options infer = *o;
    double n = 0;
    infer.train = false;
    ag_flop_counter = &n;
    step(&infer, j);
    ag_flop_counter = NULL;
    return o->train ? 3 * n : n;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of the steps, ascending; returns how many. */
static int time_steps(const options *o, const job *j, double *took)
{
    const double begin = seconds();
    int n = 0;
    while (n < MOST_STEPS && (o->steps ? n < o->steps : n < LEAST_STEPS || seconds() - begin < TIME)) {
        const double start = seconds();
        step(o, j);
        took[n++] = seconds() - start;
    }
    qsort(took, (size_t)n, sizeof *took, by_size);
    return n;
}

/* Of this program alone: what getrusage says begins with the process that started it. */
static int64_t most_resident(void)
{
    char text[4096];
    long kilobytes = 0;
    const char *line = ag_read_small("/proc/self/status", text, sizeof text) ? strstr(text, "VmHWM:") : NULL;
    return line && sscanf(line, "VmHWM: %ld", &kilobytes) == 1 ? kilobytes * INT64_C(1024) : 0;
}

static void row(const options *o, const char *key, double value, const char *unit, const char *what)
{
    if (o->tsv) printf("%s\t%.9g\t%s\n", key, value, unit);
    else if (!strcmp(unit, "bytes")) printf("%-28s %12.1f MB\n", what, value / 1e6);
    else printf("%-28s %12.*f %s\n", what, value < 10 ? 3 : value < 1000 ? 1 : 0, value, unit);
}

int bench(const options *o)
{
    static double took[MOST_STEPS];
    const int64_t before = ag_resident_memory();
    const job j = make_job(o);
    step(o, &j);
    const double first = seconds();
    for (int i = 1; i < WARM_UP; i++) step(o, &j);
    const int n = time_steps(o, &j, took);
    const double best = took[0], median = took[n / 2];
    const int64_t peak = ag_memory(AG_CPU).peak, resident = most_resident() - before;
    const double work = operations(o, &j);
    print_title(o);
    if (!o->tsv) printf("%d threads, best of %d steps\n", ag_threads(), n);
    row(o, "img_per_s", (double)o->batch / best, "img/s", "images per second");
    row(o, "ms", 1e3 * best, "ms", "a step");
    row(o, "ms_median", 1e3 * median, "ms", "a step, median");
    row(o, "gflops", 1e-9 * work / best, "GFLOP/s", "operations per second");
    row(o, "gflop_per_image", 1e-9 * work / (double)o->batch, "GFLOP", "operations for an image");
    row(o, "first_step_s", first, "s", "from start to first step");
    row(o, "peak_tensors", (double)peak, "bytes", "tensors, at the peak");
    row(o, "peak_planned", (double)plan_of(o, j.net, NULL).peak, "bytes", "as planned");
    row(o, "peak_resident", (double)resident, "bytes", "memory added to the process");
    row(o, "parameters", (double)nn_numel(j.net), "", "parameters");
    return 0;
}
