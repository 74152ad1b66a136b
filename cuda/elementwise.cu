/* cuda/elementwise.cu - the rows of ops/elementwise.def on the GPU: formulas and gradients are read from there. */
#include "cuda/reduce.h"
#include "cuda/rows.h"
#include "ops/formulas.h"
#include "ops/registry.h"

static const double *constants(const ag_node *n)
{
    return (const double *)n->arg;
}

/* ---- one input ----------------------------------------------------------------------------------------- */

/* Packs of V elements; n counts them. */
template <int V, class F, class T> static __global__ void unary_forward(int64_t n, F f, const T *x, T *y)
{
    AG_EACH (i, n) {
        float v[V];
        ag_get_pack<V>(x + i * V, v);
        for (int k = 0; k < V; k++) v[k] = f.y(v[k]);
        ag_put_pack<V>(y + i * V, v, false);
    }
}

/* x or y are NULL where the gradient does not depend on them. */
template <int V, class F, class T>
static __global__ void unary_backward(int64_t n, F f, const T *x, const T *y, const T *g, T *dx, bool add)
{
    AG_EACH (i, n) {
        float xs[V] = {}, ys[V] = {}, gs[V];
        if (x) ag_get_pack<V>(x + i * V, xs);
        if (y) ag_get_pack<V>(y + i * V, ys);
        ag_get_pack<V>(g + i * V, gs);
        for (int k = 0; k < V; k++) gs[k] = f.dx(xs[k], ys[k], gs[k]);
        ag_put_pack<V>(dx + i * V, gs, add);
    }
}

template <class T, class F> static void unary_typed_forward(ag_node *n, F f)
{
    constexpr int V = ag_packs<T>::N;
    const T *x = (const T *)n->in[0]->data;
    T *y = (T *)n->out->data;
    const int64_t count = ag_numel(n->out);
    if (!count) return;
    if (count % V == 0 && ag_aligned(x) && ag_aligned(y))
        LAUNCH((unary_forward<V, F, T>), ag_blocks(count / V), AG_BLOCK, 0, count / V, f, x, y);
    else LAUNCH((unary_forward<1, F, T>), ag_blocks(count), AG_BLOCK, 0, count, f, x, y);
}

template <class T, class F> static void unary_typed_backward(ag_node *n, F f)
{
    constexpr int V = ag_packs<T>::N;
    const T *x = n->unread & 1 ? nullptr : (const T *)n->in[0]->data, *g = (const T *)n->out->grad->data;
    const T *y = n->unread_out ? nullptr : (const T *)n->out->data;
    const int64_t count = ag_numel(n->in[0]);
    if (!count || !n->din[0]) return;
    T *dx = (T *)n->din[0]->data;
    if (count % V == 0 && ag_aligned(x) && ag_aligned(y) && ag_aligned(g) && ag_aligned(dx))
        LAUNCH((unary_backward<V, F, T>), ag_blocks(count / V), AG_BLOCK, 0, count / V, f, x, y, g, dx, n->accumulate[0]);
    else LAUNCH((unary_backward<1, F, T>), ag_blocks(count), AG_BLOCK, 0, count, f, x, y, g, dx, n->accumulate[0]);
}

template <class F> static void unary_run_forward(ag_node *n, F f)
{
    if (n->out->dtype == AG_BF16) unary_typed_forward<ag_bf16>(n, f);
    else unary_typed_forward<float>(n, f);
}

template <class F> static void unary_run_backward(ag_node *n, F f)
{
    if (n->out->dtype == AG_BF16) unary_typed_backward<ag_bf16>(n, f);
    else unary_typed_backward<float>(n, f);
}

#define UNARY(name, value, gradient, fields, ...) \
    struct name##_row { \
        fields \
        __device__ inline float y(float x) const { return value; } \
        __device__ inline float dx(float x, float y, float g) const { return (void)x, (void)y, gradient; } \
    }; \
    void ag_##name##_forward_cuda(ag_node *n) { unary_run_forward(n, name##_row{ __VA_ARGS__ }); } \
    void ag_##name##_backward_cuda(ag_node *n) { unary_run_backward(n, name##_row{ __VA_ARGS__ }); }
#define AG_UNARY(name, y, dx, domain) UNARY(name, y, dx, )
#define AG_UNARY1(name, y, dx, domain) UNARY(name, y, dx, float a;, (float)constants(n)[0])
#define AG_UNARY2(name, y, dx, domain) \
    UNARY(name, y, dx, float a; float b;, (float)constants(n)[0], (float)constants(n)[1])
#include "ops/elementwise.def"

/* ---- two inputs, broadcast ----------------------------------------------------------------------------- */

/* a and b as seen from the output, in packs along the innermost axis: of V elements, or one repeated V times. */
struct pair {
    ag_walk<2> w;
    bool repeated[2];
};

/* Whether w can be walked over in packs of v; then it is. */
static bool into_packs(ag_walk<2> *w, int v)
{
    const int last = w->ndim - 1;
    if (w->size[last] % v) return false;
    for (int k = 0; k < 2; k++) {
        if (w->stride[k][last] != 0 && w->stride[k][last] != 1) return false;
        for (int d = 0; d < last; d++)
            if (w->stride[k][last] && w->stride[k][d] % v) return false;
    }
    w->size[last] /= v, w->n /= v;
    for (int k = 0; k < 2; k++) w->stride[k][last] *= v;
    return true;
}

template <int V, class T> static __device__ inline void get_operand(const T *p, int64_t at, bool repeated, float (&to)[V])
{
    if (repeated)
        for (int k = 0; k < V; k++) to[k] = ag_load(p[at]);
    else ag_get_pack<V>(p + at, to);
}

template <int V, class F, class T> static __global__ void binary_forward(pair p, F f, const T *a, const T *b, T *y)
{
    AG_EACH (i, p.w.n) {
        int64_t at[2];
        float as[V], bs[V];
        ag_walk_at(p.w, i, at);
        get_operand<V>(a, at[0], p.repeated[0], as);
        get_operand<V>(b, at[1], p.repeated[1], bs);
        for (int k = 0; k < V; k++) as[k] = f.y(as[k], bs[k]);
        ag_put_pack<V>(y + i * V, as, false);
    }
}

/* What the gradients are made from; NULL where they do not depend on it. */
template <class T> struct binary_values { const T *a, *b, *y, *g; };

/* Gradients of operands of the output's shape, in one pass; NULL: not wanted. */
template <class T> struct binary_places {
    T *d[2];
    bool add[2];
};

template <int V, class F, class T>
static __global__ void binary_backward(pair p, F f, binary_values<T> v, binary_places<T> to)
{
    AG_EACH (i, p.w.n) {
        int64_t at[2];
        float a[V] = {}, b[V] = {}, y[V] = {}, g[V], d[V];
        ag_walk_at(p.w, i, at);
        if (v.a) get_operand<V>(v.a, at[0], p.repeated[0], a);
        if (v.b) get_operand<V>(v.b, at[1], p.repeated[1], b);
        if (v.y) ag_get_pack<V>(v.y + i * V, y);
        ag_get_pack<V>(v.g + i * V, g);
        if (to.d[0]) {
            for (int k = 0; k < V; k++) d[k] = f.da(a[k], b[k], y[k], g[k]);
            ag_put_pack<V>(to.d[0] + i * V, d, to.add[0]);
        }
        if (!to.d[1]) continue;
        for (int k = 0; k < V; k++) d[k] = f.db(a[k], b[k], y[k], g[k]);
        ag_put_pack<V>(to.d[1] + i * V, d, to.add[1]);
    }
}

/* The walk, in packs where `aligned` and the shapes allow them; returns the elements of a pack. */
template <class T> static int pair_of(const ag_node *n, bool aligned, pair *p)
{
    p->w = ag_walk_of<2>(n->out, n->in);
    const int v = aligned && into_packs(&p->w, ag_packs<T>::N) ? (int)ag_packs<T>::N : 1;
    for (int k = 0; k < 2; k++) p->repeated[k] = p->w.stride[k][p->w.ndim - 1] == 0;
    return v;
}

template <class T, class F> static void binary_typed_forward(ag_node *n, F f)
{
    const T *a = (const T *)n->in[0]->data, *b = (const T *)n->in[1]->data;
    T *y = (T *)n->out->data;
    pair p;
    const int v = pair_of<T>(n, ag_aligned(a) && ag_aligned(b) && ag_aligned(y), &p);
    if (!p.w.n) return;
    if (v == 1) LAUNCH((binary_forward<1, F, T>), ag_blocks(p.w.n), AG_BLOCK, 0, p, f, a, b, y);
    else LAUNCH((binary_forward<ag_packs<T>::N, F, T>), ag_blocks(p.w.n), AG_BLOCK, 0, p, f, a, b, y);
}

/* offsets: of a, b, and of y and g, which are contiguous */
template <class F, class T> struct binary_gradient {
    F f;
    binary_values<T> v;
    int which;
    __device__ inline float operator()(const int64_t *at, int64_t, int64_t) const
    {
        const float a = v.a ? ag_load(v.a[at[0]]) : 0, b = v.b ? ag_load(v.b[at[1]]) : 0;
        const float y = v.y ? ag_load(v.y[at[2]]) : 0, g = ag_load(v.g[at[2]]);
        return which ? f.db(a, b, y, g) : f.da(a, b, y, g);
    }
};

/* The gradient of a broadcast operand is summed over the axes it was repeated along. */
template <class T, class F> static void summed_gradient(ag_node *n, F f, binary_values<T> v, int k)
{
    const ag_tensor *all[3] = { n->in[0], n->in[1], n->out };
    uint32_t repeated = 0;
    for (int d = 0; d < n->out->ndim; d++) {
        const int own = d - (n->out->ndim - n->in[k]->ndim);
        if (own < 0 || n->in[k]->shape[own] != n->out->shape[d]) repeated |= 1u << d;
    }
    ag_reduce<ag_fold_sum>(n, ag_split_of<3>(n->out, repeated, all), binary_gradient<F, T>{ f, v, k },
                           ag_put_scaled<T>{ (T *)n->din[k]->data, 1, n->accumulate[k] });
}

template <class T, class F> static void binary_typed_backward(ag_node *n, F f)
{
    const binary_values<T> v = { n->unread & 1 ? nullptr : (const T *)n->in[0]->data,
                                 n->unread & 2 ? nullptr : (const T *)n->in[1]->data,
                                 n->unread_out ? nullptr : (const T *)n->out->data, (const T *)n->out->grad->data };
    binary_places<T> to = { { nullptr, nullptr }, { n->accumulate[0], n->accumulate[1] } };
    for (int k = 0; k < 2; k++) {
        if (!n->din[k]) continue;
        if (!ag_same_shape(n->in[k], n->out)) summed_gradient(n, f, v, k);
        else if (!F::gives(k)) to.d[k] = (T *)n->din[k]->data;
    }
    const bool aligned = ag_aligned(v.a) && ag_aligned(v.b) && ag_aligned(v.y) && ag_aligned(v.g) &&
                         ag_aligned(to.d[0]) && ag_aligned(to.d[1]);
    pair p;
    const int pack = pair_of<T>(n, aligned, &p);
    if (p.w.n && (to.d[0] || to.d[1])) {
        if (pack == 1) LAUNCH((binary_backward<1, F, T>), ag_blocks(p.w.n), AG_BLOCK, 0, p, f, v, to);
        else LAUNCH((binary_backward<ag_packs<T>::N, F, T>), ag_blocks(p.w.n), AG_BLOCK, 0, p, f, v, to);
    }
    for (int k = 0; k < 2; k++)
        if (n->din[k] && F::gives(k) && ag_same_shape(n->in[k], n->out)) ag_node_give(n, k, n->out->grad);
}

template <class F> static void binary_run_forward(ag_node *n, F f)
{
    if (n->out->dtype == AG_BF16) binary_typed_forward<ag_bf16>(n, f);
    else binary_typed_forward<float>(n, f);
}

template <class F> static void binary_run_backward(ag_node *n, F f)
{
    if (n->out->dtype == AG_BF16) binary_typed_backward<ag_bf16>(n, f);
    else binary_typed_backward<float>(n, f);
}

/* ---- comparisons ---------------------------------------------------------------------------------------- */

template <class F, class In>
static __global__ void compare(ag_walk<2> w, F f, const In *a, const In *b, uint8_t *y)
{
    AG_EACH (i, w.n) {
        int64_t at[2];
        ag_walk_at(w, i, at);
        y[i] = f.y(a[at[0]], b[at[1]]);
    }
}

template <class F, class In> static void compare_run(ag_node *n, F f)
{
    const ag_walk<2> w = ag_walk_of<2>(n->out, n->in);
    if (w.n)
        LAUNCH((compare<F, In>), ag_blocks(w.n), AG_BLOCK, 0, w, f, (const In *)n->in[0]->data,
               (const In *)n->in[1]->data, (uint8_t *)n->out->data);
}

/* Whether the text of a gradient is "g": it is given without a copy. */
static constexpr bool is_g(const char *text) { return text[0] == 'g' && !text[1]; }

#define AG_BINARY(name, value, grad_a, grad_b, domain) \
    struct name##_row { \
        static constexpr bool gives(int k) { return k ? is_g(#grad_b) : is_g(#grad_a); } \
        __device__ inline float y(float a, float b) const { return value; } \
        __device__ inline float da(float a, float b, float y, float g) const \
        { return (void)a, (void)b, (void)y, grad_a; } \
        __device__ inline float db(float a, float b, float y, float g) const \
        { return (void)a, (void)b, (void)y, grad_b; } \
    }; \
    void ag_##name##_forward_cuda(ag_node *n) { binary_run_forward(n, name##_row{}); } \
    void ag_##name##_backward_cuda(ag_node *n) { binary_run_backward(n, name##_row{}); }
#define AG_COMPARE(name, condition) \
    struct name##_row { \
        template <class T> __device__ inline uint8_t y(T a, T b) const { return condition; } \
    }; \
    void ag_##name##_forward_cuda(ag_node *n) \
    { \
        switch (n->in[0]->dtype) { \
        case AG_I64: return compare_run<name##_row, int64_t>(n, {}); \
        case AG_I32: return compare_run<name##_row, int32_t>(n, {}); \
        case AG_U8: return compare_run<name##_row, uint8_t>(n, {}); \
        default: return compare_run<name##_row, float>(n, {}); \
        } \
    }
#include "ops/elementwise.def"
