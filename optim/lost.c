/* optim/lost.c - a GPU that is lost in the midst of a fit: where that was, and what is left to go on from. A checkpoint takes
 * the place of the one before it only when it is whole, so the last one always is. */
#include <stdio.h>
#include <string.h>
#include "core/device.h"
#include "optim/learner_inside.h"

static void describe(void *p, char *text, size_t size)
{
    const learner *l = p;
    const struct learner_inside *in = l->in;
    int used = snprintf(text, size, "It was in epoch %d of %d, step %" PRId64 " of %" PRId64 ". ", l->epoch, l->epochs, l->step,
                        l->steps);
    if (used < 0 || (size_t)used >= size) return;
    text += used, size -= (size_t)used;
    if (in->saved_step < 0)
        snprintf(text, size, in->checkpoint ? "Nothing was saved before; %s is written after each epoch"
                                            : "Nothing was saved; with .checkpoint = \"file\" that is done after each epoch",
                 in->checkpoint);
    else
        snprintf(text, size, "%s is whole: it was saved after step %" PRId64 "; go on with: %s", in->checkpoint, in->saved_step,
                 in->resume_hint ? in->resume_hint : "learner_resume, on this device or another");
}

static void no_advice(void *unused)
{
    (void)unused;
    ag_device_advise((ag_memory_advice){ NULL, NULL });
}

void ag_learner_lost_begin(learner *l)
{
    ag_device_advise((ag_memory_advice){ describe, l });
    ag_defer(no_advice, NULL);
}

/* The file is one to go on from, if it is where the fit's checkpoint lies. */
void ag_learner_saved(learner *l, const char *path, int64_t step)
{
    if (l->in->checkpoint && !strcmp(path, l->in->checkpoint)) l->in->saved_step = step;
}
