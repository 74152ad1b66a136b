/* data/slot.h - inside data/: a batch between the threads that make it and the loop that takes it.
 *
 * It is made in a slot: memory of the host. Where a device copies beside its work (core/device.h), the slot is memory that it
 * reads by itself, and goes from there to a landing, memory of the device: batch k to landing k mod 2, while the loop is busy
 * with batch k - 1. Pictures land as bytes and become numbers there (data/packed.h); what else the loop gets are views of the
 * landing. When it comes for the next batch, what it queued for this one still reads them; views that it has kept, it keeps: the
 * landing gets other memory. Only the thread of the loop speaks to the device. */
#ifndef AG_DATA_SLOT_H
#define AG_DATA_SLOT_H
#include "core/device.h"
#include "data/packed.h"
#include "data/set.h"

/* batch: what it holds, -1 nothing; n: samples that are there */
typedef struct {
    char *memory;               /* [y of all samples][from byte x on: x of all samples, or what is packed] */
    int64_t room, x;
    data_pack pack;
    int64_t *index, batch, n;
    char *error;
} data_slot;

typedef struct { ag_tensor *x, *y; ag_upload *upload; } data_landing;       /* x: of all samples, or u8, what is packed */

/* How the batches of a loader travel. */
typedef struct {
    ag_device device;
    const ag_upload_ops *up;    /* NULL: from ordinary memory, by ag_from_ */
    bool packed;
    int64_t batch, x_bytes, y_bytes;    /* samples; bytes of one outside, 0 of what is packed */
    data_landing landing[2];
} data_way;

/* The way to the default device for samples as they are drawn now. */
data_way ag_data_way_of(const data_set *drawn, int64_t batch);
bool ag_data_way_same(const data_way *a, const data_way *b);    /* slots of the one do for the other */
void ag_data_way_close(data_way *w);                            /* what is under way lands before */

/* Memory for a batch that goes this way. */
void ag_data_slot_open(const char *at, data_slot *s, const data_way *w, const data_set *drawn);
void ag_data_slot_close(data_slot *s, const data_way *w);

/* Batch s->batch sets out for its landing, with whose last batch the loop is done. */
void ag_data_slot_send(const char *at, data_slot *s, data_way *w, const data_set *drawn);
/* Its tensors on the default device, pictures that were packed as `numbers`; of a way with .up after it was sent. */
void ag_data_slot_take(const char *at, data_slot *s, data_way *w, const data_set *drawn, ag_dtype numbers, ag_tensor **x,
                       ag_tensor **y);
/* The loop is done with batch k, which was sent, and its slot may be written to again after this. */
void ag_data_way_done(data_way *w, int64_t k);

/* Of n samples of a field: [n, its axes]. */
ag_shape ag_data_batch_shape_of(const data_field *f, int64_t n);
#endif
