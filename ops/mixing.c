/* ops/mixing.c - samples of a batch mixed with others of it, by shares or by boxes. */
#include <string.h>
#include "core/thread.h"
#include "ops/image.h"
#include "ops/indexing.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/vision.h"

enum { X, HOW, ORDER, INPUTS, CHUNK = 1024 };

static void order_infer(ag_node *n)
{
    const ag_tensor *x = n->in[X], *order = n->in[ORDER];
    ag_require_ids(n, order, "order");
    AG_REQUIRE(n, order->ndim == 1 && order->shape[0] == x->shape[0],
               "order must be i64[%" PRId64 "], for each sample the one to mix with", x->shape[0]);
    ag_node_out_like(n, x);
}

static void check_order(const ag_node *n)
{
    const int64_t samples = n->in[X]->shape[0];
    ag_check_ids(n, n->in[ORDER], 0, 1, samples, samples, "the batch");
}

/* ---- mixup --------------------------------------------------------------------------------------------- */

typedef struct {
    const void *x;
    void *y;
    ag_dtype dtype;
    const real *lambda;
    const int64_t *order;
    int64_t samples, size;
    bool add, backward;
} mix_job;

/* out = lambda x[n] + (1 - lambda) x[order[n]] */
static void mix_chunk(const mix_job *j, int64_t n, int64_t c, int64_t m, real *restrict y)
{
    real buf[2][CHUNK];
    const real *a = ag_widen(j->x, j->dtype, n * j->size + c, m, buf[0]), share = j->lambda[n];
    const real *b = ag_widen(j->x, j->dtype, j->order[n] * j->size + c, m, buf[1]);
    for (int64_t i = 0; i < m; i++) y[i] = share * a[i] + (1 - share) * b[i];
}

/* d x[n] = lambda[n] g[n] + the (1 - lambda[k]) g[k] of all k that were mixed with n */
static void mix_chunk_grad(const mix_job *j, int64_t n, int64_t c, int64_t m, real *restrict d)
{
    real buf[CHUNK];
    const real *g = ag_widen(j->x, j->dtype, n * j->size + c, m, buf), share = j->lambda[n];
    for (int64_t i = 0; i < m; i++) d[i] = (j->add ? d[i] : 0) + share * g[i];
    for (int64_t k = 0; k < j->samples; k++) {
        if (j->order[k] != n) continue;
        const real *h = ag_widen(j->x, j->dtype, k * j->size + c, m, buf), rest = 1 - j->lambda[k];
        for (int64_t i = 0; i < m; i++) d[i] += rest * h[i];
    }
}

static void mix_samples(int64_t begin, int64_t end, void *arg)
{
    const mix_job *j = arg;
    real buf[CHUNK];
    for (int64_t n = begin; n < end; n++)
        for (int64_t c = 0; c < j->size; c += CHUNK) {
            const int64_t m = j->size - c < CHUNK ? j->size - c : CHUNK, at = n * j->size + c;
            real *y = j->add ? ag_narrow_onto(j->y, j->dtype, at, m, buf) : ag_narrow_to(j->y, j->dtype, at, buf);
            if (j->backward) mix_chunk_grad(j, n, c, m, y);
            else mix_chunk(j, n, c, m, y);
            ag_narrow(j->y, j->dtype, at, m, y);
        }
}

static void mix(const ag_node *n, const ag_tensor *from, const ag_tensor *to, bool backward)
{
    const int64_t samples = from->shape[0], size = ag_numel(from) / samples;
    ag_parallel(samples, 1, 0.5 * (double)size, mix_samples,
                &(mix_job){ from->data, to->data, from->dtype, ag_real(n->in[HOW]), n->in[ORDER]->data, samples, size,
                            backward && n->accumulate[X], backward });
}

static void mixup_infer(ag_node *n)
{
    const ag_tensor *x = n->in[X], *lambda = n->in[HOW];
    if (x->dtype != AG_BF16) ag_node_require_real(n, x, "x");
    ag_node_require_real(n, lambda, "lambda");
    AG_REQUIRE(n, x->ndim >= 1, "x needs an axis of samples");
    AG_REQUIRE(n, lambda->ndim == 1 && lambda->shape[0] == x->shape[0],
               "lambda must be [%" PRId64 "], a share for each sample", x->shape[0]);
    AG_REQUIRE(n, !lambda->requires_grad, "lambda is a constant, there is no gradient for it");
    order_infer(n);
}

static void mixup_forward(ag_node *n)
{
    check_order(n);
    mix(n, n->in[X], n->out, false);
}

static void mixup_backward(ag_node *n)
{
    if (n->din[X]) mix(n, n->out->grad, n->din[X], true);
}

static ag_tensor *mixup_check(ag_tensor **in) { return ag_mixup(in[0], in[1], in[2]); }

const ag_op ag_op_mixup = {
    .name = "mixup", .inputs = "x lambda order", .infer = mixup_infer, .bf16 = 1, .bf16_cuda = 1,
    .forward = { mixup_forward, AG_CUDA_FN(ag_mixup_forward_cuda) },
    .backward = { mixup_backward, AG_CUDA_FN(ag_mixup_backward_cuda) },
    .check = { { "x[3,2,5] lambda[3]:u01 order[3]:i64<3", mixup_check },
               { "x[4,3] lambda[4]:u01 order[4]:i64<4", mixup_check } },
};

ag_tensor *ag_mixup_(const char *at, ag_tensor *x, ag_tensor *lambda, ag_tensor *order)
{
    return ag_apply_(at, &ag_op_mixup, INPUTS, (ag_tensor *[]){ x, lambda, order }, NULL, 0);
}

/* ---- cutmix -------------------------------------------------------------------------------------------- */

enum { TOP, LEFT, BOTTOM, RIGHT, SIDES };
typedef struct {
    const char *x;
    char *y;
    ag_dtype dtype;
    const int64_t *box, *order;
    int64_t samples, h, w, channels;
    bool add;
} cut_job;

static void cut_rows(int64_t begin, int64_t end, void *arg)
{
    const cut_job *j = arg;
    const int64_t pixel = j->channels * (int64_t)ag_dtype_size(j->dtype), row = j->w * pixel;
    for (int64_t r = begin; r < end; r++) {
        const int64_t n = r / j->h, y = r % j->h, *box = j->box + n * SIDES;
        memcpy(j->y + r * row, j->x + r * row, (size_t)row);
        if (y < box[TOP] || y >= box[BOTTOM]) continue;
        const char *other = j->x + (j->order[n] * j->h + y) * row;
        const int64_t left = box[LEFT] * pixel, right = box[RIGHT] * pixel;
        memcpy(j->y + r * row + left, other + left, (size_t)(right - left));
    }
}

/* d += the part of g's chunk at c that lies inside (outside) of the columns of a box */
static void add_part(const cut_job *j, const int64_t *box, bool inside, const real *g, int64_t c, int64_t m, real *d)
{
    const int64_t left = box[LEFT] * j->channels - c, right = box[RIGHT] * j->channels - c;
    for (int64_t i = 0; i < m; i++) d[i] += (i >= left && i < right) == inside ? g[i] : 0;
}

static void cut_chunk_grad(const cut_job *j, int64_t n, int64_t y, int64_t c, int64_t m, real *d)
{
    static const int64_t nowhere[SIDES];
    const int64_t *own = j->box + n * SIDES, width = j->w * j->channels;
    const bool cut = y >= own[TOP] && y < own[BOTTOM];
    real buf[CHUNK];
    if (!j->add) memset(d, 0, (size_t)m * sizeof *d);
    add_part(j, cut ? own : nowhere, false, ag_widen(j->x, j->dtype, (n * j->h + y) * width + c, m, buf), c, m, d);
    for (int64_t k = 0; k < j->samples; k++) {
        const int64_t *box = j->box + k * SIDES;
        if (j->order[k] != n || y < box[TOP] || y >= box[BOTTOM]) continue;
        add_part(j, box, true, ag_widen(j->x, j->dtype, (k * j->h + y) * width + c, m, buf), c, m, d);
    }
}

static void cut_rows_grad(int64_t begin, int64_t end, void *arg)
{
    const cut_job *j = arg;
    const int64_t width = j->w * j->channels;
    real buf[CHUNK];
    for (int64_t r = begin; r < end; r++)
        for (int64_t c = 0; c < width; c += CHUNK) {
            const int64_t m = width - c < CHUNK ? width - c : CHUNK, at = r * width + c;
            real *d = j->add ? ag_narrow_onto(j->y, j->dtype, at, m, buf) : ag_narrow_to(j->y, j->dtype, at, buf);
            cut_chunk_grad(j, r / j->h, r % j->h, c, m, d);
            ag_narrow(j->y, j->dtype, at, m, d);
        }
}

static void cut(const ag_node *n, const ag_tensor *from, const ag_tensor *to, bool backward)
{
    const int64_t *s = from->shape;
    ag_parallel(s[0] * s[1], 4, 0.3 * (double)(s[2] * s[3]), backward ? cut_rows_grad : cut_rows,
                &(cut_job){ from->data, to->data, from->dtype, n->in[HOW]->data, n->in[ORDER]->data, s[0], s[1], s[2],
                            s[3], backward && n->accumulate[X] });
}

static void cutmix_infer(ag_node *n)
{
    const ag_tensor *x = n->in[X], *box = n->in[HOW];
    ag_require_image(n, x, "x");
    ag_require_ids(n, box, "box");
    AG_REQUIRE(n, box->ndim == 2 && box->shape[0] == x->shape[0] && box->shape[1] == SIDES,
               "box must be i64[%" PRId64 ", 4]: top, left, bottom, right of each sample", x->shape[0]);
    order_infer(n);
}

static void cutmix_forward(ag_node *n)
{
    const ag_tensor *x = n->in[X];
    const int64_t *box = n->in[HOW]->data;
    check_order(n);
    for (int64_t i = 0; i < x->shape[0]; i++, box += SIDES)
        AG_REQUIRE(n, box[TOP] >= 0 && box[TOP] <= box[BOTTOM] && box[BOTTOM] <= x->shape[1] && box[LEFT] >= 0 &&
                   box[LEFT] <= box[RIGHT] && box[RIGHT] <= x->shape[2], "the box of sample %" PRId64 ", rows %" PRId64
                   " to %" PRId64 " and columns %" PRId64 " to %" PRId64 ", does not lie in the image", i, box[TOP],
                   box[BOTTOM], box[LEFT], box[RIGHT]);
    cut(n, x, n->out, false);
}

static void cutmix_backward(ag_node *n)
{
    if (n->din[X]) cut(n, n->out->grad, n->din[X], true);
}

static ag_tensor *cutmix_check(ag_tensor **in)
{
    static const int64_t boxes[] = { 0, 1, 3, 4, 2, 0, 4, 5, 1, 1, 1, 3 };
    return ag_cutmix(in[0], ag_from(AG_I64, boxes, 3, SIDES), in[1]);
}

const ag_op ag_op_cutmix = {
    .name = "cutmix", .inputs = "x box order", .infer = cutmix_infer, .bf16 = 1, .bf16_cuda = 1,
    .forward = { cutmix_forward, AG_CUDA_FN(ag_cutmix_forward_cuda) },
    .backward = { cutmix_backward, AG_CUDA_FN(ag_cutmix_backward_cuda) },
    .check = { { "x[3,4,5,2] order[3]:i64<3", cutmix_check } },
};

ag_tensor *ag_cutmix_(const char *at, ag_tensor *x, ag_tensor *box, ag_tensor *order)
{
    return ag_apply_(at, &ag_op_cutmix, INPUTS, (ag_tensor *[]){ x, box, order }, NULL, 0);
}
