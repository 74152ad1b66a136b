/* core/nearest.h - "did you mean": the closest of several names. */
#ifndef AG_NEAREST_H
#define AG_NEAREST_H
#include "core/base.h"
AG_BEGIN_DECLS

/* Edit distance without regard to case; insertions at the end of `typed` cost little, so that a beginning finds its
 * whole. (Levenshtein) */
double ag_edit_distance(const char *typed, const char *name);

AG_END_DECLS
#endif
