/* nn/module.c - the tree of modules.
 *
 * M1  A module is counted by the scope it was made in and by its parent; with the last count it lets go of its children
 *     and tensors.
 * M2  A tensor's name is its path from the root; it is written anew when a subtree gets a parent. */
#include "nn/module.h"
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include "core/memory.h"
#include "core/nearest.h"

_Thread_local void (*ag_nn_observer)(void *, const nn_module *, const ag_tensor *);
_Thread_local void *ag_nn_observer_arg;

/* ---- life ---------------------------------------------------------------------------------------------- */

static void release(void *p)
{
    nn_module *m = p;
    if (--m->refs) return;
    for (int i = m->n_slots - 1; i >= 0; i--) {
        struct nn_slot *s = &m->slots[i];
        if (s->child) {
            s->child->parent = NULL;
            release(s->child);
        }
        if (s->tensor) {
            s->tensor->name = NULL;
            ag_release(s->tensor);
        }
        ag_free(s->name);
        ag_free(s->path);
    }
    ag_free(m->slots);
    ag_free(m->name);
    ag_free(m);
}

nn_module *ag_nn_new_(const char *at, size_t size, const char *type, nn_forward_fn forward)
{
    nn_module *m = ag_alloc(1, size);
    m->at = at, m->type = type, m->forward = forward;
    m->training = true;
    m->refs = 1;
    ag_defer(release, m);
    return m;
}

/* ---- paths --------------------------------------------------------------------------------------------- */

char *ag_nn_path(const nn_module *m, char *buf, size_t size)
{
    buf[0] = 0;
    if (!m->parent) return buf;
    ag_nn_path(m->parent, buf, size);
    const size_t used = strlen(buf);
    snprintf(buf + used, size - used, used ? ".%s" : "%s", m->name);
    return buf;
}

const char *ag_nn_label(nn_module *m)
{
    char path[1024];
    if (!m->label) m->label = ag_intern(ag_nn_path(m, path, sizeof path));
    return m->label;
}

static void name_tensors(nn_module *m)
{
    char path[1024];
    ag_nn_path(m, path, sizeof path);
    m->label = ag_intern(path);
    for (int i = 0; i < m->n_slots; i++) {
        struct nn_slot *s = &m->slots[i];
        if (s->child) {
            name_tensors(s->child);
            continue;
        }
        char *before = s->path;
        s->path = ag_sprintf("%s%s%s", path, *path ? "." : "", s->name);
        s->tensor->name = s->path;
        ag_memory_owner(s->tensor, m->label);
        ag_free(before);
    }
}

static struct nn_slot *add_slot(const char *at, nn_module *m, nn_slot_kind kind, char *name)
{
    for (int i = 0; i < m->n_slots; i++)
        if (!strcmp(m->slots[i].name, name)) ag_fail(at, "module %s has two parts named '%s'", m->type, name);
    if (m->n_slots == m->slots_cap) {
        m->slots_cap = m->slots_cap ? 2 * m->slots_cap : 4;
        m->slots = ag_realloc(m->slots, m->slots_cap, sizeof *m->slots);
    }
    struct nn_slot *s = &m->slots[m->n_slots++];
    *s = (struct nn_slot){ .kind = kind, .name = name };
    return s;
}

nn_module *ag_nn_child_(const char *at, nn_module *parent, const char *name, int64_t index, nn_module *child)
{
    if (child->parent) ag_fail(at, "module %s already belongs to a %s; make a second one", child->type, child->parent->type);
    for (const nn_module *m = parent; m; m = m->parent)
        if (m == child) ag_fail(at, "module %s cannot be a part of itself", child->type);
    char *full = index < 0 ? ag_strdup(name) : *name ? ag_sprintf("%s.%" PRId64, name, index) : ag_sprintf("%" PRId64, index);
    add_slot(at, parent, NN_SLOT_CHILD, full)->child = child;
    child->refs++;
    child->parent = parent;
    child->name = ag_strdup(full);
    name_tensors(child);
    return child;
}

void ag_nn_replace_(const char *at, nn_module *parent, const char *name, nn_module *child)
{
    int i = 0;
    while (i < parent->n_slots && (!parent->slots[i].child || strcmp(parent->slots[i].name, name))) i++;
    if (i < parent->n_slots) {
        struct nn_slot old = parent->slots[i];
        memmove(&parent->slots[i], &parent->slots[i + 1], (size_t)(--parent->n_slots - i) * sizeof old);
        old.child->parent = NULL;
        release(old.child);
        ag_free(old.name);
    }
    if (!child) return;
    ag_nn_child_(at, parent, name, -1, child);
    const struct nn_slot added = parent->slots[parent->n_slots - 1];
    memmove(&parent->slots[i + 1], &parent->slots[i], (size_t)(parent->n_slots - 1 - i) * sizeof added);
    parent->slots[i] = added;
}

nn_module *ag_nn_at(nn_module *m, const char *path)
{
    if (!*path) return m;
    for (int i = 0; i < m->n_slots; i++) {
        const struct nn_slot *s = &m->slots[i];
        const size_t n = strlen(s->name);
        if (!s->child || strncmp(s->name, path, n) || (path[n] && path[n] != '.')) continue;
        nn_module *found = ag_nn_at(s->child, path + n + !!path[n]);
        if (found) return found;
    }
    return NULL;
}

static ag_tensor *add_tensor(const char *at, nn_module *m, nn_slot_kind kind, const char *name, ag_tensor *t)
{
    add_slot(at, m, kind, ag_strdup(name))->tensor = ag_retain(t);
    name_tensors(m);
    return t;
}

ag_tensor *ag_nn_param_(const char *at, nn_module *m, const char *name, ag_tensor *t)
{
    return add_tensor(at, m, NN_SLOT_PARAM, name, ag_param_(at, t));
}

ag_tensor *ag_nn_buffer_(const char *at, nn_module *m, const char *name, ag_tensor *t)
{
    return add_tensor(at, m, NN_SLOT_BUFFER, name, t);
}

ag_tensor *ag_nn_hidden_(const char *at, nn_module *m, const char *name, ag_tensor *t)
{
    return add_tensor(at, m, NN_SLOT_HIDDEN, name, t);
}

/* ---- calling ------------------------------------------------------------------------------------------- */

static const char *path_of(const void *module)
{
    return ag_nn_label((nn_module *)(uintptr_t)module);
}

static void restore_running(void *before)
{
    ag_running = before;
}

ag_tensor *ag_nn_run(nn_module *m, ag_tensor *x, nn_run_fn fn, const void *arg)
{
    AG_SCOPE;
    ag_path_hook = path_of;
    ag_defer(restore_running, (void *)(uintptr_t)ag_running);
    ag_running = m;
    ag_tensor *y = ag_keep(fn(m, x, arg));
    if (ag_nn_observer) ag_nn_observer(ag_nn_observer_arg, m, y);
    return y;
}

static ag_tensor *own_forward(nn_module *m, ag_tensor *x, const void *unused)
{
    (void)unused;
    return m->forward(m, x);
}

ag_tensor *ag_nn_call(nn_module *m, ag_tensor *x)
{
    return ag_nn_run(m, x, own_forward, NULL);
}

void ag_nn_train(nn_module *m, bool training)
{
    m->training = training;
    for (int i = 0; i < m->n_slots; i++)
        if (m->slots[i].child) ag_nn_train(m->slots[i].child, training);
}

typedef struct { nn_module *net; bool *was; } modes;

static bool *swap_modes(nn_module *m, bool *mode)
{
    const bool now = m->training;
    m->training = *mode;
    *mode++ = now;
    for (int i = 0; i < m->n_slots; i++)
        if (m->slots[i].child) mode = swap_modes(m->slots[i].child, mode);
    return mode;
}

static int64_t module_count(const nn_module *m)
{
    int64_t n = 1;
    for (int i = 0; i < m->n_slots; i++)
        if (m->slots[i].child) n += module_count(m->slots[i].child);
    return n;
}

static void restore_modes(void *p)
{
    modes *s = p;
    swap_modes(s->net, s->was);
    ag_free(s->was);
    release(s->net);
    ag_free(s);
}

static void set_modes(nn_module *net, bool training)
{
    const int64_t n = module_count(net);
    modes *s = ag_alloc(1, sizeof *s);
    *s = (modes){ net, ag_alloc(n, sizeof(bool)) };
    for (int64_t i = 0; i < n; i++) s->was[i] = training;
    net->refs++;
    swap_modes(net, s->was);
    ag_defer(restore_modes, s);
}

ag_scope ag_nn_mode_begin(nn_module *net, bool training)
{
    const ag_scope scope = ag_scope_begin();
    set_modes(net, training);
    return scope;
}

ag_scope ag_nn_eval_begin(nn_module *net)
{
    const ag_scope scope = ag_no_grad_begin();
    set_modes(net, false);
    return scope;
}

/* ---- finding ------------------------------------------------------------------------------------------- */

bool ag_nn_each(const nn_module *m, nn_slot_kind kind, nn_visit_fn visit, void *arg)
{
    for (int i = 0; i < m->n_slots; i++) {
        const struct nn_slot *s = &m->slots[i];
        if (s->child ? ag_nn_each(s->child, kind, visit, arg) : s->kind == kind && visit(arg, m, s)) return true;
    }
    return false;
}

typedef struct { int64_t left, numel; const nn_module *owner; ag_tensor *tensor; } search;

static bool count_down(void *arg, const nn_module *owner, const struct nn_slot *slot)
{
    search *s = arg;
    s->numel += ag_numel(slot->tensor);
    if (s->left--) return false;
    s->owner = owner, s->tensor = slot->tensor;
    return true;
}

static search walk(const nn_module *m, nn_slot_kind kind, int64_t i)
{
    search s = { .left = i };
    if (!ag_nn_each(m, kind, count_down, &s) && i != INT64_MAX)
        ag_fail(NULL, "module %s has no %s number %" PRId64, m->type, kind == NN_SLOT_PARAM ? "parameter" : "buffer", i);
    return s;
}

int64_t ag_nn_param_count(const nn_module *m) { return INT64_MAX - walk(m, NN_SLOT_PARAM, INT64_MAX).left; }
int64_t ag_nn_buffer_count(const nn_module *m) { return INT64_MAX - walk(m, NN_SLOT_BUFFER, INT64_MAX).left; }
int64_t ag_nn_numel(const nn_module *m) { return walk(m, NN_SLOT_PARAM, INT64_MAX).numel; }
ag_tensor *ag_nn_param_at(const nn_module *m, int64_t i) { return walk(m, NN_SLOT_PARAM, i).tensor; }
ag_tensor *ag_nn_buffer_at(const nn_module *m, int64_t i) { return walk(m, NN_SLOT_BUFFER, i).tensor; }
const nn_module *ag_nn_param_owner(const nn_module *m, int64_t i) { return walk(m, NN_SLOT_PARAM, i).owner; }

typedef struct { const char *path; ag_tensor *hit; const char *nearest; double distance; } path_search;

static bool by_path(void *arg, const nn_module *owner, const struct nn_slot *slot)
{
    path_search *s = arg;
    const double d = ag_edit_distance(s->path, slot->path);
    (void)owner;
    if (d < s->distance) s->distance = d, s->nearest = slot->path;
    if (!strcmp(s->path, slot->path)) s->hit = slot->tensor;
    return s->hit != NULL;
}

ag_tensor *ag_nn_find_(const char *at, const nn_module *m, const char *path)
{
    path_search s = { .path = path, .distance = 1e9 };
    ag_nn_each(m, NN_SLOT_PARAM, by_path, &s);
    if (!s.hit) ag_nn_each(m, NN_SLOT_BUFFER, by_path, &s);
    if (!s.hit) ag_fail(at, "the module has no parameter '%s'; the nearest is '%s'", path, s.nearest ? s.nearest : "");
    return s.hit;
}

bool ag_nn_match(const char *patterns, const char *name)
{
    char one[256];
    while (*patterns) {
        const size_t n = strcspn(patterns, " ");
        if (n >= sizeof one) ag_fail(NULL, "a pattern of more than %zu characters", sizeof one - 1);
        memcpy(one, patterns, n);
        one[n] = 0;
        if (n && fnmatch(one, name, 0) == 0) return true;
        patterns += n + (patterns[n] == ' ');
    }
    return false;
}

typedef struct { const char *patterns; bool trained; int64_t matched; } setting;

static bool set_trained(void *arg, const nn_module *owner, const struct nn_slot *slot)
{
    setting *s = arg;
    (void)owner;
    if (!ag_nn_match(s->patterns, slot->path)) return false;
    slot->tensor->requires_grad = s->trained;
    if (!s->trained) ag_zero_grad(slot->tensor);
    s->matched++;
    return false;
}

void ag_nn_set_trained_(const char *at, nn_module *m, const char *patterns, bool trained)
{
    setting s = { patterns, trained, 0 };
    ag_nn_each(m, NN_SLOT_PARAM, set_trained, &s);
    if (!s.matched)
        ag_fail(at, "%s: no parameter matches '%s'; the first is called '%s'", trained ? "nn_unfreeze" : "nn_freeze", patterns,
                ag_nn_param_count(m) ? ag_nn_param_at(m, 0)->name : "(there is none)");
}
