/* tests/bench/bench.c - what `make bench` measures of ours: lines of key, value, unit. run.sh puts the peers beside them.
 * Every figure is the best of several rounds: machines are noisy in one direction only. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "agrad.h"
#include "core/io.h"
#include "core/op.h"
#ifdef AG_HAVE_ONEDNN
#include <dnnl.h>
#endif

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void report(const char *key, double value, const char *unit)
{
    printf("%s\t%.4g\t%s\n", key, value, unit);
    fflush(stdout);
}

/* ---- a training step at the sizes of MovieLens 100K, batch 64 ------------------------------------------ */

static double step_us(bool neural, bool rows)
{
    enum { ROUNDS = 12, STEPS = 150 };
    AG_SCOPE;
    data_table *t = data_synthetic();
    const int64_t users = data_categorify(t, "user"), items = data_categorify(t, "item");
    data_loader *loader = data_loader_new(data_from_table(t, .x = "user,item", .y = "rating"), 64, .shuffle = true);
    nn_module *net = neural ? model_embedding_nn(users, items, .lo = 0, .hi = 5.5, .sparse = rows)
                            : model_dot_bias(users, items, 50, .lo = 0, .hi = 5.5, .sparse = rows);
    optim *opt = optim_adamw(net, 5e-3, .fastai = true, .weight_decay = 0.1);
    double best = 1e9, start = now();
    int64_t n = 0;
    while (n < ROUNDS * STEPS)
        DATA_EACH(b, loader) {
            ag_backward(ag_mse_loss(nn_call(net, b.x), b.y));
            optim_step(opt);
            if (++n % STEPS) continue;
            const double took = now() - start;
            best = took < best ? took : best;
            start = now();
            if (n == ROUNDS * STEPS) break;
        }
    return 1e6 * best / STEPS;
}

/* ---- ten million ratings, 69,878 x 10,677 x 48, batch 8,192 -------------------------------------------- */

static void ratings_per_second(void)
{
    AG_SCOPE;
    const int64_t users = 69878, items = 10677, ratings = 10000054;
    data_set *set = data_from_table(data_synthetic_ratings(users, items, ratings, 1), .x = "user,item", .y = "rating");
    for (int sgd = 0; sgd < 2; sgd++) {
        AG_SCOPE;
        data_loader *loader = data_loader_new(set, 8192, .shuffle = true, .workers = 1);
        nn_module *net = model_dot_bias(users + 1, items + 1, 48, .lo = 0, .hi = 5.5, .sparse = true);
        optim *opt = sgd ? optim_sgd(net, 1e-2) : optim_lazy_adamw(net, 5e-3, .fastai = true);
        double best = 1e9, start = now();
        int n = 0;
        DATA_EACH(b, loader) {
            ag_backward(ag_mse_loss(nn_call(net, b.x), b.y));
            optim_step(opt);
            if (++n % 100) continue;
            const double took = now() - start;
            best = took < best ? took : best;
            start = now();
            if (n == 800) break;
        }
        report(sgd ? "ratings_sgd" : "ratings_lazy", 100 * 8192 / best / 1e6, "M ratings/s");
    }
}

/* ---- matmul -------------------------------------------------------------------------------------------- */

static void matmul(void)
{
    enum { N = 1024, ROUNDS = 20 };
    AG_SCOPE;
    AG_NO_GRAD;
    ag_tensor *a = ag_randn(N, N), *b = ag_randn(N, N), *c = ag_zeros(N, N);
    double ours = 1e9, direct = 1e9;
    for (int r = 0; r < ROUNDS; r++) {
        double start = now();
        {
            AG_SCOPE;
            const ag_tensor *y = ag_matmul(a, b);
            (void)y;
        }
        double took = now() - start;
        ours = took < ours ? took : ours;
#ifdef AG_HAVE_ONEDNN
        start = now();
        dnnl_sgemm('N', 'N', N, N, N, 1, ag_real(a), N, ag_real(b), N, 0, ag_real(c), N);
        took = now() - start;
        direct = took < direct ? took : direct;
#endif
    }
    report("matmul_1024", 2e-9 * N * N * N / ours, "GFLOP/s");
    report("matmul_1024_onednn", 2e-9 * N * N * N / direct, "GFLOP/s");
    (void)c;
}

static void overhead(void)
{
    enum { N = 20000 };
    AG_SCOPE;
    ag_tensor *x = ag_param(ag_randn(1)), *y = ag_randn(1);
    double best = 1e9;
    for (int r = 0; r < 50; r++) {
        const double start = now();
        for (int i = 0; i < N; i++) {
            AG_SCOPE;
            const ag_tensor *z = ag_add(x, y);
            (void)z;
        }
        const double took = now() - start;
        best = took < best ? took : best;
    }
    report("add_overhead", 1e9 * best / N, "ns");
}

/* ---- files --------------------------------------------------------------------------------------------- */

static void write_csv(const char *path)
{
    AG_SCOPE;
    ag_rng r = { .seed = 1 };
    ag_file *f = ag_file_create(path);
    ag_file_printf(f, "userId,movieId,rating,timestamp\n");
    for (int i = 0; i < 4000000; i++)
        ag_file_printf(f, "%d,%d,%.1f,%d\n", (int)ag_rng_below(&r, 69878) + 1, (int)ag_rng_below(&r, 65133) + 1,
                       (double)(ag_rng_below(&r, 10) + 1) / 2, 789652009 + (int)ag_rng_below(&r, 400000000));
    ag_file_commit(f);
}

static void csv(const char *path)
{
    if (!ag_file_exists(path)) write_csv(path);
    ag_init(.threads = 1);
    double best = 1e9, bytes = 0;
    for (int r = 0; r < 4; r++) {
        AG_SCOPE;
        bytes = (double)ag_read_file(path).size;
        const double start = now();
        const data_table *t = data_csv(path);
        const double took = now() - start;
        best = took < best && data_rows(t) ? took : best;
    }
    report("csv", bytes / best / 1e6, "MB/s a core");
}

/* From the start of a process to the first batch of MovieLens 100K (or of ratings of its size). */
static int first_batch(const char *path)
{
    AG_SCOPE;
    data_table *t = data_csv(path, .names = "user,item,rating,time");
    data_categorify(t, "user");
    data_categorify(t, "item");
    const data_split d = data_random_split(data_from_table(t, .x = "user,item", .y = "rating"), 0.2, 42);
    DATA_EACH(b, data_loader_new(d.train, 64, .shuffle = true)) return b.n == 64 ? 0 : 1;
    return 1;
}

static void startup(const char *self)
{
    char path[1024];
    const char *env = getenv("AGRAD_DATA");
    snprintf(path, sizeof path, "%s/ml-100k/u.data", env ? env : "../shared/data");
    if (!ag_file_exists(path)) {
        printf("# first_batch: MovieLens 100K is absent\n");
        return;
    }
    double best = 1e9;
    for (int r = 0; r < 5; r++) {
        const double start = now();
        const pid_t child = fork();
        if (!child) {
            execl(self, self, "--first-batch", path, (char *)NULL);
            _exit(127);
        }
        int status;
        waitpid(child, &status, 0);
        const double took = now() - start;
        best = !status && took < best ? took : best;
    }
    report("first_batch", 1e3 * best, "ms");
}

int main(int argc, char **argv)
{
    if (argc > 2 && !strcmp(argv[1], "--first-batch")) return first_batch(argv[2]);
    ag_init(.threads = 2, .seed = 1);
    startup(argv[0]);
    overhead();
    report("step_bias", step_us(false, true), "us");
    report("step_bias_dense", step_us(false, false), "us");
    report("step_nn", step_us(true, true), "us");
    report("step_nn_dense", step_us(true, false), "us");
    matmul();
    ratings_per_second();
    csv(argc > 1 ? argv[1] : "build/bench.csv");
    return 0;
}
