/* ops/formulas.h - the scalar functions of the kernels, one definition for C and CUDA.
 *
 * On the CPU in single precision EXP, EXP2 and TANH are short polynomials without branches or calls, so that every loop
 * around them becomes vector code; errors against libm: EXP and EXP2 2 ulp, TANH 4e-7 absolute. */
#ifndef AG_FORMULAS_H
#define AG_FORMULAS_H
#include <math.h>
#include <string.h>
#include "core/base.h"

#if defined(__CUDACC__)
#define AG_FORMULA static __host__ __device__ inline
#else
#define AG_FORMULA static inline
#endif

#define R(c) ((real)(c))

#ifdef AG_F64
#define LOG log
#define SQRT sqrt
#define POW pow
#define FABS fabs
#define EXP exp
#define EXP2 exp2
#define TANH tanh
#else
#define LOG logf
#define SQRT sqrtf
#define POW powf
#define FABS fabsf
#ifdef __CUDA_ARCH__
#define EXP expf
#define EXP2 exp2f
#define TANH tanhf
#else
#define EXP ag_exp_f32
#define EXP2 ag_exp2_f32
#define TANH ag_tanh_f32
#endif
#endif

/* 2^n p(r) with x = n ln 2 + r, |r| <= ln(2)/2; p: Taylor to r^7. Adding 1.5 2^23 rounds to the integer n in the low bits. */
AG_FORMULA float ag_exp_f32(float x)
{
    const float top = 88.72283f, bottom = -87.33654f, magic = 12582912.0f;
    const float c = x > top ? top : x < bottom ? bottom : x;
    const float z = c * 1.44269504088896341f + magic, n = z - magic;
    const float r = (c - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720, p = p * r + 1.0f / 120, p = p * r + 1.0f / 24, p = p * r + 1.0f / 6;
    p = p * r + 0.5f, p = p * r + 1, p = p * r + 1;
    uint32_t zi, pi;
    memcpy(&zi, &z, sizeof zi);
    memcpy(&pi, &p, sizeof pi);
    pi += zi << 23;
    memcpy(&p, &pi, sizeof p);
    return x > top ? INFINITY : x < bottom ? 0 : p;
}

/* 2^x for softmax: x <= 127, below 2^-126 zero. Relative error 2e-7 (minimax to r^5). */
AG_FORMULA float ag_exp2_f32(float x)
{
    const float magic = 12582912.0f, c = x < -126 ? -126 : x, z = c + magic, r = c - (z - magic);
    float p = 0.00132647269f;
    p = p * r + 0.009671512661f, p = p * r + 0.05550733744f, p = p * r + 0.2402224208f;
    p = p * r + 0.6931469776f, p = p * r + 1;
    uint32_t zi, pi;
    memcpy(&zi, &z, sizeof zi);
    memcpy(&pi, &p, sizeof pi);
    pi += zi << 23;
    memcpy(&p, &pi, sizeof p);
    return x < -126 ? 0 : p;
}

/* (1 - e) / (1 + e), e = exp(-2|x|); near 0 the series, which keeps the relative error small. */
AG_FORMULA float ag_tanh_f32(float x)
{
    const float a = fabsf(x), e = ag_exp_f32(-2 * a), s = x * x;
    const float far = (1 - e) / (1 + e), near = a * (1 + s * (-1.0f / 3 + s * (2.0f / 15 - s * (17.0f / 315))));
    return copysignf(a < 0.15f ? near : far, x);
}

AG_FORMULA real ag_sigmoid_real(real x)
{
    return 1 / (1 + EXP(-x));
}

/* exp(-x^2/2), and Phi, the distribution function of N(0, 1): Phi(-|x|) = exp(-x^2/2) P(|x|) with P near Mills' ratio /
 * sqrt(2 pi), so that no vector waits for a division. Error 2e-7. */
AG_FORMULA real ag_bell_real(real x)
{
    return EXP2(R(-0.72134752044448170368) * x * x);
}

AG_FORMULA real ag_phi_real(real x)
{
#ifdef AG_F64
    return 0.5 * (1 + erf(x * 0.70710678118654752440));
#else
    const float a = fabsf(x), c = a < 5.5f ? a : 5.5f;
    float p = 1.27136433e-06f;
    p = p * c - 2.89962483e-05f, p = p * c + 0.000295173413f, p = p * c - 0.0018014443f, p = p * c + 0.00754194514f;
    p = p * c - 0.023762991f, p = p * c + 0.0607018465f, p = p * c - 0.132305631f, p = p * c + 0.24986958f;
    p = p * c - 0.398932475f, p = p * c + 0.499999878f;
    const float tail = ag_bell_real(x) * p;
    return x > 0 ? 1 - tail : tail;
#endif
}

/* x Phi(x) and its derivative Phi(x) + x phi(x) (Hendrycks & Gimpel 2016) */
AG_FORMULA real ag_gelu_real(real x)
{
    return x * ag_phi_real(x);
}

AG_FORMULA real ag_gelu_grad_real(real x)
{
    return ag_phi_real(x) + x * R(0.39894228040143267794) * ag_bell_real(x);
}

/* x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3) */
AG_FORMULA real ag_gelu_tanh_real(real x)
{
    return R(0.5) * x * (1 + TANH(R(0.79788456080286535588) * (x + R(0.044715) * x * x * x)));
}

AG_FORMULA real ag_gelu_tanh_grad_real(real x)
{
    const real t = TANH(R(0.79788456080286535588) * (x + R(0.044715) * x * x * x));
    const real du = R(0.79788456080286535588) * (1 + R(0.134145) * x * x);
    return R(0.5) * (1 + t) + R(0.5) * x * (1 - t * t) * du;
}

/* x sigmoid(x) */
AG_FORMULA real ag_silu_real(real x)
{
    return x * ag_sigmoid_real(x);
}

AG_FORMULA real ag_silu_grad_real(real x)
{
    const real s = ag_sigmoid_real(x);
    return s * (1 + x * (1 - s));
}

AG_FORMULA real ag_relu6_real(real x)
{
    return x < 0 ? 0 : x > 6 ? 6 : x;
}

/* The sigmoid of MobileNetV3, relu6(x + 3) / 6, and x times it. (Howard et al. 2019) */
AG_FORMULA real ag_hardsigmoid_real(real x)
{
    return ag_relu6_real(x + 3) * R(1.0 / 6);
}

AG_FORMULA real ag_hardswish_real(real x)
{
    return x * ag_hardsigmoid_real(x);
}

AG_FORMULA real ag_hardswish_grad_real(real x)
{
    return x < -3 ? 0 : x > 3 ? 1 : x * R(1.0 / 3) + R(0.5);
}

/* y = lo .. hi by a sigmoid (fastai), and d x from d y. */
AG_FORMULA real ag_range_value(real x, real lo, real hi)
{
    return ag_sigmoid_real(x) * (hi - lo) + lo;
}

AG_FORMULA real ag_range_gradient(real dy, real y, real lo, real hi)
{
    return dy * (y - lo) * (hi - y) / (hi - lo);
}

#define SIGMOID ag_sigmoid_real
#define RANGE ag_range_value
#define RANGE_GRAD ag_range_gradient
#define SILU ag_silu_real
#define SILU_GRAD ag_silu_grad_real
#define RELU6 ag_relu6_real
#define HARDSIGMOID ag_hardsigmoid_real
#define HARDSWISH ag_hardswish_real
#define HARDSWISH_GRAD ag_hardswish_grad_real
#define GELU ag_gelu_real
#define GELU_GRAD ag_gelu_grad_real
#define GELU_TANH ag_gelu_tanh_real
#define GELU_TANH_GRAD ag_gelu_tanh_grad_real

#endif
