/* predict.c - photographs by what was learned: one model, or the mean of several. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/io.h"
#include "paddy.h"

typedef struct { const char *const *path; int64_t n; } pictures;

/* The pictures named, or those of a folder. */
static pictures pictures_of(const options *o, int first)
{
    const char *const *rest = o->line.argument + first;
    const int n = o->line.arguments - first;
    if (n < 1) ag_fail(NULL, "paddy: predict takes photographs, or a folder of them, behind the models");
    if (n > 1 || !ag_is_folder(rest[0])) return (pictures){ rest, n };
    const data_files f = data_image_files(rest[0]);
    const char **path = ag_alloc(f.n, sizeof *path);
    ag_defer(ag_free, (void *)(uintptr_t)path);
    if (!f.n) ag_fail(NULL, "paddy: no pictures below %s (.jpg, .jpeg, .png, .bmp, .gif)", rest[0]);
    for (int64_t i = 0; i < f.n; i++) {
        char *full = ag_sprintf("%s/%s", rest[0], f.name[i]);
        ag_defer(ag_free, full);
        path[i] = full;
    }
    return (pictures){ path, f.n };
}

/* Probabilities [N, classes] of one model. */
static ag_tensor *probabilities(const options *o, const model *m, const pictures *p)
{
    const model_info *info = model_find(m->arch);
    data_folder_opts d = { .item_tfms = { leaves_resize(m->resize) }, .loaders = { .batch = o->batch },
                           .batch_tfms = data_aug_transforms(.size = m->size, .min_scale = 0.35) };
    for (int k = 0; k < 3; k++) d.normalize.mean[k] = (float)info->mean[k], d.normalize.std[k] = (float)info->std[k];
    data_loader *plain = ag_data_pictures_(NULL, p->path, p->n, false, d);
    learner *l = learner_new(plain, NULL, m->net, NULL, .targets = m->targets, .quiet = true);
    if (!o->tta) return learner_probabilities(l, plain);
    return learner_tta(l, plain, ag_data_pictures_(NULL, p->path, p->n, true, d));
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* "disease" stands in the table's column label, as in Kaggle's. */
static const char *column(const data_target *t)
{
    return strcmp(t->name, "disease") ? t->name : "label";
}

static void write_header(ag_file *f, const data_targets *t)
{
    ag_file_printf(f, "image_id");
    for (int k = 0; k < t->n; k++) ag_file_printf(f, ",%s,%s_prob", column(&t->target[k]), column(&t->target[k]));
    ag_file_printf(f, "\n");
}

/* A cell, in quotes where it needs them (RFC 4180). */
static void write_cell(ag_file *f, const char *text)
{
    if (!strpbrk(text, ",\"\r\n")) {
        ag_file_printf(f, "%s", text);
        return;
    }
    ag_file_printf(f, "\"");
    for (; *text; text++) ag_file_printf(f, *text == '"' ? "\"\"" : "%c", *text);
    ag_file_printf(f, "\"");
}

static void tell(ag_file *f, const data_targets *t, const char *path, const real *row)
{
    if (f) write_cell(f, base_name(path));
    else printf("%s", path);
    for (int k = 0; k < t->n; row += t->target[k++].classes) {
        int64_t best = 0;
        for (int64_t c = 1; c < t->target[k].classes; c++) if (row[c] > row[best]) best = c;
        const char *name = data_vocab_text(t->target[k].vocab, best);
        if (f) ag_file_printf(f, ","), write_cell(f, name), ag_file_printf(f, ",%.4f", (double)row[best]);
        else printf("  %s %s (%.1f %%)", t->target[k].name, name, 100 * (double)row[best]);
    }
    if (f) ag_file_printf(f, "\n");
    else putchar('\n');
}

/* Every file has its row: a table with fewer is refused by those who wait for it. */
static void tell_unread(ag_file *f, const data_targets *t, const char *path)
{
    if (!f) {
        printf("%s  could not be read\n", path);
        return;
    }
    write_cell(f, base_name(path));
    for (int k = 0; k < t->n; k++) ag_file_printf(f, ",,");
    ag_file_printf(f, "\n");
}

int predict(const options *o)
{
    model m[MAX_MODELS];
    ag_tensor *each[MAX_MODELS];
    const int models = models_open(o, m);
    options_require_writable(&o->line, o->csv);
    const pictures p = pictures_of(o, models);
    for (int i = 0; i < models; i++) each[i] = probabilities(o, &m[i], &p);
    const ag_tensor *all = learner_ensemble(models, each, NULL);
    int64_t unread = 0;
    ag_file *f = o->csv ? ag_file_create_(NULL, o->csv) : NULL;
    if (f) write_header(f, &m[0].targets);
    for (int64_t i = 0; i < p.n; i++) {
        const real *row = (const real *)all->data + i * all->shape[1];
        if (isnan(row[0])) unread++, tell_unread(f, &m[0].targets, p.path[i]);
        else tell(f, &m[0].targets, p.path[i], row);
    }
    if (f) ag_file_commit(f), printf("%s: %" PRId64 " photographs\n", o->csv, p.n);
    if (unread) fprintf(stderr, "%" PRId64 " of %" PRId64 " files could not be read\n", unread, p.n);
    return unread ? 1 : 0;
}
