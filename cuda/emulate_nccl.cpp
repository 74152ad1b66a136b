/* cuda/emulate_nccl.cpp - in the place of NCCL in the emulation: sums over the ranks' "device" memory by MPI, when their streams
 * get there. It refuses what NCCL refuses, and can be absent, old, broken in the midst of work, or wait for ever. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <atomic>
#include "core/ranks.h"
#include "cuda/emulate_inside.h"
#include "cuda/nccl.h"

struct ag_nccl_comm_ { std::atomic<bool> aborted{ false }; };

namespace {

const int CUDA_ERROR = 1, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, REMOTE_ERROR = 6, FINE = AG_NCCL_SUCCESS;
std::atomic<bool> broken{ false };              /* asked by a thread beside the one that queues */
bool hurry;

int version(int *v) { return *v = 22809, FINE; }

int id(ag_nccl_id *to)
{
    memset(to->bytes, 0, sizeof to->bytes);
    snprintf(to->bytes, sizeof to->bytes, "emulated %d", (int)getpid());
    return ag_emulate_fails() ? SYSTEM_ERROR : FINE;
}

int init(ag_nccl_comm *c, int ranks, ag_nccl_id from, int rank)
{
    *c = nullptr;
    if (strncmp(from.bytes, "emulated ", 9) || ranks != ag_ranks() || rank != ag_rank()) return INVALID_ARGUMENT;
    if (ag_emulate_fails()) return SYSTEM_ERROR;
    *c = new ag_nccl_comm_;
    return FINE;
}

template <class T> void reduce(T *v, size_t n, int op, void (*sum)(T *, int64_t))
{
    sum(v, (int64_t)n);
    for (size_t i = 0; i < n && op == AG_NCCL_MEAN; i++) v[i] /= (T)ag_ranks();
}

int all_reduce(const void *from, void *to, size_t n, int type, int op, ag_nccl_comm c, void *stream)
{
    if (!c || c->aborted || from != to || (type != AG_NCCL_F32 && type != AG_NCCL_F64)) return INVALID_ARGUMENT;
    if (ag_emulate_fails()) return CUDA_ERROR;
    ag_emulate_queue((cudaStream_t)stream, [=] {
        while (broken && !c->aborted) usleep(1000);
        if (c->aborted) return;
        if (type == AG_NCCL_F32) reduce((real *)to, n, op, ag_ranks_sum_real);
        else reduce((double *)to, n, op, ag_ranks_sum);
    });
    if (hurry) cudaStreamSynchronize((cudaStream_t)stream);
    return FINE;
}

int async_error(ag_nccl_comm, int *status) { return *status = broken ? REMOTE_ERROR : FINE, AG_NCCL_SUCCESS; }
int abort_comm(ag_nccl_comm c) { return c->aborted = true, FINE; }

const char *words(int status)
{
    switch (status) {
    case CUDA_ERROR: return "unhandled cuda error";
    case SYSTEM_ERROR: return "unhandled system error";
    case REMOTE_ERROR: return "remote process exited or there was a network error";
    default: return "invalid argument";
    }
}

const char *last_error(ag_nccl_comm) { return broken ? "the emulated network was cut" : "a planted failure"; }

} // namespace

/* Whether sums are made as soon as their stream lets them, also where streams are lazy. */
extern "C" void ag_emulate_nccl_hurry(bool now) { hurry = now; }
extern "C" void ag_emulate_nccl_break(void) { broken = true; }

int ag_emulate_nccl_load(ag_nccl_functions *f, char *why, size_t size)
{
    const char *absent = getenv("AG_EMULATE_NO_NCCL");      /* a rank, or "all" */
    if (absent && (!strcmp(absent, "all") || atoi(absent) == ag_rank()))
        return snprintf(why, size, "NCCL is absent from the emulation"), 0;
    *f = { version, id, init, all_reduce, async_error, abort_comm, words, last_error };
    return 22809;
}
