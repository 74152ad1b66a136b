/* report.c - what saved models get wrong, as one page that needs nothing else: pictures and curves stand in it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/io.h"
#include "core/memory.h"
#include "page.h"
#include "paddy.h"

enum { SHOWN_LOSSES = 24, SHOWN_CONFUSED = 8, THUMBNAIL = 220 };

/* ---- probabilities of the validation pictures ------------------------------------------------------------- */

typedef struct { data_loader *valid; ag_tensor *probability; data_targets targets; } judged;

/* What the model did not learn from: as it was told in training, unless a table is given now. */
static judged judge(const options *o, const leaves *where, const model *m)
{
    options of = *o;
    of.seed = m->seed, of.valid = m->valid;
    if (!of.valid_table) of.valid_table = m->valid_table;
    data_loaders dls = leaves_loaders(&of, where, m);
    learner *l = learner_new(dls.valid, dls.valid, m->net, NULL, .targets = m->targets, .quiet = true);
    judged j = { dls.valid, NULL, m->targets };
    if (!o->tta) j.probability = learner_probabilities(l, NULL);
    else {
        data_loader *varied = data_loader_new(data_set_varied(data_loader_set(dls.valid), true), o->batch);
        j.probability = learner_tta(l, dls.valid, varied);
    }
    return j;
}

/* An ensemble is judged by pictures that none of its models has seen. */
static void require_same_split(const options *o, const model *a, const model *b)
{
    const bool tables = a->valid_table && b->valid_table && !strcmp(a->valid_table, b->valid_table);
    const bool chance = !a->valid_table && !b->valid_table && a->seed == b->seed && a->valid == b->valid;
    if (o->valid_table || tables || chance) return;
    ag_fail(NULL, "%s and %s held out different pictures, so that one learned from what the other is judged by; train both with "
            "the same --valid-table, or give one here of pictures that neither has seen", a->path, b->path);
}

/* ---- parts of the page ------------------------------------------------------------------------------------ */

static void error_row(page *p, const char *name, const learner_interpretation *i)
{
    page_print(p, "<tr><th>"), page_text(p, name), page_print(p, "</th>");
    printf("%-32s", name);
    for (int k = 0; k < i->targets.n; k++) {
        const double e = learner_error(i, k);
        page_print(p, "<td>%.4f</td>", e);
        printf("  %s_error %.4f", i->targets.target[k].name, e);
    }
    page_print(p, "</tr>\n");
    putchar('\n');
}

static void errors(page *p, int n, const model *m, judged *each, ag_tensor *all)
{
    page_print(p, "<table class=errors><tr><th></th>");
    for (int k = 0; k < each[0].targets.n; k++)
        page_print(p, "<th>"), page_text(p, each[0].targets.target[k].name), page_print(p, " error</th>");
    page_print(p, "</tr>\n");
    for (int i = 0; i < n; i++) {
        const learner_interpretation one = learner_interpret_probabilities(&each[i].targets, each[i].valid, each[i].probability);
        error_row(p, m[i].path, &one);
    }
    if (n > 1) {
        const learner_interpretation both = learner_interpret_probabilities(&each[0].targets, each[0].valid, all);
        error_row(p, "together", &both);
    }
    page_print(p, "</table>\n");
}

static const char *class_text(const data_target *t, int64_t c)
{
    return data_vocab_text(t->vocab, c);
}

static void confusion(page *p, const learner_interpretation *i, int k)
{
    const data_target *t = &i->targets.target[k];
    const int64_t *count = learner_confusion(i, k);
    page_print(p, "<div class=wide><table class=confusion><caption>rows: what it is; columns: what was said</caption>\n");
    page_print(p, "<tr><th></th>");
    for (int64_t c = 0; c < t->classes; c++)
        page_print(p, "<th class=up><span>"), page_text(p, class_text(t, c)), page_print(p, "</span></th>");
    page_print(p, "</tr>\n");
    for (int64_t r = 0; r < t->classes; r++) {
        int64_t all = 0;
        for (int64_t c = 0; c < t->classes; c++) all += count[r * t->classes + c];
        page_print(p, "<tr><th>"), page_text(p, class_text(t, r)), page_print(p, "</th>");
        for (int64_t c = 0; c < t->classes; c++) {
            const int64_t n = count[r * t->classes + c];
            const double share = all ? (double)n / (double)all : 0;
            /* A few mistakes are to be seen: their shade grows with the root of their share. */
            page_print(p, "<td style=\"background:rgba(%s,%.2f)\">%s", r == c ? "38,120,70" : "200,50,40",
                       r == c ? 0.75 * share : n ? 0.15 + 0.85 * sqrt(share) : 0, n || r == c ? "" : "</td>");
            if (n || r == c) page_print(p, "%" PRId64 "</td>", n);
        }
        page_print(p, "</tr>\n");
    }
    page_print(p, "</table></div>\n");
}

static void most_confused(page *p, const learner_interpretation *i, int k)
{
    const data_target *t = &i->targets.target[k];
    const learner_confused *c = learner_most_confused(i, k, 1);
    if (!c->count) {
        page_print(p, "<p>Nothing was taken for something else.</p>\n");
        return;
    }
    page_print(p, "<ul>\n");
    for (int n = 0; n < SHOWN_CONFUSED && c->count; n++, c++) {
        page_print(p, "<li>%" PRId64 " &times; ", c->count), page_text(p, class_text(t, c->actual));
        page_print(p, " taken for "), page_text(p, class_text(t, c->predicted)), page_print(p, "</li>\n");
    }
    page_print(p, "</ul>\n");
}

static void class_report(page *p, const learner_interpretation *i, int k)
{
    const data_target *t = &i->targets.target[k];
    const learner_class_score *s = learner_class_report(i, k);
    page_print(p, "<table><tr><th></th><th>precision</th><th>recall</th><th>F1</th><th>photographs</th></tr>\n");
    for (int64_t c = 0; c < t->classes + 2; c++) {
        page_print(p, "<tr><th>");
        page_text(p, c < t->classes ? class_text(t, c) : c == t->classes ? "mean" : "weighted mean");
        page_print(p, "</th><td>%.3f</td><td>%.3f</td><td>%.3f</td><td>%" PRId64 "</td></tr>\n", s[c].precision, s[c].recall,
                   s[c].f1, s[c].support);
    }
    page_print(p, "</table>\n");
}

static void top_losses(page *p, const learner_interpretation *i)
{
    page_print(p, "<div class=grid>\n");
    for (const int64_t *row = learner_top_losses(i, -1, SHOWN_LOSSES); *row >= 0; row++) {
        AG_SCOPE;
        const char *path = data_item_path(i->set, *row), *slash = strrchr(path, '/');
        data_image small = page_thumbnail(path, THUMBNAIL);
        page_print(p, "<figure>"), page_image(p, &small), page_print(p, "<figcaption>");
        for (int k = 0; k < i->targets.n; k++) {
            const bool wrong = i->predicted[k][*row] != i->actual[k][*row];
            page_print(p, "<div%s>", wrong ? " class=wrong" : "");
            page_text(p, learner_verdict(i, k, *row)), page_print(p, "</div>");
        }
        page_print(p, "<div class=name>"), page_text(p, slash ? slash + 1 : path);
        page_print(p, "</div></figcaption></figure>\n");
    }
    page_print(p, "</div>\n");
}

/* ---- all of it -------------------------------------------------------------------------------------------- */

static void write_page(const options *o, int n, const model *m, judged *each, ag_tensor *all)
{
    page *p = page_begin(o->line.command->name, o->out, "What the leaves were taken for");
    const learner_interpretation i = learner_interpret_probabilities(&each[0].targets, each[0].valid, all);
    page_print(p, "<p>%" PRId64 " photographs that were not learned from%s. ", i.n,
               o->tta ? ", each seen five times (test-time augmentation)" : "");
    for (int k = 0; k < n; k++) {
        page_print(p, "%s", k ? "; " : ""), page_text(p, m[k].path), page_print(p, ": "), page_text(p, m[k].arch);
        page_print(p, ", %" PRId64 " pixels", m[k].size);
    }
    page_print(p, ".</p>\n<h2>Errors</h2>\n");
    errors(p, n, m, each, all);
    for (int k = 0; k < n; k++) {
        if (!m[k].history) continue;
        page_print(p, "<h2>Learning of "), page_text(p, m[k].path), page_print(p, "</h2>\n");
        page_curves(p, m[k].history);
    }
    for (int k = 0; k < i.targets.n; k++) {
        page_print(p, "<h2>"), page_text(p, i.targets.target[k].name), page_print(p, "</h2>\n");
        confusion(p, &i, k);
        most_confused(p, &i, k);
        class_report(p, &i, k);
    }
    page_print(p, "<h2>Largest losses</h2>\n");
    top_losses(p, &i);
    page_end(p);
}

int report(const options *o)
{
    model m[MAX_MODELS];
    judged each[MAX_MODELS];
    ag_tensor *probability[MAX_MODELS];
    options_require_writable(&o->line, o->out);
    const int n = models_open(o, m);
    if (o->line.arguments > n + 1)
        ag_fail(NULL, "paddy: report takes models and one folder, got also %s", o->line.argument[n + 1]);
    for (int i = 1; i < n; i++) require_same_split(o, &m[0], &m[i]);
    const leaves where = leaves_find(o, o->line.argument[n]);
    for (int i = 0; i < n; i++) each[i] = judge(o, &where, &m[i]), probability[i] = each[i].probability;
    write_page(o, n, m, each, learner_ensemble(n, probability, NULL));
    printf("written to %s\n", o->out);
    return 0;
}
