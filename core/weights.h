/* core/weights.h - named tensors in a file, a safetensors file or a PyTorch checkpoint: the content tells which. */
#ifndef AG_WEIGHTS_H
#define AG_WEIGHTS_H
#include "core/pth.h"
#include "core/safetensors.h"
AG_BEGIN_DECLS

typedef struct { const ag_safetensors *safetensors; const ag_pth *pth; } ag_weights;     /* one of the two */
/* Opened in the innermost scope. */
ag_weights ag_weights_open_(const char *at, const char *path);
#define ag_weights_open(path) ag_weights_open_(AG_HERE, path)

const char *ag_weights_path(ag_weights w);
const char *ag_weights_choice(ag_weights w);                /* as ag_pth_choice */
int64_t ag_weights_count(ag_weights w);
const char *ag_weights_name(ag_weights w, int64_t i);       /* in file order */
bool ag_weights_has(ag_weights w, const char *name);
ag_shape ag_weights_shape(ag_weights w, const char *name);
ag_dtype ag_weights_dtype(ag_weights w, const char *name);  /* as what it is read */
ag_tensor *ag_weights_get_(const char *at, ag_weights w, const char *name) AG_PURE;
#define ag_weights_get(w, name) ag_weights_get_(AG_HERE, w, name)

AG_END_DECLS
#endif
