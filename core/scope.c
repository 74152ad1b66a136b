/* core/scope.c - scopes, modes, protected calls: one stack per thread, unwound from the top.
 *
 * S1  An entry is a held count on a tensor, a deferred call, or the modes (no-grad, autocast) to restore.
 * S2  A scope is the height of the stack when it began. What is kept moves down below that height.
 * S3  An owner has a stack of its own, which is the current one between enter and leave.
 * S4  A failure unwinds every stack entered since the ag_try to the height it had then. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/engine.h"
#include "core/ranks.h"

typedef enum { HELD_TENSOR, KEPT_TENSOR, DEFERRED, MODE } entry_kind;
typedef struct { bool no_grad, recomputing; uint8_t autocast, kind; } modes;
typedef struct { void *object; void (*drop)(void *); entry_kind kind; modes before; } entry;

struct ag_owner {
    entry *entries;
    size_t count, capacity, entered;        /* height at the last enter */
    ag_owner *below;                        /* the stack that was current before, */
    size_t outside;                         /* and its innermost mark */
};

typedef struct try_frame {
    jmp_buf jump;
    struct try_frame *outer;
    ag_owner *stack;
    size_t height, innermost;
    ag_node *pending;
} try_frame;

static _Thread_local ag_owner root, *current;
static _Thread_local size_t innermost;        /* mark of the innermost scope */
static _Thread_local modes mode;
static _Thread_local bool failing;
static _Thread_local try_frame *trying;
static _Thread_local char message[8192];

static void unwind(ag_owner *stack, size_t height);

static void close_root(void)
{
    if (!current) return;
    while (current != &root) current = current->below;
    unwind(&root, 0);
    ag_free(root.entries);
    root = (ag_owner){ 0 };
    current = NULL;
}

/* A thread's stack ends with it; the first thread's with the process. */
static pthread_key_t at_thread_end;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void close_thread(void *unused)
{
    (void)unused;
    close_root();
}

static void register_ends(void)
{
    pthread_key_create(&at_thread_end, close_thread);
    atexit(close_root);
}

static ag_owner *stack_now(void)
{
    if (current) return current;
    pthread_once(&once, register_ends);
    pthread_setspecific(at_thread_end, &root);
    return current = &root;
}

static void push(entry e)
{
    ag_owner *s = stack_now();
    if (s->count == s->capacity) {
        const size_t capacity = s->capacity ? 2 * s->capacity : 64;
        s->entries = ag_realloc(s->entries, (int64_t)capacity, sizeof *s->entries);
        s->capacity = capacity;
    }
    s->entries[s->count++] = e;
}

static void unwind(ag_owner *s, size_t height)
{
    size_t kept = 0;
    const size_t top = s->count;
    for (size_t i = top; i > height; i--) {
        entry e = s->entries[i - 1];
        if (e.kind == KEPT_TENSOR) {
            kept++;
            continue;
        }
        s->entries[i - 1].kind = DEFERRED, s->entries[i - 1].drop = NULL;
        if (!kept) s->count = i - 1;
        if (e.kind == HELD_TENSOR) ag_release(e.object);
        else if (e.kind == MODE) mode = e.before;
        else if (e.drop) e.drop(e.object);
    }
    if (!kept) return;
    size_t to = height;
    for (size_t i = height; i < top; i++)
        if (s->entries[i].kind == KEPT_TENSOR) s->entries[to] = s->entries[i], s->entries[to++].kind = HELD_TENSOR;
    s->count = to;
}

ag_scope ag_scope_begin(void)
{
    const ag_scope scope = { stack_now()->count, innermost };
    innermost = scope.mark;
    return scope;
}

void ag_scope_end(ag_scope *scope)
{
    ag_owner *s = stack_now();
    if (s->count > scope->mark) unwind(s, scope->mark);
    innermost = scope->outer;
}

static ag_scope mode_begin(modes now)
{
    const ag_scope scope = ag_scope_begin();
    push((entry){ .kind = MODE, .before = mode });
    mode = now;
    return scope;
}

ag_scope ag_no_grad_begin(void)
{
    modes now = mode;
    now.no_grad = true;
    return mode_begin(now);
}

ag_scope ag_recompute_begin(void)
{
    modes now = mode;
    now.no_grad = now.recomputing = true;
    return mode_begin(now);
}

bool ag_recomputing(void)
{
    return mode.recomputing;
}

ag_scope ag_enable_grad_begin(void)
{
    modes now = mode;
    now.no_grad = now.recomputing = false;
    return mode_begin(now);
}

bool ag_bf16_fast(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

ag_scope ag_autocast_begin(const char *at, const char *precision)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    const bool wanted = !strcmp(precision, "bf16");
    if (!wanted && strcmp(precision, "f32")) ag_fail(at, "precision \"%s\" is unknown; it is \"f32\" or \"bf16\"", precision);
    const bool fast = ag_bf16_fast() || ag_default_device() == AG_CUDA;
    if (wanted && !fast && !atomic_flag_test_and_set(&said))
        fprintf(stderr, "computing in f32: this processor has no bf16 instructions\n");
    modes now = mode;
    now.autocast = wanted && fast ? AG_BF16 : AG_F32;
    return mode_begin(now);
}

ag_scope ag_memory_kind_begin(ag_mem_kind kind)
{
    modes now = mode;
    now.kind = (uint8_t)kind;
    return mode_begin(now);
}

ag_mem_kind ag_memory_kind(void)
{
    return (ag_mem_kind)mode.kind;
}

const char *ag_autocast_name(void)
{
    return mode.autocast == AG_BF16 ? "bf16" : "f32";
}

ag_dtype ag_autocast(void)
{
    return (ag_dtype)mode.autocast;
}

bool ag_grad_enabled(void)
{
    return !mode.no_grad;
}

void ag_defer(void (*drop)(void *), void *object)
{
    push((entry){ .object = object, .drop = drop, .kind = DEFERRED });
}

ag_tensor *ag_scoped(ag_tensor *t)
{
    push((entry){ .object = t, .kind = HELD_TENSOR });
    return t;
}

ag_tensor *ag_keep(ag_tensor *t)
{
    ag_owner *s = stack_now();
    for (size_t i = s->count; i > innermost; i--) {
        if (s->entries[i - 1].object != t || s->entries[i - 1].kind != HELD_TENSOR) continue;
        s->entries[i - 1].kind = KEPT_TENSOR;
        break;
    }
    return t;
}

ag_owner *ag_owner_new(void)
{
    return ag_alloc(1, sizeof(ag_owner));
}

void ag_owner_enter(ag_owner *owner)
{
    owner->below = stack_now();
    owner->entered = owner->count;
    owner->outside = innermost;
    innermost = owner->count;
    current = owner;
}

void ag_owner_leave(ag_owner *owner)
{
    AG_ASSERT(current == owner);
    current = owner->below;
    innermost = owner->outside;
}

void ag_owner_free(ag_owner *owner)
{
    if (!owner) return;
    unwind(owner, 0);
    ag_free(owner->entries);
    ag_free(owner);
}

int ag_try(void (*fn)(void *), void *arg)
{
    try_frame frame = { .outer = trying, .stack = stack_now(), .height = stack_now()->count,
                        .innermost = innermost, .pending = ag_node_pending() };
    trying = &frame;
    if (setjmp(frame.jump)) return 1;       /* give_up() has restored `trying` */
    fn(arg);
    trying = frame.outer;
    return 0;
}

const char *ag_error(void)
{
    return message;
}

static void give_up(void)
{
    try_frame *to = trying;
    ag_owner *end = to ? to->stack : &root;
    ag_node_discard_pending(to ? to->pending : NULL);
    for (ag_owner *s = stack_now(); s != end; s = current) {
        current = s->below;
        unwind(s, s->entered);
    }
    unwind(end, to ? to->height : 0);
    innermost = to ? to->innermost : 0;
    if (to) {
        trying = to->outer;
        failing = false;
        longjmp(to->jump, 1);
    }
    fflush(stdout);
    char prefix[32];
    ag_ranks_before_message(prefix, sizeof prefix);
    if (*prefix) (void)!write(STDERR_FILENO, prefix, strlen(prefix));
    const size_t n = strlen(message);
    message[n] = '\n';
    for (size_t done = 0; done <= n;) {
        const ssize_t wrote = write(STDERR_FILENO, message + done, n + 1 - done);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) break;
        done += (size_t)wrote;
    }
    ag_ranks_give_up(2);
}

void ag_fail(const char *at, const char *fmt, ...)
{
    char text[sizeof message - 1];          /* fmt's arguments may lie in `message` */
    int used = at ? snprintf(text, sizeof text, "%s: ", at) : 0;
    va_list args;
    va_start(args, fmt);
    if (used < (int)sizeof text) vsnprintf(text + used, sizeof text - (size_t)used, fmt, args);
    va_end(args);
    if (!failing) memcpy(message, text, sizeof text);   /* a failure while unwinding: the first one counts */
    failing = true;
    give_up();
    __builtin_unreachable();
}

int64_t ag_mul_size(const char *at, int64_t a, int64_t b)
{
    int64_t r;
    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &r))
        ag_fail(at, "size overflows: %" PRId64 " x %" PRId64 " does not fit in 63 bits", a, b);
    return r;
}

int64_t ag_add_size(const char *at, int64_t a, int64_t b)
{
    int64_t r;
    if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &r))
        ag_fail(at, "size overflows: %" PRId64 " + %" PRId64 " does not fit in 63 bits", a, b);
    return r;
}
