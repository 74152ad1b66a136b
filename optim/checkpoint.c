/* optim/checkpoint.c - the optimizers' state as named tensors. */
#include <string.h>
#include "optim/state.h"

static ag_tensor **state_slot(optim_param *p, int k)
{
    return k < OPTIM_SLOTS ? &p->slot[k] : &p->step;
}

static int slots(const optim *o)
{
    int n = 0;
    while (n < OPTIM_SLOTS && o->rule->slot[n]) n++;
    return n;
}

int64_t ag_optim_state_count(const optim *o)
{
    return (int64_t)o->n_params * (slots(o) + 1);
}

/* Per parameter: its slots, then its step. Flushed here, not in ag_optim_state_count: a count costs nothing. */
static ag_named state_at(optim *o, int64_t i)
{
    const int each = slots(o) + 1;
    optim_param *p = &o->param[i / each];
    const int k = i % each == each - 1 ? OPTIM_SLOTS : (int)(i % each);
    return (ag_named){ p->name[k], *state_slot(p, k) };
}

ag_named ag_optim_state_at_(const char *at, optim *o, int64_t i)
{
    if (i < 0 || i >= ag_optim_state_count(o))
        ag_fail(at, "optim_state_at: %" PRId64 " of %" PRId64 " tensors", i, ag_optim_state_count(o));
    ag_optim_flush(o);
    return state_at(o, i);
}

static void check_state(const char *at, optim *o, const ag_safetensors *f, const char *name, int64_t i)
{
    const ag_named s = state_at(o, i);
    char ours[96], theirs[96];
    if (!ag_safetensors_has(f, name))
        ag_fail(at, "optim_load_state: the file has no %s; was it saved with another optimizer than %s?", name,
                o->rule->name);
    ag_tensor *t = ag_safetensors_get_(at, f, name);
    const bool same = t->ndim == s.tensor->ndim && t->dtype == s.tensor->dtype &&
                      !memcmp(t->shape, s.tensor->shape, (size_t)t->ndim * sizeof *t->shape);
    if (!same)
        ag_fail(at, "optim_load_state: %s is %s in the file, %s here", name, ag_describe(t, theirs, sizeof theirs),
                ag_describe(s.tensor, ours, sizeof ours));
}

void ag_optim_load_state_(const char *at, optim *o, const ag_safetensors *f, const char *prefix)
{
    const int64_t n = ag_optim_state_count(o);
    AG_NO_GRAD;
    for (int pass = 0; pass < 2; pass++) {          /* nothing is overwritten before all of it was found fit */
        for (int64_t i = 0; i < n; i++) {
            AG_SCOPE;
            char *name = ag_sprintf("%s%s", prefix ? prefix : "", state_at(o, i).name);
            ag_defer(ag_free, name);
            if (pass == 0) check_state(at, o, f, name, i);
            else ag_copy_(at, state_at(o, i).tensor, ag_safetensors_get_(at, f, name));
        }
    }
    ag_optim_refresh(o);
}

void ag_optim_refresh(optim *o)
{
    o->steps = 0;
    for (int i = 0; i < o->n_params; i++) {
        const int64_t t = *(const int64_t *)o->param[i].step->data;
        if (t > o->steps) o->steps = t;
    }
    ag_optim_clocks_start(o);
}

void ag_optim_reset(optim *o)
{
    ag_optim_flush(o);
    for (int i = 0; i < o->n_params; i++) {
        optim_param *p = &o->param[i];
        for (int k = 0; k < slots(o); k++) ag_fill(p->slot[k], 0);
        *(int64_t *)p->step->data = 0;
    }
    ag_optim_refresh(o);
    ag_optim_zero_grad(o);
}
