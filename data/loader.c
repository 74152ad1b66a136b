/* data/loader.c - batches in order, prepared when asked for or ahead by worker threads.
 *
 * The order is a function of (seed, epoch) alone and every batch is made whole by one thread, so workers
 * change no bit. Batch k goes to slot k mod slots of a ring; a worker takes the next batch number, waits
 * until the consumer has taken what was in the slot before, fills it, and says so. For a GPU (data/slot.h)
 * the consumer sends the next batch on its way when it takes one. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include "core/memory.h"
#include "core/random.h"
#include "core/ranks.h"
#include "data/slot.h"

struct data_loader {
    data_set *set;
    data_set drawn;                 /* the set as this epoch has it: samples may change their size between epochs */
    int64_t batch, batches, samples;
    data_loader_opts opts;
    data_position position;         /* of the next batch */
    uint64_t round;                 /* of DATA_EACH */
    bool shared;
    ag_dtype numbers;               /* of pictures on a GPU */
    bool inside;                    /* a DATA_EACH was begun and not finished */
    data_permutation order;         /* of this epoch */
    data_way way;
    data_slot *slot;                /* without workers: two, of which batches for the CPU use the index alone */
    int n_slots;
    int64_t sent, kept;             /* batches before this one were sent to a device; the one whose slot is still read, or -1 */
    int64_t *row;                   /* of the consumer's batch */
    /* workers: */
    pthread_mutex_t lock;
    pthread_cond_t work, ready;
    pthread_t *thread;
    int busy;
    int64_t issued, consumed;       /* batches given to workers, done with by the consumer */
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

static int64_t fill(const data_loader *l, int64_t batch, int64_t *index, data_into into)
{
    const loader_part p = part_of(l, batch);
    if (l->opts.shuffle) ag_data_permute(&l->order, p.first, p.n, index);
    else for (int64_t i = 0; i < p.n; i++) index[i] = p.first + i;
    return ag_data_gather(&l->drawn, index, p.n, l->drawn.get ? epoch_key(l) : 0, l->thread ? &l->cancel : NULL, into);
}

static void fill_slot(const data_loader *l, data_slot *s, int64_t batch)
{
    if (l->way.packed) ag_data_pack_begin(&s->pack, l->batch * l->drawn.pictures);
    s->n = fill(l, batch, s->index, (data_into){ .x = s->memory + s->x, .y = l->drawn.has_y ? s->memory : NULL,
                                                 .pack = l->way.packed ? &s->pack : NULL });
}

/* ---- workers ------------------------------------------------------------------------------------------- */

typedef struct { data_loader *l; data_slot *slot; int64_t batch; } fill_job;

static void do_job(void *arg)
{
    fill_job *j = arg;
    AG_SCOPE;
    AG_NO_GRAD;
    fill_slot(j->l, j->slot, j->batch);
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
        const bool failed = ag_try(do_job, &job);
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

/* No worker touches the loader after this, until resume; no slot holds a batch. */
static void pause(data_loader *l)
{
    pthread_mutex_lock(&l->lock);
    l->running = false;
    atomic_store(&l->cancel, true);
    while (l->busy) pthread_cond_wait(&l->ready, &l->lock);
    pthread_mutex_unlock(&l->lock);
    ag_data_way_done(&l->way, 0), ag_data_way_done(&l->way, 1);         /* may fail */
    for (int i = 0; i < l->n_slots; i++) {
        l->slot[i].batch = -1;
        ag_free(l->slot[i].error);
        l->slot[i].error = NULL;
    }
    atomic_store(&l->cancel, false);
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
    ag_data_way_close(&l->way);
    for (int i = 0; i < l->n_slots; i++) ag_data_slot_close(&l->slot[i], &l->way);
    ag_free(l->row);
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
    l->n_slots = !opts.workers ? 2 : opts.prefetch ? opts.prefetch : 2 * opts.workers;
    l->slot = ag_alloc(l->n_slots, sizeof *l->slot);
    l->row = ag_alloc(l->batch, sizeof *l->row);
    l->kept = -1;
    if (opts.workers) start_workers(at, l);
    return l;
}

void ag_data_loader_share(data_loader *l)
{
    l->shared = true;
}

void ag_data_loader_dtype(data_loader *l, ag_dtype dtype)
{
    l->numbers = dtype;
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
    pause(l);
    l->position = p;
    l->inside = false;
    l->round++;
}

/* ---- DATA_EACH ----------------------------------------------------------------------------------------- */

ag_shape ag_data_batch_shape(const data_loader *l)
{
    data_set next = *l->set;
    if (next.refresh) next.refresh(&next);
    return ag_data_batch_shape_of(&next.x, l->batch);
}

/* In the consumer's thread, where nothing has to be copied from it. */
static void prepare_in_place(data_batch *b)
{
    data_loader *l = b->of;
    const data_set *s = &l->drawn;
    b->x = ag_empty_(b->at, s->x.dtype, ag_data_batch_shape_of(&s->x, b->n));
    b->y = s->has_y ? ag_empty_(b->at, s->y.dtype, ag_data_batch_shape_of(&s->y, b->n)) : NULL;
    const int64_t n = fill(l, b->index, l->row, (data_into){ .x = b->x->data, .y = s->has_y ? b->y->data : NULL });
    if (n && n < b->n) {
        b->x = ag_from_(b->at, s->x.dtype, b->x->data, ag_data_batch_shape_of(&s->x, n));
        b->y = s->has_y ? ag_from_(b->at, s->y.dtype, b->y->data, ag_data_batch_shape_of(&s->y, n)) : NULL;
    }
    b->n = n;
}

static data_slot *slot_of(const data_loader *l, int64_t batch) { return &l->slot[batch % l->n_slots]; }

/* Whether a slot holds the batch; without workers it does after this. wait: until it does. */
static bool made(data_loader *l, int64_t batch, bool wait)
{
    data_slot *slot = slot_of(l, batch);
    if (!l->thread && wait && slot->batch != batch) {
        fill_slot(l, slot, batch);
        slot->batch = batch;
    }
    pthread_mutex_lock(&l->lock);
    while (l->thread && wait && slot->batch != batch) pthread_cond_wait(&l->ready, &l->lock);
    const bool is_made = slot->batch == batch;
    pthread_mutex_unlock(&l->lock);
    return is_made;
}

/* The slot of the batch taken last is empty again. */
static void give_back(data_loader *l)
{
    if (l->kept < 0) return;
    ag_data_way_done(&l->way, l->kept);
    pthread_mutex_lock(&l->lock);
    slot_of(l, l->kept)->batch = -1;
    l->consumed++;
    pthread_cond_signal(&l->work);
    pthread_mutex_unlock(&l->lock);
    l->kept = -1;
}

static void send(data_batch *b, int64_t batch)
{
    data_loader *l = b->of;
    data_slot *slot = slot_of(l, batch);
    if (!l->way.up || l->sent > batch || slot->error || !slot->n) return;
    ag_data_slot_send(b->at, slot, &l->way, &l->drawn);
    l->sent = batch + 1;
}

static void take(data_batch *b)
{
    data_loader *l = b->of;
    data_slot *slot = slot_of(l, b->index);
    give_back(l);
    made(l, b->index, true);
    if (slot->error) ag_fail(NULL, "%s", slot->error);
    send(b, b->index);
    b->n = slot->n;
    l->kept = b->index;
    if (b->n) ag_data_slot_take(b->at, slot, &l->way, &l->drawn, l->numbers, &b->x, &b->y);
    memcpy(l->row, slot->index, (size_t)b->n * sizeof *l->row);
    if (!l->way.up) give_back(l);
    else if (l->thread && b->index + 1 < l->batches && made(l, b->index + 1, false)) send(b, b->index + 1);
}

/* Other ranks wait for this one in the same turn. */
static void take_zeros(data_batch *b)
{
    const data_set *s = &b->of->drawn;
    b->n = 1, b->share = 0;
    b->x = ag_empty_(b->at, s->x.dtype, ag_data_batch_shape_of(&s->x, 1));
    b->y = s->has_y ? ag_empty_(b->at, s->y.dtype, ag_data_batch_shape_of(&s->y, 1)) : NULL;
    ag_fill(b->x, 0);
    if (b->y) ag_fill(b->y, 0);
    b->of->row[0] = 0;
}

/* The batch at the loader's position, or none: then the next epoch begins. A batch of bad samples alone is passed over. */
static void draw(data_batch *b)
{
    data_loader *l = b->of;
    b->n = 0;
    b->row = l->row;
    while (!b->n && l->position.batch < l->batches) {
        b->x = b->y = NULL;
        b->index = l->position.batch;
        const loader_part p = part_of(l, b->index);
        b->n = p.n;
        if (!l->thread && l->way.device == AG_CPU) prepare_in_place(b);
        else take(b);
        b->everywhere = l->shared && ag_ranks() > 1 && p.n == p.whole;
        b->share = !l->shared || ag_ranks() == 1 ? 1 : b->everywhere ? 1.0 / ag_ranks() : (double)b->n / (double)p.whole;
        if (!b->n && l->shared && ag_ranks() > 1) take_zeros(b);
        l->position.batch++;
    }
    if (!b->n) {
        b->x = b->y = NULL;
        b->index = l->batches;
        pause(l);
        l->position = (data_position){ l->position.epoch + 1, 0 };
        l->inside = false;
    }
}

/* Samples may have another size in this epoch, the default device may have changed. */
static void adopt_way(const char *at, data_loader *l)
{
    if (l->drawn.refresh) l->drawn.refresh(&l->drawn);
    const data_way way = ag_data_way_of(&l->drawn, l->batch);
    if (l->slot[l->n_slots - 1].memory && ag_data_way_same(&way, &l->way)) return;
    ag_data_way_close(&l->way);
    for (int i = 0; i < l->n_slots; i++) ag_data_slot_close(&l->slot[i], &l->way);
    l->way = way;
    for (int i = 0; i < l->n_slots && (l->thread || way.device != AG_CPU); i++)
        ag_data_slot_open(at, &l->slot[i], &l->way, &l->drawn);
}

data_batch ag_data_batch_begin_(const char *at, data_loader *l)
{
    if (l->inside)
        ag_data_loader_seek_(at, l,
                             (data_position){ l->position.epoch + 1, 0 }); /* after a break or an error */
    l->inside = true;
    data_batch b = { .of = l, .at = at, .round = ++l->round, .scope = ag_scope_begin() };
    adopt_way(at, l);
    l->sent = l->position.batch, l->kept = -1;
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
