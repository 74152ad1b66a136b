/* core/ranks.c - MPI, or its absence. */
#include "core/ranks.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#ifdef AG_HAVE_MPI
#include <mpi.h>
#endif

int ag_rank_ = 0, ag_ranks_ = 1;

/* What the launchers tell their processes: Open MPI, MPICH and Intel MPI, Slurm's PMI. */
static int told(const char *const *names)
{
    for (; *names; names++) {
        const char *text = getenv(*names);
        if (text && *text) return atoi(text);
    }
    return -1;
}

static int told_ranks(void)
{
    static const char *const names[] = { "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", NULL };
    return told(names);
}

static int told_rank(void)
{
    static const char *const names[] = { "OMPI_COMM_WORLD_RANK", "PMI_RANK", NULL };
    return told(names);
}

int ag_ranks_local(void)
{
    static const char *const names[] = { "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID", NULL };
    const int rank = told_ranks() > 1 ? told(names) : 0;
    return rank > 0 ? rank : 0;
}

void ag_ranks_before_message(char *prefix, size_t size)
{
    const int rank = ag_ranks_ > 1 ? ag_rank_ : told_ranks() > 1 ? told_rank() : -1;
    if (rank > 0) nanosleep(&(struct timespec){ .tv_sec = 3 }, NULL);
    if (rank >= 0) snprintf(prefix, size, "rank %d: ", rank);
    else *prefix = 0;
}

#ifdef AG_HAVE_MPI

static MPI_Request pending[AG_RANKS_PENDING];
static int n_pending;
#define REAL (sizeof(real) == sizeof(double) ? MPI_DOUBLE : MPI_FLOAT)
static const int64_t most = 1 << 30;            /* elements in one call */

static void end(void)
{
    int over;
    MPI_Finalized(&over);
    if (!over) MPI_Finalize();
}

/* The others' words and files go nowhere. */
static void be_silent(void)
{
    fflush(stdout);
    if (!freopen("/dev/null", "w", stdout)) setvbuf(stdout, NULL, _IOFBF, 0);
}

void ag_ranks_begin(const char *at)
{
    int ready, level;
    if (told_ranks() < 2) return;
    MPI_Initialized(&ready);
    if (!ready && MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level)) ag_fail(at, "ag_init: MPI does not start");
    MPI_Comm_rank(MPI_COMM_WORLD, &ag_rank_);
    MPI_Comm_size(MPI_COMM_WORLD, &ag_ranks_);
    if (!ready) atexit(end);
    if (ag_rank_) be_silent();
}

void ag_ranks_give_up(int status)
{
    if (ag_ranks_ > 1) MPI_Abort(MPI_COMM_WORLD, status);
    exit(status);
}

static void reduce(void *v, int64_t n, MPI_Datatype type, MPI_Op op, size_t size)
{
    if (ag_ranks_ < 2) return;
    for (int64_t i = 0; i < n; i += most) {
        const int count = (int)(n - i < most ? n - i : most);
        MPI_Allreduce(MPI_IN_PLACE, (char *)v + (size_t)i * size, count, type, op, MPI_COMM_WORLD);
    }
}

void ag_ranks_sum(double *v, int64_t n) { reduce(v, n, MPI_DOUBLE, MPI_SUM, sizeof *v); }
void ag_ranks_largest(double *v, int64_t n) { reduce(v, n, MPI_DOUBLE, MPI_MAX, sizeof *v); }
void ag_ranks_sum_real(real *v, int64_t n) { reduce(v, n, REAL, MPI_SUM, sizeof *v); }

void ag_ranks_broadcast(void *v, int64_t bytes)
{
    for (int64_t i = 0; ag_ranks_ > 1 && i < bytes; i += most)
        MPI_Bcast((char *)v + i, (int)(bytes - i < most ? bytes - i : most), MPI_BYTE, 0, MPI_COMM_WORLD);
}

void ag_ranks_barrier(void)
{
    if (ag_ranks_ > 1) MPI_Barrier(MPI_COMM_WORLD);
}

void ag_ranks_start_sum(real *v, int64_t n)
{
    if (ag_ranks_ < 2) return;
    if (n_pending == AG_RANKS_PENDING) ag_ranks_wait();
    MPI_Iallreduce(MPI_IN_PLACE, v, (int)n, REAL, MPI_SUM, MPI_COMM_WORLD, &pending[n_pending++]);
}

void ag_ranks_poll(void)
{
    int done;
    if (n_pending) MPI_Testall(n_pending, pending, &done, MPI_STATUSES_IGNORE);
}

void ag_ranks_wait(void)
{
    if (n_pending) MPI_Waitall(n_pending, pending, MPI_STATUSES_IGNORE);
    n_pending = 0;
}

bool ag_ranks_pending(void)
{
    return n_pending > 0;
}

#else

void ag_ranks_begin(const char *at)
{
    if (told_ranks() < 2) return;
    ag_fail(at, "this program was started as one of %d by mpirun, but its build has no MPI: install libopenmpi-dev, make again",
            told_ranks());
}

void ag_ranks_give_up(int status) { exit(status); }
void ag_ranks_sum(double *v, int64_t n) { (void)v, (void)n; }
void ag_ranks_largest(double *v, int64_t n) { (void)v, (void)n; }
void ag_ranks_sum_real(real *v, int64_t n) { (void)v, (void)n; }
void ag_ranks_broadcast(void *v, int64_t bytes) { (void)v, (void)bytes; }
void ag_ranks_barrier(void) {}
void ag_ranks_start_sum(real *v, int64_t n) { (void)v, (void)n; }
void ag_ranks_poll(void) {}
void ag_ranks_wait(void) {}
bool ag_ranks_pending(void) { return false; }

#endif
