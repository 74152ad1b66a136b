#include "core/format.h"
#include <string.h>

const ag_format_info ag_formats[AG_FORMATS] = {
    [AG_FORMAT_F64] = { "F64", 64, AG_F32 }, [AG_FORMAT_F32] = { "F32", 32, AG_F32 }, [AG_FORMAT_F16] = { "F16", 16, AG_F32 },
    [AG_FORMAT_BF16] = { "BF16", 16, AG_BF16 }, [AG_FORMAT_I64] = { "I64", 64, AG_I64 }, [AG_FORMAT_I32] = { "I32", 32, AG_I32 },
    [AG_FORMAT_I16] = { "I16", 16, AG_I32 }, [AG_FORMAT_I8] = { "I8", 8, AG_I32 }, [AG_FORMAT_U8] = { "U8", 8, AG_U8 },
    [AG_FORMAT_BOOL] = { "BOOL", 8, AG_U8 }, [AG_FORMAT_U16] = { "U16", 16, AG_I32 }, [AG_FORMAT_U32] = { "U32", 32, AG_I64 },
    [AG_FORMAT_U64] = { "U64", 64, -1 }, [AG_FORMAT_C64] = { "C64", 64, -1 }, [AG_FORMAT_F8_E4M3] = { "F8_E4M3", 8, -1 },
    [AG_FORMAT_F8_E5M2] = { "F8_E5M2", 8, -1 }, [AG_FORMAT_F8_E8M0] = { "F8_E8M0", 8, -1 },
    [AG_FORMAT_F8_E4M3FNUZ] = { "F8_E4M3FNUZ", 8, -1 }, [AG_FORMAT_F8_E5M2FNUZ] = { "F8_E5M2FNUZ", 8, -1 },
    [AG_FORMAT_F6_E2M3] = { "F6_E2M3", 6, -1 }, [AG_FORMAT_F6_E3M2] = { "F6_E3M2", 6, -1 }, [AG_FORMAT_F4] = { "F4", 4, -1 },
};

/* IEEE half: 1 sign, 5 exponent (bias 15), 10 fraction bits; shifted into place it is a float with the wrong bias. */
static real half_value(uint16_t h)
{
    const uint32_t size = (uint32_t)(h & 0x7fff) << 13;
    const uint32_t beyond = (h & 0x7c00) == 0x7c00 ? size | 0x7f800000 : 0;
    float v, special;
    memcpy(&v, &size, sizeof v);
    memcpy(&special, &beyond, sizeof special);
    v = beyond ? special : v * 0x1p112f;
    return (real)(h >> 15 ? -v : v);
}

#define READ_AS(T, D, expr)                                                                                      \
    for (int64_t i = 0; i < n; i++) {                                                                            \
        T v;                                                                                                     \
        memcpy(&v, from + i * step * (int64_t)sizeof v, sizeof v);                                               \
        ((D *)to)[i] = (D)(expr);                                                                                \
    }                                                                                                            \
    break

void ag_format_read(ag_format format, const char *from, int64_t step, int64_t n, void *to)
{
    switch (format) {
    case AG_FORMAT_F64: READ_AS(double, real, v);
    case AG_FORMAT_F32: READ_AS(float, real, v);
    case AG_FORMAT_F16: READ_AS(uint16_t, real, half_value(v));
    case AG_FORMAT_BF16: READ_AS(uint16_t, uint16_t, v);
    case AG_FORMAT_I64: READ_AS(int64_t, int64_t, v);
    case AG_FORMAT_I32: READ_AS(int32_t, int32_t, v);
    case AG_FORMAT_I16: READ_AS(int16_t, int32_t, v);
    case AG_FORMAT_U16: READ_AS(uint16_t, int32_t, v);
    case AG_FORMAT_I8: READ_AS(int8_t, int32_t, v);
    case AG_FORMAT_U32: READ_AS(uint32_t, int64_t, v);
    case AG_FORMAT_U8: READ_AS(uint8_t, uint8_t, v);
    case AG_FORMAT_BOOL: READ_AS(uint8_t, uint8_t, v != 0);
    default: AG_ASSERT(!"a format that is read");
    }
}
