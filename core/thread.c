/* core/thread.c - a team of threads that sleep between jobs.
 *
 * T1  One job at a time: who finds the team busy, or is part of it, does the work alone.
 * T2  Idle threads sleep; the caller spins briefly for the last of them. Where other processes want the cores this costs
 *     little, while a team that spins between jobs (OpenMP's default) waits for time slices at every join. */
#include "core/thread.h"
#include <pthread.h>
#include <stdatomic.h>
#include "core/tensor.h"

enum { MOST = 256, SPINS = 2000 };
/* ns of work below which waking a thread costs more than it saves */
enum { WORTH_WAKING = 150000 };

typedef void (*piece_fn)(int64_t begin, int64_t end, void *arg);
typedef struct { piece_fn body; void *arg; int64_t n, grain, pieces, team; } job;

static struct {
    pthread_mutex_t busy, lock;
    pthread_cond_t start, done;
    job job;
    uint64_t round;
    int workers;                        /* started so far; worker k does part k + 1 */
    atomic_int pending;
} team = { .busy = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .start = PTHREAD_COND_INITIALIZER,
           .done = PTHREAD_COND_INITIALIZER };
static _Thread_local bool inside;
static _Thread_local int id;

static void run_part(const job *j, int64_t k)
{
    const int64_t begin = j->pieces * k / j->team * j->grain, end = j->pieces * (k + 1) / j->team * j->grain;
    if (begin < j->n) j->body(begin, end < j->n ? end : j->n, j->arg);
}

static void *worker(void *p)
{
    const int64_t part = (int64_t)(intptr_t)p + 1;
    uint64_t seen = 0;
    inside = true;
    id = (int)part;
    for (;;) {
        pthread_mutex_lock(&team.lock);
        while (team.round == seen || part >= team.job.team) {
            seen = team.round;
            pthread_cond_wait(&team.start, &team.lock);
        }
        seen = team.round;
        const job j = team.job;
        pthread_mutex_unlock(&team.lock);
        run_part(&j, part);
        if (atomic_fetch_sub(&team.pending, 1) > 1) continue;
        pthread_mutex_lock(&team.lock);
        pthread_cond_signal(&team.done);
        pthread_mutex_unlock(&team.lock);
    }
    return NULL;
}

/* As many as there can be; fewer than asked for is no error. */
static int64_t start_workers(int64_t wanted)
{
    while (team.workers < wanted && team.workers < MOST) {
        pthread_t t;
        if (pthread_create(&t, NULL, worker, (void *)(intptr_t)team.workers)) break;
        pthread_detach(t);
        team.workers++;
    }
    return team.workers < wanted ? team.workers : wanted;
}

static void run_together(job j)
{
    inside = true;
    pthread_mutex_lock(&team.lock);
    team.job = j;
    team.round++;
    atomic_store(&team.pending, (int)j.team - 1);
    pthread_cond_broadcast(&team.start);
    pthread_mutex_unlock(&team.lock);
    run_part(&j, 0);
    for (int i = 0; i < SPINS && atomic_load(&team.pending); i++) __asm__ volatile("" ::: "memory");
    pthread_mutex_lock(&team.lock);
    while (atomic_load(&team.pending)) pthread_cond_wait(&team.done, &team.lock);
    team.job.team = 0;
    pthread_mutex_unlock(&team.lock);
    inside = false;
}

int ag_thread_id(void)
{
    return id;
}

void ag_parallel(int64_t n, int64_t grain, double cost, piece_fn body, void *arg)
{
    if (n <= 0) return;
    job j = { body, arg, n, grain, (n + grain - 1) / grain, ag_threads() };
    if (j.team > j.pieces) j.team = j.pieces;
    if (j.team < 2 || (double)n * cost < WORTH_WAKING || inside || pthread_mutex_trylock(&team.busy)) {
        body(0, n, arg);
        return;
    }
    j.team = start_workers(j.team - 1) + 1;
    run_together(j);
    pthread_mutex_unlock(&team.busy);
}
