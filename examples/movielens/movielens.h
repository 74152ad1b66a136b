/* movielens.h - what the files of this program share. main.c is the place to begin reading. */
#ifndef MOVIELENS_H
#define MOVIELENS_H
#include "agrad.h"
#include "../common/options.h"

/* ---- options.c ----------------------------------------------------------------------------------------- */

struct options {
    command_line line;
    const char *device, *ratings;                    /* positional: RATINGS, the model file F or DIR */
    const char *query;                      /* second positional: a title */
    const char *model, *optimizer, *by, *log, *save, *resume, *valid_file, *out, *fresh, *user, *item;
    int64_t factors, epochs, batch, accumulate, seed, seeds, threads, steps, top;
    model_layers layers;
    double lr, wd, lo, hi, valid, rate;
    bool bias;
};
options read_options(int argc, char **argv);

/* ---- ratings.c ----------------------------------------------------------------------------------------- */

typedef struct {
    char source[1024];                      /* the file, or "made up" */
    bool made_up;
    data_table *table;                      /* columns user, item, rating and, with films, title */
    data_table *films;                      /* item -> title, or NULL */
    const char *item_column;                /* "title" or "item" */
} ratings;

/* path: a file or folder of MovieLens 100K, latest-small, 1M, 10M, 25M, a CSV with columns for user, item and rating, or
 * NULL: $AGRAD_DATA/ml-100k, ../shared/data/ml-100k, else made-up ratings. Says in one line what it took, unless quiet.
 * by: "title" or "id". Fails on ratings that are not numbers, naming the row. */
ratings ratings_read(const char *path, const char *by, bool quiet);

typedef struct {
    data_loader *train, *valid;
    data_vocab *users, *items;
    int64_t n_users, n_items;               /* with 0 for unknown */
} batches;
/* Categories from the training part, a random split by o->valid and o->seed or o->valid_file. */
batches ratings_batches(const ratings *r, const options *o);

/* ---- train.c, chapter.c ------------------------------------------------------------------------------------ */

nn_module *make_model(const options *o, int64_t users, int64_t items);
optim *make_optimizer(const options *o, nn_module *net);
int train(const options *o);
int lr_find(const options *o);
int chapter(const options *o);

/* ---- model.c: a saved model ---------------------------------------------------------------------------- */

typedef struct {
    nn_module *net;
    options o;                              /* as it was trained */
    data_vocab *users, *items;
    ratings data;                           /* table NULL where the ratings are not to be found any more */
    int64_t *count;                         /* ratings of each item, [items] */
    const char **title;                     /* [items]; NULL where items are named by their titles */
} model;

enum { MODEL_META = 12 };
/* What a checkpoint needs to be used alone; text in meta lives as long as `keep`. */
int model_meta(const options *o, const ratings *r, const batches *b, ag_meta *meta);
model model_open(const char *path, bool with_ratings);
ag_tensor *model_item_factors(const model *m);          /* [items, factors] */
ag_tensor *model_item_bias(const model *m);             /* [items, 1]; fails for models without */
int64_t model_find_item(const model *m, const char *title);     /* fails, naming the nearest */
const char *model_title(const model *m, int64_t item);

/* ---- interpret.c --------------------------------------------------------------------------------------- */

int recommend(const options *o);
int similar(const options *o);
int biases(const options *o);
int predict(const options *o);
int map(const options *o);

/* ---- cold.c: factors for a new user -------------------------------------------------------------------- */

typedef struct { const double *mean, *precision; int64_t width; double lo, hi; } prior;
/* The factors, then the bias, of a user who gave n ratings to items: the most probable ones given that users' factors are
 * normal as those learned (prior: mean and 1/variance of each) and ratings have unit noise. Gauss-Newton in double. */
void cold_start(const prior *p, const double *item_rows, const double *item_bias, const double *rating, int64_t n,
                double *solution);
double cold_predict(const prior *p, const double *solution, const double *item_row, double item_bias);
/* Of the users' tables of a model, with width + 1 entries each (the last: the bias). */
prior cold_prior(const model *m, double *mean, double *precision);
/* 100 users left out of training, each solved from 10 ratings: prints RMSE of the rest against the film means. */
void cold_evaluate(const options *o);

/* ---- spreadsheet.c, download.c ------------------------------------------------------------------------- */

int spreadsheet(const options *o);
int download(const options *o);

#endif
