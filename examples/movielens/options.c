/* options.c - what this program understands. */
#include <string.h>
#include "movielens.h"

static void read_range(const program *p, const option *k, const char *text, options *o)
{
    char *end;
    o->lo = o->hi = 0;
    if (!strcmp(text, "none")) return;
    o->lo = options_number(p, k, text, &end);
    if (*end != ',') ag_fail(NULL, "movielens: --range takes lo,hi (0,5.5) or none, got '%s'", text);
    o->hi = options_number(p, k, end + 1, &end);
    if (*end || !(o->lo < o->hi)) ag_fail(NULL, "movielens: --range takes lo,hi with lo below hi, got '%s'", text);
}

static const option known[] = {
    OPTION("model", TEXT, AT(model), 0, 0, "dot bias nn", "dot, bias or nn (default bias)"),
    OPTION("factors", COUNT, AT(factors), 1, 4096, NULL, "factors of a user and a film (50)"),
    OPTION("layers", COUNTS, AT(layers), 1, 65536, NULL, "sizes of the nn model's layers (100,50)", .room = MODEL_MAX_LAYERS),
    OPTION("epochs", COUNT, AT(epochs), 1, 100000, NULL, "passes over the ratings (5)"),
    OPTION("batch", COUNT, AT(batch), 1, 1 << 24, NULL, "ratings per batch (64)"),
    OPTION("accumulate", COUNT, AT(accumulate), 1, 1 << 20, NULL, "batches per step (1)"),
    OPTION("lr", NUMBER, AT(lr), 1e-12, 1e3, NULL, "largest learning rate (5e-3)"),
    OPTION("wd", NUMBER, AT(wd), 0, 100, NULL, "weight decay (0.1)"),
    OPTION("range", OWN, AT(lo), -1e6, 1e6, NULL, "predictions between lo,hi, or none (0,5.5)", .read = read_range),
    OPTION("optim", TEXT, AT(optimizer), 0, 0, "adamw lazy adam sgd", "adamw, lazy, adam or sgd (adamw)"),
    OPTION("valid", NUMBER, AT(valid), 1e-9, 1 - 1e-9, NULL, "share of ratings held out (0.2)"),
    OPTION("valid-file", TEXT, AT(valid_file), 0, 0, NULL, "or: a file of ratings held out"),
    OPTION("by", TEXT, AT(by), 0, 0, "title id", "what a film is: its title or its id (title)"),
    OPTION("seed", COUNT, AT(seed), 0, 9e18, NULL, "of weights, split and order (42)"),
    OPTION("seeds", COUNT, AT(seeds), 1, 1000, NULL, "chapter: runs of each row (5)"),
    OPTION("device", TEXT, AT(device), 0, 0, NULL, "cpu, cuda, cuda:1, or a GPU where there is one (auto)"),
    OPTION("threads", COUNT, AT(threads), 1, 4096, NULL, "for the computation (all cores)"),
    OPTION("log", TEXT, AT(log), 0, 0, NULL, "CSV of the epochs"),
    OPTION("save", TEXT, AT(save), 0, 0, NULL, "model file, written after every epoch"),
    OPTION("resume", TEXT, AT(resume), 0, 0, NULL, "go on with a saved model file"),
    OPTION("user", TEXT, AT(user), 0, 0, NULL, "a user's id"),
    OPTION("item", TEXT, AT(item), 0, 0, NULL, "a film's title (or id)"),
    OPTION("new", TEXT, AT(fresh), 0, 0, NULL, "a new user's ratings: \"Title (1995)=5,Other (1996)=3\""),
    OPTION("top", COUNT, AT(top), 1, 1000, NULL, "how many films to list (10)"),
    OPTION("out", TEXT, AT(out), 0, 0, NULL, "picture to write"),
    OPTION("bias", FLAG, AT(bias), 0, 0, NULL, "spreadsheet: with biases"),
    OPTION("steps", COUNT, AT(steps), 0, 100000000, NULL, "spreadsheet: steps of gradient descent (0)"),
    OPTION("rate", NUMBER, AT(rate), 0, 1e3, NULL, "spreadsheet: learning rate (0.1)"),
    { 0 },
};

static int show_help(const options *o)
{
    return options_help(&o->line);
}

#define DATA "valid valid-file by seed device threads "
#define MODEL "model factors layers range batch accumulate lr wd optim "
static const command commands[] = {
    { "train", "[RATINGS]", 0, 1, MODEL DATA "epochs log save resume", "", train, "auto", "learn from ratings" },
    { "chapter", "[RATINGS]", 0, 1, "seeds by threads", "", chapter, "cpu",
      "the table of fastbook's chapter 8, and ours" },
    { "recommend", "F", 1, 1, "user new top threads", "", recommend, "cpu", "films for a user, or for a new one" },
    { "similar", "F TITLE", 2, 2, "top", "", similar, "cpu", "films whose factors point the same way" },
    { "biases", "F", 1, 1, "top", "", biases, "cpu", "films liked or disliked whatever the taste" },
    { "predict", "F", 1, 1, "user item threads", "user item", predict, "cpu", "one rating" },
    { "map", "F", 1, 1, "out top", "out", map, "cpu", "films in two dimensions" },
    { "lr-find", "[RATINGS]", 0, 1, MODEL DATA "out", "", lr_find, "auto", "loss against learning rate" },
    { "spreadsheet", "DIR", 1, 1, "bias steps rate", "", spreadsheet, "cpu", "the same by gradient descent, cell by cell" },
    { "download", "", 0, 0, "", "", download, "cpu", "MovieLens 100K into data/ml-100k" },
    { "help", "[COMMAND]", 0, 1, "", "", show_help, "cpu", "this, or the options of a command" },
    { 0 },
};

static const program movielens = {
    "movielens", commands, known,
    "RATINGS: a file or folder of MovieLens, or a CSV: user, item, rating.",
};

options read_options(int argc, char **argv)
{
    options o = { .model = "bias", .optimizer = "adamw", .by = "title", .factors = 50, .epochs = 5, .batch = 64, .accumulate = 1,
                  .lr = 5e-3, .wd = 0.1, .lo = 0, .hi = 5.5, .valid = 0.2, .seed = 42, .seeds = 5, .rate = 0.1, .top = 10,
                  .layers = { { 100, 50 } } };
    o.line = options_parse(&movielens, argc, argv, &o);
    o.ratings = o.line.argument[0], o.query = o.line.argument[1];
    return o;
}
