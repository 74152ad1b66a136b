/* cuda/blas.h - matrix products through cuBLASLt, which is looked for at run time. Its few functions are declared here,
 * so that neither its header nor the library is needed to build; cuda/blas.cu compares with the header where it is. */
#ifndef AG_CUDA_BLAS_H
#define AG_CUDA_BLAS_H
#include "core/tensor.h"
AG_BEGIN_DECLS

/* Column-major, as cuBLAS counts: element (i, j) at data[i + j * ld]; `batch` matrices, `step` elements apart. */
typedef struct { int64_t rows, cols, ld, step; } ag_blas_matrix;

/* D[m, n] = op(A) op(B) + beta D (+ bias[i] to row i); A and B f32, or both bf16; D and bias f32, or bf16 with them. Sums
 * are f32. */
typedef struct {
    bool trans_a, trans_b, add;               /* add: beta = 1 */
    bool narrow, narrow_d;                          /* A and B are bf16; D is */
    bool tf32;                                      /* ag_tf32; this, bias and align are set by ag_blas_multiply */
    bool bias;
    int align;                                      /* bytes, a power of two, that a, b and d are multiples of */
    int batch;
    int64_t m, n, k;
    ag_blas_matrix a, b, d;
} ag_blas_plan;

/* A strided matrix [rows, cols] as cuBLAS can read it: *trans where the stored matrix is its transpose. False: neither
 * axis is contiguous. */
bool ag_blas_layout(int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride, ag_blas_matrix *m, bool *trans);

/* Queued. at: for the message when cuBLASLt is missing. */
void ag_blas_multiply(const char *at, const ag_blas_plan *p, const void *a, const void *b, void *d, const void *bias);

/* The same, row-major: y[n, m] = or += x[n, k] w[k, m] (+ bias[m]); xt, wt: x is stored [k, n], w [m, k]. Any size may be 0. */
typedef struct {
    int64_t n, k, m;
    const void *x, *w, *bias;                       /* bias: of y's dtype, or NULL */
    void *y;
    bool xt, wt, add;
    ag_dtype type, to;                              /* of x and w; of y */
    int64_t x_ld, w_ld, y_ld;                       /* elements from a stored row to the next; 0: they are dense */
    int64_t batch, x_step, w_step, y_step;          /* 0: one */
} ag_blas_product;
void ag_blas_run(const char *at, const ag_blas_product *p);

/* ---- cuBLASLt's interface, CUDA 12 and 13 -------------------------------------------------------------- */
enum {
    AG_LT_COMPUTE_32F = 68, AG_LT_COMPUTE_TF32 = 77, AG_LT_R_32F = 0, AG_LT_R_16BF = 14,
    AG_LT_DESC_TRANSA = 3, AG_LT_DESC_TRANSB = 4, AG_LT_DESC_EPILOGUE = 7, AG_LT_DESC_BIAS_POINTER = 8,
    AG_LT_LAYOUT_BATCH = 5, AG_LT_LAYOUT_STEP = 6, AG_LT_PREF_WORKSPACE = 1,
    AG_LT_PREF_ALIGN_A = 5,                             /* B, C, D: 6, 7, 8 */
    AG_LT_EPILOGUE_NONE = 1, AG_LT_EPILOGUE_RELU = 2, AG_LT_EPILOGUE_BIAS = 4,     /* bias and ReLU: 6 */
 AG_LT_OP_N = 0, AG_LT_OP_T = 1
};
typedef struct { uint64_t data[8]; } ag_lt_algo;
typedef struct { ag_lt_algo algo; size_t workspace; int state; float waves; int reserved[4]; } ag_lt_result;
typedef struct ag_lt_handle_ *ag_lt_handle;
typedef struct ag_lt_desc_ *ag_lt_desc;
typedef struct ag_lt_layout_ *ag_lt_layout;
typedef struct ag_lt_pref_ *ag_lt_pref;

typedef struct {
    size_t (*version)(void);                        /* 130100: 13.1.0 */
    size_t (*cudart)(void);                         /* 13000: made with CUDA 13.0 */
    int (*create)(ag_lt_handle *h);
    int (*desc_create)(ag_lt_desc *d, int compute, int scale_type);
    int (*desc_set)(ag_lt_desc d, int attribute, const void *value, size_t size);
    int (*desc_destroy)(ag_lt_desc d);
    int (*layout_create)(ag_lt_layout *l, int type, uint64_t rows, uint64_t cols, int64_t ld);
    int (*layout_set)(ag_lt_layout l, int attribute, const void *value, size_t size);
    int (*layout_destroy)(ag_lt_layout l);
    int (*pref_create)(ag_lt_pref *p);
    int (*pref_set)(ag_lt_pref p, int attribute, const void *value, size_t size);
    int (*pref_destroy)(ag_lt_pref p);
    int (*heuristic)(ag_lt_handle h, ag_lt_desc d, ag_lt_layout a, ag_lt_layout b, ag_lt_layout c, ag_lt_layout out,
                     ag_lt_pref p, int wanted, ag_lt_result *result, int *got);
    int (*matmul)(ag_lt_handle h, ag_lt_desc d, const void *alpha, const void *a, ag_lt_layout la, const void *b,
                  ag_lt_layout lb, const void *beta, const void *c, ag_lt_layout lc, void *out, ag_lt_layout lout,
                  const ag_lt_algo *algo, void *workspace, size_t workspace_size, void *stream);
} ag_lt_functions;

/* Fills f from the library. False where it is missing, of a version other than 12 or 13, or made for a newer CUDA than the
 * driver's (driver: 12040 is 12.4; 0: any will do); `why` is then a message for the user. */
bool ag_lt_load(ag_lt_functions *f, int driver, char *why, size_t size);
/* In its place in the emulation; the k-th product that it was asked for an algorithm for, NULL behind the last. */
const ag_blas_plan *ag_emulate_lt_asked(int64_t k);
bool ag_emulate_lt_load(ag_lt_functions *f, int driver, char *why, size_t size);
/* desc and the layouts of A, B and D; fails on what cuBLASLt refuses. */
void ag_lt_describe(const ag_lt_functions *f, const ag_blas_plan *p, ag_lt_desc *desc, ag_lt_layout layout[3]);

AG_END_DECLS
#endif
