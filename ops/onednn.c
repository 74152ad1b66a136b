/* ops/onednn.c - oneDNN 2 and 3: threads, layouts, plans, and each thread's store of primitives. */
#include "ops/onednn.h"
#ifdef AG_ONEDNN
#include <omp.h>
#include <pthread.h>
#include <string.h>
#include "core/memory.h"

enum { BUCKETS = 1024, MOST = 4096, ALIGNMENT = 64 };

typedef struct entry {
    struct entry *next;
    ag_dnnl_key key;
    ag_dnnl primitive;
} entry;

typedef struct {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    entry *bucket[BUCKETS];
    int entries;
    char *scratch, *aligned;
    int64_t scratch_bytes;
} store;

static _Thread_local store *mine;
static pthread_key_t at_thread_end;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* ---- a thread's store ---------------------------------------------------------------------------------- */

static void drop(ag_dnnl *p)
{
    for (int i = 0; i <= p->operands; i++)
        if (p->arg[i].memory) dnnl_memory_destroy(p->arg[i].memory);
    if (p->run) dnnl_primitive_destroy(p->run);
}

static void drop_all(store *s)
{
    for (int b = 0; b < BUCKETS; b++)
        while (s->bucket[b]) {
            entry *e = s->bucket[b];
            s->bucket[b] = e->next;
            drop(&e->primitive);
            ag_free(e);
        }
    s->entries = 0;
}

static void close_thread(void *p)
{
    store *s = p;
    drop_all(s);
    if (s->stream) dnnl_stream_destroy(s->stream);
    if (s->engine) dnnl_engine_destroy(s->engine);
    ag_free(s->scratch);
    ag_free(s);
}

static void make_key(void)
{
    pthread_key_create(&at_thread_end, close_thread);
}

static bool start(void)
{
    pthread_once(&once, make_key);
    store *s = ag_try_alloc(1, sizeof *s);
    if (!s) return false;
    if (dnnl_engine_create(&s->engine, dnnl_cpu, 0) || dnnl_stream_create(&s->stream, s->engine, dnnl_stream_default_flags)) {
        close_thread(s);
        return false;
    }
    pthread_setspecific(at_thread_end, s);
    mine = s;
    return true;
}

/* O1, without a lasting effect on a caller who uses OpenMP. */
static int set_threads(int n)
{
    const int before = omp_get_max_threads();
    if (before != n) omp_set_num_threads(n);
    return before;
}

static uint64_t hash_bytes(const void *p, size_t bytes)
{
    uint64_t h = bytes, word;
    for (size_t i = 0; i < bytes; i += sizeof word) {
        word = 0;
        memcpy(&word, (const char *)p + i, bytes - i < sizeof word ? bytes - i : sizeof word);
        h = (h ^ word) * 0x9E3779B97F4A7C15u, h ^= h >> 29;
    }
    return h;
}

const ag_dnnl *ag_dnnl_find(const ag_dnnl_key *key, bool (*make)(ag_dnnl *p, const ag_dnnl_key *key))
{
    if (!mine && !start()) return NULL;
    entry **bucket = &mine->bucket[hash_bytes(key, sizeof *key) % BUCKETS];
    for (entry *e = *bucket; e; e = e->next)
        if (!memcmp(&e->key, key, sizeof *key)) return e->primitive.run ? &e->primitive : NULL;
    if (mine->entries == MOST) drop_all(mine);
    entry *e = ag_try_alloc(1, sizeof *e);
    if (!e) return NULL;
    e->key = *key;
    const int threads = set_threads(1);
    if (!make(&e->primitive, key)) {
        drop(&e->primitive);
        e->primitive = (ag_dnnl){ 0 };
    }
    set_threads(threads);
    e->next = *bucket, *bucket = e;
    mine->entries++;
    return e->primitive.run ? &e->primitive : NULL;
}

static char *scratch(int64_t bytes)
{
    if (bytes > mine->scratch_bytes) {
        ag_free(mine->scratch);
        mine->scratch = ag_try_alloc(bytes + ALIGNMENT, 1);
        mine->scratch_bytes = mine->scratch ? bytes : 0;
        mine->aligned = mine->scratch + (ALIGNMENT - (uintptr_t)mine->scratch % ALIGNMENT) % ALIGNMENT;
    }
    return mine->scratch ? mine->aligned : NULL;
}

bool ag_dnnl_run(const ag_dnnl *p, const void *const *data)
{
    for (int i = 0; i < p->operands; i++)
        if (dnnl_memory_set_data_handle(p->arg[i].memory, (void *)(uintptr_t)data[i])) return false;
    if (p->scratch) {
        char *s = scratch(p->scratch);
        if (!s || dnnl_memory_set_data_handle(p->arg[p->operands].memory, s)) return false;
    }
    const int threads = set_threads(1);
    const dnnl_status_t status = dnnl_primitive_execute(p->run, mine->stream, p->operands + (p->scratch > 0), p->arg);
    if (status == dnnl_success) dnnl_stream_wait(mine->stream);
    set_threads(threads);
    return status == dnnl_success;
}

/* ---- layouts ------------------------------------------------------------------------------------------- */

dnnl_data_type_t ag_dnnl_type(int64_t dtype)
{
    return dtype == AG_BF16 ? dnnl_bf16 : dtype == AG_U8 ? dnnl_u8 : dnnl_f32;
}

/* The C interface takes arrays of full length. */
static const int64_t *full(dnnl_dims_t to, int axes, const int64_t *from)
{
    memset(to, 0, sizeof(dnnl_dims_t));
    return memcpy(to, from, (size_t)axes * sizeof *from);
}

#if DNNL_VERSION_MAJOR >= 3
#define LAYOUT(l) ((l)->of)
typedef const_dnnl_memory_desc_t layout_pointer;

bool ag_layout_strided(ag_layout *l, int axes, const int64_t *dims, const int64_t *strides, int64_t dtype)
{
    dnnl_dims_t d, s;
    return dnnl_memory_desc_create_with_strides(&l->of, axes, full(d, axes, dims), ag_dnnl_type(dtype), full(s, axes, strides)) ==
           dnnl_success;
}

bool ag_layout_part(ag_layout *l, const ag_layout *whole, int axes, const int64_t *dims, int axis, int64_t first)
{
    dnnl_dims_t d, offsets = { [0] = 0 };
    offsets[axis] = first;
    return dnnl_memory_desc_create_submemory(&l->of, whole->of, full(d, axes, dims), offsets) == dnnl_success;
}

bool ag_layout_any(ag_layout *l, int axes, const int64_t *dims, int64_t dtype)
{
    dnnl_dims_t d;
    return dnnl_memory_desc_create_with_tag(&l->of, axes, full(d, axes, dims), ag_dnnl_type(dtype), dnnl_format_tag_any) ==
           dnnl_success;
}

bool ag_layout_copy(ag_layout *l, dnnl_primitive_desc_t plan, dnnl_query_t which)
{
    const_dnnl_memory_desc_t found = dnnl_primitive_desc_query_md(plan, which, 0);
    return found && dnnl_memory_desc_clone(&l->of, found) == dnnl_success;
}

static int64_t bytes_of(const ag_layout *l)
{
    return (int64_t)dnnl_memory_desc_get_size(l->of);
}

static uint64_t layout_hash(const ag_layout *l)
{
    static const dnnl_query_t lists[] = { dnnl_query_padded_dims, dnnl_query_strides, dnnl_query_inner_blks,
                                          dnnl_query_inner_idxs };
    uint64_t h = (uint64_t)bytes_of(l);
    int count[2] = { 0 };           /* of axes, of inner blocks */
    dnnl_memory_desc_query(l->of, dnnl_query_ndims_s32, &count[0]);
    dnnl_memory_desc_query(l->of, dnnl_query_inner_nblks_s32, &count[1]);
    for (int i = 0; i < 4; i++) {
        const dnnl_dim_t *list = NULL;
        if (dnnl_memory_desc_query(l->of, lists[i], &list) == dnnl_success && list)
            h = (h ^ hash_bytes(list, (size_t)count[i / 2] * sizeof *list)) * 0x9E3779B97F4A7C15u;
    }
    return h;
}

void ag_layout_free(ag_layout *l)
{
    if (l->of) dnnl_memory_desc_destroy(l->of);
    l->of = NULL;
}
#else
#define LAYOUT(l) (&(l)->of)
typedef const dnnl_memory_desc_t *layout_pointer;

bool ag_layout_strided(ag_layout *l, int axes, const int64_t *dims, const int64_t *strides, int64_t dtype)
{
    dnnl_dims_t d, s;
    return dnnl_memory_desc_init_by_strides(&l->of, axes, full(d, axes, dims), ag_dnnl_type(dtype), full(s, axes, strides)) ==
           dnnl_success;
}

bool ag_layout_part(ag_layout *l, const ag_layout *whole, int axes, const int64_t *dims, int axis, int64_t first)
{
    dnnl_dims_t d, offsets = { [0] = 0 };
    offsets[axis] = first;
    return dnnl_memory_desc_init_submemory(&l->of, &whole->of, full(d, axes, dims), offsets) == dnnl_success;
}

bool ag_layout_any(ag_layout *l, int axes, const int64_t *dims, int64_t dtype)
{
    dnnl_dims_t d;
    return dnnl_memory_desc_init_by_tag(&l->of, axes, full(d, axes, dims), ag_dnnl_type(dtype), dnnl_format_tag_any) ==
           dnnl_success;
}

bool ag_layout_copy(ag_layout *l, dnnl_primitive_desc_t plan, dnnl_query_t which)
{
    const dnnl_memory_desc_t *found = dnnl_primitive_desc_query_md(plan, which, 0);
    if (found) l->of = *found;
    return found;
}

static int64_t bytes_of(const ag_layout *l)
{
    return (int64_t)dnnl_memory_desc_get_size(&l->of);
}

static uint64_t layout_hash(const ag_layout *l)
{
    return hash_bytes(&l->of, sizeof l->of);
}

void ag_layout_free(ag_layout *l)
{
    (void)l;
}
#endif

/* ---- attributes ---------------------------------------------------------------------------------------- */

typedef struct { dnnl_alg_kind_t kind; float alpha, beta; } eltwise;

static eltwise eltwise_of(int64_t activation)
{
    switch (activation) {
    case AG_LINEAR_GELU: return (eltwise){ dnnl_eltwise_gelu_erf, 0, 0 };
    case AG_LINEAR_RELU6: return (eltwise){ dnnl_eltwise_clip, 0, 6 };
    case AG_LINEAR_HARDSWISH: return (eltwise){ dnnl_eltwise_hardswish, 1.0f / 6, 0.5f };   /* version 2 takes no numbers */
    case AG_LINEAR_SILU: return (eltwise){ dnnl_eltwise_swish, 1, 0 };
    default: return (eltwise){ dnnl_eltwise_relu, 0, 0 };
    }
}

#if DNNL_VERSION_MAJOR >= 3
static void append(dnnl_post_ops_t ops, bool add, int64_t activation)
{
    const eltwise e = eltwise_of(activation);
    if (add) dnnl_post_ops_append_sum(ops, 1, 0, dnnl_data_type_undef);
    if (activation) dnnl_post_ops_append_eltwise(ops, e.kind, e.alpha, e.beta);
}
#else
static void append(dnnl_post_ops_t ops, bool add, int64_t activation)
{
    const eltwise e = eltwise_of(activation);
    if (add) dnnl_post_ops_append_sum(ops, 1);
    if (activation) dnnl_post_ops_append_eltwise(ops, 1, e.kind, e.alpha, e.beta);
}
#endif

dnnl_primitive_attr_t ag_dnnl_attributes(bool add, int64_t activation)
{
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    if (dnnl_primitive_attr_create(&attr)) return NULL;
    dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (dnnl_post_ops_create(&ops) == dnnl_success) {
        append(ops, add, activation);
        dnnl_primitive_attr_set_post_ops(attr, ops);
        dnnl_post_ops_destroy(ops);
    }
    return attr;
}

/* ---- plans --------------------------------------------------------------------------------------------- */

#if DNNL_VERSION_MAJOR >= 3
bool ag_plan_matmul(dnnl_primitive_desc_t *plan, const ag_layout *a, const ag_layout *b, const ag_layout *bias,
                    const ag_layout *c, dnnl_primitive_attr_t attr)
{
    return dnnl_matmul_primitive_desc_create(plan, mine->engine, a->of, b->of, bias ? bias->of : NULL, c->of, attr) ==
           dnnl_success;
}
#else
bool ag_plan_matmul(dnnl_primitive_desc_t *plan, const ag_layout *a, const ag_layout *b, const ag_layout *bias,
                    const ag_layout *c, dnnl_primitive_attr_t attr)
{
    dnnl_matmul_desc_t op;
    return dnnl_matmul_desc_init(&op, &a->of, &b->of, bias ? &bias->of : NULL, &c->of) == dnnl_success &&
           dnnl_primitive_desc_create(plan, &op, attr, mine->engine, NULL) == dnnl_success;
}
#endif

#if DNNL_VERSION_MAJOR >= 3
bool ag_plan_conv(dnnl_primitive_desc_t *plan, const ag_layout *a, const ag_layout *b, const ag_layout *bias,
                  const ag_layout *c, const ag_dnnl_window *w, dnnl_primitive_attr_t attr)
{
    return dnnl_convolution_forward_primitive_desc_create(plan, mine->engine, dnnl_forward_training, dnnl_convolution_direct,
                                                          a->of, b->of, bias ? bias->of : NULL, c->of, w->stride, w->dilation,
                                                          w->before, w->after, attr) == dnnl_success;
}

bool ag_plan_conv_gradient(dnnl_primitive_desc_t *plan, ag_dnnl_kind kind, const ag_layout *a, const ag_layout *b,
                           const ag_layout *c, const ag_dnnl_window *w, dnnl_primitive_desc_t forward,
                           dnnl_primitive_attr_t attr)
{
    if (kind == AG_DNNL_INPUT)
        return dnnl_convolution_backward_data_primitive_desc_create(plan, mine->engine, dnnl_convolution_direct, a->of, b->of,
                                                                    c->of, w->stride, w->dilation, w->before, w->after, forward,
                                                                    attr) == dnnl_success;
    return dnnl_convolution_backward_weights_primitive_desc_create(plan, mine->engine, dnnl_convolution_direct, a->of, b->of,
                                                                   NULL, c->of, w->stride, w->dilation, w->before, w->after,
                                                                   forward, attr) == dnnl_success;
}
#else
bool ag_plan_conv(dnnl_primitive_desc_t *plan, const ag_layout *a, const ag_layout *b, const ag_layout *bias,
                  const ag_layout *c, const ag_dnnl_window *w, dnnl_primitive_attr_t attr)
{
    dnnl_convolution_desc_t op;
    return dnnl_dilated_convolution_forward_desc_init(&op, dnnl_forward_training, dnnl_convolution_direct, &a->of, &b->of,
                                                      bias ? &bias->of : NULL, &c->of, w->stride, w->dilation, w->before,
                                                      w->after) == dnnl_success &&
           dnnl_primitive_desc_create(plan, &op, attr, mine->engine, NULL) == dnnl_success;
}

bool ag_plan_conv_gradient(dnnl_primitive_desc_t *plan, ag_dnnl_kind kind, const ag_layout *a, const ag_layout *b,
                           const ag_layout *c, const ag_dnnl_window *w, dnnl_primitive_desc_t forward,
                           dnnl_primitive_attr_t attr)
{
    dnnl_convolution_desc_t op;
    const dnnl_status_t status = kind == AG_DNNL_INPUT
        ? dnnl_dilated_convolution_backward_data_desc_init(&op, dnnl_convolution_direct, &a->of, &b->of, &c->of, w->stride,
                                                           w->dilation, w->before, w->after)
        : dnnl_dilated_convolution_backward_weights_desc_init(&op, dnnl_convolution_direct, &a->of, &b->of, NULL, &c->of,
                                                              w->stride, w->dilation, w->before, w->after);
    return status == dnnl_success && dnnl_primitive_desc_create(plan, &op, attr, mine->engine, forward) == dnnl_success;
}
#endif

bool ag_plan_reorder(dnnl_primitive_desc_t *plan, const ag_layout *from, const ag_layout *to, dnnl_primitive_attr_t attr)
{
    return dnnl_reorder_primitive_desc_create(plan, LAYOUT(from), mine->engine, LAYOUT(to), mine->engine, attr) == dnnl_success;
}

/* ---- primitives ---------------------------------------------------------------------------------------- */

static bool is_fast(dnnl_primitive_desc_t plan)
{
    const char *name = NULL;
    return dnnl_primitive_desc_query(plan, dnnl_query_impl_info_str, 0, &name) == dnnl_success && strncmp(name, "ref", 3) != 0;
}

static bool add_memory(dnnl_exec_arg_t *to, int arg, layout_pointer l, bool raw)
{
    const int64_t bytes = (int64_t)dnnl_memory_desc_get_size(l), one = 1;
    ag_layout flat = { 0 };
    to->arg = arg;
    bool ok = !raw || ag_layout_strided(&flat, 1, &bytes, &one, AG_U8);
    ok = ok && dnnl_memory_create(&to->memory, raw ? LAYOUT(&flat) : l, mine->engine, DNNL_MEMORY_NONE) == dnnl_success;
    ag_layout_free(&flat);
    return ok;
}

bool ag_dnnl_finish(ag_dnnl *p, dnnl_primitive_desc_t plan, int operands, const int *arg, const ag_layout *l, uint32_t raw)
{
    bool ok = is_fast(plan) && dnnl_primitive_create(&p->run, plan) == dnnl_success;
    p->operands = operands;
    for (int i = 0; i < operands && ok; i++) {
        p->bytes[i] = bytes_of(&l[i]);
        p->form[i] = layout_hash(&l[i]);
        ok = add_memory(&p->arg[i], arg[i], LAYOUT(&l[i]), raw >> i & 1);
    }
    layout_pointer s = ok ? dnnl_primitive_desc_query_md(plan, dnnl_query_scratchpad_md, 0) : NULL;
    p->scratch = s ? (int64_t)dnnl_memory_desc_get_size(s) : 0;
    if (p->scratch) ok = add_memory(&p->arg[operands], DNNL_ARG_SCRATCHPAD, s, true);
    dnnl_primitive_desc_destroy(plan);
    return ok;
}
#endif
