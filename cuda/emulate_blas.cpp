/* cuda/emulate_blas.cpp - in the place of cuBLASLt in the emulation: the same descriptors, one plain loop. It refuses
 * what cuBLASLt's reference manual refuses: leading dimensions and shapes that do not fit, operands less aligned than
 * was promised when the algorithm was chosen. */
#include "cuda/blas.h"
#include "cuda/cuda.h"
#include <string.h>
#include <vector>

namespace {

struct desc { int32_t trans_a, trans_b; uint32_t epilogue; const void *bias; bool tf32; };
struct pref { uint32_t align[4]; };
struct layout { int type; uint64_t rows, cols; int64_t ld, step; int32_t batch; };

enum { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13 };

template <class T> int make(T **slot, T value)
{
    *slot = new T(value);
    return SUCCESS;
}

size_t version(void) { return 0; }
int create(ag_lt_handle *h) { return *h = nullptr, ag_emulate_fails() ? NOT_INITIALIZED : SUCCESS; }
int desc_create(ag_lt_desc *d, int compute, int)
{
    desc made = {};
    made.tf32 = compute == AG_LT_COMPUTE_TF32;
    return made.tf32 || compute == AG_LT_COMPUTE_32F ? make((desc **)d, made) : INVALID_VALUE;
}
int desc_destroy(ag_lt_desc d) { return delete (desc *)d, SUCCESS; }
int layout_destroy(ag_lt_layout l) { return delete (layout *)l, SUCCESS; }
int pref_create(ag_lt_pref *p) { return make((pref **)p, pref{ { 256, 256, 256, 256 } }); }
int pref_destroy(ag_lt_pref p) { return delete (pref *)p, SUCCESS; }

int set(void *field, size_t field_size, const void *value, size_t size)
{
    if (field_size != size) return INVALID_VALUE;
    memcpy(field, value, size);
    return SUCCESS;
}

int pref_set(ag_lt_pref handle, int attribute, const void *value, size_t size)
{
    const int i = attribute - AG_LT_PREF_ALIGN_A;
    if (attribute == AG_LT_PREF_WORKSPACE) return size == sizeof(size_t) ? SUCCESS : INVALID_VALUE;
    return i < 0 || i > 3 ? INVALID_VALUE : set(&((pref *)handle)->align[i], sizeof(uint32_t), value, size);
}

int desc_set(ag_lt_desc handle, int attribute, const void *value, size_t size)
{
    desc *d = (desc *)handle;
    switch (attribute) {
    case AG_LT_DESC_TRANSA: return set(&d->trans_a, sizeof d->trans_a, value, size);
    case AG_LT_DESC_TRANSB: return set(&d->trans_b, sizeof d->trans_b, value, size);
    case AG_LT_DESC_EPILOGUE: return set(&d->epilogue, sizeof d->epilogue, value, size);
    case AG_LT_DESC_BIAS_POINTER: return set(&d->bias, sizeof d->bias, value, size);
    default: return INVALID_VALUE;
    }
}

int layout_create(ag_lt_layout *l, int type, uint64_t rows, uint64_t cols, int64_t ld)
{
    return make((layout **)l, layout{ type, rows, cols, ld, 0, 1 });
}

int layout_set(ag_lt_layout handle, int attribute, const void *value, size_t size)
{
    layout *l = (layout *)handle;
    if (attribute == AG_LT_LAYOUT_BATCH) return set(&l->batch, sizeof l->batch, value, size);
    if (attribute == AG_LT_LAYOUT_STEP) return set(&l->step, sizeof l->step, value, size);
    return INVALID_VALUE;
}

bool fits(const layout *l, uint64_t rows, uint64_t cols)
{
    return l->rows == rows && l->cols == cols && l->ld >= (int64_t)l->rows && rows && cols;
}

std::vector<ag_blas_plan> asked;

ag_blas_matrix matrix(const layout *l) { return { (int64_t)l->rows, (int64_t)l->cols, l->ld, l->step }; }

void note(const desc *d, const layout *a, const layout *b, const layout *c, const pref *p)
{
    ag_blas_plan q = {};
    q.trans_a = d->trans_a != 0, q.trans_b = d->trans_b != 0, q.bias = d->epilogue == AG_LT_EPILOGUE_BIAS;
    q.narrow = a->type == AG_LT_R_16BF, q.narrow_d = c->type == AG_LT_R_16BF, q.align = (int)p->align[0], q.batch = c->batch;
    q.m = (int64_t)c->rows, q.n = (int64_t)c->cols, q.k = (int64_t)(d->trans_a ? a->rows : a->cols);
    q.a = matrix(a), q.b = matrix(b), q.d = matrix(c);
    asked.push_back(q);
}

int heuristic(ag_lt_handle, ag_lt_desc dh, ag_lt_layout ah, ag_lt_layout bh, ag_lt_layout ch, ag_lt_layout,
              ag_lt_pref ph, int, ag_lt_result *result, int *got)
{
    const desc *d = (const desc *)dh;
    const layout *a = (const layout *)ah, *b = (const layout *)bh, *c = (const layout *)ch;
    const uint64_t k = d->trans_a ? a->rows : a->cols;
    const bool good = fits(a, d->trans_a ? k : c->rows, d->trans_a ? c->rows : k) &&
                      fits(b, d->trans_b ? c->cols : k, d->trans_b ? k : c->cols) && fits(c, c->rows, c->cols) &&
                      a->batch == c->batch && b->batch == c->batch && a->type == b->type &&
                      (a->type == c->type || (a->type == AG_LT_R_16BF && c->type == AG_LT_R_32F));
    if (ag_emulate_fails()) return NOT_INITIALIZED;
    *got = good;
    note(d, a, b, c, (const pref *)ph);
    memset(result, 0, sizeof *result);
    memcpy(result->algo.data, ((const pref *)ph)->align, sizeof(pref));     /* the algorithm relies on it */
    return good ? SUCCESS : INVALID_VALUE;
}

bool aligned(const void *p, uint32_t bytes)
{
    return (uintptr_t)p % bytes == 0;
}

/* To 10 bits behind the point, to nearest. */
float factor(const desc *d, float v)
{
    uint32_t bits;
    if (!d->tf32) return v;
    memcpy(&bits, &v, sizeof bits);
    bits = (bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFFu;
    memcpy(&v, &bits, sizeof v);
    return v;
}

struct strided { int64_t row, col; };

template <class T, class D>
void multiply(const desc *d, float scale, float keep, const T *a, const T *b, const D *c, D *out, const layout *la,
              const layout *lb, const layout *lc)
{
    const int64_t inner = (int64_t)(d->trans_a ? la->rows : la->cols);
    const strided as = d->trans_a ? strided{ la->ld, 1 } : strided{ 1, la->ld };
    const strided bs = d->trans_b ? strided{ lb->ld, 1 } : strided{ 1, lb->ld };
    for (int batch = 0; batch < lc->batch; batch++)
        for (int64_t j = 0; j < (int64_t)lc->cols; j++)
            for (int64_t i = 0; i < (int64_t)lc->rows; i++) {
                const T *x = a + batch * la->step + i * as.row, *y = b + batch * lb->step + j * bs.col;
                const int64_t at = batch * lc->step + i + j * lc->ld;
                float sum = 0;
                for (int64_t k = 0; k < inner; k++) sum += factor(d, ag_load(x[k * as.col])) * factor(d, ag_load(y[k * bs.row]));
                sum *= scale;
                if (keep != 0) sum += keep * ag_load(c[at]);
                if (d->epilogue == AG_LT_EPILOGUE_BIAS) sum += ag_load(((const D *)d->bias)[i]);
                ag_store(&out[at], sum);
            }
}

/* Descriptors and factors are read by the call, matrices when the stream gets there. */
int matmul(ag_lt_handle, ag_lt_desc dh, const void *alpha, const void *a, ag_lt_layout ah, const void *b,
           ag_lt_layout bh, const void *beta, const void *c, ag_lt_layout ch, void *out, ag_lt_layout,
           const ag_lt_algo *algo, void *, size_t, void *stream)
{
    const desc d = *(const desc *)dh;
    const layout la = *(const layout *)ah, lb = *(const layout *)bh, lc = *(const layout *)ch;
    const float scale = *(const float *)alpha, keep = *(const float *)beta;
    const uint32_t *align = (const uint32_t *)algo->data;
    if (ag_emulate_fails()) return EXECUTION_FAILED;
    if (!aligned(a, align[0]) || !aligned(b, align[1]) || !aligned(c, align[2]) || !aligned(out, align[3]))
        return INVALID_VALUE;
    ag_emulate_queue((cudaStream_t)stream, [=] {
        if (la.type == AG_LT_R_32F)
            multiply(&d, scale, keep, (const float *)a, (const float *)b, (const float *)c, (float *)out, &la, &lb, &lc);
        else if (lc.type == AG_LT_R_32F)
            multiply(&d, scale, keep, (const ag_bf16 *)a, (const ag_bf16 *)b, (const float *)c, (float *)out, &la, &lb, &lc);
        else
            multiply(&d, scale, keep, (const ag_bf16 *)a, (const ag_bf16 *)b, (const ag_bf16 *)c, (ag_bf16 *)out, &la, &lb, &lc);
    });
    return SUCCESS;
}

} // namespace

const ag_blas_plan *ag_emulate_lt_asked(int64_t k)
{
    return k < (int64_t)asked.size() ? &asked[(size_t)k] : nullptr;
}

bool ag_emulate_lt_load(ag_lt_functions *f, int, char *, size_t)
{
    *f = { version, version, create, desc_create, desc_set, desc_destroy, layout_create, layout_set, layout_destroy, pref_create,
           pref_set, pref_destroy, heuristic, matmul };
    return true;
}
