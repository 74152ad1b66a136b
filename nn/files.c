/* nn/files.c - modules in safetensors files, and their summary. */
#include <stdio.h>
#include <string.h>
#include "core/memory.h"
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

enum { SHOWN = 6 };

typedef struct { char text[1024]; size_t used; int n; } complaints;

static void complain(complaints *c, const char *name, const char *what)
{
    if (c->n++ < SHOWN && c->used < sizeof c->text)
        c->used += (size_t)snprintf(c->text + c->used, sizeof c->text - c->used, "\n    %s  %s", name, what);
}

static bool skipped(const char *skip, const char *name)
{
    return skip && ag_nn_match(skip, name);
}

static void compare(complaints *c, const ag_named *own, const ag_safetensors *f, const char *in_file)
{
    char what[256], shape[128];
    if (!ag_safetensors_has(f, in_file)) {
        complain(c, own->name, "is missing in the file");
        return;
    }
    const ag_shape s = ag_safetensors_shape(f, in_file);
    bool same = s.ndim == own->tensor->ndim;
    for (int i = 0; same && i < s.ndim; i++) same = s.dim[i] == own->tensor->shape[i];
    if (same) return;
    int used = snprintf(what, sizeof what, "is [");
    for (int i = 0; i < s.ndim; i++)
        used += snprintf(what + used, sizeof what - (size_t)used, i ? ", %" PRId64 : "%" PRId64, s.dim[i]);
    snprintf(what + used, sizeof what - (size_t)used, "] in the file, %s in the module",
             ag_describe(own->tensor, shape, sizeof shape));
    complain(c, own->name, what);
}

static void find_extra(complaints *c, const ag_named *own, int64_t n, const ag_safetensors *f, const char *prefix,
                       const char *skip)
{
    const size_t length = strlen(prefix);
    for (int64_t i = 0; i < ag_safetensors_count(f); i++) {
        const char *full = ag_safetensors_name(f, i), *name = full + length;
        if (strncmp(full, prefix, length) || skipped(skip, name)) continue;
        bool known = false;
        for (int64_t k = 0; k < n && !known; k++) known = !strcmp(own[k].name, name);
        if (!known) complain(c, name, "is in the file, not in the module");
    }
}

void ag_nn_load_from(const char *at, nn_module *m, const ag_safetensors *f, const char *prefix, const char *skip)
{
    AG_SCOPE;
    const int64_t n = ag_nn_named_count(m);
    complaints c = { .used = 0 };
    char in_file[1024];
    ag_named *own = ag_alloc(n, sizeof *own);
    ag_defer(ag_free, own);
    ag_nn_to_named(m, own);
    for (int64_t i = 0; i < n; i++) {
        snprintf(in_file, sizeof in_file, "%s%s", prefix, own[i].name);
        if (!skipped(skip, own[i].name)) compare(&c, &own[i], f, in_file);
    }
    find_extra(&c, own, n, f, prefix, skip);
    if (c.n) {
        if (c.n > SHOWN) snprintf(c.text + c.used, sizeof c.text - c.used, "\n    and %d more", c.n - SHOWN);
        ag_fail(at, "the file does not fit the module %s; nothing was loaded:%s", m->type, c.text);
    }
    for (int64_t i = 0; i < n; i++) {
        snprintf(in_file, sizeof in_file, "%s%s", prefix, own[i].name);
        if (!skipped(skip, own[i].name)) ag_copy_(at, own[i].tensor, ag_safetensors_get_(at, f, in_file));
    }
}

void ag_nn_load_(const char *at, nn_module *m, const char *path, nn_load_opts opts)
{
    AG_SCOPE;
    ag_nn_load_from(at, m, ag_safetensors_open_(at, path), "", opts.skip);
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

static void print_row(void *arg, const nn_module *m, const ag_tensor *y)
{
    char path[256], shape[128], count[40];
    const int64_t own = own_numel(m, false);
    (void)arg;
    ag_nn_path(m, path, sizeof path);
    printf("%-28s %-16s %-20s %12s%s\n", *path ? path : "(whole)", m->type, ag_describe(y, shape, sizeof shape),
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
    printf("%-28s %-16s %-20s\n", "(input)", "", ag_describe(x, shape, sizeof shape));
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
