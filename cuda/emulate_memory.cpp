/* cuda/emulate_memory.cpp - the device's memory in the emulation: every block lies between two guards, holds NaN at first, and
 * small ones are open only while the device works: a host that touches them dies of it. */
#include "cuda/emulate_inside.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <map>

namespace {

const size_t GUARD = AG_EMULATE_GUARD;
/* Addresses: closed ones for small blocks, and open ones, since to open and close many pages takes too long. */
const size_t SMALL = 16 << 10, CLOSED = (size_t)1 << 32, ROOM = (size_t)1 << 36;
const int POISON = AG_EMULATE_POISON;

struct range {
    char *top = nullptr;                        /* never used so far */
    std::multimap<size_t, char *> idle;         /* by room */
};

struct {
    char *base = nullptr;
    int key = -1, depth = 0;                    /* key: of the processor's protection keys, where it has them */
    size_t held = 0;
    std::map<char *, size_t> used;
    range closed, open;
} M;

void say_who(int, siginfo_t *info, void *)
{
    static const char text[] = "emulation: the host touched memory of the device, which on a GPU is a crash\n";
    const char *p = (const char *)info->si_addr;
    if (p >= M.base && p < M.base + ROOM && write(2, text, sizeof text - 1) < 0) _exit(3);
    signal(SIGSEGV, SIG_DFL);
}

void begin_memory()
{
    if (M.base) return;
    M.base = (char *)mmap(nullptr, ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (M.base == MAP_FAILED) abort();
    M.closed.top = M.base;
    M.open.top = M.base + CLOSED;
    mprotect(M.open.top, ROOM - CLOSED, PROT_READ | PROT_WRITE);
    M.key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
    if (M.key >= 0) pkey_mprotect(M.base, CLOSED, PROT_READ | PROT_WRITE, M.key);
}

/* Now and then: test frameworks have handlers of their own. */
void listen_for_touches()
{
    struct sigaction action = {};
    action.sa_sigaction = say_who;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
}

void let(bool access)
{
    if (M.key >= 0) pkey_set(M.key, access ? 0 : PKEY_DISABLE_ACCESS);
    else if (M.closed.top > M.base)
        mprotect(M.base, (size_t)(M.closed.top - M.base + 4095) / 4096 * 4096, access ? PROT_READ | PROT_WRITE : PROT_NONE);
}

/* With the guards, in steps of their size. */
size_t room_for(size_t bytes)
{
    return (bytes + 3 * GUARD - 1) / GUARD * GUARD;
}

range &range_of(size_t bytes)
{
    return bytes <= SMALL ? M.closed : M.open;
}

/* Kept compact: the fewer pages, the faster they are opened and closed. */
char *find_room(range *r, size_t room)
{
    const auto fitting = r->idle.lower_bound(room);
    if (fitting == r->idle.end()) {
        r->top += room;
        return r->top - room;
    }
    char *const p = fitting->second;
    const size_t left = fitting->first - room;
    r->idle.erase(fitting);
    if (left) r->idle.insert({ left, p + room });
    return p;
}

} // namespace

ag_emulate_at_work::ag_emulate_at_work()
{
    begin_memory();
    if (!M.depth++) let(true);
}

ag_emulate_at_work::~ag_emulate_at_work()
{
    if (!--M.depth) let(false);
}

bool ag_emulate_is_device(const void *p)
{
    return M.base && (char *)p >= M.base && (char *)p < M.base + ROOM;
}

size_t ag_emulate_held(void)
{
    return M.held;
}

void *ag_emulate_take(size_t bytes)
{
    if (!ag_emulate_is_dry() && bytes > AG_EMULATE_TOTAL - M.held) return nullptr;
    begin_memory();
    listen_for_touches();
    char *const raw = find_room(&range_of(bytes), room_for(bytes));
    ag_emulate_at_work now;                     /* opens what is new as well */
    ASAN_UNPOISON_MEMORY_REGION(raw, room_for(bytes));
    if (!ag_emulate_is_dry()) memset(raw, POISON, bytes + 2 * GUARD);
    if (!ag_emulate_is_dry()) M.held += bytes;
    M.used[raw + GUARD] = bytes;
    ASAN_POISON_MEMORY_REGION(raw, GUARD);
    ASAN_POISON_MEMORY_REGION(raw + GUARD + bytes, GUARD);
    return raw + GUARD;
}

bool ag_emulate_give(void *p)
{
    const auto b = M.used.find((char *)p);
    if (b == M.used.end()) return false;
    if (!ag_emulate_is_dry()) M.held -= b->second;
    ASAN_POISON_MEMORY_REGION(b->first, b->second);
    range_of(b->second).idle.insert({ room_for(b->second), b->first - GUARD });
    M.used.erase(b);
    return true;
}

std::string ag_emulate_check_guards(void)
{
    std::string found;
    if (AG_EMULATE_SANITIZED) return found;     /* it has said so */
    for (auto &b : M.used) {
        const bool before = !ag_emulate_intact(b.first - GUARD, GUARD), behind = !ag_emulate_intact(b.first + b.second, GUARD);
        if (!before && !behind) continue;
        found = std::string(before ? "before" : "behind") + " an allocation of " + std::to_string(b.second) + " bytes";
        memset(b.first - GUARD, POISON, GUARD);
        memset(b.first + b.second, POISON, GUARD);
    }
    return found;
}
