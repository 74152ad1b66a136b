/* look.c - the models: a list, one layer by layer. */
#include <string.h>
#include "model.h"

char *with_commas(int64_t n, char *buf)
{
    char digits[32];
    const int length = snprintf(digits, sizeof digits, "%" PRId64, n);
    char *to = buf;
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0) *to++ = ',';
        *to++ = digits[i];
    }
    *to = 0;
    return buf;
}

nn_module *make_model(const options *o)
{
    const model_opts opts = { .classes = o->classes, .in_channels = o->channels, .size = o->size,
                              .recompute = o->recompute };
    return ag_model_create_(NULL, o->line.argument[0], opts);
}

void print_title(const options *o)
{
    const ag_shape s = batch_shape(o);
    if (o->tsv) return;
    printf("%s, %s of %" PRId64 " images %" PRId64 " x %" PRId64 ", %s\n", o->line.argument[0],
           o->train ? "training" : "inference", s.dim[0], s.dim[1], s.dim[2], o->precision);
}

ag_shape batch_shape(const options *o)
{
    const int64_t side = o->size ? o->size : ag_model_find_(NULL, o->line.argument[0])->size;
    return AG_SHAPE(o->batch, side, side, o->channels ? o->channels : 3);
}

static const char *rule(const model_info *m, char *buf, size_t size)
{
    if (m->fixed_size) snprintf(buf, size, "squares, --size");
    else if (m->multiple > 1) snprintf(buf, size, "multiples of %" PRId64, m->multiple);
    else snprintf(buf, size, "%" PRId64 " or more", m->least ? m->least : 1);
    return buf;
}

int list(const options *o)
{
    const model_info **all = model_list(o->line.argument[0] ? o->line.argument[0] : "*");
    char text[64], commas[32];
    int64_t n = 0;
    if (!*all) ag_fail(NULL, "model: no model matches '%s'; `model list` shows all", o->line.argument[0]);
    if (o->tsv) puts("name\tparameters\tsize\tsides\tmean\tstd\tfirst\thead");
    else printf("%-36s %12s %5s  %-16s %-20s %s\n", "name", "parameters", "size", "sides", "first", "classifier");
    for (const model_info **p = all; *p; p++, n++) {
        AG_SCOPE;
        const model_info *m = *p;
        const int64_t parameters = nn_numel(ag_model_create_(NULL, m->name, (model_opts){ 0 }));
        if (o->tsv)
            printf("%s\t%" PRId64 "\t%" PRId64 "\t%s\t%g %g %g\t%g %g %g\t%s\t%s\n", m->name, parameters, m->size,
                   rule(m, text, sizeof text), m->mean[0], m->mean[1], m->mean[2], m->std[0], m->std[1], m->std[2],
                   m->first, m->head);
        else
            printf("%-36s %12s %5" PRId64 "  %-16s %-20s %s\n", m->name, with_commas(parameters, commas), m->size,
                   rule(m, text, sizeof text), m->first, m->head);
    }
    if (!o->tsv) printf("%" PRId64 " models\n", n);
    return 0;
}

int summary(const options *o)
{
    nn_module *net = make_model(o);
    options one = *o;
    one.batch = 1;
    nn_summary(net, ag_empty_(AG_HERE, AG_F32, batch_shape(&one)));
    return 0;
}
