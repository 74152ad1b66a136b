/* cold.c - a new user: factors from a few ratings, without training. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/random.h"
#include "movielens.h"
#include "core/op.h"

/* f(s) = lo + (hi - lo) sigmoid(s), or s without a range; and its derivative. */
static double value(const prior *p, double s, double *slope)
{
    if (!(p->hi > p->lo)) {
        *slope = 1;
        return s;
    }
    const double y = 1 / (1 + exp(-s));
    *slope = (p->hi - p->lo) * y * (1 - y);
    return p->lo + (p->hi - p->lo) * y;
}

static double score(const prior *p, const double *u, const double *row, double bias)
{
    double s = bias + u[p->width];
    for (int64_t k = 0; k < p->width; k++) s += u[k] * row[k];
    return s;
}

double cold_predict(const prior *p, const double *u, const double *row, double bias)
{
    double slope;
    return value(p, score(p, u, row, bias), &slope);
}

/* Solves a x = b, a symmetric and positive definite, n x n; both are overwritten, the solution lies in b. (Cholesky) */
static void solve(double *a, double *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = a[i * n + j];
            for (int64_t k = 0; k < j; k++) sum -= a[i * n + k] * a[j * n + k];
            a[i * n + j] = i == j ? sqrt(fmax(sum, 1e-12)) : sum / a[j * n + j];
        }
    for (int64_t i = 0; i < n; i++) {
        for (int64_t k = 0; k < i; k++) b[i] -= a[i * n + k] * b[k];
        b[i] /= a[i * n + i];
    }
    for (int64_t i = n - 1; i >= 0; i--) {
        for (int64_t k = i + 1; k < n; k++) b[i] -= a[k * n + i] * b[k];
        b[i] /= a[i * n + i];
    }
}

void cold_start(const prior *p, const double *rows, const double *bias, const double *rating, int64_t n, double *u)
{
    enum { ROUNDS = 12 };
    const int64_t size = p->width + 1;
    AG_SCOPE;
    double *a = ag_alloc(size * size, sizeof *a), *b = ag_alloc(size, sizeof *b);
    ag_defer(ag_free, a);
    ag_defer(ag_free, b);
    memcpy(u, p->mean, (size_t)size * sizeof *u);
    for (int round = 0; round < ROUNDS; round++) {
        memset(a, 0, (size_t)(size * size) * sizeof *a);
        for (int64_t k = 0; k < size; k++) a[k * (size + 1)] = p->precision[k], b[k] = p->precision[k] * (p->mean[k] - u[k]);
        for (int64_t r = 0; r < n; r++) {
            double slope;
            const double *row = rows + r * p->width, error = rating[r] - value(p, score(p, u, row, bias[r]), &slope);
            for (int64_t i = 0; i < size; i++) {
                const double di = slope * (i < p->width ? row[i] : 1);
                b[i] += di * error;
                for (int64_t j = 0; j <= i; j++) a[i * size + j] += di * slope * (j < p->width ? row[j] : 1);
            }
        }
        solve(a, b, size);
        for (int64_t k = 0; k < size; k++) u[k] += b[k];
    }
}

static void column_statistics(const ag_tensor *t, int64_t column, double *mean, double *precision)
{
    const int64_t n = t->shape[0] - 1, width = t->shape[1];         /* row 0 is the unknown user */
    double sum = 0, square = 0;
    for (int64_t i = 1; i <= n; i++) sum += (double)ag_real(t)[i * width + column];
    *mean = sum / (double)n;
    for (int64_t i = 1; i <= n; i++) square += pow((double)ag_real(t)[i * width + column] - *mean, 2);
    *precision = (double)n / fmax(square, 1e-9);
}

prior cold_prior(const model *m, double *mean, double *precision)
{
    const ag_tensor *factors = nn_param(m->net, "u_weight.weight");
    const int64_t width = factors->shape[1];
    for (int64_t k = 0; k < width; k++) column_statistics(factors, k, mean + k, precision + k);
    if (strcmp(m->o.model, "bias")) mean[width] = 0, precision[width] = 1e12;       /* held at 0 */
    else column_statistics(nn_param(m->net, "u_bias.weight"), 0, mean + width, precision + width);
    return (prior){ mean, precision, width, m->o.lo, m->o.hi };
}

/* ---- the experiment ------------------------------------------------------------------------------------ */

enum { LEFT_OUT = 100, GIVEN = 10, WIDEST = 512 };

typedef struct { double ours, means; int64_t n; } errors;

/* One user's rows: the first GIVEN of a shuffled order are known, the rest are predicted. */
static void judge(const model *m, const prior *p, const int64_t *rows, int64_t n, const double *film_mean, errors *e)
{
    const ag_tensor *factors = model_item_factors(m), *bias = model_item_bias(m);
    const int32_t *item = data_codes(m->data.table, m->data.item_column);
    double x[GIVEN * WIDEST], b[GIVEN], r[GIVEN], u[WIDEST + 1], row[WIDEST];
    for (int64_t k = 0; k < n; k++) {
        const int64_t i = item[rows[k]];
        const double rating = data_number(m->data.table, rows[k], "rating");
        double *to = k < GIVEN ? x + k * p->width : row;
        for (int64_t j = 0; j < p->width; j++) to[j] = (double)ag_real(factors)[i * p->width + j];
        if (k < GIVEN) b[k] = (double)ag_real(bias)[i], r[k] = rating;
        if (k == GIVEN - 1) cold_start(p, x, b, r, GIVEN, u);
        if (k < GIVEN) continue;
        e->ours += pow(cold_predict(p, u, row, (double)ag_real(bias)[i]) - rating, 2);
        e->means += pow(film_mean[i] - rating, 2);
        e->n++;
    }
}

void cold_evaluate(const options *given)
{
    AG_SCOPE;
    options o = *given;
    o.model = "bias", o.wd = 0.1, o.lo = 0, o.hi = 5.5, o.epochs = 5, o.lr = 5e-3, o.batch = 64, o.factors = 50;
    model m = { .o = o, .data = ratings_read(o.ratings, o.by, true) };
    data_table *t = m.data.table;
    const int64_t n_users = data_categorify(t, "user"), n_items = data_categorify(t, m.data.item_column), n = data_rows(t);
    const int32_t *user = data_codes(t, "user"), *item = data_codes(t, m.data.item_column);
    const int64_t out = LEFT_OUT < (n_users - 1) / 2 ? LEFT_OUT : (n_users - 1) / 2;
    m.users = data_vocab_of(t, "user"), m.items = data_vocab_of(t, m.data.item_column);
    ag_rng rng = { .seed = (uint64_t)o.seed, .stream = 9 };
    int64_t *order = ag_alloc(n_users, sizeof *order), *kept = ag_alloc(n, sizeof *kept), *mine = ag_alloc(n, sizeof *mine);
    double *mean = ag_alloc(2 * n_items, sizeof *mean), *count = mean + n_items, all = 0;
    bool *left = ag_alloc(n_users, sizeof *left);
    void *const parts[] = { order, kept, mine, mean, left };
    for (int i = 0; i < 5; i++) ag_defer(ag_free, parts[i]);
    for (int64_t i = 0; i < n_users - 1; i++) order[i] = i + 1;
    ag_rng_shuffle(&rng, order, n_users - 1);
    for (int64_t i = 0; i < out; i++) left[order[i]] = true;
    int64_t n_kept = 0;
    for (int64_t k = 0; k < n; k++) {
        if (left[user[k]]) continue;
        kept[n_kept++] = k;
        mean[item[k]] += data_number(t, k, "rating"), count[item[k]]++, all += data_number(t, k, "rating");
    }
    for (int64_t i = 0; i < n_items; i++) mean[i] = count[i] > 0 ? mean[i] / count[i] : all / (double)n_kept;
    char x[64];
    snprintf(x, sizeof x, "user,%s", m.data.item_column);
    data_set *train = data_subset(data_from_table(t, .x = x, .y = "rating"), kept, n_kept);
    m.net = make_model(&o, n_users, n_items);
    learner *l = learner_new(data_loader_new(train, o.batch, .shuffle = true, .seed = (uint64_t)o.seed), NULL, m.net, learner_mse,
                             .opt = make_optimizer(&o, m.net), .quiet = true);
    learner_fit_one_cycle(l, 5, 5e-3);
    double *statistics = ag_alloc(2 * (o.factors + 1), sizeof *statistics);
    ag_defer(ag_free, statistics);
    const prior p = cold_prior(&m, statistics, statistics + o.factors + 1);
    errors e = { 0 };
    for (int64_t i = 0; i < out; i++) {
        int64_t c = 0;
        for (int64_t k = 0; k < n; k++) if (user[k] == order[i]) mine[c++] = k;
        ag_rng_shuffle(&rng, mine, c);
        judge(&m, &p, mine, c, mean, &e);
    }
    printf("\ncold start: %" PRId64 " users left out, each solved from %d ratings, the other %" PRId64 " predicted: RMSE %.4f; "
           "film means %.4f\n", out, GIVEN, e.n, sqrt(e.ours / (double)e.n), sqrt(e.means / (double)e.n));
}
