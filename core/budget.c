/* core/budget.c - how much memory tensors may hold: AG_MEMORY_LIMIT or ag_memory_limit, and what the cgroup or the machine
 * leaves beside the rest of this process. */
#include "core/budget.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/device.h"
#include "core/engine.h"
#include "core/io.h"

static atomic_llong own = INT64_MAX;            /* asked for by the user */
static int64_t machine;                         /* physical, or the cgroup's */
static const char *machine_name;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Thread_local ag_memory_advice advice;
static _Thread_local bool telling;              /* a message is being written, which takes a little memory itself */

int64_t ag_physical_memory(void)
{
    return (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
}

int64_t ag_parse_bytes(const char *s)
{
    char *end;
    const double n = strtod(s, &end);
    const char *suffix = *end ? strchr("KkMmGgTt", *end) : NULL;
    if (end == s || !(n > 0) || n > 1e15 || (*end && (!suffix || (end[1] && strcmp(end + 1, "B") && strcmp(end + 1, "iB")))))
        return -1;
    return (int64_t)(n * (double)((int64_t)1 << (suffix ? 10 * ((suffix - "KkMmGgTt") / 2 + 1) : 0)));
}

/* The smallest limit of the group and the groups around it, as far as they can be seen from here. */
static int64_t group_limit(const char *root, char *path, const char *file)
{
    char name[1024], text[64];
    int64_t least = INT64_MAX;
    for (;;) {
        snprintf(name, sizeof name, "%s%s/%s", root, strcmp(path, "/") ? path : "", file);
        if (ag_read_small(name, text, sizeof text) && atoll(text) > 0 && atoll(text) < least) least = atoll(text);
        char *slash = strrchr(path, '/');
        if (!slash || !*path) return least;
        *slash = 0;
    }
}

static int64_t cgroup_limit(void)
{
    char text[4096], *line, *rest = text;
    int64_t least = INT64_MAX;
    if (!ag_read_small("/proc/self/cgroup", text, sizeof text)) return least;
    while ((line = strsep(&rest, "\n"))) {
        char *path = strrchr(line, ':');
        if (!path++) continue;
        int64_t limit = INT64_MAX;
        if (!strncmp(line, "0::", 3)) limit = group_limit("/sys/fs/cgroup", path, "memory.max");
        else if (strstr(line, ":memory:")) limit = group_limit("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes");
        if (limit < least) least = limit;
    }
    return least;
}

static void read_machine(void)
{
    const int64_t group = cgroup_limit();
    machine = ag_physical_memory();
    machine_name = "this machine";
    if (group < machine) machine = group, machine_name = "this cgroup";
}

void ag_budget_read(void)
{
    static atomic_bool done;
    if (atomic_load_explicit(&done, memory_order_acquire)) return;
    pthread_once(&once, read_machine);
    const char *limit = getenv("AG_MEMORY_LIMIT");
    if (limit && *limit) {
        const int64_t bytes = ag_parse_bytes(limit);
        if (bytes < 0) ag_fail(NULL, "AG_MEMORY_LIMIT=%s is no size; write it as 8G, 512M or in bytes", limit);
        if (atomic_load(&own) == INT64_MAX) atomic_store(&own, bytes);
    }
    atomic_store_explicit(&done, true, memory_order_release);
}

void ag_memory_limit(int64_t bytes)
{
    atomic_store(&own, bytes > 0 ? bytes : INT64_MAX);
}

/* Of the machine's memory the rest of the process takes a part: code, libraries, the program's own. */
static int64_t budget(int64_t held)
{
    const int64_t others = ag_resident_memory() - held, left = machine - (others > 0 ? others : 0);
    return left < atomic_load(&own) ? left : atomic_load(&own);
}

bool ag_budget_allows(int64_t held, int64_t more)
{
    const int64_t most = atomic_load_explicit(&own, memory_order_relaxed);
    if (telling) return true;
    if (held + more > most) return false;
    return held + more < machine / 2 || held + more <= budget(held);
}

bool ag_budget_allows_cuda(int64_t more)
{
    const int64_t most = atomic_load_explicit(&own, memory_order_relaxed);
    if (telling || most == INT64_MAX) return true;      /* asking the driver takes a while */
    return ag_memory(AG_CUDA).in_use + more <= most;
}

static int64_t budget_of_cuda(const ag_device_memory *m)
{
    const int64_t most = m->free + m->in_use + m->cached, limit = atomic_load(&own);
    return most < limit ? most : limit;
}

int64_t ag_memory_budget(ag_device device)
{
    ag_budget_read();
    if (device != AG_CUDA) return budget(ag_memory(AG_CPU).held);
    ag_device_memory m = { 0 };
    ag_device_table(device)->memory(&m);
    return budget_of_cuda(&m);
}

/* ---- when it is not enough ----------------------------------------------------------------------------- */

void ag_memory_advise(ag_memory_advice a)
{
    advice = a;
}

typedef struct { char text[1024]; size_t used; } lines;

static void AG_PRINTF(2, 3) say(lines *l, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(l->text + l->used, sizeof l->text - l->used, fmt, args);
    va_end(args);
    l->used += n < 0 ? 0 : (size_t)n < sizeof l->text - l->used ? (size_t)n : sizeof l->text - l->used - 1;
}

static void ask(void *p)
{
    lines *l = p;
    const ag_memory_advice a = advice;
    char text[256] = "";
    advice = (ag_memory_advice){ 0 };           /* not asked again from within itself */
    if (a.fn) a.fn(a.arg, text, sizeof text);
    advice = a;
    if (*text) say(l, "\n%s", text);
}

static double mb(int64_t bytes) { return (double)bytes / 1e6; }

/* The largest of the other processes, by name. */
static void say_processes(lines *l)
{
    enum { SHOWN = 4 };
    ag_device_process p[SHOWN];
    const int n = ag_device_processes(AG_CUDA, p, SHOWN);
    const char *before = " (";
    for (int i = 0; i < n; i++) {
        if (p[i].pid == getpid() || p[i].bytes < 0) continue;
        say(l, "%s%s, process %" PRId64 ": %.1f MB", before, *p[i].name ? p[i].name : "unknown", p[i].pid, mb(p[i].bytes));
        before = "; ";
    }
    if (*before == ';') say(l, ")");
}

static void say_figures(lines *l, ag_device device, int64_t bytes)
{
    const ag_memory_stats s = ag_memory(device);
    const int64_t most = ag_memory_budget(device), limit = atomic_load(&own), held = device == AG_CUDA ? s.in_use : s.held;
    const char *whose = most == limit ? "the limit that was set" : device == AG_CUDA ? "the GPU" : machine_name;
    say(l, "%sout of memory: needed %.1f MB, %.1f MB free of %.1f MB (%s); tensors hold %.1f MB",
        device == AG_CUDA ? "GPU " : "", mb(bytes), mb(most > held ? most - held : 0), mb(most), whose, mb(held));
    if (device != AG_CUDA) return;
    ag_device_memory m = { 0 };
    ag_device_table(device)->memory(&m);
    const int64_t others = m.total - m.free - m.in_use - m.cached;
    if (others > 0) say(l, ", other processes and the driver %.1f MB of its %.1f MB", mb(others), mb(m.total));
    if (others > 0) say_processes(l);
}

void ag_out_of_memory(const char *at, ag_device device, int64_t bytes)
{
    ag_tensor_unborn_drop();
    enum { SHOWN = 3 };
    lines l = { .used = 0 };
    ag_memory_row row[SHOWN];
    const int n = ag_memory_largest(device, row, SHOWN);
    say_figures(&l, device, bytes);
    for (int i = 0; i < n; i++)
        say(&l, "%s%10.1f MB  %s%s%s", i ? "\n" : ", most of it:\n", mb(row[i].bytes), ag_memory_kind_name(row[i].kind),
            *row[i].layer ? " of " : "", row[i].layer);
    const size_t after = l.used;
    const ag_memory_advice a = advice;
    telling = true;
    if (ag_try(ask, &l)) advice = a;
    telling = false;
    if (l.used == after) say(&l, "\nA smaller batch with gradient accumulation needs less");
    ag_fail(at, "%s", l.text);
}
