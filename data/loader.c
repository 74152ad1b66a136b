/* data/loader.c - batches in order, prepared when asked for or ahead by worker threads.
 *
 * The order is a function of (seed, epoch) alone and every batch is made whole by one thread, so workers
 * change no bit. Batch k goes to slot k mod slots of a ring; a worker takes the next batch number, waits
 * until the consumer has taken what was in the slot before, fills it, and says so. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include "core/memory.h"
#include "core/random.h"
#include "core/ranks.h"
#include "data/set.h"

typedef struct {
    void *x, *y;
    int64_t *index;
    int64_t batch, n;
    char *error;
} loader_slot; /* batch: what it holds, -1 nothing; n: samples that are there */

struct data_loader {
    data_set *set;
    data_set drawn;                 /* the set as this epoch has it: samples may change their size between epochs */
    int64_t batch, batches, samples;
    data_loader_opts opts;
    data_position position;         /* of the next batch */
    uint64_t round;                 /* of DATA_EACH */
    bool shared;
    bool inside;                    /* a DATA_EACH was begun and not finished */
    data_permutation order;         /* of this epoch */
    loader_slot own;                /* of the consumer's thread, for batches prepared when asked for */
    /* workers: */
    pthread_mutex_t lock;
    pthread_cond_t work, ready;
    pthread_t *thread;
    loader_slot *slot;
    int n_slots, busy;
    int64_t issued, consumed;       /* batches given to workers, taken by the consumer */
    bool running, stop;
    atomic_bool cancel;             /* what is in work is not wanted any more */
};

/* ---- one batch ----------------------------------------------------------------------------------------- */

/* Samples first .. first + n of the epoch: this rank's of a batch of `whole`. */
typedef struct { int64_t first, n, whole; } loader_part;

static loader_part part_of(const data_loader *l, int64_t batch)
{
    const int64_t first = batch * l->batch, left = l->set->n - first, n = left < l->batch ? left : l->batch;
    const int64_t rank = ag_rank(), ranks = ag_ranks();
    if (!l->shared || n < ranks) return (loader_part){ first, n, n };
    return (loader_part){ first + n * rank / ranks, n * (rank + 1) / ranks - n * rank / ranks, n };
}

/* Seed of the samples' own random numbers. */
static uint64_t epoch_key(const data_loader *l)
{
    const ag_philox4 r = ag_philox(l->opts.seed, UINT64_MAX - 1, (uint64_t)l->position.epoch);
    return (uint64_t)r.v[0] << 32 | r.v[1];
}

static int64_t fill(const data_loader *l, int64_t batch, int64_t *index, void *x, void *y)
{
    const loader_part p = part_of(l, batch);
    if (l->opts.shuffle) ag_data_permute(&l->order, p.first, p.n, index);
    else for (int64_t i = 0; i < p.n; i++) index[i] = p.first + i;
    return ag_data_gather(&l->drawn, index, p.n, l->drawn.get ? epoch_key(l) : 0, l->thread ? &l->cancel : NULL, x, y);
}

static loader_slot new_slot(const data_loader *l, bool buffers)
{
    loader_slot s = { .batch = -1, .index = ag_alloc(l->batch, sizeof(int64_t)) };
    if (buffers) s.x = ag_alloc(l->batch, (size_t)ag_data_field_bytes(&l->drawn.x));
    if (buffers && l->drawn.has_y) s.y = ag_alloc(l->batch, (size_t)ag_data_field_bytes(&l->drawn.y));
    return s;
}

static void free_slot(loader_slot *s)
{
    ag_free(s->x);
    ag_free(s->y);
    ag_free(s->index);
    ag_free(s->error);
}

/* ---- workers ------------------------------------------------------------------------------------------- */

typedef struct { data_loader *l; loader_slot *slot; int64_t batch; } fill_job;

static void fill_slot(void *arg)
{
    fill_job *j = arg;
    AG_SCOPE;
    AG_NO_GRAD;
    j->slot->n = fill(j->l, j->batch, j->slot->index, j->slot->x, j->slot->y);
}

static void *work(void *arg)
{
    data_loader *l = arg;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->stop && !(l->running && l->issued < l->batches && l->issued - l->consumed < l->n_slots))
            pthread_cond_wait(&l->work, &l->lock);
        if (l->stop) break;
        fill_job job = { l, &l->slot[l->issued % l->n_slots], l->issued };
        l->issued++;
        l->busy++;
        pthread_mutex_unlock(&l->lock);
        const bool failed = ag_try(fill_slot, &job);
        pthread_mutex_lock(&l->lock);
        if (failed) {
            ag_free(job.slot->error);
            job.slot->error = ag_strdup(ag_error());
        }
        job.slot->batch = job.batch;
        l->busy--;
        pthread_cond_broadcast(&l->ready);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* No worker touches the loader after this, until resume. */
static void pause_workers(data_loader *l)
{
    pthread_mutex_lock(&l->lock);
    l->running = false;
    atomic_store(&l->cancel, true);
    while (l->busy) pthread_cond_wait(&l->ready, &l->lock);
    for (int i = 0; i < l->n_slots; i++) {
        l->slot[i].batch = -1;
        ag_free(l->slot[i].error);
        l->slot[i].error = NULL;
    }
    atomic_store(&l->cancel, false);
    pthread_mutex_unlock(&l->lock);
}

static void resume_workers(data_loader *l)
{
    pthread_mutex_lock(&l->lock);
    l->issued = l->consumed = l->position.batch;
    l->running = true;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
}

static void start_workers(const char *at, data_loader *l)
{
    l->n_slots = l->opts.prefetch ? l->opts.prefetch : 2 * l->opts.workers;
    l->slot = ag_alloc(l->n_slots, sizeof *l->slot);
    for (int i = 0; i < l->n_slots; i++) l->slot[i] = new_slot(l, true);
    l->thread = ag_alloc(l->opts.workers, sizeof *l->thread);
    for (int i = 0; i < l->opts.workers; i++) {
        const int error = pthread_create(&l->thread[i], NULL, work, l);
        if (!error) continue;
        l->opts.workers = i;
        ag_fail(at, "data_loader_new: worker thread %d cannot be started: %s; give fewer .workers", i + 1,
                strerror(error));
    }
}

static void free_loader(void *arg)
{
    data_loader *l = arg;
    if (l->thread) {
        pthread_mutex_lock(&l->lock);
        l->stop = true;
        atomic_store(&l->cancel, true);
        pthread_cond_broadcast(&l->work);
        pthread_mutex_unlock(&l->lock);
        for (int i = 0; i < l->opts.workers; i++) pthread_join(l->thread[i], NULL);
    }
    for (int i = 0; i < l->n_slots; i++) free_slot(&l->slot[i]);
    free_slot(&l->own);
    ag_free(l->slot);
    ag_free(l->thread);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->work);
    pthread_cond_destroy(&l->ready);
    ag_free(l);
}

/* ---- loaders ------------------------------------------------------------------------------------------- */

data_loader *ag_data_loader_new_(const char *at, data_set *set, int64_t batch, data_loader_opts opts)
{
    if (batch < 1) ag_fail(at, "data_loader_new: batch = %" PRId64 "; at least one sample is wanted", batch);
    if (opts.workers < 0 || opts.workers > 256)
        ag_fail(at, "data_loader_new: .workers = %d; 0 .. 256 are possible", opts.workers);
    if (opts.prefetch < 0 || opts.prefetch > 4096)
        ag_fail(at, "data_loader_new: .prefetch = %d; 0 .. 4096 are possible", opts.prefetch);
    if ((opts.shuffle || opts.drop_last) && batch > set->n)
        ag_fail(at,
                "data_loader_new: a batch of %" PRId64 " is longer than the data, %" PRId64
                " samples; give a batch of at most %" PRId64,
                batch, set->n, set->n);
    data_loader *l = ag_alloc(1, sizeof *l);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->ready, NULL);
    ag_defer(free_loader, l);
    l->set = set, l->drawn = *set;
    l->batch = batch < set->n ? batch : set->n;
    l->batches = set->n / l->batch + (!opts.drop_last && set->n % l->batch != 0);
    l->samples = opts.drop_last ? l->batches * l->batch : set->n;
    l->opts = opts;
    l->own = new_slot(l, !opts.workers && ag_default_device() != AG_CPU);
    if (opts.workers) start_workers(at, l);
    return l;
}

void ag_data_loader_share(data_loader *l)
{
    l->shared = true;
}

int64_t ag_data_batches(const data_loader *l) { return l->batches; }
int64_t ag_data_samples(const data_loader *l) { return l->samples; }
int64_t ag_data_batch_size(const data_loader *l) { return l->batch; }
uint64_t ag_data_loader_seed(const data_loader *l) { return l->opts.seed; }
int ag_data_loader_workers(const data_loader *l) { return l->opts.workers; }
data_set *ag_data_loader_set(const data_loader *l) { return l->set; }
data_position ag_data_loader_tell(const data_loader *l) { return l->position; }
int64_t ag_data_loader_epoch(const data_loader *l) { return l->position.epoch; }

void ag_data_loader_seek_(const char *at, data_loader *l, data_position p)
{
    if (p.epoch < 0 || p.batch < 0 || p.batch > l->batches)
        ag_fail(at,
                "data_loader_seek: epoch %" PRId64 ", batch %" PRId64 "; the loader has batches 0 .. %" PRId64
                " of each epoch",
                p.epoch, p.batch, l->batches - 1);
    if (l->thread) pause_workers(l);
    l->position = p;
    l->inside = false;
    l->round++;
}

/* ---- DATA_EACH ----------------------------------------------------------------------------------------- */

static ag_shape batch_shape(const data_field *f, int64_t n)
{
    ag_shape s = { .ndim = f->shape.ndim + 1, .dim = { n } };
    for (int k = 0; k < f->shape.ndim; k++) s.dim[k + 1] = f->shape.dim[k];
    return s;
}

ag_shape ag_data_batch_shape(const data_loader *l)
{
    data_set next = *l->set;
    if (next.refresh) next.refresh(&next);
    return batch_shape(&next.x, l->batch);
}

static void prepare_now(data_batch *b)
{
    data_loader *l = b->of;
    const data_set *s = &l->drawn;
    if (!l->own.x && ag_default_device() == AG_CPU) {
        b->x = ag_empty_(b->at, s->x.dtype, batch_shape(&s->x, b->n));
        b->y = s->has_y ? ag_empty_(b->at, s->y.dtype, batch_shape(&s->y, b->n)) : NULL;
        const int64_t n = fill(l, b->index, l->own.index, b->x->data, s->has_y ? b->y->data : NULL);
        if (n && n < b->n) {
            b->x = ag_from_(b->at, s->x.dtype, b->x->data, batch_shape(&s->x, n));
            b->y = s->has_y ? ag_from_(b->at, s->y.dtype, b->y->data, batch_shape(&s->y, n)) : NULL;
        }
        b->n = n;
        return;
    }
    if (!l->own.x) {                    /* the default device has changed since */
        free_slot(&l->own);
        l->own = new_slot(l, true);
    }
    b->n = fill(l, b->index, l->own.index, l->own.x, l->own.y);
    if (!b->n) return;
    b->x = ag_from_(b->at, s->x.dtype, l->own.x, batch_shape(&s->x, b->n));
    b->y = s->has_y ? ag_from_(b->at, s->y.dtype, l->own.y, batch_shape(&s->y, b->n)) : NULL;
}

static void take_prepared(data_batch *b)
{
    data_loader *l = b->of;
    loader_slot *slot = &l->slot[b->index % l->n_slots];
    pthread_mutex_lock(&l->lock);
    while (slot->batch != b->index) pthread_cond_wait(&l->ready, &l->lock);
    pthread_mutex_unlock(&l->lock);
    if (slot->error) ag_fail(NULL, "%s", slot->error);
    b->n = slot->n;
    const data_set *s = &l->drawn;
    if (b->n) b->x = ag_from_(b->at, s->x.dtype, slot->x, batch_shape(&s->x, b->n));
    if (b->n && s->has_y) b->y = ag_from_(b->at, s->y.dtype, slot->y, batch_shape(&s->y, b->n));
    memcpy(l->own.index, slot->index, (size_t)b->n * sizeof *slot->index);
    pthread_mutex_lock(&l->lock);
    slot->batch = -1;
    l->consumed++;
    pthread_cond_signal(&l->work);
    pthread_mutex_unlock(&l->lock);
}

/* Other ranks wait for this one in the same turn. */
static void take_zeros(data_batch *b)
{
    const data_set *s = &b->of->drawn;
    b->n = 1, b->share = 0;
    b->x = ag_empty_(b->at, s->x.dtype, batch_shape(&s->x, 1));
    b->y = s->has_y ? ag_empty_(b->at, s->y.dtype, batch_shape(&s->y, 1)) : NULL;
    ag_fill(b->x, 0);
    if (b->y) ag_fill(b->y, 0);
    b->of->own.index[0] = 0;
}

/* The batch at the loader's position, or none: then the next epoch begins. A batch of bad samples alone is passed over. */
static void draw(data_batch *b)
{
    data_loader *l = b->of;
    b->n = 0;
    b->row = l->own.index;
    while (!b->n && l->position.batch < l->batches) {
        b->x = b->y = NULL;
        b->index = l->position.batch;
        const loader_part p = part_of(l, b->index);
        b->n = p.n;
        if (l->thread) take_prepared(b);
        else prepare_now(b);
        b->everywhere = l->shared && ag_ranks() > 1 && p.n == p.whole;
        b->share = !l->shared || ag_ranks() == 1 ? 1 : b->everywhere ? 1.0 / ag_ranks() : (double)b->n / (double)p.whole;
        if (!b->n && l->shared && ag_ranks() > 1) take_zeros(b);
        l->position.batch++;
    }
    if (!b->n) {
        b->x = b->y = NULL;
        b->index = l->batches;
        if (l->thread) pause_workers(l);
        l->position = (data_position){ l->position.epoch + 1, 0 };
        l->inside = false;
    }
}

static void adopt_size(data_loader *l)
{
    const int64_t before = ag_data_field_bytes(&l->drawn.x);
    if (l->drawn.refresh) l->drawn.refresh(&l->drawn);
    if (ag_data_field_bytes(&l->drawn.x) == before) return;
    for (int i = 0; i < l->n_slots; i++) {
        free_slot(&l->slot[i]);
        l->slot[i] = new_slot(l, true);
    }
    const bool buffers = l->own.x != NULL;
    free_slot(&l->own);
    l->own = new_slot(l, buffers);
}

data_batch ag_data_batch_begin_(const char *at, data_loader *l)
{
    if (l->inside)
        ag_data_loader_seek_(at, l,
                             (data_position){ l->position.epoch + 1, 0 }); /* after a break or an error */
    l->inside = true;
    data_batch b = { .of = l, .at = at, .round = ++l->round, .scope = ag_scope_begin() };
    adopt_size(l);
    l->order = ag_data_permutation(l->set->n, l->opts.seed, (uint64_t)l->position.epoch);
    if (l->thread) resume_workers(l);
    draw(&b);
    return b;
}

void ag_data_batch_next(data_batch *b)
{
    if (b->round != b->of->round)
        ag_fail(b->at, "DATA_EACH: the loader was moved inside its own loop (another DATA_EACH, a seek); "
                       "break first, or use a second loader");
    ag_scope_end(&b->scope);
    b->scope = ag_scope_begin();
    draw(b);
}

void ag_data_batch_end(data_batch *b) { ag_scope_end(&b->scope); }
