#include "core/device.h"
#include <pthread.h>
#include <string.h>

int ag_cuda_wanted = -1;

static bool cpu_init(char *why, size_t size)
{
    (void)why, (void)size;
    return true;
}

static void cpu_copy(void *dst, const void *src, size_t bytes)
{
    memcpy(dst, src, bytes);
}

static void cpu_sync(void)
{
}

static const ag_device_ops cpu = {
    .name = "cpu", .init = cpu_init, .copy_in = cpu_copy, .copy_out = cpu_copy, .copy = cpu_copy, .sync = cpu_sync,
};

static struct {
    pthread_once_t once;
    bool works;
    char why[512];
} cuda = { .once = PTHREAD_ONCE_INIT };

static void cuda_init(void)
{
    cuda.works = ag_cuda_device.init(cuda.why, sizeof cuda.why);
}

bool ag_cuda_available(char *why, size_t size)
{
    pthread_once(&cuda.once, cuda_init);
    if (!cuda.works && why && size) {
        strncpy(why, cuda.why, size - 1);
        why[size - 1] = 0;
    }
    return cuda.works;
}

const ag_device_ops *ag_device_table(ag_device device)
{
    if (device == AG_CPU) return &cpu;
    if (device != AG_CUDA) ag_fail(NULL, "device %s has no memory, only shapes", ag_device_name(device));
    if (!ag_cuda_available(NULL, 0)) ag_fail(NULL, "device cuda cannot be used: %s", cuda.why);
    return &ag_cuda_device;
}

int ag_device_processes(ag_device device, ag_device_process *p, int n)
{
    const ag_device_ops *d = ag_device_table(device);
    return d->processes ? d->processes(p, n) : 0;
}

/* ---- when it is lost ----------------------------------------------------------------------------------- */

static ag_memory_advice advice;

void ag_device_advise(ag_memory_advice a)
{
    advice = a;
}

void ag_device_advice(char *text, size_t size)
{
    if (size) *text = 0;
    if (advice.fn) advice.fn(advice.arg, text, size);
}
