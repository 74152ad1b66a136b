/* train.c - learning from photographs: the script this program exists for. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/io.h"
#include "paddy.h"

/* bf16 where the processor multiplies it itself. */
static const char *precision_of(const options *o)
{
    char cpu[8192];
    if (strcmp(o->precision, "auto")) return o->precision;
    const bool fast = ag_read_small("/proc/cpuinfo", cpu, sizeof cpu) && (strstr(cpu, "amx_bf16") || strstr(cpu, "avx512_bf16"));
    return fast ? "bf16" : "f32";
}

static learner *make_learner(const options *o, const data_loaders *dls, const char *hint)
{
    return vision_learner(dls, o->arch, .weights = o->weights,
                          .learner = { .metrics = { learner_error_rate }, .weight_decay = o->wd, .accumulate = (int)o->accumulate,
                                       .precision = precision_of(o), .fit_memory = o->memory > 0, .checkpoint = o->save,
                                       .resume_hint = hint, .log = o->log });
}

/* Errors of every target from probabilities of the validation pictures. */
static void print_errors(const char *what, const learner *l, const ag_tensor *p)
{
    const data_set *valid = data_loader_set(l->valid);
    printf("%s:", what);
    for (int k = 0, first = 0; k < l->targets.n; first += (int)l->targets.target[k++].classes) {
        const data_target *t = &l->targets.target[k];
        int64_t wrong = 0, seen = 0;
        for (int64_t i = 0; i < p->shape[0]; i++) {
            const real *row = (const real *)p->data + i * p->shape[1] + first;
            int64_t best = 0;
            if (isnan(row[0])) continue;
            for (int64_t c = 1; c < t->classes; c++) if (row[c] > row[best]) best = c;
            wrong += best != (int64_t)data_item_target(valid, i, k);
            seen++;
        }
        printf("  %s_error %.4f", t->name, (double)wrong / (double)seen);
    }
    putchar('\n');
}

int train(const options *o)
{
    options_require_writable(&o->line, o->save);
    const leaves where = leaves_find(o);
    data_loaders dls = leaves_loaders(o, &where);
    char *hint = o->save ? options_resume_command(&o->line, o->save) : NULL;
    learner *l = make_learner(o, &dls, hint);
    ag_meta meta[MODEL_META];
    learner_set_meta(l, model_meta(o, &dls.targets, meta), meta);
    const double steps = (double)(o->epochs * data_batches(dls.train)) / (double)o->accumulate;
    const double decay = fmax(0.5, fmin(0.99, 1 - 10 / steps));             /* an average of the last tenth at most */
    if (!o->weights) learner_add(l, learner_ema(.decay = decay));
    if (o->resume) learner_resume(l, o->resume);
    if (o->weights) learner_fine_tune(l, (int)o->epochs, o->lr);
    else learner_fit_one_cycle(l, (int)o->epochs, o->lr);
    ag_free(hint);
    if (l->interrupted) return 130;
    if (o->save) learner_save(l, o->save, 0, NULL), printf("saved in %s\n", o->save);
    if (!o->tta) return 0;
    data_loader *varied = data_loader_new(data_set_varied(data_loader_set(dls.valid), true), data_batch_size(dls.valid));
    print_errors("without test-time augmentation", l, learner_probabilities(l, NULL));
    print_errors("with it", l, learner_tta(l, dls.valid, varied));
    return 0;
}

int lr_find(const options *o)
{
    options_require_writable(&o->line, o->out);
    const leaves where = leaves_find(o);
    data_loaders dls = leaves_loaders(o, &where);
    learner *l = make_learner(o, &dls, NULL);
    const learner_rates r = learner_lr_find(l);
    printf("valley %.2g   slide %.2g   steep %.2g   minimum/10 %.2g\n", r.valley, r.slide, r.steep, r.minimum);
    if (!o->out) return 0;
    learner_rates_plot(&r, o->out);
    printf("drawn in %s\n", o->out);
    return 0;
}
