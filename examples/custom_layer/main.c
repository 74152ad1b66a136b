/* custom_layer - an op and a layer of one's own, in one file outside the library. README.md explains it step by step. */
#include <math.h>
#include <stdio.h>
#include "agrad.h"
#include "core/op.h"

/* ---- 1. the op: softsign(x) = x / (1 + |x|), its gradient 1 / (1 + |x|)^2 ------------------------------ */

static void softsign_forward(ag_node *n)
{
    const real *x = ag_real(n->in[0]);
    real *y = ag_real(n->out);
    for (int64_t i = 0; i < ag_numel(n->out); i++) y[i] = x[i] / (1 + (real)fabs(x[i]));
}

static void softsign_backward(ag_node *n)
{
    const real *x = ag_real(n->in[0]), *g = ag_real(n->out->grad);
    if (!n->din[0]) return;                             /* x needs no gradient */
    real *d = ag_real(n->din[0]);
    for (int64_t i = 0; i < ag_numel(n->out); i++) {
        const real s = 1 + (real)fabs(x[i]), v = g[i] / (s * s);
        d[i] = n->accumulate[0] ? d[i] + v : v;         /* the engine says whether to write or to add */
    }
}

static const ag_op softsign_op = {
    .name = "softsign", .inputs = "x", .infer = ag_infer_same,
    .forward = { softsign_forward }, .backward = { softsign_backward },
};
#define softsign(x) ag_apply(&softsign_op, AG_INPUTS(x), NULL, 0)

/* ---- 2. the layer: y = x + scale softsign(w x + b), with a learned scale ------------------------------- */

typedef struct { nn_module base; nn_module *fc; ag_tensor *scale; } residual;

static ag_tensor *residual_forward(nn_module *m, ag_tensor *x)     /* f32[B, width] -> the same */
{
    residual *s = NN_SELF(residual, m);
    return ag_add(x, ag_mul(s->scale, softsign(nn_call(s->fc, x))));
}

static nn_module *residual_new(int64_t width)
{
    residual *s = NN_NEW(residual, residual_forward);
    NN_CHILD(s, fc, nn_linear(width, width));           /* "fc.weight" and "fc.bias" in a checkpoint */
    NN_PARAM(s, scale, ag_full(0.5, width));            /* "scale" */
    return &s->base;
}

/* ---- 3. the proof: backward against central differences ------------------------------------------------ */

static ag_tensor *checked(ag_tensor **in)
{
    return softsign(in[0]);
}

/* ---- 4. the use: learn y = sin(3 x0) + x1 -------------------------------------------------------------- */

static ag_tensor *target_of(ag_tensor *x)
{
    ag_tensor *y = ag_empty(AG_F32, ag_size(x, 0), 1);
    for (int64_t i = 0; i < ag_size(x, 0); i++)
        ag_real(y)[i] = (real)(sin(3 * (double)ag_real(x)[2 * i]) + (double)ag_real(x)[2 * i + 1]);
    return y;
}

int main(void)
{
    ag_init(.seed = 1);
    AG_SCOPE;
    ag_tensor *probe[] = { ag_param(ag_randn(4, 5)) };
    printf("gradient check of softsign: largest error %.1e\n", ag_gradcheck(checked, 1, probe));

    nn_module *net = nn_sequential(nn_linear(2, 32), residual_new(32), residual_new(32), nn_linear(32, 1));
    ag_tensor *x = ag_randn(512, 2), *y = target_of(x);
    nn_summary(net, x);

    optim *opt = optim_adamw(net, 1e-2);
    for (int step = 0; step <= 300; step++) {
        AG_SCOPE;                                       /* what a step makes ends with it */
        ag_tensor *loss = ag_mse_loss(nn_call(net, x), y);
        if (step % 100 == 0) printf("step %3d   loss %.4f\n", step, ag_item(loss));
        ag_backward(loss);
        optim_step(opt);
    }
    return 0;
}
