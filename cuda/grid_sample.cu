/* cuda/grid_sample.cu - ops/grid_sample.c. The gradient of the image is gathered: the places are put in lists of the pixels
 * around them, each list in the order of its places, so that every pixel adds up its own in the same order each time. */
#include "cuda/vector.h"
#include "ops/grid_sample.h"
#include "ops/registry.h"

enum { X, GRID };

struct sampling {
    ag_grid shape;
    int64_t images, places, channels;                   /* places: of an image */
    const float *grid;
};

static sampling sampling_of(const ag_node *n)
{
    const ag_tensor *x = n->in[X], *grid = n->in[GRID];
    return { { x->shape[1], x->shape[2], *(const ag_grid_sample_opts *)n->arg }, x->shape[0], grid->shape[1] * grid->shape[2],
             x->shape[3], ag_real(grid) };
}

static __device__ inline ag_grid_spot spot_x(const sampling &s, int64_t p)
{
    return ag_grid_spot_of(s.grid[2 * p], s.shape.w, &s.shape.opts);
}

static __device__ inline ag_grid_spot spot_y(const sampling &s, int64_t p)
{
    return ag_grid_spot_of(s.grid[2 * p + 1], s.shape.h, &s.shape.opts);
}

static __device__ inline int corners_of(const sampling &s, int64_t p, ag_grid_corner *c)
{
    return ag_grid_corners(&s.shape, p / s.places, spot_x(s, p), spot_y(s, p), c);
}

template <class T> static __global__ void sample(sampling s, const T *x, T *y)
{
    AG_EACH (i, s.images * s.places * s.channels) {
        const int64_t p = i / s.channels, channel = i - p * s.channels;
        ag_grid_corner c[4];
        const int n = corners_of(s, p, c);
        float sum = 0;
        for (int k = 0; k < n; k++) sum += c[k].weight * ag_load(x[c[k].pixel * s.channels + channel]);
        ag_store(&y[i], sum);
    }
}

/* A warp has a place. */
template <class T> static __global__ void grid_gradient(sampling s, const T *x, const T *g, float *d, bool add)
{
    const int64_t p = blockIdx.x * (int64_t)(AG_BLOCK / AG_WARP) + threadIdx.x / AG_WARP;
    const int lane = (int)(threadIdx.x % AG_WARP);
    if (p >= s.images * s.places) return;
    const ag_grid_spot column = spot_x(s, p), row = spot_y(s, p);
    ag_grid_corner c[4];
    const int n = ag_grid_corners(&s.shape, p / s.places, column, row, c);
    float dx = 0, dy = 0;
    for (int k = 0; k < n; k++) {
        float dot = 0;
        for (int64_t i = lane; i < s.channels; i += AG_WARP)
            dot += ag_load(g[p * s.channels + i]) * ag_load(x[c[k].pixel * s.channels + i]);
        dot = ag_lanes_sum(dot, AG_WARP);
        dx += dot * c[k].along_x, dy += dot * c[k].along_y;
    }
    if (lane) return;
    d[2 * p] = (add ? d[2 * p] : 0) + dx * column.slope;
    d[2 * p + 1] = (add ? d[2 * p + 1] : 0) + dy * row.slope;
}

/* ---- the gradient of the image -------------------------------------------------------------------------- */

/* Of each pixel: how many corners of places lie there, where its list ends in `corner`, four times the number of the place
 * (of all images) plus the number of the corner. */
struct lists { int32_t *count; int64_t *end, *corner; };

static __global__ void count_corners(sampling s, lists l)
{
    AG_EACH (p, s.images * s.places) {
        ag_grid_corner c[4];
        const int n = corners_of(s, p, c);
        for (int k = 0; k < n; k++) atomicAdd(&l.count[c[k].pixel], 1);
    }
}

/* One block: the lists lie one behind the other. A list's end is where it begins until it is filled. */
static __global__ void lay_out(int64_t pixels, lists l)
{
    AG_SHARED(int64_t, before, AG_BLOCK);
    const int64_t each = (pixels + AG_BLOCK - 1) / AG_BLOCK, from = threadIdx.x * each;
    const int64_t to = from + each < pixels ? from + each : pixels;
    int64_t sum = 0;
    for (int64_t i = from; i < to; i++) sum += l.count[i];
    before[threadIdx.x] = sum;
    __syncthreads();
    int64_t at = 0;
    for (unsigned t = 0; t < threadIdx.x; t++) at += before[t];
    for (int64_t i = from; i < to; i++) {
        l.end[i] = at;
        at += l.count[i];
    }
}

/* In whatever order the threads come by. */
static __global__ void fill_lists(sampling s, lists l)
{
    AG_EACH (p, s.images * s.places) {
        ag_grid_corner c[4];
        const int n = corners_of(s, p, c);
        for (int k = 0; k < n; k++) {
            const int64_t at = atomicAdd((unsigned long long *)&l.end[c[k].pixel], 1ull);
            l.corner[at] = 4 * p + k;
        }
    }
}

static __device__ inline void sift(int64_t *v, int64_t root, int64_t n)
{
    for (int64_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && v[child + 1] > v[child]) child++;
        if (v[root] >= v[child]) return;
        const int64_t t = v[root];
        v[root] = v[child], v[child] = t;
    }
}

/* Heapsort: a border pixel may have thousands. */
static __global__ void order_lists(int64_t pixels, lists l)
{
    AG_EACH (i, pixels) {
        int64_t n = l.count[i], *v = l.corner + l.end[i] - n;
        for (int64_t root = n / 2; root-- > 0;) sift(v, root, n);
        while (n-- > 1) {
            const int64_t t = v[0];
            v[0] = v[n], v[n] = t;
            sift(v, 0, n);
        }
    }
}

template <class T> static __global__ void gather(sampling s, lists l, const T *g, T *dx, bool add)
{
    AG_EACH (i, s.images * s.shape.h * s.shape.w * s.channels) {
        const int64_t pixel = i / s.channels, channel = i - pixel * s.channels, end = l.end[pixel];
        float sum = add ? ag_load(dx[i]) : 0;
        for (int64_t k = end - l.count[pixel]; k < end; k++) {
            const int64_t p = l.corner[k] / 4;
            ag_grid_corner c[4];
            corners_of(s, p, c);
            sum += c[l.corner[k] % 4].weight * ag_load(g[p * s.channels + channel]);
        }
        ag_store(&dx[i], sum);
    }
}

static lists lists_of(const ag_node *n, const sampling &s)
{
    const int64_t pixels = s.images * s.shape.h * s.shape.w, places = s.images * s.places;
    lists l;
    l.count = (int32_t *)ag_workspace(n, pixels, sizeof *l.count);
    l.end = (int64_t *)ag_workspace(n, pixels, sizeof *l.end);
    l.corner = (int64_t *)ag_workspace(n, 4 * places, sizeof *l.corner);
    ag_cuda_clear(l.count, pixels * (int64_t)sizeof *l.count, "clearing lists");
    if (places) LAUNCH(count_corners, ag_blocks(places), AG_BLOCK, 0, s, l);
    LAUNCH(lay_out, 1, AG_BLOCK, 0, pixels, l);
    if (places) LAUNCH(fill_lists, ag_blocks(places), AG_BLOCK, 0, s, l);
    LAUNCH(order_lists, ag_blocks(pixels), AG_BLOCK, 0, pixels, l);
    return l;
}

void ag_grid_sample_forward_cuda(ag_node *n)
{
    const sampling s = sampling_of(n);
    const int64_t count = ag_numel(n->out);
    if (count)
        AG_TYPED(n->out->dtype, T,
                 LAUNCH(sample<T>, ag_blocks(count), AG_BLOCK, 0, s, (const T *)n->in[X]->data, (T *)n->out->data));
}

void ag_grid_sample_backward_cuda(ag_node *n)
{
    const sampling s = sampling_of(n);
    const ag_tensor *x = n->in[X], *g = n->out->grad, *dx = n->din[X], *dgrid = n->din[GRID];
    const int64_t places = s.images * s.places, warps = AG_BLOCK / AG_WARP;
    if (dgrid && places)
        AG_TYPED(x->dtype, T, LAUNCH(grid_gradient<T>, (unsigned)((places + warps - 1) / warps), AG_BLOCK, 0, s,
                                     (const T *)x->data, (const T *)g->data, ag_real(dgrid), n->accumulate[GRID]));
    if (!dx || !ag_numel(dx)) return;
    const lists l = lists_of(n, s);
    AG_TYPED(x->dtype, T, LAUNCH(gather<T>, ag_blocks(ag_numel(dx)), AG_BLOCK, 0, s, l, (const T *)g->data, (T *)dx->data,
                                 n->accumulate[X]));
}
