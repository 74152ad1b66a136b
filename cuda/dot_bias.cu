/* cuda/dot_bias.cu - ops/dot_bias.c: s[b] = sum_k U[u,k] I[i,k] + bu[u] + bi[i], (u, i) = ids[b], or in a range. */
#include "cuda/embedding.h"
#include "ops/args.h"
#include "ops/formulas.h"
#include "ops/indexing.h"
#include "ops/registry.h"

struct range {
    float lo, hi;
    __host__ __device__ inline bool is() const { return lo < hi; }
};

static range range_of(const ag_node *n)
{
    const ag_range_arg *r = (const ag_range_arg *)n->arg;
    return { (float)r->lo, (float)r->hi };
}

/* d s[b] from that of the result */
struct slope {
    range r;
    const float *g, *y;
    __device__ inline float operator()(int64_t b) const
    {
        return r.is() ? RANGE_GRAD(g[b], y[b], r.lo, r.hi) : g[b];
    }
};

static slope slope_of(const ag_node *n)
{
    return { range_of(n), ag_real(n->out->grad), ag_real(n->out) };
}

/* One warp per rating. */
static __global__ void dot_bias_forward(ag_ids users, ag_ids items, int64_t width, const float *u, const float *i,
                                        const float *bu, const float *bi, range r, float *y, ag_cuda_trap *trap, const char *at)
{
    const int64_t b = blockIdx.x * (int64_t)(AG_BLOCK / AG_WARP) + threadIdx.x / AG_WARP;
    const int lane = (int)(threadIdx.x % AG_WARP);
    if (b >= users.n) return;
    if (!users.valid(b) || !items.valid(b)) {
        const ag_ids bad = users.valid(b) ? items : users;
        if (!lane) ag_trap(trap, at, "ag_dot_bias", b, bad.at(b), bad.rows);
        return;
    }
    const float *p = u + users.at(b) * width, *q = i + items.at(b) * width;
    float sum = 0;
    for (int64_t k = lane; k < width; k += AG_WARP) sum += p[k] * q[k];
    for (int o = AG_WARP / 2; o > 0; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    if (lane) return;
    sum += (bu ? bu[users.at(b)] : 0) + (bi ? bi[items.at(b)] : 0);
    y[b] = r.is() ? RANGE(sum, r.lo, r.hi) : sum;
}

static ag_ids column(const ag_node *n, int c)
{
    const ag_tensor *ids = n->in[4];
    return { (const int64_t *)ids->data + c * ids->stride[1], ids->shape[0], ids->stride[0], n->in[c]->shape[0] };
}

static const float *optional(const ag_tensor *t)
{
    return t ? ag_real(t) : nullptr;
}

void ag_dot_bias_forward_cuda(ag_node *n)
{
    const int64_t count = n->in[4]->shape[0];
    static const int side[] = { 0, 1, 0, 1 };
    ag_before_read(4, n->in, side, n->in[4]);
    if (count)
        LAUNCH(dot_bias_forward, (unsigned)((count + AG_BLOCK / AG_WARP - 1) / (AG_BLOCK / AG_WARP)), AG_BLOCK, 0,
               column(n, 0), column(n, 1), n->in[0]->shape[1], ag_real(n->in[0]), ag_real(n->in[1]),
               optional(n->in[2]), optional(n->in[3]), range_of(n), ag_real(n->out), ag_cuda_trap_device(), n->at);
}

/* The score's gradient times the row of the other table that position p read */
struct other_row {
    slope g;
    const float *w;
    ag_ids ids;
    int64_t width;
    __device__ inline float operator()(int64_t p, int64_t d) const
    {
        return ids.valid(p) ? g(p) * w[ids.at(p) * width + d] : 0;
    }
};

struct output_value {
    slope g;
    __device__ inline float operator()(int64_t p, int64_t) const { return g(p); }
};

/* du[b] = ds[b] I[i], di[b] = ds[b] U[u]; each of the three may be NULL. */
static __global__ void row_gradients(ag_ids users, ag_ids items, int64_t width, slope g, const float *u, const float *i,
                                     float *du, float *di, float *ds)
{
    AG_EACH (e, users.n * width) {
        const int64_t b = e / width, k = e - b * width;
        const bool valid = users.valid(b) && items.valid(b);
        const float s = valid ? g(b) : 0;
        if (ds && !k) ds[b] = s;
        if (du) du[e] = valid ? s * i[items.at(b) * width + k] : 0;
        if (di) di[e] = valid ? s * u[users.at(b) * width + k] : 0;
    }
}

static void give_rows(ag_node *n)
{
    const int64_t count = n->in[4]->shape[0], width = n->in[0]->shape[1];
    const slope g = slope_of(n);
    ag_tensor *values[4] = { nullptr }, *ds = nullptr;
    for (int k = 0; k < 4; k++) {
        if (!ag_node_wants_rows(n, k)) continue;
        if (k < 2) values[k] = ag_node_rows_new(n, AG_F32, ag_shape{ 2, { count, width } });
        else if (!g.r.is()) values[k] = ag_retain(ag_reshape(n->out->grad, count, 1));
        else values[k] = ds ? ag_retain(ds) : ds = ag_node_rows_new(n, AG_F32, ag_shape{ 2, { count, 1 } });
    }
    if ((values[0] || values[1] || ds) && count && width)
        LAUNCH(row_gradients, ag_blocks(count * width), AG_BLOCK, 0, column(n, 0), column(n, 1), width, g,
               ag_real(n->in[0]), ag_real(n->in[1]), values[0] ? ag_real(values[0]) : nullptr,
               values[1] ? ag_real(values[1]) : nullptr, ds ? ag_real(ds) : nullptr);
    for (int k = 0; k < 4; k++)
        if (values[k]) ag_node_give_rows(n, k, ag_retain(ag_select(n->in[4], 1, k % 2)), values[k]);
}

/* Factors and biases of a side share the sorting of its ids. */
static void add_dense(ag_node *n)
{
    const slope g = slope_of(n);
    const int64_t width = n->in[0]->shape[1];
    const ag_ids ids[2] = { column(n, 0), column(n, 1) };
    ag_sorted s[2];
    ag_sort_ids(2, ids, (uint64_t *)ag_workspace(n, ag_sort_size(2, ids), sizeof(uint64_t)), s);
    for (int c = 0; c < 2; c++) {
        const other_row value = { g, ag_real(n->in[1 - c]), ids[1 - c], width };
        ag_rows_add(s[c], ids[c].rows, width, value, n->din[c], n->accumulate[c]);
        ag_rows_add(s[c], ids[c].rows, 1, output_value{ g }, n->din[2 + c], n->accumulate[2 + c]);
    }
}

void ag_dot_bias_backward_cuda(ag_node *n)
{
    give_rows(n);
    if (n->din[0] || n->din[1] || n->din[2] || n->din[3]) add_dense(n);
}
