#include "ops/conv_depthwise.h"
#include <string.h>
#include "core/bf16.h"
#include "ops/activation.h"

enum { TILE = AG_DW_TILE, LANES = AG_DW_LANES };

bool ag_dw_meets(const ag_dw_axis *a, int64_t out, int64_t tap, int64_t *in)
{
    const int64_t at = a->turned ? out + a->pad - tap * a->dilation : out * a->stride + tap * a->dilation - a->pad;
    *in = a->turned ? at / a->stride : at;
    return !a->turned || at % a->stride == 0;
}

static int64_t tiles_of(int64_t outputs) { return (outputs + TILE - 1) / TILE; }
static int64_t phases_of(const ag_dw_axis *a) { return a->turned && a->stride < a->out ? a->stride : a->turned ? a->out : 1; }

int64_t ag_dw_plan_bytes(const ag_dw_axis *a)
{
    const int64_t part = (int64_t)sizeof(ag_dw_part) + tiles_of(a->out) * (int64_t)sizeof(uint64_t);
    return phases_of(a) * (int64_t)sizeof(ag_dw_phase) + a->taps * part;
}

/* Bits of the columns that exist and that one of the tile's outputs meets. */
static uint64_t mask_of(const ag_dw_phase *p, const ag_dw_part *t, int64_t tile, int64_t columns)
{
    const int64_t first = t->column + tile * TILE * p->stride;
    const int64_t outputs = p->outputs - tile * TILE < TILE ? p->outputs - tile * TILE : TILE;
    uint64_t mask = 0;
    for (int64_t i = 0; i < (outputs - 1) * t->kernel->stride + t->kernel->taps; i++)
        if (first + i * t->spacing >= 0 && first + i * t->spacing < columns) mask |= (uint64_t)1 << i;
    return mask;
}

/* Taps of the phase in the order of their columns, cut into parts that a kernel takes at once. */
static void plan_phase(const ag_dw_axis *a, ag_dw_phase *p, uint64_t **masks)
{
    int64_t at[2] = { 0 }, run;
    for (int64_t i = 0; i < a->taps; i += run) {
        const int64_t tap = a->turned ? a->taps - 1 - i : i, back = a->turned ? -1 : 1;
        run = 1;
        if (!ag_dw_meets(a, p->first, tap, &at[0])) continue;
        ag_dw_part *t = &p->part[p->parts++];
        *t = (ag_dw_part){ .column = at[0], .tap = tap, .mask = *masks };
        int64_t gap = 1, most = 1;                  /* taps from one that is met to the next */
        while (i + gap < a->taps && !ag_dw_meets(a, p->first, tap + back * gap, &at[1])) gap++;
        if (i + gap < a->taps && at[1] == at[0] + 1) most = (a->taps - 1 - i) / gap + 1;
        t->kernel = ag_dw_kernel_for(most, p->stride);
        t->tap_step = back * gap;
        t->spacing = t->kernel->taps > 1 ? 1 : p->stride;
        run = (t->kernel->taps - 1) * gap + 1;
        for (int64_t k = 0; k < p->tiles; k++) *(*masks)++ = mask_of(p, t, k, a->in);
    }
}

ag_dw_plan ag_dw_plan_of(const ag_dw_axis *a, void *memory)
{
    ag_dw_plan plan = { memory, phases_of(a) };
    ag_dw_part *part = (ag_dw_part *)(plan.phase + plan.phases);
    uint64_t *masks = (uint64_t *)(part + a->taps);
    for (int64_t i = 0; i < plan.phases; i++) {
        ag_dw_phase *p = &plan.phase[i];
        const int64_t outputs = (a->out - i + plan.phases - 1) / plan.phases;
        *p = (ag_dw_phase){ .first = i, .step = plan.phases, .outputs = outputs, .tiles = tiles_of(outputs),
                            .stride = a->turned ? 1 : a->stride, .part = part };
        plan_phase(a, p, &masks);
        part += p->parts;
    }
    return plan;
}

/* ---- packing ------------------------------------------------------------------------------------------- */

typedef real loose __attribute__((vector_size(AG_DW_BYTES), aligned(sizeof(real)), may_alias));

static inline void pack_block(const void *from, ag_dtype dtype, int64_t at, int64_t n, real *restrict to)
{
    const real *x = (const real *)from + at;
    const uint16_t *h = (const uint16_t *)from + at;
    if (n == LANES && dtype != AG_BF16) {
        *(ag_dw_vec *)to = *(const loose *)x;
    } else if (n == LANES) {
        for (int64_t l = 0; l < LANES; l++) to[l] = ag_bf16_to_real(h[l]);
    } else {
        for (int64_t l = 0; l < LANES; l++) to[l] = l >= n ? 0 : dtype == AG_BF16 ? ag_bf16_to_real(h[l]) : x[l];
    }
}

void ag_dw_pack(const ag_dw_images *im, int64_t row, int64_t first, int64_t blocks, real *to, real *buf)
{
    const int64_t all = im->channels - first * LANES, n = all < blocks * LANES ? all : blocks * LANES;
    for (int64_t c = 0; c < im->columns; c++, to += LANES) {
        const int64_t at = (row * im->columns + c) * im->channels + first * LANES;
        if (!im->activation) {
            for (int64_t b = 0; b < blocks; b++)
                pack_block(im->data, im->dtype, at + b * LANES, n - b * LANES < LANES ? n - b * LANES : LANES,
                           to + b * im->padded * LANES);
            continue;
        }
        const real *g = ag_widen(im->data, im->dtype, at, n, buf), *z = ag_widen(im->z, im->dtype, at, n, buf + blocks * LANES);
        ag_activate_grad(im->activation, n, z, g, buf);
        for (int64_t b = 0; b < blocks; b++)
            pack_block(buf, AG_F32, b * LANES, n - b * LANES < LANES ? n - b * LANES : LANES, to + b * im->padded * LANES);
    }
}
