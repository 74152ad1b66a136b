/* ops/conv_kernel.c - the three products of a convolution: which way each is done. */
#include "ops/conv_ways.h"
#include "ops/gemm.h"

/* A pixel's window is the pixel itself: a matrix product as it stands. */
static bool pointwise(const ag_conv *c)
{
    const ag_conv_arg *a = &c->at;
    return c->kh * c->kw == 1 && a->groups == 1 && a->stride_h == 1 && a->stride_w == 1 &&
           !(a->pad_top | a->pad_left | a->pad_bottom | a->pad_right);
}

/* ---- pointwise ----------------------------------------------------------------------------------------- */

/* Pixels times the weight's transpose, or (back) gradients times the weight. */
static ag_gemm by_weight(const ag_node *n, const ag_conv *c, const ag_tensor *weight, bool back)
{
    const int64_t m = back ? c->in : c->out, k = back ? c->out : c->in;
    ag_gemm g = { .batch = 1, .n = ag_conv_pixels(c), .m = m, .k = k, .a_type = c->type, .a_row = k, .a_col = 1,
                  .b = weight->data, .b_row = back ? c->in : 1, .b_col = back ? 1 : c->in, .b_param = weight,
                  .c_type = c->type, .c_row = m };
    ag_gemm_prepare(n, &g);
    return g;
}

static void pointwise_forward(const ag_node *n, const ag_conv *c, const void *x, const ag_tensor *weight, const ag_tensor *bias,
                              ag_activation activation, void *y, bool add)
{
    ag_gemm g = by_weight(n, c, weight, false);
    g.a = x, g.c = y, g.bias = bias ? ag_real(bias) : NULL, g.activation = activation, g.add = add;
    ag_gemm_run(&g);
}

static void pointwise_input(const ag_node *n, const ag_conv *c, const void *g, const ag_tensor *weight, void *dx, bool add)
{
    ag_gemm p = by_weight(n, c, weight, true);
    p.a = g, p.c = dx, p.add = add;
    ag_gemm_run(&p);
}

static void pointwise_weight(const ag_conv *c, const void *x, const void *g, real *dw, bool add)
{
    ag_gemm_run(&(ag_gemm){ .batch = 1, .n = c->out, .m = c->in, .k = ag_conv_pixels(c), .a = g, .a_type = c->type, .a_row = 1,
                            .a_col = c->out, .b = x, .b_type = c->type, .b_row = c->in, .b_col = 1, .c = dw, .c_row = c->in,
                            .add = add });
}

/* ---- choosing: oneDNN where windows overlap, as far as it can ------------------------------------------ */

/* The gradient of the weight is faster with patches where strides leave oneDNN's kernel little to do at a time, and in
 * bf16 for small images (measured: up to 3 times), unless channels are few. */
static bool weight_directly(const ag_conv *c)
{
    const bool strided = c->at.stride_h > 1 || c->at.stride_w > 1, small = c->type == AG_BF16 && c->oh * c->ow <= 64;
    return ag_direct_fits(c) && (c->at.groups > 1 || c->in < 32 || !(strided || small));
}

void ag_conv_forward(const ag_node *n, const ag_conv *c, const void *x, const ag_tensor *weight, const ag_tensor *bias,
                     ag_activation activation, void *y, bool add)
{
    if (pointwise(c)) pointwise_forward(n, c, x, weight, bias, activation, y, add);
    else if (!ag_direct_fits(c) || !ag_direct_forward(n, c, x, weight, bias, activation, y, add))
        ag_patches_forward(n, c, x, weight, bias, activation, y, add);
}

void ag_conv_input_gradient(const ag_node *n, const ag_conv *c, const void *g, const ag_tensor *weight, void *dx, bool add)
{
    if (pointwise(c)) pointwise_input(n, c, g, weight, dx, add);
    else if (!ag_direct_fits(c) || !ag_direct_input_gradient(n, c, g, weight, dx, add))
        ag_patches_input_gradient(n, c, g, weight, dx, add);
}

void ag_conv_weight_gradient(const ag_node *n, const ag_conv *c, const void *x, const void *g, real *dw, bool add)
{
    if (pointwise(c)) pointwise_weight(c, x, g, dw, add);
    else if (!weight_directly(c) || !ag_direct_weight_gradient(n, c, x, g, dw, add))
        ag_patches_weight_gradient(n, c, x, g, dw, add);
}

void ag_conv_plan_forward(const ag_node *n, const ag_conv *c, const ag_tensor *weight, const ag_tensor *bias,
                          ag_activation activation, bool add)
{
    AG_SCOPE;
    if (pointwise(c)) (void)by_weight(n, c, weight, false);
    else if (!ag_direct_fits(c) || !ag_direct_forward(n, c, NULL, weight, bias, activation, NULL, add))
        ag_patches_prepare(n, c, weight, false);
}

void ag_conv_plan_input(const ag_node *n, const ag_conv *c, const ag_tensor *weight, bool add)
{
    AG_SCOPE;
    if (pointwise(c)) (void)by_weight(n, c, weight, true);
    else if (!ag_direct_fits(c) || !ag_direct_input_gradient(n, c, NULL, weight, NULL, add))
        ag_patches_prepare(n, c, weight, true);
}

int64_t ag_conv_forward_workspace(const ag_conv *c)
{
    return pointwise(c) ? 0 : ag_direct_fits(c) ? ag_direct_forward_workspace(c) : ag_patches_forward_workspace(c);
}

int64_t ag_conv_input_workspace(const ag_conv *c)
{
    return pointwise(c) ? 0 : ag_direct_fits(c) ? ag_direct_input_workspace(c) : ag_patches_input_workspace(c);
}

int64_t ag_conv_weight_workspace(const ag_conv *c)
{
    return pointwise(c) ? 0 : weight_directly(c) ? ag_direct_weight_workspace(c) : ag_patches_weight_workspace(c);
}
