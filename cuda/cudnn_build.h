/* cuda/cudnn_build.h - how plans are made of descriptors, for the files that describe what cuDNN shall compute. */
#ifndef AG_CUDA_CUDNN_BUILD_H
#define AG_CUDA_CUDNN_BUILD_H
#include "cuda/cudnn.h"
AG_BEGIN_DECLS

/* Descriptors that are made one after the other and held by the plan: what follows a failure is left out. */
typedef struct {
    const ag_dnn_functions *f;
    ag_dnn_plan *to;
    int status;
} ag_dnn_builder;

ag_dnn_desc ag_dnn_make(ag_dnn_builder *b, int type);
void ag_dnn_set(ag_dnn_builder *b, ag_dnn_desc d, int attribute, int type, int64_t count, const void *values);
void ag_dnn_set_enum(ag_dnn_builder *b, ag_dnn_desc d, int attribute, int type, int value);
void ag_dnn_set_desc(ag_dnn_builder *b, ag_dnn_desc d, int attribute, ag_dnn_desc value);
void ag_dnn_finish(ag_dnn_builder *b, ag_dnn_desc d);

/* In the device's memory; between two operations of the graph; a number that is read from the host when it is queued. */
typedef enum { AG_DNN_MEMORY, AG_DNN_PASSING, AG_DNN_VALUE } ag_dnn_kind;
ag_dnn_desc ag_dnn_tensor(ag_dnn_builder *b, ag_dnn_kind kind, int64_t id, int type, const int64_t sizes[4],
                          const int64_t strides[4]);
ag_dnn_desc ag_dnn_graph(ag_dnn_builder *b, ag_dnn_place place, const ag_dnn_desc *operations, int count);

/* The first engine of the heuristics that keeps the promises of cuda/cudnn.h for factors of this type. Returns as
 * ag_dnn_plan_new, and on a failure drops what the plan holds. */
int ag_dnn_choose(ag_dnn_builder *b, ag_dnn_place place, ag_dnn_desc graph, bool tensor_cores, int64_t most_workspace);
int ag_dnn_execute(const ag_dnn_functions *f, ag_dnn_handle h, const ag_dnn_plan *plan, int count, const int64_t *ids,
                   const void *const *pointers, void *workspace);

AG_END_DECLS
#endif
