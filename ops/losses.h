/* ops/losses.h - the losses between a prediction x and a target t of one shape, once for every device.
 *   LOSS(name, value, d value / d x, whether it depends on x - t alone, kind of the test's target)
 * In scope: x, t, d = x - t, w = the class's weight or 1, delta; functions as in ops/formulas.h. */
#ifndef AG_LOSSES_H
#define AG_LOSSES_H
#include "ops/formulas.h"
#include "ops/ops.h"

typedef struct { ag_reduction reduction; double delta; } ag_loss_arg;
enum { AG_LOSS_X, AG_LOSS_TARGET, AG_LOSS_WEIGHT, AG_LOSS_INPUTS };

/* (x - t)^2;  |x - t|;  d^2/2 inside delta, delta (|d| - delta/2) outside (F.huber_loss);
 * (1 - t) x + (1 + (w - 1) t) log(1 + exp(-x)), written so that nothing overflows */
#define AG_LOSSES(LOSS) \
    LOSS(mse_loss, d * d, 2 * d, true, "") \
    LOSS(l1_loss, FABS(d), (d > 0 ? R(1) : d < 0 ? R(-1) : 0), true, "") \
    LOSS(huber_loss, FABS(d) <= delta ? d * d / 2 : delta * (FABS(d) - delta / 2), \
         (FABS(d) <= delta ? d : d > 0 ? delta : -delta), true, "") \
    LOSS(bce_with_logits, (1 - t) * x + (1 + (w - 1) * t) * (LOG(1 + EXP(-FABS(x))) + (x < 0 ? -x : 0)), \
         ((1 - t) - (1 + (w - 1) * t) * SIGMOID(-x)), false, ":u01")

#endif
