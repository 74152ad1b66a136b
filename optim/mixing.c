/* optim/mixing.c - callbacks that change what a learner trains on: batches mixed with themselves, pictures that grow. */
#include <math.h>
#include "core/random.h"
#include "data/block.h"
#include "ops/ops.h"
#include "ops/vision.h"
#include "optim/learner_inside.h"

typedef enum { MIXUP, CUTMIX } mixing;
typedef struct { mixing how; double alpha; } mixer;

/* ---- shares ---------------------------------------------------------------------------------------------- */

/* Gamma(a, 1), a > 0. (Marsaglia & Tsang 2000; below 1 by Gamma(a + 1) u^(1/a)) */
static double gamma_draw(ag_rng *r, double a)
{
    if (a < 1) return gamma_draw(r, a + 1) * pow(1 - ag_rng_uniform(r), 1 / a);
    const double d = a - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        const double x = ag_rng_normal(r), v = pow(1 + c * x, 3);
        if (v > 0 && log(1 - ag_rng_uniform(r)) < 0.5 * x * x + d - d * v + d * log(v)) return d * v;
    }
}

static double beta_draw(ag_rng *r, double alpha)
{
    const double a = gamma_draw(r, alpha), b = gamma_draw(r, alpha);
    return a + b > 0 ? a / (a + b) : 0.5;
}

static ag_tensor *permutation(ag_rng *r, int64_t n)
{
    int64_t *order = ag_alloc(n, sizeof *order);
    ag_defer(ag_free, order);
    for (int64_t i = 0; i < n; i++) order[i] = i;
    ag_rng_shuffle(r, order, n);
    return ag_from(AG_I64, order, n);
}

/* Rows of y [N] or [N, columns]. Classes are whole numbers below 2^24, which f32 holds. */
static ag_tensor *rows_of(ag_tensor *y, ag_tensor *order)
{
    ag_tensor *flat = ag_reshape(ag_cast(y, AG_F32), y->shape[0], -1);
    ag_tensor *index = ag_expand(ag_reshape(order, -1, 1), flat->shape[0], flat->shape[1]);
    return ag_reshape_(AG_HERE, ag_gather(flat, 0, index), ag_shape_of(y));
}

/* ---- boxes ----------------------------------------------------------------------------------------------- */

static void side(ag_rng *r, int64_t size, double cut, int64_t *from, int64_t *to)
{
    const int64_t length = (int64_t)nearbyint((double)size * cut), middle = (int64_t)(ag_rng_uniform(r) * (double)size);
    *from = middle - length / 2 < 0 ? 0 : middle - length / 2;
    *to = middle + length / 2 > size ? size : middle + length / 2;
}

/* Boxes [N, 4] of area 1 - share around any pixel, cut at the edges; share becomes what is left outside. */
static ag_tensor *boxes(ag_rng *r, int64_t n, real *share, int64_t h, int64_t w)
{
    int64_t *box = ag_alloc(4 * n, sizeof *box);
    ag_defer(ag_free, box);
    for (int64_t i = 0; i < n; i++) {
        int64_t *b = box + 4 * i;
        const double cut = sqrt(1 - (double)share[i]);
        side(r, h, cut, &b[0], &b[2]);
        side(r, w, cut, &b[1], &b[3]);
        share[i] = (real)(1 - (double)((b[2] - b[0]) * (b[3] - b[1])) / (double)(h * w));
    }
    return ag_from(AG_I64, box, n, 4);
}

/* ---- the callback ---------------------------------------------------------------------------------------- */

static void mix(learner *l, const mixer *m)
{
    const ag_device device = l->x->device;
    const int64_t n = l->x->shape[0];
    ag_rng r = { .seed = ag_rng_draw() };
    real *share = ag_alloc(n, sizeof *share);
    ag_defer(ag_free, share);
    ag_tensor *order = ag_to(permutation(&r, n), device);
    for (int64_t i = 0; i < n; i++) {
        const double b = beta_draw(&r, m->alpha);
        share[i] = (real)(m->how == MIXUP ? fmax(b, 1 - b) : b);
    }
    ag_tensor *box = m->how == CUTMIX ? boxes(&r, n, share, l->x->shape[1], l->x->shape[2]) : NULL;
    ag_tensor *lambda = ag_to(ag_from(AG_F32, share, n), device);
    l->x = box ? ag_cutmix(l->x, ag_to(box, device), order) : ag_mixup(l->x, lambda, order);
    l->in->mixed_y = rows_of(l->y, order), l->in->mixed_share = lambda;
}

static learner_flow on(learner *l, learner_event event, void *state)
{
    if (event == LEARNER_BEFORE_FIT && !l->targets.n)
        ag_fail(l->in->at, "mixup and cutmix mix the losses of .targets; this learner has a loss function instead");
    if (event == LEARNER_BEFORE_BATCH && l->x->ndim == 4) mix(l, state);
    if (event == LEARNER_BEFORE_BATCH && l->x->ndim != 4)
        ag_fail(l->in->at, "mixup and cutmix take pictures [N, H, W, C]; the batches have %d axes", l->x->ndim);
    return LEARNER_GO;
}

static learner_callback make(mixing how, double alpha, double otherwise)
{
    mixer *m = ag_alloc(1, sizeof *m);
    *m = (mixer){ how, alpha == 0 ? otherwise : alpha };
    if (!(m->alpha > 0)) ag_fail(AG_HERE, "mixup, cutmix: .alpha = %g; it is positive", alpha);
    return (learner_callback){ .on = on, .between_steps = true, .state = m, .drop = ag_free };
}

learner_callback ag_learner_mixup(learner_mix_opts o) { return make(MIXUP, o.alpha, 0.4); }
learner_callback ag_learner_cutmix(learner_mix_opts o) { return make(CUTMIX, o.alpha, 1); }

/* ---- sizes ----------------------------------------------------------------------------------------------- */

typedef struct { const data_loaders *dls; learner_sizes_opts o; } grower;

/* first + (last - first) epoch / (share (epochs - 1)) to .multiple, last from there on */
static int64_t size_of(const learner_sizes_opts *o, int epoch, int epochs)
{
    const double until = o->share * (epochs - 1), t = until > 0 ? fmin(1, epoch / until) : 1;
    const double side = (double)o->first + t * (double)(o->last - o->first);
    return t >= 1 ? o->last : (int64_t)nearbyint(side / (double)o->multiple) * o->multiple;
}

static learner_flow grow(learner *l, learner_event event, void *state)
{
    const grower *g = state;
    if (event == LEARNER_BEFORE_EPOCH) {
        const int64_t side = size_of(&g->o, l->epoch, l->epochs);
        ag_data_image_size_(l->in->at, g->dls, side, side);
    }
    return LEARNER_GO;
}

learner_callback ag_learner_sizes(const data_loaders *dls, learner_sizes_opts o)
{
    grower *g = ag_alloc(1, sizeof *g);
    if (o.multiple < 1) o.multiple = 32;
    if (o.share == 0) o.share = 0.75;
    *g = (grower){ dls, o };
    if (o.first < 1 || o.last < 1 || !(o.share > 0 && o.share <= 1))
        ag_fail(AG_HERE, "learner_sizes: .first = %" PRId64 ", .last = %" PRId64 ", .share = %g; sides are positive, the share "
                "is above 0 and at most 1", o.first, o.last, o.share);
    return (learner_callback){ .on = grow, .between_steps = true, .state = g, .drop = ag_free };
}
