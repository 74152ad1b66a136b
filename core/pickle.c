/* core/pickle.c - the opcodes that torch.save writes (protocol 2; pickletools.py describes them).
 *
 * P1  Every value costs the file at least one byte, every place on the stack or in the memo too: memory is in proportion
 *     to the file, which is at most LIMIT long. Nothing recurses.
 * P2  Values belong to the machine, whose scope frees them all; what contains what does not matter. */
#include "core/pickle.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "core/memory.h"

enum { LIMIT = 32 << 20, PROTOCOL = 2 };

typedef struct block { struct block *before; int n; ag_pickle value[128]; } block;

typedef struct {
    const char *at, *path, *begin, *p, *end;
    const char *const *names;
    block *values;
    ag_pickle **stack, **memo;
    int64_t *marks;
    int64_t height, stack_room, n_marks, marks_room, memo_room;
} machine;

static void drop(void *p)
{
    machine *m = p;
    while (m->values) {
        block *b = m->values;
        m->values = b->before;
        for (int i = 0; i < b->n; i++) ag_free(b->value[i].items);
        ag_free(b);
    }
    ag_free(m->stack);
    ag_free(m->memo);
    ag_free(m->marks);
    ag_free(m);
}

static void fail(const machine *m, const char *fmt, ...) AG_PRINTF(2, 3) AG_NORETURN;
static void fail(const machine *m, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    ag_fail(m->at, "%s: the pickle, byte %" PRId64 ": %s", m->path, (int64_t)(m->p - m->begin), text);
}

/* ---- the machine --------------------------------------------------------------------------------------- */

static const char *take(machine *m, int64_t n)
{
    if (n < 0 || n > m->end - m->p) fail(m, "it ends in the middle of a value; the file is truncated or damaged");
    const char *p = m->p;
    m->p += n;
    return p;
}

static uint64_t unsigned_number(machine *m, int size)
{
    const unsigned char *p = (const unsigned char *)take(m, size);
    uint64_t v = 0;
    for (int i = size - 1; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

static ag_pickle *new_value(machine *m, ag_pickle_kind kind)
{
    if (!m->values || m->values->n == sizeof m->values->value / sizeof *m->values->value) {
        block *b = ag_alloc(1, sizeof *b);
        b->before = m->values;
        m->values = b;
    }
    ag_pickle *v = &m->values->value[m->values->n++];
    *v = (ag_pickle){ .kind = kind };
    return v;
}

static void *grown(void *p, int64_t n, int64_t *room, size_t size)
{
    if (n < *room) return p;
    *room = *room ? 2 * *room : 16;
    return ag_realloc(p, *room, size);
}

static void push(machine *m, ag_pickle *v)
{
    m->stack = grown(m->stack, m->height, &m->stack_room, sizeof *m->stack);
    m->stack[m->height++] = v;
}

static int64_t floor_of(const machine *m)
{
    return m->n_marks ? m->marks[m->n_marks - 1] : 0;
}

static ag_pickle *pop(machine *m)
{
    if (m->height <= floor_of(m)) fail(m, "it takes a value where none is");
    return m->stack[--m->height];
}

static ag_pickle *top(machine *m, ag_pickle_kind kind, const char *what)
{
    if (m->height <= floor_of(m) || m->stack[m->height - 1]->kind != kind) fail(m, "it fills %s where none is", what);
    return m->stack[m->height - 1];
}

/* Where the values above the last mark begin; the mark goes away, they stay until the caller sets the height. */
static int64_t pop_mark(machine *m)
{
    if (!m->n_marks) fail(m, "a group ends that did not begin");
    return m->marks[--m->n_marks];
}

static void append(ag_pickle *to, ag_pickle *item)
{
    to->items = grown(to->items, to->n, &to->room, sizeof *to->items);
    to->items[to->n++] = item;
}

static void append_from(machine *m, ag_pickle *to, int64_t from)
{
    for (int64_t i = from; i < m->height; i++) append(to, m->stack[i]);
    m->height = from;
}

static void push_tuple(machine *m, int64_t from)
{
    if (from < floor_of(m)) fail(m, "it takes a value where none is");
    ag_pickle *t = new_value(m, AG_PICKLE_TUPLE);
    append_from(m, t, from);
    push(m, t);
}

static void push_integer(machine *m, ag_pickle_kind kind, int64_t v)
{
    ag_pickle *i = new_value(m, kind);
    i->integer = v;
    push(m, i);
}

static void push_long(machine *m)
{
    const int n = (int)unsigned_number(m, 1);
    if (n > 8) fail(m, "a whole number of %d bytes; 8 are the most", n);
    const uint64_t v = unsigned_number(m, n);
    const int unused = 64 - 8 * n;
    push_integer(m, AG_PICKLE_INT, n ? (int64_t)(v << unused) >> unused : 0);
}

static void push_float(machine *m)
{
    const unsigned char *p = (const unsigned char *)take(m, 8);
    ag_pickle *v = new_value(m, AG_PICKLE_FLOAT);
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++) bits = bits << 8 | p[i];
    memcpy(&v->number, &bits, sizeof bits);
    push(m, v);
}

static void push_string(machine *m, int size)
{
    const int64_t n = (int64_t)unsigned_number(m, size);
    ag_pickle *v = new_value(m, AG_PICKLE_STRING);
    v->text = take(m, n);
    v->n = n;
    push(m, v);
}

static void memo_put(machine *m, uint64_t index)
{
    if (index > (uint64_t)(m->end - m->begin)) fail(m, "a memo of %" PRIu64 " values", index);
    const int64_t before = m->memo_room;
    while ((int64_t)index >= m->memo_room) m->memo = grown(m->memo, m->memo_room, &m->memo_room, sizeof *m->memo);
    for (int64_t i = before; i < m->memo_room; i++) m->memo[i] = NULL;
    if (m->height <= floor_of(m)) fail(m, "it remembers a value where none is");
    m->memo[index] = m->stack[m->height - 1];
}

static void memo_get(machine *m, uint64_t index)
{
    if (index >= (uint64_t)m->memo_room || !m->memo[index]) fail(m, "it remembers a value that was not there");
    push(m, m->memo[index]);
}

/* ---- names and calls ----------------------------------------------------------------------------------- */

static void refuse(const machine *m, const char *what, const char *name) AG_NORETURN;
static void refuse(const machine *m, const char *what, const char *name)
{
    ag_fail(m->at, "%s: the pickle wants to %s %s; only tensors are read. Where the file can be trusted, save its weights "
            "alone: torch.save(model.state_dict(), F)", m->path, what, name);
}

static const char *line(machine *m, int64_t *n)
{
    const char *p = m->p, *end = memchr(p, '\n', (size_t)(m->end - p));
    if (!end) fail(m, "a name does not end");
    *n = end - p;
    m->p = end + 1;
    return p;
}

static void push_name(machine *m)
{
    char name[160];
    int64_t module_size, size;
    const char *module = line(m, &module_size), *attribute = line(m, &size);
    snprintf(name, sizeof name, "%.*s.%.*s", (int)(module_size < 80 ? module_size : 80), module,
             (int)(size < 70 ? size : 70), attribute);
    for (char *c = name; *c; c++)
        if (*c < ' ' || *c > '~') *c = '?';
    for (const char *const *k = m->names; *k; k++) {
        if (strcmp(*k + (**k == '!'), name)) continue;
        ag_pickle *v = new_value(m, AG_PICKLE_NAME);
        v->text = *k;
        push(m, v);
        return;
    }
    refuse(m, "call", name);
}

/* f(*arguments): an ordered dict, which is a dict; or kept as it is written. */
static void call(machine *m)
{
    ag_pickle *arguments = pop(m), *f = pop(m);
    if (f->kind != AG_PICKLE_NAME || arguments->kind != AG_PICKLE_TUPLE) fail(m, "it calls what is not a function");
    if (!strcmp(f->text, "collections.OrderedDict")) {
        if (arguments->n) fail(m, "an OrderedDict with arguments");
        push(m, new_value(m, AG_PICKLE_DICT));
        return;
    }
    if (*f->text != '!') refuse(m, "call", f->text);
    ag_pickle *v = new_value(m, AG_PICKLE_CALL);
    v->text = f->text + 1;
    append(v, arguments);
    push(m, v);
}

/* Attributes of an ordered dict (a module's state has _metadata) say nothing about tensors. */
static void build(machine *m)
{
    pop(m);
    const ag_pickle *v = pop(m);
    if (v->kind != AG_PICKLE_DICT) refuse(m, "set attributes of", v->kind == AG_PICKLE_CALL ? v->text : "a value");
    m->height++;
}

static void persistent(machine *m)
{
    ag_pickle *id = pop(m), *v = new_value(m, AG_PICKLE_PERSISTENT);
    append(v, id);
    push(m, v);
}

/* ---- opcodes ------------------------------------------------------------------------------------------- */

static void set_items(machine *m, int64_t from)
{
    if ((m->height - from) % 2 || from < floor_of(m)) fail(m, "a dict's key without a value");
    const int64_t height = m->height;
    m->height = from;
    ag_pickle *d = top(m, AG_PICKLE_DICT, "a dict");
    m->height = height;
    append_from(m, d, from);
}

static void append_items(machine *m, int64_t from)
{
    if (from < floor_of(m)) fail(m, "it takes a value where none is");
    const int64_t height = m->height;
    m->height = from;
    ag_pickle *l = top(m, AG_PICKLE_LIST, "a list");
    m->height = height;
    append_from(m, l, from);
}

static void mark(machine *m)
{
    m->marks = grown(m->marks, m->n_marks, &m->marks_room, sizeof *m->marks);
    m->marks[m->n_marks++] = m->height;
}

static void protocol(machine *m)
{
    const int version = (int)unsigned_number(m, 1);
    if (version != PROTOCOL)
        ag_fail(m->at, "%s: the pickle has protocol %d, only %d is read, which torch.save writes unless told otherwise: "
                "torch.save(torch.load(F), G)", m->path, version, PROTOCOL);
}

/* False at the end. */
static bool step(machine *m)
{
    const unsigned char op = (unsigned char)*take(m, 1);
    switch (op) {
    case 0x80: protocol(m); break;
    case '(': mark(m); break;
    case '.': return false;
    case 'N': push(m, new_value(m, AG_PICKLE_NONE)); break;
    case 0x88: push_integer(m, AG_PICKLE_BOOL, 1); break;
    case 0x89: push_integer(m, AG_PICKLE_BOOL, 0); break;
    case 'K': push_integer(m, AG_PICKLE_INT, (int64_t)unsigned_number(m, 1)); break;
    case 'M': push_integer(m, AG_PICKLE_INT, (int64_t)unsigned_number(m, 2)); break;
    case 'J': push_integer(m, AG_PICKLE_INT, (int32_t)(uint32_t)unsigned_number(m, 4)); break;
    case 0x8a: push_long(m); break;
    case 'G': push_float(m); break;
    case 'U': push_string(m, 1); break;
    case 'T': case 'X': push_string(m, 4); break;
    case ')': push_tuple(m, m->height); break;
    case 0x85: push_tuple(m, m->height - 1); break;
    case 0x86: push_tuple(m, m->height - 2); break;
    case 0x87: push_tuple(m, m->height - 3); break;
    case 't': push_tuple(m, pop_mark(m)); break;
    case ']': push(m, new_value(m, AG_PICKLE_LIST)); break;
    case 'a': append_items(m, m->height - 1); break;
    case 'e': append_items(m, pop_mark(m)); break;
    case '}': push(m, new_value(m, AG_PICKLE_DICT)); break;
    case 's': set_items(m, m->height - 2); break;
    case 'u': set_items(m, pop_mark(m)); break;
    case 'q': memo_put(m, unsigned_number(m, 1)); break;
    case 'r': memo_put(m, unsigned_number(m, 4)); break;
    case 'h': memo_get(m, unsigned_number(m, 1)); break;
    case 'j': memo_get(m, unsigned_number(m, 4)); break;
    case 'c': push_name(m); break;
    case 'R': call(m); break;
    case 'b': build(m); break;
    case 'Q': persistent(m); break;
    default: fail(m, "opcode 0x%02x, which torch.save does not write", op);
    }
    return true;
}

const ag_pickle *ag_pickle_read(const char *at, const char *path, ag_bytes bytes, const char *const *names)
{
    if (bytes.size > LIMIT)
        ag_fail(at, "%s: a pickle of %" PRId64 " bytes; weights alone need a few hundred for each tensor", path,
                bytes.size);
    return ag_pickle_read_first(at, path, &bytes, names);
}

const ag_pickle *ag_pickle_read_first(const char *at, const char *path, ag_bytes *bytes, const char *const *names)
{
    machine *m = ag_alloc(1, sizeof *m);
    ag_defer(drop, m);
    *m = (machine){ .at = at, .path = path, .names = names, .begin = bytes->data, .p = bytes->data,
                    .end = bytes->data + (bytes->size < LIMIT ? bytes->size : LIMIT) };
    while (step(m)) {}
    if (m->height != 1 || m->n_marks) fail(m, "it ends with %" PRId64 " values, not with one", m->height);
    bytes->size -= m->p - m->begin;
    bytes->data = m->p;
    return m->stack[0];
}
