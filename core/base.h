/* core/base.h - the conventions of every public header: options by name, where-strings, errors, scopes.
 *
 *     AG_SCOPE;                                   everything made below is released at the closing brace
 *     ag_tensor *y = ag_matmul(x, w);             never NULL; a broken contract reports the user's line
 *     if (ag_try(train, &job)) puts(ag_error());  a protected call: scopes and modes are unwound
 */
#ifndef AG_BASE_H
#define AG_BASE_H

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define AG_BEGIN_DECLS extern "C" {
#define AG_END_DECLS }
#define AG_LIT(T, ...) (T{__VA_ARGS__})
#else
#define AG_BEGIN_DECLS
#define AG_END_DECLS
#define AG_LIT(T, ...) ((T){__VA_ARGS__})
#endif

#define AG_VERSION "0.1.0"

#define AG_STR2(x) #x
#define AG_STR(x) AG_STR2(x)
#define AG_CAT2(a, b) a##b
#define AG_CAT(a, b) AG_CAT2(a, b)
#define AG_HERE __FILE__ ":" AG_STR(__LINE__)   /* "main.c:41", a constant: passing it costs nothing */

/* Required arguments are positional, optional ones are named, zero means the default:
 *     #define ag_sum(...) ag_sum_(AG_HERE, AG_HEAD(__VA_ARGS__), AG_OPTS(ag_reduce_opts, __VA_ARGS__))
 *     ag_sum(x)    ag_sum(x, .axes = AG_AXES(0, -1), .keepdim = true)
 * Every option struct begins with AG_NAMED_OPTIONS: "no options" is then a non-empty initialiser, and an option without
 * a name, ag_sum(x, 1), meets a pointer and is warned of. */
#define AG_NAMED_OPTIONS char unset_; const struct ag_options_have_names *by_name_
#define AG_HEAD_(head, ...) head
#define AG_TAIL_(head, ...) __VA_ARGS__
#define AG_HEAD(...) AG_HEAD_(__VA_ARGS__, )
#define AG_TAIL(...) AG_TAIL_(__VA_ARGS__, )
#define AG_OPTS(T, ...) AG_LIT(T, .unset_ = 0, AG_TAIL(__VA_ARGS__))
#define AG_OPTS0(T, ...) AG_LIT(T, .unset_ = 0, __VA_ARGS__)   /* for functions without a required argument */

#if defined(__GNUC__)
#define AG_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define AG_PURE __attribute__((warn_unused_result, returns_nonnull))
#define AG_CLEANUP(fn) __attribute__((cleanup(fn), unused))
#define AG_NORETURN __attribute__((noreturn))
#else
#error "Agrad needs gcc or clang"
#endif

AG_BEGIN_DECLS

#ifdef AG_F64                   /* the build for exact gradient checks: make BUILD=f64 */
typedef double real;
#else
typedef float real;
#endif

enum { AG_MAX_DIMS = 6 };

typedef enum { AG_F32, AG_BF16, AG_I64, AG_I32, AG_U8, AG_DTYPES } ag_dtype;   /* AG_F32 holds `real` */
typedef enum { AG_CPU, AG_CUDA, AG_META, AG_DEVICES } ag_device;   /* AG_META: shapes without memory */

/* ---- errors -----------------------------------------------------------------------------------------------
 * One channel for broken contracts, the environment (file, memory, GPU) and bad data: the message goes to the
 * nearest ag_try; without one it is printed to stderr in one write and the process ends with status 2. */

/* Reports "at: message" and does not return. at: AG_HERE of the user's call, or NULL. */
void ag_fail(const char *at, const char *fmt, ...) AG_PRINTF(2, 3) AG_NORETURN;

/* Calls fn(arg). Returns 0, or 1 when it failed: ag_error() then holds the message, and every scope and mode
 * opened inside is closed. Locals changed between the two are indeterminate unless volatile. Nests. (Lua's pcall) */
int ag_try(void (*fn)(void *), void *arg);
const char *ag_error(void);     /* message of this thread's last failed ag_try; "" if none */

/* Kept by nn/: the module that is running in this thread (NULL: none), and how to name one, for messages and reports. */
extern __thread const void *ag_running;
extern const char *(*ag_path_hook)(const void *module);

/* A condition that only a defect of Agrad can break; kept in release builds. */
#define AG_ASSERT(cond) ((cond) ? (void)0 : ag_fail(AG_HERE, "internal error: %s", #cond))

/* ---- scopes and modes -------------------------------------------------------------------------------------
 * Every tensor, module, loader ... belongs to the scope that was innermost when it was made, and ends with it.
 * Modes (no-grad, evaluation) lie on the same stack, so ag_try restores them as well. Thread-local. */

typedef struct { size_t mark, outer; } ag_scope;
ag_scope ag_scope_begin(void);
void ag_scope_end(ag_scope *scope);
#define AG_SCOPE ag_scope AG_CAT(ag_scope_at_, __LINE__) AG_CLEANUP(ag_scope_end) = ag_scope_begin()

/* AG_NO_GRAD; until the closing brace nothing is recorded for backward. (torch.no_grad) */
ag_scope ag_no_grad_begin(void);
#define AG_NO_GRAD ag_scope AG_CAT(ag_no_grad_at_, __LINE__) AG_CLEANUP(ag_scope_end) = ag_no_grad_begin()
/* AG_ENABLE_GRAD; records again inside of AG_NO_GRAD. (torch.enable_grad) */
ag_scope ag_enable_grad_begin(void);
#define AG_ENABLE_GRAD ag_scope AG_CAT(ag_grad_at_, __LINE__) AG_CLEANUP(ag_scope_end) = ag_enable_grad_begin()
bool ag_grad_enabled(void);

/* AG_AUTOCAST(bf16); until the closing brace convolutions, products and attention compute in bf16 with sums in f32; norms
 * and reductions take bf16 and compute in f32; parameters and their gradients stay f32. Where the processor has no bf16
 * one line says so, and everything stays f32. AG_AUTOCAST(f32) switches it off again. (torch.autocast) */
ag_scope ag_autocast_begin(const char *at, const char *precision);
#define AG_AUTOCAST(precision) \
    ag_scope AG_CAT(ag_autocast_at_, __LINE__) AG_CLEANUP(ag_scope_end) = ag_autocast_begin(AG_HERE, #precision)
ag_dtype ag_autocast(void);         /* AG_BF16 inside, else AG_F32 */
const char *ag_autocast_name(void); /* "f32" or "bf16" */
bool ag_bf16_fast(void);            /* whether the processor multiplies bf16 */

/* Gives an object a place in the innermost scope: drop(object) runs when the scope ends (last in, first out). */
void ag_defer(void (*drop)(void *), void *object);

/* Long-lived owners (a module, an optimizer) keep an own scope: what is made between ag_owner_enter and
 * ag_owner_leave belongs to the owner, whatever batch happens to be running; ag_owner_free releases it. */
typedef struct ag_owner ag_owner;
ag_owner *ag_owner_new(void);
void ag_owner_enter(ag_owner *owner);
void ag_owner_leave(ag_owner *owner);
void ag_owner_free(ag_owner *owner);

/* ---- numbers ------------------------------------------------------------------------------------------- */

/* Products and sums of sizes; fail with "what: size overflows" instead of wrapping. */
int64_t ag_mul_size(const char *at, int64_t a, int64_t b);
int64_t ag_add_size(const char *at, int64_t a, int64_t b);

AG_END_DECLS
#endif
