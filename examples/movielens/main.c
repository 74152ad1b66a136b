/* movielens - recommendations from ratings, learned with Agrad. `movielens help` lists the commands; README.md tours them.
 *
 * Reading order: train.c (the script), ratings.c (files), model.c and interpret.c (using what was learned), cold.c (a new
 * user), spreadsheet.c (the same by hand), options.c. */
#include <stdio.h>
#include <string.h>
#include "movielens.h"

static int help(const options *o)
{
    (void)o;
    options_help(stdout);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct { const char *name; int (*run)(const options *); } commands[] = {
        { "train", train }, { "chapter", chapter }, { "recommend", recommend }, { "similar", similar }, { "biases", biases },
        { "predict", predict }, { "map", map }, { "lr-find", lr_find }, { "spreadsheet", spreadsheet },
        { "download", download }, { "help", help },
    };
    const options o = options_parse(argc, argv);
    ag_init(.seed = (uint64_t)o.seed, .threads = (int)o.threads);
    AG_SCOPE;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(commands[i].name, o.command)) return commands[i].run(&o);
    return 2;
}
