/* models/groups.c - parameter groups of image models, by depth.
 *
 * A unit is what stands at one depth: "stem.0", "stages.2", "blocks.11", "cls_token": the first part of a parameter's
 * name, with the number that follows it. Units come in order of registration; the last is the head. */
#include <math.h>
#include <string.h>
#include "core/memory.h"
#include "models/vision.h"

enum { LONGEST = 64, MAX_UNITS = 256 };
typedef struct { char name[LONGEST]; const char *rest; } unit;      /* rest: ".*"; "" for a parameter, "*" for the head */
typedef struct { unit unit[MAX_UNITS]; int n, head_length; const char *head; } units;

static unit unit_of(const units *u, const char *path)
{
    unit one = { .rest = "*" };
    size_t n = (size_t)u->head_length;
    if (strncmp(path, u->head, n)) {        /* also "head_dist" belongs to "head" */
        n = strcspn(path, ".");
        if (path[n] && strchr("0123456789", path[n + 1])) n += 1 + strcspn(path + n + 1, ".");
        one.rest = path[n] ? ".*" : "";
    }
    if (n >= LONGEST) n = LONGEST - 1;
    memcpy(one.name, path, n);
    return one;
}

static units *units_of(const char *at, const nn_module *net)
{
    units *u = ag_alloc(1, sizeof *u);
    ag_defer(ag_free, u);
    u->head = ag_model_info_of_(at, net)->head;
    u->head_length = (int)strcspn(u->head, ".");
    for (int64_t i = 0, n = nn_param_count(net); i < n; i++) {
        const unit one = unit_of(u, nn_param_at(net, i)->name);
        if (u->n && !strcmp(u->unit[u->n - 1].name, one.name)) continue;
        if (u->n == MAX_UNITS) ag_fail(at, "model_group: the net has more than %d blocks", MAX_UNITS);
        u->unit[u->n++] = one;
    }
    return u;
}

int ag_model_group_count_(const char *at, const nn_module *net)
{
    AG_SCOPE;
    return units_of(at, net)->n;
}

/* The patterns of units from begin to end, "stem.0.* stages.0.*". */
static const char *patterns(const units *u, int begin, int end)
{
    char *text = ag_alloc((int64_t)(end - begin) * (LONGEST + 3) + 1, 1), *to = text;
    for (int i = begin; i < end; i++) {
        if (i > begin) *to++ = ' ';
        to = stpcpy(stpcpy(to, u->unit[i].name), u->unit[i].rest);
    }
    return text;
}

const char *ag_model_group_(const char *at, const nn_module *net, int k, int n)
{
    char *text;
    {
        AG_SCOPE;
        const units *u = units_of(at, net);
        if (n > u->n) n = u->n;
        if (k < 0 || k >= n) ag_fail(at, "model_group: group %d of %d", k, n);
        const int body = u->n - 1, parts = n - 1;
        const bool last = k == parts;
        text = (char *)(uintptr_t)patterns(u, last && parts ? body : k * body / (parts ? parts : 1),
                                           last ? u->n : (k + 1) * body / parts);
    }
    ag_defer(ag_free, text);
    return text;
}

optim_group_list ag_model_groups_(const char *at, const nn_module *net, int n, double decay)
{
    optim_group_list list = { 0 };
    const int most = ag_model_group_count_(at, net);
    if (n < 1 || n > OPTIM_MAX_GROUPS) ag_fail(at, "model_groups: %d groups; there are from 1 to %d", n, OPTIM_MAX_GROUPS);
    if (!(decay > 0)) ag_fail(at, "model_groups: decay = %g; it is positive", decay);
    if (n > most) n = most;
    for (int k = 0; k < n; k++)
        list.group[k] = (optim_group){ .params = ag_model_group_(at, net, k, n), .lr_mult = pow(decay, n - 1 - k) };
    return list;
}
