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
    if (!strcmp(o->precision, "tf32")) return "f32";            /* main.c says so to ag_init */
    if (strcmp(o->precision, "auto")) return o->precision;
    const bool fast = ag_read_small("/proc/cpuinfo", cpu, sizeof cpu) && (strstr(cpu, "amx_bf16") || strstr(cpu, "avx512_bf16"));
    return fast ? "bf16" : "f32";
}

static learner *make_learner(const options *o, const data_loaders *dls, const char *hint)
{
    return vision_learner(dls, o->arch, .weights = o->weights,
                          .learner = { .metrics = { learner_error_rate }, .weight_decay = o->wd,
                                       .accumulate = (int)o->accumulate[0], .precision = precision_of(o),
                                       .fit_memory = o->memory > 0, .checkpoint = o->save, .resume_hint = hint,
                                       .log = o->log });
}

/* Errors of every target from probabilities of the validation pictures. */
static void print_errors(const char *what, const learner *l, const ag_tensor *p)
{
    const learner_interpretation i = learner_interpret_probabilities(&l->targets, l->valid, p);
    printf("%s:", what);
    for (int k = 0; k < i.targets.n; k++) printf("  %s_error %.4f", i.targets.target[k].name, learner_error(&i, k));
    putchar('\n');
}

int train(const options *o)
{
    options_require_writable(&o->line, o->save);
    const leaves where = leaves_find(o, o->line.argument[0]);
    data_loaders dls = leaves_loaders(o, &where, NULL);
    char *hint = o->save ? options_resume_command(&o->line, o->save) : NULL;
    learner *l = make_learner(o, &dls, hint);
    ag_meta meta[MODEL_META];
    learner_set_meta(l, model_meta(o, &dls.targets, meta), meta);
    const double steps = (double)(o->epochs * data_batches(dls.train)) / (double)o->accumulate[0];
    const double decay = fmax(0.5, fmin(0.99, 1 - 10 / steps));             /* an average of the last tenth at most */
    if (!o->weights) learner_add(l, learner_ema(.decay = decay));
    if (o->resume) learner_resume(l, o->resume);
    if (o->weights) learner_fine_tune(l, (int)o->epochs, o->lr, .freeze_epochs = (int)o->freeze_epochs);
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
    const leaves where = leaves_find(o, o->line.argument[0]);
    data_loaders dls = leaves_loaders(o, &where, NULL);
    learner *l = make_learner(o, &dls, NULL);
    const learner_rates r = learner_lr_find(l);
    printf("valley %.2g   slide %.2g   steep %.2g   minimum/10 %.2g\n", r.valley, r.slide, r.steep, r.minimum);
    if (!o->out) return 0;
    learner_rates_plot(&r, o->out);
    printf("drawn in %s\n", o->out);
    return 0;
}
