#include "core/json.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "core/memory.h"
#include "core/utf8.h"

/* ---- reading ------------------------------------------------------------------------------------------- */

void ag_json_fail(const ag_json *j, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    ag_fail(j->at, "%s: header byte %" PRId64 ": %s", j->path, (int64_t)(j->p - j->begin), text);
}

ag_json ag_json_begin(const char *at, const char *path, const char *text, int64_t size, char *store)
{
    ag_json j = { at, path, text, text, text + size, store };
    while (j.p < j.end) {
        const int n = ag_utf8_sequence(j.p, j.end);
        if (!n) ag_json_fail(&j, "not UTF-8");
        j.p += n;
    }
    j.p = text;
    return j;
}

static void skip_space(ag_json *j)
{
    while (j->p < j->end && (*j->p == ' ' || *j->p == '\t' || *j->p == '\n' || *j->p == '\r')) j->p++;
}

bool ag_json_accept(ag_json *j, char c)
{
    skip_space(j);
    if (j->p == j->end || *j->p != c) return false;
    j->p++;
    return true;
}

void ag_json_expect(ag_json *j, char c)
{
    if (!ag_json_accept(j, c)) ag_json_fail(j, "expected '%c'", c);
}

bool ag_json_more(ag_json *j, char close)
{
    if (ag_json_accept(j, ',')) return true;
    if (!ag_json_accept(j, close)) ag_json_fail(j, "expected ',' or '%c'", close);
    return false;
}

static uint32_t hex4(ag_json *j)
{
    uint32_t c = 0;
    for (int i = 0; i < 4; i++, j->p++) {
        const char *digits = "0123456789abcdef0123456789ABCDEF";
        const char *hit = j->p < j->end && *j->p ? strchr(digits, *j->p) : NULL;
        if (!hit) ag_json_fail(j, "a \\u needs four hexadecimal digits");
        c = c << 4 | (uint32_t)((hit - digits) & 15);
    }
    return c;
}

static void put_utf8(ag_json *j, uint32_t c)
{
    const int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char lead[5] = { 0, 0, 0xc0, 0xe0, 0xf0 };
    for (int i = n - 1; i > 0; i--, c >>= 6) j->store[i] = (char)(0x80 | (c & 63));
    *j->store = (char)(lead[n] | c);
    j->store += n;
}

static void read_escape(ag_json *j)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char c = j->p < j->end ? *j->p++ : 0;
    const char *hit = c ? strchr(from, c) : NULL;
    if (hit) {
        *j->store++ = to[hit - from];
        return;
    }
    if (c != 'u') ag_json_fail(j, "unknown escape in a string");
    uint32_t u = hex4(j);
    if (u >= 0xd800 && u < 0xdc00 && j->end - j->p > 2 && j->p[0] == '\\' && j->p[1] == 'u') {
        j->p += 2;
        const uint32_t low = hex4(j);
        if (low < 0xdc00 || low > 0xdfff) ag_json_fail(j, "half a surrogate pair in a string");
        u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
    }
    if (u >= 0xd800 && u <= 0xdfff) ag_json_fail(j, "half a surrogate pair in a string");
    if (!u) ag_json_fail(j, "a NUL in a string");
    put_utf8(j, u);
}

const char *ag_json_string(ag_json *j)
{
    ag_json_expect(j, '"');
    const char *s = j->store;
    for (;;) {
        if (j->p == j->end) ag_json_fail(j, "a string does not end");
        const char c = *j->p++;
        if (c == '"') break;
        if ((unsigned char)c < 0x20) ag_json_fail(j, "a control character in a string");
        if (c == '\\') read_escape(j);
        else *j->store++ = c;
    }
    *j->store++ = 0;
    return s;
}

int64_t ag_json_integer(ag_json *j)
{
    skip_space(j);
    const char *first = j->p;
    int64_t v = 0;
    while (j->p < j->end && *j->p >= '0' && *j->p <= '9') {
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *j->p - '0', &v))
            ag_json_fail(j, "a number does not fit in 63 bits");
        j->p++;
    }
    const bool more = j->p < j->end && (*j->p == '.' || *j->p == 'e' || *j->p == 'E');
    if (j->p == first || more || (*first == '0' && j->p - first > 1)) ag_json_fail(j, "expected a whole number, 0 or more");
    return v;
}

static bool word(ag_json *j, const char *w)
{
    const size_t n = strlen(w);
    skip_space(j);
    if ((size_t)(j->end - j->p) < n || memcmp(j->p, w, n)) return false;
    j->p += n;
    return true;
}

bool ag_json_null(ag_json *j)
{
    return word(j, "null");
}

static bool digits(ag_json *j)
{
    const char *first = j->p;
    while (j->p < j->end && *j->p >= '0' && *j->p <= '9') j->p++;
    return j->p > first;
}

static bool at_char(ag_json *j, const char *any)
{
    if (j->p == j->end || !*j->p || !strchr(any, *j->p)) return false;
    j->p++;
    return true;
}

static void skip_number(ag_json *j)
{
    at_char(j, "-");
    const char *first = j->p;
    bool ok = digits(j) && !(*first == '0' && j->p - first > 1);
    if (ok && at_char(j, ".")) ok = digits(j);
    if (ok && at_char(j, "eE")) at_char(j, "+-"), ok = digits(j);
    if (!ok) ag_json_fail(j, "expected a value");
}

static void skip_scalar(ag_json *j)
{
    if (word(j, "null") || word(j, "true") || word(j, "false")) return;
    if (j->p < j->end && *j->p == '"') ag_json_string(j);
    else skip_number(j);
}

static void skip_key(ag_json *j)
{
    ag_json_string(j);
    ag_json_expect(j, ':');
}

void ag_json_skip(ag_json *j)
{
    char close[AG_JSON_DEPTH];
    int depth = 0;
    do {
        const char opened = ag_json_accept(j, '{') ? '}' : ag_json_accept(j, '[') ? ']' : 0;
        if (!opened) skip_scalar(j);
        else if (depth == AG_JSON_DEPTH) ag_json_fail(j, "more than %d brackets within one another", AG_JSON_DEPTH);
        else if (!ag_json_accept(j, opened)) {
            close[depth++] = opened;
            if (opened == '}') skip_key(j);
            continue;
        }
        while (depth && !ag_json_more(j, close[depth - 1])) depth--;
        if (depth && close[depth - 1] == '}') skip_key(j);
    } while (depth);
}

void ag_json_end(ag_json *j)
{
    skip_space(j);
    if (j->p != j->end) ag_json_fail(j, "something follows the closing brace");
}

/* ---- writing ------------------------------------------------------------------------------------------- */

struct ag_json_writer { char *text; int64_t length, capacity; };

static void drop(void *p)
{
    ag_json_writer *w = p;
    ag_free(w->text);
    ag_free(w);
}

ag_json_writer *ag_json_writer_new(void)
{
    ag_json_writer *w = ag_alloc(1, sizeof *w);
    ag_defer(drop, w);
    return w;
}

static char *room(ag_json_writer *w, int64_t bytes)
{
    if (w->length + bytes + 1 > w->capacity) {
        w->capacity = 2 * w->capacity + bytes + 256;
        w->text = ag_realloc(w->text, w->capacity, 1);
    }
    return w->text + w->length;
}

void ag_json_put(ag_json_writer *w, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    vsnprintf(room(w, n), (size_t)n + 1, fmt, again);
    va_end(again);
    w->length += n;
}

void ag_json_put_string(ag_json_writer *w, const char *s)
{
    ag_json_put(w, "\"");
    for (; *s; s++) {
        const unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') ag_json_put(w, "\\%c", c);
        else if (c < 0x20) ag_json_put(w, "\\u%04x", c);
        else *room(w, 1) = *s, w->length++;
    }
    ag_json_put(w, "\"");
}

int64_t ag_json_length(const ag_json_writer *w)
{
    return w->length;
}

const char *ag_json_text(const ag_json_writer *w)
{
    return w->text;
}
