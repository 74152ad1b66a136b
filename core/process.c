/* core/process.c - what holds for the whole process: device, threads, moving tensors between devices. */
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/engine.h"
#include "core/random.h"
#include "core/ranks.h"

static ag_device default_device = AG_CPU;
static atomic_int threads;
static atomic_bool tf32;

static int cores(void)                  /* of this process: taskset and containers are respected */
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) return 1;
    const int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}

static void set_device(const char *at, const char *name)
{
    char why[512] = "";
    const bool automatic = strcmp(name, "auto") == 0;
    if (strncmp(name, "cuda:", 5) == 0) {
        char *end;
        const long index = strtol(name + 5, &end, 10);
        if (end == name + 5 || *end || index < 0 || index > 1023)
            ag_fail(at, "ag_init: .device = \"%s\"; behind cuda: stands the number of a GPU, from 0", name);
        ag_cuda_wanted = (int)index;
        name = "cuda";
    }
    if (strcmp(name, "cpu") == 0) default_device = AG_CPU;
    else if (strcmp(name, "meta") == 0) default_device = AG_META;
    else if (!automatic && strcmp(name, "cuda") != 0)
        ag_fail(at, "ag_init: .device = \"%s\" is unknown; it is \"cpu\", \"cuda\", \"cuda:1\" (the second GPU), "
                "\"auto\" or \"meta\"", name);
    else if (ag_cuda_available(why, sizeof why)) default_device = AG_CUDA;
    else if (!automatic) ag_fail(at, "ag_init: .device = \"cuda\" cannot be used: %s", why);
    else {
        default_device = AG_CPU;
        fprintf(stderr, "running on the cpu: %s\n", why);
    }
}

void ag_init_(const char *at, ag_init_opts opts)
{
    if (opts.threads < 0 || opts.threads > 4096)
        ag_fail(at, "ag_init: .threads = %d; it is 1 to 4096, or 0 for the cores of this process", opts.threads);
    ag_ranks_begin(at);
    if (opts.device) set_device(at, opts.device);
    atomic_store(&threads, opts.threads ? opts.threads : cores());
    atomic_store(&tf32, opts.tf32);
    ag_manual_seed(opts.seed);
}

bool ag_tf32(void)
{
    return atomic_load_explicit(&tf32, memory_order_relaxed);
}

ag_device ag_default_device(void)
{
    return ag_ledger_now ? AG_META : default_device;
}

int ag_threads(void)
{
    int n = atomic_load_explicit(&threads, memory_order_relaxed);
    if (!n) atomic_store(&threads, n = cores());
    return n;
}

/* ---- ag_to --------------------------------------------------------------------------------------------- */

static void move(ag_tensor *dst, const ag_tensor *src)         /* contiguous, one dtype */
{
    const size_t bytes = (size_t)ag_numel(src) * ag_dtype_size(src->dtype);
    if (!bytes || dst->device == AG_META) return;
    if (src->device == AG_CPU) ag_device_table(dst->device)->copy_in(dst->data, src->data, bytes);
    else ag_device_table(src->device)->copy_out(dst->data, src->data, bytes);
}

static void to_infer(ag_node *n)
{
    const ag_device target = *(const ag_device *)n->arg;
    n->out = ag_tensor_new(n->at, target, AG_MEM_TENSOR, n->in[0]->dtype, ag_shape_of(n->in[0]));
}

static void to_forward(ag_node *n)
{
    move(n->out, n->in[0]);
}

static void to_backward(ag_node *n)
{
    if (!n->din[0]) return;
    ag_tensor *g = ag_scoped(ag_tensor_new(n->at, n->in[0]->device, AG_MEM_GRAD, n->in[0]->dtype, ag_shape_of(n->in[0])));
    move(g, n->out->grad);
    ag_node_give(n, 0, g);
}

static const ag_op op_to = {
    .name = "to", .inputs = "t", .infer = to_infer, .bf16 = 1,
    .forward = { to_forward, to_forward }, .backward = { to_backward, to_backward },
};

ag_tensor *ag_to_(const char *at, ag_tensor *t, ag_device device)
{
    if (t->device == device) return t;
    if (ag_ledger_now || (t->device == AG_META && default_device == AG_META)) return t;
    if (t->device == AG_META) ag_fail(at, "ag_to: a meta tensor has a shape but no values");
    return ag_apply_(at, &op_to, 1, &t, &device, sizeof device);
}
