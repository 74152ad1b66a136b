/* paddy.h - what the files of this program share. train.c is the place to begin reading. */
#ifndef PADDY_H
#define PADDY_H
#include "agrad.h"
#include "examples/common/options.h"

/* ---- options.c ----------------------------------------------------------------------------------------- */

enum { MAX_MODELS = 16 };
struct options {
    command_line line;
    const char *table, *targets, *arch, *weights, *resize, *precision, *log, *save, *resume, *out, *csv;
    int64_t size, epochs, batch, accumulate, seed, workers, threads, memory, n, diseases, varieties;
    double lr, wd, valid;
    bool tta, augmented;
};
options read_options(int argc, char **argv);

/* ---- leaves.c: photographs, or painted ones ------------------------------------------------------------ */

typedef struct { char dir[1024], table[1100]; bool has_table; } leaves;
/* DIR, else $AGRAD_DATA/paddy-small, ../shared/data/paddy-small, else painted ones; says which in one line. */
leaves leaves_find(const options *o);
/* Normalised as arch wants them. The targets label and variety are called disease and variety. */
data_loaders leaves_loaders(const options *o, const leaves *where);
data_transform leaves_resize(const char *text);         /* "192,squish" */
void leaves_paint(const char *dir, int64_t n, int64_t size, int64_t diseases, int64_t varieties, uint64_t seed);

/* ---- model.c: a saved model ---------------------------------------------------------------------------- */

typedef struct { nn_module *net; const char *arch, *resize; int64_t size; data_targets targets; } model;
enum { MODEL_META = 16 };
/* What a checkpoint needs to be used alone; the text belongs to the scope. */
int model_meta(const options *o, const data_targets *targets, ag_meta *meta);
model model_open(const char *path);

/* ---- commands ------------------------------------------------------------------------------------------ */

int train(const options *o);
int lr_find(const options *o);
int show(const options *o);
int predict(const options *o);
int sizes(const options *o);
int check(const options *o);
int paint(const options *o);

#endif
