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

static void let_go(ag_tensor **t)
{
    if (*t) ag_release(*t);
    *t = NULL;
}

void ag_data_way_close(data_way *w)
{
    for (int i = 0; i < 2; i++) {
        if (w->landing[i].upload) w->up->drop(w->landing[i].upload);
        w->landing[i].upload = NULL;
        let_go(&w->landing[i].x), let_go(&w->landing[i].y);
    }
}

void ag_data_way_done(data_way *w, int64_t k)
{
    ag_upload *u = w->landing[k % 2].upload;
    if (!u) return;
    w->up->wait(u);
    w->up->used(u);
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

/* Memory for what lands; false: it is there already, and nobody else has it. */
static bool make_place(const char *at, ag_tensor **t, ag_dtype dtype, ag_shape shape)
{
    if (*t && !ag_is_shared(*t) && (*t)->dtype == dtype && (*t)->ndim == shape.ndim &&
        !memcmp((*t)->shape, shape.dim, (size_t)shape.ndim * sizeof *shape.dim)) return false;
    let_go(t);
    *t = ag_retain(ag_empty_(at, dtype, shape));
    return true;
}

void ag_data_slot_send(const char *at, data_slot *s, data_way *w, const data_set *drawn)
{
    data_landing *l = &w->landing[s->batch % 2];
    if (w->packed && s->pack.own) move_in(at, s, w);
    if (!l->upload) l->upload = w->up->make();
    bool is_new = make_place(at, &l->x, w->packed ? AG_U8 : drawn->x.dtype,
                             w->packed ? AG_SHAPE(s->room - s->x) : ag_data_batch_shape_of(&drawn->x, w->batch));
    if (drawn->has_y) is_new |= make_place(at, &l->y, drawn->y.dtype, ag_data_batch_shape_of(&drawn->y, w->batch));
    if (is_new) w->up->used(l->upload);         /* by work that is queued, and had this memory before */
    const int64_t x_bytes = w->packed ? s->pack.used + AG_PACKED_ALIGN : s->n * w->x_bytes;
    ag_upload_part part[2] = { { l->x->data, s->memory + s->x, (size_t)x_bytes } };
    if (drawn->has_y) part[1] = (ag_upload_part){ l->y->data, s->memory, (size_t)(s->n * w->y_bytes) };
    w->up->copy(l->upload, part, drawn->has_y ? 2 : 1);
    ag_touched(l->x);
    if (drawn->has_y) ag_touched(l->y);
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
    *x = w->packed ? ag_data_packed_x(at, l->x, shape, numbers, s->pack.averages) : ag_slice_(at, l->x, 0, 0, s->n);
    if (drawn->has_y) *y = ag_slice_(at, l->y, 0, 0, s->n);
}
