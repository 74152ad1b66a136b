/* ops/onednn_conv.c - convolutions, their gradients and the layouts of their weights by oneDNN, on the calling thread. */
#include "ops/conv_ways.h"
#include "ops/onednn.h"
#ifndef AG_ONEDNN

bool ag_onednn_there(void)
{
    return false;
}

bool ag_onednn_conv_form(const ag_conv *c, ag_conv_way way, bool bias, bool add, int64_t *bytes, uint64_t *form)
{
    (void)c, (void)way, (void)bias, (void)add, (void)bytes, (void)form;
    return false;
}

bool ag_onednn_conv_pack(const ag_conv *c, ag_conv_way way, bool bias, int64_t first, int64_t count, const real *from, void *to)
{
    (void)c, (void)way, (void)bias, (void)first, (void)count, (void)from, (void)to;
    return false;
}

bool ag_onednn_conv_unpack(const ag_conv *c, const void *from, real *to, bool add)
{
    (void)c, (void)from, (void)to, (void)add;
    return false;
}

bool ag_onednn_conv(const ag_conv *c, ag_conv_way way, const void *x, const void *weight, const real *bias, const void *y,
                    bool add)
{
    (void)c, (void)way, (void)x, (void)weight, (void)bias, (void)y, (void)add;
    return false;
}

#else

enum { KIND, TYPE, IMAGES, H, W, IN, OUT, KH, KW, OH, OW, STRIDE_H, STRIDE_W, TOP, LEFT, BOTTOM, RIGHT, DILATION_H, DILATION_W,
       GROUPS, BIAS, ADD, ACTIVATION, FIRST, COUNT };

typedef struct {                /* x, weight, y, bias */
    ag_layout x, weight, y, bias;
    ag_dnnl_window window;
    dnnl_primitive_attr_t attr;
    dnnl_primitive_desc_t plan;
} blueprint;

/* [n, h, w, c] in memory, n c h w in oneDNN's words */
static bool image_layout(ag_layout *l, int64_t n, int64_t h, int64_t w, int64_t c, int64_t type)
{
    const int64_t dims[] = { n, c, h, w }, strides[] = { h * w * c, 1, w * c, c };
    return ag_layout_strided(l, 4, dims, strides, type);
}

/* groups, out, in, kh, kw; groups are an axis only where there are several */
static int weight_dims(const int64_t *k, int64_t dims[5])
{
    const int64_t full[] = { k[GROUPS], k[OUT] / k[GROUPS], k[IN] / k[GROUPS], k[KH], k[KW] };
    const int skip = k[GROUPS] == 1;
    for (int i = skip; i < 5; i++) dims[i - skip] = full[i];
    return 5 - skip;
}

static bool weight_any(ag_layout *l, const int64_t *k, int64_t type)
{
    int64_t dims[5];
    const int axes = weight_dims(k, dims);
    return ag_layout_any(l, axes, dims, type);
}

/* Output channels FIRST .. FIRST + COUNT, as they lie and in the layout of the whole. */
static bool weight_part(ag_layout *plain, ag_layout *part, const ag_layout *whole, const int64_t *k)
{
    int64_t dims[5], strides[5], stride = 1;
    const int axes = weight_dims(k, dims), axis = axes - 4;
    dims[axis] = k[COUNT] / k[GROUPS];
    for (int i = axes - 1; i >= 0; i--) strides[i] = stride, stride *= dims[i];
    return ag_layout_strided(plain, axes, dims, strides, AG_F32) && ag_layout_part(part, whole, axes, dims, axis, k[FIRST]);
}

static ag_dnnl_window window_of(const int64_t *k)
{
    return (ag_dnnl_window){ { k[STRIDE_H], k[STRIDE_W] }, { k[DILATION_H] - 1, k[DILATION_W] - 1 }, { k[TOP], k[LEFT] },
                             { k[BOTTOM], k[RIGHT] } };
}

/* What kind of primitive a description's weights belong to. */
static ag_dnnl_kind main_kind(const int64_t *k)
{
    if (k[KIND] == AG_DNNL_CONV_UNPACK) return AG_DNNL_WEIGHT;
    return (ag_dnnl_kind)(k[KIND] == AG_DNNL_CONV_PACK ? k[ADD] : k[KIND]);
}

static bool plan_gradient(blueprint *b, const int64_t *k, ag_dnnl_kind kind)
{
    ag_layout weight = { 0 };
    dnnl_primitive_desc_t forward;
    bool ok = weight_any(&weight, k, k[TYPE]) && ag_plan_conv(&forward, &b->x, &weight, NULL, &b->y, &b->window, NULL);
    ag_layout_free(&weight);
    if (!ok) return false;
    ok = ag_plan_conv_gradient(&b->plan, kind, &b->x, &b->weight, &b->y, &b->window, forward, b->attr);
    dnnl_primitive_desc_destroy(forward);
    return ok;
}

/* Plans, and finds which layout the weight then has. */
static bool draw(blueprint *b, const int64_t *k)
{
    const ag_dnnl_kind kind = main_kind(k);
    const int64_t bias_stride = 1;
    ag_layout found = { 0 };
    *b = (blueprint){ .window = window_of(k), .attr = ag_dnnl_attributes(kind == AG_DNNL_FORWARD && k[ADD], k[ACTIVATION]) };
    bool ok = b->attr && image_layout(&b->x, k[IMAGES], k[H], k[W], k[IN], k[TYPE]) &&
              image_layout(&b->y, k[IMAGES], k[OH], k[OW], k[OUT], k[TYPE]) &&
              weight_any(&b->weight, k, kind == AG_DNNL_WEIGHT ? AG_F32 : k[TYPE]) &&
              (!k[BIAS] || ag_layout_strided(&b->bias, 1, &k[OUT], &bias_stride, AG_F32));
    ok = ok && (kind == AG_DNNL_FORWARD
                ? ag_plan_conv(&b->plan, &b->x, &b->weight, k[BIAS] ? &b->bias : NULL, &b->y, &b->window, b->attr)
                : plan_gradient(b, k, kind));
    if (!ok) return false;
    ok = ag_layout_copy(&found, b->plan, kind == AG_DNNL_WEIGHT ? dnnl_query_diff_weights_md : dnnl_query_weights_md);
    ag_layout_free(&b->weight);
    b->weight = found;
    return ok;
}

static void discard(blueprint *b)
{
    ag_layout_free(&b->x), ag_layout_free(&b->weight), ag_layout_free(&b->y), ag_layout_free(&b->bias);
    if (b->plan) dnnl_primitive_desc_destroy(b->plan);
    if (b->attr) dnnl_primitive_attr_destroy(b->attr);
}

static bool make_conv(ag_dnnl *p, const ag_dnnl_key *key)
{
    static const int args[][4] = {
        [AG_DNNL_FORWARD] = { DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS },
        [AG_DNNL_INPUT] = { DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST },
        [AG_DNNL_WEIGHT] = { DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST },
    };
    blueprint b;
    bool ok = draw(&b, key->word);
    if (ok) {
        const ag_layout l[] = { b.x, b.weight, b.y, b.bias };
        ok = ag_dnnl_finish(p, b.plan, key->word[BIAS] ? 4 : 3, args[key->word[KIND]], l, 1 << 1);
        b.plan = NULL;
    }
    discard(&b);
    return ok;
}

static bool make_reorder(ag_dnnl *p, const ag_dnnl_key *key)
{
    static const int args[] = { DNNL_ARG_FROM, DNNL_ARG_TO };
    const bool pack = key->word[KIND] == AG_DNNL_CONV_PACK;
    blueprint b;
    ag_layout plain = { 0 }, part = { 0 };
    dnnl_primitive_desc_t plan;
    dnnl_primitive_attr_t attr = ag_dnnl_attributes(!pack && key->word[ADD], 0);
    bool ok = attr && draw(&b, key->word) && weight_part(&plain, &part, &b.weight, key->word) &&
              ag_plan_reorder(&plan, pack ? &plain : &part, pack ? &part : &plain, attr);
    if (ok) {
        const ag_layout l[] = { pack ? plain : part, pack ? part : plain };
        ok = ag_dnnl_finish(p, plan, 2, args, l, pack ? 0 : 1);
    }
    ag_layout_free(&plain), ag_layout_free(&part);
    if (attr) dnnl_primitive_attr_destroy(attr);
    discard(&b);
    return ok;
}

bool ag_onednn_there(void)
{
    return true;
}

/* ---- calling ------------------------------------------------------------------------------------------- */

static const ag_dnnl_kind kinds[] = { [AG_CONV_FORWARD] = AG_DNNL_FORWARD, [AG_CONV_INPUT] = AG_DNNL_INPUT,
                                      [AG_CONV_WEIGHTS] = AG_DNNL_WEIGHT };

static ag_dnnl_key describe(const ag_conv *c, ag_dnnl_kind kind, bool bias, int64_t add, int64_t first, int64_t count)
{
    const ag_conv_arg *a = &c->at;
    return (ag_dnnl_key){ { [KIND] = kind, [TYPE] = c->type, [IMAGES] = c->n, [H] = c->h, [W] = c->w, [IN] = c->in,
        [OUT] = c->out, [KH] = c->kh, [KW] = c->kw, [OH] = c->oh, [OW] = c->ow, [STRIDE_H] = a->stride_h,
            [STRIDE_W] = a->stride_w,
        [TOP] = a->pad_top, [LEFT] = a->pad_left, [BOTTOM] = a->pad_bottom, [RIGHT] = a->pad_right,
        [DILATION_H] = a->dilation_h, [DILATION_W] = a->dilation_w, [GROUPS] = a->groups, [BIAS] = bias, [ADD] = add,
        [ACTIVATION] = (int64_t)a->activation, [FIRST] = first, [COUNT] = count } };
}

static const ag_dnnl *find(const ag_conv *c, ag_conv_way way, bool bias, bool add)
{
    const ag_dnnl_key key = describe(c, kinds[way], bias, add, 0, 0);
    return ag_dnnl_find(&key, make_conv);
}

bool ag_onednn_conv(const ag_conv *c, ag_conv_way way, const void *x, const void *weight, const real *bias, const void *y,
                    bool add)
{
    const ag_dnnl *p = find(c, way, bias != NULL, add);
    return p && ag_dnnl_run(p, (const void *[]){ x, weight, y, bias });
}

bool ag_onednn_conv_form(const ag_conv *c, ag_conv_way way, bool bias, bool add, int64_t *bytes, uint64_t *form)
{
    const ag_dnnl *p = find(c, way, bias, add);
    if (!p) return false;
    *bytes = p->bytes[1], *form = p->form[1];
    return true;
}

bool ag_onednn_conv_pack(const ag_conv *c, ag_conv_way way, bool bias, int64_t first, int64_t count, const real *from, void *to)
{
    const ag_dnnl_key key = describe(c, AG_DNNL_CONV_PACK, bias, kinds[way], first, count);
    const ag_dnnl *p = ag_dnnl_find(&key, make_reorder);
    return p && ag_dnnl_run(p, (const void *[]){ from + first * ag_conv_depth(c), to });
}

bool ag_onednn_conv_unpack(const ag_conv *c, const void *from, real *to, bool add)
{
    const ag_dnnl_key key = describe(c, AG_DNNL_CONV_UNPACK, false, add, 0, c->out);
    const ag_dnnl *p = ag_dnnl_find(&key, make_reorder);
    return p && ag_dnnl_run(p, (const void *[]){ from, to });
}
#endif
