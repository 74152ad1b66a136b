/* optim/interpret.c - counting and sorting what a classifier said. */
#include "optim/interpret.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/memory.h"
#include "data/block.h"
#include "data/plot.h"

static void *scratch(int64_t n, size_t size)
{
    void *p = ag_alloc(n ? n : 1, size);
    ag_defer(ag_free, p);
    return p;
}

/* ---- made from probabilities ----------------------------------------------------------------------------- */

static void read_sample(learner_interpretation *i, int k, int64_t r)
{
    const int64_t classes = i->targets.target[k].classes;
    const real *p = (const real *)i->probability->data + r * i->probability->shape[1] + i->first[k];
    int64_t best = 0;
    for (int64_t c = 1; c < classes; c++) if (p[c] > p[best]) best = c;
    const int64_t is = (int64_t)ag_data_item_target(i->set, r, k);
    i->actual[k][r] = is;
    i->predicted[k][r] = isnan(p[0]) ? -1 : best;
    i->loss[k][r] = isnan(p[0]) || is < 0 || is >= classes ? NAN : -log(fmax((double)p[is], 1e-38));
}

learner_interpretation ag_learner_interpret_probabilities_(const char *at, const data_targets *targets, data_loader *loader,
                                                           const ag_tensor *probability)
{
    learner_interpretation i = { .targets = *targets, .set = data_loader_set(loader) };
    int64_t columns = 0;
    i.n = data_samples(loader);
    for (int k = 0; k < targets->n; k++) i.first[k] = columns, columns += targets->target[k].classes;
    if (!targets->n) ag_fail(at, "learner_interpret: the learner has no .targets to ask for");
    if (probability->ndim != 2 || probability->shape[0] != i.n || probability->shape[1] != columns)
        ag_fail(at, "learner_interpret: the probabilities of %" PRId64 " samples are [%" PRId64 ", %" PRId64 "], got %" PRId64
                " rows of %" PRId64, i.n, i.n, columns, probability->shape[0], ag_numel(probability) / probability->shape[0]);
    i.probability = ag_contiguous_(at, ag_to_(at, (ag_tensor *)(uintptr_t)probability, AG_CPU));
    for (int k = 0; k < targets->n; k++) {
        if (targets->target[k].kind != DATA_TARGET_CATEGORY) continue;
        i.actual[k] = scratch(i.n, sizeof(int64_t));
        i.predicted[k] = scratch(i.n, sizeof(int64_t));
        i.loss[k] = scratch(i.n, sizeof(double));
        for (int64_t r = 0; r < i.n; r++) read_sample(&i, k, r);
    }
    return i;
}

learner_interpretation ag_learner_interpret_(const char *at, learner *l, data_loader *loader)
{
    if (!loader) loader = l->valid;
    if (!loader) ag_fail(at, "learner_interpret: there is no validation set");
    return ag_learner_interpret_probabilities_(at, &l->targets, loader, ag_learner_probabilities_(at, l, loader));
}

static const data_target *category(const char *at, const learner_interpretation *i, int k)
{
    if (k < 0 || k >= i->targets.n) ag_fail(at, "there is no target %d; there are 0 .. %d", k, i->targets.n - 1);
    if (!i->predicted[k]) ag_fail(at, "the target %s has no classes to be confused", i->targets.target[k].name);
    return &i->targets.target[k];
}

/* ---- counts ---------------------------------------------------------------------------------------------- */

double ag_learner_error_(const char *at, const learner_interpretation *i, int k)
{
    int64_t wrong = 0, seen = 0;
    category(at, i, k);
    for (int64_t r = 0; r < i->n; r++) {
        if (i->predicted[k][r] < 0) continue;
        wrong += i->predicted[k][r] != i->actual[k][r];
        seen++;
    }
    return (double)wrong / (double)seen;
}

int64_t *ag_learner_confusion_(const char *at, const learner_interpretation *i, int k)
{
    const int64_t classes = category(at, i, k)->classes;
    int64_t *count = scratch(ag_mul_size(at, classes, classes), sizeof *count);
    for (int64_t r = 0; r < i->n; r++)
        if (i->predicted[k][r] >= 0) count[i->actual[k][r] * classes + i->predicted[k][r]]++;
    return count;
}

static int by_count(const void *a, const void *b)
{
    const learner_confused *x = a, *y = b;
    if (x->count != y->count) return x->count < y->count ? 1 : -1;
    if (x->actual != y->actual) return x->actual < y->actual ? -1 : 1;
    return x->predicted < y->predicted ? -1 : x->predicted > y->predicted;
}

learner_confused *ag_learner_most_confused_(const char *at, const learner_interpretation *i, int k, int64_t least)
{
    const int64_t classes = category(at, i, k)->classes, *count = ag_learner_confusion_(at, i, k);
    learner_confused *list = scratch(classes * classes + 1, sizeof *list);
    int64_t n = 0;
    if (least < 1) least = 1;
    for (int64_t r = 0; r < classes; r++)
        for (int64_t c = 0; c < classes; c++)
            if (r != c && count[r * classes + c] >= least) list[n++] = (learner_confused){ r, c, count[r * classes + c] };
    qsort(list, (size_t)n, sizeof *list, by_count);
    return list;
}

static double share(int64_t part, int64_t all)
{
    return all ? (double)part / (double)all : 0;
}

learner_class_score *ag_learner_class_report_(const char *at, const learner_interpretation *i, int k)
{
    const int64_t classes = category(at, i, k)->classes, *count = ag_learner_confusion_(at, i, k);
    learner_class_score *s = scratch(classes + 2, sizeof *s), *mean = s + classes, *weighted = mean + 1;
    int64_t all = 0;
    for (int64_t c = 0; c < classes; c++) {
        int64_t said = 0, is = 0;
        for (int64_t j = 0; j < classes; j++) said += count[j * classes + c], is += count[c * classes + j];
        const double p = share(count[c * classes + c], said), r = share(count[c * classes + c], is);
        s[c] = (learner_class_score){ p, r, p + r > 0 ? 2 * p * r / (p + r) : 0, is };
        all += is;
    }
    mean->support = weighted->support = all;
    for (int64_t c = 0; c < classes; c++) {
        const double w[2] = { 1 / (double)classes, share(s[c].support, all) };
        for (int m = 0; m < 2; m++) {
            mean[m].precision += w[m] * s[c].precision;
            mean[m].recall += w[m] * s[c].recall;
            mean[m].f1 += w[m] * s[c].f1;
        }
    }
    return s;
}

static const char *class_name(const data_target *t, int64_t c)
{
    static _Thread_local char number[24];
    if (t->vocab) return data_vocab_text(t->vocab, c);
    snprintf(number, sizeof number, "%" PRId64, c);
    return number;
}

static void print_score(const char *name, const learner_class_score *s)
{
    printf("%-28s%10.3f%10.3f%10.3f%10" PRId64 "\n", name, s->precision, s->recall, s->f1, s->support);
}

void ag_learner_print_report_(const char *at, const learner_interpretation *i, int k)
{
    AG_SCOPE;
    const data_target *t = category(at, i, k);
    const learner_class_score *s = ag_learner_class_report_(at, i, k);
    printf("%-28s%10s%10s%10s%10s\n", t->name, "precision", "recall", "f1", "samples");
    for (int64_t c = 0; c < t->classes; c++) print_score(class_name(t, c), &s[c]);
    print_score("mean", &s[t->classes]);
    print_score("weighted mean", &s[t->classes + 1]);
}

/* ---- losses ---------------------------------------------------------------------------------------------- */

typedef struct { double loss; int64_t row; } ranked;

static int by_loss(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->loss != y->loss) return x->loss < y->loss ? 1 : -1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static double loss_of(const learner_interpretation *i, int k, int64_t r)
{
    double sum = 0;
    if (k >= 0) return i->loss[k][r];
    for (int j = 0; j < i->targets.n; j++) if (i->loss[j]) sum += i->loss[j][r];
    return sum;
}

int64_t *ag_learner_top_losses_(const char *at, const learner_interpretation *i, int k, int64_t n)
{
    ranked *all = scratch(i->n, sizeof *all);
    int64_t *rows, count = 0;
    if (k >= 0) category(at, i, k);
    for (int64_t r = 0; r < i->n; r++) {
        const double loss = loss_of(i, k, r);
        if (!isnan(loss)) all[count++] = (ranked){ loss, r };
    }
    qsort(all, (size_t)count, sizeof *all, by_loss);
    if (n > count) n = count;
    if (n < 0) n = 0;
    rows = scratch(n + 1, sizeof *rows);
    for (int64_t r = 0; r < n; r++) rows[r] = all[r].row;
    rows[n] = -1;
    return rows;
}

const char *ag_learner_verdict(const learner_interpretation *i, int k, int64_t r)
{
    const data_target *t = category(AG_HERE, i, k);
    const int64_t said = i->predicted[k][r], is = i->actual[k][r];
    if (said < 0) return "not read";
    const real *p = (const real *)i->probability->data + r * i->probability->shape[1] + i->first[k];
    char *text = ag_sprintf("%s %.2f", class_name(t, said), (double)p[said]), *whole = text;
    if (said != is) {
        whole = ag_sprintf("%s, is %s", text, class_name(t, is));
        ag_free(text);
    }
    ag_defer(ag_free, whole);
    return whole;
}

/* ---- pictures -------------------------------------------------------------------------------------------- */

void ag_learner_plot_confusion_(const char *at, const learner_interpretation *i, int k, const char *path)
{
    AG_SCOPE;
    const data_target *t = category(at, i, k);
    const char **name = scratch(t->classes, sizeof *name);
    for (int64_t c = 0; c < t->classes; c++) {
        char *own = ag_strdup(class_name(t, c));
        ag_defer(ag_free, own);
        name[c] = own;
    }
    ag_data_plot_confusion_(at, path, (int)t->classes, ag_learner_confusion_(at, i, k), name,
                            (data_plot_confusion_opts){ .title = t->name });
}

void ag_learner_plot_top_losses_(const char *at, const learner_interpretation *i, int k, int64_t n, const char *path)
{
    AG_SCOPE;
    const int64_t *rows = ag_learner_top_losses_(at, i, k, n);
    for (n = 0; rows[n] >= 0;) n++;
    data_plot_picture *shown = scratch(n, sizeof *shown);
    data_image *image = scratch(n, sizeof *image);
    for (int64_t r = 0; r < n; r++) {
        const char *file = ag_data_item_path(i->set, rows[r]);
        if (!file) ag_fail(at, "learner_plot_top_losses: these samples are no files");
        image[r] = ag_data_image_read_(at, file, (data_image_opts){ .width = 256, .height = 256 });
        const char *text = "";
        for (int j = 0; j < i->targets.n; j++) {
            if (!i->loss[j]) continue;
            char *more = ag_sprintf("%s%s%s", text, *text ? "\n" : "", ag_learner_verdict(i, j, rows[r]));
            ag_defer(ag_free, more);
            text = more;
            shown[r].wrong |= i->predicted[j][rows[r]] != i->actual[j][rows[r]];
        }
        shown[r].image = &image[r], shown[r].caption = text;
    }
    ag_data_plot_grid_(at, path, (int)n, shown, (data_plot_grid_opts){ .title = "largest losses" });
}
