/* ops/reduce.c - max, min, var, logsumexp over any axes, argmax over one; what all reductions share (sum, mean: sum.c).
 *
 * R1  Every reduction is one of [outer, reduced, inner] dense memory: axes that do not lie side by side are first
 *     moved behind the others by a copy.
 * R2  Sums are gathered in double, in an order that depends on the shape alone. */
#include <string.h>
#include "core/thread.h"
#include "ops/formulas.h"
#include "ops/reduce.h"
#include "ops/registry.h"

ag_reduce_layout ag_reduce_layout_of(const ag_node *n)
{
    const ag_tensor *x = n->in[0];
    ag_reduce_layout l = { .outer = 1, .reduced = 1, .inner = 1, .order = { .ndim = x->ndim } };
    l.axes = ag_node_axes(n, x, ((const ag_reduce_arg *)n->arg)->opts.axes);
    int first = x->ndim, last = -1, kept = 0;
    for (int i = 0; i < x->ndim; i++) {
        if (!(l.axes >> i & 1)) {
            l.order.dim[kept++] = i;
            continue;
        }
        if (i < first) first = i;
        last = i;
        l.reduced *= x->shape[i];
    }
    for (int i = 0, to = kept; i < x->ndim; i++) if (l.axes >> i & 1) l.order.dim[to++] = i;
    for (int i = first; i <= last; i++) l.moved |= !(l.axes >> i & 1);
    for (int i = 0; i < x->ndim; i++) {
        if (l.axes >> i & 1) continue;
        if (l.moved || i < first) l.outer *= x->shape[i];
        else l.inner *= x->shape[i];
    }
    return l;
}

const void *ag_reduce_values(const ag_node *n, const ag_reduce_layout *l)
{
    if (!l->moved) return n->in[0]->data;
    AG_NO_GRAD;
    return ag_keep(ag_contiguous_(n->at, ag_permute_(n->at, n->in[0], l->order)))->data;
}

ag_tensor *ag_reduce_gradient(const ag_node *n, const ag_reduce_layout *l)
{
    if (!l->moved) return n->din[0];
    ag_shape s = { .ndim = n->in[0]->ndim };
    for (int i = 0; i < s.ndim; i++) s.dim[i] = n->in[0]->shape[l->order.dim[i]];
    return ag_empty_(n->at, n->in[0]->dtype, s);
}

void ag_reduce_hand_over(ag_node *n, const ag_reduce_layout *l, ag_tensor *g)
{
    ag_shape inverse = { .ndim = l->order.ndim };
    if (!l->moved) return;
    for (int i = 0; i < inverse.ndim; i++) inverse.dim[l->order.dim[i]] = i;
    ag_node_give(n, 0, ag_contiguous_(n->at, ag_permute_(n->at, g, inverse)));
}

void ag_reduce_infer(ag_node *n)
{
    const ag_reduce_arg *a = n->arg;
    const ag_tensor *x = n->in[0];
    ag_node_require_real(n, x, NULL);
    const uint32_t axes = ag_node_axes(n, x, a->opts.axes);
    ag_shape s = { 0 };
    for (int i = 0; i < x->ndim; i++)
        if (!(axes >> i & 1)) s.dim[s.ndim++] = x->shape[i];
        else if (a->opts.keepdim) s.dim[s.ndim++] = 1;
    ag_node_out(n, x->dtype, s);
}

void ag_reduce_require_elements(ag_node *n)
{
    const ag_reduce_layout l = ag_reduce_layout_of(n);
    AG_REQUIRE(n, l.reduced > 0, "nothing to reduce: the reduced axes have no elements");
}

/* ---- the walk ------------------------------------------------------------------------------------------ */

/* body(job, o, i, width): outputs [o, i .. i + width) from x[o, :, i .. i + width). */
enum { COLUMNS = 64 };
typedef struct reduce_job reduce_job;
typedef void (*reduce_body)(const reduce_job *j, int64_t o, int64_t i, int64_t width);
struct reduce_job {
    reduce_body body;
    const real *x, *y, *g, *saved;
    real *out, *extra;
    int64_t *where;
    int64_t reduced, inner, blocks;
    double scale, divisor;
    bool add;
};

static void run_pieces(int64_t begin, int64_t end, void *arg)
{
    const reduce_job *j = arg;
    for (int64_t k = begin; k < end; k++) {
        const int64_t i = k % j->blocks * COLUMNS, width = j->inner - i < COLUMNS ? j->inner - i : COLUMNS;
        j->body(j, k / j->blocks, i, width);
    }
}

static void run(reduce_job j, const ag_reduce_layout *l, reduce_body body)
{
    j.body = body, j.reduced = l->reduced, j.inner = l->inner;
    j.blocks = (l->inner + COLUMNS - 1) / COLUMNS;
    const double cost = 0.5 * (double)l->reduced * (double)(l->inner < COLUMNS ? l->inner : COLUMNS);
    ag_parallel(l->outer * j.blocks, 1, cost, run_pieces, &j);
}

/* Sum of a dense run: lanes of real in blocks, the blocks in double. */
static double dense_sum(const real *x, int64_t n)
{
    enum { LANES = 16, BLOCK = 1024 };
    double total = 0;
    for (int64_t b = 0; b < n; b += BLOCK) {
        const int64_t end = n - b < BLOCK ? n : b + BLOCK;
        real lane[LANES] = { 0 };
        int64_t i = b;
        for (; i + LANES <= end; i += LANES)
            for (int k = 0; k < LANES; k++) lane[k] += x[i + k];
        double sum = 0;
        for (; i < end; i++) sum += (double)x[i];
        for (int k = 0; k < LANES; k++) sum += (double)lane[k];
        total += sum;
    }
    return total;
}

static void sums(const reduce_job *j, int64_t o, int64_t i, int64_t width, double *sum)
{
    const real *x = j->x + o * j->reduced * j->inner + i;
    if (j->inner == 1) {
        sum[0] = dense_sum(x, j->reduced);
        return;
    }
    for (int64_t c = 0; c < width; c++) sum[c] = 0;
    for (int64_t r = 0; r < j->reduced; r++, x += j->inner)
        for (int64_t c = 0; c < width; c++) sum[c] += (double)x[c];
}

static void elements_infer(ag_node *n)
{
    ag_reduce_infer(n);
    ag_reduce_require_elements(n);
}

/* ---- max, min, argmax: the first of equals, NaN wins --------------------------------------------------- */

static void extreme(const reduce_job *j, int64_t o, int64_t i, int64_t width)
{
    const real sign = (real)j->scale;
    for (int64_t c = 0; c < width; c++) {
        const real *x = j->x + o * j->reduced * j->inner + i + c;
        real best = sign * x[0];
        int64_t where = 0;
        for (int64_t r = 1; r < j->reduced; r++) {
            const real v = sign * x[r * j->inner];
            if (v > best || (v != v && best == best)) best = v, where = r;
        }
        if (j->out) j->out[o * j->inner + i + c] = sign * best;
        j->where[o * j->inner + i + c] = where;
    }
}

static void extreme_grad(const reduce_job *j, int64_t o, int64_t i, int64_t width)
{
    real *d = j->out + o * j->reduced * j->inner + i;
    for (int64_t r = 0; r < j->reduced && !j->add; r++) memset(d + r * j->inner, 0, (size_t)width * sizeof *d);
    for (int64_t c = 0; c < width; c++) d[j->where[o * j->inner + i + c] * j->inner + c] += j->g[o * j->inner + i + c];
}

static void extreme_infer(ag_node *n)
{
    elements_infer(n);
    ag_node_save(n, 0, AG_I64, ag_shape_of(n->out));
}

static void extreme_forward(ag_node *n, double sign)
{
    const ag_reduce_layout l = ag_reduce_layout_of(n);
    run((reduce_job){ .x = ag_reduce_values(n, &l), .out = ag_real(n->out), .where = n->saved[0]->data, .scale = sign }, &l,
        extreme);
}

static void extreme_backward(ag_node *n)
{
    if (!n->din[0]) return;
    const ag_reduce_layout l = ag_reduce_layout_of(n);
    ag_tensor *d = ag_reduce_gradient(n, &l);
    run((reduce_job){ .g = ag_real(n->out->grad), .out = ag_real(d), .where = n->saved[0]->data,
                      .add = n->accumulate[0] && !l.moved }, &l, extreme_grad);
    ag_reduce_hand_over(n, &l, d);
}

static void max_forward(ag_node *n) { extreme_forward(n, 1); }
static void min_forward(ag_node *n) { extreme_forward(n, -1); }

static void argmax_infer(ag_node *n)
{
    const ag_tensor *x = n->in[0];
    ag_reduce_arg *a = n->arg;
    ag_node_require_real(n, x, NULL);
    const uint32_t axes = ag_node_axes(n, x, a->opts.axes);
    ag_shape s = { 0 };
    for (int i = 0; i < x->ndim; i++) if (!(axes >> i & 1)) s.dim[s.ndim++] = x->shape[i];
    ag_node_out(n, AG_I64, s);
    ag_reduce_require_elements(n);
}

static void argmax_forward(ag_node *n)
{
    const ag_reduce_layout l = ag_reduce_layout_of(n);
    run((reduce_job){ .x = ag_reduce_values(n, &l), .where = n->out->data, .scale = 1 }, &l, extreme);
}

/* ---- var: sum (x - mean)^2 / (n - correction) ---------------------------------------------------------- */

static double var_divisor(const ag_node *n, const ag_reduce_layout *l)
{
    return (double)l->reduced - ((const ag_reduce_arg *)n->arg)->opts.correction;
}

static void var_body(const reduce_job *j, int64_t o, int64_t i, int64_t width)
{
    double mean[COLUMNS], square[COLUMNS] = { 0 };
    sums(j, o, i, width, mean);
    for (int64_t c = 0; c < width; c++) mean[c] /= (double)j->reduced;
    const real *x = j->x + o * j->reduced * j->inner + i;
    for (int64_t r = 0; r < j->reduced; r++, x += j->inner)
        for (int64_t c = 0; c < width; c++) square[c] += ((double)x[c] - mean[c]) * ((double)x[c] - mean[c]);
    for (int64_t c = 0; c < width; c++) {
        j->out[o * j->inner + i + c] = (real)(square[c] / j->divisor);
        j->extra[o * j->inner + i + c] = (real)mean[c];
    }
}

static void var_grad(const reduce_job *j, int64_t o, int64_t i, int64_t width)
{
    const int64_t first = o * j->reduced * j->inner + i;
    const real *x = j->x + first, *mean = j->saved + o * j->inner + i, *g = j->g + o * j->inner + i;
    const real scale = (real)(2 / j->divisor);
    real *d = j->out + first;
    for (int64_t r = 0; r < j->reduced; r++, x += j->inner, d += j->inner)
        for (int64_t c = 0; c < width; c++) d[c] = (j->add ? d[c] : 0) + g[c] * scale * (x[c] - mean[c]);
}

static void var_infer(ag_node *n)
{
    ag_reduce_infer(n);
    const ag_reduce_layout l = ag_reduce_layout_of(n);
    AG_REQUIRE(n, var_divisor(n, &l) > 0, "%" PRId64 " elements with .correction = %d leave nothing to divide by", l.reduced,
               ((const ag_reduce_arg *)n->arg)->opts.correction);
    ag_node_save(n, 0, AG_F32, ag_shape_of(n->out));
}

static void var_forward(ag_node *n)
{
    const ag_reduce_layout l = ag_reduce_layout_of(n);
    run((reduce_job){ .x = ag_reduce_values(n, &l), .out = ag_real(n->out), .extra = ag_real(n->saved[0]),
                      .divisor = var_divisor(n, &l) }, &l, var_body);
}

static void var_backward(ag_node *n)
{
    if (!n->din[0]) return;
    const ag_reduce_layout l = ag_reduce_layout_of(n);
    ag_tensor *d = ag_reduce_gradient(n, &l);
    run((reduce_job){ .x = ag_reduce_values(n, &l), .g = ag_real(n->out->grad), .saved = ag_real(n->saved[0]), .out = ag_real(d),
                      .divisor = var_divisor(n, &l), .add = n->accumulate[0] && !l.moved }, &l, var_grad);
    ag_reduce_hand_over(n, &l, d);
}

/* ---- logsumexp: m + log sum exp(x - m), m = max x ------------------------------------------------------ */

static void logsumexp_body(const reduce_job *j, int64_t o, int64_t i, int64_t width)
{
    for (int64_t c = 0; c < width; c++) {
        const real *x = j->x + o * j->reduced * j->inner + i + c;
        real m = x[0];
        for (int64_t r = 1; r < j->reduced; r++) m = x[r * j->inner] > m ? x[r * j->inner] : m;
        if (m - m != 0) m = m > 0 ? m : 0;      /* all -inf: log 0; +inf stays */
        double sum = 0;
        for (int64_t r = 0; r < j->reduced; r++) sum += (double)EXP(x[r * j->inner] - m);
        j->out[o * j->inner + i + c] = m - m != 0 ? m : m + (real)log(sum);
    }
}

static void logsumexp_grad(const reduce_job *j, int64_t o, int64_t i, int64_t width)
{
    const int64_t first = o * j->reduced * j->inner + i;
    const real *x = j->x + first, *y = j->y + o * j->inner + i, *g = j->g + o * j->inner + i;
    real *d = j->out + first;
    for (int64_t r = 0; r < j->reduced; r++, x += j->inner, d += j->inner)
        for (int64_t c = 0; c < width; c++) d[c] = (j->add ? d[c] : 0) + g[c] * EXP(x[c] - y[c]);
}

static void logsumexp_forward(ag_node *n)
{
    const ag_reduce_layout l = ag_reduce_layout_of(n);
    run((reduce_job){ .x = ag_reduce_values(n, &l), .out = ag_real(n->out) }, &l, logsumexp_body);
}

static void logsumexp_backward(ag_node *n)
{
    if (!n->din[0]) return;
    const ag_reduce_layout l = ag_reduce_layout_of(n);
    ag_tensor *d = ag_reduce_gradient(n, &l);
    run((reduce_job){ .x = ag_reduce_values(n, &l), .y = ag_real(n->out), .g = ag_real(n->out->grad), .out = ag_real(d),
                      .add = n->accumulate[0] && !l.moved }, &l, logsumexp_grad);
    ag_reduce_hand_over(n, &l, d);
}

/* ---- the ops ------------------------------------------------------------------------------------------- */

AG_REDUCTION_OP(max, "x[2,3,2,3]", extreme_infer, extreme_backward, .unread = 1, .unread_out = true,)
AG_REDUCTION_OP(min, "x[2,3,2,3]", extreme_infer, extreme_backward, .unread = 1, .unread_out = true,)
AG_REDUCTION_OP(var, "x[2,3,2,3]", var_infer, var_backward, .unread_out = true,)
AG_REDUCTION_OP(logsumexp, "x[2,3,2,3]", elements_infer, logsumexp_backward, )

static ag_tensor *argmax_last(ag_tensor **in) { return ag_argmax(in[0], -1); }
static ag_tensor *argmax_first(ag_tensor **in) { return ag_argmax(in[0], 0); }

const ag_op ag_op_argmax = {
    .name = "argmax", .inputs = "x", .infer = argmax_infer, .no_grad = "integers",
    .forward = { argmax_forward, AG_CUDA_FN(ag_argmax_forward_cuda) },
    .check = { { "x[3,5]:const", argmax_last }, { "x[3,5]:const", argmax_first } },
};

ag_tensor *ag_argmax_(const char *at, ag_tensor *x, int axis)
{
    const ag_axis_list one = { 1, { axis } };
    if (axis < -x->ndim || axis >= x->ndim) ag_fail(at, "ag_argmax: axis %d, the tensor has %d axes", axis, x->ndim);
    return ag_apply_(at, &ag_op_argmax, 1, &x, &(ag_reduce_arg){ { .axes = ag_axes_(one) } }, sizeof(ag_reduce_arg));
}
