/* cuda/dropout.cu - ops/dropout.c: the same words of Philox for the same elements, four from a block. */
#include "cuda/rows.h"
#include "ops/args.h"
#include "ops/dropout.h"
#include "ops/registry.h"

enum { WORDS = 4 };

template <class T, bool PACKED>
static __global__ void drop(int64_t n, const T *x, T *y, ag_cuda_key key, uint32_t threshold, float scale, bool add)
{
    AG_EACH (i, (n + WORDS - 1) / WORDS) {
        const ag_philox4 words = ag_philox_block(key.get(), 3, (uint64_t)i);
        float v[WORDS];
        const int64_t at = i * WORDS, left = n - at;
        if (PACKED && left >= WORDS) {
            ag_get_pack<WORDS>(x + at, v);
            for (int k = 0; k < WORDS; k++) v[k] = words.v[k] >= threshold ? v[k] * scale : 0;
            ag_put_pack<WORDS>(y + at, v, add);
        } else
            for (int k = 0; k < WORDS && k < left; k++) {
                const float u = words.v[k] >= threshold ? ag_load(x[at + k]) * scale : 0;
                ag_store(y + at + k, add ? ag_load(y[at + k]) + u : u);
            }
    }
}

template <class T> static void run(const ag_node *n, const ag_tensor *from, ag_tensor *to, bool add)
{
    const ag_drop_arg *a = (const ag_drop_arg *)n->arg;
    const int64_t count = ag_numel(from);
    const T *x = (const T *)from->data;
    T *y = (T *)to->data;
    if (!count) return;
    if (ag_aligned(x) && ag_aligned(y))
        LAUNCH((drop<T, true>), ag_blocks((count + WORDS - 1) / WORDS), AG_BLOCK, 0, count, x, y, ag_cuda_key_of(a->key),
               ag_dropout_threshold(a->p), ag_dropout_scale(a->p), add);
    else
        LAUNCH((drop<T, false>), ag_blocks((count + WORDS - 1) / WORDS), AG_BLOCK, 0, count, x, y, ag_cuda_key_of(a->key),
               ag_dropout_threshold(a->p), ag_dropout_scale(a->p), add);
}

void ag_dropout_forward_cuda(ag_node *n)
{
    if (n->out->dtype == AG_BF16) run<ag_bf16>(n, n->in[0], n->out, false);
    else run<float>(n, n->in[0], n->out, false);
}

void ag_dropout_backward_cuda(ag_node *n)
{
    if (!n->din[0]) return;
    if (n->out->dtype == AG_BF16) run<ag_bf16>(n, n->out->grad, n->din[0], n->accumulate[0]);
    else run<float>(n, n->out->grad, n->din[0], n->accumulate[0]);
}
