/* cuda/residual.cu - ops/residual.c: y = x + branch scale keep, keep by sample. */
#include "cuda/columns.h"
#include "ops/args.h"
#include "ops/dropout.h"
#include "ops/registry.h"

enum { X, BRANCH, SCALE };

template <class T> struct residual {
    const T *x, *branch, *g;
    T *y, *d_branch;
    const float *scale;
    double drop_path;
    ag_cuda_key key;
    bool add;
};

template <class T> static residual<T> job_of(const ag_node *n, ag_columns *plan)
{
    const ag_tensor *x = n->in[X];
    residual<T> j;
    memset(&j, 0, sizeof j);
    j.x = (const T *)x->data, j.branch = (const T *)n->in[BRANCH]->data, j.y = (T *)n->out->data;
    j.scale = ag_real_or_null(n->in[SCALE]), j.drop_path = ((const ag_drop_arg *)n->arg)->p;
    j.key = ag_cuda_key_of(((const ag_drop_arg *)n->arg)->key);
    const ag_tensor *d = n->din[BRANCH], *g = n->out->grad;
    const int64_t channels = x->shape[x->ndim - 1], samples = x->ndim > 1 && j.drop_path > 0 ? x->shape[0] : 1;
    const bool aligned = ag_aligned(j.x) && ag_aligned(j.branch) && ag_aligned(j.y) && ag_aligned(d ? d->data : nullptr) &&
                         ag_aligned(g ? g->data : nullptr);
    *plan = ag_columns_of<T>(samples, ag_numel(x) / (samples * channels), channels, aligned);
    return j;
}

/* keep of a sample, and scale keep of V channels */
template <int V> struct factors {
    float by[V], kept;
    template <class T> __device__ inline factors(const residual<T> &m, int64_t sample, int64_t c)
    {
        kept = ag_drop_path_keep(m.drop_path, m.key.get(), sample);
        if (m.scale) ag_get_pack<V>(m.scale + c, by);
        for (int i = 0; i < V; i++) by[i] = kept * (m.scale ? by[i] : 1);
    }
};

template <class T> struct add_branch {
    residual<T> j;
    template <int V> struct at {
        factors<V> f;
        __device__ inline at(const add_branch &m, int64_t sample, int64_t c) : f(m.j, sample, c) {}
        __device__ inline void operator()(const add_branch &m, int64_t i)
        {
            float x[V], branch[V];
            ag_get_pack<V>(m.j.x + i, x);
            if (f.kept != 0) {
                ag_get_pack<V>(m.j.branch + i, branch);
                for (int k = 0; k < V; k++) x[k] += branch[k] * f.by[k];
            }
            ag_put_pack<V>(m.j.y + i, x, false);
        }
    };
};

/* d branch = g scale keep,  d scale = sum g branch keep */
template <class T> struct branch_gradient {
    residual<T> j;
    template <int V> struct at {
        factors<V> f;
        __device__ inline at(const branch_gradient &m, int64_t sample, int64_t c) : f(m.j, sample, c) {}
        __device__ inline void operator()(const branch_gradient &m, int64_t i)
        {
            float g[V];
            ag_get_pack<V>(m.j.g + i, g);
            for (int k = 0; k < V; k++) g[k] *= f.by[k];
            ag_put_pack<V>(m.j.d_branch + i, g, m.j.add);
        }
        __device__ inline void operator()(const branch_gradient &m, int64_t i, float (&s)[1][V])
        {
            float g[V], branch[V];
            if (m.j.d_branch) (*this)(m, i);
            if (f.kept == 0) return;
            ag_get_pack<V>(m.j.g + i, g);
            ag_get_pack<V>(m.j.branch + i, branch);
            for (int k = 0; k < V; k++) s[0][k] += g[k] * branch[k] * f.kept;
        }
    };
};

struct put_sum {
    double *sums;
    int64_t channels;
    __device__ inline void operator()(int64_t sample, int64_t c, const double *s) const
    {
        sums[sample * channels + c] = *s;
    }
};

template <class T> static void forward(ag_node *n)
{
    ag_columns p;
    if (!ag_numel(n->out)) return;
    const residual<T> j = job_of<T>(n, &p);
    ag_columns_each<T>(p, add_branch<T>{ j });
}

/* Gradients are given before their places are asked for: what is shared needs none. */
template <class T> static void backward(ag_node *n)
{
    const bool plain = !n->in[SCALE] && ((const ag_drop_arg *)n->arg)->p == 0;
    ag_columns p;
    ag_node_give(n, X, n->out->grad);
    if (plain) ag_node_give(n, BRANCH, n->out->grad);
    if (plain) return;
    if (!ag_numel(n->out)) return ag_give_nothing(n, SCALE);
    residual<T> j = job_of<T>(n, &p);
    j.g = (const T *)n->out->grad->data, j.add = n->accumulate[BRANCH];
    if (n->din[BRANCH]) j.d_branch = (T *)n->din[BRANCH]->data;
    if (n->din[SCALE]) {
        double *sums = (double *)ag_workspace(n, p.groups * p.width, sizeof *sums);
        const ag_put_only put = { { ag_real(n->din[SCALE]), n->accumulate[SCALE] } };
        ag_columns_sum<1, T>(n, p, branch_gradient<T>{ j }, put_sum{ sums, p.width });
        ag_columns_fold<1>(1, p.width, p.groups, sums, put);
    } else if (j.d_branch)
        ag_columns_each<T>(p, branch_gradient<T>{ j });
}

static bool is_half(const ag_node *n) { return n->in[X]->dtype == AG_BF16; }
void ag_residual_forward_cuda(ag_node *n) { is_half(n) ? forward<ag_bf16>(n) : forward<float>(n); }
void ag_residual_backward_cuda(ag_node *n) { is_half(n) ? backward<ag_bf16>(n) : backward<float>(n); }
