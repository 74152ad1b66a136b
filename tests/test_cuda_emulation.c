/* tests/test_cuda_emulation.c - what the emulation's runtime (cuda/emulate.h) must not overlook: missing waits between streams
 * and before the host reads, what a capture forbids, a host that touches device memory. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "core/device.h"
#include "tests/cuda_planted.h"

#ifdef AG_EMULATE
void ag_emulate_lazy(bool lazy);

static float *device_float(void)
{
    return ag_device_table(AG_CUDA)->alloc(sizeof(float));
}

static void test_a_missing_wait_shows_where_streams_are_lazy(void **state)
{
    (void)state;
    float *x = device_float();
    for (int lazy = 0; lazy < 2; lazy++) {
        ag_emulate_lazy(lazy);
        ag_device_table(AG_CUDA)->copy_in(x, &(float){ 1 }, sizeof *x);
        assert_true(planted_two_streams(x, true) == 5);
        ag_device_table(AG_CUDA)->copy_in(x, &(float){ 1 }, sizeof *x);
        assert_true(planted_two_streams(x, false) == (lazy ? 1 : 5));
        assert_true(planted_late_read(x, true) == 5);
        assert_true(planted_late_read(x, false) == (lazy ? 0 : 5));
    }
    ag_emulate_lazy(false);
    ag_device_table(AG_CUDA)->free(x);
}

static void test_a_capture_takes_launches_and_nothing_that_waits(void **state)
{
    (void)state;
    float *x = device_float(), captured;
    for (int kind = 0; kind < PLANTED_CAPTURES; kind++)
        assert_int_equal(planted_capture(x, (planted_capture_kind)kind) == 0, kind == PLANTED_FINE || kind == PLANTED_JOINED);
    assert_true(planted_replays(x, 3, &captured) == 3);
    assert_true(captured == 0);
    ag_device_table(AG_CUDA)->free(x);
}

static void test_the_host_cannot_touch_device_memory(void **state)
{
    (void)state;
    ag_device_table(AG_CUDA)->trim();
    float *x = device_float();
    ag_device_table(AG_CUDA)->copy_in(x, &(float){ 1 }, sizeof *x);
    int said[2], status;
    char text[200] = "";
    assert_int_equal(pipe(said), 0);
    const pid_t child = fork();
    if (!child) {
        dup2(said[1], 2);
        _exit(*(volatile float *)x == 1 ? 0 : 1);
    }
    close(said[1]);
    assert_true(read(said[0], text, sizeof text - 1) > 0);
    close(said[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    assert_non_null(strstr(text, "the host touched memory of the device"));
    ag_device_table(AG_CUDA)->free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_missing_wait_shows_where_streams_are_lazy),
        cmocka_unit_test(test_a_capture_takes_launches_and_nothing_that_waits),
        cmocka_unit_test(test_the_host_cannot_touch_device_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void)
{
    puts("SKIP test_cuda_emulation: it is about the emulation of the GPU (make BUILD=emu)");
    return 0;
}
#endif
