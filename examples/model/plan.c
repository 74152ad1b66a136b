/* plan.c - the memory of a model before there is any. */
#include <string.h>
#include "model.h"

static ag_plan_opts plan_opts(const options *o)
{
    const char *name = o->optimizer;
    return (ag_plan_opts){
        .train = o->train, .accumulate = (int)o->accumulate,
        .precision = strcmp(o->precision, "bf16") ? AG_F32 : AG_BF16,
        .optimizer = !strcmp(name, "sgd") ? AG_PLAN_SGD : strcmp(name, "momentum") ? AG_PLAN_ADAMW : AG_PLAN_MOMENTUM,
    };
}

ag_plan plan_of(const options *o, nn_module *net, void (*layer)(void *, const ag_plan_layer *))
{
    ag_plan_opts opts = plan_opts(o);
    opts.layer = layer, opts.layer_arg = (void *)(uintptr_t)o;
    return ag_memory_plan_(NULL, net, batch_shape(o), opts);
}

static void print_layer(void *arg, const ag_plan_layer *l)
{
    const options *o = arg;
    ag_tensor t = { .ndim = l->output.ndim };
    char shape[128] = "[", numbers[32];
    for (int i = 0; i < l->output.ndim; i++) t.shape[i] = l->output.dim[i];
    if (l->output.ndim >= 0) ag_describe(&t, shape, sizeof shape);
    const char *sizes = l->output.ndim < 0 ? "" : strchr(shape, '[');
    const char *path = *l->path ? l->path : *l->type ? "(whole)" : "(outside)";
    if (!l->kept && !l->parameters && !o->tsv) return;
    if (o->tsv)
        printf("layer\t%s\t%s\t%s\t%" PRId64 "\t%" PRId64 "\n", path, l->type, sizes, l->parameters, l->kept);
    else
        printf("%-32s %-14s %-20s %12s %10.1f MB\n", path, l->type, sizes, with_commas(l->parameters, numbers),
               1e-6 * (double)l->kept);
}

static void row(const options *o, const char *key, int64_t bytes, const char *what)
{
    if (o->tsv) printf("%s\t%" PRId64 "\tbytes\n", key, bytes);
    else printf("%-30s %10.1f MB\n", what, 1e-6 * (double)bytes);
}

/* Whether it fits; where it does not, which batch does. */
static int judge(const options *o, nn_module *net, const ag_plan *p)
{
    const int64_t limit = o->limit ? o->limit : ag_memory_budget(AG_CPU);
    const double mb = 1e-6 * (double)limit;
    if (!limit) return 0;
    if (o->tsv) printf("limit\t%" PRId64 "\tbytes\n", limit);
    if (p->resident <= limit) {
        if (!o->tsv) printf("fits into %.0f MB%s\n", mb, o->limit ? "" : " of this machine");
        return 0;
    }
    const int64_t most = ag_memory_fit_(NULL, net, batch_shape(o), limit, plan_opts(o));
    if (o->tsv) printf("fits\t%" PRId64 "\timages\n", most);
    else if (!most) printf("does not fit into %.0f MB, not even with one image at once\n", mb);
    else if (!o->train) printf("does not fit into %.0f MB; --batch %" PRId64 " does\n", mb, most);
    else
        printf("does not fit into %.0f MB; %" PRId64 " images at once do: --accumulate %" PRId64 "\n", mb, most,
               (o->batch + most - 1) / most);
    return 1;
}

int plan(const options *o)
{
    nn_module *net = make_model(o);
    print_title(o);
    if (o->layers && !o->tsv)
        printf("%-32s %-14s %-20s %12s %13s\n", "layer", "type", "output", "parameters", "kept");
    const ag_plan p = plan_of(o, net, o->layers ? print_layer : NULL);
    row(o, "parameters", p.parameters, "parameters");
    if (o->train) row(o, "gradients", p.gradients, "their gradients");
    if (o->train) row(o, "optimizer", p.optimizer, "state of the optimizer");
    row(o, "activations", p.activations, "activations");
    row(o, "workspace", p.workspace, "workspace");
    row(o, "packed", p.packed, "repacked parameters");
    row(o, "input", p.input, "images and targets");
    row(o, "peak", p.peak, "at the peak");
    row(o, "resident", p.resident, "memory needed for it");
    const char *where = p.where && *p.where ? p.where : "no module";
    if (!o->tsv) printf("the peak is in %s%s\n", where, p.in_backward ? ", backward" : "");
    return judge(o, net, &p);
}
