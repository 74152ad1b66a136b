#ifndef AG_RESIDUAL_H
#define AG_RESIDUAL_H
#include "core/base.h"

/* What the branch of a sample is multiplied with where a share p of the branches is dropped: 0 or 1 / (1 - p). */
real ag_drop_path_keep(double p, uint64_t key, int64_t sample);

#endif
