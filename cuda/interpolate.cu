/* cuda/interpolate.cu - ops/interpolate.c: the taps of both axes are computed first, then every output takes its own, and in
 * backward every input those of the outputs that it went to. */
#include "cuda/vector.h"
#include "ops/interpolate.h"
#include "ops/registry.h"

/* Output i is the sum of weight[i most + k] times input first[i] + k, k < count[i]. Input i went to the outputs
 * from[i] .. to[i] - 1: first and last input of an output never fall. */
struct taps {
    int64_t in, out, most;
    int64_t *first, *count, *from, *to;
    float *weight;
};

static __global__ void make_taps(ag_interpolate_opts o, taps t)
{
    AG_EACH (i, t.out) {
        float *w = t.weight + i * t.most;
        int64_t first;
        for (int64_t k = 0; k < t.most; k++) w[k] = 0;
        t.count[i] = ag_taps_at(&o, t.in, t.out, i, &first, w);
        t.first[i] = first;
    }
}

/* The first output that begins (or, with its last input, ends) behind input i. */
static __device__ inline int64_t behind(const taps &t, int64_t i, bool end)
{
    int64_t low = 0, high = t.out;
    while (low < high) {
        const int64_t m = (low + high) / 2;
        if (t.first[m] + (end ? t.count[m] - 1 : 0) >= i + (end ? 0 : 1)) high = m;
        else low = m + 1;
    }
    return low;
}

static __global__ void turn_taps(taps t)
{
    AG_EACH (i, t.in) {
        t.from[i] = behind(t, i, true);
        t.to[i] = behind(t, i, false);
    }
}

static taps taps_of(const ag_node *n, int64_t in, int64_t out, bool backward)
{
    const ag_interpolate_opts *o = &((const ag_resize_arg *)n->arg)->opts;
    taps t = {};
    t.in = in, t.out = out, t.most = ag_taps_most(o, in, out);
    t.first = (int64_t *)ag_workspace(n, 2 * out, sizeof(int64_t)), t.count = t.first + out;
    t.weight = (float *)ag_workspace(n, out * t.most, sizeof(float));
    LAUNCH(make_taps, ag_blocks(out), AG_BLOCK, 0, *o, t);
    if (backward) {
        t.from = (int64_t *)ag_workspace(n, 2 * in, sizeof(int64_t)), t.to = t.from + in;
        LAUNCH(turn_taps, ag_blocks(in), AG_BLOCK, 0, t);
    }
    return t;
}

/* V neighbouring channels a thread; units = channels / V. y [n units in all], of rows.out x columns.out pixels. */
template <int V, class T> static __global__ void resize(taps rows, taps columns, int64_t n, int64_t units, const T *x, T *y)
{
    AG_EACH (i, n) {
        const int64_t pixel = i / units, line = pixel / columns.out, image = line / rows.out;
        const int64_t r = line - image * rows.out, c = pixel - line * columns.out;
        float sum[V] = {};
        for (int64_t k = 0; k < columns.count[c]; k++) {
            const int64_t at = image * rows.in * columns.in + rows.first[r] * columns.in + columns.first[c] + k;
            float down[V] = {};
            for (int64_t j = 0; j < rows.count[r]; j++) {
                const ag_pack<T, V> v = ag_get<V>(x, (at + j * columns.in) * units + i - pixel * units);
                for (int a = 0; a < V; a++) down[a] += rows.weight[r * rows.most + j] * ag_load(v.v[a]);
            }
            for (int a = 0; a < V; a++) sum[a] += columns.weight[c * columns.most + k] * down[a];
        }
        ag_pack<T, V> to;
        for (int a = 0; a < V; a++) ag_store(&to.v[a], sum[a]);
        ag_put(y, i, to);
    }
}

template <int V, class T>
static __global__ void resize_gradient(taps rows, taps columns, int64_t n, int64_t units, const T *g, T *dx, bool add)
{
    AG_EACH (i, n) {
        const int64_t pixel = i / units, line = pixel / columns.in, image = line / rows.in;
        const int64_t r = line - image * rows.in, c = pixel - line * columns.in;
        ag_pack<T, V> to = {};
        float sum[V];
        if (add) to = ag_get<V>(dx, i);
        for (int a = 0; a < V; a++) sum[a] = ag_load(to.v[a]);
        for (int64_t k = columns.from[c]; k < columns.to[c]; k++) {
            float down[V] = {};
            for (int64_t j = rows.from[r]; j < rows.to[r]; j++) {
                const ag_pack<T, V> v = ag_get<V>(g, ((image * rows.out + j) * columns.out + k) * units + i - pixel * units);
                const float w = rows.weight[j * rows.most + r - rows.first[j]];
                for (int a = 0; a < V; a++) down[a] += w * ag_load(v.v[a]);
            }
            for (int a = 0; a < V; a++) sum[a] += columns.weight[k * columns.most + c - columns.first[k]] * down[a];
        }
        for (int a = 0; a < V; a++) ag_store(&to.v[a], sum[a]);
        ag_put(dx, i, to);
    }
}

template <class T> static void forward(const taps &rows, const taps &columns, int64_t n, int64_t channels, const T *x, T *y)
{
    enum { V = 16 / sizeof(T) };
    if (!n) return;
    if (ag_wide(channels, x, y))
        LAUNCH((resize<V, T>), ag_blocks(n / V), AG_BLOCK, 0, rows, columns, n / V, channels / V, x, y);
    else LAUNCH((resize<1, T>), ag_blocks(n), AG_BLOCK, 0, rows, columns, n, channels, x, y);
}

template <class T>
static void backward(const taps &rows, const taps &columns, int64_t n, int64_t channels, const T *g, T *dx, bool add)
{
    enum { V = 16 / sizeof(T) };
    if (!n) return;
    if (ag_wide(channels, g, dx))
        LAUNCH((resize_gradient<V, T>), ag_blocks(n / V), AG_BLOCK, 0, rows, columns, n / V, channels / V, g, dx, add);
    else LAUNCH((resize_gradient<1, T>), ag_blocks(n), AG_BLOCK, 0, rows, columns, n, channels, g, dx, add);
}

void ag_interpolate_forward_cuda(ag_node *n)
{
    const ag_tensor *x = n->in[0], *y = n->out;
    const taps rows = taps_of(n, x->shape[1], y->shape[1], false), columns = taps_of(n, x->shape[2], y->shape[2], false);
    AG_TYPED(x->dtype, T, forward(rows, columns, ag_numel(y), x->shape[3], (const T *)x->data, (T *)y->data));
}

void ag_interpolate_backward_cuda(ag_node *n)
{
    const ag_tensor *x = n->in[0], *y = n->out, *dx = n->din[0];
    if (!dx) return;
    const taps rows = taps_of(n, x->shape[1], y->shape[1], true), columns = taps_of(n, x->shape[2], y->shape[2], true);
    AG_TYPED(x->dtype, T, backward(rows, columns, ag_numel(dx), x->shape[3], (const T *)y->grad->data, (T *)dx->data,
                                   n->accumulate[0]));
}
