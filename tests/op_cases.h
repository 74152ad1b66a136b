/* tests/op_cases.h - the check[] rows of ops as inputs, for the tests that walk over all ops. */
#ifndef OP_CASES_H
#define OP_CASES_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agrad.h"
#include "core/random.h"
#include "core/op.h"

enum { MAX_INPUTS = 8 };
typedef struct { char name[32], kind[32]; ag_shape shape; } input;

/* "x[4,8] w[8]:pos ids[5]:i64<7" */
static inline int parse(const char *spec, input *in)
{
    int n = 0;
    while (*spec && n < MAX_INPUTS) {
        input *i = &in[n++];
        *i = (input){ 0 };
        int used = 0;
        sscanf(spec, "%31[a-z0-9_][%n", i->name, &used);
        spec += used;
        while (*spec != ']') {
            i->shape.dim[i->shape.ndim++] = strtoll(spec, (char **)(uintptr_t)&spec, 10);
            if (*spec == ',') spec++;
        }
        spec++;
        if (*spec == ':') sscanf(spec, ":%31[^ ]", i->kind), spec += 1 + strlen(i->kind);
        while (*spec == ' ') spec++;
    }
    return n;
}

static inline bool differentiable(const input *i)
{
    return !i->kind[0] || !strcmp(i->kind, "pos") || !strcmp(i->kind, "01") || !strcmp(i->kind, "far");
}

static inline ag_tensor *make(const input *i, uint64_t key)
{
    ag_rng r = { .seed = key, .stream = 77 };
    const bool i64 = !strncmp(i->kind, "i64", 3), u8 = !strcmp(i->kind, "u8");
    ag_tensor *t = ag_empty_(AG_HERE, i64 ? AG_I64 : u8 ? AG_U8 : AG_F32, i->shape);
    for (int64_t k = 0; k < ag_numel(t); k++) {
        if (i64) ((int64_t *)t->data)[k] = ag_rng_below(&r, atoll(i->kind + 4));
        else if (u8) ((uint8_t *)t->data)[k] = (uint8_t)ag_rng_below(&r, 2);
        else if (!strcmp(i->kind, "pos") || !strcmp(i->kind, "cpos")) ag_real(t)[k] = (real)(0.5 + ag_rng_uniform(&r));
        else if (!strcmp(i->kind, "01") || !strcmp(i->kind, "u01")) ag_real(t)[k] = (real)ag_rng_uniform(&r);
        else ag_real(t)[k] = (real)(ag_rng_normal(&r) * (strcmp(i->kind, "far") ? 1 : 3));
    }
    return differentiable(i) ? ag_param(t) : t;
}

static inline int make_all(const ag_check *c, input *spec, ag_tensor **in)
{
    const int n = parse(c->inputs, spec);
    for (int i = 0; i < n; i++) in[i] = make(&spec[i], (uint64_t)i + 1);
    return n;
}

static inline ag_tensor *with_stride_two(ag_tensor *x)
{
    ag_shape s = ag_shape_of(x);
    s.dim[s.ndim++] = 2;
    ag_tensor *wide = ag_empty_(AG_HERE, x->dtype, s);
    ag_fill(wide, -7);
    ag_copy(ag_select(wide, -1, 0), x);
    if (x->requires_grad) ag_param(wide);
    return ag_select(wide, -1, 0);
}

static inline double *doubles(const ag_tensor *t)
{
    ag_tensor *dense = ag_contiguous(ag_cast((ag_tensor *)(uintptr_t)t, AG_F32));
    double *v = calloc((size_t)ag_numel(t) + 1, sizeof *v);
    for (int64_t i = 0; i < ag_numel(t); i++) v[i] = (double)ag_real(dense)[i];
    return v;
}

#endif
