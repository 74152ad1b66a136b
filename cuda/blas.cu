/* cuda/blas.cu - plans of matrix products: described once, looked up by shape, run from then on. */
#include "cuda/blas.h"
#include "cuda/device.h"
#if !defined(AG_EMULATE) && __has_include(<cublasLt.h>)
#include <cublasLt.h>
#define SAME(ours, theirs) static_assert((int)ours == (int)theirs, #theirs)
SAME(AG_LT_COMPUTE_32F, CUBLAS_COMPUTE_32F);
SAME(AG_LT_R_32F, CUDA_R_32F);
SAME(AG_LT_R_16BF, CUDA_R_16BF);
SAME(AG_LT_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(AG_LT_DESC_TRANSB, CUBLASLT_MATMUL_DESC_TRANSB);
SAME(AG_LT_DESC_EPILOGUE, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(AG_LT_DESC_BIAS_POINTER, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(AG_LT_LAYOUT_BATCH, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT);
SAME(AG_LT_LAYOUT_STEP, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET);
SAME(AG_LT_PREF_WORKSPACE, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(AG_LT_PREF_ALIGN_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(AG_LT_PREF_ALIGN_A + 3, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(AG_LT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_BIAS);
SAME(AG_LT_OP_N, CUBLAS_OP_N);
SAME(AG_LT_OP_T, CUBLAS_OP_T);
static_assert(sizeof(ag_lt_result) == sizeof(cublasLtMatmulHeuristicResult_t), "a heuristic's result");
#endif
#ifdef AG_EMULATE
#define LOAD ag_emulate_lt_load
#else
#define LOAD ag_lt_load
#endif

enum { PLANS = 2048 };                                 /* an image model has some hundred products */
static const size_t WORKSPACE = (size_t)32 << 20;       /* what cuBLAS recommends on Hopper */

struct plan {
    ag_blas_plan key;
    bool used;
    ag_lt_desc desc;
    ag_lt_layout layout[3];
    ag_lt_result choice;
};

static struct {
    bool tried, works, made;
    char why[512];
    ag_lt_functions f;
    ag_lt_handle handle;
    ag_lt_pref pref;
    void *workspace;
    plan plans[PLANS];
} B;

static void check(int status, const char *what)
{
    if (!status) return;
    ag_cuda_check_lost(what);
    ag_fail(nullptr, "cuda: %s: cuBLASLt status %d", what, status);
}

/* The stride of an axis of size 1 is never used and can be anything. */
bool ag_blas_layout(int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride, ag_blas_matrix *m, bool *trans)
{
    const int64_t plain = cols == 1 ? rows : col_stride, transposed = rows == 1 ? cols : row_stride;
    *trans = !((row_stride == 1 || rows == 1) && plain >= rows);
    m->rows = *trans ? cols : rows;
    m->cols = *trans ? rows : cols;
    m->ld = *trans ? transposed : plain;
    m->step = 0;
    return !*trans || ((col_stride == 1 || cols == 1) && transposed >= cols);
}

void ag_lt_describe(const ag_lt_functions *f, const ag_blas_plan *p, ag_lt_desc *desc, ag_lt_layout layout[3])
{
    const int32_t ta = p->trans_a ? AG_LT_OP_T : AG_LT_OP_N, tb = p->trans_b ? AG_LT_OP_T : AG_LT_OP_N;
    const uint32_t epilogue = AG_LT_EPILOGUE_BIAS;
    const int32_t batch = p->batch;
    const ag_blas_matrix *m[3] = { &p->a, &p->b, &p->d };
    check(f->desc_create(desc, p->tf32 ? AG_LT_COMPUTE_TF32 : AG_LT_COMPUTE_32F, AG_LT_R_32F), "describing a product");
    check(f->desc_set(*desc, AG_LT_DESC_TRANSA, &ta, sizeof ta), "transposing A");
    check(f->desc_set(*desc, AG_LT_DESC_TRANSB, &tb, sizeof tb), "transposing B");
    if (p->bias) check(f->desc_set(*desc, AG_LT_DESC_EPILOGUE, &epilogue, sizeof epilogue), "adding a bias");
    for (int i = 0; i < 3; i++) {
        const uint64_t rows = (uint64_t)m[i]->rows, cols = (uint64_t)m[i]->cols;
        const int type = (i < 2 ? p->narrow : p->narrow_d) ? AG_LT_R_16BF : AG_LT_R_32F;
        check(f->layout_create(&layout[i], type, rows, cols, m[i]->ld), "a layout");
        check(f->layout_set(layout[i], AG_LT_LAYOUT_BATCH, &batch, sizeof batch), "a batch");
        check(f->layout_set(layout[i], AG_LT_LAYOUT_STEP, &m[i]->step, sizeof m[i]->step), "a batch's stride");
    }
}

static void start(const char *at)
{
    if (!B.tried) {
        int driver = 0;
        ag_cuda_check(cudaDriverGetVersion(&driver), "asking for the driver's version");
        B.tried = true;
        B.works = LOAD(&B.f, driver, B.why, sizeof B.why);
    }
    if (!B.works) ag_fail(at, "%s", B.why);
    if (!B.made) check(B.f.create(&B.handle), "cublasLtCreate");
    B.made = true;                                      /* what failed once is tried again by the next product */
    if (!B.pref) {
        check(B.f.pref_create(&B.pref), "a preference");
        check(B.f.pref_set(B.pref, AG_LT_PREF_WORKSPACE, &WORKSPACE, sizeof WORKSPACE), "a workspace");
    }
    if (!B.workspace) B.workspace = ag_cuda_alloc(WORKSPACE);
    if (B.workspace) return;
    ag_cuda_check_lost("making cuBLASLt's workspace");
    ag_fail(at, "cuda: no memory left for cuBLASLt's workspace of 32 MiB");
}

/* Keys are compared whole, so every byte of one is set (ag_blas_multiply copies into a cleared struct). */
static unsigned slot_of(const ag_blas_plan *key)
{
    const unsigned char *bytes = (const unsigned char *)key;
    uint64_t h = 14695981039346656037ull;               /* FNV-1a */
    for (size_t i = 0; i < sizeof *key; i++) h = (h ^ bytes[i]) * 1099511628211ull;
    return (unsigned)(h >> 32) % PLANS;
}

static void forget(plan *p)
{
    B.f.desc_destroy(p->desc);
    for (int i = 0; i < 3; i++) B.f.layout_destroy(p->layout[i]);
    p->used = false;
}

/* An algorithm may read as many bytes at once as the pointers are aligned to; the library assumes 256. */
static void promise_alignment(int align)
{
    const uint32_t bytes = (uint32_t)align;
    for (int i = 0; i < 4; i++)
        check(B.f.pref_set(B.pref, AG_LT_PREF_ALIGN_A + i, &bytes, sizeof bytes), "an alignment");
}

static void set_bias(const plan *p, const void *bias)
{
    if (bias) check(B.f.desc_set(p->desc, AG_LT_DESC_BIAS_POINTER, &bias, sizeof bias), "a bias");
}

static plan *plan_of(const char *at, const ag_blas_plan *key, const void *bias)
{
    plan *p = &B.plans[slot_of(key)];
    if (p->used && !memcmp(&p->key, key, sizeof *key)) return set_bias(p, bias), p;
    if (p->used) forget(p);
    int got = 0;
    memcpy(&p->key, key, sizeof *key);
    ag_lt_describe(&B.f, key, &p->desc, p->layout);
    p->used = true;
    promise_alignment(key->align);
    set_bias(p, bias);
    const int status = B.f.heuristic(B.handle, p->desc, p->layout[0], p->layout[1], p->layout[2], p->layout[2], B.pref,
                                     1, &p->choice, &got);
    if (status || !got) {
        forget(p);
        ag_cuda_check_lost("looking for a product");
        ag_fail(at, "cuda: cuBLASLt has no way to multiply [%" PRId64 ", %" PRId64 "] x [%" PRId64 ", %" PRId64
                "] (status %d)", key->n, key->k, key->k, key->m, status);
    }
    return p;
}

static int alignment(const void *a, const void *b, const void *d, const void *bias)
{
    const uintptr_t bits = (uintptr_t)a | (uintptr_t)b | (uintptr_t)d | (uintptr_t)bias | 256;
    return (int)(bits & -bits);
}

static void assign(ag_blas_matrix *to, const ag_blas_matrix *from)
{
    to->rows = from->rows;
    to->cols = from->cols;
    to->ld = from->ld;
    to->step = from->step;
}

void ag_blas_multiply(const char *at, const ag_blas_plan *want, const void *a, const void *b, void *d, const void *bias)
{
    if (ag_planning() && !B.workspace) ag_planning_keeps(&B, WORKSPACE);
    if (ag_planning()) return;
    start(at);
    ag_blas_plan key;
    memset(&key, 0, sizeof key);
    key.trans_a = want->trans_a;
    key.trans_b = want->trans_b;
    key.narrow = want->narrow;
    key.tf32 = ag_tf32() && !want->narrow;
    key.narrow_d = want->narrow_d;
    key.bias = bias != nullptr;
    key.align = alignment(a, b, d, bias);
    key.batch = want->batch;
    key.m = want->m, key.n = want->n, key.k = want->k;
    assign(&key.a, &want->a), assign(&key.b, &want->b), assign(&key.d, &want->d);
    plan *p = plan_of(at, &key, bias);
    const float one = 1, beta = want->add;
    const int status = B.f.matmul(B.handle, p->desc, &one, a, p->layout[0], b, p->layout[1], &beta, d, p->layout[2], d,
                                  p->layout[2], &p->choice.algo, B.workspace, WORKSPACE, ag_cuda_stream());
    if (!status) return;
    ag_cuda_check_lost("multiplying");
    ag_fail(at, "cuda: cuBLASLt could not multiply (status %d)", status);
}

static void fill(const ag_blas_product *p)
{
    ag_tensor y = {}, bias = {};
    y.ndim = 2, y.dtype = p->to, y.data = p->y;
    y.shape[0] = p->n, y.shape[1] = p->m, y.stride[0] = p->y_ld ? p->y_ld : p->m, y.stride[1] = 1;
    bias.ndim = 1, bias.dtype = p->to, bias.data = (void *)p->bias, bias.shape[0] = p->m, bias.stride[0] = 1;
    for (int64_t b = 0; b < (p->batch ? p->batch : 1) && !p->add; b++) {
        if (p->bias) ag_cuda_assign(&y, &bias);
        else ag_cuda_fill(&y, 0);
        y.data = (char *)y.data + p->y_step * (int64_t)ag_dtype_size(p->to);
    }
}

/* cuBLAS counts columns first: it is asked for y' = w' x'. */
void ag_blas_run(const char *at, const ag_blas_product *p)
{
    if (!p->n || !p->m) return;
    if (!p->k) return fill(p);
    ag_blas_plan q;
    memset(&q, 0, sizeof q);
    q.trans_a = p->wt, q.trans_b = p->xt, q.add = p->add, q.batch = p->batch ? (int)p->batch : 1;
    q.narrow = p->type == AG_BF16, q.narrow_d = p->to == AG_BF16;
    q.m = p->m, q.n = p->n, q.k = p->k;
    q.a = { p->wt ? p->k : p->m, p->wt ? p->m : p->k, p->w_ld ? p->w_ld : p->wt ? p->k : p->m, p->w_step };
    q.b = { p->xt ? p->n : p->k, p->xt ? p->k : p->n, p->x_ld ? p->x_ld : p->xt ? p->n : p->k, p->x_step };
    q.d = { p->m, p->n, p->y_ld ? p->y_ld : p->m, p->y_step };
    ag_blas_multiply(at, &q, p->w, p->x, p->y, p->bias);
}
