/* cuda/cudnn.h - convolutions and attention through cuDNN 9, which is looked for at run time. Its few functions are declared
 * here, so that neither its header nor the library is needed to build; cudnn_same.cu compares with the header where it is.
 *
 * A convolution is described as a graph of one operation (cudnn_graph.c), attention as one of many (cudnn_attention.c); the
 * library's heuristics rank the engines that can compute it, and the first that keeps our promises becomes a plan: the same
 * bits in every run, f32 computed in f32. Without cuDNN, and where no engine does, our own kernels go on. AG_CUDNN=0 in the
 * environment: without it. */
#ifndef AG_CUDA_CUDNN_H
#define AG_CUDA_CUDNN_H
#include "ops/conv_ways.h"
AG_BEGIN_DECLS

/* ---- its interface, 9.0 on ------------------------------------------------------------------------------ */

enum {                                              /* descriptors */
    AG_DNN_CONVOLUTION = 1, AG_DNN_ENGINE = 2, AG_DNN_CONFIG = 3, AG_DNN_HEURISTICS = 4, AG_DNN_PLAN = 5,
    AG_DNN_FORWARD = 10, AG_DNN_WEIGHT_GRADIENT = 11, AG_DNN_INPUT_GRADIENT = 12, AG_DNN_GRAPH = 15, AG_DNN_PACK = 16,
    AG_DNN_TENSOR = 17, AG_DNN_MATMUL = 18, AG_DNN_MATMUL_OF = 19, AG_DNN_POINTWISE = 0, AG_DNN_POINTWISE_OF = 13,
    AG_DNN_REDUCTION = 21, AG_DNN_REDUCTION_OF = 22, AG_DNN_RESHAPE_OF = 31, AG_DNN_DEVICE = 38
};
enum {                                              /* types of attributes; enums of the library are ints */
    AG_DNN_HANDLE = 0, AG_DNN_DATA_TYPE = 1, AG_DNN_BOOL = 2, AG_DNN_INT64 = 3, AG_DNN_FLOAT = 4, AG_DNN_POINTER = 6,
    AG_DNN_CONV_MODE = 7, AG_DNN_HEUR_MODE = 8, AG_DNN_NOTE = 11, AG_DNN_POINTWISE_MODE = 14, AG_DNN_DESCRIPTOR = 15,
    AG_DNN_REDUCTION_MODE = 18, AG_DNN_CHAR = 24
};
enum {                                              /* attributes; those of the three operations come in a row */
    AG_DNN_POINTWISE_MODE_OF = 0, AG_DNN_POINTWISE_TYPE,
    AG_DNN_CONV_TYPE = 100, AG_DNN_CONV_MODE_OF, AG_DNN_CONV_DILATIONS, AG_DNN_CONV_STRIDES, AG_DNN_CONV_POST_PADDINGS,
    AG_DNN_CONV_PRE_PADDINGS, AG_DNN_CONV_AXES,
    AG_DNN_HEUR_MODE_OF = 200, AG_DNN_HEUR_GRAPH, AG_DNN_HEUR_RESULTS, AG_DNN_HEUR_DEVICE = 204,
    AG_DNN_CONFIG_ENGINE = 300, AG_DNN_PLAN_HANDLE = 400, AG_DNN_PLAN_CONFIG, AG_DNN_PLAN_WORKSPACE, AG_DNN_PLAN_DEVICE = 407,
    AG_DNN_FORWARD_ALPHA = 700, AG_DNN_FORWARD_BETA, AG_DNN_FORWARD_CONV, AG_DNN_FORWARD_W, AG_DNN_FORWARD_X, AG_DNN_FORWARD_Y,
    AG_DNN_INPUT_ALPHA = 706, AG_DNN_INPUT_BETA, AG_DNN_INPUT_CONV, AG_DNN_INPUT_W, AG_DNN_INPUT_DX, AG_DNN_INPUT_DY,
    AG_DNN_WEIGHT_ALPHA = 712, AG_DNN_WEIGHT_BETA, AG_DNN_WEIGHT_CONV, AG_DNN_WEIGHT_DW, AG_DNN_WEIGHT_X, AG_DNN_WEIGHT_DY,
    AG_DNN_POINTWISE_DESC = 750, AG_DNN_POINTWISE_X, AG_DNN_POINTWISE_B, AG_DNN_POINTWISE_Y,
    AG_DNN_GRAPH_HANDLE = 800, AG_DNN_GRAPH_OPERATIONS,
    AG_DNN_TENSOR_ALIGNMENT = 900, AG_DNN_TENSOR_TYPE, AG_DNN_TENSOR_SIZES, AG_DNN_TENSOR_STRIDES, AG_DNN_TENSOR_ID = 906,
    AG_DNN_TENSOR_VIRTUAL, AG_DNN_TENSOR_BY_VALUE,
    AG_DNN_PACK_IDS = 1000, AG_DNN_PACK_POINTERS, AG_DNN_PACK_WORKSPACE = 1003,
    AG_DNN_ENGINE_INDEX = 1301, AG_DNN_ENGINE_NOTES = 1303, AG_DNN_MATMUL_TYPE = 1500, AG_DNN_MATMUL_A = 1520, AG_DNN_MATMUL_B,
    AG_DNN_MATMUL_C, AG_DNN_MATMUL_DESC, AG_DNN_REDUCTION_OPERATOR = 1600, AG_DNN_REDUCTION_TYPE, AG_DNN_REDUCTION_X = 1610,
    AG_DNN_REDUCTION_Y, AG_DNN_REDUCTION_DESC, AG_DNN_RESHAPE_X = 2200, AG_DNN_RESHAPE_Y, AG_DNN_DEVICE_JSON = 2702
};
enum { AG_DNN_ADD = 0, AG_DNN_MUL = 1, AG_DNN_DIV = 6, AG_DNN_SUB = 9, AG_DNN_EXP = 13, AG_DNN_LOG = 15 };  /* of a pointwise */
enum { AG_DNN_SUM_OF = 0, AG_DNN_MAX_OF = 3 };                                                              /* of a reduction */
enum { AG_DNN_F32 = 0, AG_DNN_BF16 = 9, AG_DNN_CORRELATION = 1, AG_DNN_MODE_FALLBACK = 2, AG_DNN_MODE_A = 3 };
enum {                                              /* notes of an engine */
    AG_DNN_TENSOR_CORE, AG_DNN_DOWN_CONVERTS, AG_DNN_REDUCED_SUMS, AG_DNN_FFT, AG_DNN_NONDETERMINISTIC, AG_DNN_WINOGRAD,
    AG_DNN_WINOGRAD_4, AG_DNN_WINOGRAD_6, AG_DNN_WINOGRAD_13, AG_DNN_STRICT_NAN, AG_DNN_NOTES
};
/* Statuses. 3xxx: not supported, for one reason or another. */
enum { AG_DNN_LIBRARIES_DIFFER = 1002, AG_DNN_LIBRARY_NOT_LOADED = 1008, AG_DNN_UNSUPPORTED = 3000,
       AG_DNN_NOT_COMPILED = 4001, AG_DNN_NOT_LOADED = 5001 };

typedef struct ag_dnn_handle_ *ag_dnn_handle;
typedef struct ag_dnn_desc_ *ag_dnn_desc;

typedef struct {
    size_t (*version)(void);                        /* 90100: 9.1.0 */
    size_t (*cudart)(void);                         /* 13000: made with CUDA 13.0 */
    const char *(*error_string)(int status);
    void (*last_error)(char *text, size_t size);
    int (*create)(ag_dnn_handle *h);
    int (*set_stream)(ag_dnn_handle h, void *stream);
    int (*desc_create)(int type, ag_dnn_desc *d);
    int (*desc_destroy)(ag_dnn_desc d);
    int (*finalize)(ag_dnn_desc d);
    int (*set)(ag_dnn_desc d, int attribute, int type, int64_t count, const void *values);
    int (*get)(ag_dnn_desc d, int attribute, int type, int64_t wanted, int64_t *count, void *values);
    int (*execute)(ag_dnn_handle h, ag_dnn_desc plan, ag_dnn_desc pack);
} ag_dnn_functions;

/* Fills f from the library. False where it is missing, of a version other than 9, or made for a newer CUDA than the driver's
 * (driver: 12040 is 12.4; 0: any will do); `why` then says so and what to do. (cudnn_load.c) */
bool ag_dnn_load(ag_dnn_functions *f, int driver, char *why, size_t size);

/* ---- plans (cudnn_graph.c) ------------------------------------------------------------------------------- */

/* One of the three products of a convolution without groups: letters as in ag_conv. x, y, the weight, as [O, kh, kw, I], and
 * their gradients are of `type`, sums f32. Every field is an int64_t, so that two can be compared as bytes. */
typedef struct {
    int64_t way, type, add, tf32, n, h, w, in, out, kh, kw, oh, ow;
    int64_t stride[2], before[2], after[2], dilation[2];
} ag_dnn_conv;
ag_dnn_conv ag_dnn_conv_of(const ag_conv *c, ag_conv_way way, bool add);

enum { AG_DNN_HELD = 96 };
typedef struct {
    ag_dnn_desc plan, held[AG_DNN_HELD];            /* the plan and all that it was made of */
    int count;
    int64_t workspace, engine;                      /* bytes; the library's number of it */
} ag_dnn_plan;

/* Where a plan shall run: on the handle's device, or one that is described (NULL handle) and need not be there. */
typedef struct { ag_dnn_handle handle; ag_dnn_desc device; } ag_dnn_place;

/* The first engine of the heuristics for c that keeps the promises above with at most so many bytes of workspace. Returns 0,
 * AG_DNN_UNSUPPORTED where there is none, or the status of what failed. */
int ag_dnn_plan_new(const ag_dnn_functions *f, ag_dnn_place place, const ag_dnn_conv *c, int64_t most_workspace,
                    ag_dnn_plan *plan);
void ag_dnn_plan_drop(const ag_dnn_functions *f, ag_dnn_plan *plan);
/* Queues it on the handle's stream. The way says which of x, w and y is written; the three on 16 bytes. */
int ag_dnn_plan_run(const ag_dnn_functions *f, ag_dnn_handle h, const ag_dnn_plan *plan, const void *x, const void *w,
                    const void *y, void *workspace);
/* Attention of q [n, heads, l, d] over k and v [n, heads, s, d], all bf16, the logs of the sums of exp f32 [n, heads, l]; strides
 * in elements of a sample, a head and a token, columns dense. Every field is an int64_t. (cudnn_attention.c) */
typedef struct { int64_t sample, head, token; } ag_dnn_rows;
typedef struct {
    int64_t backward, n, heads, l, s, d;
    ag_dnn_rows q, k, v, out, dout, dq, dk, dv;     /* the last four: of backward */
} ag_dnn_attention;
/* In the same order; sums: f32 [n, heads, l] of scratch for backward. scale: of the products of q and k. */
typedef struct { const void *q, *k, *v, *out, *dout, *dq, *dk, *dv, *logs, *sums; float scale; } ag_dnn_operands;
int ag_dnn_attention_plan(const ag_dnn_functions *f, ag_dnn_place place, const ag_dnn_attention *a, int64_t most_workspace,
                          ag_dnn_plan *plan);
int ag_dnn_attention_run(const ag_dnn_functions *f, ag_dnn_handle h, const ag_dnn_attention *a, const ag_dnn_plan *plan,
                         const ag_dnn_operands *at, void *workspace);

/* Whether a status means that the library will not do it, now and later; else something failed. */
static inline bool ag_dnn_unsupported(int status) { return status / 1000 == AG_DNN_UNSUPPORTED / 1000; }

/* ---- for the kernels (cudnn.cu) ------------------------------------------------------------------------- */

/* The plan of a convolution without groups and with elements, made when it is first asked for and kept, since a captured step
 * may run it; NULL: Agrad's own kernels do it. */
const ag_dnn_plan *ag_cudnn_plan(const ag_node *n, const ag_conv *c, ag_conv_way way, bool add);
void ag_cudnn_run(const ag_node *n, const ag_dnn_plan *plan, const void *x, const void *w, const void *y);
/* The same of an attention. */
const ag_dnn_plan *ag_cudnn_attention_plan(const ag_node *n, const ag_dnn_attention *a);
void ag_cudnn_attend(const ag_node *n, const ag_dnn_attention *a, const ag_dnn_plan *plan, const ag_dnn_operands *at);
/* For the tests: calls conv(arg, ...) for every convolution that was asked for, and attention for every attention; as before the
 * first use; and in the emulation whether the library is there and with which status it is begun, the descriptors that are
 * alive, and the engine of the last run since this was asked. */
void ag_cudnn_each(void (*conv)(void *arg, const ag_dnn_conv *c), void (*attention)(void *arg, const ag_dnn_attention *a),
                   void *arg);
void ag_cudnn_forget(void);
void ag_emulate_cudnn(bool there, int begins);
int64_t ag_emulate_cudnn_alive(void);
int64_t ag_emulate_cudnn_engine(void);
bool ag_emulate_dnn_load(ag_dnn_functions *f, int driver, char *why, size_t size);

AG_END_DECLS
#endif
