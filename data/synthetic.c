/* data/synthetic.c - made-up ratings with known factors, of MovieLens' shape: for demonstrations, tests,
 * benchmarks. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/memory.h"
#include "core/random.h"
#include "core/thread.h"
#include "data/set.h"

enum { FACTORS = 5, TRAITS = FACTORS + 1, LEAST = 20 };     /* traits: bias, factors */

/* Standard deviations: with them the variance of the ratings (1.2) and of what a model can explain of it are
 * close to those of MovieLens 100K. */
static const double user_bias = 0.35, item_bias = 0.40, factor = 0.416, noise = 0.85, middle = 3.53;

enum {
    STREAM_USER = 1,
    STREAM_ITEM,
    STREAM_ACTIVITY,
    STREAM_CHOICE,
    STREAM_RATING,
    STREAM_RANK,
    STREAM_ORDER,
    STREAM_TITLE,
    STREAM_FAST
};

static double normal(uint32_t a, uint32_t b)        /* Box-Muller */
{
    return sqrt(-2 * log(((double)a + 0.5) * 0x1p-32)) * cos(6.283185307179586 * (double)b * 0x1p-32);
}

static void traits_of(double *t, uint64_t seed, int stream, int64_t id)
{
    for (int k = 0; k < TRAITS; k += 2) {
        const ag_philox4 r = ag_philox(seed, (uint64_t)stream << 8 | (uint64_t)k, (uint64_t)id);
        t[k] = factor * normal(r.v[0], r.v[1]);
        t[k + 1] = factor * normal(r.v[2], r.v[3]);
    }
    t[0] *= (stream == STREAM_USER ? user_bias : item_bias) / factor;
}

static double score(const double *u, const double *i)
{
    double s = middle + u[0] + i[0];
    for (int k = 1; k < TRAITS; k++) s += u[k] * i[k];
    return s;
}

double ag_data_synthetic_score(int64_t user, int64_t item, uint64_t seed)
{
    double u[TRAITS], i[TRAITS];
    traits_of(u, seed, STREAM_USER, user);
    traits_of(i, seed, STREAM_ITEM, item);
    return score(u, i);
}

static double *all_traits(uint64_t seed, int stream, int64_t n) /* of ids 1 .. n; in the innermost scope */
{
    double *t = ag_alloc(ag_mul_size(NULL, n, TRAITS), sizeof *t);
    ag_defer(ag_free, t);
    for (int64_t id = 1; id <= n; id++) traits_of(t + (id - 1) * TRAITS, seed, stream, id);
    return t;
}

static int64_t rate(double s, uint32_t a, uint32_t b)
{
    const double r = rint(s + noise * normal(a, b));
    return r < 1 ? 1 : r > 5 ? 5 : (int64_t)r;
}

/* ---- the table of MovieLens 100K's shape --------------------------------------------------------------- */

typedef struct { int64_t users, items, ratings; uint64_t seed; } sizes;

/* How many films each user rates: LEAST and a log-normal share of the rest, half of the films at most. */
static void draw_activity(const sizes *z, int64_t *count)
{
    const int64_t least = z->ratings / z->users < LEAST ? z->ratings / z->users : LEAST,
                  most = (z->items + 1) / 2;
    ag_rng r = { z->seed, STREAM_ACTIVITY, 0 };
    AG_SCOPE;
    double *weight = ag_alloc(z->users, sizeof *weight), sum = 0;
    ag_defer(ag_free, weight);
    for (int64_t u = 0; u < z->users; u++) sum += weight[u] = exp(ag_rng_normal(&r));
    int64_t left = z->ratings;
    for (int64_t u = 0; u < z->users; u++) {
        const int64_t share = (int64_t)((double)(z->ratings - least * z->users) * weight[u] / sum);
        count[u] = least + share > most ? most : least + share;
        left -= count[u];
    }
    for (int64_t u = 0; left > 0; u = (u + 1) % z->users) if (count[u] < most) count[u]++, left--;
}

/* Distribution function of a film by its rank, weight (rank + 50)^-1.6. */
static void popularity(const sizes *z, double *sum)
{
    double s = 0;
    for (int64_t k = 0; k < z->items; k++) sum[k] = s += pow((double)k + 50, -1.6);
    for (int64_t k = 0; k < z->items; k++) sum[k] /= s;
}

static int64_t draw_rank(const double *sum, int64_t n, double p)
{
    int64_t lo = 0, hi = n - 1;
    while (lo < hi) {
        const int64_t mid = (lo + hi) / 2;
        if (sum[mid] <= p) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* Pairs user by user, films different within a user; every film gets a rating if there are enough. */
static void draw_pairs(const sizes *z, int64_t *user, int64_t *item)
{
    AG_SCOPE;
    int64_t *count = ag_alloc(z->users, sizeof *count), *film = ag_alloc(z->items, sizeof *film),
            *seen = ag_alloc(z->items, sizeof *seen);
    double *sum = ag_alloc(z->items, sizeof *sum);
    ag_defer(ag_free, count);
    ag_defer(ag_free, film);
    ag_defer(ag_free, seen);
    ag_defer(ag_free, sum);
    draw_activity(z, count);
    popularity(z, sum);
    const data_permutation p = ag_data_permutation(z->items, z->seed, STREAM_RANK);
    ag_data_permute(&p, 0, z->items, film);
    ag_rng r = { z->seed, STREAM_CHOICE, 0 };
    for (int64_t u = 0, n = 0; u < z->users; u++) {
        int64_t k = 0;
        for (int64_t own = u; own < z->items && k < count[u]; own += z->users, k++) {
            seen[own] = u + 1;
            user[n] = u;
            item[n++] = own;
        }
        while (k < count[u]) {
            const int64_t i = film[draw_rank(sum, z->items, ag_rng_uniform(&r))];
            if (seen[i] == u + 1) continue;
            seen[i] = u + 1;
            user[n] = u;
            item[n++] = i;
            k++;
        }
    }
}

static const char *const first_words[] = {
    "Amber",  "Broken",   "Crimson",  "Distant", "Electric", "Forgotten", "Gentle", "Hidden",
    "Iron",   "Jade",     "Kindred",  "Last",    "Midnight", "Northern",  "Open",   "Paper",
    "Quiet",  "Restless", "Silver",   "Twelfth", "Unseen",   "Velvet",    "Winter", "Yellow",
    "Bitter", "Copper",   "Drifting", "Early",   "Falling",  "Golden",    "Hollow", "Ivory",
    "Lonely", "Marble",   "Narrow",   "Painted", "Rising",   "Second",    "Tender", "Wild"
};
static const char *const second_words[] = {
    "River",   "Garden",  "Station", "Letters",   "Harbour", "Orchard", "Mirror",  "Crossing", "Lantern",
    "Island",  "Summer",  "Parade",  "Signal",    "Bridge",  "Season",  "Village", "Shadow",   "Voyage",
    "Kitchen", "Promise", "Railway", "Cathedral", "Meadow",  "Window",  "Circus",  "Frontier", "Melody",
    "Evening", "Theatre", "Compass", "Library",   "Engine",  "Tide",    "Market",  "Valley",   "Sparrow",
    "Monsoon", "Ladder",  "Furrow",  "Harvest",   "Paddy",   "Almanac", "Balloon"
};
enum {
    N_FIRST = sizeof first_words / sizeof *first_words,
    N_SECOND = sizeof second_words / sizeof *second_words,
    TITLE = 64
};

/* All different: a permutation of the pairs of words, then the same with 2, 3 ... */
static void make_title(char *out, const data_permutation *p, uint64_t seed, int64_t item)
{
    int64_t k, words = N_FIRST * N_SECOND, part = item / words + 1;
    ag_data_permute(p, item % words, 1, &k);
    const unsigned year = 1930 + ag_philox(seed, STREAM_TITLE, (uint64_t)item).v[0] % 69;
    const char *a = first_words[k % N_FIRST], *b = second_words[k / N_FIRST];
    if (part > 1) snprintf(out, TITLE, "%s %s %" PRId64 " (%u)", a, b, part, year);
    else snprintf(out, TITLE, "%s %s (%u)", a, b, year);
}

static void add_titles(data_table *t, const sizes *z, const int64_t *item)
{
    data_column *c = ag_data_add_column(t, "title", DATA_TEXT, sizeof(char *));
    c->text = ag_data_buffer_new(z->items, TITLE);
    char *titles = c->text->data;
    const data_permutation p = ag_data_permutation(N_FIRST * N_SECOND, z->seed, STREAM_TITLE);
    for (int64_t i = 0; i < z->items; i++) make_title(titles + i * TITLE, &p, z->seed, i);
    for (int64_t r = 0; r < t->rows; r++) c->v.s[r] = titles + (item[r] - 1) * TITLE;
}

data_table *ag_data_synthetic_(const char *at, data_synthetic_opts o)
{
    const sizes z = { o.users ? o.users : 943, o.items ? o.items : 1682, o.ratings ? o.ratings : 100000,
                      o.seed };
    if (z.users < 1 || z.items < 1 || z.ratings < z.users || z.ratings / z.users > z.items / 2)
        ag_fail(at,
                "data_synthetic: %" PRId64 " ratings of %" PRId64 " users and %" PRId64
                " items; between one a user and half of all pairs "
                "are possible",
                z.ratings, z.users, z.items);
    data_table *t = ag_data_table_make(z.ratings, NULL);
    ag_defer(ag_data_table_drop, t);
    const char *const names[] = { "user", "item", "rating", "time" };
    int64_t *column[4];
    for (int k = 0; k < 4; k++) column[k] = ag_data_add_column(t, names[k], DATA_INT, 8)->v.i;
    AG_SCOPE;
    int64_t *user = ag_alloc(z.ratings, sizeof *user), *item = ag_alloc(z.ratings, sizeof *item),
            *order = ag_alloc(z.ratings, sizeof *order);
    ag_defer(ag_free, user);
    ag_defer(ag_free, item);
    ag_defer(ag_free, order);
    draw_pairs(&z, user, item);
    const double *u = all_traits(z.seed, STREAM_USER, z.users), *i = all_traits(z.seed, STREAM_ITEM, z.items);
    const data_permutation p = ag_data_permutation(z.ratings, z.seed, STREAM_ORDER);
    ag_data_permute(&p, 0, z.ratings, order);
    for (int64_t r = 0; r < z.ratings; r++) {
        const int64_t a = user[order[r]], b = item[order[r]];
        const ag_philox4 v = ag_philox(z.seed, STREAM_RATING, (uint64_t)(a * z.items + b));
        column[0][r] = a + 1;
        column[1][r] = b + 1;
        column[2][r] = rate(score(u + a * TRAITS, i + b * TRAITS), v.v[0], v.v[1]);
        column[3][r] = 874724710 + v.v[2] % 18561928;       /* 20 September 1997 to 22 April 1998 */
    }
    add_titles(t, &z, column[1]);
    return t;
}

/* ---- many ratings quickly ------------------------------------------------------------------------------ */

typedef struct {
    sizes z;
    const double *u, *i;
    const int64_t *film, *person;
    int64_t *user, *item, *rating;
} fast_job;

static void fast_rows(int64_t begin, int64_t end, void *arg)
{
    const fast_job *j = arg;
    for (int64_t r = begin; r < end; r++) {
        const ag_philox4 v = ag_philox(j->z.seed, STREAM_FAST, (uint64_t)r);
        const double a = v.v[0] * 0x1p-32, b = v.v[1] * 0x1p-32;
        /* densities x^-1/2 and x^-2/3 */
        const int64_t user = j->person[(int64_t)((double)j->z.users * a * a)],
                      item = j->film[(int64_t)((double)j->z.items * b * b * b)];
        j->user[r] = user + 1;
        j->item[r] = item + 1;
        j->rating[r] = rate(score(j->u + user * TRAITS, j->i + item * TRAITS), v.v[2], v.v[3]);
    }
}

static int64_t *permuted(int64_t n, uint64_t seed, uint64_t stream)
{
    int64_t *v = ag_alloc(n, sizeof *v);
    ag_defer(ag_free, v);
    const data_permutation p = ag_data_permutation(n, seed, stream);
    ag_data_permute(&p, 0, n, v);
    return v;
}

data_table *ag_data_synthetic_ratings_(const char *at, int64_t users, int64_t items, int64_t ratings,
                                       uint64_t seed)
{
    if (users < 1 || items < 1 || ratings < 1)
        ag_fail(at,
                "data_synthetic_ratings: %" PRId64 " ratings of %" PRId64 " users and %" PRId64
                " items; at least one of each",
                ratings, users, items);
    data_table *t = ag_data_table_make(ratings, NULL);
    ag_defer(ag_data_table_drop, t);
    AG_SCOPE;
    fast_job j = { .z = { users, items, ratings, seed } };
    j.user = ag_data_add_column(t, "user", DATA_INT, 8)->v.i;
    j.item = ag_data_add_column(t, "item", DATA_INT, 8)->v.i;
    j.rating = ag_data_add_column(t, "rating", DATA_INT, 8)->v.i;
    j.u = all_traits(seed, STREAM_USER, users);
    j.i = all_traits(seed, STREAM_ITEM, items);
    j.person = permuted(users, seed, STREAM_USER);
    j.film = permuted(items, seed, STREAM_RANK);
    ag_parallel(ratings, 4096, 100, fast_rows, &j);
    return t;
}
