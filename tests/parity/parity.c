/* tests/parity/parity.c - what parity.py asks of the library besides build/model.
 *
 *     parity shapes NAME...                   names and shapes of parameters and buffers
 *     parity train NAME W X T STEPS LR        losses of AdamW from weights W on images "x" [STEPS, N, H, W, C], classes "t" */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "agrad.h"

static void print_tensor(const ag_tensor *t)
{
    printf("%s", t->name);
    for (int i = 0; i < t->ndim; i++) printf(" %" PRId64, t->shape[i]);
    printf("\n");
}

static void shapes(const char *name)
{
    AG_SCOPE;
    const nn_module *net = model_create(name);
    const model_info *m = model_info_of(net);
    printf("model %s %" PRId64 " %d %s %s", m->name, m->size, m->fixed_size, m->first, m->head);
    for (int i = 0; i < 3; i++) printf(" %.9g %.9g", m->mean[i], m->std[i]);
    printf("\n");
    for (int64_t i = 0; i < nn_param_count(net); i++) print_tensor(nn_param_at(net, i));
    for (int64_t i = 0; i < nn_buffer_count(net); i++) print_tensor(nn_buffer_at(net, i));
}

static void train(char **argv)
{
    AG_SCOPE;
    nn_module *net = model_create(argv[0]);
    nn_load(net, argv[1]);
    ag_tensor *x = ag_safetensors_get(ag_safetensors_open(argv[2]), "x");
    ag_tensor *t = ag_safetensors_get(ag_safetensors_open(argv[3]), "t");
    optim *opt = optim_adamw(net, atof(argv[5]), .weight_decay = 0.05, .wd_bn_bias = true);
    for (int i = 0; i < atoi(argv[4]); i++) {
        AG_SCOPE;
        ag_tensor *loss = ag_cross_entropy(nn_call(net, ag_select(x, 0, i)), ag_select(t, 0, i));
        printf("%.9g\n", ag_item(loss));
        ag_backward(loss);
        optim_step(opt);
    }
}

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "shapes")) {
        for (int i = 2; i < argc; i++) shapes(argv[i]);
    } else if (argc == 8 && !strcmp(argv[1], "train")) {
        train(argv + 2);
    } else {
        for (const model_info **m = model_list(argc > 1 ? argv[1] : "*"); *m; m++) puts((*m)->name);
    }
    return 0;
}
