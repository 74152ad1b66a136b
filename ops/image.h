/* ops/image.h - what the ops on images [N, H, W, C] share. */
#ifndef AG_IMAGE_H
#define AG_IMAGE_H
#include "core/bf16.h"
#include "core/op.h"

/* Fails unless t is f32 or bf16 [N, H, W, C] with pixels. */
static inline void ag_require_image(const ag_node *n, const ag_tensor *t, const char *name)
{
    if (t->dtype != AG_BF16) ag_node_require_real(n, t, name);
    AG_REQUIRE(n, t->ndim == 4, "%s must be images [N, H, W, C], got %d axes", name, t->ndim);
    AG_REQUIRE(n, t->shape[1] > 0 && t->shape[2] > 0 && t->shape[3] > 0, "%s has images of %" PRId64 " x %" PRId64
               " pixels with %" PRId64 " channels; none may be 0", name, t->shape[1], t->shape[2], t->shape[3]);
}

#endif
