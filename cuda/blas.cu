/* cuda/blas.cu - plans of matrix products: described once, looked up by shape, run from then on. */
#include "cuda/blas.h"
#include "cuda/device.h"

enum { PLANS = 256 };
static const size_t WORKSPACE = (size_t)32 << 20;       /* what cuBLAS recommends on Hopper */

struct plan {
    ag_blas_plan key;
    bool used;
    ag_lt_desc desc;
    ag_lt_layout layout[3];
    ag_lt_result choice;
};

static struct {
    bool tried, works;
    char why[512];
    ag_lt_functions f;
    ag_lt_handle handle;
    ag_lt_pref pref;
    void *workspace;
    plan plans[PLANS];
} B;

static void check(int status, const char *what)
{
    if (status) ag_fail(nullptr, "cuda: %s: cuBLASLt status %d", what, status);
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
    const int type = p->bf16 ? AG_LT_R_16BF : AG_LT_R_32F;
    const int32_t ta = p->trans_a ? AG_LT_OP_T : AG_LT_OP_N, tb = p->trans_b ? AG_LT_OP_T : AG_LT_OP_N;
    const uint32_t epilogue = AG_LT_EPILOGUE_BIAS;
    const int32_t batch = p->batch;
    const ag_blas_matrix *m[3] = { &p->a, &p->b, &p->d };
    check(f->desc_create(desc, AG_LT_COMPUTE_32F, AG_LT_R_32F), "describing a product");
    check(f->desc_set(*desc, AG_LT_DESC_TRANSA, &ta, sizeof ta), "transposing A");
    check(f->desc_set(*desc, AG_LT_DESC_TRANSB, &tb, sizeof tb), "transposing B");
    if (p->bias) check(f->desc_set(*desc, AG_LT_DESC_EPILOGUE, &epilogue, sizeof epilogue), "adding a bias");
    for (int i = 0; i < 3; i++) {
        check(f->layout_create(&layout[i], type, (uint64_t)m[i]->rows, (uint64_t)m[i]->cols, m[i]->ld), "a layout");
        check(f->layout_set(layout[i], AG_LT_LAYOUT_BATCH, &batch, sizeof batch), "a batch");
        check(f->layout_set(layout[i], AG_LT_LAYOUT_STEP, &m[i]->step, sizeof m[i]->step), "a batch's stride");
    }
}

static void start(const char *at)
{
    if (!B.tried) {
        B.tried = true;
        B.works = ag_lt_load(&B.f, B.why, sizeof B.why);
        if (B.works) {
            check(B.f.create(&B.handle), "cublasLtCreate");
            check(B.f.pref_create(&B.pref), "a preference");
            check(B.f.pref_set(B.pref, AG_LT_PREF_WORKSPACE, &WORKSPACE, sizeof WORKSPACE), "a workspace");
            B.workspace = ag_cuda_alloc(WORKSPACE);
        }
    }
    if (!B.works) ag_fail(at, "%s", B.why);
    if (!B.workspace) ag_fail(at, "cuda: no memory left for cuBLASLt's workspace of 32 MiB");
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

static plan *plan_of(const char *at, const ag_blas_plan *key)
{
    plan *p = &B.plans[slot_of(key)];
    if (p->used && !memcmp(&p->key, key, sizeof *key)) return p;
    if (p->used) forget(p);
    int got = 0;
    memcpy(&p->key, key, sizeof *key);
    ag_lt_describe(&B.f, key, &p->desc, p->layout);
    p->used = true;
    const int status = B.f.heuristic(B.handle, p->desc, p->layout[0], p->layout[1], p->layout[2], p->layout[2], B.pref,
                                     1, &p->choice, &got);
    if (status || !got) {
        forget(p);
        ag_fail(at, "cuda: cuBLASLt has no way to multiply %s [%" PRId64 ", %" PRId64 "] x [%" PRId64 ", %" PRId64
                "] (status %d)", key->bf16 ? "bf16" : "f32", key->n, key->k, key->k, key->m, status);
    }
    return p;
}

static void assign(ag_blas_matrix *to, const ag_blas_matrix *from)
{
    to->rows = from->rows;
    to->cols = from->cols;
    to->ld = from->ld;
    to->step = from->step;
}

void ag_blas_multiply(const char *at, const ag_blas_plan *want, const void *a, const void *b, void *d, const float *bias)
{
    start(at);
    ag_blas_plan key;
    memset(&key, 0, sizeof key);
    key.trans_a = want->trans_a;
    key.trans_b = want->trans_b;
    key.bf16 = want->bf16;
    key.bias = bias != nullptr;
    key.batch = want->batch;
    key.m = want->m, key.n = want->n, key.k = want->k;
    assign(&key.a, &want->a), assign(&key.b, &want->b), assign(&key.d, &want->d);
    plan *p = plan_of(at, &key);
    if (bias) check(B.f.desc_set(p->desc, AG_LT_DESC_BIAS_POINTER, &bias, sizeof bias), "a bias");
    const float one = 1, beta = want->add;
    const int status = B.f.matmul(B.handle, p->desc, &one, a, p->layout[0], b, p->layout[1], &beta, d, p->layout[2], d,
                                  p->layout[2], &p->choice.algo, B.workspace, WORKSPACE, ag_cuda_stream());
    if (status) ag_fail(at, "cuda: cuBLASLt could not multiply (status %d)", status);
}
