/* tests/test_memory.c - the heap, recomputing, reports and budgets. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
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

/* ---- reports and budgets ------------------------------------------------------------------------------- */

static char *report(void)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    ag_memory_report(f);
    fclose(f);
    return text;
}

/* What is in use by module: a parameter where it is registered, an activation where it is made; the peak and where it was. */
static void test_the_report_names_modules(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = nn_sequential(nn_linear(500, 1000), nn_gelu(), nn_linear(1000, 700));
    ag_memory_reset_peak();
    ag_tensor *loss = ag_mean(nn_call(net, ag_randn(400, 500)));
    char *text = report();
    assert_non_null(strstr(text, "parameters"));
    assert_non_null(strstr(text, "\n  0   "));
    assert_non_null(strstr(text, "\n  1   "));
    assert_null(strstr(text, "gradients"));
    free(text);
    ag_backward(loss);
    text = report();
    assert_non_null(strstr(text, "gradients"));
    assert_non_null(strstr(text, ", backward"));
    assert_true(*ag_memory(AG_CPU).peak_where && ag_memory(AG_CPU).peak_in_backward);
    free(text);
}

static void need(void *megabytes)
{
    AG_SCOPE;
    ag_tensor *t = ag_empty(AG_U8, *(const int *)megabytes, 1000000);
    memset(t->data, 1, (size_t)ag_numel(t));
}

static void advice(void *arg, char *text, size_t size) { snprintf(text, size, "%s", (const char *)arg); }

static void test_a_limit_is_kept(void **state)
{
    (void)state;
    AG_SCOPE;
    nn_module *net = nn_sequential(nn_linear(1000, 1500));
    ag_memory_trim();
    ag_memory_limit(ag_memory(AG_CPU).held + 20000000);
    assert_false(ag_try(need, &(int){ 15 }));
    assert_false(ag_try(need, &(int){ 12 }));                   /* what the other one let go of */
    assert_true(ag_try(need, &(int){ 25 }));
    assert_non_null(strstr(ag_error(), "out of memory: needed 25.0 MB, 20.0 MB free of"));
    assert_non_null(strstr(ag_error(), "MB  parameters of 0"));
    assert_non_null(strstr(ag_error(), "A smaller batch"));
    ag_memory_advise((ag_memory_advice){ advice, "Take half." });
    assert_true(ag_try(need, &(int){ 25 }));
    assert_non_null(strstr(ag_error(), "\nTake half."));
    ag_memory_advise((ag_memory_advice){ 0 });
    ag_memory_limit(0);
    assert_false(ag_try(need, &(int){ 25 }));
    assert_true(nn_numel(net) == 1501500 && ag_memory_budget(AG_CPU) > 25000000);
}

/* Half a step of a net with linear layers, norms and a second use of one tensor. */
static void one_step(void *unused)
{
    (void)unused;
    AG_SCOPE;
    nn_module *net = nn_sequential(nn_linear(64, 256), nn_layer_norm(256), nn_gelu(), nn_linear(256, 256));
    ag_tensor *y = nn_call(net, ag_randn(200, 64));
    ag_backward(ag_mean(ag_mul(y, ag_add(y, y))));
}

/* Wherever it ends, forward or backward, nothing is left of it. */
static void test_a_step_without_memory_leaves_nothing(void **state)
{
    (void)state;
    int failed = 0;
    for (int64_t limit = 0;; limit += 40000) {
        ag_memory_trim();
        const ag_memory_stats before = ag_memory(AG_CPU);
        ag_memory_limit(before.held + 1 + limit);
        const bool fails = ag_try(one_step, NULL);
        ag_memory_limit(0);
        const ag_memory_stats after = ag_memory(AG_CPU);
        if (after.tensors != before.tensors || after.nodes != before.nodes || after.in_use != before.in_use)
            fail_msg("with %d bytes: %d tensors, %d bytes are left", (int)limit, (int)(after.tensors - before.tensors),
                     (int)(after.in_use - before.in_use));
        if (!fails) break;
        failed++;
    }
    assert_true(failed > 20);
}

static void test_limits_are_read_from_the_environment(void **state)
{
    (void)state;
    const char *const good[] = { "8G", "300M", "1.5GiB", "123456789", "64KB" };
    const char *const bad[] = { "8X", "-1", "lots", "G", "1GG" };
    const double want[] = { 8 * 0x1p30, 300 * 0x1p20, 1.5 * 0x1p30, 123456789, 64 * 0x1p10 };
    for (int i = 0; i < 5; i++) assert_true((double)ag_parse_bytes(good[i]) == want[i]);
    for (int i = 0; i < 5; i++) assert_int_equal(ag_parse_bytes(bad[i]), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_lie_side_by_side),
        cmocka_unit_test(test_the_smallest_fit_is_taken),
        cmocka_unit_test(test_large_memory_is_shared_by_all_sizes),
        cmocka_unit_test(test_recomputed_gradients_are_the_same_bits),
        cmocka_unit_test(test_grad_of_chosen_inputs_of_recomputed_blocks),
        cmocka_unit_test(test_recomputing_notices_overwritten_weights),
        cmocka_unit_test(test_the_report_names_modules),
        cmocka_unit_test(test_a_limit_is_kept),
        cmocka_unit_test(test_a_step_without_memory_leaves_nothing),
        cmocka_unit_test(test_limits_are_read_from_the_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
