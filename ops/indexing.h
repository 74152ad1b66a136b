/* ops/indexing.h - what ops that read table rows by id share. */
#ifndef AG_INDEXING_H
#define AG_INDEXING_H
#include "core/op.h"

/* ids: i64, fails on another dtype. */
void ag_require_ids(const ag_node *n, const ag_tensor *ids, const char *name);

/* Fails unless ids[first + k step] for k < count are rows of a table; names the first that is not. CPU. */
void ag_check_ids(const ag_node *n, const ag_tensor *ids, int64_t first, int64_t step, int64_t count, int64_t rows,
                  const char *table);

/* Before rows of a table are read: a lazy optimizer brings them up to date (ag_tensor.before_read). */
static inline void ag_before_read(ag_tensor *table, const ag_tensor *ids, int column)
{
    if (table->before_read) table->before_read(table, ids, column, table->before_read_ctx);
}

#endif
