/* interpret.c - what was learned: recommendations, neighbours, biases, a map. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "data/plot.h"
#include "movielens.h"
#include "core/op.h"

/* ---- scores -------------------------------------------------------------------------------------------- */

/* Of one user for every film, [items]. */
static ag_tensor *scores_of(const model *m, int64_t user)
{
    const int64_t n = data_vocab_size(m->items);
    ag_tensor *ids = ag_empty(AG_I64, n, 2);
    for (int64_t i = 0; i < n; i++) ((int64_t *)ids->data)[2 * i] = user, ((int64_t *)ids->data)[2 * i + 1] = i;
    NN_EVAL(m->net);
    return ag_keep(nn_call(m->net, ids));
}

/* Those with the largest scores, which are shown times sign; -infinity is not shown. */
static void list_best(const model *m, ag_tensor *score, int64_t top, double sign)
{
    int64_t shown = 0;
    const ag_tensor *order = ag_argsort(score, true);
    for (int64_t k = 0; k < ag_numel(order) && shown < top; k++) {
        const int64_t i = (int64_t)ag_at(order, k);
        if (i == 0 || !isfinite(ag_at(score, i))) continue;
        printf("%3" PRId64 "  %-60s %7.3f\n", ++shown, model_title(m, i), sign * ag_at(score, i));
    }
    if (!shown) printf("(none is left)\n");
}

static int64_t find_user(const model *m, const char *user)
{
    if (!user) ag_fail(NULL, "movielens: name a user with --user, or a new one's ratings with --new");
    const int64_t u = data_vocab_find(m->users, user);
    if (u <= 0)
        ag_fail(NULL, "movielens: no user '%s' among the %" PRId64 " of the model (%s to %s); --new takes the ratings of a new "
                "one",
                user, data_vocab_size(m->users) - 1, data_vocab_text(m->users, 1),
                data_vocab_text(m->users, data_vocab_size(m->users) - 1));
    return u;
}

static void leave_out_seen(const model *m, int64_t user, ag_tensor *score)
{
    if (!m->data.table) return;
    const int32_t *u = data_codes(m->data.table, "user"), *i = data_codes(m->data.table, m->data.item_column);
    for (int64_t k = 0; k < data_rows(m->data.table); k++)
        if (u[k] == user) ag_real(score)[i[k]] = -INFINITY;
}

/* "Star Wars (1977)=5,Silence of the Lambs, The (1991)=4": a comma ends a pair only after its number. */
static int64_t parse_new(const model *m, const char *text, int64_t *item, double *rating, int64_t most)
{
    int64_t n = 0;
    while (*text) {
        const char *equals = strchr(text, '=');
        char title[256], *end;
        if (!equals || equals == text || equals - text >= (int)sizeof title)
            ag_fail(NULL, "movielens: --new takes \"Title=rating,Title=rating\", cannot read '%s'", text);
        snprintf(title, sizeof title, "%.*s", (int)(equals - text), text);
        const double v = strtod(equals + 1, &end);
        if (end == equals + 1 || !isfinite(v) || (*end && *end != ','))
            ag_fail(NULL, "movielens: --new: '%s' is no rating of '%s'", equals + 1, title);
        if (n == most) ag_fail(NULL, "movielens: --new takes at most %" PRId64 " ratings", most);
        if (m->o.hi > m->o.lo && (v < m->o.lo || v > m->o.hi))
            ag_fail(NULL, "movielens: --new: %g for '%s' lies outside of the model's range, %g to %g", v, title, m->o.lo,
                    m->o.hi);
        item[n] = model_find_item(m, title);
        for (int64_t k = 0; k < n; k++)
            if (item[k] == item[n]) ag_fail(NULL, "movielens: --new rates '%s' twice", title);
        rating[n++] = v;
        text = *end ? end + 1 : end;
    }
    if (n == 0) ag_fail(NULL, "movielens: --new takes \"Title=rating,Title=rating\", got nothing");
    return n;
}

static int recommend_new(const model *m, const options *o)
{
    enum { MOST = 1000 };
    int64_t *item = ag_alloc(MOST, sizeof *item);
    double *rating = ag_alloc(MOST, sizeof *rating);
    ag_defer(ag_free, item);
    ag_defer(ag_free, rating);
    if (!strcmp(m->o.model, "nn"))
        ag_fail(NULL, "movielens: --new solves factors, which an 'nn' model has none of; train one with --model bias or dot");
    const ag_tensor *factors = model_item_factors(m), *bias = strcmp(m->o.model, "bias") ? NULL : model_item_bias(m);
    const int64_t width = factors->shape[1], n = parse_new(m, o->fresh, item, rating, MOST), all = data_vocab_size(m->items);
    double *rows = ag_alloc(n * width, sizeof *rows), *b = ag_alloc(n, sizeof *b), *u = ag_alloc(3 * (width + 1), sizeof *u);
    ag_defer(ag_free, rows);
    ag_defer(ag_free, b);
    ag_defer(ag_free, u);
    for (int64_t k = 0; k < n; k++) {
        b[k] = bias ? (double)ag_real(bias)[item[k]] : 0;
        for (int64_t j = 0; j < width; j++) rows[k * width + j] = (double)ag_real(factors)[item[k] * width + j];
    }
    const prior p = cold_prior(m, u + width + 1, u + 2 * (width + 1));
    cold_start(&p, rows, b, rating, n, u);
    ag_tensor *score = ag_empty(AG_F32, all);
    double *row = ag_alloc(width, sizeof *row);
    ag_defer(ag_free, row);
    for (int64_t i = 0; i < all; i++) {
        for (int64_t j = 0; j < width; j++) row[j] = (double)ag_real(factors)[i * width + j];
        ag_real(score)[i] = (real)cold_predict(&p, u, row, bias ? (double)ag_real(bias)[i] : 0);
    }
    for (int64_t k = 0; k < n; k++) ag_real(score)[item[k]] = -INFINITY;
    printf("for someone who gave");
    for (int64_t k = 0; k < n; k++) printf("%s %s %g", k ? "," : "", model_title(m, item[k]), rating[k]);
    printf(":\n");
    list_best(m, score, o->top, 1);
    return 0;
}

int recommend(const options *o)
{
    const model m = model_open(o->ratings, true);
    if (o->fresh) return recommend_new(&m, o);
    const int64_t user = find_user(&m, o->user);
    ag_tensor *score = scores_of(&m, user);
    leave_out_seen(&m, user, score);
    printf("for user %s, of the films not rated yet:\n", o->user);
    list_best(&m, score, o->top, 1);
    return 0;
}

int predict(const options *o)
{
    const model m = model_open(o->ratings, false);
    const int64_t user = find_user(&m, o->user), item = model_find_item(&m, o->item);
    printf("user %s, %s: %.3f\n", o->user, model_title(&m, item), ag_at(scores_of(&m, user), item));
    return 0;
}

/* ---- films --------------------------------------------------------------------------------------------- */

int similar(const options *o)
{
    const model m = model_open(o->ratings, false);
    AG_NO_GRAD;
    ag_tensor *factors = model_item_factors(&m);
    const int64_t item = model_find_item(&m, o->query ? o->query : o->item);
    ag_tensor *cosine = ag_cosine_similarity(factors, ag_slice(factors, 0, item, item + 1), 1);
    ag_real(cosine)[item] = -INFINITY;
    printf("like %s (cosine of the factors):\n", model_title(&m, item));
    list_best(&m, cosine, o->top, 1);
    return 0;
}

int biases(const options *o)
{
    const model m = model_open(o->ratings, false);
    AG_NO_GRAD;
    ag_tensor *bias = ag_contiguous(ag_select(model_item_bias(&m), 1, 0)), *sign = ag_scale(bias, -1);
    printf("liked more than tastes explain:\n");
    list_best(&m, bias, o->top, 1);
    printf("\nliked less than tastes explain:\n");
    list_best(&m, sign, o->top, -1);
    return 0;
}

/* ---- map: two principal components --------------------------------------------------------------------- */

/* Eigenvectors of a symmetric n x n matrix by Jacobi rotations (Golub & Van Loan 8.5): v's columns; a becomes diagonal. */
static void jacobi(double *a, double *v, int64_t n)
{
    for (int64_t i = 0; i < n * n; i++) v[i] = i % (n + 1) == 0;
    for (int sweep = 0; sweep < 30; sweep++)
        for (int64_t p = 0; p < n; p++)
            for (int64_t q = p + 1; q < n; q++) {
                if (fabs(a[p * n + q]) < 1e-300) continue;
                const double theta = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
                const double t = copysign(1, theta) / (fabs(theta) + sqrt(theta * theta + 1));
                const double c = 1 / sqrt(t * t + 1), s = t * c;
                for (int64_t k = 0; k < n; k++) {
                    const double x = a[k * n + p], y = a[k * n + q];
                    a[k * n + p] = c * x - s * y, a[k * n + q] = s * x + c * y;
                }
                for (int64_t k = 0; k < n; k++) {
                    const double x = a[p * n + k], y = a[q * n + k];
                    a[p * n + k] = c * x - s * y, a[q * n + k] = s * x + c * y;
                }
                for (int64_t k = 0; k < n; k++) {
                    const double x = v[k * n + p], y = v[k * n + q];
                    v[k * n + p] = c * x - s * y, v[k * n + q] = s * x + c * y;
                }
            }
}

/* Coordinates of n rows of `width` numbers along the two directions they differ most in. (fastai's Tensor.pca) */
static void principal(const double *x, int64_t n, int64_t width, double *first, double *second)
{
    double *mean = ag_alloc(width, sizeof *mean), *a = ag_alloc(width * width, sizeof *a);
    double *v = ag_alloc(width * width, sizeof *v);
    ag_defer(ag_free, mean);
    ag_defer(ag_free, a);
    ag_defer(ag_free, v);
    for (int64_t i = 0; i < n * width; i++) mean[i % width] += x[i] / (double)n;
    for (int64_t i = 0; i < n; i++)
        for (int64_t p = 0; p < width; p++)
            for (int64_t q = 0; q < width; q++)
                a[p * width + q] += (x[i * width + p] - mean[p]) * (x[i * width + q] - mean[q]);
    jacobi(a, v, width);
    int64_t best[2] = { -1, -1 };
    for (int k = 0; k < 2; k++)
        for (int64_t p = 0; p < width; p++)
            if (p != best[0] && (best[k] < 0 || a[p * (width + 1)] > a[best[k] * (width + 1)])) best[k] = p;
    for (int64_t i = 0; i < n; i++) {
        first[i] = second[i] = 0;
        for (int64_t p = 0; p < width; p++) {
            first[i] += (x[i * width + p] - mean[p]) * v[p * width + best[0]];
            if (best[1] >= 0) second[i] += (x[i * width + p] - mean[p]) * v[p * width + best[1]];
        }
    }
}

int map(const options *o)
{
    enum { SHOWN = 60 };
    const model m = model_open(o->ratings, false);
    const char *out = o->out ? o->out : "map.png";
    const ag_tensor *factors = model_item_factors(&m);
    const int64_t width = factors->shape[1], all = data_vocab_size(m.items), n = all - 1 < SHOWN ? all - 1 : SHOWN;
    double *x = ag_alloc(n * width, sizeof *x), *at = ag_alloc(2 * n, sizeof *at);
    const char **label = ag_alloc(n, sizeof *label);
    ag_defer(ag_free, x);
    ag_defer(ag_free, at);
    ag_defer(ag_free, label);
    ag_tensor *often = ag_empty(AG_F32, all);
    for (int64_t i = 0; i < all; i++) ag_real(often)[i] = i ? (real)m.count[i] : -1;
    const ag_tensor *order = ag_argtopk(often, n);
    for (int64_t k = 0; k < n; k++) {
        const int64_t item = (int64_t)ag_at(order, k);
        label[k] = model_title(&m, item);
        for (int64_t j = 0; j < width; j++) x[k * width + j] = (double)ag_real(factors)[item * width + j];
    }
    principal(x, n, width, at, at + n);
    data_plot_scatter(out, n, at, at + n, label,
                      .title = "the films rated most often, along two principal components of their factors");
    printf("%" PRId64 " films drawn in %s\n", n, out);
    return 0;
}
