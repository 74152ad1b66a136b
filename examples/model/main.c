/* model - image models by timm's names: look at them, time them, run them, convert their weights. `model help` lists
 * the commands, README.md tours them.
 *
 * Reading order: run.c (files in, files out), bench.c (a training loop and what it costs), plan.c, look.c,
 * files.c. */
#include "model.h"
#include <time.h>

static const option known[] = {
    OPTION("batch", COUNT, AT(batch), 1, 1 << 20, NULL, "images at once (4)"),
    OPTION("size", COUNT, AT(size), 1, 1 << 16, NULL, "side of the images (the model's own)"),
    OPTION("classes", COUNT, AT(classes), 1, 1 << 24, NULL, "of the classifier (1000, or those of --weights)"),
    OPTION("channels", COUNT, AT(channels), 1, 4096, NULL, "of the images (3)"),
    OPTION("train", FLAG, AT(train), 0, 0, NULL, "forward, backward and a step of AdamW"),
    OPTION("infer", FLAG, AT(infer), 0, 0, NULL, "forward alone (the default)"),
    OPTION("precision", TEXT, AT(precision), 0, 0, "f32 bf16", "f32, or bf16 for products and convolutions (f32)"),
    OPTION("accumulate", COUNT, AT(accumulate), 1, 1 << 20, NULL, "the batch is computed in so many parts (1)"),
    OPTION("optimizer", TEXT, AT(optimizer), 0, 0, "adamw momentum sgd", "adamw, momentum or sgd (adamw)"),
    OPTION("limit", BYTES, AT(limit), 1, 1e15, NULL, "memory that may be used, as 8G or 512M"),
    OPTION("layers", FLAG, AT(layers), 0, 0, NULL, "a line for each layer"),
    OPTION("recompute", FLAG, AT(recompute), 0, 0, NULL, "blocks are computed again in backward instead of kept"),
    OPTION("threads", COUNT, AT(threads), 1, 4096, NULL, "for the computation (all cores)"),
    OPTION("steps", COUNT, AT(steps), 1, 1 << 24, NULL, "to time (as many as fit into three seconds)"),
    OPTION("weights", TEXT, AT(weights), 0, 0, NULL, "safetensors, or a PyTorch checkpoint"),
    OPTION("input", TEXT, AT(input), 0, 0, NULL, "\"x\" [N, H, W, C]: f32 normalised, or u8 pixels"),
    OPTION("target", TEXT, AT(target), 0, 0, NULL, "classes i64 [N], or probabilities f32 [N, classes]"),
    OPTION("output", TEXT, AT(output), 0, 0, NULL, "file to write (safetensors)"),
    OPTION("skip", TEXT, AT(skip), 0, 0, NULL, "names of weights that are not loaded: \"head.* *.bias\""),
    OPTION("as", TEXT, AT(as), 0, 0, NULL, "give the tensors this model's names, in its order"),
    OPTION("finite", FLAG, AT(finite), 0, 0, NULL, "refuse weights that are NaN or infinite"),
    OPTION("tolerance", NUMBER, AT(tolerance), 0, 1e9, NULL, "largest difference, relative to the largest value (0)"),
    OPTION("tsv", FLAG, AT(tsv), 0, 0, NULL, "fields with tabs between them, for programs"),
    { 0 },
};

static int show_help(const options *o)
{
    return options_help(&o->line);
}

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
    { "convert", "FROM TO", 2, 2, "finite as classes", "", convert, "cpu", "a PyTorch checkpoint (.pth) -> safetensors" },
    { "diff", "A B", 2, 2, "tolerance tsv", "", diff, "cpu", "two files of tensors; exit status 1 where they differ" },
    { "help", "[COMMAND]", 0, 1, "", "", show_help, "cpu", "this, or the options of a command" },
    { 0 },
};

static const program model = { "model", commands, known, "" };

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
    options o = { .batch = 4, .accumulate = 1, .precision = "f32", .optimizer = "adamw" };
    o.line = options_parse(&model, argc, argv, &o);
    if (o.train && o.infer) ag_fail(NULL, "model: --train or --infer, not both");
    ag_init(.device = o.line.command->device, .threads = (int)o.threads);
    AG_SCOPE;
    return o.line.command->run(&o);
}
