/* movielens - recommendations from ratings, learned with Agrad. `movielens help` lists the commands; README.md tours them.
 *
 * Reading order: train.c (the script), ratings.c (files), model.c and interpret.c (using what was learned), cold.c (a new
 * user), spreadsheet.c (the same by hand), options.c. */
#include "movielens.h"

int main(int argc, char **argv)
{
    const options o = read_options(argc, argv);
    ag_init(.seed = (uint64_t)o.seed, .threads = (int)o.threads,
            .device = o.device ? o.device : o.line.command->device);
    AG_SCOPE;
    return o.line.command->run(&o);
}
