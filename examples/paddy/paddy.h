/* paddy.h - what the files of this program share. train.c is the place to begin reading. */
#ifndef PADDY_H
#define PADDY_H
#include "agrad.h"
#include "examples/common/options.h"

/* ---- options.c ----------------------------------------------------------------------------------------- */

enum { MAX_MODELS = 16 };
struct options {
    command_line line;
    const char *device, *table, *targets, *arch, *weights, *resize, *precision, *log, *save, *resume, *out, *csv, *valid_table;
    int64_t size, epochs, freeze_epochs, batch, accumulate[4], seed, workers, threads, memory, n, diseases, varieties;
    double lr, wd, valid;
    bool tta, augmented, measure;
};
options read_options(int argc, char **argv);

/* ---- leaves.c: photographs, or painted ones ------------------------------------------------------------ */

typedef struct { char dir[1024], table[1100]; bool has_table; } leaves;
/* dir, or where it is NULL $AGRAD_DATA/paddy-small, ../shared/data/paddy-small, else painted ones; says which in one line. */
leaves leaves_find(const options *o, const char *dir);
/* The targets label and variety are called disease and variety. like: a model whose classes, sizes and normalisation they
 * have, or NULL. */
typedef struct model model;
data_loaders leaves_loaders(const options *o, const leaves *where, const model *like);
data_transform leaves_resize(const char *text);         /* "192,squish" */
void leaves_paint(const char *dir, int64_t n, int64_t size, int64_t diseases, int64_t varieties, uint64_t seed);

/* ---- model.c: a saved model ---------------------------------------------------------------------------- */

/* split: which pictures it did not learn from. history: the table of its epochs, or NULL. */
struct model {
    nn_module *net;
    const char *path, *arch, *resize, *valid_table, *history;
    int64_t size, seed;
    double valid;
    data_targets targets;
};
enum { MODEL_META = 28 };
/* What a checkpoint needs to be used alone; the text belongs to the scope. */
int model_meta(const options *o, const data_targets *targets, ag_meta *meta);
model model_open(const char *path);
/* Those that the arguments begin with, into m[MAX_MODELS]; of one ensemble they know the same classes. Returns how many. */
int models_open(const options *o, model *m);

/* ---- commands ------------------------------------------------------------------------------------------ */

int train(const options *o);
int lr_find(const options *o);
int show(const options *o);
int predict(const options *o);
int report(const options *o);
int sizes(const options *o);
int check(const options *o);
int paint(const options *o);

#endif
