/* core/pth.h - the tensors of a checkpoint that torch.save wrote (of either format, before PyTorch 1.6 and
 * since), without Python.
 *
 * The pickle in it may name torch's storages and what puts tensors together from them, and nothing else: no code is ever
 * run. Of a checkpoint of several parts the weights are taken: 'state_dict_ema', 'model_ema', 'state_dict' or 'model', the
 * first that is there (timm's order), else all tensors, named by their path. 'module.' before all names goes away. */
#ifndef AG_PTH_H
#define AG_PTH_H
#include "core/tensor.h"
AG_BEGIN_DECLS

/* A file opened for reading, in the innermost scope; as core/safetensors.h. Fails, naming the file: not such a file (an
 * older one: with the line that converts it), damaged, or a pickle that wants anything but tensors. */
typedef struct ag_pth ag_pth;
ag_pth *ag_pth_open_(const char *at, const char *path);
#define ag_pth_open(path) ag_pth_open_(AG_HERE, path)
int64_t ag_pth_count(const ag_pth *f);
const char *ag_pth_name(const ag_pth *f, int64_t i);        /* in file order */
bool ag_pth_has(const ag_pth *f, const char *name);
ag_shape ag_pth_shape(const ag_pth *f, const char *name);
/* Into what it is read: f64, f16 and f32 as f32, bool as u8, i16 and i8 as i32. */
ag_dtype ag_pth_dtype(const ag_pth *f, const char *name);
/* A new tensor on the CPU in the innermost scope. Fails if absent, naming the nearest name. */
ag_tensor *ag_pth_get_(const char *at, const ag_pth *f, const char *name) AG_PURE;
#define ag_pth_get(f, name) ag_pth_get_(AG_HERE, f, name)
const char *ag_pth_path(const ag_pth *f);
/* What was taken, for people: "'model_ema' (beside it: model, optimizer, epoch)"; "" where the file is just that. */
const char *ag_pth_choice(const ag_pth *f);

AG_END_DECLS
#endif
