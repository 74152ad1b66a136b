/* ops/indexing.h - what ops that read table rows by id share. */
#ifndef AG_INDEXING_H
#define AG_INDEXING_H
#include "core/ledger.h"
#include "core/op.h"

/* ids: i64, fails on another dtype. */
void ag_require_ids(const ag_node *n, const ag_tensor *ids, const char *name);

/* Fails unless ids[first + k step] for k < count are rows of a table; names the first that is not. CPU. */
void ag_check_ids(const ag_node *n, const ag_tensor *ids, int64_t first, int64_t step, int64_t count, int64_t rows,
                  const char *table);

/* Before rows of a table are read: a lazy optimizer brings them up to date (ag_tensor.before_read). */
static inline void ag_before_read(int n, ag_tensor *const *table, const int *column, const ag_tensor *ids)
{
    enum { MOST = 4 };
    ag_tensor *has[MOST] = { NULL };
    int at[MOST], count = 0;
    for (int k = 0; k < n && !ag_planning(); k++)
        if (table[k] && table[k]->before_read) has[count] = table[k], at[count++] = column[k];
    if (count) has[0]->before_read(count, has, at, ids);
}

#endif
