/* data/resize.h - inside data/: a picture made smaller while its rows arrive. The result has the same bits as
 * ag_data_resize_box's of the whole picture. */
#ifndef AG_DATA_RESIZE_H
#define AG_DATA_RESIZE_H
#include "data/transform.h"

typedef struct data_resizer data_resizer;
data_resizer *ag_data_resizer_new(int64_t from_width, int64_t from_height, data_box box, int64_t width, int64_t height);
/* Room for row y of the source, a whole one; all before it are complete. y is 0, 1 .. from_height, where none follows. */
uint8_t *ag_data_resizer_row(data_resizer *r, int64_t y);
/* Frees it; the result, pixels from ag_alloc. */
data_image ag_data_resizer_end(data_resizer *r);
/* How this build adds: others may differ by a grey level. */
const char *ag_data_resizer_name(void);

#endif
