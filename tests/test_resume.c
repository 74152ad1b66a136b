/* A net that learns pictures with everything that draws random numbers: the same bits with any number of workers, and when it
 * was interrupted, or killed, in any step and goes on from its checkpoint. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "agrad.h"
#include "core/io.h"
#include "core/op.h"
#include "core/random.h"
#include "tests/folder.h"

enum { PICTURES = 40, BATCH = 7, EPOCHS = 3, STEPS = EPOCHS * 4, WIDTH = 44, HEIGHT = 36, NAMED = 512 };

/* Of class b the stripes are twice as narrow. */
static int make_folder(void **state)
{
    (void)state;
    if (!make_own_folder()) return 1;
    for (int i = 0; i < PICTURES; i++) {
        static uint8_t pixels[3 * WIDTH * HEIGHT];
        const data_image image = { WIDTH, HEIGHT, pixels };
        for (int k = 0; k < WIDTH * HEIGHT; k++)
            for (int c = 0; c < 3; c++)
                pixels[3 * k + c] = (uint8_t)((k % WIDTH * (i % 2 ? 16 : 8) + k / WIDTH * c + 31 * i) % 256);
        char name[64];
        snprintf(name, sizeof name, "leaves/%c", i % 2 ? 'b' : 'a');
        ag_make_folder(in_folder(name));
        snprintf(name, sizeof name, "leaves/%c/%02d.png", i % 2 ? 'b' : 'a', i);
        data_image_write(in_folder(name), &image);
    }
    return 0;
}

/* ---- one run ------------------------------------------------------------------------------------------- */

static learner_flow stop(learner *l, learner_event e, void *state)
{
    int *s = state;                 /* the step, of both parts of fine_tune, and the signal */
    (void)l;
    if (e == LEARNER_AFTER_STEP && --s[0] == 0) raise(s[1]);
    return LEARNER_GO;
}

typedef enum { FROM_SCRATCH, FINE_TUNE } kind;

/* In the innermost scope. signal 0: to the end; resumes: from the checkpoint, where there is one. */
static learner *run(kind how, int workers, const char *checkpoint, int step, int with, bool resumes)
{
    static int moment[2];
    moment[0] = step, moment[1] = with;
    ag_manual_seed(11);
    data_loaders d = data_image_folder(in_folder("leaves"), .valid_pct = 0.2, .split_seed = 3,
                                       .item_tfms = { data_resize(40, .method = DATA_SQUISH) },
                                       .batch_tfms = data_aug_transforms(.size = 32, .min_scale = 0.5),
                                       .loaders = { .batch = BATCH, .seed = 5, .workers = workers });
    learner *l = vision_learner(&d, "mobilenetv3_small_050", .drop_path = 0.3, .dropout = 0.2,
                                .weights = how == FINE_TUNE ? in_folder("first.safetensors") : NULL,
                                .learner = { .checkpoint = checkpoint, .quiet = true });
    learner_add(l, learner_ema(.decay = 0.9));
    if (with) learner_add(l, (learner_callback){ .on = stop, .state = moment });
    if (resumes && ag_file_exists(checkpoint)) {
        ag_manual_seed(99);
        learner_resume(l, checkpoint);
    }
    if (how == FINE_TUNE) learner_fine_tune(l, EPOCHS - 1, 1e-3);
    else learner_fit_one_cycle(l, EPOCHS, 1e-3);
    return l;
}

/* What a run leaves: parameters, buffers, losses. */
typedef struct { uint64_t bits; double train_loss, valid_loss; } outcome;

static outcome outcome_of(const learner *l)
{
    ag_named named[NAMED];
    outcome o = { 14695981039346656037u, l->train_loss, l->valid_loss };
    const int64_t n = nn_named_count(l->net);
    assert_true(n < NAMED);
    nn_to_named(l->net, named);
    for (int64_t i = 0; i < n; i++) {
        const unsigned char *bytes = named[i].tensor->data;
        for (int64_t k = 0; k < ag_numel(named[i].tensor) * (int64_t)ag_dtype_size(named[i].tensor->dtype); k++)
            o.bits = (o.bits ^ bytes[k]) * 1099511628211u;
    }
    return o;
}

static void assert_same(outcome a, outcome b, const char *what)
{
    if (a.bits != b.bits || a.train_loss != b.train_loss || a.valid_loss != b.valid_loss)
        fail_msg("%s: losses of %.9g, %.9g instead of %.9g, %.9g, or other weights", what, b.train_loss, b.valid_loss,
                 a.train_loss, a.valid_loss);
}

static outcome uninterrupted(kind how)
{
    static outcome o[2];
    if (o[how].bits) return o[how];
    AG_SCOPE;
    if (how == FINE_TUNE) {
        ag_manual_seed(4);
        nn_save(model_create("mobilenetv3_small_050", .classes = 2), in_folder("first.safetensors"));
    }
    const learner *l = run(how, 0, NULL, 0, 0, false);
    assert_int_equal(l->steps, how == FINE_TUNE ? STEPS - STEPS / EPOCHS : STEPS);
    return o[how] = outcome_of(l);
}

/* ---- tests --------------------------------------------------------------------------------------------- */

static void test_workers_change_no_bit(void **state)
{
    (void)state;
    for (int workers = 1; workers <= 4; workers *= 2) {
        AG_SCOPE;
        char what[32];
        snprintf(what, sizeof what, "%d workers", workers);
        assert_same(uninterrupted(FROM_SCRATCH), outcome_of(run(FROM_SCRATCH, workers, NULL, 0, 0, false)), what);
    }
}

static int random_step(int k)
{
    return 1 + (int)(ag_philox(17, 1, (uint64_t)k).v[0] % STEPS);
}

static void interrupt_at(kind how, int step, int k)
{
    static const int count_of[] = { 0, 1, 2, 4 };
    char what[64], path[300];
    snprintf(what, sizeof what, "interrupted after step %d, %d workers", step, count_of[k % 4]);
    snprintf(path, sizeof path, "%s/%d.safetensors", folder, k);
    AG_SCOPE;
    const outcome want = uninterrupted(how);
    assert_true(run(how, count_of[k % 4], path, step, SIGINT, false)->interrupted);
    const learner *l = run(how, count_of[(k + 1) % 4], path, 0, 0, true);
    assert_false(l->interrupted);
    assert_same(want, outcome_of(l), what);
    unlink(path);
}

/* By Ctrl-C: after the last step of an epoch, or of all, as well. */
static void test_interrupted_anywhere(void **state)
{
    (void)state;
    for (int k = 0; k < 10; k++) interrupt_at(FROM_SCRATCH, random_step(k), k);
}

/* In its first part, at its end, and in its second one. */
static void test_fine_tuning_interrupted(void **state)
{
    static const int steps[] = { 2, STEPS / EPOCHS, STEPS / EPOCHS + 1, STEPS / EPOCHS + 6, STEPS };
    (void)state;
    for (int k = 0; k < 5; k++) interrupt_at(FINE_TUNE, steps[k], k);
}

/* By a signal that cannot be caught: it goes on from the epoch's end before, or from the beginning. */
static void test_killed_anywhere(void **state)
{
    (void)state;
    for (int k = 10; k < 16; k++) {
        char what[64], path[300], step[16];
        int status;
        const kind how = k < 13 ? FROM_SCRATCH : FINE_TUNE;
        const outcome want = uninterrupted(how);
        snprintf(step, sizeof step, "%d", random_step(k));
        snprintf(what, sizeof what, "killed after step %s", step);
        snprintf(path, sizeof path, "%s/killed%d.safetensors", folder, k);
        const pid_t child = fork();
        if (!child) {
            execl("/proc/self/exe", "test_resume", folder, path, step, how ? "tune" : "fit", (char *)NULL);
            _exit(1);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        AG_SCOPE;
        assert_same(want, outcome_of(run(how, 1, path, 0, 0, true)), what);
        unlink(path);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_workers_change_no_bit),
        cmocka_unit_test(test_interrupted_anywhere),
        cmocka_unit_test(test_fine_tuning_interrupted),
        cmocka_unit_test(test_killed_anywhere),
    };
#ifndef AG_HAVE_STB
    printf("SKIP: this build has no stb_image\n");
    return 0;
#endif
    ag_init(.seed = 1);
    if (argc == 5) {                /* the one that is killed */
        snprintf(folder, sizeof folder, "%s", argv[1]);
        run(*argv[4] == 't' ? FINE_TUNE : FROM_SCRATCH, 2, argv[2], atoi(argv[3]), SIGKILL, false);
        return 0;
    }
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
