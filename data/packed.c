/* data/packed.c - pictures packed as bytes, and the op that makes numbers of them. */
#include "data/packed.h"
#include <string.h>
#include "core/bf16.h"
#include "core/memory.h"

/* ---- packing ------------------------------------------------------------------------------------------------- */

static int64_t aligned(int64_t bytes)
{
    return (bytes + AG_PACKED_ALIGN - 1) / AG_PACKED_ALIGN * AG_PACKED_ALIGN;
}

static int64_t heads(int64_t n)
{
    return aligned(n * (int64_t)sizeof(data_packed));
}

int64_t ag_data_pack_bytes(int64_t most, int64_t width, int64_t height)
{
    const int64_t pixels = ag_mul_size(NULL, 3 * width, height);
    return ag_add_size(NULL, heads(most), ag_mul_size(NULL, most, aligned(pixels))) + AG_PACKED_ALIGN;
}

/* Room for so many bytes behind those that are used, and for what may be read behind them. */
static void make_room(data_pack *p, int64_t bytes)
{
    const int64_t need = p->used + bytes + AG_PACKED_ALIGN;
    if (need <= p->room) return;
    const int64_t room = need > 2 * p->room ? need : 2 * p->room;
    char *to = ag_alloc(room, 1);
    if (p->used) memcpy(to, p->to, (size_t)p->used);
    if (p->own) ag_free(p->to);
    p->to = to, p->room = room, p->own = true;
}

void ag_data_pack_begin(data_pack *p, int64_t most)
{
    p->n = p->used = 0, p->averages = false;
    make_room(p, heads(most));
    p->used = heads(most);
}

void ag_data_pack_put(data_pack *p, const data_image *image, const data_map *map)
{
    const int64_t pixels = 3 * image->width * image->height, room = aligned(pixels);
    make_room(p, room);
    ((data_packed *)(void *)p->to)[p->n++] = (data_packed){ p->used, image->width, image->height, *map };
    memcpy(p->to + p->used, image->pixels, (size_t)pixels);
    memset(p->to + p->used + pixels, 0, (size_t)(room - pixels));
    p->used += room, p->averages |= map->mean_width > 0;
}

void ag_data_pack_cut(data_pack *p, int64_t n)
{
    if (n < p->n) p->used = ((const data_packed *)(void *)p->to)[n].at;
    p->n = n;
}

/* ---- the op -------------------------------------------------------------------------------------------------- */

/* How many pictures of [height, width, 3] numbers. */
static int64_t pictures_in(const ag_shape *s)
{
    int64_t n = 1;
    for (int k = 0; k < s->ndim - 3; k++) n *= s->dim[k];
    return n;
}

static void infer(ag_node *n)
{
    const data_packed_arg *a = n->arg;
    const ag_tensor *packed = n->in[0];
    const int64_t bytes = pictures_in(&a->shape) * (int64_t)sizeof(data_packed);
    AG_REQUIRE(n, a->shape.ndim > 3 && a->shape.dim[a->shape.ndim - 1] == 3, "the numbers are [N, height, width, 3]");
    AG_REQUIRE(n, packed->dtype == AG_U8 && packed->ndim == 1 && packed->shape[0] > bytes,
               "packed must be u8[bytes], more than %" PRId64 " bytes", bytes);
    ag_node_out(n, a->dtype, a->shape);
}

static void forward(ag_node *n)
{
    const data_packed_arg *a = n->arg;
    const char *from = n->in[0]->data;
    const data_packed *p = (const void *)from;
    const int64_t count = pictures_in(&a->shape), size = count ? ag_numel(n->out) / count : 0;
    float *to = ag_workspace(n, size, sizeof *to);
    for (int64_t i = 0; i < count; i++) {
        const data_image image = { p[i].width, p[i].height, (uint8_t *)(uintptr_t)(from + p[i].at) };
        ag_data_map_apply(&image, &p[i].map, to);
        for (int64_t k = 0; k < size; k++) ag_put(n->out->data, a->dtype, i * size + k, false, (real)to[k]);
    }
}

const ag_op ag_data_augment_op = {
    .name = "augment", .inputs = "packed", .infer = infer,
    .forward = { forward, AG_CUDA_FN(ag_data_augment_cuda) }, .no_grad = "bytes",
};

ag_tensor *ag_data_packed_x(const char *at, ag_tensor *packed, ag_shape shape, ag_dtype dtype, bool averages)
{
    const data_packed_arg a = { shape, dtype, averages };
    return ag_apply_(at, &ag_data_augment_op, AG_INPUTS(packed), &a, sizeof a);
}
