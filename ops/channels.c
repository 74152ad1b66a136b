#include "ops/channels.h"

void ag_node_require_channels(const ag_node *n, const ag_tensor *t, const char *name, int64_t channels)
{
    if (!t) return;
    ag_node_require_real(n, t, name);
    AG_REQUIRE(n, t->ndim == 1 && t->shape[0] == channels, "%s must be [%" PRId64 "], the last axis of x", name,
               channels);
}

const real *ag_channels_or(const ag_node *n, const ag_tensor *t, real value, int64_t channels)
{
    if (t) return ag_real(t);
    real *all = ag_workspace(n, channels, sizeof *all);
    for (int64_t i = 0; i < channels; i++) all[i] = value;
    return all;
}

void ag_give_channels(ag_node *n, int k, const double *sums)
{
    if (!n->din[k]) return;
    real *d = ag_real(n->din[k]);
    for (int64_t i = 0; i < n->din[k]->shape[0]; i++) d[i] = (n->accumulate[k] ? d[i] : 0) + (real)sums[i];
}
