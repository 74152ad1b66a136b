/* cuda/sort.cu - positions sorted by the row they read (embedding.h).
 *
 * A key holds row and position, so that no two are equal and every way of sorting gives the same result. Tiles are sorted in
 * shared memory; up to TILE positions that is all, one launch. Then WAYS runs at a time become one: a key's place is its own
 * index plus the number of smaller keys in the other runs, found by bisection. 65,536 positions take three merges. */
#include "cuda/embedding.h"

enum { TILE = 2048, WAYS = 4 };

struct sort_job {
    ag_ids ids;
    uint64_t *from, *to;
};
struct sort_jobs { sort_job job[AG_SORTS]; };

static __device__ inline uint64_t key_of(const ag_ids &ids, int64_t p)
{
    if (p >= ids.n) return ~0ull;
    const uint64_t row = ids.valid(p) ? (uint64_t)ids.at(p) : (uint64_t)ag_sorted::NO_ROW;
    return row << 32 | (uint64_t)p;
}

/* Batcher's bitonic network over `size` keys, a power of 2, two of them a thread. */
static __global__ void __launch_bounds__(TILE / 2) sort_tile(sort_jobs jobs, int size)
{
    AG_SHARED(uint64_t, key, TILE);
    const sort_job &j = jobs.job[blockIdx.y];
    const int64_t begin = blockIdx.x * (int64_t)TILE;
    const int t = (int)threadIdx.x;
    for (int i = t; i < size; i += (int)blockDim.x) key[i] = key_of(j.ids, begin + i);
    for (int run = 2; run <= size; run *= 2)
        for (int step = run / 2; step; step /= 2) {
            __syncthreads();
            const int a = 2 * t - (t & (step - 1)), b = a + step;
            if (b < size) {
                const uint64_t x = key[a], y = key[b];
                if ((x > y) == !(a & run)) key[a] = y, key[b] = x;
            }
        }
    __syncthreads();
    for (int i = t; i < size && begin + i < j.ids.n; i += (int)blockDim.x) j.to[begin + i] = key[i];
}

/* How many of key[begin .. end), which ascends, are less than x. */
static __device__ inline int64_t less_than(const uint64_t *key, int64_t begin, int64_t end, uint64_t x)
{
    int64_t lo = begin, hi = end;
    while (lo < hi) {
        const int64_t mid = (lo + hi) / 2;
        if (key[mid] < x) lo = mid + 1;
        else hi = mid;
    }
    return lo - begin;
}

static __global__ void sort_merge(sort_jobs jobs, int64_t run)
{
    const sort_job &j = jobs.job[blockIdx.y];
    AG_EACH (i, j.ids.n) {
        const int64_t own = i / run * run, first = i / (WAYS * run) * (WAYS * run);
        const uint64_t x = j.from[i];
        int64_t place = first + i - own;
        for (int w = 0; w < WAYS; w++) {
            const int64_t begin = first + w * run, end = begin + run < j.ids.n ? begin + run : j.ids.n;
            if (begin != own && begin < end) place += less_than(j.from, begin, end, x);
        }
        j.to[place] = x;
    }
}

static int64_t longest(int count, const ag_ids *ids)
{
    int64_t n = 0;
    for (int i = 0; i < count; i++) n = ids[i].n > n ? ids[i].n : n;
    return n;
}

int64_t ag_sort_size(int count, const ag_ids *ids)
{
    int64_t sum = 0;
    for (int i = 0; i < count; i++) sum += ids[i].n;
    return longest(count, ids) > TILE ? 2 * sum : sum;      /* tiles go back and forth */
}

static void check(const ag_ids &ids)
{
    if (ids.n > INT32_MAX)
        ag_fail(nullptr, "cuda: %" PRId64 " ids at once; rows are gathered by 32-bit positions, at most %d", ids.n, INT32_MAX);
    if (ids.rows >= ag_sorted::NO_ROW)
        ag_fail(nullptr, "cuda: a table of %" PRId64 " rows; gradients of rows are gathered by 32-bit ids, at most %u rows",
                ids.rows, ag_sorted::NO_ROW - 1);
}

void ag_sort_ids(int count, const ag_ids *ids, uint64_t *memory, ag_sorted *to)
{
    AG_ASSERT(count <= AG_SORTS);
    const int64_t n = longest(count, ids), tiles = (n + TILE - 1) / TILE;
    sort_jobs jobs = {};
    int64_t used = 0, size = 2;
    for (int i = 0; i < count; i++) {
        check(ids[i]);
        jobs.job[i] = { ids[i], nullptr, memory + used };
        used += ids[i].n;
    }
    while (size < n && size < TILE) size *= 2;
    for (int i = 0; i < count; i++) jobs.job[i].from = tiles > 1 ? memory + used + (jobs.job[i].to - memory) : nullptr;
    const unsigned threads = size / 2 < AG_WARP ? (unsigned)AG_WARP : (unsigned)size / 2, lists = (unsigned)count;
    if (n) LAUNCH(sort_tile, dim3((unsigned)tiles, lists), threads, 0, jobs, (int)size);
    for (int64_t run = TILE; run < n; run *= WAYS) {
        for (int i = 0; i < count; i++) {
            uint64_t *was = jobs.job[i].from;
            jobs.job[i].from = jobs.job[i].to, jobs.job[i].to = was;
        }
        LAUNCH(sort_merge, dim3(ag_blocks(n), lists), AG_BLOCK, 0, jobs, run);
    }
    for (int i = 0; i < count; i++) to[i] = { jobs.job[i].to, ids[i].n };
}
