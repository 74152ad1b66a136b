/* data/slot.c - slots, landings, and the tensors that come of them. */
#include "data/slot.h"
#include <string.h>
#include "core/memory.h"
#include "ops/ops.h"

enum { ALIGN = 256 };

ag_shape ag_data_batch_shape_of(const data_field *f, int64_t n)
{
    ag_shape s = { .ndim = f->shape.ndim + 1, .dim = { n } };
    for (int k = 0; k < f->shape.ndim; k++) s.dim[k + 1] = f->shape.dim[k];
    return s;
}

/* ---- ways ---------------------------------------------------------------------------------------------------- */

data_way ag_data_way_of(const data_set *drawn, int64_t batch)
{
    data_way w = { .device = ag_default_device(), .batch = batch };
    if (drawn->has_y) w.y_bytes = ag_data_field_bytes(&drawn->y);
    if (w.device != AG_META) w.up = ag_device_table(w.device)->upload;
    w.packed = w.up && drawn->pack;
    if (!w.packed) w.x_bytes = ag_data_field_bytes(&drawn->x);
    return w;
}

bool ag_data_way_same(const data_way *a, const data_way *b)
{
    return a->device == b->device && a->up == b->up && a->packed == b->packed && a->batch == b->batch &&
           a->x_bytes == b->x_bytes && a->y_bytes == b->y_bytes;
}

void ag_data_way_close(data_way *w)
{
    for (int i = 0; i < 2; i++) {
        if (w->landing[i].upload) w->up->drop(w->landing[i].upload);
        if (w->landing[i].bytes) ag_release(w->landing[i].bytes);
        w->landing[i] = (data_landing){ 0 };
    }
}

void ag_data_way_wait(data_way *w, int64_t k)
{
    if (w->landing[k % 2].upload) w->up->wait(w->landing[k % 2].upload);
}

/* ---- slots --------------------------------------------------------------------------------------------------- */

static void free_memory(data_slot *s, const data_way *w)
{
    if (w->up && s->memory) w->up->host_free(s->memory);
    else ag_free(s->memory);
    s->memory = NULL;
}

static void new_memory(const char *at, data_slot *s, const data_way *w, int64_t x_room)
{
    const int64_t x = (w->batch * w->y_bytes + ALIGN - 1) / ALIGN * ALIGN, room = ag_add_size(at, x, x_room);
    char *memory = w->up ? w->up->host_alloc((size_t)room) : ag_alloc(room, 1);
    if (!memory)
        ag_fail(at, "data_loader: the system has no %.1f MB of page-locked memory for a batch on its way to the GPU; fewer "
                ".workers, a smaller .prefetch or a smaller batch need less", (double)room * 1e-6);
    s->memory = memory, s->room = room, s->x = x;
    s->pack.to = s->memory + s->x, s->pack.room = x_room, s->pack.own = false;
}

void ag_data_slot_open(const char *at, data_slot *s, const data_way *w, const data_set *drawn)
{
    s->batch = -1;
    s->index = ag_alloc(w->batch, sizeof *s->index);
    const int64_t pictures = w->packed ? ag_mul_size(at, w->batch, drawn->pictures) : 0;
    new_memory(at, s, w, w->packed ? ag_data_pack_bytes(pictures, drawn->picture_width, drawn->picture_height)
                                   : ag_mul_size(at, w->batch, w->x_bytes));
}

void ag_data_slot_close(data_slot *s, const data_way *w)
{
    if (s->pack.own) ag_free(s->pack.to);
    free_memory(s, w);
    ag_free(s->index);
    ag_free(s->error);
    *s = (data_slot){ .batch = -1 };
}

/* What was packed outgrew the slot: it gets memory of that size. */
static void move_in(const char *at, data_slot *s, const data_way *w)
{
    const data_slot old = *s;
    char *packed = s->pack.to;
    new_memory(at, s, w, s->pack.room);
    memcpy(s->memory, old.memory, (size_t)(w->batch * w->y_bytes));
    memcpy(s->pack.to, packed, (size_t)old.pack.used);
    ag_free(packed);
    w->up->host_free(old.memory);
}

/* ---- on the way ---------------------------------------------------------------------------------------------- */

/* Memory that the allocator hands out may still be read by queued work: it is used until then. */
static void make_landing(const char *at, data_landing *l, const ag_upload_ops *up, int64_t bytes)
{
    if (!l->upload) l->upload = up->make();
    if (l->bytes) ag_release(l->bytes);
    l->bytes = NULL;
    l->bytes = ag_retain(ag_empty_(at, AG_U8, AG_SHAPE(bytes)));
    up->used(l->upload);
}

void ag_data_slot_send(const char *at, data_slot *s, data_way *w)
{
    data_landing *l = &w->landing[s->batch % 2];
    if (w->packed && s->pack.own) move_in(at, s, w);
    if (!l->bytes || l->bytes->shape[0] < s->room) make_landing(at, l, w->up, s->room);
    const int64_t x = w->packed ? s->pack.used + AG_PACKED_ALIGN : s->n * w->x_bytes;
    w->up->copy(l->upload, l->bytes->data, s->memory, (size_t)(s->x + x));
}

static ag_tensor *landed(const char *at, const data_landing *l, int64_t from, const data_field *f, int64_t n)
{
    ag_tensor *t = ag_empty_(at, f->dtype, ag_data_batch_shape_of(f, n));
    ag_device_table(t->device)->copy(t->data, (const char *)l->bytes->data + from, (size_t)(n * ag_data_field_bytes(f)));
    return t;
}

void ag_data_slot_take(const char *at, data_slot *s, data_way *w, const data_set *drawn, ag_dtype numbers, ag_tensor **x,
                       ag_tensor **y)
{
    const ag_shape shape = ag_data_batch_shape_of(&drawn->x, s->n);
    *y = NULL;
    if (!w->up) {
        *x = ag_from_(at, drawn->x.dtype, s->memory + s->x, shape);
        if (drawn->has_y) *y = ag_from_(at, drawn->y.dtype, s->memory, ag_data_batch_shape_of(&drawn->y, s->n));
        return;
    }
    const data_landing *l = &w->landing[s->batch % 2];
    w->up->ready(l->upload);
    if (w->packed)
        *x = ag_data_packed_x(at, ag_slice_(at, l->bytes, 0, s->x, s->x + s->pack.used + AG_PACKED_ALIGN), shape, numbers);
    else *x = landed(at, l, s->x, &drawn->x, s->n);
    if (drawn->has_y) *y = landed(at, l, 0, &drawn->y, s->n);
    w->up->used(l->upload);
}
