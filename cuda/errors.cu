/* cuda/errors.cu - what the driver reports, and whether the GPU can go on after it.
 *
 * Most errors are of one call. After some (an address that does not exist, an ECC error, a GPU that fell off the bus) every
 * further call of the process says the same, and what was in the GPU's memory cannot be read any more. */
#include <stdio.h>
#include "cuda/device.h"

/* Asked twice: one more call that fails by itself is no loss; nor is what may not be asked while a graph is made (900 on). */
static bool stays(void)
{
    size_t idle, total;
    for (int k = 0; k < 2; k++) {
        const int e = (int)cudaMemGetInfo(&idle, &total);
        if (e == cudaSuccess || (e >= cudaErrorStreamCaptureUnsupported && e < cudaErrorUnknown)) return false;
    }
    return true;
}

void ag_cuda_check(cudaError_t e, const char *what)
{
    if (e == cudaSuccess) return;
    char words[256], advice[1024];
    snprintf(words, sizeof words, "%s", cudaGetErrorString(e));
    cudaGetLastError();                     /* the runtime remembers an error until it is asked */
    if (!stays()) ag_fail(nullptr, "cuda: %s: %s", what, words);
    ag_device_advice(advice, sizeof advice);
    ag_fail(nullptr, "cuda: %s: %s.\nThe GPU is lost to this process, and what was in its memory with it; the next process can "
            "use it again unless it is broken (dmesg, under Xid, and nvidia-smi say so; of a kernel at fault compute-sanitizer "
            "says which).%s%s", what, words, *advice ? "\n" : "", advice);
}

void ag_cuda_check_lost(const char *what)
{
    size_t idle, total;
    if (stays()) ag_cuda_check(cudaMemGetInfo(&idle, &total), what);
}
