/* tests/test_memory.c - the heap, recomputing, plans, reports and budgets. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "agrad.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recomputed_gradients_are_the_same_bits),
        cmocka_unit_test(test_grad_of_chosen_inputs_of_recomputed_blocks),
        cmocka_unit_test(test_recomputing_notices_overwritten_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
