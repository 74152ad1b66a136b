/* cuda/attention_cudnn.cu - attention through cuDNN, where it is plain: bf16, tokens in order, no terms added, no dropout. */
#include "cuda/attention.h"
#include "cuda/cudnn.h"
#include "cuda/rows.h"

enum { FEWEST = 64, WIDEST = 128 };                     /* tokens for which it pays; columns that its engines take */

/* to = factor from: cuDNN's logs are natural ones, ours of base 2. */
static __global__ void scale_logs(int64_t n, float factor, const float *from, float *to)
{
    AG_EACH (i, n) to[i] = factor * from[i];
}

static void run_scale_logs(const ag_attention_job *j, float factor, const float *from, float *to)
{
    const int64_t n = j->n * j->heads * j->l;
    LAUNCH(scale_logs, ag_blocks(n), AG_BLOCK, 0, n, factor, from, to);
}

/* There, and as its engines read it. (In plans of memory there is nothing at the places.) */
static bool readable(const ag_heads &h)
{
    const bool aligned = ag_aligned(h.data) && h.batch % 8 == 0 && h.token % 8 == 0 && h.head % 8 == 0;
    return h.token && h.type == AG_BF16 && !h.add && aligned;
}

static bool plain(const ag_attention_job *j, bool backward)
{
    const ag_attention_operands &a = j->at;
    if (j->type != AG_BF16 || j->window || j->cosine || j->bias.batches || j->mask.batches || j->dropout > 0) return false;
    if (!j->n || !j->heads || j->l < FEWEST || j->s < FEWEST || !j->d || j->d % 8 || j->d > WIDEST) return false;
    if (!readable(a.q) || !readable(a.k) || !readable(a.v) || !readable(a.out)) return false;
    return !backward || (readable(a.dout) && readable(a.dq) && readable(a.dk) && readable(a.dv));
}

static ag_dnn_rows rows_of(const ag_heads &h)
{
    return { h.batch, h.head, h.token };
}

bool ag_attention_by_cudnn(const ag_node *n, const ag_attention_job *j, bool backward)
{
    const float log2e = 1.44269504088896340736f;
    const ag_attention_operands &a = j->at;
    if (!plain(j, backward)) return false;
    ag_dnn_attention key = {};
    key.backward = backward, key.n = j->n, key.heads = j->heads, key.l = j->l, key.s = j->s, key.d = j->d;
    key.q = rows_of(a.q), key.k = rows_of(a.k), key.v = rows_of(a.v), key.out = rows_of(a.out);
    if (backward) key.dout = rows_of(a.dout), key.dq = rows_of(a.dq), key.dk = rows_of(a.dk), key.dv = rows_of(a.dv);
    const ag_dnn_plan *plan = ag_cudnn_attention_plan(n, &key);
    if (!plan) return false;
    const int64_t rows = j->n * j->heads * j->l;
    float *logs = backward || !j->lse ? (float *)ag_workspace(n, rows, sizeof *logs) : j->lse;
    float *sums = backward ? (float *)ag_workspace(n, rows, sizeof *sums) : nullptr;
    if (backward) run_scale_logs(j, 1 / log2e, j->lse, logs);
    const ag_dnn_operands at = { a.q.data, a.k.data, a.v.data, a.out.data, a.dout.data, a.dq.data, a.dk.data, a.dv.data, logs,
                                 sums, (float)j->scale };
    ag_cudnn_attend(n, &key, plan, &at);
    if (!backward && j->lse) run_scale_logs(j, log2e, logs, logs);
    return true;
}
