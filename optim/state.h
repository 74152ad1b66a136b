/* optim/state.h - inside of the optimizers; optim.c drives, rules.c computes, rows.c and lazy.c handle row gradients. */
#ifndef AG_OPTIM_STATE_H
#define AG_OPTIM_STATE_H
#include "core/memory.h"
#include "core/thread.h"
#include "ops/formulas.h"
#include "optim/lazy.h"
#include "optim/optim.h"
AG_BEGIN_DECLS

/* sqrt and division dominate Adam's step. Where the compiler may refine the hardware's approximations by a Newton step
 * (to 1 or 2 ulp) it runs 1.45 times as fast; nothing else in these loops could be reordered. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__OPTIMIZE__) && !defined(AG_F64)
#define OPTIM_NEWTON __attribute__((optimize("fast-math")))
#else
#define OPTIM_NEWTON
#endif

/* sqrt(v) of a second moment. The approximation takes denormal numbers for zero and then gives NaN; what is added lies far
 * below any eps. */
#define OPTIM_ROOT(v) SQRT((v) + (real)1e-36)

enum { OPTIM_SLOTS = 2 };

/* Everything an elementwise step needs, ready to multiply with; the GPU's kernels take the same struct. */
typedef struct {
    real scale;             /* of the gradient, from clipping */
    real lr, decay, l2;     /* w *= decay; g += l2 w */
    real beta1, beta2, new1, new2;              /* m = beta1 m + new1 g; v = beta2 v + new2 g g */
    real step, root, eps;   /* Adam: w -= step m / (root sqrt(v) + eps) */
} optim_scalars;

typedef void (*optim_kernel)(const optim_scalars *s, int64_t n, real *w, const real *g, real *s0, real *s1);

/* A dense parameter's place among all elements of one pass. */
typedef struct optim_segment {
    int64_t begin, n;
    real *w, *s0, *s1;
    const real *g;
    optim_scalars scalars;
} optim_segment;

/* ---- rows on the GPU: what the kernels of cuda/optim_rows.cu are told ---- */

enum { OPTIM_TABLES = 8 };          /* in one launch */

/* What a step says anew, of a table or a clock; all of them go to the GPU in one copy, at its beginning. */
typedef union { optim_scalars scalars; optim_tick tick; } optim_number;

typedef struct { const int64_t *id; int64_t n, stride, rows; } optim_list;     /* rows of a table, as a batch read them */

/* A table and the gradients of its rows: values[n, width] for the rows of a list. */
typedef struct {
    real *w, *s0, *s1;
    const real *values;
    int64_t width, n;
    int list, lanes;
    const uint64_t *key;                        /* the list, sorted (cuda/embedding.h) */
    optim_row *row;                             /* lazy: where its rows are; else NULL */
    const optim_clock *clock;
} optim_table;

typedef struct {
    int n, lists;
    real eps;
    const optim_number *number;                 /* of each table, on the GPU */
    const struct ag_step_state *state;          /* of a step in a graph: whether it steps; else NULL */
    bool clips;                                 /* its clip scales the gradients */
    optim_table table[OPTIM_TABLES];
    optim_list list[OPTIM_TABLES];
} optim_tables;

/* Rows that are to be brought up to date; id NULL: all of the table's, and their moments too. */
typedef struct {
    real *w, *m, *v;
    int64_t width;
    int lanes;
    optim_list list;
    optim_row *row;
    const optim_clock *clock;
} optim_touch;
typedef struct { int n; real eps; optim_touch touch[OPTIM_TABLES]; } optim_touches;

/* What a step in a graph (core/device.h) looks up on the device when it runs; all of it lies there. */
typedef struct {
    const optim_scalars *scalars;       /* of each segment, in the place of its own */
    struct ag_step_state *state;        /* cuda/step.h */
    bool clips;                         /* the state's clipping multiplies .scale */
} optim_live;

typedef struct { double lr, wd, beta1, beta2, eps; int64_t t; bool fastai; } optim_hyper;   /* t: this step, from 1 */

typedef struct {
    const char *name;
    const char *slot[OPTIM_SLOTS];      /* PyTorch's names of the state; NULL: none */
    optim_kernel kernel;
    /* The GPU's kernel over all of them; NULL: none. scratch: two numbers for each piece, for rules with .trust; live: in a
     * graph, else NULL. */
    void (*cuda)(const optim_segment *segment, int n, double *scratch, const optim_live *live);
    void (*rows)(const optim_tables *tables);                   /* and over rows of tables there */
    void (*scalars)(const optim_hyper *h, optim_scalars *s);    /* the last line of optim_scalars */
    bool by_rows, lazy;                 /* touches rows with a gradient only; lazily equal to the dense step */
    bool trust;                         /* LAMB: the step is scaled per parameter */
} optim_rule;

typedef struct {
    ag_tensor *t;
    ag_tensor *slot[OPTIM_SLOTS], *step;        /* step: i64 scalar */
    char *name[OPTIM_SLOTS + 1];                /* of the state tensors; the last: step */
    int group;
    bool decays, lazy, norm;                    /* norm: of a normalisation layer */
    optim_clock *clock;                         /* lazy: the steps its rows may have missed */
    optim_row *row;                             /* lazy: [rows] the clock's steps each row is at, where the table is */
    ag_tensor *row_memory;                      /* of them, on the GPU */
    optim *opt;
} optim_param;

/* Rows of a batch gathered by table row: positions i of row id[k] are head[k], next[head[k]], ... until -1. */
typedef struct {
    const ag_tensor *ids;                       /* what it was made from */
    int64_t n, unique, cap;
    int64_t *id;
    int32_t *head, *tail, *next;
} optim_gather;

enum { OPTIM_GATHERS = 8 };

struct optim {
    const optim_rule *rule;
    ag_owner *owner;
    int n_params, n_groups, n_clocks;
    optim_param *param;
    optim_clock **clock;                        /* [2 n_params]: one each at the start, one each after parting */
    struct optim_segment *segment;              /* [n_params]: the dense pass */
    optim_group group[OPTIM_MAX_GROUPS + 1];
    double lr[OPTIM_MAX_GROUPS + 1];
    double weight_decay, beta1, beta2, eps, clip;
    bool fastai, l2, has_momentum;
    int64_t steps;
    optim_gather gather[OPTIM_GATHERS];
    int n_gathers;
    int32_t *where;                             /* [rows of the largest table]: scratch of gathering */
    int64_t where_cap;
    struct optim_ranks *ranks;                  /* NULL: there is one rank, or no step was taken */
    optim_number *number;                       /* of the clocks, then of the tables; on the host */
    ag_tensor *number_there;                    /* and on the GPU; NULL: no table is stepped there */
    optim_param **by_rows;                      /* [n_params]: scratch, those stepped by rows on the GPU */
    optim_scalars *live;                        /* [n_params] on the GPU; NULL: no step was captured */
    real *values;                               /* scratch: several blocks of row gradients behind one another */
    int64_t values_cap;
};

/* rules.c */
extern const optim_rule ag_optim_rule_sgd, ag_optim_rule_sgd_momentum, ag_optim_rule_nesterov, ag_optim_rule_adam,
    ag_optim_rule_sparse_adam, ag_optim_rule_radam, ag_optim_rule_lamb, ag_optim_rule_rmsprop,
    ag_optim_rule_rmsprop_momentum, ag_optim_rule_rmsprop_fastai;
void ag_optim_trust_step(const optim_scalars *s, int64_t n, real *w, const real *g, real *m, real *v);

/* optim.c */
optim_hyper ag_optim_hyper(const optim_param *p);
optim_scalars ag_optim_scalars(const optim_param *p);
/* `count` numbers on the GPU, till the end of the innermost scope. */
double *ag_optim_scratch(const char *at, int64_t count);
/* The rule's kernel over the segments of one device; their `begin` is set here. live: as of optim_rule.cuda. */
void ag_optim_pass(const char *at, const optim_rule *rule, ag_device device, int n, optim_segment *segment,
                   const optim_live *live);
/* Whether a gradient reached the parameter since the last step; a dense one. */
bool ag_optim_takes_part(const optim_param *p);
bool ag_optim_has_dense_grad(const ag_tensor *t);

/* A step in two halves, for graphs: its launches (clip: the largest norm, 0: none), whose parameters are noted in part[n_params];
 * and each time before they run, its numbers; afterwards all that a step changes on the host. */
bool ag_optim_can_capture(optim *opt);
uint64_t ag_optim_signature(const optim *opt);
void ag_optim_capture(const char *at, optim *opt, double clip, bool *part);
void ag_optim_numbers(optim *opt, const bool *part);
void ag_optim_count_step(optim *opt, const bool *part);

/* clocks.c */
void ag_optim_clocks_start(optim *opt);         /* from the parameters' steps: every row is up to date */
void ag_optim_clocks_prepare(optim *opt);       /* before the rows of a step: room on the clocks; who stays lazy */
void ag_optim_clocks_advance(optim *opt, const bool *part);     /* after them; part: as in a graph, which did it on the GPU */
/* Of clock k in this step, or one of the parameters `part`; false: none of its own takes part, so that it stands still. */
bool ag_optim_clock_tick(const optim *opt, int k, const bool *part, optim_tick *tick);
void ag_optim_clocks_make_room(optim *opt, const bool *part);   /* for a step of `part` */
void ag_optim_clocks_free(optim *opt);

/* ranks.c: gradients become the means over all ranks, once for each step. After arm, which comes before the last backward of a
 * step, they are sent while it goes on. */
typedef struct optim_ranks optim_ranks;
void ag_optim_ranks_mean(const char *at, optim *opt);
void ag_optim_ranks_arm(const char *at, optim *opt);
void ag_optim_ranks_disarm(void);
void ag_optim_ranks_reset(optim *opt);
void ag_optim_ranks_free(optim *opt);

/* rows.c: a step with t->rows; the squared norm of the merged rows. */
void ag_optim_rows_step(optim_param *p);
/* rows_gpu.c: the same of n tables on the GPU, in a few launches; *to: on the GPU, overwritten or added to. */
void ag_optim_rows_gpu_step(const char *at, optim *opt, int n, optim_param *const *p);
/* In a graph: the numbers come from where rows_gpu_numbers copies them, in the same order. */
void ag_optim_rows_gpu_ready(const char *at, optim *opt);
void ag_optim_rows_gpu_capture(const char *at, optim *opt, int n, optim_param *const *p, const struct ag_step_state *state,
                               bool clips);
void ag_optim_rows_gpu_numbers(optim *opt, const bool *part, int n, optim_param *const *p);
void ag_optim_rows_gpu_norm2(const char *at, int n, optim_param *const *p, double *to, bool add);
void ag_optim_rows_gpu_touch(int n, ag_tensor *const *table, const int *column, const ag_tensor *ids);
void ag_optim_rows_gpu_catch_up(optim_param *p);
void ag_optim_rows_gpu_start(optim_param *p);   /* every row is at the clock's now */
void ag_optim_clock_gpu_start(optim_clock *k, double beta2);
void ag_optim_clocks_gpu_step(optim *opt, const struct ag_step_state *state);
double ag_optim_rows_norm2(optim_param *p);
void ag_optim_rows_free(optim *opt);

/* lazy_rows.c */
void ag_optim_lazy_start(optim_param *p);       /* every row is at the clock's now; installs the hook */
void ag_optim_lazy_stop(optim_param *p);        /* brings every row up to date and goes on as a dense parameter */
void ag_optim_lazy_catch_up(optim_param *p);    /* every row, weights and moments */
void ag_optim_lazy_touch(optim_param *p, int64_t n, const int64_t *ids, int64_t stride);    /* their weights */

/* What gradients of norm sqrt(sum) are multiplied with. (torch.nn.utils.clip_grad_norm_) */
AG_FORMULA double ag_optim_clip_factor(double sum, double max)
{
    const double norm = sqrt(sum);
    return norm > max ? max / (norm + 1e-6) : 1;
}

/* cuda/optim.cu */
enum { OPTIM_PIECE = 2048 };        /* elements of a thread block */
static inline int64_t ag_optim_pieces(int n, const optim_segment *segment)
{
    int64_t pieces = 0;
    for (int i = 0; i < n; i++) pieces += (segment[i].n + OPTIM_PIECE - 1) / OPTIM_PIECE;
    return pieces;
}
void ag_optim_norm2_cuda(const optim_segment *segment, int n, double *scratch);     /* of all g; [1 + pieces] */
void ag_optim_exchange_cuda(const optim_segment *segment, int n);                   /* w and s0 */
void ag_optim_copy_cuda(const optim_segment *segment, int n);       /* w = g, or 0 where g is NULL */
struct ag_step_state *ag_cuda_step_state(void);                                 /* cuda/step.h */
void ag_optim_clip_cuda(const double *sum, double max, struct ag_step_state *state);    /* sum: the squared norm */
void ag_optim_lamb_cuda(const optim_segment *segment, int n, double *scratch, const optim_live *live);
/* cuda/optim_rows.cu */
void ag_optim_rows_sort_cuda(const char *at, optim_tables *tables);         /* sets n, lanes and key of the tables */
void ag_optim_sgd_rows_cuda(const optim_tables *tables);
void ag_optim_adam_rows_cuda(const optim_tables *tables);
void ag_optim_rows_norm2_cuda(const char *at, const optim_tables *tables, double *to, bool add);
void ag_optim_touch_cuda(optim_touches *touches);
void ag_optim_row_start_cuda(optim_row *row, int64_t n, int64_t now);
void ag_optim_clock_start_cuda(optim_clock *k, int64_t now, double beta2);
void ag_optim_clocks_step_cuda(int n, optim_clock *const *k, const int *at, const optim_number *number,
                               const struct ag_step_state *state);
#define OPTIM_RULE(name, attributes, ...) \
    void ag_optim_##name##_cuda(const optim_segment *segment, int n, double *scratch, const optim_live *live);
#include "optim/rules.def"
#undef OPTIM_RULE

AG_END_DECLS
#endif
