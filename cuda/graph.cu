/* cuda/graph.cu - graphs of launches (core/device.h) and the state of a training step.
 *
 * A graph's launches have their arguments by value: addresses, sizes, numbers. What differs from launch to launch is therefore
 * read from device memory: keys of random ops here, rates by the optimizer (cuda/optim.cu). */
#include <math.h>
#include <string.h>
#include "core/memory.h"
#include "core/random.h"
#include "cuda/device.h"
#include "cuda/step.h"

enum { KEYS = 1024, TICKETS = 4 };

struct graph {
    cudaGraphExec_t run;
    uint64_t *keys;                             /* on the device */
    int64_t n_keys;
};

struct report {
    ag_step_state state;
    ag_cuda_trap trap;
};

static struct {
    graph *making;
    ag_rng before;                              /* the stream of keys when it began */
    ag_step_state *state;
    report *reports;                            /* [TICKETS], pinned */
    cudaEvent_t sent[TICKETS];
    int next;
} G;

void ag_cuda_not_in_graph(const char *what)
{
    if (G.making) ag_fail(nullptr, "%s in the middle of a step", what);
}

/* ---- the state of a step ------------------------------------------------------------------------------- */

ag_step_state *ag_cuda_step_state(void)
{
    return G.state;
}

/* Once; what failed half-way is made up for the next time. */
static void need_state(void)
{
    if (!G.reports)
        ag_cuda_check(cudaHostAlloc((void **)&G.reports, TICKETS * sizeof *G.reports, cudaHostAllocDefault), "pinned memory");
    for (int i = 0; i < TICKETS; i++)
        if (!G.sent[i]) ag_cuda_check(cudaEventCreateWithFlags(&G.sent[i], cudaEventDisableTiming), "an event");
    if (!G.state) ag_cuda_check(cudaMalloc((void **)&G.state, sizeof *G.state), "the state of a step");
}

static void reset(void)
{
    need_state();
    ag_cuda_check(cudaMemsetAsync(G.state, 0, sizeof *G.state, ag_cuda_stream()), "the state of a step");
}

static __global__ void take_loss(const float *loss, ag_step_state *state)
{
    state->loss = *loss;
    if (!isfinite(*loss)) state->bad = 1;
}

static void note_loss(const ag_tensor *loss)
{
    LAUNCH(take_loss, 1, 1, 0, ag_real(loss), G.state);
}

static int send(void)
{
    const int ticket = G.next;
    report *r = &G.reports[ticket];
    const cudaStream_t stream = ag_cuda_stream();
    G.next = (G.next + 1) % TICKETS;
    cudaError_t e = cudaMemcpyAsync(&r->state, G.state, sizeof r->state, cudaMemcpyDeviceToHost, stream);
    if (e == cudaSuccess)
        e = cudaMemcpyAsync(&r->trap, ag_cuda_trap_device(), sizeof r->trap, cudaMemcpyDeviceToHost, stream);
    if (e == cudaSuccess) e = cudaEventRecord(G.sent[ticket], stream);
    ag_cuda_check(e, "sending a step's loss");
    return ticket;
}

static double receive(int ticket)
{
    ag_cuda_check(cudaEventSynchronize(G.sent[ticket]), "a step of training");
    ag_cuda_trap_report(G.reports[ticket].trap);
    return G.reports[ticket].state.loss;
}

/* ---- keys ---------------------------------------------------------------------------------------------- */

/* Keys are drawn from one stream, a counter, so that the k-th of a step is the k-th of every step. */
ag_cuda_key ag_cuda_key_of(uint64_t drawn)
{
    if (!G.making) return { drawn, nullptr };
    const ag_rng now = ag_rng_get();
    const uint64_t n = now.next - G.before.next;
    ag_cuda_key key = { drawn, nullptr };
    ag_rng_set(G.before);
    for (uint64_t k = 0; k < n && k < KEYS && !key.slot; k++)
        if (ag_rng_draw() == drawn) key.slot = G.making->keys + k;
    ag_rng_set(now);
    return key;
}

static void draw_keys(const graph *g)
{
    uint64_t keys[KEYS];
    for (int64_t k = 0; k < g->n_keys; k++) keys[k] = ag_rng_draw();
    if (!g->n_keys) return;
    ag_cuda_check(cudaMemcpyAsync(g->keys, keys, (size_t)g->n_keys * sizeof *keys, cudaMemcpyHostToDevice, ag_cuda_stream()),
                  "the keys of random ops");
}

/* ---- graphs -------------------------------------------------------------------------------------------- */

static void free_graph(void *p)
{
    graph *g = (graph *)p;
    if (!g) return;
    if (g->run) cudaGraphExecDestroy(g->run);
    ag_cuda_disown(g);
    ag_cuda_free(g->keys);
    ag_free(g);
}

static void begin(void)
{
    need_state();
    graph *g = (graph *)ag_alloc(1, sizeof *g);
    g->keys = (uint64_t *)ag_cuda_alloc(KEYS * sizeof *g->keys);
    if (!g->keys) ag_free(g), ag_fail(nullptr, "cuda: no memory for a graph");
    const cudaError_t e = cudaStreamBeginCapture(ag_cuda_stream(), cudaStreamCaptureModeThreadLocal);
    if (e != cudaSuccess) free_graph(g);
    ag_cuda_check(e, "beginning a graph");
    G.before = ag_rng_get();
    G.making = g;
    ag_cuda_alloc_for(g);
}

/* The stream is as before; the keys that were drawn for the recording are given back. */
static cudaError_t stop(cudaGraph_t *recorded)
{
    const cudaError_t e = cudaStreamEndCapture(ag_cuda_stream(), recorded);
    ag_cuda_alloc_for(nullptr);
    G.making->n_keys = (int64_t)(ag_rng_get().next - G.before.next);
    ag_rng_set(G.before);
    G.making = nullptr;
    return e;
}

static void *end(void)
{
    graph *g = G.making;
    cudaGraph_t recorded = nullptr;
    cudaError_t e = stop(&recorded);
    if (ag_cuda_missing()) {                    /* it was a rehearsal */
        if (recorded) cudaGraphDestroy(recorded);
        cudaGetLastError();
        free_graph(g);
        return nullptr;
    }
    if (g->n_keys > KEYS) {
        if (recorded) cudaGraphDestroy(recorded);
        free_graph(g);
        ag_fail(nullptr, "more than %d random ops in the middle of a step", KEYS);
    }
    if (e == cudaSuccess) {
        e = cudaGraphInstantiate(&g->run, recorded, 0);
        cudaGraphDestroy(recorded);
    }
    if (e != cudaSuccess) {
        cudaGetLastError();
        free_graph(g);
    }
    ag_cuda_check(e, "ending a graph");
    return g;
}

static int64_t drop(void)
{
    graph *g = G.making;
    cudaGraph_t recorded = nullptr;
    if (!g) return ag_cuda_find_missing();
    if (stop(&recorded) == cudaSuccess) cudaGraphDestroy(recorded);
    cudaGetLastError();
    free_graph(g);
    return ag_cuda_find_missing();
}

static void launch(void *p)
{
    const graph *g = (const graph *)p;
    draw_keys(g);
    ag_cuda_check(cudaGraphLaunch(g->run, ag_cuda_stream()), "launching a graph");
}

extern "C" {
extern const ag_device_graphs ag_cuda_graphs = { begin, end, drop, launch, free_graph, reset, note_loss, send, receive };
}
