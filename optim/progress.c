/* optim/progress.c - what a person sees: on a terminal a bar with the time left, and a table of epochs; in a file the
 * table alone. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "optim/learner_inside.h"

static void print_time(double seconds)
{
    const int64_t s = (int64_t)(seconds + 0.5);
    if (s >= 3600) printf("%" PRId64 ":%02d:%02d", s / 3600, (int)(s / 60 % 60), (int)(s % 60));
    else printf("%02d:%02d", (int)(s / 60), (int)(s % 60));
}

void ag_learner_clear_line(learner *l)
{
    if (l->in->terminal && !l->in->quiet) printf("\r\033[K");
}

void ag_learner_show_batch(learner *l)
{
    enum { WIDTH = 30 };
    if (!l->in->terminal || l->in->quiet) return;
    const double now = ag_learner_now();
    if (now - l->in->last_draw < 0.1) return;       /* ten times a second is enough for an eye */
    l->in->last_draw = now;
    const double done = (double)(l->batch + 1) / (double)data_batches(l->train);
    printf("\r\033[Kepoch %d/%d  ", l->epoch + 1, l->epochs);
    for (int i = 0; i < WIDTH; i++) fputs((i + 1) <= done * WIDTH ? "█" : "·", stdout);
    printf("  %3.0f%%  loss %.4f  left ", 100 * done, l->train_loss);
    print_time((now - l->in->epoch_start) * (1 - done) / done);
    fflush(stdout);
}

static void print_number(double v, int width)
{
    if (isnan(v)) printf("%-*s", width, "-");
    else printf("%-*.6f", width, v);
}

/* The losses of single targets stand in the log alone: a terminal is 80 columns wide. */
static int width_of(const learner_metric *m)
{
    const int n = (int)strlen(m->name) + 2;
    return !m->add ? 0 : n < 12 ? 12 : n;
}

void ag_learner_show_epoch(learner *l)
{
    if (l->in->quiet) return;
    ag_learner_clear_line(l);
    if (!l->in->header_done) {
        printf("%-8s%-12s%-12s", "epoch", "train_loss", "valid_loss");
        for (int i = 0; i < l->n_metrics; i++)
            if (width_of(&l->metrics[i])) printf("%-*s", width_of(&l->metrics[i]), l->metrics[i].name);
        printf("time\n");
        l->in->header_done = true;
    }
    printf("%-8d", l->epoch);
    print_number(l->train_loss, 12);
    print_number(l->valid_loss, 12);
    for (int i = 0; i < l->n_metrics; i++)
        if (width_of(&l->metrics[i])) print_number(l->metric[i], width_of(&l->metrics[i]));
    if (l->seconds < 10) printf("%.2f s", l->seconds);
    else print_time(l->seconds);
    printf("\n");
    fflush(stdout);
}
