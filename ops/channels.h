/* ops/channels.h - parameters with one value per channel, weight [C], bias [C]: what the norms share. */
#ifndef AG_CHANNELS_H
#define AG_CHANNELS_H
#include "core/op.h"

/* For infer: t is f32 [channels], or NULL. */
void ag_node_require_channels(const ag_node *n, const ag_tensor *t, const char *name, int64_t channels);
/* The values of t, or `value` for every channel in workspace of n. */
const real *ag_channels_or(const ag_node *n, const ag_tensor *t, real value, int64_t channels);
/* Whether in[k] is there and trained. */
static inline bool ag_node_trained(const ag_node *n, int k) { return n->in[k] && n->in[k]->requires_grad; }
/* For backward: din[k], where wanted, = or += sums[0 .. C). */
void ag_give_channels(ag_node *n, int k, const double *sums);

#endif
