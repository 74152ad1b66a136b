/* core/utf8.h - not part of the public interface. */
#ifndef AG_UTF8_H
#define AG_UTF8_H
#include <stdbool.h>
#include <stdint.h>

/* Length of the UTF-8 sequence at p, 0 if it is none (RFC 3629: no overlong forms, no surrogates, up to U+10FFFF). */
static inline int ag_utf8_sequence(const char *at, const char *end)
{
    static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    const unsigned char *p = (const unsigned char *)at;
    const int n = *p < 0x80 ? 1 : *p >> 5 == 6 ? 2 : *p >> 4 == 14 ? 3 : *p >> 3 == 30 ? 4 : 0;
    if (!n || end - at < n) return 0;
    uint32_t c = n == 1 ? *p : *p & (0x7fu >> n);
    for (int i = 1; i < n; i++) {
        if (p[i] >> 6 != 2) return 0;
        c = c << 6 | (p[i] & 63);
    }
    return c >= least[n] && c <= 0x10ffff && (c < 0xd800 || c > 0xdfff) ? n : 0;
}

static inline bool ag_utf8_is(const char *text, int64_t n)
{
    for (const char *p = text, *end = text + n; p < end;) {
        const int size = ag_utf8_sequence(p, end);
        if (!size) return false;
        p += size;
    }
    return true;
}

#endif
