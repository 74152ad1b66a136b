/* ops/window.h - what ops/window.c shares: with attention in windows, and with cuda/window.cu. */
#ifndef AG_WINDOW_H
#define AG_WINDOW_H
#include "core/base.h"
AG_BEGIN_DECLS

typedef struct { int64_t size, shift, h, w; } ag_window_arg;        /* h, w: of the image that is put together */
typedef struct { int axis; int64_t shift; } ag_roll_arg;

/* to[0 .. n) = or += from[0 .. n), f32 or bf16. */
void ag_move_run(bool add, int64_t n, ag_dtype to_type, char *to, ag_dtype from_type, const char *from);

AG_END_DECLS
#endif
