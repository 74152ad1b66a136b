/* nn/files.c - modules in files, and their summary. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "core/memory.h"
#include "core/weights.h"
#include "nn/module.h"

/* ---- saving -------------------------------------------------------------------------------------------- */

int64_t ag_nn_named_count(const nn_module *m)
{
    return ag_nn_param_count(m) + ag_nn_buffer_count(m);
}

static bool put(void *arg, const nn_module *owner, const struct nn_slot *slot)
{
    ag_named **next = arg;
    (void)owner;
    *(*next)++ = (ag_named){ slot->path, slot->tensor };
    return false;
}

void ag_nn_to_named(const nn_module *m, ag_named *named)
{
    ag_nn_each(m, NN_SLOT_PARAM, put, &named);
    ag_nn_each(m, NN_SLOT_BUFFER, put, &named);
}

void ag_nn_save_(const char *at, const nn_module *m, const char *path)
{
    AG_SCOPE;
    const int64_t n = ag_nn_named_count(m);
    ag_named *named = ag_alloc(n, sizeof *named);
    ag_defer(ag_free, named);
    ag_nn_to_named(m, named);
    ag_safetensors_save_(at, path, n, named, 0, NULL);
}

/* ---- loading ------------------------------------------------------------------------------------------- */

enum { SHOWN = 12 };

typedef struct {
    const char *at;
    nn_module *module;
    ag_named *own;
    int64_t n;
    ag_weights file;
    const char *prefix, *skip;
} loading;
typedef enum { MISSING, UNEXPECTED, RESHAPED, RETYPED, FAULTS } fault;
typedef struct { char text[2048]; size_t used; int n[FAULTS], all; } complaints;

static void complain(complaints *c, fault kind, const char *name, const char *what)
{
    c->n[kind]++;
    if (c->all++ < SHOWN && c->used < sizeof c->text)
        c->used += (size_t)snprintf(c->text + c->used, sizeof c->text - c->used, "\n    %s  %s", name, what);
}

static bool skipped(const loading *l, const char *name)
{
    return l->skip && ag_nn_match(l->skip, name);
}

static const char *in_file(const loading *l, int64_t i, char *buf, size_t size)
{
    snprintf(buf, size, "%s%s", l->prefix, l->own[i].name);
    return buf;
}

static bool is_real(ag_dtype t)
{
    return t == AG_F32 || t == AG_BF16;
}

static void compare(complaints *c, const loading *l, const ag_named *own, const char *name)
{
    char what[256], own_shape[128], shape[128];
    if (!ag_weights_has(l->file, name)) {
        complain(c, MISSING, own->name, "is missing in the file");
        return;
    }
    const ag_shape s = ag_weights_shape(l->file, name);
    ag_tensor theirs = { .ndim = s.ndim, .dtype = ag_weights_dtype(l->file, name) };
    bool same = s.ndim == own->tensor->ndim;
    for (int i = 0; i < s.ndim; i++) {
        theirs.shape[i] = s.dim[i];
        same = same && s.dim[i] == own->tensor->shape[i];
    }
    if (same && is_real(theirs.dtype) == is_real(own->tensor->dtype)) return;
    ag_describe(&theirs, shape, sizeof shape);
    snprintf(what, sizeof what, "is %s in the file, %s in the module", same ? shape : strchr(shape, '['),
             ag_describe(own->tensor, own_shape, sizeof own_shape));
    complain(c, same ? RETYPED : RESHAPED, own->name, what);
}

static void find_extra(complaints *c, const loading *l)
{
    const size_t length = strlen(l->prefix);
    for (int64_t i = 0; i < ag_weights_count(l->file); i++) {
        const char *full = ag_weights_name(l->file, i), *name = full + length;
        if (strncmp(full, l->prefix, length) || skipped(l, name)) continue;
        bool known = false;
        for (int64_t k = 0; k < l->n && !known; k++) known = !strcmp(l->own[k].name, name);
        if (!known) complain(c, UNEXPECTED, name, "is in the file, not in the module");
    }
}

static void require_fit(const loading *l)
{
    static const char *const kinds[FAULTS] = { "missing", "unexpected", "of another shape", "of another kind of number" };
    complaints c = { .used = 0 };
    char name[1024], summary[128];
    size_t used = 0;
    for (int64_t i = 0; i < l->n; i++)
        if (!skipped(l, l->own[i].name)) compare(&c, l, &l->own[i], in_file(l, i, name, sizeof name));
    find_extra(&c, l);
    if (!c.all) return;
    for (int k = 0; k < FAULTS; k++)
        if (c.n[k])
            used += (size_t)snprintf(summary + used, sizeof summary - used, "%s%d %s", used ? ", " : "", c.n[k], kinds[k]);
    if (c.all > SHOWN) snprintf(c.text + c.used, sizeof c.text - c.used, "\n    and %d more", c.all - SHOWN);
    const char *choice = ag_weights_choice(l->file);
    ag_fail(l->at, "%s%s%s does not fit the module %s: %s; nothing was loaded (.skip leaves names out):%s",
            ag_weights_path(l->file), *choice ? ", " : "", choice, l->module->type, summary, c.text);
}

static int64_t count_not_finite(const ag_tensor *t)
{
    int64_t bad = 0;
    const uint16_t *h = t->data;
    if (t->dtype == AG_F32) for (int64_t i = 0; i < ag_numel(t); i++) bad += !isfinite(((const real *)t->data)[i]);
    if (t->dtype == AG_BF16) for (int64_t i = 0; i < ag_numel(t); i++) bad += (h[i] & 0x7f80) == 0x7f80;
    return bad;
}

static void require_finite(const loading *l)
{
    char name[1024], first[1024] = "";
    int64_t bad = 0, tensors = 0;
    for (int64_t i = 0; i < l->n; i++) {
        if (skipped(l, l->own[i].name)) continue;
        AG_SCOPE;
        const int64_t n = count_not_finite(ag_weights_get_(l->at, l->file, in_file(l, i, name, sizeof name)));
        if (n && !tensors++) snprintf(first, sizeof first, "%s", l->own[i].name);
        bad += n;
    }
    if (bad)
        ag_fail(l->at, "%s: %" PRId64 " weights in %" PRId64 " tensors are NaN or infinite; the first tensor is '%s'; "
                "nothing was loaded", ag_weights_path(l->file), bad, tensors, first);
}

void ag_nn_load_weights(const char *at, nn_module *m, ag_weights file, const char *prefix, nn_load_opts opts)
{
    AG_SCOPE;
    loading l = { at, m, NULL, ag_nn_named_count(m), file, prefix, opts.skip };
    char name[1024];
    l.own = ag_alloc(l.n, sizeof *l.own);
    ag_defer(ag_free, l.own);
    ag_nn_to_named(m, l.own);
    require_fit(&l);
    if (opts.check_finite) require_finite(&l);
    for (int64_t i = 0; i < l.n; i++) {
        if (skipped(&l, l.own[i].name)) continue;
        AG_SCOPE;
        ag_copy_(at, l.own[i].tensor, ag_weights_get_(at, file, in_file(&l, i, name, sizeof name)));
    }
}

void ag_nn_load_from(const char *at, nn_module *m, const ag_safetensors *f, const char *prefix, const char *skip)
{
    ag_nn_load_weights(at, m, (ag_weights){ .safetensors = f }, prefix, (nn_load_opts){ .skip = skip });
}

void ag_nn_load_(const char *at, nn_module *m, const char *path, nn_load_opts opts)
{
    AG_SCOPE;
    ag_nn_load_weights(at, m, ag_weights_open_(at, path), "", opts);
}

/* ---- summary ------------------------------------------------------------------------------------------- */

static char *with_commas(int64_t n, char *buf)
{
    char digits[32];
    const int len = snprintf(digits, sizeof digits, "%" PRId64, n);
    int k = 0;
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0) buf[k++] = ',';
        buf[k++] = digits[i];
    }
    buf[k] = 0;
    return buf;
}

static int64_t own_numel(const nn_module *m, bool trained_only)
{
    int64_t n = 0;
    for (int i = 0; i < m->n_slots; i++)
        if (m->slots[i].kind == NN_SLOT_PARAM && (!trained_only || m->slots[i].tensor->requires_grad))
            n += ag_numel(m->slots[i].tensor);
    return n;
}

/* "f32[1, 1000]", on whatever device. */
static const char *shape_of(const ag_tensor *t, char *buf, size_t size)
{
    ag_tensor here = *t;
    here.device = AG_CPU;
    return ag_describe(&here, buf, size);
}

static void print_row(void *arg, const nn_module *m, const ag_tensor *y)
{
    char path[256], shape[128], count[40];
    const int64_t own = own_numel(m, false);
    (void)arg;
    ag_nn_path(m, path, sizeof path);
    printf("%-28s %-16s %-20s %12s%s\n", *path ? path : "(whole)", m->type, shape_of(y, shape, sizeof shape),
           own ? with_commas(own, count) : "", own && !own_numel(m, true) ? "  frozen" : "");
}

static void stop_observing(void *unused)
{
    (void)unused;
    ag_nn_observer = NULL;
}

static bool add_trained(void *arg, const nn_module *owner, const struct nn_slot *slot)
{
    (void)owner;
    if (slot->tensor->requires_grad) *(int64_t *)arg += ag_numel(slot->tensor);
    return false;
}

void ag_nn_summary_(const char *at, nn_module *m, ag_tensor *x)
{
    char shape[128], all[40], part[40];
    int64_t trained = 0;
    (void)at;
    printf("%-28s %-16s %-20s %12s\n", "module", "type", "output", "parameters");
    printf("%-28s %-16s %-20s\n", "(input)", "", shape_of(x, shape, sizeof shape));
    {
        NN_EVAL(m);
        ag_defer(stop_observing, NULL);
        ag_nn_observer = print_row;
        const ag_tensor *y = ag_nn_call(m, x);
        (void)y;
    }
    ag_nn_each(m, NN_SLOT_PARAM, add_trained, &trained);
    printf("%s parameters, %s of them trained, %.2f MB\n", with_commas(ag_nn_numel(m), all), with_commas(trained, part),
           (double)ag_nn_numel(m) * sizeof(real) / 1e6);
}
