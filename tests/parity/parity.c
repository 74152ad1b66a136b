/* tests/parity/parity.c - what parity.py asks of the library besides build/model.
 *
 *     parity                                  of all models: what is known, names and shapes of parameters and buffers
 *     parity train NAME W X T STEPS LR DECAY  losses of AdamW from weights W on images "x" [STEPS, N, H, W, C], classes "t" */
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

static void shapes(const model_info *m)
{
    AG_SCOPE;
    const nn_module *net = model_create(m->name);
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
    optim *opt = optim_adamw(net, atof(argv[5]), .weight_decay = atof(argv[6]), .wd_bn_bias = true);
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
    if (argc == 9 && !strcmp(argv[1], "train")) {
        train(argv + 2);
        return 0;
    }
    ag_init(.device = "meta");
    for (const model_info **m = model_list("*"); *m; m++) shapes(*m);
    return 0;
}
