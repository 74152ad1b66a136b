/* cuda/pool.cu - ops/pool.c. The gradient is gathered: a pixel asks the windows that it lies in; of maxima each window has
 * noted before which of its pixels was the first. */
#include "cuda/vector.h"
#include "ops/pool.h"
#include "ops/registry.h"

enum { H = AG_POOL_H_AXIS, W = AG_POOL_W_AXIS };

/* Where unit i of [n, h, w, units] is. */
struct pool_spot { int64_t image, y, x, unit; };

static __device__ inline pool_spot spot_at(int64_t i, int64_t h, int64_t w, int64_t units)
{
    const int64_t pixel = i / units, line = pixel / w, image = line / h;
    return { image, line - image * h, pixel - line * w, i - pixel * units };
}

/* A thread has V neighbouring channels of an output; units = channels / V, n units in all. */
template <int V, class T> static __global__ void pool(ag_pool p, int64_t n, int64_t units, const T *x, T *y)
{
    AG_EACH (i, n) {
        const pool_spot s = spot_at(i, p.axis[H].out, p.axis[W].out, units);
        const ag_pool_window rows = ag_pool_window_at(&p.axis[H], s.y, p.exclude_pad);
        const ag_pool_window columns = ag_pool_window_at(&p.axis[W], s.x, p.exclude_pad);
        const float share = p.max ? 1 : 1 / (float)(rows.count * columns.count);
        float sum[V] = {};
        bool first = true;
        for (int64_t r = rows.begin; r < rows.end; r++)
            for (int64_t c = columns.begin; c < columns.end; c++, first = false) {
                const ag_pack<T, V> v = ag_get<V>(x, ((s.image * p.axis[H].in + r) * p.axis[W].in + c) * units + s.unit);
                for (int k = 0; k < V; k++) {
                    const float a = ag_load(v.v[k]);
                    if (first) sum[k] = a * share;
                    else if (p.max) sum[k] = a > sum[k] || a != a ? a : sum[k];
                    else sum[k] += a * share;
                }
            }
        ag_pack<T, V> to;
        for (int k = 0; k < V; k++) ag_store(&to.v[k], sum[k]);
        ag_put(y, i, to);
    }
}

/* Of every output the pixel of the image that gets its gradient: the first that equals the maximum. */
template <class T>
static __global__ void first_places(ag_pool p, int64_t n, int64_t channels, const T *x, const T *y, int32_t *place)
{
    AG_EACH (i, n) {
        const pool_spot s = spot_at(i, p.axis[H].out, p.axis[W].out, channels);
        const ag_pool_window rows = ag_pool_window_at(&p.axis[H], s.y, false);
        const ag_pool_window columns = ag_pool_window_at(&p.axis[W], s.x, false);
        const float peak = ag_load(y[i]);
        int64_t at = -1;
        for (int64_t r = rows.begin; r < rows.end && at < 0; r++)
            for (int64_t c = columns.begin; c < columns.end && at < 0; c++) {
                const int64_t pixel = r * p.axis[W].in + c;
                const float v = ag_load(x[(s.image * p.axis[H].in * p.axis[W].in + pixel) * channels + s.unit]);
                if (v == peak || v != v) at = pixel;
            }
        place[i] = (int32_t)at;
    }
}

/* Outputs from .. to - 1 hold all whose windows have pixel i. */
struct pool_range { int64_t from, to; };

static __device__ inline pool_range windows_of(const ag_pool_axis &a, int64_t i)
{
    pool_range r = { i * a.out / a.in, ((i + 1) * a.out + a.in - 1) / a.in };
    if (a.kernel) {
        const int64_t late = i + a.pad - a.kernel;
        r.from = late < 0 ? 0 : late / a.stride + 1;
        r.to = (i + a.pad) / a.stride + 1;
        if (r.to > a.out) r.to = a.out;
    }
    return r;
}

template <class T>
static __global__ void pool_gradient(ag_pool p, int64_t n, int64_t channels, const T *g, const int32_t *place, T *dx, bool add)
{
    AG_EACH (i, n) {
        const pool_spot s = spot_at(i, p.axis[H].in, p.axis[W].in, channels);
        const pool_range down = windows_of(p.axis[H], s.y), across = windows_of(p.axis[W], s.x);
        const int64_t pixel = s.y * p.axis[W].in + s.x;
        float sum = add ? ag_load(dx[i]) : 0;
        for (int64_t r = down.from; r < down.to; r++) {
            const ag_pool_window rows = ag_pool_window_at(&p.axis[H], r, p.exclude_pad);
            if (s.y < rows.begin || s.y >= rows.end) continue;
            for (int64_t c = across.from; c < across.to; c++) {
                const ag_pool_window columns = ag_pool_window_at(&p.axis[W], c, p.exclude_pad);
                if (s.x < columns.begin || s.x >= columns.end) continue;
                const int64_t at = ((s.image * p.axis[H].out + r) * p.axis[W].out + c) * channels + s.unit;
                if (!place) sum += ag_load(g[at]) * (1 / (float)(rows.count * columns.count));
                else if (place[at] == pixel) sum += ag_load(g[at]);
            }
        }
        ag_store(&dx[i], sum);
    }
}

template <class T> static void forward(const ag_pool *p, int64_t n, int64_t channels, const T *x, T *y)
{
    enum { V = 16 / sizeof(T) };
    if (!n) return;
    if (ag_wide(channels, x, y)) LAUNCH((pool<V, T>), ag_blocks(n / V), AG_BLOCK, 0, *p, n / V, channels / V, x, y);
    else LAUNCH((pool<1, T>), ag_blocks(n), AG_BLOCK, 0, *p, n, channels, x, y);
}

static void pool_forward(ag_node *n)
{
    const ag_pool p = ag_pool_of(n);
    const ag_tensor *x = n->in[0];
    AG_TYPED(x->dtype, T, forward(&p, ag_numel(n->out), x->shape[3], (const T *)x->data, (T *)n->out->data));
}

static void pool_backward(ag_node *n)
{
    const ag_pool p = ag_pool_of(n);
    const ag_tensor *x = n->in[0], *y = n->out, *g = y->grad, *dx = n->din[0];
    const int64_t outputs = ag_numel(y), inputs = ag_numel(x), channels = x->shape[3];
    if (!dx || !inputs) return;
    AG_ASSERT(x->shape[1] * x->shape[2] <= INT32_MAX);
    int32_t *place = p.max ? (int32_t *)ag_workspace(n, outputs, sizeof *place) : nullptr;
    AG_TYPED(x->dtype, T,
        if (place)
            LAUNCH(first_places<T>, ag_blocks(outputs), AG_BLOCK, 0, p, outputs, channels, (const T *)x->data, (const T *)y->data,
                   place);
        LAUNCH(pool_gradient<T>, ag_blocks(inputs), AG_BLOCK, 0, p, inputs, channels, (const T *)g->data, place, (T *)dx->data,
               n->accumulate[0]));
}

void ag_max_pool2d_forward_cuda(ag_node *n) { pool_forward(n); }
void ag_max_pool2d_backward_cuda(ag_node *n) { pool_backward(n); }
void ag_avg_pool2d_forward_cuda(ag_node *n) { pool_forward(n); }
void ag_avg_pool2d_backward_cuda(ag_node *n) { pool_backward(n); }
