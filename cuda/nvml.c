/* cuda/nvml.c - who holds the GPU's memory, by dlopen. */
#include "cuda/nvml.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/io.h"
#include "cuda/library.h"

enum { SUCCESS = 0, INSUFFICIENT_SIZE = 7 };
typedef struct nvml_device_ *nvml_device;
typedef struct {
    unsigned pid;
    unsigned long long bytes;           /* all ones where the driver does not know */
    unsigned instance, compute_instance;
} nvml_process;

static struct {
    int (*init)(void);
    int (*device_of)(const char *bus, nvml_device *device);
    int (*processes)(nvml_device device, unsigned *n, nvml_process *p);
    int (*name)(unsigned pid, char *text, unsigned size);
} F;
static bool works;

/* _v2 is of drivers before 510; its entries are the same. */
static void load(void)
{
    static const char *const sonames[] = { "libnvidia-ml.so.1", NULL };
    const ag_library_function wanted[] = { { "nvmlInit_v2", &F.init }, { "nvmlDeviceGetHandleByPciBusId_v2", &F.device_of },
                                           { "nvmlSystemGetProcessName", &F.name }, { NULL, NULL } };
    const ag_library_function now[] = { { "nvmlDeviceGetComputeRunningProcesses_v3", &F.processes }, { NULL, NULL } };
    const ag_library_function before[] = { { "nvmlDeviceGetComputeRunningProcesses_v2", &F.processes }, { NULL, NULL } };
    char why[256];
    void *library = ag_cuda_library(sonames);
    works = library && ag_library_functions(library, wanted, why, sizeof why) &&
            (ag_library_functions(library, now, why, sizeof why) || ag_library_functions(library, before, why, sizeof why)) &&
            F.init() == SUCCESS;
}

/* A path's last part; in a container, where the number belongs to a process outside, there is often none. */
static void name_of(unsigned pid, char *name, size_t size)
{
    char text[1024] = "", path[64];
    if (F.name(pid, text, sizeof text) != SUCCESS || !*text) {
        snprintf(path, sizeof path, "/proc/%u/comm", pid);
        if (!ag_read_small(path, text, sizeof text)) *text = 0;
    }
    text[sizeof text - 1] = 0;
    text[strcspn(text, " \n")] = 0;
    const char *slash = strrchr(text, '/');
    snprintf(name, size, "%.*s", (int)size - 1, slash ? slash + 1 : text);
}

static int by_size(const void *a, const void *b)
{
    const int64_t x = ((const ag_device_process *)a)->bytes, y = ((const ag_device_process *)b)->bytes;
    return (x < y) - (x > y);
}

static nvml_process *list(nvml_device device, unsigned *n)
{
    nvml_process *all = NULL;
    int status = INSUFFICIENT_SIZE;
    for (*n = 32; status == INSUFFICIENT_SIZE && *n < 1 << 16; *n += 32) {      /* they come and go meanwhile */
        unsigned room = *n;
        ag_free(all);
        all = ag_alloc(room, sizeof *all);
        status = F.processes(device, &room, all);
        if (status == SUCCESS) return *n = room, all;
        if (room > *n) *n = room;
    }
    ag_free(all);
    return NULL;
}

int ag_nvml_processes(const char *bus, ag_device_process *p, int n)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    nvml_device device;
    unsigned found;
    pthread_once(&once, load);
    if (!works || F.device_of(bus, &device) != SUCCESS) return 0;
    nvml_process *got = list(device, &found);
    if (!got) return 0;
    ag_device_process *all = ag_alloc(found + 1, sizeof *all);
    for (unsigned i = 0; i < found; i++) {
        all[i].pid = got[i].pid, all[i].bytes = got[i].bytes == ~0ull ? -1 : (int64_t)got[i].bytes;
        name_of(got[i].pid, all[i].name, sizeof all[i].name);
    }
    qsort(all, found, sizeof *all, by_size);
    if ((int64_t)found < n) n = (int)found;
    memcpy(p, all, (size_t)n * sizeof *p);
    ag_free(all);
    ag_free(got);
    return n;
}
