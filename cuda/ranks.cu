/* cuda/ranks.cu - NCCL between the GPUs of several ranks.
 *
 * One communicator serves two streams: the main one, for sums that the next kernel needs (batch norm), and one beside it for
 * gradients, tied to the main one by events. NCCL runs its calls in the order they were made in.
 * A rank that dies is noticed by the launcher, which ends the others. Where the network between machines fails, NCCL knows: a
 * thread asks it, and lets those that wait for ever go on into an error. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "core/io.h"
#include "core/ranks.h"
#include "cuda/device.h"
#include "cuda/nccl.h"
#include "cuda/ranks.h"
#if !defined(AG_EMULATE) && __has_include(<nccl.h>)
#include <nccl.h>
#define SAME(ours, theirs) static_assert((int)ours == (int)theirs, #theirs)
SAME(AG_NCCL_SUCCESS, ncclSuccess);
SAME(AG_NCCL_IN_PROGRESS, ncclInProgress);
SAME(AG_NCCL_F32, ncclFloat32);
SAME(AG_NCCL_F64, ncclFloat64);
SAME(AG_NCCL_SUM, ncclSum);
SAME(AG_NCCL_MEAN, ncclAvg);
static_assert(sizeof(ag_nccl_id) == sizeof(ncclUniqueId), "NCCL's id");
#endif

#ifdef AG_EMULATE
#define LOAD ag_emulate_nccl_load
#else
#define LOAD ag_nccl_load
#endif

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;       /* one call of NCCL at a time */
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static struct {
    bool asked, works, ended, gave_up;
    ag_nccl_functions f;
    ag_nccl_comm comm;
    cudaStream_t beside;
    cudaEvent_t here, there;                /* of the main stream, of the one beside it */
    double *host;                           /* without NCCL: what passes through */
    int64_t room;
    pthread_t watcher;
    char why[256];                          /* NCCL gave up */
} R;

/* ---- whether all can ----------------------------------------------------------------------------------- */

/* This rank's GPU among those of all machines: a hash that a double holds. */
static double place(void)
{
    char machine[128] = "", bus[32] = "";
    uint64_t h = 14695981039346656037ull;           /* FNV-1a */
    ag_read_small("/proc/sys/kernel/random/boot_id", machine, sizeof machine);
    ag_cuda_bus(bus, sizeof bus);
    for (const char *c = machine; *c; c++) h = (h ^ (unsigned char)*c) * 1099511628211ull;
    for (const char *c = bus; *c; c++) h = (h ^ (unsigned char)*c) * 1099511628211ull;
    return (double)(h >> 12);
}

/* A rank without NCCL, of another version, or with another's GPU: all go through the host. Every rank comes to the same end. */
static bool agree(int version, char *why, size_t size)
{
    const int n = ag_ranks(), me = ag_rank();
    double *all = (double *)ag_alloc(2 * n, sizeof *all), *versions = all, *places = all + n;
    bool can = true;
    versions[me] = version, places[me] = place();
    ag_ranks_sum(all, 2 * n);
    for (int i = 0; i < n && can; i++) {
        can = versions[i] == versions[0] && versions[i] > 0;
        if (!can && versions[0] > 0)
            snprintf(why, size, versions[i] > 0 ? "NCCL of rank %d is of another version (%d) than rank 0's (%d)"
                                                : "rank %d has no NCCL that fits", i, (int)versions[i], (int)versions[0]);
        for (int k = 0; k < i && can; k++) {
            can = places[i] != places[k];
            if (!can)
                snprintf(why, size, "ranks %d and %d share a GPU, which NCCL refuses; start one rank for each GPU", k, i);
        }
    }
    ag_free(all);
    return can;
}

static bool connect(char *why, size_t size)
{
    ag_nccl_id id = {};
    int status = ag_rank() ? AG_NCCL_SUCCESS : R.f.id(&id);
    double failed = status != AG_NCCL_SUCCESS;
    ag_ranks_largest(&failed, 1);
    if (failed == 0) {
        ag_ranks_broadcast(&id, sizeof id);
        status = R.f.init(&R.comm, ag_ranks(), id, ag_rank());
        failed = status != AG_NCCL_SUCCESS;
        ag_ranks_largest(&failed, 1);
    }
    if (failed == 0) return true;
    if (status == AG_NCCL_SUCCESS) snprintf(why, size, "NCCL does not start on another rank");
    else snprintf(why, size, "NCCL does not start: %s; %s", R.f.words(status), R.f.last_error(nullptr));
    if (R.comm) R.f.abort(R.comm);
    R.comm = nullptr;
    return false;
}

/* ---- the watcher --------------------------------------------------------------------------------------- */

static void *watch(void *)
{
    enum { PERIOD = 200000000 };            /* nanoseconds */
    pthread_mutex_lock(&lock);
    while (!R.ended && !R.gave_up) {
        timespec until;
        int status = AG_NCCL_SUCCESS;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += PERIOD;
        if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
        pthread_cond_timedwait(&wake, &lock, &until);
        if (R.ended) break;
        const int asked = R.f.async_error(R.comm, &status);
        if (asked) status = asked;
        if (status == AG_NCCL_SUCCESS || status == AG_NCCL_IN_PROGRESS) continue;
        snprintf(R.why, sizeof R.why, "%s; %s", R.f.words(status), R.f.last_error(R.comm));
        __atomic_store_n(&R.gave_up, true, __ATOMIC_RELEASE);
        R.f.abort(R.comm);
    }
    pthread_mutex_unlock(&lock);
    return nullptr;
}

/* Before NCCL and the runtime end. */
static void end(void)
{
    pthread_mutex_lock(&lock);
    R.ended = true;
    pthread_cond_signal(&wake);
    pthread_mutex_unlock(&lock);
    pthread_join(R.watcher, nullptr);
}

static void make_event(cudaEvent_t *e)
{
    if (!*e) ag_cuda_check(cudaEventCreateWithFlags(e, cudaEventDisableTiming), "making an event for the ranks");
}

static void make_streams(void)
{
    if (!R.beside)
        ag_cuda_check(cudaStreamCreateWithFlags(&R.beside, cudaStreamNonBlocking), "making a stream for the ranks");
    make_event(&R.here);
    make_event(&R.there);
}

static void begin_watch(void)
{
    if (pthread_create(&R.watcher, nullptr, watch, nullptr)) ag_fail(nullptr, "no thread can be made to watch over NCCL");
    atexit(end);
}

bool ag_cuda_ranks_ready(void)
{
    char why[512] = "";
    if (R.asked) return R.works;
    make_streams();
    R.works = agree(LOAD(&R.f, why, sizeof why), why, sizeof why) && connect(why, sizeof why);
    R.asked = true;
    if (R.works) begin_watch();
    else if (!ag_rank()) fprintf(stderr, "sums over %d ranks go through the host: %s\n", ag_ranks(), why);
    return R.works;
}

/* ---- sums ---------------------------------------------------------------------------------------------- */

void ag_cuda_ranks_check(void)
{
    if (__atomic_load_n(&R.gave_up, __ATOMIC_ACQUIRE))
        ag_fail(nullptr, "cuda: NCCL gave up: %s. Another rank has ended or cannot be reached; what the GPUs were summing is of "
                "no use. Go on from the last checkpoint", R.why);
}

static void all_reduce(void *v, int64_t n, int type, int op, cudaStream_t stream)
{
    if (!n) return;
    pthread_mutex_lock(&lock);
    const int status = R.gave_up ? AG_NCCL_SUCCESS : R.f.all_reduce(v, v, (size_t)n, type, op, R.comm, stream);
    pthread_mutex_unlock(&lock);
    ag_cuda_ranks_check();
    if (status == AG_NCCL_SUCCESS || status == AG_NCCL_IN_PROGRESS) return;
    ag_cuda_check_lost("summing over the ranks");
    ag_fail(nullptr, "cuda: summing over the ranks: NCCL: %s; %s", R.f.words(status), R.f.last_error(R.comm));
}

void ag_cuda_ranks_sum(double *v, int64_t n)
{
    if (ag_planning()) return;              /* one rank's own affair */
    if (ag_cuda_ranks_ready()) return all_reduce(v, n, AG_NCCL_F64, AG_NCCL_SUM, ag_cuda_stream());
    if (n > R.room) R.host = (double *)ag_realloc(R.host, n, sizeof *R.host), R.room = n;
    ag_cuda_device.copy_out(R.host, v, (size_t)n * sizeof *v);
    ag_ranks_sum(R.host, n);
    ag_cuda_device.copy_in(v, R.host, (size_t)n * sizeof *v);
}

void ag_cuda_ranks_start_mean(float *v, int64_t n)
{
    ag_cuda_check(cudaEventRecord(R.here, ag_cuda_stream()), "an event before the ranks' means");
    ag_cuda_check(cudaStreamWaitEvent(R.beside, R.here, 0), "waiting for gradients");
    all_reduce(v, n, AG_NCCL_F32, AG_NCCL_MEAN, R.beside);
}

void ag_cuda_ranks_join(void)
{
    ag_cuda_check(cudaEventRecord(R.there, R.beside), "an event behind the ranks' means");
    ag_cuda_check(cudaStreamWaitEvent(ag_cuda_stream(), R.there, 0), "waiting for the ranks' means");
}
