/* core/ranks.h - several processes that learn as one: mpirun -n 4 build/paddy train ...
 *
 * Started by mpirun, ag_init joins the others. From then on rank 0 alone speaks and writes: the standard output of the
 * others goes nowhere, and so do the files they write. A rank that fails says its number and ends them all. Collective
 * calls must be made by all ranks in the same order; the learner (optim/learner.h), the optimizers and batch norm make
 * theirs. A build without MPI (libopenmpi-dev) fails when it is started as one of several.
 *
 * GPUs are given out one for each rank of a machine. Gradients and batch norm's sums then go from GPU to GPU by NCCL where it is
 * found, else through the host, as rank 0 says in one line.
 *
 * Ctrl-C in mpirun reaches the ranks as SIGTERM, which the learner takes as Ctrl-C: all save after the step they are in. Open MPI
 * kills them a second later; where saving takes longer, mpirun --mca odls_base_sigkill_timeout 60. What was saved before stays
 * whole either way. */
#ifndef AG_RANKS_H
#define AG_RANKS_H
#include "core/base.h"
AG_BEGIN_DECLS

/* Of this process, and how many there are: 0 and 1 where mpirun did not start it. */
#define ag_rank() ag_rank_
#define ag_ranks() ag_ranks_
extern int ag_rank_, ag_ranks_;
/* Its number among the ranks of this machine, as the launcher says; 0 where it does not. */
int ag_ranks_local(void);

/* By ag_init. */
void ag_ranks_begin(const char *at);
/* By a failure that ends the process: puts "rank 2: " before what is said where there are several; then ends all of them. Rank 0,
 * which mostly fails for the same reason, has the first word. */
void ag_ranks_before_message(char *prefix, size_t size);
void ag_ranks_give_up(int status) AG_NORETURN;

/* In place, over all ranks; nothing where there is one. The order of summation, and so every bit, is the same in every run
 * with this number of ranks. */
void ag_ranks_sum(double *v, int64_t n);
void ag_ranks_largest(double *v, int64_t n);
void ag_ranks_sum_real(real *v, int64_t n);
/* Rank 0's bytes to all. */
void ag_ranks_broadcast(void *v, int64_t bytes);
void ag_ranks_barrier(void);

/* Sums that go on while the caller computes: `v` is in use until ag_ranks_wait. Poll: MPI works while it is called. */
enum { AG_RANKS_PENDING = 256 };
void ag_ranks_start_sum(real *v, int64_t n);
void ag_ranks_poll(void);
void ag_ranks_wait(void);
bool ag_ranks_pending(void);        /* some of them may be in use */

AG_END_DECLS
#endif
