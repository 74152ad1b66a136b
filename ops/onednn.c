/* ops/onednn.c - the one file that knows oneDNN (versions 2 and 3). Primitives are made once per thread and description
 * and found again by comparing it; a call sets four pointers and executes. */
#include "ops/gemm.h"
#if !defined(AG_HAVE_ONEDNN) || defined(AG_F64)

bool ag_gemm_onednn(const ag_gemm *g)
{
    (void)g;
    return false;
}

#else
#include <dnnl.h>
#include <omp.h>
#include <string.h>
#include "core/memory.h"

enum { SLOTS = 256, ARGS = 4 };
static const double worth_waking = 6e6;     /* operations: about the time that core/thread.c takes for worth it */

typedef struct {        /* all that a primitive depends on; no padding: compared as bytes */
    int64_t batch, n, m, k, a_batch, a_row, a_col, b_batch, b_row, b_col, c_batch, c_row;
    int64_t bias, add, activation, threads;
} description;

typedef struct {
    description of;
    dnnl_primitive_t primitive;
    dnnl_memory_t memory[ARGS];     /* a, b, bias, c */
    bool used;
} slot;

static _Thread_local struct { dnnl_engine_t engine; dnnl_stream_t stream; slot slots[SLOTS]; } *mine;

static void check(dnnl_status_t status, const char *what)
{
    if (status != dnnl_success) ag_fail(NULL, "oneDNN: %s failed with status %d", what, (int)status);
}

static void start(void)
{
    mine = ag_alloc(1, sizeof *mine);       /* lives as long as its thread */
    check(dnnl_engine_create(&mine->engine, dnnl_cpu, 0), "the engine");
    check(dnnl_stream_create(&mine->stream, mine->engine, dnnl_stream_default_flags), "the stream");
}

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t layout;
#else
typedef dnnl_memory_desc_t layout;
#define dnnl_memory_desc_destroy(d) ((void)(d))
#endif

static layout describe(int64_t batch, int64_t rows, int64_t cols, int64_t s_batch, int64_t s_row, int64_t s_col)
{
    const int axes = batch == 1 ? 2 : 3;
    const dnnl_dims_t dims2 = { rows, cols }, strides2 = { s_row, s_col };
    const dnnl_dims_t dims3 = { batch, rows, cols }, strides3 = { s_batch, s_row, s_col };
    const int64_t *dims = axes == 2 ? dims2 : dims3, *strides = axes == 2 ? strides2 : strides3;
    layout d;
#if DNNL_VERSION_MAJOR >= 3
    check(dnnl_memory_desc_create_with_strides(&d, axes, dims, dnnl_f32, strides), "a layout");
#else
    check(dnnl_memory_desc_init_by_strides(&d, axes, dims, dnnl_f32, strides), "a layout");
#endif
    return d;
}

static dnnl_status_t plan(const layout d[ARGS], bool bias, dnnl_primitive_attr_t attr, dnnl_primitive_desc_t *pd)
{
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_matmul_primitive_desc_create(pd, mine->engine, d[0], d[1], bias ? d[2] : NULL, d[3], attr);
#else
    dnnl_matmul_desc_t op;
    const dnnl_status_t status = dnnl_matmul_desc_init(&op, &d[0], &d[1], bias ? &d[2] : NULL, &d[3]);
    return status == dnnl_success ? dnnl_primitive_desc_create(pd, &op, attr, mine->engine, NULL) : status;
#endif
}

static void append_eltwise(dnnl_post_ops_t ops, int64_t activation)
{
    const dnnl_alg_kind_t kind = activation == AG_LINEAR_RELU ? dnnl_eltwise_relu : dnnl_eltwise_gelu_erf;
#if DNNL_VERSION_MAJOR >= 3
    check(dnnl_post_ops_append_eltwise(ops, kind, 0, 0), "a post-op");
#else
    check(dnnl_post_ops_append_eltwise(ops, 1, kind, 0, 0), "a post-op");
#endif
}

static void fill(slot *s, const description *of)
{
    const layout d[ARGS] = {
        describe(of->batch, of->n, of->k, of->a_batch, of->a_row, of->a_col),
        describe(of->batch, of->k, of->m, of->b_batch, of->b_row, of->b_col),
        describe(1, 1, of->m, of->m, of->m, 1),
        describe(of->batch, of->n, of->m, of->c_batch, of->c_row, 1),
    };
    dnnl_primitive_attr_t attr;
    dnnl_post_ops_t ops;
    dnnl_primitive_desc_t pd;
    check(dnnl_primitive_attr_create(&attr), "attributes");
    check(dnnl_post_ops_create(&ops), "post-ops");
#if DNNL_VERSION_MAJOR >= 3
    if (of->add) check(dnnl_post_ops_append_sum(ops, 1, 0, dnnl_data_type_undef), "a post-op");
#else
    if (of->add) check(dnnl_post_ops_append_sum(ops, 1), "a post-op");
#endif
    if (of->activation) append_eltwise(ops, of->activation);
    check(dnnl_primitive_attr_set_post_ops(attr, ops), "post-ops");
    check(plan(d, of->bias != 0, attr, &pd), "planning a matrix product");
    check(dnnl_primitive_create(&s->primitive, pd), "a matrix product");
    for (int i = 0; i < ARGS; i++) {
#if DNNL_VERSION_MAJOR >= 3
        check(dnnl_memory_create(&s->memory[i], d[i], mine->engine, DNNL_MEMORY_NONE), "memory");
        dnnl_memory_desc_destroy(d[i]);
#else
        check(dnnl_memory_create(&s->memory[i], &d[i], mine->engine, DNNL_MEMORY_NONE), "memory");
#endif
    }
    dnnl_primitive_desc_destroy(pd);
    dnnl_post_ops_destroy(ops);
    dnnl_primitive_attr_destroy(attr);
    s->of = *of;
    s->used = true;
}

static void empty(slot *s)
{
    for (int i = 0; i < ARGS; i++) dnnl_memory_destroy(s->memory[i]);
    dnnl_primitive_destroy(s->primitive);
    s->used = false;
}

static slot *find(const description *of)
{
    if (!mine) start();
    uint64_t h = 0;
    int64_t word[sizeof *of / sizeof(int64_t)];
    memcpy(word, of, sizeof word);
    for (size_t i = 0; i < sizeof word / sizeof *word; i++) h = (h ^ (uint64_t)word[i]) * 0x9E3779B97F4A7C15u, h ^= h >> 29;
    slot *s = &mine->slots[h % SLOTS];
    if (s->used && !memcmp(&s->of, of, sizeof *of)) return s;
    if (s->used) empty(s);
    fill(s, of);
    return s;
}

/* oneDNN's fast kernels take matrices that are dense along one of their two axes. */
static bool dense_along_one(int64_t rows, int64_t cols, int64_t row, int64_t col)
{
    return (col == 1 && row >= cols) || (row == 1 && col >= rows);
}

bool ag_gemm_onednn(const ag_gemm *g)
{
    if (!g->k || !dense_along_one(g->n, g->k, g->a_row, g->a_col) || !dense_along_one(g->k, g->m, g->b_row, g->b_col))
        return false;
    if (g->batch > 1 && (!g->a_batch || !g->b_batch || g->bias)) return false;
    const double flops = 2 * (double)g->batch * (double)g->n * (double)g->m * (double)g->k;
    const int all = ag_threads(), threads = flops < worth_waking ? 1 : all;
    const description of = { g->batch, g->n, g->m, g->k, g->a_batch, g->a_row, g->a_col, g->b_batch, g->b_row, g->b_col,
                             g->c_batch, g->c_row, g->bias != NULL, g->add, (int64_t)g->activation, threads };
    if (threads != all) omp_set_num_threads(threads);
    slot *s = find(&of);
    void *const data[ARGS] = { (void *)(uintptr_t)g->a, (void *)(uintptr_t)g->b, (void *)(uintptr_t)g->bias, g->c };
    for (int i = 0; i < ARGS; i++) if (data[i]) dnnl_memory_set_data_handle(s->memory[i], data[i]);
    const dnnl_exec_arg_t args[ARGS] = { { DNNL_ARG_SRC, s->memory[0] }, { DNNL_ARG_WEIGHTS, s->memory[1] },
                                         { DNNL_ARG_DST, s->memory[3] }, { DNNL_ARG_BIAS, s->memory[2] } };
    check(dnnl_primitive_execute(s->primitive, mine->stream, g->bias ? 4 : 3, args), "a matrix product");
    check(dnnl_stream_wait(mine->stream), "a matrix product");
    if (threads != all) omp_set_num_threads(all);
    return true;
}
#endif
