/* model - image models by timm's names: look at them, time them, run them, convert their weights. `model help` lists
 * the commands, README.md tours them.
 *
 * Reading order: run.c (files in, files out), bench.c (a training loop and what it costs), plan.c, look.c,
 * files.c, options.c. */
#include "model.h"
#include <string.h>
#include <time.h>

static int help(const options *o);

#define SIZES "size classes channels "
static const command commands[] = {
    { "list", "[PATTERN]", 0, 1, "tsv", "", list, "meta", "the models, or those that match: 'convnext*'" },
    { "summary", "NAME", 1, 1, SIZES, "", summary, "meta", "its layers, shapes and parameters" },
    { "plan", "NAME", 1, 1, SIZES "batch train infer precision accumulate optimizer limit layers recompute threads tsv",
      "", plan, "meta", "the memory it will use, before anything is allocated" },
    { "bench", "NAME", 1, 1, SIZES "batch train infer precision threads steps recompute tsv", "", bench, "cpu",
      "images per second, GFLOP/s, memory, time to the first step" },
    { "forward", "NAME", 1, 1, "weights input output size classes batch skip finite precision threads",
      "weights input output", forward, "cpu", "images \"x\" of a file [N, H, W, C] -> \"logits\" and \"features\"" },
    { "grad", "NAME", 1, 1, "weights input target output size classes skip finite precision threads",
      "weights input target output", gradients, "cpu", "cross entropy's gradients of all parameters" },
    { "convert", "FROM TO", 2, 2, "finite", "", convert, "cpu", "a PyTorch checkpoint (.pth) -> safetensors" },
    { "diff", "A B", 2, 2, "tolerance tsv", "", diff, "cpu", "two files of tensors; exit status 1 where they differ" },
    { "help", "[COMMAND]", 0, 1, "", "", help, "cpu", "this, or the options of a command" },
    { 0 },
};

static int help(const options *o)
{
    const command *one = NULL;
    for (const command *c = commands; o->argument[0] && c->name; c++)
        if (!strcmp(c->name, o->argument[0])) one = c;
    if (o->argument[0] && !one)
        ag_fail(NULL, "model: there is no command '%s'; `model help` lists all", o->argument[0]);
    options_help(stdout, commands, one);
    return 0;
}

static double began;

static double clock_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double seconds(void)
{
    return clock_now() - began;
}

int main(int argc, char **argv)
{
    began = clock_now();
    const options o = options_parse(argc, argv, commands);
    ag_init(.device = o.command->device, .threads = (int)o.threads);
    AG_SCOPE;
    return o.command->run(&o);
}
