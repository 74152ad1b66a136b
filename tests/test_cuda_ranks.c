/* tests/test_cuda_ranks.c - several ranks with a GPU each, in its emulation (cuda/emulate.h): batch norm and steps beside those
 * of one rank with the whole batch, with NCCL and without; what fails there. Alone it tests one rank; tests/ranks.sh starts it
 * by mpirun. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "core/ranks.h"
#include "cuda/nccl.h"
#include "cuda/ranks.h"
#include "optim/state.h"
#include "tests/cuda_cases.h"

#ifdef AG_EMULATE
void ag_emulate_fail(int64_t at, int64_t count);
int64_t ag_emulate_calls(void);
void ag_emulate_lazy(bool lazy);
void ag_emulate_nccl_hurry(bool hurry);
void ag_emulate_nccl_break(void);

enum { EACH = 5, CHANNELS = 11, STEPS = 3 };
static values want, got;
static int ranks, rank;
static bool single;

static void alone(void) { single = true, ag_ranks_ = 1, ag_rank_ = 0; }
static void together(void) { single = false, ag_ranks_ = ranks, ag_rank_ = rank; }

/* ag_init counts the ranks anew. */
static void use(const char *device)
{
    ag_init(.device = device);
    if (single) alone();
    else together();
}

static ag_tensor *numbers(uint64_t key, int64_t n, int64_t width, double about)
{
    ag_tensor *t = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(n, width));
    ag_fill_normal(ag_real(t), n * width, key);
    for (int64_t i = 0; i < n * width; i++) ag_real(t)[i] += (real)about;
    return t;
}

/* This rank's rows, on the GPU; all of them for one that is alone. */
static ag_tensor *own(ag_tensor *whole)
{
    return ag_to(ag_ranks() == 1 ? whole : ag_contiguous(ag_slice(whole, 0, EACH * rank, EACH * rank + EACH)), AG_CUDA);
}

/* ---- batch norm ------------------------------------------------------------------------------------------ */

/* Running statistics, this rank's rows of the output and of the gradients, the sums of the parameters'. */
static void normalise(ag_dtype type, double about, values *out)
{
    AG_SCOPE;
    const int64_t n = (int64_t)EACH * ranks;
    ag_tensor *x = numbers(1, n, CHANNELS, about), *g = numbers(2, n, CHANNELS, 0), *residual = numbers(3, n, CHANNELS, 0);
    ag_tensor *w = ag_param(ag_to(numbers(4, 1, CHANNELS, 1), AG_CUDA));
    ag_tensor *b = ag_param(ag_to(numbers(5, 1, CHANNELS, 0), AG_CUDA));
    ag_tensor *mean = ag_to(ag_zeros(CHANNELS), AG_CUDA), *var = ag_to(ag_ones(CHANNELS), AG_CUDA);
    ag_tensor *in = ag_param(own(x)), *r = ag_param(own(residual));
    ag_tensor *y = ag_batch_norm(ag_cast(in, type), mean, var, .weight = ag_reshape(w, CHANNELS),
                                 .bias = ag_reshape(b, CHANNELS), .training = true, .residual = ag_cast(r, type),
                                 .activation = AG_LINEAR_RELU);
    ag_backward(ag_sum(ag_mul(ag_cast(y, AG_F32), own(g))));
    out->n = 0;
    take(out, mean), take(out, var);
    ag_tensor *parts[] = { y, in->grad, r->grad }, *params[] = { w->grad, b->grad };
    for (int i = 0; i < 3; i++) {
        ag_tensor *part = ag_to(ag_cast(ag_detach(parts[i]), AG_F32), AG_CPU);
        take(out, ag_ranks() > 1 ? part : ag_contiguous(ag_slice(part, 0, EACH * rank, EACH * rank + EACH)));
    }
    for (int i = 0; i < 2; i++) {
        ag_tensor *sum = ag_contiguous(ag_to(ag_detach(params[i]), AG_CPU));
        ag_ranks_sum_real(ag_real(sum), ag_numel(sum));
        take(out, sum);
    }
}

static void near(const char *what, double tol)
{
    assert_int_equal(got.n, want.n);
    for (int64_t i = 0; i < got.n; i++)
        if (!(fabs(got.v[i] - want.v[i]) <= tol * fmax(1, fabs(want.v[i]))))
            fail_msg("%s, value %d: %.9g, alone %.9g", what, (int)i, got.v[i], want.v[i]);
}

static void test_batch_norm_sees_all_ranks(void **state)
{
    (void)state;
    for (int order = 0; order < ROUNDS; order++) {
        ag_emulate_order(order);
        alone(), normalise(AG_F32, 0.5, &want);
        together(), normalise(AG_F32, 0.5, &got);
        near("f32", 2e-5);
        alone(), normalise(AG_F32, 300, &want);
        together(), normalise(AG_F32, 300, &got);
        near("far from 0", 2e-3);
        alone(), normalise(AG_BF16, 0.5, &want);
        together(), normalise(AG_BF16, 0.5, &got);
        near("bf16", 2e-2);
    }
}

/* ---- steps ----------------------------------------------------------------------------------------------- */

static nn_module *net_new(void)
{
    ag_manual_seed(3);
    return nn_sequential(nn_linear(6, 40), nn_batch_norm1d(40), nn_relu(), nn_linear(40, 9), nn_linear(9, 2));
}

/* In some steps a weight is used once more, before all others: its gradient arrives when its bucket has been sent already. */
static ag_tensor *loss_of(nn_module *net, int step)
{
    ag_tensor *x = own(numbers(10 + (uint64_t)step, (int64_t)EACH * ranks, 6, 0));
    ag_tensor *y = own(numbers(20 + (uint64_t)step, (int64_t)EACH * ranks, 2, 0)), *w = nn_param(net, "3.weight");
    ag_tensor *before = step % 3 == 2 ? ag_sum(ag_mul(w, w)) : NULL, *loss = ag_mse_loss(nn_call(net, x), y);
    return before ? ag_add(loss, ag_scale(before, 0.1)) : loss;
}

static void steps(void *arg)
{
    values *out = arg;
    AG_SCOPE;
    use("cuda");
    nn_module *net = net_new();
    optim *opt = optim_sgd(net, 0.05);      /* Adam would not see a factor */
    use("cpu");
    for (int step = 0; step < STEPS; step++) {
        AG_SCOPE;
        ag_optim_ranks_arm(AG_HERE, opt);
        ag_backward(loss_of(net, step));
        ag_optim_ranks_disarm();
        optim_step(opt);
        optim_zero_grad(opt);
    }
    out->n = 0;
    for (int64_t i = 0; i < nn_param_count(net); i++) take(out, nn_param_at(net, i));
}

static void test_steps_are_those_of_the_whole_batch(void **state)
{
    (void)state;
    static values eager;
    alone(), steps(&want);
    together(), steps(&eager);
    ag_emulate_lazy(true);                  /* a missing wait shows: of the main stream; in a hurry, of the one beside it */
    for (int hurry = 0; hurry < 2; hurry++) {
        ag_emulate_nccl_hurry(hurry);
        steps(&got);
        assert_int_equal(got.n, eager.n);
        assert_memory_equal(got.v, eager.v, (size_t)got.n * sizeof *got.v);
    }
    ag_emulate_lazy(false), ag_emulate_nccl_hurry(false);
    near("steps", 1e-4);
}

/* On all ranks at once, so that they stay in step: one error, and the same numbers when it is done again. */
static void test_every_call_fails_once(void **state)
{
    (void)state;
    static values first;
    int errors = 0;
    steps(&first);
    for (int64_t k = 1;; k++) {
        ag_emulate_fail(k, 1);
        const bool failed = ag_try(steps, &got);
        const int64_t calls = ag_emulate_calls();
        ag_emulate_fail(0, 0);
        ag_emulate_error();
        ag_optim_ranks_disarm();
        use("cpu");
        if (!failed && calls < k) break;
        errors += failed;
        if (failed && !strstr(ag_error(), "cuda: ") && !strstr(ag_error(), "memory")) fail_msg("call %d: %s", (int)k, ag_error());
        ag_device_table(AG_CUDA)->sync();
        if (k % 16) continue;
        steps(&got);
        assert_memory_equal(got.v, first.v, (size_t)first.n * sizeof *first.v);
    }
    assert_true(errors > 50);
}

/* A plan of memory runs the functions of the kernels, on one rank alone. */
static void test_a_rank_plans_by_itself(void **state)
{
    (void)state;
    AG_SCOPE;
    use("cuda");
    nn_module *net = net_new();
    for (int i = 0; i <= rank; i++) {
        const ag_plan p = ag_memory_plan(net, AG_SHAPE(EACH, 6), .train = true);
        assert_true(p.peak > 0);
    }
    use("cpu");
    double sum = 1;
    ag_ranks_sum(&sum, 1);
    assert_true(sum == ranks);
}

/* ---- the library ----------------------------------------------------------------------------------------- */

/* The one that is installed, if any, without a GPU; then, in a process that finds it first, one of long ago. */
static void test_the_library_is_found_or_explained(void **state)
{
    (void)state;
    ag_nccl_functions f;
    char why[512] = "";
    const int version = ag_nccl_load(&f, why, sizeof why);
    if (version) {
        print_message("NCCL %d.%d.%d\n", version / 10000, version / 100 % 100, version % 100);
        assert_true(version >= AG_NCCL_LEAST && f.init && f.all_reduce && f.last_error);
        assert_non_null(strstr(f.words(AG_NCCL_SUCCESS), "no error"));
    } else assert_non_null(strstr(why, "install NCCL 2 (pip install"));
    int status = 0;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        setenv("LD_LIBRARY_PATH", "build/emu/tests/nccl/lib64", 1);
        execl("/proc/self/exe", "test_cuda_ranks", "old", (char *)NULL);
        _exit(2);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static int load_an_old_one(void)
{
    ag_nccl_functions f;
    char why[512] = "";
    const bool loaded = ag_nccl_load(&f, why, sizeof why);
    const bool right = !loaded && strstr(why, "found is NCCL 2.8, and 2.18 is the least; install NCCL 2");
    if (!right) fprintf(stderr, "NCCL is %s: %s\n", loaded ? "loaded" : "refused", why);
    return !right;
}

static void sum_and_wait(void *unused)
{
    (void)unused;
    AG_SCOPE;
    ag_tensor *t = ag_to(ag_arange(4), AG_CUDA);
    ag_cuda_ranks_sum(t->data, 2);
    ag_device_table(AG_CUDA)->sync();
}

/* Runs last: afterwards there is no communicator. */
static void test_a_broken_network_ends_the_waiting(void **state)
{
    (void)state;
    if (ranks == 1 || getenv("AG_EMULATE_NO_NCCL")) skip();
    const time_t start = time(NULL);
    ag_emulate_lazy(true);
    ag_emulate_nccl_break();
    assert_int_equal(ag_try(sum_and_wait, NULL), 1);
    assert_true(time(NULL) - start < 10);
    if (!strstr(ag_error(), "NCCL gave up: remote process exited")) fail_msg("%s", ag_error());
}

int main(int argc, char *argv[])
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_library_is_found_or_explained), cmocka_unit_test(test_batch_norm_sees_all_ranks),
        cmocka_unit_test(test_steps_are_those_of_the_whole_batch), cmocka_unit_test(test_a_rank_plans_by_itself),
        cmocka_unit_test(test_every_call_fails_once), cmocka_unit_test(test_a_broken_network_ends_the_waiting),
    };
    if (argc > 1 && !strcmp(argv[1], "old")) return load_an_old_one();
    ag_init(.seed = 1, .threads = 1);
    ranks = ag_ranks(), rank = ag_rank();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void)
{
    printf("SKIP: several GPUs are there in the emulation only (make BUILD=emu)\n");
    return 0;
}
#endif
