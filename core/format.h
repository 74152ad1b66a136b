/* core/format.h - how numbers lie in files, and as what they are read. Not part of the public interface. */
#ifndef AG_FORMAT_H
#define AG_FORMAT_H
#include "core/tensor.h"

typedef enum {
    AG_FORMAT_F64, AG_FORMAT_F32, AG_FORMAT_F16, AG_FORMAT_BF16, AG_FORMAT_I64, AG_FORMAT_I32, AG_FORMAT_I16, AG_FORMAT_I8,
    AG_FORMAT_U8, AG_FORMAT_BOOL, AG_FORMAT_U16, AG_FORMAT_U32, AG_FORMAT_U64, AG_FORMAT_C64, AG_FORMAT_F8_E4M3,
    AG_FORMAT_F8_E5M2, AG_FORMAT_F8_E8M0, AG_FORMAT_F8_E4M3FNUZ, AG_FORMAT_F8_E5M2FNUZ, AG_FORMAT_F6_E2M3,
    AG_FORMAT_F6_E3M2, AG_FORMAT_F4, AG_FORMATS
} ag_format;

/* dtype: as what it is read (f64 and f16 as f32, small integers as larger ones), or -1 where nothing here is like it. */
typedef struct { const char *name; int bits, dtype; } ag_format_info;
extern const ag_format_info ag_formats[AG_FORMATS];

/* n numbers that lie `step` numbers apart, from the first on, which need not be aligned, converted into `to`. */
void ag_format_read(ag_format format, const char *from, int64_t step, int64_t n, void *to);

#endif
