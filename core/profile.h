/* core/profile.h - AG_PROFILE=1 in the environment: one table at the end of the program, to stderr, of where its time went:
 * per op, pass and layer the calls, milliseconds, share, GFLOP/s and GB/s. Ops are timed by the engine; other work that
 * should stand in the table reports itself:
 *
 *     const double start = ag_profiling ? ag_profile_now() : 0;
 *     ... the step ...
 *     if (ag_profiling) ag_profile_other("optimizer step", start, bytes);
 */
#ifndef AG_PROFILE_H
#define AG_PROFILE_H
#include "core/base.h"
AG_BEGIN_DECLS

extern bool ag_profiling;
/* While set, every op that this thread applies adds its floating point operations, those of forward. */
extern _Thread_local double *ag_flop_counter;
double ag_profile_now(void);                        /* seconds, monotonic */
/* what: a string constant; bytes: moved, 0 if unknown. */
void ag_profile_other(const char *what, double start, double bytes);

AG_END_DECLS
#endif
