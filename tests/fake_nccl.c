/* tests/fake_nccl.c - a libnccl.so.2 of long ago for tests/test_cuda_ranks.c: all functions, none of which may be called but the
 * first. */
#include <stdlib.h>

int ncclGetVersion(int *version);
int ncclGetVersion(int *version) { return *version = 2804, 0; }

#define NEVER(name) void name(void); void name(void) { abort(); }
NEVER(ncclGetUniqueId)
NEVER(ncclCommInitRank)
NEVER(ncclAllReduce)
NEVER(ncclCommGetAsyncError)
NEVER(ncclCommAbort)
NEVER(ncclGetErrorString)
NEVER(ncclGetLastError)
