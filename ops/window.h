#ifndef AG_WINDOW_H
#define AG_WINDOW_H
#include "core/base.h"

/* to[0 .. n) = or += from[0 .. n), f32 or bf16. */
void ag_move_run(bool add, int64_t n, ag_dtype to_type, char *to, ag_dtype from_type, const char *from);

#endif
