/* optim/log.c - the table of epochs in a file, and the signals that end a fit between two steps. */
#include <signal.h>
#include <string.h>
#include "optim/learner_inside.h"

/* The first `rows` rows of the log that a resumed fit goes on with; "" where there are fewer. */
static char *kept_rows(const char *at, const char *path, int rows)
{
    if (!ag_file_exists(path)) return ag_strdup("");
    AG_SCOPE;
    const ag_bytes old = ag_read_file_(at, path);
    const char *p = old.data, *end = old.data + old.size, *first = NULL;
    for (int line = 0; p && line <= rows; line++) {
        p = p < end ? memchr(p, '\n', (size_t)(end - p)) : NULL;
        if (p) p++;
        if (line == 0) first = p;
    }
    return p ? ag_sprintf("%.*s", (int)(p - first), first) : ag_strdup("");
}

static const char *text_of(char *text)
{
    ag_defer(ag_free, text);
    return text;
}

static const char *header(const learner *l)
{
    const char *text = "epoch,train_loss,valid_loss";
    for (int i = 0; i < l->n_metrics; i++) text = text_of(ag_sprintf("%s,%s", text, l->metrics[i].name));
    return text;
}

void ag_learner_log_begin(learner *l)
{
    struct learner_inside *in = l->in;
    if (!in->log_path || in->log) return;
    char *kept = in->continues ? kept_rows(in->at, in->log_path, in->log_rows) : ag_strdup("");
    ag_defer(ag_free, kept);
    in->log = ag_log_open_(in->at, in->log_path, false);
    ag_log_printf(in->log, "%s,seconds\n%s", header(l), kept);
}

/* text + more, text freed; the scope's is `more`. */
static char *append(char *text, const char *more)
{
    char *both = ag_sprintf("%s%s", text, more);
    ag_free(text);
    return both;
}

void ag_learner_log_epoch(learner *l)
{
    AG_SCOPE;
    struct learner_inside *in = l->in;
    const char *row = text_of(ag_sprintf("%d,%.6f,%.6f", l->epoch, l->train_loss, l->valid_loss));
    for (int i = 0; i < l->n_metrics; i++) row = text_of(ag_sprintf("%s,%.6f", row, l->metric[i]));
    in->log_rows++;
    if (in->log) ag_log_printf(in->log, "%s,%.3f\n", row, l->seconds);
    /* Without the seconds: a run that was interrupted leaves the same file. */
    in->history = append(in->history ? in->history : ag_strdup(header(l)), text_of(ag_sprintf("\n%s", row)));
}

/* ---- signals ------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t signalled;
static struct sigaction before_int, before_term;

/* The second, of either kind, ends the process at once; the checkpoint is replaced atomically, so the old one is whole. */
static void on_signal(int number)
{
    if (signalled) signal(number, SIG_DFL), raise(number);
    signalled = number;
}

void ag_learner_signals_begin(void)
{
    struct sigaction a = { .sa_handler = on_signal, .sa_flags = SA_NODEFER | SA_RESTART };
    signalled = 0;
    sigaction(SIGINT, &a, &before_int);
    sigaction(SIGTERM, &a, &before_term);
}

void ag_learner_signals_end(void)
{
    sigaction(SIGINT, &before_int, NULL);
    sigaction(SIGTERM, &before_term, NULL);
}

bool ag_learner_signalled(void)
{
    return signalled != 0;
}
