/* data/image_headers.c - sizes, and signs that a file is whole, found without a decoder. Numbers are never trusted: each
 * block is looked at only as far as the file goes. */
#include <string.h>
#include "data/image_inside.h"

static uint32_t big(const uint8_t *p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }
static uint32_t big16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static uint32_t little(const uint8_t *p) { return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0]; }
static uint32_t little16(const uint8_t *p) { return (uint32_t)p[1] << 8 | p[0]; }

static bool ends_early(char why[DATA_WHY], const char *where)
{
    return ag_image_bad(why, "truncated: the file ends in %s", where);
}

/* ---- EXIF ---------------------------------------------------------------------------------------------- */

/* Tag 0x0112 of the first directory of a TIFF block in either byte order. */
int ag_image_orientation(image_bytes t)
{
    if (t.size < 8) return 1;
    const bool intel = t.data[0] == 'I';
    uint32_t (*word)(const uint8_t *) = intel ? little : big, (*half)(const uint8_t *) = intel ? little16 : big16;
    const int64_t first = word(t.data + 4);
    if (first < 8 || first + 2 > t.size) return 1;
    const int64_t n = half(t.data + first);
    for (int64_t i = 0; i < n && first + 2 + 12 * (i + 1) <= t.size; i++) {
        const uint8_t *entry = t.data + first + 2 + 12 * i;
        if (half(entry) != 0x0112) continue;
        const uint32_t v = half(entry + 8);
        return v >= 1 && v <= 8 ? (int)v : 1;
    }
    return 1;
}

/* ---- PNG ----------------------------------------------------------------------------------------------- */

static uint32_t crc(const uint8_t *p, int64_t n)        /* ISO 3309, as PNG's annex D */
{
    static const uint32_t nibble[16] = { 0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158,
                                         0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4,
                                         0xa00ae278, 0xbdbdf21c };
    uint32_t c = 0xffffffff;
    for (int64_t i = 0; i < n; i++) {
        c = nibble[(c ^ p[i]) & 15] ^ c >> 4;
        c = nibble[(c ^ (uint32_t)p[i] >> 4) & 15] ^ c >> 4;
    }
    return ~c;
}

enum { DEFLATE_MOST = 1032, CHUNKS_MOST = 20000 };      /* zlib's largest factor of expansion */

static bool png_begin(const uint8_t *p, int64_t n, image_header *h, char why[DATA_WHY])
{
    static const int channels[7] = { 1, 0, 3, 1, 2, 0, 4 };
    if (n != 13 || p[9] > 6 || !channels[p[9]] || !(p[8] == 1 || p[8] == 2 || p[8] == 4 || p[8] == 8 || p[8] == 16))
        return ag_image_bad(why, "its header is damaged");
    h->width = big(p), h->height = big(p + 4);
    if (h->width > DATA_MAX_SIDE || h->height > DATA_MAX_SIDE) return true;     /* refused by the caller */
    const int64_t row = (h->width * channels[p[9]] * p[8] + 7) / 8 + 8;         /* of seven passes, where interlaced */
    h->most = row * h->height;
    return true;
}

bool ag_image_png_header(image_bytes b, image_header *h, char why[DATA_WHY])
{
    int64_t at = 8, packed = 0;
    bool ended = false;
    for (int chunks = 0; !ended; chunks++) {
        if (chunks == CHUNKS_MOST) return ag_image_bad(why, "more than %d chunks", CHUNKS_MOST);
        if (b.size - at < 12) return ends_early(why, "front of a chunk");
        const uint8_t *c = b.data + at;
        const int64_t n = big(c);
        if (n > b.size - at - 12) return ends_early(why, "a chunk");
        const bool begins = !memcmp(c + 4, "IHDR", 4);
        if ((chunks == 0) != begins) return ag_image_bad(why, "its header is damaged");
        if (crc(c + 4, n + 4) != big(c + 8 + n))
            return ag_image_bad(why, "the checksum of chunk %.4s is wrong", (const char *)c + 4);
        if (begins && !png_begin(c + 8, n, h, why)) return false;
        if (!memcmp(c + 4, "IDAT", 4)) packed += n;
        if (!memcmp(c + 4, "eXIf", 4)) h->orientation = ag_image_orientation((image_bytes){ c + 8, n });
        ended = !memcmp(c + 4, "IEND", 4);
        at += n + 12;
    }
    if (!packed) return ag_image_bad(why, "no pixels: there is no IDAT chunk");
    if (h->most > DEFLATE_MOST * (packed + 1))
        return ag_image_bad(why, "%" PRId64 " bytes cannot hold %" PRId64 " x %" PRId64 " pixels", packed, h->width, h->height);
    return true;
}

/* ---- JPEG ---------------------------------------------------------------------------------------------- */

enum { SCANS_MOST = 100, JPEG_MOST = 1024 };     /* pixels a byte holds at most: 64 a bit in a flat progressive scan, twice */

static bool is_frame(int marker)
{
    return marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
}

/* The next marker from `at` on, behind data that hides 0xff as 0xff 0x00; -1 at the end. */
static int64_t next_marker(image_bytes b, int64_t at)
{
    while (at < b.size) {
        const uint8_t *p = memchr(b.data + at, 0xff, (size_t)(b.size - at));
        if (!p) return -1;
        at = p - b.data;
        while (at < b.size && b.data[at] == 0xff) at++;
        if (at < b.size && b.data[at] != 0 && !(b.data[at] >= 0xd0 && b.data[at] <= 0xd7)) return at;
    }
    return -1;
}

bool ag_image_jpeg_header(image_bytes b, image_header *h, char why[DATA_WHY])
{
    int scans = 0, frames = 0;
    int64_t at = 2;
    while ((at = next_marker(b, at)) >= 0) {
        const int marker = b.data[at++];
        if (marker == 0xd9) break;
        if (marker == 0xd8 || marker == 0x01) continue;
        if (b.size - at < 2) return ends_early(why, "a marker");
        const int64_t n = big16(b.data + at);
        const uint8_t *p = b.data + at + 2;
        if (n < 2 || n > b.size - at) return ends_early(why, "a segment");
        if (is_frame(marker) && !frames++) {
            if (n < 8) return ag_image_bad(why, "its header is damaged");
            h->height = big16(p + 1), h->width = big16(p + 3);
        }
        if (marker == 0xe1 && n > 8 && !memcmp(p, "Exif\0", 6))
            h->orientation = ag_image_orientation((image_bytes){ p + 6, n - 8 });
        if (marker == 0xda && ++scans > SCANS_MOST) return ag_image_bad(why, "more than %d scans", SCANS_MOST);
        at += n;
    }
    if (!frames) return at < 0 ? ends_early(why, "front of the picture") : ag_image_bad(why, "no picture in it");
    if (at < 0) return ends_early(why, scans ? "the picture: no end marker" : "front of the picture");
    if (h->width * h->height > JPEG_MOST * b.size)
        return ag_image_bad(why, "%" PRId64 " bytes cannot hold %" PRId64 " x %" PRId64 " pixels", b.size, h->width, h->height);
    return true;
}

/* ---- BMP ----------------------------------------------------------------------------------------------- */

bool ag_image_bmp_header(image_bytes b, image_header *h, char why[DATA_WHY])
{
    if (b.size < 26) return ends_early(why, "its header");
    const int64_t offset = little(b.data + 10), header = little(b.data + 14);
    int64_t bits;
    if (header == 12) {
        h->width = little16(b.data + 18), h->height = little16(b.data + 20), bits = little16(b.data + 24);
    } else {
        if (b.size < 54) return ends_early(why, "its header");
        h->width = (int32_t)little(b.data + 18), h->height = (int32_t)little(b.data + 22), bits = little16(b.data + 28);
        if (h->height < 0) h->height = -h->height;      /* rows from the top */
    }
    if (h->width < 1 || h->height < 1 || h->width > DATA_MAX_SIDE || h->height > DATA_MAX_SIDE) return true;
    if (bits < 1 || bits > 32) return ag_image_bad(why, "%" PRId64 " bits per pixel", bits);
    const int64_t needs = offset + (h->width * bits + 31) / 32 * 4 * (h->height - 1) + (h->width * bits + 7) / 8;
    if (needs > b.size)
        return ag_image_bad(why, "truncated: %" PRId64 " of %" PRId64 " bytes", b.size, needs);
    return true;
}

/* ---- GIF ----------------------------------------------------------------------------------------------- */

/* Behind the sub-blocks at `at`; -1 where the file ends before they do. *bytes: of them. */
static int64_t skip_blocks(image_bytes b, int64_t at, int64_t *bytes)
{
    *bytes = 0;
    while (at < b.size && b.data[at]) *bytes += b.data[at], at += 1 + b.data[at];
    return at < b.size ? at + 1 : -1;
}

bool ag_image_gif_header(image_bytes b, image_header *h, char why[DATA_WHY])
{
    enum { LZW_MOST = 4096 };                   /* pixels of a code of at least 3 bits */
    if (b.size < 13) return ends_early(why, "its header");
    h->width = little16(b.data + 6), h->height = little16(b.data + 8);
    int64_t at = 13 + (b.data[10] & 0x80 ? 3 << ((b.data[10] & 7) + 1) : 0), bytes;
    while (at >= 0 && at < b.size && b.data[at] == 0x21) at = at + 2 < b.size ? skip_blocks(b, at + 2, &bytes) : -1;
    if (at < 0 || b.size - at < 11) return ends_early(why, "front of the picture");
    if (b.data[at] != 0x2c) return ag_image_bad(why, "no picture in it");
    const int64_t w = little16(b.data + at + 5), t = little16(b.data + at + 7);
    const int64_t palette = b.data[at + 9] & 0x80 ? 3 << ((b.data[at + 9] & 7) + 1) : 0;
    if (skip_blocks(b, at + 11 + palette, &bytes) < 0) return ends_early(why, "the picture");
    if (w * t > LZW_MOST * (bytes + 1) || h->width * h->height > LZW_MOST * (bytes + 1) + (1 << 20))
        return ag_image_bad(why, "%" PRId64 " bytes cannot hold %" PRId64 " x %" PRId64 " pixels", bytes, h->width, h->height);
    return true;
}
