/* cuda/emulate_cudnn.h - what the files of the emulated cuDNN share. */
#ifndef AG_EMULATE_CUDNN_H
#define AG_EMULATE_CUDNN_H
#include "cuda/cuda.h"
#include "cuda/cudnn.h"
#include <algorithm>
#include <map>
#include <vector>

namespace ag_emulate_dnn {

struct tensor { int64_t size[4], stride[4]; int type; int64_t alignment, id; bool passing, by_value; };

/* y = x op z of a fused graph: the descriptor's type, and what it is made to do. */
struct operation { int type, mode; bool binary; tensor x, z, y; };

inline int64_t place(const tensor &t, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return a * t.stride[0] + b * t.stride[1] + c * t.stride[2] + d * t.stride[3];
}

inline int64_t elements(const tensor &t) { return t.size[0] * t.size[1] * t.size[2] * t.size[3]; }

/* memory: of the tensors that do not pass; values: of those by value. broken: everything that is written is NaN. */
void run_fused(const std::vector<operation> &list, std::map<int64_t, void *> memory, const std::map<int64_t, float> &values,
               bool broken);

} // namespace ag_emulate_dnn

#endif
