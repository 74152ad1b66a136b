/* nn/plan.h - how much memory a model will use, before anything is allocated.
 *
 *     const ag_plan p = ag_memory_plan(net, AG_SHAPE(32, 224, 224, 3), .train = true);
 *     printf("%.0f MB, the most of it in %s\n", 1e-6 * (double)p.peak, p.where);
 *
 * The rules of the ops run alone, forward and backward, on tensors without memory: the net may be one that is trained
 * meanwhile, which does not notice, or one made on the device "meta" (ag_init), whose weights need no memory either. */
#ifndef AG_PLAN_H
#define AG_PLAN_H
#include "nn/nn.h"
AG_BEGIN_DECLS

typedef enum { AG_PLAN_ADAMW, AG_PLAN_MOMENTUM, AG_PLAN_SGD } ag_plan_optimizer;     /* 2, 1, 0 numbers per parameter */

typedef struct {
    const char *path, *type;            /* of a module; "" for the net itself, and last for what lies outside of it */
    ag_shape output;                    /* ndim -1: it was not called */
    int64_t kept;                       /* bytes of activations made in it (not in modules below) that backward needs */
    int64_t parameters;                 /* how many numbers, its own */
} ag_plan_layer;

/* Bytes. All but the last two are parts of `peak`: what is held at the moment when it is most. */
typedef struct {
    int64_t parameters;                 /* with buffers */
    int64_t gradients, optimizer;       /* of parameters */
    int64_t activations;                /* and their gradients */
    int64_t workspace, packed;          /* scratch of ops; repacked copies of parameters */
    int64_t input;                      /* images and targets of one batch */
    int64_t peak;                       /* as ag_memory(device).peak */
    int64_t resident;                   /* the memory that has to be there for it: with the gaps between tensors */
    const char *where;                  /* path of the module that runs at the peak */
    bool in_backward;
    int64_t batch;                      /* samples at once */
} ag_plan;

/*   .train        forward, backward and the optimizer's state; else evaluation
 *   .precision    AG_BF16: inside AG_AUTOCAST(bf16); else as around the call
 *   .accumulate   the batch is computed in so many parts
 *   .optimizer    whose state; frozen parameters have it as well (optim/optim.h)
 *   .device       AG_CUDA: on the GPU (default: where the net's parameters are); needs none, only a build with its kernels
 *   .input_type   dtype of the batch
 *   .loss         of the net's result and targets of .target_type and shape .target, whose first size is the batch's (default:
 *                 cross entropy and i64 [N] where the result is [N, C], else the squared error)
 *   .loss_with    instead of .loss: one that takes .loss_arg first
 *   .layer        is told about every module, in order of registration */
typedef struct {
    AG_NAMED_OPTIONS;
    bool train;
    ag_dtype precision;
    int accumulate;
    ag_plan_optimizer optimizer;
    ag_device device;
    ag_dtype input_type;
    ag_tensor *(*loss)(ag_tensor *pred, ag_tensor *target);
    ag_tensor *(*loss_with)(void *arg, ag_tensor *pred, ag_tensor *target);
    void *loss_arg;
    ag_shape target;
    ag_dtype target_type;
    void (*layer)(void *arg, const ag_plan_layer *layer);
    void *layer_arg;
} ag_plan_opts;
#define ag_memory_plan(net, ...) \
    ag_memory_plan_(AG_HERE, net, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_plan_opts, __VA_ARGS__))
ag_plan ag_memory_plan_(const char *at, nn_module *net, ag_shape input, ag_plan_opts opts);

/* The most samples at once, up to input's first size, whose plan needs no more than `bytes` of memory; 0: not even one. */
#define ag_memory_fit(net, input, ...) \
    ag_memory_fit_(AG_HERE, net, input, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_plan_opts, __VA_ARGS__))
int64_t ag_memory_fit_(const char *at, nn_module *net, ag_shape input, int64_t bytes, ag_plan_opts opts);

AG_END_DECLS
#endif
