/* cuda/emulate_inside.h - what the files of the emulation share: emulate.cpp runs kernels, emulate_memory.cpp has the
 * device's memory, emulate_runtime.cpp stands for the runtime and the driver, emulate_blas.cpp for cuBLASLt. */
#ifndef AG_EMULATE_INSIDE_H
#define AG_EMULATE_INSIDE_H
#include "cuda/emulate.h"
#include <string>

enum { AG_EMULATE_GUARD = 256, AG_EMULATE_POISON = 0xFF };      /* 0xFF: NaN as f32 and bf16, -1 as an integer */

/* Under the address sanitizer guards are closed to it as well: a kernel that reads them is found where it does. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
static const bool AG_EMULATE_SANITIZED = true;
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
static inline void __sanitizer_start_switch_fiber(void **, const void *, size_t) { }
static inline void __sanitizer_finish_switch_fiber(void *, const void **, size_t *) { }
static const bool AG_EMULATE_SANITIZED = false;
#endif

static inline bool ag_emulate_intact(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != (char)AG_EMULATE_POISON) return false;
    return true;
}

/* Of the last kernel that failed, till ag_emulate_error forgets it. */
bool ag_emulate_failed(void);
bool ag_emulate_is_dry(void);
const char *ag_emulate_failure(void);

/* ---- memory; the caller holds the runtime's lock -------------------------------------------------------- */
static const size_t AG_EMULATE_TOTAL = (size_t)1 << 30;
void *ag_emulate_take(size_t bytes);            /* nullptr: the device is full */
bool ag_emulate_give(void *p);
size_t ag_emulate_held(void);
bool ag_emulate_is_device(const void *p);
/* While one lives the device works, and its memory is open. */
struct ag_emulate_at_work {
    ag_emulate_at_work();
    ~ag_emulate_at_work();
};
/* "behind an allocation of 12 bytes", where a guard was written to; it is whole again afterwards. */
std::string ag_emulate_check_guards(void);

#endif
