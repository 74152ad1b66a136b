/* spreadsheet.c - the course's spreadsheet, by hand: gradient descent on the mean squared error over the present ratings,
 * all weights updated together, in double and without the library. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "movielens.h"

typedef struct {
    int64_t users, films, factors;
    double *rating;                     /* [users, films], NaN where there is none */
    double *u, *v, *bu, *bv;            /* [users, factors], [films, factors], [users], [films] */
} sheet;

static data_table *part(const char *folder, const char *name)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return data_csv(path, .header = DATA_HEADER_YES);
}

static double *numbers(int64_t n)
{
    double *v = ag_alloc(n, sizeof *v);
    ag_defer(ag_free, v);
    return v;
}

static double *matrix(const data_table *t)      /* all columns but the first */
{
    const int64_t rows = data_rows(t), columns = data_columns(t) - 1;
    double *m = numbers(rows * columns);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) m[r * columns + c] = data_number(t, r, data_column_name(t, (int)c + 1));
    return m;
}

static void complete(const double *m, int64_t rows, int64_t columns, const char *folder, const char *name)
{
    for (int64_t i = 0; i < rows * columns; i++)
        if (!isfinite(m[i]))
            ag_fail(NULL, "movielens: %s/%s: row %" PRId64 ", column %" PRId64 " has no number", folder, name, i / columns + 1,
                    i % columns + 2);
}

static sheet read_sheet(const char *folder, bool bias)
{
    const data_table *given = part(folder, "ratings.csv"), *users = part(folder, "user_factors.csv");
    const data_table *films = part(folder, "film_factors.csv");
    sheet s = { .users = data_rows(given), .films = data_columns(given) - 1, .factors = data_columns(users) - 1 };
    if (data_rows(users) != s.users || data_rows(films) != s.films || data_columns(films) - 1 != s.factors)
        ag_fail(NULL, "movielens: %s: ratings.csv is %" PRId64 " users x %" PRId64 " films, user_factors.csv has %" PRId64
                " rows of %" PRId64 ", film_factors.csv %" PRId64 " rows of %d", folder, s.users, s.films, data_rows(users),
                s.factors, data_rows(films), data_columns(films) - 1);
    s.rating = matrix(given), s.u = matrix(users), s.v = matrix(films);
    complete(s.u, s.users, s.factors, folder, "user_factors.csv");
    complete(s.v, s.films, s.factors, folder, "film_factors.csv");
    s.bu = numbers(s.users), s.bv = numbers(s.films);
    if (!bias) return s;
    const data_table *biases = part(folder, "biases.csv");
    if (data_rows(biases) != s.users + s.films)
        ag_fail(NULL, "movielens: %s/biases.csv has %" PRId64 " rows, %" PRId64 " users and %" PRId64 " films need one each",
                folder, data_rows(biases), s.users, s.films);
    for (int64_t i = 0, user = 0, film = 0; i < data_rows(biases); i++) {
        const bool of_user = !strcmp(data_cell(biases, i, "kind"), "user");
        if (of_user ? user == s.users : film == s.films)
            ag_fail(NULL, "movielens: %s/biases.csv: row %" PRId64 " is one '%s' too many", folder, i + 1,
                    data_cell(biases, i, "kind"));
        *(of_user ? &s.bu[user++] : &s.bv[film++]) = data_number(biases, i, "bias");
    }
    return s;
}

static double prediction(const sheet *s, int64_t i, int64_t j)
{
    double p = s->bu[i] + s->bv[j];
    for (int64_t k = 0; k < s->factors; k++) p += s->u[i * s->factors + k] * s->v[j * s->factors + k];
    return p;
}

/* The root of the mean squared error; with a gradient g (of the mean squared error) also that. */
static double error(const sheet *s, sheet *g)
{
    double sum = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < s->users * s->films; i++) n += !isnan(s->rating[i]);
    for (int64_t i = 0; i < s->users; i++)
        for (int64_t j = 0; j < s->films; j++) {
            if (isnan(s->rating[i * s->films + j])) continue;
            const double e = prediction(s, i, j) - s->rating[i * s->films + j], d = 2 * e / (double)n;
            sum += e * e;
            if (!g) continue;
            g->bu[i] += d, g->bv[j] += d;
            for (int64_t k = 0; k < s->factors; k++) {
                g->u[i * s->factors + k] += d * s->v[j * s->factors + k];
                g->v[j * s->factors + k] += d * s->u[i * s->factors + k];
            }
        }
    return sqrt(sum / (double)n);
}

static void descend(double *w, double *g, int64_t n, double rate)
{
    for (int64_t i = 0; i < n; i++) w[i] -= rate * g[i], g[i] = 0;
}

int spreadsheet(const options *o)
{
    if (!o->ratings)
        ag_fail(NULL, "movielens: spreadsheet needs the folder with ratings.csv, user_factors.csv, film_factors.csv");
    const sheet s = read_sheet(o->ratings, o->bias);
    sheet g = { .u = numbers(s.users * s.factors), .v = numbers(s.films * s.factors), .bu = numbers(s.users),
                .bv = numbers(s.films) };
    for (int64_t step = 0; step < o->steps; step++) {
        error(&s, &g);
        descend(s.u, g.u, s.users * s.factors, o->rate);
        descend(s.v, g.v, s.films * s.factors, o->rate);
        descend(s.bu, g.bu, s.users, o->bias ? o->rate : 0);
        descend(s.bv, g.bv, s.films, o->bias ? o->rate : 0);
    }
    const double rmse = error(&s, NULL);
    if (!isfinite(rmse))
        ag_fail(NULL, "movielens: after %" PRId64 " steps at --rate %g the error is no finite number; %s", o->steps, o->rate,
                o->steps ? "take a smaller rate" : "ratings.csv holds no rating");
    printf("rmse %.10f\n", rmse);
    return 0;
}
