/* model.h - what the files of this program share. main.c is the place to begin reading. */
#ifndef MODEL_H
#define MODEL_H
#include <stdio.h>
#include "agrad.h"
#include "nn/plan.h"
#include "../common/options.h"

struct options {
    command_line line;                  /* its arguments: NAME, PATTERN or files */
    const char *as, *weights, *input, *output, *target, *skip, *precision, *optimizer;
    int64_t batch, size, classes, channels, accumulate, threads, steps, limit;
    double tolerance;
    bool train, infer, layers, tsv, finite, recompute;
};

/* look.c */
int list(const options *o);
int summary(const options *o);
/* plan.c */
int plan(const options *o);
/* What bench's steps should need. */
ag_plan plan_of(const options *o, nn_module *net, void (*layer)(void *, const ag_plan_layer *));
/* run.c */
int forward(const options *o);
int gradients(const options *o);
/* Cross entropy of the net's result. */
ag_tensor *loss_of(const options *o, nn_module *net, ag_tensor *x, ag_tensor *target);
/* bench.c */
int bench(const options *o);
/* files.c */
int convert(const options *o);
int diff(const options *o);

/* Until the closing brace: AG_AUTOCAST with a precision that is known when the program runs. */
#define PRECISION(name) ag_scope precision_ AG_CLEANUP(ag_scope_end) = ag_autocast_begin(AG_HERE, name)
/* Seconds since the program began. */
double seconds(void);
/* The model of argument 0 with the options' classes, channels and size. */
nn_module *make_model(const options *o);
/* [batch, side, side, channels] */
ag_shape batch_shape(const options *o);
/* "resnet18, training of 4 images 224 x 224, f32", unless --tsv. */
void print_title(const options *o);
/* 28589128 -> "28,589,128" into buf; returns buf. */
char *with_commas(int64_t n, char *buf);

#endif
