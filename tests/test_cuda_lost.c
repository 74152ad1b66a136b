/* tests/test_cuda_lost.c - a GPU that is lost in the midst of a fit, one that is full, one that is hidden; who holds its memory.
 * In the emulation of the GPU (cuda/emulate.h), with a libnvidia-ml made for it (tests/fake_nvml.c). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "tests/cuda_cases.h"

#ifdef AG_EMULATE
void ag_emulate_lose(int64_t at);
int64_t ag_emulate_calls(void);
void ag_emulate_driver(int devices, int major, int count, int use);
enum { NO_DEVICE = 100 };                       /* cudaError_t */

enum { N = 24, IN = 5, BATCH = 6, EPOCHS = 3 };
static char saved[] = "/tmp/agrad-lost-XXXXXX";
static values want, got;

static data_set *samples(void)
{
    ag_tensor *x = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(N, IN)), *y = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(N, 1));
    ag_fill_normal(ag_real(x), ag_numel(x), 3);
    for (int i = 0; i < N; i++) ag_real(y)[i] = ag_real(x)[i * IN] - ag_real(x)[i * IN + 1];
    return data_from_tensors(x, y);
}

typedef struct { ag_device device; const char *checkpoint; bool resume; values *out; } run_opts;

static void fit(void *arg)
{
    const run_opts *o = arg;
    AG_SCOPE;
    ag_init(.device = "cpu");
    data_split parts = data_random_split(samples(), 0.25, 1);
    ag_init(.device = o->device == AG_CUDA ? "cuda" : "cpu", .seed = 4);
    nn_module *net = nn_sequential(nn_linear(IN, 7), nn_batch_norm1d(7), nn_relu(), nn_linear(7, 1));
    data_loader *train = data_loader_new(parts.train, BATCH, .shuffle = true, .seed = 5);
    learner *l = learner_new(train, data_loader_new(parts.valid, 8), net, learner_mse, .checkpoint = o->checkpoint,
                             .quiet = true, .clip = 1, .resume_hint = "build/paddy train --resume x");
    if (o->resume) learner_resume(l, o->checkpoint);
    learner_fit_one_cycle(l, EPOCHS, 2e-2);
    o->out->n = 0;
    for (int64_t i = 0; i < nn_param_count(net); i++) take(o->out, nn_param_at(net, i));
    ag_init(.device = "cpu");
}

static void has(const char *part)
{
    if (!strstr(ag_error(), part)) fail_msg("no '%s' in: %s", part, ag_error());
}

/* In the message once and no more: the first failure counts, what fails while all is let go says nothing. */
static void has_once(const char *part)
{
    has(part);
    if (strstr(strstr(ag_error(), part) + 1, part)) fail_msg("'%s' twice in: %s", part, ag_error());
}

static int64_t lost_at(int64_t k, run_opts o)
{
    ag_emulate_lose(k);
    const bool failed = ag_try(fit, &o);
    const int64_t calls = ag_emulate_calls();
    ag_emulate_lose(0);
    ag_emulate_error();
    ag_init(.device = "cpu");
    if (failed != (calls >= k)) fail_msg("lost at call %d of %d: %s", (int)k, (int)calls, ag_error());
    return calls;
}

static void test_a_fit_ends_with_one_error_and_goes_on_elsewhere(void **state)
{
    (void)state;
    int wholes = 0, nothings = 0;
    close(mkstemp(saved));
    fit(&(run_opts){ AG_CPU, NULL, false, &want });
    const run_opts on_gpu = { AG_CUDA, saved, false, &got };
    const int64_t calls = lost_at(INT64_MAX, on_gpu);
    assert_true(calls > 200);
    const ag_memory_stats gpu = ag_memory(AG_CUDA), cpu = ag_memory(AG_CPU);
    for (int64_t k = 1; k < calls; k += 1 + calls / 97) {
        remove(saved);
        lost_at(k, on_gpu);
        has_once("cuda: "), has_once("The GPU is lost to this process"), has("an illegal memory access was encountered");
        const bool began = strstr(ag_error(), "It was in epoch "), whole = access(saved, F_OK) == 0;
        if (began && whole) has(saved), has(" is whole: it was saved after step "), has("go on with: build/paddy train ");
        else if (began) has("Nothing was saved before; /tmp/agrad-lost-");
        wholes += began && whole, nothings += began && !whole;
        const ag_memory_stats g = ag_memory(AG_CUDA), c = ag_memory(AG_CPU);
        if (g.in_use != gpu.in_use || c.in_use != cpu.in_use || c.tensors != cpu.tensors || c.nodes != cpu.nodes)
            fail_msg("lost at call %d: %d bytes of the GPU, %d of the CPU, %d tensors, %d nodes are left", (int)k,
                     (int)(g.in_use - gpu.in_use), (int)(c.in_use - cpu.in_use), (int)(c.tensors - cpu.tensors),
                     (int)(c.nodes - cpu.nodes));
        if (!whole) continue;
        fit(&(run_opts){ AG_CPU, saved, true, &got });
        for (int64_t i = 0; i < want.n; i++)
            if (!(fabs(got.v[i] - want.v[i]) <= 1e-3)) fail_msg("value %d: %g, at once %g", (int)i, got.v[i], want.v[i]);
    }
    assert_true(wholes > 20 && nothings > 5);
    remove(saved);
    lost_at(calls / 2, (run_opts){ AG_CUDA, NULL, false, &got });
    has("Nothing was saved; with .checkpoint = \"file\" that is done after each epoch");
}

/* What libraries are asked for: products, convolutions. */
static void ask_libraries(void *unused)
{
    (void)unused;
    AG_SCOPE;
    ag_init(.device = "cuda", .seed = 2);
    nn_module *net = nn_sequential(nn_conv2d(4, 8, 3, .pad = 1), nn_conv2d(8, 8, 3), nn_linear(8, 3));
    ag_tensor *loss = ag_mean(ag_square(nn_call(net, ag_to(ag_randn(2, 6, 6, 4), AG_CUDA))));
    ag_backward(loss);
    ag_item(loss);
    ag_init(.device = "cpu");
}

static void test_a_library_says_that_it_is_lost(void **state)
{
    (void)state;
    ask_libraries(NULL);                    /* what is planned once is planned now */
    ag_emulate_lose(INT64_MAX);
    ask_libraries(NULL);
    const int64_t calls = ag_emulate_calls();
    for (int64_t k = 1; k <= calls; k++) {
        ag_emulate_lose(k);
        assert_int_equal(ag_try(ask_libraries, NULL), 1);
        ag_emulate_lose(0), ag_emulate_error();
        ag_init(.device = "cpu");
        has_once("The GPU is lost to this process");
    }
}

/* Without anybody who catches it: status 2, one message, nothing that hangs or crashes. */
static void test_the_process_ends(void **state)
{
    (void)state;
    for (int64_t k = 5; k < 400; k += 79) {
        int status = 0, out[2];
        char text[4096] = "";
        assert_int_equal(pipe(out), 0);
        const pid_t child = fork();
        assert_true(child >= 0);
        if (!child) {
            dup2(out[1], STDERR_FILENO);
            alarm(20);
            ag_emulate_lose(k);
            fit(&(run_opts){ AG_CUDA, NULL, false, &got });
            _exit(0);
        }
        close(out[1]);
        for (size_t used = 0; used < sizeof text - 1;) {
            const ssize_t n = read(out[0], text + used, sizeof text - 1 - used);
            if (n <= 0) break;
            used += (size_t)n;
        }
        close(out[0]);
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 2) fail_msg("call %d: status %d: %s", (int)k, status, text);
        assert_non_null(strstr(text, "The GPU is lost to this process"));
    }
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

static void too_much(void *unused)
{
    (void)unused;
    AG_SCOPE;
    ag_init(.device = "cuda");
    ag_item(ag_zeros((int64_t)1 << 30));
}

static void read_report(char *text, size_t size)
{
    FILE *f = tmpfile();
    ag_init(.device = "cuda");
    ag_memory_report(f);
    ag_init(.device = "cpu");
    rewind(f);
    text[fread(text, 1, size - 1, f)] = 0;
    fclose(f);
}

/* NVML is looked for once in a process. */
static void names_in_a_process_of_its_own(const char *home)
{
    char text[4096], line[128];
    if (home) setenv("CUDA_HOME", home, 1);
    read_report(text, sizeof text);
    snprintf(line, sizeof line, "process %d (test_cuda_lost) uses 209.7 MB GPU memory\n", (int)getpid());
    const char *const lines[] = { "process 4000003 (python3) uses 314.6 MB GPU memory\n", line,
                                  "process 4000001 uses 104.9 MB GPU memory\n",
                                  "process 4000002 uses GPU memory, how much the driver does not say\n" };
    const char *at = text;
    for (size_t i = 0; i < 4 && home; i++)
        if (!(at = strstr(at, lines[i]))) fprintf(stderr, "no %sin this order in\n%s", lines[i], text), _exit(1);
    if (!home && strstr(text, "GPU memory")) _exit(2);
    if (!ag_try(too_much, NULL)) _exit(3);
    if (!strstr(ag_error(), "GPU out of memory: needed 4295.0 MB, ")) _exit(4);
    const bool named = strstr(ag_error(), "(python3, process 4000003: 314.6 MB; unknown, process 4000001: 104.9 MB)");
    if (named != (home != NULL)) fprintf(stderr, "%s\n", ag_error()), _exit(5);
    _exit(0);
}

static void test_who_holds_the_memory(void **state)
{
    (void)state;
    assert_int_equal(access("build/emu/tests/nvml/lib64/libnvidia-ml.so.1", F_OK), 0);
    for (int with = 0; with < 2; with++) {
        int status = 0;
        const pid_t child = fork();
        assert_true(child >= 0);
        if (!child) names_in_a_process_of_its_own(with ? "build/emu/tests/nvml" : NULL);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
}

/* ---- what is no loss ------------------------------------------------------------------------------------- */

static void test_hidden_devices(void **state)
{
    (void)state;
    char why[512] = "";
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    ag_emulate_driver(0, 9, NO_DEVICE, 0);
    assert_false(ag_cuda_device.init(why, sizeof why));
    assert_non_null(strstr(why, "CUDA_VISIBLE_DEVICES=\"\" hides all GPUs from this process"));
    setenv("CUDA_VISIBLE_DEVICES", "3", 1);
    ag_emulate_driver(1, 9, 0, 0);
    ag_cuda_wanted = 1;
    assert_false(ag_cuda_device.init(why, sizeof why));
    assert_non_null(strstr(why, "there is no GPU 1: the driver counts 1, from 0, of CUDA_VISIBLE_DEVICES=3"));
    unsetenv("CUDA_VISIBLE_DEVICES");
    ag_cuda_wanted = -1;
}

static void infer(ag_node *n) { ag_infer_same(n); }
static void forward(ag_node *n) { memcpy(n->out->data, n->in[0]->data, (size_t)ag_numel(n->out) * sizeof(real)); }
static const ag_op mine = { .name = "mine", .inputs = "x", .infer = infer, .forward = { forward }, .no_grad = "a test" };

static void apply_mine(void *unused)
{
    (void)unused;
    AG_SCOPE;
    ag_apply(&mine, AG_INPUTS(ag_to(ag_ones(2, 3), AG_CUDA)), NULL, 0);
}

static void test_an_op_without_a_kernel(void **state)
{
    (void)state;
    assert_int_equal(ag_try(apply_mine, NULL), 1);
    has("ag_mine: no cuda kernel; move the operands to the cpu with ag_to"), has("[2, 3]");
}
#endif

int main(void)
{
#ifdef AG_EMULATE
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hidden_devices), cmocka_unit_test(test_who_holds_the_memory),
        cmocka_unit_test(test_an_op_without_a_kernel), cmocka_unit_test(test_the_process_ends),
        cmocka_unit_test(test_a_library_says_that_it_is_lost),
        cmocka_unit_test(test_a_fit_ends_with_one_error_and_goes_on_elsewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
#else
    print_message("SKIP: a GPU is lost at will in the emulation only (make BUILD=emu)\n");
    return 0;
#endif
}
