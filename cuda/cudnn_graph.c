/* cuda/cudnn_graph.c - graphs of cuDNN's backend, a convolution as one, and the choice of their engines. */
#include <string.h>
#include "cuda/cudnn_build.h"

enum { ID_X = 'x', ID_W = 'w', ID_Y = 'y', ALIGNMENT = 16, MOST_CONFIGS = 128 };

ag_dnn_desc ag_dnn_make(ag_dnn_builder *b, int type)
{
    ag_dnn_desc d = NULL;
    if (b->status) return NULL;
    AG_ASSERT(b->to->count < AG_DNN_HELD);
    b->status = b->f->desc_create(type, &d);
    if (!b->status) b->to->held[b->to->count++] = d;
    return d;
}

void ag_dnn_set(ag_dnn_builder *b, ag_dnn_desc d, int attribute, int type, int64_t count, const void *values)
{
    if (!b->status) b->status = b->f->set(d, attribute, type, count, values);
}

void ag_dnn_set_enum(ag_dnn_builder *b, ag_dnn_desc d, int attribute, int type, int value)
{
    ag_dnn_set(b, d, attribute, type, 1, &value);
}

void ag_dnn_set_desc(ag_dnn_builder *b, ag_dnn_desc d, int attribute, ag_dnn_desc value)
{
    ag_dnn_set(b, d, attribute, AG_DNN_DESCRIPTOR, 1, &value);
}

void ag_dnn_finish(ag_dnn_builder *b, ag_dnn_desc d)
{
    if (!b->status) b->status = b->f->finalize(d);
}

ag_dnn_desc ag_dnn_tensor(ag_dnn_builder *b, ag_dnn_kind kind, int64_t id, int type, const int64_t sizes[4],
                          const int64_t strides[4])
{
    const int64_t alignment = kind == AG_DNN_VALUE ? (int64_t)sizeof(float) : ALIGNMENT;
    const bool passing = kind == AG_DNN_PASSING, by_value = kind == AG_DNN_VALUE;
    ag_dnn_desc d = ag_dnn_make(b, AG_DNN_TENSOR);
    ag_dnn_set(b, d, AG_DNN_TENSOR_ID, AG_DNN_INT64, 1, &id);
    ag_dnn_set_enum(b, d, AG_DNN_TENSOR_TYPE, AG_DNN_DATA_TYPE, type);
    ag_dnn_set(b, d, AG_DNN_TENSOR_ALIGNMENT, AG_DNN_INT64, 1, &alignment);
    ag_dnn_set(b, d, AG_DNN_TENSOR_SIZES, AG_DNN_INT64, 4, sizes);
    ag_dnn_set(b, d, AG_DNN_TENSOR_STRIDES, AG_DNN_INT64, 4, strides);
    ag_dnn_set(b, d, AG_DNN_TENSOR_VIRTUAL, AG_DNN_BOOL, 1, &passing);
    if (by_value) ag_dnn_set(b, d, AG_DNN_TENSOR_BY_VALUE, AG_DNN_BOOL, 1, &by_value);
    ag_dnn_finish(b, d);
    return d;
}

ag_dnn_desc ag_dnn_graph(ag_dnn_builder *b, ag_dnn_place place, const ag_dnn_desc *operations, int count)
{
    ag_dnn_desc graph = ag_dnn_make(b, AG_DNN_GRAPH);
    ag_dnn_set(b, graph, AG_DNN_GRAPH_OPERATIONS, AG_DNN_DESCRIPTOR, count, operations);
    if (place.handle) ag_dnn_set(b, graph, AG_DNN_GRAPH_HANDLE, AG_DNN_HANDLE, 1, &place.handle);
    ag_dnn_finish(b, graph);
    return graph;
}

/* ---- the graph ------------------------------------------------------------------------------------------- */

/* [n, h, w, c] in memory; the library counts in the order N C H W. */
static ag_dnn_desc image(ag_dnn_builder *b, int64_t id, int type, int64_t n, int64_t c, int64_t h, int64_t w)
{
    const int64_t sizes[4] = { n, c, h, w }, strides[4] = { h * w * c, 1, w * c, c };
    return ag_dnn_tensor(b, AG_DNN_MEMORY, id, type, sizes, strides);
}

static ag_dnn_desc geometry(ag_dnn_builder *b, const ag_dnn_conv *c)
{
    const int64_t axes = 2;
    ag_dnn_desc d = ag_dnn_make(b, AG_DNN_CONVOLUTION);
    ag_dnn_set_enum(b, d, AG_DNN_CONV_TYPE, AG_DNN_DATA_TYPE, AG_DNN_F32);             /* of the sums */
    ag_dnn_set_enum(b, d, AG_DNN_CONV_MODE_OF, AG_DNN_CONV_MODE, AG_DNN_CORRELATION);
    ag_dnn_set(b, d, AG_DNN_CONV_AXES, AG_DNN_INT64, 1, &axes);
    ag_dnn_set(b, d, AG_DNN_CONV_DILATIONS, AG_DNN_INT64, 2, c->dilation);
    ag_dnn_set(b, d, AG_DNN_CONV_STRIDES, AG_DNN_INT64, 2, c->stride);
    ag_dnn_set(b, d, AG_DNN_CONV_PRE_PADDINGS, AG_DNN_INT64, 2, c->before);
    ag_dnn_set(b, d, AG_DNN_CONV_POST_PADDINGS, AG_DNN_INT64, 2, c->after);
    ag_dnn_finish(b, d);
    return d;
}

static ag_dnn_desc operation(ag_dnn_builder *b, const ag_dnn_conv *c)
{
    static const struct { int type, alpha, beta, conv, x, w, y; } ways[] = {
        [AG_CONV_FORWARD] = { AG_DNN_FORWARD, AG_DNN_FORWARD_ALPHA, AG_DNN_FORWARD_BETA, AG_DNN_FORWARD_CONV, AG_DNN_FORWARD_X,
                              AG_DNN_FORWARD_W, AG_DNN_FORWARD_Y },
        [AG_CONV_INPUT] = { AG_DNN_INPUT_GRADIENT, AG_DNN_INPUT_ALPHA, AG_DNN_INPUT_BETA, AG_DNN_INPUT_CONV, AG_DNN_INPUT_DX,
                            AG_DNN_INPUT_W, AG_DNN_INPUT_DY },
        [AG_CONV_WEIGHTS] = { AG_DNN_WEIGHT_GRADIENT, AG_DNN_WEIGHT_ALPHA, AG_DNN_WEIGHT_BETA, AG_DNN_WEIGHT_CONV,
                              AG_DNN_WEIGHT_X, AG_DNN_WEIGHT_DW, AG_DNN_WEIGHT_DY },
    };
    const int type = c->type == AG_BF16 ? AG_DNN_BF16 : AG_DNN_F32;
    const float alpha = 1, beta = (float)c->add;
    ag_dnn_desc x = image(b, ID_X, type, c->n, c->in, c->h, c->w), w = image(b, ID_W, type, c->out, c->in, c->kh, c->kw);
    ag_dnn_desc y = image(b, ID_Y, type, c->n, c->out, c->oh, c->ow), conv = geometry(b, c);
    ag_dnn_desc d = ag_dnn_make(b, ways[c->way].type);
    ag_dnn_set_desc(b, d, ways[c->way].x, x);
    ag_dnn_set_desc(b, d, ways[c->way].w, w);
    ag_dnn_set_desc(b, d, ways[c->way].y, y);
    ag_dnn_set_desc(b, d, ways[c->way].conv, conv);
    ag_dnn_set(b, d, ways[c->way].alpha, AG_DNN_FLOAT, 1, &alpha);
    ag_dnn_set(b, d, ways[c->way].beta, AG_DNN_FLOAT, 1, &beta);
    ag_dnn_finish(b, d);
    return d;
}

ag_dnn_conv ag_dnn_conv_of(const ag_conv *c, ag_conv_way way, bool add)
{
    const ag_conv_arg *a = &c->at;
    return (ag_dnn_conv){ .way = way, .type = c->type, .add = add,
                          .tf32 = c->type == AG_F32 && ag_tf32(), .n = c->n, .h = c->h, .w = c->w, .in = c->in, .out = c->out,
                          .kh = c->kh, .kw = c->kw, .oh = c->oh, .ow = c->ow, .stride = { a->stride_h, a->stride_w },
                          .before = { a->pad_top, a->pad_left }, .after = { a->pad_bottom, a->pad_right },
                          .dilation = { a->dilation_h, a->dilation_w } };
}

/* ---- the choice ------------------------------------------------------------------------------------------ */

/* Other bits in another run; sums or factors of fewer bits than ours; transforms, whose errors are larger. On f32, tensor
 * cores round the factors to TF32's 10 bits, which is done only when asked for; in bf16 our own products use them, so nothing
 * slower shall. */
static bool refused(bool tensor_cores, uint32_t notes)
{
    const uint32_t always = 1u << AG_DNN_NONDETERMINISTIC | 1u << AG_DNN_DOWN_CONVERTS | 1u << AG_DNN_REDUCED_SUMS |
                            1u << AG_DNN_FFT | 1u << AG_DNN_WINOGRAD | 1u << AG_DNN_WINOGRAD_4 | 1u << AG_DNN_WINOGRAD_6 |
                            1u << AG_DNN_WINOGRAD_13;
    return notes & always || (notes >> AG_DNN_TENSOR_CORE & 1) != tensor_cores;
}

/* The notes of a configuration's engine as bits, and its number. */
static int engine_of(const ag_dnn_functions *f, ag_dnn_desc config, uint32_t *notes, int64_t *number)
{
    int list[2 * AG_DNN_NOTES];
    int64_t got = 0, count = 0;
    ag_dnn_desc engine = NULL;
    int status = f->desc_create(AG_DNN_ENGINE, &engine);
    if (status) return status;
    status = f->get(config, AG_DNN_CONFIG_ENGINE, AG_DNN_DESCRIPTOR, 1, &got, &engine);
    if (!status) status = f->get(engine, AG_DNN_ENGINE_INDEX, AG_DNN_INT64, 1, &got, number);
    if (!status) status = f->get(engine, AG_DNN_ENGINE_NOTES, AG_DNN_NOTE, 2 * AG_DNN_NOTES, &count, list);
    *notes = 0;
    for (int64_t i = 0; i < count && !status; i++) *notes |= 1u << list[i];
    f->desc_destroy(engine);
    return status;
}

/* Makes the plan of one configuration and takes that over. AG_DNN_UNSUPPORTED: it is none for us. */
static int try_config(ag_dnn_builder *b, ag_dnn_place place, bool tensor_cores, int64_t most_workspace,
                      ag_dnn_desc config)
{
    ag_dnn_plan *to = b->to;
    uint32_t notes;
    int64_t got = 0;
    int status = engine_of(b->f, config, &notes, &to->engine);
    if (status) return status;
    if (refused(tensor_cores, notes)) return AG_DNN_UNSUPPORTED;
    ag_dnn_builder p = { b->f, to, 0 };
    ag_dnn_desc plan = ag_dnn_make(&p, AG_DNN_PLAN);
    if (place.handle) ag_dnn_set(&p, plan, AG_DNN_PLAN_HANDLE, AG_DNN_HANDLE, 1, &place.handle);
    else ag_dnn_set_desc(&p, plan, AG_DNN_PLAN_DEVICE, place.device);
    ag_dnn_set_desc(&p, plan, AG_DNN_PLAN_CONFIG, config);
    ag_dnn_finish(&p, plan);
    if (!p.status) p.status = b->f->get(plan, AG_DNN_PLAN_WORKSPACE, AG_DNN_INT64, 1, &got, &to->workspace);
    if (!p.status && to->workspace > most_workspace) p.status = AG_DNN_UNSUPPORTED;
    if (p.status == AG_DNN_NOT_COMPILED || p.status == AG_DNN_NOT_LOADED) p.status = AG_DNN_UNSUPPORTED;
    if (!p.status) to->plan = plan, to->held[to->count++] = config;
    else if (plan) b->f->desc_destroy(to->held[--to->count]);
    return p.status;
}

/* The configurations that one mode of the heuristics ranks, best first. The caller destroys them. */
static int64_t configs_of(ag_dnn_builder *b, ag_dnn_place place, ag_dnn_desc graph, int mode, ag_dnn_desc configs[MOST_CONFIGS])
{
    int64_t count = 0;
    int made = 0;
    ag_dnn_desc heuristics = NULL;
    if (b->status || (b->status = b->f->desc_create(AG_DNN_HEURISTICS, &heuristics))) return 0;
    ag_dnn_set_desc(b, heuristics, AG_DNN_HEUR_GRAPH, graph);
    ag_dnn_set_enum(b, heuristics, AG_DNN_HEUR_MODE_OF, AG_DNN_HEUR_MODE, mode);
    if (!place.handle) ag_dnn_set_desc(b, heuristics, AG_DNN_HEUR_DEVICE, place.device);
    ag_dnn_finish(b, heuristics);
    while (!b->status && made < MOST_CONFIGS) {
        b->status = b->f->desc_create(AG_DNN_CONFIG, &configs[made]);
        made += !b->status;
    }
    if (!b->status) b->status = b->f->get(heuristics, AG_DNN_HEUR_RESULTS, AG_DNN_DESCRIPTOR, made, &count, configs);
    if (b->status) count = 0;
    while (made > count) b->f->desc_destroy(configs[--made]);
    b->f->desc_destroy(heuristics);
    return count;
}

int ag_dnn_choose(ag_dnn_builder *b, ag_dnn_place place, ag_dnn_desc graph, bool tensor_cores, int64_t most_workspace)
{
    static const int modes[] = { AG_DNN_MODE_A, AG_DNN_MODE_FALLBACK };
    ag_dnn_desc configs[MOST_CONFIGS];
    int status = b->status ? b->status : AG_DNN_UNSUPPORTED;
    for (size_t m = 0; m < sizeof modes / sizeof *modes && ag_dnn_unsupported(status) && graph; m++) {
        b->status = 0;                                      /* of a mode that knows nothing */
        const int64_t count = configs_of(b, place, graph, modes[m], configs);
        if (b->status) status = b->status;
        for (int64_t i = 0; i < count; i++) {
            const bool wanted = ag_dnn_unsupported(status);
            if (wanted) status = try_config(b, place, tensor_cores, most_workspace, configs[i]);
            if (status || !wanted) b->f->desc_destroy(configs[i]);
        }
    }
    if (status) ag_dnn_plan_drop(b->f, b->to);
    return status;
}

int ag_dnn_plan_new(const ag_dnn_functions *f, ag_dnn_place place, const ag_dnn_conv *c, int64_t most_workspace,
                    ag_dnn_plan *plan)
{
    memset(plan, 0, sizeof *plan);
    ag_dnn_builder b = { f, plan, 0 };
    ag_dnn_desc d = operation(&b, c), graph = ag_dnn_graph(&b, place, &d, 1);
    return ag_dnn_choose(&b, place, graph, c->type == AG_BF16 || c->tf32, most_workspace);
}

void ag_dnn_plan_drop(const ag_dnn_functions *f, ag_dnn_plan *plan)
{
    while (plan->count) f->desc_destroy(plan->held[--plan->count]);
    plan->plan = NULL;
}

int ag_dnn_execute(const ag_dnn_functions *f, ag_dnn_handle h, const ag_dnn_plan *plan, int count, const int64_t *ids,
                   const void *const *pointers, void *workspace)
{
    ag_dnn_plan of_pack = { 0 };
    ag_dnn_builder b = { f, &of_pack, 0 };
    ag_dnn_desc pack = ag_dnn_make(&b, AG_DNN_PACK);
    ag_dnn_set(&b, pack, AG_DNN_PACK_IDS, AG_DNN_INT64, count, ids);
    ag_dnn_set(&b, pack, AG_DNN_PACK_POINTERS, AG_DNN_POINTER, count, pointers);
    ag_dnn_set(&b, pack, AG_DNN_PACK_WORKSPACE, AG_DNN_POINTER, 1, &workspace);
    ag_dnn_finish(&b, pack);
    if (!b.status) b.status = f->execute(h, plan->plan, pack);
    ag_dnn_plan_drop(f, &of_pack);
    return b.status;
}

int ag_dnn_plan_run(const ag_dnn_functions *f, ag_dnn_handle h, const ag_dnn_plan *plan, const void *x, const void *w,
                    const void *y, void *workspace)
{
    return ag_dnn_execute(f, h, plan, 3, (const int64_t[]){ ID_X, ID_W, ID_Y }, (const void *const[]){ x, w, y }, workspace);
}
