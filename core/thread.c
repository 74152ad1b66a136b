/* core/thread.c - a team of threads that sleep when there is no work.
 *
 * T1  One job at a time: who finds the team busy, or asleep over too little work, does all parts of it alone. A result may
 *     depend on the cut, so the cut depends on the job and the number of threads, never on what the team does just then.
 *     A job inside a part is not cut.
 * T2  A thread without work looks for some for PATIENCE, then sleeps; so does the caller that waits for the last of them.
 *     The jobs of a training step follow each other within that time and cost no wake-up; where other processes want the
 *     cores little is lost, while a team that spins for long (OpenMP's default) waits for time slices at every join.
 * T3  A job is cut into as many parts as there are threads; who is awake takes the next one. A thread that gets no core
 *     holds nobody up: the caller does its part as well. */
#include "core/thread.h"
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include "core/tensor.h"

enum { MOST = 256, PART_BITS = 16, MOST_PARTS = (1 << PART_BITS) - 1 };
enum { PATIENCE = 60000 };      /* ns; about twice what falling asleep and waking take */
/* ns of work below which a second thread costs more than it saves, when it is asleep and when it is looking for work */
enum { WORTH_WAKING = 150000, WORTH_SHARING = 12000 };

typedef void (*piece_fn)(int64_t begin, int64_t end, void *arg);
typedef struct { piece_fn body; void *arg; int64_t n, grain, pieces, team; } job;

static struct {
    pthread_mutex_t busy, lock;
    pthread_cond_t start, done;
    job job;
    _Atomic uint64_t round, claim;      /* claim: the round and, in its low bits, the next part that nobody has begun */
    int workers;                        /* started so far */
    atomic_int pending, asleep;
} team = { .busy = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .start = PTHREAD_COND_INITIALIZER,
           .done = PTHREAD_COND_INITIALIZER };
static _Thread_local bool inside;
static _Thread_local int id;

static void run_part(const job *j, int64_t k)
{
    const int64_t begin = j->pieces * k / j->team * j->grain, end = j->pieces * (k + 1) / j->team * j->grain;
    if (begin < j->n) j->body(begin, end < j->n ? end : j->n, j->arg);
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void pause_briefly(void)
{
    for (int i = 0; i < 16; i++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#else
        __asm__ volatile("" ::: "memory");
#endif
    }
}

/* Does the parts of round `round` that nobody has begun. */
static void take_parts(const job *j, uint64_t round)
{
    uint64_t c = atomic_load(&team.claim);
    while (c >> PART_BITS == round && (int64_t)(c & MOST_PARTS) < j->team)
        if (atomic_compare_exchange_weak(&team.claim, &c, c + 1)) {
            run_part(j, (int64_t)(c & MOST_PARTS));
            if (atomic_fetch_sub(&team.pending, 1) == 1) {
                pthread_mutex_lock(&team.lock);
                pthread_cond_signal(&team.done);
                pthread_mutex_unlock(&team.lock);
            }
            c = atomic_load(&team.claim);
        }
}

static void *worker(void *p)
{
    uint64_t seen = 0;
    inside = true;
    id = (int)(intptr_t)p + 1;
    for (;;) {
        const int64_t tired = now() + PATIENCE;
        while (atomic_load_explicit(&team.round, memory_order_relaxed) == seen && now() < tired) pause_briefly();
        pthread_mutex_lock(&team.lock);
        while (team.round == seen) {
            atomic_fetch_add(&team.asleep, 1);
            pthread_cond_wait(&team.start, &team.lock);
            atomic_fetch_sub(&team.asleep, 1);
        }
        seen = team.round;
        const job j = team.job;
        pthread_mutex_unlock(&team.lock);
        if (id < ag_threads()) take_parts(&j, seen);      /* else ag_init asked for fewer meanwhile */
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
    const uint64_t round = team.round + 1;
    team.job = j;
    atomic_store(&team.pending, (int)j.team);
    atomic_store(&team.claim, round << PART_BITS);
    atomic_store(&team.round, round);
    pthread_cond_broadcast(&team.start);
    pthread_mutex_unlock(&team.lock);
    take_parts(&j, round);
    const int64_t tired = now() + PATIENCE;
    while (atomic_load(&team.pending) && now() < tired) pause_briefly();
    pthread_mutex_lock(&team.lock);
    while (atomic_load(&team.pending)) pthread_cond_wait(&team.done, &team.lock);
    pthread_mutex_unlock(&team.lock);
    inside = false;
}

static bool is_awake(void)
{
    return team.workers && !atomic_load_explicit(&team.asleep, memory_order_relaxed);
}

static void run_alone(const job *j)
{
    inside = true;
    for (int64_t k = 0; k < j->team; k++) run_part(j, k);
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
    const double work = (double)n * cost;
    if (j.team < 2 || inside || work < WORTH_SHARING) {
        body(0, n, arg);
        return;
    }
    if ((work < WORTH_WAKING && !is_awake()) || pthread_mutex_trylock(&team.busy)) {
        run_alone(&j);
        return;
    }
    j.team = start_workers(j.team - 1) + 1;
    run_together(j);
    pthread_mutex_unlock(&team.busy);
}
