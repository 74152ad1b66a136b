#ifndef AG_WINDOW_H
#define AG_WINDOW_H
#include "core/base.h"

/* to[0 .. n) = or += from[0 .. n), elements of one dtype, f32 or bf16. */
void ag_move_run(ag_dtype type, bool add, int64_t n, char *to, const char *from);

#endif
