/* tests/test_cuda_failures.c - in the emulation of the GPU (cuda/emulate.h) every call of the runtime fails once, and once
 * together with the next: one error that says what was being done, nothing leaked, the same bits when it is done again. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/cuda_cases.h"

#ifdef AG_EMULATE
void ag_emulate_fail(int64_t at, int64_t count);
int64_t ag_emulate_calls(void);
void ag_emulate_driver(int devices, int major, int count, int use);
enum { OUT_OF_MEMORY = 2, OLD_DRIVER = 35, BUSY = 46 };          /* cudaError_t */

enum { STEPS = 2, BATCH = 6, IN = 4, HEADS = 2, WIDTH = 3, IDS = 5 };

/* Some steps of a net with a table, attention, products, a norm; clipped; with averages, exchanged at the end. */
static void work(void *arg)
{
    values *out = arg;
    AG_SCOPE;
    out->n = 0;
    ag_init(.device = "cuda", .seed = 3);
    nn_module *in = nn_linear(IN, 3 * HEADS * WIDTH), *norm = nn_layer_norm(HEADS * WIDTH), *last = nn_linear(HEADS * WIDTH, 1);
    nn_module *table = nn_embedding(IDS, IN), *net = nn_sequential(table, in, norm, last);
    optim *opt = optim_adamw(net, 1e-2, .weight_decay = 0.1);
    optim_ema *ema = optim_ema_new(net, 0.5);
    for (int step = 0; step < STEPS; step++) {
        AG_SCOPE;
        const int64_t id[BATCH] = { 0, 1, 2, 3, 4, 1 };
        ag_tensor *qkv = ag_reshape(nn_call(in, nn_call(table, ag_from(AG_I64, id, BATCH))), 1, BATCH, 3, HEADS, WIDTH);
        ag_tensor *y = ag_gelu(ag_reshape(ag_attention_qkv(qkv), BATCH, HEADS * WIDTH));
        ag_tensor *error = ag_mean(ag_square(nn_call(last, nn_call(norm, y))));
        ag_backward(error);
        out->v[out->n++] = optim_clip_norm(opt, 0.1);
        optim_step(opt);
        optim_ema_update(ema);
        out->v[out->n++] = ag_item(error);
    }
    optim_ema_swap(ema);
    for (int64_t i = 0; i < nn_param_count(net); i++) take(out, nn_param_at(net, i));
}

/* Two epochs of batches on their way to the GPU, by a thread (.workers = 1) and without. */
static void load(void *arg)
{
    values *out = arg;
    AG_SCOPE;
    out->n = 0;
    real x[IDS * IN];
    for (int i = 0; i < IDS * IN; i++) x[i] = (real)i;
    ag_init(.device = "cpu");
    data_set *set = data_from_tensors(ag_from(AG_F32, x, IDS, IN), NULL);
    ag_init(.device = "cuda");
    for (int workers = 0; workers < 2; workers++) {
        data_loader *l = data_loader_new(set, 2, .workers = workers);
        for (int epoch = 0; epoch < 2; epoch++) DATA_EACH(b, l) take(out, b.x);
    }
}

/* Four epochs of two batches: steps become a graph. */
static void fit(void *arg)
{
    values *out = arg;
    AG_SCOPE;
    out->n = 0;
    ag_init(.device = "cpu");
    data_set *set = data_from_tensors(ag_full(0.5, 2 * BATCH, IN), ag_ones(2 * BATCH, 1));
    ag_init(.device = "cuda", .seed = 3);
    nn_module *net = nn_sequential(nn_linear(IN, 3), nn_dropout(0.3), nn_linear(3, 1));
    learner *l = learner_new(data_loader_new(set, BATCH), NULL, net, learner_mse, .clip = 0.1, .quiet = true);
    learner_fit(l, 4, 1e-2);
    for (int64_t i = 0; i < nn_param_count(net); i++) take(out, nn_param_at(net, i));
    out->v[out->n++] = l->train_loss;
}

static bool attempt(void (*fn)(void *), int64_t at, int64_t count, values *out)
{
    ag_emulate_fail(at, count);
    const bool failed = ag_try(fn, out);
    const int64_t calls = ag_emulate_calls();
    ag_emulate_fail(0, 0);
    ag_emulate_error();
    ag_init(.device = "cpu");
    ag_device_table(AG_CUDA)->trim();
    if (!failed) return calls >= at;
    const char *text = ag_error();
    if (!strstr(text, "cuda: ") && !strstr(text, "memory")) fail_msg("call %d: a vague error: %s", (int)at, text);
    if (strstr(strstr(text, "cuda: ") ? strstr(text, "cuda: ") + 1 : text, "cuda: ")) fail_msg("two errors: %s", text);
    return true;
}

static void every_call_fails_once(void (*fn)(void *), int64_t least)
{
    static values want, got;
    int64_t k = 1, errors = 0;
    assert_true(ag_cuda_available(NULL, 0));
    for (; attempt(fn, k, 1, &got); k++) { }                /* what is made once, such as cuBLASLt's workspace, is made now */
    attempt(fn, INT64_MAX, 0, &want);
    for (int64_t together = 1; together <= 2; together++) {
        const ag_memory_stats gpu = ag_memory(AG_CUDA), cpu = ag_memory(AG_CPU);
        for (k = 1; attempt(fn, k, together, &got); k++) {
            const ag_memory_stats g = ag_memory(AG_CUDA), c = ag_memory(AG_CPU);
            errors += got.n < want.n;
            if (got.n == want.n) assert_memory_equal(got.v, want.v, (size_t)want.n * sizeof *want.v);
            if (g.in_use != gpu.in_use || c.in_use != cpu.in_use || c.tensors != cpu.tensors || c.nodes != cpu.nodes)
                fail_msg("call %d: %d bytes of the GPU, %d of the CPU, %d tensors, %d nodes were left behind", (int)k,
                         (int)(g.in_use - gpu.in_use), (int)(c.in_use - cpu.in_use), (int)(c.tensors - cpu.tensors),
                         (int)(c.nodes - cpu.nodes));
            attempt(fn, INT64_MAX, 0, &got);
            assert_int_equal(got.n, want.n);
            assert_memory_equal(got.v, want.v, (size_t)want.n * sizeof *want.v);
        }
    }
    print_message("%d calls, %d errors\n", (int)k - 1, (int)errors);
    assert_true(k > least && errors > k);
}

static void test_every_call_of_training_fails_once(void **state) { (void)state, every_call_fails_once(work, 100); }
static void test_every_call_of_loading_fails_once(void **state) { (void)state, every_call_fails_once(load, 50); }

/* Of those of a recording the fit only says that it goes on op by op. */
static void test_every_call_of_a_fit_fails_once(void **state)
{
    (void)state;
    const int err = dup(2), nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, 2);
    every_call_fails_once(fit, 150);
    dup2(err, 2);
    close(err);
    close(nowhere);
}

/* In a process of its own each: the device is begun once. */
static void test_a_device_that_cannot_be_begun_is_explained(void **state)
{
    (void)state;
    int begun = 0;
    for (int k = 1; k <= 8 && !begun; k++) {
        const pid_t child = fork();
        assert_true(child >= 0);
        if (!child) {
            char why[512] = "";
            ag_emulate_fail(k, 1);
            const bool works = ag_cuda_available(why, sizeof why);
            const bool reason = strstr(why, "a planted failure") || strstr(why, "out of memory");
            _exit(works ? 2 : reason && strstr(why, "Everything works on the CPU") ? 0 : 1);
        }
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 1);
        if (WEXITSTATUS(status) == 2) begun = k;
    }
    assert_true(begun > 3);
}

/* The device table's own question, before the first use. */
static void test_what_a_driver_can_say(void **state)
{
    (void)state;
    static const struct { int devices, major, count, use, wanted; const char *why; } cases[] = {
        { 0, 9, 0, 0, -1, "it counts 0 devices" },
        { 2, 9, 0, 0, 2, "there is no GPU 2: the driver counts 2, from 0" },
        { 1, 7, 0, 0, -1, "GPU 0 has compute capability 7.x; 8.0 (Ampere) is the least" },
        { 1, 9, OLD_DRIVER, 0, -1, "driver is for CUDA 12.4, and this build was made with CUDA 13.0; update the driver" },
        { 2, 9, 0, BUSY, 1, "GPU 1 is busy" },
        { 1, 9, 0, OUT_OF_MEMORY, -1, "GPU 0 is out of memory" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char why[512] = "";
        ag_emulate_driver(cases[i].devices, cases[i].major, cases[i].count, cases[i].use);
        ag_cuda_wanted = cases[i].wanted;
        assert_false(ag_cuda_device.init(why, sizeof why));
        if (!strstr(why, cases[i].why) || !strstr(why, "Everything works on the CPU")) fail_msg("%s", why);
    }
    ag_emulate_driver(1, 9, 0, 0);
    ag_cuda_wanted = -1;
}

static void no_number(void *unused)
{
    (void)unused;
    ag_init(.device = "cuda:one");
}

static void test_the_number_of_a_device(void **state)
{
    (void)state;
    assert_int_equal(ag_try(no_number, NULL), 1);
    assert_non_null(strstr(ag_error(), "behind cuda: stands the number of a GPU, from 0"));
}
#endif

int main(void)
{
#ifdef AG_EMULATE
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_driver_can_say), cmocka_unit_test(test_the_number_of_a_device),
        cmocka_unit_test(test_a_device_that_cannot_be_begun_is_explained),
        cmocka_unit_test(test_every_call_of_training_fails_once), cmocka_unit_test(test_every_call_of_loading_fails_once),
        cmocka_unit_test(test_every_call_of_a_fit_fails_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
#else
    print_message("SKIP: calls fail at will in the emulation only (make BUILD=emu)\n");
    return 0;
#endif
}
