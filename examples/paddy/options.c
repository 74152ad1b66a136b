/* options.c - what this program understands. */
#include <string.h>
#include "paddy.h"

static const option known[] = {
    OPTION("table", TEXT, AT(table), 0, 0, NULL, "CSV with image_id and labels (DIR/train.csv)"),
    OPTION("targets", TEXT, AT(targets), 0, 0, NULL, "columns to learn (label,variety)"),
    OPTION("arch", TEXT, AT(arch), 0, 0, NULL, "a model of `model list` (resnet10t)"),
    OPTION("weights", TEXT, AT(weights), 0, 0, NULL, "its pretrained weights: fine-tunes them"),
    OPTION("size", COUNT, AT(size), 8, 4096, NULL, "side of the pictures learned from (128)"),
    OPTION("resize", TEXT, AT(resize), 0, 0, NULL, "before: SIDE,squish|crop|pad (192,squish)"),
    OPTION("epochs", COUNT, AT(epochs), 1, 100000, NULL, "passes over the pictures (24; with --weights 5)"),
    OPTION("freeze-epochs", COUNT, AT(freeze_epochs), 1, 100000, NULL, "with --weights: for the head alone, before (1)"),
    OPTION("batch", COUNT, AT(batch), 1, 1 << 20, NULL, "pictures per batch (32)"),
    OPTION("accumulate", COUNTS, AT(accumulate), 1, 1 << 20, NULL, "batches per step (1); of sizes several (1,2,4)", .room = 4),
    OPTION("lr", NUMBER, AT(lr), 1e-12, 1e3, NULL, "largest learning rate (3e-3; with --weights 0.01)"),
    OPTION("wd", NUMBER, AT(wd), 1e-12, 100, NULL, "weight decay (0.05)"),
    OPTION("precision", TEXT, AT(precision), 0, 0, "auto f32 tf32 bf16",
           "f32, tf32 (on a GPU), bf16, or bf16 where it is fast (auto)"),
    OPTION("valid", NUMBER, AT(valid), 1e-9, 1 - 1e-9, NULL, "share of pictures held out (0.2)"),
    OPTION("valid-table", TEXT, AT(valid_table), 0, 0, NULL, "CSV whose image_id are held out instead"),
    OPTION("seed", COUNT, AT(seed), 1, 9e18, NULL, "of weights, split, order, augmentation (42)"),
    OPTION("workers", COUNT, AT(workers), 0, 256, NULL, "threads that prepare pictures ahead (1)"),
    OPTION("device", TEXT, AT(device), 0, 0, NULL, "cpu, cuda, cuda:1, or a GPU where there is one (auto)"),
    OPTION("threads", COUNT, AT(threads), 1, 4096, NULL, "for the computation (all cores)"),
    OPTION("memory", BYTES, AT(memory), 1 << 20, 1e15, NULL, "may be used, as 8G: batches are split to fit"),
    OPTION("tta", FLAG, AT(tta), 0, 0, NULL, "test-time augmentation as well"),
    OPTION("log", TEXT, AT(log), 0, 0, NULL, "CSV of the epochs"),
    OPTION("save", TEXT, AT(save), 0, 0, NULL, "model file, written after every epoch"),
    OPTION("resume", TEXT, AT(resume), 0, 0, NULL, "go on with a saved model file"),
    OPTION("out", TEXT, AT(out), 0, 0, NULL, "picture, or page, to write"),
    OPTION("augmented", FLAG, AT(augmented), 0, 0, NULL, "as they are learned from"),
    OPTION("csv", TEXT, AT(csv), 0, 0, NULL, "table to write"),
    OPTION("measure", FLAG, AT(measure), 0, 0, NULL, "run the steps as well"),
    OPTION("n", COUNT, AT(n), 1, 10000000, NULL, "how many to paint (600)"),
    OPTION("diseases", COUNT, AT(diseases), 1, 10, NULL, "to paint (10)"),
    OPTION("varieties", COUNT, AT(varieties), 1, 10, NULL, "to paint (10)"),
    { 0 },
};

static int show_help(const options *o)
{
    return options_help(&o->line);
}

#define SOURCE "table targets size resize batch valid valid-table seed workers threads "
#define DATA SOURCE "device "
#define MODEL "arch weights accumulate lr wd precision memory "
static const command commands[] = {
    { "train", "[DIR]", 0, 1, DATA MODEL "epochs freeze-epochs tta log save resume", "", train, "auto",
      "learn from photographs" },
    { "lr-find", "[DIR]", 0, 1, DATA MODEL "out", "", lr_find, "auto", "loss against learning rate" },
    { "show", "[DIR]", 0, 1, SOURCE "out augmented", "out", show, "cpu", "a batch as a picture" },
    { "predict", "F... IMAGE...|DIR", 2, ANY_NUMBER, "batch device threads csv tta", "", predict, "auto",
      "photographs by one model, or several" },
    { "report", "F... [DIR]", 1, ANY_NUMBER, "out table valid-table batch workers device threads tta", "out", report, "auto",
      "errors of saved models, as a page" },
    { "sizes", "[ARCH...]", 0, ANY_NUMBER, "batch size accumulate measure threads", "", sizes, "meta",
      "memory of a step by accumulation" },
    { "check", "DIR", 1, 1, "", "", check, "cpu", "each file: ok, or bad and why" },
    { "paint", "DIR", 1, 1, "n size diseases varieties seed", "", paint, "cpu", "makes leaves, and a table of them" },
    { "help", "[COMMAND]", 0, 1, "", "", show_help, "cpu", "this, or the options of a command" },
    { 0 },
};

static const program paddy = {
    "paddy", commands, known,
    "DIR: class folders of photographs, or train.csv (image_id, label, variety)\n"
    "beside train_images. Without it: paddy-small where it is found, else leaves\n"
    "are painted.",
};

options read_options(int argc, char **argv)
{
    options o = { .arch = "resnet10t", .resize = "192,squish", .size = 128, .batch = 32, .precision = "auto",
                  .valid = 0.2, .seed = 42, .workers = 1, .wd = 0.05, .n = 600, .diseases = 10, .varieties = 10 };
    o.line = options_parse(&paddy, argc, argv, &o);
    const bool many = o.line.command->run == sizes;
    if (!o.accumulate[0]) memcpy(o.accumulate, (int64_t[]){ 1, many ? 2 : 0, many ? 4 : 0, 0 }, sizeof o.accumulate);
    if (o.accumulate[1] && !many) ag_fail(NULL, "paddy: --accumulate takes one number here");
    if (!o.epochs) o.epochs = o.weights ? 5 : 24;
    if (!(o.lr > 0)) o.lr = o.weights ? 0.01 : 3e-3;
    return o;
}
