/* cuda/affine.h - ops/affine.h on the GPU: out = x by_x + g by_g + by_1 with coefficients by sample and channel, and the sums
 * before it. */
#ifndef AG_CUDA_AFFINE_H
#define AG_CUDA_AFFINE_H
#include "cuda/columns.h"

template <class T> struct ag_affine_cuda {
    int64_t samples, rows, channels;        /* x, g, out [samples, rows, channels] */
    const T *x, *g;                         /* g may be NULL */
    T *out;
    float *by_x, *by_g, *by_1;              /* [samples, channels] */
    double *sums;                           /* [samples, 2, channels] */
    bool add;
    ag_columns plan;
};

template <class T> static ag_affine_cuda<T> ag_affine_cuda_of(const ag_node *n, bool backward)
{
    const ag_tensor *x = n->in[0];
    ag_affine_cuda<T> a;
    a.samples = x->shape[0], a.channels = x->shape[x->ndim - 1];
    const int64_t each = a.samples * a.channels;
    a.rows = each ? ag_numel(x) / each : 0;
    a.x = (const T *)x->data, a.g = backward ? (const T *)n->out->grad->data : nullptr;
    a.out = (T *)(backward ? n->din[0] ? n->din[0]->data : nullptr : n->out->data);
    a.add = backward && n->accumulate[0];
    a.by_x = (float *)ag_workspace(n, each, sizeof *a.by_x), a.by_1 = (float *)ag_workspace(n, each, sizeof *a.by_1);
    a.by_g = backward ? (float *)ag_workspace(n, each, sizeof *a.by_g) : nullptr;
    a.sums = (double *)ag_workspace(n, 2 * each, sizeof *a.sums);
    a.plan = ag_columns_of<T>(a.samples, a.rows, a.channels, ag_aligned(a.x) && ag_aligned(a.g) && ag_aligned(a.out));
    return a;
}

template <class T> struct ag_affine_apply {
    ag_affine_cuda<T> a;
    template <int V> struct at {
        float by_x[V], by_g[V], by_1[V];
        __device__ inline at(const ag_affine_apply &m, int64_t sample, int64_t c)
        {
            const int64_t k = sample * m.a.channels + c;
            ag_get_pack<V>(m.a.by_x + k, by_x);
            ag_get_pack<V>(m.a.by_1 + k, by_1);
            if (m.a.g) ag_get_pack<V>(m.a.by_g + k, by_g);
        }
        __device__ inline void operator()(const ag_affine_apply &m, int64_t i)
        {
            float x[V], g[V];
            ag_get_pack<V>(m.a.x + i, x);
            if (m.a.g) ag_get_pack<V>(m.a.g + i, g);
            for (int k = 0; k < V; k++) x[k] = x[k] * by_x[k] + by_1[k] + (m.a.g ? g[k] * by_g[k] : 0);
            ag_put_pack<V>(m.a.out + i, x, m.a.add);
        }
    };
};

template <class T> static void ag_affine_cuda_run(const ag_affine_cuda<T> &a)
{
    ag_columns_each<T>(a.plan, ag_affine_apply<T>{ a });
}

struct ag_put_sums {
    double *sums;
    int64_t channels;
    __device__ inline void operator()(int64_t sample, int64_t c, const double *s) const
    {
        for (int k = 0; k < 2; k++) sums[(sample * 2 + k) * channels + c] = s[k];
    }
};

/* x - x0 and its square, x0 the sample's first pixel */
template <class T> struct ag_moments {
    const T *x;
    int64_t rows, channels;
    template <int V> struct at {
        float first[V];
        __device__ inline at(const ag_moments &m, int64_t sample, int64_t c)
        {
            ag_get_pack<V>(m.x + sample * m.rows * m.channels + c, first);
        }
        __device__ inline void operator()(const ag_moments &m, int64_t i, float (&s)[2][V])
        {
            float x[V];
            ag_get_pack<V>(m.x + i, x);
            for (int k = 0; k < V; k++) {
                const float d = x[k] - first[k];
                s[0][k] += d, s[1][k] += d * d;
            }
        }
    };
};

/* g x and g */
template <class T> struct ag_dots {
    const T *x, *g;
    template <int V> struct at {
        __device__ inline at(const ag_dots &, int64_t, int64_t) {}
        __device__ inline void operator()(const ag_dots &m, int64_t i, float (&s)[2][V])
        {
            float x[V], g[V];
            ag_get_pack<V>(m.x + i, x);
            ag_get_pack<V>(m.g + i, g);
            for (int k = 0; k < V; k++) s[0][k] += g[k] * x[k], s[1][k] += g[k];
        }
    };
};

template <class T> static void ag_affine_cuda_moments(const ag_node *n, const ag_affine_cuda<T> &a)
{
    ag_columns_sum<2, T>(n, a.plan, ag_moments<T>{ a.x, a.rows, a.channels }, ag_put_sums{ a.sums, a.channels });
}

template <class T> static void ag_affine_cuda_dots(const ag_node *n, const ag_affine_cuda<T> &a, const T *g)
{
    ag_columns_sum<2, T>(n, a.plan, ag_dots<T>{ a.x, g }, ag_put_sums{ a.sums, a.channels });
}

/* d weight and d bias (in[1], in[2]) are the sums over the samples of a.sums. */
template <class T> static void ag_affine_cuda_give(const ag_node *n, const ag_affine_cuda<T> &a)
{
    if (n->din[1] || n->din[2]) ag_columns_fold<2>(1, a.channels, a.samples, a.sums, ag_put_parameters_of(n, 1, 2));
}

#endif
