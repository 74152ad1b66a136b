/* tests/fake_nvml.c - a libnvidia-ml.so.1 for tests/test_cuda_lost.c: one GPU, at the emulation's place of the bus, three
 * processes of which more begin while they are counted. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct process { unsigned pid; unsigned long long bytes; unsigned instance, compute_instance; };
int nvmlInit_v2(void);
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **device);
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *n, struct process *p);
int nvmlSystemGetProcessName(unsigned pid, char *text, unsigned size);

static int gpu;
int nvmlInit_v2(void) { return 0; }

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **device)
{
    *device = &gpu;
    return strcmp(bus, "00000000:01:00.0") ? 6 : 0;         /* not found */
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *n, struct process *p)
{
    const struct process all[] = { { 4000001, 100 << 20, 0, 0 }, { 4000002, ~0ull, 0, 0 },
                                   { (unsigned)getpid(), 200 << 20, 0, 0 }, { 4000003, 300 << 20, 0, 0 } };
    static int asked;
    if (device != &gpu) return 2;                           /* an invalid argument */
    if (!asked++ || *n < 4) return *n = 50, 7;              /* too little room */
    memcpy(p, all, sizeof all);
    return *n = 4, 0;
}

int nvmlSystemGetProcessName(unsigned pid, char *text, unsigned size)
{
    if (pid != 4000003) return 6;
    snprintf(text, size, "/usr/bin/python3 train.py");
    return 0;
}
