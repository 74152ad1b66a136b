/* cuda/emulate.cpp - fibers, barriers and orders; see cuda/emulate.h. */
#include "cuda/emulate_inside.h"
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>
#include <algorithm>
#include <deque>
#include <map>
#include <numeric>
#include <string>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

const size_t STACK = 64 << 10, WARP = 32, GUARD = AG_EMULATE_GUARD;
const int POISON = AG_EMULATE_POISON;

/* Entered by its context once, then switched to and from by longjmp: swapcontext asks the kernel for the signal mask
 * each time. */
struct fiber {
    ucontext_t context;
    jmp_buf jump;
    bool begun = false;
    std::vector<char> stack = std::vector<char>(STACK);
    unsigned thread = 0;
    void *shadow = nullptr;                     /* the sanitizer's, as below */
};

struct thread {
    fiber *on = nullptr;                        /* nullptr: not begun, or done */
    bool done = false;
    int wait = AG_WAIT_NONE, line = 0;
    uint64_t handed = 0;
};

struct shared_array {
    const char *file;
    int line;
    std::vector<char> bytes;                    /* between two guards */
};

struct {
    std::vector<thread> threads;
    std::vector<fiber *> idle;
    std::deque<shared_array> shared;            /* of the running block; the first is the dynamic one */
    jmp_buf scheduler;
    const void *scheduler_stack = nullptr;      /* for the address sanitizer, which follows who runs on which stack */
    size_t scheduler_size = 0;
    void *scheduler_shadow = nullptr;
    unsigned current = 0;
    int order = AG_FORWARD;
    uint32_t dice = 1;
    void (*body)(void *) = nullptr;
    void *arg = nullptr;
    std::string error;
} E;

void back_to_scheduler(fiber *self)
{
    if (!_setjmp(self->jump)) {
        __sanitizer_start_switch_fiber(&self->shadow, E.scheduler_stack, E.scheduler_size);
        _longjmp(E.scheduler, 1);
    }
    __sanitizer_finish_switch_fiber(self->shadow, &E.scheduler_stack, &E.scheduler_size);
}

/* A fiber runs thread after thread: contexts are made once, not per CUDA thread. */
void fiber_main(unsigned high, unsigned low)
{
    fiber *self = (fiber *)(uintptr_t)((uint64_t)high << 32 | low);
    __sanitizer_finish_switch_fiber(nullptr, &E.scheduler_stack, &E.scheduler_size);
    for (;;) {
        E.body(E.arg);
        E.threads[self->thread].done = true;
        back_to_scheduler(self);
    }
}

fiber *fiber_new()
{
    fiber *const f = new fiber;
    const uint64_t p = (uint64_t)(uintptr_t)f;
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack.data();
    f->context.uc_stack.ss_size = STACK;
    f->context.uc_link = nullptr;
    makecontext(&f->context, (void (*)())fiber_main, 2, (unsigned)(p >> 32), (unsigned)p);
    return f;
}

fiber *fiber_take()
{
    if (E.idle.empty()) return fiber_new();
    fiber *const f = E.idle.back();
    E.idle.pop_back();
    return f;
}

/* Runs thread t up to its next barrier. False: it cannot run. */
bool step(unsigned t)
{
    thread &me = E.threads[t];
    if (me.done || me.wait) return false;
    if (!me.on) {
        me.on = fiber_take();
        me.on->thread = t;
    }
    E.current = t;
    threadIdx = dim3(t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y);
    if (!_setjmp(E.scheduler)) {
        __sanitizer_start_switch_fiber(&E.scheduler_shadow, me.on->stack.data(), STACK);
        if (me.on->begun) _longjmp(me.on->jump, 1);
        me.on->begun = true;
        setcontext(&me.on->context);
    }
    __sanitizer_finish_switch_fiber(E.scheduler_shadow, nullptr, nullptr);
    if (me.done) {
        E.idle.push_back(me.on);
        me.on = nullptr;
    }
    return true;
}

/* Lets threads [from, to) go on when all that are left wait at this kind of barrier. */
bool release(unsigned from, unsigned to, int kind)
{
    int line = 0;
    for (unsigned t = from; t < to; t++) {
        const thread &o = E.threads[t];
        if (o.done) continue;
        if (o.wait != kind || (line && o.line != line)) return false;
        line = o.line;
    }
    for (unsigned t = from; t < to && line; t++) E.threads[t].wait = AG_WAIT_NONE;
    return line != 0;
}

bool release_warps()
{
    bool any = false;
    const unsigned n = (unsigned)E.threads.size();
    for (unsigned w = 0; w < n; w += WARP) any |= release(w, std::min<unsigned>(n, w + WARP), AG_WAIT_WARP);
    return any;
}

/* One warp after the other, each as far as block barriers allow. */
bool round_greedy(bool reverse)
{
    bool any = false;
    const unsigned n = (unsigned)E.threads.size(), warps = (n + WARP - 1) / WARP;
    for (unsigned k = 0; k < warps; k++) {
        const unsigned from = (reverse ? warps - 1 - k : k) * WARP, to = std::min<unsigned>(n, from + WARP);
        bool moved = true;
        while (moved) {
            moved = false;
            for (unsigned i = from; i < to; i++) moved |= step(reverse ? to - 1 - (i - from) : i);
            moved |= release(from, to, AG_WAIT_WARP);
            any |= moved;
        }
    }
    return any;
}

bool round_in_turn(std::vector<unsigned> &turn)
{
    bool any = false;
    if (E.order == AG_RANDOM)
        for (size_t i = turn.size() - 1; i > 0; i--) {
            E.dice = E.dice * 1664525u + 1013904223u;
            std::swap(turn[i], turn[(E.dice >> 8) % (i + 1)]);
        }
    for (unsigned t : turn) any |= step(t);
    return any;
}

void explain(const char *kernel)
{
    char text[256];
    const thread *a = nullptr, *b = nullptr;
    for (const thread &t : E.threads)
        if (!t.done) (!a ? a : b) = !a || t.line != a->line || t.wait != a->wait ? &t : b;
    snprintf(text, sizeof text, "%s, block (%u, %u, %u): threads wait at different barriers, lines %d and %d", kernel,
             blockIdx.x, blockIdx.y, blockIdx.z, a ? a->line : 0, b ? b->line : 0);
    E.error = text;
    for (thread &t : E.threads) delete t.on;    /* parked for ever: their fibers cannot be used again */
}

void poison_shared()
{
    for (shared_array &a : E.shared) std::fill(a.bytes.begin(), a.bytes.end(), (char)POISON);
}

bool intact(const char *p)
{
    return ag_emulate_intact(p, GUARD);
}

void check_shared(const char *kernel)
{
    for (shared_array &a : E.shared)
        if (!intact(a.bytes.data()) || !intact(a.bytes.data() + a.bytes.size() - GUARD))
            E.error = std::string(kernel) + " wrote next to a shared array of " +
                      std::to_string(a.bytes.size() - 2 * GUARD) + " bytes";
}

bool run_block(const char *kernel)
{
    const size_t n = (size_t)blockDim.x * blockDim.y * blockDim.z;
    poison_shared();
    E.threads.assign(n, thread());
    std::vector<unsigned> turn(n);
    std::iota(turn.begin(), turn.end(), 0u);
    if (E.order == AG_REVERSE) std::reverse(turn.begin(), turn.end());
    for (;;) {
        bool moved = E.order >= AG_GREEDY ? round_greedy(E.order == AG_GREEDY_REVERSE) : round_in_turn(turn);
        moved |= release_warps();
        moved |= release(0, (unsigned)n, AG_WAIT_BLOCK);
        if (moved) continue;
        for (const thread &t : E.threads)
            if (!t.done) return explain(kernel), false;
        check_shared(kernel);
        return true;
    }
}

} // namespace

void ag_emulate_wait(int barrier, int line)
{
    thread &me = E.threads[E.current];
    me.wait = barrier;
    me.line = line;
    back_to_scheduler(me.on);
}

unsigned ag_emulate_lane(void)
{
    return E.current % WARP;
}

uint64_t ag_emulate_exchange(uint64_t value, unsigned lane, int line)
{
    const unsigned me = E.current, from = (unsigned)(me - me % WARP + lane % WARP);
    E.threads[me].handed = value;
    ag_emulate_wait(AG_WAIT_WARP, line);
    const uint64_t got = from < E.threads.size() ? E.threads[from].handed : ~(uint64_t)0;
    ag_emulate_wait(AG_WAIT_WARP, line);
    return got;
}

int ag_emulate_any(int value, int line)
{
    E.threads[E.current].handed = value != 0;
    ag_emulate_wait(AG_WAIT_BLOCK, line);
    int any = 0;
    for (const thread &t : E.threads) any |= !t.done && t.handed == 1;
    ag_emulate_wait(AG_WAIT_BLOCK, line);
    return any;
}

void *ag_emulate_shared(const char *file, int line, size_t bytes)
{
    for (shared_array &a : E.shared)
        if (a.line == line && !strcmp(a.file, file) && a.bytes.size() == bytes + 2 * GUARD)
            return a.bytes.data() + GUARD;
    E.shared.push_back({ file, line, std::vector<char>(bytes + 2 * GUARD, (char)POISON) });
    return E.shared.back().bytes.data() + GUARD;
}

void *ag_emulate_dynamic_shared(void)
{
    return E.shared.front().bytes.data() + GUARD;
}

void ag_emulate_order(int order)
{
    E.order = order;
}

const char *ag_emulate_error(void)
{
    static std::string last;
    last.swap(E.error);
    E.error.clear();
    return last.c_str();
}

bool ag_emulate_launches(const char *kernel, dim3 grid, dim3 block)
{
    const size_t threads = (size_t)block.x * block.y * block.z;
    if (!threads || threads > 1024 || !grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535)
        E.error = std::string(kernel) + ": a launch of no block, no thread, or too many of them";
    else if (ag_emulate_fails()) E.error = std::string(kernel) + ": a planted failure";
    else return true;
    return false;
}

void ag_emulate_launch(const char *kernel, dim3 grid, dim3 block, size_t shared, void (*body)(void *), void *arg)
{
    gridDim = grid;
    blockDim = block;
    E.body = body;
    E.arg = arg;
    E.shared.clear();
    ag_emulate_shared("", 0, shared);
    bool good = true;
    for (blockIdx.z = 0; blockIdx.z < grid.z && good; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y && good; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x && good; blockIdx.x++) good = run_block(kernel);
    const std::string beside = ag_emulate_check_guards();
    if (!beside.empty()) E.error = std::string(kernel) + " wrote " + beside;
}

bool ag_emulate_failed(void)
{
    return !E.error.empty();
}

const char *ag_emulate_failure(void)
{
    return E.error.c_str();
}
