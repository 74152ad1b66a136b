/* core/budget.h - how much memory tensors may hold, and what is said when it is not enough. Inside of core/. */
#ifndef AG_BUDGET_H
#define AG_BUDGET_H
#include "core/base.h"

void ag_budget_read(void);          /* AG_MEMORY_LIMIT and the cgroup's, once; fails on a limit that is no number */
/* Whether tensors that hold `held` bytes may hold `more`. Never fails. */
bool ag_budget_allows(int64_t held, int64_t more);
int64_t ag_physical_memory(void);
/* The same of the GPU, whose own limit is found when its memory is asked for. */
bool ag_budget_allows_cuda(int64_t more);
void ag_out_of_memory(const char *at, ag_device device, int64_t bytes) AG_NORETURN;

#endif
