/* tests/test_memory.c - the heap, recomputing, plans, reports and budgets. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "agrad.h"
#include "core/heap.h"
#include "core/random.h"

/* ---- the heap ------------------------------------------------------------------------------------------ */

static ag_heap_block *get(ag_heap *h, int64_t bytes)
{
    if (!ag_heap_fed(h)) ag_heap_feed(h, ag_alloc(64, sizeof(ag_heap_block)), 64);
    return ag_heap_get(h, bytes);
}

static void assert_whole(const ag_heap *h)
{
    int64_t end = h->end, in_use = 0;
    for (const ag_heap_block *b = h->last; b; b = b->below) {
        assert_int_equal(b->at + b->size, end);
        assert_false(b->free && b->below && b->below->free);
        end = b->at;
        if (!b->free) in_use += b->size;
    }
    assert_int_equal(end, 0);
    assert_int_equal(in_use, h->in_use);
}

static void forget(void *arg, int64_t at, int64_t size)
{
    (void)at;
    *(int64_t *)arg += size;
}

static void test_blocks_lie_side_by_side(void **state)
{
    (void)state;
    enum { N = 50 };
    ag_heap h = { 0 };
    ag_heap_block *taken[N] = { NULL };
    ag_rng r = { .seed = 1 };
    for (int i = 0; i < 20000; i++) {
        const int64_t k = ag_rng_below(&r, N);
        if (taken[k]) ag_heap_put(&h, taken[k]), taken[k] = NULL;
        else taken[k] = get(&h, 1 + ag_rng_below(&r, (int64_t)1 << (12 + ag_rng_below(&r, 12))));
        if (i % 100 == 0) assert_whole(&h);
    }
    int64_t given = 0;
    ag_heap_trim(&h, forget, &given);
    assert_true(ag_heap_held(&h) == h.in_use && given > 0);
    for (int k = 0; k < N; k++) if (taken[k]) ag_heap_put(&h, taken[k]);
    ag_heap_trim(&h, forget, &given);
    assert_int_equal(h.end, 0);
    ag_heap_drop(&h);
}

static void test_the_smallest_fit_is_taken(void **state)
{
    (void)state;
    enum { P = AG_HEAP_PAGE };
    ag_heap h = { 0 };
    ag_heap_block *b[7];
    const int sizes[7] = { 8, 1, 4, 1, 4, 1, 6 };           /* pages; the even ones are freed */
    for (int i = 0; i < 7; i++) b[i] = get(&h, sizes[i] * P);
    for (int i = 0; i < 6; i += 2) ag_heap_put(&h, b[i]);
    assert_int_equal(get(&h, 3 * P + 1)->at, 9 * P);        /* of two equal ones the lower */
    assert_int_equal(get(&h, 3 * P)->at, 14 * P);
    assert_int_equal(get(&h, P)->at, 17 * P);               /* what was left of it */
    assert_int_equal(get(&h, 5 * P)->at, 0);
    ag_heap_put(&h, b[6]);
    assert_int_equal(get(&h, 7 * P)->at, 19 * P);           /* the last block grows */
    assert_int_equal(h.end, 26 * P);
    ag_heap_drop(&h);
}

/* ---- large tensors ------------------------------------------------------------------------------------- */

/* What one class of sizes let go of serves another, and the system is not asked again. */
static void test_large_memory_is_shared_by_all_sizes(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_memory_trim();
    const int64_t held = ag_memory(AG_CPU).held;
    {
        AG_SCOPE;
        assert_true(ag_item(ag_sum(ag_zeros(5, 1000, 1000))) == 0);
    }
    const ag_memory_stats before = ag_memory(AG_CPU);
    for (int i = 8; i < 400; i += 7) {
        AG_SCOPE;
        ag_tensor *a = ag_empty(AG_U8, 20000000 - 49000 * i), *b = ag_empty(AG_U8, 40000 * i);
        assert_true((uintptr_t)a->data % 4096 == 0 && (char *)a->data != (char *)b->data);
        memset(a->data, i, (size_t)ag_numel(a));
    }
    const ag_memory_stats after = ag_memory(AG_CPU);
    assert_true(after.held - before.held < 4096);           /* headers */
    assert_true(after.held - held < 21 << 20);
    ag_memory_trim();
    assert_true(ag_memory(AG_CPU).held <= held);
}

/* ---- recomputing --------------------------------------------------------------------------------------- */

typedef struct { nn_module base; nn_module *body; bool recompute; } block;

static ag_tensor *block_forward(nn_module *m, ag_tensor *x)
{
    const block *s = NN_SELF(block, m);
    return ag_add(x, s->recompute ? nn_call_recompute(s->body, x) : nn_call(s->body, x));
}

static nn_module *block_new(nn_module *body, bool recompute)
{
    block *s = NN_NEW(block, block_forward);
    NN_CHILD(s, body, body);
    s->recompute = recompute;
    return &s->base;
}

static nn_module *body_new(int64_t width)
{
    return nn_sequential(nn_batch_norm1d(width), nn_linear(width, 2 * width), nn_gelu(), nn_dropout(0.3),
                         nn_linear(2 * width, width));
}

/* Recomputed at no, one or two levels. */
static nn_module *net_new(int level)
{
    ag_manual_seed(3);
    nn_module *net = nn_sequential(nn_linear(5, 8));
    for (int i = 0; i < 3; i++) nn_append(net, block_new(block_new(body_new(8), level > 1), level > 0));
    nn_append(net, nn_linear(8, 3));
    return net;
}

typedef struct { nn_module *net; ag_tensor *gx; double loss; } trained;

/* Two batches' gradients added up, weights and statistics as after them. */
static trained train(int level, bool frozen_stem)
{
    nn_module *net = net_new(level);
    if (frozen_stem) nn_freeze(net, "0.*");
    ag_manual_seed(4);
    trained r = { .net = net };
    for (int i = 0; i < 2; i++) {
        ag_tensor *x = ag_randn(6, 5), *y = ag_randn(6, 3);
        if (i == 1 && !frozen_stem) ag_param(x);
        ag_tensor *loss = ag_mse_loss(nn_call(net, x), y);
        r.loss += ag_item(loss);
        ag_backward(loss);
        r.gx = x->grad;
    }
    return r;
}

static void assert_same_values(const ag_tensor *a, const ag_tensor *b)
{
    assert_int_equal(ag_numel(a), ag_numel(b));
    assert_memory_equal(a->data, b->data, (size_t)ag_numel(a) * ag_dtype_size(a->dtype));
}

static void test_recomputed_gradients_are_the_same_bits(void **state)
{
    (void)state;
    for (int frozen = 0; frozen < 2; frozen++)
        for (int level = 1; level <= 2; level++) {
            AG_SCOPE;
            const trained a = train(0, frozen);
            const uint64_t next = ag_rng_draw();
            const trained b = train(level, frozen);
            assert_true(next == ag_rng_draw());
            assert_true(a.loss == b.loss);
            for (int64_t i = 0; i < nn_param_count(a.net); i++) {
                const ag_tensor *p = nn_param_at(a.net, i), *q = nn_param_at(b.net, i);
                assert_true(!p->grad == !q->grad);
                if (p->grad) assert_same_values(p->grad, q->grad);
            }
            for (int64_t i = 0; i < nn_buffer_count(a.net); i++)
                assert_same_values(nn_buffer_at(a.net, i), nn_buffer_at(b.net, i));
            if (!frozen) assert_same_values(a.gx, b.gx);
        }
}

/* torch.autograd.grad through recomputed blocks: of an intermediate tensor and of a parameter inside. */
static void test_grad_of_chosen_inputs_of_recomputed_blocks(void **state)
{
    (void)state;
    AG_SCOPE;
    ag_tensor *found[2][3];
    for (int level = 0; level < 2; level++) {
        nn_module *net = net_new(level);
        ag_manual_seed(6);
        ag_tensor *x = ag_param(ag_randn(4, 5)), *h = nn_call(nn_at(net, "0"), x), *y = h;
        for (int i = 1; i < 5; i++) y = nn_call(nn_at(net, (const char[]){ (char)('0' + i), 0 }), y);
        ag_tensor *in[] = { h, x, nn_param(net, "2.body.body.1.weight") };
        ag_grad(ag_sum(ag_square(y)), 3, in, found[level]);
        assert_null(in[2]->grad);
        assert_null(nn_param(net, "0.weight")->grad);
    }
    for (int i = 0; i < 3; i++) assert_same_values(found[0][i], found[1][i]);
}

static void backward_of(void *loss) { ag_backward(loss); }

static void test_recomputing_notices_overwritten_weights(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = net_new(1);
    ag_tensor *loss = ag_sum(nn_call(net, ag_randn(4, 5)));
    ag_fill(nn_param(net, "2.body.body.1.weight"), 1);
    assert_true(ag_try(backward_of, loss));
    assert_non_null(strstr(ag_error(), "an input was overwritten"));
    const ag_memory_stats before = ag_memory(AG_CPU);
    for (int i = 0; i < 3; i++) {
        AG_SCOPE;
        ag_backward(ag_sum(nn_call(net, ag_randn(4, 5))));
    }
    assert_int_equal(ag_memory(AG_CPU).nodes, before.nodes);
}

/* ---- plans --------------------------------------------------------------------------------------------- */

/* A transformer's block of the ops that models are made of. */
typedef struct {
    nn_module base;
    nn_module *norm1, *qkv, *proj, *norm2, *drop;
    ag_tensor *w1, *b1, *w2, *b2;
    int64_t heads;
} former;

static ag_tensor *former_forward(nn_module *m, ag_tensor *x)
{
    const former *s = NN_SELF(former, m);
    const int64_t n = x->shape[0], l = x->shape[1], c = x->shape[2];
    ag_tensor *qkv = ag_reshape(nn_call(s->qkv, nn_call(s->norm1, x)), n, l, 3, s->heads, c / s->heads);
    ag_tensor *y = ag_attention(ag_select(qkv, 2, 0), ag_select(qkv, 2, 1), ag_select(qkv, 2, 2));
    x = ag_add(x, nn_call(s->drop, nn_call(s->proj, ag_reshape(y, n, l, c))));
    return ag_add(x, ag_mlp(nn_call(s->norm2, x), s->w1, s->b1, s->w2, s->b2, AG_LINEAR_GELU));
}

static nn_module *former_new(int64_t width, int64_t heads)
{
    former *s = NN_NEW(former, former_forward);
    NN_CHILD(s, norm1, nn_layer_norm(width));
    NN_CHILD(s, qkv, nn_linear(width, 3 * width));
    NN_CHILD(s, proj, nn_linear(width, width));
    NN_CHILD(s, norm2, nn_layer_norm(width));
    NN_CHILD(s, drop, nn_dropout(0.1));
    NN_PARAM(s, w1, ag_randn(4 * width, width));
    NN_PARAM(s, b1, ag_zeros(4 * width));
    NN_PARAM(s, w2, ag_randn(width, 4 * width));
    NN_PARAM(s, b2, ag_zeros(width));
    s->heads = heads;
    return &s->base;
}

typedef struct { nn_module base; nn_module *body; } mean_of;

static ag_tensor *mean_forward(nn_module *m, ag_tensor *x)
{
    return ag_mean(nn_call(NN_SELF(mean_of, m)->body, x), .axes = AG_AXES(1));
}

static nn_module *transformer(int blocks, bool recompute)
{
    mean_of *s = NN_NEW(mean_of, mean_forward);
    nn_module *list = nn_sequential(nn_linear(48, 192));
    for (int i = 0; i < blocks; i++) nn_append(list, former_new(192, 3));
    nn_recompute(list, recompute);
    NN_CHILD(s, body, list);
    return nn_sequential(&s->base, nn_batch_norm1d(192), nn_linear(192, 100));
}

static double measured_peak(nn_module *net, ag_tensor *x, ag_tensor *y, bool train, const char *precision)
{
    ag_scope mode AG_CLEANUP(ag_scope_end) = ag_autocast_begin(AG_HERE, precision);
    optim *opt = train ? optim_adamw(net, 1e-3) : NULL;
    for (int i = 0; i < 2; i++) {
        AG_SCOPE;
        ag_memory_reset_peak();
        if (train) {
            ag_backward(ag_cross_entropy(nn_call(net, x), y));
            optim_step(opt);
        } else {
            NN_EVAL(net);
            assert_int_equal(nn_call(net, x)->shape[1], 100);
        }
    }
    return (double)ag_memory(AG_CPU).peak;
}

static void test_a_plan_is_what_is_measured(void **state)
{
    (void)state;
    for (int k = 0; k < 8; k++) {
        AG_SCOPE;
        const bool train = k & 1, recompute = k & 2;
        const char *precision = k & 4 ? "bf16" : "f32";
        nn_module *net = transformer(4, recompute);
        const ag_memory_stats before = ag_memory(AG_CPU);
        const ag_rng rng = ag_rng_get();
        const ag_plan p = ag_memory_plan(net, AG_SHAPE(9, 64, 48), .train = train, .precision = k & 4 ? AG_BF16 : AG_F32);
        assert_true(ag_memory(AG_CPU).in_use == before.in_use && ag_memory(AG_CPU).tensors == before.tensors);
        assert_true(ag_rng_get().next == rng.next && ag_item(nn_param(net, "1.num_batches_tracked")) == 0);
        assert_null(nn_param(net, "2.weight")->grad);
        assert_int_equal(p.peak, p.parameters + p.gradients + p.optimizer + p.activations + p.workspace + p.packed + p.input);
        ag_tensor *x = ag_randn(9, 64, 48), *y = ag_from(AG_I64, ((int64_t[9]){ 0 }), 9);
        const double peak = measured_peak(net, x, y, train, precision), off = (double)p.peak / peak - 1;
        if (!(off > -0.05 && off < 0.05))
            fail_msg("case %d: planned %.2f MB, measured %.2f MB (%s)", k, (double)p.peak / 1e6, peak / 1e6, p.where);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_lie_side_by_side),
        cmocka_unit_test(test_the_smallest_fit_is_taken),
        cmocka_unit_test(test_large_memory_is_shared_by_all_sizes),
        cmocka_unit_test(test_recomputed_gradients_are_the_same_bits),
        cmocka_unit_test(test_grad_of_chosen_inputs_of_recomputed_blocks),
        cmocka_unit_test(test_a_plan_is_what_is_measured),
        cmocka_unit_test(test_recomputing_notices_overwritten_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
