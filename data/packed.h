/* data/packed.h - pictures on their way to a device as bytes, where they become numbers: a fourth of the numbers' size to carry,
 * and the work of data/warp.c is the device's. What is done to each is drawn on the host, as ever.
 *
 *     data_pack p = { .to = room, .room = size };
 *     ag_data_pack_begin(&p, 64);                                      at most 64 pictures
 *     ag_data_pack_put(&p, &item, &map);                               ...
 *     ag_tensor *x = ag_data_packed_x(at, u8, AG_SHAPE(64, 224, 224, 3), AG_F32, p.averages); */
#ifndef AG_DATA_PACKED_H
#define AG_DATA_PACKED_H
#include "core/op.h"
#include "data/transform.h"
AG_BEGIN_DECLS

/* n of these, then the pixels of each, rows from the top, from byte `at` on, a multiple of AG_PACKED_ALIGN; as many bytes behind
 * the last one may be read. */
enum { AG_PACKED_ALIGN = 16 };
typedef struct { int64_t at, width, height; data_map map; } data_packed;

/* Where there is not enough room, `to` becomes memory of ag_alloc: own is set then, and who began frees it.
 * averages: some picture is averaged to another size first. */
typedef struct { char *to; int64_t room, used, n; bool own, averages; } data_pack;
int64_t ag_data_pack_bytes(int64_t most, int64_t width, int64_t height);    /* of `most` pictures of this size */
void ag_data_pack_begin(data_pack *p, int64_t most);
void ag_data_pack_put(data_pack *p, const data_image *image, const data_map *map);
/* Takes the last ones away again: n are left. */
void ag_data_pack_cut(data_pack *p, int64_t n);

/* The numbers [..., height, width, 3] of the pictures in `packed`, u8 [bytes], f32 or bf16: ag_data_map_apply of each. */
ag_tensor *ag_data_packed_x(const char *at, ag_tensor *packed, ag_shape shape, ag_dtype dtype, bool averages) AG_PURE;

typedef struct { ag_shape shape; ag_dtype dtype; bool averages; } data_packed_arg;      /* of the op */
extern const ag_op ag_data_augment_op;
void ag_data_augment_cuda(ag_node *n);                                  /* cuda/augment.cu */

AG_END_DECLS
#endif
