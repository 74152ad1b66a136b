#include "ops/conv_depthwise.h"

enum { WIDE = AG_DW_WIDE, NARROW = AG_DW_NARROW };

static int64_t phases_of(const ag_dw_axis *a)
{
    return !a->turned ? 1 : a->stride < a->out ? a->stride : a->out;
}

int64_t ag_dw_plan_bytes(const ag_dw_axis *a)
{
    return phases_of(a) * (int64_t)sizeof(ag_dw_phase) + a->taps * (int64_t)sizeof(ag_dw_part);
}

/* As few columns too many as can be, then as few tiles. */
static void choose_tiles(ag_dw_phase *p)
{
    int64_t fewest = INT64_MAX;
    for (int64_t wide = 0; wide * WIDE < p->outputs + WIDE; wide++) {
        const int64_t left = p->outputs - wide * WIDE, narrow = left > 0 ? (left + NARROW - 1) / NARROW : 0;
        const int64_t columns = wide * WIDE + narrow * (NARROW + 1);      /* a narrow tile is the slower one */
        if (columns > fewest) continue;
        fewest = columns;
        p->wide = wide, p->tiles = wide + narrow;
    }
}

/* Taps of the phase in the order of their columns, cut into parts that a kernel takes at once. */
static void choose_parts(const ag_dw_axis *a, ag_dw_phase *p)
{
    int64_t at[2] = { 0 }, run;
    for (int64_t i = 0; i < a->taps; i += run) {
        const int64_t tap = a->turned ? a->taps - 1 - i : i, back = a->turned ? -1 : 1;
        run = 1;
        if (!ag_dw_meets(a, p->first, tap, &at[0])) continue;
        int64_t gap = 1, most = 1;                  /* taps from one that is met to the next */
        while (i + gap < a->taps && !ag_dw_meets(a, p->first, tap + back * gap, &at[1])) gap++;
        if (i + gap < a->taps && at[1] == at[0] + 1) most = (a->taps - 1 - i) / gap + 1;
        const ag_dw_kernel *kernel = ag_dw_kernel_for(most, p->stride);
        p->part[p->parts++] = (ag_dw_part){ kernel, at[0], tap, back * gap };
        run = (kernel->taps - 1) * gap + 1;
    }
}

ag_dw_plan ag_dw_plan_of(const ag_dw_axis *a, void *memory)
{
    ag_dw_plan plan = { .phase = memory, .phases = phases_of(a) };
    ag_dw_part *part = (ag_dw_part *)(plan.phase + plan.phases);
    int64_t first = 0, end = a->in;
    for (int64_t i = 0; i < plan.phases; i++) {
        ag_dw_phase *p = &plan.phase[i];
        *p = (ag_dw_phase){ .first = i, .step = plan.phases, .outputs = (a->out - i + plan.phases - 1) / plan.phases,
                            .stride = a->turned ? 1 : a->stride, .part = part };
        choose_tiles(p);
        choose_parts(a, p);
        part += p->parts;
        for (const ag_dw_part *t = p->part; t < part; t++) {
            const int64_t behind = t->column + (ag_dw_tile_at(p, p->tiles) - 1) * p->stride + t->kernel->taps;
            first = t->column < first ? t->column : first;
            end = behind > end ? behind : end;
        }
    }
    plan.before = -first;
    plan.columns = end - first;
    return plan;
}
