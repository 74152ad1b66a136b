/* paddy - disease and variety of rice leaves from photographs, learned with Agrad. `paddy help` lists the commands; README.md
 * tours them.
 *
 * Reading order: train.c (the script), leaves.c (data), model.c, predict.c and report.c (using what was learned), page.c, look.c,
 * leaf.c (painting), options.c. */
#include <string.h>
#include "paddy.h"

int main(int argc, char **argv)
{
    const options o = read_options(argc, argv);
    ag_init(.seed = (uint64_t)o.seed, .threads = (int)o.threads, .tf32 = o.precision && !strcmp(o.precision, "tf32"),
            .device = o.measure ? "cpu" : o.device ? o.device : o.line.command->device);
    AG_SCOPE;
    return o.line.command->run(&o);
}
