/* tests/test_cuda_graph.c - a fit whose steps are CUDA graphs (optim/replay.c) against the same fit launched op by op: the same
 * bits; what waits in the steady state; what cannot be a graph. On a GPU, or in its emulation (tests/test_cuda.c). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <unistd.h>
#include "core/memory.h"
#include "tests/cuda_cases.h"

#ifdef AG_EMULATE
int64_t ag_emulate_count(int kind);
void ag_emulate_lazy(bool lazy);
#else
static int64_t ag_emulate_count(int kind) { return (void)kind, -1; }
static void ag_emulate_lazy(bool lazy) { (void)lazy; }
#endif
enum { QUEUED, GRAPHS, WAITS, MALLOCS };                /* what ag_emulate_count counts */

enum { USERS = 30, ITEMS = 20, SIDE = 32, CLASSES = 4 };

/* ---- what is trained ----------------------------------------------------------------------------------- */

typedef struct {
    nn_module *(*build)(void);
    optim *(*make)(nn_module *net);     /* NULL: the learner's own */
    bool pictures, mixes;
    int n, batch, accumulate, epochs;
    double clip;
    const char *precision;
} recipe;

static nn_module *dot_bias(void) { return model_dot_bias(USERS, ITEMS, 5, .lo = 0, .hi = 5.5); }
static nn_module *dot_bias_rows(void) { return model_dot_bias(USERS, ITEMS, 5, .lo = 0, .hi = 5.5, .sparse = true); }
static nn_module *neural(void)
{
    return model_embedding_nn(USERS, ITEMS, .user_width = 9, .item_width = 7, .layers = MODEL_LAYERS(40, 12), .dropout = 0.1,
                              .lo = 0, .hi = 5.5);
}
static nn_module *convnext(void) { return model_create("convnext_atto", .classes = CLASSES, .drop_path = 0.3); }
static nn_module *small_net(void)
{
    return nn_sequential(nn_conv2d(3, 8, 3, .stride = 2), nn_batch_norm2d(8), nn_relu(), nn_conv2d(8, 8, 3), nn_batch_norm2d(8),
                         nn_relu(), nn_adaptive_avg_pool2d(1, 1), nn_flatten(), nn_dropout(0.2), nn_linear(8, CLASSES));
}

/* Attention over 8 x 8 pixels, with one head of 8 columns: what cuDNN takes in bf16. */
typedef struct { nn_module base; nn_module *qkv, *last; } attender;
static ag_tensor *attender_forward(nn_module *m, ag_tensor *x)
{
    const attender *s = NN_SELF(attender, m);
    ag_tensor *qkv = nn_call(s->qkv, ag_interpolate(x, 8, 8));
    ag_tensor *y = ag_attention_qkv(ag_reshape(qkv, x->shape[0], 64, 3, 1, 8));
    return nn_call(s->last, ag_mean(ag_reshape(y, x->shape[0], 64, 8), .axes = AG_AXES(1)));
}
static nn_module *attending(void)
{
    attender *s = NN_NEW(attender, attender_forward);
    NN_CHILD(s, qkv, nn_linear(3, 24));
    NN_CHILD(s, last, nn_linear(8, CLASSES));
    return &s->base;
}

static optim *make_lamb(nn_module *net) { return optim_lamb(net, 1e-2, .weight_decay = 0.1); }
static optim *make_nesterov(nn_module *net) { return optim_sgd(net, 1e-2, .momentum = 0.9, .nesterov = true); }

static optim *make_lazy(nn_module *net) { return optim_lazy_adamw(net, 1e-2, .weight_decay = 0.1); }
static optim *make_vanishing(nn_module *net) { return optim_lazy_adamw(net, 1e-2, .weight_decay = 20); }
static optim *make_sparse_adam(nn_module *net) { return optim_sparse_adam(net, 1e-2); }
static optim *make_sgd(nn_module *net) { return optim_sgd(net, 1e-2); }
static optim *make_momentum(nn_module *net) { return optim_sgd(net, 1e-2, .momentum = 0.9); }

static data_set *ratings(int n)
{
    ag_tensor *ids = ag_empty_(AG_HERE, AG_I64, AG_SHAPE(n, 2)), *y = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(n));
    ag_rng r = { .seed = 4 };
    for (int i = 0; i < n; i++) {
        int64_t *id = (int64_t *)ids->data + 2 * i;
        id[0] = ag_rng_below(&r, USERS), id[1] = ag_rng_below(&r, ITEMS);
        ag_real(y)[i] = (real)(1 + (id[0] * 7 + id[1] * 3) % 5);
    }
    return data_from_tensors(ids, y);
}

static data_set *pictures(int n)
{
    ag_tensor *x = ag_empty_(AG_HERE, AG_F32, AG_SHAPE(n, SIDE, SIDE, 3)), *y = ag_empty_(AG_HERE, AG_I64, AG_SHAPE(n));
    ag_fill_normal(ag_real(x), ag_numel(x), 6);
    for (int i = 0; i < n; i++) ((int64_t *)y->data)[i] = i % CLASSES;
    return data_from_tensors(x, y);
}

static learner *learner_of(const recipe *r, bool eager)
{
    ag_init(.device = "cpu");
    data_set *set = r->pictures ? pictures(r->n) : ratings(r->n);
    ag_init(.device = "cuda", .seed = 11);
    nn_module *net = r->build();
    learner_opts o = { .opt = r->make ? r->make(net) : NULL, .clip = r->clip, .precision = r->precision, .quiet = true,
                       .accumulate = r->accumulate, .eager = eager };
    if (r->pictures)
        o.targets = (data_targets){ 1, { { .name = "class", .kind = DATA_TARGET_CATEGORY, .classes = CLASSES, .columns = 1 } } };
    learner *l = ag_learner_new_(AG_HERE, data_loader_new(set, r->batch, .shuffle = true, .seed = 5), NULL, net,
                                 r->pictures ? NULL : learner_mse, o);
    learner_add(l, learner_ema(.decay = 0.8));
    if (r->mixes) learner_add(l, learner_mixup());
    return l;
}

static void take_all(learner *l, values *out)
{
    out->n = 0;
    out->v[out->n++] = l->train_loss;
    for (int64_t i = 0; i < nn_param_count(l->net); i++) {
        ag_tensor *t = nn_param_at(l->net, i);
        if (ag_numel(t) < 1000) take(out, t);
        else take(out, ag_sum(ag_square(ag_detach(t))));
    }
    for (int64_t i = 0; i < nn_buffer_count(l->net); i++) take(out, nn_buffer_at(l->net, i));
    out->v[out->n++] = (double)optim_steps(l->opt);
    out->v[out->n++] = (double)ag_rng_get().next;
    ag_init(.device = "cpu");
}

static void fit(const recipe *r, bool eager, values *out)
{
    AG_SCOPE;
    learner *l = learner_of(r, eager);
    learner_fit_one_cycle(l, r->epochs, 1e-2);
    take_all(l, out);
}

static values want, got;

static void same_bits(const recipe *r, int64_t least)
{
    const int64_t before = ag_emulate_count(GRAPHS);
    fit(r, true, &want);
    assert_int_equal(ag_emulate_count(GRAPHS), before);
    fit(r, false, &got);
    if (before >= 0) assert_true(ag_emulate_count(GRAPHS) - before >= least);
    assert_int_equal(got.n, want.n);
    assert_memory_equal(got.v, want.v, (size_t)want.n * sizeof *want.v);
}

/* ---- the tests ------------------------------------------------------------------------------------------ */

/* 5 batches an epoch, the last of them smaller: of each kind all but the first are graphs. */
static const recipe bias = { .build = dot_bias, .n = 90, .batch = 20, .epochs = 4 };

static void test_recommenders(void **state)
{
    (void)state;
    recipe r = bias;
    same_bits(&r, 4 * 5 - 2);
    r.make = make_lamb, r.clip = 0.05;
    same_bits(&r, 18);
    r = (recipe){ .build = neural, .make = make_nesterov, .n = 90, .batch = 20, .epochs = 3, .clip = 0.1 };
    same_bits(&r, 13);
}

/* Steps of rows: lazy ones, clipped ones, ones whose clocks start anew on the way, ones that a rule takes as dense. */
static void test_rows(void **state)
{
    (void)state;
    recipe r = { .build = dot_bias_rows, .make = make_lazy, .n = 90, .batch = 20, .epochs = 4 };
    same_bits(&r, 18);
    r.clip = 0.05;
    same_bits(&r, 18);
    r.make = make_sparse_adam;
    same_bits(&r, 18);
    r.make = make_sgd, r.clip = 0;
    same_bits(&r, 18);
    r.make = make_momentum;
    same_bits(&r, 18);
    r.make = make_vanishing, r.epochs = 20;
    same_bits(&r, 98);
    r.make = make_lazy, r.epochs = 4;
    ag_emulate_lazy(true);
    same_bits(&r, 18);
    ag_emulate_lazy(false);
    r.accumulate = 2;                   /* rows of several batches are gathered op by op */
    same_bits(&r, 0);
}

static void test_pictures(void **state)
{
    (void)state;
    const recipe rows[] = {
        { .build = small_net, .pictures = true, .n = 10, .batch = 4, .epochs = 3, .mixes = true },
        { .build = small_net, .pictures = true, .n = 8, .batch = 4, .epochs = 3, .precision = "bf16", .clip = 0.5 },
        { .build = convnext, .pictures = true, .n = 3, .batch = 1, .epochs = 1, .precision = "bf16", .clip = 1 },
        { .build = attending, .pictures = true, .n = 8, .batch = 4, .epochs = 2, .precision = "bf16" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) same_bits(&rows[i], 2);
}

/* Groups of 2 batches, the last of one; first, middle and last batches are graphs of their own. */
static void test_accumulated_gradients(void **state)
{
    (void)state;
    recipe r = bias;
    r.accumulate = 2, r.epochs = 5;
    same_bits(&r, 5 * 5 - 3);
    r.accumulate = 4, r.clip = 0.1;
    same_bits(&r, 5 * 5 - 4);
}

static void test_the_same_with_lazy_streams(void **state)
{
    (void)state;
    ag_emulate_lazy(true);
    same_bits(&bias, 18);
    ag_emulate_lazy(false);
}

/* Between the batches of an epoch that is under way: one graph, no wait but for the step before, no memory. */
typedef struct { int64_t at[4], worst[4]; int batches; } watch;

static learner_flow watch_batches(learner *l, learner_event e, void *state)
{
    watch *w = state;
    if (e == LEARNER_BEFORE_BATCH && l->epoch == 2 && l->batch > 1 && l->batch < 4) {
        for (int k = 0; k < 4; k++) {
            const int64_t more = ag_emulate_count(k) - w->at[k];
            if (l->batch > 2 && more > w->worst[k]) w->worst[k] = more;
            w->at[k] = ag_emulate_count(k);
        }
        w->batches++;
    }
    return LEARNER_GO;
}

static void test_nothing_waits_in_the_steady_state(void **state)
{
    (void)state;
    AG_SCOPE;
    watch w = { 0 };
    learner *l = learner_of(&bias, false);
    learner_add(l, (learner_callback){ .on = watch_batches, .between_steps = true, .state = &w });
    learner_fit(l, 3, 1e-2);
    assert_int_equal(w.batches, 2);
    if (ag_emulate_count(GRAPHS) >= 0) {
        assert_int_equal(w.worst[GRAPHS], 1);
        assert_int_equal(w.worst[WAITS], 0);
        assert_int_equal(w.worst[MALLOCS], 0);
        print_message("queued beside the graph of a step: %d\n", (int)w.worst[QUEUED]);
    }
    ag_init(.device = "cpu");
}

/* ---- what goes wrong ------------------------------------------------------------------------------------ */

/* From the step `when` on, what the loss is multiplied with is no number: it is read by the graph, and changed between steps. */
typedef struct { int64_t when; ag_tensor *factor, *before[8]; learner *l; } poison;

static ag_tensor *poisoned;

static ag_tensor *poisoned_loss(ag_tensor *pred, ag_tensor *y)
{
    return ag_mul(ag_mse_loss(pred, y), poisoned);
}

static learner_flow inject(learner *l, learner_event e, void *state)
{
    const poison *p = state;
    if (e == LEARNER_BEFORE_BATCH && l->step == p->when) {
        for (int64_t i = 0; i < nn_param_count(l->net); i++) ag_copy(p->before[i], nn_param_at(l->net, i));
        ag_fill(poisoned, NAN);
    }
    return LEARNER_GO;
}

static void fit_poisoned(void *p)
{
    learner_fit(((poison *)p)->l, 3, 1e-2);
}

static void keeps_the_weights_before(const recipe *r)
{
    AG_SCOPE;
    poison p = { .when = 7 };
    learner *l = p.l = learner_of(r, false);
    l->loss = poisoned_loss;
    poisoned = ag_ones(1);
    for (int64_t i = 0; i < nn_param_count(l->net); i++) p.before[i] = ag_full_(AG_HERE, 0, ag_shape_of(nn_param_at(l->net, i)));
    learner_add(l, (learner_callback){ .on = inject, .between_steps = true, .state = &p });
    assert_true(ag_try(fit_poisoned, &p));
    assert_non_null(strstr(ag_error(), "the loss became NaN in epoch 1, step 7, batch 2; the weights of the step before are"));
    want.n = got.n = 0;
    for (int64_t i = 0; i < nn_param_count(l->net); i++) take(&want, p.before[i]), take(&got, nn_param_at(l->net, i));
    assert_memory_equal(got.v, want.v, (size_t)want.n * sizeof *want.v);
    ag_fill(poisoned, 1), p.when = -1;
    learner_fit(l, 3, 1e-2);            /* the next fit learns again */
    got.n = 0;
    for (int64_t i = 0; i < nn_param_count(l->net); i++) take(&got, nn_param_at(l->net, i));
    assert_memory_not_equal(got.v, want.v, (size_t)want.n * sizeof *want.v);
    ag_init(.device = "cpu");
}

static void test_a_loss_that_is_no_number_keeps_the_weights_before(void **state)
{
    (void)state;
    keeps_the_weights_before(&bias);
    keeps_the_weights_before(&(recipe){ .build = dot_bias_rows, .make = make_sgd, .n = 90, .batch = 20, .epochs = 4 });
}

static learner_flow look(learner *l, learner_event e, void *state)
{
    if (e == LEARNER_AFTER_PRED) *(int *)state += l->pred != NULL;
    return LEARNER_GO;
}

static void test_a_callback_that_looks_inside_sees_every_step(void **state)
{
    (void)state;
    AG_SCOPE;
    int seen = 0;
    const int64_t before = ag_emulate_count(GRAPHS);
    learner *l = learner_of(&bias, false);
    learner_add(l, (learner_callback){ .on = look, .state = &seen });
    learner_fit(l, 2, 1e-2);
    assert_int_equal(seen, 10);
    assert_int_equal(ag_emulate_count(GRAPHS), before);
    ag_init(.device = "cpu");
}

static ag_tensor *waiting_loss(ag_tensor *pred, ag_tensor *y)
{
    ag_tensor *loss = ag_mse_loss(pred, y);
    return ag_item(loss) > 1e9 ? ag_square(loss) : loss;
}

static ag_tensor *host_loss(ag_tensor *pred, ag_tensor *y)
{
    return ag_add(ag_mse_loss(pred, y), ag_from(AG_F32, ((const real[]){ 0 }), 1));
}

static void fit_with(learner_loss loss, bool eager, values *out)
{
    AG_SCOPE;
    learner *l = learner_of(&bias, eager);
    l->loss = loss;
    learner_fit(l, 2, 1e-2);
    take_all(l, out);
}

/* What is printed to stderr while fn runs. */
static void said_by(learner_loss loss, values *out, char *text, size_t size)
{
    char path[] = "/tmp/agrad-graph-XXXXXX";
    const int to = mkstemp(path), err = dup(2);
    dup2(to, 2);
    fit_with(loss, false, out);
    dup2(err, 2);
    close(err);
    const ssize_t n = pread(to, text, size - 1, 0);
    text[n > 0 ? n : 0] = 0;
    close(to);
    unlink(path);
}

static void test_what_waits_goes_on_op_by_op_and_says_why(void **state)
{
    (void)state;
    const struct { learner_loss loss; const char *why; } rows[] = {
        { waiting_loss, "results are read on the host in the middle of a step" },
        { host_loss, "memory of the host is read in the middle of a step" },
    };
    char text[1000];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fit_with(rows[i].loss, true, &want);
        said_by(rows[i].loss, &got, text, sizeof text);
        assert_non_null(strstr(text, "steps are launched op by op, not as one CUDA graph, because"));
        assert_non_null(strstr(text, rows[i].why));
        assert_memory_equal(got.v, want.v, (size_t)want.n * sizeof *want.v);
    }
}

static void fit_bad_ids(void *p)
{
    (void)p;
    AG_SCOPE;
    ag_init(.device = "cpu");
    ag_tensor *ids = ag_zeros(90, 2), *y = ag_ones(90);
    ag_tensor *wide = ag_cast(ids, AG_I64);
    ((int64_t *)wide->data)[2 * 55] = USERS;
    ag_init(.device = "cuda", .seed = 11);
    learner *l = learner_new(data_loader_new(data_from_tensors(wide, y), 10), NULL, dot_bias(), learner_mse, .quiet = true);
    learner_fit(l, 1, 1e-2);
}

static void test_an_id_out_of_range_is_named(void **state)
{
    (void)state;
    assert_true(ag_try(fit_bad_ids, NULL));
    ag_init(.device = "cpu");
    assert_non_null(strstr(ag_error(), "ids[5] = 30, but the table has rows 0 to 29"));
}

/* A fit leaves nothing behind. */
static void test_graphs_give_their_memory_back(void **state)
{
    (void)state;
    ag_device_memory before, after;
    for (int i = 0; i < 2; i++) fit(&bias, false, &got);
    ag_device_table(AG_CUDA)->memory(&before);
    for (int i = 0; i < 3; i++) fit(&bias, false, &got);
    ag_device_table(AG_CUDA)->memory(&after);
    assert_int_equal(after.in_use, before.in_use);
    assert_int_equal(after.system_calls, before.system_calls);
}

/* What is allocated between steps is nobody's but the caller's: blocks of all sizes, held while graphs work. */
enum { HELD = 400 };

static learner_flow hold(learner *l, learner_event e, void *state)
{
    void **held = state;
    const ag_device_ops *d = ag_device_table(AG_CUDA);
    int32_t sevens[HELD];
    for (int i = 0; i < HELD; i++) sevens[i] = 7;
    for (int i = 1; i < HELD && e == LEARNER_AFTER_BATCH && l->epoch == 1 && l->batch == 2; i++) {
        held[i] = d->alloc((size_t)i * sizeof *sevens);
        d->copy_in(held[i], sevens, (size_t)i * sizeof *sevens);
    }
    return LEARNER_GO;
}

static void test_graphs_leave_the_memory_of_others_alone(void **state)
{
    (void)state;
    AG_SCOPE;
    void *held[HELD] = { NULL };
    int32_t there[HELD];
    const ag_device_ops *d = ag_device_table(AG_CUDA);
    learner *l = learner_of(&bias, false);
    learner_add(l, (learner_callback){ .on = hold, .between_steps = true, .state = held });
    learner_fit(l, 3, 1e-2);
    for (int i = 1; i < HELD; i++) {
        d->copy_out(there, held[i], (size_t)i * sizeof *there);
        for (int k = 0; k < i; k++) assert_int_equal(there[k], 7);
        d->free(held[i]);
    }
    ag_init(.device = "cpu");
}

int main(void)
{
    char why[512];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recommenders), cmocka_unit_test(test_rows), cmocka_unit_test(test_pictures),
        cmocka_unit_test(test_accumulated_gradients),
        cmocka_unit_test(test_the_same_with_lazy_streams), cmocka_unit_test(test_nothing_waits_in_the_steady_state),
        cmocka_unit_test(test_a_loss_that_is_no_number_keeps_the_weights_before),
        cmocka_unit_test(test_a_callback_that_looks_inside_sees_every_step),
        cmocka_unit_test(test_what_waits_goes_on_op_by_op_and_says_why), cmocka_unit_test(test_an_id_out_of_range_is_named),
        cmocka_unit_test(test_graphs_give_their_memory_back), cmocka_unit_test(test_graphs_leave_the_memory_of_others_alone),
    };
    if (!ag_cuda_available(why, sizeof why)) {
        print_message("SKIP: no step was captured on a GPU here: %s\n", why);
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
