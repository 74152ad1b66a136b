/* cuda/mixing.cu - ops/mixing.c: samples of a batch mixed with others of it, by shares or by boxes. An order out of range is
 * reported later, as ids are, and its sample left alone; a box that leaves the image ends at its edge. */
#include "cuda/rows.h"
#include "ops/registry.h"

enum { X, HOW, ORDER };
enum { TOP, LEFT, BOTTOM, RIGHT, SIDES };

template <class T> struct mixing {
    const T *x;                 /* backward: the gradient of the output */
    T *y;
    const float *lambda;        /* mixup */
    const int64_t *box, *order; /* cutmix */
    int64_t samples, size, width, channels;     /* size: of a sample; width: of an image */
    bool add;
    ag_cuda_trap *trap;
    const char *at, *name;
    __device__ inline bool valid(int64_t sample) const { return (uint64_t)order[sample] < (uint64_t)samples; }
    /* Whether element c of a sample lies in the box of `sample`. */
    __device__ inline bool inside(int64_t sample, int64_t c) const
    {
        const int64_t *b = box + sample * SIDES, pixel = c / channels, y = pixel / width, x_at = pixel - y * width;
        return y >= b[TOP] && y < b[BOTTOM] && x_at >= b[LEFT] && x_at < b[RIGHT];
    }
};

template <class T> static mixing<T> job_of(const ag_node *n, const ag_tensor *from, const ag_tensor *to, bool add)
{
    const ag_tensor *x = n->in[X], *how = n->in[HOW];
    const bool boxes = how->dtype == AG_I64;
    mixing<T> j;
    memset(&j, 0, sizeof j);
    j.x = (const T *)from->data, j.y = (T *)to->data, j.order = (const int64_t *)n->in[ORDER]->data, j.add = add;
    j.samples = x->shape[0], j.size = ag_numel(x) / j.samples;
    if (boxes) j.box = (const int64_t *)how->data, j.width = x->shape[2], j.channels = x->shape[3];
    else j.lambda = ag_real(how);
    j.trap = ag_cuda_trap_device(), j.at = n->at, j.name = boxes ? "ag_cutmix" : "ag_mixup";
    return j;
}

/* lambda x[n] + (1 - lambda) x[order[n]], or the other's element within the box */
template <class T> static __global__ void mix(mixing<T> j)
{
    AG_EACH (i, j.samples * j.size) {
        const int64_t n = i / j.size, c = i - n * j.size;
        const float own = ag_load(j.x[i]);
        float v = own;
        if (!j.valid(n)) {
            if (!c) ag_trap(j.trap, j.at, j.name, n, j.order[n], j.samples);
        } else if (j.lambda) v = j.lambda[n] * own + (1 - j.lambda[n]) * ag_load(j.x[j.order[n] * j.size + c]);
        else if (j.inside(n, c)) v = ag_load(j.x[j.order[n] * j.size + c]);
        ag_store(j.y + i, v);
    }
}

/* The gradient that stays with the sample, and those of all that were mixed with it, in their order. */
template <class T> static __global__ void mix_grad(mixing<T> j)
{
    AG_EACH (i, j.samples * j.size) {
        const int64_t n = i / j.size, c = i - n * j.size;
        float d = j.add ? ag_load(j.y[i]) : 0;
        d += j.lambda ? j.lambda[n] * ag_load(j.x[i]) : j.inside(n, c) ? 0 : ag_load(j.x[i]);
        for (int64_t k = 0; k < j.samples; k++) {
            if (j.order[k] != n) continue;
            const float g = ag_load(j.x[k * j.size + c]);
            d += j.lambda ? (1 - j.lambda[k]) * g : j.inside(k, c) ? g : 0;
        }
        ag_store(j.y + i, d);
    }
}

template <class T> static void forward(ag_node *n)
{
    const int64_t size = ag_numel(n->out);
    if (size) LAUNCH(mix<T>, ag_blocks(size), AG_BLOCK, 0, job_of<T>(n, n->in[X], n->out, false));
}

template <class T> static void backward(ag_node *n)
{
    const int64_t size = ag_numel(n->out);
    if (n->din[X] && size)
        LAUNCH(mix_grad<T>, ag_blocks(size), AG_BLOCK, 0, job_of<T>(n, n->out->grad, n->din[X], n->accumulate[X]));
}

static bool is_half(const ag_node *n) { return n->in[X]->dtype == AG_BF16; }
void ag_mixup_forward_cuda(ag_node *n) { is_half(n) ? forward<ag_bf16>(n) : forward<float>(n); }
void ag_mixup_backward_cuda(ag_node *n) { is_half(n) ? backward<ag_bf16>(n) : backward<float>(n); }
void ag_cutmix_forward_cuda(ag_node *n) { ag_mixup_forward_cuda(n); }
void ag_cutmix_backward_cuda(ag_node *n) { ag_mixup_backward_cuda(n); }
