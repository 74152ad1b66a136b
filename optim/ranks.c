/* optim/ranks.c - the gradients of several ranks become their mean (core/ranks.h).
 *
 * Gradients are summed in buckets, a copy of some parameters' behind one another, last parameters first: their gradients are
 * the first to be complete. While the learner's last backward of a step goes on, a bucket is sent as soon as all of its
 * gradients have arrived as often as in the step before; the order of buckets is the same on all ranks. A gradient that
 * arrives once more afterwards makes all ranks send everything again.
 *
 * Gradients on GPUs that can sum by themselves (core/device.h) never come to the host: buckets lie on the GPU, and the work that
 * is queued when a step begins waits for their means. */
#include <stdlib.h>
#include <string.h>
#include "core/device.h"
#include "core/engine.h"
#include "core/op.h"
#include "core/ranks.h"
#include "optim/state.h"

enum { BUCKET = 1 << 20 };              /* numbers */

typedef struct { ag_tensor *t; int bucket, expected, arrived; int64_t at; } member;
typedef struct { int64_t at, n; int missing; } bucket;

struct optim_ranks {
    int n, n_buckets, next;             /* next: the first that was not sent */
    member *member;                     /* [n], sorted by tensor */
    bucket *bucket;
    real *sum;                          /* all buckets */
    const ag_device_ops *device;        /* that they lie on; NULL: the host */
    ag_owner *owner;                    /* of them there */
    optim_segment *segment;             /* [n]: what is copied to or from them at once */
    int64_t total;
    bool armed, known, done, again;     /* known: expected is of a step before; done: gradients are means already */
};

static int by_tensor(const void *a, const void *b)
{
    const uintptr_t x = (uintptr_t)((const member *)a)->t, y = (uintptr_t)((const member *)b)->t;
    return x < y ? -1 : x > y;
}

static member *member_of(const optim_ranks *r, const ag_tensor *t)
{
    const member key = { .t = (ag_tensor *)(uintptr_t)t };
    return bsearch(&key, r->member, (size_t)r->n, sizeof key, by_tensor);
}

static bool all_on(const optim_ranks *r, ag_device device)
{
    for (int i = 0; i < r->n; i++)
        if (r->member[i].t->device != device) return false;
    return r->n > 0;
}

static void make_sum(const char *at, optim_ranks *r)
{
    const ag_device_ops *d = all_on(r, AG_CUDA) ? ag_device_table(AG_CUDA) : NULL;
    ag_owner_free(r->owner);
    if (!r->device) ag_free(r->sum);
    r->owner = NULL, r->sum = NULL;
    r->device = d && d->ranks_ready && d->ranks_ready() ? d : NULL;
    if (!r->device) {
        r->sum = ag_alloc(r->total, sizeof *r->sum);
        return;
    }
    r->owner = ag_owner_new();
    ag_tensor *all = ag_tensor_new(at, AG_CUDA, AG_MEM_GRAD, AG_F32, AG_SHAPE(r->total));
    ag_owner_enter(r->owner);
    ag_scoped(all);
    ag_owner_leave(r->owner);
    r->sum = all->data;
}

/* Of the parameters that are trained now. */
static void make_buckets(const char *at, optim *o)
{
    optim_ranks *r = o->ranks;
    r->n = r->n_buckets = 0, r->total = 0, r->known = false;
    for (int i = o->n_params - 1; i >= 0; i--) {
        ag_tensor *t = o->param[i].t;
        if (!t->requires_grad) continue;
        if (t->dtype != AG_F32) ag_fail(at, "parameter %s: several ranks train f32 parameters only", t->name);
        bucket *b = &r->bucket[r->n_buckets - 1];
        if (!r->n_buckets || b->n >= BUCKET) *(b = &r->bucket[r->n_buckets++]) = (bucket){ .at = r->total };
        r->member[r->n++] = (member){ .t = t, .bucket = r->n_buckets - 1, .at = r->total };
        b->n += ag_numel(t), r->total += ag_numel(t);
    }
    make_sum(at, r);
    qsort(r->member, (size_t)r->n, sizeof *r->member, by_tensor);
}

static bool still_right(const optim *o)
{
    int n = 0;
    for (int i = 0; i < o->n_params; i++) n += o->param[i].t->requires_grad;
    return o->ranks->n == n;
}

static optim_ranks *ranks_of(const char *at, optim *o)
{
    if (!o->ranks) {
        o->ranks = ag_alloc(1, sizeof *o->ranks);
        o->ranks->member = ag_alloc(o->n_params, sizeof *o->ranks->member);
        o->ranks->bucket = ag_alloc(o->n_params, sizeof *o->ranks->bucket);
        o->ranks->segment = ag_alloc(o->n_params, sizeof *o->ranks->segment);
    }
    if (!o->ranks->n || !still_right(o)) make_buckets(at, o);
    return o->ranks;
}

void ag_optim_ranks_free(optim *o)
{
    if (!o->ranks) return;
    ag_free(o->ranks->member);
    ag_free(o->ranks->bucket);
    ag_free(o->ranks->segment);
    /* In the midst of a failure sums may go on, which to wait for could be for ever: their memory stays. */
    if (!o->ranks->device && !ag_ranks_pending()) ag_free(o->ranks->sum);
    ag_owner_free(o->ranks->owner);
    ag_free(o->ranks);
}

/* ---- sending ------------------------------------------------------------------------------------------- */

static bool has_gradient(const ag_tensor *t)
{
    return t->grad && !t->grad_fresh;
}

/* On the device, in one launch: the gradients of a bucket to their places, or what stands there to them, of all buckets. */
static void copy(const optim_ranks *r, int which, bool back)
{
    static void (*const kernel)(const optim_segment *, int) = AG_CUDA_FN(ag_optim_copy_cuda);
    int n = 0;
    for (int i = 0; i < r->n; i++) {
        const member *m = &r->member[i];
        real *there = r->sum + m->at, *own = has_gradient(m->t) ? m->t->grad->data : NULL;
        if (back ? !own : m->bucket != which) continue;
        r->segment[n++] = (optim_segment){ .n = ag_numel(m->t), .w = back ? own : there, .g = back ? there : own };
    }
    if (n) kernel(r->segment, n);
}

static void send(optim_ranks *r, int which)
{
    const bucket *b = &r->bucket[which];
    if (r->device) {
        copy(r, which, false);
        r->device->ranks_start_mean((float *)r->sum + b->at, b->n);
        return;
    }
    for (int i = 0; i < r->n; i++) {
        const member *m = &r->member[i];
        const size_t bytes = (size_t)ag_numel(m->t) * sizeof(real);
        if (m->bucket != which || !bytes) continue;
        if (!has_gradient(m->t)) memset(r->sum + m->at, 0, bytes);
        else if (m->t->device == AG_CPU) memcpy(r->sum + m->at, m->t->grad->data, bytes);
        else ag_device_table(m->t->device)->copy_out(r->sum + m->at, m->t->grad->data, bytes);
    }
    ag_ranks_start_sum(r->sum + b->at, b->n);
}

static void arrived(void *arg, ag_tensor *t)
{
    optim_ranks *r = arg;
    member *m = member_of(r, t);
    if (!m) return;
    m->arrived++;
    if (!r->known) return;
    if (m->arrived > m->expected) r->again = true;
    if (m->arrived == m->expected) r->bucket[m->bucket].missing--;
    while (r->next < r->n_buckets && !r->bucket[r->next].missing) send(r, r->next++);
    ag_ranks_poll();
}

void ag_optim_ranks_arm(const char *at, optim *o)
{
    if (ag_ranks() == 1) return;
    ag_ranks_wait();                        /* for what a step that failed has left */
    optim_ranks *r = ranks_of(at, o);
    for (int b = 0; b < r->n_buckets; b++) r->bucket[b].missing = 0;
    for (int i = 0; i < r->n; i++) {
        r->member[i].arrived = 0;
        r->bucket[r->member[i].bucket].missing += r->member[i].expected > 0;
    }
    r->next = 0, r->armed = true, r->again = false;
    ag_leaf_arrived = arrived, ag_leaf_arg = r;
}

void ag_optim_ranks_disarm(void)
{
    ag_leaf_arrived = NULL;
}

static void send_rest(optim_ranks *r)
{
    while (r->next < r->n_buckets) send(r, r->next++);
    if (r->device) r->device->ranks_join();
    else ag_ranks_wait();
}

static void take_means(optim_ranks *r)
{
    const real share = 1 / (real)ag_ranks();
    if (r->device) {
        copy(r, 0, true);
        return;
    }
    for (int64_t i = 0; i < r->total; i++) r->sum[i] *= share;
    for (int i = 0; i < r->n; i++) {
        const member *m = &r->member[i];
        const size_t bytes = (size_t)ag_numel(m->t) * sizeof(real);
        if (!has_gradient(m->t) || !bytes) continue;
        if (m->t->device == AG_CPU) memcpy(m->t->grad->data, r->sum + m->at, bytes);
        else ag_device_table(m->t->device)->copy_in(m->t->grad->data, r->sum + m->at, bytes);
    }
}

void ag_optim_ranks_mean(const char *at, optim *o)
{
    if (ag_ranks() == 1 || (o->ranks && o->ranks->done)) return;
    optim_ranks *r = ranks_of(at, o);
    double again = r->armed && r->again;
    ag_optim_ranks_disarm();
    if (!r->armed) r->next = 0;
    send_rest(r);
    ag_ranks_sum(&again, 1);
    if (again > 0) r->next = 0, send_rest(r);
    take_means(r);
    for (int i = 0; r->armed && i < r->n; i++) r->member[i].expected = r->member[i].arrived;
    r->known = r->armed || r->known;
    r->armed = false, r->done = true;
}

void ag_optim_ranks_reset(optim *o)
{
    if (o->ranks) o->ranks->done = o->ranks->armed = false;
}
